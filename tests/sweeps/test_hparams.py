"""The search over settings: its objectives, what Optuna keeps of it, what it makes again after it was cut off."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from unittest.mock import patch

import optuna
import pytest
from filelock import FileLock
from helpers.cli import FORGET, TINY, Outcome, apart, kga, models, start
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict
from optuna.trial import FrozenTrial, TrialState

from kga import config
from kga.errors import RunFailed, UserError
from kga.paths import config_dir
from kga.sweeps import hparams, pareto
from kga.sweeps.hparams import Search, objectives, quiet
from kga.sweeps.space import Space

SEARCH = ("-m", "hparams=kga", *TINY, FORGET, "method.helpers.optim.epochs=1", "method.optim.updates=1,2,3")
SELECTION = {
    "validation_original": 0.75, "validation_unlearned": 0.7, "forget_unlearned": 0.25, "new_original": 0.5
}  # fmt: skip


def study(output: Path) -> optuna.Study:
    """The one study of a search, as Optuna itself reads it."""
    storage = f"sqlite:///{output}/hparams.db"
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def found(output: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in output.glob("runs/*/result.json")]


def values(output: Path, trial: FrozenTrial) -> list[float]:
    """A trial's values worked out from the results of its runs: means over the seeds."""
    runs = [
        result
        for result in found(output)
        if all(
            OmegaConf.select(OmegaConf.create(result["config"]), name) == value for name, value in trial.params.items()
        )
    ]
    assert sorted(run["seed"] for run in runs) == [100, 101]
    told = [run["selection"] for run in runs]
    return [
        fmean(part["validation_unlearned"] for part in told),
        fmean(abs(part["forget_unlearned"] - part["new_original"]) for part in told),
    ]


# Objectives and space --------------------------------------------------------------------------------------------------


def test_objectives_are_those_of_the_tuning_rule():
    assert objectives({"selection": SELECTION}) == (0.7, 0.25, 0.75)
    assert objectives({"selection": SELECTION | {"forget_unlearned": 0.75}}).forgetting == 0.25  # in both directions


@pytest.mark.parametrize("lacking", [*SELECTION])
def test_no_objectives_without_each_of_them(lacking):
    assert objectives({"selection": {name: SELECTION[name] for name in SELECTION if name != lacking}}) is None
    assert objectives({"selection": SELECTION | {lacking: None}}) is None
    assert objectives(None) is None and objectives({}) is None


def test_what_comes_later_replaces_what_is_searched():
    with quiet():
        space = Space.of(
            ["seed=100,101", "method.alpha=interval(1,2)", "model.max_length=8,16", "method.alpha=3", "seed=107"]
        )
    assert space.seeds == ("107",) and [*space.distributions] == ["model.max_length"]
    assert space.runs({"model.max_length": 8}) == [["method.alpha=3", "model.max_length=8", "seed=107"]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["seed=0", "method.alpha=1,3"], "seed=0: the trials of hparams have seeds of 100 and above"),
        (["seed=100,99", "method.alpha=1,3"], "seed=100,99"),
        (["method.alpha=1,3"], "seed="),
        (["seed=100,101", "method.alpha=1"], "nothing is searched"),
    ],
)
def test_spaces_that_are_refused(arguments, says):
    with pytest.raises(UserError, match=says), quiet():
        Space.of(arguments)


# The loop of trials, with a launcher that trains nothing ----------------------------------------------------------------


class Launcher:
    """Gives runs values that their settings tell. fails: settings of alpha whose runs fail; dies: at which launch."""

    def __init__(self, fails: Sequence[int] = (), dies: int | None = None) -> None:
        self.fails, self.dies, self.batches, self.first = fails, dies, [], []

    def launch(self, runs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        self.batches.append([dict(part.split("=") for part in run) for run in runs])
        self.first.append(initial_job_idx)
        if len(self.batches) == self.dies:
            raise KeyboardInterrupt
        return [self.returned(run) for run in self.batches[-1]]

    def returned(self, run: Mapping[str, str]) -> JobReturn:
        alpha, seed = int(run["method.alpha"]), int(run["seed"])
        if alpha in self.fails:
            return JobReturn(status=JobStatus.FAILED, _return_value=RunFailed("out of memory"))
        done = JobReturn(status=JobStatus.COMPLETED)
        done.return_value = hparams.Objectives(0.6 + alpha / 1000 + (seed - 100) / 10, abs(alpha - 40) / 100, 0.7)
        return done


def search(study: optuna.Study, launcher: Launcher, trials: int = 6, jobs: int = 1, retry: bool = False) -> None:
    space = "seed=100,101", "method.alpha=range(1,100)"
    made = Search("", trials, jobs, {})
    made.launcher, made.config = launcher, OmegaConf.create({"launcher": {"retry": retry}})
    with quiet():
        made._search(study, Space.of(space))


@cache
def sampler() -> optuna.samplers.TPESampler:
    return optuna.samplers.TPESampler(seed=0, n_startup_trials=4)


def memory() -> optuna.Study:
    """A study that is kept nowhere."""
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())


def test_a_trial_is_the_mean_over_its_seeds_and_comes_in_batches():
    kept, launcher = memory(), Launcher()
    search(kept, launcher, trials=7, jobs=3)  # TPE itself from the fifth trial on
    assert [len(batch) for batch in launcher.batches] == [6, 6, 2] and launcher.first == [0, 6, 12]
    for trial in kept.trials:
        alpha = trial.params["method.alpha"]
        assert trial.values == pytest.approx([0.6 + alpha / 1000 + 0.05, abs(alpha - 40) / 100])
        runs = launcher.batches[trial.number // 3][trial.number % 3 * 2 :][:2]
        assert [(run["method.alpha"], run["seed"]) for run in runs] == [(str(alpha), "100"), (str(alpha), "101")]


def test_a_finished_search_makes_nothing_and_a_larger_one_what_is_left():
    kept = memory()
    search(kept, Launcher(), trials=3)
    again, larger = Launcher(), Launcher()
    search(kept, again, trials=3)
    search(kept, larger, trials=5)
    assert again.batches == [] and len(larger.batches) == 2 and larger.first == [6, 8]


def test_trials_that_were_cut_off_are_made_first_with_their_settings():
    kept, dying, launcher = memory(), Launcher(dies=2), Launcher()
    with pytest.raises(KeyboardInterrupt):
        search(kept, dying, trials=6, jobs=2)
    assert [trial.state.name for trial in kept.trials] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]
    search(kept, launcher, trials=6, jobs=2)
    assert launcher.batches[0] == dying.batches[1] and launcher.first == [4, 8]
    assert [trial.state.name for trial in kept.trials] == ["COMPLETE"] * 6


def test_a_failed_trial_is_told_and_the_others_go_on():
    kept = memory()
    search(kept, Launcher(), trials=1)
    (alpha,) = kept.trials[0].params.values()
    failing = Launcher(fails=[value for value in range(1, 100) if value % 2 != alpha % 2])
    search(kept, failing, trials=8)
    states = [trial.state.name for trial in kept.trials]
    assert len(states) == 8 and 0 < states.count("FAIL") < 8 and states.count("RUNNING") == 0
    search(kept, Launcher(), trials=8)
    assert len(kept.trials) == 8  # failed ones count
    search(kept, Launcher(), trials=8, retry=True)
    assert [trial.state.name for trial in kept.trials].count("COMPLETE") == 8


def test_a_search_without_hope_ends_early():
    kept = memory()
    with pytest.raises(RunFailed, match=r"launcher.retry=true.*out of memory"):
        search(kept, Launcher(fails=range(100)), trials=20)
    assert [trial.state.name for trial in kept.trials] == ["FAIL"] * 3


# What it says at its end -----------------------------------------------------------------------------------------------


def told(*trials: tuple[float, float, float]) -> str:
    """What is shown of trials of (utility, forgetting, A_D's utility)."""
    kept = memory()
    for number, (utility, forgetting, original) in enumerate(trials):
        trial = kept.ask({"method.alpha": optuna.distributions.IntUniformDistribution(number + 50, number + 50)})
        trial.set_user_attr(hparams.ORIGINAL, original)
        kept.tell(trial, [utility, forgetting])
    with pareto.console.capture() as capture:
        pareto.show(kept.trials, {trial.number for trial in kept.best_trials}, ["task=response"])
    return " ".join(capture.get().split())


def test_the_rule_takes_the_closest_of_those_that_keep_their_utility():
    shown = told((0.70, 0.30, 0.70), (0.69, 0.10, 0.70), (0.60, 0.00, 0.70), (0.65, 0.20, 0.70))
    assert "* 1 0.690 +0.010 0.100 alpha=51" in shown
    assert "alpha=50" in shown and "alpha=52" in shown and "alpha=53" not in shown  # the last one is dominated
    assert shown.endswith("kga -m seed=0,1,2 task=response method.alpha=51")


def test_nothing_is_shown_of_no_trials():
    assert told() == ""


# From the command line -------------------------------------------------------------------------------------------------


def composed(*overrides: str) -> dict:
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg.copy())
    sweeper = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    with open_dict(cfg):
        del cfg["hydra"]
    return config.resolved(cfg) | {"sweeper": sweeper}


def test_the_search_looks_at_neither_retrained_model_nor_texts():
    cfg = composed("hparams=kga")
    assert cfg["reference"] == "none" and cfg["evaluation"]["generate"]["limit"] == 0 and not config.attacked(cfg)
    assert cfg["sweeper"]["storage"] == "sqlite:///outputs/hparams.db"


@pytest.mark.parametrize("experiment", ["paper_ledgar", "compare", "alpha"])
def test_settings_are_searched_on_the_data_of_an_experiment(experiment):
    cfg = composed(f"experiment={experiment}", "hparams=kga")
    sweeper = cfg.pop("sweeper")
    config.check(cfg)
    assert cfg["reference"] == "none" and not config.attacked(cfg)
    with quiet():
        space = Space.of([f"{name}={value}" for name, value in sweeper["params"].items()])
    assert space.seeds == ("100", "101") and space.fixed == ("method=kga",)
    assert {*space.distributions} == {
        f"method.{name}" for name in ("alpha", "retain_batches", "optim.updates", "optim.lr")
    }


def test_the_choice_of_a_search_is_no_part_of_a_runs_key():
    plain, searched = composed("reference=none", "evaluation.generate.limit=0"), composed("hparams=kga")
    for cfg in (plain, searched):
        del cfg["sweeper"]
        config.check(cfg)
    assert config.run_key(plain, "") == config.run_key(searched, "")


@pytest.mark.parametrize("model", ["encoder_small", "distilbert"])
def test_learning_rates_are_searched_around_the_models_own(model):
    cfg = composed("hparams=kga", f"model={model}")
    with quiet():
        space = Space.of([f"{name}={value}" for name, value in cfg["sweeper"]["params"].items()])
    rate, own = space.distributions["method.optim.lr"], cfg["method"]["optim"]["lr"]
    assert type(rate).__name__ == "LogUniformDistribution"
    assert (rate.low, rate.high) == pytest.approx((0.4 * own, 4 * own)) and space.seeds == ("100", "101")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def killed(output) -> list[FrozenTrial]:
    """A search of three trials whose process was killed in the second one; its trials then."""
    process = start(*SEARCH, f"output={output}", "hydra.sweeper.n_trials=3")
    try:
        for _ in range(600):
            time.sleep(0.1)
            if (output / "hparams.db").is_file() and len(found(output)) == 3:
                break
            assert process.poll() is None, process.communicate()
    finally:
        process.kill()
        process.communicate()
    return study(output).trials


@pytest.fixture(scope="module")
def resumed(killed, output) -> Outcome:
    return apart(*SEARCH, f"output={output}", "hydra.sweeper.n_trials=3", PYTHONWARNINGS="default")


def test_a_killed_search_goes_on(killed, resumed, output):
    assert [trial.state for trial in killed] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert resumed.code == 0, resumed.errors
    trials = study(output).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert trials[0].values == killed[0].values and trials[1].params == killed[1].params
    assert len(found(output)) == 6 and len(models(output / "store", "unlearned")) <= 6  # equal settings share A*
    assert len(models(output / "store", "original")) == 2 and len(models(output / "store", "helpers")) == 4
    assert models(output / "store", "retrained") == []


def test_optuna_keeps_what_the_results_say(resumed, output):
    kept = study(output)
    assert kept.study_name.startswith("classification-kga-embedded-")
    assert [direction.name for direction in kept.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in kept.trials:
        assert trial.values == pytest.approx(values(output, trial), abs=1e-12)


def test_no_warnings_that_users_cannot_mend(resumed):
    shown = "\n".join(resumed.errors)
    assert not any(word in shown for word in ("MovedIn20", "Experimental", "optuna", "sqlalchemy"))


def test_a_finished_search_is_only_shown(resumed, output):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("result.json")}
    again = kga(*SEARCH, f"output={output}", "hydra.sweeper.n_trials=3")
    assert again.code == 0 and "3 of 3 trials made" in again.out and "seed=0,1,2" in again.out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("result.json")} == before
    assert len(study(output).trials) == 3


def test_another_setting_is_another_search(resumed, output):
    other = kga(*SEARCH, f"output={output}", "hydra.sweeper.n_trials=1", "method.alpha=2", "seed=100")
    assert other.code == 0, other.errors
    assert len(optuna.get_all_study_summaries(f"sqlite:///{output}/hparams.db")) == 2


def test_two_processes_do_not_share_a_search(resumed, output):
    name = study_of(output)
    with FileLock(output / f".hparams-{name}.lock"):
        outcome = kga(*SEARCH, f"output={output}", "hydra.sweeper.n_trials=3")
    assert outcome.code == 2 and len(outcome.errors) == 1 and "run by another process" in outcome.errors[0]


def study_of(output: Path) -> str:
    """The name of the search of three trials."""
    found = optuna.get_all_study_summaries(f"sqlite:///{output}/hparams.db")
    (name,) = (summary.study_name for summary in found if summary.n_trials == 3)
    return name


def test_a_failed_trial_shows_in_the_exit_code(tmp_path):
    arguments = ("forget.size=5,500", "seed=100", "hydra.sweeper.n_trials=4", f"output={tmp_path}")
    outcome = kga(*SEARCH, *arguments)
    states = [trial.state.name for trial in study(tmp_path).trials]
    assert sorted({*states}) == ["COMPLETE", "FAIL"] and len(states) == 4
    assert outcome.code != 0 and f"{states.count('FAIL')} trials failed" in outcome.errors[-1]
    assert "Best of" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 must be an integer of 1 or more"),
        (["hydra.sweeper.n_jobs=two"], "hydra.sweeper.n_jobs=two must be an integer of 1 or more"),
        (["launcher=slurm", "launcher.wait=false"], "leave out launcher.wait=false"),
        (["seed=0"], "seed=0: the trials of hparams have seeds of 100"),
        (["data.size=7"], "data.size: 7 training examples"),
        (["optim.epochs=0"], "optim.epochs=0"),
    ],
)
def test_mistakes_end_with_one_line_before_any_trial(arguments, says, tmp_path):
    outcome = kga(*SEARCH, *arguments, f"output={tmp_path}")
    assert outcome.code == 2 and len(outcome.errors) == 1 and says in outcome.errors[0]
    assert not (tmp_path / "hparams.db").exists()


def test_without_the_extra_one_line_says_what_to_install(tmp_path):
    with patch.object(hparams, "find_spec", lambda name: None):
        outcome = kga(*SEARCH, f"output={tmp_path}")
    assert outcome.code == 2 and outcome.errors == ["kga: hparams=... needs Optuna: pip install 'kga[hparams]'"]


def test_single_runs_need_no_extra(tmp_path):
    """What is imported for every run, and for the config of a search, does without Optuna."""
    (tmp_path / "optuna.py").write_text("raise ImportError('not installed')")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    outcome = apart("hparams=kga", "--cfg", "job", folder=tmp_path, PYTHONPATH=paths)
    assert outcome.code == 0 and "reference: none" in outcome.out


@pytest.mark.slow
def test_trials_are_made_side_by_side(tmp_path):
    arguments = (
        "launcher=local",
        "hydra.sweeper.n_jobs=2",
        "hydra.sweeper.n_trials=3",
        "seed=100",
        f"output={tmp_path}",
    )
    outcome = kga(*SEARCH, *arguments)
    assert outcome.code == 0, outcome.errors
    assert [trial.state for trial in study(tmp_path).trials] == [TrialState.COMPLETE] * 3
    assert len(models(tmp_path / "store", "original")) == 1
