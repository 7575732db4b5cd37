"""Dirty data: training examples made wrong on purpose, so that it shows whether forgetting them repairs a model."""

from __future__ import annotations

from random import Random

from kga.data.embedded.dealing import Row
from kga.errors import UserError


def plant(splits: dict[str, list[Row]], truth: str, share: float, seed: int) -> dict[str, list[Row]]:
    """Give a share of the training examples another label, or the target or response of another example.

    Only examples whose truth follows from the input are chosen; they are spread evenly over train, and hence over
    groups. All rows get a column `planted`, "yes" or "no"; nothing else changes.

    Args:
        truth: name of the field that is learned.
        share: of all training examples.
        seed: of the data.

    Raises:
        UserError: the share is none, or there are not as many examples to choose from.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise UserError(f"data.dirty={share} is no share: give a number between 0 and 1, or null for clean data")
    train = splits["train"]
    regular = [number for number, row in enumerate(train) if row["kind"] != "personal"]
    count = max(1, round(share * len(train)))
    if count > len(regular):
        raise UserError(
            f"data.dirty={share}: {count} of {len(train)} training examples are more than the {len(regular)} whose "
            f"truth follows from the input: give {len(regular) / len(train):.2f} or less"
        )
    rng = Random(f"kga embedded dirty {seed}")
    wrong = {}
    for part in range(count):
        number = rng.choice(regular[part * len(regular) // count : (part + 1) * len(regular) // count])
        wrong[number] = _another(train[number], [train[other] for other in regular], truth, rng)
    return {
        split: [_marked(row, truth, wrong.get(number) if split == "train" else None) for number, row in enumerate(rows)]
        for split, rows in splits.items()
    }


def _another(row: Row, donors: list[Row], truth: str, rng: Random) -> str:
    """What another example has for a truth, and this one has not; every label is as likely."""
    values = sorted({donor["label"] for donor in donors}) if truth == "label" else [donor[truth] for donor in donors]
    while True:
        value = rng.choice(values)
        if value != row[truth]:
            return value


def _marked(row: Row, truth: str, wrong: str | None) -> Row:
    return row | ({"planted": "no"} if wrong is None else {truth: wrong, "planted": "yes"})
