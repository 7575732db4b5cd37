"""SalUn: the mask by hand and against autograd, weights outside it bit for bit, the mask of a run that went on."""

import numpy as np
import pytest
import torch
from helpers import contract
from helpers.contract import KeyboardCrash, _Crash
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.gradients import trainable
from kga.methods.random_label import RandomLabel
from kga.methods.salun import SalUn, salient
from kga.objective import backpropagate


@pytest.fixture
def world():
    return contract.world("classification")


def test_the_mask_holds_the_largest_of_all_parameters_together():
    gradients = {"a": torch.tensor([[0.1, -5.0], [0.3, 0.0]]), "b": torch.tensor([-0.4, 0.2])}
    assert salient(gradients, 0.5)["a"].tolist() == [[False, True], [True, False]]
    assert salient(gradients, 0.5)["b"].tolist() == [True, False]
    assert salient(gradients, 1 / 6)["b"].tolist() == [False, False]
    assert all(part.all() for part in salient(gradients, 1.0).values())


def test_of_equal_sizes_no_more_than_the_share_is_taken():
    mask = salient({"a": torch.zeros(6), "b": torch.tensor([1.0, 0.0])}, 0.5)
    assert mask["a"].tolist() == [True] * 3 + [False] * 3 and mask["b"].tolist() == [True, False]


@pytest.mark.parametrize("world", ["classification", "translation"], indirect=True)
def test_the_mask_is_that_of_the_gradient_on_the_forget_set(world):
    """From raw logits of all of D_f at once; the sum over batches and its sign make no difference."""
    method, student = contract.attached(lambda: SalUn(density=0.3), world), world.student()
    contract.ready(method, student)
    batch = world.sets["forget"].batch(np.arange(16))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "index")}
    logits = student.model(**inputs).logits
    (-F.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten(), ignore_index=-100)).backward()
    sizes = torch.cat([p.grad.abs().flatten() for p in trainable(student).values()])
    mask = torch.cat([method.mask[name].flatten() for name in trainable(student)])
    assert int(mask.sum()) == round(0.3 * len(sizes))
    smallest, largest = sizes[mask].min(), sizes[~mask].max()
    assert float(smallest) >= float(largest) * (1 - 1e-3)
    assert method.outcome()["trained"] == pytest.approx(0.3, abs=1e-4)


def test_gradients_are_masked_before_they_are_clipped_and_the_loss_is_that_of_random_labels(world):
    plain = contract.attached(lambda: RandomLabel(allow_own=True), world)
    whole, expected = contract.loss_and_gradient(plain, world)
    method, student = contract.attached(lambda: SalUn(density=0.2), world), world.moved_student()
    update = contract.ready(method, student)
    _, loss = backpropagate(method, student, update, torch.Tensor.backward)
    assert loss == pytest.approx(expected, abs=1e-6)
    method.shape_gradients(student)
    for name, parameter in trainable(student).items():
        torch.testing.assert_close(parameter.grad, torch.where(method.mask[name], whole[name], 0.0), msg=name)


def weights(student) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainable(student).items()}


@pytest.mark.parametrize("world", ["classification", "translation"], indirect=True)
def test_weights_outside_the_mask_stay_bit_for_bit(world, tmp_path):
    """Also under a weight decay that would shrink them all."""
    before = weights(world.student())
    outcome = contract.run(lambda: SalUn(density=0.25), world, tmp_path, dropout=0.2, weight_decay=0.5)
    after, mask = weights(outcome.student), outcome.method.mask
    for name, value in after.items():
        assert torch.equal(value[~mask[name]], before[name][~mask[name]]), name
    moved = sum(int((after[name] != before[name]).sum()) for name in after)
    assert moved > 0.5 * sum(int(part.sum()) for part in mask.values())


def test_without_restoring_weight_decay_would_move_them(world, tmp_path, monkeypatch):
    """What the test above would say of a method that masks gradients alone."""
    monkeypatch.setattr(SalUn, "after_update", RandomLabel.after_update)
    before = weights(world.student())
    outcome = contract.run(lambda: SalUn(density=0.25), world, tmp_path, weight_decay=0.5)
    mask = outcome.method.mask
    name = max(mask, key=lambda name: int((~mask[name]).sum()))
    assert not torch.equal(weights(outcome.student)[name][~mask[name]], before[name][~mask[name]])


def test_a_run_that_goes_on_keeps_the_mask_of_the_original(world, tmp_path):
    """The student has moved by then: its own gradients would choose other weights."""
    build = lambda: SalUn(density=0.25)  # noqa: E731
    whole = contract.run(build, world, tmp_path / "whole", lr=0.05)
    with pytest.raises(KeyboardCrash):
        contract.run(build, world, tmp_path / "cut", callbacks=[_Crash()], lr=0.05)
    resumed = contract.run(build, world, tmp_path / "cut", lr=0.05)
    late = contract.attached(build, world)
    contract.ready(late, whole.student)
    assert any(not torch.equal(late.mask[name], part) for name, part in whole.method.mask.items())
    assert all(torch.equal(resumed.method.mask[name], part) for name, part in whole.method.mask.items())
    assert all(torch.equal(weights(resumed.student)[name], value) for name, value in weights(whole.student).items())


def test_labels_are_drawn_over_all_classes_unless_told_otherwise(world):
    own = world.sets["forget"].column("labels")
    drawn = contract.attached(lambda: SalUn(seed=1), world).sets["alternative"].column("labels")
    other = contract.attached(lambda: SalUn(allow_own=False), world).sets["alternative"].column("labels")
    assert (drawn == own).any() and not (other == own).any()


@pytest.mark.parametrize("density", [0, -0.5, 1.01])
def test_a_share_that_is_none_is_refused(density):
    with pytest.raises(UserError, match=r"method\.density"):
        SalUn(density=density)
