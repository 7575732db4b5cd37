"""Distances to a reference model, by hand and whatever the batches."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from kga.metrics.forgetting import Divergence, ProbabilityShift, TruthRatio, kolmogorov_smirnov
from kga.predictions import LN2, Predictions


def kolmogorov_by_hand(first, second) -> float:
    """Largest gap of the two shares of values up to x, over all x."""
    return max(abs(np.mean(first <= x) - np.mean(second <= x)) for x in np.concatenate([first, second]))


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
    same = {"jsd": 0, "jsd_legacy": 0, "agreement": 1, "exact_agreement": 1, "output_l2": 0}
    assert values(divergence) == pytest.approx(same, abs=1e-6)
    assert values(shift) == {
        "lpd": 0,
        "lpd_median": 0,
        "log_ppl_difference": 0,
        "log_ppl_difference_median": 0,
        "pdlp": 0,
        "ks": 0,
        "ks_p": 1,
        "ks_n": 2,
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


def test_output_distance_by_hand():
    metric = Divergence()
    metric.update(pooled([[0.5, 0.5], [0.9, 0.1]]), pooled([[0.5, 0.5], [0.1, 0.9]]))
    metric.update(pooled([[0.2, 0.8]]), pooled([[0.3, 0.7]]))
    assert values(metric)["output_l2"] == pytest.approx((0 + math.hypot(0.8, 0.8) + math.hypot(0.1, 0.1)) / 3)


def test_an_example_agrees_exactly_where_all_its_positions_do():
    """Examples of two, one, no and two positions; the last one agrees at one of its two."""
    example = [0, 0, 1, 3, 3]
    model = pooled([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3], [0.7, 0.3]], example)
    reference = pooled([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.8, 0.2], [0.1, 0.9]], example)
    metric = Divergence()
    metric.update(model, reference)
    assert values(metric)["agreement"] == pytest.approx(4 / 5)
    assert values(metric)["exact_agreement"] == pytest.approx(2 / 3)


def test_lazy_predictions_in_chunks_are_as_far_apart(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    sides = [pooled(torch.randn(12, 4, generator=generator).softmax(1).tolist(), [0] * 5 + [1] * 7) for _ in range(2)]

    def head(states):
        return states

    head.classes = 4
    lazy = [Predictions(side.states, side.targets, side.example, side.size, head) for side in sides]
    dense, chunked = Divergence(), Divergence()
    dense.update(*sides)
    monkeypatch.setattr("kga.predictions.CHUNK", 12)
    chunked.update(*lazy)
    assert values(chunked) == pytest.approx(values(dense), abs=1e-6)


def test_kolmogorov_smirnov_is_the_largest_gap_of_the_distributions():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3, 3.0):
        first, second = np.round(rng.normal(shift, 1, 80), 1), np.round(rng.normal(0, 1, 80), 1)
        found = kolmogorov_smirnov(first, second)
        assert found["ks"] == pytest.approx(kolmogorov_by_hand(first, second), abs=1e-9)
        assert found["ks_n"] == 80
    assert found["ks_p"] < 1e-6


def test_p_of_exchangeable_losses_is_small_as_often_as_it_says_and_falls_with_n():
    rng = np.random.default_rng(0)
    small = np.mean([kolmogorov_smirnov(*rng.normal(size=(2, 200)))["ks_p"] < 0.1 for _ in range(300)])
    assert 0.03 < small < 0.15
    few, many = (kolmogorov_smirnov(rng.normal(size=n), rng.normal(0.2, 1, n)) for n in (50, 5000))
    assert many["ks_p"] < 1e-6 < few["ks_p"]


def test_the_losses_that_are_compared_are_of_examples_not_positions():
    example = [0, 1, 1, 2]
    sides = [pooled([[p, 1 - p] for p in row], example) for row in ((0.5, 0.1, 0.4, 0.9), (0.5, 0.3, 0.3, 0.2))]
    metric = ProbabilityShift()
    metric.update(*sides)
    losses = [side.mean_per_example(-side.truth()).double() for side in sides]
    found = values(metric)
    assert found["ks_n"] == 3
    assert found["ks"] == pytest.approx(kolmogorov_by_hand(*(loss.numpy() for loss in losses)))


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


def test_truth_ratio_by_hand_whatever_the_batches():
    model, reference = (
        [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]],
        [[0.2, 0.4, 0.4], [0.6, 0.2, 0.2], [0.9, 0.05, 0.05]],
    )
    one, several = TruthRatio(), TruthRatio()
    one.update(pooled(model), pooled(reference))
    for first, second in zip(model, reference, strict=True):
        several.update(pooled([first]), pooled([second]))
    ratios = [math.exp(-(math.log(b) + math.log(c)) / 2 + math.log(a)) for a, b, c in model]
    assert values(one)["truth_ratio"] == pytest.approx(np.mean([min(r, 1 / r) for r in ratios]), abs=1e-6)
    others = [math.log(a) - (math.log(b) + math.log(c)) / 2 for a, b, c in reference]
    gap = kolmogorov_by_hand(np.log(ratios), np.array(others))
    assert values(one)["truth_ratio_ks"] == pytest.approx(gap)
    assert values(several) == pytest.approx(values(one))


def test_texts_have_no_alternatives():
    side = pooled([[0.5, 0.3, 0.2]] * 4, example=[0, 0, 1, 1])
    metric = TruthRatio()
    metric.update(side, side)
    assert metric.compute() == {}
