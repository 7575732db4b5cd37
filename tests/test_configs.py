"""Every YAML of the config tree composes, and its keys are exactly what the code takes: no option does nothing."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, get_method, get_object
from omegaconf import OmegaConf

from kga import config
from kga.methods.base import Method
from kga.methods.kga import Helpers, Stop
from kga.models.scratch import Scratch
from kga.optim import Optim
from kga.paths import config_dir
from kga.tasks.base import TaskModule

FILLED = {"data.path": "DIR", "model.name": "DIR", "forget.path": "FILE", "forget.value": "VALUE"}
GROUPS = sorted(path.name for path in config_dir().iterdir() if path.is_dir())
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((config_dir() / group).glob("*.yaml"))]
REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SPANNING = {"schedule_start", "schedule_total"}  # of fits that are parts of one schedule: not the user's to set
GIVEN = {"save_dir"}  # what the code passes beside the config's keys


def composed(*overrides: str) -> dict:
    """The resolved config of a command, its mandatory keys filled."""
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    plain = OmegaConf.masked_copy(cfg, [name for name in cfg if name != "hydra"])
    for key in OmegaConf.missing_keys(plain):
        OmegaConf.update(plain, key, FILLED[key])
    return config.resolved(plain)


def parameters(target: str) -> dict[str, inspect.Parameter]:
    """What a target takes by name, those that it hands on to its base classes included."""
    found = get_object(target)
    taken: dict[str, inspect.Parameter] = {}
    for part in inspect.getmro(found) if inspect.isclass(found) else (found,):
        own = inspect.signature(part.__init__ if inspect.isclass(part) else part).parameters
        taken = {name: value for name, value in own.items() if name != "self"} | taken
        if not any(value.kind is inspect.Parameter.VAR_KEYWORD for value in own.values()):
            break
    return {name: value for name, value in taken.items() if value.kind not in REST}


def require_fit(target: str, keys: set[str], where: str) -> None:
    taken = parameters(target).keys()
    own = inspect.signature(get_object(target)).parameters.items()
    needed = {
        name for name, value in own if value.default is inspect.Parameter.empty and value.kind not in REST
    } - GIVEN
    assert keys <= taken, f"{where}: {target} has no {keys - taken}"
    assert needed <= keys, f"{where}: {target} needs {needed - keys}"


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_composes_and_fits_its_target(group, name):
    if group == "optim":
        options = OmegaConf.load(config_dir() / group / f"{name}.yaml")
        assert options.keys() == {field.name for field in fields(Optim)} - SPANNING
        return
    cfg = composed(f"{group}={name}")
    config.check(cfg)
    part = cfg.get(group, {})  # debug has no part of its own
    if group == "data":
        part = {key: value for key, value in part.items() if key not in ("limit", "reserve", "group")}
    for where, node in (
        (group, part),
        *((f"{group}.{key}", node) for key, node in part.items() if isinstance(node, dict)),
    ):
        if "_target_" in node:
            keys = node.keys() - {"_target_"} - {"task": {"name"}, "forget": {"list"}}.get(group, set())
            if group == "task":
                assert issubclass(get_class(node["_target_"]), TaskModule)
                assert keys <= parameters(node["_target_"]).keys()
            else:
                require_fit(node["_target_"], keys, where)


@pytest.mark.parametrize("name", [name for group, name in CHOICES if group == "method"])
def test_every_option_of_a_method_is_in_its_yaml(name):
    """What the class takes can be seen in the config: defaults are written out, and nested parts are complete."""
    options = composed(f"method={name}")["method"]
    method = config.build({"method": options}, "method")
    assert isinstance(method, Method)
    taken = parameters(options["_target_"]).keys()
    if method.moves and method.start == "original":
        assert options.keys() - {"_target_"} == taken
        assert "optim" not in taken or options["optim"].keys() == {field.name for field in fields(Optim)} - SPANNING
    if "stop" in taken:
        assert options["stop"].keys() == {field.name for field in fields(Stop)}
        assert options["helpers"].keys() == {field.name for field in fields(Helpers)}


def test_data_loaders_take_their_task_from_the_experiment():
    for name in (name for group, name in CHOICES if group == "data"):
        assert composed(f"data={name}")["data"]["task"] == "classification"
        assert "task" in inspect.signature(get_method(composed(f"data={name}")["data"]["_target_"])).parameters


@pytest.mark.parametrize("name", [name for group, name in CHOICES if group == "trainer"])
def test_trainer_options_are_lightnings(name):
    from kga.build import require_trainer

    require_trainer(composed(f"trainer={name}", "trainer.accelerator=cpu")["trainer"])


def test_debug_fast_is_small_for_every_method():
    for method in (name for group, name in CHOICES if group == "method"):
        cfg = composed("debug=fast", f"method={method}")
        config.check(cfg)
        config.build(cfg, "method")
        assert cfg["optim"]["epochs"] == 2 and cfg["data"]["limit"] == 600
        assert cfg["method"].get("optim", {"updates": 2})["updates"] == 2


def test_debug_overfit_trains_long_on_little():
    cfg = composed("debug=overfit")
    config.check(cfg)
    assert cfg["data"]["limit"] == 64 > cfg["forget"]["size"] and cfg["optim"]["epochs"] >= 50


def test_debug_profile_asks_lightning_to_profile():
    assert composed("debug=profile")["trainer"]["profiler"] == "simple"


def test_keys_of_the_design_are_there():
    """The keys that users and scripts rely on."""
    cfg = OmegaConf.create(composed())
    keys = (
        "seed forget.size new.size new.path data.limit original.path reference trainer.precision optim.epochs optim.lr "
        "optim.batch_size method.optim.lr method.helpers.optim.epochs method.alpha method.cache evaluation.noise_floor "
        "evaluation.retain_limit report.texts output store"
    )
    for key in keys.split():
        OmegaConf.select(cfg, key, throw_on_missing=True)
        parent, _, leaf = key.rpartition(".")
        assert leaf in (OmegaConf.select(cfg, parent) if parent else cfg), key


def test_method_defaults_follow_the_task():
    assert composed("method=kga_released")["method"]["alpha"] == 0.9


def test_model_of_the_default_study_builds():
    cfg = composed()
    assert isinstance(config.build(cfg, "model"), Scratch)
    assert cfg["store"] == str(Path(cfg["output"]) / "store")
