"""PDU against its formula on raw logits; its bound and its dual variable by hand."""

import numpy as np
import pytest
import torch
from helpers import contract, raw
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.pdu import PDU
from kga.predictions import Predictions


def pdu(gamma, dual, epsilon):
    """Plain torch on the raw logits, whose shift the forget term does not see."""

    def loss(student, update):
        forget, retain = raw.forget_and_retain(update)
        logits, _, _ = raw.logits(student, forget)
        peak = ((logits.max(1).values - logits.mean(1)) ** 2).mean()
        parts = [raw.logits(student, batch)[:2] for batch in retain]
        kept = F.cross_entropy(*(torch.cat(side) for side in zip(*parts, strict=True)))
        return gamma * peak + dual * (kept - epsilon)

    return loss


@pytest.mark.parametrize("name", raw.WORLDS)
def test_the_loss_is_the_formula(name):
    build = lambda: PDU(gamma=0.5, dual=2.0, epsilon=0.25, retain_batches=2)  # noqa: E731
    raw.require_agreement(build, raw.world(name), pdu(0.5, 2.0, 0.25))


def test_at_dual_0_the_retain_term_weighs_nothing():
    raw.require_agreement(lambda: PDU(dual=0.0, epsilon=0.25), raw.world("classification"), pdu(1.0, 0.0, 0.25))


def test_a_masked_class_is_no_part_of_the_mean():
    from kga.methods.pdu import _peak

    log_probs = torch.tensor([[0.5, 0.25, 0.25, 0.0]]).log().requires_grad_()
    value = _peak(Predictions(log_probs, torch.tensor([0]), torch.tensor([0]), 1))
    value.sum().backward()
    assert value.item() == pytest.approx(
        (2 / 3 * np.log(2)) ** 2, rel=1e-5
    )  # max - mean = ln .5 - (ln .5 + 2 ln .25) / 3
    assert torch.isfinite(log_probs.grad).all()


# The dual variable ------------------------------------------------------------------------------------------------


def test_three_updates_by_hand(monkeypatch):
    """dual 1, rate .5, bound 1: losses 3, .2 and 1.4 after one update of warm-up; then it can't fall below 0."""
    method = PDU(dual=1.0, dual_rate=0.5, epsilon=1.0, warmup_updates=1)
    monkeypatch.setattr(method, "record", lambda module, row: method.history.append(row))
    found = []
    for retain in (9.0, 3.0, 0.2, 1.4, -9.0):
        method.after_update(None, {"forget": 0.0, "retain": retain}, 0.0)
        found.append(method.dual)
    assert found == pytest.approx([1.0, 2.0, 1.6, 1.8, 0.0])
    assert [row["dual"] for row in method.history] == pytest.approx([1.0, 1.0, 2.0, 1.6, 1.8])


def test_each_update_uses_the_dual_that_the_one_before_left(tmp_path):
    """A whole fit: losses and dual follow each other by the two formulas."""
    build = lambda: PDU(gamma=0.5, dual=0.3, dual_rate=2.0, warmup_updates=0)  # noqa: E731
    method = contract.run(build, raw.world("classification"), tmp_path).method
    dual = 0.3
    for row in method.history:
        assert row["dual"] == pytest.approx(dual, rel=1e-6)
        assert row["loss"] == pytest.approx(0.5 * row["forget"] + dual * (row["retain"] - method.epsilon), rel=1e-4)
        dual = max(0.0, dual + 2.0 * (row["retain"] - method.epsilon))
    assert method.outcome() == {"updates": 4, "stopped": None, "dual": pytest.approx(dual), "epsilon": method.epsilon}


def test_the_dual_and_the_bound_survive_an_interruption(tmp_path):
    """Without warm-up, so that both have moved or been measured before the run is cut."""
    build = lambda: PDU(dual=0.3, warmup_updates=0)  # noqa: E731
    world = raw.world("translation")
    whole = contract.run(build, world, tmp_path / "whole", dropout=0.2)
    assert len({row["dual"] for row in whole.method.history}) > 1
    contract.resumes(build, world, tmp_path, whole)


# The bound ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["classification", "response-decoder_only"])
def test_the_bound_is_the_mean_loss_of_the_start_and_slack(name):
    world = raw.world(name)
    method = contract.attached(lambda: PDU(slack=0.25), world)
    student = world.student(dropout=0.5).train()
    with torch.no_grad():
        method.prepare(student, 4)
        expected = F.cross_entropy(*raw.logits(world.models["original"], world.sets["retain"].batch(np.arange(64)))[:2])
    assert student.model.training
    assert method.epsilon == pytest.approx(1.25 * float(expected), rel=1e-4)


def test_a_large_retain_set_is_sampled_evenly(monkeypatch):
    world = raw.world("classification")
    monkeypatch.setattr("kga.methods.pdu.SAMPLE", 8)
    method = contract.attached(lambda: PDU(slack=0.0), world)
    with torch.no_grad():
        method.prepare(world.student(), 4)
        sample = world.sets["retain"].batch(np.array([0, 9, 18, 27, 36, 45, 54, 63]))
        expected = F.cross_entropy(*raw.logits(world.models["original"], sample)[:2])
    assert method.epsilon == pytest.approx(float(expected), rel=1e-4)


def test_a_given_bound_is_kept():
    method = contract.attached(lambda: PDU(epsilon=0.7), raw.world("classification"))
    method.prepare(raw.world("classification").student(), 4)
    assert method.epsilon == 0.7


@pytest.mark.parametrize("option", ["dual", "dual_rate", "warmup_updates", "epsilon", "slack"])
def test_negative_options_are_refused(option):
    with pytest.raises(UserError, match=option):
        PDU(**{option: -1})
