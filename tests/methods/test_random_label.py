"""Random labels: the loss by hand, which targets are trained on, and that D_f's own never are."""

import numpy as np
import pytest
from helpers import by_hand, contract

from kga.methods.random_label import RandomLabel


@pytest.fixture(params=by_hand.WORLDS)
def world(request):
    return by_hand.world(request.param)


def build():
    return RandomLabel(alpha=0.7, gamma=0.3, retain_batches=2)


def targets(examples) -> list:
    return [np.asarray(target).tolist() for target in examples.column("labels")]


def test_loss_and_gradient_are_those_by_hand(world):
    def loss(model, update):
        return 0.3 * by_hand.mean_loss(model, update, "alternative") + 0.7 * by_hand.mean_loss(model, update, "retain")

    by_hand.agrees(build, world, loss)


def test_an_update_holds_the_inputs_of_the_forget_set_with_other_targets(world):
    method, _, update = by_hand.prepared(build, world)
    assert [tuple(step) for step in update] == [("alternative",), ("retain",), ("retain",)]
    forget, other = world.sets["forget"], method.sets["alternative"]
    assert sorted(by_hand.batch_of(update, "alternative")["index"].tolist()) == list(range(16))
    assert [list(row) for row in other.column("input_ids")] == [list(row) for row in forget.column("input_ids")]
    assert all(drawn != own for drawn, own in zip(targets(other), targets(forget), strict=True))


def test_targets_of_texts_are_those_of_the_retain_set():
    world = by_hand.world("translation")
    known = targets(world.sets["retain"])
    assert all(target in known for target in targets(contract.attached(build, world).sets["alternative"]))


def test_the_seed_and_allow_own_decide_the_targets():
    world = by_hand.world("classification")
    drawn = {
        (seed, own): targets(contract.attached(lambda: RandomLabel(seed=seed, allow_own=own), world).sets["alternative"])  # noqa: B023
        for seed in range(5) for own in (False, True)
    }  # fmt: skip
    assert len({str(labels) for labels in drawn.values()}) == 10
    equal = {key: any(map(int.__eq__, labels, targets(world.sets["forget"]))) for key, labels in drawn.items()}
    assert not any(equal[seed, False] for seed in range(5)) and any(equal[seed, True] for seed in range(5))


def test_without_a_retain_term_the_retain_set_only_gives_targets(world):
    method, student, update = by_hand.prepared(lambda: RandomLabel(alpha=0.0), world)
    assert [tuple(step) for step in update] == [("alternative",)]
    assert method.needed_splits() == ("forget", "retain")
    _, loss = contract.backpropagate(method, student, update, lambda loss: None)
    assert loss == pytest.approx(by_hand.mean_loss(student.model, update, "alternative").item(), rel=1e-5)
