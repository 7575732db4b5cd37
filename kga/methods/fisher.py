"""Fisher forgetting: noise on the weights, large where what is kept does not depend on them."""

import torch

from kga.errors import UserError
from kga.methods.base import Method
from kga.methods.gradients import sample, squared_gradients, trainable
from kga.tasks.base import TaskModule


class FisherForgetting(Method):
    """theta <- theta + s n, n ~ N(0, 1), s = sigma min(limit, (F / mean F)^-power) (Golatkar et al. 2020, without D_f).

    F is the diagonal of the empirical Fisher information of D_r at A_D, from gradients of single examples. The noise of
    least harm to D_r that hides as much as it can has a covariance proportional to F^(-1/2), the default: power 0.25. The
    released code has a covariance proportional to 1 / F: power 0.5. Its constants (the temperature, the variance of a step
    of training, the scale of the loss) are free; measured against the mean of F, sigma is in units of weights.

    Needs D_r. Cost: ``samples`` forward and backward passes of one example.

    sigma: standard deviation of the noise of a weight whose F is the mean one. limit: the most times sigma that any weight
    gets, because F is 0 for weights that D_r does not use. samples: examples of D_r that F is measured on (None: all).
    """

    edits = True
    splits = ("retain",)

    def __init__(
        self, sigma: float = 1e-3, power: float = 0.25, limit: float = 10.0, samples: int | None = 1000
    ) -> None:
        super().__init__()
        if min(sigma, power, limit) < 0 or (samples is not None and samples < 1):
            raise UserError("method: sigma, power and limit are 0 or more, samples at least 1 (null: all)")
        self.sigma, self.power, self.limit, self.samples = sigma, power, limit, samples
        self.noise = 0.0

    @torch.no_grad()
    def edit(self, module: TaskModule) -> None:
        retain = self.sets["retain"]
        measured = retain if self.samples is None else sample(retain, self.samples)
        fisher = squared_gradients(module, measured, 1, "Fisher information of D_r")
        deviations = self.deviations(fisher)
        squares, count = 0.0, 0
        for name, parameter in trainable(module).items():
            # Drawn on the processor: the same on every device.
            drawn = torch.randn(parameter.shape).to(parameter.device)
            parameter += deviations[name] * drawn
            squares, count = squares + float(deviations[name].square().sum()), count + parameter.numel()
        self.noise = (squares / max(1, count)) ** 0.5

    def deviations(self, fisher: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The standard deviation of every parameter's noise."""
        total = sum(float(value.sum(dtype=torch.float64)) for value in fisher.values())
        mean = max(total / sum(value.numel() for value in fisher.values()), torch.finfo(torch.float32).tiny)
        return {
            name: self.sigma * (value / mean).pow(-self.power).clamp(max=self.limit) for name, value in fisher.items()
        }

    def outcome(self) -> dict:
        """``noise``: the root mean square of the noise's standard deviations."""
        return super().outcome() | {"noise": self.noise}
