"""The stack of blocks of many architectures, and what of a model comes with and after the last ones."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

import kga.models.lstm  # noqa: F401  makes the LSTM known to transformers' Auto classes
from kga.errors import UserError
from kga.models.layers import blocks, last

BERT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
PAIR = {
    "d_model": 16, "encoder_layers": 4, "decoder_layers": 3, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
# By architecture: the Auto class, entries of its config, and the name of its stack.
MODELS = {
    "distilbert": (
        AutoModelForSequenceClassification,
        {"dim": 16, "hidden_dim": 32, "n_layers": 3, "n_heads": 2},
        "distilbert.transformer.layer",
    ),
    "bert": (AutoModelForSequenceClassification, BERT, "bert.encoder.layer"),
    "gpt2": (AutoModelForCausalLM, {"n_embd": 16, "n_layer": 3, "n_head": 2}, "transformer.h"),
    # Its last norm and projection are declared before its blocks.
    "opt": (
        AutoModelForCausalLM,
        {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "word_embed_proj_dim": 8},
        "model.decoder.layers",
    ),
    "marian": (AutoModelForSeq2SeqLM, PAIR | {"pad_token_id": 0}, "model.decoder.layers"),
    "bart": (AutoModelForSeq2SeqLM, PAIR, "model.decoder.layers"),
    "t5": (
        AutoModelForSeq2SeqLM,
        {"d_model": 16, "d_ff": 32, "num_layers": 4, "num_decoder_layers": 3, "num_heads": 2, "d_kv": 8},
        "decoder.block",
    ),
}
LSTM = {"d_model": 16, "hidden_size": 16}


def build(architecture: str):
    kind, config, _ = MODELS.get(architecture, (AutoModelForSeq2SeqLM, LSTM, ""))
    torch.manual_seed(0)
    small = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2}
    return kind.from_config(AutoConfig.for_model(architecture, **(config | small))).eval()


def cut_off(model, k: int) -> set[str]:
    """Parameters that still get a gradient when what enters the last k blocks is taken as given."""
    detached = lambda given: tree_map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, given)  # noqa: E731
    blocks(model)[-k][1].register_forward_pre_hook(
        lambda _, args, kwargs: (detached(args), detached(kwargs)), with_kwargs=True
    )
    ids = torch.tensor([[5, 9, 4, 2], [8, 3, 7, 2]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        model.get_encoder().register_forward_hook(lambda *call: type(call[2])(detached(dict(call[2]))))
        inputs["decoder_input_ids"] = ids.flip(1)
    model(**inputs).logits.square().sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("architecture", MODELS)
def test_blocks_are_the_stack_nearest_the_output(architecture):
    model = build(architecture)
    found = blocks(model)
    assert [name for name, _ in found] == [f"{MODELS[architecture][2]}.{number}" for number in range(3)]
    assert all(model.get_submodule(name) is block for name, block in found)


def test_the_decoder_of_the_lstm_is_one_block():
    model = build("kga_lstm")
    assert blocks(model) == [("decoder", model.decoder)]


@pytest.mark.parametrize(
    ("architecture", "k"), [*((name, k) for name in MODELS for k in (1, 2, 3)), ("kga_lstm", 1)]
)  # fmt: skip
def test_last_is_what_depends_on_the_last_blocks_alone(architecture, k):
    model = build(architecture)
    names = last(model, k)
    embedding = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    tied = {name for name, parameter in model.named_parameters() if id(parameter) in embedding}
    assert len(names) == len(set(names)) and not tied & set(names)
    assert set(names) == cut_off(copy.deepcopy(model), k) - tied


def test_a_head_of_its_own_is_among_the_last_and_a_tied_one_is_not():
    tied, own = build("gpt2"), copy.deepcopy(build("gpt2"))
    own.lm_head.weight = nn.Parameter(own.lm_head.weight.detach().clone())
    assert "lm_head.weight" in last(own, 1)
    assert set(last(own, 1)) - set(last(tied, 1)) == {"lm_head.weight"}


@pytest.mark.parametrize("architecture", ["distilbert", "bart", "kga_lstm"])
def test_looking_leaves_the_model_as_it_was(architecture):
    model = build(architecture).train()
    before = torch.get_rng_state()
    last(model, 1)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("architecture", "k", "has"), [("bert", 4, 3), ("kga_lstm", 2, 1)])
def test_more_blocks_than_there_are(architecture, k, has):
    with pytest.raises(UserError, match=rf"method\.k={k}: the model has {has} block"):
        last(build(architecture), k)


def test_a_model_without_blocks_is_told():
    model = build("gpt2")
    model.transformer.h = nn.ModuleList()
    with pytest.raises(UserError, match=r"no stack of blocks .* 'gpt2'"):
        blocks(model)
