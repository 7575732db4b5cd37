"""The benchmark runs, and what it compares computes the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import contenders, run, student, texts
from benchmarks.worlds import WORLDS

TINY = {name: replace(world.tiny(), dropout=0.0) for name, world in WORLDS.items()}


@pytest.mark.parametrize("name", ["classification-128", "translation-48"])
def test_the_plain_loop_and_kga_have_the_same_loss(name: str) -> None:
    world, module = TINY[name], TINY[name].module(0)
    sizes = {"forget": 32, "new": 32, "retain": 160}
    sets = {name: world.examples(size, number, module) for number, (name, size) in enumerate(sizes.items())}
    frozen = {name: world.module(n) for n, name in enumerate(("original", "forget_helper", "new_helper"), start=5)}
    ready = contenders.method(1).attach(frozen, sets)
    contenders.fitted(module, ready, "32-true", 0)

    plain = contenders.Plain(*(world.model(number) for number in (5, 6, 7)), student=world.model(0))
    rows = {name: examples.table for name, examples in sets.items()}
    forget, new = (contenders.collated(world, rows[name][:]) for name in ("forget", "new"))
    retain = [contenders.collated(world, rows["retain"][first : first + 32]) for first in range(0, 160, 32)]
    assert plain.update(forget, new, retain) == pytest.approx(ready.history[0]["loss"], abs=1e-5)
    assert ready.history[0]["loss"] > 1e-3
    for first, second in zip(plain.student.parameters(), module.model.parameters(), strict=True):
        assert torch.allclose(first, second, atol=5e-5)  # one step of a rate of 1e-5


@pytest.mark.parametrize("name", ["classification-128", "translation-48"])
def test_the_bound_has_the_supervised_loss_of_the_task(name: str) -> None:
    module = TINY[name].module(0).eval()
    batch = TINY[name].examples(8, 1, module).batch(np.arange(8))
    expected = -module.predict(batch).truth().mean()
    assert student.Student(module.model, "32-true").loss(batch).item() == pytest.approx(float(expected), abs=1e-5)


def test_lengths_follow_the_distribution_and_the_cap() -> None:
    drawn = texts.provisions(4000, 512, 8000, np.random.default_rng(0))
    found = np.array([len(row) for row in drawn["input_ids"]])
    assert found.tolist() == drawn["length"] and found.max() == 512 and found.min() >= 13
    assert abs(np.median(found) - 116) < 8 and abs(np.quantile(found, 0.2) - 52) < 5
    pairs = texts.sentences(4000, 48, 8000, np.random.default_rng(0))
    source, target = (np.array([len(row) for row in pairs[name]]) for name in ("input_ids", "labels"))
    assert abs(source.mean() - 15.8) < 0.6 and abs(target.mean() - 15.3) < 0.6
    assert 0.75 < np.corrcoef(source, target)[0, 1] < 0.95
    assert (source + target).tolist() == pairs["length"]


def test_a_quick_run_writes_its_document(tmp_path) -> None:
    run.main(["--quick", "--threads", "1", "--only", "classification-128", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "benchmark.json").read_text())
    speed, memory = (found[part]["classification-128"] for part in ("speed", "memory"))
    assert set(speed) > {"plain", "student fp32", "kga fp32", "student bf16", "kga bf16"}
    assert speed["kga fp32"]["times_plain"]["median"] > 0 and speed["kga bf16"]["times_student"]["median"] > 0
    assert 0 < memory["kga fp32"] < memory["plain"]
    assert set(found["scaling"]["classification-128"]["sizes"]) == {"200", "400"}
    document = (tmp_path / "benchmark.md").read_text()
    assert "| classification-128: kga bf16 |" in document and "per decade" in document
