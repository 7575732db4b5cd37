"""forget=easy and forget=hard: terciles of a score among examples of equal label and length."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from kga.data.forget import Easy, Hard
from kga.errors import UserError

TRAIN = np.arange(100, 1000)
RESERVE = np.arange(100)
RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, 200, 1000)
LABELS = RNG.choice(["a", "a", "b"], 1000)
TABLE = Dataset.from_dict({"text": ["x" * length for length in LENGTHS], "label": LABELS.tolist()})
# Long texts and label "b" are harder by far, as they are for real models.
SCORES = LENGTHS / 20 + 7 * (LABELS == "b") + RNG.random(1000)


def chosen(request: Easy | Hard, seed: int = 0) -> np.ndarray:
    request.difficulty = lambda rows: SCORES[rows]
    rows = request.choose(TABLE, TRAIN, np.random.default_rng(seed))
    assert np.isin(rows, TRAIN).all() and (np.diff(rows) > 0).all()
    return rows


def quarter(rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.quantile(LENGTHS, [0.25, 0.5, 0.75]), LENGTHS[rows])


def test_whole_terciles_have_the_labels_and_lengths_of_d():
    easy, hard = chosen(Easy()), chosen(Hard())
    assert not set(easy) & set(hard)
    for rows in (easy, hard):
        assert abs(len(rows) - len(TRAIN) / 3) <= 8
        for label in "ab":
            assert abs((LABELS[rows] == label).mean() - (LABELS[TRAIN] == label).mean()) < 0.02
        for number in range(4):
            assert abs((quarter(rows) == number).mean() - (quarter(TRAIN) == number).mean()) < 0.02


def test_terciles_are_the_lowest_and_highest_scores_of_each_stratum():
    """Against sorting by hand in a table of two labels and two lengths, far apart."""
    lengths, labels = np.tile([10, 10, 90, 90], 30), np.tile(["a", "b"], 60)
    table = Dataset.from_dict({"text": ["x" * n for n in lengths], "label": labels.tolist()})
    scores, train = np.random.default_rng(1).permutation(120), np.arange(120)
    for request, best in ((Easy(), slice(None, 10)), (Hard(), slice(-10, None))):
        request.difficulty = lambda rows: scores[rows]
        strata = [train[(lengths == length) & (labels == label)] for length in (10, 90) for label in "ab"]
        expected = sorted(row for rows in strata for row in rows[np.argsort(scores[rows])][best].tolist())
        assert request.choose(table, train, np.random.default_rng(0)).tolist() == expected


def test_a_part_is_drawn_at_random_from_the_tercile():
    whole = set(chosen(Hard()).tolist())
    part, other = chosen(Hard(50)), chosen(Hard(50), seed=1)
    assert len(part) == 50 and set(part.tolist()) <= whole and part.tolist() != other.tolist()
    assert part.tolist() == chosen(Hard(50)).tolist()
    assert len(chosen(Easy(0.1))) == 90


def test_more_than_a_tercile_is_refused():
    with pytest.raises(
        UserError, match=r"forget\.size=500: 500 examples can't be drawn from the \d+ .* hardest third of D"
    ):
        chosen(Hard(500))
    with pytest.raises(UserError, match=r"easiest third of D"):
        chosen(Easy(0.5))


def test_more_than_a_tercile_is_refused_before_anything_is_scored():
    request = Hard(500)
    request.difficulty = lambda rows: pytest.fail("scored")
    with pytest.raises(UserError, match=r"forget\.size=500"):
        request.choose(TABLE, TRAIN, np.random.default_rng(0))


def test_without_a_score_nothing_can_be_chosen():
    with pytest.raises(ValueError, match="difficulty"):
        Easy(5).choose(TABLE, TRAIN, np.random.default_rng(0))


@pytest.mark.parametrize("shadows", [0, 1, 3, 2.0, True, "4"])
def test_options_that_mean_nothing_are_refused(shadows):
    with pytest.raises(UserError, match=rf"forget\.shadows={shadows} must be an even number"):
        Easy(shadows=shadows)
    with pytest.raises(UserError, match=r"forget\.by=los is unknown: did you mean loss"):
        Hard(by="los")


def test_unseen_examples_are_matched_by_label_and_length():
    request = Hard(30)
    forget = chosen(request)
    new = request.match(TABLE, TRAIN, forget, RESERVE, 12, np.random.default_rng(0))
    counts = Counter(LABELS[forget])
    assert len(new) == 12 and abs(Counter(LABELS[new])["b"] - 12 * counts["b"] / 30) < 1
    others = request.nonmembers(TABLE, TRAIN, forget, np.setdiff1d(RESERVE, new), np.random.default_rng(0))
    assert 10 < len(others) <= 30 and not set(others.tolist()) & set(new.tolist())


def test_nothing_can_be_listed():
    with pytest.raises(UserError, match=r"forget=hard has nothing to list"):
        Hard().candidates(TABLE, TRAIN, RESERVE)


def test_where_d_is_small_thirds_of_a_label_are_not_cut_by_length_too():
    """Of 16 labels with 6 examples each, of all lengths, the two lowest of each; by lengths too there were none left."""
    labels = np.repeat(np.arange(16), 6)
    lengths = np.random.default_rng(0).permutation(96) + 1
    table = Dataset.from_dict({"text": ["x" * n for n in lengths], "label": labels.astype(str).tolist()})
    scores = np.random.default_rng(1).permutation(96)
    request = Easy()
    request.difficulty = lambda rows: scores[rows]
    expected = sorted(row for label in range(16) for row in 6 * label + np.argsort(scores[labels == label])[:2])
    assert request.choose(table, np.arange(96), np.random.default_rng(0)).tolist() == expected
