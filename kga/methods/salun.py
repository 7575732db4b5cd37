"""Saliency unlearning: random labels, learnt by the weights that matter most to D_f alone."""

import torch
from torch import Tensor

from kga.errors import UserError
from kga.methods.gradients import Gradients, mean_gradient, trainable
from kga.methods.random_label import RandomLabel
from kga.tasks.base import TaskModule


class SalUn(RandomLabel):
    """The loss of ``RandomLabel`` on the weights of largest |d CE on D_f / d theta| at A_D (Fan et al. 2024).

    The other weights stay bit for bit what they are in A_D: their gradients are masked before clipping, and what weight
    decay does to them is undone after every update.

    Needs what RandomLabel needs. Cost: a pass with gradients over D_f, then RandomLabel's cost per update.

    density: the share of all trainable weights that is trained, in (0, 1]. allow_own: as in the source, where the labels are
    drawn over all classes.
    options: those of ``RandomLabel``.
    """

    def __init__(self, density: float = 0.5, allow_own: bool = True, **options: object) -> None:
        super().__init__(allow_own=allow_own, **options)
        if not 0 < density <= 1:
            raise UserError(f"method.density={density} must be a share of the weights, above 0 and at most 1")
        self.density = density
        self.mask: dict[str, Tensor] = {}
        self._held: dict[str, Tensor] = {}

    def prepare(self, module: TaskModule, updates: int) -> None:
        super().prepare(module, updates)
        if not self.mask:  # a resumed run has that of A_D, which the student no longer is
            size = self.optim.micro_batch_size or self.optim.batch_size
            self.mask = salient(
                mean_gradient(module, self.sets["forget"], size, title="saliency of weights"), self.density
            )
        self.mask = {name: chosen.to(module.device) for name, chosen in self.mask.items()}
        self._held = {name: parameter[~self.mask[name]].clone() for name, parameter in trainable(module).items()}

    def shape_gradients(self, module: TaskModule) -> None:
        for name, parameter in trainable(module).items():
            if parameter.grad is not None:
                parameter.grad.mul_(self.mask[name])

    @torch.no_grad()
    def after_update(self, module: TaskModule, means: dict[str, float], loss: float) -> None:
        for name, parameter in trainable(module).items():
            parameter[~self.mask[name]] = self._held[name]
        super().after_update(module, means, loss)

    def outcome(self) -> dict:
        """``trained``: the share of trainable weights that were free to move."""
        chosen = sum(int(part.sum()) for part in self.mask.values())
        weights = sum(part.numel() for part in self.mask.values())
        return super().outcome() | {"trained": chosen / max(1, weights)}

    def state_dict(self) -> dict:
        return super().state_dict() | {"mask": {name: chosen.cpu() for name, chosen in self.mask.items()}}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.mask = state["mask"]


def salient(gradients: Gradients, density: float) -> dict[str, Tensor]:
    """True for this share of all numbers together, those of largest size; the first of equal ones."""
    sizes = torch.cat([value.abs().flatten() for value in gradients.values()])
    chosen = torch.zeros_like(sizes, dtype=torch.bool)
    chosen[sizes.argsort(descending=True, stable=True)[: round(density * len(sizes))]] = True
    parts = chosen.split([value.numel() for value in gradients.values()])
    return {name: part.view_as(value) for (name, value), part in zip(gradients.items(), parts, strict=True)}
