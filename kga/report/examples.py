"""The single examples of a run: their values, and which of them were forgotten most and least."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet

EXTREMES = 10  # examples listed as most, and as least, forgotten
SCORE = "score_"  # and the name of an attack: a column of its scores
_NEEDED = ("id", "model", "split", "loss")
_OF_EXAMPLES = ("difficulty", "memorisation")  # the same for every model
MODELS = {"original": "original", "unlearned": "unlearned", "retrain": "retrained"}


def read_examples(folder: Path) -> pd.DataFrame | None:
    """The columns of examples.parquet that a report uses; None where there is no such file."""
    path = folder / "examples.parquet"
    if not path.exists():
        return None
    wanted = [name for name in parquet.read_schema(path).names if _wanted(name)]
    return pd.read_parquet(path, columns=wanted)


def _wanted(name: str) -> bool:
    return name in (*_NEEDED, *_OF_EXAMPLES) or name.startswith(SCORE)


def extremes(
    examples: pd.DataFrame | None, texts: Mapping[str, str], attack: str | None = None
) -> tuple[list[str], list[tuple[str, list[dict[str, Any]]]]]:
    """The forget examples whose loss rose most and least from original to unlearned.

    Returns names of the columns, and (title, examples) with an id, a text or None, and a value for each column.

    Args:
        examples: as `read_examples` gives them.
        attack: the one whose scores of the unlearned model are shown, where the examples have them.
    """
    if examples is None:
        return [], []
    forget = examples[examples["split"] == "forget"]
    losses = forget.pivot_table(index="id", columns="model", values="loss")
    if not {"original", "unlearned"} <= set(losses):
        return [], []
    table = pd.DataFrame({"change": losses["unlearned"] - losses["original"]})
    # A_R stays as a column without values where there is none.
    table = table.join(losses.reindex(columns=list(MODELS)).rename(columns=MODELS)).join(_beside(forget, attack))
    if "difficulty" in table and np.allclose(table["difficulty"], table["original"], equal_nan=True):
        table = table.drop(columns="difficulty").rename(columns={"original": "original (difficulty)"})
    ordered = table.dropna(subset="change").sort_values("change", ascending=False, kind="stable")
    most = ordered.head(EXTREMES)
    least = ordered.iloc[len(most) :].tail(EXTREMES).iloc[::-1]
    return list(table), [
        (title, [_example(str(name), row, texts) for name, row in part.iterrows()])
        for title, part in (("Most forgotten", most), ("Least forgotten", least))
        if len(part)
    ]


def _beside(forget: pd.DataFrame, attack: str | None) -> pd.DataFrame:
    """What is known of the examples besides their losses, by id; columns without any value are left out."""
    unlearned = forget[forget["model"] == "unlearned"].drop_duplicates("id").set_index("id")
    named = {name: name for name in _OF_EXAMPLES} | {f"{SCORE}{attack}": f"{attack} score"}
    found = unlearned[[name for name in named if name in unlearned]].dropna(axis=1, how="all")
    return found.rename(columns=named)


def _example(name: str, row: pd.Series, texts: Mapping[str, str]) -> dict[str, Any]:
    values = {column: None if pd.isna(value) else float(value) for column, value in row.items()}
    return {"id": name, "text": texts.get(name), "values": values}
