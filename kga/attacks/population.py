"""Attacks on one model alone: how well it does on an example tells whether it saw it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kga.attacks.base import Attack
from kga.attacks.evidence import RETAIN, Evidence
from kga.errors import UserError, one_of
from kga.tasks.base import TaskModule

# Column -> the sign that makes members larger.
EVERYWHERE = {"loss": -1, "confidence": 1, "entropy": -1, "modified_entropy": -1}
OF_TEXT = {"min_k": 1, "min_k_plus": 1}
ZLIB, REFERENCE = "zlib", "reference"
KNOWN = (*EVERYWHERE, *OF_TEXT, ZLIB, REFERENCE)


class Population(Attack):
    """One threshold for all examples, on the audited model's own signals; nothing is fitted.

    Everywhere: loss, entropy and modified_entropy (Song and Mittal 2021), all three negated, and confidence.
    Where a task writes text: min_k (Shi et al. 2024), min_k_plus (Zhang et al. 2024) and zlib, the log-probability of
    the whole text by bytes of it compressed (Carlini et al. 2021).
    reference: loss under a model that saw neither D_f nor the non-members, minus loss. It was trained on D_r, which
    would hide what the audited model knows of it: no score (NaN) for role retain.

    signals: which of these; null: all that the task has. reference: whether null includes the reference model, which is
    trained for it.
    """

    def __init__(self, signals: Sequence[str] | None = None, reference: bool = True) -> None:
        if not isinstance(reference, bool):
            raise UserError(f"attack.population.reference={reference} must be true or false")
        if signals is not None:
            _require_names(signals)
            if REFERENCE in signals and not reference:
                raise UserError(
                    "attack.population.reference=false takes away what attack.population.signals asks for: leave one "
                    "out"
                )
        self.signals = None if signals is None else tuple(signals)
        self.insists = signals is not None and REFERENCE in signals
        self.reference = reference if signals is None else self.insists

    def require(self, name: str, task: TaskModule) -> None:
        lacking = sorted({*(self.signals or ())} & {*OF_TEXT, ZLIB})
        if lacking and not task.text_metrics():
            raise UserError(
                f"attack.{name}.signals={','.join(lacking)} needs a task that writes text (translation or response), "
                f"not task={task.name}: choose from {', '.join((*EVERYWHERE, REFERENCE))}"
            )

    def scores(self, evidence: Evidence, model: str) -> dict[str, np.ndarray]:
        table = evidence.targets[model]
        found = {name: sign * _column(table, name) for name, sign in EVERYWHERE.items()}
        if evidence.several and evidence.compressed is not None:
            found |= {name: sign * _column(table, name) for name, sign in OF_TEXT.items()}
            found[ZLIB] = _column(table, "log_prob") / evidence.compressed
        if self.reference and evidence.reference is not None:
            easier = _column(evidence.reference, "loss") - _column(table, "loss")
            found[REFERENCE] = np.where(evidence.role == RETAIN, np.nan, easier)
        return {name: values for name, values in found.items() if self.signals is None or name in self.signals}


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[name].to_numpy(float)


def _require_names(signals: object) -> None:
    """UserError unless these are names of signals."""
    if isinstance(signals, str) or not isinstance(signals, Sequence) or not signals:
        raise UserError(
            f"attack.population.signals={signals} must be a list such as [loss,entropy], or null for all that the task "
            "has"
        )
    for name in signals:
        one_of("attack.population.signals", name, KNOWN)
