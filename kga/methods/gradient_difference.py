"""Gradient difference: up on the forget set, down on the retain set (Liu et al. 2022; NegGrad+ of SCRUB)."""

from collections.abc import Mapping

from torch import Tensor

from kga.data.batching import Draws
from kga.methods.base import Method
from kga.objective import Step
from kga.optim import Optim
from kga.predictions import cross_entropy
from kga.tasks.base import TaskModule


class GradientDifference(Method):
    """L = -gamma * CE on D_f + alpha * CE on D_r, from A_D.

    Needs D_f, D_r. Cost per update: 3 forwards of both batches. The first term has no lower bound: few updates, or it
    over-forgets.
    """

    def __init__(self, alpha: float = 1.0, gamma: float = 1.0, optim: Optim | Mapping | None = None) -> None:
        super().__init__(optim)
        self.alpha, self.gamma = alpha, gamma

    def draws(self, epoch: int) -> Draws:
        return [("forget",), ("retain",)]

    def terms(self, module: TaskModule, step: Step) -> dict[str, Tensor]:
        return {name: cross_entropy(module.predict(batch)).sum() for name, batch in step.items()}

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        return self.alpha * means["retain"] - self.gamma * means["forget"]
