"""The report over many runs, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kga.report.gather import gather
from kga.report.writers import write


def write_report(paths: Sequence[Path], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Writes the report over all runs below some paths into a folder, which is made; returns its files.

    A path that is the folder of a sweep (with its sweep.json) stands for the runs of that sweep.

    Args:
        formats: names in `kga.report.writers.WRITERS`.

    Raises:
        UserError: there is no run to report on, or the folder cannot be written to.
    """
    return write(gather(paths), formats, folder)
