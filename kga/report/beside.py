"""Figures from what lies beside the results: ROC curves (examples.parquet), gaps over the updates (updates.csv).

Only so many of these files are read that a report over a thousand runs stays quick.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from kga.metrics.membership import roc
from kga.report.canvas import COLOURS, Style
from kga.report.collect import Run
from kga.report.curves import gaps, rocs
from kga.report.examples import SCORE
from kga.report.settings import in_order
from kga.report.subject import Subject

MOST_METHODS = 7  # of a ROC figure
MOST_SEEDS = 3  # whose files are read
MOST_SETTINGS = 4  # with a figure of gaps
_POINTS = 80  # of a ROC curve
_BINS = 200  # of updates
_SETS = ("forget", "nonmember")


def roc_figure(subject: Subject) -> tuple[str, Markup] | None:
    """(caption, figure) of the attack of the column MIA: the best setting of each method by tug of war, mean over seeds."""
    if not subject.table.attack:
        return None
    column = SCORE + subject.table.attack.partition(", ")[0]
    chosen = _best_settings(subject)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for method, runs in list(chosen.items())[:MOST_METHODS]:
        read = [examples for run in runs[:MOST_SEEDS] if (examples := _scores(run.folder, column)) is not None]
        found |= {method: _sides(read, "unlearned")} if read else {}
        if read and "retrained (A_R)" not in found:
            found = {"retrained (A_R)": _sides(read, "retrain"), "original (A_D)": _sides(read, "original")} | found
    found = {name: sides for name, sides in found.items() if sides}
    if not found:
        return None
    least = 1 / max(max(map(len, pair)) for sides in found.values() for pair in sides)
    grid = np.geomspace(least, 1, _POINTS)
    looks = subject.styles | {"retrained (A_R)": Style(COLOURS["ink"]), "original (A_D)": Style(COLOURS["original"])}
    title = subject.table.attack
    means = {name: np.mean([_at(grid, *pair) for pair in sides], axis=0) for name, sides in found.items()}
    left_out = len(chosen) - MOST_METHODS
    caption = f"ROC of the {title} attack: share of forgotten examples found at each rate of false alarms; mean of up to {MOST_SEEDS} seeds"
    if len(chosen) > MOST_METHODS:
        caption += f"; of {left_out + MOST_METHODS} methods the {MOST_METHODS} best by tug of war"
    return caption, rocs(means, grid, looks, title)


def _best_settings(subject: Subject) -> dict[str, list[Run]]:
    """The runs of each method's best setting, the best method first; without scores in the order that they come in."""
    scores = subject.aggregated
    scores = scores[(scores["quantity"] == "score") & (scores["metric"] == "tow") & (scores["role"] == "unlearned")]
    ranked = scores.sort_values("mean", ascending=False, kind="stable").drop_duplicates("method")
    order = {row.method: row.setting for row in ranked.itertuples()}
    methods = subject.methods()
    first = {method: order.get(method, subject.settings[str(runs[0].folder)].whole) for method, runs in methods.items()}
    return {
        method: [run for run in methods[method] if subject.settings[str(run.folder)].whole == first[method]]
        for method in [*(method for method in order if method in methods), *(methods.keys() - order.keys())]
    }


def _scores(folder: Path, column: str) -> pd.DataFrame | None:
    from pyarrow import parquet

    path = folder / "examples.parquet"
    if not path.is_file() or column not in parquet.read_schema(path).names:
        return None
    examples = pd.read_parquet(path, columns=["model", "split", column]).rename(columns={column: "score"})
    return examples[examples["score"].notna() & examples["split"].isin(_SETS)]


def _sides(read: Iterable[pd.DataFrame], model: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(members, non-members) of a model in every seed that has two of each."""
    pairs = []
    for examples in read:
        own = examples[examples["model"] == model]
        pair = tuple(own.loc[own["split"] == split, "score"].to_numpy(float) for split in _SETS)
        if min(map(len, pair)) > 1:
            pairs.append(pair)
    return pairs


def _at(grid: np.ndarray, members: np.ndarray, nonmembers: np.ndarray) -> np.ndarray:
    """The largest share of members found at no more false alarms than each of the grid's."""
    false, true = roc(members, nonmembers)
    return true[np.searchsorted(false, grid + 1e-12, side="right") - 1]


def gap_figures(subject: Subject) -> tuple[str, list[tuple[str, Markup]]] | None:
    """(note, figures) of a and g over the updates for a few settings of the methods that align them."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for method, runs in subject.methods().items():
        if not any(_has_gaps(run.folder / "updates.csv") for run in runs[:MOST_SEEDS]):
            continue
        for run in runs:
            groups.setdefault((method, subject.settings[str(run.folder)].whole), []).append(run)
    ordered = sorted(groups, key=lambda group: (group[0], in_order(group[1])))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(MOST_SETTINGS, len(ordered))).round().astype(int))
    figures = []
    for method, setting in (ordered[place] for place in places):
        frames = [read for run in groups[method, setting][:MOST_SEEDS] if (read := _gaps(run.folder)) is not None]
        if frames:
            a, g = (pd.concat([frame[name] for frame in frames], axis=1) for name in ("a", "g"))
            title = f"{method} {setting}".strip()
            seeds = f"{len(frames)} seed{'s' if len(frames) > 1 else ''}"
            figures.append((f"{title.replace('method.', '')}, {seeds}", gaps(a, g, title.replace("method.", ""))))
    note = f"{len(places)} of {len(ordered)} settings." if len(ordered) > len(places) else ""
    return (note, figures) if figures else None


def _has_gaps(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", newline="") as file:
        return {"update", "a", "g"} <= set(next(csv.reader(file), ()))


def _gaps(folder: Path) -> pd.DataFrame | None:
    """a and g by update, long histories averaged over neighbouring updates; None where there are none."""
    if not _has_gaps(folder / "updates.csv"):
        return None
    updates = pd.read_csv(folder / "updates.csv", usecols=["update", "a", "g"])
    if updates.empty:
        return None
    width = max(1, -(-int(updates["update"].max()) // _BINS))
    return updates.groupby((updates["update"] - 1) // width * width + 1)[["a", "g"]].mean()
