"""A data set from the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # by this name whichever version the hub's client uses

from kga.data.corpus import SPLITS, Corpus, column, make_corpus
from kga.errors import UserError

REACH_TIMEOUT = 10.0  # seconds


def load(
    task: str,
    repo: str,
    config: str | None = None,
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    label_names: Sequence[str] | None = None,
    name: str | None = None,
) -> Corpus:
    """Download a data set, or take it from the cache, and read it. Code in the repository is never run.

    Args:
        repo: the data set's id on the hub, `OWNER/NAME`.
        config: which of its configurations; needed where it has several.
        revision: branch, tag or commit; main by default.
        columns: field of the task -> the data set's column, where the names differ; `a.b` is column b inside a.
        label_names: names of labels 0, 1, ..., where the data set has bare numbers.
        name: what to call the data set; by default the last part of `repo`.

    Raises:
        UserError: the hub is out of reach, it has no such data set, or the data set does not fit the task.
    """
    name = name or repo.rpartition("/")[2]
    tables = _download(name, repo, config, revision)
    if "train" not in tables:
        raise UserError(f"data {name}: {repo} has no train split, only {', '.join(tables)}: choose another data.config")
    used = {split: _renamed(name, tables[split], columns or {}) for split in SPLITS if split in tables}
    if label_names:
        used = {split: _with_label_names(name, table, list(label_names)) for split, table in used.items()}
    corpus = make_corpus(name, task, used)
    unused = [split for split in tables if split not in SPLITS]
    if not unused:
        return corpus
    return replace(corpus, notes=(f"Not used of {repo}: {', '.join(unused)}.", *corpus.notes))


def _download(name: str, repo: str, config: str | None, revision: str | None) -> DatasetDict:
    _require_hub(name, repo)
    try:
        return load_dataset(repo, config, revision=revision)
    except DatasetNotFoundError:
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"data {name}: the hub has no data set {repo}{at} that you may read: check data.repo and data.revision, or "
            "log in with `hf auth login`"
        ) from None
    except (ConnectionError, httpx.TransportError) as error:
        raise _unreachable(name, repo, error) from error
    except (DatasetsError, HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"data {name}: {repo} cannot be read (data.config={config}): {reason}") from error


def _require_hub(name: str, repo: str) -> None:
    """Ask once whether the hub answers: `load_dataset` alone would try for half a minute and then blame the data set."""
    if constants.HF_HUB_OFFLINE:
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_TIMEOUT)
    except httpx.TransportError as error:
        raise _unreachable(name, repo, error) from error


def _unreachable(name: str, repo: str, error: Exception) -> UserError:
    if constants.HF_HUB_OFFLINE:
        problem = f"{repo} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    else:
        problem = f"the hub ({constants.ENDPOINT}) is out of reach for {repo} ({error})"
    return UserError(
        f"data {name}: {problem}: run `kga-data {name} --to DIR` on a machine with network and use data=folder "
        "data.path=DIR here, or set HF_HUB_OFFLINE=1 where the cache already has it"
    )


def _renamed(name: str, table: Dataset, columns: Mapping[str, str]) -> Dataset:
    if not set(columns.values()) <= set(table.column_names):
        table = table.flatten()
    for field, given in columns.items():
        if given not in table.column_names:
            raise UserError(
                f"data {name}: data.columns.{field}={given}: no such column, only {', '.join(table.column_names)}"
            )
    renamed = {given: field for field, given in columns.items() if given != field}
    hidden = [field for field in renamed.values() if field in table.column_names and field not in renamed]
    return table.remove_columns(hidden).rename_columns(renamed)


def _with_label_names(name: str, table: Dataset, names: list[str]) -> Dataset:
    feature = table.features.get("label")
    if not isinstance(feature, Value) or not feature.dtype.startswith(("int", "uint")):
        raise UserError(f"data {name}: data.label_names names whole numbers, but column 'label' holds {feature}")
    largest = pc.max(column(table, "label")).as_py() or 0
    if largest >= len(names):
        raise UserError(
            f"data {name}: data.label_names has {len(names)} names, but labels go up to {largest}: add names"
        )
    return table.cast_column("label", ClassLabel(names=names))
