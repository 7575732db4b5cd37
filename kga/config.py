"""What Hydra's YAML cannot say by itself: per-task defaults, and checks of values before anything heavy is loaded."""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from kga.data.amount import amount
from kga.errors import UserError, nearest, one_of
from kga.hashing import RECIPE, SCHEMA, digest
from kga.paths import config_dir

# Keys that do not change what a run computes: where it lies, how it is shown, what it runs on.
IDLE = ("output", "store", "report", "logger", "launcher", "hparams", "sweep", "hydra")
IDLE_HARDWARE = ("accelerator", "devices", "num_nodes", "strategy", "checkpoint_minutes", "profiler", "compile")
STRATEGIES = ("auto", "ddp", "fsdp")  # one process, or several
ATTACK_KEYS = {"shadows", "bootstrap"}  # of all attacks
SCHEDULES = ("linear", "cosine", "inverse_sqrt", "constant")
# Keys that hold a whole number of 1 or more, or null where there is no bound.
WHOLE = ("model.max_length", "evaluation.batch_size", "evaluation.generate.beams", "evaluation.generate.batch_size")
WHOLE_OR_NULL = (
    "model.vocab_size",
    "data.limit",
    "evaluation.retain_limit",
    "task.max_target_length",
    "task.history_length",
)
WEIGHTS = ("method.alpha", "method.gamma", "method.gap_weight")  # of the terms of a loss
OPTIM_WHOLE = ("epochs", "batch_size", "bucket")
OPTIM_WHOLE_OR_NULL = ("updates", "micro_batch_size", "micro_batch_tokens", "patience", "batch_tokens")


def per_task(values: Mapping, *, _root_: DictConfig) -> object:
    """Resolver ``${per_task:{classification: x, translation: y, response: z}}``: the value for the chosen task."""
    name = _root_.task.name
    if name not in values:
        raise UserError(f"task={name} has no default here: {', '.join(values)} have; set the key itself")
    value = values[name]
    return OmegaConf.create(value) if isinstance(value, list | dict) else value


def times(factor: float, value: float | str) -> float:
    """Resolver ``${times:8,${model.recommended.unlearning_lr}}``: a multiple of another setting."""
    return float(factor) * float(value)


def register() -> None:
    """Makes the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("times", times, replace=True)
    OmegaConf.register_new_resolver("per_task", per_task, replace=True)


def resolved(cfg: DictConfig) -> dict:
    """The config as plain values; UserError for a mandatory key that was left open."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if OmegaConf.select(cfg, "forget.list"):  # so that a user finds the value to give
        missing = [name for name in missing if not name.startswith("forget.")]
    if missing:
        raise UserError(f"{missing[0]} must be given: add {missing[0]}=... to the command")
    plain = OmegaConf.to_container(cfg, resolve=True)
    method = plain.get("method") or {}
    if "lr" not in method.get("optim", {"lr": None}):
        del method["optim"]  # debug=fast shortens the updates of methods that make any; this one makes none
    return plain


def check(cfg: Mapping) -> None:
    """Refuses values that no run could work with; UserError with the key. Needs no heavy import."""
    _require_shape(cfg)
    for key in ("forget.size", "new.size"):
        value = _at(cfg, key)
        if value is not None:
            amount(value, 1, key)
    for key in (*WHOLE, *WHOLE_OR_NULL):
        _require_whole(key, _at(cfg, key), null=key in WHOLE_OR_NULL)
    for key in WEIGHTS:
        weight = _at(cfg, key)
        if weight is not None and not (_is_number(weight) and 0 <= weight < math.inf):
            raise UserError(f"{key}={_shown(weight)} must be a number of 0 or more")
    if (mode := _at(cfg, "logger.wandb.mode")) is not None:
        one_of("logger.wandb.mode", mode, ("online", "offline", "disabled"))
    if not _is_whole(cfg["seed"], 0) or cfg["seed"] >= 2**31:
        raise UserError(f"seed={_shown(cfg['seed'])} is no seed: give an integer of 0 or more, below 2**31")
    _check_trainer(cfg.get("trainer") or {})
    _check_launcher(cfg.get("launcher") or {})
    _check_sharded(cfg)
    one_of("reference", cfg["reference"], ("retrain", "none"))
    for key in ("optim", "method.optim", "method.helpers.optim", "attack.relearn.optim"):
        if options := _at(cfg, key):
            _check_optim(key, options)
    limit = _at(cfg, "evaluation.generate.limit")
    if limit is not None and not _is_whole(limit, 0):
        raise UserError(
            f"evaluation.generate.limit={_shown(limit)} must be a number of examples of each split (0: nothing is "
            "generated; null: no bound)"
        )
    _check_attack(cfg["attack"])
    if not _is_whole(cfg["evaluation"]["watch"], 0):
        raise UserError(f"evaluation.watch={_shown(cfg['evaluation']['watch'])} must be a number of updates (0: none)")
    floor = cfg["evaluation"]["noise_floor"]
    if not _is_whole(floor, 0):
        raise UserError(
            f"evaluation.noise_floor={_shown(floor)} must be a number of further retrained models (0 or more)"
        )
    if floor >= 99:
        raise UserError(
            f"evaluation.noise_floor={floor}: more than 98 further retrained models are not told apart by seed"
        )
    if floor and cfg["reference"] == "none":
        raise UserError("evaluation.noise_floor needs the retrained model: leave out reference=none")


def _check_attack(options: Mapping) -> None:
    """Refuses values of ``attack.*``, and keys there that are no attack."""
    for name, part in options.items():
        if not isinstance(part, Mapping) or "_target_" not in part:
            one_of_keys("attack.", name, ATTACK_KEYS)
    for name in ATTACK_KEYS - options.keys():
        raise UserError(f"the key attack.{name} was deleted: leave out ~attack.{name}")
    shadows = options["shadows"]
    if not _is_whole(shadows, 2) or shadows % 2:
        raise UserError(
            f"attack.shadows={_shown(shadows)} must be an even number of shadow models, 2 or more: they come in pairs, so that "
            "each example is in half of them"
        )
    if not _is_whole(options["bootstrap"], 100):
        raise UserError(f"attack.bootstrap={_shown(options['bootstrap'])} must be a number of resamples, 100 or more")


def _check_trainer(options: Mapping) -> None:
    """Refuses hardware that runs are not made for."""
    for name in ("devices", "num_nodes"):
        _require_whole(f"trainer.{name}", options.get(name, 1), null=False)
    strategy = options.get("strategy", "auto")
    one_of("trainer.strategy", strategy, STRATEGIES)
    if strategy == "auto" and options.get("devices", 1) * options.get("num_nodes", 1) > 1:
        raise UserError(f"trainer.devices={options['devices']} is more than one process: choose trainer=ddp with it")
    if strategy == "fsdp" and options.get("accelerator") == "cpu":
        raise UserError("trainer=fsdp needs GPUs: choose trainer=ddp, or leave out trainer.accelerator=cpu")
    kind = options.get("frozen_dtype")
    one_of("trainer.frozen_dtype", kind, (None, "bfloat16", "float32"))
    if str(options.get("precision")).startswith("16"):
        raise UserError(f"trainer.precision={options['precision']} is not supported: use 32-true or bf16-mixed")


def _check_launcher(options: Mapping) -> None:
    """Refuses values of ``launcher.*`` that would be found only when jobs are submitted."""
    for name in {"retry", "wait"} & options.keys():
        if not isinstance(options[name], bool):
            raise UserError(f"launcher.{name}={_shown(options[name])} must be true or false")
    for name in {"jobs", "minutes", "cpus", "parallel"} & options.keys():
        _require_whole(f"launcher.{name}", options[name], null=False)
    for name in {"requeues", "signal_lead"} & options.keys():
        if not _is_whole(options[name], 0):
            raise UserError(f"launcher.{name}={_shown(options[name])} must be an integer of 0 or more")


def _check_sharded(cfg: Mapping) -> None:
    """Refuses what needs the weights of a model that lies in parts."""
    if _at(cfg, "trainer.strategy") != "fsdp":
        return
    for key, wanted in (("optim.patience", None), ("method.rewind", False)):
        if _at(cfg, key) not in (None, wanted):
            raise UserError(
                f"{key}={_shown(_at(cfg, key))} needs whole models in training: leave it out with trainer=fsdp"
            )
    if str(_at(cfg, "method.cache")).startswith("topk"):
        raise UserError(
            "method.cache=topk measures its error on a whole model: set method.cache=auto with trainer=fsdp"
        )


def _require_shape(cfg: Mapping) -> None:
    """UserError for keys that were added (``+key``) where nothing reads them, or deleted (``~key``)."""
    tree = OmegaConf.to_container(OmegaConf.load(config_dir() / "config.yaml"))
    groups = {name.split()[-1] for line in tree.pop("defaults") if isinstance(line, dict) for name in line}
    known = {name for name in groups | tree.keys() if not name.startswith("hydra")}
    for name in cfg:
        one_of_keys("", name, known)
    for name in tree.keys() - cfg.keys() - {"hydra"}:
        raise UserError(f"the key {name} was deleted: leave out ~{name}")
    chosen = OmegaConf.load(config_dir() / "task" / f"{cfg['task']['name']}.yaml")
    for name in cfg["task"]:
        one_of_keys("task.", name, chosen.get("task", chosen).keys())
    for section in ("new", "original", "evaluation", "evaluation.generate", "report"):
        known, given = _at(tree, section), _at(cfg, section)
        if not isinstance(given, Mapping):
            raise UserError(f"{section}={_shown(given)} must hold {', '.join(f'{section}.{name}' for name in known)}")
        for name in given:
            one_of_keys(f"{section}.", name, known)
        for name in known.keys() - given.keys():
            raise UserError(f"the key {section}.{name} was deleted: leave out ~{section}.{name}")


def one_of_keys(prefix: str, name: str, known: object) -> None:
    """UserError unless ``name`` is among the known keys of a part of the config."""
    if name not in known:
        raise UserError(f"the config has no key {prefix}{name}: {nearest(name, known)}")


def _check_optim(key: str, options: Mapping) -> None:
    """Refuses values of ``optim.*``, or of a part of it (what a method or helper changes)."""
    known = OmegaConf.load(config_dir() / "optim" / "default.yaml")
    for name in options:
        one_of_keys(f"{key}.", name, known.keys())
    for name in options.keys() & {*OPTIM_WHOLE, *OPTIM_WHOLE_OR_NULL}:
        _require_whole(f"{key}.{name}", options[name], null=name in OPTIM_WHOLE_OR_NULL)
    if "schedule" in options:
        one_of(f"{key}.schedule", options["schedule"], SCHEDULES)
    rate = options.get("lr", 1.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise UserError(f"{key}.lr={_shown(rate)} must be a number above 0")
    if key != "optim" and options.get("patience") is not None:
        raise UserError(f"{key}.patience has no validation to wait for: only optim.patience stops early")
    if key == "method.optim" and options.get("batch_tokens") is not None:
        raise UserError(f"{key}.batch_tokens: an update of unlearning takes batches of {key}.batch_size examples")
    if key == "optim" and options.get("patience") is None and options.get("monitor", "loss") != "loss":
        raise UserError(f"optim.monitor={options['monitor']} is watched by optim.patience: set that too")
    smoothing = options.get("label_smoothing", 0)
    if isinstance(smoothing, bool) or not isinstance(smoothing, int | float) or not 0 <= smoothing < 1:
        raise UserError(f"{key}.label_smoothing={_shown(smoothing)} must be a number of 0 or more, below 1")
    for name in ("warmup", "weight_decay", "clip"):
        value = options.get(name)
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise UserError(f"{key}.{name}={value} must be a number of 0 or more")


def _require_whole(key: str, value: object, null: bool) -> None:
    if not (_is_whole(value, 1) or (null and value is None)):
        raise UserError(
            f"{key}={_shown(value)} must be an integer of 1 or more{' (or null: no bound)' if null else ''}"
        )


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value as the command line writes it."""
    return "null" if value is None else str(value)


def build(cfg: Mapping, key: str, **more: object):
    """The object that the part ``key`` of the config describes; UserError for an option that it does not have."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        return instantiate(cfg[key], **more, _convert_="all")
    except InstantiationException as error:
        reason = error.__cause__
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(reason))
        if isinstance(reason, TypeError) and unknown:
            known = [name for name in cfg[key] if name not in (unknown[1], "_target_")]
            raise UserError(f"{key} has no option {unknown[1]}: {nearest(unknown[1], known)}") from error
        raise (reason or error) from None


def build_request(cfg: Mapping):
    """The request of the config (``forget.*``), which does not know whether its candidates are to be listed."""
    options = {name: None if value == "???" else value for name, value in cfg["forget"].items() if name != "list"}
    return build({"forget": options}, "forget")


def forgotten_word(cfg: Mapping) -> str | None:
    """The one word that is to be forgotten in what the model learns to write; None where the request is another."""
    from kga.data.corpus import FIELDS  # not at the top: it is slow to import, and --help must be quick

    truth, words = FIELDS[cfg["task"]["name"]][-1], cfg["forget"].get("value")
    if cfg["choices"]["forget"] != "word" or cfg["forget"].get("column") not in (None, truth):
        return None
    words = [words] if isinstance(words, str | int | float) else list(words)
    return str(words[0]) if len(words) == 1 else None


def attacked(cfg: Mapping) -> dict:
    """The attacks of the config by name: the parts of ``attack.*`` that describe one."""
    return {name: part for name, part in cfg["attack"].items() if isinstance(part, Mapping)}


def shows_texts(cfg: Mapping) -> bool:
    """Whether the report may show texts of examples: as asked for, else only for embedded data."""
    wanted = cfg["report"]["texts"]
    return cfg["choices"]["data"] == "embedded" if wanted is None else bool(wanted)


def run_key(cfg: Mapping, fingerprint: str) -> str:
    """Names a run by everything that decides its result: the resolved config and the data's content.

    Of the hardware, the precision decides; devices and checkpoints do not.
    """
    deciding = {name: value for name, value in cfg.items() if name not in IDLE}
    if not attacked(cfg):
        del deciding["attack"]
    deciding["evaluation"] = {name: value for name, value in cfg["evaluation"].items() if name != "watch"}
    deciding["forget"] = {name: value for name, value in cfg["forget"].items() if name != "list"}
    deciding["trainer"] = {name: value for name, value in cfg.get("trainer", {}).items() if name not in IDLE_HARDWARE}
    return digest([RECIPE, SCHEMA, json.loads(json.dumps(deciding, default=str)), fingerprint])


def require_writable(key: str, folder: Path) -> None:
    """UserError unless files can be made in ``folder``, the value of the config's ``key``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{key}={folder} can't be written ({error.strerror}): choose another folder with {key}=DIR"
        ) from error


def _at(cfg: Mapping, key: str) -> object:
    value: object = cfg
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
