"""What a run reports about its models: utility, forgetting, score, and the values per example."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kga import ranks
from kga.data.corpus import input_text
from kga.data.splits import Split
from kga.evaluation import evaluate
from kga.inside import inner_distances
from kga.metrics.score import tug_of_war
from kga.study import Study, Trained
from kga.tasks.base import TaskModule
from kga.texts import Texts, quality, write_texts
from kga.unlearning import on_device
from kga.words import word_analysis

REPORTED = ("test", "forget", "retain")
COMPARED = 500  # examples of a set whose hidden states are compared
SAMPLES = 10  # examples of each split whose generated texts are kept


def named_models(original: Trained, retrained: Sequence[Trained], unlearned: Trained) -> dict[str, Trained]:
    """The models of a run by the names that results give them. retrained: A_R and the further ones, or none."""
    named = {"original": original, "unlearned": unlearned}
    return named | {(f"noise_floor_{number}" if number else "retrain"): model for number, model in enumerate(retrained)}


def assess(
    study: Study, trained: Mapping[str, Trained], options: Mapping, folder: Path, texts: bool = False,
    audited: Mapping[str, Split] | None = None, word: str | None = None,
) -> tuple[dict, pd.DataFrame]:  # fmt: skip
    """Utility, forgetting and score of result.json, and what every model says of every example (by row number).

    trained: see ``named_models``. options: ``evaluation.*``. texts: whether samples of what the models write may be kept
    (samples.parquet). audited: further sets that attacks look at; with any, the table holds all signals. word: the one that
    is to be forgotten, where a word is.
    """
    models = {name: study.load(model) for name, model in trained.items()}
    rows = {name: study.splits[name] for name in ("test", "forget", "validation", "new")} | dict(audited or {})
    rows["retain"] = limited(study.splits["retain"], options["retain_limit"], study.seed)
    rows = {name: split for name, split in rows.items() if len(split)}
    everywhere, distances, table = evaluate(
        models, {name: study.view(split) for name, split in rows.items()}, study.hardware, options["batch_size"],
        compared=REPORTED, audited=("forget", "retain", *audited) if audited else (),
    )  # fmt: skip
    metric = models["original"].score_metric
    utility, forgetting = _reported(everywhere), _reported(distances)
    chosen_by = {"score_metric": metric, "selection": selection(everywhere, metric)}
    if models["original"].text_metrics() and options["generate"]["limit"] != 0:
        chosen_by |= _generate(
            study, models, rows, options["generate"], utility, forgetting, folder if texts else None, word
        )
    if "retrain" not in models:
        return {"utility": utility, "forgetting": {}, "score": {}} | chosen_by, table
    compared = {name: limited(rows[name], COMPARED, study.seed) for name in ("forget", "test")}
    score = {name: {"tow": tug_of_war(values, utility["retrain"], metric)}
             for name, values in utility.items() if name != "retrain"}  # fmt: skip
    return {
        "utility": with_floor(utility),
        "forgetting": with_floor(forgetting),
        "score": with_floor(score),
        "distances": with_floor(ranks.from_main(lambda: inner_distances(study, models, compared))),
    } | chosen_by, table


def _generate(
    study: Study, models: Mapping, rows: Mapping[str, Split], options: Mapping, utility: dict, forgetting: dict,
    folder: Path | None, word: str | None,
) -> dict:  # fmt: skip
    """Adds the quality of generated texts to ``utility``, and their likeness to A_R's to ``forgetting`` (bleu_to_retrained).

    Returns how it was computed, and what became of the word. folder: where samples are kept.
    """
    chosen = {name: limited(rows[name], options["limit"], study.seed) for name in REPORTED if name in rows}
    beside = {"nonmember": limited(study.splits["nonmember"], options["limit"], study.seed)} if word else {}
    views = {name: study.view(split) for name, split in (chosen | beside).items() if len(split)}
    texts = write_texts(models, views, study.hardware, options["beams"], options["batch_size"])
    truth = study.task.fields[-1]
    references = {name: study.splits.strings(split, truth) for name, split in chosen.items()}
    reported = {name: {split: splits[split] for split in chosen} for name, splits in texts.items()}
    values, signatures = quality(models["original"], reported, references)
    for name, splits in values.items():
        for split, numbers in splits.items():
            utility[name][split] |= numbers
    _add_likeness(models["original"], reported, forgetting)
    if folder is not None and ranks.is_main():
        _samples(study, chosen, texts, references).to_parquet(folder / "samples.parquet", index=False)
    found = {"signatures": signatures, "generated": {name: len(split) for name, split in chosen.items()}}
    if word:
        found["word"] = ranks.from_main(lambda: _word(study, models, texts, chosen["forget"], word))
    return found


def _add_likeness(task: TaskModule, texts: Texts, forgetting: dict) -> None:
    """BLEU of what every model writes against what A_R writes for the same inputs, 0 to 100."""
    if "retrain" not in texts:
        return
    others = {name: splits for name, splits in texts.items() if name != "retrain"}
    values, _ = quality(task, others, texts["retrain"])
    for name, splits in values.items():
        for split, numbers in splits.items():
            forgetting[name][split]["bleu_to_retrained"] = numbers.get("bleu", numbers.get("bleu_4"))


def _word(study: Study, models: Mapping, texts: Texts, written: Split, word: str) -> dict:
    """The section ``word``: on all of D_f and of the non-members. written: the part of D_f that texts were written for."""
    sets = {name: study.splits[name] for name in ("forget", "nonmember") if len(study.splits[name])}
    truth = study.task.fields[-1]
    truths = {name: study.splits.strings(split, truth) for name, split in sets.items()}
    ids = study.splits.strings(written, "id")
    with on_device(list(models.values()), study.hardware, study.seed):
        views = {name: study.view(split) for name, split in sets.items()}
        found = word_analysis(models, views, truths, texts, ids, word, truth)
    taken = {name: words for name, words in found["substitutes"].items() if not name.startswith("noise_floor")}
    return found | {"models": with_floor(found["models"]), "substitutes": taken}


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


def limited(split: Split, limit: int | None, seed: int) -> Split:
    if limit is None or len(split) <= limit:
        return split
    chosen = np.random.default_rng([seed, 5]).permutation(len(split))[:limit]
    return Split(split.source, np.sort(split.rows[chosen]))


def write_examples(table: pd.DataFrame, scores: pd.DataFrame, study: Study, path: Path) -> None:
    """examples.parquet: what every model says of every reported or audited example, and how attacks score it.

    Ids instead of row numbers; ``difficulty`` is A_D's loss.
    """
    kept = table[table["split"].isin((*REPORTED, "nonmember"))]
    original = kept[kept["model"] == "original"].set_index(["split", "row"])["loss"].rename("difficulty")
    kept = kept.join(original, on=["split", "row"])
    if len(scores):
        kept = kept.merge(scores, how="left", on=["row", "model", "split"])
    ids = {
        split: pd.Series(study.splits.strings(_source(split, part), "id"), index=part["row"].unique())
        for split, part in kept.groupby("split", sort=False)
    }
    kept = pd.concat(
        [part.assign(id=ids[split].loc[part["row"]].to_numpy()) for split, part in kept.groupby("split", sort=False)]
    )
    first = ["id", "model", "split"]
    kept[first + [name for name in kept if name not in (*first, "row")]].to_parquet(path, index=False)


def _source(split: str, part: pd.DataFrame) -> Split:
    return Split("test" if split == "test" else "train", part["row"].unique())


def with_floor(values: dict) -> dict:
    """Replaces the further retrained models by their mean, "noise_floor"."""
    floors = [values[name] for name in values if name.startswith("noise_floor_")]
    kept = {name: value for name, value in values.items() if not name.startswith("noise_floor_")}
    return kept | ({"noise_floor": _mean(floors)} if floors else {})


def _mean(trees: Sequence) -> object:
    """Mean of numbers at equal places of nested dictionaries; None where one is missing."""
    if isinstance(trees[0], Mapping):
        return {name: _mean([tree[name] for tree in trees]) for name in trees[0]}
    return None if any(tree is None for tree in trees) else float(np.mean(trees))
