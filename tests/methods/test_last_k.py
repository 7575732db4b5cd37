"""CF-k and EU-k: which weights move and from where, against a training loop in plain torch."""

import pytest
import torch
from helpers import contract, raw, tiny
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.last_k import LastK
from kga.models.layers import last
from kga.optim import Optim
from kga.unlearning import unlearn

WORLDS = (*raw.WORLDS, "response")


@pytest.fixture(params=WORLDS)
def world(request):
    return raw.world(request.param)


def moved(outcome) -> set[str]:
    after = dict(outcome.student.model.named_parameters())
    return {name for name, value in after.items() if not torch.equal(value, outcome.before[name])}


def by_hand(task, updates: list, names: list[str], rate: float):
    """AdamW on the mean cross-entropy of each batch, for some weights of a model."""
    trained = [(p, {"params": [p], "weight_decay": 0.01 if p.ndim > 1 else 0.0})
               for name, p in task.model.named_parameters() if name in names]  # fmt: skip
    optimizer = torch.optim.AdamW([group for _, group in trained], lr=rate, eps=1e-8)
    for number, update in enumerate(updates):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - number / len(updates))
        optimizer.zero_grad()
        logits, truth, _ = raw.logits(task, update[0]["retain"])
        F.cross_entropy(logits, truth).backward()
        torch.nn.utils.clip_grad_norm_([p for p, _ in trained], 1.0)
        optimizer.step()


def test_it_is_a_plain_training_of_the_last_layer(world, tmp_path):
    outcome = contract.run(LastK, world, tmp_path)
    student = world.student()
    names = last(student.model, 1)
    updates = list(contract.attached(LastK, world).stream(0))[: contract.UPDATES]
    by_hand(student, updates, names, 1e-3)
    for name, value in student.model.named_parameters():
        torch.testing.assert_close(
            dict(outcome.student.model.named_parameters())[name], value, rtol=1e-4, atol=2e-5, msg=name
        )
    unused = {"attn.k_proj.bias", "k_lin.bias"}  # of keys: the same for all positions, so without gradient
    still = set(names) - moved(outcome)
    assert moved(outcome) <= set(names) and all(any(name.endswith(end) for end in unused) for name in still)


def test_lower_layers_come_in_with_k(tmp_path):
    outcomes = {k: contract.run(lambda: LastK(k=k), three_layers(), tmp_path / str(k)) for k in (1, 2)}  # noqa: B023
    layers = {
        k: {name.split(".")[3] for name in moved(outcome) if ".layer." in name} for k, outcome in outcomes.items()
    }
    assert layers == {1: {"2"}, 2: {"1", "2"}}
    assert all("classifier.weight" in moved(outcome) for outcome in outcomes.values())
    counts = [outcome.method.outcome()["trained_parameters"] for outcome in outcomes.values()]
    model = outcomes[1].student.model
    assert counts[0] == sum(dict(model.named_parameters())[name].numel() for name in last(model, 1)) < counts[1]


def three_layers() -> contract.World:
    def make(seed, dropout=0.0):
        family = tiny.family(dropout)
        family.config["n_layers"] = 3
        model = family.model(tiny.Classification, tiny.tokenizer(), tiny.labels_head(tiny.LABELS, False), seed)
        return tiny.Classification(model.eval(), tiny.tokenizer(), 32)

    task = make(0)
    examples = tiny.examples(40, seed=1, task=task)
    return contract.World({"forget": examples, "retain": examples}, {"original": task}, make)


def test_what_is_held_may_be_trained_again_afterwards(world, tmp_path):
    before = {name: p.requires_grad for name, p in world.student().model.named_parameters()}
    outcome = contract.run(LastK, world, tmp_path)
    assert {name: p.requires_grad for name, p in outcome.student.model.named_parameters()} == before
    assert outcome.optimized == {
        p.data_ptr() for name, p in outcome.student.model.named_parameters()
        if name in last(outcome.student.model, 1) and p.requires_grad
    }  # fmt: skip


def test_eu_k_starts_from_the_initial_models_last_layers(world, tmp_path):
    """With a learning rate of 0, what is left is where it started."""
    outcome = contract.run(lambda: LastK(reinitialise=True), world, tmp_path, lr=0.0)
    initial = dict(world.models["initial"].model.named_parameters())
    names = last(outcome.student.model, 1)
    for name, value in outcome.student.model.named_parameters():
        assert torch.equal(value, initial[name] if name in names else outcome.before[name]), name
    assert moved(outcome) == set(names)


def test_eu_k_keeps_every_contract_and_is_not_reinitialised_when_resumed(tmp_path):
    world = raw.world("classification")
    build = lambda: LastK(reinitialise=True)  # noqa: E731
    whole = contract.repeats(build, world, tmp_path / "repeat")
    contract.frozen_models_stay(whole)
    contract.resumes(build, world, tmp_path / "resume", whole)


def test_what_it_needs():
    assert LastK().helpers() == {} and LastK().frozen_models == ()
    (helper,) = LastK(reinitialise=True).helpers().values()
    assert (helper.split, helper.start, helper.per_request) == (None, "scratch", False)


def test_impossible_numbers_of_layers(tmp_path):
    with pytest.raises(UserError, match=r"method\.k=0"):
        LastK(k=0)
    world = raw.world("classification")
    method = LastK(k=2, optim=Optim(updates=1)).attach({}, world.sets)
    with pytest.raises(UserError, match=r"method\.k=2: the model has 1 blocks"):
        unlearn(method, world.student(), hardware=contract.HARDWARE, seed=0, work=tmp_path)


def test_more_layers_than_the_model_has_are_refused_before_anything_is_trained():
    study = type("Study", (), {"codec": tiny.classifier()})()
    with pytest.raises(UserError, match=r"method\.k"):
        LastK(k=9).require(study)
    LastK(k=1).require(study)
