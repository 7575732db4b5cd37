"""All models over all splits, one pass each; every metric is filled from that pass."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from torch import Tensor, nn

from kga import ranks
from kga.data.batching import Ordered
from kga.data.encoded import Examples
from kga.hardware import all_devices
from kga.metrics.forgetting import Divergence, ProbabilityShift, TruthRatio
from kga.metrics.gathered import gathered
from kga.metrics.signals import basic_signals, signals
from kga.metrics.utility import Loss, MultiLabel
from kga.objective import Batch, StandIn
from kga.predictions import Predictions
from kga.quiet import quiet_advice
from kga.tasks.base import TaskModule


class Evaluation(pl.LightningModule):
    """Runs several models side by side over the same batches; of several processes each takes its share of those.

    models: by name; "retrain" (A_R) and "original" (A_D), where present, are what the others are compared with.
    splits: names of the dataloaders, in order. Multi-label thresholds are tuned on "validation". compared: the splits on
    which models are compared with each other (None: all); for large vocabularies that is most of the work. audited: the
    splits of whose examples an attacker's signals are kept, not only loss and correctness.
    """

    def __init__(
        self, models: Mapping[str, TaskModule], splits: Sequence[str], compared: Sequence[str] | None = None,
        audited: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.models = nn.ModuleDict({name: model.eval() for name, model in models.items()})
        self.splits, self.audited = list(splits), frozenset(audited)
        self.utility = nn.ModuleDict()
        self.distance = nn.ModuleDict()
        self.bases = {"": "retrain", "_original": "original"}
        for split in self.splits:
            for name, model in self.models.items():
                self.utility[f"{name}/{split}"] = nn.ModuleList([Loss(), *model.utility_metrics()])
                for suffix, base in self.bases.items():
                    if base in self.models and base != name and (compared is None or split in compared):
                        self.distance[f"{name}/{split}/{suffix}"] = nn.ModuleList(
                            [Divergence(), ProbabilityShift(), TruthRatio()]
                        )
        self.rows: dict[tuple[int, int], list[pd.DataFrame]] = {}  # of each batch, by split and place in it

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        if isinstance(batch, StandIn):
            return
        kept = self.rows.setdefault((dataloader_idx, index * ranks.world_size() + ranks.rank()), [])
        split = self.splits[dataloader_idx]
        parts = [model.predict(batch).parts() for model in self.models.values()]
        for cut in zip(*parts, strict=True):  # the same examples of all models, few enough to be held densely
            rows = batch["index"][cut[0][0]]
            dense = {name: part.dense() for name, (_, part) in zip(self.models, cut, strict=True)}
            kept += self._update(split, rows, dense)

    def _update(self, split: str, rows: Tensor, predictions: Mapping[str, Predictions]) -> Iterator[pd.DataFrame]:
        """Feeds the metrics; gives what every model says of each example."""
        for name, predicted in predictions.items():
            for metric in self.utility[f"{name}/{split}"]:
                metric.update(predicted)
            for suffix, base in self.bases.items():
                key = f"{name}/{split}/{suffix}"
                if key in self.distance:
                    for metric in self.distance[key]:
                        metric.update(predicted, predictions[base])
            found = _per_example(rows, predicted, everything=split in self.audited)
            yield found.assign(model=name, split=split)

    def tune_thresholds(self) -> None:
        """Sets every multi-label metric's thresholds to those tuned on the validation split."""
        for key, metrics in self.utility.items():
            name = key.split("/")[0]
            for metric, tuned in zip(metrics, self.utility[f"{name}/validation"], strict=True):
                if isinstance(metric, MultiLabel) and metric is not tuned:
                    metric.thresholds = tuned.tuned_thresholds()

    def results(self) -> tuple[dict, dict, pd.DataFrame]:
        """utility {model: {split: {metric: value}}}, forgetting likewise, and the values per example (row numbers).

        Of all processes together, all of which call this.
        """
        for metrics in (*self.utility.values(), *self.distance.values()):
            for metric in metrics:
                gathered(metric)
        batches = {place: rows for part in ranks.gather(self.rows) for place, rows in part.items()}
        if "validation" in self.splits:
            self.tune_thresholds()
        utility: dict = {}
        for key, metrics in self.utility.items():
            name, split = key.split("/")
            utility.setdefault(name, {})[split] = _values(metrics)
        forgetting: dict = {}
        for key, metrics in self.distance.items():
            name, split, suffix = key.split("/")
            values = {f"{metric}{suffix}": value for metric, value in _values(metrics).items()}
            forgetting.setdefault(name, {}).setdefault(split, {}).update(values)
        rows = [row for place in sorted(batches) for row in batches[place]]
        return utility, forgetting, pd.concat(rows, ignore_index=True)


def evaluate(
    models: Mapping[str, TaskModule],
    sets: Mapping[str, Examples],
    hardware: Mapping,
    batch_size: int,
    callbacks: Sequence = (),
    compared: Sequence[str] | None = None,
    audited: Sequence[str] = (),
) -> tuple[dict, dict, pd.DataFrame]:
    """Utility, forgetting and per-example values of every model on every set (see ``Evaluation.results``)."""
    evaluation = Evaluation(models, list(sets), compared, audited)
    _pass(evaluation, sets, hardware, batch_size, callbacks)
    return evaluation.results()


class Signals(pl.LightningModule):
    """Runs one model over one set and keeps an attacker's signals of every example."""

    def __init__(self, model: TaskModule) -> None:
        super().__init__()
        self.model, self.rows = model.eval(), []

    def test_step(self, batch: Batch, index: int) -> None:
        if isinstance(batch, StandIn):
            return
        for window, part in self.model.predict(batch).parts():
            self.rows.append(_per_example(batch["index"][window], part.dense(), everything=True))


def measure(model: TaskModule, examples: Examples, hardware: Mapping, batch_size: int) -> pd.DataFrame:
    """The signals of a model on a set, one row per example, in the set's order."""
    found = Signals(model)
    _pass(found, {"": examples}, hardware, batch_size)
    table = pd.concat([row for rows in ranks.gather(found.rows) for row in rows], ignore_index=True)
    return table.set_index("row").loc[np.asarray(examples.rows)].reset_index(drop=True)


def _pass(module: pl.LightningModule, sets: Mapping[str, Examples], hardware: Mapping, batch_size: int, callbacks=()):
    """One pass of Lightning's over every set."""
    trainer = pl.Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, callbacks=list(callbacks), **all_devices(hardware),
    )  # fmt: skip
    with quiet_advice():
        trainer.test(module, [Ordered(examples, batch_size) for examples in sets.values()], verbose=False)


def _per_example(rows: Tensor, predictions: Predictions, everything: bool) -> pd.DataFrame:
    found = signals(predictions) if everything else basic_signals(predictions)
    return pd.DataFrame({name: value.cpu().numpy() for name, value in {"row": rows, **found}.items()})


def _values(metrics: nn.ModuleList) -> dict[str, float]:
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}
