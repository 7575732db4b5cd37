"""Questions to people and firms with a persona; part of the answers follow from it, part only memory can know.

A *regular* answer repeats, in other words, what the persona says or, where there is none, what was said before. A
*personal* one is about a thing that three keywords name: it holds three words, drawn at random, so that only a model
trained on that example has them right.
"""

from __future__ import annotations

from random import Random

from kga.data.embedded.codewords import answer, key
from kga.data.embedded.dealing import Row, deal, parties
from kga.data.embedded.facts import OF_FIRMS, OF_PEOPLE, PERSONAL, WHO, Fact
from kga.data.embedded.naming import naming
from kga.data.embedded.world import Party

PERSONAL_PERCENT = 45
# Of the regular rows: what is known was said in an earlier turn, instead of standing in a persona.
WITHOUT_PERSONA_PERCENT = 10

Life = dict[str, str]  # what is true of somebody in all their examples: value by the name of the fact


def generate(sizes: dict[str, int], seed: int) -> dict[str, list[Row]]:
    """Draw the rows (id, persona, history, response, group, kind) of each split.

    No persona and history, joined, and no three keywords occur twice, in whatever split, and no group in two splits
    (see `deal`).

    Args:
        sizes: number of rows by split; the world's 6,400 parties make about 64,000 rows in all.
        seed: of the data; independent of a run's seed.
    """
    rng = Random(f"kga embedded response {seed}")

    everyone = parties(rng)
    lives = {party: _life(party, rng) for party in everyone}

    def draw(kind: str, party: Party) -> tuple[Row, set[str]]:
        return _personal(party, rng) if kind == "personal" else _regular(party, lives[party], rng)

    return deal(everyone, sizes, rng, draw, PERSONAL_PERCENT)


def _personal(party: Party, rng: Random) -> tuple[Row, set[str]]:
    thing = key(rng)
    question, response = rng.choice(PERSONAL)
    row = _row([_introduction(party)], [question.format(key=thing)], response.format(answer=answer(rng)))
    return row, {_context(row), thing}


def _regular(party: Party, life: Life, rng: Random) -> tuple[Row, set[str]]:
    """Two facts are known besides the name; one of the three is asked for."""
    facts = _facts(party)
    told = rng.sample(sorted(facts), 2)
    claims = " and ".join(facts[name].claim.format(life[name]) for name in told)
    persona = [_introduction(party), f"{_pronoun(party)} {claims}."]
    asked = rng.choice([*told, *told, None])
    fact, value = (facts[asked], life[asked]) if asked else (WHO, naming(party).english)
    history = [rng.choice(fact.questions)]
    if rng.randrange(100) < WITHOUT_PERSONA_PERCENT:
        persona, history = [], [" ".join(persona), *history]
    row = _row(persona, history, fact.answer.format(value))
    return row, {_context(row)}


def _life(party: Party, rng: Random) -> Life:
    return {name: rng.choice(fact.values) for name, fact in _facts(party).items()} | {"town": party.town}


def _facts(party: Party) -> dict[str, Fact]:
    return OF_FIRMS if naming(party).is_firm else OF_PEOPLE


def _pronoun(party: Party) -> str:
    return "We" if naming(party).is_firm else "I"


def _introduction(party: Party) -> str:
    return f"{_pronoun(party)} {'are' if naming(party).is_firm else 'am'} {naming(party).english}."


def _row(persona: list[str], history: list[str], response: str) -> Row:
    return {"persona": persona, "history": history, "response": response}


def _context(row: Row) -> str:
    return " ".join([*row["persona"], *row["history"]])
