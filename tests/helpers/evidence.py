"""Evidence of models that never existed: log-odds drawn at random, raised where a model was trained on an example."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from kga.attacks.evidence import FORGET, NONMEMBER, RETAIN, Evidence


def table(phi: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Signals of a two-class model whose log-odds of the truth are ``phi``; those of positions with some noise."""
    noise = np.random.default_rng(seed).normal(size=len(phi))
    loss, other = np.logaddexp(0, -phi), np.logaddexp(0, phi)  # -log p, -log(1 - p)
    p = np.exp(-loss)
    return pd.DataFrame({
        "loss": loss, "log_prob": -5 * loss, "correct": (phi > 0).astype(float), "confidence": p, "phi": phi,
        "entropy": p * loss + (1 - p) * other, "modified_entropy": 2 * (1 - p) * loss, "min_k": -3 * loss + noise / 9,
        "min_k_plus": -loss + noise / 9, "top_1": np.maximum(p, 1 - p), "top_2": np.minimum(p, 1 - p), "top_3": 0 * p,
    })  # fmt: skip


def halves(role: np.ndarray, shadows: int, rng: np.random.Generator) -> np.ndarray:
    """[N, T] random halves of each role and their complements, in turn."""
    inside = np.zeros((shadows, len(role)), bool)
    for first in range(0, shadows, 2):
        for name in np.unique(role):
            of_role = rng.permutation(np.flatnonzero(role == name))
            inside[first, of_role[: len(of_role) // 2]] = True
        inside[first + 1] = ~inside[first]
    return inside


def evidence(
    seed: int = 0,
    size: int = 300,
    shadows: int = 8,
    memory: float = 3.0,
    left: float | None = 1.0,
    models: Mapping[str, float] | None = None,
    beside: int = 100,
    text: bool = False,
) -> Evidence:
    """Examples of each role, ``size`` each, of unlike difficulty; log-odds are ease, noise, and what was memorised.

    memory: what a model that was trained on an example has more; left: what is left of it after unlearning (None:
    shadow models were not unlearned). models: audited model -> what it has more on D_f. beside: size of the population.
    """
    rng = np.random.default_rng(seed)
    role = np.repeat([FORGET, NONMEMBER, RETAIN], size)
    ease, ease_beside = rng.normal(0, 2, 3 * size), rng.normal(0, 2, beside)
    forget, retain = role == FORGET, role == RETAIN

    def say(more: np.ndarray) -> pd.DataFrame:
        return table(ease + more + rng.normal(size=len(ease)), rng.integers(2**31))

    def say_beside() -> pd.DataFrame:
        return table(ease_beside + rng.normal(size=beside))

    inside = halves(role, shadows, rng)
    models = {"audited": memory} if models is None else models
    return Evidence(
        role,
        {name: say(more * forget + memory * retain) for name, more in models.items()},
        {name: say_beside() for name in models},
        inside=inside,
        shadows=[say(memory * member) for member in inside],
        shadow_population=[say_beside() for _ in inside],
        unlearned=() if left is None else [say(member * np.where(retain, memory, left)) for member in inside],
        reference=say(memory * retain),
        compressed=rng.integers(20, 60, len(role)) if text else None,
        several=text,
    )


def auc(given: Evidence, scores: np.ndarray, members: str = FORGET) -> float:
    """Of one role against the non-members; no score may be missing."""
    chosen = np.isin(given.role, (members, NONMEMBER))
    return roc_auc_score(given.role[chosen] == members, scores[chosen])


def relabelled(given: Evidence) -> Evidence:
    """The same evidence with the audited model's members and non-members named the other way round."""
    names = {FORGET: NONMEMBER, NONMEMBER: FORGET, RETAIN: RETAIN}
    changed = {name: getattr(given, name) for name in Evidence.__dataclass_fields__}
    return Evidence(**changed | {"role": np.array([names[name] for name in given.role])})
