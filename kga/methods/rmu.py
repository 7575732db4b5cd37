"""RMU: representation misdirection for unlearning (Li et al., WMDP, 2024)."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kga.data.batching import in_order
from kga.errors import UserError
from kga.methods.forget_retain import ForgetRetain
from kga.models.layers import blocks
from kga.objective import Batch, Step
from kga.optim import Optim
from kga.tasks.base import TaskModule

if TYPE_CHECKING:
    from kga.study import Study


class RMU(ForgetRetain):
    """L = gamma * MSE(h, c u) on D_f + alpha * MSE(h, h of A_D) on D_r; h: A*'s states at one layer, u: a fixed random
    direction. Means over the width, the tokens of an example (the published code divides them wrongly) and the examples.

    Needs D_f, D_r, A_D frozen and never cached: states are compared, not predictions. Cost per update: 3 forwards of both
    batches and one of A_D on D_r. Weights above the layer get no gradient.

    layer: a block's number, a regular expression that fits the whole name of one module, or None: the middle block.
    coefficient: c, the length of the target. relative: it counts in mean lengths of A_D's states on D_f.
    seed: of the direction, uniform on [0, 1) in each dimension and brought to length 1.
    """

    teachers = {"original": ("retain",)}  # noqa: RUF012
    units = {"forget": "example", "retain": "example"}  # noqa: RUF012

    def __init__(
        self,
        layer: int | str | None = None,
        coefficient: float = 2.0,
        relative: bool = True,
        seed: int = 0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        retain_batches: int = 1,
        optim: Optim | Mapping | None = None,
    ) -> None:
        super().__init__(alpha, gamma, retain_batches, optim=optim, cache="none")
        self.layer, self.coefficient, self.relative, self.seed = layer, coefficient, relative, seed
        self.module_name, self.target = "", torch.empty(0)

    def prepare(self, module: TaskModule, updates: int) -> None:
        self.module_name = module_at(module.model, self.layer)
        norms = []
        for positions in in_order(self.sets["forget"], self.optim.batch_size):
            batch = {name: value.to(module.device) for name, value in self.sets["forget"].batch(positions).items()}
            states, _ = self._original().hidden(batch, self.module_name)
            norms.append(states.norm(dim=1))
        direction = torch.rand(states.shape[1], generator=torch.Generator().manual_seed(self.seed))
        length = self.coefficient * (float(torch.cat(norms).mean()) if self.relative else 1.0)
        self.target = (length * direction / direction.norm()).to(module.device)

    def _original(self) -> TaskModule:
        return self.frozen["original"].module.eval()

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        states, example = module.hidden(step["forget"], self.module_name)
        return _squared_error(states, self.target, example)

    def retain(self, module: TaskModule, batch: Batch) -> Tensor:
        states, example = module.hidden(batch, self.module_name)
        with torch.no_grad():
            goal, _ = self._original().hidden(batch, self.module_name)
        return _squared_error(states, goal, example)

    def require(self, study: "Study") -> None:
        module_at(study.codec.model, self.layer)

    def outcome(self) -> dict:
        return super().outcome() | {"layer": self.module_name, "target_norm": float(self.target.norm())}


def _squared_error(states: Tensor, goal: Tensor, example: Tensor) -> Tensor:
    """Sum over examples of the mean over their tokens of the mean square of states - goal [T, H]."""
    tokens = torch.bincount(example)[example]
    return ((states - goal).square().mean(1) / tokens).sum()


def module_at(model: PreTrainedModel, layer: int | str | None) -> str:
    """The name of the module that ``layer`` of ``RMU`` means; UserError where it means none, or several."""
    if isinstance(layer, str):
        names = [name for name, _ in model.named_modules() if _fits(layer, name)]
        if len(names) != 1:
            some = f" ({', '.join(names[:3])}, ...)" if names else ""
            raise UserError(f"method.layer={layer} fits {len(names)} modules of the model{some}: it must fit one")
        return names[0]
    stack = blocks(model)
    number = (len(stack) - 1) // 2 if layer is None else layer
    if not 0 <= number < len(stack):
        raise UserError(f"method.layer={layer}: the model has {len(stack)} blocks, 0 to {len(stack) - 1}: choose one")
    return stack[number][0]


def _fits(pattern: str, name: str) -> bool:
    try:
        return bool(name) and re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise UserError(f"method.layer={pattern} is no regular expression ({error}): mend it") from error
