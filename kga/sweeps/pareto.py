"""What a search over settings has found, in the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from kga.console import console, note
from kga.report.select import choose
from kga.sweeps.space import ORIGINAL, written

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def show(trials: Sequence[FrozenTrial], best: set[int], fixed: Sequence[str]) -> None:
    """The Pareto-best of the trials that were made, the one that the tuning rule takes, and how to use that.

    best: numbers of the Pareto-best. fixed: overrides that all trials share.
    """
    if not trials:
        return
    found = pd.DataFrame(
        [(trial.values[0], trial.user_attrs[ORIGINAL] - trial.values[0], trial.values[1]) for trial in trials],
        columns=["utility", "validation_loss", "gap"],
        index=[trial.number for trial in trials],
    )
    taken = choose(found)
    table = Table(
        title=f"Best of {len(trials)} trials by utility on validation and forgetting",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    for name in ("", "trial", "utility", "lost", "forgetting", "setting"):
        table.add_column(name, justify="left" if name in ("", "setting") else "right", overflow="fold")
    for trial in sorted((one for one in trials if one.number in best | {taken}), key=lambda one: one.values[1]):
        row, mark, style = found.loc[trial.number], *(("*", "bold") if trial.number == taken else ("", ""))
        setting = "\n".join(f"{name.removeprefix('method.')}={_short(value)}" for name, value in trial.params.items())
        numbers = (f"{row['utility']:.3f}", f"{row['validation_loss']:+.3f}", f"{row['gap']:.3f}")
        table.add_row(mark, str(trial.number), *numbers, setting, style=style)
    console.print(table)
    note(
        "lost: against A_D; forgetting: how far A* is on D_f from A_D on unseen examples; *: what the tuning rule takes"
    )
    (chosen,) = (one.params for one in trials if one.number == taken)
    command = ["kga", "-m", "seed=0,1,2", *fixed, *(f"{name}={written(value)}" for name, value in chosen.items())]
    note(f"Its result, on seeds that chose nothing: {shlex.join(command)}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else written(value)
