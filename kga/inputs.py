"""What a run reads: the data set of the config, unseen examples given by the user, and a fingerprint of all of it."""

from collections.abc import Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, disable_progress_bars

from kga import config
from kga.console import note
from kga.data.corpus import FIELDS, Corpus, column, input_text
from kga.data.splits import cut
from kga.hashing import column_digest, file_digest, folder_digest, strings_digest


def load_corpus(cfg: Mapping) -> Corpus:
    """The data set of the config, without the keys that the splits take."""
    disable_progress_bars()
    options = {name: value for name, value in cfg["data"].items() if name not in ("limit", "reserve", "group")}
    return config.build({"data": options}, "data")


def cut_off(cfg: Mapping, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Rows of D and of the reserve of a run, whatever its request."""
    options = {name: cfg["data"][name] for name in ("reserve", "group", "limit")}
    return cut(corpus, cfg["seed"], **options, original_is_given=cfg["original"]["path"] is not None)


def load_new(cfg: Mapping) -> Corpus | None:
    """D_n and holdout from a file of their own (``new.path``: a data folder, or one file of its formats)."""
    path = cfg["new"]["path"]
    if path is None:
        return None
    from kga.data.folder import load_file

    languages = (cfg["data"].get("source_lang"), cfg["data"].get("target_lang"))
    corpus = load_file(cfg["task"]["name"], path, *languages)
    for text in corpus.notes:
        note(f"new.path: {text}")
    return corpus


def data_fingerprint(corpus: Corpus, cfg: Mapping) -> str:
    """Digest of everything read from files that the config names only by path: what decides the splits included."""
    chosen_by = cfg["forget"].get("column") or ()
    deciding = (
        "id",
        "content",
        "planted",
        cfg["data"]["group"],
        *([chosen_by] if isinstance(chosen_by, str) else chosen_by),
    )
    parts = [
        _digest(table, name)
        for table in corpus.splits.values() for name in deciding if name in table.column_names
    ]  # fmt: skip
    for path in (cfg["original"]["path"], cfg["new"]["path"], cfg["forget"].get("path"), cfg["model"].get("name")):
        found = Path(path).expanduser() if path else None
        if found is not None and found.is_dir():
            parts.append(folder_digest(found))
        elif found is not None and found.is_file():
            parts.append(file_digest(found))
    return strings_digest(parts)


_digests: WeakKeyDictionary[Dataset, dict[str, str]] = WeakKeyDictionary()


def _digest(table: Dataset, name: str) -> str:
    """Digest of a column, computed once: two digests of a data set share most of their columns."""
    known = _digests.setdefault(table, {})
    if name not in known:
        known[name] = column_digest(column(table, name))
    return known[name]


def data_alone(corpus: Corpus, cfg: Mapping) -> str:
    """The digest of a data set whatever its request: of what A_D is made of."""
    return data_fingerprint(corpus, {**cfg, "forget": {}, "new": {"path": None}})


def texts_of(cfg: Mapping, ids: set[str]) -> dict[str, str]:
    """The input texts of some examples, by id."""
    fields = FIELDS[cfg["task"]["name"]][:-1]
    found = {}
    for table in load_corpus(cfg).splits.values():
        wanted = pc.is_in(column(table, "id"), value_set=pa.array(sorted(ids), pa.string()))
        rows = np.flatnonzero(wanted.to_numpy())
        for row in table.select_columns(["id", *fields]).select(rows):
            found[row["id"]] = input_text({field: row[field] for field in fields})
    return found
