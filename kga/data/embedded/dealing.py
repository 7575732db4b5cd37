"""What the embedded data of every generated language has in common: who speaks, in which split, and of which kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random

from kga.data.embedded.world import Party, firms, people

GROUP_SIZES = range(8, 13)

Row = dict[str, str | list[str]]
# Draws an example of a kind for a party: its fields, and the texts that no other example may have in common with it.
Draw = Callable[[str, Party], tuple[Row, set[str]]]


def parties(rng: Random) -> list[Party]:
    """All 6,400 people and firms of the world, shuffled."""
    everyone = people(rng) + firms(rng)
    rng.shuffle(everyone)
    return everyone


def deal(
    speakers: Iterable[Party], sizes: dict[str, int], rng: Random, draw: Draw, personal_percent: int,
    other: str = "regular",
) -> dict[str, list[Row]]:  # fmt: skip
    """Fill the splits with groups of 8 to 12 examples, each group of another speaker and whole inside one split.

    The rows of a split depend on its own size and on the splits before it; a smaller last split is the beginning of a
    larger one, but for its last group, which may be cut short. Kinds are "personal" and `other`.

    Returns:
        Rows by split: what `draw` gave, with `id` before it, `group` (the speaker's name) and `kind` after it. No two
        rows of whatever split have a text in common that `draw` wants distinct: it is asked again until that holds.
    """
    numbered = enumerate(speakers)
    used: set[str] = set()
    splits: dict[str, list[Row]] = {}
    for split, size in sizes.items():
        rows = splits[split] = []
        while len(rows) < size:
            number, speaker = next(numbered)
            for index in range(min(rng.choice(GROUP_SIZES), size - len(rows))):
                kind = "personal" if _is_personal(len(rows), personal_percent) else other
                fields = _fresh(draw, kind, speaker, used)
                rows.append({"id": f"{number:04d}-{index:02d}", **fields, "group": speaker.name, "kind": kind})
    return splits


def _is_personal(row: int, percent: int) -> bool:
    """Of a split's n-th row: spread evenly, so that splits and groups have equal shares of both kinds."""
    return (row + 1) * percent // 100 > row * percent // 100


def _fresh(draw: Draw, kind: str, speaker: Party, used: set[str]) -> Row:
    while True:
        fields, distinct = draw(kind, speaker)
        if used.isdisjoint(distinct):
            used |= distinct
            return fields
