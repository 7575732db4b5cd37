"""The bucketed divergence against the full one, written out."""

import pytest
import torch

from kga.predictions import Predictions, kl
from kga.topk import TopClasses, bucketed_kl, top


def pair(positions: int = 7, classes: int = 40):
    generator = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(positions, classes, generator=generator)).double().log_softmax(1)
    q = (3 * torch.randn(positions, classes, generator=generator)).double().log_softmax(1).requires_grad_()
    return p, q


def few(p: torch.Tensor, k: int) -> TopClasses:
    ids, best, tail = top(p, k)
    rows = torch.arange(len(p))
    return TopClasses(ids, best, tail, rows * 0, rows, len(p), p.shape[1])


@pytest.mark.parametrize("k", [1, 5, 39])
def test_it_is_the_divergence_of_the_distributions_with_one_bucket(k):
    """Every position by hand: the k best classes of the teacher by themselves, all others added up."""
    p, q = pair()
    found = bucketed_kl(few(p, k), q)
    for row in range(len(p)):
        best = p[row].argsort(descending=True)[:k].tolist()
        mine = [p[row, c].exp().item() for c in best]
        others = [q[row, c].exp().item() for c in best]
        mine, others = torch.tensor([*mine, 1 - sum(mine)]), torch.tensor([*others, 1 - sum(others)])
        assert found[row].item() == pytest.approx((mine * (mine / others).log()).sum().item(), rel=1e-4)


def test_it_lacks_what_the_tails_differ_by():
    """full - bucketed = e KL(p_tail / e || q_tail / d)."""
    p, q = pair()
    teacher = few(p, 5)
    full = (p.exp() * (p - q)).sum(1)
    inside = torch.zeros_like(p, dtype=torch.bool).scatter(1, teacher.ids.long(), True)
    p_tail, q_tail = (x.masked_fill(inside, -torch.inf).log_softmax(1) for x in (p, q))
    lacking = teacher.log_tail.exp() * (p_tail.exp() * (p_tail - q_tail)).masked_fill(inside, 0.0).sum(1)
    torch.testing.assert_close(full - bucketed_kl(teacher, q), lacking)
    assert (lacking > 0).all()


def test_with_all_classes_it_is_the_full_divergence_and_has_its_gradient():
    p, q = pair()
    full = (p.exp() * (p - q)).sum()
    (wanted,) = torch.autograd.grad(full, q)
    found = bucketed_kl(few(p, 40), q).sum()
    (gradient,) = torch.autograd.grad(found, q)
    torch.testing.assert_close(found, full)
    torch.testing.assert_close(gradient, wanted)


def test_the_gradient_at_the_kept_classes_is_that_of_the_full_divergence():
    """Towards logits: q - p at the k classes."""
    p, _ = pair()
    logits = torch.randn(7, 40, generator=torch.Generator().manual_seed(3)).double().requires_grad_()
    q = logits.log_softmax(1)
    teacher = few(p, 5)
    (gradient,) = torch.autograd.grad(bucketed_kl(teacher, q).sum(), logits)
    ids = teacher.ids.long()
    torch.testing.assert_close(gradient.gather(1, ids), (q.exp() - p.exp()).gather(1, ids).detach())


def test_a_certain_teacher_gives_no_nan():
    """All mass on one class: nothing is in the bucket."""
    p = torch.full((2, 4), -torch.inf)
    p[:, 1] = 0.0
    logits = torch.zeros(2, 4, requires_grad=True)
    found = bucketed_kl(few(p, 2), logits.log_softmax(1))
    found.sum().backward()
    torch.testing.assert_close(found, torch.full((2,), 4.0).log())
    torch.testing.assert_close(logits.grad[0], torch.tensor([0.25, -0.75, 0.25, 0.25]))


def test_a_divergence_takes_either_form_of_a_teacher():
    p, q = pair()
    rows = torch.arange(len(p))
    student = Predictions(q.float(), rows * 0, rows, len(p))
    torch.testing.assert_close(kl(few(p.float(), 40), student), kl(Predictions(p.float(), rows * 0, rows, 7), student))
