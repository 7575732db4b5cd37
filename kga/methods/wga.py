"""Weighted gradient ascent: what is forgotten already weighs less (Wang et al., ICLR 2025)."""

from torch import Tensor

from kga.errors import UserError
from kga.methods.forget_retain import ForgetRetain
from kga.objective import Step
from kga.tasks.base import TaskModule


class WeightedAscent(ForgetRetain):
    """L = -gamma * mean w CE on D_f + alpha * retain term, w a constant of each position; a method defines ``weight``."""

    def weight(self, truth: Tensor) -> Tensor:
        """[P] weights from the log-probabilities of the truth [P]."""
        raise NotImplementedError(f"{type(self).__name__} weighs nothing")

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        truth = module.predict(step["forget"], self.view).truth()
        return (self.weight(truth.detach()) * truth).sum()


class WGA(WeightedAscent):
    """L = -gamma * mean p^beta CE on D_f + alpha * retain term; p = A*'s probability of the truth, held constant.

    Needs D_f, D_r. Cost per update: 3 forwards of both batches. The gradient fades as p falls, so it has no need of a stop.

    beta: how fast it fades (0: plain ascent).
    options: those of ``ForgetRetain``.
    """

    def __init__(self, beta: float = 1.0, **options: object) -> None:
        super().__init__(**options)
        if beta < 0:
            raise UserError(f"method.beta={beta} must be 0 or more")
        self.beta = beta

    def weight(self, truth: Tensor) -> Tensor:
        return (self.beta * truth).exp()
