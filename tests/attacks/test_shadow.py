"""The shadow-model classifier: against a second implementation; calibrated; trained on shadow models alone."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.evidence import auc, evidence, relabelled
from scipy.optimize import minimize

from kga.attacks.evidence import RETAIN
from kga.attacks.shadow import Shadow
from kga.errors import UserError


def by_hand(tables, inside, audited, chosen):
    """Logistic regression with a unit L2 penalty on the weights and balanced classes, by scipy's minimiser."""
    names = ["top_1", "top_2", "top_3", "loss", "phi", "entropy", "modified_entropy", "correct"]
    rows, labels = [], []
    for table, member in zip(tables, inside, strict=True):
        for place in np.flatnonzero(chosen):
            rows.append([table[name].iloc[place] for name in names])
            labels.append(1 if member[place] else -1)
    rows, labels = np.array(rows), np.array(labels)
    mean, std = rows.mean(0), rows.std(0)
    std[std == 0] = 1
    rows = (rows - mean) / std
    weight = np.where(labels == 1, len(labels) / 2 / (labels == 1).sum(), len(labels) / 2 / (labels == -1).sum())

    def loss(values):
        margin = labels * (rows @ values[:-1] + values[-1])
        slope = -weight * labels / (1 + np.exp(margin))
        return (
            (weight * np.logaddexp(0, -margin)).sum() + values[:-1] @ values[:-1] / 2,
            np.append(rows.T @ slope + values[:-1], slope.sum()),
        )

    best = minimize(loss, np.zeros(len(names) + 1), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    return ((audited[names].to_numpy() - mean) / std) @ best[:-1] + best[-1]


def test_equals_a_second_implementation():
    given = evidence(size=20, shadows=4)
    found = Shadow().scores(given, "audited")
    everyone, forgettable = np.ones(60, bool), given.role != RETAIN
    audited = given.targets["audited"]
    np.testing.assert_allclose(
        found["shadow"], by_hand(given.shadows, given.inside, audited, everyone), rtol=0, atol=1e-4
    )
    after = by_hand(given.unlearned, given.inside, audited, forgettable)
    np.testing.assert_allclose(found["shadow_unlearned"][forgettable], after[forgettable], rtol=0, atol=1e-4)
    assert np.isnan(found["shadow_unlearned"][~forgettable]).all()


@pytest.mark.parametrize("variant", ["shadow", "shadow_unlearned"])
def test_calibrated_on_exchangeable_and_clear_on_separated_examples(variant):
    given = evidence(models={"never": 0.0, "member": 3.0, "pushed": -3.0})
    found = {model: auc(given, Shadow().scores(given, model)[variant]) for model in given.targets}
    assert abs(found["never"] - 0.5) < 0.075
    assert found["member"] > 0.7 and found["pushed"] < 0.3


def test_learns_which_way_unlearning_moves_an_example():
    """A method that pushes what it forgets below what was never seen is found out by what it did to shadow models."""
    given = evidence(left=-3.0, models={"audited": -3.0})
    found = Shadow().scores(given, "audited")
    assert auc(given, found["shadow"]) < 0.3 and auc(given, found["shadow_unlearned"]) > 0.7
    assert auc(given, found["shadow"], RETAIN) > 0.7


def test_other_audited_models_and_labels_of_the_audited_examples_do_not_enter():
    given = evidence(size=40, models={"audited": 3.0, "other": 0.0})
    alone = replace(given, targets={"audited": given.targets["audited"]})
    expected = Shadow().scores(given, "audited")
    for changed in (alone, relabelled(given)):
        for name, values in Shadow().scores(changed, "audited").items():
            np.testing.assert_allclose(values, expected[name])


def test_the_second_variant_is_made_where_it_is_asked_for_and_can_be():
    assert Shadow.shadows and Shadow().unlearned and not Shadow(unlearned=False).unlearned
    given = evidence(size=20, shadows=2)
    assert set(Shadow().scores(given, "audited")) == {"shadow", "shadow_unlearned"}
    assert set(Shadow(unlearned=False).scores(given, "audited")) == {"shadow"}
    assert set(Shadow().scores(replace(given, unlearned=()), "audited")) == {"shadow"}


def test_a_bad_option_is_refused():
    with pytest.raises(UserError, match=r"attack\.shadow\.unlearned=1 must be true or false"):
        Shadow(unlearned=1)
