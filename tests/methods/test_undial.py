"""UNDIAL against its formula on raw logits."""

import pytest
import torch
from helpers import contract, raw
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.undial import Undial, soft_cross_entropy
from kga.predictions import Predictions


def undial(world, beta, alpha=0.0):
    """Plain torch: F.cross_entropy with the lowered, softened truth of A_D; beside it the cross-entropy on D_r."""

    def loss(student, update):
        forget, retain = raw.forget_and_retain(update)
        with torch.no_grad():
            teacher, truth, _ = raw.logits(world.models["original"], forget)
        lowered = teacher - beta * F.one_hot(truth, teacher.shape[1])
        value = F.cross_entropy(raw.logits(student, forget)[0], lowered.softmax(1))
        if alpha:
            parts = [raw.logits(student, batch)[:2] for batch in retain]
            value = value + alpha * F.cross_entropy(*(torch.cat(side) for side in zip(*parts, strict=True)))
        return value

    return loss


@pytest.mark.parametrize("name", raw.WORLDS)
@pytest.mark.parametrize("cache", ["exact", "none"])
def test_the_loss_is_the_formula(name, cache):
    world = raw.world(name)
    raw.require_agreement(lambda: Undial(beta=3.0, cache=cache), world, undial(world, 3.0))


@pytest.mark.parametrize("name", ["classification", "translation"])
def test_with_a_retain_term(name):
    world = raw.world(name)
    raw.require_agreement(lambda: Undial(beta=3.0, alpha=0.5, retain_batches=2), world, undial(world, 3.0, 0.5))


def test_two_classes_by_hand():
    """p = (.8, .2), truth first, beta = ln 4: the target is even, whatever the shift of the logits."""
    beta = torch.tensor(4.0).log()
    teacher = torch.tensor([[0.8, 0.2]]).log()
    for shift in (0.0, 5.0):
        student = Predictions(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]), torch.tensor([0]), 1)
        value = soft_cross_entropy(teacher + shift - beta * torch.tensor([[1.0, 0.0]]), student)
        assert value.item() == pytest.approx(0.693147, abs=1e-5)


def test_a_class_that_no_model_uses_counts_nothing():
    log_probs = torch.tensor([[0.5, 0.5, 0.0]]).log().requires_grad_()
    value = soft_cross_entropy(log_probs.detach(), Predictions(log_probs, torch.tensor([0]), torch.tensor([0]), 1))
    value.sum().backward()
    assert value.item() == pytest.approx(0.693147, abs=1e-5)
    assert torch.isfinite(log_probs.grad).all()


def test_unlearning_lowers_the_probability_of_the_truth(tmp_path):
    world = raw.world("translation")
    outcome = contract.run(Undial, world, tmp_path, lr=1e-2, updates=20)
    batch = world.sets["forget"].batch(range(16))
    before, after = (task.predict(batch).truth().mean().item() for task in (world.models["original"], outcome.student))
    assert after < before - 0.1


def test_a_negative_beta_is_refused():
    with pytest.raises(UserError, match=r"method.beta=-1"):
        Undial(beta=-1)
