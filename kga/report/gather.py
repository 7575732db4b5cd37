"""Everything that a report over many runs is written from, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from kga.report.collect import Run, search
from kga.report.select import results
from kga.report.settings import Setting, settings_of
from kga.report.sweeps import Missing, Record
from kga.report.tables import MainTable, main_tables
from kga.report.tidy import aggregate, tidy


@dataclass(frozen=True)
class Collected:
    """What a report is written from: the runs, every number of them, the same over seeds, and the main tables.

    settings: of completed runs, by folder. missing: runs without a result. records: of sweeps among the paths. values: every
    number; shown: those of them that tables and figures are made of; aggregated: these over seeds.
    """

    runs: list[Run]
    missing: list[Missing]
    records: list[Record]
    settings: dict[Path, Setting]
    values: pd.DataFrame
    shown: pd.DataFrame
    aggregated: pd.DataFrame
    tables: list[MainTable]

    @property
    def completed(self) -> list[Run]:
        return [run for run in self.runs if run.completed]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if not run.completed]

    @property
    def sweep(self) -> Record | None:
        """The sweep that all runs belong to, if there is one."""
        if len(self.records) != 1:
            return None
        own = set(self.records[0].folders)
        return self.records[0] if all(run.folder.resolve() in own for run in self.runs) else None

    @property
    def counted(self) -> str:
        """How many runs there are, in words."""
        missing = f", {len(self.missing)} more without a result" if self.missing else ""
        return f"{len(self.runs)} runs, {len(self.failed)} of them failed{missing}"


def gather(paths: Sequence[Path]) -> Collected:
    """Reads all runs below the paths (of a sweep's folder: that sweep's); UserError where there is nothing to read."""
    found = search(paths)
    settings = settings_of([run for run in found.runs if run.completed])
    values = tidy(found.runs, settings)
    shown = results(values)
    aggregated = aggregate(shown)
    return Collected(
        found.runs,
        found.missing,
        found.records,
        settings,
        values,
        shown,
        aggregated,
        main_tables(aggregated, values),
    )
