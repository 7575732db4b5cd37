"""The records that sweeps leave (sweep.json), and the runs that were wanted or begun but have no result."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kga.errors import UserError

RECORD = "sweep.json"
_BEGUN = (".lock", "splits.parquet")  # what a run writes before its result


@dataclass(frozen=True)
class Record:
    """One sweep.json. jobs: as the sweep wrote them, `folder` resolved (None where a mistake kept the job from having one)."""

    name: str
    command: str
    jobs: list[dict[str, Any]]

    @property
    def folders(self) -> list[Path]:
        """Folders of the jobs that have a result."""
        return [job["folder"] for job in self.jobs if job["folder"] and (job["folder"] / "result.json").is_file()]


@dataclass(frozen=True)
class Missing:
    """A run without result.json. state: as its sweep knows it, or "begun"; folder: None where it never got one."""

    folder: Path | None
    state: str
    overrides: tuple[str, ...] = ()
    error: str | None = None
    sweep: str = ""

    @property
    def name(self) -> str:
        return self.folder.name if self.folder else "no folder"


def read_record(path: Path) -> Record:
    """Reads a sweep.json; UserError where it is none."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        jobs = [dict(job) | _read(job, path.parent) for job in read["jobs"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not the record of a sweep ({type(error).__name__}: {error}); delete it, or start the sweep again"
        ) from None
    return Record(str(read.get("name") or path.parent.name), str(read.get("command") or ""), jobs)


def _read(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is said of a job, each in its type."""
    return {
        "folder": (folder / job["folder"]).resolve() if job.get("folder") else None,
        "overrides": tuple(map(str, job.get("overrides") or ())),
        "state": str(job.get("state") or "pending"),
        "error": None if job.get("error") is None else str(job["error"]),
    }


def is_begun(folder: Path, files: Iterable[str]) -> bool:
    """Whether the folder (with these files) is that of a run that was begun and has no result."""
    return folder.parent.name == "runs" and "result.json" not in files and any(name in files for name in _BEGUN)


def missing_runs(begun: Iterable[Path], records: Iterable[Record]) -> list[Missing]:
    """Every run without a result once: the jobs of the sweeps, then folders that no sweep knows of."""
    found: dict[object, Missing] = {}
    for record in records:
        for number, job in enumerate(record.jobs):
            folder = job["folder"]
            if folder is None or not (folder / "result.json").is_file():
                found.setdefault(folder or (record.name, number), _missing(job, record.name))
    for folder in begun:
        found.setdefault(folder.resolve(), Missing(folder.resolve(), "begun"))
    return list(found.values())


def _missing(job: dict[str, Any], sweep: str) -> Missing:
    state = "completed, its result is gone" if job["state"] == "completed" else job["state"]
    return Missing(job["folder"], state, job["overrides"], job["error"], sweep)
