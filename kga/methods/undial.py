"""UNDIAL: distillation from A_D with the truth made unlikely (Dong et al., NAACL 2025)."""

from torch import Tensor

from kga.errors import UserError
from kga.methods.forget_retain import ForgetRetain
from kga.objective import Step
from kga.predictions import Predictions, over_positions
from kga.tasks.base import TaskModule


class Undial(ForgetRetain):
    """L = gamma * CE(softmax(z - beta * onehot(truth)), A*) on D_f (+ alpha * retain term), z: the logits of A_D.

    Needs D_f, A_D frozen (with alpha: D_r). Cost per update: 3 forwards of a batch of D_f, and one of A_D unless cached.

    beta: nats by which the truth's logit is lowered.
    options: those of ``ForgetRetain``.
    """

    teachers = {"original": ("forget",)}  # noqa: RUF012
    top_classes = False

    def __init__(self, beta: float = 10.0, alpha: float = 0.0, **options: object) -> None:
        super().__init__(alpha, **options)
        if beta < 0:
            raise UserError(f"method.beta={beta} must be 0 or more")
        self.beta = beta

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        batch = step["forget"]
        return over_positions(
            self._distilled, self.teacher("original", batch, "forget"), module.predict(batch, self.view)
        ).sum()

    def _distilled(self, teacher: Predictions, student: Predictions) -> Tensor:
        log_probs, truth = teacher.log_probs, teacher.targets.unsqueeze(1)
        return soft_cross_entropy(log_probs.scatter(1, truth, log_probs.gather(1, truth) - self.beta), student)


def soft_cross_entropy(logits: Tensor, student: Predictions) -> Tensor:
    """[P] -sum_v q log p in nats, with q = softmax of logits [P, C] and p the (dense) student's distribution.

    Log-probabilities are logits too, up to a shift. Classes with q = 0 count 0, not NaN.
    """
    target = logits.softmax(1)
    return -(target * student.log_probs.where(target > 0, 0.0)).sum(1)
