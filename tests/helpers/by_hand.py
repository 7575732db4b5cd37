"""Losses a second time: plain torch on what a model itself returns, beside what a method computes."""

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from helpers.contract import World
from torch.nn import functional as F

from kga.methods.base import Method
from kga.objective import Batch, Update, backpropagate

WORLDS = (*contract.WORLDS, "multi_label")


@cache
def world(name: str) -> World:
    """A world of the contract tests, or one whose texts have several labels."""
    if name != "multi_label":
        return contract.world(name)
    task = tiny.classifier(multi_label=True)
    everything = tiny.examples(80, seed=1, task=task)
    sets = {"forget": everything.take(np.arange(16)), "retain": everything.take(np.arange(16, 80))}
    make = lambda seed, dropout=0.0: tiny.classifier(seed, multi_label=True, dropout=dropout)  # noqa: E731
    return World(sets, {"original": task}, make)


def cross_entropies(model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, T] cross-entropy of the truth and [B, T] which positions are scored; T = 1, labels or tokens."""
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    logits, labels = model(**{name: batch[name] for name in names if name in batch}).logits, batch["labels"]
    if logits.ndim == 3:
        if "decoder_input_ids" not in batch:
            logits, labels = logits[:, :-1], labels[:, 1:]
        values = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        return values, labels != -100
    if labels.ndim == 2:
        values = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    else:
        values = F.cross_entropy(logits, labels, reduction="none")[:, None]
    return values, torch.ones_like(values, dtype=torch.bool)


def likelihood(model, batch: Batch) -> torch.Tensor:
    """[B] log-probability of the targets, summed over their positions."""
    values, scored = cross_entropies(model, batch)
    return -(values * scored).sum(1)


def frozen_likelihood(world: World, batch: Batch) -> torch.Tensor:
    """[B] the same of A_D."""
    with torch.no_grad():
        return likelihood(world.models["original"].model.eval(), batch)


def mean_loss(model, update: Update, of: str) -> torch.Tensor:
    """Mean cross-entropy over all positions of the batches of a set in an update."""
    parts = [cross_entropies(model, step[of]) for step in update if of in step]
    return sum((values * scored).sum() for values, scored in parts) / sum(scored.sum() for _, scored in parts)


def batch_of(update: Update, of: str) -> Batch:
    """The one batch of a set in an update."""
    (batch,) = [step[of] for step in update if of in step]
    return batch


def prepared(build: Callable[[], Method], world: World, **optim):
    """An attached method, a student that has moved, and the first update, of whole batches of 16."""
    method = contract.attached(build, world, **({"batch_size": 16} | optim))
    student = world.moved_student()
    return method, student, contract.ready(method, student)


def agrees(build: Callable[[], Method], world: World, loss: Callable) -> None:
    """A method's loss of an update and its gradient are those of ``loss(model, update)``."""
    method, student, update = prepared(build, world)
    model = copy.deepcopy(student.model)
    by_hand = loss(model, update)
    by_hand.backward()
    _, found = backpropagate(method, student, update, torch.Tensor.backward)
    assert found == pytest.approx(by_hand.item(), rel=1e-5)
    same_gradient(student, model)


def same_gradient(student, model, scale: float = 1.0) -> None:
    """The student's gradient is ``scale`` times the model's, up to the rounding of the largest ones."""
    pairs = zip(student.model.named_parameters(), model.parameters(), strict=True)
    trained = [(name, own.grad, scale * by_hand.grad) for (name, own), by_hand in pairs if by_hand.grad is not None]
    largest = max(float(by_hand.abs().max()) for _, _, by_hand in trained)
    assert largest > 0
    for name, own, by_hand in trained:
        torch.testing.assert_close(own, by_hand, rtol=1e-3, atol=1e-5 * largest, msg=f"gradient of {name} differs")


def cached_equals_live(build: Callable[[str], Method], world: World) -> None:
    """With dropout off, loss and gradient are the same whether A_D is run or looked up; looked up, it leaves memory."""
    losses, gradients = {}, {}
    for cached in ("exact", "none"):
        method = contract.attached(lambda: build(cached), world)  # noqa: B023
        gradients[cached], losses[cached] = contract.loss_and_gradient(method, world)
        assert method.frozen["original"].resident == (cached == "none")
    assert losses["exact"] == pytest.approx(losses["none"], rel=1e-5)
    for name, value in gradients["exact"].items():
        torch.testing.assert_close(gradients["none"][name], value, rtol=1e-4, atol=1e-6)
