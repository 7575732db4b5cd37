"""forget=easy and forget=hard: the third of D that the original model finds easiest, or hardest."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from datasets import Dataset

from kga.data.amount import amount
from kga.data.forget.base import Matched
from kga.data.forget.matching import Strata
from kga.errors import UserError, one_of

MEASURES = ("loss", "memorisation")
LEAST = 12  # examples in a stratum of mean size, so that its thirds are thirds


class _ByDifficulty(Matched):
    """``size`` examples out of a tercile of a score, or all of it.

    Terciles are taken within each stratum of label and length, so that easy and hard sets are like D in both.

    by: "loss" of A_D, or "memorisation": how much lower it is than that of models trained without the example. shadows:
    number of those models. difficulty: row numbers of D -> score of each, larger for harder or more memorised ones;
    given before ``choose`` is called.
    """

    hardest: bool

    def __init__(self, size: int | float | None = None, by: str = "loss", shadows: int = 4) -> None:
        super().__init__(size)
        one_of("forget.by", by, MEASURES)
        if isinstance(shadows, bool) or not isinstance(shadows, int) or shadows < 2 or shadows % 2:
            raise UserError(f"forget.shadows={shadows} must be an even number of shadow models, 2 or more")
        self.by, self.shadows = by, shadows
        self.difficulty: Callable[[np.ndarray], np.ndarray] | None = None

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.difficulty is None:
            raise ValueError("the difficulty of D's examples must be given before a set is chosen by it")
        strata = pd.Series(Strata(table, train, least=LEAST).codes[train])
        thirds = (strata.value_counts() + 1) // 3  # of each stratum, rounded
        count = self._count(len(train), int(thirds.sum()))
        scores = pd.Series(np.asarray(self.difficulty(train), float)) * (-1 if self.hardest else 1)
        rows = train[(scores.groupby(strata).rank(method="first") <= strata.map(thirds)).to_numpy()]
        return np.sort(rng.permutation(rows)[:count])

    def _count(self, total: int, tercile: int) -> int:
        """How many are asked for; refused before D is scored, which may take models to be trained."""
        if self.size is None:
            return tercile
        count = amount(self.size, total, "forget.size")
        if count > tercile:
            raise UserError(
                f"forget.size={self.size}: {count} examples can't be drawn from the {tercile} that are the "
                f"{'hardest' if self.hardest else 'easiest'} third of D: lower it, or null for all of them"
            )
        return count


class Easy(_ByDifficulty):
    """Examples of low loss, or hardly memorised ones."""

    hardest = False


class Hard(_ByDifficulty):
    """Examples of high loss, or the most memorised ones."""

    hardest = True
