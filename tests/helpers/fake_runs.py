"""Made-up run folders, as experiment.py writes them, for the tests of what people see."""

from __future__ import annotations

import json
import math
from pathlib import Path
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
        "membership": {name: {"population": {"auc": 0.5, "tpr_at_fpr_0.01": 0.01}} for name in models[:3]},
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
