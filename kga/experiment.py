"""The pipeline of one run, on one page: data -> splits -> models -> unlearn -> evaluate -> result.json."""

import json
import math
import os
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from datasets import disable_progress_bars
from filelock import FileLock, Timeout

from kga import config
from kga.console import note, stage
from kga.data.corpus import Corpus
from kga.data.splits import make_splits
from kga.errors import UserError
from kga.hashing import file_digest, folder_digest, strings_digest
from kga.store import Store

SCHEMA = 1


def run(cfg: Mapping) -> dict:
    """Runs one study of a resolved config and returns its result; a finished one is only read.

    cfg: the config tree as plain values, with ``choices`` (names of the chosen groups). UserError for mistakes.
    """
    root = Path(cfg["output"])
    for name in ("output", "store"):
        config.require_writable(name, Path(cfg[name]))
    stage("Data", f"{cfg['choices']['data']}, request: forget={cfg['choices']['forget']}")
    corpus = load_corpus(cfg)
    for text in corpus.notes:
        note(text)
    key = config.run_key(cfg, data_fingerprint(corpus, cfg))
    folder = root / "runs" / f"{cfg['task']['name']}-{cfg['choices']['method']}-{key[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        finished = read_result(folder)
        if finished is not None:
            note("this run is finished already: its result is shown, nothing is run again")
            return finished
        return _recorded(cfg, corpus, folder, key)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Whoever starts the same run meanwhile waits, and then reads its result."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note(f"another process is at this run ({folder.name}): waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _recorded(cfg: Mapping, corpus: Corpus, folder: Path, key: str) -> dict:
    """Runs the study and writes result.json, also for a study that fails."""
    head = {"schema": SCHEMA, "status": "failed", "error": None, "task": cfg["task"]["name"], "data": corpus.name,
            "model": cfg["choices"]["model"], "method": cfg["choices"]["method"], "seed": cfg["seed"],
            "config": dict(cfg), "key": key}  # fmt: skip
    try:
        result = head | {"status": "completed"} | _study(cfg, corpus, folder)
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else "".join(traceback.format_exception_only(error)).strip()
        _write(folder / "result.json", head | {"error": reason})
        raise
    return _write(folder / "result.json", result)


def _study(cfg: Mapping, corpus: Corpus, folder: Path) -> dict:
    """Everything that takes time; torch is first imported here."""
    from kga.assess import assess
    from kga.build import build_method, build_study, environment, require_sets

    method = build_method(cfg)
    splits = make_splits(
        corpus,
        config.build(cfg, "forget"),
        seed=cfg["seed"],
        reserve=cfg["data"]["reserve"],
        group=cfg["data"]["group"],
        limit=cfg["data"]["limit"],
        new_size=cfg["new"]["size"],
        new=load_new(cfg),
        original_is_given=cfg["original"]["path"] is not None,
    )
    for text in splits.notes:
        note(text)
    note(", ".join(f"{name} {size}" for name, size in splits.sizes().items()))
    require_sets(method, splits)
    splits.write(folder / "splits.parquet")
    study = build_study(cfg, corpus, splits, Store(cfg["store"], note), folder)

    stage("Original and retrained model")
    original = study.original()
    retrained = [study.retrained(number) for number in range(_references(cfg))]
    stage("Unlearning", cfg["choices"]["method"])
    helpers = {name: study.helper(name, helper) for name, helper in method.helpers().items()}
    unlearned = study.unlearned(method, cfg["method"], original, helpers)
    _copy(unlearned.folder, folder)

    stage("Evaluation")
    started = time.monotonic()
    measured = assess(study, original, retrained, unlearned, cfg["evaluation"], folder)
    per_request = {name: helper.per_request for name, helper in method.helpers().items()}
    return {
        "splits": splits.sizes(),
        **measured,
        "membership": {},
        "seconds": seconds(original, retrained, helpers, unlearned)
        | {"evaluate": time.monotonic() - started, "attack": 0.0},
        "cost": cost(helpers, per_request, unlearned, moves=method.moves),
        "environment": environment(cfg),
    }


def load_corpus(cfg: Mapping) -> Corpus:
    """The data set of the config, without the keys that the splits take."""
    disable_progress_bars()
    options = {name: value for name, value in cfg["data"].items() if name not in ("limit", "reserve", "group")}
    return config.build({"data": options}, "data")


def load_new(cfg: Mapping) -> Corpus | None:
    """D_n and holdout from a file of their own (``new.path``: a data folder, or one file of its formats)."""
    path = cfg["new"]["path"]
    if path is None:
        return None
    from kga.data.folder import load_file

    return load_file(cfg["task"]["name"], path)


def data_fingerprint(corpus: Corpus, cfg: Mapping) -> str:
    """Digest of everything read from files that the config names only by path: what decides the splits included."""
    from kga.data.corpus import column

    deciding = ("id", "content", cfg["data"]["group"], cfg["forget"].get("column"))
    parts = [
        strings_digest(map(str, column(table, name).to_pylist()))
        for table in corpus.splits.values() for name in deciding if name in table.column_names
    ]  # fmt: skip
    for path in (cfg["original"]["path"], cfg["new"]["path"], cfg["forget"].get("path"), cfg["model"].get("name")):
        found = Path(path).expanduser() if path else None
        if found is not None and found.is_dir():
            parts.append(folder_digest(found))
        elif found is not None and found.is_file():
            parts.append(file_digest(found))
    return strings_digest(parts)


def read_result(folder: Path) -> dict | None:
    """The result of a completed run, or None."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    return result if result.get("status") == "completed" and (folder / "model").is_dir() else None


def texts(cfg: Mapping, folder: Path) -> dict[str, str] | None:
    """Texts of the evaluated examples by id, where the report may show them."""
    wanted = cfg["report"]["texts"]
    if not (cfg["choices"]["data"] == "embedded" if wanted is None else wanted):
        return None
    import pandas as pd

    from kga.data.corpus import FIELDS

    ids = set(pd.read_parquet(folder / "examples.parquet", columns=["id"])["id"])
    name = FIELDS[cfg["task"]["name"]][0]
    tables = load_corpus(cfg).splits.values()
    return {id: text for table in tables for id, text in zip(table["id"], table[name], strict=True) if id in ids}


def _references(cfg: Mapping) -> int:
    """How many retrained models are needed: A_R and further ones for the noise floor."""
    return 1 + cfg["evaluation"]["noise_floor"] if cfg["reference"] == "retrain" else 0


def seconds(original, retrained, helpers, unlearned) -> dict[str, float]:
    """What making each model cost, also when it was reused."""
    return {
        "original": original.seconds,
        "retrain": retrained[0].seconds if retrained else 0.0,
        "helpers": sum(helper.seconds for helper in helpers.values()),
        "cache": unlearned.meta.get("cache_seconds", 0.0),
        "unlearn": 0.0 if unlearned.key == original.key else unlearned.seconds,
    }


def cost(helpers, per_request: Mapping[str, bool], unlearned, moves: bool) -> dict[str, float]:
    """One-off and per-request seconds, peak memory of unlearning, and what is stored for it."""
    request = sum(helper.seconds for name, helper in helpers.items() if per_request[name])
    one_off = sum(helper.seconds for name, helper in helpers.items() if not per_request[name])
    return {
        "one_off_seconds": one_off,
        "request_seconds": request + (unlearned.seconds + unlearned.meta.get("cache_seconds", 0.0) if moves else 0.0),
        "peak_memory_bytes": unlearned.meta.get("peak_memory_bytes"),
        "stored_bytes": sum(helper.bytes for helper in helpers.values()) + unlearned.meta.get("cache_bytes", 0),
    }


def _copy(model: Path, folder: Path) -> None:
    """Puts the unlearned model (and its history of updates) beside the result."""
    aside = folder / "model.new"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(model, aside, ignore=shutil.ignore_patterns("manifest.json", "updates.csv", "epoch_ends"))
    shutil.rmtree(folder / "model", ignore_errors=True)
    os.replace(aside, folder / "model")
    if (model / "updates.csv").is_file():
        shutil.copy(model / "updates.csv", folder / "updates.csv")


def _write(path: Path, result: Mapping) -> dict:
    """Writes strict JSON by rename; returns what a reader of the file gets."""
    strict = _strict(result)
    aside = path.with_suffix(f".{os.getpid()}.new")
    aside.write_text(json.dumps(strict, indent=1, allow_nan=False))
    os.replace(aside, path)
    return strict


def _strict(value: object) -> object:
    """JSON has no NaN and no infinity: null. Anything it does not know, such as a path, is written as text."""
    if isinstance(value, Mapping):
        return {str(name): _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
