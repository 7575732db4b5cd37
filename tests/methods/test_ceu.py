"""CE-U against its formula on raw logits: the target, the ignored positions and what the mean is taken over."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import contract, raw
from torch.nn import functional as F

from kga.data.encoded import Examples
from kga.errors import UserError
from kga.methods.ceu import CEU
from kga.objective import backpropagate


def ceu(ignored):
    """Plain torch: cross-entropy to the softmax of the own logits with the truth at -inf; rows walked one by one."""

    def loss(student, update):
        forget, _ = raw.forget_and_retain(update)
        logits, truth, example = raw.logits(student, forget)
        target = logits.detach().masked_fill(F.one_hot(truth, logits.shape[1]).bool(), -torch.inf).softmax(1)
        each = F.cross_entropy(logits, target, reduction="none")
        kept = [each[example == row][ignored:] for row in range(len(forget["input_ids"]))]
        return torch.cat(kept).mean()

    return loss


SEVERAL = [name for name in raw.WORLDS if name != "classification"]  # positions per example


@pytest.mark.parametrize(("name", "ignored"), [*((n, 0) for n in raw.WORLDS), *((n, 1) for n in SEVERAL)])
def test_the_loss_is_the_formula(name, ignored):
    raw.require_agreement(lambda: CEU(ignore_first=ignored), raw.world(name), ceu(ignored))


@pytest.mark.parametrize("name", ["translation", "response-decoder_only"])
def test_examples_shorter_than_what_is_ignored_count_nothing(name):
    world = raw.world(name)
    batch = world.sets["forget"].batch(np.arange(16))
    lengths = (batch["labels"] != -100).sum(1)
    ignored = int(lengths.median())
    assert (lengths < ignored).any() and (lengths > ignored).any()
    raw.require_agreement(lambda: CEU(ignore_first=ignored), world, ceu(ignored), batch_size=16)
    method = CEU(ignore_first=ignored)
    assert method.counts(world.models["original"], {"forget": batch}) == {"forget": int((lengths - ignored).clamp(min=0).sum())}  # fmt: skip


@pytest.mark.parametrize("name", ["translation", "response-decoder_only"])
@pytest.mark.parametrize("ignored", [1, 6])
def test_micro_batches_and_padding_change_nothing(name, ignored):
    build = lambda: CEU(ignore_first=ignored)  # noqa: E731
    contract.splits_evenly(build, raw.world(name))
    contract.ignores_padding(build, raw.world(name))


def test_where_nothing_is_left_nothing_moves():
    world = raw.world("classification")
    method = contract.attached(lambda: CEU(ignore_first=1), world)
    gradients, loss = contract.loss_and_gradient(method, world)
    assert loss == 0.0
    assert not any(gradient.any() for gradient in gradients.values())


def test_the_retain_term_counts_all_its_positions():
    world = raw.world("translation")
    method = contract.attached(lambda: CEU(ignore_first=1, alpha=1.0), world)
    student = world.moved_student()
    update = contract.ready(method, student)
    means, _ = backpropagate(method, student, update, lambda loss: None)
    _, (retain,) = raw.forget_and_retain(update)
    with torch.no_grad():
        expected = F.cross_entropy(*raw.logits(student, retain)[:2])
    assert means["retain"] == pytest.approx(float(expected), rel=1e-4)


def test_three_classes_by_hand():
    """p = (.6, .3, .1), truth first: q = (0, .75, .25)."""
    world = raw.world("classification")
    one = replace(world, sets=world.sets | {"forget": _with_label(world.sets["forget"].take(np.array([0])), 0)})
    student = world.student()
    with torch.no_grad():
        student.model.classifier.weight.zero_()
        student.model.classifier.bias.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    method = contract.attached(CEU, one)
    update = contract.ready(method, student)
    _, loss = backpropagate(method, student, update, torch.Tensor.backward)
    assert loss == pytest.approx(-(0.75 * np.log(0.3) + 0.25 * np.log(0.1)), rel=1e-5)
    # d CE / d logits = p - q
    assert student.model.classifier.bias.grad.tolist() == pytest.approx([0.6, -0.45, -0.15], abs=1e-5)


def _with_label(examples: Examples, label: int) -> Examples:
    table = examples.table.remove_columns("labels").add_column("labels", [label] * len(examples.table))
    return replace(examples, table=table)


def test_a_negative_number_of_positions_is_refused():
    with pytest.raises(UserError, match=r"method.ignore_first=-1"):
        CEU(ignore_first=-1)
