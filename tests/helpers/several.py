"""What ranks run in tests: here, and not in a test module, because started processes import it by name."""

import os
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from helpers import contract, tiny
from helpers.contract import HARDWARE
from safetensors.torch import save_file

from kga import ranks
from kga.data.batching import Ordered, supervised
from kga.errors import UserError
from kga.methods.kga import KGA
from kga.methods.scrub import Scrub
from kga.optim import Optim
from kga.texts import write_texts
from kga.training import fit
from kga.unlearning import unlearn

DDP = HARDWARE | {"strategy": "ddp", "devices": 2, "num_nodes": 1}
METHODS = {
    "dataset_mean": lambda: KGA(retain_batches=2),
    "batch": lambda: KGA(gap_level="batch", retain_batches=2),
    "example": lambda: KGA(gap_level="example", retain_batches=2),
    "scrub": lambda: Scrub(epochs=2, max_epochs=1, rewind=True),
}
BATCHES = {
    "dataset_mean": {"batch_size": 7, "micro_batch_size": 3},
    "batch": {"batch_size": 5},
    "example": {"batch_size": 3},
}


def configured(folder: Path, **more) -> dict:
    return {"trainer": DDP, "folder": str(folder)} | more


def fits(cfg: dict) -> None:
    """Several fits; rank 0 keeps weights and histories."""
    folder = Path(cfg["folder"])
    random = _random(folder)
    found = {"supervised": _supervised(folder), "generation": _generation(folder)} | {
        name: _unlearned(folder, name) for name in METHODS
    }
    if ranks.is_main():
        for name, (state, history) in found.items():
            save_file({key: value.contiguous().clone() for key, value in state.items()}, folder / f"{name}.safetensors")
            torch.save(history, folder / f"{name}.pt")
        torch.save(random, folder / "random.pt")


def _supervised(folder: Path):
    """13 examples in batches of 4: the last has one, and a rank has none of it. Validation: 3 batches, shared unevenly."""
    optim = Optim(epochs=3, batch_size=4, lr=1e-2, patience=5, clip=0.5)
    task = tiny.classifier(optim=optim)
    held_out = Ordered(tiny.examples(17, 3, task), 8)
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *rest):
            seen.append(float(outputs["loss"]))

        def on_validation_end(self, trainer, pl_module):
            seen.extend(float(trainer.callback_metrics[f"validation/{name}"]) for name in ("loss", "macro_f1"))

    examples = tiny.examples(13, task=task)
    fit(task, supervised(examples, optim, 0), optim=optim, hardware=_hardware(), seed=0, work=folder / "supervised",
        description="test", callbacks=[Watch()], validation=held_out)  # fmt: skip
    return task.model.state_dict(), seen


def _generation(folder: Path):
    """A translator, of which the BLEU of what it writes is watched: 3 batches of validation."""
    optim = Optim(epochs=1, batch_size=5, lr=1e-3, patience=3, monitor="bleu")
    task = tiny.translator(optim=optim)
    held_out = Ordered(tiny.examples(5, 3, task), 2)
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.extend(float(trainer.callback_metrics[f"validation/{name}"]) for name in ("loss", "bleu", "chrf"))

    fit(task, supervised(tiny.examples(11, 4, task), optim, 0), optim=optim, hardware=_hardware(), seed=0,
        work=folder / "generation", description="test", callbacks=[Watch()], validation=held_out)  # fmt: skip
    return task.model.state_dict(), [{"loss": seen[0], "bleu": seen[1], "chrf": seen[2], **_texts(task)}]


def _texts(task) -> dict:
    """What it writes for two sets, one smaller than there are processes."""
    sets = {"few": tiny.examples(1, 5, task), "more": tiny.examples(7, 6, task)}
    return {name: str(texts) for name, texts in write_texts({"": task}, sets, _hardware(), 1, 2)[""].items()}


def _random(folder: Path) -> list[dict]:
    """On each rank: states of the generators in the middle of a fit with dropout, and the weights after it."""
    found: dict = {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, *arguments):
            found.setdefault("torch", torch.get_rng_state().tolist())
            found.setdefault("numpy", np.random.get_state()[1].tolist())

    optim = Optim(epochs=1, batch_size=8)
    task = tiny.classifier(dropout=0.3, optim=optim)
    fit(task, supervised(tiny.examples(16, task=task), optim, 0), optim=optim, hardware=_hardware(), seed=0,
        work=folder / "random", description="test", callbacks=[Watch()])  # fmt: skip
    found["weights"] = task.model.classifier.weight.tolist()
    return ranks.gather(found)


def _unlearned(folder: Path, name: str):
    world = contract.world("classification")
    method = contract.attached(METHODS[name], world, **BATCHES.get(name, {}))
    student = world.student(0.0)
    unlearn(method, student, hardware=_hardware(), seed=0, work=folder / name)
    return student.model.state_dict(), method.history


def _hardware() -> dict:
    return DDP if ranks.world_size() > 1 else HARDWARE


def fails(cfg: dict) -> None:
    """The second rank ends as ``cfg["how"]`` says, while the first waits for it."""
    if ranks.rank() == 1:
        if cfg["how"] == "mistake":
            raise UserError("one line")
        if cfg["how"] == "fault":
            raise ValueError("a fault of the second")
        os._exit(9)
    if cfg["how"] == "mistake here":
        raise UserError("one line of the first")
    ranks.barrier()
