"""Gradients outside a fit against plain autograd on raw logits: all examples in one batch, or one example at a time."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from torch.nn import functional as F

from kga.methods.gradients import batch_gradients, mean_gradient, mean_over_batches, sample, squared_gradients

TASKS = {
    "classification": tiny.classifier,
    "multi-label": partial(tiny.classifier, multi_label=True),
    "translation": tiny.translator,
    "translation-lstm": partial(tiny.translator, architecture="kga_lstm"),
    "response-decoder_only": partial(tiny.responder, architecture="gpt2"),
}
every_task = pytest.mark.parametrize("task", TASKS, indirect=True)


@pytest.fixture
def task(request):
    return TASKS[getattr(request, "param", "classification")](seed=3)


@pytest.fixture
def examples(task):
    return tiny.examples(10, seed=4, task=task)


def raw_loss(task, batch) -> torch.Tensor:
    """Mean cross-entropy of a batch from the model's own logits, by PyTorch's losses."""
    labels = batch["labels"]
    logits = task.model(**{name: value for name, value in batch.items() if name not in ("labels", "index")}).logits
    if task.name == "classification":
        if task.multi_label:
            return F.binary_cross_entropy_with_logits(logits, labels.float())
        return F.cross_entropy(logits, labels)
    if not task.model.config.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def raw_gradients(task, batch) -> dict[str, torch.Tensor]:
    task.eval().zero_grad()
    raw_loss(task, batch).backward()
    found = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    return found


def require_close(got, expected, rtol=1e-4, atol=1e-7):
    assert expected.keys() <= got.keys()
    for name, value in got.items():
        torch.testing.assert_close(value, expected.get(name, torch.zeros_like(value)), rtol=rtol, atol=atol)


@every_task
def test_the_mean_gradient_is_that_of_all_examples_at_once(task, examples):
    """Batches of 3, 3, 3 and 1 of texts of different lengths count by their positions."""
    expected = raw_gradients(task, examples.batch(np.arange(10)))
    with torch.no_grad():
        got = mean_gradient(task, examples, 3)
    require_close(got, expected)
    assert max(float(value.abs().max()) for value in got.values()) > 1e-3


@every_task
def test_squared_gradients_of_single_examples_are_the_empirical_fisher_information(task, examples):
    each = [raw_gradients(task, examples.batch(np.array([number]))) for number in range(10)]
    expected = {name: torch.stack([one[name] for one in each]).square().mean(0) for name in each[0]}
    require_close(squared_gradients(task, examples, 1), expected, atol=1e-9)


def test_squared_gradients_of_batches_are_squares_of_means_and_always_of_the_same_batches(task, examples):
    whole = squared_gradients(task, examples, 10)
    require_close(whole, {name: value.square() for name, value in mean_gradient(task, examples, 4).items()}, atol=1e-9)
    batched, again = squared_gradients(task, examples, 4), squared_gradients(task, examples, 4)
    assert all(torch.equal(batched[name], again[name]) for name in batched)
    name = "model.classifier.weight"
    assert float(batched[name].sum()) > 1.01 * float(whole[name].sum())  # noise of three batches


def test_batches_of_squares_are_not_sorted_by_length(task):
    """Sorted, a batch would hold examples that are alike."""
    examples = tiny.examples(60, seed=4, task=task)
    seen: list[int] = []
    batch = type(examples).batch

    class Watched(type(examples)):
        def batch(self, positions):
            seen.extend(self.lengths()[positions].tolist())
            return batch(self, positions)

    mean_over_batches(task, Watched(examples.table, examples.rows, examples.task), 8, torch.abs)
    assert sorted(seen) == sorted(examples.lengths().tolist())
    assert abs(np.corrcoef(np.arange(60), seen)[0, 1]) < 0.5


def test_any_function_of_gradients_is_averaged_over_batches(task, examples):
    each = [raw_gradients(task, examples.batch(np.array([number]))) for number in range(10)]
    expected = {name: torch.stack([one[name].abs() for one in each]).mean(0) for name in each[0]}
    require_close(mean_over_batches(task, examples, 1, torch.abs), expected)


@every_task
def test_another_loss_than_the_cross_entropy(task, examples):
    """2 CE has twice its gradient, and a loss that is constant none."""
    once = mean_gradient(task, examples, 4)
    twice = mean_gradient(task, examples, 4, lambda predictions: -2 * predictions.truth())
    require_close(twice, {name: 2 * value for name, value in once.items()})


@pytest.mark.parametrize("name", ["classification", "translation", "response-decoder_only"])
def test_padding_changes_nothing(name):
    world = contract.world(name)
    plain, padded = world.sets["forget"], contract.padded_sets(world)["forget"]
    student = world.student()
    require_close(mean_gradient(student, padded, 5), mean_gradient(student, plain, 5), atol=1e-6)
    require_close(squared_gradients(student, padded, 5), squared_gradients(student, plain, 5), atol=1e-6)


def test_dropout_is_off_and_gradients_of_parameters_stay():
    still, dropping = (tiny.classifier(seed=3, dropout=dropout) for dropout in (0.0, 0.5))
    examples = tiny.examples(10, seed=4, task=still)
    dropping.train()
    require_close(mean_gradient(dropping, examples, 4), mean_gradient(still, examples, 4))
    assert not dropping.training and not dropping.model.training
    assert all(parameter.grad is None for parameter in dropping.parameters())


def test_only_trainable_parameters_are_there_and_tied_ones_once():
    task = tiny.translator(seed=3)
    gradients = mean_gradient(task, tiny.examples(4, task=task), 4)
    names = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert gradients.keys() == names
    assert not any("lm_head.weight" in name or "embed_positions" in name for name in names)
    task.model.get_input_embeddings().weight.requires_grad_(False)
    assert len(mean_gradient(task, tiny.examples(4, task=task), 4)) == len(names) - 1


def test_a_parameter_that_no_prediction_uses_has_gradient_zero(task, examples):
    task.model.idle = torch.nn.Parameter(torch.ones(3))
    for found in (mean_gradient(task, examples, 4), squared_gradients(task, examples, 4)):
        assert torch.equal(found["model.idle"], torch.zeros(3))


def test_each_batch_says_its_positions():
    task = tiny.translator(seed=3)
    examples = tiny.examples(7, task=task)
    counts = [count for _, count in batch_gradients(task, examples, 3)]
    labels = examples.batch(np.arange(7))["labels"]
    assert len(counts) == 3 and sum(counts) == int((labels != -100).sum())


def test_half_precision_does_not_keep_old_weights(task, examples):
    """Autocast keeps its copies of the weights, without gradient where they were first used without."""
    batch = examples.batch(np.arange(4))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            task.eval().predict(batch)
        first = mean_gradient(task, examples, 4)
        with torch.no_grad():
            task.model.classifier.weight.mul_(-3)
        second = mean_gradient(task, examples, 4)
    expected = mean_gradient(task, examples, 4)
    assert float(first["model.pre_classifier.weight"].abs().max()) > 0
    require_close(second, expected, rtol=0.05, atol=0.02 * float(expected["model.pre_classifier.weight"].abs().max()))


def test_a_long_pass_says_how_far_it_is(task, examples, capsys):
    mean_gradient(task, examples, 4, title="gradients of the test")
    assert "gradients of the test: 3/3 in" in capsys.readouterr().out


def test_a_sample_is_drawn_evenly_from_the_random_state(examples):
    torch.manual_seed(5)
    first = sample(examples, 4)
    assert len(set(first.rows.tolist())) == 4 and set(first.rows) <= set(examples.rows)
    torch.manual_seed(5)
    assert sample(examples, 4).rows.tolist() == first.rows.tolist()
    assert sorted(sample(examples, 99).rows) == sorted(examples.rows)
    drawn = np.bincount(np.concatenate([sample(examples, 4).rows for _ in range(300)]), minlength=10)
    assert (np.abs(drawn - 120) < 45).all()
