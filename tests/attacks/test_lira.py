"""LiRA and U-LiRA: against loops over single numbers; calibrated; what spreads are used when."""

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
from helpers.evidence import auc, evidence, relabelled
from scipy.stats import norm, rankdata

from kga.attacks.evidence import RETAIN
from kga.attacks.lira import Lira, likelihood_ratio
from kga.errors import UserError

FOUR = ("lira_online", "lira_offline", "ulira_online", "ulira_offline")


def by_hand(audited, worlds, inside, pooled):
    """(online, offline) by loops."""
    examples = range(len(audited))
    sides = {}
    for side in (True, False):
        values = [
            [world[t] for world, member in zip(worlds, inside, strict=True) if member[t] == side] for t in examples
        ]
        middle = [statistics.median(of_one) for of_one in values]
        apart = [value - middle[t] for t in examples for value in values[t]]
        spread = [statistics.pstdev(apart)] * len(values) if pooled else [statistics.pstdev(each) for each in values]
        sides[side] = middle, spread

    def log_density(value, mean, std):
        return -((value - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(2 * math.pi) / 2

    (mean_in, std_in), (mean_out, std_out) = sides[True], sides[False]
    online = [
        log_density(audited[t], mean_in[t], std_in[t]) - log_density(audited[t], mean_out[t], std_out[t])
        for t in examples
    ]
    return online, [(audited[t] - mean_out[t]) / std_out[t] for t in examples]


@pytest.mark.parametrize(
    ("variance", "shadows", "pooled"),
    [("global", 8, True), ("example", 8, False), ("auto", 30, True), ("auto", 32, False)],
)
def test_equals_loops(variance, shadows, pooled):
    given = evidence(size=15, shadows=shadows)
    found = Lira(variance).scores(given, "audited")
    for name, tables in {"lira": given.shadows, "ulira": given.unlearned}.items():
        stays = given.role == RETAIN
        for kind in (stays, ~stays) if name == "ulira" else (np.ones_like(stays),):
            audited = given.targets["audited"]["phi"].to_numpy()[kind].tolist()
            worlds = [table["phi"].to_numpy()[kind].tolist() for table in tables]
            online, offline = by_hand(audited, worlds, given.inside[:, kind], pooled)
            np.testing.assert_allclose(found[f"{name}_online"][kind], online, rtol=0, atol=1e-6)
            np.testing.assert_allclose(found[f"{name}_offline"][kind], offline, rtol=0, atol=1e-6)


def test_offline_ranks_as_the_one_sided_probability():
    given = evidence(shadows=16, memory=1.0)
    offline = Lira("global").scores(given, "audited")["lira_offline"]
    probability = 1 - norm.sf(offline)
    assert probability.max() < 1  # or ranks would be lost, and this test with them
    np.testing.assert_array_equal(rankdata(offline), rankdata(probability))


@pytest.mark.parametrize("variance", ["global", "example"])
@pytest.mark.parametrize("variant", FOUR)
def test_calibrated_on_exchangeable_and_clear_on_separated_examples(variant, variance):
    given = evidence(models={"never": 0.0, "member": 3.0, "pushed": -3.0})
    found = {model: auc(given, Lira(variance).scores(given, model)[variant]) for model in given.targets}
    assert abs(found["never"] - 0.5) < 0.075
    # Medians and spreads of four models turn the ratio of some examples round, most where little was left to tell.
    assert found["member"] > (0.8 if variance == "global" else 0.7)
    assert found["pushed"] < (0.3 if variance == "global" else 0.4)


def test_stronger_than_one_threshold_for_all():
    given = evidence()
    assert (
        auc(given, Lira().scores(given, "audited")["lira_online"]) > auc(given, given.targets["audited"]["phi"]) + 0.05
    )


def test_over_forgetting_leaks_where_the_worlds_show_it():
    """Pushed below what was never seen: less a member than any to LiRA, plainly unlearned to U-LiRA."""
    given = evidence(left=-3.0, models={"audited": -3.0})
    found = Lira().scores(given, "audited")
    assert auc(given, found["lira_online"]) < 0.2 and auc(given, found["ulira_online"]) > 0.9
    assert auc(given, found["ulira_offline"]) < 0.2  # one-sided: the report shows its two-sided AUC beside it
    assert auc(given, found["ulira_online"], RETAIN) > 0.9


def test_two_shadow_models_have_no_spread_but_a_ranking():
    given = evidence(shadows=2)
    online, offline = likelihood_ratio(
        given.targets["audited"]["phi"].to_numpy(),
        np.stack([table["phi"] for table in given.shadows]),
        given.inside,
    )
    assert np.isfinite(online).all() and np.isfinite(offline).all()
    assert auc(given, online) > 0.8 and auc(given, offline) > 0.8


def test_an_example_on_which_all_models_agree_does_not_divide_by_zero():
    inside = np.array([[True, True], [False, False], [True, True], [False, False]])
    worlds = np.array([[5.0, 1.0], [2.0, 0.0], [5.0, 3.0], [2.0, 2.0]])
    online, offline = likelihood_ratio(np.array([5.0, 2.0]), worlds, inside, "example")
    # Pooled over both, deviations are 0, 0, 1, -1: a spread of sqrt(1/2), of which a hundredth is the floor.
    floor = 0.01 * math.sqrt(0.5)
    np.testing.assert_allclose(offline, [3 / floor, 1.0])
    np.testing.assert_allclose(online, [(3 / floor) ** 2 / 2, 0.5])


def test_text_goes_by_its_loss_and_labels_by_their_odds():
    labels, text = evidence(size=20), evidence(size=20, text=True)
    for given, named in ((labels, "phi"), (text, "loss")):
        chosen, explicit = (Lira(signal=signal).scores(given, "audited") for signal in (None, named))
        other = Lira(signal={"phi": "loss", "loss": "phi"}[named]).scores(given, "audited")
        np.testing.assert_array_equal(chosen["lira_online"], explicit["lira_online"])
        assert np.abs(chosen["lira_online"] - other["lira_online"]).max() > 0.1
    members = evidence(text=True)
    assert auc(members, Lira().scores(members, "audited")["lira_offline"]) > 0.7


def test_other_audited_models_and_labels_of_the_audited_examples_do_not_enter():
    given = evidence(size=40, models={"audited": 3.0, "other": 0.0})
    alone = replace(given, targets={"audited": given.targets["audited"]})
    expected = Lira().scores(given, "audited")
    for changed in (alone, relabelled(given)):
        for name, values in Lira().scores(changed, "audited").items():
            np.testing.assert_array_equal(values, expected[name])


def test_u_lira_is_made_where_it_is_asked_for_and_can_be():
    assert Lira.shadows and Lira().unlearned and not Lira(unlearned=False).unlearned
    given = evidence(size=20)
    assert tuple(Lira().scores(given, "audited")) == FOUR
    assert tuple(Lira(unlearned=False).scores(given, "audited")) == FOUR[:2]
    assert tuple(Lira().scores(replace(given, unlearned=()), "audited")) == FOUR[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variance": "pooled"}, r"attack\.lira\.variance=pooled is unknown: choose from auto, example, global"),
        ({"signal": "los"}, r"attack\.lira\.signal=los is unknown: did you mean loss\?"),
        ({"unlearned": "no"}, r"attack\.lira\.unlearned=no must be true or false"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Lira(**options)
