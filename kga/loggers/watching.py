"""What becomes of A* while it unlearns: for loggers, never for the result."""

from collections.abc import Mapping

import numpy as np
import pytorch_lightning as pl
import torch

from kga.data.encoded import Examples
from kga.methods.caches import passes
from kga.tasks.base import TaskModule

MOST = 256  # examples of each set


class Watch(pl.Callback):
    """Logs the share of positions that A* has right on some sets, every so many updates and at the last.

    sets: by name, "validation" and "forget"; of each the first ``MOST`` examples. Nothing random is drawn and the student is
    given back in the mode it was in, so that its weights are those of an unwatched run.
    """

    def __init__(self, sets: Mapping[str, Examples], every: int) -> None:
        self.sets = {name: some.take(np.arange(min(MOST, len(some)))) for name, some in sets.items()}
        self.every, self._watched = every, -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: TaskModule) -> None:
        if trainer.global_step == 0:
            self._watch(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: TaskModule, *_: object) -> None:
        if trainer.global_step % self.every == 0:
            self._watch(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: TaskModule) -> None:
        self._watch(trainer, pl_module)

    def _watch(self, trainer: pl.Trainer, module: TaskModule) -> None:
        step = trainer.global_step
        if step == self._watched:
            return
        self._watched = step
        found = {f"unlearn/utility_{name}": _utility(module, some) for name, some in self.sets.items() if len(some)}
        for logger in trainer.loggers:
            logger.log_metrics(found, step)


@torch.no_grad()
def _utility(module: TaskModule, examples: Examples) -> float:
    """Share of positions whose most probable class is the true one, in eval mode."""
    training = module.model.training
    module.model.eval()
    right = [module.predict(batch).correct() for _, batch in passes(examples, module.device)]
    module.model.train(training)
    return float(torch.cat(right).mean())
