"""WGA against its formula on raw logits."""

import pytest
import torch
from helpers import raw
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.gradient_difference import GradientDifference
from kga.methods.wga import WGA


def weighted(weigh, gamma, alpha):
    """Plain torch: -gamma * mean of weigh(p) CE on D_f + alpha * mean CE on D_r; the weights take no gradient."""

    def loss(student, update):
        forget, retain = raw.forget_and_retain(update)
        ce = F.cross_entropy(*raw.logits(student, forget)[:2], reduction="none")
        value = -gamma * (weigh((-ce).exp().detach()) * ce).mean()
        if alpha:
            parts = [raw.logits(student, batch)[:2] for batch in retain]
            value = value + alpha * F.cross_entropy(*(torch.cat(side) for side in zip(*parts, strict=True)))
        return value

    return loss


@pytest.mark.parametrize("name", raw.WORLDS)
def test_the_loss_is_the_formula(name):
    build = lambda: WGA(beta=1.5, alpha=0.5, gamma=2.0, retain_batches=2)  # noqa: E731
    raw.require_agreement(build, raw.world(name), weighted(lambda p: p**1.5, 2.0, 0.5))


def test_with_beta_0_it_is_gradient_difference():
    world = raw.world("translation")
    plain = weighted(torch.ones_like, 1.0, 1.0)
    for method in (WGA(beta=0.0), GradientDifference(alpha=1.0)):
        raw.require_agreement(lambda: method, world, plain)  # noqa: B023


def test_the_weight_of_a_probability():
    assert WGA(beta=2.0).weight(torch.tensor([0.5, 1.0, 0.1]).log()).tolist() == pytest.approx([0.25, 1.0, 0.01])


def test_without_a_retain_term_d_r_is_not_drawn():
    method = WGA(alpha=0.0)
    assert method.splits == ("forget",)
    raw.require_agreement(lambda: method, raw.world("classification"), weighted(lambda p: p, 1.0, 0.0))


def test_a_negative_beta_is_refused():
    with pytest.raises(UserError, match=r"method.beta=-1"):
        WGA(beta=-1)
