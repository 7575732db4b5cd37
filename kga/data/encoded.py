"""Encoded examples: token ids on disk (Arrow, memory-mapped) and views of some of their rows."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk

from kga.data.corpus import column
from kga.objective import Batch
from kga.store import Store

IN_MEMORY = 50_000  # examples that are encoded without a file aside


@dataclass(frozen=True)
class Examples:
    """Some rows of an encoded table, in a fixed order, and how a task makes batches of them.

    table: columns of the task's ``encoded_columns``, ``length`` (tokens) and ``cut`` (whether a limit cut it), one row per
    example of the source.
    rows: [N] row numbers. Batches carry them as "index", so that cached quantities find their example.
    """

    table: Dataset
    rows: np.ndarray
    task: object

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray:
        """[N, ...] an encoded column of numbers, e.g. "labels"."""
        return np.asarray(column(self.table, name).to_numpy(zero_copy_only=False))[self.rows]

    def lengths(self) -> np.ndarray:
        """[N] tokens of each example."""
        return self.column("length")

    def take(self, positions: np.ndarray) -> "Examples":
        """The examples at some positions of this view."""
        return replace(self, rows=self.rows[positions])

    def batch(self, positions: np.ndarray) -> Batch:
        """One padded batch of the examples at some positions; "index" [B] says which they are."""
        rows = self.rows[positions]
        batch = self.task.collate(self.table[rows.tolist()])
        batch["index"] = torch.from_numpy(rows.astype(np.int64))
        return batch


def encode(dataset: Dataset, task, store: Store, fingerprint: str) -> Dataset:
    """Encodes a split once; afterwards it is mapped from the store.

    fingerprint: digest of the split's ids and contents.
    """
    recipe = {"version": 2, "examples": fingerprint, "encoding": task.encoding()}

    def make(out: Path, work: Path) -> dict:
        wanted = [name for name in task.fields if name in dataset.column_names]
        small = len(dataset) < IN_MEMORY
        encoded = dataset.select_columns(wanted).map(
            task.encode,
            batched=True,
            remove_columns=wanted,
            keep_in_memory=small,
            cache_file_name=None
            if small
            else str(work / "table.arrow"),  # else a copy stays in the cache of `datasets`
            load_from_cache_file=False,
            new_fingerprint=fingerprint,  # else the task is pickled for one, with its model
        )
        encoded.save_to_disk(out / "table")
        return {"examples": len(encoded)}

    return load_from_disk(store.get("encodings", recipe, make).path / "table")


def examples(rows: Dataset | list[dict], task) -> Examples:
    """Encodes rows with the task's fields in memory: for scripts and small sets, without a store."""
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    wanted = [name for name in task.fields if name in dataset.column_names]
    table = dataset.select_columns(wanted).map(
        task.encode, batched=True, remove_columns=wanted, keep_in_memory=True, load_from_cache_file=False
    )
    return everything(table, task)


def everything(table: Dataset, task) -> Examples:
    """All rows of a table."""
    return Examples(table, np.arange(len(table)), task)
