"""What a run reports about its models: utility, forgetting, score, and the values per example."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kga.data.corpus import input_text
from kga.data.splits import Split
from kga.evaluation import evaluate
from kga.metrics.score import tug_of_war
from kga.study import Study, Trained
from kga.texts import Texts, quality, write_texts

REPORTED = ("test", "forget", "retain")


SAMPLES = 10  # examples of each split whose generated texts are kept


def assess(
    study: Study, original: Trained, retrained: Sequence[Trained], unlearned: Trained, options: Mapping, folder: Path,
    texts: bool = False,
) -> dict:  # fmt: skip
    """utility, forgetting and score of result.json; writes examples.parquet beside it.

    retrained: A_R and the further ones of the noise floor, or none. options: ``evaluation.*``. texts: whether samples of
    what the models write may be kept (samples.parquet).
    """
    trained = {"original": original, "unlearned": unlearned}
    trained |= {("retrain" if not number else f"noise_floor_{number}"): model for number, model in enumerate(retrained)}
    models = {name: study.load(model) for name, model in trained.items()}
    rows = {name: study.splits[name] for name in ("test", "forget", "validation", "new")}
    rows["retain"] = _limited(study.splits["retain"], options["retain_limit"], study.seed)
    rows = {name: split for name, split in rows.items() if len(split)}
    everywhere, distances, table = evaluate(
        models, {name: study.view(split) for name, split in rows.items()}, study.hardware, options["batch_size"],
        compared=REPORTED,
    )  # fmt: skip
    _named(table, study, rows).to_parquet(folder / "examples.parquet", index=False)
    metric = models["original"].score_metric
    utility, forgetting = _reported(everywhere), _reported(distances)
    chosen_by = {"score_metric": metric, "selection": selection(everywhere, metric)}
    if models["original"].text_metrics() and options["generate"]["limit"] != 0:
        chosen_by |= _generate(study, models, rows, options["generate"], utility, folder if texts else None)
    if not retrained:
        return {"utility": utility, "forgetting": {}, "score": {}} | chosen_by
    score = {name: {"tow": tug_of_war(values, utility["retrain"], metric)}
             for name, values in utility.items() if name != "retrain"}  # fmt: skip
    return {
        "utility": _with_floor(utility),
        "forgetting": _with_floor(forgetting),
        "score": _with_floor(score),
    } | chosen_by


def _generate(
    study: Study, models: Mapping, rows: Mapping[str, Split], options: Mapping, utility: dict, folder: Path | None
) -> dict:
    """Adds the quality of generated texts to ``utility``; returns how it was computed. folder: where samples are kept."""
    chosen = {name: _limited(rows[name], options["limit"], study.seed) for name in REPORTED if name in rows}
    views = {name: study.view(split) for name, split in chosen.items()}
    texts = write_texts(models, views, study.hardware, options["beams"], options["batch_size"])
    truth = study.task.fields[-1]
    references = {name: study.splits.strings(split, truth) for name, split in chosen.items()}
    values, signatures = quality(models["original"], texts, references)
    for name, splits in values.items():
        for split, numbers in splits.items():
            utility[name][split] |= numbers
    if folder is not None:
        _samples(study, chosen, texts, references).to_parquet(folder / "samples.parquet", index=False)
    return {"signatures": signatures, "generated": {name: len(split) for name, split in chosen.items()}}


def _samples(study: Study, chosen: Mapping[str, Split], texts: Texts, references: Mapping) -> pd.DataFrame:
    """The first examples of each split with what every model wrote; further retrained models are left out."""
    parts = []
    for name, split in chosen.items():
        first = Split(split.source, split.rows[:SAMPLES])
        columns = {field: study.splits.strings(first, field) for field in study.task.fields[:-1]}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        part = {"split": name, "id": study.splits.strings(first, "id"), "input": [input_text(row) for row in rows]}
        part["target"] = references[name][: len(first)]
        written = {model: texts[model][name][: len(first)] for model in texts if not model.startswith("noise_floor")}
        parts.append(pd.DataFrame(part | written))
    return pd.concat(parts)


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
