"""Fine-tuning on what remains, in the hope that the rest fades."""

from collections.abc import Mapping

from torch import Tensor

from kga.data.batching import Draws
from kga.methods.base import Method
from kga.objective import Step
from kga.optim import Optim
from kga.predictions import cross_entropy
from kga.tasks.base import TaskModule


class Finetune(Method):
    """L = CE on D_r, from A_D. Needs D_r. Cost per update: 3 forwards of a batch. Known to forget weakly."""

    splits = ("retain",)

    def __init__(self, optim: Optim | Mapping | None = None) -> None:
        super().__init__(optim)

    def draws(self, update: int) -> Draws:
        return [("retain",)]

    def terms(self, module: TaskModule, step: Step) -> dict[str, Tensor]:
        return {"retain": cross_entropy(module.predict(step["retain"])).sum()}
