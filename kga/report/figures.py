"""The figures of a run's report, as SVG that stands in the page and takes its colours from the page's theme."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from kga.metrics.membership import roc
from kga.report.canvas import COLOURS, RC, canvas, legend_above, svg

_MODELS = {"original": "original", "retrain": "retrained", "unlearned": "unlearned"}  # what is drawn last lies on top
_MOST_POINTS = 400  # of a curve; longer ones are averaged over neighbouring updates
_BINS = 28
_LEAST_LOSS = 1e-4  # nats; smaller losses share the first bin


def gap_curves(updates: pd.DataFrame) -> Markup:
    """The gap a of the student over updates beside its target g, the area between them shaded by the sign of a - g."""
    curves = _thin(updates)
    update, a, g = (curves[name].to_numpy(float) for name in ("update", "a", "g"))
    with matplotlib.rc_context(RC):
        figure, axes = canvas("update", "KL in nats")
        for where, name, label in ((a <= g, "away", "a < g: pushes away"), (a > g, "towards", "a > g: pulls back")):
            style = {"color": COLOURS[name], "alpha": 0.35, "lw": 0, "label": label}
            axes.fill_between(update, a, g, where=where, interpolate=True, **style)
        axes.plot(update, a, color=COLOURS["unlearned"], lw=1.6, label="a (forget set)")
        axes.plot(update, g, color=COLOURS["ink"], lw=1.2, ls="--", label="g (new examples)")
        legend_above(axes)
        return svg(figure, "The gaps a and g over the updates")


def phase_curves(updates: pd.DataFrame) -> Markup:
    """The forget term of the updates that raise it and the retain term of those that lower theirs, phase by phase."""
    curves = _thin(updates)
    with matplotlib.rc_context(RC):
        figure, axes = canvas("update", "term of the phase, in nats")
        style = {"lw": 1.6, "marker": "o", "markersize": 2}
        named = (("forget", "unlearned", "max phase: forget term"), ("retain", "retrain", "min phase: retain term"))
        for column, colour, label in named:
            axes.plot(curves["update"], curves[column], color=COLOURS[colour], label=label, **style)
        legend_above(axes)
        return svg(figure, "The terms of max and min phases over the updates")


def curve(updates: pd.DataFrame, column: str, label: str) -> Markup:
    """One column over the updates."""
    curves = _thin(updates)
    with matplotlib.rc_context(RC):
        figure, axes = canvas("update", label)
        axes.plot(curves["update"], curves[column], color=COLOURS["unlearned"], lw=1.6)
        return svg(figure, f"{label} over the updates")


def bars(values: Mapping[str, float], label: str) -> Markup:
    """One bar for each named value, the first on top."""
    with matplotlib.rc_context(RC):
        figure, axes = canvas(label.replace("_", " "), "")
        figure.set_figheight(max(1.6, 0.5 + 0.24 * len(values)))
        places = axes.barh(list(values), list(values.values()), height=0.7, color=COLOURS["unlearned"])
        axes.bar_label(places, fmt="%.3g", padding=3, color=COLOURS["muted"])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        return svg(figure, label.replace("_", " "))


def loss_histogram(examples: pd.DataFrame, split: str) -> Markup:
    """Losses of a split's examples: original and unlearned filled, the retrained model's as an outline.

    Losses that are not finite count among the examples but stand in no bin.

    Args:
        examples: columns model, split, loss (nats).
    """
    chosen = examples[examples["split"] == split]
    losses = {
        model: np.maximum(chosen.loc[chosen["model"] == model, "loss"].to_numpy(float), _LEAST_LOSS)
        for model in ("original", "unlearned", "retrain")
    }
    bins = _bins(np.concatenate(list(losses.values())))
    with matplotlib.rc_context(RC):
        figure, axes = canvas("loss in nats", "share of examples")
        axes.set_xscale("log")
        for model, label in (("original", "before"), ("unlearned", "after")):
            _hist(axes, losses[model], bins, color=COLOURS[model], alpha=0.5, label=f"{label} ({model})")
        _hist(axes, losses["retrain"], bins, histtype="step", color=COLOURS["retrain"], lw=1.6, label="retrained")
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        legend_above(axes)
        return svg(figure, f"Losses on {split} before and after unlearning")


def roc_curves(examples: pd.DataFrame, column: str, title: str) -> Markup | None:
    """ROC curves of an attack's scores, D_f against unseen examples, on log axes from one example of each on.

    None where no model has two members and two non-members with a score.

    Args:
        examples: columns model, split, and the scores; those that are NaN are left out.
    """
    scored = examples[examples[column].notna() & examples["split"].isin(("forget", "nonmember"))]
    sides = {
        model: [scored.loc[(scored["model"] == model) & (scored["split"] == split), column] for split in ("forget", "nonmember")]
        for model in _MODELS
    }  # fmt: skip
    sides = {model: pair for model, pair in sides.items() if min(map(len, pair)) > 1}
    if not sides:
        return None
    members, nonmembers = (max(len(pair[side]) for pair in sides.values()) for side in (0, 1))
    with matplotlib.rc_context(RC):
        figure, axes = canvas("false positives", "true positives")
        axes.set(xscale="log", yscale="log", xlim=(1 / nonmembers, 1), ylim=(1 / members, 1.05), title=title)
        least = 1 / max(members, nonmembers)
        axes.plot([least, 1], [least, 1], color=COLOURS["muted"], lw=0.8, ls=":", label="guessing")
        for model, pair in sides.items():
            false, true = _corners(*roc(*pair), 1 / nonmembers)
            style = {"drawstyle": "steps-post", "color": COLOURS[model], "lw": 1.6, "label": _MODELS[model]}
            axes.plot(false, true, **style)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        legend_above(axes)
        return svg(figure, f"ROC curves of {title}")


def _corners(false: np.ndarray, true: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
    """The last point of every rate of false positives: all that steps show. Rates of 0 have no place on a log axis:
    they are put on its edge, `least`, or below it."""
    false = np.maximum(false, least)
    last = np.append(np.diff(false) > 1e-12, True)
    return false[last], np.maximum(true[last], 1e-9)


def relearning_curves(findings: Mapping[str, Mapping], column: str) -> Markup:
    """One of `rest_loss` and `rest_utility` over the updates of relearning, a line for each model."""
    with matplotlib.rc_context(RC):
        figure, axes = canvas("update of relearning", "loss in nats" if column == "rest_loss" else "utility")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        for model in (model for model in _MODELS if model in findings):
            found = findings[model]
            values = np.array(found.get(column) or [], float)  # null: not finite
            style = {"ls": "--" if model == "retrain" else "-", "marker": "o", "markersize": 3, "lw": 1.6}
            axes.plot(found["updates"][: len(values)], values, color=COLOURS[model], label=_MODELS[model], **style)
        legend_above(axes)
        return svg(figure, f"Relearning: {column.replace('_', ' ')} over the updates")


def _hist(axes: Axes, losses: np.ndarray, bins: np.ndarray, **style: object) -> None:
    finite = losses[np.isfinite(losses)]
    if len(finite):
        axes.hist(finite, bins, weights=np.full(len(finite), 1 / len(losses)), **style)


def _bins(losses: np.ndarray) -> np.ndarray:
    """Edges that grow by a constant factor and hold all finite losses."""
    finite = losses[np.isfinite(losses)]
    low, high = (finite.min(), finite.max()) if len(finite) else (_LEAST_LOSS, 1.0)
    return np.geomspace(low, max(high, low * 1.1) * 1.0001, _BINS + 1)


def _thin(updates: pd.DataFrame) -> pd.DataFrame:
    width = -(-len(updates) // _MOST_POINTS)
    numbers = updates.select_dtypes("number")
    return numbers.groupby(np.arange(len(updates)) // max(width, 1)).mean()
