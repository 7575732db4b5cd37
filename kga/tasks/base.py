"""What every task shares: the objective's slot, the optimiser, the update, saving."""

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torchmetrics import Metric
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from kga import ranks
from kga.console import note
from kga.data.corpus import Corpus
from kga.errors import UserError
from kga.hashing import folder_digest
from kga.metrics.gathered import gathered
from kga.metrics.utility import Loss
from kga.models.ensemble import Ensemble, member_folders, read_settings
from kga.models.pretrained import UNLOADABLE, require_vocabulary
from kga.models.scratch import auto_class
from kga.objective import Batch, Objective, StandIn, Supervised, Update, backpropagate
from kga.optim import Optim, optimizer_and_schedule
from kga.predictions import Predictions


class TaskModule(pl.LightningModule):
    """A Hugging Face model with its tokenizer, trained by whatever objective sits in its slot.

    ``training_step`` takes an update (see kga.objective), not a batch: the update is what one optimiser step is
    computed from. The slot ``objective`` holds the supervised loss unless a method fills it; it acts in training only.

    A task defines ``predict``, ``count``, ``encode`` and ``collate``.

    name: as in ``task=...``. fields: columns of its data, the last one the truth. score_metric: the utility that tug of
    war compares.
    """

    name: str
    fields: tuple[str, ...]
    encoded_columns: tuple[str, ...] = ("input_ids",)
    score_metric: str

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 128,
        optim: Optim | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if not torch.cuda.is_available() and getattr(model.config, "_attn_implementation", None) == "sdpa":
            model.set_attn_implementation("eager")  # the same numbers; on a processor a third faster to train in bf16
        if tokenizer.pad_token is None:  # GPT-2 and its kin; padding is masked by length, so any token will do
            tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
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

    def everywhere(self) -> AbstractContextManager:
        """Inside, ``predict`` runs the whole model at every position, for who looks into it."""
        return nullcontext()

    def hidden(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor]:
        """[T, H] float32 states that the module named ``layer`` gives at the T real tokens of a batch, and [T] int64 the
        example of the batch that each belongs to, ascending.

        Tokens of the input; where a decoder is looked into, those of the target. A module that is called several times
        counts by its last call. UserError: it is not called, or gives no states [B, S, H].
        """
        raise NotImplementedError

    def encode(self, examples: Mapping[str, list]) -> dict[str, list]:
        """Columns of texts to columns of numbers (``encoded_columns``, ``length`` and ``cut``), for ``datasets.Dataset.map``."""
        raise NotImplementedError

    def collate(self, rows: Mapping[str, Sequence]) -> Batch:
        """Encoded columns of some examples to one padded batch."""
        raise NotImplementedError

    def encoding(self) -> dict:
        """Everything that decides what ``encode`` returns; part of the key of cached encodings."""
        raise NotImplementedError

    def tokenizer_content(self) -> dict:
        """Vocabulary and rules of the tokenizer, without the truncation and padding that its last call left in it."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            return json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        with tempfile.TemporaryDirectory() as folder:  # sentencepiece: known by its files
            self.tokenizer.save_pretrained(folder)
            return {"files": folder_digest(Path(folder))}

    def utility_metrics(self) -> list[Metric]:
        """Fresh metrics of this task, besides the loss; each ``compute`` gives a dictionary."""
        raise NotImplementedError

    def text_metrics(self) -> list[Metric]:
        """Fresh metrics of generated texts (``update`` takes texts and references); none where no text is written."""
        return []

    @property
    def several_positions(self) -> bool:
        """Whether an example has more than one scored position."""
        return True

    def cacheable(self, view: str) -> bool:
        """Whether what a frozen model predicts for an example is the same in every batch."""
        return True

    @staticmethod
    def texts(columns: Mapping[str, list]) -> Iterable[str]:
        """The texts that a tokenizer is trained on, from the columns of the task's fields."""
        raise NotImplementedError

    @staticmethod
    def auto_model(config: PretrainedConfig) -> type:
        """The Auto class of transformers that builds and loads a model of this config for the task."""
        raise NotImplementedError

    @staticmethod
    def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict:
        """Config entries that name the special tokens of a tokenizer trained on D."""
        return {"pad_token_id": tokenizer.pad_token_id}

    @staticmethod
    def head_for(corpus: Corpus) -> dict:
        """Config entries of the model that the data decides; UserError where the data contradicts itself."""
        return {}

    def head(self) -> dict:
        """The same entries, as this model has them."""
        return {}

    def longest(self) -> int:
        """The most positions that an example may take in the model."""
        return self.max_length

    def require_fits(self, dataset: Dataset, where: str) -> None:
        """UserError if this model can't be scored on a data set, e.g. lacks one of its labels."""

    # Training --------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        shard = getattr(self.trainer.strategy, "shard", None)
        if shard is not None:
            shard(self.model)

    def on_fit_start(self) -> None:
        updates = int(self.trainer.estimated_stepping_batches)
        if self.optim.warmup >= updates:
            note(f"the warm-up takes {self.optim.warmup:g} of only {updates} updates: the model will hardly move")

    def training_step(self, update: Update, index: int) -> Tensor | None:
        # from_pretrained returns a model in eval mode and Trainer.fit does not change that; nor does Lightning call the
        # hooks of an epoch's start when it goes on in the middle of one.
        if self.model.training != self.dropout:
            self.model.train(self.dropout)
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        optimizer.zero_grad()
        add_gradients = getattr(self.trainer.strategy, "add_gradients", None)  # other strategies average them
        means, loss = backpropagate(
            self.objective,
            self,
            update,
            self.manual_backward,
            reduce=ranks.total,
            world_size=1 if add_gradients else self.trainer.world_size,
        )
        if add_gradients:
            add_gradients(self.parameters())
        self.objective.shape_gradients(self)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), self.optim.clip or float("inf"))
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if what := self._not_finite(loss, norm):
            self.objective.diverged(self, what)
            return None
        optimizer.step()
        self.objective.after_update(self, means, loss)
        schedule.step()
        return torch.tensor(loss)

    def _not_finite(self, loss: float, norm: Tensor) -> str:
        """What of an update is not finite, or nothing."""
        scaled = "16-mixed" in str(self.trainer.precision) and "bf16" not in str(self.trainer.precision)
        if not math.isfinite(loss):
            return "loss"
        return "" if scaled or bool(torch.isfinite(norm)) else "gradient"

    def on_validation_epoch_start(self) -> None:
        self._watched = [metric.to(self.device) for metric in (Loss(), *self.utility_metrics())]

    def validation_step(self, batch: Batch, index: int) -> None:
        if isinstance(batch, StandIn):
            return
        for _, part in self.predict(batch).parts():
            for metric in self._watched:
                metric.update(part.dense())

    def validation_values(self) -> dict[str, float]:
        """Utility of the validation split after a pass over it."""
        return {name: float(value) for metric in self._watched for name, value in gathered(metric).compute().items()}

    def on_validation_epoch_end(self) -> None:
        values = self.validation_values()
        if self.optim.monitor not in values:
            raise UserError(f"optim.monitor={self.optim.monitor}: the validation split gives {', '.join(values)}")
        self.log_dict({f"validation/{name}": value for name, value in values.items()}, batch_size=1)

    def configure_optimizers(self):
        total = self.optim.schedule_stretch * int(self.trainer.estimated_stepping_batches)
        return optimizer_and_schedule(self, self.optim, total)

    # Files -----------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls, folder: Path | str, max_length: int = 128, optim: Optim | None = None, **options: object
    ) -> "TaskModule":
        """A task around a model folder that transformers' Auto classes load, or around the members of an ensemble's folder;
        UserError if they do not load.

        options: further arguments of the task.
        """
        if members := [cls.load(member, max_length, optim, **options) for member in member_folders(Path(folder))]:
            ensemble = Ensemble([member.model for member in members], **read_settings(Path(folder)))
            return cls(ensemble, members[0].tokenizer, max_length, optim, **options)
        if not (Path(folder) / "config.json").is_file():
            raise UserError(
                f"{folder} is no model folder: it has no config.json; give a folder that save_pretrained wrote"
            )
        try:
            config = AutoConfig.from_pretrained(folder)
            kind = auto_class(cls, config)
            model = kind.from_pretrained(folder, dtype=torch.float32)
            _hold_what_is_not_trained(model, kind, config)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            require_vocabulary(tokenizer, config, f"the model folder {folder}")
        except UNLOADABLE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the model folder {folder} can't be loaded: {reason}") from error
        return cls(model, tokenizer, max_length, optim, **options)

    def save(self, folder: Path) -> None:
        """Writes the model and its tokenizer so that ``from_pretrained`` loads both; all ranks call it, one writes."""
        state = self.model.state_dict()
        sharded = {"state_dict": ranks.whole(state)} if any(hasattr(t, "full_tensor") for t in state.values()) else {}
        if ranks.is_main():
            self.model.save_pretrained(folder, **sharded)
            self.tokenizer.save_pretrained(folder)


def states_at(module: nn.Module, run: Callable[[], object], where: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """What ``TaskModule.hidden`` gives: the states of ``module`` while ``run`` runs, at the positions ``where`` [B, S].

    layer: the module's name, for error messages.
    """
    outputs: list[object] = []
    handle = module.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    try:
        run()
    finally:
        handle.remove()
    if not outputs:
        raise UserError(f"the model never calls its module {layer!r}: choose another one")
    states = _first_tensor(outputs[-1], where.shape[1])
    if states.ndim != 3 or states.shape[:2] != where.shape:
        raise UserError(
            f"the module {layer!r} gives {list(states.shape)}, not [examples, tokens, width]: choose another one"
        )
    return states[where].float(), where.nonzero()[:, 0]


def _first_tensor(output: object, width: int) -> Tensor:
    """The first tensor of a module's output; packed sequences (LSTM) padded to ``width`` positions."""
    while isinstance(output, tuple | ModelOutput) and not isinstance(output, PackedSequence):
        output = output[0]
    if isinstance(output, PackedSequence):
        return pad_packed_sequence(output, batch_first=True, total_length=width)[0]
    return output


def _hold_what_is_not_trained(model: PreTrainedModel, kind: type, config: PretrainedConfig) -> None:
    """Sines and cosines of positions are parameters without gradient, which loading makes trainable: undone here."""
    with torch.device("meta"):
        fresh = dict(kind.from_config(config).named_parameters())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in fresh or fresh[name].requires_grad)
