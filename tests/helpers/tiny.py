"""The smallest things that behave like the real ones: data, tokenizers, models of every task, encoded examples."""

from functools import cache

import numpy as np
from datasets import Dataset

from kga.data.corpus import Corpus, column, make_corpus
from kga.data.encoded import Examples
from kga.data.encoded import examples as in_memory
from kga.models.scratch import Scratch
from kga.optim import Optim
from kga.tasks.base import TaskModule
from kga.tasks.classification import Classification, labels_head
from kga.tasks.response import Response
from kga.tasks.translation import Translation

LABELS = ("east", "north", "west")
CONFIGS = {
    "distilbert": {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64},
    "marian": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
               "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
               "activation_function": "relu", "scale_embedding": True, "forced_eos_token_id": None},
    "kga_lstm": {"d_model": 16, "hidden_size": 16},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_inner": 32, "n_positions": 128},
}  # fmt: skip
DROPOUTS = {
    "distilbert": ("dropout", "attention_dropout", "seq_classif_dropout"),
    "marian": ("dropout",),
    "kga_lstm": ("dropout",),
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
}
_FILLERS = ("bread", "clouds", "engine", "garden", "letter", "mirror", "pocket", "river", "silver", "window")


# Data ---------------------------------------------------------------------------------------------------------------


def rows(size: int, seed: int = 0, multi_label: bool = False, groups: int = 0, prefix: str = "") -> Dataset:
    """Examples whose words tell their label; 3 to 12 words each, all texts different; ``groups`` persons, if any."""
    rng = np.random.default_rng(seed)
    texts, labels, people = [], [], []
    for number in range(size):
        truth = [name for name in LABELS if rng.random() < 0.5] if multi_label else [LABELS[rng.integers(len(LABELS))]]
        words = [*truth, *rng.choice(_FILLERS, rng.integers(2, 10)), f"{prefix}{seed}x{number}"]
        texts.append(" ".join(rng.permutation(words)))
        labels.append(truth if multi_label else truth[0])
        people.append(f"person-{rng.integers(groups)}" if groups else "")
    table = Dataset.from_dict({"text": texts, "label": labels})
    return table.add_column("group", people) if groups else table


def pairs(size: int, seed: int = 0) -> Dataset:
    """Translation examples: a source and a target of 1 to 8 words each, whose lengths are independent."""
    rng = np.random.default_rng(seed)
    return Dataset.from_list([{"source": _sentence(rng), "target": _sentence(rng)} for _ in range(size)])


def dialogues(size: int, seed: int = 0) -> Dataset:
    """Response examples: 0 to 2 sentences of persona, 1 to 3 turns of history and a response, of 1 to 8 words each."""
    rng = np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in Response.fields}
    for _ in range(size):
        columns["persona"].append([_sentence(rng) for _ in range(rng.integers(3))])
        columns["history"].append([_sentence(rng) for _ in range(rng.integers(1, 4))])
        columns["response"].append(_sentence(rng))
    return Dataset.from_dict(columns)


def _sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(_FILLERS, rng.integers(1, 9)))


def corpus(
    train: int = 120, validation: int = 24, test: int = 40, *, multi_label: bool = False, groups: int = 0
) -> Corpus:
    """A checked classification corpus of ``rows``; the same arguments always give the same examples."""
    sizes = {"train": train, "validation": validation, "test": test}
    splits = {
        name: rows(size, seed, multi_label, groups, name) for seed, (name, size) in enumerate(sizes.items(), start=1)
    }
    return make_corpus("tiny", "classification", splits)


# Models -------------------------------------------------------------------------------------------------------------


def family(dropout: float = 0.0, max_length: int = 32, architecture: str = "distilbert") -> Scratch:
    """A model family of width 16 and one layer, as a config's ``model`` would name it."""
    config = CONFIGS[architecture] | dict.fromkeys(DROPOUTS[architecture], dropout)
    if architecture == "distilbert":
        return Scratch(architecture, config, vocab_size=200, max_length=max_length)
    return Scratch(architecture, config, vocab_size=320, max_length=max_length, tokenizer="byte_bpe")


@cache
def tokenizer():
    """A subword tokenizer trained on the texts of ``rows``; shared, as nothing changes it."""
    return family().tokenizer(lambda: column(rows(200, seed=1, prefix="train"), "text").to_pylist())


@cache
def writing_tokenizer():
    """A byte-level tokenizer trained on the texts of ``pairs``, which are those of ``dialogues`` too; shared."""
    return family(architecture="marian").tokenizer(lambda: column(pairs(200, seed=1), "source").to_pylist())


def classifier(
    seed: int = 0, *, multi_label: bool = False, dropout: float = 0.0, max_length: int = 32, optim: Optim | None = None
) -> Classification:
    """A classifier with random weights drawn from ``seed``, in eval mode; dropout is off unless asked for."""
    head = labels_head(LABELS, multi_label)
    model = family(dropout).model(Classification, tokenizer(), head, seed)
    return Classification(model.eval(), tokenizer(), max_length, optim)


def translator(
    seed: int = 0, *, dropout: float = 0.0, architecture: str = "marian", max_length: int = 32,
    optim: Optim | None = None,
) -> Translation:  # fmt: skip
    """An encoder-decoder ("marian" or "kga_lstm") with random weights drawn from ``seed``, in eval mode."""
    model = family(dropout, max_length, architecture).model(Translation, writing_tokenizer(), {}, seed)
    return Translation(model.eval(), writing_tokenizer(), max_length, optim)


def responder(
    seed: int = 0, *, dropout: float = 0.0, architecture: str = "marian", max_length: int = 32,
    optim: Optim | None = None,
) -> Response:  # fmt: skip
    """An encoder-decoder ("marian", "kga_lstm") or decoder-only ("gpt2") model that answers, in eval mode."""
    model = family(dropout, max_length, architecture).model(Response, writing_tokenizer(), {}, seed)
    return Response(model.eval(), writing_tokenizer(), max_length, optim)


# Encoded ------------------------------------------------------------------------------------------------------------


def encoded(dataset: Dataset, task: TaskModule) -> Examples:
    """All rows of a split, encoded in memory without a store."""
    return in_memory(dataset, task)


def examples(size: int = 40, seed: int = 1, task: TaskModule | None = None) -> Examples:
    """``size`` encoded examples of ``task`` (default: a fresh ``classifier``)."""
    task = task or classifier()
    if isinstance(task, Classification):
        return encoded(rows(size, seed, task.multi_label), task)
    return encoded({"translation": pairs, "response": dialogues}[task.name](size, seed), task)
