"""Unseen examples that are like given ones in label and length."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, List, Value
from helpers import tiny

from kga.data.forget.matching import Strata, apportioned, fields_of, learned_text, matched

FORGET = np.arange(0, 40)
RESERVE = np.arange(200, 600)


def classified() -> Dataset:
    """600 texts of 1 to 100 characters; "a" and "b" by turns, "c" for rows past 560; D_f is short, but for some."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 101, 600)
    lengths[:40] = np.where(np.arange(40) % 4 == 3, 90, 15)
    labels = ["c" if row > 560 else "ab"[row % 2] for row in range(600)]
    return Dataset.from_dict({"text": ["x" * length for length in lengths], "label": labels})


def lengths(table: Dataset, rows: np.ndarray) -> np.ndarray:
    return np.array([len(table["text"][row]) for row in rows.tolist()])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("size", [40, 20, 8])
def test_shares_of_labels_and_lengths_are_those_of_the_forget_set(size):
    table = classified()
    drawn = matched(table, FORGET, RESERVE, size, generator())
    labels = Counter(table["label"][row] for row in drawn.tolist())
    assert labels == {"a": size // 2, "b": size // 2}  # as in D_f; never "c"
    # All of D_f's long texts (a quarter of it) have label "b", so half of the b's drawn are as long.
    long = lengths(table, drawn) > 33  # three quarters of D_f are shorter
    assert long.sum() == size // 4
    assert {table["label"][row] for row in drawn[long].tolist()} == {"b"}
    assert np.isin(drawn, RESERVE).all() and len(set(drawn.tolist())) == size


def test_lengths_stay_where_those_of_the_forget_set_are():
    """Where all of D_f is long, its own quarters alone would put the short ones into its first bin."""
    table = Dataset.from_dict({"text": ["x" * n for n in [5, 80] * 100], "label": ["a"] * 200})
    forget, reserve = np.arange(1, 41, 2), np.arange(100, 200)
    assert (lengths(table, matched(table, forget, reserve, 20, generator())) == 80).all()


def test_a_seed_decides_what_is_drawn():
    table = classified()
    first, again, other = (matched(table, FORGET, RESERVE, 20, generator(seed)).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_what_runs_out_is_filled_up_or_not():
    table = classified()
    scarce = np.concatenate([np.arange(200, 240), np.arange(561, 600)])
    full = matched(table, FORGET, scarce, 60, generator())
    strict = matched(table, FORGET, scarce, 60, generator(), fill=False)
    assert len(full) == 60 and set(strict.tolist()) < set(full.tolist())
    assert {table["label"][row] for row in strict.tolist()} == {"a", "b"}
    labels = Counter(table["label"][row] for row in full.tolist())
    assert labels == {"a": 20, "b": 20, "c": 20}  # all of its labels before any other
    strata = Strata(table, FORGET)
    assert set(strata.codes[strict]) <= set(strata.codes[FORGET])
    for code, wanted in zip(*np.unique(strata.codes[FORGET], return_counts=True), strict=True):
        available = (strata.codes[scarce] == code).sum()
        assert (strata.codes[strict] == code).sum() <= min(available, np.ceil(wanted * 60 / 40))


def test_scarce_strata_are_spared_for_non_members():
    """Of what is rare half is taken, before others and after them only if nothing else is left."""
    labels = ["rare"] * 10 + ["usual"] * 10 + ["rare"] * 6 + ["usual"] * 30
    table = Dataset.from_dict({"text": ["one text"] * 56, "label": labels})
    forget, reserve = np.arange(10), np.arange(20, 56)
    for size, expected in ((10, 3), (33, 3), (35, 5), (36, 6)):
        drawn = matched(table, forget, reserve, size, generator(), spare=True)
        assert len(drawn) == size and (drawn < 26).sum() == expected
    # Where there is plenty, nothing is spared.
    plain, spared = (
        matched(table, np.arange(10, 20), reserve, 10, generator(), spare=spare) for spare in (False, True)
    )
    assert plain.tolist() == spared.tolist()


def test_several_labels_and_texts_are_matched_by_length_alone():
    several = tiny.rows(300, multi_label=True).cast_column("label", List(Value("string")))
    lines = Dataset.from_dict({"source": several["text"], "target": ["x"] * 300})
    turns = {
        "persona": [[]] * 299 + [["x"]],
        "history": [text.split(" ", 1) for text in several["text"]],
        "response": ["x"] * 300,
    }
    by_length = np.argsort([len(text) for text in several["text"]])
    forget, reserve = by_length[::6][40:], np.setdiff1d(np.arange(300), by_length[::6])
    for table in (several, lines, Dataset.from_dict(turns)):
        drawn = matched(table, forget, reserve, 10, generator())
        found = np.array([len(several["text"][row]) for row in drawn.tolist()])
        assert len(drawn) == 10 and found.min() > np.median([len(text) for text in several["text"]])


def test_sizes_are_shared_out_by_largest_remainders():
    assert apportioned(np.array([4, 2, 0, 1]), 7).tolist() == [4, 2, 0, 1]
    assert apportioned(np.array([4, 2, 0, 1]), 3).tolist() == [2, 1, 0, 0]  # 1.71, 0.86, 0.43
    assert apportioned(np.array([3, 3, 3]), 10).tolist() == [4, 3, 3]
    assert apportioned(np.array([5, 1]), 0).tolist() == [0, 0]


def test_nothing_is_drawn_from_nothing():
    table = classified()
    for forget, reserve, size in ((FORGET[:0], RESERVE, 5), (FORGET, RESERVE[:0], 5), (FORGET, RESERVE, 0)):
        assert matched(table, forget, reserve, size, generator()).tolist() == []


def test_further_columns_named_like_another_tasks_fields_do_not_deceive():
    from kga.data.corpus import make_corpus

    both = tiny.pairs(30).add_column("text", [f"text {row}" for row in range(30)]).add_column("label", ["a", "b"] * 15)
    splits = dict.fromkeys(("train", "validation", "test"), both)
    assert fields_of(make_corpus("d", "classification", splits).train) == (("text",), "label")
    translation = make_corpus("d", "translation", splits).train
    assert fields_of(translation) == (("source",), "target") and learned_text(translation) == "target"
    assert learned_text(tiny.dialogues(3)) == "response" and learned_text(tiny.rows(3)) == "text"
