"""What the runs of a sweep will have to train, and about how long that takes."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kga import ledger
from kga.errors import UserError
from kga.mistakes import explain

if TYPE_CHECKING:
    from kga.sweeps.sweep import Job

UNKNOWN = "how long that takes is not known"
PROBED = 20  # updates that are made to time some where nothing is known
PATIENCE = 10.0  # seconds after which no more are made, once some count
START = 5.0  # seconds of a run besides its models: imports, reading, writing
FORWARD = 1 / 3  # what an example costs in evaluation, beside what it costs in training
NAMES = {"original": "A_D", "retrained": "A_R", "unlearned": "A*", "sisa": "SISA"}


@dataclass(frozen=True)
class Model:
    """A model that a run needs. name: digest of what decides it; units: examples times passes of its training.

    parts: what it consists of, where that is more than one model.
    """

    kind: str
    title: str
    units: float
    name: str = ""
    there: bool = False
    seconds: float | None = None
    parts: str = ""

    @property
    def short(self) -> str:
        """What it is called in a list."""
        if self.title.startswith(ledger.HALF):
            return "models of halves of D"
        if ": " in self.title:
            return "shadow models" if self.kind == "original" else "models beside shadow models"
        if self.parts:
            return f"{NAMES[self.kind]} ({self.parts})"
        return NAMES.get(self.kind) or self.title.split(" on ")[0]


def lines(jobs: Sequence[Job], workers: int, probe: bool = True) -> list[str]:
    """The plan of the runs that are to be made, in lines. workers: runs at a time; probe: whether updates may be timed."""
    models_of = {job.number: found for job in jobs if (found := _possible(job)) is not None}
    jobs = [job for job in jobs if job.number in models_of]
    if not jobs:
        return []
    models = {model.name: model for found in models_of.values() for model in found}.values()
    missing, there = ([model for model in models if model.there is found] for found in (False, True))
    told = [f"to train: {_counted(missing)}" + (f"; in the store already: {_counted(there)}" if there else "")]
    rate = next((found for job in jobs if (found := job.ledger.rate())), None)
    how = "by what such models took before"
    if rate is None and not probe:
        return [*told, f"{UNKNOWN}: nothing like it is in the store yet"]
    if rate is None:
        try:
            rate, counted = timed(jobs[0].cfg)
        except Exception as error:  # the run will tell it, and others may be as they should
            return [*told, f"{UNKNOWN}: updates can't be timed here ({brief(error)})"]
        how = f"by {counted} updates timed here"
    alone = [
        sum(_seconds(model, rate) for model in models_of[job.number] if not model.there) + _rest(job, rate)
        for job in jobs
    ]
    shared = sum(_seconds(model, rate) for model in missing) + sum(_rest(job, rate) for job in jobs)
    workers = min(workers, len(jobs))
    seconds = max(shared / workers, max(alone))
    at_once = f" with {workers} runs at a time" if workers > 1 else ""
    return [*told, f"time: about {_duration(seconds)}{at_once}, {how}"]


def _possible(job: Job) -> list[Model] | None:
    """What a run needs; None where its method or attacks can't be made, which it will tell itself."""
    try:
        return list(needed(job))
    except Exception:
        return None


def needed(job: Job) -> Iterator[Model]:
    """Every model that a run trains or finds."""
    for model in _needed(job.cfg, job.sizes):
        book = job.ledger
        yield replace(
            model, name=book.name(model.kind, model.title), there=book.has(model.kind, model.title),
            seconds=book.seconds(model.kind, model.title),
        )  # fmt: skip


def _needed(cfg: Mapping, sizes: Mapping[str, int]) -> Iterator[Model]:
    from kga.audit import REFERENCE, build_attacks
    from kga.build import build_method

    whole = _examples(cfg, sizes) * cfg["optim"]["epochs"]
    method, attacks = build_method(cfg), build_attacks(cfg).values()
    if cfg["original"]["path"] is None:
        yield Model("original", ledger.ORIGINAL, whole)
    if cfg["forget"].get("by") == "memorisation":
        halves = cfg["forget"]["shadows"]
        yield from (
            Model("original", f"{ledger.HALF}{i + 1} of {halves}: {ledger.ORIGINAL}", whole / 2) for i in range(halves)
        )
    retrained = set(range(1 + cfg["evaluation"]["noise_floor"])) if cfg["reference"] == "retrain" else set()
    if retrained and any(getattr(attack, "reference", False) for attack in attacks):
        retrained.add(REFERENCE)
    retrained |= {0} if cfg["choices"]["method"] == "retrain" else set()
    yield from (Model("retrained", ledger.retrained(number), whole) for number in sorted(retrained))
    own = list(_of_method(cfg, method, whole))
    yield from own
    if any(getattr(attack, "shadows", False) for attack in attacks):
        worlds = cfg["attack"]["shadows"]
        again = own if any(getattr(attack, "unlearned", False) for attack in attacks) else []
        for label in (f"shadow {i + 1} of {worlds}: " for i in range(worlds)):
            yield Model("original", label + ledger.ORIGINAL, whole)
            yield from (Model(model.kind, label + model.title, model.units) for model in again)


def _of_method(cfg: Mapping, method, whole: float) -> Iterator[Model]:
    """What a method trains: its helpers, and A*."""
    if method.start == "initial":
        if cfg["choices"]["method"] != "retrain":
            parts = f"{method.shards} shards x {method.slices} slices" if hasattr(method, "shards") else ""
            yield Model("sisa", "A* of SISA", 2 * whole, parts=parts)
        return
    forgotten = _forgotten(cfg, whole / cfg["optim"]["epochs"])
    for name, helper in method.helpers().items():
        if helper.split is not None:
            epochs = helper.optim.get("epochs", cfg["optim"]["epochs"])
            yield Model("helpers", ledger.HELPERS.get(helper.split, name), epochs * forgotten)
    if method.moves:
        optim = method.optim
        updates = 0 if method.edits else optim.updates or optim.epochs * forgotten / optim.batch_size
        batches = 1 + getattr(method, "retain_batches", 1)
        yield Model("unlearned", ledger.UNLEARNED, updates * batches * optim.batch_size)


def _examples(cfg: Mapping, sizes: Mapping[str, int]) -> float:
    """About how many examples D has."""
    kept = sizes["train"] * (1 - cfg["data"]["reserve"])
    return min(kept, cfg["data"]["limit"] or kept)


def _forgotten(cfg: Mapping, of: float) -> float:
    """About how many examples are forgotten; a twentieth where the request does not say."""
    size = cfg["forget"].get("size")
    if not isinstance(size, int | float):
        return of / 20
    return size if size >= 1 else size * of


def _rest(job: Job, rate: float) -> float:
    """Seconds of a run besides its models: of its start, and of evaluating three models on test, D_f and the sample of D_r."""
    limit = job.cfg["evaluation"]["retain_limit"]
    examples = _examples(job.cfg, job.sizes)
    evaluated = job.sizes["test"] + _forgotten(job.cfg, examples) + min(limit or examples, examples)
    return START + 3 * FORWARD * rate * evaluated


def _seconds(model: Model, rate: float) -> float:
    return rate * model.units if model.seconds is None else model.seconds


def _counted(models: Sequence[Model]) -> str:
    """'3 A_D, 18 A* (21 models)'."""
    counts = Counter(model.short for model in models)
    parts = [f"{count} {name}" for name, count in counts.items()]
    return ", ".join(parts) + (f" ({len(models)} models)" if len(parts) > 1 else "") if parts else "nothing"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, seconds):.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def brief(error: Exception) -> str:
    """Why something can't be done, in a few words."""
    first = " ".join((explain(error) or str(error) or type(error).__name__).split())
    return first if len(first) <= 80 else f"{first[:79]}…"


def timed(cfg: Mapping) -> tuple[float, int]:
    """Seconds that an example takes in a pass of training, by so many updates of A_D on this machine."""
    from kga.build import build_study
    from kga.data.batching import supervised
    from kga.data.splits import Split, Splits
    from kga.inputs import cut_off, load_corpus
    from kga.progress import Pace
    from kga.store import Store
    from kga.training import fit

    if cfg["trainer"].get("strategy") == "fsdp":
        raise UserError("trainer.strategy=fsdp: the model may be too large for one process")
    corpus = load_corpus(cfg)
    train = {"train": Split("train", cut_off(cfg, corpus)[0])}
    own = {**cfg, "original": {"path": None}}
    with tempfile.TemporaryDirectory() as folder:
        study = build_study(own, corpus, Splits(train, corpus.splits, ()), Store(cfg["store"]))
        optim = replace(study.optim, updates=PROBED, patience=None)
        module, _ = study.planned(study.splits["train"], optim=optim)
        updates = supervised(study.view(study.splits["train"]), optim, cfg["seed"])
        hardware = {**cfg["trainer"], "compile": False, "devices": 1, "num_nodes": 1, "strategy": "auto"}
        pace = Pace(PATIENCE)
        fit(module, updates, optim=optim, hardware=hardware, seed=cfg["seed"], work=Path(folder), description="Timing",
            callbacks=[pace])  # fmt: skip
    return pace.seconds / optim.batch_size, len(pace.counted)
