"""Random token ids in texts of real lengths: no text is needed, as time and memory depend on lengths alone."""

import numpy as np
from scipy.stats import norm

SHARES = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
# Tokens (special ones included) of the training splits, each with a tokenizer of 8,000 entries trained on it: those of
# contract_provisions, and of multi30k (German to English) both sides by one tokenizer.
PROVISIONS = (13, 20, 28, 36, 52, 68, 89, 116, 148, 196, 272, 433, 491, 559, 2878)
SOURCES = (4, 7, 9, 10, 11, 13, 14, 15, 16, 18, 20, 23, 26, 33, 54)
TARGETS = (5, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 22, 24, 30, 49)
LIKENESS = 0.86  # rank correlation of the lengths of a sentence and of its translation

LABELS, SPECIAL = 70, 5


def lengths(quantiles: tuple[int, ...], shares: np.ndarray, cap: int) -> np.ndarray:
    """[N] lengths at the given shares of a distribution, cut to ``cap``."""
    return np.minimum(np.interp(shares, SHARES, quantiles).astype(int), cap)


def provisions(size: int, cap: int, vocabulary: int, rng: np.random.Generator) -> dict[str, list]:
    """Encoded columns of texts with one label each."""
    found = lengths(PROVISIONS, rng.random(size), cap)
    labels = rng.integers(LABELS, size=size).tolist()
    return {
        "input_ids": _ids(found, vocabulary, rng),
        "labels": labels,
        "length": found.tolist(),
        "cut": [False] * size,
    }


def sentences(size: int, cap: int, vocabulary: int, rng: np.random.Generator) -> dict[str, list]:
    """Encoded columns of sentences and their translations."""
    normal = rng.multivariate_normal((0, 0), ((1, LIKENESS), (LIKENESS, 1)), size)
    source, target = (lengths(table, norm.cdf(normal[:, i]), cap) for i, table in enumerate((SOURCES, TARGETS)))
    columns = {"input_ids": _ids(source, vocabulary, rng), "labels": _ids(target, vocabulary, rng)}
    return columns | {"length": (source + target).tolist(), "cut": [False] * size}


def _ids(lengths: np.ndarray, vocabulary: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Token ids of each text; none is a special token."""
    return np.split(rng.integers(SPECIAL, vocabulary, lengths.sum()), np.cumsum(lengths)[:-1])
