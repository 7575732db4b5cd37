"""What all figures share: sizes, colours that are the page's, and the way into the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
SERIES = 8  # colours of lines and points that stand side by side
# Matplotlib draws in these colours; in the SVG each becomes the page's variable of that name, light or dark.
COLOURS = {
    "ink": "#010101",
    "muted": "#020202",
    "original": "#030303",
    "unlearned": "#040404",
    "retrain": "#050505",
    "away": "#060606",
    "towards": "#070707",
    **{f"series{number}": f"#0801{number:02x}" for number in range(SERIES)},
}
RC = {
    "svg.fonttype": "none",  # text stays text: sharp, searchable, in the page's font
    "svg.hashsalt": "kga",  # the same run gives the same file
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    **{name: COLOURS["ink"] for name in ("text.color", "axes.labelcolor", "axes.titlecolor")},
    **{name: COLOURS["muted"] for name in ("axes.edgecolor", "xtick.color", "ytick.color")},
}
_LEGEND = 3  # columns of a legend below
_MOST_CHARACTERS = 44  # of a name in a figure


@dataclass(frozen=True)
class Style:
    """How a method is drawn in every figure of a page."""

    colour: str
    marker: str = "o"


def styles(methods: Sequence[str]) -> dict[str, Style]:
    """A style for each method, by its place: colours first, then markers."""
    return {
        method: Style(COLOURS[f"series{number % SERIES}"], MARKERS[(number // SERIES + number) % len(MARKERS)])
        for number, method in enumerate(methods)
    }


def canvas(x: str, y: str, height: float = 3.0) -> tuple[Figure, Axes]:
    """An empty figure (inches, 4.6 wide) and its axes with their labels."""
    figure = Figure(figsize=(4.6, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def legend_above(axes: Axes) -> None:
    """What is what, above the axes."""
    axes.figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9, handlelength=1.4, columnspacing=1)


def legend_below(figure: Figure, axes: Axes) -> None:
    """What is what, below the axes; the figure grows with it."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    columns = 1 if max(map(len, labels)) > 30 else 2 if max(map(len, labels)) > 15 else _LEGEND
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + 0.19 * rows)
    figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=8.5, handlelength=1.6,
        columnspacing=1.2, labelspacing=0.4, markerscale=0.7, borderaxespad=0.2,
    )  # fmt: skip


def plain(text: object) -> str:
    """A name from data as matplotlib's text: no formula, nothing that XML cannot hold, not too long."""
    known = "".join(character if character.isprintable() else " " for character in str(text))
    if len(known) > _MOST_CHARACTERS:
        known = known[: _MOST_CHARACTERS - 1] + "…"
    known = known.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{known}" if known.startswith("_") else known  # such labels are kept from legends


def svg(figure: Figure, description: str) -> Markup:
    """The figure as an <svg> element: colours as variables, no fixed size, no ids that a second figure would repeat."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for name, colour in COLOURS.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    head = re.match(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', drawn)
    assert head, "matplotlib writes a viewBox"
    return Markup(f'<svg viewBox="{head[1]}" role="img" aria-label="{escape(description)}">{drawn[head.end() :]}')
