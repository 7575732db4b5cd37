"""Tiny tasks that write text: translation and responses in texts of very different lengths, models of width 16."""

from functools import cache

import numpy as np
from datasets import Dataset

from kga.data.corpus import Corpus, make_corpus
from kga.data.encoded import Examples
from kga.data.encoded import examples as in_memory
from kga.models.scratch import Scratch
from kga.optim import Optim
from kga.tasks.generation import Generation
from kga.tasks.response import Response
from kga.tasks.translation import Translation

_SIZES = {
    "marian": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 128,
        "scale_embedding": True, "forced_eos_token_id": None,
    },
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_inner": 32, "n_positions": 128},
    "kga_lstm": {"d_model": 16, "hidden_size": 16},
}  # fmt: skip
_DROPOUT = {
    "marian": ("dropout",), "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"), "kga_lstm": ("dropout",),
}  # fmt: skip
_SPREAD = {"marian": "init_std", "gpt2": "initializer_range", "kga_lstm": "initializer_range"}
_WORDS = {"boat": "Boot", "green": "grün", "house": "Haus", "seven": "sieben", "sun": "Sonne", "to": "zu", "we": "wir"}


def family(architecture: str = "marian", dropout: float = 0.0, spread: float = 0.4, max_length: int = 40) -> Scratch:
    """A model family as a config's ``model`` would name it. spread: of the first weights; what a model with large ones
    writes depends on what it reads."""
    config = _SIZES[architecture] | {_SPREAD[architecture]: spread} | dict.fromkeys(_DROPOUT[architecture], dropout)
    return Scratch(architecture, config, vocab_size=320, max_length=max_length, tokenizer="byte_bpe")


def pairs(size: int, seed: int = 0) -> Dataset:
    """Sources of 1 to 9 words and their targets, word by word in reverse order; all different."""
    rng = np.random.default_rng(seed)
    sources = [[*rng.choice(list(_WORDS), rng.integers(0, 9)), f"{seed}-{number}"] for number in range(size)]
    targets = [[_WORDS.get(word, word) for word in reversed(words)] for words in sources]
    return Dataset.from_dict({name: [" ".join(words) for words in texts]
                              for name, texts in (("source", sources), ("target", targets))})  # fmt: skip


def dialogues(size: int, seed: int = 0) -> Dataset:
    """Up to two sentences about the speaker, up to three turns, and an answer."""
    rng = np.random.default_rng(seed)

    def some(least: int, most: int) -> list[str]:
        return [" ".join(rng.choice(list(_WORDS), rng.integers(1, 4))) for _ in range(rng.integers(least, most))]

    rows = [{"persona": some(0, 3), "history": some(1, 4), "response": f"{' '.join(some(1, 4))} {seed}-{number}"}
            for number in range(size)]  # fmt: skip
    return Dataset.from_list(rows)


def corpus(train: int = 60, validation: int = 8, test: int = 10) -> Corpus:
    """A checked translation corpus of ``pairs``."""
    sizes = {"train": train, "validation": validation, "test": test}
    return make_corpus("tiny", "translation", {n: pairs(size, seed) for seed, (n, size) in enumerate(sizes.items(), 1)})


@cache
def tokenizer():
    """A byte-level tokenizer trained on the words of both tasks; shared, as nothing changes it."""
    return family().tokenizer(lambda: Translation.texts(pairs(200, seed=1).to_dict()))


def translator(architecture: str = "marian", seed: int = 0, **options) -> Translation:
    """A translation task around a model with random weights drawn from ``seed``, in eval mode; see ``task``."""
    return task(Translation, architecture, seed, **options)


def responder(architecture: str = "gpt2", seed: int = 0, **options) -> Response:
    """The same for responses."""
    return task(Response, architecture, seed, **options)


def task(
    kind: type[Generation], architecture: str, seed: int = 0, *, dropout: float = 0.0, spread: float = 0.4,
    max_length: int = 40, optim: Optim | None = None, **options,
) -> Generation:  # fmt: skip
    """options: further arguments of the task."""
    model = family(architecture, dropout, spread).model(kind, tokenizer(), {}, seed)
    return kind(model.eval(), tokenizer(), max_length, optim, **options)


def examples(task: Generation, size: int = 10, seed: int = 3) -> Examples:
    """``size`` encoded examples of the task."""
    return in_memory(pairs(size, seed) if isinstance(task, Translation) else dialogues(size, seed), task)
