"""SimNPO against plain torch on raw logits: by length, without a reference."""

import pytest
from helpers import by_hand
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.simnpo import SimNPO


@pytest.fixture(params=by_hand.WORLDS)
def world(request):
    return by_hand.world(request.param)


@pytest.mark.parametrize(("beta", "delta"), [(4.5, 0.0), (1.0, 2.0)])
def test_loss_and_gradient_are_those_by_hand(world, beta, delta):
    def loss(model, update):
        values, scored = by_hand.cross_entropies(model, by_hand.batch_of(update, "forget"))
        each = (values * scored).sum(1) / scored.sum(1)
        forget = (2 / beta) * F.softplus(-beta * (each - delta)).mean()
        return 0.125 * forget + by_hand.mean_loss(model, update, "retain")

    by_hand.agrees(lambda: SimNPO(beta=beta, delta=delta, retain_batches=2), world, loss)


def test_it_needs_no_other_model():
    method = SimNPO()
    assert method.frozen_models == () and method.helpers() == {} and method.needed_splits() == ("forget", "retain")


def test_beta_is_above_zero():
    with pytest.raises(UserError, match=r"method\.beta=-1 must be above 0"):
        SimNPO(beta=-1.0)
