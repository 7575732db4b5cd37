"""The shape of most methods: something on the forget set, something that holds the rest."""

from collections.abc import Mapping

from torch import Tensor

from kga.data.batching import Draws
from kga.errors import UserError, one_of
from kga.methods.base import Method
from kga.objective import Batch, Step
from kga.optim import Optim
from kga.predictions import Predictions, cross_entropy, kl
from kga.tasks.base import TaskModule


class ForgetRetain(Method):
    """L = gamma * forget + alpha * retain, from A_D; an update is one batch of D_f and ``retain_batches`` of D_r.

    A method defines ``forget`` (a sum over the batch; say in ``units`` what it is a sum over) and may redefine ``retain``.

    alpha: weight of the retain term (0: D_r is not drawn). gamma: weight of the forget term.
    retain_loss: "ce" (cross-entropy on the truth) or "kl" (KL(A_D || A*), needs A_D frozen).
    """

    top_classes = True

    def __init__(
        self,
        alpha: float = 1.0,
        gamma: float = 1.0,
        retain_batches: int = 1,
        retain_loss: str = "ce",
        optim: Optim | Mapping | None = None,
        cache: str = "auto",
    ) -> None:
        super().__init__(optim, cache)
        one_of("method.retain_loss", retain_loss, ("ce", "kl"))
        if alpha < 0 or retain_batches < 1:
            raise UserError("method: alpha is 0 or more, retain_batches at least 1")
        self.alpha, self.gamma, self.retain_batches, self.retain_loss = alpha, gamma, retain_batches, retain_loss
        self.splits = ("forget", "retain") if alpha else ("forget",)
        if alpha and retain_loss == "kl":
            self.teachers = {**self.teachers, "original": (*self.teachers.get("original", ()), "retain")}

    def draws(self, update: int) -> Draws:
        return [("forget",)] + [("retain",)] * (self.retain_batches if self.alpha else 0)

    def terms(self, module: TaskModule, step: Step) -> dict[str, Tensor]:
        if "retain" in step:
            return {"retain": self.retain(module, step["retain"])}
        return {"forget": self.forget(module, step)}

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        loss = self.gamma * means["forget"]
        return loss + self.alpha * means["retain"] if self.alpha else loss

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        """The sum of the forget term over ``step["forget"]``, with gradient."""
        raise NotImplementedError(f"{type(self).__name__} declares no forget term")

    def retain(self, module: TaskModule, batch: Batch) -> Tensor:
        """The sum of the retain term over the positions of a batch of D_r, with gradient."""
        student = module.predict(batch, self.view)
        if self.retain_loss == "ce":
            return cross_entropy(student).sum()
        return kl(self.teacher("original", batch, "retain"), student).sum()

    def teacher(self, name: str, batch: Batch, of: str) -> Predictions:
        """What a frozen model predicts on a batch that was drawn from the set ``of``."""
        return self.frozen[name].predict(batch, self.view, of)
