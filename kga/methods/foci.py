"""The conditional dependence coefficient T and the choice of variables by it (Azadkia & Chatterjee 2021, FOCI).

T(Y, Z | X) is 0 where Y does not depend on Z once X is known, 1 where Y is a function of Z and X; it is estimated from
ranks and nearest neighbours, without a model. All functions take numpy arrays or tensors and compute in float64 on
their device.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**21  # numbers of one [candidates, n, n - 1] table of distances: 16 MiB

Values: TypeAlias = np.ndarray | Tensor | Sequence


def codec(y: Values, z: Values, x: Values | None = None) -> float:
    """T(Y, Z | X) of y [n], z [n] or [n, q] and x [n] or [n, p]; without x the unconditional T(Y, Z).

    With R_i = #{j: y_j <= y_i}, L_i = #{j: y_j >= y_i}, N(i) the nearest neighbour of i in X and M(i) that in (X, Z):

        T(Y, Z | X) = sum_i (min(R_i, R_M(i)) - min(R_i, R_N(i))) / sum_i (R_i - min(R_i, R_N(i)))
        T(Y, Z)     = sum_i (n min(R_i, R_M(i)) - L_i^2) / sum_i L_i (n - L_i)

    A denominator of 0 (nothing of Y is left to explain) gives 0. Of equally near neighbours the first one behind i is
    taken, counted in a circle: no row is every row's neighbour where all are alike.
    """
    ranks, z = _ranks(_table(y)[:, 0]), _table(z)
    base = _ring_distances(None if x is None else _table(x), z)
    joint = base + _ring_distances(z, z)
    return float(_coefficients(ranks, None if x is None else base, joint.argmin(1)[None])[0])


def foci(
    y: Values, candidates: Values, limit: int | None = None, at_least: int = 0, scale: bool = True
) -> tuple[list[int], list[float]]:
    """Greedily chooses the columns of candidates [n, c] that y [n] depends on; in order, with the T of each choice.

    The first choice has the largest T(Y, Z), each further one the largest T(Y, Z | the chosen ones); of equals the
    first column. Stops when the largest T is 0 or less, or at ``limit`` columns.

    at_least: columns that are chosen whatever their T. scale: columns are brought to standard deviation 1 first, so that
    units of measurement don't decide who is near (columns that don't vary stay as they are).
    """
    columns, ranks = _table(candidates), _ranks(_table(y)[:, 0])
    if scale:
        deviation = columns.std(0, correction=0)
        columns = columns / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    columns = columns.T.contiguous()
    base, left = _ring_distances(None, columns.T), torch.ones(len(columns), dtype=torch.bool, device=columns.device)
    chosen: list[int] = []
    values: list[float] = []
    limit = len(columns) if limit is None else min(limit, len(columns))
    while len(chosen) < limit:
        found = _coefficients(ranks, base if chosen else None, _joint_neighbours(base, columns))
        best = int(found.masked_fill(~left, -torch.inf).argmax())
        value = float(found[best])
        if value <= 0 and len(chosen) >= at_least:
            break
        chosen.append(best)
        values.append(value)
        left[best] = False
        base = base + _on_ring(columns[best]).square()
    return chosen, values


def _table(values: Values) -> Tensor:
    """[n, p] float64; ValueError for fewer than two rows or values that are not finite."""
    table = torch.as_tensor(values).double()
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) < 2 or not bool(torch.isfinite(table).all()):
        raise ValueError(f"expected finite values of 2 or more rows, [n] or [n, p], got {list(table.shape)}")
    return table


def _ranks(y: Tensor) -> tuple[Tensor, Tensor]:
    """R_i and L_i of y [n]."""
    ordered = y.sort().values
    at_most = torch.searchsorted(ordered, y, right=True)
    return at_most.double(), (len(y) - torch.searchsorted(ordered, y)).double()


def _on_ring(column: Tensor) -> Tensor:
    """[..., n] values to [..., n, n - 1] differences: at [i, k] that of row i and row (i + 1 + k) mod n.

    In this layout the first minimum of a row is the neighbour that comes first behind it, and no row meets itself.
    """
    n = column.shape[-1]
    twice = torch.cat((column, column), -1)
    return twice.unfold(-1, n - 1, 1)[..., 1 : n + 1, :] - column[..., None]


def _ring_distances(x: Tensor | None, like: Tensor) -> Tensor:
    """[n, n - 1] squared distances of the rows of x [n, p]; zeros, of as many rows as ``like``, where there is no x."""
    n = len(like)
    total = like.new_zeros(n, n - 1)
    for column in () if x is None else x.T:
        total += _on_ring(column).square()
    return total


def _joint_neighbours(base: Tensor, columns: Tensor) -> Tensor:
    """[c, n] steps on the ring to the nearest neighbour in (X, Z), Z each of the columns [c, n] in turn."""
    size = max(1, BLOCK // base.numel())
    parts = [_on_ring(block).square_().add_(base).argmin(-1) for block in columns.split(size)]
    return torch.cat(parts)


def _coefficients(ranks: tuple[Tensor, Tensor], base: Tensor | None, joint: Tensor) -> Tensor:
    """[c] T for neighbours ``joint`` [c, n] in (X, Z); base: distances in X, None where X is empty."""
    at_most, at_least = ranks
    n = len(at_most)

    def lower(steps: Tensor) -> Tensor:
        """min(R_i, R of its neighbour)."""
        neighbours = (torch.arange(n, device=steps.device) + 1 + steps) % n
        return torch.minimum(at_most, at_most[neighbours])

    if base is None:
        above = (n * lower(joint) - at_least.square()).sum(-1)
        below = (at_least * (n - at_least)).sum()
    else:
        alone = lower(base.argmin(-1))
        above = (lower(joint) - alone).sum(-1)
        below = (at_most - alone).sum()
    return above / below if below > 0 else torch.zeros_like(above)
