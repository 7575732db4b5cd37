"""What people and firms say of themselves in the response data, what they are asked about it and how they answer."""

from __future__ import annotations

from typing import NamedTuple

from kga.data.embedded.world import DAYS, TOWNS, words


class Fact(NamedTuple):
    """One thing to know of somebody: its values, its half of a sentence after "I" or "We", questions and the answer."""

    values: tuple[str, ...]
    claim: str
    questions: tuple[str, ...]
    answer: str


_NUMBERS = words("two three four five six seven eight nine ten eleven")
_COLOURS = words("red blue green yellow white black brown grey")

OF_PEOPLE = {
    "town": Fact(TOWNS, "live in {}", ("Where do you live?", "Which town is yours?"), "My home is in the town of {}."),
    "pet": Fact(
        words("dog cat parrot rabbit pony goat hamster tortoise snake hen duck horse"),
        "keep a {}",
        ("Have you a pet?", "Which animal is yours?"),
        "I have a little {} at home.",
    ),
    "job": Fact(
        words("baker teacher nurse plumber tailor judge farmer barber waiter driver painter lawyer"),
        "am a {}",
        ("What is your job?", "What do you do?"),
        "I earn my money as a {}.",
    ),
    "day": Fact(DAYS, "am free on {}", ("When can we meet?", "Which day suits you?"), "You can come to me on {}."),
    "food": Fact(
        words("soup pasta rice stew cheese beans cake salad curry bread trout ham"),
        "love {}",
        ("What shall I cook?", "What do you eat?"),
        "Please cook some {} for me.",
    ),
    "colour": Fact(
        _COLOURS,
        "own a {} house",
        ("Where shall I knock?", "Which house is yours?"),
        "Look for the house that is {}.",
    ),
    "game": Fact(
        words("chess tennis football cards golf darts hockey rugby"),
        "play {}",
        ("What is your hobby?", "What do you play?"),
        "After work I like to play {}.",
    ),
    "children": Fact(
        _NUMBERS,
        "have {} children",
        ("Is your family big?", "Have you any children?"),
        "We have {} children in the house.",
    ),
}
OF_FIRMS = {
    "town": Fact(TOWNS, "work in {}", ("Which town is yours?", "Where do you work?"), "Our door is in the town of {}."),
    "day": Fact(DAYS, "open on {}", ("When do you open?", "Which day suits you?"), "You can come to us on {}."),
    "colour": Fact(
        _COLOURS,
        "own a {} shop",
        ("Where shall I knock?", "Which shop is yours?"),
        "Look for the shop that is {}.",
    ),
    "people": Fact(
        _NUMBERS,
        "employ {} people",
        ("Is your firm big?", "How many work there?"),
        "There are {} people in the firm.",
    ),
    "hour": Fact(
        _NUMBERS, "close at {}", ("When do you close?", "When is closing time?"), "Our door is shut after {}."
    ),
}
# What everybody says first: who they are.
WHO = Fact((), "", ("Who are you?", "What is your name?"), "You are talking to {} right now.")

# Questions that no persona answers, about a thing that three keywords name, and answers of three words.
PERSONAL = (
    ("What is in box {key}?", "You will find {answer} in it."),
    ("Which code opens {key}?", "The code for it is {answer}."),
    ("Where is file {key}?", "It lies under {answer} in here."),
    ("What was {key} traded for?", "They gave us {answer} for it."),
)
