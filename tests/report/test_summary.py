"""The main rows of a result and the sentences under them."""

import pytest
from helpers.fake_runs import fake_result

from kga.report import summary


def with_accuracy(**shares: tuple[float, float, float]) -> dict:
    """A result whose models have these accuracies on test, forget and retain."""
    result = fake_result(noise_floor="noise_floor" in shares)
    for model, values in shares.items():
        for split, value in zip(summary.SPLITS, values, strict=True):
            result["utility"][model][split] |= {"accuracy": value, "micro_f1": value}
    return result


@pytest.mark.parametrize(
    ("task", "metric"), [("classification", "accuracy"), ("multilabel", "micro_f1"), ("translation", "token_accuracy")]
)
def test_the_main_metric_follows_the_task(task, metric):
    assert summary.main_metric(fake_result(task=task)) == metric


def test_rows_hold_percent_and_points_to_the_retrained_model():
    rows = {row.role: row for row in summary.main_rows(fake_result())}
    assert list(rows) == ["noise_floor", "retrain", "original", "unlearned"]
    assert rows["original"].utility["forget"] == pytest.approx(98.0)
    assert rows["original"].gaps["forget"] == pytest.approx(25.5)
    assert rows["retrain"].gaps == {"test": None, "forget": None, "retain": None}
    assert (rows["retrain"].jsd, rows["retrain"].tow) == (0.0, 1.0)
    assert rows["unlearned"].seconds == pytest.approx(9.5 + 0.7 + 4.2)
    assert rows["noise_floor"].seconds is None


@pytest.mark.parametrize(
    ("shares", "said", "unsaid"),
    [
        ({}, "1.3 points of accuracy", "nothing was forgotten"),
        ({"unlearned": (0.753, 0.980, 0.994)}, "nothing was forgotten", "utility suffered"),
        ({"unlearned": (0.40, 0.35, 0.60)}, "It went far too low", "no closer than the original: nothing"),
        ({"unlearned": (0.74, 0.60, 0.99)}, "fell below the retrained one", "utility suffered"),
        ({"unlearned": (0.65, 0.725, 0.90)}, "utility suffered", "fell below"),
        ({"original": (0.753, 0.740, 0.994)}, "says little about forgetting", "nothing was forgotten"),
    ],
)
def test_the_verdict_is_honest(shares, said, unsaid):
    text = " ".join(summary.verdict(with_accuracy(**shares)))
    assert said in text and unsaid not in text


def test_distances_that_did_not_shrink_are_told_though_accuracy_did():
    result = fake_result()
    result["forgetting"]["unlearned"]["forget"]["jsd"] = 0.2
    assert "came no closer to the retrained model's (JSD 0.200, before 0.160)" in summary.verdict(result)[-1]
    assert "no closer" not in " ".join(summary.verdict(fake_result()))


def test_a_wide_noise_floor_widens_what_counts_as_equal():
    result = with_accuracy(noise_floor=(0.74, 0.425, 0.99), unlearned=(0.74, 0.60, 0.99))
    text = " ".join(summary.verdict(result))
    assert "another retrained model: 30.0" in text and "says little about forgetting" in text


def test_without_reference_nothing_is_claimed():
    result = fake_result(noise_floor=False, forgetting={}, score={})
    del result["utility"]["retrain"]
    first, second = summary.verdict(result)
    assert "from 98.0 to 73.8 on forget" in first and "cannot be said" in second
    assert all(row.jsd is None and row.tow is None for row in summary.main_rows(result))


def test_a_missing_metric_and_a_failed_run_are_said():
    result = fake_result()
    del result["utility"]["unlearned"]["forget"]
    assert "nothing can be said about forgetting" in summary.verdict(result)[0]
    assert summary.verdict({"status": "failed", "error": "boom"}) == ["The run failed: boom"]


@pytest.mark.parametrize(
    ("forget", "tone"),
    [(0.725, "good"), (0.80, "good"), (0.90, "fair"), (0.98, "bad"), (0.30, "bad"), (float("nan"), "")],
)
def test_the_tone_of_the_forget_set_is_measured_by_the_original(forget, tone):
    rows = summary.main_rows(with_accuracy(unlearned=(0.74, forget, 0.99)))
    assert summary.tone(rows[-1], rows, "forget") == tone
    assert summary.tone(rows[0], rows, "forget") == ""


def test_signed_writes_no_negative_zero():
    assert [summary.signed(value) for value in (-0.01, 0.0, 1.26, -3.0, None)] == ["0.0", "0.0", "+1.3", "-3.0", "-"]
