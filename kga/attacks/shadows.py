"""Shadow models: trained as A_D was, on known halves of the audited examples; shared by all methods and attacks."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kga.attacks.evidence import FORGET, NONMEMBER, RETAIN
from kga.data.splits import Split, Splits
from kga.study import Study

SEEDS = 100_003  # between the seeds of two shadow models
RESERVED = 4  # one in so many of the holdout is kept as population, where all of it could be audited


@dataclass(frozen=True)
class Audited:
    """Whose membership is tested: D_f, non-members like it, a sample of D_r; and unseen examples beside them.

    sets: "forget", "nonmember", "retain" and "population", without common examples.
    """

    sets: Mapping[str, Split]

    @property
    def targets(self) -> Split:
        """The T audited examples: forget, nonmember, retain, one after the other."""
        return Split("train", np.concatenate([self.sets[name].rows for name in (FORGET, NONMEMBER, RETAIN)]))

    @property
    def role(self) -> np.ndarray:
        """[T] which of the three sets an example is of."""
        return np.repeat([FORGET, NONMEMBER, RETAIN], [len(self.sets[name]) for name in (FORGET, NONMEMBER, RETAIN)])


def audited(splits: Splits, retain: Split, seed: int) -> Audited:
    """Chooses who is audited: all of D_f, as many non-members, at most as many of D_r, a quarter of it at most.

    retain: the sample of D_r that is evaluated anyway, in whose beginning the audited ones lie.
    """
    forget, like, holdout = (splits[name] for name in (FORGET, NONMEMBER, "holdout"))
    rng = np.random.default_rng([seed, 6])
    count = min(len(forget), len(like), len(holdout) - len(holdout) // RESERVED)
    chosen = np.sort(rng.permutation(like.rows)[:count])
    rest = np.setdiff1d(holdout.rows, chosen, assume_unique=True)
    staying = min(len(forget), len(splits[RETAIN]) // 4, len(retain))
    return Audited(
        {
            FORGET: forget,
            NONMEMBER: Split("train", chosen),
            RETAIN: Split("train", np.sort(rng.permutation(retain.rows)[:staying])),
            "population": Split("train", rest),
        }
    )


def inclusion(role: np.ndarray, shadows: int, seed: int) -> np.ndarray:
    """[N, T] bool: which audited example each of N shadow models (an even number) is trained on.

    Shadow models come in pairs: the first has a random half of every role, the second the other half. So each example is
    in exactly half of them, and their training sets are of nearly equal size.
    """
    rng = np.random.default_rng([seed, 7])
    inside = np.zeros((shadows, len(role)), bool)
    for pair in range(shadows // 2):
        for name in np.unique(role):
            of_role = rng.permutation(np.flatnonzero(role == name))
            inside[2 * pair, of_role[: (len(of_role) + pair % 2) // 2]] = True
        inside[2 * pair + 1] = ~inside[2 * pair]
    return inside


def worlds(study: Study, who: Audited, inside: np.ndarray) -> list[Study]:
    """A study for each shadow model: D without the audited examples, and its half of those.

    What it is asked to forget are its forget and nonmember examples; so a request is about as large as the real one, and
    what was never seen lies beside what was unlearned. D_n, validation and test are the study's own.
    """
    rows, role = who.targets.rows, who.role
    others = np.setdiff1d(study.splits["train"].rows, rows)
    made = []
    for number, member in enumerate(inside):
        forget = np.sort(rows[member & (role != RETAIN)])
        retain = np.sort(np.concatenate([others, rows[member & (role == RETAIN)]]))
        train = np.sort(np.concatenate([retain, forget]))
        sets = {**study.splits.sets} | {
            name: Split("train", found) for name, found in (("train", train), (FORGET, forget), (RETAIN, retain))
        }
        seed = (study.seed + SEEDS * (number + 1)) % 2**31
        made.append(study.world(sets, seed, f"shadow {number + 1} of {len(inside)}: "))
    return made


def spread(worlds: Sequence[Study]) -> Iterator[Study]:
    """The worlds in an order that differs from process to process: several runs then train different ones at a time."""
    start = os.getpid() % len(worlds)
    return iter([*worlds[start:], *worlds[:start]])
