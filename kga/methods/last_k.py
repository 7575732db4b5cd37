"""Fine-tuning of the last layers on what remains: CF-k and EU-k."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from kga.errors import UserError
from kga.methods.base import Helper
from kga.methods.finetune import Finetune
from kga.models.layers import last
from kga.optim import Optim
from kga.tasks.base import TaskModule

if TYPE_CHECKING:
    from kga.study import Study


class LastK(Finetune):
    """L = CE on D_r, from A_D, over the weights of the last k layers and of all that follows them (Goel et al. 2022).

    Needs D_r (reinitialise: an untrained model). Cost per update: 1 forward of a batch and the backward pass of k layers.
    Weights tied to the input embedding stay as they are, and so does what the lower layers know of D_f.

    k: layers that are trained, counted from the output; an encoder-decoder's are those of its decoder.
    reinitialise: these weights are first put back to random ones (EU-k, "exact unlearning" of k layers), instead of going
        on from A_D's (CF-k, "catastrophic forgetting").
    """

    def __init__(self, k: int = 1, reinitialise: bool = False, optim: Optim | Mapping | None = None) -> None:
        super().__init__(optim)
        if k < 1:
            raise UserError(f"method.k={k} must be a number of layers of 1 or more")
        self.k, self.reinitialise = k, reinitialise
        self.teachers = {"initial": ()} if reinitialise else {}
        self.trained = 0
        self._held: list = []

    def helpers(self) -> dict[str, Helper]:
        return {"initial": Helper(None, start="scratch", per_request=False)} if self.reinitialise else {}

    def require(self, study: "Study") -> None:
        last(study.codec.model, self.k)

    def setup(self, trainer: pl.Trainer, pl_module: TaskModule, stage: str) -> None:
        """Holds the lower layers before the optimiser is made; a checkpoint that a run goes on from is loaded after it."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        names = set(last(pl_module.model, self.k))
        parameters = dict(pl_module.model.named_parameters())
        if self.reinitialise:
            initial = dict(self.frozen["initial"].module.model.named_parameters())
            for name in names:
                parameters[name].data.copy_(initial[name].data)
        self._held = [value for name, value in parameters.items() if name not in names and value.requires_grad]
        for value in self._held:
            value.requires_grad_(False)
        self.trained = sum(parameters[name].numel() for name in names)

    def teardown(self, trainer: pl.Trainer, pl_module: TaskModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        if stage == "fit":
            for value in self._held:
                value.requires_grad_(True)

    def outcome(self) -> dict:
        return super().outcome() | {"trained_parameters": self.trained}
