"""One main table with the runs behind it, as the figures need them; and the keys that its runs were swept over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kga.report import settings
from kga.report.canvas import Style, styles
from kga.report.collect import Run
from kga.report.gather import Collected
from kga.report.paired import BOUNDS
from kga.report.settings import DIFFICULTY, GROUP, Flat, Setting, decides, group_of, varying
from kga.report.tables import MainTable

CHOICE = "forget"  # the one choice that is no column


@dataclass(frozen=True)
class Subject:
    """A table, its numbers (of single seeds, and over seeds), its runs with their configs and settings (by folder), and how
    methods are drawn."""

    table: MainTable
    values: pd.DataFrame
    aggregated: pd.DataFrame
    runs: list[Run]
    configs: Mapping[str, Flat]
    settings: Mapping[str, Setting]
    styles: Mapping[str, Style]

    @property
    def metric(self) -> str:
        """The main metric's name in the results."""
        return str(self.values["score_metric"].iloc[0])

    def methods(self) -> dict[str, list[Run]]:
        """Runs of every method that is neither A_D nor A_R itself."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            if run.method not in BOUNDS:
                found.setdefault(run.method, []).append(run)
        return found


def subjects(collected: Collected) -> Iterator[Subject]:
    """Every table of the report, in order; a method looks the same in all."""
    known = styles(sorted({run.method for run in collected.completed if run.method not in BOUNDS}))
    values = dict(iter(collected.shown.groupby(GROUP, sort=False)))
    aggregated = dict(iter(collected.aggregated.groupby(GROUP, sort=False)))
    runs: dict[tuple[str, ...], list[Run]] = {}
    folders = set(collected.shown["folder"].unique())
    for run in (run for run in collected.completed if str(run.folder) in folders):
        runs.setdefault(group_of(run), []).append(run)
    for table in collected.tables:
        own = runs[table.group]
        configs = {str(run.folder): settings.flat(run.result.get("config") or {}) for run in own}
        told = {str(run.folder): collected.settings[run.folder] for run in own}
        yield Subject(table, values[table.group], aggregated[table.group], own, configs, told, known)


def swept_keys(subject: Subject) -> list[str]:
    """Keys over which the runs of a method were swept: the choice of the request, and all with numbers.

    Of keys that go up and down together the first alone.
    """
    keys: dict[str, None] = {}
    for runs in subject.methods().values():
        configs = [subject.configs[str(run.folder)] for run in runs]
        keys |= dict.fromkeys(key for key in varying(configs, decides) if key == CHOICE or _is_numeric(configs, key))
    found: dict[tuple[int, ...], str] = {}
    for key in sorted(keys, key=lambda key: (key != CHOICE, list(keys).index(key))):
        codes, _ = pd.factorize(pd.Series([repr(config.get(key)) for config in subject.configs.values()]))
        found.setdefault(tuple(codes), key)
    return list(found.values())


def _is_numeric(configs: list[Flat], key: str) -> bool:
    values = [config[key] for config in configs if config.get(key) is not None]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return len(numbers) == len(values) and len(set(numbers)) > 1


def rest_of(configs: Mapping[str, Flat], key: str) -> dict[str, str]:
    """By folder: the setting without the key, and without other keys that only follow it."""
    frame = {
        name: [repr(config.get(name)) for config in configs.values()] for name in varying([*configs.values()], decides)
    }
    kept = [
        name
        for name in frame
        if name != key and not name.startswith(f"{key}.") and not _follows(frame[name], frame[key])
    ]
    return {folder: settings.written(config, kept) for folder, config in configs.items()}


def _follows(values: list[str], key: list[str]) -> bool:
    """Whether each value of the key has one of these."""
    return len(set(zip(key, values, strict=True))) == len(set(key))


def place_of(categories: list[Any]) -> list[Any]:
    """Choices of a request in their order: by difficulty, others by name behind."""
    known = [name for name in DIFFICULTY if name in categories]
    return known + sorted(set(categories) - set(known), key=str)
