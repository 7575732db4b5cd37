"""Utility against scikit-learn, however the set is cut into batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from kga.metrics.utility import Loss, MultiLabel, SingleLabel, Tokens, f1
from kga.predictions import Predictions

CUTS = [[60], [20, 20, 20], [1, 59], [7] * 8 + [4]]


def single(log_probs: torch.Tensor, targets: torch.Tensor) -> Predictions:
    return Predictions(log_probs, targets, torch.arange(len(targets)), len(targets))


def several(probabilities: np.ndarray, truth: np.ndarray) -> Predictions:
    """Multi-label predictions of [B, L] probabilities: one position per example and label, two classes."""
    size, labels = truth.shape
    on = torch.tensor(probabilities, dtype=torch.float32).reshape(-1)
    log_probs = torch.stack((1 - on, on), 1).log()
    return Predictions(
        log_probs, torch.tensor(truth).reshape(-1).long(), torch.arange(size).repeat_interleave(labels), size
    )


def fed(metric, make, arrays, sizes) -> dict[str, float]:
    start = 0
    for size in sizes:
        metric.update(make(*(array[start : start + size] for array in arrays)))
        start += size
    return {name: value.item() for name, value in metric.compute().items()}


def random_single(seed: int, size: int = 60, classes: int = 5):
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(size, classes, generator=generator).log_softmax(1)
    return log_probs, torch.randint(classes, (size,), generator=generator)


def random_several(seed: int, size: int = 60, labels: int = 4):
    rng = np.random.default_rng(seed)
    truth = rng.random((size, labels)) < 0.4
    return np.clip(0.25 * truth + rng.random((size, labels)) * 0.7, 0.01, 0.99), truth


@pytest.mark.parametrize("sizes", CUTS)
def test_loss_is_total_over_positions(sizes):
    log_probs, targets = random_single(0)
    expected = torch.nn.functional.nll_loss(log_probs, targets).item()
    assert fed(Loss(), single, (log_probs, targets), sizes) == {"loss": pytest.approx(expected, rel=1e-6)}


def test_loss_counts_positions_not_examples():
    metric = Loss()
    halves, quarters = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]] * 3).log()
    metric.update(single(halves, torch.tensor([0])))
    metric.update(Predictions(quarters, torch.tensor([0, 0, 0]), torch.zeros(3, dtype=torch.int64), 1))
    assert metric.compute()["loss"].item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 7))
def test_single_label_is_scikit_learns(seed, size, classes):
    log_probs, targets = random_single(seed, size, classes)
    predicted = log_probs.argmax(1)
    found = fed(SingleLabel(classes), single, (log_probs, targets), [size])
    assert found["accuracy"] == found["micro_f1"] == pytest.approx(accuracy_score(targets, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"), abs=1e-6)


def test_classes_that_occur_nowhere_are_left_out_of_macro_f1():
    """Of six classes, 0 is right, 1 is missed, 2 only predicted; 3 to 5 do not occur."""
    log_probs = torch.nn.functional.one_hot(torch.tensor([0, 0, 2]), 6).float().log_softmax(1)
    targets = torch.tensor([0, 0, 1])
    found = fed(SingleLabel(6), single, (log_probs, targets), [3])
    assert found["macro_f1"] == pytest.approx(1 / 3)
    assert found["macro_f1"] == pytest.approx(f1_score(targets, [0, 0, 2], average="macro", zero_division=0))


@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize("kind", ["single", "several"])
def test_the_cut_into_batches_does_not_matter(kind, sizes):
    metric, make, arrays = {
        "single": (SingleLabel(5), single, random_single(1)),
        "several": (MultiLabel(4), several, random_several(1)),
    }[kind]
    whole = fed(type(metric)(5 if kind == "single" else 4), make, arrays, [60])
    assert fed(metric, make, arrays, sizes) == pytest.approx(whole, abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_multi_label_is_scikit_learns(seed, size):
    probabilities, truth = random_several(seed, size)
    truth[:, 3] = False
    given_labels = probabilities > 0.5
    found = fed(MultiLabel(4), several, (probabilities, truth), [size])
    occurs = np.flatnonzero((truth | given_labels).any(0))
    options = {"zero_division": 0}
    assert found["micro_f1"] == pytest.approx(f1_score(truth, given_labels, average="micro", **options), abs=1e-6)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, given_labels), abs=1e-6)
    expected = f1_score(truth, given_labels, average="macro", labels=occurs, **options) if len(occurs) else 0.0
    assert found["macro_f1"] == pytest.approx(expected, abs=1e-6)


def test_nothing_given_and_nothing_true():
    found = fed(MultiLabel(2), several, (np.full((3, 2), 0.1), np.zeros((3, 2), bool)), [3])
    assert found == {"micro_f1": 0.0, "macro_f1": 0.0, "accuracy": 1.0}


def test_thresholds_are_the_best_on_validation_and_then_used():
    probabilities, truth = random_several(3)
    validation = MultiLabel(4)
    fed(validation, several, (probabilities, truth), [30, 30])
    thresholds = validation.tuned_thresholds()
    grid = np.arange(1, 100) / 100
    for label in range(4):
        scores = [f1_score(truth[:, label], probabilities[:, label] > threshold) for threshold in grid]
        chosen = f1_score(truth[:, label], probabilities[:, label] > thresholds[label].item())
        assert chosen == pytest.approx(max(scores), abs=1e-6)
        assert chosen > f1_score(truth[:, label], probabilities[:, label] > 0.9)
    test = MultiLabel(4)
    test.thresholds = thresholds
    others, other_truth = random_several(4)
    found = fed(test, several, (others, other_truth), [60])
    expected = f1_score(other_truth, others > thresholds.numpy(), average="micro")
    assert found["micro_f1"] == pytest.approx(expected, abs=1e-6)


def test_rare_labels_keep_the_threshold_one_half():
    truth = np.zeros((40, 2), bool)
    truth[:4, 0] = truth[:5, 1] = True
    metric = MultiLabel(2)
    fed(metric, several, (np.where(truth, 0.3, 0.1), truth), [40])
    rare, frequent = metric.tuned_thresholds().tolist()
    assert rare == 0.5 and 0.1 <= frequent < 0.3


def test_f1_by_hand():
    given_labels = torch.tensor([[1, 0, 0], [1, 1, 0]]).bool()
    truth = torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()
    assert f1(given_labels, truth, dim=0).tolist() == pytest.approx([2 / 3, 2 / 3, 0])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 7))
def test_token_accuracy_is_scikit_learns_and_perplexity_by_its_definition(seed, size, classes):
    log_probs, targets = random_single(seed, size, classes)
    found = fed(Tokens(), single, (log_probs, targets), [size])
    assert found["token_accuracy"] == pytest.approx(accuracy_score(targets, log_probs.argmax(1)))
    probabilities = log_probs.double().exp()[torch.arange(size), targets].numpy()
    assert found["perplexity"] == pytest.approx(np.prod(probabilities ** (-1 / size)), rel=1e-5)
    assert set(found) == set(Tokens.names)


def test_perplexity_is_of_the_corpus_not_the_mean_of_batches():
    """One token of probability 1/2, and three of 1/16: exp of total over total; not the mean of 2 and 16."""
    rare = torch.tensor([[1 / 16, 15 / 16]] * 3).log()
    metric = Tokens()
    metric.update(single(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0])))
    metric.update(Predictions(rare, torch.tensor([0, 0, 0]), torch.zeros(3, dtype=torch.int64), 1))
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found["perplexity"] == pytest.approx(2 ** ((1 + 3 * 4) / 4), rel=1e-6)
    assert found["token_accuracy"] == 0.25  # of four tokens, not the mean of 1 and 0


@pytest.mark.parametrize("sizes", CUTS)
def test_tokens_do_not_depend_on_the_cut_into_batches(sizes):
    arrays = random_single(2)
    assert fed(Tokens(), single, arrays, sizes) == pytest.approx(fed(Tokens(), single, arrays, [60]), rel=1e-9)
