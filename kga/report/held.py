"""Figures from the curves that results hold (``kga.curves``): ROC curves of attacks, gaps over the updates."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from kga.report import summary
from kga.report.canvas import COLOURS, Style
from kga.report.collect import Run
from kga.report.curves import gaps, rocs
from kga.report.settings import in_order
from kga.report.subject import Subject

MOST_METHODS = 7  # of a ROC figure
MOST_SETTINGS = 4  # with a figure of gaps
REFERENCES = {"retrain": "retrained (A_R)", "original": "original (A_D)"}


def roc_figure(subject: Subject) -> tuple[str, Markup] | None:
    """(caption, figure) of the attack of the column MIA: the best setting of each method by tug of war, mean over seeds."""
    if not subject.table.attack:
        return None
    attack = re.split(", | / ", subject.table.attack)[0]  # without its settings, and those of other requests
    chosen = {
        method: held
        for method, runs in _best_settings(subject).items()
        if (held := [run.result for run in runs if _rates(run.result, attack, "unlearned")])
    }
    if not chosen:
        return None
    shown = dict(list(chosen.items())[:MOST_METHODS])
    first = next(iter(shown.values()))
    lines = {name: (model, first) for model, name in REFERENCES.items()}
    lines |= {method: ("unlearned", results) for method, results in shown.items()}
    grid = first[0]["curves"]["roc"]["fpr"]
    means = {
        name: np.mean(rates, axis=0)
        for name, (model, results) in lines.items()
        if (rates := [found for result in results if (found := _rates(result, attack, model, grid))])
    }
    false = np.array(grid)
    seen = false >= 1 / max(_nonmembers(result, attack) for results in shown.values() for result in results) - 1e-9
    looks = subject.styles | {"retrained (A_R)": Style(COLOURS["ink"]), "original (A_D)": Style(COLOURS["original"])}
    caption = (
        f"ROC of the {subject.table.attack} attack: share of forgotten examples found at each rate of false alarms; "
        "mean over seeds"
    )
    if len(chosen) > MOST_METHODS:
        caption += f"; of {len(chosen)} methods the {MOST_METHODS} best by tug of war"
    curves = {name: mean[seen] for name, mean in means.items()}
    return caption, rocs(curves, false[seen], looks, subject.table.attack)


def _rates(result: dict[str, Any], attack: str, model: str, grid: list[float] | None = None) -> list[float] | None:
    """Rates of true positives at those of false ones that the result names; None where these are not of the grid."""
    roc = (result.get("curves") or {}).get("roc") or {}
    return (roc.get(attack) or {}).get(model) if grid in (None, roc.get("fpr")) else None


def _nonmembers(result: dict[str, Any], attack: str) -> int:
    found = summary.lookup(result, "membership", "unlearned", attack, "nonmembers")
    return int(found) if found and math.isfinite(found) else 1000


def _best_settings(subject: Subject) -> dict[str, list[Run]]:
    """The runs of each method's best setting, the best method first; without scores in the order that they come in.

    Of settings with the most seeds, as in the comparison of the methods.
    """
    scores = subject.aggregated
    scores = scores[(scores["quantity"] == "score") & (scores["metric"] == "tow") & (scores["role"] == "unlearned")]
    scores = scores[scores["seeds"] == scores.groupby("method")["seeds"].transform("max")]
    ranked = scores.sort_values("mean", ascending=False, kind="stable").drop_duplicates("method")
    order = {row.method: row.setting for row in ranked.itertuples()}
    methods = subject.methods()
    first = {method: order.get(method, subject.settings[str(runs[0].folder)].whole) for method, runs in methods.items()}
    return {
        method: [run for run in methods[method] if subject.settings[str(run.folder)].whole == first[method]]
        for method in (*filter(methods.__contains__, order), *(method for method in methods if method not in order))
    }


def gap_figures(subject: Subject) -> tuple[str, list[tuple[str, Markup]]] | None:
    """(note, figures) of a and g over the updates for a few settings of the methods that align them."""
    groups: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for method, runs in subject.methods().items():
        for run in runs:
            if (found := _gaps(run.result)) is not None:
                groups.setdefault((method, subject.settings[str(run.folder)].whole), []).append(found)
    ordered = sorted(groups, key=lambda group: (group[0], in_order(group[1])))
    places = np.unique(np.linspace(0, len(ordered) - 1, min(MOST_SETTINGS, len(ordered))).round().astype(int))
    figures = []
    for method, setting in (ordered[place] for place in places):
        frames = groups[method, setting]
        a, g = (pd.concat([frame[name] for frame in frames], axis=1) for name in ("a", "g"))
        title = f"{method} {setting}".strip().replace("method.", "")
        figures.append((f"{title}, {len(frames)} seed{'s' * (len(frames) > 1)}", gaps(a, g, title)))
    note = f"{len(places)} of {len(ordered)} settings." if len(ordered) > len(places) else ""
    return (note, figures) if figures else None


def _gaps(result: dict[str, Any]) -> pd.DataFrame | None:
    """a and g by update; None where the method aligns none."""
    held = (result.get("curves") or {}).get("updates")
    return pd.DataFrame(held, columns=["update", "a", "g"], dtype=float).set_index("update") if held else None
