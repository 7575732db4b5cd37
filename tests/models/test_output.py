"""The output layer apart from its body: the model's own logits where it can give them, and known where it can't."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import sequences
from torch import nn
from transformers import GPT2LMHeadModel

from kga.models.output import OutputLayer, scored_states
from kga.tasks.response import Response

ALL = ("marian", "kga_lstm", "gpt2")


def batch_of(task, size: int = 5):
    batch = sequences.examples(task, size).batch(np.arange(size))
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    return batch, {name: batch[name] for name in names if name in batch}


def task_of(architecture: str, **options):
    return (sequences.responder if architecture == "gpt2" else sequences.translator)(architecture, **options)


@pytest.mark.parametrize("architecture", ALL)
def test_hidden_states_and_layer_give_the_models_logits(architecture):
    task = task_of(architecture)
    _, inputs = batch_of(task)
    with torch.no_grad():
        expected = task.model(**inputs).logits
        where = torch.rand(expected.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.4
        hidden, logits = scored_states(task.model, inputs, where, logits=True)
        head = OutputLayer(task.model)
        torch.testing.assert_close(head(hidden), expected[where])
        torch.testing.assert_close(logits, expected[where])
        assert head.reproduces(hidden, logits)
    assert head.classes == len(sequences.tokenizer()) == expected.shape[-1]


@pytest.mark.parametrize("architecture", ALL)
def test_unscored_positions_never_pass_the_output_layer(architecture):
    task = task_of(architecture)
    batch, inputs = batch_of(task)
    passed: list[int] = []
    task.model.get_output_embeddings().register_forward_hook(lambda layer, fed, given: passed.append(len(given)))
    where = torch.zeros_like(batch["labels"], dtype=torch.bool)
    where[:, 0] = True
    for wanted in (True, False):
        hidden, logits = scored_states(task.model, inputs, where, logits=wanted)
        assert (len(hidden), len(logits)) == (5, 5 * wanted)
    assert passed == [5, 0]


def test_the_model_is_left_as_it_was():
    task = sequences.translator()
    batch, inputs = batch_of(task)
    before = task.model(**inputs).logits
    scored_states(task.model, inputs, batch["labels"] != -100, logits=False)
    with pytest.raises(IndexError):  # in the middle of the pass
        scored_states(task.model, inputs, torch.ones(2, 2, dtype=torch.bool), logits=False)
    assert torch.equal(task.model(**inputs).logits, before)


def test_gradients_reach_body_and_layer_as_through_the_whole_model():
    task = sequences.translator()
    batch, inputs = batch_of(task)
    where = batch["labels"] != -100
    hidden, _ = scored_states(task.model, inputs, where, logits=False)
    weights = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(OutputLayer(task.model)(hidden).square().sum(), weights)
    expected = torch.autograd.grad(task.model(**inputs).logits[where].square().sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_a_constant_bias_belongs_to_the_layer():
    """Marian's: a buffer that starts at 0, so that a layer without it would pass for the whole."""
    task = sequences.translator()
    generator = torch.Generator().manual_seed(0)
    task.model.final_logits_bias = torch.randn(1, len(sequences.tokenizer()), generator=generator)
    batch, inputs = batch_of(task)
    with torch.no_grad():
        side = task.predict(batch)
        expected = task.model(**inputs).logits[batch["labels"] != -100].log_softmax(1)
    assert side.head is not None and side.head.reproduces(*both(task, batch))
    torch.testing.assert_close(side.log_probs, expected)
    task.model.final_logits_bias = torch.zeros_like(task.model.final_logits_bias)
    with torch.no_grad():
        assert not torch.allclose(task.predict(batch).log_probs, expected, atol=0.1)


def both(task, batch):
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
    return scored_states(task.model, inputs, batch["labels"] != -100, logits=True)


class Altered(GPT2LMHeadModel):
    """Does something to its logits after the linear layer."""

    alteration = staticmethod(lambda logits: logits)

    def forward(self, *arguments, **more):
        output = super().forward(*arguments, **more)
        output.logits = self.alteration(output.logits)
        return output


def altered(alteration, spread: float = 0.4) -> Response:
    model = Altered(sequences.responder(spread=spread).model.config).eval()
    model.load_state_dict(sequences.responder(spread=spread).model.state_dict())
    model.alteration = alteration
    return Response(model, sequences.tokenizer(), 40)


ALTERATIONS = {
    "scaled": lambda logits: logits * 0.5,
    "soft-capped": lambda logits: 2.0 * torch.tanh(logits / 2.0),
    "masked": lambda logits: logits.index_fill(-1, torch.tensor([7]), -torch.inf),
}


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_a_model_that_does_more_is_predicted_densely_and_truly(kind):
    task = altered(ALTERATIONS[kind])
    batch, inputs = batch_of(task)
    for _ in range(2):  # the first call finds out, the others know
        with torch.no_grad():
            side = task.predict(batch)
            logits = task.model(**inputs).logits[:, :-1]
        assert side.head is None
        torch.testing.assert_close(side.log_probs, logits[batch["labels"][:, 1:] != -100].log_softmax(1))


@pytest.mark.parametrize("kind", ["scaled", "soft-capped"])
def test_small_first_logits_do_not_hide_what_a_model_does(kind):
    """What a task finds out at its first batch has to hold after training: a soft cap is all but the identity near 0."""
    more = {"scaled": lambda logits: logits * 0.5, "soft-capped": lambda logits: 30 * torch.tanh(logits / 30)}[kind]
    task = altered(more, spread={"scaled": 1e-3, "soft-capped": 0.02}[kind])
    batch, inputs = batch_of(task)
    with torch.no_grad():
        task.predict(batch)
        for parameter in task.model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 3)
        side = task.predict(batch)
        logits = task.model(**inputs).logits[:, :-1]
    torch.testing.assert_close(side.log_probs, logits[batch["labels"][:, 1:] != -100].log_softmax(1))


@pytest.mark.parametrize("architecture", ALL)
def test_plain_models_stay_lazy_and_the_first_call_is_like_any_other(architecture):
    task = task_of(architecture)
    batch, _ = batch_of(task)
    first, second = task.predict(batch), task.predict(batch)
    assert first.head is not None and second.head is not None
    assert torch.equal(first.log_probs, second.log_probs) and torch.equal(first.targets, second.targets)
    gradients = [torch.autograd.grad(side.truth().sum(), task.model.get_input_embeddings().weight)[0]
                 for side in (first, second)]  # fmt: skip
    assert torch.equal(*gradients)


def test_finding_out_draws_no_random_numbers():
    """Else a resumed run, which finds out once more, would go on with other dropout than the run that went through."""
    task = sequences.translator(dropout=0.4)
    task.model.train()
    batch, _ = batch_of(task)
    told = []
    for _ in range(2):
        torch.manual_seed(7)
        told.append((task.predict(batch).truth(), torch.rand(3)))
    assert torch.equal(told[0][0], told[1][0]) and torch.equal(told[0][1], told[1][1])


def test_a_layer_by_hand():
    """Logits are linear(hidden) + bias, and close is close to every logit."""
    linear = nn.Linear(2, 3, bias=False)
    linear.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    model = SimpleNamespace(get_output_embeddings=lambda: linear, final_logits_bias=torch.tensor([[0.0, 10.0, 0.0]]))
    head, hidden = OutputLayer(model), torch.tensor([[2.0, 3.0]])
    assert head(hidden).tolist() == [[2.0, 13.0, 5.0]] and head.classes == 3
    assert head.reproduces(hidden, torch.tensor([[2.0, 13.0, 5.0]]))
    assert not head.reproduces(hidden, torch.tensor([[2.0, 13.0, 5.1]]))
    assert not head.reproduces(hidden, torch.tensor([[2.0, 13.0, torch.nan]]))
