"""Runs the command line: in this process (the imports are paid once), or in one of its own."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

# The smallest study that still does everything: under a second of training.
TINY = (
    "data.size=100",
    "model.config.dim=16",
    "model.config.hidden_dim=32",
    "model.config.n_layers=1",
    "model.config.n_heads=2",
    "model.vocab_size=300",
    "model.max_length=32",
    "optim.epochs=2",
    "optim.batch_size=16",
    "evaluation.retain_limit=20",
    "trainer.accelerator=cpu",
)
FORGET = "forget.size=5"
KGA = ("method.helpers.optim.epochs=1", "method.optim.updates=3")  # for the methods with helpers
MOVES = ("method.optim.updates=3",)


@dataclass
class Outcome:
    """What a command gave: exit code, standard output, the lines on standard error."""

    code: int
    out: str
    errors: list[str]


def kga(*arguments: str, **environment: str) -> Outcome:
    """``kga ARGUMENTS`` in this process."""
    from kga.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["kga", *arguments]),
        patch.dict(os.environ, environment),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), [line for line in err.getvalue().splitlines() if line.strip()])


def start(*arguments: str, folder: Path | None = None, **environment: str) -> subprocess.Popen:
    """``kga ARGUMENTS`` as a process with one thread, started and not waited for."""
    return subprocess.Popen(
        [sys.executable, "-m", "kga", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def apart(*arguments: str, folder: Path | None = None, **environment: str) -> Outcome:
    """``kga ARGUMENTS`` in a process of its own."""
    process = start(*arguments, folder=folder, **environment)
    out, err = process.communicate(timeout=300)
    return Outcome(process.returncode, out, [line for line in err.splitlines() if line.strip()])


def results(output: Path) -> dict[str, dict]:
    """The results of finished and failed runs below an output folder, by method."""
    found = [json.loads(path.read_text()) for path in sorted(output.glob("runs/*/result.json"))]
    return {result["method"]: result for result in found}


def run_folder(output: Path, method: str) -> Path:
    """The one run of a method."""
    (folder,) = output.glob(f"runs/*-{method}-*/")
    return folder


def models(store: Path, kind: str) -> list[Path]:
    """The finished models of a kind in a store."""
    return sorted(path.parent for path in store.glob(f"{kind}/*/manifest.json"))


def write_folder(folder: Path, train: list[dict], **splits: list[dict]) -> Path:
    """A data folder of JSON Lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"train": train, **splits}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
