"""A data set read and checked: three splits of examples that are known by id and by content."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value

from kga.errors import UserError
from kga.hashing import PIECE, column_digest, digest, pieces

FIELDS = {
    "classification": ("text", "label"),
    "translation": ("source", "target"),
    "response": ("persona", "history", "response"),
}
SPLITS = ("train", "validation", "test")
CUT_SHARE = 0.1  # of train, for each split that is missing

LIST_FIELDS = ("persona", "history")
MADE_COLUMNS = ("content", "input_hash")
_LIST_FEATURES = (List, LargeList)


@dataclass(frozen=True)
class Corpus:
    """The examples of one task.

    Each split is a memory-mapped table with the columns `id` (str, unique over all splits), `content` (hash of the
    task's fields: it changes when a text or a label does), `input_hash` (the same without the label, target or
    response: equal for equal inputs), the task's `FIELDS`, and whatever other columns the data has.

    Attributes:
        notes: what a reader of results should know, one sentence each (splits that were cut, repeated examples).
    """

    name: str
    task: str
    train: Dataset
    validation: Dataset
    test: Dataset
    notes: tuple[str, ...] = ()

    @property
    def multi_label(self) -> bool:
        """Whether an example has a list of labels instead of one."""
        return self.task == "classification" and isinstance(self.train.features["label"], List)

    @property
    def splits(self) -> dict[str, Dataset]:
        """The splits by name: train, validation, test."""
        return {split: getattr(self, split) for split in SPLITS}


def make_corpus(name: str, task: str, splits: dict[str, Dataset], *, seed: int = 0, cut: bool = True) -> Corpus:
    """Check the splits, give every example an id and hashes, and cut the splits that are missing from train.

    Args:
        splits: "train" and, if there are any, "validation" and "test".
        seed: draws another cut. It is not the run's seed: validation and test stay the same over seeds.
        cut: False leaves missing splits empty (examples that are all held out anyway).

    Raises:
        UserError: train is missing or empty, a field is missing, of a wrong type or empty, or a given id repeats.
    """
    if not len(splits.get("train", ())):
        raise UserError(f"data {name}: the training split is empty: give it examples")
    given = {split: splits[split] for split in SPLITS if len(splits.get(split, ()))}
    tables = {split: _checked(f"data {name}, {split}", dataset, task) for split, dataset in given.items()}
    if len({isinstance(table.features[FIELDS[task][-1]], List) for table in tables.values()}) > 1:
        raise UserError(f"data {name}: labels are lists in one split and single in another: use one form in all splits")
    tables = _with_ids(name, tables)
    tables, notes = _cut_missing(name, tables, seed) if cut else (_with_empty(tables), [])
    return Corpus(name, task, **tables, notes=(*notes, *_repeats(tables)))


def conform(dataset: Dataset, task: str) -> Dataset:
    """Bring the task's fields to plain strings, or lists of strings; class numbers become the names of the classes.

    Raises:
        UserError: a column is missing or of a type that cannot be meant; the message names the column only.
    """
    for field in FIELDS[task]:
        if field not in dataset.features:
            found = ", ".join(dataset.column_names)
            raise UserError(f"column {field!r} is missing: {task} needs {', '.join(FIELDS[task])}; found: {found}")
        dataset = _conform_field(dataset, field)
    return dataset


def first_fault(dataset: Dataset, task: str) -> tuple[int, str] | None:
    """The first row, counted from 0, with a missing or empty field of the task, and what is wrong there; else None."""
    faults = []
    for field in FIELDS[task]:
        for bad, what in _fault_masks(column(dataset, field), field):
            rows = np.flatnonzero(bad)
            faults += [(int(rows[0]), what)] if rows.size else []
    return min(faults, default=None)


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """One column as an Arrow array, in the order of the rows."""
    values, rows = dataset.data.column(name), dataset._indices
    # A selected data set is a table and row numbers; `datasets` itself would gather it row by row, a minute a million.
    return values if rows is None else taken(values, rows.column(0).to_numpy())


def taken(values: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """The values at some rows, in that order, a piece at a time: one Arrow array of texts ends at 2 GiB."""
    parts = [values.take(pa.array(rows[start : start + PIECE])) for start in range(0, len(rows), PIECE)]
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], values.type)


class Listed:
    """A column read as Python objects from the first row to the last, any number of times, a piece at a time."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.values = values

    def __iter__(self) -> Iterator[object]:
        for piece in pieces(self.values):
            yield from piece.to_pylist()


def input_text(fields: dict[str, object]) -> str:
    """The input of an example as a person reads it: lists (persona, history) a line for each item."""
    lines = [value if isinstance(value, list) else [value] for value in fields.values()]
    return "\n".join(text for part in lines for text in part)


def content_hash(fields: dict[str, object]) -> str:
    """32 hex digits of BLAKE2b over the fields as canonical JSON (sorted keys, no white space, UTF-8)."""
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return blake2b(canonical.encode(), digest_size=16).hexdigest()


def _checked(where: str, dataset: Dataset, task: str) -> Dataset:
    taken = [name for name in MADE_COLUMNS if name in dataset.column_names]
    if taken:
        raise UserError(f"{where}: the column name {taken[0]!r} is kept for kga's own use: rename the column")
    try:
        dataset = conform(dataset, task)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if fault := first_fault(dataset, task):
        row, what = fault
        raise UserError(f"{where}, row {row + 1}: {what}")
    return dataset.map(
        _hashes, batched=True, fn_kwargs={"fields": FIELDS[task]}, features=_with_hash_columns(dataset.features)
    )


def _with_hash_columns(features: Features) -> Features:
    return Features({**features, **{name: Value("string") for name in MADE_COLUMNS}})


# `datasets` keeps the result under the function's name, not its code: give it a new name when hashes change meaning.
def _hashes(batch: dict[str, list], fields: tuple[str, ...]) -> dict[str, list[str]]:
    rows = [dict(zip(fields, values, strict=True)) for values in zip(*(batch[field] for field in fields), strict=True)]
    inputs = ({field: row[field] for field in fields[:-1]} for row in rows)
    return {"content": [content_hash(row) for row in rows], "input_hash": [content_hash(row) for row in inputs]}


def _conform_field(dataset: Dataset, field: str) -> Dataset:
    feature = dataset.features[field]
    is_list = isinstance(feature, _LIST_FEATURES)
    item = feature.feature if is_list else feature
    if field != "label" and is_list != (field in LIST_FIELDS):
        raise UserError(f"column {field!r} must hold {'lists of strings' if field in LIST_FIELDS else 'strings'}")
    if isinstance(item, ClassLabel):
        return _name_classes(dataset, field, item)
    plain = isinstance(item, Value) and (item.dtype in ("string", "large_string", "null") or field == "label")
    if not plain:
        raise UserError(f"column {field!r} must hold strings, not {getattr(item, 'dtype', type(item).__name__)}")
    wanted = List(Value("string")) if is_list else Value("string")
    return dataset if feature == wanted else dataset.cast_column(field, wanted)


def _name_classes(dataset: Dataset, field: str, classes: ClassLabel) -> Dataset:
    """Replace class numbers by class names; a number outside the names (-1: not labelled) becomes null."""
    names = dict(enumerate(classes.names))
    is_list = isinstance(dataset.features[field], _LIST_FEATURES)
    features = Features({**dataset.features, field: List(Value("string")) if is_list else Value("string")})
    return dataset.map(partial(_look_up, field, names), batched=True, features=features)


def _look_up(field: str, names: dict[int, str], batch: dict[str, list]) -> dict[str, list]:
    def name(value: int | list[int] | None) -> str | list[str | None] | None:
        return [names.get(item) for item in value] if isinstance(value, list) else names.get(value)

    return {field: [name(value) for value in batch[field]]}


def _fault_masks(values: pa.ChunkedArray, field: str) -> Iterator[tuple[np.ndarray, str]]:
    missing = values.is_null().to_numpy()
    yield missing, f"{field!r} is missing"
    if not pa.types.is_list(values.type):
        yield ~missing & ~_written(values), f"{field!r} is empty"
        return
    parents, items = pc.list_parent_indices(values), pc.list_flatten(values)
    empty = np.zeros(len(values), dtype=bool)
    empty[parents.to_numpy()[~_written(items)]] = True
    yield empty, f"{field!r} has an empty item"


def _written(texts: pa.ChunkedArray) -> np.ndarray:
    """Which texts are more than white space; null counts as not written."""
    return pc.fill_null(pc.match_substring_regex(texts, r"\S"), False).to_numpy()


def _with_ids(name: str, tables: dict[str, Dataset]) -> dict[str, Dataset]:
    """Make ids strings, or make them: the content hash, and -2, -3, ... behind it for an example that repeats."""
    given = [split for split, table in tables.items() if "id" in table.column_names]
    with_ids = {split: _cast_ids(f"data {name}, {split}", tables[split]) for split in given}
    if len(given) < len(tables):
        order = [*given, *(split for split in tables if split not in given)]
        earlier = _earlier_copies([column(tables[split], "content") for split in order])
        for split, copies in zip(order, earlier, strict=True):
            if split not in given:
                ids = _numbered(column(tables[split], "content"), copies)
                name_of = digest([tables[split]._fingerprint, column_digest(ids)])  # else the ids are pickled for one
                with_ids[split] = tables[split].add_column("id", ids, new_fingerprint=name_of)
    with_ids = {split: with_ids[split] for split in tables}
    _refuse_repeated_ids(name, with_ids)
    return with_ids


def _earlier_copies(columns: list[pa.ChunkedArray]) -> list[np.ndarray]:
    """How often the value of each row occurred before, in all columns one after the other."""
    codes = _joined(columns).dictionary_encode().combine_chunks().indices.to_numpy()
    repeated = np.flatnonzero(np.bincount(codes)[codes] > 1)
    earlier = np.zeros(len(codes), np.int32)
    earlier[repeated] = pd.Series(codes[repeated]).groupby(codes[repeated]).cumcount()
    return np.split(earlier, np.cumsum([len(values) for values in columns])[:-1])


def _numbered(contents: pa.ChunkedArray, copies: np.ndarray) -> pa.ChunkedArray:
    endings = pc.if_else(copies > 0, pc.binary_join_element_wise("-", pa.array(copies + 1).cast(pa.string()), ""), "")
    return pc.binary_join_element_wise(contents, endings, "")


def _joined(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for values in columns for chunk in values.chunks], columns[0].type)


def _cast_ids(where: str, dataset: Dataset) -> Dataset:
    ids = column(dataset, "id")
    if pa.types.is_nested(ids.type):
        raise UserError(f"{where}: column 'id' must hold strings or numbers, not {ids.type}")
    ids = ids.cast(pa.string())
    missing = np.flatnonzero(~_written(ids))
    if missing.size:
        raise UserError(f"{where}, row {missing[0] + 1}: 'id' is missing: give every example an id, or none")
    return dataset if dataset.features["id"] == Value("string") else dataset.cast_column("id", Value("string"))


def _refuse_repeated_ids(name: str, tables: dict[str, Dataset]) -> None:
    ids = _joined([column(table, "id") for table in tables.values()])
    if pc.count_distinct(ids).as_py() < len(ids):
        ids = ids.to_pandas()
        repeated = ids[ids.duplicated()].unique()
        first = ", ".join(repeated[:5])
        raise UserError(
            f"data {name}: {len(repeated)} ids occur more than once ({first}): make ids unique over all splits, or leave "
            "the column 'id' out"
        )


def _cut_missing(name: str, tables: dict[str, Dataset], seed: int) -> tuple[dict[str, Dataset], list[str]]:
    train, notes, given = tables["train"], [], len(tables["train"])
    for split in SPLITS[:0:-1]:
        if split in tables:
            continue
        units = _units(train)
        taken = _cut(units, f"{seed}/{split}", CUT_SHARE * given)
        if taken.all():
            raise UserError(f"data {name}: train is too small to cut a {split} split from it: give a {split} split")
        tables = {**tables, split: train.select(np.flatnonzero(taken))}
        train = train.select(np.flatnonzero(~taken))
        whole = " by whole groups" if "group" in train.column_names else ""
        notes.append(f"{name} has no {split} split: {taken.sum()} of {given} training examples were cut for it{whole}.")
    return {split: {**tables, "train": train}[split] for split in SPLITS}, notes


def _with_empty(tables: dict[str, Dataset]) -> dict[str, Dataset]:
    return {split: tables.get(split, tables["train"].select([])) for split in SPLITS}


def _units(dataset: Dataset) -> pd.Series:
    """What is cut as a whole, for each row: its group, or the row by its id where it has none."""
    ids = "id:" + column(dataset, "id").to_pandas()
    if "group" not in dataset.column_names:
        return ids
    groups = column(dataset, "group").cast(pa.string()).to_pandas()
    return ids.where(groups.isna() | (groups == ""), "group:" + groups)


def _cut(units: pd.Series, salt: str, size: float) -> np.ndarray:
    """Mark whole units, in the order of their salted hashes, until `size` rows are reached: the rows' order is moot."""
    sizes = units.value_counts(sort=False)
    hashes = [blake2b(f"{salt}/{unit}".encode(), digest_size=16).hexdigest() for unit in sizes.index]
    ordered = sizes.iloc[np.argsort(hashes)]
    taken = ordered.index[ordered.cumsum() - ordered < size]
    return units.isin(taken).to_numpy()


def _repeats(tables: dict[str, Dataset]) -> list[str]:
    contents, inputs = (column(tables["train"], name) for name in MADE_COLUMNS)
    copies = len(contents) - pc.count_distinct(contents).as_py()
    in_test = pc.sum(pc.is_in(inputs, value_set=column(tables["test"], "input_hash").combine_chunks())).as_py() or 0
    notes = [f"{copies} of {len(contents)} training examples are exact copies of an earlier one."] if copies else []
    return [*notes, *([f"{in_test} training inputs also occur in test, word for word."] if in_test else [])]
