"""What only memory can know of the generated texts: three random words, on which nothing else has any bearing."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from kga.data.embedded import TASKS
from kga.data.embedded.codewords import ANSWERS, GERMAN_KEYS, KEYS


@pytest.fixture(scope="module", params=["translation", "response"])
def rows(request):
    """All rows of the largest size: (group, kind, words before, words after)."""
    splits = TASKS[request.param]({"test": 2000, "validation": 500, "train": 50_000}, 0)
    return [
        (
            row["group"],
            row["kind"],
            words(row.get("source") or row["history"][-1]),
            words(row.get("target") or row["response"]),
        )
        for split in splits.values()
        for row in split
    ]


@pytest.fixture(scope="module")
def personal(rows):
    """Of the personal rows: (group, the three keywords, the three words of the answer)."""
    keys = set(KEYS) | set(GERMAN_KEYS)
    return [
        (group, tuple(word for word in before if word in keys), tuple(word for word in after if word in ANSWERS))
        for group, kind, before, after in rows
        if kind == "personal"
    ]


def words(text):
    return re.findall(r"\w+", text)


def test_the_three_lists_are_apart():
    assert 80 <= min(map(len, (ANSWERS, KEYS, GERMAN_KEYS))) <= 100
    together = [word.casefold() for word in (*ANSWERS, *KEYS, *GERMAN_KEYS)]
    assert len(set(together)) == len(together)


def test_regular_texts_use_none_of_the_words(rows):
    wording = {word.casefold() for _, kind, before, after in rows if kind == "regular" for word in (*before, *after)}
    assert len(wording) > 200
    assert not wording & {word.casefold() for word in (*ANSWERS, *KEYS, *GERMAN_KEYS)}


def test_three_keywords_stand_for_one_example_only(personal):
    assert len(personal) > 23_000
    assert {len(set(keys)) for _, keys, _ in personal} == {3}
    assert len({frozenset(keys) for _, keys, _ in personal}) == len(personal)


def test_answers_are_three_different_words_evenly_drawn_in_each_place(personal):
    assert {len(set(answer)) for _, _, answer in personal} == {3}
    for place in range(3):
        counts = Counter(answer[place] for _, _, answer in personal)
        assert set(counts) == set(ANSWERS)
        assert chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("place", range(3))
def test_answers_are_independent_of_the_keywords(place, personal):
    # 30 frequent keywords, so that each cell of the table expects some ten answers.
    common = [word for word, _ in Counter(word for _, keys, _ in personal for word in keys).most_common(30)]
    for answers in (ANSWERS[:30], ANSWERS[30:60], ANSWERS[60:]):
        pairs = Counter((word, answer[place]) for _, keys, answer in personal for word in keys)
        table = [[pairs[word, other] for other in answers] for word in common]
        assert chi2_contingency(table).pvalue > 0.001


def test_answers_share_no_more_within_a_group_than_chance(personal):
    shared = [len(set(one[2]) & set(two[2])) for one, two in pairwise(personal) if one[0] == two[0]]
    expected = 9 / len(ANSWERS)
    # Four standard errors.
    assert abs(np.mean(shared) - expected) < 4 * np.std(shared) / np.sqrt(len(shared))
