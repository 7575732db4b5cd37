"""The pipeline of one run, on one page: data -> splits -> models -> unlearn -> evaluate -> result.json."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kga import config, ranks
from kga.console import note, stage
from kga.data.corpus import Corpus
from kga.data.splits import Splits, make_splits
from kga.hashing import SCHEMA
from kga.inputs import data_fingerprint, load_corpus, load_new
from kga.loggers.tracking import Tracking
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
        with Tracking(cfg, key, folder) as tracking, recorded(folder, result):
            result |= _study(cfg, corpus, folder, tracking.loggers)
            tracking.conclude(result)
        return finished_result(folder), folder


def _study(cfg: Mapping, corpus: Corpus, folder: Path, loggers: Sequence) -> dict:
    """Everything that takes time; torch is first imported here."""
    from kga.assess import assess, named_models, write_examples
    from kga.audit import Audit, build_attacks
    from kga.build import build_method, build_study, environment, require_inputs
    from kga.cost import cost, seconds
    from kga.curves import of_run

    method, attacks, store = build_method(cfg), build_attacks(cfg), Store(cfg["store"], note)
    splits = _splits(cfg, corpus, lambda sets: build_study(cfg, corpus, sets, store))
    require_inputs(cfg, method, splits)
    ranks.from_main(lambda: splits.write(folder / "splits.parquet"))
    study = build_study(cfg, corpus, splits, store, loggers)
    method.require(study)
    audit = Audit(study, cfg, attacks, lambda: build_method(cfg))
    audit.require()
    if study.cut["train"]["examples"]:
        note(
            "cut at the length limits (model.max_length, task.*): {examples} of {of} in D".format(**study.cut["train"])
        )

    stage("Original and retrained model")
    original = study.original()
    references = 1 + cfg["evaluation"]["noise_floor"] if cfg["reference"] == "retrain" else 0
    retrained = [study.retrained(number) for number in range(references)]

    if audit:
        audit.require_disk()

    stage("Unlearning", cfg["choices"]["method"])
    made = study.forget(method, cfg["method"])
    keep_model(made.unlearned.folder, folder)

    stage("Evaluation")
    started = time.monotonic()
    models = named_models(original, retrained, made.unlearned)
    measured, table = assess(
        study, models, cfg["evaluation"], folder, config.shows_texts(cfg), audit.sets, config.forgotten_word(cfg)
    )
    evaluated = time.monotonic() - started
    spent, costs = seconds(original, retrained, made), cost(made, moves=method.moves)
    found, scores = audit.run(models, table, costs["request_seconds"])
    ranks.from_main(lambda: write_examples(table, scores, study, folder / "examples.parquet"))
    return {
        "splits": splits.sizes(),
        "cut": study.cut,
        **measured,
        **found,
        "curves": of_run(scores, made.unlearned.folder / "updates.csv"),
        "unlearning": made.unlearned.meta.get("unlearning", {}),
        "seconds": spent | {"evaluate": evaluated, "attack": audit.seconds},
        "cost": costs,
        "environment": environment(cfg),
    }


def _splits(cfg: Mapping, corpus: Corpus, make_study: Callable) -> Splits:
    """Cuts the data for the request, and tells the sizes."""
    from kga.difficulty import of_request

    request = config.build_request(cfg)
    of_request(request, corpus, cfg, make_study)
    splits = make_splits(
        corpus,
        request,
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
