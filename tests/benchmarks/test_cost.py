"""Operations against torch's own counter, bytes against real caches."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import contract
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cost
from benchmarks.scale import GRID, SCENARIOS, features, fitted
from benchmarks.scale_document import markdown
from benchmarks.worlds import WORLDS, Classification
from kga.methods.caches import Mode, table


def settings(name: str) -> tuple:
    world = WORLDS[name]
    if world.task is Classification:
        return world, cost.Size(2, 64, 128, 4), {"n_layers": 2, "dim": 64, "hidden_dim": 128}
    config = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    return world, cost.Size(2, 64, 128, 4, world.vocabulary, 1), config


@pytest.mark.parametrize("name", ["classification-128", "translation-48"])
def test_operations_are_those_that_torch_counts(name):
    world, size, config = settings(name)
    model = replace(world, config=world.config | config).model(0).eval()
    model.set_attn_implementation("eager")  # the counter does not know the fused attention of processors
    ids, target = torch.ones(3, 40, dtype=torch.long), torch.ones(3, 30, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = cost.flops(size, 3, 40)
    if size.decoder:
        inputs["decoder_input_ids"] = target
        expected = cost.flops(size, 3, 40, 30, 90)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("mode", ["exact", "hidden", "topk"])
def test_bytes_are_those_of_real_caches(mode):
    world = contract.world("translation")
    model, examples = world.models["original"].eval(), world.sets["retain"]
    tensors = table(model, examples, "scored", Mode(mode, 5 if mode == "topk" else 0))
    positions = int((examples.batch(np.arange(len(examples)))["labels"] != -100).sum())
    per_example = sum(tensors[name].nbytes for name in ("start", "count", "targets", "classes"))
    classes, width = model.model.config.vocab_size, model.model.config.d_model
    bias = sum(value.nbytes for name, value in tensors.items() if name.startswith("head.") and "bias" in name)
    found = sum(value.nbytes for value in tensors.values()) - per_example - bias
    assert found == cost.cache_bytes(mode, positions, classes, width, 5)


def test_the_document_is_written_from_what_was_measured():
    """Every precision's fit, both held-back sizes of each, and every study on every number of GPUs."""
    found = json.loads((Path(__file__).parents[2] / "docs" / "scale.json").read_text())
    text = markdown(found)
    assert len(re.findall(r"^\| (?:32-true|bf16-mixed) \|", text, re.MULTILINE)) == 2
    assert text.count(" tokens | ") == 4
    rows = [line.split("|") for line in text.splitlines() if " epochs, " in line and line.startswith("|")]
    assert len(rows) == 3 * len(SCENARIOS)
    assert {len(row) for row in rows} == {13}


def test_a_fit_finds_the_coefficients_it_was_made_from():
    cases = [json.dumps(case) for case in GRID]
    wanted = [0.01, 0.002, 0.005]
    measured = {case: float(np.dot(features(tuple(json.loads(case))), wanted)) for case in cases}
    assert fitted(measured)["coefficients"] == pytest.approx(wanted, rel=1e-6)
