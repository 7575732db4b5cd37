"""Small models with random weights and a tokenizer trained on D."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

import kga.models.lstm  # noqa: F401  makes the LSTM known to transformers' Auto classes
from kga.errors import UserError, one_of
from kga.models.tokenizer import train_byte_subwords, train_subwords

TOKENIZERS = {"bpe": train_subwords, "byte_bpe": train_byte_subwords}


class Scratch:
    """An architecture of transformers with random weights.

    architecture: its ``model_type`` ("distilbert", ...); config: entries of its config class. The tokenizer is a
    byte-pair encoding of at most ``vocab_size`` entries, trained on the texts of D alone: never on D_n or test.
    tokenizer: "bpe" (lower-cased words, for classifiers) or "byte_bpe" (turns back into text, for models that write;
    all bytes and special tokens are in it, 261 entries at least).
    """

    def __init__(
        self, architecture: str, config: dict, vocab_size: int, max_length: int, tokenizer: str = "bpe",
        recommended: dict | None = None,
    ):  # fmt: skip
        self.architecture, self.config = architecture, dict(config)
        self.vocab_size, self.max_length = vocab_size, max_length
        one_of("model.tokenizer", tokenizer, TOKENIZERS)
        self.kind = tokenizer

    def tokenizer_recipe(self) -> dict:
        """What decides the tokenizer, besides the texts."""
        return {"type": self.kind, "vocab_size": self.vocab_size}

    def tokenizer(self, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerBase:
        return TOKENIZERS[self.kind](texts(), self.vocab_size)

    def model(
        self, task: type, tokenizer: PreTrainedTokenizerBase, head: dict, seed: int, scratch: bool = False
    ) -> PreTrainedModel:
        """The initial model; the same seed gives the same weights."""
        one_of("model.architecture", self.architecture, CONFIG_MAPPING)
        entries = self.config | {"vocab_size": len(tokenizer)} | task.special_tokens(tokenizer) | head
        with _telling(f"model.architecture={self.architecture}"):
            config = AutoConfig.for_model(self.architecture, **entries)
        return seeded(task, config, seed)


def seeded(task: type, config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """A model of a config with random weights drawn from ``seed``, leaving the global random state as it was."""
    kind = auto_class(task, config)
    with torch.random.fork_rng(devices=[]), _telling(f"model.architecture={config.model_type}"):
        torch.manual_seed(seed)
        return kind.from_config(config)


def auto_class(task: type, config: PretrainedConfig) -> type:
    """The Auto class that builds and loads a task's models; UserError if it has none of this architecture."""
    kind = task.auto_model(config)
    if type(config) not in kind._model_mapping:
        name = config.name_or_path or "the model"
        raise UserError(
            f"{name} can't be trained for task={task.name}: {kind.__name__} of transformers has no {config.model_type!r} "
            "model; choose one that fits the task"
        )
    return kind


@contextmanager
def _telling(where: str) -> Iterator[None]:
    """Turns what transformers says about impossible sizes and rates into a UserError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, ArithmeticError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"model.config.* can't be built with {where}: {reason}") from error
