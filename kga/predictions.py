"""What every task says: at each scored position a distribution over classes. Divergences are written once, here.

Classification has one position per example, multi-label one per example and label (two classes), generation one per
target token. All quantities are in nats.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kga.topk import TopClasses, bucketed_kl

LN2 = 0.6931471805599453
CHUNK = 2**24  # numbers of one [positions, classes] table: 64 MiB in float32
BLOCK = 2**18  # the same where many such tables are worked on one after the other
TINY = 1e-38  # a probability whose logarithm is a number


@dataclass(frozen=True)
class Predictions:
    """Distributions of one batch of ``size`` examples at its P scored positions.

    states: [P, C] float32 log-probabilities, normalised over C classes; or, lazily, [P, H] hidden states.
    targets: [P] int64, the true class of each position; -1 where a view has no single truth.
    example: [P] int64 in [0, size), ascending: the example of the batch that a position belongs to.
    size: number of examples B of the batch.
    head: None, or what gives [P, C] logits from hidden states; its ``classes`` is C. Vocabularies are large: divergences
        walk lazy predictions in chunks of positions, so that [P, C] never lives as a whole.
    """

    states: Tensor
    targets: Tensor
    example: Tensor
    size: int
    head: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.targets.shape != self.states.shape[:1]:
            raise ValueError(
                f"expected log_probs [P, C] and targets [P], got {list(self.states.shape)} and {list(self.targets.shape)}"
            )

    @property
    def log_probs(self) -> Tensor:
        """[P, C] log-probabilities; of lazy predictions computed at every access."""
        return self.states if self.head is None else self.head(self.states).float().log_softmax(1)

    @property
    def logits(self) -> Tensor:
        """[P, C] what a softmax turns into probabilities, in the type that the model computes in."""
        return self.states if self.head is None else self.head(self.states)

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return self.states.shape[1] if self.head is None else self.head.classes

    def dense(self) -> "Predictions":
        """The same with log-probabilities computed."""
        return self if self.head is None else replace(self, states=self.log_probs, head=None)

    def detach(self) -> "Predictions":
        return replace(self, states=self.states.detach())

    def at(self, window: slice) -> "Predictions":
        """The predictions at some positions; ``size`` and ``example`` stay those of the batch."""
        return replace(self, states=self.states[window], targets=self.targets[window], example=self.example[window])

    def parts(self) -> Iterator[tuple[slice, "Predictions"]]:
        """(examples, their predictions) in runs of whole examples whose [P, C] table stays near ``CHUNK`` numbers."""
        counts = self.positions_per_example().tolist()
        limit, first, start = max(1, CHUNK // self.classes), 0, 0
        while first < self.size:
            last, stop = first + 1, start + counts[first]
            while last < self.size and stop + counts[last] - start <= limit:
                last, stop = last + 1, stop + counts[last]
            part = self.at(slice(start, stop))
            yield slice(first, last), replace(part, example=part.example - first, size=last - first)
            first, start = last, stop

    def truth(self) -> Tensor:
        """[P] log-probability of the true class."""
        return over_positions(_truth, self)

    def correct(self) -> Tensor:
        """[P] 1.0 where the most probable class is the true one."""
        return (self.top() == self.targets).float()

    def top(self) -> Tensor:
        """[P] the most probable class."""
        return over_positions(lambda part: part.log_probs.argmax(1), self)

    def sum_per_example(self, values: Tensor) -> Tensor:
        """[P] values summed over the positions of each example: [B]."""
        return values.new_zeros(self.size).index_add(0, self.example, values)

    def positions_per_example(self) -> Tensor:
        """[B] number of scored positions of each example."""
        return torch.bincount(self.example, minlength=self.size)

    def mean_per_example(self, values: Tensor) -> Tensor:
        """[P] values averaged over the positions of each example: [B]; 0 for an example without positions."""
        return self.sum_per_example(values) / self.positions_per_example().clamp(min=1)


def over_positions(function: Callable[..., Tensor], *sides: Predictions, dense: bool = True) -> Tensor:
    """[P] ``function`` of predictions at the same positions, a chunk of positions at a time.

    Chunks of lazy predictions are computed again in the backward pass instead of being kept. What fits one chunk, and
    what is dense anyway, is computed at once. dense: ``function`` is given log-probabilities, not hidden states.
    """
    positions, size = len(sides[0].targets), max(1, CHUNK // sides[0].classes)
    if positions <= size or all(side.head is None for side in sides):
        return _apply(function, sides, dense)
    parts = []
    for start in range(0, positions, size):
        chunk = [side.at(slice(start, start + size)) for side in sides]
        parts.append(checkpoint(_apply, function, chunk, dense, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts)


def _apply(function: Callable[..., Tensor], sides: Sequence[Predictions], dense: bool) -> Tensor:
    return function(*(side.dense() if dense else side for side in sides))


def _truth(predictions: Predictions) -> Tensor:
    return predictions.log_probs.gather(1, predictions.targets.unsqueeze(1)).squeeze(1)


def cross_entropy(predictions: Predictions, smoothing: float = 0.0) -> Tensor:
    """[P] negative log-likelihood of the truth, in nats.

    smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2016); for training only.
    """
    if not smoothing:
        return -predictions.truth()
    return over_positions(
        lambda part: -(1 - smoothing) * _truth(part) - smoothing * part.log_probs.mean(1), predictions
    )


def kl(first: Predictions | TopClasses, second: Predictions) -> Tensor:
    """[P] KL(first || second) = sum_v p (log p - log q), in nats. Classes that first never uses count 0, not NaN.

    Of a first that holds its best classes only: ``kga.topk.bucketed_kl``.
    """
    if isinstance(first, TopClasses):
        return over_positions(lambda top, part: bucketed_kl(top, part.log_probs), first, second)
    if first.states.requires_grad or getattr(first.head, "trained", False):
        return over_positions(_kl, first, second)
    return over_positions(_kl_from_frozen, first, second, dense=False)


def _kl_from_frozen(first: Predictions, second: Predictions) -> Tensor:
    teacher, student = first.logits.detach(), second.logits
    _require_alike(teacher, student)
    return _FromFrozen.apply(teacher, student)


def _kl(first: Predictions, second: Predictions) -> Tensor:
    p, q = _pair(first, second)
    weight = p.exp()
    return (weight * torch.where(weight > 0, p - q, 0.0)).sum(1)


class _FromFrozen(torch.autograd.Function):
    """KL(softmax(teacher) || softmax(student)) of logits [P, C] of which the teacher's take no gradient.

    The gradient softmax(student) - softmax(teacher) is written out: nothing of size [P, C] is kept but the logits, and what
    is computed from them goes in blocks that stay in the processor's cache.
    """

    @staticmethod
    def forward(ctx, teacher: Tensor, student: Tensor) -> Tensor:
        ctx.save_for_backward(teacher, student)
        parts = []
        for _, p, q in _blocks(teacher, student):
            weight = p.exp()
            part = (p - q).mul_(weight).sum(1)
            parts.append((weight * torch.where(weight > 0, p - q, 0.0)).sum(1) if part.isnan().any() else part)
        return torch.cat(parts) if parts else student.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:
        teacher, student = ctx.saved_tensors
        found = torch.empty_like(student)
        for rows, p, q in _blocks(teacher, student):
            found[rows] = q.exp_().sub_(p.exp_()).mul_(gradient[rows].unsqueeze(1))
        return None, found


def _blocks(teacher: Tensor, student: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows, float32 log-probabilities of both) of some positions at a time."""
    size = _rows_of_block(teacher)
    for start in range(0, len(teacher), size):
        rows = slice(start, start + size)
        yield rows, *(side[rows].float().log_softmax(1) for side in (teacher, student))


def jsd(first: Predictions, second: Predictions) -> Tensor:
    """[P] Jensen-Shannon divergence, 1/2 KL(p || m) + 1/2 KL(q || m) with m = (p + q) / 2; at most ln 2 nats."""
    return over_positions(_jsd, first, second)


def _jsd(first: Predictions, second: Predictions) -> Tensor:
    middle = _middle(first, second)
    return 0.5 * _kl(first, middle) + 0.5 * _kl(second, middle)


def jsd_legacy(first: Predictions, second: Predictions) -> Tensor:
    """[P] what the released code calls JSD: 1/2 KL(m || p) + 1/2 KL(m || q). No Jensen-Shannon divergence: unbounded."""
    return distances(first, second)[:, 1]


@torch.no_grad()
def distances(first: Predictions, second: Predictions) -> Tensor:
    """[P, 3] ``jsd``, ``jsd_legacy`` and ||p - q||_2 of the probabilities, for little more than the cost of one."""
    return over_positions(_distances, first, second)


def _distances(first: Predictions, second: Predictions) -> Tensor:
    p, q = _pair(first, second)
    rows = _rows_of_block(p)
    return torch.cat([_in_block(*pair) for pair in zip(p.split(rows), q.split(rows), strict=True)])


def _rows_of_block(table: Tensor) -> int:
    """So few positions that intermediate tables stay in a processor's cache; a GPU is given all it may have at once."""
    return max(1, (BLOCK if table.device.type == "cpu" else CHUNK) // table.shape[1])


def _in_block(p: Tensor, q: Tensor) -> Tensor:
    first, second = p.exp(), q.exp()
    middle = (first + second).mul_(0.5)
    log_middle = middle.clamp(min=TINY).log_()
    inward, outward = first * (p - log_middle) + second * (q - log_middle), middle * (log_middle - 0.5 * (p + q))
    found = torch.stack((0.5 * inward.sum(1), outward.sum(1), (first - second).norm(dim=1)), 1)
    if not found.isnan().any():
        return found
    # Impossible classes: 0 log 0 counts 0; where only one model holds a class impossible the unbounded one is infinite.
    inward = (first * (p - log_middle)).where(first > 0, 0.0) + (second * (q - log_middle)).where(second > 0, 0.0)
    outward = outward.where(middle > 0, 0.0)
    return torch.stack((0.5 * inward.sum(1), outward.sum(1), found[:, 2]), 1)


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
    p, q = first.log_probs, second.log_probs
    _require_alike(p, q)
    return p, q


def _require_alike(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"the two models predict different shapes: {list(first.shape)} and {list(second.shape)}")


def _middle(first: Predictions, second: Predictions) -> Predictions:
    """The mean of two distributions, m = (p + q) / 2."""
    p, q = _pair(first, second)
    unused = (p == -torch.inf) & (q == -torch.inf)  # logaddexp has no gradient there, not even 0
    log_sum = torch.logaddexp(p.masked_fill(unused, 0.0), q.masked_fill(unused, 0.0))
    return replace(first, states=log_sum.masked_fill(unused, -torch.inf) - LN2)
