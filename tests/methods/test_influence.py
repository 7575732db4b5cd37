"""Influence unlearning: its system against numpy, its step against raw gradients, its direction where the answer is known."""

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from torch.nn import functional as F

from kga.data.encoded import Examples
from kga.errors import UserError
from kga.methods import influence
from kga.methods.gradients import trainable
from kga.methods.influence import Influence, solve

HEAD = ("model.classifier.weight", "model.classifier.bias")


# The linear system --------------------------------------------------------------------------------------------------


def system(number: int = 5, seed: int = 0):
    """Gradients of ``number`` examples and a vector, for parameters of [2, 3] and [4]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (2, 3), "b": (4,)}
    table = {name: torch.randn(number, int(np.prod(shape)), generator=generator) for name, shape in shapes.items()}
    return table, {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def flat(vector: dict[str, torch.Tensor]) -> np.ndarray:
    return np.concatenate([value.detach().double().numpy().ravel() for value in vector.values()])


def dense(table: np.ndarray, vector: np.ndarray, damping: float) -> np.ndarray:
    information = damping * np.eye(table.shape[1]) + table.T @ table / len(table)
    return np.linalg.solve(information, vector)


@pytest.mark.parametrize("number", [1, 5, 40])
@pytest.mark.parametrize("damping", [1e-3, 0.5])
def test_the_solution_is_that_of_the_dense_system(number, damping):
    table, vector = system(number)
    expected = dense(np.concatenate([part.double().numpy() for part in table.values()], 1), flat(vector), damping)
    got = solve(table, vector, damping)
    assert {name: value.shape for name, value in got.items()} == {name: value.shape for name, value in vector.items()}
    np.testing.assert_allclose(flat(got), expected, rtol=1e-3, atol=1e-4 / damping * 1e-2)


def test_half_precision_around_it_changes_nothing():
    table, vector = system()
    with torch.autocast("cpu", torch.bfloat16):
        got = solve(table, vector, 0.01)
    assert all(torch.equal(got[name], value) for name, value in solve(table, vector, 0.01).items())


# The step -------------------------------------------------------------------------------------------------------------


def raw(task, examples: Examples, chosen) -> np.ndarray:
    """The gradient of the mean cross-entropy of some examples, from the model's own logits."""
    batch = examples.batch(np.array(chosen))
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "index")}
    logits, labels = task.model(**inputs).logits, batch["labels"]
    gradients = torch.autograd.grad(
        F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100), list(trainable(task).values())
    )
    return np.concatenate([value.double().numpy().ravel() for value in gradients])


@pytest.mark.parametrize("name", ["classification", "translation"])
def test_the_step_is_the_formula_on_raw_gradients(name):
    """With all of D_r as samples; translation: D_f counts by its target tokens."""
    world = contract.world(name)
    student = world.student().eval()
    for parameter in student.parameters():  # few enough for a dense system
        parameter.requires_grad_(parameter.requires_grad and parameter.numel() < 600)
    forget, retain = world.sets["forget"], world.sets["retain"]
    labels = [view.batch(np.arange(len(view)))["labels"] for view in (forget, retain)]
    n_f, n_r = (int((part != -100).sum()) for part in labels)
    change = n_f / (n_f + n_r) * (raw(student, forget, range(len(forget))) - raw(student, retain, range(len(retain))))
    table = np.stack([raw(student, retain, [number]) for number in range(len(retain))])
    expected, before = dense(table, change, 0.1), flat(trainable(student))
    method = contract.attached(lambda: Influence(scale=0.5, damping=0.1, samples=1000), world)
    method.edit(student)
    np.testing.assert_allclose(flat(trainable(student)) - before, 0.5 * expected, rtol=0.02, atol=2e-6)
    share = 0.5 * np.linalg.norm(expected) / np.linalg.norm(before)
    assert method.outcome() == {"updates": 0, "stopped": None, "step": pytest.approx(share, rel=1e-3)}


def test_samples_bound_the_gradients():
    world = contract.world("classification")
    method = contract.attached(lambda: Influence(samples=5), world)
    table = method.table(world.student().eval())
    assert {len(rows) for rows in table.values()} == {5}


# The direction --------------------------------------------------------------------------------------------------------


class Relabelled(Examples):
    """Examples with labels of their own, by row."""

    def batch(self, positions):
        return super().batch(positions) | {"labels": RELABELLED[self.rows[positions]]}


RELABELLED = torch.zeros(0, dtype=torch.long)


@pytest.fixture(scope="module")
def logistic():
    """A classifier of which only the head is trained: logistic regression with a ridge, whose optimum is known.

    Labels are drawn from a head of that kind, except for those of D_f, which all are 0. Returns the task with the head
    fitted to D, its sets, the ridge, and the heads [3, 17] fitted to D and to D_r.
    """
    global RELABELLED
    ridge, generator = 0.01, torch.Generator().manual_seed(1)
    task = contract.world("classification").opinionated(5).eval()
    for name, parameter in task.named_parameters():
        parameter.requires_grad_(name in HEAD)
    everything = tiny.examples(600, seed=2, task=task)
    batch, seen = everything.batch(np.arange(600)), []
    handle = task.model.classifier.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    with torch.no_grad():
        task.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        handle.remove()
        spread = seen[0].std()
        task.model.pre_classifier.weight /= spread  # features of size 1: the ridge is neither all nor nothing
        task.model.pre_classifier.bias /= spread
    features = torch.cat((seen[0] / spread, torch.ones(600, 1)), 1).double()
    drawn = (features @ (0.3 * torch.randn(17, 3, generator=generator)).double()).softmax(1)
    RELABELLED = torch.multinomial(drawn, 1, generator=generator).squeeze(1)
    RELABELLED[:15] = 0
    sets = {"forget": np.arange(15), "retain": np.arange(15, 600)}
    heads = [fitted(features[rows], RELABELLED[rows], ridge) for rows in (np.arange(600), sets["retain"])]
    with torch.no_grad():
        task.model.classifier.weight.copy_(heads[0][:, :-1])
        task.model.classifier.bias.copy_(heads[0][:, -1])
    views = {name: Relabelled(everything.table, rows, task) for name, rows in sets.items()}
    return task, views, ridge, heads


def fitted(features: torch.Tensor, labels: torch.Tensor, ridge: float) -> torch.Tensor:
    """[3, 17] the head of least mean cross-entropy + ridge / 2 |head|^2, by Newton's method in float64."""
    head = torch.zeros(3 * features.shape[1], dtype=torch.float64)

    def loss(values):
        return F.cross_entropy(features @ values.view(3, -1).T, labels) + ridge / 2 * values.square().sum()

    for _ in range(30):
        gradient = torch.autograd.functional.jacobian(loss, head)
        head = head - torch.linalg.solve(torch.autograd.functional.hessian(loss, head), gradient)
    assert float(torch.autograd.functional.jacobian(loss, head).abs().max()) < 1e-9
    return head.view(3, -1)


def distance(task, head: torch.Tensor) -> float:
    own = torch.cat((task.model.classifier.weight, task.model.classifier.bias[:, None]), 1)
    return float((own.detach().double() - head).norm())


def edited(logistic, scale: float) -> float:
    """The distance to the head fitted to D_r, after an edit of the head fitted to D."""
    task, sets, ridge, heads = logistic
    before = {name: value.detach().clone() for name, value in trainable(task).items()}
    Influence(scale=scale, damping=ridge, samples=1000).attach({}, sets).edit(task)
    result = distance(task, heads[1])
    with torch.no_grad():
        for name, value in trainable(task).items():
            value.copy_(before[name])
    return result


def test_the_step_leads_to_the_optimum_without_the_forget_set(logistic):
    """The Fisher information of a model that is right is its curvature: scale 1 all but arrives, -1 goes the other way."""
    task, _, _, heads = logistic
    start = distance(task, heads[1])
    assert start == pytest.approx(float((heads[0] - heads[1]).norm()), rel=1e-4)
    assert edited(logistic, 1.0) < 0.3 * start
    assert 0.4 * start < edited(logistic, 0.5) < 0.65 * start
    assert edited(logistic, -1.0) > 1.7 * start


def test_a_set_like_the_rest_leaves_the_optimum_where_it_is(logistic):
    """D_f with D_r's own examples: the gradients are equal, and nothing moves."""
    task, sets, ridge, _ = logistic
    before = distance(task, torch.zeros(3, 17))
    method = Influence(damping=ridge).attach({}, {"forget": sets["retain"], "retain": sets["retain"]})
    method.edit(task)
    assert method.outcome()["step"] < 1e-5 and distance(task, torch.zeros(3, 17)) == pytest.approx(before, rel=1e-5)


# Refusals -------------------------------------------------------------------------------------------------------------


def test_too_many_gradients_are_refused_before_anything_is_computed(monkeypatch):
    world = contract.world("classification")
    student = world.student()
    weights = sum(parameter.numel() for parameter in trainable(student).values())
    for name in ("mean_gradient", "batch_gradients"):
        monkeypatch.setattr(influence, name, lambda *arguments, **options: pytest.fail("computed"))
    needed = 20 * weights * 4 / 1e9
    method = contract.attached(lambda: Influence(samples=20, memory_gb=0.99 * needed), world)
    with pytest.raises(UserError, match=r"method\.samples=20: 20 gradients .* method\.memory_gb") as refusal:
        method.edit(student)
    assert "\n" not in str(refusal.value)


def test_gradients_that_just_fit_are_taken():
    world = contract.world("classification")
    weights = sum(parameter.numel() for parameter in trainable(world.student()).values())
    method = contract.attached(lambda: Influence(samples=10_000, memory_gb=1.01 * 64 * weights * 4 / 1e9), world)
    method.edit(world.student())  # D_r has 64 examples


@pytest.mark.parametrize("options", [{"damping": 0.0}, {"samples": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="method"):
        Influence(**options)
