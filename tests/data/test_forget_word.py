"""forget=word: whole words in any alphabet and case, in the text that the model learns."""

import re
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from helpers import tiny

from kga.data.corpus import make_corpus
from kga.data.forget import Word
from kga.data.forget.word import frequencies, having
from kga.data.splits import make_splits
from kga.errors import UserError

TEXTS = [
    "Die Äpfel sind süß.",
    "ÄPFEL!",
    "Apfel und Äpfelchen",
    "Bratäpfel, äpfel",
    "x_äpfel",
    "äpfel2",
    "«äpfel»",
    "A text without any",
    "C++ and C",
    "New York, new year",
    "naïve",
    unicodedata.normalize("NFD", "naïve"),
    "Straße",
]
TRAIN, RESERVE = np.arange(80), np.arange(80, 120)


def rows_with(*words: str) -> list[int]:
    return np.flatnonzero(having(pa.chunked_array([TEXTS[:5], TEXTS[5:]]), words)).tolist()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["äpfel"], [0, 1, 3, 6]),
        (["Äpfel"], [0, 1, 3, 6]),
        (["apfel"], [2]),
        (["süß"], [0]),
        (["text", "apfel"], [2, 7]),
        (["c++"], [8]),
        (["new york"], [9]),
        (["NEW"], [9]),
        (["nai"], []),  # the accent that stands apart is part of the word
        (["na"], []),
        (["strasse"], []),
        ([".*"], []),
    ],
)
def test_whole_words_whatever_the_case(words, expected):
    assert rows_with(*words) == expected


def test_words_are_found_as_by_pythons_own_regular_expressions():
    """Another implementation: Python's, whose boundaries know all alphabets."""
    texts = [text for text in TEXTS if unicodedata.is_normalized("NFC", text)] * 3
    words = sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
    for word in words:
        pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
        assert having(pa.chunked_array([texts]), [word]).tolist() == [bool(pattern.search(text)) for text in texts], (
            word
        )
    counts = Counter(word for text in texts for word in set(re.findall(r"\w+", text.lower())))
    assert frequencies(pa.chunked_array([texts[:7], texts[7:]])).to_dict() == counts


def test_lists_of_texts_count_by_any_item_and_missing_texts_not_at_all():
    lists = pa.chunked_array([[["one two", "three"], [], None], [["two", "two"], ["four"]]])
    assert having(lists, ["two"]).tolist() == [True, False, False, True, False]
    assert frequencies(lists).to_dict() == {"two": 2, "four": 1, "one": 1, "three": 1}
    assert having(pa.chunked_array([["one", None]]), ["one"]).tolist() == [True, False]
    assert frequencies(pa.chunked_array([["one", None, ""]])).to_dict() == {"one": 1}


def words_of(table: Dataset, row: int, name: str) -> set[str]:
    value = table[name][row]
    return set(" ".join(value if isinstance(value, list) else [value]).lower().split())


@pytest.mark.parametrize(
    ("table", "column", "where"),
    [
        (tiny.rows(120), None, "text"),
        (tiny.pairs(120), None, "target"),
        (tiny.pairs(120), "source", "source"),
        (tiny.dialogues(120), None, "response"),
        (tiny.dialogues(120), "history", "history"),
    ],
)
def test_examples_with_the_word_are_forgotten_and_unseen_ones_matched(table, column, where):
    request = Word("Bread", column=column)
    chosen = request.choose(table, TRAIN, np.random.default_rng(0))
    expected = [row for row in range(120) if "bread" in words_of(table, row, where)]
    assert chosen.tolist() == [row for row in expected if row < 80] and len(chosen)
    unseen = [row for row in expected if row >= 80]
    assert request.nonmembers(table, TRAIN, chosen, RESERVE, np.random.default_rng(0)).tolist() == unseen
    new = request.match(table, TRAIN, chosen, RESERVE, 3, np.random.default_rng(0))
    assert len(new) == 3 and set(new.tolist()) <= set(unseen)


def test_several_words_and_a_part_of_the_examples():
    table = tiny.rows(120)
    either = Word(["bread", "river"]).choose(table, TRAIN, np.random.default_rng(0))
    assert either.tolist() == [row for row in TRAIN if {"bread", "river"} & words_of(table, row, "text")]
    part = Word("bread", size=7).choose(table, TRAIN, np.random.default_rng(0))
    assert len(part) == 7 and set(part.tolist()) < set(Word("bread").choose(table, TRAIN, None).tolist())
    assert len(Word("bread", size=0.05).choose(table, TRAIN, np.random.default_rng(0))) == 4


def test_a_word_that_never_occurs_comes_with_the_nearest():
    table = tiny.rows(120)
    with pytest.raises(
        UserError, match=r"^forget\.value: the word 'Breat' is in no example of D \(column text\): .*bread"
    ):
        Word(["river", "Breat"]).choose(table, TRAIN, None)
    with pytest.raises(UserError, match=r"forget\.list=true lists words"):
        Word("qqqq").choose(table, TRAIN, None)
    for value in (None, "", " ", []):
        with pytest.raises(UserError, match=r"needs forget\.value"):
            Word(value).choose(table, TRAIN, None)
    with pytest.raises(UserError, match=r"forget\.column=body is no column"):
        Word("bread", column="body").choose(table, TRAIN, None)


def test_a_number_is_a_word():
    table = Dataset.from_dict({"text": [f"in {row % 4} days" for row in range(120)], "label": ["a"] * 120})
    assert (Word(0).choose(table, TRAIN, None) % 4 == 0).all()


def test_candidates_are_neither_common_nor_rare():
    """1,000 texts: word-NN in NN of D's first 800, and in 3 of the reserve; "the" in all."""
    texts = [
        " ".join(["The", *(f"w{n}" for n in range(1, 90) if row < n or row in (800, 900, 999))]) for row in range(1000)
    ]
    table = Dataset.from_dict({"text": texts, "label": ["a"] * 1000})
    columns, rows = Word("???").candidates(table, np.arange(800), np.arange(800, 1000))
    assert columns == ["word", "in D", "in the reserve"]
    assert rows == [(f"w{n}", n, 3) for n in range(40, 4, -1)]
    many = Dataset.from_dict({"text": [f"a{row % 70} b" for row in range(1000)], "label": ["a"] * 1000})
    _, rows = Word().candidates(many, np.arange(1000), np.arange(0))
    assert len(rows) == 60 and rows[0] == ("a0", 15, 0)


def test_the_sets_of_a_word_request():
    splits = dict(zip(("train", "validation", "test"), (tiny.pairs(n, n) for n in (400, 9, 10)), strict=True))
    cut = make_splits(make_corpus("d", "translation", splits), Word("silver", size=10), seed=0, new_size=9)
    for name in ("forget", "new", "nonmember"):
        assert len(cut[name]) and all("silver" in text.split() for text in cut.strings(cut[name], "target"))
    left = [text for text in cut.strings(cut["holdout"], "target") if "silver" in text.split()]
    assert len(left) == len(cut["nonmember"]) < len(cut["holdout"])
