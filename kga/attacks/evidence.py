"""What the attacker holds: per-example signals of the audited models and of shadow models, as plain tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

FORGET, NONMEMBER, RETAIN = "forget", "nonmember", "retain"


@dataclass(frozen=True)
class Evidence:
    """Signals (columns of ``kga.metrics.signals``) of T audited examples and Z further ones that no model was trained on.

    role: [T] "forget" (D_f: members that should be forgotten), "nonmember" (of the holdout, like D_f) or "retain" (a
    sample of D_r: members that stay).
    targets: model -> T rows of signals, in the order of ``role``; population: model -> Z rows. Models are "original",
    "retrain", "unlearned", "noise_floor_N".
    inside: [N, T] whether shadow model n was trained on example t; they come in pairs, of which the second (1, 3, ...)
    has the examples that the first has not, so each example is in exactly half of them.
    shadows, shadow_population: one table of T, and of Z, rows for each shadow model (trained, nothing unlearned).
    unlearned: one table of T rows for each shadow model after its forget and nonmember members were unlearned by the
    audited method (U-LiRA's worlds).
    reference: T rows of a model that saw none of the forget and nonmember examples, or None.
    compressed: [T] bytes of the true text (target, response) under zlib, where a task writes text.
    several: whether an example has several scored positions (text, multi-label), so that per-position signals exist.
    """

    role: np.ndarray
    targets: Mapping[str, pd.DataFrame]
    population: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    inside: np.ndarray | None = None
    shadows: Sequence[pd.DataFrame] = ()
    shadow_population: Sequence[pd.DataFrame] = ()
    unlearned: Sequence[pd.DataFrame] = ()
    reference: pd.DataFrame | None = None
    compressed: np.ndarray | None = None
    several: bool = False
