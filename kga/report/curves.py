"""Lines of the report over many runs, drawn from numbers that are averaged already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import matplotlib.ticker
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from kga.report.canvas import COLOURS, RC, Style, canvas, legend_below, plain, svg

_DECADES = 8.0  # values of a key that are this many times apart stand on a log axis
_MOST_TICKS = 9  # values of a key that are all written under the axis


@dataclass(frozen=True)
class Curve:
    """One line: mean and deviation (NaN: unknown) at every x; `reference`: of a model that is compared with."""

    label: str
    x: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    style: Style
    reference: bool = False


def key_curves(curves: Sequence[Curve], x: str, y: str, categories: Sequence[str] | None = None) -> Markup:
    """Lines with bands of one deviation over the values of a key; references dashed.

    Args:
        categories: names of the x values 0, 1, ... where the key is a choice.
    """
    with matplotlib.rc_context(RC):
        figure, axes = canvas(plain(x), plain(y))
        ends = np.concatenate([curve.x for curve in curves])
        for curve in curves:
            _draw_curve(axes, curve, points=categories is not None)
        if categories is not None:
            axes.set_xticks(range(len(categories)), [plain(name) for name in categories])
            axes.set_xlim(-0.4, len(categories) - 0.6)
        else:
            _scale(axes, np.unique(ends))
        legend_below(figure, axes)
        return svg(figure, f"{y} over {x}")


def _draw_curve(axes: Axes, curve: Curve, points: bool) -> None:
    colour = curve.style.colour
    look = {"ls": "--", "lw": 1.3} if curve.reference else {"lw": 1.7, "marker": curve.style.marker, "markersize": 4.5}
    axes.plot(curve.x, curve.mean, color=colour, label=plain(curve.label), **look)
    std = np.nan_to_num(curve.std)
    if points and not curve.reference:
        axes.errorbar(curve.x, curve.mean, std, color=colour, fmt="none", elinewidth=0.9)
    elif std.any():
        axes.fill_between(curve.x, curve.mean - std, curve.mean + std, color=colour, alpha=0.15, lw=0)


def _scale(axes: Axes, values: np.ndarray) -> None:
    """A log axis where the values span decades, with 0 at a place of its own left of them; the values as ticks."""
    positive = values[values > 0]
    if len(positive) > 1 and values[0] >= 0 and positive[-1] / positive[0] >= _DECADES:
        least, most = positive[0], positive[-1]
        if values[0] == 0:
            axes.set_xscale("symlog", linthresh=least, linscale=0.6)
            axes.set_xlim(-0.12 * least, most * 1.25)
        else:
            axes.set_xscale("log")
            axes.set_xlim(least / 1.15, most * 1.15)
    if len(values) <= _MOST_TICKS:
        shown = _apart(axes, values)
        axes.set_xticks(shown, [f"{value:g}" for value in shown])
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())


def _apart(axes: Axes, values: np.ndarray) -> list[float]:
    """The values whose ticks do not run into the one before."""
    places = axes.transScale.transform(np.column_stack([values, np.ones(len(values))]))[:, 0]
    width = places[-1] - places[0] or 1.0
    shown: list[int] = []
    for number, place in enumerate(places):
        if not shown or (place - places[shown[-1]]) / width > 0.022 * (len(f"{values[number]:g}") + 1):
            shown.append(number)
    return [float(values[number]) for number in shown]


def request_seconds(spans: Mapping[str, tuple[float, float, float]], retrain: tuple[float, float, float] | None,
                    known: Mapping[str, Style]) -> Markup:  # fmt: skip
    """Seconds of one request by method, fewest on top, on a log axis: (mean, least, most) over runs; A_R's as a line."""
    ordered = sorted(spans, key=lambda method: spans[method][0])
    with matplotlib.rc_context(RC):
        figure, axes = canvas("seconds per request", "", height=max(1.7, 1.0 + 0.24 * len(ordered)))
        axes.set_xscale("log")
        for place, method in enumerate(ordered):
            mean, least, most = spans[method]
            axes.plot([least, most], [place, place], color=known[method].colour, lw=2.2, alpha=0.5)
            axes.plot([mean], [place], "o", color=known[method].colour, markersize=6.5)
            offset = {"textcoords": "offset points", "xytext": (7, 0), "va": "center", "fontsize": 9}
            axes.annotate(seconds(mean), (most, place), color=COLOURS["muted"], **offset)
        if retrain is not None:
            axes.axvspan(retrain[1], max(retrain[2], retrain[1] * 1.0001), color=COLOURS["ink"], alpha=0.12, lw=0)
            axes.axvline(retrain[0], color=COLOURS["ink"], ls="--", lw=1.3, label=f"retraining: {seconds(retrain[0])}")
        axes.set_yticks(range(len(ordered)), [plain(method) for method in ordered])
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        ends = [*(value for span in spans.values() for value in span), *(retrain or ())]
        least, most = min(ends) / 1.5, max(ends) * 4
        axes.set_xlim(least, most)
        steps = (1, 2, 5) if most < 100 * least else (1,)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=steps))
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        legend_below(figure, axes)
        return svg(figure, "Seconds per request by method")


def seconds(value: float) -> str:
    """Seconds for reading, with two digits or more."""
    return f"{value:.0f} s" if value >= 99.5 else f"{value:.1f} s" if value >= 0.995 else f"{value:.2g} s"


def rocs(curves: Mapping[str, np.ndarray], grid: np.ndarray, looks: Mapping[str, Style], title: str) -> Markup:
    """Shares of members found [curve, grid] over shares of false alarms [grid], both logarithmic."""
    with matplotlib.rc_context(RC):
        figure, axes = canvas("false positives", "true positives", height=3.4)
        least = float(grid[0])
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.08))
        axes.plot([least, 1], [least, 1], color=COLOURS["muted"], lw=0.8, ls=":", label="guessing")
        for name, true in curves.items():
            dashed = {"ls": "--"} if name.startswith(("retrained", "original")) else {}
            axes.plot(grid, np.maximum(true, least / 10), color=looks[name].colour, lw=1.6, label=plain(name), **dashed)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        legend_below(figure, axes)
        return svg(figure, f"ROC curves of {title}")


def gaps(a: pd.DataFrame, g: pd.DataFrame, title: str) -> Markup:
    """The gaps a and g over updates [update, seed]: means with bands of one deviation."""
    with matplotlib.rc_context(RC):
        figure, axes = canvas("update", "KL in nats")
        drawn = ((a, "unlearned", "a (forget set)", {}), (g, "ink", "g (new examples)", {"ls": "--"}))
        for frame, colour, label, look in drawn:
            curve = (frame.index.to_numpy(float), frame.mean(axis=1), frame.std(axis=1).fillna(0))
            axes.plot(curve[0], curve[1], color=COLOURS[colour], lw=1.5, label=label, **look)
            axes.fill_between(
                curve[0], curve[1] - curve[2], curve[1] + curve[2], color=COLOURS[colour], alpha=0.15, lw=0
            )
        legend_below(figure, axes)
        return svg(figure, f"The gaps a and g over the updates: {title}")
