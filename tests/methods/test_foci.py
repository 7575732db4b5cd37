"""The dependence coefficient and FOCI against the definition written out in loops, and on data whose truth is known."""

import numpy as np
import pytest
import torch

import kga.methods.foci as module
from kga.methods.foci import codec, foci


def reference(y, z, x=None):
    """T by its definition: ranks by counting, neighbours by walking round the circle behind each row."""
    n = len(y)
    z = z.reshape(n, -1)
    x = np.zeros((n, 0)) if x is None else x.reshape(n, -1)
    joint = np.concatenate((x, z), 1)
    rank = [sum(y[j] <= y[i] for j in range(n)) for i in range(n)]
    above = [sum(y[j] >= y[i] for j in range(n)) for i in range(n)]

    def neighbour(points, i):
        best, where = np.inf, None
        for step in range(1, n):
            j = (i + step) % n
            distance = sum((a - b) ** 2 for a, b in zip(points[i], points[j], strict=True))
            if distance < best:
                best, where = distance, j
        return where

    both = [min(rank[i], rank[neighbour(joint, i)]) for i in range(n)]
    if x.shape[1] == 0:
        below = sum(a * (n - a) for a in above)
        return sum(n * b - a**2 for a, b in zip(above, both, strict=True)) / below if below else 0.0
    alone = [min(rank[i], rank[neighbour(x, i)]) for i in range(n)]
    below = sum(r - a for r, a in zip(rank, alone, strict=True))
    return sum(b - a for a, b in zip(alone, both, strict=True)) / below if below else 0.0


def table(n, c, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    y, values = rng.normal(size=n), rng.normal(size=(n, c))
    y = y + values[:, 0]
    return (y, values) if decimals is None else (np.round(y, decimals), np.round(values, decimals))


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("given", [0, 1, 3])
def test_the_coefficient_is_its_definition_also_with_ties(given, decimals):
    y, values = table(40, 5, decimals=decimals)
    x = values[:, :given] if given else None
    for z in (values[:, 3], values[:, 3:5]):
        assert codec(y, z, x) == pytest.approx(reference(y, z, x), abs=1e-12)


def test_arrays_and_tensors_give_the_same():
    y, values = table(50, 3)
    assert codec(y, values[:, 0]) == codec(torch.tensor(y), torch.tensor(values[:, 0]))
    assert foci(y, values) == foci(torch.tensor(y), torch.tensor(values))


def test_independent_variables_score_0_and_functions_1():
    rng = np.random.default_rng(1)
    x, z, noise = rng.normal(size=(3, 1000))
    assert abs(codec(noise, z)) < 0.1
    assert abs(codec(noise, z, x)) < 0.1
    assert codec(np.cos(3 * z), z) > 0.95
    assert codec(x * z, z, x) > 0.85, "a function of both, once the other is known"
    assert codec(np.sign(x * z), z) < 0.1, "which alone tells nothing"


def test_a_constant_loss_leaves_nothing_to_explain():
    assert codec(np.ones(20), np.arange(20.0)) == 0
    assert foci(np.ones(20), np.arange(20.0)) == ([], [])


@pytest.mark.parametrize("seed", range(3))
def test_foci_finds_the_parents_among_noise(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(500, 60))
    y = np.sin(2 * values[:, 7]) + values[:, 33] * values[:, 41]
    chosen, found = foci(y, values)
    assert set(chosen[:3]) == {7, 33, 41}
    assert all(value > 0 for value in found)
    assert len(chosen) < 10


def test_each_choice_is_the_best_one_given_those_before():
    y, values = table(60, 8, seed=3)
    chosen, found = foci(y, values, scale=False)
    assert len(chosen) > 1
    for step, (column, value) in enumerate(zip(chosen, found, strict=True)):
        given = values[:, chosen[:step]] if step else None
        scores = {c: reference(y, values[:, c], given) for c in range(8) if c not in chosen[:step]}
        assert value == pytest.approx(max(scores.values()), abs=1e-12)
        assert scores[column] == pytest.approx(value, abs=1e-12)
    rest = [reference(y, values[:, c], values[:, chosen]) for c in range(8) if c not in chosen]
    assert max(rest) <= 0


def test_blocks_of_candidates_change_nothing(monkeypatch):
    y, values = table(40, 9)
    whole = foci(y, values)
    monkeypatch.setattr(module, "BLOCK", 2 * 40 * 39)
    assert foci(y, values) == whole


def test_scales_of_columns_do_not_matter_unless_asked_for():
    y, values = table(80, 6, seed=4)
    stretched = values * np.array([1, 1000, 0.001, 5, 1, 1])
    assert foci(y, stretched, at_least=4)[0] == foci(y, values, at_least=4)[0]
    assert foci(y, stretched, at_least=4, scale=False)[1] != foci(y, values, at_least=4, scale=False)[1]


def test_limits_and_the_first_choice():
    y, values = table(60, 8, seed=3)
    whole = foci(y, values)
    assert foci(y, values, limit=1) == (whole[0][:1], whole[1][:1])
    assert foci(y, values, limit=0) == ([], [])
    noise = np.random.default_rng(0).normal(size=60)
    useless = values[:, [k for k in range(8) if reference(noise, values[:, k]) <= 0]]
    assert useless.shape[1]
    assert foci(noise, useless) == ([], [])
    assert len(foci(noise, useless, at_least=1)[0]) == 1


def test_columns_that_do_not_vary_are_no_better_than_noise():
    """With the first row as everybody's neighbour where all rows are alike, T would be near 1 if its rank were high."""
    y, _ = table(200, 1)
    y[0] = 100
    assert abs(codec(y, np.zeros(200))) < 0.25


@pytest.mark.parametrize("bad", [np.array([np.nan, 1.0, 2.0]), np.array([1.0])])
def test_values_that_are_not_finite_or_too_few_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        codec(bad, np.arange(float(len(bad))))
