"""The report of one run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from kga.report import audit, figures, summary
from kga.report.collect import read_result
from kga.report.examples import extremes, read_examples
from kga.report.membership import findings, strongest
from kga.report.render import render

MOST_BARS = 20  # of a figure
_NO_DISTANCES = (
    "ks_p",
    "ks_n",
    "truth_ratio_ks_p",
)  # among the numbers of forgetting: a difference of them says nothing


@dataclass(frozen=True)
class Grid:
    """A table of every number of one part of the result: lines of (group, metric, one value per column)."""

    columns: list[str]
    lines: list[tuple[str, str, list[Any]]]


def write_run_report(folder: Path, texts: Mapping[str, str] | None = None) -> Path:
    """Write `report.html` into a run's folder and return its path.

    Args:
        folder: holds result.json; examples.parquet and updates.csv are used where they lie.
        texts: text by example id, shown beside the most and least forgotten examples; sample outputs are shown as well.
            None (the default): no text may be shown.

    Raises:
        UserError: the folder holds no readable result.json.
    """
    result = read_result(folder / "result.json")
    page = render("run.html.j2", **_context(folder, result, texts))
    path = folder / "report.html"
    # Aside and renamed, so that a page is never half written.
    aside = folder / f".report-{os.getpid()}.html"
    aside.write_text(page, encoding="utf-8")
    aside.replace(path)
    return path


def evaluated_ids(folder: Path) -> set[str]:
    """Ids of the examples that a run's report may name."""
    return set(pd.read_parquet(folder / "examples.parquet", columns=["id"])["id"])


def _context(folder: Path, result: dict[str, Any], texts: Mapping[str, str] | None) -> dict[str, Any]:
    rows = summary.main_rows(result)
    completed = result["status"] == "completed"
    examples = read_examples(folder) if completed else None
    best = strongest(findings(result))
    columns, forgotten = extremes(examples, texts or {}, best and best.attack)
    generates = completed and summary.generates(result)
    samples = _samples(folder) if generates and texts is not None else None
    generated = any(row.bleu is not None for row in rows)
    return {
        "result": result,
        "completed": completed,
        "verdict": summary.verdict(result),
        "metric": summary.metric_name(summary.main_metric(result)),
        "bleu": summary.bleu_name(result["task"]) if generates else "",
        "signatures": _signatures(result),
        "generated": [f"{count:,} {split}" for split, count in (result.get("generated") or {}).items()],
        "cut": _cut(result),
        "rows": rows,
        "splits": summary.SPLITS,
        "tones": {split: {row.role: summary.tone(row, rows, split) for row in rows} for split in summary.SPLITS},
        "points": summary.points,
        "signed": summary.signed,
        "utility": grid(result.get("utility")),
        "forgetting": _with_excess(_lines(grid(result.get("forgetting")), original=False)),
        "forgetting_original": _lines(grid(result.get("forgetting")), original=True),
        "audit": audit.sections(result, examples, texts or {}),
        "membership": grid(result.get("membership")),
        "seconds": {
            stage: f"{value:.1f} s" for stage, value in (result.get("seconds") or {}).items() if value is not None
        },
        "cost": _cost(result),
        "unlearning": _facts(result.get("unlearning") or {}),
        "curves": [*_curves(folder), *_bars(result.get("unlearning") or {})] if completed else [],
        "histograms": _histograms(examples),
        "forgotten": forgotten,
        "example_columns": columns,
        "samples": samples or [],
        "samples_missing": generated and completed and texts is not None and samples is None,
        "config": json.dumps(result.get("config") or {}, indent=2, ensure_ascii=False),
    }


def grid(values: Mapping[str, Any] | None) -> Grid:
    """Turn {model: {group: {metric: value}}} into a table with one column per model, floor and A_R first."""
    values = values or {}
    known = [model for model in summary.LABELS if model in values]
    models = known + [model for model in values if model not in known]
    keys = dict.fromkeys(
        (group, metric) for model in models for group, metrics in values[model].items() for metric in metrics
    )
    lines = [(group, metric, [values[model].get(group, {}).get(metric) for model in models]) for group, metric in keys]
    return Grid([summary.LABELS.get(model, model) for model in models], lines)


def _lines(table: Grid, original: bool) -> Grid:
    """The lines of distances to the original model, or the others, which are to the retrained one."""
    return Grid(table.columns, [line for line in table.lines if line[1].endswith("_original") == original])


def _with_excess(table: Grid) -> Grid:
    """Add the column that distances are to be read by: what is left of them above the noise floor."""
    floor, unlearned = summary.LABELS["noise_floor"], summary.LABELS["unlearned"]
    if floor not in table.columns or unlearned not in table.columns:
        return table

    def excess(metric: str, values: list[Any]) -> float | None:
        return None if metric in _NO_DISTANCES else summary.difference(values[at_unlearned], values[at_floor])

    at_floor, at_unlearned = table.columns.index(floor), table.columns.index(unlearned)
    lines = [(group, metric, [*values, excess(metric, values)]) for group, metric, values in table.lines]
    return Grid([*table.columns, "unlearned - floor"], lines)


def _cost(result: Mapping[str, Any]) -> dict[str, str]:
    """`cost` for reading: seconds, and bytes in MiB."""
    known = {name: value for name, value in (result.get("cost") or {}).items() if value is not None}
    return {
        name.removesuffix("_bytes").removesuffix("_seconds"): (
            f"{value / 2**20:,.1f} MiB" if name.endswith("_bytes") else f"{value:.1f} s"
        )
        for name, value in known.items()
    }


def _signatures(result: Mapping[str, Any]) -> list[str]:
    """How the scores of texts were computed; metrics of one signature together."""
    metrics: dict[str, list[str]] = {}
    for metric, signature in (result.get("signatures") or {}).items():
        metrics.setdefault(signature, []).append(metric)
    return [f"{', '.join(names)}: {signature}" for signature, names in metrics.items()]


def _cut(result: Mapping[str, Any]) -> list[str]:
    """How many examples of each split were cut at the length limits, where any were."""
    cut = result.get("cut") or {}
    return [f"{part['examples']:,} of {part['of']:,} in {split}" for split, part in cut.items() if part["examples"]]


def _samples(folder: Path) -> list[tuple[str, list[dict[str, Any]]]] | None:
    """The first sample outputs of each split, the forget set's before the test set's; None where none were kept."""
    path = folder / "samples.parquet"
    if not path.exists():
        return None
    table = pd.read_parquet(path)
    models = [(role, label) for role, label in summary.LABELS.items() if role in table]
    order = ("forget", "test")
    splits = sorted(
        table["split"].unique(), key=lambda split: (order.index(split) if split in order else len(order), split)
    )
    return [
        (split, [_sample(row, models) for row in table[table["split"] == split].to_dict("records")]) for split in splits
    ]


def _sample(row: Mapping[str, Any], models: list[tuple[str, str]]) -> dict[str, Any]:
    outputs = [(role, label, _text(row[role])) for role, label in models]
    return {"id": row["id"], "input": _text(row["input"]), "target": _text(row["target"]), "outputs": outputs}


def _text(value: object) -> str:
    """A text for reading; nothing at all is told as such."""
    return "-" if not isinstance(value, str) else value if value.strip() else "(empty)"


def _curves(folder: Path) -> list[tuple[str, Markup]]:
    """(caption, figure) for the columns that the method wrote."""
    path = folder / "updates.csv"
    if not path.exists() or path.stat().st_size <= 1:
        return []
    updates = pd.read_csv(path)
    if updates.empty:
        return []
    found = []
    if {"a", "g"} <= set(updates):
        changes = int((updates["a"] > updates["g"]).diff().fillna(False).astype(bool).sum())
        start = f"; a0 = {updates['a0'].iloc[0]:.3g} nats" if "a0" in updates else ""
        found.append(
            (f"Gaps: a against its target g; a - g changed sign {changes} times{start}", figures.gap_curves(updates))
        )
    if "phase" in updates:
        phases = updates.groupby("phase")["update"].count()
        counted = " and ".join(f"{count} updates of the {phase} phase" for phase, count in phases.items())
        found.append((f"Phases: {counted}", figures.phase_curves(updates)))
        updates = updates.drop(columns=["forget", "retain", "loss"])
    named = {
        "forget": ("Forget term", "forget term"),
        "alternative": ("Term on alternative targets", "forget term"),
        "retain": ("Retain term", "retain term"),
        "dual": ("Dual variable", "dual variable"),
        "loss": ("Loss", "loss"),
        "lr": ("Learning rate", "learning rate"),
    }
    found += [
        (caption, figures.curve(updates, column, label))
        for column, (caption, label) in named.items()
        if column in updates and updates[column].notna().any()
    ]
    return found


def _facts(unlearning: Mapping[str, Any]) -> dict[str, Any]:
    """What a method says of its own work in single values."""
    return {name: value for name, value in unlearning.items() if value is not None and not isinstance(value, Mapping)}


def _bars(unlearning: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """(caption, figure) for what a method says of its own work in several values, and for the work that SISA did again."""
    found = []
    if "redone_share" in unlearning:
        shares = {"trained again": unlearning["redone_share"], "expected": unlearning["expected_share"]}
        found.append(("Training that the request repeated", figures.bars(shares, "share of all training")))
    for name, values in unlearning.items():
        if isinstance(values, Mapping) and values:
            most = dict(sorted(values.items(), key=lambda item: -item[1])[:MOST_BARS])
            found.append(
                (f"{name.replace('_', ' ').capitalize()}: {len(most)} of {len(values)}", figures.bars(most, name))
            )
    return found


def _histograms(examples: pd.DataFrame | None) -> list[tuple[str, Markup]]:
    if examples is None:
        return []
    present = set(examples["split"])
    return [
        (split, figures.loss_histogram(examples, split)) for split in ("forget", "test", "retain") if split in present
    ]
