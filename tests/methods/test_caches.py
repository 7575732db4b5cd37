"""What frozen models predict is computed once, kept by all that decides it, and found again."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from safetensors.torch import load_file, save_file

import kga.methods.caches
from kga.errors import UserError
from kga.methods.caches import Mode, Table, chosen, parsed, table
from kga.methods.frozen import Frozen
from kga.methods.kga import KGA
from kga.models.output import OutputLayer
from kga.predictions import Predictions
from kga.unlearning import unlearn


def sample(classes: int, width: int | None = None) -> Predictions:
    rows = torch.arange(2)
    if width is None:
        return Predictions(torch.zeros(2, classes), rows, rows, 2)
    linear = torch.nn.Linear(width, classes, bias=False)
    return Predictions(torch.zeros(2, width), rows, rows, 2, OutputLayer.of({"weight": linear.weight.detach()}))


@pytest.mark.parametrize(
    ("predictions", "positions", "mode"),
    [
        (sample(70), 1000, "exact"),
        (sample(8000, 256), 10_000, "hidden"),
        (sample(8000, 256), 100, "exact"),  # the output layer alone would be more
        (sample(8000), 1000, "exact"),
        (sample(50_000), 1_000_000, "none"),
    ],
)
def test_auto_takes_what_is_smaller_and_nothing_that_is_huge(predictions, positions, mode):
    assert chosen(Mode("auto"), predictions, positions)[0].name == mode


def test_auto_keeps_no_padded_positions():
    world = contract.world("translation")
    method = contract.attached(contract.builder("kga_released", "translation", "method.cache=auto"), world)
    contract.ready(method, world.moved_student())
    assert method.outcome()["cache"] == "none"
    assert all(frozen.resident for frozen in method.frozen.values())


def test_hidden_needs_an_output_layer():
    with pytest.raises(UserError, match=r"method\.cache=hidden needs an output layer"):
        chosen(Mode("hidden"), sample(5), 10)


def test_a_set_too_large_keeps_its_model_and_the_others_are_kept(monkeypatch):
    world = contract.world("classification")
    monkeypatch.setattr(kga.methods.caches, "LIMIT", 4 * 17 * len(world.student().labels))  # of 16 examples, not of 64
    method = contract.attached(lambda: KGA(retain_batches=8), world)
    contract.ready(method, world.moved_student())
    held = {name for name, frozen in method.frozen.items() if frozen.resident}
    assert held == {"original"}


@pytest.mark.parametrize("text", ["topk:0", "topk:x", "exact:3", "some"])
def test_unknown_modes_are_refused(text):
    with pytest.raises(UserError, match=rf"method\.cache={text}"):
        parsed(text)


def test_losses_that_need_whole_distributions_refuse_the_likeliest_classes():
    for build in (
        lambda: KGA(cache="topk", kl_retain="js"),
        contract.builder("undial", "classification", "method.cache=topk"),
    ):
        with pytest.raises(Exception, match="of which this loss needs more"):  # Hydra's, where it builds
            build()


@pytest.mark.parametrize("world", ["classification", "translation", "translation-lstm", "response-decoder_only"])
@pytest.mark.parametrize("mode", ["exact", "hidden", "topk"])
def test_a_kept_table_says_what_the_model_says(world, mode, tmp_path):
    """Any batch, in any order, through a file: positions are found by example, not by where they were computed."""
    world = contract.world(world)
    if mode == "hidden" and not world.sequences:
        pytest.skip("classification keeps its few log-probabilities")
    model, examples = world.opinionated(5).eval(), world.sets["retain"]
    examples = examples.take(np.random.default_rng(0).permutation(len(examples)))
    tensors = table(model, examples, "scored", Mode(mode, 3 if mode == "topk" else 0))
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "t.safetensors")
    kept = Table(load_file(tmp_path / "t.safetensors"), examples, torch.device("cpu"))
    for positions in (np.array([3]), np.array([9, 0, 31]), np.arange(20)[::-1]):
        batch = examples.batch(positions)
        with torch.no_grad():
            live = model.predict(batch)
        found = kept.predict(batch)
        assert torch.equal(found.example, live.example)
        assert torch.equal(found.targets, live.targets)
        if mode == "topk":
            best = live.log_probs.topk(min(3, live.classes))
            torch.testing.assert_close(found.log_probs, best.values, rtol=1e-4, atol=1e-5)
            rest = (1 - best.values.exp().sum(1)).clamp(min=0)
            torch.testing.assert_close(found.log_tail.exp(), rest, rtol=1e-3, atol=1e-5)
        else:
            torch.testing.assert_close(found.log_probs, live.log_probs, rtol=1e-4, atol=1e-5)


def test_an_example_outside_the_cache_is_an_error():
    world = contract.world("classification")
    kept = Table(table(world.models["original"], world.sets["new"], "scored", Mode("exact")), world.sets["new"],
                 torch.device("cpu"))  # fmt: skip
    with pytest.raises(RuntimeError, match="not in the cache"):
        kept.predict(world.sets["forget"].batch(np.arange(3)))


def test_a_model_is_loaded_when_it_is_needed_and_gone_when_it_is_dropped():
    loaded = []
    frozen = Frozen(lambda: loaded.append(1) or tiny.classifier(), "forget_helper")
    assert not frozen.resident
    frozen.predict(tiny.examples(4).batch(np.arange(4)))
    assert loaded == [1]
    frozen.drop_model()
    with pytest.raises(RuntimeError, match="forget_helper"):
        frozen.module  # noqa: B018


def test_loading_a_model_does_not_touch_the_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Frozen(lambda: torch.rand(3) is None or tiny.classifier()).module  # noqa: B018
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_models_that_are_loaded_when_needed_change_nothing(cache, tmp_path):
    """Loading draws random numbers for some architectures: with dropout on, the losses would tell."""
    world, found = contract.world("translation"), []
    for name, module in world.models.items():
        module.save(tmp_path / name)
    for late in (False, True):
        method = contract.attached(lambda: KGA(cache=cache), world)
        if late:
            kind = type(world.models["original"])
            loaders = {name: partial(kind.load, tmp_path / name) for name in method.frozen_models}
            method.frozen = {name: Frozen(loader, name) for name, loader in loaders.items()}
        unlearn(method, world.student(0.2), hardware=contract.HARDWARE, seed=0, work=tmp_path / str(late))
        found.append([row["loss"] for row in method.history])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_of_d_r_only_what_is_drawn_is_kept(tmp_path):
    """12 updates draw 12 batches of the 64 examples; A_D is asked for none of the others."""
    world = contract.world("classification")
    large = replace(world, sets=world.sets | {"retain": tiny.examples(400, seed=9, task=world.models["original"])})
    outcome = contract.run(lambda: KGA(retain_batches=1), large, tmp_path)
    kept = outcome.method.frozen["original"]._tables["retain", "scored"]
    drawn = contract.UPDATES * 8
    assert len(kept.start) == drawn < 400


def test_the_error_of_topk_is_reported(tmp_path):
    world = contract.world("translation")
    exact, method = (contract.attached(lambda: KGA(cache=cache), world) for cache in ("exact", "topk:5"))  # noqa: B023
    for one in (exact, method):
        contract.ready(one, world.student())
    found = method.outcome()
    assert found["cache"] == "topk"
    assert 0 < found["topk_tail_forget"] < 1 and 0 < found["topk_tail_retain"] < 1
    assert found["topk_error_forget"] > 0
    assert found["topk_error_new"] == pytest.approx(exact.g - method.g, rel=1e-4)
    assert "topk_error_retain" not in found  # A* starts as A_D: there is nothing to measure yet


def test_both_gaps_are_cut_alike():
    """With the same models and examples on both sides a = g, whatever is dropped."""
    world = contract.world("translation")
    models = world.models | {"new_helper": world.models["forget_helper"]}
    same = replace(world, sets=world.sets | {"new": world.sets["forget"]}, models=models)
    full, cut = (contract.attached(lambda: KGA(cache=cache), same) for cache in ("exact", "topk:3"))  # noqa: B023
    for method in (full, cut):
        contract.ready(method, same.student())
        assert method.g == pytest.approx(method.a0, rel=1e-5)
    assert cut.g < full.g
