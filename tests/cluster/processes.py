"""Processes of a cluster, as the kernel knows them."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def of_cluster(root: Path) -> Iterator[int]:
    """Ids of all processes that were started with the settings below ``root``: daemons, jobs, and commands of tests."""
    mark = f"SLURM_CONF={root}/".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile
            if any(entry.startswith(mark) for entry in path.read_bytes().split(b"\0")):
                yield int(path.parent.name)


def of_job(root: Path, number: str) -> list[int]:
    """Those that make a run: one for each task of the job, whose ``number`` is that of its own where it is one of an array."""
    found = []
    for process in of_cluster(root):
        with suppress(OSError):
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            worker = b"\0submitit.core._submit\0" in command and not command.startswith(b"srun\0")
            if worker and f"SLURM_JOB_ID={number}".encode() in environment:
                found.append(process)
    return found


def end(root: Path) -> None:
    """Ends all of a cluster. More than one round: what ends may have started another before."""
    while found := [process for process in of_cluster(root) if process != os.getpid()]:
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def locks(process: int, folder: Path) -> Iterator[Path]:
    """The lock files in a folder that a process has open."""
    for link in Path(f"/proc/{process}/fd").glob("*"):
        with suppress(OSError):
            target = Path(os.readlink(link))
            if target.parent == folder and target.suffix == ".lock":
                yield target


def is_stopped(process: int) -> bool:
    return _status(process, "State").startswith("T")


def pending(process: int) -> set[int]:
    """Numbers of the signals that wait for a process."""
    mask = int(_status(process, "ShdPnd") or "0", 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def _status(process: int, name: str) -> str:
    """What the kernel says of a process; nothing where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), "")
