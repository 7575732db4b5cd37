"""forget=ids: the examples that a file names, or those that the data marks as planted."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from kga.data.corpus import column
from kga.data.forget.base import Matched
from kga.data.forget.matching import holding, matched
from kga.errors import UserError

PLANTED = "planted"  # column of "yes" and "no": which training examples were made wrong on purpose


class Ids(Matched):
    """The examples named in a file: one id per line, or JSON Lines with a field ``id``.

    Without a file, of data with a column ``planted``: the planted examples.
    """

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = path
        self.columns = () if path else (PLANTED,)

    def choose(self, table: Dataset, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self._planted(table):
            return train[_marked(table, train)]
        wanted = read_ids(self.path)
        ids = column(table, "id").take(pa.array(train))
        found = pc.is_in(ids, value_set=pa.array(wanted, pa.string())).to_numpy()
        if found.sum() < len(set(wanted)):
            known = set(ids.filter(pa.array(found)).to_pylist())
            missing = [name for name in dict.fromkeys(wanted) if name not in known]
            unseen = set(missing) & set(column(table, "id").to_pylist())
            reserved = f"; {len(unseen)} of them lie in the reserve, which A_D never sees" if unseen else ""
            raise UserError(
                f"forget.path: {len(missing)} of the {len(set(wanted))} ids in {self.path} are not in D "
                f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}){reserved}: only what A_D was trained on can be forgotten"
            )
        return train[found]

    def match(self, table, train, forget, reserve, size, rng):
        """Planted ones: half of the reserve's, as the others are to be non-members; filled up with matched clean ones."""
        if not self._planted(table):
            return super().match(table, train, forget, reserve, size, rng)
        marked = _marked(table, reserve)
        planted = rng.permutation(reserve[marked])
        planted = planted[: min(size, (len(planted) + 1) // 2)]
        clean = matched(table, forget, reserve[~marked], size - len(planted), rng)
        return np.sort(np.concatenate([planted, clean]))

    def nonmembers(self, table, train, forget, holdout, rng):
        """Of planted ones: the planted ones of the holdout."""
        if self._planted(table):
            return holdout[_marked(table, holdout)]
        return super().nonmembers(table, train, forget, holdout, rng)

    def _planted(self, table: Dataset) -> bool:
        return self.path is None and PLANTED in table.column_names


def _marked(table: Dataset, rows: np.ndarray) -> np.ndarray:
    """Which of the rows are planted."""
    return holding(column(table, PLANTED).take(pa.array(rows)), "yes")


def read_ids(path: str | None) -> list[str]:
    """Ids of a text file (one a line) or of JSON Lines with a field ``id``; UserError names file and line."""
    if path is None:
        raise UserError("forget=ids needs forget.path: a file with one id per line, or JSON Lines with a field id")
    if not Path(path).is_file():
        raise UserError(
            f"forget.path={path} is no file: give a file with one id per line, or JSON Lines with a field id"
        )
    try:
        lines = (
            Path(path).read_text(encoding="utf-8-sig").split("\n")
        )  # splitlines() would also cut inside JSON strings
    except UnicodeDecodeError as error:
        raise UserError(f"forget.path={path} is no UTF-8 text: save it as UTF-8") from error
    ids = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("{"):
            try:
                text = str(json.loads(text)["id"])
            except (ValueError, KeyError) as error:
                raise UserError(f"{path}:{number}: no JSON object with a field id: mend the line") from error
        if text:
            ids.append(text)
    return ids
