"""The folder of a run: its name, who may write it, its result and what lies beside it."""

import json
import math
import os
import re
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kga import ranks
from kga.console import note
from kga.errors import UserError


def run_folder(output: Path | str, task: str, method: str, key: str) -> Path:
    """Where a run lies: ``OUTPUT/runs/TASK-METHOD-KEY12``."""
    return Path(output) / "runs" / f"{task}-{method}-{key[:12]}"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Whoever starts the same run meanwhile waits, and then reads its result. Of several processes the first stands for all."""
    if not ranks.is_main():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note(f"another process is at this run ({folder.name}): waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def finished_result(folder: Path) -> dict | None:
    """The result of a completed run, or None."""
    return ranks.from_main(lambda: _finished(folder))


def _finished(folder: Path) -> dict | None:
    state, result = state_of(folder)
    return result if state == "completed" else None


def state_of(folder: Path) -> tuple[str | None, dict]:
    """What there is of a run: "completed", "failed" or None, and its result."""
    path = folder / "result.json"
    if not path.is_file():
        return None, {}
    result = json.loads(path.read_text())
    whole = result.get("status") == "failed" or (folder / "model").is_dir()
    return result.get("status") if whole else None, result


@contextmanager
def recorded(folder: Path, result: dict) -> Iterator[None]:
    """Writes ``result`` as the run's result.json at the end: as completed, or as failed with the error.

    mistake: whether that is one of the user's, in settings or data.
    """
    try:
        yield
    except Exception as error:
        error = ranks.cause(error)
        mistake = isinstance(error, UserError)
        reason = str(error) if mistake else "".join(traceback.format_exception_only(error)).strip()
        write_result(folder, result | {"status": "failed", "error": reason, "mistake": mistake})
        raise
    write_result(folder, result | {"status": "completed", "error": None})


def keep_model(model: Path, folder: Path) -> None:
    """Puts the unlearned model (and its history of updates) beside the result."""
    if not ranks.is_main():
        return
    aside = folder / "model.new"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(model, aside, ignore=shutil.ignore_patterns("manifest.json", "updates.csv", "epoch_ends"))
    shutil.rmtree(folder / "model", ignore_errors=True)
    os.replace(aside, folder / "model")
    if (model / "updates.csv").is_file():
        shutil.copy(model / "updates.csv", folder / "updates.csv")


def write_result(folder: Path, result: Mapping) -> None:
    """Writes result.json, strict JSON, by rename."""
    if not ranks.is_main():
        return
    path = folder / "result.json"
    aside = path.with_suffix(f".{os.getpid()}.new")
    written = json.dumps(_strict(result), indent=1, allow_nan=False)
    aside.write_text(re.sub(r"\[\n(?:[-+.\deE,\s]|null)+\]", _on_one_line, written))
    os.replace(aside, path)


def _on_one_line(numbers: re.Match) -> str:
    """A list of numbers. (No text of a result is taken for one: in those a line break is written as two characters.)"""
    return " ".join(numbers[0].split()).replace("[ ", "[").replace(" ]", "]")


def _strict(value: object) -> object:
    """JSON has no NaN and no infinity: null. Anything it does not know, such as a path, is written as text."""
    if isinstance(value, Mapping):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
