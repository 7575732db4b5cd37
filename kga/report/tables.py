"""From runs to tables: one tidy frame of every number, mean and deviation over seeds, the main tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kga.report import summary
from kga.report.collect import Run

GROUP = ["task", "data", "model"]
ROW = [*GROUP, "score_metric", "role", "method", "setting"]
VALUE = ["quantity", "split", "metric"]
# Keys (with all below them) that decide where, how and with what beside it a run is made, not what comes out; seeds are
# what is averaged over.
_NO_SETTING = {
    "seed",
    "choices",
    "output",
    "store",
    "trainer",
    "launcher",
    "logger",
    "report",
    "attack",
    "reference",
    "hydra",
    "evaluation.noise_floor",
    "evaluation.batch_size",
    "evaluation.generate.batch_size",
}
_SETTING_AFTER_ALL = {"trainer.precision"}


def tidy(runs: Iterable[Run]) -> pd.DataFrame:
    """One row per number of every completed run.

    Columns: folder, task, data, model, seed, score_metric (the utility of its main table), role (of the model that the
    number belongs to), method (of the unlearned model, else empty), setting (the config keys in which runs of the table
    differ), quantity (utility, forgetting, quantised, membership, score, distances, relearning, word, selection,
    unlearning, seconds), split (or attack), metric, value. A number that was not finite is NaN; so is that of updates to
    relearn where they were too few.
    """
    completed = [run for run in runs if run.completed]
    settings = _settings(completed)
    metrics = _score_metrics(completed)
    rows = [
        (
            str(run.folder),
            *_identity(run),
            metrics[_identity(run)[:-1]],
            role,
            run.method if unlearned else "",
            settings[run.folder][unlearned],
            *number,
        )
        for run in completed
        for role, *number in _numbers(run.result)
        for unlearned in [role == "unlearned"]
    ]
    columns = ["folder", *GROUP, "seed", *ROW[len(GROUP) :], *VALUE, "value"]
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64", "value": float})


def _identity(run: Run) -> tuple[Any, ...]:
    return (*(str(run.result.get(name)) for name in GROUP), run.result.get("seed"))


def _score_metrics(runs: list[Run]) -> dict[tuple[Any, ...], str]:
    """By (task, data, model): the metric that its runs name as compared by tug of war, else what all of them suggest."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(_identity(run)[:-1], []).append(run)
    return {group: _score_metric(members) for group, members in groups.items()}


def _score_metric(runs: list[Run]) -> str:
    named = (run.result["score_metric"] for run in runs if run.result.get("score_metric"))
    utilities = (splits for run in runs for splits in (run.result.get("utility") or {}).values())
    return next(named, None) or summary.metric_among([values for splits in utilities for values in splits.values()])


def _numbers(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str, float]]:
    """(role, quantity, split, metric, value) for every single number of a result."""
    word = {"word": (result.get("word") or {}).get("models")}
    for quantity in ("utility", "forgetting", "quantised", "membership", "word"):
        for role, groups in ((result | word).get(quantity) or {}).items():
            for group, metrics in groups.items():
                for metric, value in _values(metrics):
                    yield role, quantity, group, metric, value
    for quantity in ("score", "distances", "relearning"):
        for role, metrics in (result.get(quantity) or {}).items():
            for metric, value in _values(metrics):
                yield role, quantity, "", metric, value
    for metric, value in _values(result.get("selection") or {}):
        yield "unlearned", "selection", "", metric, value
    if unlearning := result.get("unlearning"):
        told = unlearning | {"stopped": float(bool(unlearning.get("stopped")))}
        for metric, value in _values(told):
            yield "unlearned", "unlearning", "", metric, value
    for role in summary.LABELS:
        seconds = summary.seconds_of(result, role)
        if seconds is not None:
            yield role, "seconds", "", "seconds", seconds


def _values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers; NaN for null, which stands in JSON for a number that was not finite."""
    for metric, value in metrics.items():
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield metric, float("nan") if value is None else float(value)


def _settings(runs: list[Run]) -> dict[Path, tuple[str, str]]:
    """By run: in which config keys it differs, (without, with) the keys of its method.

    Models that no method touched are told apart by the shared keys alone; methods' own keys are compared within one
    method.
    """
    configs = {run.folder: _flat(run.result.get("config") or {}) for run in runs}
    shared: dict[tuple[Any, ...], list[Path]] = {}
    own: dict[tuple[Any, ...], list[Path]] = {}
    for run in runs:
        group = _identity(run)[:-1]
        shared.setdefault(group, []).append(run.folder)
        own.setdefault((*group, run.method), []).append(run.folder)
    without = _differences(shared.values(), configs, lambda key: key.split(".")[0] != "method")
    within = _differences(own.values(), configs, lambda key: key.startswith("method."))
    return {
        folder: (without[folder], ", ".join(part for part in (without[folder], within[folder]) if part))
        for folder in configs
    }


def _differences(
    groups: Iterable[list[Path]], configs: dict[Path, dict[str, Any]], wanted: Callable[[str], bool]
) -> dict[Path, str]:
    """By run: the wanted keys that are not the same throughout its group, as key=value."""
    told = {}
    for folders in groups:
        keys = dict.fromkeys(key for folder in folders for key in configs[folder] if wanted(key))
        varying = [key for key in keys if len({repr(configs[folder].get(key)) for folder in folders}) > 1]
        for folder in folders:
            told[folder] = ", ".join(f"{key}={configs[folder].get(key)}" for key in varying)
    return told


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}.")
        elif name != "seed" and _decides(key):
            flat[key] = value
    return flat


def _decides(key: str) -> bool:
    parts = key.split(".")
    above = {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return key in _SETTING_AFTER_ALL or not above & _NO_SETTING


def aggregate(values: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1; NaN for one seed) and number of seeds of every number.

    Runs that share a seed and everything else (the same A_R beside several methods) count once. A value that is NaN for
    one seed makes the mean NaN: it is not left out.
    """
    per_seed = values.groupby([*ROW, *VALUE, "seed"], sort=False, dropna=False)["value"].mean()
    table = per_seed.groupby(level=[*ROW, *VALUE], sort=False).agg(["mean", "std", "count", "size"])
    table.loc[table["count"] < table["size"], ["mean", "std"]] = float("nan")
    return table.drop(columns="count").rename(columns={"size": "seeds"}).reset_index()


LOSS = "loss"  # the attack that every model and task can have
_NAMING = ("model", "setting", "seeds")
_GENERATION = ("BLEU", "PPL")


@dataclass(frozen=True)
class MainTable:
    """One (task, data, model): a line per row with the columns of `header`; `metric` is what its shares are.

    `bleu`: what the column BLEU shows; empty for tasks whose models generate nothing, which lack it and PPL. `attack`: whose
    AUC the column MIA shows; empty where nothing was attacked, and there is none.
    """

    title: str
    metric: str
    lines: list[dict[str, str]]
    bleu: str = ""
    attack: str = ""

    @property
    def header(self) -> tuple[str, ...]:
        generation, attack = _GENERATION if self.bleu else (), ("MIA",) if self.attack else ()
        return (*_NAMING, *summary.SPLITS, *generation, "JSD", "ToW", *attack, "seconds")

    @property
    def legend(self) -> str:
        """What the numbers are."""
        generation = f"{self.bleu} of the outputs on test; PPL: perplexity on the forget set; " if self.bleu else ""
        attack = f"; MIA: AUC of the {self.attack} attack, to be as the retrained model's" if self.attack else ""
        return (
            f"{self.metric[:1].upper()}{self.metric[1:]} in % on {', '.join(summary.SPLITS)}; {generation}"
            f"JSD to the retrained model on the forget set in nats; ToW: tug of war{attack}"
        )


def main_tables(aggregated: pd.DataFrame) -> list[MainTable]:
    """The main table of every (task, data, model): noise floor and A_R first, then the original, then the methods."""
    return [_main_table(group, part) for group, part in aggregated.groupby(GROUP, sort=True)]


def _main_table(group: tuple[str, ...], part: pd.DataFrame) -> MainTable:
    task, metric = group[0], part["score_metric"].iloc[0]
    rows = [(*name, numbers) for name, numbers in part.groupby(["role", "method", "setting"], sort=True)]
    known = [row for row in rows if row[0] in summary.LABELS and (row[-1]["quantity"] == "utility").any()]
    known.sort(key=lambda row: (list(summary.LABELS).index(row[0]), *row[1:3]))
    attack = _attack(part)
    lines = [_line(*row, metric, summary.BLEU.get(task), attack) for row in known]
    name = summary.bleu_name(task) if task in summary.BLEU else ""
    return MainTable(" / ".join(group), summary.metric_name(metric), lines, name, attack)


def _attack(part: pd.DataFrame) -> str:
    """The attack of the column MIA, one for all lines: loss; without it the one that is farthest from A_R's AUC (from .5).

    Empty where nothing was attacked.
    """
    aucs = part[(part["quantity"] == "membership") & (part["metric"] == "auc")]
    if aucs.empty or (aucs["split"] == LOSS).any():
        return "" if aucs.empty else LOSS
    target = aucs[aucs["role"] == "retrain"].groupby("split")["mean"].mean()
    farthest = (aucs["mean"] - aucs["split"].map(target).fillna(0.5)).abs().where(aucs["role"] == "unlearned")
    return str(aucs["split"].loc[farthest.fillna(-1).idxmax()])


def _line(
    role: str, method: str, setting: str, numbers: pd.DataFrame, metric: str, bleu: str | None, attack: str
) -> dict[str, str]:
    cells = {tuple(row[:3]): row[3:] for row in numbers[[*VALUE, "mean", "std"]].itertuples(index=False)}
    perplexity = ("utility", "forget", "perplexity")
    wanted = {
        **{split: (("utility", split, metric), 100, ".1f") for split in summary.SPLITS},
        "BLEU": (("utility", "test", bleu), 1, ".1f"),
        "PPL": (perplexity, 1, summary.perplexity_format(cells.get(perplexity, (0.0,))[0])),
        "JSD": (("forgetting", "forget", "jsd"), 1, ".3f"),
        "ToW": (("score", "", "tow"), 1, ".3f"),
        "MIA": (("membership", attack, "auc"), 1, ".2f"),
        "seconds": (("seconds", "", "seconds"), 1, ".1f"),
    }
    stopped, _ = cells.get(("unlearning", "", "stopped"), (0.0, None))
    ended = f" (stopped early in {stopped * numbers['seeds'].max():.0f})" if stopped else ""
    line = {"model": (method or summary.LABELS[role]) + ended, "setting": setting, "seeds": str(numbers["seeds"].max())}
    line |= {name: spread(*cells.get(key, (None, None)), scale, form) for name, (key, scale, form) in wanted.items()}
    if role == "retrain":
        line |= {"JSD": "0", "ToW": "1"}
    return line


def spread(mean: float | None, deviation: float | None, scale: float, form: str) -> str:
    """'74.1 ± 0.3', both in a format such as .1f; the mean alone where there is one seed, a dash for no value."""
    if mean is None:
        return "-"
    known = deviation is not None and deviation == deviation
    return format(scale * mean, form) + (f" ± {format(scale * deviation, form)}" if known else "")
