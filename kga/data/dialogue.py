"""Dialogues as data sets on the hub have them, one a row, made into one example for each response.

A turn that nothing was said before is no response. `group` is the dialogue, known by the turns it opens with: where a
data set has the same dialogue twice (from both speakers' sides, or as a copy), both have one group.
"""

from collections.abc import Callable, Iterator

from datasets import Dataset, Features, List, Value

from kga.data.corpus import content_hash
from kga.errors import UserError, one_of

HISTORY = 8  # turns that an example keeps of what was said before, the latest
OPENING = 4  # turns that tell one dialogue from another
SILENCE = "__ SILENCE __"  # PersonaChat's mark for what the first speaker answers

FEATURES = Features(
    {
        "persona": List(Value("string")),
        "history": List(Value("string")),
        "response": Value("string"),
        "group": Value("string"),
    }
)
Example = dict[str, object]


def personachat(row: dict[str, list]) -> Iterator[Example]:
    """A dialogue with all that was said before each response, which is the last of the candidates."""
    utterances = row["utterances"]
    said = [(utterance["history"], (utterance["candidates"] or [""])[-1]) for utterance in utterances]
    yield from _examples(row["personality"], said)


def dailydialog(row: dict[str, list]) -> Iterator[Example]:
    """A dialogue as the list of its turns; nobody has a persona."""
    turns = row["dialog"]
    yield from _examples([], [(turns[:number], turns[number]) for number in range(1, len(turns))])


# By the name in `data.expand`: the columns that are read, and what makes examples of a row.
FORMS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, list]], Iterator[Example]]]] = {
    "personachat": (("personality", "utterances"), personachat),
    "dailydialog": (("dialog",), dailydialog),
}


def expand(table: Dataset, form: str) -> Dataset:
    """The examples of a table of dialogues: persona, history (at most 8 turns, oldest first), response and group.

    Raises:
        UserError: there is no such form, or the table lacks a column of it.
    """
    one_of("data.expand", form, FORMS)
    columns, _ = FORMS[form]
    for column in columns:
        if column not in table.column_names:
            found = ", ".join(table.column_names)
            raise UserError(f"data.expand={form} needs the columns {', '.join(columns)}; found: {found}")
    return table.select_columns(list(columns)).map(
        _expanded, batched=True, fn_kwargs={"form": form}, remove_columns=list(columns), features=FEATURES
    )


# `datasets` keeps the result under the function's name, not its code: give it a new name when examples change.
def _expanded(batch: dict[str, list], form: str) -> dict[str, list]:
    rows = (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))
    examples = [example for row in rows for example in FORMS[form][1](row)]
    return {name: [example[name] for example in examples] for name in FEATURES}


def _examples(persona: list[str], said: list[tuple[list[str], str]]) -> Iterator[Example]:
    """Examples of one dialogue from all its turns before each response, and the response."""
    persona = _written(persona)
    exchanges = [(_written(before), (response or "").strip()) for before, response in said]
    if not exchanges:
        return
    before, response = exchanges[-1]
    group = content_hash({"dialogue": [*before, response][:OPENING]})[:16]
    for before, response in exchanges:
        if before:
            yield {"persona": persona, "history": before[-HISTORY:], "response": response, "group": group}


def _written(turns: list[str]) -> list[str]:
    stripped = [(turn or "").strip() for turn in turns]
    return [turn for turn in stripped if turn not in ("", SILENCE)]
