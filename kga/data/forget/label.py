"""forget=label."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset

from kga.data.amount import amount
from kga.data.forget.base import Request
from kga.data.forget.matching import counted, holding, holding_known, values_of
from kga.errors import UserError


class Label(Request):
    """All examples with a label (``value``), or ``size`` of them. D_n: unseen examples with that label."""

    def __init__(
        self, value: str | Sequence[str] | None = None, size: int | float | None = None, column: str = "label"
    ):
        super().__init__(size)
        self.column, self.columns, self.value = column, (column,), value

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.value is None:
            raise UserError("forget=label needs forget.value: the label whose examples are to be forgotten")
        rows = train[holding_known(self._labels(table, train), self.value, "forget.value")]
        if self.size is None:
            return rows
        return np.sort(rng.permutation(rows)[: amount(self.size, len(train), "forget.size")])

    def match(self, table, train, forget, reserve, size, rng):
        same = reserve[holding(self._labels(table, reserve), self.value)]
        return np.sort(rng.permutation(same)[:size])

    def candidates(self, table, train, reserve):
        """The labels of D, the most frequent first."""
        seen, unseen = (counted(self._labels(table, rows)) for rows in (train, reserve))
        return [self.column, "in D", "in the reserve"], [(name, n, unseen.get(name, 0)) for name, n in seen.items()]

    def _labels(self, table: Dataset, rows: np.ndarray) -> pa.ChunkedArray:
        return values_of(table, self.column, "forget.column").take(pa.array(rows))
