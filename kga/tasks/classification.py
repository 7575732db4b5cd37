"""Classification of texts: one label each, or (multi-label) any number of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import torch
from datasets import Dataset, List
from torch import Tensor, nn
from torchmetrics import Metric
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from kga.data.corpus import Corpus
from kga.data.labels import label_names, require_known
from kga.errors import UserError
from kga.metrics.utility import MultiLabel, SingleLabel
from kga.models.first import last_mixing, within
from kga.objective import Batch
from kga.predictions import Predictions
from kga.tasks.base import TaskModule, states_at


class Classification(TaskModule):
    """Predicts one of C labels per text (softmax), or each of C labels by itself (multi-label: sigmoid).

    The labels and which of the two it is are read from the model's config (``id2label``, ``problem_type``), so that a
    saved model knows them.

    first_position: where the model reads its labels off the first position, its last block computes no others to the end.
    """

    name = "classification"
    fields = ("text", "label")
    encoded_columns = ("input_ids", "labels")

    def __init__(self, model, tokenizer, max_length: int = 128, optim=None, first_position: bool = True) -> None:
        super().__init__(model, tokenizer, max_length, optim)
        self.first_position = first_position
        self._narrow: tuple[nn.Module | None] | None = None  # a tuple, so that it is no submodule

    @cached_property
    def labels(self) -> list[str]:
        """The names of the C labels, in the order of the model's outputs."""
        names = self.model.config.id2label
        return [names[index] for index in range(len(names))]

    @cached_property
    def multi_label(self) -> bool:
        """Whether any number of labels may hold at once."""
        return self.model.config.problem_type == "multi_label_classification"

    @property
    def several_positions(self) -> bool:
        return self.multi_label

    def predict(self, batch: Batch, view: str = "scored") -> Predictions:
        """Single-label: P = B, C labels. Multi-label: P = B x labels, C = 2 (off, on)."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with within(self._last_mixing(inputs)):
            logits = self.model(**inputs).logits.float()
        size, classes = logits.shape
        rows = torch.arange(size, device=logits.device)
        labels = batch["labels"]
        if not self.multi_label:
            return Predictions(logits.log_softmax(1), labels, rows, size)
        if view == "released":
            return Predictions(logits.log_softmax(1), torch.full_like(rows, -1), rows, size)
        log_odds = logits.reshape(-1)
        both = torch.stack((-log_odds, log_odds), 1)
        log_probs = torch.nn.functional.logsigmoid(both)
        return Predictions(log_probs, labels.reshape(-1).long(), rows.repeat_interleave(classes), size)

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        before, self.first_position = self.first_position, False
        try:
            yield
        finally:
            self.first_position = before

    def _last_mixing(self, inputs: Batch) -> nn.Module | None:
        """From where on the first position is enough; tried once, with few texts of which the longest fills its row."""
        if not self.first_position:
            return None
        if self._narrow is None and inputs["input_ids"].shape[1] > 1:
            longest = inputs["attention_mask"].sum(1).argsort(descending=True)[:2]
            self._narrow = (last_mixing(self.model, {name: value[longest] for name, value in inputs.items()}),)
        return self._narrow[0] if self._narrow else None

    def count(self, batch: Batch, unit: str, view: str = "scored") -> int:
        examples = len(batch["input_ids"])
        per_label = self.multi_label and unit == "position" and view == "scored"
        return examples * len(self.labels) if per_label else examples

    def hidden(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor]:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        module = self.model.get_submodule(layer)
        return states_at(module, lambda: self.model(**inputs), batch["attention_mask"].bool(), layer)

    def encode(self, examples: Mapping[str, list]) -> dict[str, list]:
        """Token ids cut to ``max_length`` (the end is dropped) and label indices (multi-label: a 0/1 vector)."""
        input_ids = list(self._tokens(examples["text"]))
        long = [row for row, ids in enumerate(input_ids) if len(ids) > self.max_length]
        shorter = self._tokens([examples["text"][row] for row in long], truncation=True, max_length=self.max_length)
        for row, ids in zip(long, shorter, strict=True):
            input_ids[row] = ids
        encoded = {"input_ids": input_ids, "length": [len(ids) for ids in input_ids]}
        encoded["cut"] = [False] * len(input_ids)
        for row in long:
            encoded["cut"][row] = True
        if "label" in examples:
            encoded["labels"] = [self._label(label) for label in examples["label"]]
        return encoded

    def _tokens(self, texts: Sequence[str], **options: object) -> list[list[int]]:
        return self.tokenizer(list(texts), return_attention_mask=False, **options)["input_ids"] if len(texts) else []

    def _label(self, label: str | list[str]) -> int | list[int]:
        index = self.model.config.label2id
        if not self.multi_label:
            return index[label]
        chosen = [0] * len(self.labels)
        for name in label:
            chosen[index[name]] = 1
        return chosen

    def collate(self, rows: Mapping[str, Sequence]) -> Batch:
        ids = [np.asarray(row, dtype=np.int64) for row in rows["input_ids"]]
        longest = max(len(row) for row in ids)
        input_ids = np.full((len(ids), longest), self.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(ids), longest), dtype=np.int64)
        for number, row in enumerate(ids):
            input_ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.as_tensor(np.asarray(rows["labels"]), dtype=torch.long),
        }

    def require_fits(self, dataset: Dataset, where: str) -> None:
        if isinstance(dataset.features["label"], List) != self.multi_label:
            kinds = ("lists of labels", "single labels")
            raise UserError(
                f"{where} was trained on {kinds[not self.multi_label]}, the data has {kinds[self.multi_label]}"
            )
        require_known(dataset, self.labels, "the training split", where)

    @property
    def score_metric(self) -> str:
        """The utility that tug of war compares."""
        return "micro_f1" if self.multi_label else "accuracy"

    def utility_metrics(self) -> list[Metric]:
        return [MultiLabel(len(self.labels)) if self.multi_label else SingleLabel(len(self.labels))]

    def encoding(self) -> dict:
        return {
            "task": self.name,
            "tokenizer": self.tokenizer_content(),
            "max_length": self.max_length,
            "labels": self.labels,
            "multi_label": self.multi_label,
        }

    @staticmethod
    def texts(columns: Mapping[str, list]) -> Iterable[str]:
        return columns["text"]

    @staticmethod
    def auto_model(config: PretrainedConfig) -> type:
        return AutoModelForSequenceClassification

    @staticmethod
    def head_for(corpus: Corpus) -> dict:
        """The labels of the training split; UserError where validation or test holds others."""
        known = label_names(corpus.train)
        for name in ("validation", "test"):
            require_known(corpus.splits[name], known, f"the {name} split", "the training split")
        return labels_head(known, corpus.multi_label)

    def head(self) -> dict:
        return labels_head(self.labels, self.multi_label)


def labels_head(labels: Sequence[str], multi_label: bool) -> dict:
    """Config entries that tell a model its labels and whether several may hold at once."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
    }
