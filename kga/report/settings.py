"""In which keys of their configs runs differ: what tells apart the lines of a table and the points of a curve."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kga.config import IDLE, IDLE_HARDWARE
from kga.report.collect import Run

GROUP = ["task", "data", "model"]
# Keys (with all below them) that decide where, how and with what beside it a run is made, not what comes out: those that do
# not name a run, and of those that do the ones that leave A* as it is. Seeds are what is averaged over. A choice that
# decides more than its group's keys say is told as `forget=easy`.
_NO_SETTING = {
    *IDLE,
    *(f"trainer.{name}" for name in IDLE_HARDWARE),
    "forget.list",
    "evaluation.watch",
    "seed",
    "choices",
    "attack",
    "reference",
    "evaluation.noise_floor",
    "evaluation.batch_size",
    "evaluation.generate.batch_size",
}
DIFFICULTY = ("easy", "random", "hard")  # choices of the request that have an order
_NAMED = {*GROUP, "method"}  # choices that have columns of their own

Flat = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """How one run differs from the others of its table, each as `key=value, ...`.

    request: without its method's own keys: what its A_D and A_R share. whole: with them. attack: in `attack.*`, which
    decides only what attacks find, from runs of the same request.
    """

    request: str = ""
    whole: str = ""
    attack: str = ""


def group_of(run: Run) -> tuple[str, ...]:
    """(task, data, model): whose table the run belongs to."""
    return tuple(str(run.result.get(name)) for name in GROUP)


def settings_of(runs: Sequence[Run]) -> dict[Path, Setting]:
    """The setting of every run, by folder.

    Models that no method touched are told apart by the shared keys alone; methods' own keys are compared within one
    method.
    """
    configs = {run.folder: flat(run.result.get("config") or {}) for run in runs}
    tables = _grouped(runs, group_of)
    methods = _grouped(runs, lambda run: (*group_of(run), run.method))
    shared = _differences(tables, configs, lambda key: decides(key) and not key.startswith("method."))
    own = _differences(methods, configs, lambda key: decides(key) and key.startswith("method."))
    requests = _grouped(runs, lambda run: (*group_of(run), shared[run.folder]))
    attack = _differences(requests, configs, lambda key: key.startswith("attack."))
    return {
        folder: Setting(shared[folder], ", ".join(filter(None, (shared[folder], own[folder]))), attack[folder])
        for folder in configs
    }


def _grouped(runs: Iterable[Run], key: Callable[[Run], object]) -> list[list[Path]]:
    groups: dict[object, list[Path]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run.folder)
    return list(groups.values())


def _differences(
    groups: Iterable[list[Path]], configs: Mapping[Path, Flat], wanted: Callable[[str], bool]
) -> dict[Path, str]:
    """By run: the wanted keys that are not the same throughout its group, as key=value."""
    told = {}
    for folders in groups:
        keys = varying([configs[folder] for folder in folders], wanted)
        for folder in folders:
            told[folder] = written(configs[folder], keys)
    return told


def varying(configs: Sequence[Flat], wanted: Callable[[str], bool]) -> list[str]:
    """The wanted keys in which the configs differ.

    A key that some of them lack counts only where nothing explains that: neither the choice of its group (``forget=easy``
    tells of it already), nor that attacks were not asked for. Nor does a seed of a part that is the run's own everywhere.
    """
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if wanted(key) and _differs(configs, key) and not _is_the_runs_seed(configs, key)]


def _differs(configs: Sequence[Flat], key: str) -> bool:
    holders = [config for config in configs if key in config]
    if len({repr(config[key]) for config in holders}) > 1:
        return True
    if len(holders) == len(configs) or key.startswith("attack."):
        return False
    choices = {_choice(config, key) for config in holders}
    return any(key not in config and _choice(config, key) in choices for config in configs)


def _choice(config: Flat, key: str) -> str:
    """What was chosen of the key's group."""
    return repr(config.get(key.split(".")[0]))


def _is_the_runs_seed(configs: Sequence[Flat], key: str) -> bool:
    return key.endswith(".seed") and all(config[key] == config.get("seed") for config in configs if key in config)


def written(config: Flat, keys: Iterable[str]) -> str:
    """key=value of those keys that the config has, as the command line writes them."""
    return ", ".join(f"{key}={'null' if config[key] is None else config[key]}" for key in keys if key in config)


def flat(config: Mapping[str, Any]) -> Flat:
    """The config with dotted keys, and with a key such as ``forget`` for a choice, in the place of its ``_target_``."""
    choices = config.get("choices") or {}
    told = {name: value for name, value in choices.items() if name not in _NAMED}
    skipped = {f"{name}._target_" for name in choices}
    return told | {key: value for key, value in _dotted(config) if key not in skipped}


def _dotted(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{key}.")
        else:
            yield key, value


def decides(key: str) -> bool:
    """Whether a key decides what comes out of a run, seeds aside."""
    parts = key.split(".")
    return not any(".".join(parts[:depth]) in _NO_SETTING for depth in range(1, len(parts) + 1))


def in_order(text: str) -> tuple[tuple[int, float, str], ...]:
    """Sorts texts with numbers in them as people do: alpha=3 before alpha=10; and requests by their difficulty."""
    for rank, name in enumerate(DIFFICULTY):
        text = re.sub(rf"\bforget={name}\b", f"forget={rank}", text)
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return tuple((0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts))
