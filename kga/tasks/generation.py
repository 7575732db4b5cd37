"""What translation and response generation share: texts in, texts out, one scored position per target token."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

import kga.models.lstm  # noqa: F401  makes the LSTM known to transformers' Auto classes
from kga.errors import UserError
from kga.metrics.gathered import gathered
from kga.metrics.utility import Tokens
from kga.models.output import OutputLayer, scored_states
from kga.models.writing import require_writer
from kga.objective import Batch, StandIn
from kga.optim import Optim
from kga.predictions import Predictions
from kga.tasks.base import TaskModule, states_at

IGNORED = -100  # label of a position that is not scored


class Generation(TaskModule):
    """An encoder-decoder or a decoder-only language model, scored on the tokens of the target.

    Encoder-decoder: the decoder is fed the target shifted by one, so logits[:, t] predicts labels[:, t]. Decoder-only:
    prompt and target are one sequence, logits[:, t] predicts the token at t + 1, and only those of the target are scored.
    Every target ends with the end-of-sequence token.

    max_length: tokens of input, closing tokens included. max_target_length: of the target (None: as many).
    A task defines ``fields``, ``context`` and ``text_metrics``.
    """

    encoded_columns = ("input_ids", "labels")
    score_metric = "token_accuracy"

    def __init__(
        self, model, tokenizer, max_length: int = 128, optim: Optim | None = None, max_target_length: int | None = None
    ) -> None:
        super().__init__(model, tokenizer, max_length, optim)
        require_writer(model, tokenizer)
        self.max_target_length = max_target_length or max_length
        self._lazy: bool | None = None  # whether OutputLayer is all the model does after its hidden states

    # Texts to numbers ------------------------------------------------------------------------------------------

    def context(self, examples: Mapping[str, list]) -> list[tuple[list[int], bool]]:
        """Token ids of each input, without framing and at most ``room(max_length)``, and whether it was cut."""
        raise NotImplementedError

    def encode(self, examples: Mapping[str, list]) -> dict[str, list]:
        """Inputs and targets as token ids; the end of a target that is too long is dropped, its closing token kept."""
        prefix, suffix = self._framing()
        inputs = self.context(examples)
        columns = {"input_ids": [[*prefix, *ids, *suffix] for ids, _ in inputs], "cut": [cut for _, cut in inputs]}
        if (target := self.fields[-1]) in examples:
            opening, closing = self._framing(target=True)
            room = max(0, self.max_target_length - len(opening) - len(closing))
            ids = self._bare(text_target=list(examples[target]))
            columns["labels"] = [[*opening, *row[:room], *closing] for row in ids]
            columns["cut"] = [cut or len(row) > room for cut, row in zip(columns["cut"], ids, strict=True)]
        lengths = zip(columns["input_ids"], columns.get("labels", [()] * len(inputs)), strict=True)
        return columns | {"length": [len(source) + len(target) for source, target in lengths]}

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        return self._bare(text=list(texts)) if texts else []

    def _bare(self, **texts: list[str]) -> list[list[int]]:
        # A user's text may hold "</s>": that is text, not the end of it. Tokenizers of sentencepiece don't take the option.
        plain = {"split_special_tokens": True} if hasattr(self.tokenizer, "backend_tokenizer") else {}
        return self.tokenizer(**texts, add_special_tokens=False, **plain)["input_ids"]

    def room(self, length: int) -> int:
        """Tokens that are left of ``length`` when an input is framed."""
        prefix, suffix = self._framing()
        return max(0, length - len(prefix) - len(suffix))

    @property
    def separator(self) -> int:
        """The token between the parts of an input."""
        sep, eos = self.tokenizer.sep_token_id, self.tokenizer.eos_token_id
        return eos if sep is None else sep

    def _framing(self, target: bool = False) -> tuple[list[int], list[int]]:
        """What the model's tokenizer puts before and after a text; a target always ends with the closing token."""
        decoder_only = not self.model.config.is_encoder_decoder
        if decoder_only and target:
            return [], [self.tokenizer.eos_token_id]
        name = "text_target" if target else "text"
        framed = self.tokenizer(**{name: "a"})["input_ids"]
        bare = self.tokenizer(**{name: "a"}, add_special_tokens=False)["input_ids"]
        starts = [i for i in range(len(framed)) if framed[i : i + len(bare)] == bare]
        prefix, suffix = framed[: starts[0]], framed[starts[0] + len(bare) :]
        if decoder_only:  # what begins a text (Llama) begins the prompt; the answer follows a separator
            return prefix, [self.separator]
        if target and self.tokenizer.eos_token_id not in suffix:
            suffix = [*suffix, self.tokenizer.eos_token_id]
        return prefix, suffix

    def encoding(self) -> dict:
        return {
            "task": self.name,
            "tokenizer": self.tokenizer_content(),
            "max_length": self.max_length,
            "max_target_length": self.max_target_length,
            "encoder_decoder": self.model.config.is_encoder_decoder,
            "framing": [*self._framing(), *self._framing(target=True), self.separator],
        }

    # Numbers to batches ----------------------------------------------------------------------------------------

    def collate(self, rows: Mapping[str, Sequence]) -> Batch:
        if self.model.config.is_encoder_decoder:
            return self._collate_pairs(rows["input_ids"], rows["labels"])
        joined = [[*prompt, *target] for prompt, target in zip(rows["input_ids"], rows["labels"], strict=True)]
        labels = [
            [*[IGNORED] * len(prompt), *target]
            for prompt, target in zip(rows["input_ids"], rows["labels"], strict=True)
        ]
        return self._inputs(joined) | {"labels": _padded(labels, IGNORED)}

    def _collate_pairs(self, sources: Sequence, targets: Sequence) -> Batch:
        # Decoder inputs come from the true tokens: made after -100 is written, they would hold it. Padded rows go on with
        # the closing token, as transformers' own shift has it: no scored position sees it, the released view counts it.
        longest = max(len(target) for target in targets)
        shifted = [[self._decoder_start(), *target][:longest] for target in targets]
        return self._inputs(sources) | {
            "decoder_input_ids": _padded(shifted, self.tokenizer.pad_token_id),
            "labels": _padded(targets, IGNORED),
        }

    def _inputs(self, rows: Sequence) -> Batch:
        return {
            "input_ids": _padded(rows, self.tokenizer.pad_token_id),
            "attention_mask": _padded([[1] * len(row) for row in rows], 0),
        }

    def _decoder_start(self) -> int:
        for config in (self.model.generation_config, self.model.config):
            start = getattr(config, "decoder_start_token_id", None)
            if start is not None:
                return start
        raise UserError("the model's config has no decoder_start_token_id: it is no encoder-decoder that kga can train")

    # Predictions -----------------------------------------------------------------------------------------------

    def predict(self, batch: Batch, view: str = "scored") -> Predictions:
        """P = target tokens, C = vocabulary. "released": every decoder position, padded ones included (target -1)."""
        inputs = _model_inputs(batch)
        labels, where = self._scored(batch, view)
        if self._lazy is None:
            self._lazy = self._output_layer_is_all(inputs, where)
        hidden, logits = scored_states(self.model, inputs, where, logits=not self._lazy)
        targets, example = labels[where], where.nonzero()[:, 0]
        targets = targets.masked_fill(targets == IGNORED, -1)
        if self._lazy:
            return Predictions(hidden, targets, example, len(labels), OutputLayer(self.model))
        return Predictions(logits.float().log_softmax(1), targets, example, len(labels))

    def _output_layer_is_all(self, inputs: Mapping[str, Tensor], where: Tensor) -> bool:
        """Tried once and with the random state put back: a resumed run, which tries it anew, must not differ."""
        if self.model.get_output_embeddings() is None:
            return False
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            return OutputLayer(self.model).reproduces(
                *scored_states(self.model, inputs, where, logits=True, probe=True)
            )

    def _scored(self, batch: Batch, view: str) -> tuple[Tensor, Tensor]:
        """[B, T] what each position of the output is to predict (or IGNORED), and [B, T] which of them are scored."""
        labels = batch["labels"]
        if not self.model.config.is_encoder_decoder:  # logits at t say what stands at t + 1
            labels = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        where = labels != IGNORED
        if view == "released":
            where = torch.ones_like(where)
            if not self.model.config.is_encoder_decoder:
                where[:, -1] = False
        return labels, where

    def count(self, batch: Batch, unit: str, view: str = "scored") -> int:
        return int(self._scored(batch, view)[1].sum()) if unit == "position" else len(batch["labels"])

    def hidden(self, batch: Batch, layer: str) -> tuple[Tensor, Tensor]:
        """Tokens of the target, each where it stands in ``labels``; in an encoder those of the input."""
        module, inputs = self.model.get_submodule(layer), _model_inputs(batch)
        target = batch["labels"] != IGNORED
        where = batch["attention_mask"].bool() if self._encodes(module) else target
        nothing = torch.zeros_like(target)  # no position passes the output layer
        return states_at(module, lambda: scored_states(self.model, inputs, nothing, logits=False), where, layer)

    def _encodes(self, module: nn.Module) -> bool:
        """Whether a module is part of an encoder that a decoder follows."""
        if not self.model.config.is_encoder_decoder:
            return False
        return any(part is module for part in self.model.get_encoder().modules())

    def longest(self) -> int:
        pair = (self.max_length, self.max_target_length)
        return max(pair) if self.model.config.is_encoder_decoder else sum(pair)

    def cacheable(self, view: str) -> bool:
        return view == "scored"  # how far a batch is padded depends on who else is in it

    def utility_metrics(self) -> list[Metric]:
        return [Tokens()]

    # Validation: only what is watched is generated, greedily ---------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._outputs: list[str] = []
        self._references: list[str] = []

    def validation_step(self, batch: Batch, index: int) -> None:
        super().validation_step(batch, index)
        if self._writes() and not isinstance(batch, StandIn):
            self._outputs += self.generate(batch)
            labels = batch["labels"].masked_fill(batch["labels"] == IGNORED, self.tokenizer.pad_token_id)
            self._references += self._decoded(labels)

    def validation_values(self) -> dict[str, float]:
        values = super().validation_values()
        for metric in self.text_metrics() if self._writes() else ():
            metric.update(self._outputs, self._references)
            values |= {name: float(value) for name, value in gathered(metric).compute().items()}
        return values

    def _writes(self) -> bool:
        """Whether what is watched are generated texts."""
        return self.optim.monitor not in ("loss", *Tokens.names)

    # Generation ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, batch: Batch, beams: int = 1) -> list[str]:
        """The text that the model writes for each input of a batch: beam search, or greedy with one beam."""
        inputs = self._prompts(batch)
        rules = {"num_beams": beams, "do_sample": False, "max_new_tokens": self.max_target_length}
        rules |= {"pad_token_id": self.tokenizer.pad_token_id, "early_stopping": beams > 1}
        was_training = self.model.training
        self.model.eval()
        written = self.model.generate(**inputs, **rules, max_length=None)
        self.model.train(was_training)
        if not self.model.config.is_encoder_decoder:
            written = written[:, inputs["input_ids"].shape[1] :]
        return self._decoded(written)

    def _decoded(self, ids: Tensor) -> list[str]:
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _prompts(self, batch: Batch) -> Batch:
        """Inputs of generation: an encoder-decoder's as they are; prompts alone, padded on the left, else."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if self.model.config.is_encoder_decoder:
            return inputs
        prompt = inputs["attention_mask"].bool() & (batch["labels"] == IGNORED)
        rows = [row[mask].tolist() for row, mask in zip(inputs["input_ids"], prompt, strict=True)]
        device = batch["labels"].device
        padding, masks = self.tokenizer.pad_token_id, [[1] * len(row) for row in rows]
        return {
            "input_ids": _padded(rows, padding, left=True).to(device),
            "attention_mask": _padded(masks, 0, left=True).to(device),
        }

    def predict_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> list[str]:
        return [] if isinstance(batch, StandIn) else self.generate(batch, self.beams)

    beams = 1  # of predict_step

    # Models and files ------------------------------------------------------------------------------------------

    @staticmethod
    def auto_model(config: PretrainedConfig):
        return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM

    @staticmethod
    def special_tokens(tokenizer) -> dict:
        """Config entries that name the special tokens of a tokenizer trained on D."""
        return {
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "decoder_start_token_id": tokenizer.bos_token_id,
        }


def _model_inputs(batch: Batch) -> Batch:
    """What of a batch the model reads."""
    return {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids") if name in batch}


def joined(parts: Iterable[Sequence[int]], separator: int) -> list[int]:
    """Token ids of several parts with the separator between them."""
    flat: list[int] = []
    for number, part in enumerate(parts):
        flat += [separator, *part] if number else [*part]
    return flat


def _padded(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """[B, longest] int64."""
    longest = max(len(row) for row in rows)
    table = np.full((len(rows), longest), value, dtype=np.int64)
    for number, row in enumerate(rows):
        if left:
            table[number, longest - len(row) :] = row
        else:
            table[number, : len(row)] = row
    return torch.from_numpy(table)
