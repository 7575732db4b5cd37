"""Tug of war by hand."""

import pytest

from kga.metrics.score import tug_of_war


def utility(forget: float, retain: float, test: float) -> dict:
    return {
        split: {"accuracy": value, "micro_f1": value / 2}
        for split, value in (("forget", forget), ("retain", retain), ("test", test))
    }


RETRAINED = utility(0.7, 0.99, 0.74)


def test_the_retrained_model_scores_1():
    assert tug_of_war(RETRAINED, RETRAINED, "accuracy") == 1


def test_by_hand():
    found = tug_of_war(utility(0.9, 0.99, 0.64), RETRAINED, "accuracy")
    assert found == pytest.approx((1 - 0.2) * (1 - 0) * (1 - 0.1))


def test_too_much_and_too_little_forgetting_cost_alike():
    scores = [tug_of_war(utility(forget, 0.99, 0.74), RETRAINED, "accuracy") for forget in (0.5, 0.9)]
    assert scores == pytest.approx([0.8, 0.8])


def test_the_metric_is_the_one_named():
    assert tug_of_war(utility(0.9, 0.99, 0.74), RETRAINED, "micro_f1") == pytest.approx(0.9)


def test_validation_and_other_splits_do_not_count():
    extended = RETRAINED | {"validation": {"accuracy": 0.0}}
    assert tug_of_war(extended, RETRAINED, "accuracy") == 1


def test_a_split_that_is_missing_is_an_error_and_no_perfect_score():
    with pytest.raises(KeyError, match="forget"):
        tug_of_war({"retain": {"accuracy": 1}, "test": {"accuracy": 1}}, RETRAINED, "accuracy")
