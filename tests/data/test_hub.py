"""Reading from the hub, against a stub of it on loopback; each client is a process of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Translation, Value
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


def _load(environment: dict[str, str], task: str = "classification", /, **arguments: object) -> dict:
    """The corpus as plain data, or {"error": the user error's message}; anything else that is raised fails the test."""
    return _load_all(environment, [(task, arguments)])[0]


def _load_all(environment: dict[str, str], cases: list[tuple[str, dict]]) -> list[dict]:
    """The same for several data sets in one process, most of whose time goes to imports."""
    code = f"""
import json, sys
from kga.data import hub
from kga.errors import UserError
for task, arguments in json.loads({json.dumps(cases)!r}):
    try:
        corpus = hub.load(task, **arguments)
        tables = {{split: table.to_dict() for split, table in corpus.splits.items()}}
        print(json.dumps({{"name": corpus.name, "notes": corpus.notes, **tables}}))
    except UserError as error:
        print(json.dumps({{"error": str(error)}}))
"""
    done = _run(code, environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-len(cases) :]]


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


MISTAKES = [
    ({"repo": "nobody/nothing"}, ["nobody/nothing", "data.repo"]),
    ({"repo": REPO, "config": "ledger"}, ["ledger", "ledgar", "data.config"]),
    ({"repo": REPO}, ["ledgar", "odd", "data.config"]),
    ({"repo": REPO, "config": "ledgar", "revision": "v9"}, ["v9", "data.revision"]),
    ({"repo": REPO, "config": "ledgar", "columns": {"text": "body"}}, ["data.columns.text=body", "label"]),
    ({"repo": REPO, "config": "odd", "label_names": ["x", "y"]}, ["data.label_names", "2 names"]),
    ({"repo": REPO, "config": "ledgar", "columns": {"text": "label"}}, ["'label'", "missing"]),
]


def test_mistakes_are_told_in_one_line(hub, tmp_path):
    refused = _load_all(hub.environment(tmp_path), [("classification", arguments) for arguments, _ in MISTAKES])
    for (_, told), answer in zip(MISTAKES, refused, strict=True):
        assert "\n" not in answer["error"]
        assert all(word in answer["error"] for word in told), answer["error"]


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


def test_rows_that_lack_a_field_are_left_out_and_counted(tmp_path):
    folders = {name: tmp_path / name for name in ("gaps", "empty")}
    for folder in folders.values():
        folder.mkdir()
    rows = {"text": ["a", " ", "c", None, "e"], "topics": [["x"], ["y"], [], ["z"], ["x", ""]]}
    Dataset.from_dict(rows).to_parquet(folders["gaps"] / "train.parquet")
    for split in ("validation", "test"):
        Dataset.from_dict({"text": [split], "topics": [["x"]]}).to_parquet(folders["gaps"] / f"{split}.parquet")
    Dataset.from_dict({"text": ["a", "b"], "label": ["", ""]}).to_parquet(folders["empty"] / "train.parquet")
    with StubHub(datasets={f"some/{name}": folder for name, folder in folders.items()}) as server:
        gaps = {"repo": "some/gaps", "columns": {"label": "topics"}}
        wrong = {"repo": "some/gaps", "columns": {"label": "text", "text": "topics"}}
        cases = [("classification", case) for case in (gaps, wrong, {"repo": "some/empty"})]
        corpus, wrong, empty = _load_all(server.environment(tmp_path / "home"), cases)
    assert corpus["train"]["text"] == ["a", "c"] and corpus["train"]["label"] == [["x"], []]
    assert corpus["notes"] == ["3 of 5 train examples of gaps were left out: text or label is empty there."]
    assert "data gaps, train: column 'text' must hold strings" in wrong["error"]
    assert "no training example has all of text, label" in empty["error"]


TALKS = [{"de": f"{i} Äpfel .", "en": f"{i} apples ."} for i in range(40)]


def _converted(folder: Path, config: str) -> dict[str, Path]:
    """A data set that had a script: on main there is nothing to be read, Parquet on the converted branch."""
    for number, split in enumerate(("train", "validation", "test")):
        where = folder / "converted" / config / split
        where.mkdir(parents=True)
        rows = [dict(pair) for pair in TALKS[number * 10 : number * 10 + 10]]
        rows[3]["de"] = "" if split == "train" else rows[3]["de"]
        features = Features({"translation": Translation(languages=["de", "en"])})
        Dataset.from_dict({"translation": rows}, features).to_parquet(where / "0000.parquet")
    (where / "index.duckdb").write_bytes(b"of the viewer")
    (folder / "main").mkdir()
    (folder / "main" / "script.py").write_text("raise SystemExit('code of a repository was run')")
    return {"main": folder / "main", "refs/convert/parquet": folder / "converted"}


def _multi30k(folder: Path) -> Path:
    folder.mkdir()
    for number, split in enumerate(("train", "val", "test")):
        lines = (json.dumps(pair) for pair in TALKS[number * 10 : number * 10 + 10])
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def _personachat(folder: Path) -> Path:
    """20 dialogues for training, each from both sides, and 4 for validation."""
    (folder / "data").mkdir(parents=True)
    features = Features(
        {
            "personality": List(Value("string")),
            "utterances": List({"candidates": List(Value("string")), "history": List(Value("string"))}),
        }
    )
    for split, numbers in (("train", range(20)), ("validation", range(20, 24))):
        rows = []
        for number in numbers:
            turns = [f"{number} turn {turn} ." for turn in range(10)]
            for said in (turns, ["__ SILENCE __", *turns])[: 2 if split == "train" else 1]:
                utterances = [{"candidates": ["no", said[i]], "history": said[:i]} for i in range(1, len(said), 2)]
                rows.append({"personality": ["i cook .", f"i am {number} ."], "utterances": utterances})
        file = folder / "data" / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows, features).to_parquet(file)
    return folder


def _dailydialog(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        rows = [{"dialog": [f" {split} {i} turn {turn} " for turn in range(3)], "act": [1, 2, 1]} for i in range(5)]
        rows[4]["dialog"][2] = "  "
        Dataset.from_list(rows).to_parquet(folder / "data" / f"{split}-00000-of-00001-0123.parquet")
    return folder


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """The data sets of the sequence tasks, laid out as they are on the hub."""
    root = tmp_path_factory.mktemp("sequences")
    repos = {
        "bbaaaa/iwslt14-de-en-preprocess": _converted(root / "iwslt14", "de-en"),
        "IWSLT/iwslt2017": _converted(root / "iwslt17", "iwslt2017-de-en"),
        "bentrevett/multi30k": _multi30k(root / "multi30k"),
        "AlekseyKorshuk/persona-chat": _personachat(root / "personachat"),
        "OpenRL/daily_dialog": _dailydialog(root / "dailydialog"),
    }
    with StubHub(datasets=repos) as server:
        yield server


def _prepared(environment: dict[str, str], target: Path, task: str, name: str, *options: str) -> dict:
    """What `kga-data NAME --to DIR` writes, read as a data folder, and what it prints."""
    code = f"""
import json
from kga.data import folder, prepare
assert prepare.main({[name, "--to", str(target), *options]!r}) == 0
corpus = folder.load({task!r}, {str(target)!r})
print(json.dumps({{split: table.to_list() for split, table in corpus.splits.items()}}))
"""
    done = _run(code, environment)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "printed": done.stdout}


@pytest.mark.parametrize("name", ["iwslt14", "iwslt17", "multi30k"])
def test_translation_data_sets(sequences, tmp_path, name):
    read = _prepared(sequences.environment(tmp_path / "home"), tmp_path / "data", "translation", name)
    pairs = {split: [(row["source"], row["target"]) for row in read[split]] for split in SIZES}
    expected = [(pair["de"], pair["en"]) for pair in TALKS]
    assert pairs["validation"] == expected[10:20] and pairs["test"] == expected[20:30]
    if name == "multi30k":
        assert pairs["train"] == expected[:10]
    else:
        assert pairs["train"] == expected[:3] + expected[4:10]
        assert f"1 of 10 train examples of {name} were left out" in read["printed"]


def test_direction_of_translation(sequences, tmp_path):
    options = ("data.columns.source=translation.en", "data.columns.target=translation.de")
    environment = sequences.environment(tmp_path / "home")
    read = _prepared(environment, tmp_path / "data", "translation", "iwslt17", *options)
    assert (read["test"][0]["source"], read["test"][0]["target"]) == ("20 apples .", "20 Äpfel .")
    done = _kga_data(environment, "iwslt17", "--to", str(tmp_path / "other"), "data.colums.source=translation.en")
    assert done.returncode == 2 and "data.columns.source" in done.stderr and len(done.stderr.splitlines()) == 1


def test_personachat(sequences, tmp_path):
    read = _prepared(sequences.environment(tmp_path / "home"), tmp_path / "data", "response", "personachat")
    # Nine turns of ten are responses: five from one side, four from the other, whose first has nothing before it.
    assert len(read["train"]) + len(read["test"]) == 20 * 9
    assert "no test split" in read["printed"]
    groups = {split: {row["group"] for row in read[split]} for split in SIZES}
    assert len(groups["train"]) == 18 and len(groups["test"]) == 2 and len(groups["validation"]) == 4
    assert not groups["train"] & groups["test"]
    last = next(row for row in read["validation"] if row["response"] == "22 turn 9 .")
    assert last["persona"] == ["i cook .", "i am 22 ."]
    assert last["history"] == [f"22 turn {turn} ." for turn in range(1, 9)]
    assert len(read["validation"]) == 4 * 5


def test_dailydialog(sequences, tmp_path):
    read = _prepared(sequences.environment(tmp_path / "home"), tmp_path / "data", "response", "dailydialog")
    for split in SIZES:
        assert f"1 of 10 {split} examples of dailydialog were left out" in read["printed"]
        assert [(row["persona"], row["history"], row["response"]) for row in read[split]][:2] == [
            ([], [f"{split} 0 turn 0"], f"{split} 0 turn 1"),
            ([], [f"{split} 0 turn 0", f"{split} 0 turn 1"], f"{split} 0 turn 2"),
        ]
        assert len(read[split]) == 9 and len({row["group"] for row in read[split]}) == 5


IWSLT = {
    "repo": "IWSLT/iwslt2017",
    "revision": "refs/convert/parquet",
    "data_dir": "iwslt2017-de-en",
    "columns": {"source": "translation.de", "target": "translation.en"},
    "name": "iwslt17",
}


def test_a_folder_of_a_branch_does_not_come_from_the_cache(sequences, tmp_path):
    assert len(_load(sequences.environment(tmp_path), "translation", **IWSLT)["train"]["id"]) == 9
    error = _load(sequences.environment(tmp_path, HF_HUB_OFFLINE="1"), "translation", **IWSLT)["error"]
    assert "never read from the cache" in error and "kga-data iwslt17 --to DIR" in error
    assert "HF_HUB_OFFLINE=1" not in error


SEQUENCE_MISTAKES = [
    ("translation", {"data_dir": "iwslt2017-de-fr"}, ["data.data_dir=iwslt2017-de-fr"]),
    ("translation", {"revision": "refs/convert/csv"}, ["refs/convert/csv", "data.revision"]),
    ("translation", {"columns": {"source": "translation.fr"}}, ["data.columns.source", "translation.de"]),
    ("response", {}, ["for task=translation, not for task=response"]),
    ("classification", {"columns": None, "expand": "dailydialog"}, ["for task=response"]),
    ("response", {"columns": None, "expand": "dailydialog"}, ["iwslt17", "data.expand=dailydialog", "dialog"]),
]


def test_mistakes_with_sequences(sequences, tmp_path):
    cases = [(task, {**IWSLT, **changes}) for task, changes, _ in SEQUENCE_MISTAKES]
    for (_, _, told), answer in zip(SEQUENCE_MISTAKES, _load_all(sequences.environment(tmp_path), cases), strict=True):
        assert "\n" not in answer["error"]
        assert all(word in answer["error"] for word in told), answer["error"]


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
