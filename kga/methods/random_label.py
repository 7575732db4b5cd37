"""Random labels: trained on D_f with targets that are not its own (amnesiac unlearning, Graves et al. 2021)."""

from torch import Tensor

from kga.data.alternatives import random_targets
from kga.data.batching import Draws
from kga.data.encoded import Examples
from kga.methods.forget_retain import ForgetRetain
from kga.objective import Step
from kga.predictions import cross_entropy
from kga.tasks.base import TaskModule


class RandomLabel(ForgetRetain):
    """L = gamma * CE on D_f with random targets + alpha * retain term on D_r, from A_D.

    The targets are drawn once, see ``kga.data.alternatives.random_targets``: those of several labels or of texts are the
    targets of examples of D_r, which is therefore needed even where alpha is 0.

    Needs D_f, D_r. Cost per update: 3 forwards of both batches.

    allow_own: whether a target may be the example's own by chance (as SalUn draws labels). seed: of the targets.
    options: those of ``ForgetRetain``.
    """

    derived = ("alternative",)

    def __init__(self, allow_own: bool = False, seed: int = 0, **options: object) -> None:
        super().__init__(**options)
        self.allow_own, self.seed = allow_own, seed
        self.splits = ("forget", "retain")

    def derive(self, name: str) -> Examples:
        return random_targets(self.sets["forget"], self.sets["retain"], self.seed, self.allow_own)

    def draws(self, update: int) -> Draws:
        return [("alternative",), *super().draws(update)[1:]]

    def terms(self, module: TaskModule, step: Step) -> dict[str, Tensor]:
        if "retain" in step:
            return super().terms(module, step)
        return {"alternative": cross_entropy(module.predict(step["alternative"], self.view)).sum()}

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        return super().combine(means | {"forget": means["alternative"]})
