"""All models over all splits, one pass each; every metric is filled from that pass."""

from collections.abc import Mapping, Sequence

import pandas as pd
import pytorch_lightning as pl
from torch import Tensor, nn

from kga.data.batching import Ordered
from kga.data.encoded import Examples
from kga.metrics.forgetting import Divergence, ProbabilityShift
from kga.metrics.utility import Loss, MultiLabel
from kga.objective import Batch
from kga.predictions import Predictions, cross_entropy
from kga.quiet import quiet_advice
from kga.tasks.base import TaskModule


class Evaluation(pl.LightningModule):
    """Runs several models side by side over the same batches.

    models: by name; "retrain" (A_R) and "original" (A_D), where present, are what the others are compared with.
    splits: names of the dataloaders, in order. Multi-label thresholds are tuned on "validation". compared: the splits on
    which models are compared with each other (None: all); for large vocabularies that is most of the work.
    """

    def __init__(
        self, models: Mapping[str, TaskModule], splits: Sequence[str], compared: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.models = nn.ModuleDict({name: model.eval() for name, model in models.items()})
        self.splits = list(splits)
        self.utility = nn.ModuleDict()
        self.distance = nn.ModuleDict()
        self.bases = {"": "retrain", "_original": "original"}
        for split in self.splits:
            for name, model in self.models.items():
                self.utility[f"{name}/{split}"] = nn.ModuleList([Loss(), *model.utility_metrics()])
                for suffix, base in self.bases.items():
                    if base in self.models and base != name and (compared is None or split in compared):
                        self.distance[f"{name}/{split}/{suffix}"] = nn.ModuleList([Divergence(), ProbabilityShift()])
        self.rows: list[pd.DataFrame] = []

    def test_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        split = self.splits[dataloader_idx]
        parts = [model.predict(batch).parts() for model in self.models.values()]
        for cut in zip(*parts, strict=True):  # the same examples of all models, few enough to be held densely
            rows = batch["index"][cut[0][0]]
            dense = {name: part.dense() for name, (_, part) in zip(self.models, cut, strict=True)}
            self._update(split, rows, dense)

    def _update(self, split: str, rows: Tensor, predictions: Mapping[str, Predictions]) -> None:
        for name, predicted in predictions.items():
            for metric in self.utility[f"{name}/{split}"]:
                metric.update(predicted)
            for suffix, base in self.bases.items():
                key = f"{name}/{split}/{suffix}"
                if key in self.distance:
                    for metric in self.distance[key]:
                        metric.update(predicted, predictions[base])
            self.rows.append(_per_example(name, split, rows, predicted))

    def tune_thresholds(self) -> None:
        """Sets every multi-label metric's thresholds to those tuned on the validation split."""
        for key, metrics in self.utility.items():
            name = key.split("/")[0]
            for metric, tuned in zip(metrics, self.utility[f"{name}/validation"], strict=True):
                if isinstance(metric, MultiLabel) and metric is not tuned:
                    metric.thresholds = tuned.tuned_thresholds()

    def results(self) -> tuple[dict, dict, pd.DataFrame]:
        """utility {model: {split: {metric: value}}}, forgetting likewise, and the values per example (row numbers)."""
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
        return utility, forgetting, pd.concat(self.rows, ignore_index=True)


def evaluate(
    models: Mapping[str, TaskModule],
    sets: Mapping[str, Examples],
    hardware: Mapping,
    batch_size: int,
    callbacks: Sequence = (),
    compared: Sequence[str] | None = None,
) -> tuple[dict, dict, pd.DataFrame]:
    """Utility, forgetting and per-example values of every model on every set (see ``Evaluation.results``)."""
    arguments = {name: value for name, value in hardware.items() if name not in ("checkpoint_minutes", "profiler")}
    trainer = pl.Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        use_distributed_sampler=False, callbacks=list(callbacks), **arguments,
    )  # fmt: skip
    evaluation = Evaluation(models, list(sets), compared)
    with quiet_advice():
        trainer.test(evaluation, [Ordered(examples, batch_size) for examples in sets.values()], verbose=False)
    return evaluation.results()


def _per_example(model: str, split: str, rows: Tensor, predictions: Predictions) -> pd.DataFrame:
    loss = cross_entropy(predictions)
    columns = {
        "row": rows,
        "loss": predictions.mean_per_example(loss),
        "log_prob": predictions.sum_per_example(-loss),
        "correct": predictions.mean_per_example(predictions.correct()),
    }
    return pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()}).assign(model=model, split=split)


def _values(metrics: nn.ModuleList) -> dict[str, float]:
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}
