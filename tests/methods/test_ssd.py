"""SSD against its formula on importances made by hand, and its importances against autograd on raw logits."""

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.gradients import trainable
from kga.methods.ssd import SSD, norm_parameters, squared_norm
from kga.predictions import Predictions

WEIGHT = "model.classifier.weight"  # [3, 16]


def edited(monkeypatch, here: torch.Tensor, everywhere: torch.Tensor, **options) -> tuple[SSD, torch.Tensor, dict]:
    """An edit of weights that all are 2, from importances of the first weights of the classifier (elsewhere: 1 and 1).

    Returns the method, those weights and all parameters.
    """
    task = tiny.classifier()
    parameters = trainable(task)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(2.0)
    importances = [{name: torch.ones_like(value) for name, value in parameters.items()} for _ in range(2)]
    for importance, values in zip(importances, (here, everywhere), strict=True):
        importance[WEIGHT] = importance[WEIGHT].detach()
        importance[WEIGHT].flatten()[: len(values)] = values
    method = SSD(**options)
    monkeypatch.setattr(method, "measure", lambda models, examples, title: importances[0])
    method.attach({}, {"forget": None}, {"importance": importances[1]})
    method.edit(task)
    return method, parameters[WEIGHT].flatten()[: len(here)].detach(), parameters


def test_weights_that_matter_to_the_forget_set_are_dampened_by_the_ratio(monkeypatch):
    here, everywhere = torch.tensor([5.0, 10.0, 20.0, 100.0, 30.0]), torch.tensor([1.0, 1.0, 1.0, 1.0, 2.0])
    method, weights, parameters = edited(monkeypatch, here, everywhere)
    torch.testing.assert_close(weights, 2 * torch.tensor([1.0, 1.0, 1 / 20, 1 / 100, 2 / 30]))
    total = sum(parameter.numel() for parameter in parameters.values())
    assert method.outcome() == {"updates": 0, "stopped": None, "dampened": pytest.approx(3 / total)}
    assert all((value == 2).all() for name, value in parameters.items() if name != WEIGHT)


def test_alpha_says_where_and_lam_how_far_and_nothing_grows(monkeypatch):
    here, everywhere = torch.tensor([5.0, 20.0, 100.0]), torch.ones(3)
    _, weights, _ = edited(monkeypatch, here, everywhere, alpha=4.0, lam=10.0)
    torch.testing.assert_close(weights, 2 * torch.tensor([1.0, 0.5, 0.1]))


def test_an_edit_without_effect_says_so(monkeypatch, capsys):
    edited(monkeypatch, torch.tensor([9.0]), torch.tensor([1.0]))
    assert "SSD dampened no weight: lower method.alpha" in capsys.readouterr().out
    edited(monkeypatch, torch.tensor([11.0]), torch.tensor([1.0]))
    assert "SSD" not in capsys.readouterr().out


def test_weights_without_importance_are_safe(monkeypatch):
    """0 against 0 stays; what matters to the forget set alone goes to 0."""
    _, weights, _ = edited(monkeypatch, torch.tensor([0.0, 3.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))
    assert weights.tolist() == [2.0, 0.0, 2.0]


def raw_logits(task, batch) -> torch.Tensor:
    """[P, C] or, of a multi-label model, [B, labels]."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "index")}
    logits = task.model(**inputs).logits
    return logits if task.name == "classification" else logits[batch["labels"] != -100]


@pytest.mark.parametrize("name", ["classification", "translation"])
def test_the_whole_edit_on_raw_gradients(name):
    """All steps again in plain torch, with gradients of single examples."""
    world = contract.world(name)
    method, student = contract.attached(lambda: SSD(batch_size=1, alpha=1.5), world), world.student()

    def importance(examples):
        task, total = world.student().eval(), {}
        for number in range(len(examples)):
            batch = examples.batch(np.array([number]))
            labels = batch["labels"][batch["labels"] != -100]
            task.zero_grad()
            F.cross_entropy(raw_logits(task, batch), labels).backward()
            for key, parameter in trainable(task).items():
                total[key] = total.get(key, 0) + parameter.grad**2 / len(examples)
        return total

    here, everywhere = importance(world.sets["forget"]), importance(world.sets["train"])
    before = {key: value.detach().clone() for key, value in trainable(student).items()}
    method.edit(student.eval())
    count = 0
    for key, value in trainable(student).items():
        chosen = here[key] > 1.5 * everywhere[key]
        if "norm" in key.lower():
            chosen[:] = False
        count += int(chosen.sum())
        expected = before[key] * torch.where(chosen, everywhere[key] / here[key], torch.ones(()))
        close = torch.isclose(value, expected, rtol=1e-3, atol=1e-6)
        assert (~close).sum() <= 1e-3 * value.numel(), key  # ratios that round to either side of alpha
    total = sum(value.numel() for value in before.values())
    assert method.outcome()["dampened"] == pytest.approx(count / total, abs=1e-3)
    assert 0.001 < count / total < 0.9


@pytest.mark.parametrize("multi_label", [False, True])
def test_label_free_importance_is_the_size_of_the_gradient_of_the_squared_outputs(multi_label):
    task = tiny.classifier(seed=3, multi_label=multi_label)
    examples = tiny.examples(5, seed=4, task=task)
    got = SSD(importance="magnitude", batch_size=5).measure([task], examples, "test")
    logits = raw_logits(task, examples.batch(np.arange(5)))
    # Of two classes z and 0: (z / 2)^2 + (z / 2)^2, averaged over the labels.
    norm = (logits**2 / 2).mean() if multi_label else ((logits - logits.mean(1, keepdim=True)) ** 2).sum(1).mean()
    norm.backward()
    for name, parameter in trainable(task).items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.abs()
        torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-6)


def test_label_free_importance_sees_no_label():
    task = tiny.translator(seed=3)
    examples = tiny.examples(6, seed=4, task=task)

    class Relabelled(type(examples)):
        def batch(self, positions):
            batch = super().batch(positions)
            return batch | {"labels": torch.where(batch["labels"] == -100, -100, (batch["labels"] + 7) % 300)}

    other = Relabelled(examples.table, examples.rows, examples.task)
    for importance, same in (("magnitude", True), ("fisher", False)):
        first, second = (SSD(importance=importance).measure([task], of, "test") for of in (examples, other))
        assert all(torch.allclose(first[name], second[name]) for name in first) == same


def test_the_squared_norm_does_not_depend_on_a_shift():
    logits = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0]])
    predictions = Predictions((logits + 4).log_softmax(1), torch.zeros(2, dtype=torch.long), torch.arange(2), 2)
    torch.testing.assert_close(squared_norm(predictions), torch.tensor([4.0 + 1.0 + 9.0, 0.0]))


def test_norms_are_known_in_every_architecture_and_skipped():
    for task in (tiny.classifier(), tiny.translator(), tiny.responder(architecture="gpt2")):
        names = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
        norms = norm_parameters(task)
        assert norms < names and {"weight", "bias"} == {name.split(".")[-1] for name in norms}
        assert all("norm" in name.lower() or ".ln_" in name for name in norms)
        assert all("norm" not in name.lower() and ".ln_" not in name for name in names - norms)


@pytest.mark.parametrize("skip", [True, False])
def test_norms_are_left_out_only_where_wanted(monkeypatch, skip):
    task = tiny.classifier()
    before = {name: value.detach().clone() for name, value in trainable(task).items()}
    method = SSD(skip_norms=skip)
    monkeypatch.setattr(method, "measure", lambda models, examples, title: dict.fromkeys(before, torch.tensor(100.0)))
    method.attach({}, {"forget": None}, {"importance": dict.fromkeys(before, torch.tensor(1.0))})
    method.edit(task)
    norms = norm_parameters(task)
    for name, value in trainable(task).items():
        factor = 1.0 if skip and name in norms else 0.01
        torch.testing.assert_close(value, factor * before[name])


def test_the_statistic_is_of_the_training_set_and_named_by_what_decides_it():
    world = contract.world("classification")
    statistic = SSD(batch_size=7, importance="magnitude").statistics()["importance"]
    assert (statistic.split, statistic.weights) == ("train", "final")
    assert dict(statistic.recipe) == {"importance": "magnitude", "batch_size": 7}
    found = world.statistic(statistic)
    expected = SSD(batch_size=7, importance="magnitude").measure([world.student()], world.sets["train"], "test")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("options", [{"alpha": -1}, {"lam": -0.1}, {"batch_size": 0}, {"importance": "hessian"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match="method"):
        SSD(**options)
