"""Distributions of which only the most probable classes are kept, with one bucket for all others."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopClasses:
    """What a frozen model predicts at the P scored positions of a batch of ``size`` examples, by its k best classes.

    ids: [P, k] int32 classes. log_probs: [P, k] float32, of the full distribution, not renormalised. log_tail: [P] the
    log-probability of all other classes together. targets, example, size: as in ``kga.predictions.Predictions``.
    """

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor
    targets: Tensor
    example: Tensor
    size: int
    classes: int
    head: None = None

    def dense(self) -> "TopClasses":
        """Itself: what was dropped can't be computed again."""
        return self

    def at(self, window: slice) -> "TopClasses":
        """The predictions at some positions."""
        names = ("ids", "log_probs", "log_tail", "targets", "example")
        return replace(self, **{name: getattr(self, name)[window] for name in names})


def top(log_probs: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids [P, k], their log-probabilities and the log of the mass of the others, of log-probabilities [P, C]."""
    best = log_probs.topk(min(k, log_probs.shape[1]), dim=1)
    return best.indices.int(), best.values, _others(log_probs, best.indices)


def bucketed_kl(teacher: TopClasses, log_probs: Tensor) -> Tensor:
    """[P] KL(teacher || student) with all classes outside the teacher's best k taken as one, in nats.

    Sum over the k of p log(p / q) + e log(e / d), e and d the mass of the others under teacher and student. It is below the
    full divergence by e KL(p_tail / e || q_tail / d); its gradient at the k classes is the full one's.
    """
    ids, p = teacher.ids.long(), teacher.log_probs
    best = (p.exp() * (p - log_probs.gather(1, ids)).masked_fill(p == -torch.inf, 0.0)).sum(1)
    tail, none = teacher.log_tail, teacher.log_tail == -torch.inf
    others = _others(log_probs.masked_fill(none.unsqueeze(1), 0.0), ids)  # no gradient of an empty bucket, not even NaN
    return best + torch.where(none, 0.0, tail.exp() * (tail - others.masked_fill(none, 0.0)))


def _others(log_probs: Tensor, ids: Tensor) -> Tensor:
    """[P] log of the mass of all classes but ``ids``; -inf where there are no others."""
    if ids.shape[1] == log_probs.shape[1]:
        return log_probs.new_full((len(log_probs),), -torch.inf)
    return log_probs.scatter(1, ids.long(), -torch.inf).logsumexp(1)
