"""Who is trained on, forgotten, kept, and held out. Everything is by row of the corpus, hence by stable example id.

A reserve of whole groups is cut off the training data once per data set and seed, before and independently of any request; D
is the rest. The request takes D_f out of D; D_n (matched to the request) and the holdout come from the reserve. So the
original model never depends on the request.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from kga.data.amount import amount
from kga.data.corpus import Corpus, column
from kga.data.forget import Request, whole_groups
from kga.data.labels import label_names, require_known
from kga.errors import UserError
from kga.hashing import digest, strings_digest


@dataclass(frozen=True)
class Split:
    """Rows of one table: "train" (which ends with the examples of new.path, if given), "validation" or "test"."""

    source: str
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Splits:
    """The named sets of a study: train (D), forget, retain, new (D_n), holdout, validation, test."""

    sets: dict[str, Split]
    tables: dict[str, Dataset]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Split:
        return self.sets[name]

    def sizes(self) -> dict[str, int]:
        return {name: len(split) for name, split in self.sets.items()}

    def strings(self, split: Split, name: str) -> list[str]:
        """A column of a set."""
        return column(self.tables[split.source], name).take(pa.array(split.rows)).to_pylist()

    def fingerprint(self, split: Split) -> str:
        """Digest of the ids and contents of a set, in order."""
        return digest([strings_digest(self.strings(split, "id")), strings_digest(self.strings(split, "content"))])

    def write(self, path: Path) -> None:
        """Which id is in which set, as Parquet."""
        frames = [
            pd.DataFrame({"split": name, "id": self.strings(split, "id")})
            for name, split in self.sets.items()
            if len(split)
        ]
        pd.concat(frames).to_parquet(path, index=False)


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
    if original_is_given:
        train, kept = _capped(np.arange(len(table)), limit, seed), np.empty(0, np.int64)
    else:
        train, kept = cut_reserve(table, reserve, group, limit, seed)
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
    notes: list[str] = []
    if new is not None:
        table = _joined(corpus, new)
        sets |= _from_file(table, len(corpus.train), size, seed)
    else:
        sets |= _from_reserve(table, request, train, forget, kept, size, seed, original_is_given)
    if 0 < len(sets["new"]) < size:
        where = "the reserve holds no more that match" if new is None else "new.path holds no more"
        notes.append(f"D_n has {len(sets['new'])} examples, fewer than the {size} asked for: {where}")
    sets["validation"] = Split("validation", np.arange(len(corpus.validation)))
    sets["test"] = Split("test", np.arange(len(corpus.test)))
    splits = Splits(sets, corpus.splits | {"train": table}, tuple(notes))
    _require_disjoint(splits, "data" if new is None else "new.path")
    return splits


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
    return train, _unlike(table, kept, train)


def _capped(rows: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    if limit is None:
        return rows
    count = amount(limit, len(rows), "data.limit")
    return np.sort(np.random.default_rng([seed, 2]).permutation(rows)[:count])


def _unlike(table: Dataset, rows: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Those rows whose text does not occur in D."""
    inputs = column(table, "input_hash")
    seen = pc.is_in(inputs.take(pa.array(rows)), value_set=inputs.take(pa.array(train)).combine_chunks())
    return rows[~seen.to_numpy(zero_copy_only=False)]


def _from_reserve(table, request, train, forget, kept, size, seed, original_is_given) -> dict[str, Split]:
    if original_is_given:
        empty = Split("train", np.empty(0, np.int64))
        return {"new": empty, "holdout": empty}
    new = request.match(table, train, forget, kept, size, np.random.default_rng([seed, 3]))
    if len(new) < max(min(size, 2), size / 10):
        whole = f"cut the reserve by data.group={request.grouped_by}, " if request.grouped_by else ""
        raise UserError(
            f"too few examples to hold out: the reserve of {len(kept)} has {len(new)} that match the request, "
            f"{size} are needed for D_n; {whole}raise data.reserve, lower forget.size or new.size, or give new.path"
        )
    rest = np.setdiff1d(kept, new, assume_unique=True)
    if request.grouped_by is not None:
        rest = _outside_groups(table, request.grouped_by, rest, new)
    return {"new": Split("train", new), "holdout": Split("train", _unlike(table, rest, new))}


def _outside_groups(table: Dataset, name: str, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    groups = column(table, name)
    shared = pc.is_in(groups.take(pa.array(rows)), value_set=groups.take(pa.array(others)).combine_chunks())
    return rows[~shared.to_numpy(zero_copy_only=False)]


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


def _from_file(table: Dataset, first: int, size: int, seed: int) -> dict[str, Split]:
    """D_n: ``size`` of the rows from ``first`` on; holdout: the others."""
    order = first + np.random.default_rng([seed, 3]).permutation(len(table) - first)
    chosen, rest = np.sort(order[:size]), np.sort(order[size:])
    return {"new": Split("train", chosen), "holdout": Split("train", _unlike(table, rest, chosen))}


def _require_disjoint(splits: Splits, where: str) -> None:
    """D_n and holdout share neither id nor text with D, nor with each other."""
    for first, second in (("new", "train"), ("holdout", "train"), ("holdout", "new")):
        ids = splits.strings(splits[first], "id")
        for name, what in (("id", "id"), ("input_hash", "text")):
            seen = set(splits.strings(splits[second], name))
            shared = [ids[row] for row, value in enumerate(splits.strings(splits[first], name)) if value in seen]
            if shared:
                raise UserError(
                    f"{where}: {len(shared)} examples of the set {first} share their {what} with the set {second} "
                    f"({', '.join(shared[:5])}): they must be unseen by the original model; take them out"
                )
