"""The three ways to unlearn that are compared, each as one call that measures itself."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytorch_lightning as pl

from benchmarks.measure import Stopwatch
from benchmarks.plain import Batch, Plain, pairs_batch, texts_batch
from benchmarks.student import Student
from benchmarks.worlds import World
from kga.methods.kga import KGA
from kga.optim import Optim
from kga.tasks.base import TaskModule
from kga.tasks.classification import Classification
from kga.unlearning import unlearn

BATCH = 32
DRAWN = 1 + KGA().retain_batches  # batches of D_f and D_r of an update
Within = Callable[[], AbstractContextManager]


class Clock(pl.Callback):
    """Measures from the first update's start to the last one's end, inside a context of its own."""

    def __init__(self, updates: int, within: Within) -> None:
        self.updates, self.within, self.watch = updates, within(), Stopwatch()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.within.__enter__()
        self.watch.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: object) -> None:
        if trainer.global_step == self.updates:
            self.watch.stop()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.within.__exit__(None, None, None)


def method(updates: int, tokens: int | None = None, **options: object) -> KGA:
    """KGA at its defaults but for the number of updates; tokens: of a micro-batch."""
    optim = Optim(epochs=1000, updates=updates, batch_size=BATCH, lr=1e-5)
    return KGA(optim=replace(optim, micro_batch_tokens=tokens) if tokens else optim, **options)


def attached(world: World, student: TaskModule, updates: int, seed: int, **options: object) -> KGA:
    """The method with its models and sets: D_f is passed once, D_r twice, so that it is worth being cached."""
    sizes = {"forget": updates * BATCH, "new": updates * BATCH, "retain": (DRAWN - 1) * updates * BATCH // 2}
    sets = {name: world.examples(size, seed + n, student) for n, (name, size) in enumerate(sizes.items(), start=1)}
    frozen = {name: world.module(number) for number, name in enumerate(("original", "forget_helper", "new_helper"))}
    return method(updates, **options).attach(frozen, sets)


def fitted(
    student: TaskModule, ready: KGA, precision: str, seed: int, within: Within = nullcontext
) -> dict[str, float]:
    """Unlearns as kga does. seconds: of the updates; fit_seconds: also of the checkpoint at each epoch's end."""
    clock = Clock(ready.optim.updates, within)
    with tempfile.TemporaryDirectory() as folder:
        hardware = {"accelerator": "cpu", "precision": precision}
        done = unlearn(ready, student, hardware=hardware, seed=seed, work=Path(folder), callbacks=[clock])
    seconds = clock.watch.measured() | {"fit_seconds": done["seconds"], "cache_seconds": ready.cache_seconds}
    return seconds | {"examples": ready.optim.updates * DRAWN * BATCH}


def kga(
    world: World, precision: str, updates: int, seed: int = 0, tokens: int | None = None, within: Within = nullcontext
) -> dict[str, float]:
    """The real thing: Lightning's fit, frozen models cached before the clock starts."""
    student = world.module(0)
    return fitted(student, attached(world, student, updates, seed, tokens=tokens), precision, seed, within)


def student(world: World, precision: str, updates: int, seed: int = 0) -> dict[str, float]:
    """The lower bound, on the very batches that ``kga`` draws with this seed."""
    module = world.module(0)
    stream = attached(world, module, updates, seed).stream(seed)
    drawn = [[batch for step in update for batch in step.values()] for update in islice(stream, updates)]
    return Student(module.model, precision).run(drawn) | {"examples": updates * DRAWN * BATCH}


def plain(world: World, updates: int, seed: int = 0, within: Within = nullcontext) -> dict[str, float]:
    """The published loop, on as many batches of random order and fixed length."""
    loop = Plain(*(world.model(number) for number in range(3)), student=world.model(0))
    batches = [fixed(world, seed * 1000 + number) for number in range(updates * (DRAWN + 1))]
    watch = Stopwatch()
    with within():
        watch.start()
        for first in range(0, len(batches), DRAWN + 1):
            forget, new, *retain = batches[first : first + DRAWN + 1]
            loop.update(forget, new, retain)
        watch.stop()
    return watch.measured() | {"examples": updates * DRAWN * BATCH}


def fixed(world: World, seed: int) -> Batch:
    """A batch of random texts of a world, as ``Plain`` takes it."""
    return collated(world, world.table(BATCH, seed)[:])


def collated(world: World, rows: dict[str, Sequence]) -> Batch:
    """Encoded rows padded to the world's cap."""
    if world.task is Classification:
        return texts_batch(rows, world.cap)
    return pairs_batch(rows, world.cap, world.settings().decoder_start_token_id)


def scaling(world: World, precision: str, updates: int, retained: int, seed: int = 0) -> dict[str, float]:
    """``kga`` with ``retained`` examples in D_r, of which always as many are drawn from; D_f and D_n stay as they are."""
    module, sample = world.module(0), (DRAWN - 1) * updates * BATCH // 2
    sets = {name: world.examples(updates * BATCH, seed + n, module) for n, name in enumerate(("forget", "new"))}
    sets["retain"] = world.examples(retained, seed + 2, module)
    frozen = {name: world.module(number) for number, name in enumerate(("original", "forget_helper", "new_helper"))}
    ready = method(updates, retain_sample=min(1.0, sample / retained)).attach(frozen, sets)
    return fitted(module, ready, precision, seed)
