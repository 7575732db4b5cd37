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

from filelock import FileLock
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.text import Text

from kga import config
from kga.console import console, is_first_process, note, stage
from kga.data.corpus import Corpus
from kga.errors import RunFailed, UserError
from kga.hashing import SCHEMA, digest
from kga.inputs import data_alone, data_fingerprint, load_corpus
from kga.ledger import Ledger
from kga.mistakes import explain
from kga.runs import run_folder, state_of
from kga.sweeps.hparams import objectives

RECORD = "sweep.json"
MANY = 8  # runs of which it is said that they are composed, which takes some tenths of a second each


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

    def settle(self) -> bool:
        """Takes what the run's folder says of it; whether it says anything that stays."""
        state, result = state_of(self.folder)
        if state == "completed":
            self.state, self.error = state, None
            self.skip(objectives(result))
        elif state == "failed" and not self.cfg["launcher"]["retry"]:
            self.fail(UserError(result["error"]) if result.get("mistake") else RunFailed(result["error"]))
        return self.state != "pending"

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
        every = _every(cfg, context, batch)
        self.name, self.last = _name(cfg, every), len(every)
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
    def is_last(self) -> bool:
        """Whether no further batch comes, as far as that is known."""
        return self.first + len(self.jobs) >= self.last

    @property
    def lists(self) -> bool:
        """Whether what could be forgotten is listed, and nothing is run."""
        return any(job.cfg and job.cfg["forget"].get("list") for job in self.jobs)

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
        recorded = {job["folder"]: job for job in self._recorded()}
        before = HydraConfig.instance().cfg
        if len(self.jobs) > MANY:
            note(f"composing {len(self.jobs)} runs")
        for job in self.jobs:
            try:
                job.cfg = composed(self.cfg, self.context, job)
                config.check(job.cfg)
                if not job.cfg["forget"].get("list"):
                    self._look(job, corpora)
                    self._recall(job, recorded.get(self._relative(job), {}))
            except Exception as error:
                if explain(error) is None:
                    raise
                job.fail(error)
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
        job.settle()

    def _recall(self, job: Job, known: Mapping) -> None:
        """Takes what an earlier start has written of a run: it stays failed though it left no result, as by a killed process.

        A mistake is looked for again: it may be mended, and nothing was computed.
        """
        job.id = known.get("job_id")
        failed = known.get("state") == "failed" and not known.get("mistake")
        if job.state == "pending" and failed and not job.cfg["launcher"]["retry"]:
            job.fail(RunFailed(known["error"]))

    # Its record ------------------------------------------------------------------------------------------------

    def _recorded(self) -> list[dict]:
        """The jobs of the record of an earlier start, or batch, of the sweep."""
        try:
            return json.loads((self.folder / RECORD).read_text())["jobs"]
        except (OSError, ValueError, KeyError):
            return []

    def _relative(self, job: Job) -> str | None:
        return None if job.folder is None else os.path.relpath(job.folder.absolute(), self.folder.absolute())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Around what one start of the sweep does at a time. Jobs that others have submitted meanwhile are known in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            ids = {job["folder"]: job["job_id"] for job in self._recorded()}
            for job in self.jobs:
                job.id = ids.get(self._relative(job)) or job.id
            yield

    def write(self) -> None:
        """Writes the record, by rename. Runs of other batches stay in it."""
        if self.lists or not is_first_process():
            return
        jobs = [
            {"overrides": [part for part in job.overrides if not part.startswith("sweep=")], "label": job.label,
             "folder": self._relative(job), "state": job.state, "error": job.error, "mistake": job.mistake,
             "job_id": job.id}
            for job in self.jobs
        ]  # fmt: skip
        recorded = self._recorded()
        jobs = recorded[: self.first] + jobs + recorded[self.first + len(jobs) : self.last]
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f"{RECORD}.{os.getpid()}.new"
        command = shlex.join(["kga", *sys.argv[1:]])
        record = {"schema": SCHEMA, "name": self.name, "command": command, "jobs": jobs}
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
        runs = f"{len(self.jobs)} run{'s' * (len(self.jobs) != 1)}"
        stage("Sweep", f"{self.name}: {runs}, {done} finished already, {len(self.open)} to do")
        alike = self._all_alike and len(self.jobs) > 1
        for job in self.failed[: 1 if alike else None]:
            label = "all of them" if alike else job.label
            note(f"{'failed before' if job.folder else 'not possible'}: {label}: {job.error}")
        for line in plan:
            note(line)

    def introduce(self, job: Job) -> None:
        """The heading of a run that is made in this process."""
        console.print()
        stage(f"Run {job.number - self.first + 1} of {len(self.jobs)}", job.label)

    def conclude(self) -> None:
        """Writes the report over all runs of the sweep, and says what has failed."""
        self.write()
        if not is_first_process():
            return
        if any(job.folder is not None and job.state != "pending" for job in self.jobs):
            self._report()
        if len(self.failed) > 1 and not self._all_alike:
            for job in self.failed:
                print(f"failed: {job.label}: {job.error}", file=sys.stderr)

    @property
    def _all_alike(self) -> bool:
        """Whether every run failed, all for the same reason."""
        return len(self.failed) == len(self.jobs) and len({job.error for job in self.failed}) == 1

    def _report(self) -> None:
        """The report over the sweep's runs, as a page and for the loggers that take one."""
        from kga.loggers.tracking import summarise
        from kga.report.gather import gather  # draws figures: slow to import
        from kga.report.writers import write

        with _spared(f"the report could not be written; kga-report {self.folder} tries again"):
            collected = gather([self.folder])
            page, *_ = write(collected, ["html", "csv"], self.folder)
            console.print(Text.assemble("Report of the sweep: ", (str(page), "bold")), soft_wrap=True)
            with _spared("the loggers did not take the sweep"):
                cfg = next(job.cfg for job in self.jobs if job.cfg)
                summarise(cfg, self.name, collected, self.folder)

    def error(self) -> RunFailed | None:
        """What the command ends with where runs have failed."""
        failed = self.failed
        if not failed:
            return None
        mistakes = all(job.mistake for job in failed)
        what = f"{len(failed)} runs failed" if len(failed) > 1 else f"{failed[0].label}: {failed[0].error}"
        if self._all_alike:
            what = failed[0].error
        again = "" if mistakes else "; launcher.retry=true tries again"
        return RunFailed(f"{what}{self._others()}{again}", code=2 if mistakes else 1)

    def _others(self) -> str:
        """What became of the runs that have not failed."""
        if len(self.failed) == len(self.jobs):
            return ""
        left = len(self.open)
        what = f"{left} not over yet" if left else "the others are there"
        return f" (of {len(self.jobs)} runs; {what})"


@contextmanager
def _spared(what: str) -> Iterator[None]:
    """What goes wrong at the end is told; the runs are there, and what failed among them is to be told, too."""
    try:
        yield
    except Exception as error:
        line = explain(error)
        if line is None:
            traceback.print_exception(error)
        note(what + (f": {line}" if line else ""))


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


def _every(cfg: DictConfig, context: HydraContext, batch: Sequence[Sequence[str]]) -> list[list[str]]:
    """The overrides of all runs of a sweep, of which Hydra hands over a batch at a time (``hydra.sweeper.max_batch_size``).

    Another sweeper chooses them by what was found so far; what it was asked for stands for them.
    """
    asked = OmegaConf.to_container(cfg.hydra.overrides.task)
    if not cfg.hydra.sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
        return [asked]
    if cfg.hydra.sweeper.max_batch_size is None:
        return [list(part) for part in batch]
    params = [f"{name}={value}" for name, value in (cfg.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create(context.config_loader).parse_overrides([*params, *asked])
    return BasicSweeper.split_arguments(parsed, None)[0]


def _name(cfg: DictConfig, every: Sequence[Sequence[str]]) -> str:
    """The sweep's name: as given by ``sweep=``, else what is swept and a digest of the runs that does not change with where
    they run."""
    if cfg.sweep is not None:
        return _safe(str(cfg.sweep))
    chosen: Mapping = OmegaConf.to_container(cfg.hydra.runtime.choices)
    title = next(
        (chosen[group] for group in ("experiment", "hparams") if chosen.get(group) not in (None, "none")), "sweep"
    )
    deciding = sorted(sorted(part for part in parts if _decides(part)) for parts in every)
    return f"{_safe(str(title))}-{digest(deciding)[:8]}"


def _decides(override: str) -> bool:
    """Whether a setting is part of what names a run (``config.run_key``)."""
    part, _, rest = override.lstrip("+~").split("=")[0].partition(".")
    bare = {"attack": {"any": {}}, "evaluation": {}, "forget": {}, "trainer": {}}
    return config.run_key(bare, "") != config.run_key(bare | {part: {rest: override}}, "")


def _safe(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "sweep"
