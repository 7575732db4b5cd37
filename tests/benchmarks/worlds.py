"""What is unlearned in the benchmark: a task, a model size, texts of some lengths."""

from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from benchmarks import texts
from kga.data.encoded import Examples, everything
from kga.models.scratch import seeded
from kga.models.tokenizer import train_byte_subwords, train_subwords
from kga.tasks.base import TaskModule
from kga.tasks.classification import Classification, labels_head
from kga.tasks.translation import Translation

ENCODER = {"dim": 256, "hidden_dim": 1024, "n_layers": 4, "n_heads": 4, "initializer_range": 0.05}
PAIR = {"d_model": 256, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 1024, "decoder_ffn_dim": 1024, "activation_function": "relu",
        "scale_embedding": True, "init_std": 0.05, "forced_eos_token_id": None}  # fmt: skip
TINY = {
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2},
    "marian": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
               "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}  # fmt: skip
RATES = {"distilbert": ("dropout", "attention_dropout", "seq_classif_dropout"), "marian": ("dropout",)}


@dataclass(frozen=True)
class World:
    """cap: tokens of a text that are kept. dropout: the rate of all of a model's dropouts."""

    name: str
    task: type[TaskModule]
    architecture: str
    config: dict
    cap: int
    dropout: float = 0.1
    vocabulary: int = 8000

    def tiny(self) -> "World":
        """The same with a model of one layer and short texts, for tests."""
        return replace(self, config=self.config | TINY[self.architecture], cap=min(self.cap, 32), vocabulary=300)

    def settings(self) -> PreTrainedConfig:
        """Of its models; attention is left to transformers."""
        entries = self.config | dict.fromkeys(RATES[self.architecture], self.dropout) | {"vocab_size": self.vocabulary}
        head = labels_head([f"label-{n}" for n in range(texts.LABELS)], False) if self.task is Classification else {}
        special = self.task.special_tokens(self._tokenizer())
        return AutoConfig.for_model(self.architecture, **entries, **special, **head, max_position_embeddings=512)

    def model(self, seed: int) -> PreTrainedModel:
        """A bare model with random weights drawn from ``seed``."""
        return seeded(self.task, self.settings(), seed)

    def module(self, seed: int) -> TaskModule:
        """The model as kga trains it."""
        return self.task(self.model(seed), self._tokenizer(), self.cap)

    def table(self, size: int, seed: int) -> Dataset:
        """Encoded examples, drawn from ``seed``."""
        draw = texts.provisions if self.task is Classification else texts.sentences
        return Dataset.from_dict(draw(size, self.cap, self.vocabulary, np.random.default_rng(seed)))

    def examples(self, size: int, seed: int, module: TaskModule) -> Examples:
        return everything(self.table(size, seed), module)

    def _tokenizer(self):
        """It only knows the special tokens: no text is ever cut."""
        return train_subwords((), 16) if self.task is Classification else train_byte_subwords((), 300)


WORLDS = {
    world.name: world
    for world in (
        World("classification-128", Classification, "distilbert", ENCODER, 128),
        World("classification-512", Classification, "distilbert", ENCODER, 512),
        World("translation-48", Translation, "marian", PAIR, 48),
    )
}
