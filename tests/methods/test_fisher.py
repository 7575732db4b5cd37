"""Fisher forgetting: the deviation of the noise by hand, the information by single examples, the noise by its statistics."""

import numpy as np
import pytest
import torch
from helpers import contract
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.fisher import FisherForgetting
from kga.methods.gradients import trainable


@pytest.fixture
def world():
    return contract.world("classification")


def edited(method: FisherForgetting, world, seed: int = 0) -> dict[str, torch.Tensor]:
    """What an edit adds to the weights, by parameter."""
    student = world.student().eval()
    before = {name: value.detach().clone() for name, value in trainable(student).items()}
    contract.attached(lambda: method, world)
    torch.manual_seed(seed)
    method.edit(student)
    return {name: (value - before[name]).detach() for name, value in trainable(student).items()}


def test_deviations_by_hand():
    """The mean of the five is 4."""
    fisher = {"a": torch.tensor([[16.0, 1.0], [0.0, 2.0]]), "b": torch.tensor([1.0])}
    quarter = FisherForgetting(sigma=0.1, power=0.25, limit=3.0).deviations(fisher)
    torch.testing.assert_close(quarter["a"], 0.1 * torch.tensor([[0.5**0.5, 2**0.5], [3.0, 2**0.25]]))
    torch.testing.assert_close(quarter["b"], 0.1 * torch.tensor([2**0.5]))
    half = FisherForgetting(sigma=0.1, power=0.5, limit=1.5).deviations(fisher)
    torch.testing.assert_close(half["a"], 0.1 * torch.tensor([[0.5, 1.5], [1.5, 2**0.5]]))


def test_the_default_covariance_is_the_root_of_the_inverse_information():
    fisher = {"a": torch.tensor([1e-4, 1e-2, 1.0])}
    covariance = FisherForgetting(limit=1e9).deviations(fisher)["a"].square()
    torch.testing.assert_close(covariance / covariance[2], torch.tensor([1e2, 1e1, 1.0]))


def test_no_information_at_all_gives_the_limit_everywhere():
    fisher = {"a": torch.zeros(3)}
    torch.testing.assert_close(FisherForgetting(sigma=0.1, limit=3.0).deviations(fisher)["a"], torch.full((3,), 0.3))


def test_the_noise_is_normal_with_these_deviations(world):
    """Against the information of all of D_r, one example at a time on raw logits."""
    task, fisher = world.student().eval(), {}
    examples = world.sets["retain"]
    for number in range(len(examples)):
        batch = examples.batch(np.array([number]))
        logits = task.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        task.zero_grad()
        F.cross_entropy(logits, batch["labels"]).backward()
        for name, parameter in trainable(task).items():
            fisher[name] = fisher.get(name, 0) + parameter.grad**2 / len(examples)
    mean = sum(float(value.sum()) for value in fisher.values()) / sum(value.numel() for value in fisher.values())
    method = FisherForgetting(sigma=0.01, limit=10.0, samples=None)
    noise = edited(method, world)
    expected = {name: 0.01 * ((value / mean) ** -0.25).clamp(max=10.0) for name, value in fisher.items()}
    scores = torch.cat([(noise[name] / value).flatten() for name, value in expected.items()])
    assert abs(float(scores.mean())) < 4 / len(scores) ** 0.5
    assert float(scores.square().mean()) == pytest.approx(1.0, abs=4 * (2 / len(scores)) ** 0.5)
    assert float((scores.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=2 / len(scores) ** 0.5)
    # Not only on average: loose weights and tight ones apart.
    deviations = torch.cat([value.flatten() for value in expected.values()])
    tight = deviations < deviations.quantile(0.2)
    assert float(scores[tight].square().mean()) == pytest.approx(1.0, abs=0.15)
    root = float(deviations.square().mean()) ** 0.5
    assert method.outcome() == {"updates": 0, "stopped": None, "noise": pytest.approx(root, rel=1e-4)}


def test_the_seed_decides_the_noise(world):
    first, again, other = (edited(FisherForgetting(samples=4), world, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_samples_bound_the_examples(world):
    asked: list[int] = []
    retain = world.sets["retain"]

    class Watched(type(retain)):
        def batch(self, positions):
            asked.extend(self.rows[positions].tolist())
            return super().batch(positions)

    watched = Watched(retain.table, retain.rows, retain.task)
    method = contract.attached(lambda: FisherForgetting(samples=5), world)
    method.sets["retain"] = watched
    method.edit(world.student().eval())
    assert len(asked) == len(set(asked)) == 5 and set(asked) <= set(retain.rows.tolist())


def test_parameters_that_are_not_trained_get_no_noise():
    world = contract.world("translation")
    student = world.student().eval()
    buffers = {name: value.clone() for name, value in student.named_parameters() if not value.requires_grad}
    contract.attached(lambda: FisherForgetting(samples=2), world).edit(student)
    assert buffers and all(
        torch.equal(value, dict(student.named_parameters())[name]) for name, value in buffers.items()
    )
    shared, output = student.model.get_input_embeddings(), student.model.get_output_embeddings()
    assert shared.weight is output.weight


@pytest.mark.parametrize("options", [{"sigma": -1}, {"power": -0.5}, {"limit": -1}, {"samples": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="method"):
        FisherForgetting(**options)
