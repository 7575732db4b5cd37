"""Rounded weights: the rounding by hand, which weights it takes in every family, and what is reported."""

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from helpers.contract import HARDWARE
from torch import nn

from kga.attacks.quantised import Quantised, quantise, rounded
from kga.data.forget import Random
from kga.data.splits import Split, make_splits
from kga.errors import UserError
from kga.evaluation import evaluate
from kga.models.ensemble import Ensemble
from kga.optim import Optim
from kga.store import Store
from kga.study import Study
from kga.tasks.classification import Classification, labels_head


def test_values_by_hand():
    """Steps of 7/7 = 1 in the first row, of .7/7 = .1 in the second; a row of zeros stays."""
    weight = torch.tensor([[7.0, -3.4, 0.6], [0.33, -0.7, 0.04], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[7.0, -3.0, 1.0], [0.3, -0.7, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(rounded(weight, 4), expected)
    torch.testing.assert_close(rounded(weight.T.contiguous(), 4, inputs=0), expected.T)


@pytest.mark.parametrize(("bits", "levels"), [(8, 255), (4, 15)])
def test_no_weight_moves_by_more_than_half_a_step(bits, levels):
    weight = torch.randn(40, 3000, generator=torch.Generator().manual_seed(0))
    moved = (rounded(weight, bits) - weight).abs().amax(1)
    half = weight.abs().amax(1) / (levels - 1)
    assert (moved <= half * 1.001).all() and (moved > half * 0.9).all()
    assert all(len(row.unique()) <= levels for row in rounded(weight, bits))


def test_eight_bits_are_those_of_torch():
    """Its fake quantisation with the same scales, an independent implementation."""
    weight = torch.randn(16, 50, generator=torch.Generator().manual_seed(1))
    scales, zeros = weight.abs().amax(1) / 127, torch.zeros(16, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)
    torch.testing.assert_close(rounded(weight, 8), expected, atol=1e-6, rtol=1e-5)


def ensemble():
    members = [tiny.translator(seed) for seed in range(2)]
    return type(members[0])(Ensemble([task.model for task in members]), members[0].tokenizer, 32).eval()


FAMILIES = {name: make for name, make in contract.WORLDS.items() if name != "response"} | {"ensemble": ensemble}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_matrices_rounded_and_nothing_else(family):
    """4 bits: at most 15 values per output channel. Embeddings stay unless they are the output layer too."""
    task = FAMILIES[family]()
    before = {name: value.clone() for name, value in task.model.named_parameters()}
    examples = tiny.examples(8, task=task)
    batch = examples.batch(np.arange(8))
    with torch.no_grad():
        plain = task.predict(batch).dense().log_probs
        quantise(task.model, 4)
        after = task.predict(batch).dense().log_probs
    head = task.model.get_output_embeddings() if family != "ensemble" else task.model.members[0].get_output_embeddings()
    tied = {id(head.weight)} if head is not None else set()
    tied |= {id(member.get_output_embeddings().weight) for member in getattr(task.model, "members", ())}
    embeddings = {id(module.weight) for module in task.model.modules() if isinstance(module, nn.Embedding)} - tied
    for name, value in task.model.named_parameters():
        if value.ndim < 2 or id(value) in embeddings:
            assert torch.equal(value, before[name]), name
        else:
            channels = value.T if "c_" in name else value  # GPT-2's Conv1D
            assert all(len(row.unique()) <= 15 for row in channels), name
            assert not torch.equal(value, before[name]), name
            torch.testing.assert_close(value.abs().max(), before[name].abs().max())
    assert torch.isfinite(after).all() and not torch.equal(plain, after)


def test_a_tied_output_layer_stays_tied():
    task = tiny.responder(architecture="gpt2")
    quantise(task.model, 4)
    assert task.model.get_output_embeddings().weight is task.model.get_input_embeddings().weight


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    splits = make_splits(tiny.corpus(train=150), Random(20), seed=0)
    optim = Optim(epochs=6, batch_size=16, lr=5e-3)
    store = Store(tmp_path_factory.mktemp("store"))
    return Study(splits, Classification, tiny.family(), labels_head(tiny.LABELS, False), optim, store, HARDWARE, 0)


def sets_of(study):
    return {**study.splits.sets, "nonmember": study.splits["holdout"]}


def test_the_utility_of_rounded_models_is_reported_and_kept(study, monkeypatch):
    models = {"original": study.original(), "retrain": study.retrained(), "unlearned": study.original()}
    sets = sets_of(study)
    found = Quantised(bits=4).run(study, models, sets)
    assert set(found) == set(models) and found["unlearned"] == found["original"] != found["retrain"]
    assert set(found["original"]) == {"forget", "nonmember", "retain", "test"}
    module = study.load(models["original"])
    views = {name: study.view(sets[name]) for name in found["original"]}
    plain = evaluate({"original": module}, views, HARDWARE, 16)[0]["original"]
    quantise(module.model, 4)
    expected = evaluate({"original": module}, views, HARDWARE, 16)[0]["original"]
    for split, values in expected.items():
        assert found["original"][split] == pytest.approx(values, rel=1e-5)
    assert plain["test"]["loss"] != pytest.approx(expected["test"]["loss"], rel=1e-4)
    monkeypatch.setattr("kga.attacks.quantised.evaluate", None)  # whatever is computed again would fail
    assert Quantised(bits=4).run(study, models, sets) == found


def test_an_empty_set_is_passed_over(study):
    sets = sets_of(study) | {"nonmember": Split("train", np.empty(0, np.int64))}
    found = Quantised().run(study, {"original": study.original()}, sets)
    assert set(found["original"]) == {"forget", "retain", "test"}


@pytest.mark.parametrize("bits", [0, 2, 16, "8"])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(UserError, match=r"attack\.quantised\.bits"):
        Quantised(bits=bits)
