"""The tuning rule over trials: by validation utility and unseen examples alone."""

import pandas as pd
import pytest

from kga.report.select import select


def trials(*rows: tuple[str, str, float, float, float, float]) -> pd.DataFrame:
    """Rows of (method, setting, validation of A_D, validation of A*, A* on D_f, A_D on D_n)."""
    names = ("validation_original", "validation_unlearned", "forget_unlearned", "new_original")
    table = [
        {"task": "t", "data": "d", "model": "m", "role": "unlearned", "method": method, "setting": setting,
         "quantity": "selection", "split": "", "metric": name, "mean": value, "std": 0.0, "seeds": 1}
        for method, setting, *values in rows
        for name, value in zip(names, values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(table)


def chosen(*rows) -> list[str]:
    table = select(trials(*rows))
    return list(table[table["chosen"]]["setting"])


def test_the_smallest_gap_among_trials_that_keep_their_utility():
    assert chosen(("a", "keeps", 0.80, 0.79, 0.70, 0.60), ("a", "nearer", 0.80, 0.781, 0.63, 0.60),
                  ("a", "ruined", 0.80, 0.70, 0.60, 0.60)) == ["nearer"]  # fmt: skip


def test_of_equal_gaps_the_smaller_loss():
    assert chosen(("a", "dear", 0.80, 0.79, 0.7, 0.6), ("a", "cheap", 0.80, 0.795, 0.7, 0.6)) == ["cheap"]


def test_a_method_keeps_to_its_own_settings():
    """Settings of one method do not become trials of another."""
    table = select(trials(("a", "x", 0.8, 0.8, 0.7, 0.6), ("b", "y", 0.8, 0.8, 0.9, 0.6)))
    assert list(table[["method", "setting"]].itertuples(index=False, name=None)) == [("a", "x"), ("b", "y")]


def test_the_gap_counts_in_both_directions():
    assert chosen(("a", "over", 0.8, 0.8, 0.45, 0.60), ("a", "under", 0.8, 0.8, 0.70, 0.60)) == ["under"]


def test_where_every_trial_loses_too_much_the_mildest_is_taken():
    assert chosen(("a", "bad", 0.8, 0.6, 0.6, 0.6), ("a", "mild", 0.8, 0.75, 0.9, 0.6)) == ["mild"]


def test_one_choice_per_method():
    assert chosen(("a", "x", 0.8, 0.8, 0.7, 0.6), ("b", "y", 0.8, 0.8, 0.9, 0.6), ("b", "z", 0.8, 0.8, 0.8, 0.6)) == [
        "x",
        "z",
    ]


def test_better_on_validation_than_the_original_is_no_loss():
    table = select(trials(("a", "x", 0.8, 0.9, 0.7, 0.6)))
    assert table["validation_loss"].item() == pytest.approx(-0.1)
    assert table["gap"].item() == pytest.approx(0.1)
