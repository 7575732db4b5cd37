"""forget=group."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from kga.data.amount import amount
from kga.data.forget.base import Request
from kga.data.forget.matching import counted, groups_of, holding_known, names_of, whole_groups


class Group(Request):
    """Whole groups (persons, firms): the named ones (``value``), or random ones until ``size`` is reached.

    column: one, or several: groups are then their combinations, named "first / second".
    """

    def __init__(
        self,
        size: int | float | None = None,
        column: str | Sequence[str] = "group",
        value: str | Sequence[str] | None = None,
    ) -> None:
        super().__init__(size)
        self.value = value
        self.columns = self.grouped_by = tuple(names_of(column))

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        groups = self._groups(table).take(pa.array(train))
        if self.value is not None:
            return train[holding_known(groups, self.value, f"forget.value (column {' / '.join(self.columns)})")]
        return train[whole_groups(groups, amount(self.size, len(train), "forget.size"), rng)]

    def match(self, table, train, forget, reserve, size, rng):
        """Whole groups of the reserve of which D holds no example."""
        groups = self._groups(table)
        seen = pc.is_in(groups.take(pa.array(reserve)), value_set=groups.take(pa.array(train)).unique())
        unseen = reserve[~seen.to_numpy()]
        return unseen[whole_groups(groups.take(pa.array(unseen)), size, rng)]

    def candidates(self, table, train, reserve):
        """The groups of D, the largest first."""
        counts = counted(self._groups(table).take(pa.array(train)))
        return [" / ".join(self.columns), "examples in D"], list(counts.items())

    def _groups(self, table: Dataset) -> pa.ChunkedArray:
        return groups_of(table, self.columns, "forget.column")
