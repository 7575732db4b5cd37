"""SISA: sharded, isolated, sliced, aggregated training (Bourtoule et al., IEEE S&P 2021)."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kga.data.batching import supervised
from kga.data.splits import Split
from kga.errors import UserError, one_of
from kga.methods.base import Method
from kga.models.ensemble import write_settings
from kga.training import KeepOptimizer

if TYPE_CHECKING:
    from kga.study import Study, Trained


class Sisa(Method):
    """S models, each trained on a shard of D, slice after slice; a deletion retrains the touched shards from the first
    touched slice on. The answer is the mean of the S models' probabilities, for generation at every step.

    Needs to be there before the first request: the one-off cost is training all shards on D, with A_D's recipe. Per request:
    for a single uniform deletion (2R + 1) / (3R) of one shard's work is expected (``expected_share`` for many). Inference
    costs S times as much, and accuracy falls with S. With a pretrained backbone the isolation covers the fine-tuning data
    alone; the tokenizer of a model from scratch is trained on all of D.

    shards: S. slices: R per shard; slice s trains on the union of slices up to s, for int((s + 1) e) - int(s e) epochs with
    e = 2 epochs / (R + 1), so that a shard costs as much as ``optim.epochs`` on all of it. Each slice is kept with its
    optimiser's state; the schedule goes on over the slices as first planned, whatever was deleted since.
    aggregate: "mean" of the probabilities, or (classification) "vote".
    """

    start = "initial"
    splits = ("retain",)

    def __init__(self, shards: int = 4, slices: int = 3, aggregate: str = "mean") -> None:
        super().__init__()
        if min(shards, slices) < 1:
            raise UserError(f"method.shards={shards} and method.slices={slices} are 1 or more")
        one_of("method.aggregate", aggregate, ("mean", "vote"))
        self.shards, self.slices, self.aggregate = shards, slices, aggregate

    def train(self, study: Study) -> Trained:
        rows = np.random.default_rng([study.seed, 6]).permutation(study.splits["train"].rows)
        plan = [np.array_split(shard, self.slices) for shard in np.array_split(rows, self.shards)]
        gone = study.splits["forget"].rows
        kept = [[piece[~np.isin(piece, gone)] for piece in shard] for shard in plan]
        before = [link for number, shard in enumerate(plan) for link in self._chain(study, number, shard, shard)]
        after = [self._chain(study, number, kept[number], shard) for number, shard in enumerate(plan)]
        known = {link.model.key for link in before}
        redone = [link for chain in after for link in chain if link.model.key not in known]
        findings = {
            "updates": sum(link.updates for link in redone),
            "stopped": None,
            "shards": self.shards,
            "slices": self.slices,
            "shards_touched": sum(any(link in redone for link in chain) for chain in after),
            "redone_share": work(redone) / work([link for chain in after for link in chain]),
            "expected_share": expected_share(plan, study.optim.epochs, len(gone)),
            "models_per_answer": len([chain for chain in after if chain]),
        }
        return self._joined(study, [chain[-1].model for chain in after if chain], before, redone, findings)

    def require(self, study: Study) -> None:
        if self.aggregate == "vote" and study.task.name != "classification":
            raise UserError(
                f"method.aggregate=vote: task={study.task.name} can't vote over sentences; use method.aggregate=mean"
            )
        if study.given is not None:
            raise UserError("method=sisa is planned at training time: leave out original.path")
        if study.optim.updates or study.optim.patience:
            raise UserError("method=sisa trains its slices by epochs: leave out optim.updates and optim.patience")
        if min(epochs_of_slices(study.optim.epochs, self.slices)) < 1:
            raise UserError(
                f"method.slices={self.slices} leaves slices without an epoch of optim.epochs={study.optim.epochs}: choose "
                "fewer slices, or more epochs"
            )
        if len(study.splits["train"]) < self.shards * self.slices:
            raise UserError(
                f"method.shards={self.shards} x method.slices={self.slices} is more than the {len(study.splits['train'])} "
                "examples of D: choose fewer"
            )

    def _chain(self, study: Study, number: int, shard: Sequence[np.ndarray], plan: Sequence[np.ndarray]) -> list[Link]:
        """The models of a shard after each of its slices that is trained on at all."""
        seed = study.seed + 1000 * number
        epochs = epochs_of_slices(study.optim.epochs, self.slices)
        planned = [passes * _updates(study, plan[: piece + 1], passes) for piece, passes in enumerate(epochs)]
        links: list[Link] = []
        for piece, passes in enumerate(epochs):
            rows = np.sort(np.concatenate(shard[: piece + 1]))
            if not passes or not len(rows):
                continue
            optim = replace(
                study.optim, epochs=passes, schedule_start=sum(planned[:piece]), schedule_total=sum(planned)
            )
            title = f"SISA shard {number + 1} of {self.shards}, slice {piece + 1} of {self.slices}"
            model = study.train(
                "shards", Split("train", rows), title, seed=seed, optim=optim,
                after=links[-1].model if links else None, keep_optimizer=True,
            )  # fmt: skip
            links.append(Link(model, passes * len(rows), model.meta["updates"]))
        return links

    def _joined(
        self, study: Study, models: Sequence[Trained], before: Sequence[Link], redone: Sequence[Link], findings: dict
    ) -> Trained:
        """One folder with the models of all shards, and what they cost."""
        recipe = {"shards": [model.key for model in models], "aggregate": self.aggregate,
                  "before": [link.model.key for link in before]}  # fmt: skip

        def make(out: Path, work: Path) -> dict:
            ignored = shutil.ignore_patterns("manifest.json", KeepOptimizer.FILE)
            for number, model in enumerate(models):
                shutil.copytree(model.folder, out / f"shard-{number}", ignore=ignored)
            write_settings(out, self.aggregate)
            kept = {link.model.key: link.model for link in (*before, *redone)}.values()
            return {
                "seconds": sum(link.model.seconds for link in redone),
                "one_off_seconds": sum(link.model.seconds for link in before),
                "peak_memory_bytes": max((model.meta["peak_memory_bytes"] for model in kept), default=None),
                "cache_bytes": sum(model.bytes for model in kept),
                "unlearning": findings,
            }

        return study.keep("sisa", recipe, make, "A* of SISA")


@dataclass(frozen=True)
class Link:
    """A shard's model after one of its slices. work: examples seen in training this slice, over all its epochs."""

    model: Trained
    work: int
    updates: int


def work(links: Sequence[Link]) -> int:
    """Examples seen in training all of these."""
    return sum(link.work for link in links)


def epochs_of_slices(epochs: int, slices: int) -> list[int]:
    """Epochs of each slice, so that all together see as many examples as ``epochs`` passes over the whole shard."""
    each = 2 * epochs / (slices + 1)
    return [int((piece + 1) * each) - int(piece * each) for piece in range(slices)]


def expected_share(plan: Sequence[Sequence[np.ndarray]], epochs: int, deleted: int) -> float:
    """The share of all work that is expected to be redone when ``deleted`` examples are drawn uniformly from D.

    Slice s of a shard is trained again if any of the examples in its slices up to s is deleted (hypergeometric). For one
    deletion and slices of equal size and epochs this is (2R + 1) / (3R) of one of the S shards.
    """
    total = sum(len(piece) for shard in plan for piece in shard)
    share, everything = 0.0, 0.0
    for shard in plan:
        sizes = np.cumsum([len(piece) for piece in shard])
        for size, passes in zip(sizes, epochs_of_slices(epochs, len(shard)), strict=True):
            untouched = math.exp(_log_choose(total - size, deleted) - _log_choose(total, deleted))
            share += passes * size * (1 - untouched)
            everything += passes * size
    return share / everything


def _log_choose(n: int, k: int) -> float:
    if k > n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _updates(study: Study, pieces: Sequence[np.ndarray], passes: int) -> int:
    """Updates of one pass over some slices; 0 where none is made."""
    rows = np.concatenate(pieces)
    return len(supervised(study.view(Split("train", rows)), study.optim, 0)) if passes and len(rows) else 0
