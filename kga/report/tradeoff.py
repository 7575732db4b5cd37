"""Utility against forgetting: a point for each method and setting around the retrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
import matplotlib.patches
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes

from kga.report.canvas import COLOURS, RC, Style, canvas, legend_below, plain, svg


@dataclass(frozen=True)
class Target:
    """Where A_R (and A_D) stand in a figure of two utilities, and how far further A_R are from it in both."""

    retrain: tuple[float, float]
    floor: tuple[float, float] | None = None
    original: tuple[float, float] | None = None


def tradeoff(
    points: pd.DataFrame, target: Target | None, known: Mapping[str, Style], labels: tuple[str, str]
) -> Markup:
    """Utility on test over utility on the forget set, a point per method and setting with its spread over seeds.

    Args:
        points: columns method, x, y, x_std, y_std; settings of a method in their order.
    """
    with matplotlib.rc_context(RC):
        figure, axes = canvas(*labels, height=3.3)
        if target is not None:
            _draw_target(axes, target)
        for method, part in points.groupby("method", sort=False):
            style = known[str(method)]
            spread = {"xerr": part["x_std"].fillna(0), "yerr": part["y_std"].fillna(0), "elinewidth": 0.9, "capsize": 0}
            small = len(part) > 1
            axes.errorbar(
                part["x"], part["y"], **spread, fmt=style.marker, color=style.colour, markersize=5 if small else 6.5,
                ls="-" if small else "none", lw=0.8, alpha=0.85, label=plain(method),
            )  # fmt: skip
        axes.margins(0.08)
        legend_below(figure, axes)
        return svg(figure, f"{labels[1]} over {labels[0]}")


def _draw_target(axes: Axes, target: Target) -> None:
    x, y = target.retrain
    if target.floor is not None:
        width, height = target.floor
        box = matplotlib.patches.Rectangle(
            (x - width, y - height),
            2 * width,
            2 * height,
            color=COLOURS["muted"],
            alpha=0.22,
            lw=0,
            label="noise floor",
        )
        axes.add_patch(box)
    cross = {"ls": "none", "color": COLOURS["ink"], "zorder": 5}
    axes.plot([x], [y], marker="+", markersize=17, markeredgewidth=2.2, label="retrained (A_R)", **cross)
    if target.original is not None:
        style = {"ls": "none", "color": COLOURS["original"], "markerfacecolor": "none", "markeredgewidth": 1.8}
        axes.plot(*([value] for value in target.original), marker="o", markersize=9, label="original (A_D)", **style)


def near(points: pd.DataFrame, target: Target | None) -> pd.DataFrame | None:
    """The points around A_R and A_D, where others lie so far off that these cannot be told apart; else None."""
    if target is None or target.original is None:
        return None
    (x, y), (a, b) = target.retrain, target.original
    room, rise = (max(0.6 * abs(x - a), 1.5 * abs(y - b), 1.0), max(0.35 * abs(x - a), 1.5 * abs(y - b), 1.0))
    inside = points["x"].between(min(x, a) - room, max(x, a) + room) & points["y"].between(
        min(y, b) - rise, max(y, b) + rise
    )
    return points[inside] if inside.sum() >= 2 and not inside.all() else None
