"""An attacker's signals against plain loops over the positions of each example."""

import math

import numpy as np
import pytest
import torch

from kga.metrics.signals import basic_signals, signals
from kga.predictions import Predictions

COUNTS = (3, 1, 11, 6)  # positions of each example


def predictions(classes: int, seed: int = 0, scale: float = 3.0, counts: tuple[int, ...] = COUNTS) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    positions = sum(counts)
    logits = scale * torch.randn(positions, classes, generator=generator)
    targets = torch.randint(classes, (positions,), generator=generator)
    example = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Predictions(logits.log_softmax(1), targets, example, len(counts))


def by_hand(made: Predictions) -> dict[str, list[float]]:
    """Every signal, written down from its definition in float64."""
    found: dict[str, list[float]] = {}
    for example in range(made.size):
        rows = [place for place, owner in enumerate(made.example.tolist()) if owner == example]
        p = [[math.exp(value) for value in made.log_probs[row].tolist()] for row in rows]
        y = [made.targets[row].item() for row in rows]
        own = [math.log(probabilities[truth]) for probabilities, truth in zip(p, y, strict=True)]
        standard = []
        for probabilities, truth in zip(p, own, strict=True):
            mean = sum(x * math.log(x) for x in probabilities)
            variance = sum(x * math.log(x) ** 2 for x in probabilities) - mean**2
            standard.append((truth - mean) / math.sqrt(max(variance, 1e-6)))
        low = max(1, int(0.2 * len(rows)))
        tops = [[*sorted(probabilities, reverse=True), 0.0, 0.0] for probabilities in p]
        values = {
            "loss": -np.mean(own),
            "log_prob": np.sum(own),
            "correct": np.mean([max(x) == x[t] for x, t in zip(p, y, strict=True)]),
            "confidence": math.exp(np.mean(own)),
            "phi": np.mean([math.log(x[t]) - math.log(sum(x) - x[t]) for x, t in zip(p, y, strict=True)]),
            "entropy": np.mean([-sum(v * math.log(v) for v in x) for x in p]),
            "modified_entropy": np.mean(
                [
                    -(1 - x[t]) * math.log(x[t]) - sum(v * math.log(1 - v) for i, v in enumerate(x) if i != t)
                    for x, t in zip(p, y, strict=True)
                ]
            ),
            "min_k": np.mean(sorted(own)[:low]),
            "min_k_plus": np.mean(sorted(standard)[:low]),
            "log_truth_ratio": np.mean(
                [
                    np.mean([-math.log(v) for i, v in enumerate(x) if i != t]) + math.log(x[t])
                    for x, t in zip(p, y, strict=True)
                ]
            ),
        } | {f"top_{rank + 1}": np.mean([top[rank] for top in tops]) for rank in range(3)}
        for name, value in values.items():
            found.setdefault(name, []).append(float(value))
    return found


LABELS = (1,) * 9  # one position per example


@pytest.mark.parametrize(("classes", "counts"), [(2, COUNTS), (2, LABELS), (3, COUNTS), (3, LABELS), (40, LABELS)])
def test_every_signal_is_what_its_definition_says(classes, counts):
    made = predictions(classes, counts=counts)
    found, expected = signals(made), by_hand(made)
    if classes > 2 and counts is COUNTS:
        del expected["log_truth_ratio"]
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].tolist() == pytest.approx(values, rel=1e-4, abs=1e-4), name


def test_the_basic_ones_are_the_same_numbers():
    made = predictions(5)
    every = signals(made)
    for name, values in basic_signals(made).items():
        assert torch.equal(values, every[name]), name


def test_lazy_predictions_in_chunks_give_the_same(monkeypatch):
    made = predictions(4)

    def head(states):
        return states

    head.classes = 4
    lazy = Predictions(made.log_probs.clone(), made.targets, made.example, made.size, head)
    monkeypatch.setattr("kga.predictions.CHUNK", 12)
    for name, values in signals(lazy).items():
        assert values.tolist() == pytest.approx(signals(made)[name].tolist(), abs=1e-5), name


def test_alternatives_are_all_other_classes_only_where_they_are_few(monkeypatch):
    monkeypatch.setattr("kga.metrics.signals.ALTERNATIVES", 3)
    assert "log_truth_ratio" in signals(predictions(3, counts=LABELS))
    assert "log_truth_ratio" not in signals(predictions(4, counts=LABELS))
    assert "log_truth_ratio" not in signals(predictions(3))


@pytest.mark.parametrize("scale", [50.0, 500.0])
def test_certain_models_give_finite_numbers_in_order(scale):
    for values in signals(predictions(6, scale=scale)).values():
        assert torch.isfinite(values).all()
    sure = torch.tensor([[20.0, 0.0], [40.0, 0.0]])
    phi = signals(Predictions(sure.log_softmax(1), torch.tensor([0, 0]), torch.tensor([0, 1]), 2))["phi"]
    assert phi[1] > phi[0] > 15


def test_impossible_classes_and_empty_examples_are_no_nan():
    log_probs = torch.tensor([[0.0, -torch.inf, -torch.inf], [-0.5, math.log(1 - math.exp(-0.5)), -torch.inf]])
    found = signals(Predictions(log_probs, torch.tensor([1, 0]), torch.tensor([0, 2]), 3))
    for name, values in found.items():
        assert torch.isfinite(values).all(), name
        assert values[1] == (1.0 if name == "confidence" else 0.0)


def test_sure_models_are_told_apart_as_in_float64():
    """Entropies far below float32's resolution at 1, in their order; nothing of them is a difference of large numbers."""
    logits = torch.tensor([[gap, 0.0, -1.0] for gap in (3.0, 6.0, 8.0, 10.0, 12.0)], dtype=torch.float64)
    p = logits.softmax(1)
    rest = p[:, 1:]
    one = torch.log1p(-rest.sum(1))
    expected = -rest.sum(1) * one - (rest * torch.log1p(-rest)).sum(1)
    found = signals(Predictions(logits.float().log_softmax(1), torch.zeros(5, dtype=torch.int64), torch.arange(5), 5))
    assert found["modified_entropy"].tolist() == pytest.approx(expected.tolist(), rel=0.02)
    assert found["phi"].tolist() == pytest.approx((-torch.expm1(one) / p[:, 0]).log().neg().tolist(), rel=1e-5)


def test_losses_of_models_that_forgot_too_much_keep_their_order():
    logits = torch.tensor([[0.0, gap] for gap in (90.0, 150.0, 600.0)])
    found = signals(Predictions(logits.log_softmax(1), torch.zeros(3, dtype=torch.int64), torch.arange(3), 3))
    assert found["loss"].tolist() == pytest.approx([90, 150, 600])
    for name in ("phi", "min_k", "log_truth_ratio", "log_prob"):
        assert found[name].tolist() == pytest.approx([-90, -150, -600]), name
    assert found["modified_entropy"].diff().min() > 0
