"""Examples made of whole dialogues, against examples written out by hand."""

import datasets
import pytest
from datasets import Dataset

from kga.data import dialogue
from kga.errors import UserError

CHAT = ["hi !", "hello , who are you ?", "a cook .", "i sing .", "nice ."]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def side(turns: list[str], persona: list[str], first: bool) -> dict[str, list]:
    """A dialogue from one speaker's side, as PersonaChat has it: every second turn is a response."""
    said = ["__ SILENCE __", *turns] if first else turns
    utterances = [
        {"candidates": ["a wrong one", "another", said[number]], "history": said[:number]}
        for number in range(1, len(said), 2)
    ]
    return {"personality": persona, "utterances": utterances}


def test_dailydialog_every_turn_but_the_first_is_a_response():
    examples = list(dialogue.dailydialog({"dialog": ["Hi . ", " Hello !", "Bye ."]}))
    assert [(row["history"], row["response"]) for row in examples] == [
        (["Hi ."], "Hello !"),
        (["Hi .", "Hello !"], "Bye ."),
    ]
    assert [row["persona"] for row in examples] == [[], []]
    assert len({row["group"] for row in examples}) == 1


def test_personachat_takes_the_last_candidate():
    examples = list(dialogue.personachat(side(CHAT[:4], ["i sing .", "i have a dog ."], first=False)))
    assert [(row["history"], row["response"]) for row in examples] == [
        (["hi !"], "hello , who are you ?"),
        (["hi !", "hello , who are you ?", "a cook ."], "i sing ."),
    ]
    assert all(row["persona"] == ["i sing .", "i have a dog ."] for row in examples)


def test_both_sides_of_a_dialogue_are_one_group():
    first = list(dialogue.personachat(side(CHAT, ["i cook ."], first=True)))
    second = list(dialogue.personachat(side(CHAT, ["i sing ."], first=False)))
    assert [row["response"] for row in first] == ["a cook .", "nice ."]  # what nobody said anything before is left out
    assert first[0]["history"] == ["hi !", "hello , who are you ?"]
    assert [row["response"] for row in second] == ["hello , who are you ?", "i sing ."]
    assert len({row["group"] for row in (*first, *second)}) == 1
    other = dialogue.personachat(side([*CHAT[:3], "me too ."], ["i sing ."], first=False))
    assert next(other)["group"] != first[0]["group"]


def test_history_keeps_the_latest_turns():
    turns = [f"turn {number}" for number in range(12)]
    last = list(dialogue.dailydialog({"dialog": turns}))[-1]
    assert last["history"] == turns[3:11] and last["response"] == "turn 11"


def test_blank_turns_are_no_history_and_stay_as_responses():
    """So that reading the data set can leave them out and say how many."""
    examples = list(dialogue.dailydialog({"dialog": ["Hi .", " ", "Well ?"]}))
    assert [(row["history"], row["response"]) for row in examples] == [(["Hi ."], ""), (["Hi ."], "Well ?")]
    row = {"personality": [], "utterances": [{"candidates": [], "history": ["hi"]}]}
    assert [example["response"] for example in dialogue.personachat(row)] == [""]


@pytest.mark.parametrize("turns", [[], ["Alone ."]])
def test_dialogues_without_a_response_have_no_examples(turns):
    assert list(dialogue.dailydialog({"dialog": turns})) == []
    assert list(dialogue.personachat(side(turns, [], first=True))) == []


def test_a_table_of_dialogues():
    rows = [{"dialog": [f"{number} {turn}" for turn in range(3)], "act": [1, 2, 3]} for number in range(1_500)]
    table = dialogue.expand(Dataset.from_list(rows), "dailydialog")
    assert table.features == dialogue.FEATURES
    assert len(table) == 3_000 and len(set(table["group"])) == 1_500
    assert table[2_999]["response"] == "1499 2"


def test_mistakes():
    table = Dataset.from_dict({"dialog": [["a", "b"]], "act": [[1, 2]]})
    with pytest.raises(UserError, match=r"data\.expand=personachat needs the columns personality.*found: dialog, act"):
        dialogue.expand(table, "personachat")
    with pytest.raises(UserError, match=r"data\.expand=dailydialogue is unknown: did you mean dailydialog\?"):
        dialogue.expand(table, "dailydialogue")
