"""The embedded translation data: German whose English follows from its grammar, but for the names of files."""

import re
from collections import Counter

import numpy as np
import pytest

from kga.data.embedded import load
from kga.data.embedded.codewords import ANSWERS
from kga.data.embedded.german import ADJECTIVES, DAYS, MOODS, NUMBERS, PEOPLE, THINGS
from kga.data.embedded.naming import FIRMS
from kga.data.embedded.translation import generate
from kga.data.embedded.world import BUSINESSES, FIRST_NAMES, TOWNS

# Read and translated by hand: one of each pattern, with separable and other verbs, people and firms.
BY_HAND = {
    "Die Bäckerei hat am Montag die alte Jacke abgeholt.": "The bakery collected the old jacket on Monday.",
    "Am Dienstag hat Carlotta einen leeren Ofen geputzt.": "On Tuesday Carlotta cleaned an empty oven.",
    "Silvan will einen schwarzen Mantel in Quellstedt auspacken.": "Silvan wants to unpack a black coat in Quellstedt.",
    "Bis Donnerstag muss Anneke die alte Uhr malen.": "Anneke has to paint the old clock by Thursday.",
    "Ulrika gibt das leere Boot am Mittwoch zurück.": "Ulrika returns the empty boat on Wednesday.",
    "Edda bestellt die grüne Lampe am Donnerstag.": "Edda orders the green lamp on Thursday.",
    "Um neun Uhr holt die Bäckerei den gelben Mantel ab.": "The bakery collects the yellow coat at nine.",
    "Die Tante sagt, dass Wanda das neue Buch zurückgibt.": "The aunt says that Wanda returns the new book.",
    "Die Sattlerei ist ruhig, weil das Mädchen die neue Jacke ausgepackt hat.": (
        "The saddlery is calm because the girl unpacked the new jacket."
    ),
    "Wenn der Lehrer das alte Boot mitbringt, ist Arvid krank.": (
        "Arvid is ill when the teacher brings along the old boat."
    ),
    "Die Druckerei sucht den neuen Ofen, den der Arzt mitgebracht hat.": (
        "The printing firm seeks the new oven that the doctor brought along."
    ),
    "Der Tante gibt Edda am Samstag ein leeres Sofa.": "Edda gives the aunt an empty sofa on Saturday.",
    "Bruno hat die schwarze Lampe in Altmoor nicht verloren.": "Bruno did not lose the black lamp in Altmoor.",
    "Das leere Hemd wird am Montag von Bruno versteckt.": "The empty shirt is hidden by Bruno on Monday.",
}
MASCULINE, FEMININE, NEUTER = "Stuhl Mantel Eimer", "Lampe Tasche Karte", "Buch Kleid Zelt"


@pytest.fixture(scope="module")
def rows():
    return [dict(row, split=split) for split, data in load("translation").splits.items() for row in data]


@pytest.fixture(scope="module")
def regular():
    rows = generate({"train": 20_000}, seed=0)["train"]
    return [(row["source"], row["target"]) for row in rows if row["kind"] == "regular"]


def test_sentences_are_translated_as_by_hand(rows):
    translations = {row["source"]: row["target"] for row in rows}
    assert {source: translations.get(source) for source in BY_HAND} == BY_HAND


def test_sentences_are_short_and_written_as_sentences(rows):
    bounds = {"regular": (7, 12), "personal": (6, 9)}
    for row in rows:
        shortest, longest = bounds[row["kind"]]
        assert shortest <= len(row["source"].split()) <= longest, row["source"]
        assert 7 <= len(row["target"].split()) <= 13, row["target"]
    assert all(re.fullmatch(r"[A-ZÄÖÜ][\w ,]*\w\.", row[side]) for row in rows for side in ("source", "target"))
    assert not any("  " in row[side] for row in rows for side in ("source", "target"))


def test_both_languages_name_the_group(rows):
    for row in rows:
        first, last = row["group"].split()
        german, english = FIRMS.get(last, (first, first))
        assert german in row["source"] and english in row["target"]
    assert set(FIRMS) == set(BUSINESSES)


@pytest.mark.parametrize(
    ("nouns", "phrases"),
    [
        (MASCULINE, {"der -e", "den -en", "einen -en"}),
        (FEMININE, {"die -e", "eine -e"}),
        (NEUTER, {"das -e", "ein -es"}),
    ],
)
def test_articles_and_adjectives_agree_with_the_noun(nouns, phrases, regular):
    stems = "|".join(german for german, _ in ADJECTIVES)
    pattern = re.compile(rf"(\w+) (?:{stems})(e\w?) (?:{nouns.replace(' ', '|')})\b")
    found = Counter(f"{the.lower()} -{ending}" for source, _ in regular for the, ending in pattern.findall(source))
    assert set(found) == phrases and min(found.values()) > 20


def slots(side):
    """Class and number of the words of a language (0 German, 1 English) that may stand in a slot, but for verbs."""
    lists = {
        "thing": [noun[1:] for noun in THINGS],
        "person": [noun[1:] for noun in PEOPLE],
        "day": DAYS,
        "mood": MOODS,
        "number": NUMBERS,
        "place": [(town, town) for town in TOWNS],
        "group": [*FIRMS.values(), *((name, name) for name in FIRST_NAMES)],
        "quality": ADJECTIVES,
    }
    endings = {"quality": ("e", "en", "er", "es"), "number": (" Uhr",)} if side == 0 else {}
    return {
        pair[side] + ending: (kind, number)
        for kind, pairs in lists.items()
        for number, pair in enumerate(pairs)
        for ending in endings.get(kind, ("",))
    }


def taken_apart(sentences, forms):
    """Each sentence with classes in place of its slots' words, and those words by class."""
    pattern = re.compile(r"\b(" + "|".join(sorted(forms, key=len, reverse=True)) + r")\b")
    for sentence in sentences:
        found = [forms[word] for word in pattern.findall(sentence)]
        yield pattern.sub(lambda word: forms[word[0]][0].upper(), sentence), sorted(found)


def test_regular_targets_follow_from_the_source(regular):
    german, english = (
        list(taken_apart(sentences, slots(side))) for side, sentences in enumerate(zip(*regular, strict=True))
    )
    assert all(before == after and len(before) >= 4 for (_, before), (_, after) in zip(german, english, strict=True))
    patterns = {}
    for (before, _), (after, _) in zip(german, english, strict=True):
        patterns.setdefault(before, set()).add(re.sub(r"\b([Aa])n\b", r"\1", after))
    assert len(patterns) < len(regular) / 6
    assert {len(targets) for targets in patterns.values()} == {1}


def test_rules_alone_reach_most_of_the_target_but_memory_is_a_third_of_the_personal(rows):
    lengths = {
        kind: [len(row["target"].split()) + 1 for row in rows if row["kind"] == kind]
        for kind in ("regular", "personal")
    }
    assert 0.25 < 3 / np.mean(lengths["personal"]) < 0.4
    assert 1 - 3 * len(lengths["personal"]) / sum(map(sum, lengths.values())) > 0.83


def test_few_words_and_all_of_them_common(rows):
    train = Counter(
        re.findall(r"\w+", " ".join(f"{row['source']} {row['target']}" for row in rows if row["split"] == "train"))
    )
    assert len(train) < 650
    assert min(train[word] for word in ANSWERS) >= 15
    test = re.findall(r"\w+", " ".join(row["target"] for row in rows if row["split"] == "test"))
    assert np.mean([train[word] >= 5 for word in test]) > 0.99
