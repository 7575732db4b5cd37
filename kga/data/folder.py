"""A data set in a folder: train, validation and test as JSON Lines, CSV, TSV, Parquet or parallel text."""

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from kga.data.corpus import FIELDS, LIST_FIELDS, SPLITS, Corpus, conform, first_fault, make_corpus
from kga.data.lines import digest, raw_lines, remembered
from kga.data.parallel import Pair, Sides, choose_pairs, find_sides, read_pair
from kga.errors import UserError

Rows = Iterator[tuple[int, dict[str, object]]]  # (line in the file, counted from 1; fields)

_INT64 = range(-(2**63), 2**63)
_SCALARS = {"string", "integer", "float", "boolean"}
# Columns in which every value is of one kind keep it; anything else is kept as text.
_FEATURES = {
    "integer": Value("int64"),
    "float": Value("float64"),
    "boolean": Value("bool"),
    "list": List(Value("string")),
}


def load(
    task: str,
    path: str | Path,
    name: str | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
) -> Corpus:
    """Read a data folder; its tables stay in the cache of `datasets`, known by the content of the files.

    Args:
        path: folder with `SPLIT.jsonl`, `.jsonl.gz`, `.csv`, `.tsv` or `.parquet`, or for translation parallel text:
            `SPLIT.LANG[.gz]` in two languages; only train is required.
        name: what to call the data set; by default the folder's name.
        source_lang: language of parallel text to translate from; by default the first in alphabetical order.
        target_lang: language to translate to; by default the other.

    Raises:
        UserError: the folder, a file or a line is not as it should be.
    """
    folder = Path(path).expanduser()
    files, note = _split_files(folder, task, source_lang, target_lang)
    if (source_lang or target_lang) and not any(isinstance(file, Pair) for file in files.values()):
        raise UserError(f"data.source_lang and data.target_lang are for parallel text, of which {folder} has none")
    corpus = make_corpus(
        name or folder.resolve().name, task, {split: _read(file, task) for split, file in files.items()}
    )
    return replace(corpus, notes=(note, *corpus.notes)) if note else corpus


def load_file(task: str, path: str | Path, source_lang: str | None = None, target_lang: str | None = None) -> Corpus:
    """Read examples that are only held out (D_n and holdout), never trained on by A_D; all of them become `train`.

    Args:
        path: one file (`.jsonl`, `.jsonl.gz`, `.csv`, `.tsv` or `.parquet`), or a data folder, of which train is read.
        source_lang: language to translate from, as for `load`, if the folder has parallel text.
        target_lang: language to translate to.

    Raises:
        UserError: the file or a line is not as it should be.
    """
    given, note = Path(path).expanduser(), None
    if given.is_dir():
        files, note = _split_files(given, task, source_lang, target_lang, "new.path")
        file = files["train"]
    elif not given.is_file():
        raise UserError(f"new.path={path}: no such file or data folder")
    elif not given.name.endswith(tuple(_FORMATS)):
        raise UserError(
            f"new.path={path}: unknown kind of file: give one that ends in {', '.join(_FORMATS)}, or a folder"
        )
    else:
        file = given
    corpus = make_corpus(given.resolve().name, task, {"train": _read(file, task)}, cut=False)
    return replace(corpus, notes=(note, *corpus.notes)) if note else corpus


def _split_files(
    folder: Path, task: str, source_lang: str | None, target_lang: str | None, key: str = "data.path"
) -> tuple[dict[str, Path | Pair], str | None]:
    """The file or pair of files of each split, and what is to be noted about them."""
    if not folder.is_dir():
        raise UserError(f"{key}={folder}: no such folder")
    sides = find_sides(folder, key)
    files: dict[str, Path | Pair] = {}
    for split in SPLITS:
        found = [file for suffix in _FORMATS if (file := folder / f"{split}{suffix}").is_file()]
        if task == "translation":
            found += sides.get(split, {}).values()
        if len(found) > 1 and found[0] not in sides.get(split, {}).values():
            raise UserError(f"{key}={folder}: {found[0].name} and {found[1].name} are the same split: keep one")
        if found:
            files[split] = found[0]
    if "train" not in files:
        raise UserError(f"{key}={folder}: {_no_train(task, sides)}")
    if task != "translation" or not sides:
        return files, None
    pairs, note = choose_pairs(f"{key}={folder}", sides, source_lang, target_lang)
    return {split: pairs.get(split, file) for split, file in files.items()}, note


def _no_train(task: str, sides: dict[str, Sides]) -> str:
    if "train" in sides:
        names = " and ".join(file.name for file in sides["train"].values())
        return f"{names}: parallel text is for task=translation, not task={task}"
    parallel = ", or train.LANG[.gz] in two languages" if task == "translation" else ""
    return f"no training file: put one of train{', train'.join(_FORMATS)}{parallel} there"


def _read(file: Path | Pair, task: str) -> Dataset:
    rows = None
    try:
        if isinstance(file, Pair):
            dataset = read_pair(file)
        elif rows := next(rows for suffix, rows in _FORMATS.items() if file.name.endswith(suffix)):
            dataset = _read_text(file, rows, task)
        else:
            dataset = _read_parquet(file)
    except (DatasetGenerationError, pa.ArrowException, OSError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise UserError(f"{file}: cannot be read: {reason}") from error
    if not len(dataset):
        raise UserError(f"{file}: no examples: fill the file or take it away")
    try:
        dataset = conform(dataset, task)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    if fault := first_fault(dataset, task):
        row, what = fault
        place = f":{next(islice(rows(file), row, None))[0]}" if rows else f", row {row + 1}"
        raise UserError(f"{file}{place}: {what}")
    return dataset


def _read_text(file: Path, rows: Callable[[Path], Rows], task: str) -> Dataset:
    kind = next(suffix for suffix in _FORMATS if file.name.endswith(suffix))
    key = digest([file], kind, task, "features")
    features = Features.from_dict(remembered(key, lambda: _infer_features(file, rows, task).to_dict()))
    if not features:
        return Dataset.from_dict({})
    return Dataset.from_generator(
        _encoded_rows,
        features=features,
        gen_kwargs={"file": file, "rows": rows, "features": features},
        fingerprint=digest([file], str(features)),
    )


def _read_parquet(file: Path) -> Dataset:
    # `datasets` knows a local file by its path and time of change only; the description enters the cache's key too.
    return load_dataset("parquet", data_files=str(file), split="train", description=digest([file]))


def _infer_features(file: Path, rows: Callable[[Path], Rows], task: str) -> Features:
    """The type of each column, from one pass over the file.

    `datasets` would take the types from the first lines, read dates into strings, and not say which line is wrong.
    """
    columns: dict[str, dict[str, int]] = {}  # column -> kind of value -> the first line that has it
    for line, row in rows(file):
        for column, value in row.items():
            columns.setdefault(column, {}).setdefault(_kind(value), line)
    for kinds in columns.values():
        kinds.pop("null", None)
    for field in columns.keys() & set(FIELDS[task]):
        _check_kinds(file, field, columns[field])
    return Features({column: _feature(kinds) for column, kinds in columns.items()})


def _kind(value: object) -> str:
    match value:
        case str():
            return "string"
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() if value in _INT64:
            return "integer"
        case float():
            return "float"
        case list() if not any(isinstance(item, list | dict) for item in value):
            return "list"
    return "nested value"


def _feature(kinds: dict[str, int]) -> Value | List:
    if kinds.keys() == {"integer", "float"}:
        return _FEATURES["float"]
    return _FEATURES.get(next(iter(kinds)), Value("string")) if len(kinds) == 1 else Value("string")


def _check_kinds(file: Path, field: str, kinds: dict[str, int]) -> None:
    if field == "label":
        allowed = {"list"} if next(iter(kinds), None) == "list" else _SCALARS
    else:
        allowed = {"list"} if field in LIST_FIELDS else {"string"}
    for kind in kinds.keys() - allowed:
        needed = "list of strings" if allowed == {"list"} else "string"
        raise UserError(f"{file}:{kinds[kind]}: {field!r} is of kind {kind}, but a {needed} is needed here")


def _encoded_rows(file: Path, rows: Callable[[Path], Rows], features: Features) -> Iterator[dict[str, object]]:
    for _, row in rows(file):
        yield {column: _encode(row.get(column), feature) for column, feature in features.items()}


def _encode(value: object, feature: Value | List) -> object:
    if isinstance(value, list) and isinstance(feature, List):
        return [_encode(item, feature.feature) for item in value]
    if value is None or isinstance(value, str) or feature != Value("string"):
        return value
    return json.dumps(value, ensure_ascii=False)


def _json_lines(file: Path) -> Rows:
    for line, raw in enumerate(raw_lines(file), start=1):
        if raw.isspace():
            continue
        try:
            row = json.loads(raw)
            if b"\\u" in raw:
                json.dumps(
                    row, ensure_ascii=False
                ).encode()  # refuses half of a surrogate pair, which Arrow cannot hold
        except json.JSONDecodeError as error:
            raise UserError(f"{file}:{line}: broken JSON: {error.msg} (column {error.colno})") from None
        except UnicodeError as error:
            raise UserError(f"{file}:{line}: not UTF-8: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{file}:{line}: each line must be one JSON object, not a {_kind(row)}")
        yield line, row


def _delimited(delimiter: str, file: Path) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the module's own limit, 128 KiB, is shorter than some documents
    reader = csv.reader(codecs.iterdecode(raw_lines(file), "utf-8-sig"), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeError) as error:
            raise UserError(f"{file}:{line}: {error}") from None
        if not header:
            header = values
            if len(set(header)) < len(header):
                raise UserError(f"{file}:{line}: two columns have the same name: rename one")
        elif len(values) > len(header):
            raise UserError(
                f"{file}:{line}: {len(values)} fields, but the header has {len(header)}: quote text that has the delimiter"
            )
        elif values:
            yield line, dict(zip_longest(header, values))


# By suffix; Parquet has no lines and is read by `datasets` itself.
_FORMATS: dict[str, Callable[[Path], Rows] | None] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".csv": partial(_delimited, ","),
    ".tsv": partial(_delimited, "\t"),
    ".parquet": None,
}
