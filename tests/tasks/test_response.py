"""What response generation encodes: the latest history, then the persona's beginning; and what is cut of them."""

import pytest
from helpers import sequences

from kga.metrics.text import ResponseQuality
from kga.tasks.response import Response

TOKENIZER = sequences.tokenizer()
SEP, END = TOKENIZER.sep_token_id, TOKENIZER.eos_token_id
PERSONA, HISTORY, ANSWER = ["we boat", "seven sun"], ["to green", "house", "sun to sun"], "we green"


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def flat(parts: list[str]) -> list[int]:
    """Parts with the separator between them."""
    found: list[int] = []
    for number, part in enumerate(parts):
        found += ([SEP] if number else []) + ids(part)
    return found


ABOUT, TURNS = flat(PERSONA), flat(HISTORY)
WHOLE = len(ABOUT) + 1 + len(TURNS) + 1  # the separator between the two, and what closes the input


def encoded(
    max_length: int = WHOLE, history_length: int | None = None, architecture: str = "gpt2",
    persona=PERSONA, history=HISTORY, **more,
) -> tuple[list[int], bool]:  # fmt: skip
    """The input of the one example without what closes it, and whether it was cut."""
    task = sequences.responder(architecture, max_length=max_length, history_length=history_length, max_target_length=40)
    found = task.encode({"persona": [persona], "history": [history], "response": [ANSWER]})
    (row,), (cut,) = found["input_ids"], found["cut"]
    assert row[-1] == (SEP if architecture == "gpt2" else END) and len(row) <= max_length
    assert found["labels"] == [[*ids(ANSWER), END]]
    return row[:-1], cut


@pytest.mark.parametrize("architecture", ["gpt2", "marian"])
def test_persona_and_history_with_separators(architecture):
    assert encoded(architecture=architecture) == ([*ABOUT, SEP, *TURNS], False)


@pytest.mark.parametrize("over", [1, 2, len(ABOUT) - 1])
def test_the_end_of_the_persona_gives_way_first(over):
    assert encoded(WHOLE - over) == ([*ABOUT[:-over], SEP, *TURNS], True)


@pytest.mark.parametrize("room", [len(TURNS), len(TURNS) + 1])
def test_without_room_for_it_the_persona_goes_with_its_separator(room):
    assert encoded(room + 1) == (TURNS, True)


@pytest.mark.parametrize("room", [1, 2, len(TURNS) - 1])
def test_of_a_long_history_the_latest_tokens_are_kept(room):
    assert encoded(room + 1) == (TURNS[-room:], True)


@pytest.mark.parametrize("kept", [1, 3, len(TURNS) - 1])
def test_history_length_keeps_the_latest_tokens_and_leaves_the_rest_to_the_persona(kept):
    assert encoded(history_length=kept) == ([*ABOUT, SEP, *TURNS[-kept:]], True)
    assert encoded(len(ABOUT) + kept + 1, history_length=kept) == ([*ABOUT[:-1], SEP, *TURNS[-kept:]], True)


@pytest.mark.parametrize("limit", [len(TURNS), len(TURNS) + 1, 1000])
def test_a_history_within_its_limit_is_not_cut(limit):
    assert encoded(history_length=limit) == ([*ABOUT, SEP, *TURNS], False)


def test_a_history_limit_above_the_room_is_no_limit():
    assert encoded(5, history_length=1000) == (TURNS[-4:], True)


def test_an_empty_persona_leaves_no_separator():
    assert encoded(persona=[]) == (TURNS, False)
    assert encoded(len(TURNS) + 1, persona=[]) == (TURNS, False)
    assert encoded(len(TURNS), persona=[]) == (TURNS[1:], True)


def test_an_empty_history_leaves_no_separator():
    assert encoded(history=[]) == (ABOUT, False)


def test_without_history_the_persona_may_fill_the_input():
    """Exactly the limit is not cut: there is no separator to leave room for."""
    assert encoded(len(ABOUT) + 1, history=[]) == (ABOUT, False)
    assert encoded(len(ABOUT), history=[]) == (ABOUT[:-1], True)


def test_neither_persona_nor_history():
    assert encoded(persona=[], history=[]) == ([], False)
    assert encoded(1, persona=[], history=[]) == ([], False)


def test_a_limit_that_leaves_no_room_for_text():
    assert encoded(1) == ([], True)
    assert encoded(1, persona=[]) == ([], True)


def test_a_long_answer_is_cut_and_closed():
    task = sequences.responder(max_target_length=2)
    found = task.encode({"persona": [PERSONA], "history": [HISTORY], "response": [ANSWER]})
    assert found["labels"] == [[ids(ANSWER)[0], END]] and found["cut"] == [True]


def test_examples_are_encoded_each_by_itself():
    """Parts of one dialogue never reach its neighbour, whatever the numbers of sentences and turns are."""
    rows = sequences.dialogues(12, seed=2).to_dict()
    assert {len(persona) for persona in rows["persona"]} >= {0, 2}
    task = sequences.responder(max_length=30)
    together = task.encode(rows)
    for number in range(12):
        alone = task.encode({name: [column[number]] for name, column in rows.items()})
        assert {name: column[number] for name, column in together.items()} == {n: c[0] for n, c in alone.items()}


def test_all_parts_teach_the_tokenizer():
    columns = {"persona": [["a"], []], "history": [["b", "c"], ["d"]], "response": ["e", "f"]}
    assert sorted(Response.texts(columns)) == list("abcdef")


def test_what_its_texts_are_measured_by():
    (metric,) = sequences.responder().text_metrics()
    assert isinstance(metric, ResponseQuality)
