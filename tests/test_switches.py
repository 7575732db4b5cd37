"""Each way to be faster or smaller can be turned off, and on and off agree."""

import copy

import pytest
import torch
from helpers import contract

from kga.methods.frozen import Frozen
from kga.methods.kga import KGA
from kga.unlearning import unlearn

WORLDS = ["classification", "translation", "translation-lstm", "response-decoder_only"]


def losses(world, folder, method=None, dropout: float = 0.0, **hardware) -> list[float]:
    """The losses of a short fit."""
    method = method or contract.attached(KGA, world)
    unlearn(method, world.student(dropout), hardware=contract.HARDWARE | hardware, seed=0, work=folder)
    return [row["loss"] for row in method.history]


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("tokens", [30, 100])
def test_micro_batches_by_tokens_change_no_loss(name, tokens, tmp_path):
    world = contract.world(name)
    whole = losses(world, tmp_path / "whole")
    cut = losses(world, tmp_path / "cut", contract.attached(KGA, world, micro_batch_tokens=tokens))
    assert cut == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("name", WORLDS)
def test_sorting_by_length_changes_no_loss_of_the_same_batch(name):
    """The whole set is one batch: sorted or not, its loss is the same."""
    world, found = contract.world(name), []
    for bucket in (1, 50):
        method = contract.attached(lambda: KGA(retain_batches=1), world, batch_size=64, bucket=bucket)
        found.append(contract.loss_and_gradient(method, world)[1])
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("name", WORLDS)
def test_bf16_changes_a_loss_by_its_rounding(name, tmp_path):
    """bfloat16 has 8 bits: a loss of a batch within 5 % (0.02 nats where it is near nought)."""
    world = contract.world(name)
    exact, rounded = losses(world, tmp_path / "a"), losses(world, tmp_path / "b", precision="bf16-mixed")
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05, abs=0.02)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("cache", ["none", "auto"])
def test_frozen_models_in_bfloat16_teach_the_same(name, cache, tmp_path):
    world, found = contract.world(name), []
    for kind in (torch.float32, torch.bfloat16):
        method = contract.attached(lambda: KGA(cache=cache), world)
        method.frozen = {key: Frozen(copy.deepcopy(world.models[key]).to(kind), key) for key in method.frozen_models}
        found.append(losses(world, tmp_path / str(kind), method))
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.05, abs=0.02)


@pytest.mark.slow  # the compiler takes a minute
@pytest.mark.parametrize("name", ["classification", "translation"])
def test_a_compiled_student_learns_the_same_and_is_saved_as_before(name, tmp_path):
    world = contract.world(name)
    assert losses(world, tmp_path / "compiled", compile=True) == pytest.approx(losses(world, tmp_path / "a"), abs=1e-5)
    student, method = world.student(), contract.attached(KGA, world)
    unlearn(method, student, hardware=contract.HARDWARE | {"compile": True}, seed=0, work=tmp_path / "b")
    assert student.model._compiled_call_impl is None
    assert not any("_orig_mod" in key for key in student.model.state_dict())
