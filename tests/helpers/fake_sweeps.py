"""Made-up sweeps: many methods, settings and seeds with results that hang together, failed and missing runs among them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from helpers.fake_runs import fake_audit, fake_result, fake_updates, write_run

from kga.curves import gaps, rocs

# What a method makes of an example: forget and test utility, JSD, MIA, seconds of a request.
METHODS = {
    "kga": (0.735, 0.742, 0.050, 0.53, 14.0),
    "finetune": (0.930, 0.749, 0.120, 0.71, 6.0),
    "npo": (0.690, 0.728, 0.080, 0.49, 5.0),
    "scrub": (0.780, 0.738, 0.065, 0.58, 11.0),
    "badt": (0.650, 0.735, 0.090, 0.47, 9.0),
    "gradient_ascent": (0.080, 0.310, 0.410, 0.12, 1.4),
    "salun": (0.710, 0.721, 0.085, 0.50, 7.5),
    "none": (0.980, 0.753, 0.160, 0.83, 0.0),
}
ALPHAS = (0.0, 0.1, 1.0, 3.0, 10.0, 100.0)
SIZES = (50, 100, 200, 400)


def run(
    method: str = "kga", seed: int = 0, alpha: float = 1.0, size: int = 200, choice: str = "random", **changes: Any
) -> dict[str, Any]:
    """A result whose numbers depend on its settings as real ones do: more alpha forgets less and keeps more."""
    forget, test, jsd, auc, seconds = METHODS.get(method, METHODS["kga"])
    rng = np.random.default_rng([seed, int(alpha * 10), size, *map(ord, method + choice)])
    pull = np.log10(alpha + 0.1) / 2 if method == "kga" else 0.0
    hard = {"easy": -0.05, "random": 0.0, "hard": 0.12}[choice]
    forget += 0.12 * pull + 0.5 * hard + 0.01 * rng.normal()
    test += 0.02 * min(pull, 0.0) - 0.00004 * size + 0.004 * rng.normal()
    result = fake_result(method=method, seed=seed, **changes) | {"membership": fake_audit()["membership"]}
    result["config"] = {
        "seed": seed,
        "choices": {"task": "classification", "data": "embedded", "model": "lstm", "forget": choice, "method": method},
        "method": {"_target_": method} | ({"alpha": alpha} if method == "kga" else {}),
        "forget": {"_target_": choice, "size": size} | ({} if choice == "random" else {"by": "loss"}),
    }
    result["key"] = hashlib.sha256(repr((method, seed, alpha, size, choice, result["data"])).encode()).hexdigest()
    jsd += 0.02 * abs(pull) + 0.1 * abs(hard) + 0.003 * rng.normal()
    _set(result, "unlearned", forget, test, jsd, auc + 0.1 * hard)
    _set(result, "retrain", 0.725 - 0.8 * hard + 0.006 * rng.normal(), 0.746 - 0.00003 * size, None, 0.52)
    result["score"]["unlearned"]["tow"] = (1 - abs(forget - 0.725 + 0.8 * hard)) * (1 - abs(test - 0.746))
    result["cost"]["request_seconds"] = seconds * float(rng.uniform(0.8, 1.2))
    result["seconds"] |= {"helpers": seconds / 3, "cache": 0.1, "unlearn": seconds / 2}
    return result


def _set(result: dict[str, Any], model: str, forget: float, test: float, jsd: float | None, auc: float) -> None:
    for split, share in (("forget", forget), ("test", test)):
        result["utility"][model][split] |= {"accuracy": share, "micro_f1": share}
    if jsd is not None:
        result["forgetting"][model]["forget"]["jsd"] = jsd
    result["membership"][model]["loss"]["auc"] = auc


def scores(auc_shift: Mapping[str, float], size: int = 200, seed: int = 0) -> pd.DataFrame:
    """examples.parquet with scores of the loss attack: members of a model lie so much above non-members."""
    rng = np.random.default_rng(seed)
    frames = [
        pd.DataFrame({"id": [f"{split}-{i}" for i in range(size)], "model": model, "split": split, "loss": 1.0,
                      "score_loss": rng.normal(shift * (split == "forget"), 1, size)})
        for model, shift in auc_shift.items()
        for split in ("forget", "nonmember")
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def held(result: dict[str, Any]) -> dict[str, Any]:
    """The curves of a result: ROC of the loss attack, and the gaps where it is kga's."""
    auc = result["membership"]["unlearned"]["loss"]["auc"]
    found = {"roc": rocs(scores({"original": 1.4, "retrain": 0.1, "unlearned": 3 * (auc - 0.5)}, seed=result["seed"]))}
    if result["method"] != "kga":
        return found
    updates = fake_updates()
    return found | {"updates": gaps(updates.assign(a=updates["a"] * (1 + 0.05 * result["seed"])))}


def write(root: Path, result: dict[str, Any], curves: bool = False) -> Path:
    """Writes a run below root/runs; `curves`: with those of its attack and its updates."""
    folder = write_run(root, result | ({"curves": held(result)} if curves else {}))
    return folder.rename(folder.parent / f"{result['task']}-{result['method']}-{result['key'][:12]}")


def write_record(
    folder: Path, jobs: Iterable[tuple[tuple[str, ...], Path | None, str, str | None]], command: str = "kga -m"
) -> Path:
    """Writes sweep.json into a sweep's folder: jobs of (overrides, folder, state, error)."""
    folder.mkdir(parents=True)
    listed = [
        {"overrides": list(overrides), "folder": None if run is None else os.path.relpath(run, folder), "state": state,
         "error": error, "job_id": None}
        for overrides, run, state, error in jobs
    ]  # fmt: skip
    record = {"schema": 1, "name": folder.name, "command": command, "jobs": listed}
    (folder / "sweep.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def write_sweeps(root: Path, seeds: Iterable[int] = (0, 1, 2)) -> Path:
    """An output folder with a comparison, an alpha sweep (with a record), sizes, difficulty, failed and missing runs."""
    jobs: list[tuple[tuple[str, ...], Path | None, str, str | None]] = []
    for seed in seeds:
        for alpha in ALPHAS:
            folder = write(root, run(seed=seed, alpha=alpha), curves=True)
            jobs.append(((f"method.alpha={alpha}", f"seed={seed}"), folder, "completed", None))
    for seed in seeds:
        for method in METHODS.keys() - {"kga"}:
            write(root, run(method, seed), curves=True)
    write(root, run("npo", 9, status="failed", error="the loss is NaN at update 3"))
    begun = root / "runs" / "classification-kga-begun0000000"
    begun.mkdir()
    (begun / "splits.parquet").touch()
    jobs.append((("method.alpha=300", "seed=0"), begun, "pending", None))
    jobs.append((("method.alpha=-1", "seed=0"), None, "failed", "method.alpha=-1 must be 0 or more"))
    write_record(root / "sweeps" / "alpha-1a2b3c4d", jobs, "kga -m experiment=alpha seed=0,1,2")
    for seed in seeds:
        for size in SIZES:
            for method in ("kga", "npo", "finetune"):
                write(root / "sizes", run(method, seed, size=size, data="reviews"))
        for choice in ("easy", "random", "hard"):
            for method in ("kga", "scrub", "finetune"):
                write(root / "difficulty", run(method, seed, choice=choice, data="news"))
    return root
