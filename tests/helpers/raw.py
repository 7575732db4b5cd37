"""Losses worked out a second time, in plain torch on the raw logits of the bare models."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from helpers import contract, tiny
from helpers.contract import World
from torch import Tensor

from kga.methods.base import Method
from kga.objective import Batch, Update
from kga.tasks.base import TaskModule

WORLDS = ("classification", "multi-label", "translation", "translation-lstm", "response-decoder_only")


def world(name: str) -> World:
    """A world of the contract tests, or one of multi-label classification."""
    if name != "multi-label":
        return contract.world(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(contract.WORLDS, name, partial(tiny.classifier, multi_label=True))
        return contract.world(name)


def logits(task: TaskModule, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """[P, C] logits at the scored positions, [P] the truth there, [P] the examples. Multi-label: (0, logit) per label."""
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    raw, truth = task.model(**{name: batch[name] for name in names if name in batch}).logits, batch["labels"]
    if task.name == "classification":
        rows = torch.arange(len(raw)).repeat_interleave(truth[0].numel())
        raw = torch.stack((torch.zeros_like(raw), raw), -1).flatten(0, 1) if truth.ndim == 2 else raw
        return raw, truth.reshape(-1), rows
    if not task.model.config.is_encoder_decoder:
        raw, truth = raw[:, :-1], truth[:, 1:]
    real = truth != -100
    return raw[real], truth[real], real.nonzero()[:, 0]


def require_agreement(
    build: Callable[[], Method], world: World, loss: Callable[[TaskModule, Update], Tensor], **optim
) -> None:
    """A method's loss of an update and its gradient are those of ``loss``, once A* has moved away from A_D."""
    gradients, value = contract.loss_and_gradient(contract.attached(build, world, **optim), world)
    student = world.moved_student()
    expected = loss(student, contract.ready(contract.attached(build, world, **optim), student))
    expected.backward()
    assert value == pytest.approx(float(expected.detach()), rel=1e-4, abs=1e-6)
    for name, parameter in student.named_parameters():
        if parameter.grad is None:
            assert name not in gradients or not gradients[name].any()
            continue
        scale = 1e-5 * max(1.0, float(parameter.grad.abs().max()))
        torch.testing.assert_close(
            gradients[name], parameter.grad, rtol=1e-3, atol=scale, msg=lambda text, name=name: f"{name}: {text}"
        )


def forget_and_retain(update: Update) -> tuple[Batch, list[Batch]]:
    """The batch of D_f and those of D_r."""
    forget, _, retain = contract.sets_of(update)
    return forget, retain
