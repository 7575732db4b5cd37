"""What every task says: at each scored position a distribution over classes. Divergences are written once, here.

Classification has one position per example, multi-label one per example and label (two classes), generation one per
target token. All quantities are in nats.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

LN2 = 0.6931471805599453


@dataclass(frozen=True)
class Predictions:
    """Distributions of one batch of ``size`` examples at its P scored positions.

    log_probs: [P, C] float32, normalised over C classes.
    targets: [P] int64, the true class of each position; -1 where a view has no single truth.
    example: [P] int64 in [0, size), the example of the batch that a position belongs to.
    size: number of examples B of the batch.
    """

    log_probs: Tensor
    targets: Tensor
    example: Tensor
    size: int

    def __post_init__(self) -> None:
        if self.log_probs.ndim != 2 or self.targets.shape != self.log_probs.shape[:1]:
            raise ValueError(
                f"expected log_probs [P, C] and targets [P], got {list(self.log_probs.shape)} and {list(self.targets.shape)}"
            )

    def detach(self) -> "Predictions":
        return replace(self, log_probs=self.log_probs.detach())

    def truth(self) -> Tensor:
        """[P] log-probability of the true class."""
        return self.log_probs.gather(1, self.targets.unsqueeze(1)).squeeze(1)

    def correct(self) -> Tensor:
        """[P] 1.0 where the most probable class is the true one."""
        return (self.log_probs.argmax(1) == self.targets).float()

    def sum_per_example(self, values: Tensor) -> Tensor:
        """[P] values summed over the positions of each example: [B]."""
        return values.new_zeros(self.size).index_add(0, self.example, values)

    def positions_per_example(self) -> Tensor:
        """[B] number of scored positions of each example."""
        return torch.bincount(self.example, minlength=self.size)

    def mean_per_example(self, values: Tensor) -> Tensor:
        """[P] values averaged over the positions of each example: [B]; 0 for an example without positions."""
        return self.sum_per_example(values) / self.positions_per_example().clamp(min=1)


def cross_entropy(predictions: Predictions) -> Tensor:
    """[P] negative log-likelihood of the truth, in nats."""
    return -predictions.truth()


def kl(first: Predictions, second: Predictions) -> Tensor:
    """[P] KL(first || second) = sum_v p (log p - log q), in nats. Classes that first never uses count 0, not NaN."""
    p, q = _pair(first, second)
    weight = p.exp()
    return (weight * torch.where(weight > 0, p - q, 0.0)).sum(1)


def jsd(first: Predictions, second: Predictions) -> Tensor:
    """[P] Jensen-Shannon divergence, 1/2 KL(p || m) + 1/2 KL(q || m) with m = (p + q) / 2; at most ln 2 nats."""
    middle = _middle(first, second)
    return 0.5 * kl(first, middle) + 0.5 * kl(second, middle)


def jsd_legacy(first: Predictions, second: Predictions) -> Tensor:
    """[P] what the released code calls JSD: 1/2 KL(m || p) + 1/2 KL(m || q). No Jensen-Shannon divergence: unbounded."""
    middle = _middle(first, second)
    return 0.5 * kl(middle, first) + 0.5 * kl(middle, second)


def divergence(order: str, teacher: Predictions, student: Predictions) -> Tensor:
    """[P] gap between a frozen teacher and a student.

    order: ``teacher_student`` is KL(teacher || student), ``student_teacher`` KL(student || teacher), ``js`` their
    Jensen-Shannon divergence.
    """
    if order == "teacher_student":
        return kl(teacher, student)
    if order == "student_teacher":
        return kl(student, teacher)
    if order == "js":
        return jsd(teacher, student)
    raise ValueError(f"expected teacher_student, student_teacher or js, got {order!r}")


def _pair(first: Predictions, second: Predictions) -> tuple[Tensor, Tensor]:
    if first.log_probs.shape != second.log_probs.shape:
        raise ValueError(
            f"the two models predict different shapes: {list(first.log_probs.shape)} and {list(second.log_probs.shape)}"
        )
    return first.log_probs, second.log_probs


def _middle(first: Predictions, second: Predictions) -> Predictions:
    """The mean of two distributions, m = (p + q) / 2."""
    p, q = _pair(first, second)
    unused = (p == -torch.inf) & (q == -torch.inf)  # logaddexp has no gradient there, not even 0
    log_sum = torch.logaddexp(p.masked_fill(unused, 0.0), q.masked_fill(unused, 0.0))
    return replace(first, log_probs=log_sum.masked_fill(unused, -torch.inf) - LN2)
