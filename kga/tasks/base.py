"""What every task shares: the objective's slot, the optimiser, the update, saving."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from datasets import Dataset
from torch import Tensor
from torchmetrics import Metric
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kga.errors import UserError
from kga.objective import Batch, Objective, Supervised, Update, backpropagate
from kga.optim import Optim, optimizer_and_schedule
from kga.predictions import Predictions, cross_entropy


class TaskModule(pl.LightningModule):
    """A Hugging Face model with its tokenizer, trained by whatever objective sits in its slot.

    ``training_step`` takes an update (see kga.objective), not a batch: the update is what one optimiser step is
    computed from. The slot ``objective`` holds the supervised loss unless a method fills it; it acts in training only.

    A task defines ``predict``, ``count``, ``encode`` and ``collate``.
    """

    encoded_columns: tuple[str, ...] = ("input_ids",)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 128,
        optim: Optim | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.optim = optim or Optim()
        self.objective: Objective = Supervised()
        self.dropout = True

    # What a task defines ---------------------------------------------------------------------------------------

    def predict(self, batch: Batch, view: str = "scored") -> Predictions:
        """Distributions at the scored positions of a batch.

        view: "scored" drops padding; "released" keeps what the released KGA code keeps: padded positions, and for
        multi-label one softmax over all labels.
        """
        raise NotImplementedError

    def count(self, batch: Batch, unit: str, view: str = "scored") -> int:
        """Number of positions (unit "position") or examples (unit "example") that ``predict`` gives for a batch."""
        raise NotImplementedError

    def encode(self, examples: Mapping[str, list]) -> dict[str, list]:
        """Columns of texts to columns of numbers (``encoded_columns`` and ``length``), for ``datasets.Dataset.map``."""
        raise NotImplementedError

    def collate(self, rows: Mapping[str, Sequence]) -> Batch:
        """Encoded columns of some examples to one padded batch."""
        raise NotImplementedError

    def encoding(self) -> dict:
        """Everything that decides what ``encode`` returns; part of the key of cached encodings."""
        raise NotImplementedError

    def tokenizer_content(self) -> dict:
        """Vocabulary and rules of the tokenizer, without the truncation and padding that its last call left in it."""
        return json.loads(self.tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}

    def utility_metrics(self) -> list[Metric]:
        """Fresh metrics of this task, besides the loss; each ``compute`` gives a dictionary."""
        raise NotImplementedError

    def require_fits(self, dataset: Dataset, where: str) -> None:
        """UserError if this model can't be scored on a data set, e.g. lacks one of its labels."""

    # Training --------------------------------------------------------------------------------------------------

    def training_step(self, update: Update, index: int) -> Tensor:
        # from_pretrained returns a model in eval mode and Trainer.fit does not change that; nor does Lightning call the
        # hooks of an epoch's start when it goes on in the middle of one.
        if self.model.training != self.dropout:
            self.model.train(self.dropout)
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        strategy = self.trainer.strategy
        means, loss = backpropagate(
            self.objective,
            self,
            update,
            self.manual_backward,
            reduce=lambda value: strategy.reduce(value, reduce_op="sum"),
            world_size=self.trainer.world_size,
        )
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.optim.clip or float("inf"))
        self._require_finite(loss, norm)
        optimizer.step()
        self.objective.after_update(self, means, loss)
        schedule.step()
        return torch.tensor(loss)

    def _require_finite(self, loss: float, norm: Tensor) -> None:
        scaled = "16-mixed" in str(self.trainer.precision) and "bf16" not in str(self.trainer.precision)
        if loss != loss or loss in (float("inf"), float("-inf")) or not (scaled or bool(torch.isfinite(norm))):
            what = "loss" if loss != loss or abs(loss) == float("inf") else "gradient"
            raise UserError(
                f"the {what} is not finite at update {self.trainer.global_step + 1}: stopped before the weights were "
                f"touched, and what was saved before is kept; try a lower learning rate (now {self.optim.lr:g}) or clipping"
            )

    def validation_step(self, batch: Batch, index: int) -> None:
        losses = cross_entropy(self.predict(batch))
        self.log("validation/loss", losses.mean(), batch_size=len(losses))

    def configure_optimizers(self):
        total = self.optim.schedule_stretch * int(self.trainer.estimated_stepping_batches)
        return optimizer_and_schedule(self, self.optim, total)

    # Files -----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Writes the model and its tokenizer so that ``from_pretrained`` loads both."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
