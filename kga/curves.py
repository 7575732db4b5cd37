"""Curves that a result holds, thinned: a report over many runs draws them without reading anything else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kga.report.examples import SCORE

if TYPE_CHECKING:
    import pandas as pd

FALSE = np.geomspace(1e-3, 1, 31)  # rates of false positives, ten to a decade
POINTS = 100  # of a curve over the updates, at most
DIGITS = 5


def of_run(scores: pd.DataFrame, updates: Path) -> dict:
    """The section ``curves`` of a result.

    roc: ``fpr``, and for each attack and model the largest rate of true positives at no more false ones than each of those.
    updates: ``update``, and of methods that align gaps ``a`` and ``g`` (nats), long histories averaged over neighbours.

    scores: a row for each audited example and model, with columns model, split, score_ATTACK. updates: a run's updates.csv.
    """
    import pandas as pd

    found = {"roc": rocs(scores), "updates": gaps(pd.read_csv(updates)) if updates.is_file() else {}}
    return {name: curves for name, curves in found.items() if curves}


def rocs(scores: pd.DataFrame) -> dict:
    """The ROC curves of every attack and model; the means over further retrained models have none."""
    rates = {
        column.removeprefix(SCORE): {
            model: true_rates(*sides)
            for model, rows in scores.groupby("model", sort=False)
            if not str(model).startswith("noise_floor")
            and min(map(len, sides := [_scored(rows, column, split) for split in ("forget", "nonmember")])) > 1
        }
        for column in scores.columns
        if column.startswith(SCORE)
    }
    rates = {attack: models for attack, models in rates.items() if models}
    return {"fpr": FALSE.round(DIGITS).tolist(), **rates} if rates else {}


def _scored(rows: pd.DataFrame, column: str, split: str) -> np.ndarray:
    values = rows.loc[rows["split"] == split, column].to_numpy(float)
    return values[~np.isnan(values)]


def true_rates(members: np.ndarray, nonmembers: np.ndarray) -> list[float]:
    """The largest share of members found at no more false alarms than each of ``FALSE``."""
    from kga.metrics.membership import roc

    false, true = roc(members, nonmembers)
    return true[np.searchsorted(false, FALSE + 1e-12, side="right") - 1].round(DIGITS).tolist()


def gaps(updates: pd.DataFrame) -> dict:
    """The gaps of a history that has them."""
    if updates.empty or not {"update", "a", "g"} <= set(updates):
        return {}
    width = -(-int(updates["update"].max()) // POINTS)
    means = updates.groupby((updates["update"] - 1) // width * width + 1)[["a", "g"]].mean()
    kept = {name: [float(f"{value:.{DIGITS}g}") for value in means[name]] for name in means}
    return {"update": means.index.tolist(), **kept}
