"""Who is trained on, forgotten, kept, and held out. Everything is by row of the corpus, hence by stable example id.

A reserve of whole groups is cut off the training data once per data set and seed, before and independently of any request; D
is the rest. The request takes D_f out of D; D_n (matched to the request) and the holdout come from the reserve. So the
original model never depends on the request. Attacks compare D_f with non-members: those of the holdout that are like it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets
from pyarrow.parquet import ParquetWriter

from kga.data.amount import amount
from kga.data.corpus import Corpus, column, taken
from kga.data.forget import Request, whole_groups
from kga.data.forget.matching import groups_of
from kga.data.labels import label_names, require_known
from kga.errors import UserError
from kga.hashing import column_digest, digest, pieces


@dataclass(frozen=True)
class Split:
    """Rows of one table: "train" (which ends with the examples of new.path, if given), "validation" or "test"."""

    source: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Splits:
    """The sets of a study: train (D), forget, retain, new (D_n), holdout, nonmember (part of it), validation, test."""

    sets: dict[str, Split]
    tables: dict[str, Dataset]
    notes: tuple[str, ...]
    grouped_by: tuple[str, ...] = ()  # columns of the groups that the request takes whole, if it does
    _fingerprints: dict[tuple[str, bytes], str] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> Split:
        return self.sets[name]

    def sizes(self) -> dict[str, int]:
        return {name: len(split) for name, split in self.sets.items()}

    def column(self, split: Split, name: str) -> pa.ChunkedArray:
        """A column of a set."""
        return taken(column(self.tables[split.source], name), split.rows)

    def strings(self, split: Split, name: str) -> list[str]:
        """A column of a set as Python objects: for small sets, or parts of large ones."""
        return self.column(split, name).to_pylist()

    def fingerprint(self, split: Split) -> str:
        """Digest of the ids and contents of a set, in order; computed once."""
        key = (split.source, blake2b(np.ascontiguousarray(split.rows, np.int64)).digest())
        if key not in self._fingerprints:
            self._fingerprints[key] = digest([column_digest(self.column(split, name)) for name in ("id", "content")])
        return self._fingerprints[key]

    def write(self, path: Path) -> None:
        """Which id is in which set, as Parquet."""
        schema = pa.schema({"split": pa.string(), "id": pa.string()})
        with ParquetWriter(path, schema) as writer:
            for name, split in self.sets.items():
                for ids in pieces(self.column(split, "id")):
                    names = pa.repeat(name, len(ids))
                    writer.write_batch(pa.record_batch([names, ids.cast(pa.string())], schema=schema))


def make_splits(
    corpus: Corpus,
    request: Request,
    *,
    seed: int,
    reserve: float = 0.2,
    group: str = "group",
    limit: int | None = None,
    new_size: int | float | None = None,
    new: Corpus | None = None,
    original_is_given: bool = False,
) -> Splits:
    """Cuts a corpus for one request.

    reserve: share of the training data kept from A_D, in whole ``group``s. limit: cap on D (the reserve shrinks in
    proportion). new_size: examples of D_n (None: as many as are forgotten). new: D_n and holdout from a data set of
    their own instead of a reserve. original_is_given: D is all of the training data, as a given model was trained on it.
    """
    table = corpus.train
    train, kept = cut(corpus, seed, reserve, group, limit, original_is_given)
    forget = np.sort(request.choose(table, train, np.random.default_rng([seed, 1])))
    if not len(forget):
        raise UserError("the forget set is empty: no training example fits the request (see forget.*)")
    if len(forget) >= len(train):
        raise UserError(
            f"the forget set has {len(forget)} examples, as many as D ({len(train)}): nothing would be retained"
        )
    size = amount(new_size, len(train), "new.size") if new_size is not None else len(forget)
    retain = np.setdiff1d(train, forget, assume_unique=True)
    sets = {name: Split("train", rows) for name, rows in (("train", train), ("forget", forget), ("retain", retain))}
    if new is not None:
        table = _joined(corpus, new)
        more, notes = _from_file(table, len(corpus.train), size, seed)
    elif original_is_given:
        more, notes = dict.fromkeys(("new", "holdout"), Split("train", np.empty(0, np.int64))), []
    else:
        more, notes = _from_reserve(table, request, train, forget, kept, size, seed)
    more["nonmember"], further = _nonmembers(table, request, sets, more, seed)
    sets |= more
    sets["validation"] = Split("validation", np.arange(len(corpus.validation)))
    sets["test"] = Split("test", np.arange(len(corpus.test)))
    splits = Splits(sets, corpus.splits | {"train": table}, (*notes, *further), request.grouped_by)
    seen = np.arange(len(corpus.train)) if original_is_given else train  # data.limit cuts off what a given model saw
    _require_disjoint(splits, seen, "data" if new is None else "new.path")
    return splits


def cut(
    corpus: Corpus, seed: int, reserve: float, group: str, limit: int | None, original_is_given: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of D and of the reserve, which no request changes; options as in ``make_splits``."""
    if original_is_given:
        return _capped(np.arange(len(corpus.train)), limit, seed), np.empty(0, np.int64)
    return cut_reserve(corpus.train, reserve, group, limit, seed)


def cut_reserve(
    table: Dataset, reserve: float, group: str, limit: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """D and the reserve, as rows. Whole groups where the data has the column; a text of D is never in the reserve."""
    if not 0 < reserve < 1:
        raise UserError(f"data.reserve={reserve} is no share: give a number between 0 and 1")
    rng = np.random.default_rng([seed, 0])
    wanted = amount(float(reserve), len(table), "data.reserve")
    if group in table.column_names:
        kept = whole_groups(column(table, group), wanted, rng)
    else:
        kept = np.sort(rng.permutation(len(table))[:wanted])
    train = np.setdiff1d(np.arange(len(table)), kept, assume_unique=True)
    if not len(train) or not len(kept):
        raise UserError(
            f"the {len(table)} training examples can't be cut into D and a reserve of whole {group}s: too few examples or groups"
        )
    full = len(train)
    train = _capped(train, limit, seed)
    kept = _capped(kept, max(1, round(len(kept) * len(train) / full)), seed)
    return train, unlike(table, kept, train)


def _capped(rows: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    if limit is None:
        return rows
    count = amount(limit, len(rows), "data.limit")
    return np.sort(np.random.default_rng([seed, 2]).permutation(rows)[:count])


def unlike(table: Dataset, rows: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Those of the rows whose text does not occur in ``train``."""
    inputs = column(table, "input_hash")
    seen = pc.is_in(taken(inputs, rows), value_set=taken(inputs, train).combine_chunks())
    return rows[~seen.to_numpy()]


def _from_reserve(
    table: Dataset, request: Request, train: np.ndarray, forget: np.ndarray, kept: np.ndarray, size: int, seed: int
) -> tuple[dict[str, Split], list[str]]:
    """D_n and holdout, and notes. Where what matches is scarce, D_n takes half: the holdout needs some for attacks."""

    def match(rows: np.ndarray, count: int) -> np.ndarray:
        return request.match(table, train, forget, rows, count, np.random.default_rng([seed, 3]))

    new = match(kept, size)
    if len(new) < max(min(size, 2), size / 10):
        whole = f"cut the reserve by data.group={request.grouped_by[0]}, " if request.grouped_by else ""
        raise UserError(
            f"too few examples to hold out: the reserve of {len(kept)} has {len(new)} that match the request, "
            f"{size} are needed for D_n; {whole}raise data.reserve, lower forget.size or new.size, or give new.path"
        )
    rest = _beside(table, request, kept, new)
    left = len(match(rest, len(rest)))
    matching, notes = len(new) + left, []
    half = max(min(size, 2), (matching + 1) // 2)
    if left < len(new) and len(fewer := match(kept, half)) < len(new):
        new, rest = fewer, _beside(table, request, kept, fewer)
        notes.append(
            f"D_n has {len(new)} examples instead of {size}: the reserve holds only {matching} that match, "
            "and the others are left for attacks to compare D_f with"
        )
    elif len(new) < size:
        notes.append(_short(new, size, "the reserve holds no more that match"))
    return {"new": Split("train", new), "holdout": Split("train", rest)}, notes


def _beside(table: Dataset, request: Request, rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Those rows that share no text with D_n, and no group where the request takes groups whole."""
    rest = np.setdiff1d(rows, new, assume_unique=True)
    if request.grouped_by:
        rest = _outside_groups(table, request.grouped_by, rest, new)
    return unlike(table, rest, new)


def _outside_groups(table: Dataset, columns: Sequence[str], rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    groups = groups_of(table, columns, "forget.column")
    shared = pc.is_in(groups.take(pa.array(rows)), value_set=groups.take(pa.array(others)).combine_chunks())
    return rows[~shared.to_numpy(zero_copy_only=False)]


def _short(new: np.ndarray, size: int, why: str) -> str:
    return f"D_n has {len(new)} examples, fewer than the {size} asked for: {why}"


def _nonmembers(
    table: Dataset, request: Request, sets: dict[str, Split], unseen: dict[str, Split], seed: int
) -> tuple[Split, list[str]]:
    """Those of the holdout that are like D_f; all of it where new.path lacks the column that tells."""
    holdout = unseen["holdout"].rows
    lacking = [name for name in request.columns if name not in table.column_names]
    if not len(holdout) or lacking:
        note = f"new.path has no column {lacking[0]}: attacks compare D_f with the whole holdout" if lacking else ""
        return Split("train", holdout), [note] if note and len(holdout) else []
    if request.grouped_by:
        holdout = _outside_groups(table, request.grouped_by, holdout, unseen["new"].rows)
    rng = np.random.default_rng([seed, 10])
    rows = request.nonmembers(table, sets["train"].rows, sets["forget"].rows, holdout, rng)
    return Split("train", rows), []


def _joined(corpus: Corpus, new: Corpus) -> Dataset:
    """The training table, followed by the examples of new.path (the columns that both have alike)."""
    if corpus.multi_label != new.multi_label:
        raise UserError(
            "new.path: its labels are lists where the data's are single, or the reverse: use the data's form"
        )
    if corpus.task == "classification":
        require_known(new.train, label_names(corpus.train), "new.path", "the training split")
    features = corpus.train.features
    shared = [name for name in features if new.train.features.get(name) == features[name]]
    return concatenate_datasets([part.train.select_columns(shared) for part in (corpus, new)])


def _from_file(table: Dataset, first: int, size: int, seed: int) -> tuple[dict[str, Split], list[str]]:
    """D_n: ``size`` of the rows from ``first`` on; holdout: the others. And notes."""
    order = first + np.random.default_rng([seed, 3]).permutation(len(table) - first)
    new, rest = np.sort(order[:size]), np.sort(order[size:])
    notes = [_short(new, size, "new.path holds no more")] if len(new) < size else []
    return {"new": Split("train", new), "holdout": Split("train", unlike(table, rest, new))}, notes


def _require_disjoint(splits: Splits, seen: np.ndarray, where: str) -> None:
    """D_n and holdout share neither id nor text with what A_D saw (rows), nor with each other."""
    others = {"train": Split("train", seen), "new": splits["new"]}
    for first, second in (("new", "train"), ("holdout", "train"), ("holdout", "new")):
        for name, what in (("id", "id"), ("input_hash", "text")):
            known = splits.column(others[second], name).combine_chunks()
            found = pc.is_in(splits.column(splits[first], name), value_set=known)
            shared = splits.column(splits[first], "id").filter(found).to_pylist()
            if shared:
                raise UserError(
                    f"{where}: {len(shared)} examples of the set {first} share their {what} with the set {second} "
                    f"({', '.join(shared[:5])}): they must be unseen by the original model; take them out"
                )
