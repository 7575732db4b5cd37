"""The jobs of a sweep in a SLURM queue: submitted through submitit, found again, waited for, or left."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kga.console import note, progress
from kga.errors import RunFailed, UserError
from kga.sweeps.sweep import Job, Sweep

POLL = 2.0  # seconds between two looks at the queue
GRACE = 90.0  # seconds that a result may take to be seen once its job is gone: NFS remembers a folder for up to 60
LOST = ("CANCELLED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "DEADLINE", "BOOT_FAIL", "PREEMPTED")


def require_slurm() -> None:
    """UserError where no job can be submitted."""
    if shutil.which("sbatch") is None:
        raise UserError("launcher=slurm: there is no sbatch here: log in to the cluster, or use launcher=local")
    if in_queue() is None:
        raise UserError(
            "launcher=slurm: SLURM does not answer here (squeue): log in to the cluster, try later, or use launcher=local"
        )


def in_queue() -> dict[str, str] | None:
    """{job: state} of this user's jobs that are not over (12_3 in an array); None where SLURM does not answer."""
    said = _ask("squeue", "--me", "--noheader", "--array", "--format=%i %T")
    return None if said is None else dict(line.split(maxsplit=1) for line in said.splitlines() if line.strip())


def ended_as(job: str) -> str:
    """How a job ended, by the cluster's accounting; empty where it keeps none, or does not know yet."""
    said = _ask("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job}", "--format=State")
    return said.split("\n")[0].strip() if said else ""


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


class Queue:
    """The open runs of a sweep as jobs of a cluster. options: the launcher's parameters in submitit's names."""

    def __init__(self, sweep: Sweep, options: Mapping) -> None:
        self.sweep, self.options = sweep, dict(options)
        self.folder = self.options.pop("submitit_folder")
        self.requeues = self.options.pop("max_num_timeout")
        self.tasks = range(self.options["nodes"] * self.options["tasks_per_node"])
        self.jobs: dict[int, object] = {}  # submitit's, by the number of the run

    def attach(self) -> None:
        """Takes up jobs that an earlier start of the sweep has submitted and that are not over.

        Also of runs that have failed: while a job is put back into the queue, that is what its first time has left.
        """
        known = [job for job in self.sweep.jobs if job.id and job.state != "completed"]
        queue = in_queue() if known else {}
        if queue is None:
            raise UserError("SLURM does not answer (squeue): try again when it does; submitted jobs are not lost")
        for job in known:
            if job.id in queue:
                job.state, job.error = "pending", None
                self.jobs[job.number] = self._handle(job.id)
            elif job.state == "pending":
                self._find_ended(job)
        if self.jobs:
            note(f"{len(self.jobs)} runs are in the queue already")

    def _find_ended(self, job: Job) -> None:
        """An open run whose job is over: it has a result by now, or is lost, or is to be submitted again."""
        refresh(job.folder)
        if job.settle():
            return
        how = ended_as(job.id)
        if how.startswith(LOST) and not job.cfg["launcher"]["retry"]:
            self._fail(job, how, self._handle(job.id))
        else:
            job.id = None

    def missing(self) -> list[Job]:
        """Open runs without a job."""
        return [job for job in self.sweep.open if job.number not in self.jobs]

    def submit(self, function: Callable, arguments: Sequence[tuple], jobs: Sequence[Job]) -> None:
        """One array, with a job for each of the runs: ``function(*arguments)``."""
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        executor = submitit.AutoExecutor(
            folder=self.folder, cluster="slurm", slurm_max_num_timeout=self.requeues
        )  # fmt: skip
        common = BaseQueueConf.__dataclass_fields__.keys() - {"gpus_per_node"}  # of SLURM's it may be TYPE:NUMBER
        try:
            executor.update_parameters(**{
                name if name in common else f"slurm_{name}": value for name, value in self.options.items()
            })  # fmt: skip
            made = executor.map_array(function, *zip(*arguments, strict=True))
        except (ValueError, submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            told = [line for line in str(error).splitlines() if "error" in line] or str(error).splitlines()
            raise UserError(f"launcher.*: SLURM does not take the jobs: {told[-1].strip()}") from error
        for job, handle in zip(jobs, made, strict=True):
            job.id, self.jobs[job.number] = handle.job_id, handle
        number = made[0].job_id.partition("_")[0]
        note(
            f"submitted as SLURM job {number}; they write into {self.folder.replace('%j', number)}{'_*' * (len(made) > 1)}"
        )

    def leave(self) -> None:
        """Says how to come back."""
        note("the jobs go on by themselves: the same command shows how far they are, kga-report collects their results")
        for job in self.sweep.open:
            job.skip()

    def wait(self, tell: Callable[[Job], None]) -> None:
        """Stays until all are over; ``tell`` is called for each."""
        done = len(self.sweep.jobs) - len(self.sweep.open)
        try:
            with progress("Runs", len(self.sweep.jobs), done) as advance:
                gone: dict[int, float] = {}
                while jobs := self.sweep.open:
                    queue = in_queue()
                    for job in jobs:
                        if self._is_over(job, queue, gone):
                            self._take(job)
                            tell(job)
                            advance()
                    if self.sweep.open:
                        advance(0, info=_summary(queue, self.sweep.open))
                        time.sleep(POLL)
        except KeyboardInterrupt:
            ids = {job.id.partition("_")[0] for job in self.sweep.open}
            note(
                f"the jobs go on by themselves; the same command waits for them again, scancel {' '.join(ids)} ends them"
            )
            raise

    def _is_over(self, job: Job, queue: Mapping[str, str] | None, gone: dict[int, float]) -> bool:
        """Whether a job has left the queue, and its result is there or will not come.

        Before, what lies there may be a failure of its first time: of processes that lost each other as it was put back.
        """
        if queue is None or job.id in queue:
            gone.pop(job.number, None)
            return False
        for folder in (self.jobs[job.number].paths.folder, job.folder):
            refresh(folder)
        waited = time.monotonic() - gone.setdefault(job.number, time.monotonic())
        return self._has_result(job) or ended_as(job.id).startswith(LOST) or waited > GRACE

    def _take(self, job: Job) -> None:
        """Reads what a job has left; where that is nothing, what the run has left."""
        handle = self.jobs[job.number]
        if self._has_result(job):
            try:
                job.end(handle.results()[0])
            except Exception as error:  # whatever ended the job outside of the run itself
                job.fail(RunFailed(f"SLURM job {job.id}: {reason(error)}: see {handle.paths.stderr}"))
        elif not job.settle():
            self._fail(job, ended_as(job.id) or "gone from the queue", handle)
        self.sweep.write()

    def _fail(self, job: Job, how: str, handle: object) -> None:
        job.fail(RunFailed(f"SLURM job {job.id} is {how}, without a result: see {handle.paths.stderr}"))

    def _handle(self, number: str) -> object:
        import submitit

        return submitit.SlurmJob(folder=self.folder, job_id=number, tasks=list(self.tasks))

    def _has_result(self, job: Job) -> bool:
        handle = self.jobs[job.number]
        return all(handle.task(task).paths.result_pickle.exists() for task in self.tasks)


def refresh(folder: Path) -> None:
    """Makes a network's file system look anew for what is in a folder (as ``submitit.Job.done`` does)."""
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode)


def reason(error: Exception) -> str:
    """The last line of what was raised in a job, out of submitit's message: a trace between two rules, paths after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    rules = [place for place, line in enumerate(lines) if set(line) == {"-"}]
    return lines[rules[-1] - 1] if len(rules) > 1 else lines[-1]


def _summary(queue: Mapping[str, str] | None, jobs: Sequence[Job]) -> str:
    """'2 running, 3 pending'."""
    if queue is None:
        return "SLURM does not answer"
    states = Counter(queue[job.id].lower() for job in jobs if job.id in queue)
    return ", ".join(f"{count} {state}" for state, count in states.items())
