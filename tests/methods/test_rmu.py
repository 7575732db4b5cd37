"""RMU against its formula, on the hidden states that transformers itself gives out."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import contract, raw, tiny
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.rmu import RMU, module_at

# The tiny models have one block: hidden_states[1]. GPT-2 is not here, as it normalises after its last one.
WORLDS = {"classification": "hidden_states", "translation": "decoder_hidden_states"}


def states(task, batch, kind):
    """Per example [tokens, H] after the first block, from ``output_hidden_states``, padding dropped by hand."""
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    inputs = {name: batch[name] for name in names if name in batch}
    given = task.model(**inputs, output_hidden_states=True)[kind][1]
    real = batch["attention_mask"] == 1 if task.name == "classification" else batch["labels"] != -100
    return [row[mask] for row, mask in zip(given, real, strict=True)]


def target(width, length):
    u = torch.rand(width, generator=torch.Generator().manual_seed(0))
    return length * u / u.square().sum().sqrt()


def rmu(world, kind, length=None, gamma=1.0, alpha=1.0):
    """Plain torch: per example F.mse_loss, averaged over the examples. length None: twice A_D's mean length on D_f."""

    def loss(student, update):
        forget, retain = raw.forget_and_retain(update)
        original = world.models["original"]
        with torch.no_grad():
            everything = world.sets["forget"].batch(np.arange(16))
            lengths = torch.cat([row.norm(dim=1) for row in states(original, everything, kind)])
            goals = [row for batch in retain for row in states(original, batch, kind)]
        goal = target(16, 2 * lengths.mean() if length is None else length)
        kept = [row for batch in retain for row in states(student, batch, kind)]
        misled = [F.mse_loss(row, goal.expand_as(row)) for row in states(student, forget, kind)]
        held = [F.mse_loss(row, goal) for row, goal in zip(kept, goals, strict=True)]
        return gamma * torch.stack(misled).mean() + alpha * torch.stack(held).mean()

    return loss


@pytest.mark.parametrize("name", WORLDS)
def test_the_loss_is_the_formula(name):
    world = raw.world(name)
    raw.require_agreement(RMU, world, rmu(world, WORLDS[name]))


@pytest.mark.parametrize("name", WORLDS)
def test_weights_several_retain_batches_and_a_target_of_given_length(name):
    world = raw.world(name)
    build = lambda: RMU(coefficient=3.0, relative=False, gamma=0.5, alpha=2.0, retain_batches=2)  # noqa: E731
    raw.require_agreement(build, world, rmu(world, WORLDS[name], 3.0, 0.5, 2.0))


def test_multi_label():
    world = raw.world("multi-label")
    raw.require_agreement(RMU, world, rmu(world, "hidden_states"))


def test_the_published_division_would_differ():
    """Means per example, not the mean of all sums times the mean of 1 / tokens: lengths differ here."""
    world = raw.world("classification")

    def published(student, update):
        forget, _ = raw.forget_and_retain(update)
        rows = states(student, forget, "hidden_states")
        goal = target(16, 1.0)
        sums = torch.stack([(row - goal).square().mean(1).sum() for row in rows])
        counts = torch.tensor([[len(row)] for row in rows])
        return (sums / counts).mean()

    build = lambda: RMU(coefficient=1.0, relative=False, alpha=0.0)  # noqa: E731
    with pytest.raises(AssertionError):
        raw.require_agreement(build, world, published)


@pytest.mark.parametrize("name", ["translation-lstm", "response-decoder_only"])
def test_other_architectures_learn_it(name, tmp_path):
    """The forget loss falls, and with no weight on it the states on D_r stay."""
    world = raw.world(name)
    method = contract.run(lambda: RMU(alpha=0.1), world, tmp_path / "forget", updates=12, lr=1e-2).method
    assert method.history[-1]["forget"] < 0.8 * method.history[0]["forget"]
    still = contract.run(lambda: RMU(gamma=0.0), world, tmp_path / "still", weight_decay=0.0, updates=4).method
    assert max(row["retain"] for row in still.history) < 1e-6


def test_only_what_lies_below_the_layer_gets_a_gradient():
    world = raw.world("classification")
    gradients, _ = contract.loss_and_gradient(contract.attached(RMU, world), world)
    assert any("layer.0" in name for name in gradients)
    assert not any("classifier" in name for name in gradients)


def test_the_direction_follows_its_seed():
    world = raw.world("classification")
    targets = []
    for seed in (0, 0, 1):
        method = contract.attached(lambda: RMU(seed=seed, relative=False), world)  # noqa: B023
        contract.ready(method, world.student())
        targets.append(method.target)
    assert torch.equal(targets[0], targets[1]) and not torch.equal(targets[0], targets[2])
    assert float(targets[2].norm()) == pytest.approx(2.0) and (targets[2] >= 0).all()


def test_the_outcome_says_where_and_how_far():
    world = raw.world("translation")
    method = contract.attached(lambda: RMU(coefficient=5.0, relative=False), world)
    contract.ready(method, world.student())
    found = {"layer": "model.decoder.layers.0", "target_norm": pytest.approx(5.0)}
    assert method.outcome() == {"updates": 0, "stopped": None} | found


# Which layer ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deep():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONFIGS, "distilbert", tiny.CONFIGS["distilbert"] | {"n_layers": 4})
        return tiny.classifier().model


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (None, "distilbert.transformer.layer.1"),
        (0, "distilbert.transformer.layer.0"),
        (3, "distilbert.transformer.layer.3"),
        (r".*\.2\.ffn\.lin2", "distilbert.transformer.layer.2.ffn.lin2"),
    ],
)
def test_a_layer_is_the_middle_a_number_or_a_pattern(deep, layer, name):
    assert module_at(deep, layer) == name


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (4, "4 blocks, 0 to 3"),
        (-1, "4 blocks, 0 to 3"),
        ("nothing", "fits 0 modules"),
        (r".*\.ffn", r"fits 4 modules of the model \(distilbert\.transformer\.layer\.0\.ffn, "),
        ("(", "no regular expression"),
    ],
)
def test_a_layer_that_is_none_is_refused(deep, layer, message):
    with pytest.raises(UserError, match=message):
        module_at(deep, layer)


def test_any_module_of_a_regular_expression_will_do():
    world = raw.world("translation")
    encoder = replace(world, make=partial(tiny.translator))
    method = contract.attached(lambda: RMU(layer=r"model\.encoder\.layers\.0"), encoder)
    gradients, loss = contract.loss_and_gradient(method, encoder)
    assert loss > 0 and not any("decoder" in name for name in gradients)
