"""Which figures a report over many runs shows: for each table those that its runs have the numbers for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup

from kga.report.curves import request_seconds
from kga.report.gather import Collected
from kga.report.held import gap_figures, roc_figure
from kga.report.paired import BOUNDS
from kga.report.settings import in_order
from kga.report.subject import Subject, subjects
from kga.report.sweep_figures import key_figures
from kga.report.tradeoff import Target, near, tradeoff

MOST_TABLES = 6  # with figures
MOST_REQUESTS = 4  # of a table, with a figure of their own


@dataclass(frozen=True)
class Gallery:
    """Figures (caption, SVG) under one heading."""

    title: str
    figures: list[tuple[str, Markup]]
    note: str = ""


def galleries(collected: Collected) -> dict[tuple[str, ...], list[Gallery]]:
    """The figures of every table, by (task, data, model); of the first tables alone where there are many."""
    return {
        subject.table.group: list(_of_table(subject))
        for number, subject in enumerate(subjects(collected))
        if number < MOST_TABLES
    }


def _of_table(subject: Subject) -> Iterator[Gallery]:
    if figures := _tradeoffs(subject):
        yield Gallery("Utility against forgetting", figures, _requests_left_out(subject))
    for title, note, figures in key_figures(subject):
        yield Gallery(title, figures, note)
    if figures := [figure for figure in (_seconds(subject), roc_figure(subject)) if figure]:
        yield Gallery("Cost and membership inference" if len(figures) > 1 else "Cost", figures)
    if found := gap_figures(subject):
        yield Gallery("Gap alignment over the updates", found[1], found[0])


def _requests(subject: Subject) -> list[str]:
    return sorted(subject.aggregated["request"].unique(), key=in_order)


def _requests_left_out(subject: Subject) -> str:
    requests = len(_requests(subject))
    return f"{MOST_REQUESTS} of {requests} requests." if requests > MOST_REQUESTS else ""


def _tradeoffs(subject: Subject) -> list[tuple[str, Markup]]:
    name = subject.table.metric
    labels = (f"{name} on the forget set in %", f"{name} on test in %")
    found = []
    for request in _requests(subject)[:MOST_REQUESTS]:
        wide = _utilities(subject, request)
        points = wide[(wide["role"] == "unlearned") & ~wide["method"].isin(BOUNDS)].dropna(subset=["x", "y"])
        if points.empty:
            continue
        target = _target(wide)
        of = f"; {request}" if request else ""
        caption = f"The best place is the cross: as much forgotten and kept as by retraining{of}"
        found.append((caption, tradeoff(points, target, subject.styles, labels)))
        if (close := near(points, target)) is not None:
            caption = f"The same without what is far off{of}"
            found.append((caption, tradeoff(close, target, subject.styles, labels)))
    return found


def _utilities(subject: Subject, request: str) -> pd.DataFrame:
    """A row per model and setting of the request: utility on forget (x) and test (y) in %, deviations, distances to A_R."""
    table = subject.aggregated
    table = table[
        (table["request"] == request) & (table["quantity"] == "utility") & (table["metric"] == subject.metric)
    ]
    keys = ["role", "method", "setting"]
    sides = [
        table[table["split"] == split]
        .set_index(keys)[["mean", "std", "distance"]]
        .mul(100)
        .set_axis([axis, f"{axis}_std", f"{axis}_distance"], axis=1)
        for axis, split in (("x", "forget"), ("y", "test"))
    ]
    joined = sides[0].join(sides[1], how="outer").reset_index()
    order = sorted(joined.index, key=lambda row: (joined.at[row, "method"], in_order(joined.at[row, "setting"])))
    return joined.loc[order]


def _target(wide: pd.DataFrame) -> Target | None:
    rows = {str(role): part.iloc[0] for role, part in wide.groupby("role")}
    if "retrain" not in rows:
        return None
    places = {role: (float(row["x"]), float(row["y"])) for role, row in rows.items()}
    floor = rows.get("noise_floor")
    apart = None if floor is None else (float(floor["x_distance"]), float(floor["y_distance"]))
    if apart is not None and not all(map(math.isfinite, apart)):
        apart = None
    return Target(places["retrain"], apart, places.get("original"))


def _seconds(subject: Subject) -> tuple[str, Markup] | None:
    """Seconds of one request by method over all its runs, and of A_R's training."""
    table = subject.values
    costs = table[(table["quantity"] == "cost") & (table["metric"] == "request_seconds")]
    costs = costs[~costs["method"].isin(BOUNDS) & (costs["value"] > 0)]
    if costs.empty:
        return None
    retrained = table[(table["quantity"] == "seconds") & (table["role"] == "retrain") & (table["value"] > 0)]["value"]
    spans = {str(name): _span(part) for name, part in costs.groupby("method", sort=False)["value"]}
    caption = "Seconds per request: mean and range over all runs of a method"
    return caption, request_seconds(spans, _span(retrained) if len(retrained) else None, subject.styles)


def _span(values: pd.Series) -> tuple[float, float, float]:
    return float(values.mean()), float(values.min()), float(values.max())
