"""A sweep: its runs, known before any is started, and its record ``OUTPUT/sweeps/NAME/sweep.json``."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.text import Text

from kga import config
from kga.console import console, is_first_process, note, stage
from kga.data.corpus import Corpus
from kga.errors import RunFailed
from kga.hashing import SCHEMA, digest
from kga.hparams import objectives
from kga.inputs import data_alone, data_fingerprint, load_corpus
from kga.ledger import Ledger
from kga.mistakes import explain
from kga.runs import run_folder, state_of

RECORD = "sweep.json"


@dataclass
class Job:
    """One run of a sweep. ``id``: the cluster's number of it. error: why it failed; mistake: whether its user can mend it."""

    number: int
    overrides: tuple[str, ...]
    label: str = ""
    cfg: dict | None = None
    ledger: Ledger | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    folder: Path | None = None
    state: str = "pending"
    error: str | None = None
    mistake: bool = False
    id: str | None = None
    returned: JobReturn = field(default_factory=JobReturn)

    def end(self, returned: JobReturn) -> None:
        """Takes what came of the run."""
        self.returned = returned
        if returned.status == JobStatus.COMPLETED:
            self.state, self.error = "completed", None
        else:
            self.fail(returned._return_value)

    def fail(self, error: BaseException) -> None:
        """Takes why the run has failed, or could not be started."""
        line = explain(error)
        self.state, self.mistake = "failed", line is not None and not isinstance(error, RunFailed)
        self.error = line or f"{type(error).__name__}: {error}"
        self.returned = Failed(self.overrides, error)

    def skip(self, value: object = None) -> None:
        """The run needs not be made now."""
        self.returned = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        self.returned.return_value = value


class Failed(JobReturn):
    """A failed run. Hydra's own writes to standard error when it is asked for its value; a sweep has told of it already."""

    def __init__(self, overrides: Sequence[str], error: BaseException) -> None:
        super().__init__(overrides=overrides, status=JobStatus.FAILED, _return_value=error)

    @property
    def return_value(self) -> object:
        raise self._return_value


class Sweep:
    """The runs of one batch of a sweep.

    cfg: the composed config of the whole sweep, Hydra's part included. batch: each run's overrides.
    """

    def __init__(self, cfg: DictConfig, context: HydraContext, batch: Sequence[Sequence[str]], first: int) -> None:
        self.cfg, self.context, self.first = cfg, context, first
        self.name = _name(cfg, batch)
        self.jobs = [Job(number, tuple(part)) for number, part in enumerate(batch, start=first)]
        if self.named_by_itself:
            for job in self.jobs:
                job.overrides = (*job.overrides, f"sweep={self.name}")
        self.folder = Path(str(cfg.output)) / "sweeps" / self.name
        self._label()
        self._find()

    @property
    def named_by_itself(self) -> bool:
        return self.cfg.sweep is None

    @property
    def open(self) -> list[Job]:
        """Runs that are still to be made."""
        return [job for job in self.jobs if job.state == "pending"]

    @property
    def failed(self) -> list[Job]:
        return [job for job in self.jobs if job.state == "failed"]

    def _label(self) -> None:
        """Tells runs apart by what is not the same in all of them."""
        common = set.intersection(*(set(job.overrides) for job in self.jobs))
        for job in self.jobs:
            job.label = ", ".join(part for part in job.overrides if part not in common) or "the only run"

    # Before it starts ------------------------------------------------------------------------------------------

    def _find(self) -> None:
        """Composes every run's config, and looks what there is of it already."""
        corpora: dict[str, Corpus] = {}
        ids = {job["folder"]: job["job_id"] for job in self._recorded() if job["job_id"]}
        before = HydraConfig.instance().cfg
        for job in self.jobs:
            try:
                job.cfg = composed(self.cfg, self.context, job)
                config.check(job.cfg)
                if not job.cfg["forget"].get("list"):
                    self._look(job, corpora)
            except Exception as error:
                if explain(error) is None:
                    raise
                job.fail(error)
            job.id = ids.get(self._relative(job))
        HydraConfig.instance().cfg = before

    def _look(self, job: Job, corpora: dict[str, Corpus]) -> None:
        """Finds the run's folder, and what is in it."""
        cfg = job.cfg
        data = digest([cfg["data"], cfg["task"]["name"]])
        if data not in corpora:
            corpora[data] = load_corpus(cfg)
        corpus = corpora[data]
        request = data_fingerprint(corpus, cfg)
        job.ledger = Ledger(cfg["store"], cfg, data_alone(corpus, cfg), request)
        job.sizes = {name: len(table) for name, table in corpus.splits.items()}
        job.folder = run_folder(
            cfg["output"], cfg["task"]["name"], cfg["choices"]["method"], config.run_key(cfg, request)
        )
        state, result = state_of(job.folder)
        if state == "completed":
            job.state = state
            job.skip(objectives(result))
        elif state == "failed" and not cfg["launcher"]["retry"]:
            job.fail(RunFailed(result["error"]))

    # Its record ------------------------------------------------------------------------------------------------

    def _recorded(self) -> list[dict]:
        """The jobs of the record of an earlier start, or batch, of the sweep."""
        try:
            return json.loads((self.folder / RECORD).read_text())["jobs"]
        except (OSError, ValueError, KeyError):
            return []

    def _relative(self, job: Job) -> str | None:
        return None if job.folder is None else os.path.relpath(job.folder.absolute(), self.folder.absolute())

    def write(self) -> None:
        """Writes the record, by rename. Runs of earlier batches stay in it."""
        if not is_first_process():
            return
        jobs = [
            {"overrides": [part for part in job.overrides if not part.startswith("sweep=")], "label": job.label,
             "folder": self._relative(job), "state": job.state, "error": job.error, "job_id": job.id}
            for job in self.jobs
        ]  # fmt: skip
        earlier = self._recorded()[: self.first] if self.first else []
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{RECORD}.{os.getpid()}.new"
        command = shlex.join(["kga", *sys.argv[1:]])
        record = {"schema": SCHEMA, "name": self.name, "command": command, "jobs": earlier + jobs}
        aside.write_text(json.dumps(record, indent=1, default=str))
        os.replace(aside, self.folder / RECORD)

    def end(self, job: Job, returned: JobReturn) -> None:
        """Takes what came of a run, and writes it down."""
        job.end(returned)
        self.write()

    # What is said of it ----------------------------------------------------------------------------------------

    def announce(self, plan: Sequence[str] = ()) -> None:
        """Says what is going to happen."""
        done = sum(job.state == "completed" for job in self.jobs)
        stage("Sweep", f"{self.name}: {len(self.jobs)} runs, {done} finished already, {len(self.open)} to do")
        for job in self.failed:
            note(f"{'not possible' if job.mistake else 'failed before'}: {job.label}: {job.error}")
        for line in plan:
            note(line)

    @contextmanager
    def run(self, job: Job) -> Iterator[None]:
        """Around a run that is made in this process: its heading."""
        console.print()
        stage(f"Run {job.number - self.first + 1} of {len(self.jobs)}", job.label)
        yield

    def conclude(self) -> None:
        """Writes the report over all runs of the sweep, and says what has failed."""
        self.write()
        if not is_first_process():
            return
        if any(job.state == "completed" for job in self.jobs):
            self._report()
        if len({job.error for job in self.failed}) > 1:
            for job in self.failed:
                print(f"failed: {job.label}: {job.error}", file=sys.stderr)

    def _report(self) -> None:
        """The report over the sweep's runs, as a page and for the loggers that take one."""
        from kga.report.gather import gather  # draws figures: slow to import
        from kga.report.writers import write
        from kga.tracking import summarise

        try:
            collected = gather([self.folder])
            written = write(collected, ["html", "csv"], self.folder)
            cfg = next(job.cfg for job in self.jobs if job.cfg)
            summarise(cfg, self.name, collected, self.folder)
        except Exception as error:  # the runs are there, and what failed among them is to be told
            traceback.print_exception(error)
            note(f"the report could not be written; kga-report {self.folder} tries again")
            return
        for path in written:
            if path.suffix == ".html":
                console.print(Text.assemble("Report of the sweep: ", (str(path), "bold")), soft_wrap=True)

    def error(self) -> RunFailed | None:
        """What the command ends with where runs have failed."""
        failed, errors = self.failed, {job.error for job in self.failed}
        if not failed:
            return None
        mistakes = all(job.mistake for job in failed)
        what = f"{len(failed)} runs failed" if len(errors) > 1 else f"{failed[0].label}: {failed[0].error}"
        if len(failed) == len(self.jobs) and len(errors) == 1:
            what = failed[0].error
        others = f" (of {len(self.jobs)} runs; the others are there)" if len(failed) < len(self.jobs) else ""
        again = "" if mistakes else "; launcher.retry=true tries again"
        return RunFailed(f"{what}{others}{again}", code=2 if mistakes else 1)


def composed(cfg: DictConfig, context: HydraContext, job: Job) -> dict:
    """The resolved config of one run of a sweep."""
    loaded = context.config_loader.load_sweep_config(cfg, list(job.overrides))
    with open_dict(loaded):
        loaded.hydra.job.id = loaded.hydra.job.num = job.number
    HydraConfig.instance().set_config(loaded)
    own = deepcopy(loaded)
    with open_dict(own):
        del own["hydra"]
    return config.resolved(own)


def _name(cfg: DictConfig, batch: Sequence[Sequence[str]]) -> str:
    """The sweep's name: as given by ``sweep=``, else what is swept and a digest of the runs that does not change with where
    they run."""
    if cfg.sweep is not None:
        return _safe(str(cfg.sweep))
    chosen: Mapping = OmegaConf.to_container(cfg.hydra.runtime.choices)
    title = next(
        (chosen[group] for group in ("experiment", "hparams") if chosen.get(group) not in (None, "none")), "sweep"
    )
    searches = chosen.get("hparams") not in (None, "none")  # whose batches depend on what was found so far
    swept = [OmegaConf.to_container(cfg.hydra.overrides.task)] if searches else [list(part) for part in batch]
    deciding = sorted(sorted(part for part in parts if _decides(part)) for parts in swept)
    return f"{_safe(str(title))}-{digest(deciding)[:8]}"


def _decides(override: str) -> bool:
    return override.lstrip("+~").split("=")[0].split(".")[0] not in config.IDLE


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "sweep"
