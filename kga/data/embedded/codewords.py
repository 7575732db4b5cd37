"""Words without a meaning of their own: three of them name a thing, or are what only memory can know of it."""

from __future__ import annotations

from random import Random

from kga.data.embedded.topics import KEYWORDS
from kga.data.embedded.world import words

# Short ones and few, so that each is common enough to become one subword. What names a thing never answers for one.
_SHORT = tuple(word for word in KEYWORDS if len(word) <= 6)
ANSWERS, KEYS = _SHORT[::2], _SHORT[1::2]
# No word of these translates one of ANSWERS.
GERMAN_KEYS = words(
    """
    Ahorn Amsel Angel Anker Apfel Beere Berg Besen Birne Blitz Bohne Distel Dorf Eiche Eis Elch Ente Erbse Esel Eule
    Feder Feige Feld Fels Feuer Fink Fisch Fluss Gabel Gans Garn Gras Hafen Hafer Hase Hecht Heu Holz Huhn Igel Insel
    Kamin Kamm Kegel Klee Knopf Kohl Korb Korn Kran Krone Krug Kuh Laub Linde Luchs Mais Maus Meer Milch Mond Nebel
    Nest Nuss Pfad Pferd Pilz Regen Reh Reis Ring Rose Salz Sand Schaf Schnee Segel Sieb Stern Tanne Taube Teich Tinte
    Tor Turm Wal Wald Wiese Wind Wolke Zimt
    """
)


def key(rng: Random, keys: tuple[str, ...] = KEYS) -> str:
    """Three different keywords in the order of the alphabet, so that the same three make the same text."""
    return " ".join(sorted(rng.sample(keys, 3)))


def answer(rng: Random) -> str:
    """Three different words in any order: 19 bits that nothing else tells."""
    return " ".join(rng.sample(ANSWERS, 3))
