"""LiRA and U-LiRA: for each example, what models say of it that saw it against what models say that did not."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from kga.attacks.base import Attack
from kga.attacks.evidence import RETAIN, Evidence
from kga.errors import UserError, one_of

FEW = 16  # shadow models per side below which spreads are pooled over examples
FLOOR = 0.01  # the least spread, as a share of the larger pooled one
VARIANCES = ("auto", "global", "example")
SIGNALS = {"phi": 1, "loss": -1}  # the sign that makes members larger


class Lira(Attack):
    """Likelihood ratio attack (Carlini et al. 2022); U-LiRA (Hayes et al. 2024) is the same over worlds that forgot.

    For each example the signals of shadow models with it, and of those without it, are taken as normal: mean by median,
    spread by ``variance``. With s the audited model's signal:
    lira_online: log N(s; in) - log N(s; out). lira_offline: (s - mean_out) / spread_out, which ranks as the paper's
    one-sided 1 - Pr[Z > s] does, without running into 1. ulira_online, ulira_offline: the same after the audited method
    unlearned in every shadow model; "in" are then those that were trained on an example and unlearned it (role retain:
    in which it stayed while others were unlearned), "out" those that never saw it and unlearned others.

    variance: "example" (of each example on its own), "global" (of the deviations from the medians, pooled over all
    examples of a side; in U-LiRA those of D_r apart from the others), or "auto" (global below 16 shadow models per side).
    signal: "phi" or "loss" (its negative), both per position; null: loss where the task writes text, phi otherwise.
    unlearned: whether U-LiRA is made, for which the method unlearns in every shadow model.
    """

    shadows = True

    def __init__(self, variance: str = "auto", signal: str | None = None, unlearned: bool = True) -> None:
        one_of("attack.lira.variance", variance, VARIANCES)
        if signal is not None:
            one_of("attack.lira.signal", signal, SIGNALS)
        if not isinstance(unlearned, bool):
            raise UserError(f"attack.lira.unlearned={unlearned} must be true or false")
        self.variance, self.signal, self.unlearned = variance, signal, unlearned

    def scores(self, evidence: Evidence, model: str) -> dict[str, np.ndarray]:
        worlds = {"lira": evidence.shadows}
        if self.unlearned and len(evidence.unlearned):
            worlds["ulira"] = evidence.unlearned
        text = evidence.several and evidence.compressed is not None
        signal = self.signal or ("loss" if text else "phi")
        audited = _values([evidence.targets[model]], signal)[0]
        found = {}
        for name, tables in worlds.items():
            # In U-LiRA's worlds what was inside was unlearned, or it stayed: two kinds, each with a spread of its own.
            kinds = evidence.role == RETAIN if name == "ulira" else None
            online, offline = likelihood_ratio(audited, _values(tables, signal), evidence.inside, self.variance, kinds)
            found |= {f"{name}_online": online, f"{name}_offline": offline}
        return found


def likelihood_ratio(
    audited: np.ndarray, worlds: np.ndarray, inside: np.ndarray, variance: str = "auto", kinds: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """([T] online, [T] offline) scores of LiRA.

    audited: [T] signals, larger for members; worlds: [N, T] those of shadow models; inside: [N, T] bool, with both
    values in every column; kinds: [T] spreads are pooled over examples of one kind (None: over all).
    """
    sides = [np.where(mask, worlds, np.nan) for mask in (inside, ~inside)]
    means = [np.nanmedian(side, axis=0) for side in sides]
    pooled = [_pooled(side - mean, kinds) for side, mean in zip(sides, means, strict=True)]
    fewest = min(inside.sum(0).min(), (~inside).sum(0).min())
    each = variance == "example" or (variance == "auto" and fewest >= FEW)
    spreads = [np.nanstd(side, axis=0) for side in sides] if each else pooled
    floor = FLOOR * (
        max(map(np.max, pooled)) or 1.0
    )  # one shadow model per side has no spread: any that both share ranks the same
    spread_in, spread_out = (np.maximum(spread, floor) for spread in spreads)
    online = norm.logpdf(audited, means[0], spread_in) - norm.logpdf(audited, means[1], spread_out)
    return online, (audited - means[1]) / spread_out


def _pooled(deviations: np.ndarray, kinds: np.ndarray | None) -> np.ndarray:
    """[T] spread of [N, T] deviations from the medians, over all examples of an example's kind."""
    if kinds is None:
        return np.full(deviations.shape[1], np.nanstd(deviations))
    spreads = np.empty(deviations.shape[1])
    for kind in np.unique(kinds):
        spreads[kinds == kind] = np.nanstd(deviations[:, kinds == kind])
    return spreads


def _values(tables: Sequence[pd.DataFrame], signal: str) -> np.ndarray:
    """[N, T] signals of N tables."""
    return SIGNALS[signal] * np.stack([table[signal].to_numpy(float) for table in tables])
