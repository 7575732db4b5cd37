"""Writing the collected tables: one function per format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from kga.report.collect import Run
from kga.report.render import render
from kga.report.tables import MainTable


@dataclass(frozen=True)
class Collected:
    """What a report is written from: the runs, every number of them, the same over seeds, and the main tables."""

    runs: list[Run]
    values: pd.DataFrame
    aggregated: pd.DataFrame
    tables: list[MainTable]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if not run.completed]


def write(collected: Collected, formats: list[str], folder: Path) -> list[Path]:
    """Write the formats (names in WRITERS) into the folder, which is made; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for name in formats for path in WRITERS[name](collected, folder)]


def _html(collected: Collected, folder: Path) -> list[Path]:
    runs = [(run, _link(run.folder / "report.html", folder)) for run in collected.runs]
    return _rendered("collected.html.j2", folder / "report.html", collected, runs=runs)


def _latex(collected: Collected, folder: Path) -> list[Path]:
    return _rendered("collected.tex.j2", folder / "report.tex", collected)


def _markdown(collected: Collected, folder: Path) -> list[Path]:
    return _rendered("collected.md.j2", folder / "report.md", collected)


def _csv(collected: Collected, folder: Path) -> list[Path]:
    paths = [folder / "values.csv", folder / "summary.csv"]
    for frame, path in zip(_frames(collected), paths, strict=True):
        frame.to_csv(path, index=False)
    return paths


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
    failed = pd.DataFrame(
        [
            {
                **{name: run.result.get(name) for name in ("task", "data", "model", "method", "seed")},
                "folder": str(run.folder),
                "status": "failed",
                "error": run.error,
            }
            for run in collected.failed
        ],
        columns=[*collected.values.columns, "status", "error"],
    ).astype({"seed": "Int64", "value": float})
    values = collected.values.assign(status="completed", error=None)
    return pd.concat([part for part in (values, failed) if len(part)], ignore_index=True), collected.aggregated


def _rendered(template: str, path: Path, collected: Collected, **more: object) -> list[Path]:
    page = render(template, tables=collected.tables, failed=collected.failed, **more)
    path.write_text(page, encoding="utf-8")
    return [path]


def _link(report: Path, folder: Path) -> str | None:
    """The report's address relative to the folder; None where the run has none."""
    if not report.exists():
        return None
    return quote(Path(os.path.relpath(report.resolve(), folder.resolve())).as_posix())
