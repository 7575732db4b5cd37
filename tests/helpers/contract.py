"""What every method has to keep, as checks that a broken method fails. Run over every YAML in tests/methods/test_contract.py."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from helpers import tiny

from kga.data.encoded import Examples
from kga.methods.base import Method
from kga.objective import backpropagate
from kga.tasks.base import TaskModule
from kga.training import fit

HARDWARE = {
    "accelerator": "cpu",
    "devices": 1,
    "precision": "32-true",
    "deterministic": "warn",
    "checkpoint_minutes": None,
}
UPDATES = 4


@dataclass
class World:
    """A tiny task with its sets and frozen models, shared by all contract tests of a task."""

    sets: dict[str, Examples]
    models: dict[str, TaskModule]

    def student(self, dropout: float = 0.0) -> TaskModule:
        student = tiny.classifier(seed=0, dropout=dropout)
        student.model.load_state_dict(self.models["original"].model.state_dict())
        return student

    def moved_student(self) -> TaskModule:
        """A student some updates later: no term of a loss is at its minimum there."""
        student = self.student()
        generator = torch.Generator().manual_seed(77)
        with torch.no_grad():
            for parameter in student.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return student

    def frozen(self, names) -> dict[str, TaskModule]:
        return {name: copy.deepcopy(self.models[name]) for name in names}


def classification_world() -> World:
    """Forget, new and retain sets, and models that differ: weights drawn from other seeds stand in for training."""
    task = tiny.classifier(seed=0)
    everything = tiny.examples(96, seed=1, task=task)
    parts = {"forget": range(16), "new": range(16, 32), "retain": range(32, 96)}
    sets = {name: everything.take(np.array(rows)) for name, rows in parts.items()}
    models = {"original": task}
    for seed, name in enumerate(("forget_helper", "new_helper"), start=1):
        models[name] = opinionated(seed)
    return World(sets, models)


def opinionated(seed: int) -> TaskModule:
    """A classifier with weights large enough that its predictions differ from text to text and from seed to seed."""
    task = tiny.classifier(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter += 0.4 * torch.randn(parameter.shape, generator=generator)
    return task


def attached(build: Callable[[], Method], world: World, **optim) -> Method:
    """A fresh method with its sets and frozen models, set to few updates of 8 examples."""
    method = build()
    method.optim = replace(method.optim, **({"updates": UPDATES, "batch_size": 8, "epochs": 100, "warmup": 0,
                                             "lr": 1e-3, "schedule_stretch": 1} | optim))  # fmt: skip
    for name in method.helpers():
        world.models.setdefault(name, opinionated(3))
    return method.attach(world.frozen(method.frozen_models), world.sets)


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
    fit(student, method.stream(seed), optim=method.optim, hardware=HARDWARE, seed=seed, work=work,
        description="contract", callbacks=[method, watch, *callbacks])  # fmt: skip
    return Outcome(method, student, before, frozen_before, frozen, watch.optimized)


class _Watch(pl.Callback):
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
    assert len(outcome.method.history) == UPDATES, "not every update was recorded"
    assert all(np.isfinite(row["loss"]) for row in outcome.method.history), "a loss is not finite"
    assert all(torch.isfinite(value).all() for value in outcome.state().values()), "a weight is not finite"


def ignores_padding(build: Callable[[], Method], world: World) -> None:
    """The loss of an update is the same when its batches are padded further."""
    losses = []
    for extra in (0, 5):
        _, loss = _loss_and_gradient(attached(build, world), world, padding=extra)
        losses.append(loss)
    assert abs(losses[0] - losses[1]) <= 1e-5 * max(1.0, abs(losses[0])), f"padding changes the loss: {losses}"


def splits_evenly(build: Callable[[], Method], world: World) -> None:
    """One batch of 16 gives the gradient of two accumulated ones of 8."""
    whole, loss = _loss_and_gradient(attached(build, world, batch_size=16), world)
    halves, other = _loss_and_gradient(attached(build, world, batch_size=16, micro_batch_size=8), world)
    assert abs(loss - other) <= 1e-5 * max(1.0, abs(loss)), f"micro-batches change the loss: {loss}, {other}"
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=1e-4, atol=1e-6, msg=f"gradient of {name} differs")


def repeats(build: Callable[[], Method], world: World, work: Path) -> None:
    """Same seed, same weights bit for bit (with dropout); seed 0 is a seed, and not seed 1."""
    first, again, other = (
        run(build, world, work / str(number), seed=seed, dropout=0.2).state() for number, seed in enumerate((0, 0, 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first), "the same seed gave other weights"
    assert any(not torch.equal(first[name], other[name]) for name in first), "seed 1 gave the weights of seed 0"


class _Crash(pl.Callback):
    """Ends the process of training in the middle, after a checkpoint was written."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == UPDATES // 2:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "crash.ckpt")
            raise KeyboardCrash


class KeyboardCrash(Exception):
    """Stands for whatever ends a run."""


def resumes(build: Callable[[], Method], world: World, work: Path) -> None:
    """A run that crashed and went on ends with the weights and the history of one that did not."""
    whole = run(build, world, work / "whole", dropout=0.2)
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


def _loss_and_gradient(method: Method, world: World, padding: int = 0) -> tuple[dict[str, torch.Tensor], float]:
    """Gradient and loss of the first update, dropout off, outside any Trainer."""
    student = world.moved_student().eval()
    with torch.no_grad():
        method.prepare(student, UPDATES)
    student.model.eval()
    update = next(iter(method.stream(seed=0)))
    for step in update:
        for name, batch in step.items():
            step[name] = pad(batch, padding)
    _, loss = backpropagate(method, student, update, torch.Tensor.backward)
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}, loss


def pad(batch: dict[str, torch.Tensor], extra: int) -> dict[str, torch.Tensor]:
    """The batch with ``extra`` more padded positions at the end."""
    padded = dict(batch)
    for name in ("input_ids", "attention_mask"):
        padded[name] = torch.nn.functional.pad(batch[name], (0, extra))
    return padded
