"""The pipeline of one run, on one page: data -> splits -> models -> unlearn -> evaluate -> result.json."""

import time
from collections.abc import Mapping
from pathlib import Path

from kga import config
from kga.console import note, stage
from kga.data.corpus import Corpus
from kga.data.splits import Splits, make_splits
from kga.hashing import SCHEMA
from kga.inputs import data_fingerprint, load_corpus, load_new
from kga.runs import alone, finished_result, keep_model, recorded, run_folder
from kga.store import Store


def run(cfg: Mapping) -> tuple[dict, Path]:
    """Runs one study of a resolved config; returns its result and its folder. A finished one is only read.

    cfg: the config tree as plain values, with ``choices`` (names of the chosen groups). UserError for mistakes.
    """
    for name in ("output", "store"):
        config.require_writable(name, Path(cfg[name]))
    task, method = cfg["task"]["name"], cfg["choices"]["method"]
    stage("Data", f"{cfg['choices']['data']}, request: forget={cfg['choices']['forget']}")
    corpus = load_corpus(cfg)
    for text in corpus.notes:
        note(text)
    key = config.run_key(cfg, data_fingerprint(corpus, cfg))
    folder = run_folder(cfg["output"], task, method, key)
    with alone(folder):
        finished = finished_result(folder)
        if finished is not None:
            note("this run is finished already: its result is shown, nothing is run again")
            return finished, folder
        result = {"schema": SCHEMA, "status": None, "error": None, "task": task, "data": corpus.name,
                  "model": cfg["choices"]["model"], "method": method, "seed": cfg["seed"],
                  "config": dict(cfg), "key": key}  # fmt: skip
        with recorded(folder, result):
            result |= _study(cfg, corpus, folder)
        return finished_result(folder), folder


def _study(cfg: Mapping, corpus: Corpus, folder: Path) -> dict:
    """Everything that takes time; torch is first imported here."""
    from kga.assess import assess
    from kga.build import build_method, build_study, close, environment, require_inputs
    from kga.cost import cost, seconds

    method = build_method(cfg)
    splits = _splits(cfg, corpus)
    require_inputs(cfg, method, splits)
    splits.write(folder / "splits.parquet")
    study = build_study(cfg, corpus, splits, Store(cfg["store"], note), folder)
    method.require(study)
    if study.cut["train"]["examples"]:
        note(
            "cut at the length limits (model.max_length, task.*): {examples} of {of} in D".format(**study.cut["train"])
        )

    stage("Original and retrained model")
    original = study.original()
    references = 1 + cfg["evaluation"]["noise_floor"] if cfg["reference"] == "retrain" else 0
    retrained = [study.retrained(number) for number in range(references)]

    stage("Unlearning", cfg["choices"]["method"])
    declared = method.helpers()
    helpers = {name: study.helper(name, helper) for name, helper in declared.items()}
    statistics = {name: study.statistic(name, statistic) for name, statistic in method.statistics().items()}
    unlearned = study.unlearned(method, cfg["method"], original, helpers, statistics)
    keep_model(unlearned.folder, folder)
    close(study.loggers)

    stage("Evaluation")
    started = time.monotonic()
    shown = config.shows_texts(cfg)
    measured = assess(study, original, retrained, unlearned, cfg["evaluation"], folder, texts=shown)
    spent = seconds(original, retrained, helpers, statistics, unlearned)
    return {
        "splits": splits.sizes(),
        "cut": study.cut,
        **measured,
        "membership": {},
        "unlearning": unlearned.meta.get("unlearning", {}),
        "seconds": spent | {"evaluate": time.monotonic() - started, "attack": 0.0},
        "cost": cost(helpers, declared, statistics, unlearned, moves=method.moves),
        "environment": environment(cfg),
    }


def _splits(cfg: Mapping, corpus: Corpus) -> Splits:
    """Cuts the data for the request, and tells the sizes."""
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
    return splits
