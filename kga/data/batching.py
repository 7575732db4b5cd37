"""From sets of examples to a stream of updates: seeded, bucketed by length, resumable at any update."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

import numpy as np

from kga import ranks
from kga.data.encoded import Examples
from kga.objective import Batch, StandIn, Step, Update
from kga.optim import Optim

Draws = Sequence[tuple[str, ...]]


def bucketed(lengths: np.ndarray, order: np.ndarray, batch_size: int, bucket: int, rng: np.random.Generator):
    """Cuts ``order`` into batches of examples of similar length.

    Windows of ``bucket`` batches are sorted by length (descending, ties as they came) and the batches of all windows
    shuffled, so that an epoch stays random while little is padded.
    """
    if bucket <= 1:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches = []
    for start in range(0, len(order), bucket * batch_size):
        window = order[start : start + bucket * batch_size]
        window = window[np.argsort(-lengths[window], kind="stable")]
        batches += [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def token_batches(lengths: np.ndarray, order: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Cuts ``order`` into batches of similar length with examples x longest <= ``tokens`` (an example may be longer).

    All examples are sorted, ties as they came, so that every pass has the same number of batches.
    """
    ordered = order[np.argsort(-lengths[order], kind="stable")]
    batches, start = [], 0
    while start < len(ordered):
        size = max(1, tokens // max(1, int(lengths[ordered[start]])))
        batches.append(ordered[start : start + size])
        start += size
    return batches


def in_order(examples: Examples, batch_size: int) -> Iterator[np.ndarray]:
    """Positions of all examples in batches of similar length, without randomness: for evaluation and caches."""
    order = np.argsort(-examples.lengths(), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


class Ordered:
    """A set in batches of similar length, as Lightning's dataloader; of several processes each takes its turn.

    All have equally many: where none is left, an example stands in, which is not to be counted.
    """

    def __init__(self, examples: Examples, batch_size: int) -> None:
        self.examples, self.batch_size = examples, batch_size

    def __len__(self) -> int:
        return -(-len(self.examples) // (self.batch_size * ranks.world_size()))

    def __iter__(self) -> Iterator[Batch]:
        own = islice(in_order(self.examples, self.batch_size), ranks.rank(), None, ranks.world_size())
        taken = 0
        for positions in own:
            taken += 1
            yield self.examples.batch(positions)
        if taken < len(self):
            yield StandIn(self.examples.batch(np.arange(1)))


@dataclass
class Stream:
    """Endless shuffled batches of one set; a pass is one seeded reshuffle of all its examples.

    share: draw from this share of the set only (1: all of it); redraw: choose that share anew for every pass.
    batch_tokens: batches by tokens instead of examples, see ``token_batches``.
    """

    name: str
    examples: Examples
    batch_size: int
    bucket: int
    seed: int
    share: float = 1.0
    redraw: bool = False
    batch_tokens: int | None = None
    passes: int = 0
    offset: int = 0
    _batches: list[np.ndarray] = field(default_factory=list, repr=False)
    _drawn: int = -1
    _count: int | None = None

    @cached_property
    def lengths(self) -> np.ndarray:
        """[N] tokens of each example."""
        return self.examples.lengths()

    def fresh(self) -> "Stream":
        """The same stream before its first batch."""
        return replace(self, passes=0, offset=0, _batches=[], _drawn=-1)

    def size(self) -> int:
        """Examples of one pass."""
        return max(1, round(self.share * len(self.examples)))

    def batches_per_pass(self) -> int:
        if self.batch_tokens is None:
            return -(-self.size() // self.batch_size)
        if self._count is None:
            self._count = len(token_batches(self.lengths, np.arange(len(self.lengths)), self.batch_tokens))
        return self._count

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(self.name.encode()), number])

    def _shuffle(self) -> None:
        order = np.arange(len(self.examples))
        if self.share < 1.0:
            chooser = self._rng(self.passes + 1_000_003 if self.redraw else 1_000_003)
            order = np.sort(chooser.choice(len(order), self.size(), replace=False))
        rng = self._rng(self.passes)
        order, lengths = rng.permutation(order), self.lengths
        if self.batch_tokens is None:
            self._batches = bucketed(lengths, order, self.batch_size, self.bucket, rng)
        else:
            batches = token_batches(lengths, order, self.batch_tokens)
            self._batches = [batches[index] for index in rng.permutation(len(batches))]
        self._drawn = self.passes

    def next(self) -> np.ndarray:
        """Positions of the next batch."""
        if self.offset >= self.batches_per_pass():
            self.passes, self.offset = self.passes + 1, 0
        if self._drawn != self.passes:
            self._shuffle()
        self.offset += 1
        return self._batches[self.offset - 1]


class Updates:
    """Iterates over the updates of an epoch; Lightning takes it as a dataloader.

    draws: what an update consists of, e.g. ``[("forget", "new"), ("retain",), ("retain",)]``: three steps, the first
    with a batch of each of two sets. ``update -> draws``, counted from 0 over all epochs, so that phases are possible.
    anchor: an epoch is one pass over this set (None: the first set drawn); the others go on where they were.
    length: updates of an epoch, where a method has its own plan of passes.
    micro_batch_size: steps are cut into several of at most this many examples per set; micro_batch_tokens: of so many that
    their number times the longest stays within this (an example may be longer).
    aligned: the sets of a step give as many examples as its first, so that example meets example.
    batch_tokens: batches by tokens instead of ``batch_size``, see ``token_batches``.
    partners: {(first, second): [len(first)] positions} pairs the second set's batch with the first's.
    """

    def __init__(
        self,
        sets: Mapping[str, Examples],
        draws: Callable[[int], Draws],
        batch_size: int,
        seed: int,
        micro_batch_size: int | None = None,
        bucket: int = 50,
        share: Mapping[str, float] | None = None,
        redraw: bool = False,
        partners: Mapping[tuple[str, str], np.ndarray] | None = None,
        anchor: str | None = None,
        aligned: bool = False,
        batch_tokens: int | None = None,
        length: int | None = None,
        micro_batch_tokens: int | None = None,
    ) -> None:
        self.length, self.micro_batch_tokens = length, micro_batch_tokens
        self.sets, self.draws, self.micro_batch_size = dict(sets), draws, micro_batch_size
        self.partners, self.anchor, self.aligned = dict(partners or {}), anchor, aligned
        self.streams = {
            name: Stream(name, examples, batch_size, bucket, seed, (share or {}).get(name, 1.0), redraw, batch_tokens)
            for name, examples in self.sets.items()
        }
        self.epoch, self.done, self.taken = 0, 0, 0
        self.sampler = self  # Lightning hands the epoch to ``loader.sampler``

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:  # the state of a finished epoch may have been loaded, and epochs differ in length
            self.epoch, self.done = epoch, 0

    def __len__(self) -> int:
        if self.length is not None:
            return self.length
        drawn = [name for step in self.draws(0) for name in step]
        anchor = self.anchor or drawn[0]
        return -(-self.streams[anchor].batches_per_pass() // drawn.count(anchor))

    def __iter__(self) -> Iterator[Update]:
        length = len(self)
        if self.done >= length:  # the last update of an epoch was taken, and nobody asked for one more
            self.done = 0
        while self.done < length:
            self.done, self.taken = self.done + 1, self.taken + 1
            yield [step for names in self.draws(self.taken - 1) for step in self._steps(names)]
        self.done = 0

    def _steps(self, names: tuple[str, ...]) -> Iterator[Step]:
        positions = self._draw(names, self.streams)
        size = self._micro(positions)
        longest = max(len(chosen) for chosen in positions.values())
        for start in range(0, -(-longest // ranks.world_size()), size):
            step = {name: self._part(name, chosen, start, size) for name, chosen in positions.items()}
            yield {name: batch for name, batch in step.items() if batch is not None}

    def _part(self, name: str, chosen: np.ndarray, start: int, size: int) -> Batch | None:
        """This process's share of a piece of a drawn batch: of several processes each takes every so-manieth example.

        An example stands in where only others have some, None where nobody has.
        """
        own, first = (chosen[rank :: ranks.world_size()][start : start + size] for rank in (ranks.rank(), 0))
        if len(own):
            return self.sets[name].batch(own)
        return StandIn(self.sets[name].batch(first[:1])) if len(first) else None

    def _draw(self, names: tuple[str, ...], streams: Mapping[str, Stream]) -> dict[str, np.ndarray]:
        """Positions of one step's batches, by set."""
        positions: dict[str, np.ndarray] = {}
        for name in names:
            partner = self.partners.get((names[0], name))
            positions[name] = streams[name].next() if partner is None else partner[positions[names[0]]]
            if self.aligned:
                positions[name] = np.resize(positions[name], len(positions[names[0]]))
        return positions

    def _micro(self, positions: Mapping[str, np.ndarray]) -> int:
        """Examples per set and forward pass of one step."""
        size = self.micro_batch_size or max(len(chosen) for chosen in positions.values())
        if self.micro_batch_tokens is None:
            return size
        longest = max(int(self.streams[name].lengths[chosen].max()) for name, chosen in positions.items())
        return max(1, min(size, self.micro_batch_tokens // max(1, longest)))

    def planned(self, updates: int) -> dict[str, np.ndarray]:
        """Ascending positions of each set that the first ``updates`` updates draw, without making their batches."""
        streams = {name: stream.fresh() for name, stream in self.streams.items()}
        drawn = {name: np.zeros(len(examples), bool) for name, examples in self.sets.items()}
        for update in range(updates):
            for names in self.draws(update):
                for name, positions in self._draw(names, streams).items():
                    drawn[name][positions] = True
            if all(found.all() for found in drawn.values()):
                break
        return {name: np.flatnonzero(found) for name, found in drawn.items()}

    def state_dict(self) -> dict:
        return {
            "epoch": self.epoch,
            "done": self.done,
            "taken": self.taken,
            "streams": {name: [stream.passes, stream.offset] for name, stream in self.streams.items()},
        }

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.done, self.taken = state["epoch"], state["done"], state["taken"]
        for name, (passes, offset) in state["streams"].items():
            self.streams[name].passes, self.streams[name].offset = passes, offset


def train_only(update: int) -> Draws:
    """Draws of plain supervised training: one batch of "train" per update."""
    return [("train",)]


def supervised(examples: Examples, optim: Optim, seed: int) -> Updates:
    """The updates of plain supervised training on a set."""
    sizes = (optim.batch_size, seed, optim.micro_batch_size, optim.bucket)
    tokens = dict(batch_tokens=optim.batch_tokens, micro_batch_tokens=optim.micro_batch_tokens)
    return Updates({"train": examples}, train_only, *sizes, **tokens)
