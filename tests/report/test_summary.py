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
    named, unnamed = fake_result(task=task), fake_result(task=task, score_metric=None)
    assert summary.main_metric(named) == summary.main_metric(unnamed) == metric


def test_a_named_metric_is_believed():
    """Multi-label accuracies and micro-F1 that agree by chance: only the result can tell which was compared."""
    result = fake_result(score_metric="micro_f1")
    assert summary.main_metric(result) == "micro_f1"
    assert "points of micro F1" in summary.verdict(result)[0]
    assert (
        "points of some recall from"
        in summary.verdict(
            fake_result(score_metric="some_recall")
            | {
                "utility": {
                    model: {split: {"some_recall": 0.5} for split in summary.SPLITS}
                    for model in ("original", "retrain", "unlearned")
                }
            }
        )[0]
    )


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


@pytest.mark.parametrize(("task", "name"), [("translation", "BLEU"), ("response", "BLEU-4")])
def test_generation_has_bleu_on_test_and_perplexity_on_the_forget_set(task, name):
    result = fake_result(task=task)
    rows = {row.role: row for row in summary.main_rows(result)}
    assert rows["unlearned"].bleu == pytest.approx(30.27)
    assert rows["retrain"].perplexity == pytest.approx(2.71828, abs=1e-4)
    assert [row.bleu for row in summary.main_rows(fake_result())] == [None] * 4
    text = " ".join(summary.verdict(result))
    assert "1.3 points of token accuracy from the retrained one" in text
    assert f"token accuracy changed by -1.2 on test and -0.4 on retain, {name} by -1.3 on test." in text
    assert "label" not in text


def test_a_fall_in_bleu_alone_is_told_as_lost_utility():
    result = fake_result(task="translation")
    assert "suffered" not in " ".join(summary.verdict(result))
    result["utility"]["unlearned"]["test"]["bleu"] = 20.0
    assert "BLEU by -11.6 on test: utility suffered." in summary.verdict(result)[1]


def test_generation_without_reference_or_without_generated_texts():
    result = fake_result(task="translation", noise_floor=False, forgetting={}, score={})
    del result["utility"]["retrain"]
    first, second = summary.verdict(result)
    assert first.startswith("The token accuracy went from 98.0 to 73.8 on forget, ")
    assert first.endswith("; BLEU went from 31.6 to 30.3 on test.") and "cannot be said" in second
    for splits in result["utility"].values():
        del splits["test"]["bleu"]
    assert "BLEU" not in " ".join(summary.verdict(result))


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "-"), (1.0, "1.00"), (99.994, "99.99"), (99.996, "100.0"), (999.96, "1000"), (54321.9, "54322"),
     (1.23456e9, "1.23e+09"), (float("nan"), "nan")],
)  # fmt: skip
def test_perplexities_have_decimals_by_their_size(value, written):
    assert summary.perplexity(value) == written
