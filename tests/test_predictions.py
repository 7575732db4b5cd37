"""Divergences against scipy and by hand; what impossible classes, lengths and extremes do to them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

import kga.predictions
from kga.predictions import LN2, Predictions, cross_entropy, distances, divergence, jsd, jsd_legacy, kl, over_positions

LOGITS = arrays(np.float32, (2, 3, 4), elements=st.floats(-30, 30, width=32))


def predictions(log_probs, targets=None, example=None) -> Predictions:
    log_probs = torch.as_tensor(log_probs)
    count = len(log_probs)
    targets = torch.zeros(count, dtype=torch.int64) if targets is None else torch.tensor(targets)
    example = torch.arange(count) if example is None else torch.tensor(example)
    return Predictions(log_probs, targets, example, int(example.max()) + 1)


def of(probabilities) -> Predictions:
    return predictions(torch.tensor(probabilities, dtype=torch.float32).log())


def pair_of(logits: np.ndarray) -> tuple[Predictions, Predictions]:
    first, second = torch.from_numpy(logits).log_softmax(-1)
    return predictions(first), predictions(second)


def in_double(side: Predictions) -> np.ndarray:
    probabilities = side.log_probs.double().exp().numpy()
    return probabilities / probabilities.sum(1, keepdims=True)


def test_kl_by_hand():
    first, second = of([[0.5, 0.5], [0.25, 0.75]]), of([[0.25, 0.75], [0.5, 0.5]])
    expected = [
        0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        0.25 * math.log(0.5) + 0.75 * math.log(1.5),
    ]
    torch.testing.assert_close(kl(first, second), torch.tensor(expected))


@settings(max_examples=25, deadline=None)
@given(LOGITS)
def test_kl_is_scipys_relative_entropy(logits):
    first, second = pair_of(logits)
    expected = rel_entr(in_double(first), in_double(second)).sum(1)
    np.testing.assert_allclose(kl(first, second).numpy(), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(LOGITS)
def test_jsd_is_scipys_distance_squared_and_at_most_ln_2(logits):
    first, second = pair_of(logits)
    expected = jensenshannon(in_double(first), in_double(second), axis=1) ** 2
    found = jsd(first, second)
    np.testing.assert_allclose(found.numpy(), np.nan_to_num(expected), rtol=1e-4, atol=1e-5)
    assert bool((found <= LN2 + 1e-6).all())
    torch.testing.assert_close(found, jsd(second, first))


def test_identical_models_are_at_distance_0():
    side = predictions(torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).log_softmax(1))
    for distance in (kl, jsd, jsd_legacy):
        torch.testing.assert_close(distance(side, side), torch.zeros(5), atol=1e-6, rtol=0)


def test_disjoint_distributions_are_ln_2_apart_and_the_released_quantity_is_not():
    first, second = of([[1.0, 0.0]]), of([[0.0, 1.0]])
    assert jsd(first, second).item() == pytest.approx(math.log(2), abs=1e-6)
    assert jsd_legacy(first, second).item() == math.inf


def test_the_released_jsd_by_hand():
    first, second = of([[0.9, 0.1]]), of([[0.5, 0.5]])
    middle = np.array([0.7, 0.3])
    expected = sum(0.5 * rel_entr(middle, side).sum() for side in ([0.9, 0.1], [0.5, 0.5]))
    assert jsd_legacy(first, second).item() == pytest.approx(expected, rel=1e-5)
    assert jsd_legacy(first, second).item() != pytest.approx(jsd(first, second).item(), rel=1e-2)


def masked_logits(seed: int) -> torch.Tensor:
    """Logits of a vocabulary whose last two entries can never be predicted."""
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed))
    logits[:, 4:] = -torch.inf
    return logits.requires_grad_()


@pytest.mark.parametrize("order", ["teacher_student", "student_teacher", "js"])
def test_impossible_classes_change_neither_values_nor_gradients(order):
    """Classes of log-probability -inf on both sides count as if they were not there."""
    teacher, student = masked_logits(0), masked_logits(1)
    full = divergence(order, predictions(teacher.log_softmax(1)), predictions(student.log_softmax(1)))
    cut = divergence(order, predictions(teacher[:, :4].log_softmax(1)), predictions(student[:, :4].log_softmax(1)))
    torch.testing.assert_close(full, cut)
    gradient, expected = (torch.autograd.grad(value.sum(), student)[0] for value in (full, cut))
    torch.testing.assert_close(gradient, expected)


def test_a_class_that_only_one_side_can_use():
    half, sure = of([[0.5, 0.5]]), of([[1.0, 0.0]])
    assert kl(sure, half).item() == pytest.approx(math.log(2))
    assert kl(half, sure).item() == math.inf
    assert jsd(half, sure).item() == pytest.approx(jensenshannon([0.5, 0.5], [1, 0]) ** 2, abs=1e-6)


def test_a_probability_that_underflows_meets_an_impossible_class():
    first = predictions(torch.tensor([[0.0, -200.0]]))
    second = predictions(torch.tensor([[0.0, -torch.inf]]))
    assert kl(first, second).item() == 0.0


def test_orders_name_the_first_argument_of_the_kl():
    teacher, student = of([[0.9, 0.1]]), of([[0.4, 0.6]])
    assert divergence("teacher_student", teacher, student) == kl(teacher, student)
    assert divergence("student_teacher", teacher, student) == kl(student, teacher)
    assert divergence("js", teacher, student) == jsd(student, teacher)
    assert kl(teacher, student) != kl(student, teacher)
    with pytest.raises(ValueError, match="expected teacher_student"):
        divergence("kl", teacher, student)


def test_bernoulli_kl_of_labels_by_the_formula():
    """sigma(t)(log sigma(t) - log sigma(s)) + sigma(-t)(log sigma(-t) - log sigma(-s)) at every label."""
    teacher, student = torch.tensor([2.0, -1.0, 40.0]), torch.tensor([-1.0, -1.0, -40.0])
    log_sigmoid = torch.nn.functional.logsigmoid
    sides = [predictions(log_sigmoid(torch.stack((-logits, logits), 1))) for logits in (teacher, student)]
    t, s = teacher.double(), student.double()
    expected = t.sigmoid() * (log_sigmoid(t) - log_sigmoid(s)) + (-t).sigmoid() * (log_sigmoid(-t) - log_sigmoid(-s))
    torch.testing.assert_close(kl(*sides), expected.float())


def test_softmax_is_blind_to_a_common_shift_and_labels_of_their_own_are_not():
    """Why multi-label models are compared label by label: the toy of three labels shifted by 4."""
    teacher = torch.tensor([[0.5, -0.2, 0.1]])
    student = teacher + 4
    assert kl(predictions(teacher.log_softmax(1)), predictions(student.log_softmax(1))).item() == pytest.approx(
        0, abs=1e-6
    )
    log_sigmoid = torch.nn.functional.logsigmoid
    sides = [predictions(log_sigmoid(torch.stack((-side[0], side[0]), 1))) for side in (teacher, student)]
    assert kl(*sides).sum().item() > 2


def test_sums_and_means_per_example_follow_the_positions():
    side = predictions(torch.zeros(4, 2), example=[2, 0, 2, 2])
    values = torch.tensor([1.0, 10.0, 2.0, 6.0])
    assert side.sum_per_example(values).tolist() == [10, 0, 9]
    assert side.positions_per_example().tolist() == [1, 0, 3]
    assert side.mean_per_example(values).tolist() == [10, 0, 3]


def test_truth_loss_and_correctness():
    side = predictions(torch.tensor([[0.2, 0.8], [0.7, 0.3]]).log(), targets=[1, 1])
    assert side.truth().exp().tolist() == pytest.approx([0.8, 0.3])
    assert cross_entropy(side).tolist() == pytest.approx([-math.log(0.8), -math.log(0.3)])
    assert side.correct().tolist() == [1.0, 0.0]


def test_detached_predictions_carry_no_gradient():
    side = predictions(torch.zeros(1, 2, requires_grad=True).log_softmax(1))
    assert side.log_probs.requires_grad
    assert not side.detach().log_probs.requires_grad


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\[3\]"):
        Predictions(torch.zeros(2, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="different shapes"):
        kl(of([[0.5, 0.5]]), of([[0.2, 0.3, 0.5]]))


# Lazy predictions -------------------------------------------------------------------------------------------------


class Head:
    """Hidden states [P, H] to logits [P, C], a step at a time recorded."""

    def __init__(self, hidden: int, classes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(hidden, classes, generator=generator, dtype=torch.float64).float().requires_grad_()
        self.classes, self.seen = classes, []

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(hidden))
        return hidden @ self.weight


POSITIONS = [2, 2, 0, 5, 1]  # of each example, one of which has none
TOTAL, CLASSES = sum(POSITIONS), 7


def lazy(seed: int) -> Predictions:
    """Predictions of five examples through an output layer; states and layer take gradients."""
    generator = torch.Generator().manual_seed(100 + seed)
    states = (3 * torch.randn(TOTAL, 4, generator=generator)).requires_grad_()
    example = torch.repeat_interleave(torch.arange(len(POSITIONS)), torch.tensor(POSITIONS))
    targets = torch.randint(CLASSES, (TOTAL,), generator=generator)
    return Predictions(states, targets, example, len(POSITIONS), Head(4, CLASSES, seed))


QUANTITIES = {
    "log_probs": lambda one, other: one.log_probs[:, 2],
    "truth": lambda one, other: one.truth(),
    "loss": lambda one, other: cross_entropy(one),
    "smoothed loss": lambda one, other: cross_entropy(one, 0.2),
    "kl": kl,
    "jsd": jsd,
    "half dense": lambda one, other: kl(one.dense().detach(), other),
    "dense student": lambda one, other: kl(one, other.dense()),
    "frozen teacher": lambda one, other: kl(one.detach(), other),
}


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("chunk", [1, CLASSES, 3 * CLASSES + 2, TOTAL * CLASSES - 1, 2**24])
def test_lazy_is_dense_in_values_and_gradients(quantity, chunk, monkeypatch):
    """Chunks of one position, of several with a rest, and one that holds them all."""
    one, other = lazy(0), lazy(1)
    leaves = [one.states, one.head.weight, other.states, other.head.weight]
    weights = torch.arange(1.0, TOTAL + 1)  # so that positions put in another order would show
    expected = QUANTITIES[quantity](one.dense(), other.dense())
    wanted = torch.autograd.grad((weights * expected).sum(), leaves, allow_unused=True)
    monkeypatch.setattr(kga.predictions, "CHUNK", chunk)
    found = QUANTITIES[quantity](one, other)
    given_gradients = torch.autograd.grad((weights * found).sum(), leaves, allow_unused=True)
    torch.testing.assert_close(found, expected)
    for gradient, reference in zip(given_gradients, wanted, strict=True):
        if reference is None:
            assert gradient is None
        else:
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 2 * CLASSES, 2**24])
def test_lazy_choices_are_dense_ones(chunk, monkeypatch):
    monkeypatch.setattr(kga.predictions, "CHUNK", chunk)
    side = lazy(0)
    table = (side.states.detach().double() @ side.head.weight.detach().double()).log_softmax(1)
    torch.testing.assert_close(side.log_probs.double(), table, rtol=1e-4, atol=1e-4)
    assert torch.equal(side.top(), table.argmax(1))
    assert torch.equal(side.correct(), (table.argmax(1) == side.targets).float())
    assert side.classes == side.dense().classes == CLASSES
    assert not side.detach().truth().isnan().any() and side.dense().head is None


def test_the_whole_table_never_lives_at_once(monkeypatch):
    """No call of the output layer is larger than a chunk, in the forward pass and when it is made again."""
    monkeypatch.setattr(kga.predictions, "CHUNK", 3 * CLASSES)
    one, other = lazy(0), lazy(1)
    value = kl(one, other).sum()
    assert one.head.seen == other.head.seen == [3, 3, 3, 1]
    value.backward()
    assert len(one.head.seen) == 8 and max(one.head.seen + other.head.seen) == 3


def test_a_chunk_holds_at_least_one_position(monkeypatch):
    monkeypatch.setattr(kga.predictions, "CHUNK", CLASSES - 1)
    side = lazy(0)
    side.truth()
    assert side.head.seen == [1] * TOTAL


def test_no_positions_at_all(monkeypatch):
    monkeypatch.setattr(kga.predictions, "CHUNK", 1)
    side, other = (lazy(seed).at(slice(0, 0)) for seed in (0, 1))
    assert [len(value) for value in (side.truth(), side.top(), kl(side, other), cross_entropy(side, 0.1))] == [0] * 4


def test_functions_of_positions_are_put_in_order(monkeypatch):
    monkeypatch.setattr(kga.predictions, "CHUNK", 2 * CLASSES)
    side = lazy(0)
    assert torch.equal(over_positions(lambda part: part.targets, side), side.targets)
    assert torch.equal(over_positions(lambda part: part.example, side), side.example)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),  # whoever is longer stands alone
        (4, [(0, 3), (3, 4), (4, 5)]),  # the third, without positions, costs nothing
        (6, [(0, 3), (3, 5)]),
        (9, [(0, 4), (4, 5)]),
        (10, [(0, 5)]),
        (1000, [(0, 5)]),
    ],
)
def test_parts_are_whole_examples_within_the_limit(limit, expected, monkeypatch):
    monkeypatch.setattr(kga.predictions, "CHUNK", limit * CLASSES)
    side = lazy(0)
    parts = list(side.parts())
    assert [(cut.start, cut.stop) for cut, _ in parts] == expected
    for cut, part in parts:
        assert part.size == cut.stop - cut.start
        assert part.positions_per_example().tolist() == POSITIONS[cut]
        assert len(part.targets) <= limit or part.size == 1
    assert torch.equal(torch.cat([part.targets for _, part in parts]), side.targets)
    assert torch.equal(torch.cat([part.states for _, part in parts]), side.states)
    sums = torch.cat([part.sum_per_example(part.truth()) for _, part in parts])
    torch.testing.assert_close(sums, side.sum_per_example(side.truth()))


def test_parts_of_dense_predictions_are_the_same(monkeypatch):
    monkeypatch.setattr(kga.predictions, "CHUNK", 4 * CLASSES)
    side = lazy(0)
    for (cut, part), (expected, other) in zip(side.dense().parts(), side.parts(), strict=True):
        assert cut == expected and part.size == other.size
        assert torch.equal(part.example, other.example)
        torch.testing.assert_close(part.log_probs, other.log_probs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.integers(1, 12))
def test_parts_cover_every_example_once(counts, limit):
    example = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    states = torch.arange(len(example), dtype=torch.float32)[:, None].expand(-1, 2)
    side = Predictions(states, torch.zeros(len(example), dtype=torch.int64), example, len(counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kga.predictions, "CHUNK", 2 * limit)
        parts = list(side.parts())
    assert [number for cut, _ in parts for number in range(cut.start, cut.stop)] == list(range(len(counts)))
    assert torch.equal(torch.cat([part.states for _, part in parts]), states)
    assert [count for _, part in parts for count in part.positions_per_example().tolist()] == counts
    assert all(len(part.targets) <= limit or part.size - part.positions_per_example().eq(0).sum() == 1
               for _, part in parts)  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_torchs(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits, targets = 4 * torch.randn(9, 6, generator=generator), torch.arange(9) % 6
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    side = predictions(logits.log_softmax(1), targets=targets.tolist())
    torch.testing.assert_close(cross_entropy(side, smoothing), expected)


@pytest.mark.parametrize("impossible", [False, True])
def test_distances_are_those_of_scipy_whatever_the_block(impossible, monkeypatch):
    logits = torch.randn(2, 23, 40, generator=torch.Generator().manual_seed(0)) * 4
    if impossible:
        logits[:, ::2, :5] = -torch.inf  # for both
        logits[0, 1::2, 7] = -torch.inf  # for one
    sides = [Predictions(part.log_softmax(1), torch.zeros(23).long(), torch.arange(23), 23) for part in logits]
    p, q = (side.log_probs.double().exp().numpy() for side in sides)
    m = (p + q) / 2
    wanted = [
        (rel_entr(p, m) + rel_entr(q, m)).sum(1) / 2,
        (rel_entr(m, p) + rel_entr(m, q)).sum(1) / 2,
        np.sqrt(((p - q) ** 2).sum(1)),
    ]
    for block in (2**18, 40 * 7, 1):
        monkeypatch.setattr(kga.predictions, "BLOCK", block)
        np.testing.assert_allclose(distances(*sides).T, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(distances(*sides)[:, 0], jsd(*sides), rtol=1e-4, atol=1e-6)
    assert np.isinf(wanted[1]).any() == impossible


@pytest.mark.parametrize("block", [1, 50, 2**18])
def test_the_gradient_from_a_frozen_teacher_is_autograds(block, monkeypatch):
    """Also where a class is impossible for the teacher, and in bfloat16 within its rounding."""
    monkeypatch.setattr(kga.predictions, "BLOCK", block)
    generator = torch.Generator().manual_seed(1)
    teacher, student = (3 * torch.randn(9, 30, generator=generator) for _ in range(2))
    teacher[0, :4] = -torch.inf
    student.requires_grad_()
    weights = torch.arange(1.0, 10.0)
    p, q = teacher.double().log_softmax(1), student.double().log_softmax(1)
    wanted = torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(1)
    (gradient,) = torch.autograd.grad((weights * wanted).sum(), student)
    rows = torch.arange(9)
    for kind, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.03)):
        leaf = student.detach().to(kind).requires_grad_()
        found = kga.predictions._FromFrozen.apply(teacher.to(kind), leaf)
        (given_gradient,) = torch.autograd.grad((weights * found).sum(), leaf)
        torch.testing.assert_close(found.double(), wanted.detach(), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(given_gradient.float(), gradient, rtol=tolerance, atol=10 * tolerance)
    side = Predictions(teacher.log_softmax(1), rows, rows, 9)
    again = kl(side, Predictions(q.float().detach(), rows, rows, 9))
    torch.testing.assert_close(again.double(), wanted.detach(), rtol=1e-5, atol=1e-5)
