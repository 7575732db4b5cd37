"""Population attacks: their signs, their values by hand, what a task can't carry."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.evidence import auc, evidence, relabelled

from kga.attacks.evidence import FORGET, RETAIN, Evidence
from kga.attacks.population import Population
from kga.errors import UserError

EVERYWHERE = ["loss", "confidence", "entropy", "modified_entropy"]
TEXT = [*EVERYWHERE, "min_k", "min_k_plus", "zlib", "reference"]
CLASSIFIER = SimpleNamespace(name="classification", text_metrics=list)
WRITER = SimpleNamespace(name="translation", text_metrics=lambda: ["bleu"])


def test_values_by_hand():
    row = {"loss": 0.5, "log_prob": -4.0, "confidence": 0.6, "entropy": 0.3, "modified_entropy": 0.7, "min_k": -2.0,
           "min_k_plus": -1.5}  # fmt: skip
    given = Evidence(
        np.array([FORGET]), {"m": pd.DataFrame([row])}, reference=pd.DataFrame([row | {"loss": 2.0}]),
        compressed=np.array([16]), several=True,
    )  # fmt: skip
    found = {name: values.tolist() for name, values in Population().scores(given, "m").items()}
    assert found == {
        "loss": [-0.5], "confidence": [0.6], "entropy": [-0.3], "modified_entropy": [-0.7], "min_k": [-2.0],
        "min_k_plus": [-1.5], "zlib": [-0.25], "reference": [1.5],
    }  # fmt: skip


def test_text_has_more_attacks_than_labels():
    assert list(Population().scores(evidence(text=True), "audited")) == TEXT
    assert list(Population().scores(evidence(), "audited")) == [*EVERYWHERE, "reference"]
    several_labels = evidence(text=True)
    object.__setattr__(several_labels, "compressed", None)
    assert list(Population().scores(several_labels, "audited")) == [*EVERYWHERE, "reference"]


@pytest.mark.parametrize("name", TEXT)
def test_calibrated_on_exchangeable_and_clear_on_separated_examples(name):
    given = evidence(models={"never": 0.0, "member": 3.0, "pushed": -3.0}, text=True)
    found = {model: auc(given, Population().scores(given, model)[name]) for model in given.targets}
    assert abs(found["never"] - 0.5) < 0.075
    if name != "entropy":  # a wrong answer given with confidence has little entropy, too
        assert found["member"] > 0.7 and found["pushed"] < 0.3
    else:
        assert found["member"] > 0.55


def test_members_that_stay_are_scored_but_by_a_model_that_knows_them():
    given = evidence()
    found = Population().scores(given, "audited")
    assert auc(given, found["loss"], RETAIN) > 0.7
    np.testing.assert_array_equal(np.isnan(found["reference"]), given.role == RETAIN)


def test_labels_of_the_audited_examples_do_not_enter():
    given = evidence(text=True)
    ours, swapped = (Population().scores(each, "audited") for each in (given, relabelled(given)))
    for name, values in ours.items():
        np.testing.assert_array_equal(values, swapped[name])


def test_signals_choose_and_decide_whether_a_reference_is_trained():
    given = evidence(text=True)
    assert list(Population(["zlib", "loss"]).scores(given, "audited")) == ["loss", "zlib"]
    assert Population().reference and Population(["reference"]).reference
    assert not Population(["loss"]).reference and not Population(reference=False).reference
    assert "reference" not in Population(reference=False).scores(given, "audited")
    assert not (Population().shadows or Population().unlearned)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"signals": ["los"]}, "attack.population.signals=los is unknown: did you mean loss?"),
        ({"signals": "loss"}, "attack.population.signals=loss must be a list such as [loss,entropy]"),
        ({"signals": []}, "attack.population.signals=[] must be a list"),
        ({"signals": ["reference"], "reference": False}, "attack.population.reference=false takes away"),
        ({"reference": "maybe"}, "attack.population.reference=maybe must be true or false"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Population(**options)


def test_a_signal_of_text_is_refused_for_labels():
    attack = Population(["loss", "zlib", "min_k"])
    with pytest.raises(UserError, match=r"attack\.population\.signals=min_k,zlib needs a task that writes text"):
        attack.require("population", CLASSIFIER)
    attack.require("population", WRITER)
    Population().require("population", CLASSIFIER)
