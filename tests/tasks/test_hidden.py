"""``hidden`` against what transformers gives out itself (``output_hidden_states``), and against the model's own parts."""

import numpy as np
import pytest
import torch
from helpers import contract, tiny

from kga.errors import UserError
from kga.models.layers import blocks

TRANSFORMERS = ("classification", "translation", "response", "response-decoder_only")


@pytest.fixture
def world(request):
    return contract.world(request.param)


def inputs(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids") if name in batch}


def hooks(task):
    """Hooks of the model's modules; transformers leaves some of its own behind."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in task.model.modules())


def deep(name):
    """Three layers each, so that a block's states are not what the output layer is fed."""
    sizes = {
        "distilbert": {"n_layers": 3},
        "gpt2": {"n_layer": 3},
        "marian": {"decoder_layers": 3, "encoder_layers": 2},
    }
    with pytest.MonkeyPatch.context() as patch:
        for architecture, more in sizes.items():
            patch.setitem(tiny.CONFIGS, architecture, tiny.CONFIGS[architecture] | more)
        return contract.WORLDS[name](seed=3)


@torch.no_grad()
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("number", [0, 1])
def test_states_are_those_that_transformers_gives_out(name, number):
    task = deep(name)
    batch = tiny.examples(12, seed=5, task=task).batch(np.arange(12))
    given = task.model(**inputs(batch), output_hidden_states=True)
    all_layers = given.get("decoder_hidden_states", given.get("hidden_states"))
    real = batch["attention_mask"] == 1 if name == "classification" else batch["labels"] != -100
    states, example = task.hidden(batch, blocks(task.model)[number][0])
    assert torch.allclose(states, all_layers[number + 1][real], atol=1e-6)
    assert torch.equal(example, real.nonzero()[:, 0])
    assert not torch.allclose(states, all_layers[number][real], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["translation", "response"])
def test_an_encoders_states_stand_at_the_tokens_of_the_input(name):
    task = deep(name)
    batch = tiny.examples(12, seed=5, task=task).batch(np.arange(12))
    expected = task.model(**inputs(batch), output_hidden_states=True).encoder_hidden_states[1]
    states, example = task.hidden(batch, "model.encoder.layers.0")
    assert torch.allclose(states, expected[batch["attention_mask"].bool()], atol=1e-6)
    assert torch.bincount(example).tolist() == batch["attention_mask"].sum(1).tolist()


@torch.no_grad()
@pytest.mark.parametrize("world", ["translation-lstm"], indirect=True)
def test_states_of_an_lstm(world):
    """Its decoder gives a tuple, its encoder a packed sequence; the reference runs both by hand."""
    task = world.models["original"]
    model, batch = task.model, world.sets["retain"].batch(np.arange(12))
    encoded = model.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    real, lengths = batch["attention_mask"].bool(), batch["attention_mask"].sum(1)
    assert not real.all()
    assert torch.allclose(task.hidden(batch, "encoder.lstm")[0], encoded[real], atol=1e-6)
    decoded = model._decode(batch["decoder_input_ids"], encoded, lengths)
    where = batch["labels"] != -100
    states, example = task.hidden(batch, blocks(model)[0][0])
    assert torch.allclose(states, decoded[where], atol=1e-6)
    assert torch.equal(example, where.nonzero()[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("world", contract.WORLDS, indirect=True)
def test_padding_changes_nothing(world):
    task, batch = world.models["original"], world.sets["retain"].batch(np.arange(12))
    layer = blocks(task.model)[0][0]
    for got, padded in zip(task.hidden(batch, layer), task.hidden(contract.pad(batch, task, 5), layer), strict=True):
        assert torch.allclose(got, padded, atol=1e-5)


@pytest.mark.parametrize("world", contract.WORLDS, indirect=True)
def test_gradients_reach_the_weights_below_and_no_hook_is_left(world):
    task = world.student()
    layer, before = blocks(task.model)[0][0], hooks(task)
    states, _ = task.hidden(world.sets["forget"].batch(np.arange(4)), layer)
    states.square().sum().backward()
    assert all(parameter.grad is not None for parameter in task.model.get_submodule(layer).parameters())
    assert hooks(task) == before


@pytest.mark.parametrize("world", ["translation", "translation-lstm", "response-decoder_only"], indirect=True)
def test_no_position_passes_the_output_layer(world):
    task, seen = world.student(), []
    output = task.model.get_output_embeddings()
    with torch.no_grad():
        handle = output.register_forward_hook(lambda layer, arguments, given: seen.append(given.shape[0]))
        task.hidden(world.sets["forget"].batch(np.arange(4)), blocks(task.model)[0][0])
        handle.remove()
    assert seen == [0]


@pytest.mark.parametrize("world", ["classification"], indirect=True)
def test_a_module_without_states_per_token_is_refused_and_its_hook_removed(world):
    task, batch = world.student(), world.sets["forget"].batch(np.arange(4))
    before = hooks(task)
    with pytest.raises(UserError, match=r"'pre_classifier' gives \[4, 16\], not \[examples, tokens, width\]"):
        task.hidden(batch, "pre_classifier")
    with pytest.raises(UserError, match=r"never calls its module 'distilbert\.transformer\.layer'"):
        task.hidden(batch, "distilbert.transformer.layer")
    assert hooks(task) == before
    assert task.hidden(batch, "distilbert.transformer")[0].shape[1] == 16  # gives a ModelOutput
