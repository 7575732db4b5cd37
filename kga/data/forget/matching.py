"""Values to choose examples by, and unseen examples drawn to be like given ones."""

import difflib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from kga.data.corpus import FIELDS, column, content_hash
from kga.errors import UserError

BINS = 4  # of lengths


# Examples like others -------------------------------------------------------------------------------------------------


class Strata:
    """Label and length of all N examples of a table.

    The label is one of classification with single labels; everything else is told apart by length alone. Lengths are
    the characters of the input, in bins of equally many of the given rows: four, or fewer by ``least``.

    Attributes:
        labels: [N] number of the label, 0 where there is none.
        codes: [N] number of the stratum, a label and a bin.
    """

    def __init__(self, table: Dataset, rows: np.ndarray, least: int = 1) -> None:
        """least: of the given rows, in a stratum of mean size."""
        inputs, truth = fields_of(table)
        self.labels = np.zeros(len(table), np.int64)
        if truth == "label" and not _is_list(column(table, truth)):
            encoded = column(table, truth).dictionary_encode().combine_chunks()
            self.labels = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        bins = np.clip(len(rows) // (least * len(np.unique(self.labels[rows]))), 1, BINS)
        lengths = sum(_characters(column(table, name)) for name in inputs)
        edges = _edges(lengths[rows], lengths, bins)
        self.codes = self.labels * (len(edges) + 1) + np.searchsorted(edges, lengths)

    def wanted(self, forget: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """``size`` examples shared out as the forget set is: number by label, and by stratum."""
        by_label = apportioned(np.bincount(self.labels[forget], minlength=self.labels.max() + 1), size)
        by_stratum = np.zeros(self.codes.max() + 1, np.int64)
        for label in np.unique(self.labels[forget]):
            counts = np.bincount(self.codes[forget[self.labels[forget] == label]], minlength=len(by_stratum))
            by_stratum += apportioned(counts, by_label[label])
        return by_label, by_stratum


def matched(
    table: Dataset,
    forget: np.ndarray,
    reserve: np.ndarray,
    size: int,
    rng: np.random.Generator,
    fill: bool = True,
    spare: bool = False,
) -> np.ndarray:
    """``size`` rows of the reserve with the shares of labels and lengths of the forget set.

    fill: where a stratum runs out, others of its label are taken, then any; else fewer are drawn. spare: of a stratum
    that holds less than twice what is wanted half is taken, the rest after everything else: it is to be non-members.
    """
    if not len(forget) or not len(reserve) or size < 1:
        return reserve[:0]
    strata = Strata(table, forget)
    by_label, by_stratum = strata.wanted(forget, size)
    pool = rng.permutation(reserve)
    codes, labels = strata.codes[pool], strata.labels[pool]
    taken = by_stratum
    if spare:
        taken = np.minimum(by_stratum, (np.bincount(codes, minlength=len(by_stratum)) + 1) // 2)
    exact = _place(codes) < taken[codes]
    if not fill:
        return np.sort(pool[exact])
    spared = ~exact & (taken < by_stratum)[codes]
    free = ~exact & ~spared
    missing = by_label - np.bincount(labels[exact], minlength=len(by_label))
    same_label = free.copy()
    same_label[free] = _place(labels[free]) < missing[labels[free]]
    order = np.argsort(np.select([exact, same_label, free], [0, 1, 2], 3), kind="stable")
    return np.sort(pool[order[:size]])


def apportioned(counts: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers in proportion to the counts that add up to ``size`` (largest remainders)."""
    shares, remainders = np.divmod(counts * int(size), counts.sum())
    shares[np.argsort(-remainders, kind="stable")[: int(size) - shares.sum()]] += 1
    return shares


def _edges(lengths: np.ndarray, everyones: np.ndarray, bins: int) -> np.ndarray:
    """Bounds of bins of equally many of the lengths, and those of all lengths beyond (nearly) all of the former.

    Without these, the longest of examples that are all long would be held like the shortest of all.
    """
    shares = np.arange(1, bins) / bins
    outer = np.quantile(everyones, shares)
    below = np.searchsorted(np.sort(lengths), outer, side="right") / len(lengths)
    beyond = np.minimum(below, 1 - below) < 1 / (2 * bins)
    return np.unique(np.concatenate([np.quantile(lengths, shares), outer[beyond]]))


def _place(codes: np.ndarray) -> np.ndarray:
    """[N] how many of the same code stand before."""
    return pd.Series(codes).groupby(codes).cumcount().to_numpy()


def _characters(values: pa.ChunkedArray) -> np.ndarray:
    """[N] characters of each text, or of all texts of a list."""
    if not _is_list(values):
        return pc.utf8_length(values).to_numpy().astype(np.int64)
    lengths, parents = pc.utf8_length(pc.list_flatten(values)).to_numpy(), pc.list_parent_indices(values).to_numpy()
    return np.bincount(parents, weights=lengths, minlength=len(values)).astype(np.int64)


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


# Values ---------------------------------------------------------------------------------------------------------------


def fields_of(table: Dataset) -> tuple[tuple[str, ...], str]:
    """Names of the input fields, and of what is learned from them, of a corpus's table."""
    fitting = [fields for fields in FIELDS.values() if set(fields) <= set(table.column_names)]
    if len(fitting) > 1:  # further columns are called like another task's fields: the hash tells which ones were read
        row = table[0]
        fitting = [fields for fields in fitting if content_hash({name: row[name] for name in fields}) == row["content"]]
    return fitting[0][:-1], fitting[0][-1]


def learned_text(table: Dataset) -> str:
    """Name of the text that the model learns to write, or to sort."""
    inputs, truth = fields_of(table)
    return inputs[0] if truth == "label" else truth


def values_of(table: Dataset, name: str, key: str) -> pa.ChunkedArray:
    """A column to choose by; UserError names the columns that exist."""
    if name not in table.column_names:
        known = ", ".join(sorted(set(table.column_names) - {"content", "input_hash"}))
        raise UserError(f"{key}={name} is no column of the data: it has {known}")
    return column(table, name)


def groups_of(table: Dataset, columns: Sequence[str], key: str) -> pa.ChunkedArray:
    """The group of each example; of several columns their combination, and null where one of them is null or empty."""
    values = [values_of(table, name, key) for name in columns]
    if len(values) == 1:
        return values[0]
    for name, found in zip(columns, values, strict=True):
        if pa.types.is_nested(found.type):
            raise UserError(f"{key}: the column {name} holds lists, which make no groups: leave it out")
    texts = [found.cast(pa.string()) for found in values]
    texts = [pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.string()), found) for found in texts]
    return pc.binary_join_element_wise(*texts, " / ")


def names_of(value: object) -> list[str]:
    """One name or several, as text: YAML reads a label 3 as a number."""
    return [str(name) for name in ([value] if isinstance(value, str | int | float) else value)]


def holding(values: pa.ChunkedArray, value: object) -> np.ndarray:
    """[N] bool: which values are, or lists have, one of the wanted."""
    wanted = names_of(value)
    if _is_list(values):
        return np.array([bool(set(wanted) & set(labels)) for labels in values.to_pylist()], bool)
    return pc.is_in(values.cast(pa.string()), value_set=pa.array(wanted)).fill_null(False).to_numpy()


def holding_known(values: pa.ChunkedArray, value: object, key: str) -> np.ndarray:
    """As ``holding``, but every wanted value must occur."""
    known = pc.list_flatten(values).unique() if _is_list(values) else values.unique()
    names = [str(name) for name in known.to_pylist()]
    for wanted in names_of(value):
        if wanted not in names:
            near = difflib.get_close_matches(wanted, names, 3) or names[:3]
            raise UserError(
                f"{key}: no example of D has {wanted!r} (the reserve is no part of D); near or known: {', '.join(near)}"
            )
    return holding(values, value)


def counted(values: pa.ChunkedArray) -> dict[str, int]:
    """Number of examples by value, the largest first; null and empty values are left out."""
    flat = pc.list_flatten(values) if _is_list(values) else values
    counts = flat.cast(pa.string()).to_pandas().value_counts().drop("", errors="ignore")
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _is_list(values: pa.ChunkedArray) -> bool:
    return pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
