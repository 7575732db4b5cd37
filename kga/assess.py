"""What a run reports about its models: utility, forgetting, score, and the values per example."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kga.data.splits import Split
from kga.evaluation import evaluate
from kga.metrics.score import tug_of_war
from kga.study import Study, Trained

REPORTED = ("test", "forget", "retain")


def assess(
    study: Study, original: Trained, retrained: Sequence[Trained], unlearned: Trained, options: Mapping, folder: Path
) -> dict:
    """utility, forgetting and score of result.json; writes examples.parquet beside it.

    retrained: A_R and the further ones of the noise floor, or none. options: ``evaluation.*``.
    """
    trained = {"original": original, "unlearned": unlearned}
    trained |= {("retrain" if not number else f"noise_floor_{number}"): model for number, model in enumerate(retrained)}
    models = {name: study.load(model) for name, model in trained.items()}
    rows = {name: study.splits[name] for name in ("test", "forget", "validation", "new")}
    rows["retain"] = _limited(study.splits["retain"], options["retain_limit"], study.seed)
    rows = {name: split for name, split in rows.items() if len(split)}
    everywhere, distances, table = evaluate(
        models, {name: study.view(split) for name, split in rows.items()}, study.hardware, options["batch_size"]
    )
    _named(table, study, rows).to_parquet(folder / "examples.parquet", index=False)
    metric = models["original"].score_metric
    utility, forgetting = _reported(everywhere), _reported(distances)
    chosen_by = {"selection": selection(everywhere, metric)}
    if not retrained:
        return {"utility": utility, "forgetting": {}, "score": {}} | chosen_by
    score = {name: {"tow": tug_of_war(values, utility["retrain"], metric)}
             for name, values in utility.items() if name != "retrain"}  # fmt: skip
    return {
        "utility": _with_floor(utility),
        "forgetting": _with_floor(forgetting),
        "score": _with_floor(score),
    } | chosen_by


def selection(utility: Mapping, metric: str) -> dict[str, float]:
    """What a setting may be chosen by: neither A_R, nor test, nor an attack.

    validation_original, validation_unlearned: utility on validation; a trial counts if it loses at most .02.
    forget_unlearned, new_original: utility of A* on D_f and of A_D on unseen D_n; of the trials that count, the one where
    these two are closest is chosen.
    """
    values = {f"validation_{name}": utility[name]["validation"][metric] for name in ("original", "unlearned")}
    values["forget_unlearned"] = utility["unlearned"]["forget"][metric]
    if "new" in utility["original"]:
        values["new_original"] = utility["original"]["new"][metric]
    return values


def _reported(values: Mapping) -> dict:
    """The splits that results are reported on."""
    return {
        name: {split: numbers for split, numbers in splits.items() if split in REPORTED}
        for name, splits in values.items()
    }


def _limited(split: Split, limit: int | None, seed: int) -> Split:
    if limit is None or len(split) <= limit:
        return split
    chosen = np.random.default_rng([seed, 5]).permutation(len(split))[:limit]
    return Split(split.source, np.sort(split.rows[chosen]))


def _named(table: pd.DataFrame, study: Study, rows: Mapping[str, Split]) -> pd.DataFrame:
    """Row numbers replaced by ids."""
    parts = []
    for name, part in table[table["split"].isin(REPORTED)].groupby("split", sort=False):
        split = rows[name]
        ids = pd.Series(study.splits.strings(split, "id"), index=split.rows)
        parts.append(part.assign(id=ids.loc[part["row"]].to_numpy()).drop(columns="row"))
    return pd.concat(parts)[["id", "model", "split", "loss", "log_prob", "correct"]]


def _with_floor(values: dict) -> dict:
    """Replaces the further retrained models by their mean, "noise_floor"."""
    floors = [values[name] for name in values if name.startswith("noise_floor_")]
    kept = {name: value for name, value in values.items() if not name.startswith("noise_floor_")}
    return kept | ({"noise_floor": _mean(floors)} if floors else {})


def _mean(trees: Sequence) -> object:
    """Mean of numbers at equal places of nested dictionaries."""
    if isinstance(trees[0], Mapping):
        return {name: _mean([tree[name] for tree in trees]) for name in trees[0]}
    return float(np.mean(trees))
