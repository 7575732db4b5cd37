"""Reading a data folder: every format gives the same corpus, and every mistake is one line with its place."""

import csv
import gzip
import json
import os
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from kga.data import folder
from kga.data.corpus import SPLITS
from kga.errors import UserError

ROWS = [
    {"text": f'Clause {i}: the "party", shall\tpay\nand ü', "label": f"l{i % 3}", "company": f"c{i}"} for i in range(12)
]
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(file: Path, rows: list[dict]) -> None:
    if file.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(file)
    elif file.suffix in (".csv", ".tsv"):
        with open(file, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="," if file.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".gz":
        file.write_bytes(gzip.compress(json_lines(rows).encode()))
    else:
        file.write_text(json_lines(rows), encoding="utf-8")


def write_splits(where: Path, suffix: str = ".jsonl", rows: list[dict] = ROWS) -> Path:
    where.mkdir(exist_ok=True)
    for number, split in enumerate(SPLITS):
        write(where / f"{split}{suffix}", rows[number * 4 : number * 4 + 4])
    return where


def load(where: Path, task: str = "classification"):
    return folder.load(task, where)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_examples(tmp_path, suffix):
    corpus = load(write_splits(tmp_path / "d", suffix))
    assert corpus.name == "d"
    for number, split in enumerate(SPLITS):
        read = corpus.splits[split].to_list()
        assert [{key: row[key] for key in ROWS[0]} for row in read] == ROWS[number * 4 : number * 4 + 4]
        assert all(row["id"] == row["content"] for row in read)


def test_splits_may_differ_in_format_and_columns(tmp_path):
    write(tmp_path / "train.parquet", ROWS)
    write(tmp_path / "validation.csv", [{"label": "l0", "text": "v"}])
    write(tmp_path / "test.jsonl.gz", [{"text": "t", "label": "l1", "year": 2020}])
    corpus = folder.load("classification", str(tmp_path), name="mixed")
    assert [len(split) for split in corpus.splits.values()] == [12, 1, 1]
    assert corpus.name == "mixed"
    assert corpus.test[0]["year"] == 2020


def test_csv_texts_and_labels_are_taken_as_written(tmp_path):
    (tmp_path / "train.csv").write_bytes("\ufefftext,label\r\nNA,007\r\n\r\nnull,1.50\r\n2020-01-01,-1\r\n".encode())
    write(tmp_path / "validation.csv", ROWS[:1])
    write(tmp_path / "test.csv", ROWS[1:2])
    corpus = load(tmp_path)
    assert corpus.train[:]["text"] == ["NA", "null", "2020-01-01"]
    assert corpus.train[:]["label"] == ["007", "1.50", "-1"]


def test_long_csv_fields_are_read(tmp_path):
    write_splits(tmp_path, ".csv", [{**row, "text": row["text"] * 10_000} for row in ROWS])
    assert len(load(tmp_path).train[0]["text"]) > 131_072


def test_json_columns_keep_their_values(tmp_path):
    rows = [{**row, "day": "2020-01-01", "year": 2020, "late": None, "odd": 1} for row in ROWS * 200]
    rows = [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(rows)]
    rows[-1] |= {"late": "here", "odd": {"p": [1]}, "only_here": 0.5}
    write(tmp_path / "train.jsonl", rows)
    for split in ("validation", "test"):
        write(tmp_path / f"{split}.jsonl", [{"text": split, "label": 3}])
    corpus = load(tmp_path)
    assert corpus.train[0]["day"] == "2020-01-01"
    assert (corpus.train[0]["year"], corpus.train[0]["late"], corpus.train[0]["odd"]) == (2020, None, "1")
    last = corpus.train[-1]
    assert (last["late"], last["odd"], last["only_here"]) == ("here", '{"p": [1]}', 0.5)
    assert corpus.test[0]["label"] == "3"


def test_lists_of_labels_are_multi_label(tmp_path):
    rows = [{"text": f"t {i}", "label": [] if i % 4 == 0 else ["a", "b"][: i % 3]} for i in range(12)]
    for suffix in (".jsonl", ".parquet"):
        corpus = load(write_splits(tmp_path / suffix[1:], suffix, rows))
        assert corpus.multi_label
        assert corpus.train[:]["label"] == [[], ["a"], ["a", "b"], []]


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("translation", {"source": "ein Hund", "target": "a dog"}),
        ("response", {"persona": [], "history": ["hi", "hello"], "response": "yes"}),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_fields_of_the_other_tasks(tmp_path, task, row, suffix):
    for split in SPLITS:
        write(tmp_path / f"{split}{suffix}", [row])
    read = load(tmp_path, task).test[0]
    assert {key: read[key] for key in row} == row


def test_missing_splits_are_cut(tmp_path):
    write(tmp_path / "train.jsonl", [{**ROWS[0], "text": f"t {i}"} for i in range(50)])
    corpus = load(tmp_path)
    assert [len(split) for split in corpus.splits.values()] == [40, 5, 5]
    assert len(corpus.notes) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_changed_file_is_noticed_whatever_its_time_and_size(tmp_path, suffix):
    file = write_splits(tmp_path, suffix) / f"train{suffix}"
    os.utime(file, (10**9, 10**9))
    before = load(tmp_path).train[0]
    write(file, [{**row, "label": "L" + row["label"][1:]} for row in ROWS[:4]])
    os.utime(file, (10**9, 10**9))
    after = load(tmp_path).train[0]
    assert (before["label"], after["label"]) == ("l0", "L0")
    assert before["content"] != after["content"]


def test_an_unchanged_file_comes_from_the_cache(tmp_path, monkeypatch):
    write_splits(tmp_path)
    first = load(tmp_path)
    monkeypatch.setattr(folder, "_encoded_rows", lambda **_: pytest.fail("the file was converted again"))
    monkeypatch.setattr(folder, "_infer_features", lambda *_: pytest.fail("the file was read again"))
    again = load(tmp_path)
    assert again.train.to_list() == first.train.to_list()
    assert again.train.cache_files  # memory-mapped, not in memory


def test_what_was_found_in_a_file_holds_for_its_format_and_task_only(tmp_path):
    """The same bytes: one column in TSV, two in CSV; strings of one task are lists of another."""
    for suffix in (".csv", ".tsv"):
        (tmp_path / suffix).mkdir()
        (tmp_path / suffix / f"train{suffix}").write_text("text,label\n" + "".join(f"t {i},l\n" for i in range(30)))
    assert load(tmp_path / ".csv").train[0]["label"] == "l"
    with pytest.raises(UserError, match="'text' is missing"):
        load(tmp_path / ".tsv")
    row = {**ROWS[0], "persona": "a string", "history": ["h"], "response": "r"}
    write(tmp_path / "train.jsonl", [{**row, "text": f"t {i}"} for i in range(30)])
    assert load(tmp_path).train[0]["persona"] == "a string"
    with pytest.raises(UserError, match="'persona' is of kind string"):
        load(tmp_path, task="response")


def test_a_broken_off_finding_is_made_again(tmp_path):
    write_splits(tmp_path)
    first = load(tmp_path)
    (found, *_) = sorted(Path(datasets.config.HF_DATASETS_CACHE, "kga").iterdir())
    found.write_text('{"text": ')
    assert load(tmp_path).train.to_list() == first.train.to_list()


GOOD = json_lines(ROWS[:3])
BAD_FILES = {
    "broken_json": ("train.jsonl", GOOD + '{"text": "a", "label"\n', ["train.jsonl:4", "broken JSON"]),
    "after_blank_line": ("train.jsonl", GOOD + "\n\n" + '{"text": "a"\n', ["train.jsonl:6", "broken JSON"]),
    "not_an_object": ("train.jsonl", '["a"]\n', ["train.jsonl:1", "JSON object", "list"]),
    "missing_field": ("train.jsonl", GOOD + '\n{"text": "a"}\n', ["train.jsonl:5", "'label' is missing"]),
    "null_label": ("train.jsonl", GOOD + '{"text": "a", "label": null}\n', ["train.jsonl:4", "'label' is missing"]),
    "empty_text": ("train.jsonl", GOOD + '{"text": " ", "label": "x"}\n', ["train.jsonl:4", "'text' is empty"]),
    "never_a_field": ("train.jsonl", '{"text": "a"}\n', ["train.jsonl: ", "'label' is missing", "found: text"]),
    "number_as_text": (
        "train.jsonl",
        GOOD + '{"text": 5, "label": "x"}\n',
        ["train.jsonl:4", "'text' is of kind integer"],
    ),
    "two_label_forms": (
        "train.jsonl",
        GOOD + '{"text": "a", "label": ["x"]}\n',
        ["train.jsonl:4", "'label' is of kind list"],
    ),
    "not_utf8": ("train.jsonl", GOOD.encode() + b'{"text": "\xe9", "label": "x"}\n', ["train.jsonl:4", "UTF-8"]),
    "half_a_pair": ("train.jsonl", GOOD + '{"text": "\\ud83d", "label": "x"}\n', ["train.jsonl:4", "UTF-8"]),
    "empty": ("train.jsonl", "", ["train.jsonl: ", "no examples"]),
    "not_gzip": ("train.jsonl.gz", GOOD, ["train.jsonl.gz:1: ", "gzip"]),
    "cut_gzip": ("train.jsonl.gz", gzip.compress(GOOD.encode())[:-20], ["train.jsonl.gz:", "gzip"]),
    "csv_empty_text": ("train.csv", 'text,label\n"a\nb",x\n,y\n', ["train.csv:4", "'text' is empty"]),
    "csv_short_line": ("train.csv", "text,label\na,x\nb\n", ["train.csv:3", "'label' is missing"]),
    "csv_long_line": ("train.csv", "text,label\na,x\nb, c,y\n", ["train.csv:3", "3 fields", "header has 2"]),
    "csv_no_column": ("train.csv", "text,topic\na,x\n", ["train.csv: ", "'label' is missing", "topic"]),
    "csv_twice": ("train.csv", "text,label,text\na,x,b\n", ["train.csv:1", "same name"]),
    "csv_open_quote": ("train.csv", 'text,label\na,x\n"b,y\n', ["train.csv:3", "unexpected end"]),
    "csv_header_only": ("train.csv", "text,label\n", ["train.csv: ", "no examples"]),
    "csv_not_utf8": ("train.csv", b"text,label\na,x\n\xe9,y\n", ["train.csv:3", "utf-8"]),
    "tsv_is_csv": ("train.tsv", "text,label\na,x\n", ["train.tsv: ", "'text' is missing"]),
    "cut_parquet": ("train.parquet", b"PAR1 and not more", ["train.parquet: ", "cannot be read"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_mistakes_in_a_file_are_one_line_with_the_place(tmp_path, case):
    name, content, told = BAD_FILES[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in (str(tmp_path), *told)), message


def test_a_parquet_fault_names_its_row(tmp_path):
    Dataset.from_dict({"text": ["a", "b", None], "label": ["x", "y", "z"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet, row 3: 'text' is missing"):
        load(tmp_path)


def test_a_fault_in_test_is_found_too(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "test.jsonl").write_text(GOOD + '{"text": "a"}\n')
    with pytest.raises(UserError, match=r"test\.jsonl:4: 'label' is missing"):
        load(tmp_path)


def test_mistakes_in_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"data\.path=.*nowhere: no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no training file: put one of train\.jsonl, .*train\.parquet"):
        load(tmp_path)
    write(tmp_path / "test.jsonl", ROWS)
    with pytest.raises(UserError, match="no training file"):
        load(tmp_path)
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "train.csv", ROWS)
    with pytest.raises(UserError, match=r"train\.jsonl and train\.csv are the same split"):
        load(tmp_path)


@pytest.mark.real
@pytest.mark.skipif("KGA_REAL_DATA" not in os.environ, reason="KGA_REAL_DATA names no folder of real data")
def test_real_contract_provisions():
    corpus = load(Path(os.environ["KGA_REAL_DATA"]) / "contract_provisions")
    assert [len(split) for split in corpus.splits.values()] == [5718, 725, 704]
    assert len(set(corpus.train[:]["label"])) == 70
    assert len({*corpus.train[:]["id"], *corpus.validation[:]["id"], *corpus.test[:]["id"]}) == 5718 + 725 + 704
    assert {"group", "company"} <= set(corpus.train.column_names)
    seen = set(corpus.train[:]["input_hash"])
    assert sum(text in seen for text in corpus.test[:]["input_hash"]) == 11  # as the data's own notes say
