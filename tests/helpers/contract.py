"""What every method has to keep, as checks that a broken method fails. Run over every YAML in tests/methods/test_contract.py."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from helpers import tiny
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional as F

from kga import config
from kga.data.encoded import Examples
from kga.methods.base import Method, Statistic
from kga.objective import Batch, Update, backpropagate
from kga.paths import config_dir
from kga.tasks.base import TaskModule
from kga.unlearning import unlearn

HARDWARE = {
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32-true",
    "deterministic": "warn",
    "checkpoint_minutes": None,
}
UPDATES = 4
WIDTH = 64  # positions: more than any sequence of ``tiny`` has

# How the models of each world are made, by its name: a task, then what sets the world apart.
WORLDS: dict[str, Callable[..., TaskModule]] = {
    "classification": tiny.classifier,
    "translation": tiny.translator,
    "translation-lstm": partial(tiny.translator, architecture="kga_lstm"),
    "response": tiny.responder,
    "response-decoder_only": partial(tiny.responder, architecture="gpt2"),
}


@dataclass
class World:
    """A tiny task with its sets and frozen models, shared by all contract tests; ``make`` builds its models."""

    sets: dict[str, Examples]
    models: dict[str, TaskModule]
    make: Callable[..., TaskModule]

    @property
    def sequences(self) -> bool:
        """Whether an example has several positions, as many as its text is long."""
        return self.models["original"].name != "classification"

    def student(self, dropout: float = 0.0) -> TaskModule:
        student = self.make(seed=0, dropout=dropout)
        student.model.load_state_dict(self.models["original"].model.state_dict())
        return student

    def moved_student(self) -> TaskModule:
        """A student some updates later: no term of a loss is at its minimum there."""
        return _disturbed(self.student(), 77, 0.05)

    def opinionated(self, seed: int) -> TaskModule:
        """A model with weights large enough that its predictions differ from text to text and from seed to seed."""
        return _disturbed(self.make(seed=seed), seed, 0.4)

    def statistic(self, wanted: Statistic) -> dict[str, torch.Tensor]:
        """What a method computes once from A_D, here from the world's original."""
        ends = [_disturbed(self.student(), 78, 0.02), self.student()]
        models = ends if wanted.weights == "epoch_ends" else ends[1:]
        return wanted.compute([model.eval() for model in models], self.sets[wanted.split])

    def frozen(self, names) -> dict[str, TaskModule]:
        return {name: copy.deepcopy(self.models[name]) for name in names}


def _disturbed(task: TaskModule, seed: int, scale: float) -> TaskModule:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in task.model.parameters():
            if parameter.requires_grad:  # not the sines and cosines of positions
                parameter += scale * torch.randn(parameter.shape, generator=generator)
    return task


@cache
def world(name: str) -> World:
    """Forget, new and retain sets, and models that differ: weights drawn from other seeds stand in for training."""
    task = WORLDS[name](seed=0)
    everything = tiny.examples(96, seed=1, task=task)
    parts = {"forget": range(16), "new": range(16, 32), "retain": range(32, 96)}
    parts["train"] = [*parts["forget"], *parts["retain"]]
    sets = {name: everything.take(np.array(rows)) for name, rows in parts.items()}
    world = World(sets, {"original": task}, WORLDS[name])
    for seed, helper in enumerate(("forget_helper", "new_helper"), start=1):
        world.models[helper] = world.opinionated(seed)
    return world


# Methods at work ----------------------------------------------------------------------------------------------------


def builder(method: str, task: str = "classification", *overrides: str) -> Callable[[], Method]:
    """Makes the method of a YAML anew, with the defaults of a task."""
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", overrides=[f"method={method}", f"task={task}", *overrides])
    settings = OmegaConf.to_container(cfg.method, resolve=True)
    return lambda: instantiate(settings, _convert_="all")


def attached(build: Callable[[], Method], world: World, **optim) -> Method:
    """A fresh method with its sets and frozen models, set to few updates of 8 examples."""
    method = build()
    method.optim = replace(method.optim, **({"updates": UPDATES, "batch_size": 8, "epochs": 100, "warmup": 0,
                                             "lr": 1e-3, "schedule_stretch": 1} | optim))  # fmt: skip
    if hasattr(method, "stop_at"):  # models of random weights guess worse than blindly; stopping has tests of its own
        method.stop_at = None
    if hasattr(method, "perturbations"):  # as many as a real choice of units needs would take minutes
        method.perturbations = 40
    for name in method.helpers():
        world.models.setdefault(name, world.opinionated(3))
    statistics = {name: world.statistic(wanted) for name, wanted in method.statistics().items()}
    sets = {name: world.sets[name] for name in method.splits}  # no more than a study gives it
    return method.attach(world.frozen(method.frozen_models), sets, statistics)


def ready(method: Method, student: TaskModule) -> Update:
    """The first update of an attached method, prepared for with a student whose dropout is off."""
    student.eval()
    with torch.no_grad():
        method.prepare(student, UPDATES)
    student.model.eval()
    return list(next(iter(method.stream(seed=0))))


def sets_of(update: Update) -> tuple[Batch, Batch | None, list[Batch]]:
    """The batch of D_f, the batch of D_n (None where none was drawn) and the batches of D_r of an update."""
    forget = next(step["forget"] for step in update if "forget" in step)
    new = next((step["new"] for step in update if "new" in step), None)
    return forget, new, [step["retain"] for step in update if "retain" in step]


@dataclass
class Outcome:
    method: Method
    student: TaskModule
    before: dict[str, torch.Tensor]
    frozen_before: dict[str, dict[str, torch.Tensor]]
    frozen: dict[str, TaskModule]
    optimized: set[int]

    def state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.student.model.state_dict().items()}


def run(
    build: Callable[[], Method], world: World, work: Path, *, seed: int = 0, dropout: float = 0.0,
    callbacks: Mapping = (), **optim,
) -> Outcome:  # fmt: skip
    """One short fit of a method, as the study runs it."""
    method = attached(build, world, **optim)
    student = world.student(dropout)
    watch = _Watch()
    frozen = {name: model.module for name, model in method.frozen.items()}
    frozen_before = {name: _state(module) for name, module in frozen.items()}
    before = _state(student)
    unlearn(method, student, hardware=HARDWARE, seed=seed, work=work, callbacks=[watch, *callbacks])
    return Outcome(method, student, before, frozen_before, frozen, watch.optimized)


class _Watch(pl.Callback):
    optimized: set[int] = set()  # noqa: RUF012

    def on_train_start(self, trainer, pl_module) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self.optimized = {parameter.data_ptr() for group in groups for parameter in group["params"]}


def _state(module: TaskModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.model.state_dict().items()}


# The contracts: each raises AssertionError when a method breaks it ------------------------------------------------


def moves_as_declared(outcome: Outcome) -> None:
    moved = any(not torch.equal(value, outcome.before[name]) for name, value in outcome.state().items())
    assert moved == outcome.method.moves, f"declares moves={outcome.method.moves}, moved: {moved}"


def frozen_models_stay(outcome: Outcome) -> None:
    student = {parameter.untyped_storage().data_ptr() for parameter in outcome.student.parameters()}
    for name, module in outcome.frozen.items():
        for key, value in module.model.state_dict().items():
            assert torch.equal(value, outcome.frozen_before[name][key]), f"{name} moved"
        assert not any(part.training for part in module.modules()), f"{name} is in train mode"
        assert not any(parameter.requires_grad for parameter in module.parameters()), f"{name} takes gradients"
        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        assert not own & student, f"{name} shares storage with the student"
        assert not {p.data_ptr() for p in module.parameters()} & outcome.optimized, f"{name} is in the optimiser"


def stays_finite(outcome: Outcome) -> None:
    if not outcome.method.edits:
        assert len(outcome.method.history) == UPDATES, "not every update was recorded"
    assert all(np.isfinite(row["loss"]) for row in outcome.method.history), "a loss is not finite"
    assert all(torch.isfinite(value).all() for value in outcome.state().values()), "a weight is not finite"


def counts_padding(method: Method, world: World) -> bool:
    """Whether a method is meant to count padded positions: in the released view of sequences, and only there."""
    return method.view == "released" and world.sequences


def ignores_padding(build: Callable[[], Method], world: World) -> None:
    """The loss of an update is the same when its batches are padded further."""
    losses = []
    for extra in (0, 5):
        _, loss = loss_and_gradient(attached(build, world), world, extra=extra)
        losses.append(loss)
    assert abs(losses[0] - losses[1]) <= 1e-5 * max(1.0, abs(losses[0])), f"padding changes the loss: {losses}"


def splits_evenly(build: Callable[[], Method], world: World) -> None:
    """One batch of 16 gives the gradient of two accumulated ones of 8.

    Where padding counts, all batches are padded to one length, or the parts would have fewer positions than the whole.
    """
    width = WIDTH if counts_padding(build(), world) else None
    whole, loss = loss_and_gradient(attached(build, world, batch_size=16), world, width=width)
    halves, other = loss_and_gradient(attached(build, world, batch_size=16, micro_batch_size=8), world, width=width)
    assert abs(loss - other) <= 1e-5 * max(1.0, abs(loss)), f"micro-batches change the loss: {loss}, {other}"
    for name, value in whole.items():
        scale = 1e-6 * max(1.0, float(value.abs().max()))
        torch.testing.assert_close(halves[name], value, rtol=1e-4, atol=scale, msg=f"gradient of {name} differs")


def repeats(build: Callable[[], Method], world: World, work: Path) -> Outcome:
    """Same seed, same weights bit for bit (with dropout); seed 0 is a seed, and not seed 1. Returns the run of seed 0."""
    outcomes = [run(build, world, work / str(number), seed=seed, dropout=0.2) for number, seed in enumerate((0, 0, 1))]
    first, again, other = (outcome.state() for outcome in outcomes)
    assert all(torch.equal(first[name], again[name]) for name in first), "the same seed gave other weights"
    assert any(not torch.equal(first[name], other[name]) for name in first), "seed 1 gave the weights of seed 0"
    return outcomes[0]


class _Crash(pl.Callback):
    """Ends the process of training in the middle, after a checkpoint was written."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == UPDATES // 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "crash.ckpt")
            raise KeyboardCrash


class KeyboardCrash(Exception):
    """Stands for whatever ends a run."""


def resumes(build: Callable[[], Method], world: World, work: Path, whole: Outcome | None = None) -> None:
    """A run that crashed and went on ends with the weights and the history of one that did not (``whole``)."""
    whole = whole or run(build, world, work / "whole", dropout=0.2)
    try:
        run(build, world, work / "cut", dropout=0.2, callbacks=[_Crash()])
    except KeyboardCrash:
        resumed = run(build, world, work / "cut", dropout=0.2)
    assert resumed.method.history == whole.method.history, "the history differs after resuming"
    for name, value in whole.state().items():
        assert torch.equal(resumed.state()[name], value), f"{name} differs after resuming"


def reloads(outcome: Outcome, world: World, work: Path) -> None:
    """The saved unlearned model predicts the same."""
    outcome.student.save(work / "model")
    outcome.student.eval()
    loaded = type(outcome.student).load(work / "model").eval()
    batch = world.sets["forget"].batch(np.arange(8))
    with torch.no_grad():
        assert torch.equal(loaded.predict(batch).log_probs, outcome.student.predict(batch).log_probs)


def loss_and_gradient(
    method: Method, world: World, extra: int = 0, width: int | None = None
) -> tuple[dict[str, torch.Tensor], float]:
    """Gradient and loss of the first update, dropout off, outside any Trainer; batches padded as ``pad`` says."""
    student = world.moved_student()
    update = [
        {name: pad(batch, student, extra, width) for name, batch in step.items()} for step in ready(method, student)
    ]
    _, loss = backpropagate(method, student, update, torch.Tensor.backward)
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}, loss


def pad(batch: Batch, task: TaskModule, extra: int = 0, width: int | None = None) -> Batch:
    """The batch with ``extra`` more padded positions at the end of all sequences, or padded to ``width`` positions."""
    padding = {"input_ids": task.tokenizer.pad_token_id, "attention_mask": 0}
    if task.name != "classification":
        padding["labels"] = -100
    padded = dict(batch)
    for name, value in padding.items():
        more = extra if width is None else width - batch[name].shape[1]
        padded[name] = F.pad(batch[name], (0, more), value=value)
    if "decoder_input_ids" in batch:  # the library's own shift, which makes padding of -100
        padded["decoder_input_ids"] = task.model.prepare_decoder_input_ids_from_labels(padded["labels"])
    return padded


class PaddedExamples(Examples):
    """Examples whose batches all have five padded positions more than they need."""

    def batch(self, positions: np.ndarray) -> Batch:
        return pad(super().batch(positions), self.task, extra=5)


def padded_sets(world: World) -> dict[str, Examples]:
    """The world's sets with batches padded further."""
    return {name: PaddedExamples(view.table, view.rows, view.task) for name, view in world.sets.items()}
