"""Which example of one set meets which of another."""

from collections.abc import Sequence

import numpy as np

from kga.errors import UserError


def ranked_partners(keys: Sequence[float], others: Sequence[float]) -> np.ndarray:
    """[len(keys)] positions in ``others``: both are sorted by key and meet rank by rank, so that keys are close."""
    order, other_order = np.argsort(keys, kind="stable"), np.argsort(others, kind="stable")
    partner = np.empty(len(keys), np.int64)
    partner[order] = other_order[np.arange(len(keys)) * len(others) // len(keys)]
    return partner


def label_partners(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[len(labels)] positions in ``others`` with the same label, taken in turn; any, in turn, where there is none."""
    if labels.dtype == object:
        raise UserError("method.pairing=label needs one label per example: choose random, fixed or length")
    partner = np.arange(len(labels)) % len(others)
    for label in np.unique(labels):
        same = np.flatnonzero(others == label)
        if len(same):
            mine = np.flatnonzero(labels == label)
            partner[mine] = same[np.arange(len(mine)) % len(same)]
    return partner
