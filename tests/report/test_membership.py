"""What attacks found, in words."""

import pytest
from helpers.fake_runs import fake_audit, fake_result

from kga.report import membership, summary


def attacked(**attacks: dict[str, tuple]) -> dict:
    """A result with these AUCs: attack -> (unlearned, half its interval, retrain, original[, noise floor])."""
    found: dict = {"unlearned": {}, "retrain": {}, "original": {}, "noise_floor": {}}
    for name, (unlearned, half, retrain, original, *floor) in attacks.items():
        found["unlearned"][name] = {"auc": unlearned, "auc_low": unlearned - half, "auc_high": unlearned + half}
        for model, auc in (("retrain", retrain), ("original", original), ("noise_floor", floor[0] if floor else None)):
            if auc is not None:
                found[model][name] = {"auc": auc}
    return fake_result(membership={model: values for model, values in found.items() if values})


def test_the_verdict_ends_with_the_strongest_attack():
    result = fake_result() | fake_audit()
    assert summary.verdict(result)[-1] == (
        "The strongest of 10 attacks (lira_online) tells the forgotten examples from unseen ones with AUC 0.71 "
        "(retrained model 0.52, another one 0.54, original 0.95)."
    )
    assert summary.verdict(result)[:-1] == summary.before_attacks(result) == summary.verdict(fake_result())


def test_below_the_retrained_model_is_a_leak_too():
    first, second = membership.sentences(attacked(loss=(0.55, 0.05, 0.52, 0.83), zlib=(0.31, 0.05, 0.52, 0.8)))
    assert "strongest of 2 attacks (zlib)" in first and "below the retrained model's" in second


def test_differences_that_chance_explains_are_told_as_such():
    result = attacked(loss=(0.55, 0.05, 0.52, 0.83), zlib=(0.51, 0.05, 0.52, 0.8))
    assert membership.sentences(result) == [
        "No attack of 2 tells the unlearned model from the retrained one: the largest difference (loss, AUC 0.55 against "
        "0.52) lies within its 95 % interval (0.50 to 0.60)."
    ]
    assert membership.line(result) == (
        "Attacks: none of 2 tells it from the retrained model (loss: AUC 0.55, retrained 0.52)"
    )


def test_a_small_difference_outside_its_interval_outweighs_a_large_one_inside():
    found = membership.findings(attacked(loss=(0.62, 0.12, 0.52, 0.83), zlib=(0.58, 0.02, 0.52, 0.8)))
    assert membership.strongest(found).attack == "zlib"
    assert [finding.apart for finding in found] == [False, True]


def test_another_retrained_model_that_differs_as_much_is_told():
    said = membership.sentences(attacked(loss=(0.60, 0.05, 0.52, 0.83, 0.43)))
    assert said[-1] == "Another retrained model differs from it by as much." and said[0].startswith(
        "The loss attack tells"
    )
    assert len(membership.sentences(attacked(loss=(0.60, 0.05, 0.52, 0.83, 0.50)))) == 1


def test_without_reference_there_is_no_value_to_reach():
    said = membership.sentences(attacked(loss=(0.60, 0.05, None, 0.83), zlib=(0.30, 0.05, None, 0.8)))
    assert "(zlib)" in said[0] and "AUC 0.30 (original 0.80)" in said[0] and "no value that it should have" in said[1]


@pytest.mark.parametrize(
    "found", [None, {}, {"original": {"loss": {"auc": 0.8}}}, {"unlearned": {"loss": {"auc": None}}}]
)
def test_nothing_attacked_nothing_said(found):
    result = fake_result(membership=found)
    assert membership.sentences(result) == [] and membership.line(result) == ""


def test_results_without_intervals_make_no_claim_about_chance():
    result = fake_result(
        membership={"unlearned": {"population": {"auc": 0.5}}, "retrain": {"population": {"auc": 0.5}}}
    )
    assert membership.findings(result)[0].apart is None
    assert membership.sentences(result) == [
        "The population attack tells the forgotten examples from unseen ones with AUC 0.50 (retrained model 0.50)."
    ]


def test_attacks_that_are_not_known_stand_last():
    assert membership.grouped(dict.fromkeys(("mine", "rmia", "loss"))) == {
        "population": ["loss"],
        "per example": ["rmia"],
        "other": ["mine"],
    }
