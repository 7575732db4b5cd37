"""Finding and reading the results of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kga.errors import UserError
from kga.report.shape import identity, require_readable
from kga.report.sweeps import RECORD, Missing, Record, is_begun, missing_runs, read_record


@dataclass(frozen=True)
class Run:
    """One result.json. `error` says why a run is not completed; `result` has no numbers where the file could not be read."""

    folder: Path
    result: dict[str, Any]
    error: str | None = None

    @property
    def method(self) -> str:
        return str(self.result.get("method"))

    @property
    def completed(self) -> bool:
        return self.result.get("status") == "completed"


@dataclass(frozen=True)
class Collection:
    """What lies below some paths: runs with a result, runs without one, and the records of sweeps."""

    runs: list[Run]
    missing: list[Missing]
    records: list[Record]


def collect(paths: Iterable[Path]) -> list[Run]:
    """All runs below the paths, each once, sorted by folder; UserError as of `search`."""
    return search(paths).runs


def search(paths: Iterable[Path]) -> Collection:
    """All runs below the paths, each once, sorted by folder. Of a sweep's own folder, or its record: the runs of that sweep.

    Raises:
        UserError: a path does not exist or holds neither a run nor a sweep; a record of a sweep cannot be read.
    """
    folders: dict[Path, Path] = {}
    begun: list[Path] = []
    records: dict[Path, Record] = {}
    for path in paths:
        runs, unfinished, found = _below(path)
        if not (runs or unfinished or found):
            raise UserError(f"{path}: no result.json here or below; name the folder that runs were written to")
        folders |= {folder.resolve(): folder for folder in runs}
        begun += unfinished
        records |= {record.resolve(): read_record(record) for record in found if record.resolve() not in records}
        sweep = path if path.name == RECORD else path / RECORD
        if sweep.is_file():
            folders |= {folder: folder for folder in records[sweep.resolve()].folders}
    runs = [_run(folder) for _, folder in sorted(folders.items())]
    return Collection(runs, missing_runs(begun, records.values()), list(records.values()))


def _below(path: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Folders of runs with a result and without one, and files of sweeps' records."""
    if path.is_file():
        return [path.parent] if path.name == "result.json" else [], [], [path] if path.name == RECORD else []
    runs: list[Path] = []
    begun: list[Path] = []
    records: list[Path] = []
    for name, below, files in os.walk(path):
        folder = Path(name)
        if RECORD in files:
            records.append(folder / RECORD)
        if "result.json" in files:
            runs.append(folder)
        elif is_begun(folder.absolute(), files):
            begun.append(folder)
        if folder in (*runs[-1:], *begun[-1:]) or "manifest.json" in files:
            below.clear()  # a run or a trained model holds no other runs, but many files
    return runs, begun, records


def _run(folder: Path) -> Run:
    result: dict[str, Any] = {}
    try:
        result = read_result(folder / "result.json")
        require_readable(result)
    except UserError as error:
        return Run(folder, identity(result) | {"status": "failed"}, str(error))
    if result["status"] == "completed":
        return Run(folder, result)
    return Run(folder, result, str(result.get("error") or f"status {result['status']}"))


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json; a UserError says what is wrong with the file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; name the folder of a finished run") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run it again to write it anew") from None
    if not isinstance(result, dict) or "status" not in result:
        raise UserError(f"{path}: not the result of a run (it has no `status`)")
    return result
