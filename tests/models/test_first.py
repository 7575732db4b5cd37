"""Leaving out what a classifier never looks at changes neither its logits nor its gradients."""

import numpy as np
import pytest
import torch
from helpers import tiny
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from kga.models.first import last_mixing
from kga.tasks.classification import Classification

SMALL = {
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "initializer_range": 0.5},
    "bert": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "initializer_range": 0.5},
    "roberta": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "initializer_range": 0.5, "max_position_embeddings": 80},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5},
    "modernbert": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}  # fmt: skip
READ_OFF_THE_FIRST = {"distilbert", "bert", "roberta"}


def task(kind: str, **options) -> Classification:
    torch.manual_seed(0)
    tokenizer = tiny.tokenizer()
    config = AutoConfig.for_model(
        kind, **SMALL[kind], vocab_size=len(tokenizer), num_labels=3, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2},
    )  # fmt: skip
    return Classification(AutoModelForSequenceClassification.from_config(config), tokenizer, 32, **options)


def batch(size: int = 7) -> dict[str, torch.Tensor]:
    found = tiny.examples(size).batch(np.arange(size))
    return found | {"labels": found["labels"] % 3}


@pytest.mark.parametrize("kind", SMALL)
def test_logits_and_gradients_are_those_of_the_whole_model(kind):
    found = {}
    for first_position in (True, False):
        model = task(kind, first_position=first_position).eval()
        predictions = model.predict(batch())
        predictions.truth().sum().backward()
        grads = {name: p.grad for name, p in model.model.named_parameters() if p.grad is not None}
        found[first_position] = predictions.log_probs.detach(), grads, model
    torch.testing.assert_close(found[True][0], found[False][0], rtol=1e-5, atol=1e-5)
    assert found[True][1].keys() == found[False][1].keys()
    for name, gradient in found[False][1].items():
        torch.testing.assert_close(found[True][1][name], gradient, rtol=1e-3, atol=1e-5)
    assert (found[True][2]._narrow[0] is not None) == (kind in READ_OFF_THE_FIRST)


def test_the_last_block_really_computes_less():
    model = task("distilbert").eval()
    seen = []
    model.model.distilbert.transformer.layer[-1].ffn.lin1.register_forward_hook(
        lambda *call: seen.append(call[2].shape[1])
    )
    model.predict(batch())
    model.predict(batch())
    assert seen[-1] == 1 and max(seen) > 1  # once whole, to try


class Average(nn.Module):
    """A head that averages over positions."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.inner(states.mean(1, keepdim=True).expand_as(states))


def test_a_model_that_averages_over_positions_is_left_alone():
    model = task("distilbert").eval()
    stack = model.model.distilbert.transformer.layer[-1]
    stack.output_layer_norm = nn.Sequential(stack.output_layer_norm, Average(nn.Identity()))
    inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    assert last_mixing(model.model, inputs) is None


def test_trying_it_leaves_mode_and_random_state_alone():
    model = task("distilbert")
    model.model.train()
    inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    before = torch.get_rng_state()
    assert last_mixing(model.model, inputs) is not None
    assert model.model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_texts_of_one_token_decide_nothing():
    model = task("distilbert").eval()
    one = batch() | {name: batch()[name][:, :1] for name in ("input_ids", "attention_mask")}
    model.predict(one)
    assert model._narrow is None
    model.predict(batch())
    assert model._narrow is not None
