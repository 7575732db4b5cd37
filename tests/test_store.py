"""What is dear is made once, whoever asks; what is damaged is named and made again, never loaded."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from kga.store import Store


class Maker:
    """Writes one file and counts how often it was asked to."""

    def __init__(self, text: str = "weights") -> None:
        self.text, self.calls = text, 0

    def __call__(self, out: Path, work: Path) -> dict:
        self.calls += 1
        (out / "sub").mkdir()
        (out / "sub" / "model").write_text(self.text)
        return {"seconds": 1.5, "path": out}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path, said) -> Store:
    return Store(tmp_path / "store", said.append)


def test_made_once_then_reused(store):
    maker = Maker()
    first, second = (store.get("models", {"seed": 0}, maker) for _ in range(2))
    assert maker.calls == 1
    assert (first.reused, second.reused) == (False, True)
    assert (first.path, first.key, first.meta) == (second.path, second.key, second.meta)
    assert first.meta["seconds"] == 1.5
    assert (second.path / "sub/model").read_text() == "weights"
    assert (
        first.bytes() == sum(path.stat().st_size for path in second.path.rglob("*") if path.is_file()) > len("weights")
    )


def test_the_order_of_a_recipes_keys_does_not_matter_and_every_value_does(store):
    maker = Maker()
    key = store.get("models", {"a": 1, "b": {"c": 2, "d": 3}}, maker).key
    assert store.get("models", {"b": {"d": 3, "c": 2}, "a": 1}, maker).key == key
    assert maker.calls == 1
    for recipe in ({"a": 1}, {"a": 2, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 2, "d": 4}}):
        assert store.get("models", recipe, maker).key != key
    assert maker.calls == 4


def test_kinds_are_kept_apart(store):
    maker = Maker()
    assert store.get("models", {}, maker).path != store.get("encodings", {}, maker).path
    assert maker.calls == 2


def test_seed_0_is_a_seed(store):
    maker = Maker()
    keys = {store.get("models", {"seed": seed}, maker).key for seed in (0, None, False, 1)}
    assert len(keys) == maker.calls == 4


DAMAGE = {
    "sub/model does not match": lambda folder: (folder / "sub/model").write_text("weight"),
    "model does not match": lambda folder: (folder / "sub/model").write_text("WEIGHTS"),
    "sub/model is missing": lambda folder: (folder / "sub/model").unlink(),
    "manifest.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json is missing or unreadable": lambda folder: os.truncate(folder / "manifest.json", 20),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_artifact_is_named_and_made_again(store, said, reason):
    folder = store.get("models", {}, Maker()).path
    DAMAGE[reason](folder)
    maker = Maker()
    again = store.get("models", {}, maker)
    assert maker.calls == 1 and not again.reused
    assert (again.path / "sub/model").read_text() == "weights"
    assert len(said) == 1 and reason in said[0] and str(folder) in said[0]
    assert store.get("models", {}, maker).reused


class Crash(Exception):
    pass


def test_a_crash_leaves_the_work_folder_and_no_artifact(store):
    def crash(out: Path, work: Path) -> dict:
        (out / "half").write_text("half")
        (work / "checkpoint").write_text("epoch 3")
        raise Crash

    with pytest.raises(Crash):
        store.get("models", {}, crash)
    assert not list((store.root / "models").glob("*/manifest.json"))

    found = {}

    def go_on(out: Path, work: Path) -> dict:
        found["work"] = (work / "checkpoint").read_text()
        found["out"] = list(out.iterdir())
        (out / "model").write_text("whole")
        return {}

    artifact = store.get("models", {}, go_on)
    assert found == {"work": "epoch 3", "out": []}
    assert sorted(path.name for path in artifact.path.iterdir()) == ["manifest.json", "model"]
    left = {path.name for path in artifact.path.parent.iterdir()} - {artifact.path.name}
    assert all(name.endswith(".lock") for name in left)


def test_the_manifest_tells_what_decided_the_artifact(store):
    artifact = store.get("models", {"seed": 0, "labels": ["Süß"]}, Maker())
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["recipe"] == {"seed": 0, "labels": ["Süß"]}
    assert manifest["key"] == artifact.key
    assert set(manifest["files"]) == {"sub/model"}


def ask(root: Path, name: str) -> None:
    """One process that wants the artifact and takes its time to make it."""

    def make(out: Path, work: Path) -> dict:
        (root / f"made-by-{name}").touch()
        time.sleep(0.5)
        (out / "model").write_text("weights")
        return {}

    artifact = Store(root / "store", (root / f"said-by-{name}").write_text).get("models", {}, make)
    (root / f"{'reused' if artifact.reused else 'new'}-for-{name}").write_text((artifact.path / "model").read_text())


def test_processes_that_ask_at_once_make_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=ask, args=(tmp_path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("made-by-*"))) == 1
    assert len(list(tmp_path.glob("new-for-*"))) == 1
    assert [path.read_text() for path in tmp_path.glob("reused-for-*")] == ["weights", "weights"]
    waited = [path.read_text() for path in tmp_path.glob("said-by-*")]
    assert len(waited) == 2
    assert all("another process is making models/" in text and "waiting" in text for text in waited)
