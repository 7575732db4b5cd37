"""Which examples a request asks to forget, and which unseen ones match the request (D_n).

A kind of request is one class and one YAML in conf/forget. ``choose`` picks row numbers out of D; ``match`` picks row
numbers out of the reserve, of the same shape as the request.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from kga.data.amount import amount
from kga.data.corpus import column
from kga.errors import UserError


class Request:
    """What is forgotten. size: examples, or a share of D.

    grouped_by: column of the groups that the request takes whole, if it does: those of D_n are kept from the holdout.
    """

    grouped_by: str | None = None

    def __init__(self, size: int | float | None = None) -> None:
        self.size = size

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Rows of D (``train``, row numbers of ``table``) that are to be forgotten."""
        raise NotImplementedError

    def match(
        self,
        table: Dataset,
        train: np.ndarray,
        forget: np.ndarray,
        reserve: np.ndarray,
        size: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """``size`` rows of the reserve that are like the forget set; fewer where there are not as many."""
        return np.sort(rng.permutation(reserve)[:size])


class Random(Request):
    """Examples drawn uniformly from D."""

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count = amount(self.size, len(train), "forget.size")
        return np.sort(rng.permutation(train)[:count])


class Ids(Request):
    """The examples named in a file: one id per line, or JSON Lines with a field ``id``."""

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = path

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        wanted = read_ids(self.path)
        ids = column(table, "id").take(pa.array(train))
        found = pc.is_in(ids, value_set=pa.array(wanted, pa.string())).to_numpy()
        if found.sum() < len(set(wanted)):
            known = set(ids.filter(pa.array(found)).to_pylist())
            missing = [name for name in dict.fromkeys(wanted) if name not in known]
            unseen = set(missing) & set(column(table, "id").to_pylist())
            reserved = f"; {len(unseen)} of them lie in the reserve, which A_D never sees" if unseen else ""
            raise UserError(
                f"forget.path: {len(missing)} of the {len(set(wanted))} ids in {self.path} are not in D "
                f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}){reserved}: only what A_D was trained on can be forgotten"
            )
        return train[found]

    def match(self, table, train, forget, reserve, size, rng):
        return label_matched(table, forget, reserve, size, rng)


class Group(Request):
    """Whole groups (persons, firms): the named ones (``value``), or random ones until ``size`` is reached."""

    def __init__(
        self, size: int | float | None = None, column: str = "group", value: str | Sequence[str] | None = None
    ) -> None:
        super().__init__(size)
        self.column, self.grouped_by, self.value = column, column, value

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        groups = values_of(table, self.column, "forget.column").take(pa.array(train))
        if self.value is not None:
            return train[_holds(groups, self.value, f"forget.value (column {self.column})")]
        return train[whole_groups(groups, amount(self.size, len(train), "forget.size"), rng)]

    def match(self, table, train, forget, reserve, size, rng):
        """Whole groups of the reserve of which D holds no example."""
        groups = values_of(table, self.column, "forget.column")
        seen = pc.is_in(groups.take(pa.array(reserve)), value_set=groups.take(pa.array(train)).unique())
        unseen = reserve[~seen.to_numpy()]
        return unseen[whole_groups(groups.take(pa.array(unseen)), size, rng)]


class Label(Request):
    """All examples with a label (``value``), or ``size`` of them. D_n: unseen examples with that label."""

    def __init__(
        self, value: str | Sequence[str] | None = None, size: int | float | None = None, column: str = "label"
    ):
        super().__init__(size)
        self.column, self.value = column, value

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.value is None:
            raise UserError("forget=label needs forget.value: the label whose examples are to be forgotten")
        labels = values_of(table, self.column, "forget.column").take(pa.array(train))
        rows = train[_holds(labels, self.value, "forget.value")]
        if self.size is None:
            return rows
        return np.sort(rng.permutation(rows)[: amount(self.size, len(train), "forget.size")])

    def match(self, table, train, forget, reserve, size, rng):
        labels = values_of(table, self.column, "forget.column").take(pa.array(reserve))
        same = reserve[_contains(labels, self.value)]
        return np.sort(rng.permutation(same)[:size])


def read_ids(path: str | None) -> list[str]:
    """Ids of a text file (one a line) or of JSON Lines with a field ``id``; UserError names file and line."""
    if path is None:
        raise UserError("forget=ids needs forget.path: a file with one id per line, or JSON Lines with a field id")
    if not Path(path).is_file():
        raise UserError(
            f"forget.path={path} is no file: give a file with one id per line, or JSON Lines with a field id"
        )
    try:
        lines = (
            Path(path).read_text(encoding="utf-8-sig").split("\n")
        )  # splitlines() would also cut inside JSON strings
    except UnicodeDecodeError as error:
        raise UserError(f"forget.path={path} is no UTF-8 text: save it as UTF-8") from error
    ids = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("{"):
            try:
                text = str(json.loads(text)["id"])
            except (ValueError, KeyError) as error:
                raise UserError(f"{path}:{number}: no JSON object with a field id: mend the line") from error
        if text:
            ids.append(text)
    return ids


def values_of(table: Dataset, name: str, key: str) -> pa.ChunkedArray:
    """A column to choose by; UserError names the columns that exist."""
    if name not in table.column_names:
        known = ", ".join(sorted(set(table.column_names) - {"content", "input_hash"}))
        raise UserError(f"{key}={name} is no column of the data: it has {known}")
    return column(table, name)


def whole_groups(groups: pa.ChunkedArray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of randomly ordered whole groups, added until ``size`` examples are reached.

    An example without a group (null or empty) is one by itself.
    """
    if not len(groups):
        return np.empty(0, np.int64)
    names = groups.to_pandas()
    codes = pd.factorize(names.where(names != ""))[0]
    alone = codes < 0
    codes[alone] = codes.max() + 1 + np.arange(alone.sum())
    counts = np.bincount(codes)
    order = rng.permutation(len(counts))
    enough = np.searchsorted(np.cumsum(counts[order]), size) + 1
    return np.flatnonzero(np.isin(codes, order[:enough]))


def label_matched(
    table: Dataset, forget: np.ndarray, reserve: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """``size`` rows of the reserve with the label shares of the forget set; filled up at random. Unlabelled: random."""
    pool = rng.permutation(reserve)
    if "label" not in table.column_names or pa.types.is_list(column(table, "label").type):
        return np.sort(pool[:size])
    codes = column(table, "label").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    wanted = np.bincount(codes[forget], minlength=codes.max() + 1) * size // max(1, len(forget))
    rank = np.zeros(len(pool), np.int64)
    for code in np.unique(codes[pool]):
        at = np.flatnonzero(codes[pool] == code)
        rank[at] = np.arange(len(at))
    matched = rank < wanted[codes[pool]]
    return np.sort(np.concatenate([pool[matched], pool[~matched]])[:size])


def _names(value: object) -> list[str]:
    """One name or several, as text: YAML reads a label 3 as a number."""
    return [str(name) for name in ([value] if isinstance(value, str | int | float) else value)]


def _contains(values: pa.ChunkedArray, value: object) -> np.ndarray:
    wanted = _names(value)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return np.array([bool(set(wanted) & set(labels)) for labels in values.to_pylist()], bool)
    return pc.is_in(values.cast(pa.string()), value_set=pa.array(wanted)).fill_null(False).to_numpy()


def _holds(values: pa.ChunkedArray, value: object, key: str) -> np.ndarray:
    """As ``_contains``, but every wanted value must occur."""
    import difflib

    known = pc.list_flatten(values).unique() if pa.types.is_list(values.type) else values.unique()
    names = [str(name) for name in known.to_pylist()]
    for wanted in _names(value):
        if wanted not in names:
            near = difflib.get_close_matches(wanted, names, 3) or names[:3]
            raise UserError(
                f"{key}: no example of D has {wanted!r} (the reserve is no part of D); near or known: {', '.join(near)}"
            )
    return _contains(values, value)
