"""SatImp against its formula on raw logits."""

import pytest
import torch
from helpers import raw
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.satimp import SatImp


def satimp(student, update):
    """Plain torch, with the published weights: p^5 (1 - p), gamma .1, alpha 1."""
    forget, (retain,) = raw.forget_and_retain(update)
    ce = F.cross_entropy(*raw.logits(student, forget)[:2], reduction="none")
    p = (-ce).exp().detach()
    kept = F.cross_entropy(*raw.logits(student, retain)[:2])
    return -0.1 * (p**5 * (1 - p) * ce).mean() + kept


@pytest.mark.parametrize("name", raw.WORLDS)
def test_the_loss_is_the_formula(name):
    raw.require_agreement(SatImp, raw.world(name), satimp)


def test_the_forget_term_alone():
    """The retain term must not hide a wrong weight."""

    def loss(student, update):
        forget, _ = raw.forget_and_retain(update)
        ce = F.cross_entropy(*raw.logits(student, forget)[:2], reduction="none")
        p = (-ce).exp().detach()
        return -(p**0.5 * (1 - p) ** 2 * ce).mean()

    raw.require_agreement(lambda: SatImp(0.5, 2.0, gamma=1.0, alpha=0.0), raw.world("translation"), loss)


def test_the_weight_of_a_probability():
    truth = torch.tensor([0.5, 0.1]).log()
    assert SatImp(2.0, 1.0).weight(truth).tolist() == pytest.approx([0.125, 0.009])
    certain = torch.tensor([0.0, -1e-10])
    assert SatImp(5.0, 1.0).weight(certain).tolist() == pytest.approx([0.0, 1e-10], rel=1e-3)


def test_negative_exponents_are_refused():
    with pytest.raises(UserError, match="beta1 and beta2"):
        SatImp(beta2=-1)
