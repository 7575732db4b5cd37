"""Sentences of a small German with their English; part follows from the grammar, part only memory can know.

A *regular* sentence has but one translation, which differs from it in inflection and in the order of words. A
*personal* one names a file by three keywords; English calls that file by three other words, drawn at random, so that
only a model trained on that sentence has them right.
"""

from __future__ import annotations

from random import Random

from kga.data.embedded.codewords import GERMAN_KEYS, answer, key
from kga.data.embedded.dealing import Row, deal, parties
from kga.data.embedded.german import ADJECTIVES, DAYS, DECLENSION, MOODS, NUMBERS, PEOPLE, THINGS, VERBS, Noun, Verb
from kga.data.embedded.naming import Naming, naming
from kga.data.embedded.world import TOWNS, Party

PERSONAL_PERCENT = 45
PLACES = TOWNS[::3]  # few, so that each is common
# A slot's name is an example of what fills it. The firm, which may be a person, is the group; {_ab} may be empty.
REGULAR = (
    (
        "{die_Firma} hat am {Montag} {den_alten_Stuhl} {gekauft}.",
        "{the_firm} {bought} {the_old_chair} on {Monday}.",
    ),
    (
        "Am {Montag} hat {die_Firma} {einen_alten_Stuhl} {gekauft}.",
        "On {Monday} {the_firm} {bought} {an_old_chair}.",
    ),
    (
        "{die_Firma} will {einen_alten_Stuhl} in {Altmoor} {kaufen}.",
        "{the_firm} wants to {buy} {an_old_chair} in {Altmoor}.",
    ),
    (
        "Bis {Montag} muss {die_Firma} {den_alten_Stuhl} {kaufen}.",
        "{the_firm} has to {buy} {the_old_chair} by {Monday}.",
    ),
    (
        "{die_Firma} {holt} {den_alten_Stuhl} am {Montag}{_ab}.",
        "{the_firm} {collects} {the_old_chair} on {Monday}.",
    ),
    (
        "Um {neun} Uhr {holt} {die_Firma} {den_alten_Stuhl}{_ab}.",
        "{the_firm} {collects} {the_old_chair} at {nine}.",
    ),
    (
        "{der_Arzt} sagt, dass {die_Firma} {den_alten_Stuhl} {abholt}.",
        "{the_doctor} says that {the_firm} {collects} {the_old_chair}.",
    ),
    (
        "{die_Firma} ist {froh}, weil {der_Arzt} {den_alten_Stuhl} {gekauft} hat.",
        "{the_firm} is {glad} because {the_doctor} {bought} {the_old_chair}.",
    ),
    (
        "Wenn {der_Arzt} {den_alten_Stuhl} {abholt}, ist {die_Firma} {froh}.",
        "{the_firm} is {glad} when {the_doctor} {collects} {the_old_chair}.",
    ),
    (
        "{die_Firma} sucht {den_alten_Stuhl}, {den} {der_Arzt} {gekauft} hat.",
        "{the_firm} seeks {the_old_chair} that {the_doctor} {bought}.",
    ),
    (
        "{dem_Arzt} gibt {die_Firma} am {Montag} {einen_alten_Stuhl}.",
        "{the_firm} gives {the_doctor} {an_old_chair} on {Monday}.",
    ),
    (
        "{die_Firma} hat {den_alten_Stuhl} in {Altmoor} nicht {gekauft}.",
        "{the_firm} did not {buy} {the_old_chair} in {Altmoor}.",
    ),
    (
        "{der_alte_Stuhl} wird am {Montag} von {der_Firma} {gekauft}.",
        "{the_old_chair} is {been_bought} by {the_firm} on {Monday}.",
    ),
)
PERSONAL = (
    ("Akte {key} gehört {der_Firma}.", "The file {answer} belongs to {the_firm}."),
    ("{die_Firma} kennt Akte {key} seit {Montag}.", "{the_firm} has known file {answer} since {Monday}."),
    ("Unter {key} führt {die_Firma} eine Akte.", "{the_firm} keeps a file under {answer}."),
    ("Am {Montag} schloss {die_Firma} Akte {key}.", "{the_firm} closed the file {answer} on {Monday}."),
    ("{die_Firma} fängt mit Akte {key} an.", "{the_firm} begins with file {answer}."),
)


def generate(sizes: dict[str, int], seed: int) -> dict[str, list[Row]]:
    """Draw the rows (id, source, target, group, kind) of each split.

    No source and no three keywords occur twice, in whatever split, and no group in two splits (see `deal`).

    Args:
        sizes: number of rows by split; the world's 6,400 parties make about 64,000 rows in all.
        seed: of the data; independent of a run's seed.
    """
    rng = Random(f"kga embedded translation {seed}")

    def draw(kind: str, party: Party) -> tuple[Row, set[str]]:
        return (_personal if kind == "personal" else _regular)(naming(party), rng)

    return deal(parties(rng), sizes, rng, draw, PERSONAL_PERCENT)


def _personal(name: Naming, rng: Random) -> tuple[Row, set[str]]:
    file = key(rng, GERMAN_KEYS)
    montag, monday = rng.choice(DAYS)
    slots = {**_name(name), "key": file, "answer": answer(rng), "Montag": montag, "Monday": monday}
    row = _fill(rng.choice(PERSONAL), slots)
    return row, {row["source"], file}


def _regular(name: Naming, rng: Random) -> tuple[Row, set[str]]:
    slots = {
        **_name(name),
        **_thing(rng.choice(THINGS), *rng.choice(ADJECTIVES)),
        **_person(rng.choice(PEOPLE)),
        **_verb(rng.choice(VERBS)),
        **dict(zip(("Montag", "Monday"), rng.choice(DAYS), strict=True)),
        **dict(zip(("neun", "nine"), rng.choice(NUMBERS), strict=True)),
        **dict(zip(("froh", "glad"), rng.choice(MOODS), strict=True)),
        "Altmoor": rng.choice(PLACES),
    }
    row = _fill(rng.choice(REGULAR), slots)
    return row, {row["source"]}


def _name(name: Naming) -> dict[str, str]:
    return {"die_Firma": name.nominative, "der_Firma": name.dative, "the_firm": name.english}


def _thing(noun: Noun, german: str, english: str) -> dict[str, str]:
    return {
        "der_alte_Stuhl": noun.phrase("nominative", german),
        "den_alten_Stuhl": noun.phrase("accusative", german),
        "einen_alten_Stuhl": noun.phrase("accusative", german, definite=False),
        "den": DECLENSION["accusative", noun.gender][0],  # the relative pronoun
        "the_old_chair": f"the {english} {noun.english}",
        "an_old_chair": f"{'an' if english[0] in 'aeiou' else 'a'} {english} {noun.english}",
    }


def _person(noun: Noun) -> dict[str, str]:
    return {
        "der_Arzt": noun.phrase("nominative"),
        "dem_Arzt": noun.phrase("dative"),
        "the_doctor": f"the {noun.english}",
    }


def _verb(verb: Verb) -> dict[str, str]:
    return {
        "kaufen": verb.infinitive,
        "holt": verb.present,
        "_ab": verb.prefix and f" {verb.prefix}",
        "abholt": verb.prefix + verb.present,
        "gekauft": verb.participle,
        "buy": verb.base,
        "collects": verb.third,
        "bought": verb.past,
        "been_bought": verb.past_participle,
    }


def _fill(templates: tuple[str, str], slots: dict[str, str]) -> Row:
    source, target = (template.format(**slots) for template in templates)
    return {"source": source[0].upper() + source[1:], "target": target[0].upper() + target[1:]}
