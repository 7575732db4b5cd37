"""One method applied to one student: by updates (a fit) or by one edit; timed, seeded, on the hardware of the run."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl

from kga.hardware import one_device
from kga.methods.base import Method
from kga.tasks.base import TaskModule
from kga.training import fit


def unlearn(
    method: Method, student: TaskModule, *, hardware: Mapping, seed: int, work: Path, loggers: Sequence = (),
    callbacks: Sequence[pl.Callback] = (), description: str = "A* unlearning",
) -> dict:  # fmt: skip
    """Makes the student forget by an attached method; returns {"seconds", "epochs", "updates"}.

    Updates go on from the newest checkpoint in ``work``; an edit, which is one pass or a few, starts anew.
    """
    if not method.edits:
        return fit(
            student, method.stream(seed), optim=method.optim, hardware=hardware, seed=seed, work=work,
            description=description, callbacks=[method, *callbacks], loggers=loggers,
        )  # fmt: skip
    for model in method.frozen.values():
        model.require_apart_from(student)
    started = time.monotonic()
    with on_device([student, *(model.module for model in method.frozen.values())], hardware, seed):
        method.edit(student)
    return {"seconds": time.monotonic() - started, "epochs": 0, "updates": 0}


@contextmanager
def on_device(modules: Sequence[TaskModule], hardware: Mapping, seed: int) -> Iterator[None]:
    """Modules in eval mode on the device and in the precision of the run, for work outside a fit; random state seeded."""
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, **one_device(hardware)
    )  # fmt: skip
    pl.seed_everything(seed, verbose=False)
    for module in modules:
        module.eval().to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        yield
    for module in modules:
        module.cpu()
