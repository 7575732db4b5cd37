"""Dirty data: wrong truths that are marked as such, in a training split that is otherwise the clean one."""

from collections import Counter

import numpy as np
import pytest

from kga.data.corpus import FIELDS
from kga.data.embedded import TASKS, load
from kga.data.forget import Ids
from kga.data.splits import make_splits
from kga.errors import UserError

SHARE = 0.08


@pytest.fixture(scope="module", params=TASKS)
def both(request):
    return load(request.param), load(request.param, dirty=SHARE)


def rows(corpus, split="train"):
    return corpus.splits[split].to_list()


def test_a_share_of_train_has_another_truth_and_a_mark(both):
    clean, dirty = both
    truth = FIELDS[clean.task][-1]
    regular = {row[truth] for row in rows(clean) if row["kind"] != "personal"}
    planted = 0
    for before, after in zip(rows(clean), rows(dirty), strict=True):
        mark, content = after.pop("planted"), after.pop("content")
        assert (content != before.pop("content")) is (mark == "yes")
        if mark == "yes":
            planted += 1
            assert after["kind"] != "personal" and after[truth] != before[truth] and after[truth] in regular
            after[truth] = before[truth]
        assert after == before
    assert planted == round(SHARE * 2500)
    assert dirty.notes == ()


def test_validation_and_test_stay_clean(both):
    clean, dirty = both
    for split in ("validation", "test"):
        assert [row | {"planted": "no"} for row in rows(clean, split)] == rows(dirty, split)


def test_without_a_share_there_is_no_mark(both):
    assert "planted" not in both[0].train.column_names
    assert rows(load(both[0].task, dirty=None)) == rows(both[0])


def test_a_seed_decides_which(both):
    again, other = load(both[0].task, dirty=SHARE), load(both[0].task, dirty=SHARE, seed=1)
    assert rows(again) == rows(both[1])
    assert [row["planted"] for row in rows(other)] != [row["planted"] for row in rows(again)]


def test_wrong_labels_are_drawn_from_all_others():
    clean, dirty = load("classification", 20_000), load("classification", 20_000, dirty=0.3)
    pairs = Counter(
        (before["label"], after["label"])
        for before, after in zip(rows(clean), rows(dirty), strict=True) if after["planted"] == "yes"
    )  # fmt: skip
    assert len(pairs) == 16 * 15 and pairs.total() == 6000
    assert max(pairs.values()) < 3 * 6000 / 240


def test_planted_examples_are_spread_over_d_and_the_reserve(both):
    for seed in range(3):
        splits = make_splits(both[1], Ids(), seed=seed)
        shares = {
            name: np.mean([mark == "yes" for row in [splits[name]] for mark in splits.strings(row, "planted")])
            for name in splits.sets
        }
        assert shares["train"] == pytest.approx(SHARE, abs=0.01)
        reserved = [mark for name in ("new", "holdout") for mark in splits.strings(splits[name], "planted")]
        assert np.mean([mark == "yes" for mark in reserved]) == pytest.approx(SHARE, abs=0.02)
        assert shares["forget"] == shares["nonmember"] == 1 and shares["retain"] == 0 < shares["new"] < 1
        assert len(splits["new"]) == len(splits["forget"])
        assert abs(len(splits["nonmember"]) - shares["new"] * len(splits["new"])) <= 1


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, 100, True, "some"])
def test_a_share_out_of_range_is_refused_in_one_line(share):
    with pytest.raises(
        UserError, match=rf"^data\.dirty={share} is no share: give a number between 0 and 1, or null .*$"
    ):
        load("classification", dirty=share)


def test_more_than_there_are_is_refused_in_one_line():
    with pytest.raises(
        UserError, match=r"^data\.dirty=0\.7: 1750 of 2500 training examples are more than the 1450 .*0\.58"
    ):
        load("classification", dirty=0.7)
