"""Figures of what a sweep varied: utility, distance and score over the values of a key."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from markupsafe import Markup

from kga.report.canvas import COLOURS, MARKERS, SERIES, Style
from kga.report.curves import Curve, key_curves
from kga.report.settings import in_order
from kga.report.subject import CHOICE, Subject, place_of, rest_of, swept_keys

MOST_KEYS = 4  # of a table
MOST_LINES = 8  # of a figure
Number = tuple[str, str, str]  # quantity, split, metric


def key_figures(subject: Subject) -> list[tuple[str, str, list[tuple[str, Markup]]]]:
    """(title, note, [(caption, figure)]) for each swept key."""
    keys = swept_keys(subject)
    found = [part for key in keys[:MOST_KEYS] if (part := _of_key(subject, key))]
    if found and len(keys) > MOST_KEYS:
        title, note, figures = found[-1]
        found[-1] = (title, f"{note} Not drawn: {', '.join(keys[MOST_KEYS:])}.".strip(), figures)
    return found


def _of_key(subject: Subject, key: str) -> tuple[str, str, list[tuple[str, Markup]]] | None:
    name, shares = subject.table.metric, subject.metric
    wanted: list[tuple[str, str, Number, float, dict[str, str]]] = [
        ("Forget set", f"{name} on forget in %", ("utility", "forget", shares), 100, _UTILITIES),
        ("Test set", f"{name} on test in %", ("utility", "test", shares), 100, _UTILITIES),
        (
            "Distance to the retrained model on the forget set",
            "JSD in nats",
            ("forgetting", "forget", "jsd"),
            1,
            _FLOOR,
        ),
        ("Tug of war: 1 is the retrained model", "tug of war", ("score", "", "tow"), 1, {}),
    ]
    folders = _places(subject, key)
    lines = _lines(subject, key, folders)
    first = set(sorted(set(lines.values()), key=_order)[:MOST_LINES])
    shown = {folder: line for folder, line in lines.items() if line in first}
    figures = []
    for caption, label, number, scale, references in wanted:
        curves = _curves(subject, folders, shown, number, scale)
        if curves:
            curves += _references(subject, folders, number, scale, references)
            categories = place_of(list(_choices(subject))) if key == CHOICE else None
            title = "request" if key == CHOICE else key
            figures.append((caption, key_curves(curves, title, label, categories)))
    left_out = len(set(lines.values())) - len(set(shown.values()))
    note = f"{left_out} more lines are left out: narrow the paths down to see them." if left_out else ""
    title = "By difficulty of the request" if key == CHOICE else f"By {key}"
    return (title, note, figures) if figures else None


_UTILITIES = {"original": "original (A_D)", "retrain": "retrained (A_R)"}
_FLOOR = {"noise_floor": "noise floor"}


def _choices(subject: Subject) -> set[str]:
    return {str(config[CHOICE]) for config in subject.configs.values() if CHOICE in config}


def _places(subject: Subject, key: str) -> dict[str, float]:
    """Place on the x axis by folder of the runs that have the key."""
    values = {folder: config[key] for folder, config in subject.configs.items() if config.get(key) is not None}
    if key == CHOICE:
        order = place_of(list(_choices(subject)))
        return {folder: float(order.index(str(value))) for folder, value in values.items()}
    return {folder: float(value) for folder, value in values.items() if isinstance(value, int | float)}


def _lines(subject: Subject, key: str, places: dict[str, float]) -> dict[str, tuple[str, str]]:
    """(method, rest of the setting) of the folders that make a line: at least two places of it."""
    found: dict[str, tuple[str, str]] = {}
    for method, runs in subject.methods().items():
        configs = {str(run.folder): subject.configs[str(run.folder)] for run in runs if str(run.folder) in places}
        if len({places[folder] for folder in configs}) > 1:
            found |= {folder: (method, rest) for folder, rest in rest_of(configs, key).items()}
    reached: dict[tuple[str, str], set[float]] = {}
    for folder, line in found.items():
        reached.setdefault(line, set()).add(places[folder])
    return {folder: line for folder, line in found.items() if len(reached[line]) > 1}


def swept_curves(subject: Subject, key: str, number: Number) -> list[Curve]:
    """A number of A* over the values of a swept key: a line for each method and rest of its setting, means over seeds."""
    places = _places(subject, key)
    return _curves(subject, places, _lines(subject, key, places), number, 1)


def _order(line: tuple[str, str]) -> tuple:
    return line[0], in_order(line[1])


def _curves(
    subject: Subject, places: dict[str, float], lines: dict[str, tuple[str, str]], number: Number, scale: float
) -> list[Curve]:
    values = _values(subject, "unlearned", number, places)
    values = values[values["folder"].isin(lines)]
    values = values.assign(line=values["folder"].map(lines))
    known = {line: part for line, part in values.groupby("line", sort=False)}
    shades: dict[str, int] = {}
    found = []
    for line in sorted(known, key=_order):
        method, rest = line
        number_of = shades[method] = shades.get(method, -1) + 1
        style = subject.styles[method]
        if len({name for name, _ in known}) == 1 and len(known) > 1:  # one method: its lines are told apart by colour
            style = Style(COLOURS[f"series{number_of % SERIES}"], style.marker)
        elif number_of:
            style = replace(style, marker=MARKERS[number_of % len(MARKERS)])
        label = rest if rest and len({name for name, _ in known}) == 1 else f"{method} {rest}".strip()
        found.append(_curve(known[line], label, style, scale))
    return [curve for curve in found if np.isfinite(curve.mean).any()]


def _references(
    subject: Subject, places: dict[str, float], number: Number, scale: float, roles: dict[str, str]
) -> list[Curve]:
    """The models that no method touched; left out where several requests, each with its own, share a place."""
    looks = {
        "original": Style(COLOURS["original"]),
        "retrain": Style(COLOURS["ink"]),
        "noise_floor": Style(COLOURS["muted"]),
    }
    found = []
    for role, label in roles.items():
        values = _values(subject, role, number, places)
        if len(values) and values.groupby("x")["request"].nunique().max() == 1:
            curve = _curve(values, label, looks[role], scale)
            found.append(replace(curve, reference=True))
    return found


def _values(subject: Subject, role: str, number: Number, places: dict[str, float]) -> pd.DataFrame:
    """The number of every run at its place x."""
    table = subject.values
    quantity, split, metric = number
    chosen = table[
        (table["role"] == role)
        & (table["quantity"] == quantity)
        & (table["split"] == split)
        & (table["metric"] == metric)
        & table["folder"].isin(places)
    ]
    return chosen.assign(x=chosen["folder"].map(places))


def _curve(values: pd.DataFrame, label: str, style: Style, scale: float) -> Curve:
    """Mean and deviation over seeds at every place; a seed counts once."""
    seeds = values.groupby(["x", "seed"], dropna=False)["value"].mean()
    over = seeds.groupby(level="x").agg(["mean", "std"]) * scale
    return Curve(label, over.index.to_numpy(float), over["mean"].to_numpy(float), over["std"].to_numpy(float), style)
