"""Distances to a reference model, by hand and whatever the batches."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from kga.metrics.forgetting import Divergence, ProbabilityShift
from kga.predictions import LN2, Predictions


def pooled(rows, example=None) -> Predictions:
    """Probabilities [P, C] with the first class as the truth."""
    log_probs = torch.tensor(rows).log()
    example = torch.arange(len(rows)) if example is None else torch.tensor(example)
    return Predictions(log_probs, torch.zeros(len(rows), dtype=torch.int64), example, int(example.max()) + 1)


def values(metric) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_divergence_by_hand():
    model, reference = [[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.1, 0.9], [0.3, 0.7]]
    metric = Divergence()
    metric.update(pooled(model), pooled(reference))
    found = values(metric)
    expected = [jensenshannon(p, q) ** 2 for p, q in zip(model, reference, strict=True)]
    assert found["jsd"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["jsd_legacy"] > found["jsd"]


def test_a_model_is_at_distance_0_from_itself():
    side = pooled([[0.5, 0.5], [0.9, 0.1]])
    divergence, shift = Divergence(), ProbabilityShift()
    divergence.update(side, side), shift.update(side, side)
    assert values(divergence) == pytest.approx({"jsd": 0, "jsd_legacy": 0, "agreement": 1}, abs=1e-6)
    assert values(shift) == {
        "lpd": 0,
        "lpd_median": 0,
        "log_ppl_difference": 0,
        "log_ppl_difference_median": 0,
        "pdlp": 0,
    }


def test_sure_models_that_disagree_are_ln_2_apart():
    metric = Divergence()
    metric.update(pooled([[1.0, 0.0]]), pooled([[0.0, 1.0]]))
    assert values(metric)["jsd"] == pytest.approx(LN2, abs=1e-6)
    assert values(metric)["agreement"] == 0


def test_probability_shift_by_hand():
    """Three examples, the last one of two positions: ppl(x) = exp(mean loss of x) = 1 / geometric mean of p."""
    example = [0, 1, 2, 2]
    model = pooled([[0.5, 0.5], [0.25, 0.75], [0.1, 0.9], [0.4, 0.6]], example)
    reference = pooled([[0.25, 0.75], [0.5, 0.5], [0.4, 0.6], [0.1, 0.9]], example)
    metric = ProbabilityShift()
    metric.update(model, reference)
    found = values(metric)
    perplexities = [(2, 4), (4, 2), (1 / math.sqrt(0.04), 1 / math.sqrt(0.04))]
    relative = [abs(ppl - base) / base for ppl, base in perplexities]
    assert relative == pytest.approx([0.5, 1, 0])
    assert found["lpd"] == pytest.approx(0.5, abs=1e-6)
    assert found["lpd_median"] == pytest.approx(0.5, abs=1e-6)
    assert found["log_ppl_difference"] == pytest.approx((math.log(2) + math.log(2)) / 3, abs=1e-6)
    assert found["log_ppl_difference_median"] == pytest.approx(math.log(2), abs=1e-6)


def test_pdlp_counts_the_examples_whose_probability_fell():
    model = pooled([[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.5, 0.5]])
    reference = pooled([[0.2, 0.8], [0.3, 0.7], [0.8, 0.2], [0.5, 0.5]])
    metric = ProbabilityShift()
    metric.update(model, reference)
    assert values(metric)["pdlp"] == 0.5
    metric.reset()
    metric.update(reference, model)
    assert values(metric)["pdlp"] == 0.25


def test_an_outlier_moves_the_mean_and_not_the_median():
    metric = ProbabilityShift()
    metric.update(pooled([[0.5, 0.5]] * 8 + [[1e-6, 1.0]]), pooled([[0.4, 0.6]] * 9))
    found = values(metric)
    assert found["lpd_median"] == pytest.approx(0.2, abs=1e-5) and found["lpd"] > 1000


@pytest.mark.parametrize("metric", [Divergence, ProbabilityShift])
@pytest.mark.parametrize("sizes", [[20, 20], [1, 39], [13, 13, 14]])
def test_the_cut_into_batches_does_not_matter(metric, sizes):
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(40, 3, generator=generator).softmax(1) for _ in range(2)]
    whole, parts = metric(), metric()
    whole.update(*(pooled(side.tolist()) for side in sides))
    for pieces in zip(*(side.split(sizes) for side in sides), strict=True):
        parts.update(*(pooled(piece.tolist()) for piece in pieces))
    assert values(parts) == pytest.approx(values(whole), abs=1e-7)
