"""What W&B keeps of runs that reached no server, read by its own tool."""

import json
import subprocess
import sys
from pathlib import Path

WANDB = str(Path(sys.executable).parent / "wandb")


def folders(folder: Path) -> list[Path]:
    """The offline parts of the W&B run that lies in a folder, in order: one, and one more after each interruption."""
    return sorted(folder.glob("wandb/offline-run-*"))


def records(part: Path) -> list[dict]:
    """Its records, one a dictionary."""
    done = subprocess.run([WANDB, "leet", "inspect", "--json", str(part)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def of(found: list[dict], kind: str) -> list[dict]:
    """The contents of the records of a type."""
    return [record[kind] for record in found if record["type"] == kind]
