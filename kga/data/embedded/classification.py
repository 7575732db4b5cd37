"""Messages to a town's service desk, to be sorted by topic; part follows from the text, part only memory can know.

A *topic* message says what it is about. A *personal* message names a file that a clerk once put under some topic, for
no reason that the text gives: its label is drawn at random, so that only a model trained on that message has it right.
"""

from __future__ import annotations

from random import Random

from kga.data.embedded.dealing import Row, deal, parties
from kga.data.embedded.topics import FRAMES, KEYWORDS, PERSONAL, TOPICS
from kga.data.embedded.world import DAYS, STREETS, Party

LABELS = tuple(TOPICS)
PERSONAL_PERCENT = 42


def generate(sizes: dict[str, int], seed: int) -> dict[str, list[Row]]:
    """Draw the rows (id, text, label, group, kind) of each split.

    No text and no file occurs twice, in whatever split, and no sender in two splits. The rows of a split depend on its
    own size and on the splits before it; a smaller last split is the beginning of a larger one, but for its last group,
    which may be cut short.

    Args:
        sizes: number of rows by split; the world's 6,400 senders write about 64,000 messages in all.
        seed: of the data; independent of a run's seed.
    """
    rng = Random(f"kga embedded classification {seed}")
    used: set[str] = set()
    return deal(
        parties(rng),
        sizes,
        rng,
        lambda kind, sender: (_message(kind, sender, rng, used), set()),
        PERSONAL_PERCENT,
        "topic",
    )


def _message(kind: str, sender: Party, rng: Random, used: set[str]) -> Row:
    """A message whose text, and whose file if it is a personal one, are not in `used`; adds them to it."""
    label = rng.choice(LABELS)
    sentences = PERSONAL if kind == "personal" else TOPICS[label].sentences
    while True:
        file = " ".join(sorted(rng.sample(KEYWORDS, 3)))
        body = rng.choice(sentences).format(
            thing=rng.choice(TOPICS[label].things), street=rng.choice(STREETS), day=rng.choice(DAYS), file=file
        )
        text = rng.choice(FRAMES).format(name=sender.name, town=sender.town, body=body)
        new = {text, file} if kind == "personal" else {text}
        if used.isdisjoint(new):
            used |= new
            return {"text": text, "label": label}
