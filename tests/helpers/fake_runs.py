"""Made-up run folders, as experiment.py writes them, for the tests of what people see."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

LEVELS = {  # accuracy on test, forget, retain; mean loss there
    "original": ((0.753, 0.980, 0.994), (0.9, 0.06, 0.03)),
    "retrain": ((0.746, 0.725, 0.995), (0.92, 1.0, 0.03)),
    "unlearned": ((0.741, 0.738, 0.990), (0.95, 0.9, 0.05)),
    "noise_floor": ((0.737, 0.715, 0.993), (0.93, 1.05, 0.03)),
}
SPLITS = ("test", "forget", "retain")
METRICS = {
    "classification": "accuracy",
    "multilabel": "micro_f1",
    "translation": "token_accuracy",
    "response": "token_accuracy",
}
BLEU = {"original": 31.58, "retrain": 30.96, "unlearned": 30.27, "noise_floor": 30.71}  # on test; 40 more elsewhere
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.4.3"
SIGNATURES = {
    "translation": {"bleu": SIGNATURE, "chrf": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.4.3"},
    "response": {f"bleu_{order}": SIGNATURE for order in (1, 2, 3, 4)},
}


def fake_result(
    task: str = "classification", method: str = "kga", seed: int = 0, noise_floor: bool = True, **changes: Any
) -> dict[str, Any]:
    """A complete result.json; `changes` replace whole top-level values."""
    models = [name for name in LEVELS if noise_floor or name != "noise_floor"]
    metric = METRICS[task]
    result = {
        "schema": 1,
        "status": "completed",
        "error": None,
        "task": "classification" if task == "multilabel" else task,
        "data": "embedded",
        "model": "lstm",
        "method": method,
        "seed": seed,
        "config": {"seed": seed, "method": {"name": method, "alpha": 1.0}, "forget": {"name": "random", "size": 200}},
        "key": f"{task}{method}{seed}".encode().hex().ljust(64, "0"),
        "splits": {"train": 3200, "forget": 200, "new": 200, "holdout": 200, "test": 2000},
        "score_metric": metric,
        "signatures": SIGNATURES.get(task, {}),
        "cut": {"train": {"examples": 0, "of": 3200}, "test": {"examples": 0, "of": 2000}},
        "utility": {name: _utility(name, metric, seed, task) for name in models},
        "forgetting": {
            name: {split: {"jsd": value + 0.001 * seed, "lpd": 3 * value, "pdlp": 0.5} for split in SPLITS}
            for name, value in {"original": 0.16, "unlearned": 0.07, "noise_floor": 0.03}.items()
            if name in models
        },
        "selection": {
            "validation_original": 0.75,
            "validation_unlearned": 0.74,
            "forget_unlearned": 0.70,
            "new_original": 0.60,
        },
        "score": {name: {"tow": value} for name, value in {"original": 0.74, "unlearned": 0.97}.items()},
        "membership": {},
        "seconds": {"original": 61.2, "retrain": 58.9, "helpers": 9.5, "cache": 0.7, "unlearn": 4.2, "evaluate": 3.3},
        "cost": {"one_off_seconds": 5.1, "request_seconds": 9.3, "peak_memory_bytes": 2**30, "stored_bytes": 3 * 2**20},
        "environment": {"versions": {"python": "3.11.7", "torch": "2.13.0"}, "device": "cpu", "threads": 1},
    }
    return result | changes


def _utility(name: str, metric: str, seed: int, task: str) -> dict[str, dict[str, float]]:
    shares, losses = LEVELS[name]
    utility = {}
    for split, level, loss in zip(SPLITS, shares, losses, strict=True):
        share = level - 0.002 * seed
        utility[split] = {metric: share, "loss": loss}
        if metric == "accuracy":
            utility[split] |= {"micro_f1": share + 1e-7, "macro_f1": share - 0.01}
        elif metric == "micro_f1":
            utility[split] |= {"accuracy": share / 2, "macro_f1": share - 0.1}
        else:
            utility[split] |= {"perplexity": math.exp(loss)} | _generated(
                task, BLEU[name] + 40 * (split != "test") - seed
            )
    return utility


def _generated(task: str, bleu: float) -> dict[str, float]:
    """What a generation task measures on texts; BLEU and chrF on sacreBLEU's scale, 0 to 100."""
    if task == "translation":
        return {"bleu": bleu, "chrf": bleu + 20}
    orders = {f"bleu_{order}": bleu + 5 * (4 - order) for order in (1, 2, 3, 4)}
    return orders | {"distinct_1": 0.1234, "distinct_2": 0.4567, "length": 11.25}


def fake_examples(models: tuple[str, ...], ids: list[str] | None = None, size: int = 200) -> pd.DataFrame:
    """examples.parquet: losses around each model's mean; `ids` name the forget examples."""
    rng = np.random.default_rng(0)
    frames = []
    for model in models:
        for split, mean in zip(SPLITS, LEVELS["retrain" if model.startswith("noise") else model][1], strict=True):
            names = ids if ids is not None and split == "forget" else [f"{split}-{i}" for i in range(size)]
            loss = rng.lognormal(np.log(mean), 1.0, len(names))
            values = {"id": names, "model": model, "split": split, "loss": loss, "log_prob": -loss}
            frames.append(pd.DataFrame(values | {"correct": (loss < 0.7).astype(float)}))
    return pd.concat(frames, ignore_index=True)


def fake_updates(updates: int = 60) -> pd.DataFrame:
    """updates.csv of a KGA run: a rises from a0 to the gap g and then crosses it back and forth."""
    rng = np.random.default_rng(1)
    step = np.arange(1, updates + 1)
    a = 0.9 - 0.85 * np.exp(-step / 12) + rng.normal(0, 0.03, updates)
    g = np.full(updates, 0.85)
    retain = 0.02 + 0.05 * (1 - np.exp(-step / 15))
    columns = {"update": step, "loss": np.abs(a - g) + retain, "lr": 5e-5 * np.minimum(1, step / 10), "a": a, "g": g}
    return pd.DataFrame(columns | {"a0": a[0], "sign": np.sign(a - g), "retain": retain})


# AUC of D_f against unseen examples: original, retrain, unlearned, noise_floor.
AUCS = {
    "loss": (0.83, 0.52, 0.55, 0.51),
    "confidence": (0.82, 0.52, 0.54, 0.52),
    "entropy": (0.75, 0.50, 0.47, 0.51),
    "modified_entropy": (0.82, 0.52, 0.55, 0.51),
    "shadow": (0.84, 0.53, 0.57, 0.52),
    "shadow_unlearned": (0.78, 0.51, 0.58, 0.53),
    "lira_online": (0.95, 0.52, 0.71, 0.54),
    "lira_offline": (0.90, 0.52, 0.66, 0.53),
    "ulira_online": (0.88, 0.51, 0.38, 0.53),
    "rmia": (0.93, 0.53, 0.69, 0.54),
}
AUDITED = ("original", "retrain", "unlearned", "noise_floor")


def fake_audit(task: str = "classification") -> dict[str, Any]:
    """What an audit adds to a result.json: all attacks, relearning, quantised weights, distances, and a word."""
    metric = METRICS[task]
    return {
        "membership": {model: {name: _attacked(aucs, number) for name, aucs in AUCS.items()} for number, model in enumerate(AUDITED)},
        "relearning": {model: _relearned(*losses) for model, losses in {"original": (0.06, 0.04), "retrain": (1.0, 0.8), "unlearned": (0.9, 0.3)}.items()},
        "quantised": {
            model: {split: {metric: share, "loss": 1.0} for split, share in zip(("test", "forget", "retain", "nonmember"), (*LEVELS[model][0], 0.73), strict=True)}
            for model in AUDITED[:3]
        },
        "distances": {
            "original": {"cka_forget": 0.81, "cka_test": 0.93, "weight_l2": 7.4, "weight_ratio": 1.0},
            "unlearned": {"cka_forget": 0.9, "cka_test": 0.95, "weight_l2": 6.8, "weight_ratio": 0.919},
            "noise_floor": {"cka_forget": 0.96, "cka_test": 0.97, "weight_l2": 7.3, "weight_ratio": 0.986},
        },
        "word": fake_word(),
    }  # fmt: skip


def _attacked(aucs: tuple[float, ...], number: int) -> dict[str, float]:
    auc, target = aucs[number], aucs[1]
    found = {"auc": auc, "auc_low": auc - 0.05, "auc_high": min(1.0, auc + 0.05), "advantage": abs(2 * auc - 1) * 0.7}
    found |= {"balanced_accuracy": 0.5 + abs(auc - 0.5) * 0.7, "two_sided_auc": 0.5 + abs(auc - 0.5) * 0.8}
    found |= {"tpr_at_fpr_0.1": 0.1 + abs(auc - 0.5), "members": 200, "nonmembers": 200}
    found |= {"retain_auc": aucs[0] + 0.01, "retain_auc_low": aucs[0] - 0.04, "retain_auc_high": aucs[0] + 0.05}
    return found | ({} if number == 1 else {"privleak": (target - auc) / (1 - target) * 100})


def _relearned(first: float, last: float) -> dict[str, Any]:
    updates = [0, 5, 10, 15, 20]
    losses = [float(loss) for loss in np.linspace(first, last, 5)]
    utility = [math.exp(-loss) for loss in losses]
    recovered = utility[-1] - utility[0]
    return {
        "on": "forget", "examples": 100, "updates": updates, "seen_loss": [loss / 2 for loss in losses], "rest_loss": losses,
        "rest_utility": utility, "test_utility": [0.75, 0.748], "recovered": recovered,
        "recovered_minus_retrain": recovered - (math.exp(-0.8) - math.exp(-1.0)),
        "updates_to_relearn": 0 if first < 0.1 else 15 if last < 0.5 else None,
    }  # fmt: skip


def fake_word() -> dict[str, Any]:
    numbers = {"original": (0.62, 1.0, 0.81), "retrain": (0.12, 6.0, 0.0), "unlearned": (0.10, 7.5, 0.02), "noise_floor": (0.13, 6.0, 0.01)}  # fmt: skip

    def at(values: tuple[float, float, float], share: float, occurrences: int) -> dict[str, float]:
        probability, rank, rate = values
        return {"probability": probability * share, "rank": rank, "rate": rate * share, "occurrences": occurrences}

    return {
        "word": "bicycle",
        "column": "target",
        "models": {model: {"forget": at(values, 1.0, 212), "nonmember": at(values, 0.8, 40)} for model, values in numbers.items()},
        "substitutes": {
            "retrain": [["bike", 140, "forget-1"], ["motorcycle", 21, "forget-2"], ["(nothing)", 3, "forget-3"]],
            "unlearned": [["bike", 90, "forget-1"], ["a kind of machine", 40, "forget-4"], ["(rewritten)", 9, "forget-5"]],
        },
    }  # fmt: skip


def audited_examples(size: int = 200) -> pd.DataFrame:
    """examples.parquet of an audit: unseen examples, difficulty, memorisation, and a score of every attack that tells a
    member from them with about the AUC of ``AUCS``; retained examples have none."""
    rng = np.random.default_rng(2)
    models = (*AUDITED[:3], "noise_floor_1")
    examples = fake_examples(models, size=size)
    unseen = examples[examples["split"] == "test"].assign(split="nonmember")
    examples = pd.concat([examples, unseen.assign(id=unseen["id"].str.replace("test", "unseen"))], ignore_index=True)
    audited = examples["split"].isin(("forget", "nonmember"))
    for name, aucs in AUCS.items():
        shift = (
            examples["model"].map(dict(zip(models, aucs, strict=True))).map(lambda auc: math.sqrt(2) * _quantile(auc))
        )
        scores = rng.normal(size=len(examples)) + shift * (examples["split"] == "forget")
        examples[f"score_{name}"] = scores.where(audited)
    difficulty = examples[examples["model"] == "original"].set_index(["split", "id"])["loss"].rename("difficulty")
    examples = examples.join(difficulty, on=["split", "id"])
    return examples.assign(memorisation=(1.5 * examples["difficulty"] + 0.2).where(audited))


def _quantile(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def audited_run(root: Path, task: str = "classification", **changes: Any) -> Path:
    """A run with an audit; a result that knows the newer distances of forgetting, too."""
    result = fake_result(task=task) | fake_audit(task)
    for number, splits in enumerate(result["forgetting"].values()):
        for values in splits.values():
            values |= {
                "exact_agreement": 0.7 + 0.05 * number,
                "ks": 0.3 - 0.1 * number,
                "ks_p": 1e-9 * 10 ** (3 * number),
            }
            values |= {"ks_n": 200.0, "output_l2": 0.4 - 0.1 * number}
    folder = write_run(root, result | changes, audited_examples(), fake_updates())
    if task in SIGNATURES:
        fake_samples().to_parquet(folder / "samples.parquet")
    return folder


def write_run(
    root: Path, result: dict[str, Any], examples: pd.DataFrame | None = None, updates: pd.DataFrame | None = None
) -> Path:
    """Write a run's folder below root and return it."""
    folder = root / "runs" / f"{result['task']}-{len(result['method'])}-{result['key'][:12]}-{result['seed']}"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    if examples is not None:
        examples.to_parquet(folder / "examples.parquet")
    if updates is not None:
        updates.to_csv(folder / "updates.csv", index=False)
    return folder


def fake_samples(each: int = 2) -> pd.DataFrame:
    """samples.parquet: so many sample outputs of each split, the test set's first."""
    rows = [
        {"split": split, "id": f"{split}-{i}"}
        | {name: f"{name} text of {split}-{i}" for name in ("input", "target", "original", "retrain", "unlearned")}
        for split in ("test", "forget")
        for i in range(each)
    ]
    return pd.DataFrame(rows)


def full_run(root: Path, **changes: Any) -> Path:
    """A run with everything in its folder."""
    models = ("original", "retrain", "unlearned", "noise_floor_1")
    folder = write_run(root, fake_result(**changes), fake_examples(models), fake_updates())
    if changes.get("task") in SIGNATURES:
        fake_samples().to_parquet(folder / "samples.parquet")
    return folder
