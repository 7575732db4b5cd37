"""Figures of attacks against sklearn's, and what must hold of them."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from kga.metrics import membership
from kga.metrics.membership import auc, auc_interval, membership_figures, privleak, roc


def scores(shift: float, members: int = 60, nonmembers: int = 80, seed: int = 0, ties: bool = False):
    rng = np.random.default_rng(seed)
    pair = rng.normal(shift, 1, members), rng.normal(0, 1, nonmembers)
    return tuple(np.round(values) for values in pair) if ties else pair


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.7])
def test_auc_and_roc_are_sklearns(shift, ties):
    members, nonmembers = scores(shift, ties=ties)
    truth, both = np.repeat([1, 0], [60, 80]), np.concatenate([members, nonmembers])
    assert auc(members, nonmembers) == pytest.approx(roc_auc_score(truth, both), abs=1e-9)
    false, true, _ = roc_curve(truth, both, drop_intermediate=False)
    found = roc(members, nonmembers)
    np.testing.assert_allclose(found[0], false)
    np.testing.assert_allclose(found[1], true)


@pytest.mark.parametrize("ties", [False, True])
def test_figures_are_those_of_sklearns_curve(ties):
    members, nonmembers = scores(0.8, 150, 120, ties=ties)
    truth, both = np.repeat([1, 0], [150, 120]), np.concatenate([members, nonmembers])
    false, true, _ = roc_curve(truth, both, drop_intermediate=False)
    found = membership_figures(members, nonmembers, bootstrap=100)
    assert found["advantage"] == pytest.approx((true - false).max())
    assert found["balanced_accuracy"] == pytest.approx((1 + (true - false).max()) / 2)
    assert found["tpr_at_fpr_0.1"] == pytest.approx(true[false <= 0.1].max())
    assert (found["members"], found["nonmembers"]) == (150, 120)


@pytest.mark.parametrize(("nonmembers", "reported"), [(99, 0), (100, 1), (999, 1), (1000, 2), (10_000, 3)])
def test_rates_are_reported_only_where_there_are_examples_for_them(nonmembers, reported):
    found = membership_figures(*scores(0.5, 50, nonmembers), bootstrap=10)
    assert len([name for name in found if name.startswith("tpr_at_fpr_")]) == reported


def test_a_rate_is_never_exceeded():
    """Where one more false positive would step over the target, the true positives up to there count, not the nearest."""
    nonmembers = np.concatenate([np.zeros(89), np.full(11, 2.0)])  # thresholds reach FPR .11 at once
    members = np.concatenate([np.full(5, 3.0), np.full(5, 2.0)])
    assert membership_figures(members, nonmembers, bootstrap=10)["tpr_at_fpr_0.1"] == pytest.approx(0.5)


def test_intervals_cover_the_half_for_exchangeable_sets():
    covered = 0
    for seed in range(100):
        _, low, high = auc_interval(*scores(0.0, seed=seed), bootstrap=300)
        covered += low <= 0.5 <= high
    assert covered >= 88


def test_intervals_shrink_with_examples_and_hold_the_value():
    narrow, wide = (auc_interval(*scores(0.5, size, size)) for size in (800, 50))
    for value, low, high in (narrow, wide):
        assert low < value < high
    assert narrow[2] - narrow[1] < 0.5 * (wide[2] - wide[1])
    assert auc_interval(*scores(0.5), seed=1) == auc_interval(*scores(0.5), seed=1)


@pytest.mark.parametrize("block", [2**21, 1000])  # all resamples at once, and nine at a time
@pytest.mark.parametrize("ties", [False, True])
def test_resamples_have_the_auc_that_sklearn_gives_them(ties, block, monkeypatch):
    monkeypatch.setattr(membership, "BLOCK", block)
    members, nonmembers = scores(0.6, 40, 70, ties=ties)
    rng, truth, expected = np.random.default_rng([3, 10]), np.repeat([1, 0], [40, 70]), []
    for size in [50] if block > 1000 else [9] * 5 + [5]:
        outside, inside = (
            values[rng.integers(len(values), size=(size, len(values)))] for values in (nonmembers, members)
        )
        expected += [roc_auc_score(truth, np.concatenate(pair)) for pair in zip(inside, outside, strict=True)]
    _, *found = auc_interval(members, nonmembers, seed=3, bootstrap=50)
    np.testing.assert_allclose(found, np.percentile(expected, [2.5, 97.5]), atol=1e-9)


def test_two_sided_scores_see_over_forgetting_on_both_sides():
    rng = np.random.default_rng(0)
    members = np.concatenate([rng.normal(-4, 1, 100), rng.normal(4, 1, 100)])
    found = membership_figures(members, rng.normal(0, 1, 200), bootstrap=10)
    assert found["auc"] == pytest.approx(0.5, abs=0.06)
    assert found["two_sided_auc"] > 0.95


def test_privleak_is_zero_for_the_retrained_and_signed():
    assert privleak(0.6, 0.6) == 0
    assert privleak(0.8, 0.6) == pytest.approx(-50)
    assert privleak(0.4, 0.6) == pytest.approx(50)
    assert privleak(1.0, 1.0) is None


@pytest.mark.parametrize("wrong", [([1.0], [0.0, 1.0]), ([1.0, np.nan], [0.0, 1.0])])
def test_what_is_no_score_is_refused(wrong):
    with pytest.raises(ValueError, match=r"2 members|not a number"):
        membership_figures(*map(np.array, wrong))
