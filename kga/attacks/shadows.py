"""Shadow models: trained as A_D was, on known halves of the audited examples; shared by all methods and attacks."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kga import ranks
from kga.attacks.evidence import FORGET, NONMEMBER, RETAIN
from kga.console import note
from kga.data.splits import Split, Splits
from kga.study import Study, Trained

ROLES = (FORGET, NONMEMBER, RETAIN)
SEEDS = 100_003  # between the seeds of two shadow models
RESERVED = 4  # one in so many of the holdout is kept as population, where all of it could be audited


@dataclass(frozen=True)
class Audited:
    """Whose membership is tested: D_f, non-members like it, a sample of D_r; and unseen examples beside them.

    sets: "forget", "nonmember", "retain" and "population", without common examples. units: [T] what is trained on as a
    whole: groups where the request takes them whole, equal inputs elsewhere.
    """

    sets: Mapping[str, Split]
    units: np.ndarray

    @property
    def targets(self) -> Split:
        """The T audited examples: forget, nonmember, retain, one after the other."""
        return Split("train", np.concatenate([self.sets[name].rows for name in ROLES]))

    @property
    def role(self) -> np.ndarray:
        """[T] which of the three sets an example is of."""
        return np.repeat(ROLES, [len(self.sets[name]) for name in ROLES])


def audited(splits: Splits, retain: Split, seed: int) -> Audited:
    """Chooses who is audited: all of D_f, about as many non-members, at most as many of D_r, a quarter of it at most.

    retain: the sample of D_r that is evaluated anyway, out of which the audited ones are drawn.
    """
    forget, like, holdout = (splits[name] for name in (FORGET, NONMEMBER, "holdout"))
    rng = np.random.default_rng([seed, 6])
    count = min(len(forget), len(like), len(holdout) - len(holdout) // RESERVED)
    shuffled = rng.permutation(like.rows)
    codes = pd.factorize(units(splits, Split("train", shuffled), splits.grouped_by))[0]
    enough = np.searchsorted(np.bincount(codes).cumsum(), count) if count else -1
    chosen = np.sort(shuffled[codes <= enough])
    staying = min(len(forget), len(splits[RETAIN]) // 4, len(retain))
    sets = {
        FORGET: forget,
        NONMEMBER: Split("train", chosen),
        RETAIN: Split("train", np.sort(rng.permutation(retain.rows)[:staying])),
        "population": Split("train", np.setdiff1d(holdout.rows, chosen, assume_unique=True)),
    }
    by = {FORGET: splits.grouped_by, NONMEMBER: splits.grouped_by, RETAIN: ()}
    return Audited(sets, np.concatenate([units(splits, sets[name], by[name]) for name in ROLES]))


def units(splits: Splits, split: Split, columns: Sequence[str] = ()) -> np.ndarray:
    """[N] name of the unit that each example of a set is of: its group by ``columns``, or its input where it has none."""
    alone = np.array(splits.strings(split, "input_hash"), object)
    known = [name for name in columns if name in splits.tables[split.source].column_names]
    if not known:
        return alone
    values = [splits.strings(split, name) for name in known]
    whole = [" / ".join(map(str, parts)) if all(parts) else "" for parts in zip(*values, strict=True)]
    return np.where(np.array(whole, object) == "", alone, np.array(whole, object))


def inclusion(role: np.ndarray, units: np.ndarray, shadows: int, seed: int) -> np.ndarray:
    """[N, T] bool: which audited example each of N shadow models (an even number) is trained on.

    Shadow models come in pairs: the first has a random half of the units of every role, the second the other half. So each
    example is in exactly half of them, with its whole unit, and their training sets are of nearly equal size.
    """
    rng = np.random.default_rng([seed, 7])
    inside = np.zeros((shadows, len(role)), bool)
    for pair in range(shadows // 2):
        for number, name in enumerate(np.unique(role)):
            of_role = np.flatnonzero(role == name)
            codes = pd.factorize(units[of_role])[0]
            order = rng.permutation(codes.max() + 1)
            # An odd one is on either side by turns, and so that no shadow model lacks all of D_f and non-members.
            half = order[: (len(order) + (pair + number) % 2) // 2]
            inside[2 * pair, of_role[np.isin(codes, half)]] = True
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


def train_all(worlds: Sequence[Study], what: str, original: Trained, then: str = "") -> float:
    """Trains the worlds' A_D that are not in the store; returns what all of them cost, in seconds.

    what: they are, for the note that says before how many and about how long, by the time that ``original`` took; then: what
    comes after.
    """
    missing = sum(not world.has_original() for world in worlds)
    about = f" in about {duration(missing * original.seconds)}" if missing and original.seconds else ""
    note(f"{len(worlds)} {what}: {len(worlds) - missing} in the store, {missing} to train{about}{then}")
    return sum(world.original().seconds for world in spread(worlds))


def duration(seconds: float) -> str:
    """A time as one says it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def spread(worlds: Sequence[Study]) -> Iterator[Study]:
    """The worlds in an order that differs from process to process: several runs then train different ones at a time."""
    start = ranks.broadcast(os.getpid()) % len(worlds)
    return iter([*worlds[start:], *worlds[:start]])
