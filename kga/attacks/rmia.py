"""RMIA: is an example more probable, against what other models say of it, than unseen examples are?"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from kga.attacks.base import Attack
from kga.attacks.evidence import RETAIN, Evidence
from kga.errors import UserError

GRID = np.arange(11) / 10  # values of a that are tried
UNTUNED = 0.3  # a where there are too few shadow models to tune it


class Rmia(Attack):
    """Robust membership inference (Zarifzadeh et al. 2024), offline form. With p = exp(-loss), the probability of the
    truth (text: of its mean token), and P(x) = 1/2 [(1 + a) mean over shadow models without x of p(x) + 1 - a]:

    rmia: share of unseen examples z (of the population) with [p(x) / P(x)] / [p(z) / P(z)] >= gamma. No shadow model
    was trained on a z, so all count for P(z).

    a is the one of 0, .1, ..., 1 with the best AUC against the first shadow model, whose members among D_f and the
    non-members are known; the audited model isn't looked at. Nor is the second shadow model, the complement of the
    first: whether it counts for P(x) would tell whether x is in the first. So with two shadow models a is .3.

    gamma: how much more probable x must be. references: shadow models that count for P, at most, the first ones (null:
    all).
    """

    shadows = True
    population = 20

    def __init__(self, gamma: float = 1.0, references: int | None = None) -> None:
        if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma < math.inf:
            raise UserError(f"attack.rmia.gamma={gamma} must be a number above 0")
        whole = isinstance(references, int) and not isinstance(references, bool)
        if references is not None and (not whole or references < 1):
            raise UserError(
                f"attack.rmia.references={references} must be a number of shadow models, 1 or more, or null for all"
            )
        self.gamma, self.references = gamma, references

    def scores(self, evidence: Evidence, model: str) -> dict[str, np.ndarray]:
        audited = _log_p([evidence.targets[model]])[0], _log_p([evidence.population[model]])[0]
        shadows = _log_p(evidence.shadows), _log_p(evidence.shadow_population)
        return {"rmia": self._share(audited, shadows, ~evidence.inside, self.tuned(evidence))}

    def tuned(self, evidence: Evidence) -> float:
        """The a that tells best who is in the first shadow model."""
        if len(evidence.shadows) < 4:
            return UNTUNED
        chosen = evidence.role != RETAIN
        targets, population = _log_p(evidence.shadows)[:, chosen], _log_p(evidence.shadow_population)
        audited, others = (targets[0], population[0]), (targets[2:], population[2:])
        members, outside = evidence.inside[0, chosen], ~evidence.inside[2:, chosen]
        aucs = [roc_auc_score(members, self._share(audited, others, outside, a)) for a in GRID]
        return float(GRID[np.argmax(aucs)])

    def _share(
        self,
        audited: tuple[np.ndarray, np.ndarray],
        shadows: tuple[np.ndarray, np.ndarray],
        outside: np.ndarray,
        a: float,
    ) -> np.ndarray:
        """[T] scores. audited: log p of [T] examples and [Z] of the population; shadows: of [N, T] and [N, Z]; outside:
        [N, T] bool, whether a shadow model counts for P of an example."""
        targets = audited[0] - self._log_prior(shadows[0], outside, a)
        population = audited[1] - self._log_prior(shadows[1], np.ones_like(shadows[1], bool), a)
        reached = np.searchsorted(np.sort(population), targets - math.log(self.gamma), side="right")
        return reached / len(population)

    def _log_prior(self, log_p: np.ndarray, counted: np.ndarray, a: float) -> np.ndarray:
        """[X] log P from [N, X] log p of the shadow models that are counted [N, X]."""
        if self.references is not None:
            counted = counted & (counted.cumsum(0) <= self.references)
        mean = logsumexp(np.where(counted, log_p, -np.inf), axis=0) - np.log(counted.sum(0))
        with np.errstate(divide="ignore"):  # log 0 at a = 1
            return np.logaddexp(np.log1p(a) + mean, np.log1p(-a)) - math.log(2)


def _log_p(tables: Sequence[pd.DataFrame]) -> np.ndarray:
    """[N, X] log-probabilities of the truth, per position, of N tables."""
    return -np.stack([table["loss"].to_numpy(float) for table in tables])
