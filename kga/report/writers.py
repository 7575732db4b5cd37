"""Writing the collected tables: one function per format."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as arrow
from pyarrow import compute, csv

from kga.errors import UserError
from kga.report.gather import Collected
from kga.report.render import render


def write(collected: Collected, formats: Sequence[str], folder: Path) -> list[Path]:
    """Write the formats (names in WRITERS) into the folder, which is made; returns the files.

    Raises:
        UserError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [path for name in formats for path in WRITERS[name](collected, folder)]
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written there ({error}); kga-report --output DIR writes it elsewhere"
        ) from None


def _html(collected: Collected, folder: Path) -> list[Path]:
    from kga.report.gallery import galleries  # draws figures: slow to import

    runs = [
        (run, _link(run.folder / "report.html", folder), getattr(collected.settings.get(run.folder), "whole", ""))
        for run in collected.runs
    ]
    drawn = galleries(collected)
    return _rendered("collected.html.j2", folder / "report.html", collected, runs=runs, galleries=drawn)


def _latex(collected: Collected, folder: Path) -> list[Path]:
    return _rendered("collected.tex.j2", folder / "report.tex", collected)


def _markdown(collected: Collected, folder: Path) -> list[Path]:
    return _rendered("collected.md.j2", folder / "report.md", collected)


def _csv(collected: Collected, folder: Path) -> list[Path]:
    paths = [folder / "values.csv", folder / "summary.csv"]
    for frame, path in zip(_frames(collected), paths, strict=True):
        table = _without_formulas(arrow.Table.from_pandas(frame, preserve_index=False))
        csv.write_csv(table, path, csv.WriteOptions(quoting_style="needed"))  # ten times faster than pandas
    return paths


def _without_formulas(table: arrow.Table) -> arrow.Table:
    """The table with an apostrophe before texts that a spreadsheet would take for formulas."""
    for number, field in enumerate(table.schema):
        if arrow.types.is_string(field.type) or arrow.types.is_large_string(field.type):
            texts = table[number].combine_chunks().dictionary_encode()  # few different ones
            told = compute.replace_substring_regex(texts.dictionary, r"^([=+\-@])", r"'\1")
            table = table.set_column(number, field.name, told.take(texts.indices))
    return table


def _parquet(collected: Collected, folder: Path) -> list[Path]:
    paths = [folder / "values.parquet", folder / "summary.parquet"]
    for frame, path in zip(_frames(collected), paths, strict=True):
        frame.to_parquet(path, index=False)
    return paths


WRITERS: dict[str, Callable[[Collected, Path], list[Path]]] = {
    "html": _html,
    "csv": _csv,
    "parquet": _parquet,
    "latex": _latex,
    "markdown": _markdown,
}


def _frames(collected: Collected) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every number, with a row for each run that has none, and the numbers over seeds."""
    failed = [
        {name: run.result.get(name) for name in ("task", "data", "model", "method", "seed")}
        | {"folder": str(run.folder), "status": "failed", "error": run.error}
        for run in collected.failed
    ]
    missing = [
        {"folder": str(lost.folder or ""), "setting": ", ".join(lost.overrides), "status": "missing"}
        | {"error": ": ".join(filter(None, (lost.state, lost.error)))}
        for lost in collected.missing
    ]
    without = pd.DataFrame([*failed, *missing], columns=[*collected.values.columns, "status", "error"])
    values = collected.values.assign(status="completed", error=None)
    parts = [part for part in (values, without.astype({"seed": "Int64", "value": float})) if len(part)]
    return pd.concat(parts, ignore_index=True), collected.aggregated


def _rendered(template: str, path: Path, collected: Collected, **more: object) -> list[Path]:
    page = render(template, collected=collected, **more)
    # Aside and renamed, so that a page is never half written.
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    aside.write_text(page, encoding="utf-8")
    aside.replace(path)
    return [path]


def _link(report: Path, folder: Path) -> str | None:
    """The report's address relative to the folder; None where the run has none."""
    if not report.exists():
        return None
    return quote(Path(os.path.relpath(report.resolve(), folder.resolve())).as_posix())
