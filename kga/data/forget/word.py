"""forget=word."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from kga.data.amount import amount
from kga.data.forget.base import Request
from kga.data.forget.matching import learned_text, names_of, values_of
from kga.errors import UserError

# Arrow's \b and \w know ASCII only. Marks belong to words, as an accent may be written apart from its letter.
NOT_WORD = r"[^\pL\pM\pN_]"
COMMON, RARE, LISTED = 0.05, 5, 60  # words in a larger share of D, or in fewer examples, are no candidates
NEAR_AMONG = 50_000  # most frequent words among which one like a word that never occurs is looked for


class Word(Request):
    """All examples whose text has a word (``value``; any of several), or ``size`` of them. D_n: unseen ones with it.

    Whole words, in upper or lower case. column: None: the text that the model learns to sort, or to write.
    """

    def __init__(
        self,
        value: str | Sequence[str] | None = None,
        size: int | float | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(size)
        self.column, self.columns, self.value = column, (column,) if column else (), value

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        texts, wanted = self._texts(table, train), names_of(() if self.value is None else self.value)
        if not wanted or not all(word.strip() for word in wanted):
            raise UserError("forget=word needs forget.value: the word whose examples are to be forgotten")
        found = np.zeros(len(train), bool)
        for word in wanted:
            here = having(texts, [word])
            if not here.any():
                near = get_close_matches(word.lower(), frequencies(texts).index[:NEAR_AMONG], 3)
                known = f"did you mean {' or '.join(near)}?" if near else "forget.list=true lists words that are"
                raise UserError(
                    f"forget.value: the word {word!r} is in no example of D (column {self._name(table)}): {known}"
                )
            found |= here
        if self.size is None:
            return train[found]
        return np.sort(rng.permutation(train[found])[: amount(self.size, len(train), "forget.size")])

    def match(self, table, train, forget, reserve, size, rng):
        same = reserve[having(self._texts(table, reserve), names_of(self.value))]
        return np.sort(rng.permutation(same)[:size])

    def candidates(self, table, train, reserve):
        """Words of D neither common nor rare, the most frequent first, in lower case."""
        seen = frequencies(self._texts(table, train))
        seen = seen[(seen >= RARE) & (seen <= COMMON * len(train))][:LISTED]
        unseen = frequencies(self._texts(table, reserve)).reindex(seen.index, fill_value=0)
        rows = zip(seen.index, seen.tolist(), unseen.tolist(), strict=True)
        return ["word", "in D", "in the reserve"], list(rows)

    def _name(self, table: Dataset) -> str:
        return self.column or learned_text(table)

    def _texts(self, table: Dataset, rows: np.ndarray) -> pa.ChunkedArray:
        return values_of(table, self._name(table), "forget.column").take(pa.array(rows))


def having(values: pa.ChunkedArray, words: Sequence[str]) -> np.ndarray:
    """[N] bool: which texts, or lists of texts, have one of the words as a whole word, whatever the case."""
    items, parents = _items(values)
    either = "|".join(re.escape(word) for word in words)
    pattern = f"(?i)(?:^|{NOT_WORD})(?:{either})(?:$|{NOT_WORD})"
    found = np.zeros(len(values), bool)
    found[parents[pc.match_substring_regex(items, pattern).fill_null(False).to_numpy()]] = True
    return found


def frequencies(values: pa.ChunkedArray) -> pd.Series:
    """Number of examples with each word, by the word in lower case; the most frequent first, then by the alphabet."""
    items, parents = _items(values)
    split = pc.split_pattern_regex(pc.utf8_lower(items), f"{NOT_WORD}+")
    words = pc.list_flatten(split).dictionary_encode().combine_chunks()
    examples = parents[pc.list_parent_indices(split).to_numpy()]
    known = words.dictionary.to_pylist()
    pairs = np.sort(words.indices.to_numpy().astype(np.int64) * len(values) + examples)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # np.unique takes a hundred times as long
    counts = pd.Series(np.bincount(pairs // max(1, len(values)), minlength=len(known)), index=known)
    return counts.drop("", errors="ignore").sort_index().sort_values(ascending=False, kind="stable")


def _items(values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Texts, and the row of each: lists are taken apart."""
    if not pa.types.is_list(values.type) and not pa.types.is_large_list(values.type):
        return values.cast(pa.string()), np.arange(len(values))
    return pc.list_flatten(values).cast(pa.string()), pc.list_parent_indices(values).to_numpy()
