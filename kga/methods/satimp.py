"""SatImp: ascent weighted by saturation and importance (Yang et al., ICML 2025)."""

from torch import Tensor

from kga.errors import UserError
from kga.methods.wga import WeightedAscent


class SatImp(WeightedAscent):
    """L = -gamma * mean p^beta1 (1 - p)^beta2 CE on D_f + alpha * retain term; p = A*'s probability of the truth, held
    constant.

    Needs D_f, D_r. Cost per update: 3 forwards of both batches.

    beta1: how much less what is forgotten already weighs. beta2: how much less what is certain weighs.
    options: those of ``ForgetRetain``.
    """

    def __init__(self, beta1: float = 5.0, beta2: float = 1.0, gamma: float = 0.1, **options: object) -> None:
        super().__init__(gamma=gamma, **options)
        if min(beta1, beta2) < 0:
            raise UserError("method: beta1 and beta2 must be 0 or more")
        self.beta1, self.beta2 = beta1, beta2

    def weight(self, truth: Tensor) -> Tensor:
        rest = -truth.expm1()  # 1 - p, exact where p is near 1
        return (self.beta1 * truth).exp() * rest.clamp(min=0.0) ** self.beta2
