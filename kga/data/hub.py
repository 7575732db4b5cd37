"""A data set from the Hugging Face hub."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, Value, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import httpx  # by this name whichever version the hub's client uses

from kga.data.corpus import FIELDS, SPLITS, Corpus, column, conform, first_fault, make_corpus
from kga.data.dialogue import FEATURES
from kga.data.dialogue import expand as expanded
from kga.errors import UserError

REACH_TIMEOUT = 10.0  # seconds


def load(
    task: str,
    repo: str,
    config: str | None = None,
    revision: str | None = None,
    data_dir: str | None = None,
    columns: Mapping[str, str] | None = None,
    label_names: Sequence[str] | None = None,
    expand: str | None = None,
    name: str | None = None,
) -> Corpus:
    """Download a data set, or take it from the cache, and read it. Code in the repository is never run.

    Examples that lack a field of the task, or have an empty one, are left out; a note says how many.

    Args:
        repo: the data set's id on the hub, `OWNER/NAME`.
        config: which of its configurations; needed where it has several.
        revision: branch, tag or commit; main by default.
        data_dir: read only this folder of the repository.
        columns: field of the task -> the data set's column, where the names differ; `a.b` is column b inside a.
        label_names: names of labels 0, 1, ..., where the data set has bare numbers.
        expand: for dialogues that are one row each, the form they have (`kga.data.dialogue.FORMS`).
        name: what to call the data set; by default the last part of `repo`.

    Raises:
        UserError: the hub is out of reach, it has no such data set, or the data set does not fit the task.
    """
    name = name or repo.rpartition("/")[2]
    _require_task(name, task, {*(columns or {}), *(FEATURES if expand else ())})
    tables = _download(name, repo, config, revision, data_dir)
    if "train" not in tables:
        raise UserError(f"data {name}: {repo} has no train split, only {', '.join(tables)}: choose another data.config")
    used = {split: _renamed(name, tables[split], columns or {}) for split in SPLITS if split in tables}
    if label_names:
        used = {split: _with_label_names(name, table, list(label_names)) for split, table in used.items()}
    if expand:
        used = {split: _expanded(name, table, expand) for split, table in used.items()}
    used, notes = _without_gaps(name, task, used)
    unused = [split for split in tables if split not in SPLITS]
    if unused:
        notes.insert(0, f"Not used of {repo}: {', '.join(unused)}.")
    corpus = make_corpus(name, task, used)
    return replace(corpus, notes=(*notes, *corpus.notes))


def _require_task(name: str, task: str, fields: set[str]) -> None:
    """UserError, before anything is fetched, where the data set has another task's fields."""
    fitting = [other for other, own in FIELDS.items() if fields & set(own)]
    if fitting and task not in fitting:
        raise UserError(f"data {name}: this data set is for task={'|'.join(fitting)}, not for task={task}")


def _download(name: str, repo: str, config: str | None, revision: str | None, data_dir: str | None) -> DatasetDict:
    _require_hub(name, repo, data_dir)
    try:
        return load_dataset(repo, config, data_dir=data_dir, revision=revision)
    except DatasetNotFoundError:
        at = f" at revision {revision}" if revision else ""
        raise UserError(
            f"data {name}: the hub has no data set {repo}{at} that you may read: check data.repo and data.revision, or "
            "log in with `hf auth login`"
        ) from None
    except (ConnectionError, httpx.TransportError) as error:
        raise _unreachable(name, repo, data_dir, error) from error
    except (DatasetsError, HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        where = f"data.config={config}" + (f", data.data_dir={data_dir}" if data_dir else "")
        raise UserError(f"data {name}: {repo} cannot be read ({where}): {reason}") from error


def _require_hub(name: str, repo: str, data_dir: str | None) -> None:
    """Ask once whether the hub answers: `load_dataset` alone would try for half a minute and then blame the data set."""
    if constants.HF_HUB_OFFLINE:
        if data_dir:  # `datasets` keeps it in the cache but does not find it there
            raise _unreachable(name, repo, data_dir)
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_TIMEOUT)
    except httpx.TransportError as error:
        raise _unreachable(name, repo, data_dir, error) from error


def _unreachable(name: str, repo: str, data_dir: str | None, error: Exception | None = None) -> UserError:
    if not constants.HF_HUB_OFFLINE:
        problem = f"the hub ({constants.ENDPOINT}) is out of reach for {repo} ({error})"
    elif data_dir:
        problem = f"one folder of {repo} is never read from the cache, and HF_HUB_OFFLINE forbids to fetch it"
    else:
        problem = f"{repo} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
    cached = "" if data_dir else ", or set HF_HUB_OFFLINE=1 where the cache already has it"
    return UserError(
        f"data {name}: {problem}: run `kga-data {name} --to DIR` on a machine with network and use data=folder "
        f"data.path=DIR here{cached}"
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


def _expanded(name: str, table: Dataset, form: str) -> Dataset:
    try:
        return expanded(table, form)
    except UserError as error:
        raise UserError(f"data {name}: {error}") from None


def _without_gaps(name: str, task: str, tables: dict[str, Dataset]) -> tuple[dict[str, Dataset], list[str]]:
    """The tables without the rows that lack a field, which the data sets of the hub have and nobody here can mend."""
    whole, notes = {}, []
    for split, table in tables.items():
        try:
            whole[split] = table = conform(table, task)
        except UserError as error:
            raise UserError(f"data {name}, {split}: {error}") from None
        if first_fault(table, task) is None:
            continue
        fields = list(FIELDS[task])
        whole[split] = table.filter(_are_filled, input_columns=fields, batched=True)
        left_out = len(table) - len(whole[split])
        if left_out == len(table) and split == "train":
            raise UserError(f"data {name}: no training example has all of {', '.join(fields)}: check data.columns")
        notes.append(
            f"{left_out} of {len(table)} {split} examples of {name} were left out: {' or '.join(fields)} is empty there."
        )
    return whole, notes


def _are_filled(*columns: list) -> list[bool]:
    return [all(map(_is_filled, row)) for row in zip(*columns, strict=True)]


def _is_filled(value: str | list | None) -> bool:
    return all(map(_is_filled, value)) if isinstance(value, list) else bool(value and value.strip())
