"""From runs to numbers: one tidy frame of every number, and mean and deviation over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kga.report import summary
from kga.report.collect import Run
from kga.report.settings import GROUP, Setting, group_of, settings_of

ROW = [*GROUP, "score_metric", "role", "method", "request", "setting"]
VALUE = ["quantity", "split", "metric"]
_OF_ATTACKS = ("membership", "relearning", "quantised", "distances")
_COSTS = ("one_off_seconds", "request_seconds", "peak_memory_bytes", "stored_bytes")


def tidy(runs: Iterable[Run], settings: Mapping[Path, Setting] | None = None) -> pd.DataFrame:
    """One row per number of every completed run.

    Columns: folder, task, data, model, seed, score_metric (the utility of its main table), role (of the model that the
    number belongs to), method (of the unlearned model, else empty), request (the config keys in which runs of the table
    differ, a method's own left out: runs of one request share A_D and A_R), setting (with a method's own), quantity
    (utility, forgetting, quantised, membership, score, distances, relearning, word, selection, unlearning, seconds, cost),
    split (or attack; of what attacks found also the keys of `attack.*` in which runs differ), metric, value. A number that
    was not finite is NaN; so is that of updates to relearn where they were too few.

    Args:
        settings: of the completed runs, by folder, where they are known already.
    """
    completed = [run for run in runs if run.completed]
    settings = settings_of(completed) if settings is None else settings
    numbers = [(place, *number) for place, run in enumerate(completed) for number in _numbers(run.result)]
    table = pd.DataFrame(numbers, columns=["run", "role", *VALUE, "value"])
    # What is the same for all numbers of a run is spread over them afterwards: there are hundreds of them.
    table = table.join(_told(completed, settings), on="run")
    others = table["role"] != "unlearned"
    table["method"] = table["method"].mask(others, "")
    table["setting"] = table["setting"].mask(others, table["request"])
    # Findings of differently set attacks are different numbers.
    attacked = table["quantity"].isin(_OF_ATTACKS) & (table["attack"] != "")
    found = (table.loc[attacked, "split"] + ", " + table.loc[attacked, "attack"]).str.removeprefix(", ")
    table.loc[attacked, "split"] = found
    columns = ["folder", *GROUP, "seed", *ROW[len(GROUP) :], *VALUE, "value"]
    return table[columns].astype({"seed": "Int64", "value": float})


def _told(runs: Sequence[Run], settings: Mapping[Path, Setting]) -> pd.DataFrame:
    """A row for each run, with what is said of all its numbers."""
    metrics = _score_metrics(runs)
    rows = [
        (str(run.folder), *group_of(run), run.result.get("seed"), metrics[group_of(run)], run.method, own.request, own.whole,
         own.attack)
        for run in runs
        for own in (settings[run.folder],)
    ]  # fmt: skip
    columns = ["folder", *GROUP, "seed", "score_metric", "method", "request", "setting", "attack"]
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"})


def _score_metrics(runs: Sequence[Run]) -> dict[tuple[str, ...], str]:
    """By (task, data, model): the metric that its runs name as compared by tug of war, else what all of them suggest."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(group_of(run), []).append(run)
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
    costs = result.get("cost") or {}
    for metric, value in _values({name: costs[name] for name in _COSTS if costs.get(name) is not None}):
        yield "unlearned", "cost", "", metric, value


def _values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers; NaN for null, which stands in JSON for a number that was not finite."""
    for metric, value in metrics.items():
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield metric, float("nan") if value is None else float(value)


def aggregate(values: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation (n - 1; NaN for one seed) and number of seeds of every number, and `distance`: the mean over
    seeds of how far it is from the retrained model's of the same seed and request (NaN where that has no such number).

    Runs that share a seed and everything else (the same A_R beside several methods) count once. A value that is NaN for
    one seed makes the mean NaN: it is not left out.
    """
    per_seed = values.groupby([*ROW, *VALUE, "seed"], sort=False, dropna=False)["value"].mean().reset_index()
    keys = [*GROUP, "request", "seed", *VALUE]
    targets = per_seed[per_seed["role"] == "retrain"].set_index(keys)["value"]
    target = targets.reindex(pd.MultiIndex.from_frame(per_seed[keys])).to_numpy()
    per_seed["distance"] = (per_seed["value"] - target).abs()
    grouped = per_seed.groupby([*ROW, *VALUE], sort=False)
    table = grouped["value"].agg(["mean", "std", "count", "size"])
    distances = grouped["distance"].agg(["mean", "count"])
    table.loc[table["count"] < table["size"], ["mean", "std"]] = float("nan")
    table["distance"] = distances["mean"].where(distances["count"] == table["size"])
    return table.drop(columns="count").rename(columns={"size": "seeds"}).reset_index()
