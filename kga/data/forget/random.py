"""forget=random."""

import numpy as np
from datasets import Dataset

from kga.data.amount import amount
from kga.data.forget.base import Request


class Random(Request):
    """Examples drawn uniformly from D."""

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        count = amount(self.size, len(train), "forget.size")
        return np.sort(rng.permutation(train)[:count])
