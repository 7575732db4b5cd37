"""What every kind of request has."""

import numpy as np
from datasets import Dataset

from kga.data.forget.matching import matched
from kga.errors import UserError


class Request:
    """What is forgotten. size: examples, or a share of D.

    grouped_by: columns of the groups that the request takes whole, if it does: those of D_n are kept from the holdout.
    columns: the columns besides the task's fields that unseen examples are matched by.
    """

    grouped_by: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

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

    def nonmembers(
        self, table: Dataset, train: np.ndarray, forget: np.ndarray, holdout: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Rows of the holdout that attacks compare the forget set with: all that are like it."""
        return self.match(table, train, forget, holdout, len(holdout), rng)

    def candidates(
        self, table: Dataset, train: np.ndarray, reserve: np.ndarray
    ) -> tuple[list[str], list[tuple[str | int, ...]]]:
        """What could be asked for: titles of columns, and rows. UserError where there is nothing to choose from."""
        raise UserError(
            f"forget.list: forget={type(self).__name__.lower()} has nothing to list; forget=group, forget=label and "
            "forget=word list what can be forgotten"
        )


class Matched(Request):
    """A request for single examples, whose unseen ones are matched by label and length."""

    def match(self, table, train, forget, reserve, size, rng):
        return matched(table, forget, reserve, size, rng, spare=True)

    def nonmembers(self, table, train, forget, holdout, rng):
        """At most as many as are forgotten, with their labels and lengths alone: none is added to fill up."""
        return matched(table, forget, holdout, len(forget), rng, fill=False)
