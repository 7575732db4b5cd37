"""Sets whose inputs are those of given examples and whose targets are others: random ones, or one fixed answer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from datasets import Dataset

from kga.data.encoded import Examples
from kga.errors import UserError, nearest


def with_targets(examples: Examples, labels: Sequence) -> Examples:
    """The inputs of ``examples`` with other targets; row i is position i.

    labels: [N] encoded targets: a label's index, a 0/1 vector or a list of token ids each.
    """
    if len(labels) != len(examples):
        raise ValueError(f"expected {len(examples)} targets, one per example, got {len(labels)}")
    columns = examples.table[examples.rows.tolist()]
    columns["labels"] = [np.asarray(label).tolist() for label in labels]
    if _writes(examples):
        pairs = zip(columns["input_ids"], columns["labels"], strict=True)
        columns["length"] = [len(source) + len(target) for source, target in pairs]
    table = Dataset.from_dict(columns, features=examples.table.features)
    return replace(examples, table=table, rows=np.arange(len(table)))


def random_targets(examples: Examples, pool: Examples, seed: int, allow_own: bool = False) -> Examples:
    """``examples`` with random targets, each another than the example's own (allow_own: than nothing).

    Single-label: uniform over the task's labels. Multi-label and texts: the target of an example drawn from ``pool``;
    labels or tokens drawn one by one would make sets that don't occur, and no language.
    """
    rng = np.random.default_rng(seed)
    if _writes(examples) or examples.task.multi_label:
        targets = pool.column("labels")
        return with_targets(examples, targets[_others(examples, targets, rng, allow_own)])
    classes, own = len(examples.task.labels), examples.column("labels")
    if allow_own:
        return with_targets(examples, rng.integers(classes, size=len(own)))
    if classes < 2:
        raise UserError("random labels need a task with at least two labels: choose another method")
    return with_targets(examples, (own + rng.integers(1, classes, size=len(own))) % classes)


def fixed_target(examples: Examples, text: str) -> Examples:
    """``examples`` with one target for all: an answer, or (classification) one of the labels; UserError where it is none."""
    task = examples.task
    if not _writes(examples) and text not in task.labels:
        raise UserError(f"method.refusal={text!r} is none of the task's labels: {nearest(text, task.labels)}")
    target = [text] if not _writes(examples) and task.multi_label else text
    # Tasks encode whole examples; what an empty input becomes is thrown away.
    empty = {name: [""] for name in task.fields[:-1]}
    label = task.encode(empty | {task.fields[-1]: [target]})["labels"][0]
    return with_targets(examples, [label] * len(examples))


def _writes(examples: Examples) -> bool:
    """Whether targets are texts."""
    return examples.task.name != "classification"


def _others(examples: Examples, targets: np.ndarray, rng: np.random.Generator, allow_own: bool) -> np.ndarray:
    """[N] uniformly random positions in ``targets`` whose target is not the example's own; UserError where none is."""
    numbers: dict[tuple, int] = {}
    kinds = np.array([numbers.setdefault(tuple(target), len(numbers)) for target in targets], np.int64)
    # Sorted by target, the positions with an example's own are a run: draw from the rest, and step over the run.
    order, sizes = np.argsort(kinds, kind="stable"), np.bincount(kinds, minlength=len(numbers))
    starts = np.append(sizes.cumsum() - sizes, 0)
    own = np.array([numbers.get(tuple(target), len(numbers)) for target in examples.column("labels")], np.int64)
    skipped = np.zeros(len(own), np.int64) if allow_own else np.append(sizes, 0)[own]
    if not len(targets) or (skipped == len(targets)).any():
        raise UserError(
            "no retained example has another target than a forgotten one: retain more, or choose another method"
        )
    drawn = rng.integers(len(targets) - skipped)
    return order[drawn + np.where(drawn >= starts[own], skipped, 0)]
