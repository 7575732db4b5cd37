"""How the runs of a sweep are made: Hydra's own launchers (basic, joblib, submitit) with kga's plan, record and report.

Hydra knows them as ``hydra_plugins.kga_launchers`` (see ``kga.sweeps.plugins``).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock, Thread

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from kga import config
from kga.console import note, progress
from kga.errors import RunFailed, UserError
from kga.loggers import tracking
from kga.sweeps.sweep import Failed, Job, Sweep


class Sweeping:
    """What all launchers have in common. ``make`` makes the runs that are to be made, in whatever way."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Makes the runs of a batch that are not there, and returns what came of each (Hydra's interface)."""
        sweep = Sweep(self.config, self.hydra_context, job_overrides, initial_job_idx)
        self.require(sweep)
        sweep.announce(self.plan(sweep))
        if not sweep.lists:
            with sweep.alone():
                sweep.write()
        self.make(sweep)
        sweep.conclude()
        self.error = sweep.error() or self.error
        if self.error and sweep.is_last:
            for job in sweep.failed or sweep.jobs[-1:]:
                job.returned = Failed(job.overrides, self.error)
        elif self.error:  # Hydra would make no further batch
            for job in sweep.failed:
                job.skip()
        return [job.returned for job in sweep.jobs]

    error: RunFailed | None = None  # of this batch or an earlier one

    def require(self, sweep: Sweep) -> None:
        """UserError where the runs can't be launched at all."""

    def plan(self, sweep: Sweep) -> list[str]:
        """What is going to be trained, in lines; nothing where all is there."""
        if not sweep.open or sweep.lists:
            return []
        from kga.sweeps.plan import lines

        return lines(sweep.open, self.workers, self.runs_here)

    runs_here = True  # whether runs are made on this machine, so that timing updates on it tells something

    @property
    def workers(self) -> int:
        """Runs that are made at a time."""
        return 1

    def make(self, sweep: Sweep) -> None:
        raise NotImplementedError


class OneByOne(Sweeping, BasicLauncher):
    """One run after another, in this process."""

    def make(self, sweep: Sweep) -> None:
        for job in sweep.open:
            sweep.introduce(job)
            (returned,) = BasicLauncher.launch(self, [job.overrides], job.number)
            sweep.end(job, returned)


class Local(Sweeping, JoblibLauncher):
    """Several processes of this machine (joblib), the processor's threads divided among them."""

    @property
    def workers(self) -> int:
        return self.joblib["n_jobs"]

    def make(self, sweep: Sweep) -> None:
        """Makes the runs. Where a process is ended from outside, all are: the others' runs are started again."""
        if not sweep.open:
            return
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        logs, suspects = sweep.folder / "logs", []
        logs.mkdir(parents=True, exist_ok=True)
        note(f"each run writes into a file of its own: {logs}")
        done = len(sweep.jobs) - len(sweep.open)
        with progress("Runs", len(sweep.jobs), done) as advance:
            while jobs := sweep.open:
                batch = [suspects.pop()] if suspects else jobs
                try:
                    for number, returned in self._returns(batch, logs):
                        job = next(job for job in batch if job.number == number)
                        sweep.end(job, returned)
                        tell(job)
                        advance()
                except TerminatedWorkerError:
                    suspects = [*suspects, *_begun(sweep.open, logs)]  # each is tried again alone
                    if len(batch) == 1:
                        suspects = [job for job in suspects if job is not batch[0]]
                        batch[0].fail(RunFailed("its process was ended from outside (out of memory?)"))
                        sweep.write()
                        tell(batch[0])
                        advance()

    def _returns(self, jobs: Sequence[Job], logs: Path) -> Iterator[tuple[int, JobReturn]]:
        from joblib import Parallel, delayed

        state = Singleton.get_state()
        parts = (self.hydra_context, self.config, self.task_function, state)
        options = {"backend": "loky", "return_as": "generator_unordered", **self.joblib}
        return Parallel(**options)(
            delayed(_logged)(job.number, job.overrides, logs / f"{job.number}.log", _mark(job.number, logs), *parts)
            for job in jobs
        )


def _mark(number: int, logs: Path) -> Path:
    """The file that lies there while this launcher's process for a run is at it."""
    return logs / f"{number}.{os.getpid()}.started"


def _logged(number: int, overrides: Sequence[str], log: Path, mark: Path, *parts: object) -> tuple[int, JobReturn]:
    """One run, whose output goes to a file. In a process of its own, but for launcher.jobs=1."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    config.register()
    if mark.suffixes[0] != f".{os.getpid()}":  # the launcher's own process makes runs with launcher.jobs=1
        _end_when_orphaned()
    mark.touch()
    try:
        with _at_work, _written_to(log):
            return number, execute_job(number, overrides, *parts)
    finally:
        mark.unlink(missing_ok=True)


_at_work = Lock()


@cache
def _end_when_orphaned() -> None:
    """Ends this process once the command that started it was killed and its own run is made: it would wait for ever."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent or _at_work.locked():
            time.sleep(2)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _written_to(path: Path) -> Iterator[None]:
    """All that is written meanwhile, by libraries and other programs too, goes to the end of a file."""
    streams = {1: sys.stdout, 2: sys.stderr}
    kept = {number: os.dup(number) for number in streams}
    try:
        with path.open("a") as file:
            for number, stream in streams.items():
                stream.flush()
                os.dup2(file.fileno(), number)
            yield
    finally:
        for number, stream in streams.items():
            stream.flush()
            os.dup2(kept[number], number)
            os.close(kept[number])


def _begun(jobs: Sequence[Job], logs: Path) -> list[Job]:
    """The runs that were being made when a process was ended."""
    found = []
    for job in jobs:
        with suppress(FileNotFoundError):
            _mark(job.number, logs).unlink()
            found.append(job)
    return found


def tell(job: Job) -> None:
    """Says how a run ended that was made elsewhere."""
    note(f"{job.label}: {job.state}" + (f": {job.error}" if job.error else ""))


class Slurm(Sweeping, SlurmLauncher):
    """One SLURM job for each run, as one array (submitit); a process has as many threads as the job has processors for it."""

    runs_here = False

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        threads = (
            "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}",
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",  # from SLURM 22.05 on srun takes it by this name alone
        )
        self.params["setup"] = [*threads, *(self.params["setup"] or ())]

    @property
    def workers(self) -> int:
        return self.params["array_parallelism"]

    @property
    def options(self) -> dict[str, object]:
        """What jobs are submitted with, in submitit's names. Hydra's types for them have no TYPE:NUMBER, and no null."""
        own = self.config.launcher
        further = {"requeue": True, **self.params["additional_parameters"], **(own.options or {})}
        gpus = self.params["gpus_per_node"] if own.gpus is None else own.gpus
        return self.params | {"gpus_per_node": gpus, "additional_parameters": further}

    def require(self, sweep: Sweep) -> None:
        from kga.sweeps.slurm import require_slurm

        require_slurm()
        if sweep.lists:
            raise UserError("forget.list=true prints what there is to choose from: leave out launcher=slurm")
        if "%" in os.path.abspath(str(self.config.output)):
            raise UserError(
                f"launcher=slurm: SLURM takes the % in output={self.config.output} for one of its patterns: choose a folder "
                "without"
            )

    def __call__(self, *arguments: object) -> JobReturn:
        config.register()  # this is the job's own process
        return super().__call__(*arguments)

    def checkpoint(self, *arguments: object, **options: object) -> object:
        """What submitit asks for before it puts a job back, which ends all processes of the job."""
        tracking.suspend()
        return super().checkpoint(*arguments, **options)

    def make(self, sweep: Sweep) -> None:
        from kga.sweeps.slurm import Queue

        queue = Queue(sweep, self.options)
        with sweep.alone():
            queue.attach()
            if new := queue.missing():
                state = Singleton.get_state()
                queue.submit(
                    self,
                    [(list(job.overrides), "hydra.sweep.dir", job.number, str(job.number), state) for job in new],
                    new,
                )
            sweep.write()
        if not sweep.open:
            return
        if self.config.launcher.wait:
            queue.wait(tell)
        else:
            queue.leave()
