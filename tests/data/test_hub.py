"""Reading from the hub, against a stub of it on loopback; each client is a process of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from helpers.stub_hub import StubHub, hub_environment

LABELS = ("Amendments", "Notices", "Waivers")
REPO = "coastalcph/lex_glue"
SIZES = {"train": 24, "validation": 6, "test": 9}


def _split(split: str, size: int) -> Dataset:
    rows = {"text": [f"{split} provision {i}" for i in range(size)], "label": [i % 3 for i in range(size)]}
    return Dataset.from_dict(rows, Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))}))


@pytest.fixture(scope="module")
def repo_folder(tmp_path_factory) -> Path:
    """A repository laid out as lex_glue is: a folder of Parquet files for each configuration, told by the card."""
    folder = tmp_path_factory.mktemp("lex_glue")
    files = ""
    (folder / "ledgar").mkdir()
    for split, size in SIZES.items():
        _split(split, size).to_parquet(folder / "ledgar" / f"{split}-00000-of-00001.parquet")
        files += f"  - split: {split}\n    path: ledgar/{split}-*\n"
    (folder / "odd").mkdir()
    odd = {"id": [5, 6, 7], "clause": ["a", "b", "c"], "text": ["shadowed"] * 3, "label": [0, 2, 1]}
    for split in ("train", "validation", "test", "extra"):
        table = Dataset.from_dict({**odd, "id": [f"{split}{i}" for i in odd["id"]]})
        table.to_parquet(folder / "odd" / f"{split}.parquet")
    odd_files = "".join(
        f"  - split: {split}\n    path: odd/{split}.parquet\n" for split in ("train", "validation", "test", "extra")
    )
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: ledgar\n  data_files:\n{files}- config_name: odd\n  data_files:\n{odd_files}---\n"
    )
    return folder


@pytest.fixture(scope="module")
def hub(repo_folder):
    with StubHub(datasets={REPO: repo_folder}) as server:
        yield server


def _run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def _load(environment: dict[str, str], **arguments: object) -> dict:
    """The corpus as plain data, or {"error": the user error's message}; anything else that is raised fails the test."""
    code = f"""
import json, sys
from kga.data import hub
from kga.errors import UserError
try:
    corpus = hub.load("classification", **json.loads({json.dumps(arguments)!r}))
    tables = {{split: table.to_dict() for split, table in corpus.splits.items()}}
    print(json.dumps({{"name": corpus.name, "notes": corpus.notes, **tables}}))
except UserError as error:
    print(json.dumps({{"error": str(error)}}))
"""
    done = _run(code, environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_class_numbers_become_names(hub, tmp_path):
    corpus = _load(hub.environment(tmp_path), repo=REPO, config="ledgar")
    assert {split: len(corpus[split]["id"]) for split in SIZES} == SIZES
    assert corpus["train"]["label"][:4] == ["Amendments", "Notices", "Waivers", "Amendments"]
    assert corpus["test"]["text"][0] == "test provision 0"
    assert corpus["name"] == "lex_glue"
    assert corpus["notes"] == []


def test_columns_and_label_names(hub, tmp_path):
    corpus = _load(
        hub.environment(tmp_path), repo=REPO, config="odd", columns={"text": "clause"}, label_names=["x", "y", "z"]
    )
    assert corpus["train"]["text"] == ["a", "b", "c"]
    assert corpus["train"]["label"] == ["x", "z", "y"]
    assert corpus["train"]["id"] == ["train5", "train6", "train7"]
    assert "clause" not in corpus["train"]
    assert any("extra" in note for note in corpus["notes"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"repo": "nobody/nothing"}, ["nobody/nothing", "data.repo"]),
        ({"repo": REPO, "config": "ledger"}, ["ledger", "ledgar", "data.config"]),
        ({"repo": REPO}, ["ledgar", "odd", "data.config"]),
        ({"repo": REPO, "config": "ledgar", "revision": "v9"}, ["v9", "data.revision"]),
        ({"repo": REPO, "config": "ledgar", "columns": {"text": "body"}}, ["data.columns.text=body", "label"]),
        ({"repo": REPO, "config": "odd", "label_names": ["x", "y"]}, ["data.label_names", "2 names"]),
        ({"repo": REPO, "config": "ledgar", "columns": {"text": "label"}}, ["'label'", "missing"]),
    ],
)
def test_mistakes_are_told_in_one_line(hub, tmp_path_factory, arguments, told):
    error = _load(hub.environment(tmp_path_factory.getbasetemp() / "shared_home"), **arguments)["error"]
    assert "\n" not in error
    assert all(word in error for word in told), error


def test_unreachable_hub_is_told_at_once(tmp_path):
    with StubHub() as server:
        closed = server.url
    start = time.monotonic()
    error = _load(hub_environment(closed, tmp_path), repo=REPO, config="ledgar", name="ledgar")["error"]
    assert time.monotonic() - start < 20  # mostly imports; datasets alone would try for 24 s longer
    assert "\n" not in error
    assert closed in error and "kga-data ledgar --to DIR" in error and "HF_HUB_OFFLINE=1" in error


def test_warm_cache_serves_offline(hub, tmp_path):
    online = _load(hub.environment(tmp_path), repo=REPO, config="ledgar")
    asked = len(hub.requests)
    offline = _load(hub.environment(tmp_path, HF_HUB_OFFLINE="1"), repo=REPO, config="ledgar")
    assert offline == online
    assert len(hub.requests) == asked
    cold = _load(hub.environment(tmp_path / "cold", HF_HUB_OFFLINE="1"), repo=REPO, config="ledgar")
    assert "not in the cache" in cold["error"]


def _kga_data(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kga.data.prepare", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_kga_data_writes_a_folder_with_the_same_examples(hub, tmp_path):
    environment, target = hub.environment(tmp_path / "home"), tmp_path / "data" / "ledgar"
    done = _kga_data(environment, "ledgar", "--to", str(target))
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in target.iterdir()) == ["test.parquet", "train.parquet", "validation.parquet"]
    assert [file.name for file in target.parent.iterdir()] == ["ledgar"]  # nothing left aside
    code = (
        f"from kga.data import folder; corpus = folder.load('classification', {str(target)!r}); import json; "
        "print(json.dumps({split: table.to_dict() for split, table in corpus.splits.items()}))"
    )
    read = json.loads(_run(code, environment).stdout.splitlines()[-1])
    direct = _load(environment, repo=REPO, config="ledgar")
    assert all(read[split] == direct[split] for split in SIZES)


def test_kga_data_refuses_in_one_line_and_touches_nothing(hub, tmp_path):
    environment = hub.environment(tmp_path / "home")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "train.jsonl").write_text("mine")
    for arguments, told in [
        (("ledger", "--to", str(tmp_path / "new")), "ledgar"),
        (("ledgar", "--to", str(tmp_path / "full")), "exists already"),
    ]:
        done = _kga_data(environment, *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1 and told in done.stderr
    assert (tmp_path / "full" / "train.jsonl").read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_kga_data_without_a_hub_leaves_nothing(tmp_path):
    with StubHub() as server:
        closed = server.url
    done = _kga_data(hub_environment(closed, tmp_path / "home"), "ledgar", "--to", str(tmp_path / "new"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "out of reach" in done.stderr
    assert not (tmp_path / "new").exists()


def test_kga_data_lists_and_helps_without_heavy_imports(tmp_path):
    code = """
import sys
from kga.data import prepare
assert prepare.main(["--list"]) == 0
try:
    prepare.main(["--help"])
except SystemExit as end:
    assert end.code == 0
assert not {"datasets", "torch", "transformers", "pandas"} & set(sys.modules)
"""
    done = _run(code, hub_environment("http://127.0.0.1:9", tmp_path))
    assert done.returncode == 0, done.stderr
    assert "ledgar" in done.stdout and "coastalcph/lex_glue" in done.stdout and "--to DIR" in done.stdout
