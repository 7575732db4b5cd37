"""Gradient ascent on the forget set, with a safety stop."""

import math

from torch import Tensor

from kga.methods.forget_retain import ForgetRetain
from kga.objective import Step
from kga.predictions import cross_entropy
from kga.tasks.base import TaskModule


class GradientAscent(ForgetRetain):
    """L = -gamma * CE on D_f (+ alpha * retain term), from A_D (Golatkar et al. 2020; Jang et al. 2023).

    Needs D_f (with alpha: D_r, and A_D where retain_loss is "kl"). Cost per update: 3 forwards of a batch of D_f.

    stop_at: the loss has no bound, so unlearning stops as soon as the mean CE of an update on D_f reaches this many times
        ln C, the loss of a blind guess among the C classes (None: never).
    options: those of ``ForgetRetain``.
    """

    def __init__(self, alpha: float = 0.0, stop_at: float | None = 1.0, **options: object) -> None:
        super().__init__(alpha, **options)
        self.stop_at = stop_at
        self._classes = 0

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        predictions = module.predict(step["forget"], self.view)
        self._classes = predictions.classes
        return cross_entropy(predictions).sum()

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        return super().combine(means | {"forget": -means["forget"]})

    def after_update(self, module: TaskModule, means: dict[str, float], loss: float) -> None:
        super().after_update(module, means, loss)
        if self.stop_at is not None and means["forget"] >= self.stop_at * math.log(self._classes):
            self.halt(module, f"the loss on D_f reached {self.stop_at:g} x that of a blind guess (ln {self._classes})")
