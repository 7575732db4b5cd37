"""One progress bar over all updates of a fit."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch

from kga import console

_INFO_INTERVAL = 1.0  # seconds; reading the loss waits for the device


class FitProgress(pl.Callback):
    """Shows the updates of a fit, their remaining time and the current loss, on rank zero.

    Counts `trainer.global_step`, so it is right under manual optimisation and gradient accumulation, and starts where a
    resumed fit starts. Meant in place of Lightning's own bar (`enable_progress_bar=False`).

    Args:
        description: what is being fitted, in a few words.
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self._context: AbstractContextManager[console.Advance] | None = None
        self._advance: console.Advance | None = None
        self._done = 0
        self._told = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._done, self._told = trainer.global_step, 0.0
        self._context = console.progress(self.description, _total(trainer), self._done)
        self._advance = self._context.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._advance is None or trainer.global_step == self._done:
            return
        info, now = "", time.monotonic()
        if now - self._told >= _INFO_INTERVAL:
            self._told = now
            info = _loss(trainer, outputs)
        self._advance(trainer.global_step - self._done, info)
        self._done = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close(exception)

    def _close(self, exception: BaseException | None = None) -> None:
        context, self._context, self._advance = self._context, None, None
        if context is None:
            return
        try:
            context.__exit__(type(exception) if exception else None, exception, None)
        except BaseException as error:
            # The bar hands the fit's own exception back, as context managers do; Lightning raises it already.
            if error is not exception:
                raise


class Pace(pl.Callback):
    """Times the updates of a fit; ends it early, once some count, where it would take longer than ``most`` seconds."""

    WARMING = 2  # updates that are slow as they are the first, and do not count where there are more

    def __init__(self, most: float) -> None:
        self.most = most
        self._took: list[float] = []
        self._began = self._last = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == len(self._took):
            return
        now = time.monotonic()
        self._took.append(now - self._last)
        self._last = now
        if len(self._took) > self.WARMING and now - self._began > self.most:
            trainer.should_stop = True

    @property
    def counted(self) -> list[float]:
        """Seconds of each update that counts."""
        return self._took[self.WARMING :] or self._took

    @property
    def seconds(self) -> float:
        """Of an update: the median, as another program may have been at work meanwhile."""
        return median(self.counted)


def _total(trainer: pl.Trainer) -> int | None:
    total = trainer.max_steps if trainer.max_steps >= 0 else trainer.estimated_stepping_batches
    return int(total) if math.isfinite(total) else None


def _loss(trainer: pl.Trainer, outputs: Any) -> str:
    """The loss of this update: what training_step returned, else what was logged as `loss` or `train/loss`."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, torch.Tensor):
        logged = trainer.callback_metrics
        loss = logged.get("train/loss", logged.get("loss"))
    return "" if loss is None else f"loss {float(loss):.4f}"
