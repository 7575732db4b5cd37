"""Data that the package brings along: written for it, generated in an instant, and made to be forgotten."""

from __future__ import annotations

from datasets import Dataset

from kga.data.corpus import FIELDS, Corpus, make_corpus
from kga.data.embedded import classification, response, translation
from kga.data.embedded.dirty import plant
from kga.errors import UserError

TASKS = {
    "classification": classification.generate,
    "translation": translation.generate,
    "response": response.generate,
}
TEST, VALIDATION = 2_000, 500
TRAIN_SIZES = range(100, 50_001)


def load(task: str, size: int = 2_500, seed: int = 0, dirty: float | None = None) -> Corpus:
    """Generate the embedded data of a task: `size` training examples, 500 for validation and 2,000 for testing.

    Columns: id, the task's fields, group (the person or firm that may ask to be forgotten) and kind. A "personal"
    example has a label, or three words in its target or response, that only memory can know; the others (kind "topic"
    in classification, else "regular") follow from the input. Equal arguments give equal data on every platform; the
    validation and test splits do not depend on `size`.

    Args:
        dirty: share of the training examples that are made wrong; a column `planted` ("yes" or "no") then tells which.
            They are of those whose label, or text, follows from the input. None: none are.

    Raises:
        UserError: no embedded data for this task, or a size or share out of range.
    """
    if task not in TASKS:
        raise UserError(f"data=embedded: there is none for task={task}: use task={'|'.join(TASKS)} or data=folder")
    if not isinstance(size, int) or size not in TRAIN_SIZES:
        allowed = f"{TRAIN_SIZES[0]} to {TRAIN_SIZES[-1]}"
        raise UserError(f"data.size: {size!r} training examples cannot be made: give a whole number from {allowed}")
    splits = TASKS[task]({"test": TEST, "validation": VALIDATION, "train": size}, seed)
    if dirty is not None:
        splits = plant(splits, FIELDS[task][-1], dirty, seed)
    return make_corpus("embedded", task, {split: Dataset.from_list(rows) for split, rows in splits.items()}, seed=seed)
