"""Values no run could work with are refused by key; per-task defaults come from one resolver."""

import copy
import re

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kga.cli import explain
from kga.config import check, per_task, register, require_writable, resolved, run_key
from kga.errors import UserError
from kga.paths import config_dir

# As composed for classification: what interpolations of the file stand for, as plain values.
OPTIM = OmegaConf.to_container(OmegaConf.load(config_dir() / "optim" / "default.yaml")) | {
    "epochs": 1, "lr": 1e-3, "betas": [0.9, 0.999], "schedule": "linear", "label_smoothing": 0.0,
}  # fmt: skip


def config() -> dict:
    """The default config, with the smallest groups that ``check`` looks into."""
    tree = OmegaConf.to_container(OmegaConf.load(config_dir() / "config.yaml"))
    task = {"name": "response", "max_target_length": None, "history_length": None}
    groups = {
        "task": task,
        "model": {"max_length": 24},
        "forget": {"size": 10},
        "optim": OPTIM,
        "method": {"optim": OPTIM, "helpers": {"optim": {"epochs": 5}}},
    }
    return {name: value for name, value in tree.items() if name not in ("defaults", "hydra")} | copy.deepcopy(groups)


def with_value(key: str, value: object) -> dict:
    changed = OmegaConf.create(config())
    OmegaConf.update(changed, key, value, force_add=True)
    return OmegaConf.to_container(changed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 0),
        ("seed", 12345),
        ("forget.size", 1),
        ("forget.size", 0.5),
        ("forget.size", None),
        ("new.size", 0.01),
        ("new.size", 7),
        ("data.limit", 1),
        ("reference", "none"),
        ("evaluation.noise_floor", 2),
        ("optim.lr", 1),
        ("method.helpers.optim.schedule", "cosine"),
        ("evaluation.generate.limit", 0),
        ("evaluation.generate.limit", 3),
        ("evaluation.generate.limit", None),
        ("evaluation.generate.beams", 1),
        ("evaluation.retain_limit", None),
        ("task.max_target_length", None),
        ("task.max_target_length", 1),
        ("task.history_length", None),
        ("task.history_length", 64),
        ("optim.batch_tokens", 4096),
        ("optim.batch_tokens", None),
        ("optim.label_smoothing", 0),
        ("optim.label_smoothing", 0.3),
        ("method.helpers.optim.batch_tokens", 4096),
        ("method.optim.batch_tokens", None),
    ],
)
def test_accepted(key, value):
    check(with_value(key, value))


@pytest.mark.parametrize("key", ["forget.size", "new.size"])
@pytest.mark.parametrize("value", [1.5, 0, -3, 0.0, 1.0, -0.5, True, "all", float("nan"), float("inf")])
def test_sizes_that_are_none(key, value):
    with pytest.raises(UserError, match=key) as caught:
        check(with_value(key, value))
    assert str(value) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", None),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", True),
        ("seed", "0"),
        ("data.limit", 0),
        ("data.limit", -5),
        ("data.limit", 0.5),
        ("reference", "retrained"),
        ("optim.schedule", "exponential"),
        ("optim.epochs", 0),
        ("optim.epochs", 1.5),
        ("optim.batch_size", 0),
        ("optim.lr", 0),
        ("optim.lr", -1e-3),
        ("optim.lr", "fast"),
        ("optim.lr", float("nan")),
        ("optim.lr", True),
        ("optim.epochs", True),
        ("optim.warmup", -1),
        ("optim.patience", 0),
        ("data.limit", True),
        ("evaluation.retain_limit", 0),
        ("evaluation.batch_size", 0),
        ("method.optim.schedule", "exponential"),
        ("method.optim.epochs", 0),
        ("method.helpers.optim.schedule", "exponential"),
        ("method.helpers.optim.epochs", 0),
        ("method.helpers.optim.lr", 0),
        ("evaluation.noise_floor", -1),
        ("evaluation.noise_floor", 0.5),
        ("evaluation.generate.limit", -1),
        ("evaluation.generate.limit", 2.5),
        ("evaluation.generate.limit", True),
        ("evaluation.generate.limit", "all"),
        ("evaluation.generate.beams", 0),
        ("evaluation.generate.beams", None),
        ("evaluation.generate.beams", 1.0),
        ("evaluation.generate.batch_size", 0),
        ("evaluation.generate.batch_size", None),
        ("task.max_target_length", 0),
        ("task.max_target_length", -1),
        ("task.max_target_length", 6.5),
        ("task.max_target_length", True),
        ("task.history_length", 0),
        ("task.history_length", "long"),
        ("optim.batch_tokens", 0),
        ("optim.batch_tokens", 1.5),
        ("optim.label_smoothing", 1),
        ("optim.label_smoothing", -0.1),
        ("optim.label_smoothing", True),
        ("optim.label_smoothing", None),
        ("optim.label_smoothing", float("nan")),
    ],
)
def test_refused_with_key_and_value(key, value):
    with pytest.raises(UserError) as caught:
        check(with_value(key, value))
    shown = "null" if value is None else value
    assert f"{key}={shown}" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_name_comes_with_the_nearest():
    with pytest.raises(UserError, match="did you mean retrain"):
        check(with_value("reference", "retrian"))


@pytest.mark.parametrize(
    "key",
    ["evaluation.batchsize", "method.helpers.optim.epoch", "optim.learning_rate", "extra", "evaluation.generate.beam"],
)
def test_keys_that_nothing_reads_are_refused(key):
    with pytest.raises(UserError, match=f"the config has no key {re.escape(key)}: "):
        check(with_value(key, 1))


@pytest.mark.parametrize("key", ["reference", "new.size", "evaluation.generate", "evaluation.generate.limit"])
def test_keys_that_were_deleted_are_refused(key):
    *parts, name = key.split(".")
    changed = part = config()
    for step in parts:
        part = part[step]
    del part[name]
    with pytest.raises(UserError, match=f"the key {re.escape(key)} was deleted"):
        check(changed)


def test_a_noise_floor_needs_the_retrained_model():
    with pytest.raises(UserError, match="reference=none"):
        check(with_value("evaluation.noise_floor", 1) | {"reference": "none"})


def test_an_unlearning_update_is_not_counted_in_tokens():
    """Its steps draw from several sets, example beside example."""
    with pytest.raises(UserError, match=r"method\.optim\.batch_tokens") as caught:
        check(with_value("method.optim.batch_tokens", 4096))
    assert "method.optim.batch_size" in str(caught.value) and "\n" not in str(caught.value)


def test_a_monitor_needs_the_patience_that_watches_it():
    with pytest.raises(UserError, match=r"optim\.monitor=bleu .*optim\.patience"):
        check(with_value("optim.monitor", "bleu"))


@pytest.mark.parametrize("value", [None, 5, "greedy"])
def test_generation_must_stay_a_section(value):
    with pytest.raises(UserError, match=r"evaluation\.generate=.*evaluation\.generate\.beams"):
        check(with_value("evaluation.generate", value))


DEFAULTS = {"task": {"name": "translation"}, "optim": {"lr": "${per_task:{classification: 2e-5, translation: 5e-4}}"}}


def test_per_task_takes_the_tasks_own_default():
    register()
    composed = OmegaConf.create(DEFAULTS)
    assert composed.optim.lr == 5e-4
    composed.task.name = "classification"
    assert composed.optim.lr == 2e-5


def test_a_key_that_is_set_wins_over_the_tasks_default():
    register()
    composed = OmegaConf.merge(DEFAULTS, {"optim": {"lr": 0.1}})
    assert resolved(composed)["optim"]["lr"] == 0.1


def test_a_task_without_default_is_told_what_to_do():
    register()
    composed = OmegaConf.create(DEFAULTS | {"task": {"name": "response"}})
    with pytest.raises(OmegaConfBaseException) as caught:
        _ = composed.optim.lr
    line = explain(caught.value)
    assert line.startswith("task=response has no default") and "classification, translation" in line
    with pytest.raises(UserError):
        per_task({"classification": 1}, _root_=composed)


def test_resolved_is_plain_and_refuses_open_keys():
    composed = OmegaConf.create({"a": {"b": "${c}"}, "c": 0})
    assert resolved(composed) == {"a": {"b": 0}, "c": 0}
    with pytest.raises(UserError, match=r"forget\.path must be given"):
        resolved(OmegaConf.create({"forget": {"path": "???"}}))


def test_a_run_is_named_by_what_decides_its_result():
    key = run_key(config(), "data")
    assert run_key(dict(reversed(config().items())), "data") == key
    assert (
        run_key(config() | {"output": "/elsewhere", "store": "s", "logger": {"csv": {}}, "report": {}}, "data") == key
    )
    others = [
        run_key(config(), "other data"),
        run_key(with_value("seed", 1), "data"),
        run_key(with_value("optim.lr", 2e-3), "data"),
        run_key(with_value("forget.size", 11), "data"),
    ]
    assert len({key, *others}) == 5


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    require_writable(key="output", folder=tmp_path / "deep" / "outputs")
    assert list((tmp_path / "deep" / "outputs").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"store=.*can't be written.*store=DIR"):
        require_writable(key="store", folder=tmp_path / "file" / "outputs")
