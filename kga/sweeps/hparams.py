"""A search over settings (``hparams=kga``): what a trial is judged by, and Optuna's trials as runs of the launchers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from kga import config
from kga.console import note, stage
from kga.errors import RunFailed, UserError
from kga.hashing import digest
from kga.sweeps.space import ORIGINAL, Space

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

HOPELESS = 3  # failed trials without any that was made: what is wrong is not the setting


class Objectives(NamedTuple):
    """What a search looks at, on validation data and unseen examples.

    utility: of A* on validation, to be maximised. forgetting: |utility of A* on D_f - utility of A_D on unseen D_n|, to be
    minimised. original: utility of A_D on validation, which the tuning rule compares with.
    """

    utility: float
    forgetting: float
    original: float


def objectives(result: Mapping | None) -> Objectives | None:
    """The objectives of a run's result; None where it lacks them (no D_n, or a number that is not finite)."""
    found = (result or {}).get("selection") or {}
    names = ("validation_unlearned", "forget_unlearned", "new_original", "validation_original")
    values = [found.get(name) for name in names]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    utility, forget, new, original = values
    return Objectives(utility, abs(forget - new), original)


class Search(Sweeper):
    """A Hydra sweeper: each trial of an Optuna study is a setting, run with every seed; its values are the means over them.

    storage: URL of Optuna's database. n_trials: trials in all, those of earlier starts included. n_jobs: trials that go to
    the launcher at a time. sampler: an Optuna sampler's config, with a seed. params: the space, in Hydra's override grammar.
    """

    def __init__(self, storage: str, n_trials: int, n_jobs: int, sampler: dict, params: Mapping | None = None) -> None:
        self.storage, self.n_trials, self.n_jobs = storage, n_trials, n_jobs
        self.sampler, self.params = sampler, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's interface. UserError for what makes a search impossible."""
        from hydra.core.plugins import Plugins

        require_extra()
        for name in ("n_trials", "n_jobs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise UserError(f"hydra.sweeper.{name}={getattr(self, name)} must be an integer of 1 or more")
        if config.launcher.get("wait") is False:
            raise UserError("hparams chooses trials by the results of earlier ones: leave out launcher.wait=false")
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Makes the trials that are left, tells Optuna of each, and shows the best."""
        from kga.sweeps.pareto import show

        with quiet():
            space = Space.of([*(f"{name}={value}" for name, value in self.params.items()), *arguments])
            with self._study(space) as study:
                self._search(study, space)
                fixed = [part for part in space.fixed if not part.startswith("hparams=")]
                show(_trials(study, "COMPLETE"), {trial.number for trial in study.best_trials}, fixed)
                failed = len(_trials(study, "FAIL"))
        if failed:
            raise RunFailed(
                f"{failed} trials failed, the others are there; launcher.retry=true makes others in their place"
            )

    @contextmanager
    def _study(self, space: Space) -> Iterator[Study]:
        """The study of this search, made or gone on with; of no other process meanwhile."""
        import optuna

        name, output = self._name(space)
        lock = FileLock(output / f".hparams-{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"the search {name} is run by another process: wait for it, or choose another output=DIR"
            ) from None
        try:
            study = optuna.create_study(
                study_name=name, storage=self.storage, directions=["maximize", "minimize"], load_if_exists=True
            )
            # Started again with the same seed, a sampler would draw the same settings once more.
            seed = (self.sampler.get("seed") or 0) + len(study.trials)
            key = "hydra.sweeper.sampler"
            study.sampler = config.build({key: self.sampler | {"seed": seed}}, key)
            yield study
        finally:
            lock.release()

    def _name(self, space: Space) -> tuple[str, Path]:
        """The study's name, which tells searches apart whose trials don't belong together; and the output folder.

        UserError for what no trial could work with.
        """
        from kga.inputs import data_fingerprint, load_corpus  # slow to import

        plain = deepcopy(self.config)
        HydraConfig.instance().set_config(plain)
        with open_dict(plain):
            del plain["hydra"]
        cfg = config.resolved(plain)
        config.check(cfg)
        config.require_writable("output", Path(cfg["output"]))
        deciding = [config.run_key(cfg, data_fingerprint(load_corpus(cfg), cfg)), space.seeds, space.described()]
        choices = (cfg["choices"][group] for group in ("task", "method", "data"))
        return "-".join([*choices, digest(deciding)[:8]]), Path(cfg["output"])

    def _search(self, study: Study, space: Space) -> None:
        """Trial after trial. Those that were cut off come first: their runs go on from their last checkpoints."""
        cut_off = [_trial(study, trial, space) for trial in _trials(study, "RUNNING")]
        left = self.n_trials - self._made(study) - len(cut_off)
        stage("Search", f"{study.study_name}: {self._made(study)} of {self.n_trials} trials made")
        if cut_off:
            self._make(study, space, cut_off)
        while left > 0:
            size = min(left, self.n_jobs)
            self._make(study, space, [study.ask(space.distributions) for _ in range(size)])
            left -= size

    def _made(self, study: Study) -> int:
        retried = self.config.launcher.get("retry")
        return len(_trials(study, "COMPLETE")) + (0 if retried else len(_trials(study, "FAIL")))

    def _make(self, study: Study, space: Space, trials: Sequence[Trial]) -> None:
        """Runs some trials, and tells the study what came of them."""
        seeds = len(space.seeds)
        runs = [run for trial in trials for run in space.runs(trial.params)]
        returned = self.launcher.launch(runs, initial_job_idx=trials[0].number * seeds)
        values = [_value(one) for one in returned]
        for place, trial in enumerate(trials):
            found = values[place * seeds : (place + 1) * seeds]
            if None in found:
                study.tell(trial, state=_state("FAIL"))
                note(f"trial {trial.number}: failed, or its results lack what a search looks at (hparams)")
                continue
            utility, forgetting, original = (fmean(numbers) for numbers in zip(*found, strict=True))
            trial.set_user_attr(ORIGINAL, original)
            study.tell(trial, [utility, forgetting])
        if not _trials(study, "COMPLETE") and len(_trials(study, "FAIL")) >= HOPELESS:
            error = next((one._return_value for one in returned if one.status == JobStatus.FAILED), None)
            message = "every trial so far has failed: mend that, then launcher.retry=true"
            raise RunFailed(message + (f" ({error})" if error else ""), code=getattr(error, "code", 1))


def require_extra() -> None:
    """UserError where Optuna or Hydra's plugin for it is not installed."""
    if not (find_spec("optuna") and find_spec("hydra_plugins.hydra_optuna_sweeper")):
        raise UserError("hparams=... needs Optuna: pip install 'kga[hparams]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's own lines, and without what it warns of that users can't change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"optuna\b|sqlalchemy\b")
        import optuna

        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        yield


def _value(returned: JobReturn) -> Objectives | None:
    """What a run found; None where it failed, or its result has no objectives."""
    return returned.return_value if returned.status == JobStatus.COMPLETED else None


def _state(name: str) -> TrialState:
    from optuna.trial import TrialState

    return TrialState[name]


def _trials(study: Study, state: str) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[_state(state)])


def _trial(study: Study, cut_off: FrozenTrial, space: Space) -> Trial:
    """A trial that an earlier process began, as one to be told of; with what it had not drawn yet."""
    from optuna.trial import Trial

    trial = Trial(study, cut_off._trial_id)
    for name, distribution in space.distributions.items():
        trial._suggest(name, distribution)
    return trial
