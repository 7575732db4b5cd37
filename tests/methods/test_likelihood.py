"""s(x) against plain torch on raw logits; what is kept of a frozen model is what the model says."""

import copy
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import by_hand

import kga.methods.caches
from kga.methods.frozen import Frozen
from kga.methods.likelihood import Reference, log_likelihood


@pytest.fixture(params=by_hand.WORLDS)
def world(request):
    return by_hand.world(request.param)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(kga.methods.caches, "BATCH", 5)


def reference_of(world, *sets: str) -> tuple[Reference, Frozen]:
    frozen, reference = Frozen(copy.deepcopy(world.models["original"])), Reference()
    for name in sets:
        reference.keep(frozen, name, world.sets[name])
    return reference, frozen


def test_s_is_the_log_probability_of_the_whole_target(world):
    student, batch = world.moved_student(), world.sets["forget"].batch(np.arange(16))
    with torch.no_grad():
        found = log_likelihood(student.predict(batch))
        torch.testing.assert_close(found, by_hand.likelihood(student.model, batch), rtol=1e-5, atol=1e-5)
    assert found.shape == (16,) and len(found.unique()) > 3


def test_kept_numbers_are_those_of_the_model(world):
    reference, frozen = reference_of(world, "forget")
    batch = world.sets["forget"].batch(np.array([9, 2, 14, 0]))
    live = Reference()(frozen, batch, "forget")
    frozen.drop_model()
    kept = reference(frozen, batch, "forget")
    torch.testing.assert_close(kept, live, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept, by_hand.frozen_likelihood(world, batch), rtol=1e-5, atol=1e-5)


def test_sets_are_kept_apart():
    """Rows of different tables have the same numbers."""
    world = by_hand.world("translation")
    retain = world.sets["retain"].take(np.arange(16))
    other = replace(retain, table=retain.table.select(retain.rows), rows=np.arange(16))
    apart = replace(world, sets={"forget": world.sets["forget"], "alternative": other})
    reference, frozen = reference_of(apart, "forget", "alternative")
    for name, examples in apart.sets.items():
        batch = examples.batch(np.arange(16))
        assert batch["index"].tolist() == list(range(16))
        expected = by_hand.frozen_likelihood(world, batch)
        torch.testing.assert_close(reference(frozen, batch, name), expected, rtol=1e-5, atol=1e-5)


def test_an_example_that_was_not_kept_is_no_other_ones_number():
    world = by_hand.world("classification")
    reference, frozen = reference_of(world, "forget")
    with pytest.raises(RuntimeError, match="not in the cache"):
        reference(frozen, world.sets["retain"].batch(np.arange(4)), "forget")


def test_a_set_that_was_not_kept_needs_the_model():
    world = by_hand.world("classification")
    reference, frozen = reference_of(world, "forget")
    batch = world.sets["retain"].batch(np.arange(4))
    expected = by_hand.frozen_likelihood(world, batch)
    torch.testing.assert_close(reference(frozen, batch, "retain"), expected)
    frozen.drop_model()
    with pytest.raises(RuntimeError, match="dropped"):
        reference(frozen, batch, "retain")


def test_the_reference_holds_no_model():
    reference, frozen = reference_of(by_hand.world("translation"), "forget")
    model = weakref.ref(frozen.module)
    frozen.drop_model()
    gc.collect()
    assert model() is None and reference is not None
