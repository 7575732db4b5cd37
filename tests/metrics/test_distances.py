"""Distances of states and weights against their definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from kga.metrics.distances import cka, weight_distance


def states(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def by_gram(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with the centring matrix written out."""
    centre = np.eye(len(x)) - np.full((len(x), len(x)), 1 / len(x))
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return float(np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m)))


@pytest.mark.parametrize(("rows", "widths"), [(30, (4, 6)), (5, (12, 9)), (8, (3, 20))])
def test_cka_is_its_definition_in_either_form(rows, widths):
    x, y = states(rows, widths[0], 0), states(rows, widths[1], 1)
    assert cka(x, y) == pytest.approx(by_gram(x.double().numpy(), y.double().numpy()), abs=1e-9)


def test_cka_ignores_rotation_scale_and_shift_but_no_change_of_states():
    x = states(40, 6, 0)
    turn = torch.linalg.qr(states(6, 6, 2))[0]
    assert cka(x, 3 * x @ turn + 5) == pytest.approx(1, abs=1e-6)
    assert cka(x, states(40, 6, 1)) < 0.6


def test_weights_are_compared_by_all_parameters_tied_ones_once():
    def model(tied: bool) -> nn.Module:
        made = nn.ModuleDict({"in": nn.Embedding(3, 2), "out": nn.Linear(2, 3, bias=False)})
        if tied:
            made["out"].weight = made["in"].weight
        return made

    first, second = model(True), model(True)
    with torch.no_grad():
        first["in"].weight.fill_(1.0)
        second["in"].weight.fill_(3.0)
    assert weight_distance(first, second) == pytest.approx(2 * 6**0.5)
    assert weight_distance(first, first) == 0


def test_models_of_other_shapes_have_no_distance():
    assert weight_distance(nn.Linear(2, 3), nn.Linear(2, 4)) is None
    assert weight_distance(nn.Linear(2, 3), nn.Linear(2, 3, bias=False)) is None
