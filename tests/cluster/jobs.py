"""Sweeps on the cluster of the tests: started as users type them, their jobs caught at a known moment, and what is left."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cluster import processes
from cluster.slurm import Slurm
from helpers.cli import Outcome, start

PATIENCE = 120.0  # seconds that anything may take before a test fails
LAUNCHER = ("launcher.cpus=1",)  # more jobs at a time, on few processors


def until(condition: Callable[[], object], what: str, said: Callable[[], str] = str) -> object:
    """What ``condition`` returns, once it is true. what, said: what is told where that takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {PATIENCE:.0f} seconds: {what}\n{said()}"
        time.sleep(0.05)
    return found


class Command:
    """``kga -m launcher=slurm ...`` as a process that is not waited for."""

    def __init__(self, slurm: Slurm, output: Path, *overrides: str, launcher: str = "slurm") -> None:
        self.slurm, self.output = slurm, output
        arguments = ("-m", *overrides, f"launcher={launcher}", *LAUNCHER, f"output={output}")
        self.process = start(*arguments, **slurm.environment)

    def ends(self) -> Outcome:
        """Waits for it."""
        out, err = self.process.communicate(timeout=PATIENCE * 2)
        return Outcome(self.process.returncode, out, [line for line in err.splitlines() if line.strip()])

    def says(self, part: str) -> None:
        """Waits for a line of its output; those until then are gone."""
        line = next((line for line in self.process.stdout if part in line), None)
        assert line, f"it ended without having said {part!r}: {self.process.communicate()}"

    def job(self) -> str:
        """The number of its array, once it is submitted."""
        return until(lambda: next(iter(self._submitted()), None), "a job that is submitted")

    def _submitted(self) -> list[str]:
        assert self.process.poll() is None, self.ends()
        return [job["job_id"].partition("_")[0] for job in record(self.output)["jobs"] if job["job_id"]]


def kga(slurm: Slurm, output: Path, *overrides: str, launcher: str = "slurm") -> Outcome:
    """``kga -m launcher=slurm ...``, waited for."""
    return Command(slurm, output, *overrides, launcher=launcher).ends()


# What a sweep leaves -----------------------------------------------------------------------------------------------------


def record(output: Path) -> dict:
    """The record of the one sweep below an output folder; without jobs where there is none yet."""
    found = [json.loads(path.read_text()) for path in output.glob("sweeps/*/sweep.json")]
    assert len(found) <= 1
    return found[0] if found else {"jobs": []}


def states(output: Path) -> list[str]:
    """The state of each of its runs, by its record."""
    return [job["state"] for job in record(output)["jobs"]]


def log(output: Path, job: str = "*") -> str:
    """All that a job ("1_0", "1", or all jobs) has written, over its requeues."""
    return "\n".join(path.read_text() for path in sorted(output.glob(f"slurm/{job}/{job}_*_log.*")))


def trained(output: Path) -> dict[str, list[int]]:
    """{model: numbers of updates} of each training that was finished, by what the jobs say of it."""
    found: dict[str, list[int]] = {}
    for title, updates in re.findall(r"^(A.*): (\d+)/\2 in ", log(output), re.MULTILINE):
        found.setdefault(title, []).append(int(updates))
    return found


# Jobs that run -------------------------------------------------------------------------------------------------------


def shorten(slurm: Slurm, job: str) -> None:
    """Leaves a running job two minutes at most: it is warned when SLURM next looks at its time limit, within 30 seconds."""
    elapsed = int(re.search(r"RunTime=(\d+):(\d+):", slurm.ask("scontrol", "show", "job", job))[2])
    slurm.ask("scontrol", "update", f"job={job}", f"timelimit={elapsed + 2}")


def requeues(slurm: Slurm, job: str) -> int:
    """How often a job was put back into the queue."""
    return int(re.search(r"Restarts=(\d+)", slurm.ask("scontrol", "show", "job", job))[1])


def freeze(slurm: Slurm, output: Path, job: str, kind: str = "original") -> list[int]:
    """Stops the processes of a job in the middle of a training, when its first checkpoint lies there; returns them.

    Frozen, it costs no time, gets signals, and can't run away to its end: what the test does next always meets it there.
    """
    return freeze_all(slurm, {job: output}, kind)[job]


def freeze_all(slurm: Slurm, outputs: Mapping[str, Path], kind: str = "original") -> dict[str, list[int]]:
    """The same for several jobs, each when it gets there first: none runs away while another one is waited for.

    outputs: the output folder of each job.
    """
    frozen: dict[str, list[int]] = {}

    def caught() -> bool:
        for job in outputs.keys() - frozen.keys():
            if found := _in_training(slurm, outputs[job], job, kind):
                frozen[job] = found
        return len(frozen) == len(outputs)

    def said() -> str:
        return "\n".join(log(outputs[job], job) for job in outputs.keys() - frozen.keys())

    until(caught, f"a checkpoint of {kind} by each of {', '.join(outputs)}", said)
    return {job: frozen[job] for job in outputs}


def _in_training(slurm: Slurm, output: Path, job: str, kind: str) -> list[int]:
    """The processes of a job that has a checkpoint of what it is training, stopped; else none."""
    own = slurm.said("squeue", "--noheader", "--array", "--format=%A", f"--jobs={job}")
    found = processes.of_job(slurm.root, own) if own else []
    for lock in (lock for process in found for lock in processes.locks(process, output / "store" / kind)):
        work = lock.with_suffix(".work")  # it holds the lock beside it
        if [*work.glob("checkpoints/*.ckpt")]:
            for process in found:
                os.kill(process, signal.SIGSTOP)
            assert work.is_dir(), "the job has left the training before it could be stopped"
            return found
    return []


def thaw_at(name: str, frozen: list[int]) -> None:
    """Lets the processes go on once a signal, such as "SIGUSR2", waits for them (or SLURM has let them go on itself)."""
    number = signal.Signals[name]
    for process in frozen:
        until(
            lambda process=process: not processes.is_stopped(process) or number in processes.pending(process),
            f"{name} to {process}",
        )
    thaw(frozen)


def thaw(frozen: list[int]) -> None:
    for process in frozen:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
