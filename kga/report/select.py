"""Which setting of each method to use: the tuning rule, over trials that looked at no retrained model, test set or attack."""

from __future__ import annotations

import pandas as pd

from kga.report.tables import GROUP

LOSS_ALLOWED = 0.02  # utility on validation that a trial may lose against the original model


def select(aggregated: pd.DataFrame) -> pd.DataFrame:
    """One row per trial (task, data, model, method, setting), the chosen one of each method marked.

    Columns beside those: seeds; validation_loss (utility lost on validation against A_D), gap (|utility of A* on D_f -
    utility of A_D on unseen D_n|), chosen. Of a method's trials that lose at most .02, the one with the smallest gap is
    chosen (of equal ones, the one that loses less); where every trial loses more, the one that loses least.
    """
    trials = aggregated[aggregated["quantity"] == "selection"]
    keys = [*GROUP, "method", "setting"]
    wide = trials.set_index([*keys, "metric"])["mean"].unstack()
    table = wide.assign(
        seeds=trials.groupby(keys)["seeds"].max(),
        validation_loss=wide["validation_original"] - wide["validation_unlearned"],
        gap=(wide["forget_unlearned"] - wide["new_original"]).abs(),
    ).reset_index()
    table["chosen"] = False
    for _, rows in table.groupby([*GROUP, "method"], sort=False):
        allowed = rows[rows["validation_loss"] <= LOSS_ALLOWED]
        order = ["gap", "validation_loss"] if len(allowed) else ["validation_loss"]
        best = (allowed if len(allowed) else rows).sort_values(order, kind="stable").index[0]
        table.loc[best, "chosen"] = True
    return table[[*keys, "seeds", "validation_loss", "gap", "chosen"]]
