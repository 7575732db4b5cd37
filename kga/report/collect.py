"""Finding and reading the results of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kga.errors import UserError


@dataclass(frozen=True)
class Run:
    """One result.json. `error` says why a run is not completed; `result` is empty where the file could not be read."""

    folder: Path
    result: dict[str, Any]
    error: str | None = None

    @property
    def method(self) -> str:
        return str(self.result.get("method"))

    @property
    def completed(self) -> bool:
        return self.result.get("status") == "completed"


def collect(paths: Iterable[Path]) -> list[Run]:
    """All runs below the paths, each once, sorted by folder.

    Raises:
        UserError: a path does not exist or holds no result.json.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        found = _folders(path)
        if not found:
            raise UserError(f"{path}: no result.json here or below; name the folder that runs were written to")
        folders |= {folder.resolve(): folder for folder in found}
    return [_run(folder) for _, folder in sorted(folders.items())]


def _folders(path: Path) -> list[Path]:
    if path.is_file():
        return [path.parent] if path.name == "result.json" else []
    found = []
    for folder, below, files in os.walk(path):
        if "result.json" in files:
            found.append(Path(folder))
            below.clear()  # a run holds no other runs, but many files
    return found


def _run(folder: Path) -> Run:
    try:
        result = read_result(folder / "result.json")
    except UserError as error:
        return Run(folder, {}, str(error))
    error = None if result["status"] == "completed" else result.get("error") or f"status {result['status']}"
    return Run(folder, result, error)


def read_result(path: Path) -> dict[str, Any]:
    """Read a result.json; a UserError says what is wrong with the file."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; name the folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run it again to write it anew") from None
    if not isinstance(result, dict) or "status" not in result:
        raise UserError(f"{path}: not the result of a run (it has no `status`)")
    return result
