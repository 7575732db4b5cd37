"""Which setting of each method to use: the tuning rule, over trials that looked at no retrained model, test set or attack."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd

from kga.errors import UserError
from kga.report.settings import GROUP
from kga.report.tidy import aggregate

LOSS_ALLOWED = 0.02  # utility on validation that a trial may lose against the original model
FIRST_SEED = 100  # of trials; smaller seeds are those of results, which choose nothing
_MEASURED = ["validation_original", "validation_unlearned", "forget_unlearned", "new_original"]


def select(values: pd.DataFrame) -> pd.DataFrame:
    """One row per trial (task, data, model, method, setting), the chosen one of each method marked.

    Columns beside those: seeds (number of them); validation_loss (utility lost on validation against A_D), gap (|utility
    of A* on D_f - utility of A_D on unseen D_n|; NaN without D_n), chosen. Of a method's trials that lose at most .02, the
    one with the smallest gap is chosen (of equal ones, the one that loses less); where every trial loses more, the one
    that loses least.

    Args:
        values: every number of the runs, as `tidy` gives them. Runs with seeds below 100 are results and not trials: they
            neither count nor choose.

    Raises:
        UserError: there is no trial.
    """
    trials = values[(values["quantity"] == "selection") & _of_trials(values)]
    if trials.empty:
        raise UserError(
            f"--select: no completed run has a seed of {FIRST_SEED} or above, as trials have (smaller seeds are for "
            "results, which choose nothing); run the trials with seed=100,101"
        )
    over_seeds = aggregate(trials)
    keys = [*GROUP, "method", "setting"]
    wide = over_seeds.set_index([*keys, "metric"])["mean"].unstack().reindex(columns=_MEASURED)
    table = wide.assign(
        seeds=over_seeds.groupby(keys)["seeds"].max(),
        validation_loss=wide["validation_original"] - wide["validation_unlearned"],
        gap=(wide["forget_unlearned"] - wide["new_original"]).abs(),
    ).reset_index()
    table["chosen"] = False
    for _, rows in table.groupby([*GROUP, "method"], sort=False):
        table.loc[choose(rows), "chosen"] = True
    return table[[*keys, "seeds", "validation_loss", "gap", "chosen"]]


def choose(rows: pd.DataFrame) -> Hashable:
    """Index of the trial that the rule takes: by columns ``validation_loss`` and ``gap``, as `select` says."""
    allowed = rows[rows["validation_loss"] <= LOSS_ALLOWED]
    order = ["gap", "validation_loss"] if len(allowed) else ["validation_loss"]
    return (allowed if len(allowed) else rows).sort_values(order, kind="stable").index[0]


def results(values: pd.DataFrame) -> pd.DataFrame:
    """The numbers that tables, tests and figures are made of: those of trials only where a (task, data, model) has no others."""
    trials = _of_trials(values)
    if not trials.any():
        return values
    return values[~trials | trials.groupby([values[name] for name in GROUP]).transform("all")]


def on_trials(values: pd.DataFrame) -> str:
    """What is to be said of the trials among all runs of a table; empty where there are none."""
    trials = _of_trials(values)
    if not trials.any():
        return ""
    if trials.all():
        return f"These are trials (seeds of {FIRST_SEED} and above), which choose settings: they are no results."
    runs = values.loc[trials, "folder"].nunique()
    return f"Left out: {runs} trial{'s' * (runs > 1)} (seeds of {FIRST_SEED} and above), which choose settings; values.csv has all."


def _of_trials(values: pd.DataFrame) -> pd.Series:
    return (values["seed"] >= FIRST_SEED).fillna(False).astype(bool)
