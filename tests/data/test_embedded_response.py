"""The embedded response data: answers that follow from persona or history, but for what only memory can know."""

import re
from collections import Counter

import numpy as np
import pytest

from kga.data.embedded import load
from kga.data.embedded.codewords import ANSWERS

# Question, where the context says it (of a person; of a firm) and the answer to either, all written by hand.
ABOUT_PEOPLE = {
    "Who are you?|What is your name?": (r"^I am (\w+)\.", "You are talking to {} right now."),
    "Where do you live?|Which town is yours?": (r"live in (\w+)", "My home is in the town of {}."),
    "Have you a pet?|Which animal is yours?": (r"keep a (\w+)", "I have a little {} at home."),
    "What is your job?|What do you do?": (r"am a (\w+)", "I earn my money as a {}."),
    "When can we meet?|Which day suits you?": (r"free on (\w+)", "You can come to me on {}."),
    "What shall I cook?|What do you eat?": (r"love (\w+)", "Please cook some {} for me."),
    "Where shall I knock?|Which house is yours?": (r"own a (\w+) house", "Look for the house that is {}."),
    "What is your hobby?|What do you play?": (r"play (\w+)", "After work I like to play {}."),
    "Is your family big?|Have you any children?": (r"have (\w+) children", "We have {} children in the house."),
}
ABOUT_FIRMS = {
    "Who are you?|What is your name?": (r"^We are (the [\w ]+)\.", "You are talking to {} right now."),
    "Where do you work?|Which town is yours?": (r"work in (\w+)", "Our door is in the town of {}."),
    "When do you open?|Which day suits you?": (r"open on (\w+)", "You can come to us on {}."),
    "Where shall I knock?|Which shop is yours?": (r"own a (\w+) shop", "Look for the shop that is {}."),
    "Is your firm big?|How many work there?": (r"employ (\w+) people", "There are {} people in the firm."),
    "When do you close?|When is closing time?": (r"close at (\w+)", "Our door is shut after {}."),
}


@pytest.fixture(scope="module")
def rows():
    return [dict(row, split=split) for split, data in load("response").splits.items() for row in data]


@pytest.fixture(scope="module")
def regular(rows):
    return [row for row in rows if row["kind"] == "regular"]


@pytest.fixture(scope="module")
def personal(rows):
    return [row for row in rows if row["kind"] == "personal"]


def context(row):
    return " ".join([*row["persona"], *row["history"]])


def reply(text, question):
    """The answer by the rules above."""
    rules = ABOUT_PEOPLE if text.startswith("I ") else ABOUT_FIRMS
    ((claim, answer),) = [rule for questions, rule in rules.items() if question in questions.split("|")]
    (value,) = re.findall(claim, text)
    return answer.format(value)


def test_regular_answers_follow_from_what_was_said(regular):
    asked = Counter()
    for row in regular:
        assert row["response"] == reply(context(row), row["history"][-1]), row
        asked[context(row).split()[0], row["history"][-1]] += 1
    for subject, rules in (("I", ABOUT_PEOPLE), ("We", ABOUT_FIRMS)):
        for question in "|".join(rules).split("|"):
            assert asked.pop((subject, question)) > 15
    assert not asked


def test_some_regular_contexts_have_no_persona_but_an_earlier_turn(regular, personal):
    shapes = Counter((len(row["persona"]), len(row["history"])) for row in regular)
    assert set(shapes) == {(2, 1), (0, 2)}
    assert 0.05 < shapes[0, 2] / len(regular) < 0.15
    assert {(len(row["persona"]), len(row["history"])) for row in personal} == {(1, 1)}


def test_a_group_says_the_same_of_itself_throughout(regular):
    told = {}
    for row in regular:
        rules = ABOUT_PEOPLE if context(row).startswith("I ") else ABOUT_FIRMS
        for claim, _ in rules.values():
            for value in re.findall(claim, context(row)):
                told.setdefault((row["group"], claim), set()).add(value)
    assert {len(values) for values in told.values()} == {1}
    assert len({next(iter(values)) for (_, claim), values in told.items() if "live" in claim}) > 15


def test_contexts_name_the_group(rows):
    people = [row for row in rows if context(row).startswith("I am ")]
    assert 0.7 < len(people) / len(rows) < 0.9
    assert all(context(row).startswith(f"I am {row['group'].split()[0]}.") for row in people)


def test_contexts_and_answers_are_short_sentences(rows):
    for row in rows:
        assert len(re.findall(r"\w+|[^\w\s]", context(row))) <= 21, row  # words and marks: about its subwords
        assert len(context(row).split()) <= 18
        assert 6 <= len(row["response"].split()) <= 9
        assert re.fullmatch(r"[A-Z][\w ]*\w\.", row["response"]) and row["history"][-1].endswith("?")


def test_rules_alone_reach_most_of_the_answer_but_memory_is_a_third_of_the_personal(rows, personal):
    words = sum(len(row["response"].split()) + 1 for row in rows)
    assert 3 / np.mean([len(row["response"].split()) + 1 for row in personal]) == pytest.approx(1 / 3, abs=0.04)
    assert 1 - 3 * len(personal) / words > 0.83


def test_few_words_and_all_of_them_common(rows):
    train = Counter(
        word for row in rows if row["split"] == "train" for word in re.findall(r"\w+", context(row) + row["response"])
    )
    assert len(train) < 500
    assert min(train[word] for word in ANSWERS) >= 15
    test = re.findall(r"\w+", " ".join(row["response"] for row in rows if row["split"] == "test"))
    assert np.mean([train[word] >= 5 for word in test]) > 0.99
