"""The texts that models write for an evaluation, and what those are worth."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytorch_lightning as pl

from kga import ranks
from kga.console import Advance, progress
from kga.data.batching import Ordered, in_order
from kga.data.encoded import Examples
from kga.hardware import all_devices
from kga.metrics.gathered import own
from kga.quiet import quiet_advice
from kga.tasks.base import TaskModule

Texts = dict[str, dict[str, list[str]]]  # model -> split -> a text per example


def write_texts(
    models: Mapping[str, TaskModule], sets: Mapping[str, Examples], hardware: Mapping, beams: int, batch_size: int
) -> Texts:
    """What every model writes for every example of every set, in the sets' own order. beams: 1 is greedy."""
    total = len(models) * sum(len(Ordered(examples, batch_size)) for examples in sets.values())
    written: Texts = {name: {} for name in models}
    with progress("Generating", total) as advance:
        for name, model in models.items():
            model.beams = beams
            trainer = pl.Trainer(
                logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
                use_distributed_sampler=False, callbacks=[_Told(advance)], **all_devices(hardware),
            )  # fmt: skip
            loaders = [Ordered(examples, batch_size) for examples in sets.values()]
            with quiet_advice():
                batches = trainer.predict(model, loaders)
            batches = batches if len(loaders) > 1 else [batches]
            shares = ranks.gather(batches)
            for (split, examples), *parts in zip(sets.items(), *shares, strict=True):
                texts = chain.from_iterable(zip(*parts, strict=True))  # ranks take batches by turns
                written[name][split] = _in_place(texts, list(in_order(examples, batch_size)))
    return written


def _in_place(batches: Iterable[list[str]], positions: Sequence[np.ndarray]) -> list[str]:
    """The texts of batches of similar length, put back to where their examples stand."""
    texts = [text for batch in batches for text in batch]
    order = np.argsort(np.concatenate(positions), kind="stable")
    return [texts[place] for place in order]


class _Told(pl.Callback):
    def __init__(self, advance: Advance) -> None:
        self.advance = advance

    def on_predict_batch_end(self, *arguments: Any, **more: Any) -> None:
        self.advance()


def quality(
    task: TaskModule, texts: Texts, references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, str]]:
    """{model: {split: {metric: value}}} of the task's text metrics, and the signatures of how they were computed."""
    values: dict = {}
    signatures: dict[str, str] = {}
    for model, splits in texts.items():
        for split, outputs in splits.items():
            for metric in map(own, task.text_metrics()):
                metric.update(outputs, references[split])
                found = {name: float(value) for name, value in metric.compute().items()}
                values.setdefault(model, {}).setdefault(split, {}).update(found)
                signatures |= metric.signatures()
    return values, signatures
