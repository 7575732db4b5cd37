"""The update is the unit: however it is cut into steps and processes, its loss and gradient are those of the whole."""

import threading

import pytest
import torch
from torch import nn

from kga.objective import Objective, Supervised, backpropagate
from kga.optim import Optim
from kga.predictions import Predictions, kl

EXAMPLES, TIME, WIDTH, CLASSES = 16, 4, 5, 3


class Toy(nn.Module):
    """Predicts every unmasked position of [B, T, WIDTH] inputs by one linear layer after dropout."""

    device = torch.device("cpu")
    optim = Optim()

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.linear.weight.copy_(random(7, CLASSES, WIDTH))
            self.linear.bias.zero_()

    def predict(self, batch, view="scored") -> Predictions:
        example, position = batch["mask"].nonzero(as_tuple=True)
        log_probs = self.linear(self.dropout(batch["x"][example, position])).log_softmax(1)
        return Predictions(log_probs, batch["labels"][example, position], example, len(batch["x"]))

    def count(self, batch, unit, view="scored") -> int:
        return int(batch["mask"].sum()) if unit == "position" else len(batch["x"])


class Gap(Objective):
    """penalty(mean KL on forget - mean KL on new) + 2 * mean cross-entropy on retain, against a frozen teacher."""

    nonlinear = ("forget", "new")

    def __init__(self, penalty=torch.abs, units=None) -> None:
        self.penalty, self.units = penalty, units or {}
        self.teacher = Toy()
        self.teacher.linear.weight.data.copy_(random(8, CLASSES, WIDTH))
        self.seen: list[dict[str, float]] = []

    def terms(self, module, step):
        sums = {}
        for name, batch in step.items():
            student = module.predict(batch)
            if name == "retain":
                sums[name] = -student.truth().sum()
            else:
                sums[name] = kl(self.teacher.predict(batch).detach(), student).sum()
        self.seen.append({name: value.item() for name, value in sums.items()})
        return sums

    def combine(self, means):
        return self.penalty(means["forget"] - means["new"]) + 2 * means.get("retain", 0.0)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(seed: int, size: int = EXAMPLES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, TIME + 1, (size, 1), generator=generator)
    return {
        "x": torch.randn(size, TIME, WIDTH, generator=generator),
        "mask": torch.arange(TIME) < lengths,
        "labels": torch.randint(CLASSES, (size, TIME), generator=generator),
    }


def cut(whole: dict, sizes) -> list[dict]:
    parts = {name: value.split(sizes) for name, value in whole.items()}
    return [dict(zip(parts, piece, strict=True)) for piece in zip(*parts.values(), strict=True)]


def run(objective: Objective, update, module=None, **options):
    """Gradient of the weight, means and loss of an update."""
    module = module or Toy()
    means, loss = backpropagate(objective, module, update, lambda value: value.backward(), **options)
    return module.linear.weight.grad, means, loss


CUTS = ([8, 8], [1, 15], [3, 5, 8], [16])


@pytest.mark.parametrize("sizes", CUTS)
def test_supervised_micro_batches_equal_the_whole_batch(sizes):
    whole = batch(1)
    module = Toy()
    predicted = module.predict(whole)
    expected = -predicted.truth().mean()
    (gradient,) = torch.autograd.grad(expected, module.linear.weight)
    found, means, loss = run(Supervised(), [{"train": part} for part in cut(whole, sizes)])
    torch.testing.assert_close(found, gradient)
    assert loss == pytest.approx(expected.item())
    assert means == {"train": pytest.approx(expected.item())}


PENALTIES = {
    "abs": torch.abs,
    "squared": torch.square,
    "huber": lambda gap: nn.functional.huber_loss(gap, torch.zeros(()), delta=0.1),
    "hinge": torch.relu,
    "hinge the other way": lambda gap: torch.relu(-gap),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("sizes", CUTS)
@pytest.mark.parametrize("unit", ["position", "example"])
def test_nonlinear_micro_batches_equal_autograd_of_the_whole(penalty, sizes, unit):
    forget, new, retain = batch(1), batch(2), [batch(3), batch(4, 5)]
    objective = Gap(PENALTIES[penalty], dict.fromkeys(("forget", "new", "retain"), unit))
    module = Toy()
    sums = objective.terms(module, {"forget": forget, "new": new})
    sums["retain"] = sum(objective.terms(module, {"retain": part})["retain"] for part in retain)
    counts = {"forget": module.count(forget, unit), "new": module.count(new, unit)}
    counts["retain"] = sum(module.count(part, unit) for part in retain)
    expected = objective.combine({name: sums[name] / counts[name] for name in sums})
    (gradient,) = torch.autograd.grad(expected, module.linear.weight)

    update = [{"forget": a, "new": b} for a, b in zip(cut(forget, sizes), cut(new, sizes), strict=True)]
    found, means, loss = run(objective, update + [{"retain": part} for part in retain])
    torch.testing.assert_close(found, gradient)
    assert loss == pytest.approx(expected.item())
    assert means == pytest.approx({name: (sums[name] / counts[name]).item() for name in sums})


def test_sets_of_different_size_and_separate_steps():
    """Nonlinear sets need neither the same number of examples nor a common step."""
    forget, new = batch(1, 6), batch(2, 11)
    together, *_ = run(Gap(), [{"forget": forget, "new": new}])
    apart, *_ = run(Gap(), [{"forget": forget}, {"new": new}])
    ragged, *_ = run(Gap(), [{"forget": forget, "new": cut(new, [6, 5])[0]}, {"new": cut(new, [6, 5])[1]}])
    torch.testing.assert_close(apart, together)
    torch.testing.assert_close(ragged, together)


def test_the_mean_of_absolute_values_would_be_something_else():
    """What the engine avoids: |a - g| of each micro-batch, averaged, has another gradient."""
    forget, new = batch(1), batch(2)
    pieces = list(zip(cut(forget, [8, 8]), cut(new, [8, 8]), strict=True))
    whole, *_ = run(Gap(), [{"forget": a, "new": b} for a, b in pieces])
    naive = sum(run(Gap(), [{"forget": a, "new": b}])[0] for a, b in pieces) / 2
    assert not torch.allclose(whole, naive, atol=1e-4)


def test_dropout_is_the_same_when_measured_and_when_differentiated():
    forget, new, retain = batch(1), batch(2), batch(3)
    pieces = [{"forget": a, "new": b} for a, b in zip(cut(forget, [8, 8]), cut(new, [8, 8]), strict=True)]
    update = [*pieces, {"retain": retain}]
    objective, module = Gap(), Toy(dropout=0.5)
    torch.manual_seed(0)
    found, _, loss = run(objective, update, module)
    after = torch.get_rng_state()
    measured, differentiated = objective.seen[:2], objective.seen[2:4]
    assert measured == differentiated
    assert measured[0] != measured[1]

    torch.manual_seed(0)
    parts = [objective.terms(module, step) for step in update]
    assert torch.equal(after, torch.get_rng_state())
    means = {
        name: sum(part[name] for part in parts if name in part)
        / sum(module.count(step[name], "position") for step in update if name in step)
        for name in ("forget", "new", "retain")
    }
    expected = objective.combine(means)
    (gradient,) = torch.autograd.grad(expected, module.linear.weight)
    torch.testing.assert_close(found, gradient)
    assert loss == pytest.approx(expected.item())


def test_one_step_is_measured_by_the_pass_that_differentiates_it():
    objective = Gap()
    run(objective, [{"forget": batch(1), "new": batch(2)}, {"retain": batch(3)}])
    assert [set(step) for step in objective.seen] == [{"forget", "new"}, {"retain"}]


def test_every_step_is_backpropagated_at_once():
    """Graphs never pile up: each step's loss comes before the next step's prediction."""
    events: list[str] = []

    class Watched(Supervised):
        def terms(self, module, step):
            events.append("predict")
            return super().terms(module, step)

    def backward(value):
        events.append("backward")
        value.backward()

    backpropagate(Watched(), Toy(), [{"train": part} for part in cut(batch(1), [8, 8])], backward)
    assert events == ["predict", "backward", "predict", "backward"]


class Processes:
    """Adds tensors over threads that stand for the processes of data-parallel training."""

    def __init__(self, size: int) -> None:
        self.barrier, self.values = threading.Barrier(size, timeout=20), [torch.zeros(())] * size

    def reduce_on(self, rank: int):
        def reduce(value: torch.Tensor) -> torch.Tensor:
            self.values[rank] = value
            self.barrier.wait()
            total = sum(self.values)
            self.barrier.wait()
            return total

        return reduce


def test_two_processes_equal_one():
    """With their shares of unequal length, and gradients averaged as data-parallel training does."""
    forget, new, retain = batch(1), batch(2), batch(3)
    whole, means, loss = run(Gap(), [{"forget": forget, "new": new}, {"retain": retain}])
    shares = zip(*(cut(each, [6, 10]) for each in (forget, new, retain)), strict=True)
    processes, results = Processes(2), {}

    def process(rank: int, update) -> None:
        results[rank] = run(Gap(), update, reduce=processes.reduce_on(rank), world_size=2)

    threads = [
        threading.Thread(target=process, args=(rank, [{"forget": a, "new": b}, {"retain": c}]))
        for rank, (a, b, c) in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close((results[0][0] + results[1][0]) / 2, whole)
    for rank in range(2):
        assert results[rank][1] == pytest.approx(means)
        assert results[rank][2] == pytest.approx(loss)


def test_a_set_without_a_term_and_a_term_without_effect():
    class Half(Objective):
        def terms(self, module, step):
            return {"retain": -module.predict(step["retain"]).truth().sum()}

        def combine(self, means):
            return 3 * means["retain"]

    gradient, means, loss = run(Half(), [{"forget": batch(1), "retain": batch(2)}])
    expected, plain, _ = run(Supervised(), [{"retain": batch(2)}])
    torch.testing.assert_close(gradient, 3 * expected)
    assert means == plain
    assert loss == pytest.approx(3 * plain["retain"])


def test_an_objective_without_terms_says_so():
    with pytest.raises(NotImplementedError, match="Objective declares no loss"):
        run(Objective(), [{"train": batch(1)}])
