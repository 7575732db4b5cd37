"""Experiments: every job of every sweep composes, comments tell its cost, and each runs small."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import saved_models
from helpers.cli import KGA, TINY, kga, models, write_folder
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict

from kga import config
from kga.build import build_method
from kga.data.corpus import FIELDS
from kga.data.embedded import load
from kga.ledger import Ledger
from kga.paths import config_dir
from kga.sweeps.plan import needed

FOLDER = config_dir() / "experiment"
EXPERIMENTS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem.split("_")[0] != "tune")
PAPER = [name for name in EXPERIMENTS if name.startswith("paper_")]
DOCUMENT = (Path(__file__).parent.parent / "docs" / "experiments.md").read_text()
COMMENTS = {name: "\n".join(re.findall("^# (.*)", (FOLDER / f"{name}.yaml").read_text(), re.M)) for name in EXPERIMENTS}

WRITES = ("evaluation.generate.limit=2", "evaluation.generate.beams=1")
WRITER = (
    "model.config.d_model=16", "model.config.encoder_layers=1", "model.config.decoder_layers=1",
    "model.config.encoder_attention_heads=2", "model.config.decoder_attention_heads=2",
    "model.config.encoder_ffn_dim=32", "model.config.decoder_ffn_dim=32", "model.vocab_size=400", "model.max_length=32",
    "optim.epochs=2", "evaluation.retain_limit=5", "trainer.accelerator=cpu", *WRITES,
)  # fmt: skip
HELPED = ("method.helpers.optim.epochs=1", "method.optim.updates=2")
# What makes one or two runs of each experiment small, and (where it matters) the models that they train in all.
SMALL = {
    "compare": (*TINY, "forget.size=10", "method=lcodec,sisa", "seed=0"),
    "alpha": (*TINY, "forget.size=5", *KGA, "method.alpha=0.1,30", "seed=0"),
    "forget_size": (*TINY, "forget.size=0.1,0.2", "method=kga", *KGA, "seed=0"),
    "difficulty": (*TINY, "forget.size=5", "forget=easy,hard", "method=satimp", "method.optim.updates=3", "seed=0"),
    "word": (*WRITER, "data.size=200", "method=kga", *HELPED, "seed=0"),
    "seeds": (*TINY, "forget.size=5", *KGA, "seed=0,1", "evaluation.noise_floor=1"),
    "ablation": (*TINY, "forget.size=5", *KGA, "experiment/ablation=helpers_scratch,penalty_hinge", "seed=0"),
}


@contextmanager
def hydra() -> Iterator[None]:
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


@cache
def jobs(*arguments: str) -> list[list[str]]:
    """The overrides of each job of ``kga -m ARGUMENTS``, as Hydra's own sweeper makes them."""
    with hydra():
        cfg = compose("config", [part for part in arguments if "," not in part], return_hydra_config=True)
        params = [f"{name}={value}" for name, value in cfg.hydra.sweeper.params.items()]
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        (batch,) = BasicSweeper.split_arguments(parser.parse_overrides([*params, *arguments]), None)
    return batch


def composed(overrides: Iterable[str]) -> dict:
    """The resolved config of a job."""
    with hydra():
        cfg = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg.copy())
    with open_dict(cfg):
        del cfg["hydra"]
    return config.resolved(cfg)


@cache
def configs(name: str) -> list[dict]:
    """The resolved config of every job of an experiment."""
    return [composed(job) for job in jobs(f"experiment={name}")]


def test_there_is_a_file_for_every_question():
    assert {*EXPERIMENTS} == {
        "compare", "alpha", "forget_size", "difficulty", "word", "seeds", "ablation",
        "paper_ledgar", "paper_iwslt14", "paper_personachat",
    }  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS, scope="module")  # one after another: composed once
def test_every_job_composes_and_is_accepted(name):
    for cfg in configs(name):
        config.check(cfg)
        method = build_method(cfg)
        if any(statistic.weights == "epoch_ends" for statistic in method.statistics().values()):
            assert cfg["optim"]["epochs"] >= 2 and not cfg["optim"]["patience"]  # else the run refuses it


@pytest.mark.parametrize("name", EXPERIMENTS, scope="module")  # one after another: composed once
def test_the_comment_tells_command_and_cost(name):
    comment, found = COMMENTS[name], configs(name)
    assert f"kga -m experiment={name}" in comment
    cost = re.search(r"Costs (\d+) runs with (.*?) \((\d+) models\): about .*estimate", " ".join(comment.split()))
    assert int(cost[1]) == len(found) == len({config.run_key(cfg, "") for cfg in found})
    told = {kind: int(count) for count, kind in re.findall(r"(\d+) (A_\w|A\*|SISA)", cost[2])}
    assert told == trained(found) and sum(told.values()) == int(cost[3])
    assert f"`{name}` | {cost[1]} | {cost[3]} |" in DOCUMENT
    assert ("nothing was measured" in comment) == (name in PAPER)


def trained(found: Iterable[dict]) -> Counter:
    """How many models of each kind runs train in all, by the plan. Sizes are made up, as not all data is here."""
    sizes = {"train": 10_000, "validation": 1_000, "test": 1_000}
    jobs = [SimpleNamespace(cfg=cfg, sizes=sizes, ledger=Ledger("nowhere", cfg, "data", "request")) for cfg in found]
    models = {model.name: model.short.split(" (")[0] for job in jobs for model in needed(job)}
    return Counter(models.values())


@pytest.mark.parametrize(
    "command", [found for comment in COMMENTS.values() for found in re.findall(r"kga -m \S+ [^;#\n]*[^;#\s]", comment)]
)
def test_the_other_commands_of_the_comments_compose(command):
    for job in jobs(*shlex.split(command)[2:], "seed=0"):
        config.check(composed(job))


@pytest.mark.parametrize("name", EXPERIMENTS, scope="module")  # one after another: composed once
def test_every_setting_is_made_with_every_seed(name):
    counted = Counter(cfg["seed"] for cfg in configs(name))
    assert sorted(counted) == list(range(5 if name == "seeds" else 3))
    assert len({*counted.values()}) == 1


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name not in PAPER])
def test_questions_are_asked_of_embedded_data(name):
    assert {cfg["choices"]["data"] for cfg in configs(name)} == {"embedded"}


def test_alpha_is_on_a_grid_from_small_to_large():
    alphas = {cfg["method"]["alpha"] for cfg in configs("alpha")}
    assert len(alphas) == 6 and min(alphas) <= 0.1 and 1 in alphas and max(alphas) >= 10
    assert {cfg["choices"]["method"] for cfg in configs("alpha")} == {"kga"}


def test_compare_leaves_out_only_what_it_says():
    there = {path.stem for path in (config_dir() / "method").glob("*.yaml")}
    compared = {cfg["choices"]["method"] for cfg in configs("compare")}
    assert there - compared == {"none", "retrain", "kga_paper", "kga_released"} and compared < there
    assert all(word in COMMENTS["compare"] for word in ("none", "retrain", "kga_paper", "kga_released"))
    assert all(cfg["evaluation"]["noise_floor"] == 1 and "population" in cfg["attack"] for cfg in configs("compare"))


def test_one_part_is_changed_at_a_time():
    """Each ablation differs from kga as it is in one part, and no two are the same."""
    as_is, *others = [cfg for cfg in configs("ablation") if cfg["seed"] == 0]
    assert as_is == composed(["experiment=ablation"])
    changed = [
        {key if part == "method" else part for part in cfg for key in differing(cfg[part], as_is[part])}
        for cfg in others
    ]
    assert all(keys and (len(keys) == 1 or keys == {"kl_forget", "kl_new", "kl_retain"}) for keys in changed)
    asked = {"kl_forget", "helpers", "new", "gap_penalty"}  # direction, helpers' start, size of D_n, penalty
    assert asked <= set().union(*changed)


def differing(one: object, other: object) -> list[str]:
    """The keys in which two parts of a config differ."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else [""]
    return [key for key in one.keys() | other.keys() if one.get(key) != other.get(key)]


def test_the_command_line_goes_before_the_file():
    assert [job for job in jobs("experiment=alpha", "seed=0") if "seed=0" not in job] == []
    assert len(jobs("experiment=alpha", "seed=0")) == 6 and len(jobs("experiment=seeds", "method=npo,ssd")) == 10
    assert (
        composed(["experiment=alpha"])["method"]["alpha"] == composed([])["method"]["alpha"]
    )  # a single run without -m


@pytest.mark.parametrize("name", SMALL)
def test_each_runs_small(name, tmp_path):
    outcome = kga("-m", f"experiment={name}", *SMALL[name], f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    found = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    assert len(found) == len(jobs(f"experiment={name}", *SMALL[name]))
    assert all(result["status"] == "completed" and result["score"]["unlearned"]["tow"] is not None for result in found)
    assert len(models(tmp_path / "store", "original")) == len({result["seed"] for result in found})
    assert list(tmp_path.glob(f"sweeps/{name}-*/report.html"))


def test_the_forgotten_word_is_looked_for(tmp_path):
    outcome = kga("experiment=word", *WRITER, "data.size=200", "method=none", f"output={tmp_path}", "seed=0")
    assert outcome.code == 0, outcome.errors
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json"))
    assert result["word"]["word"] == "yellow" and result["splits"]["forget"] > 0 and result["splits"]["new"] > 0


# The paper's, with small data and models in the place of those of the hub ----------------------------------------------


def provisions(task: str, split: str, size: int) -> list[dict]:
    """Some of the embedded examples, which stand for the hub's."""
    table = getattr(load(task, size=200), split).select(range(size))
    return table.select_columns(["id", "group", *FIELDS[task]]).to_list()


def stand_in(task: str, folder: Path) -> list[str]:
    sets = {split: provisions(task, split, 12) for split in ("validation", "test")}
    write_folder(folder, provisions(task, "train", 160), **sets)
    return ["data=folder", f"data.path={folder}", "data.reserve=0.4", "forget.size=10", "trainer=cpu"]


@pytest.mark.parametrize(
    ("name", "task", "small"),
    [
        ("paper_ledgar", "classification", ("optim.warmup=1", "method=kga_released,lcodec")),
        ("paper_iwslt14", "translation", (*WRITER, "method=kga_paper,sisa")),
        ("paper_personachat", "response", ("model.max_length=32", *WRITES, "method=kga,badt")),
    ],
)
def test_the_papers_studies_run_small(name, task, small, tmp_path):
    """Models and optimisation of the file but for their sizes: so early stopping, long warm-ups and big batches are tried."""
    given = {"classification": "bert", "response": "bart"}.get(task)
    model = [f"model.name={tmp_path / 'model'}"] if given else []
    if given == "bert":
        saved_models.bert(tmp_path / "model")
    elif given == "bart":
        saved_models.bart(tmp_path / "model")
    arguments = [*stand_in(task, tmp_path / "data"), *model, "optim.epochs=2", "evaluation.retain_limit=5", *small]
    # No key below method.* is one of all methods: what is long there is cut by the data's size.
    outcome = kga("-m", f"experiment={name}", "seed=0", *arguments, f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.errors
    found = [json.loads(path.read_text()) for path in tmp_path.glob("out/runs/*/result.json")]
    assert len(found) == 2 and all(result["status"] == "completed" for result in found)
    assert all("noise_floor" in result["forgetting"] and result["membership"]["unlearned"] for result in found)
