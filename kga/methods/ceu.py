"""CE-U: cross-entropy unlearning (Yang, 2025)."""

import torch
from torch import Tensor

from kga.errors import UserError
from kga.methods.forget_retain import ForgetRetain
from kga.methods.undial import soft_cross_entropy
from kga.objective import Batch, Step
from kga.predictions import Predictions, over_positions
from kga.tasks.base import TaskModule


class CEU(ForgetRetain):
    """L = gamma * CE(q, A*) on D_f (+ alpha * retain term), q = A*'s own distribution, held constant, without the truth.

    Needs D_f (with alpha: D_r). Cost per update: 3 forwards of a batch of D_f. With two classes, and so for every label of
    multi-label data, q is the other class: nothing bounds the loss there.

    ignore_first: scored positions at the start of every example that are left as they are (the first word of an answer
        tells little of it, and without it no answer begins).
    options: those of ``ForgetRetain``.
    """

    def __init__(self, ignore_first: int = 0, alpha: float = 0.0, **options: object) -> None:
        super().__init__(alpha, **options)
        if ignore_first < 0:
            raise UserError(f"method.ignore_first={ignore_first} must be a number of positions, 0 or more")
        self.ignore_first = ignore_first

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        student = module.predict(step["forget"], self.view)
        return over_positions(_without_truth, student)[self._kept(student)].sum()

    def _kept(self, predictions: Predictions) -> Tensor:
        """[P] whether a position stands behind the ignored ones of its example."""
        counts = predictions.positions_per_example()
        first = counts.cumsum(0) - counts
        place = torch.arange(len(predictions.example), device=counts.device) - first[predictions.example]
        return place >= self.ignore_first

    def counts(self, module: TaskModule, step: Step) -> dict[str, int]:
        counts = super().counts(module, step)
        if self.ignore_first and "forget" in step:
            counts["forget"] = sum(max(0, count - self.ignore_first) for count in self._each(module, step["forget"]))
        return counts

    def _each(self, module: TaskModule, batch: Batch) -> list[int]:
        """Scored positions of every example of a batch."""
        rows = range(module.count(batch, "example", self.view))
        ones = ({name: value[row : row + 1] for name, value in batch.items()} for row in rows)
        return [module.count(one, "position", self.view) for one in ones]


def _without_truth(student: Predictions) -> Tensor:
    others = student.log_probs.detach().scatter(1, student.targets.unsqueeze(1), -torch.inf)
    return soft_cross_entropy(others, student)
