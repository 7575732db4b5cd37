"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868): ascent that fades as an example is forgotten."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from kga.errors import UserError
from kga.methods.forget_retain import ForgetRetain
from kga.methods.likelihood import Reference, log_likelihood
from kga.objective import Batch, Step
from kga.tasks.base import TaskModule


class NPO(ForgetRetain):
    """L = -(2 / beta) * gamma * mean over D_f of log sigmoid(beta * m) + alpha * retain term, from A_D, where

    m = s_{A_D}(x) - s_{A*}(x), s(x) = log p(target of x), summed over its tokens (multi-label: over all labels).

    Needs D_f, D_r, A_D frozen. Cost per update: 3 forwards of both batches and one of A_D on D_f unless cached, as one
    number per example. Bounded below by 0; at A_D its forget term is (2 / beta) ln 2.

    beta: how soon an example that is already less probable is left alone; towards 0 this is gradient ascent on s.
    options: those of ``ForgetRetain``.
    """

    # Of D_f only s is kept, by ``Reference``, and no predictions.
    teachers = {"original": ()}  # noqa: RUF012
    units = {"forget": "example"}  # noqa: RUF012

    def __init__(self, beta: float = 0.1, **options: object) -> None:
        super().__init__(**options)
        self.beta = positive(beta)
        self.reference = Reference(self.view)

    def fill_caches(self, module: TaskModule) -> None:
        for name in ("forget", *self.derived):
            self.reference.keep(self.frozen["original"], name, self.sets[name], self.keep)
        super().fill_caches(module)

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        return -2 / self.beta * logsigmoid(self.beta * self.margin(module, step)).sum()

    def margin(self, module: TaskModule, step: Step) -> Tensor:
        """[B] m, in nats."""
        return -self.gain(module, step["forget"], "forget")

    def gain(self, module: TaskModule, batch: Batch, of: str) -> Tensor:
        """[B] how much more probable A* holds the targets than A_D, in nats; of: the set that they come from."""
        return log_likelihood(module.predict(batch, self.view)) - self.reference(self.frozen["original"], batch, of)


def positive(beta: float) -> float:
    """``beta``; UserError where it is 0 or less."""
    if beta <= 0:
        raise UserError(f"method.beta={beta:g} must be above 0")
    return beta
