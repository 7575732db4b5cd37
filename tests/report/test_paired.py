"""The test of the best method against the next."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from kga.report.paired import comparisons, explained, p_value


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Share of all flips of signs whose mean difference is as far from 0."""
    observed = abs(np.mean(a - b))
    flips = [abs(np.mean(np.array(signs) * (a - b))) for signs in product((1, -1), repeat=len(a))]
    return float(np.mean(np.array(flips) >= observed - 1e-12))


def scores(rows: dict[tuple[str, str], list[float]], request: str = "") -> pd.DataFrame:
    """Tug of war of (method, setting) by seed 0, 1, ..."""
    return pd.DataFrame(
        [
            {"role": "unlearned", "quantity": "score", "metric": "tow", "request": request, "method": method,
             "setting": setting, "seed": seed, "value": value}
            for (method, setting), values in rows.items()
            for seed, value in enumerate(values)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("seeds", [2, 3, 5, 9])
def test_p_is_that_of_all_flips(seeds):
    rng = np.random.default_rng(seeds)
    a, b = rng.normal(0.3, 1, seeds), rng.normal(0, 1, seeds)
    assert p_value(a, b) == pytest.approx(by_hand(a, b))


def test_p_of_a_clear_case_is_the_least_that_is_possible():
    a = np.array([0.9, 0.8, 0.7, 0.95, 0.85, 0.75])
    assert p_value(a, a - np.array([0.1, 0.2, 0.15, 0.12, 0.18, 0.11])) == pytest.approx(2 / 2**6)


def test_differences_that_cancel_out_are_no_evidence_whatever_rounding_does():
    assert p_value(np.array([0.1, 0.2, -0.3]), np.zeros(3)) == 1.0


def test_many_pairs_are_drawn_the_same_every_time():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=20), rng.normal(size=20)
    assert p_value(a, b) == p_value(a, b)


def test_the_best_setting_stands_for_its_method():
    rows = {
        ("kga", "alpha=1"): [0.9, 0.92],
        ("kga", "alpha=3"): [0.8, 0.95],
        ("npo", ""): [0.7, 0.8],
        ("none", ""): [1, 1],
    }
    (found,) = comparisons(scores(rows))
    assert (found.best, found.other, found.pairs, found.p) == ("kga (alpha=1)", "npo", 2, 0.5)
    assert found.difference == pytest.approx(0.16)
    assert "p = 0.5 (kga is the best of 2 settings, chosen by the numbers that are tested)." in found.sentence
    assert "With 2 seeds p cannot fall below 0.5" in explained([found])


def test_settings_of_the_only_method_are_compared():
    (found,) = comparisons(scores({("kga", "alpha=1"): [0.8], ("kga", "alpha=3"): [0.9]}))
    assert (found.best, found.other, found.p) == ("kga (alpha=3)", "kga (alpha=1)", None)
    assert "with 1 seed in common there is nothing to test" in found.sentence and explained([found]) == ""


def test_the_two_and_their_order_are_those_of_common_seeds():
    """Over its own four seeds kga has the larger mean; over the two that both have npo is ahead."""
    (found,) = comparisons(scores({("kga", ""): [0.80, 0.82, 0.99, 0.99], ("npo", ""): [0.82, 0.84]}))
    assert (found.best, found.other, found.pairs) == ("npo", "kga", 2) and found.difference == pytest.approx(0.02)
    assert "npo ahead of kga: tug of war +0.020 over 2 common seeds" in found.sentence


def test_a_setting_with_fewer_seeds_does_not_stand_for_its_method():
    rows = {("kga", "alpha=1"): [0.8, 0.8, 0.8], ("kga", "alpha=3"): [0.99], ("npo", ""): [0.7, 0.7, 0.7]}
    (found,) = comparisons(scores(rows))
    assert (found.best, found.other, found.pairs, found.picked) == ("kga (alpha=1)", "npo", 3, ())
    assert found.difference == pytest.approx(0.1)


def test_a_method_with_fewer_seeds_costs_the_others_none():
    rows = {("lucky", ""): [0.99], ("a", ""): [0.8, 0.8, 0.9], ("b", ""): [0.7, 0.7, 0.7]}
    (found,) = comparisons(scores(rows))
    assert (found.best, found.other, found.pairs) == ("a", "b", 3)


def test_equal_methods_are_level_and_not_ahead():
    (found,) = comparisons(scores({("a", ""): [0.8, 0.9], ("b", ""): [0.9, 0.8]}))
    assert found.sentence == "a level with b: tug of war +0.000 over 2 common seeds, p = 1."


def test_methods_without_a_common_seed_are_not_ordered():
    rows = scores({("a", ""): [0.9, 0.9], ("b", ""): [0.5, 0.5]})
    rows.loc[rows["method"] == "b", "seed"] += 10
    (found,) = comparisons(rows)
    assert found.sentence == "a and b have no seed in common: their tugs of war cannot be compared."
    assert explained([found]) == ""


def test_runs_without_a_seed_are_no_pair():
    rows = scores({("a", ""): [0.9, 0.8, 0.7], ("b", ""): [0.5, 0.6, 0.9]}).astype({"seed": "Int64"})
    rows.loc[rows["seed"] == 2, "seed"] = pd.NA
    (found,) = comparisons(rows)
    assert (found.best, found.pairs) == ("a", 2)


def test_only_common_seeds_are_paired():
    (found,) = comparisons(scores({("a", ""): [0.9, 0.9, 0.9], ("b", ""): [0.5, 0.6]}))
    assert found.pairs == 2 and found.difference == pytest.approx(0.35)


def test_what_diverged_competes_with_nobody():
    assert comparisons(scores({("a", ""): [0.9, np.nan], ("b", ""): [0.5, 0.6]})) == []


def test_each_request_has_its_own_and_enough_seeds_need_no_excuse():
    rng = np.random.default_rng(1)
    parts = [
        scores({("a", size): list(rng.uniform(0.8, 0.9, 6)), ("b", size): list(rng.uniform(0.5, 0.6, 6))}, size)
        for size in ("forget.size=100", "forget.size=20")
    ]
    first, second = comparisons(pd.concat(parts))
    assert first.sentence.startswith("forget.size=20: a ahead of b: ") and second.sentence.startswith(
        "forget.size=100: "
    )
    assert first.p == pytest.approx(2 / 64) and "cannot fall" not in explained([first, second])
