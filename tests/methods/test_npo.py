"""NPO against plain torch on raw logits, its value at A_D, its limit, and what is kept of A_D."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import by_hand, contract
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.gradient_ascent import GradientAscent
from kga.methods.npo import NPO
from kga.objective import backpropagate


@pytest.fixture(params=by_hand.WORLDS)
def world(request):
    return by_hand.world(request.param)


def loss_by_hand(world, beta, gamma, alpha):
    """-(2 / beta) log sigmoid(-beta (s - s_ref)), as the softplus that it is."""

    def loss(model, update):
        batch = by_hand.batch_of(update, "forget")
        gain = by_hand.likelihood(model, batch) - by_hand.frozen_likelihood(world, batch)
        assert gain.abs().max() > 0.01
        forget = (2 / beta) * F.softplus(beta * gain).mean()
        return gamma * forget + alpha * by_hand.mean_loss(model, update, "retain")

    return loss


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_loss_and_gradient_are_those_by_hand(world, beta):
    build = lambda: NPO(beta=beta, gamma=0.6, alpha=1.5, retain_batches=2)  # noqa: E731
    by_hand.agrees(build, world, loss_by_hand(world, beta, 0.6, 1.5))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_at_the_original_the_forget_term_is_two_ln_two_by_beta(world, beta):
    method = contract.attached(lambda: NPO(beta=beta), world)
    student = world.student()
    update = contract.ready(method, student)
    means, _ = backpropagate(method, student, update, lambda loss: None)
    assert means["forget"] == pytest.approx(2 / beta * math.log(2), rel=1e-4)


def test_with_a_small_beta_it_is_gradient_ascent_on_whole_targets(world):
    """d/ds of (2 / beta) softplus(beta (s - s_ref)) is 2 sigmoid(0) = 1; ascent's mean is over positions, not examples."""
    method, student, update = by_hand.prepared(lambda: NPO(beta=1e-4, alpha=0.0), world)
    backpropagate(method, student, update, torch.Tensor.backward)
    ascending = world.moved_student().eval()
    backpropagate(GradientAscent(), ascending, copy.deepcopy(update), torch.Tensor.backward)
    batch = by_hand.batch_of(update, "forget")
    positions = student.count(batch, "position") / student.count(batch, "example")
    by_hand.same_gradient(student, ascending.model, positions)


def test_an_example_that_is_forgotten_is_left_alone():
    """With a large beta an example that A* already holds less probable than A_D has next to no weight."""
    world = by_hand.world("classification")
    method, student, update = by_hand.prepared(lambda: NPO(beta=200.0, alpha=0.0), world)
    batch = by_hand.batch_of(update, "forget")
    gain = method.gain(student, batch, "forget").detach()
    assert (gain > 0.03).any() and (gain < -0.03).any()
    margin = gain.clone().requires_grad_()
    method.margin = lambda module, step: -margin
    method.forget(student, update[0]).backward()
    assert (margin.grad[gain > 0.03] > 1.9).all() and (margin.grad[gain < -0.03] < 0.1).all()


def test_cached_and_live_agree(world):
    by_hand.cached_equals_live(lambda cached: NPO(cache=cached), world)


def test_with_a_kl_retain_term_cached_and_live_agree(world):
    """So many batches of D_r that its predictions are worth keeping, too."""
    by_hand.cached_equals_live(lambda cached: NPO(retain_loss="kl", retain_batches=8, cache=cached), world)


def test_one_number_per_example_is_kept(world):
    method, _, _ = by_hand.prepared(NPO, world)
    assert method.frozen["original"].bytes() == 0
    assert all(values.shape == (16,) for _, values in method.reference._kept.values())


def test_the_reference_does_not_follow_the_student(tmp_path):
    """After a fit the numbers are still those of A_D."""
    world = by_hand.world("classification")
    outcome = contract.run(NPO, world, tmp_path, lr=1e-2)
    batch = world.sets["forget"].batch(np.arange(16))
    kept = outcome.method.reference(None, batch, "forget")
    torch.testing.assert_close(kept, by_hand.frozen_likelihood(world, batch), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert (by_hand.likelihood(outcome.student.model.eval(), batch) - kept).abs().max() > 0.01


def test_beta_is_above_zero():
    with pytest.raises(UserError, match=r"method\.beta=0 must be above 0"):
        NPO(beta=0)
