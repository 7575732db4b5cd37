"""Simple negative preference optimisation (Fan et al. 2024, arXiv 2410.07163): NPO by length, without a reference."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from kga.methods.forget_retain import ForgetRetain
from kga.methods.npo import positive
from kga.objective import Step
from kga.predictions import cross_entropy
from kga.tasks.base import TaskModule


class SimNPO(ForgetRetain):
    """L = -(2 / beta) * gamma * mean over D_f of log sigmoid(beta * (c - delta)) + alpha * retain term, from A_D, where

    c = the cross-entropy of x per token (multi-label: per label).

    Needs D_f, D_r. Cost per update: 3 forwards of both batches. Bounded below by 0.

    beta: how soon an example is left alone. delta: the margin, in nats; the larger, the longer it is pushed.
    options: those of ``ForgetRetain``.
    """

    units = {"forget": "example"}  # noqa: RUF012

    def __init__(self, beta: float = 4.5, delta: float = 0.0, gamma: float = 0.125, **options: object) -> None:
        super().__init__(gamma=gamma, **options)
        self.beta, self.delta = positive(beta), delta

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        predictions = module.predict(step["forget"], self.view)
        loss = predictions.mean_per_example(cross_entropy(predictions))
        return -2 / self.beta * logsigmoid(self.beta * (loss - self.delta)).sum()
