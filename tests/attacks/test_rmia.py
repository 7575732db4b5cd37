"""RMIA: against loops over single numbers; calibrated; tuned on a shadow model and never on the audited one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.evidence import auc, evidence, relabelled, table
from sklearn.metrics import roc_auc_score

from kga.attacks.evidence import RETAIN, Evidence
from kga.attacks.rmia import Rmia
from kga.errors import UserError


def by_hand(targets, population, shadows, beside, outside, a, gamma=1.0, references=None):
    """Scores by loops. targets, population: losses of the audited model; shadows, beside: [N][...] of the shadows."""

    def ratio(loss, others):
        others = others[:references]
        mean = sum(np.exp(-other) for other in others) / len(others)
        return np.exp(-loss) / (0.5 * ((1 + a) * mean + 1 - a))

    unseen = [ratio(loss, [each[z] for each in beside]) for z, loss in enumerate(population)]
    scores = []
    for t, loss in enumerate(targets):
        own = ratio(loss, [each[t] for each, out in zip(shadows, outside, strict=True) if out[t]])
        scores.append(sum(own / other >= gamma for other in unseen) / len(unseen))
    return scores


def losses(tables):
    return [each["loss"].tolist() for each in tables]


@pytest.mark.parametrize(
    ("gamma", "references", "shadows"), [(1.0, None, 8), (1.3, None, 8), (1.0, 1, 8), (0.7, 2, 6), (1.0, None, 2)]
)
def test_equals_loops(gamma, references, shadows):
    given = evidence(size=12, shadows=shadows, beside=23)
    attack = Rmia(gamma, references)
    targets, population = (losses([part["audited"]])[0] for part in (given.targets, given.population))
    expected = by_hand(
        targets, population, losses(given.shadows), losses(given.shadow_population), ~given.inside, attack.tuned(given),
        gamma, references,
    )  # fmt: skip
    np.testing.assert_allclose(attack.scores(given, "audited")["rmia"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_is_the_best_on_the_first_shadow_model_against_the_unpaired(seed):
    given = evidence(seed, size=25, shadows=6, memory=1.5, beside=30)
    chosen = given.role != RETAIN
    first, rest = losses(given.shadows), losses(given.shadow_population)
    aucs = {}
    for tenth in range(11):
        scores = np.array(by_hand(first[0], rest[0], first[2:], rest[2:], ~given.inside[2:], tenth / 10))
        aucs[tenth / 10] = roc_auc_score(given.inside[0][chosen], scores[chosen])
    assert len(set(aucs.values())) > 3  # there is something to choose
    assert aucs[Rmia().tuned(given)] == pytest.approx(max(aucs.values()))


def test_a_takes_nothing_from_the_audited_model_the_complement_or_what_stays():
    given = evidence(3, size=25, shadows=6, memory=1.5)
    spoilt = table(np.random.default_rng(5).normal(size=len(given.role)))
    changed = [given.shadows[0], spoilt, *given.shadows[2:]]
    staying = given.role == RETAIN
    changed = [each.mask(pd.Series(staying), spoilt) for each in changed]
    assert Rmia().tuned(replace(given, targets={}, population={}, shadows=changed)) == Rmia().tuned(given)


def test_a_stays_as_it_is_with_one_pair_of_shadow_models():
    assert Rmia().tuned(evidence(size=20, shadows=2)) == 0.3


def test_calibrated_on_exchangeable_and_clear_on_separated_examples():
    given = evidence(models={"never": 0.0, "member": 3.0, "pushed": -3.0})
    scores = {model: Rmia().scores(given, model)["rmia"] for model in given.targets}
    found = {model: auc(given, each) for model, each in scores.items()}
    assert abs(found["never"] - 0.5) < 0.075
    assert found["member"] > 0.75 and found["pushed"] < 0.25
    assert auc(given, scores["never"], RETAIN) > 0.75
    # Its threshold means the same for every model: an unseen example beats half of the unseen ones.
    assert abs(scores["never"][given.role != RETAIN].mean() - 0.5) < 0.075


def test_an_example_as_probable_as_an_unseen_one_reaches_it():
    certain = {size: pd.DataFrame({"loss": np.zeros(size)}) for size in (4, 20)}
    given = Evidence(
        np.array(["forget", "nonmember"] * 2), {"m": certain[4]}, {"m": certain[20]},
        inside=np.array([[True, True, False, False], [False, False, True, True]]), shadows=[certain[4]] * 2,
        shadow_population=[certain[20]] * 2,
    )  # fmt: skip
    np.testing.assert_array_equal(Rmia().scores(given, "m")["rmia"], 1.0)
    np.testing.assert_array_equal(Rmia(gamma=1.1).scores(given, "m")["rmia"], 0.0)


def test_works_where_probabilities_underflow():
    rng = np.random.default_rng(0)
    far = [table(rng.normal(-2000, 1, 40)) for _ in range(5)]
    unseen = [table(rng.normal(-2000, 1, 20)) for _ in range(5)]
    inside = np.array([np.arange(40) % 2 == 0, np.arange(40) % 2 == 1] * 2)
    given = Evidence(
        np.repeat(["forget", "nonmember"], 20), {"m": far[0]}, {"m": unseen[0]}, inside=inside, shadows=far[1:],
        shadow_population=unseen[1:],
    )  # fmt: skip
    scores = Rmia().scores(given, "m")["rmia"]
    assert np.isfinite(scores).all() and len(set(scores)) > 5


def test_other_audited_models_and_labels_of_the_audited_examples_do_not_enter():
    given = evidence(size=40, models={"audited": 3.0, "other": 0.0})
    alone = replace(given, targets={"audited": given.targets["audited"]})
    expected = Rmia().scores(given, "audited")["rmia"]
    for changed in (alone, relabelled(given)):
        np.testing.assert_array_equal(Rmia().scores(changed, "audited")["rmia"], expected)


def test_what_it_needs():
    assert Rmia.shadows and Rmia.population == 20 and not Rmia.unlearned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, r"attack\.rmia\.gamma=0 must be a number above 0"),
        ({"gamma": "high"}, r"attack\.rmia\.gamma=high must be a number above 0"),
        ({"references": 0}, r"attack\.rmia\.references=0 must be a number of shadow models, 1 or more"),
        ({"references": 1.5}, r"attack\.rmia\.references=1\.5 must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Rmia(**options)
