"""Small models with random weights and a tokenizer trained on D."""

from collections.abc import Callable, Iterable

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from kga.models.tokenizer import train_subwords


class Scratch:
    """An architecture of transformers with random weights.

    architecture: its ``model_type`` ("distilbert", ...); config: entries of its config class. The tokenizer is a
    byte-pair encoding of at most ``vocab_size`` entries, trained on the inputs of D alone: never on D_n or test.
    """

    def __init__(
        self, architecture: str, config: dict, vocab_size: int, max_length: int, recommended: dict | None = None
    ):
        self.architecture, self.config = architecture, dict(config)
        self.vocab_size, self.max_length = vocab_size, max_length

    def tokenizer_recipe(self) -> dict:
        """What decides the tokenizer, besides the texts."""
        return {"type": "bpe", "vocab_size": self.vocab_size}

    def tokenizer(self, texts: Callable[[], Iterable[str]]) -> PreTrainedTokenizerBase:
        return train_subwords(texts(), self.vocab_size)

    def model(
        self, task: type, tokenizer: PreTrainedTokenizerBase, head: dict, seed: int, scratch: bool = False
    ) -> PreTrainedModel:
        """The initial model; the same seed gives the same weights."""
        config = AutoConfig.for_model(
            self.architecture, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **self.config, **head
        )
        return seeded(task, config, seed)


def seeded(task: type, config, seed: int) -> PreTrainedModel:
    """A model of a config with random weights drawn from ``seed``, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.auto_model.from_config(config)
