"""Training sets stay in Arrow: what Python holds does not grow with their texts, and a million examples fit in 2 GB."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datasets import Dataset, disable_progress_bars
from helpers import tiny

from kga.data.corpus import Corpus, make_corpus
from kga.data.forget import Group, Ids, Label, Random
from kga.data.splits import Split, make_splits
from kga.inputs import data_fingerprint
from kga.memory import STATUS

SIZE = 60_000
LISTED = 81  # bytes that an id (a hash of 32 letters) takes in Python, besides its place in a list
SETTINGS = {"forget": {"column": "group"}, "data": {"group": "group"}, "model": {},
            **{name: {"path": None} for name in ("original", "new")}}  # fmt: skip


def table(size: int, first: int = 0) -> Dataset:
    """Classification examples without ids, in groups of 20, made without Python strings."""
    numbers = pa.array(np.arange(first, first + size))
    words = pc.binary_join_element_wise("the number is", numbers.cast(pa.string()), "and nothing else", " ")
    labels = pa.array(tiny.LABELS).take(pa.array(np.arange(size) % len(tiny.LABELS)))
    groups = pc.binary_join_element_wise("group", pc.divide(numbers, 20).cast(pa.string()), " ")
    columns = pa.table({"text": words, "label": labels, "group": groups})
    return Dataset(columns, fingerprint=f"large-{first}-{size}")  # else it is pickled for one


def corpus_of(size: int) -> Corpus:
    splits = {"train": table(size), "validation": table(50, size), "test": table(50, 2 * size)}
    return make_corpus("large", "classification", splits)


def held(work) -> int:
    """The most memory, in bytes, that Python's own objects and numpy's arrays take while ``work`` is done."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def large() -> Corpus:
    disable_progress_bars()
    return corpus_of(SIZE)


def test_a_list_of_strings_would_be_seen(large):
    """What the bounds below rest on."""
    assert held(lambda: large.train.data.column("id").to_pylist()) > LISTED * SIZE


def test_preparation_holds_no_lists(large):
    size = 25_000
    small = held(lambda: corpus_of(2_000))
    assert held(lambda: corpus_of(size)) - small < LISTED * size


@pytest.mark.parametrize("kind", ["random", "group", "label", "ids"])
@pytest.mark.parametrize("given", [False, True], ids=["reserve", "original given"])
def test_splits_hold_row_numbers_only(large, tmp_path, kind, given):
    """Ids or contents of D in a list beside those of what is compared, hashed or written would be too much."""
    kept = make_splits(large, Random(1), seed=0)["train"].rows[:100]
    (tmp_path / "ids").write_text("\n".join(large.train.select(kept)["id"]))
    requests = {"random": Random(0.01), "group": Group(600), "label": Label("north", size=500),
                "ids": Ids(str(tmp_path / "ids"))}  # fmt: skip

    def work() -> None:
        splits = make_splits(large, requests[kind], seed=0, original_is_given=given)
        splits.write(tmp_path / "splits.parquet")
        for name in splits.sets:
            splits.fingerprint(splits[name])
        data_fingerprint(large, SETTINGS)

    assert held(work) < 2 * LISTED * SIZE


def test_a_set_is_hashed_once(large, monkeypatch):
    splits = make_splits(large, Random(0.01), seed=0)
    found = splits.fingerprint(splits["train"])
    monkeypatch.setattr("kga.data.splits.column_digest", None)
    assert splits.fingerprint(Split("train", splits["train"].rows.copy())) == found
    with pytest.raises(TypeError):
        splits.fingerprint(splits["retain"])
    with pytest.raises(TypeError):
        splits.fingerprint(Split("test", np.arange(50)))


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads resident memory as Linux counts it")
def test_a_million_examples_in_two_gigabytes(tmp_path):
    """The command from a given A_D, in a process of its own: preparation, splits and a request."""
    size, data = 1_000_000, tmp_path / "data"
    data.mkdir()
    parts = {
        "data/train": (size, 0),
        "data/test": (200, size),
        "data/validation": (200, size + 200),
        "new": (2_000, size + 400),
    }
    for name, (count, first) in parts.items():
        table(count, first).to_json(tmp_path / f"{name}.jsonl")
    tiny.classifier().save(tmp_path / "original")
    code = f"from kga.cli import main; main(); print(open({str(STATUS)!r}).read())"
    command = [
        sys.executable, "-c", code, "data=folder", f"data.path={data}", f"original.path={tmp_path / 'original'}",
        f"new.path={tmp_path / 'new.jsonl'}", "forget=random", "forget.size=100", "reference=none",
        "method.optim.updates=20", "method.helpers.optim.epochs=2", "model.max_length=32", "trainer.accelerator=cpu",
        f"output={tmp_path / 'out'}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=590)
    assert found.returncode == 0, found.stderr
    peak = next(line for line in found.stdout.splitlines() if line.startswith("VmHWM:"))
    assert int(peak.split()[1]) * 1024 < 2e9, peak
    assert len(list(Path(tmp_path / "out/runs").glob("*/result.json"))) == 1
