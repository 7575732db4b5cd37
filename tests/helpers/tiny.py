"""The smallest things that behave like the real ones: a corpus, a tokenizer, a classifier, views of encoded examples."""

from functools import cache

import numpy as np
from datasets import Dataset

from kga.data.corpus import Corpus, column, make_corpus
from kga.data.encoded import Examples
from kga.data.encoded import examples as in_memory
from kga.models.scratch import Scratch
from kga.optim import Optim
from kga.tasks.classification import Classification

LABELS = ("east", "north", "west")
CONFIG = {"dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 64}
_FILLERS = ("bread", "clouds", "engine", "garden", "letter", "mirror", "pocket", "river", "silver", "window")


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


def corpus(
    train: int = 120, validation: int = 24, test: int = 40, *, multi_label: bool = False, groups: int = 0
) -> Corpus:
    """A checked classification corpus of ``rows``; the same arguments always give the same examples."""
    sizes = {"train": train, "validation": validation, "test": test}
    splits = {
        name: rows(size, seed, multi_label, groups, name) for seed, (name, size) in enumerate(sizes.items(), start=1)
    }
    return make_corpus("tiny", "classification", splits)


def family(dropout: float = 0.0, max_length: int = 32, architecture: str = "distilbert") -> Scratch:
    """A model family of dim 16 and one layer, as a config's ``model`` would name it."""
    rates = {"dropout": dropout, "attention_dropout": dropout, "seq_classif_dropout": dropout}
    return Scratch(architecture, CONFIG | rates, vocab_size=200, max_length=max_length)


@cache
def tokenizer():
    """A subword tokenizer trained on the texts of ``rows``; shared, as nothing changes it."""
    return family().tokenizer(lambda: column(rows(200, seed=1, prefix="train"), "text").to_pylist())


def classifier(
    seed: int = 0, *, multi_label: bool = False, dropout: float = 0.0, max_length: int = 32, optim: Optim | None = None
) -> Classification:
    """A classifier with random weights drawn from ``seed``, in eval mode; dropout is off unless asked for."""
    head = Classification.head(LABELS, multi_label)
    model = family(dropout).model(Classification, tokenizer(), head, seed)
    return Classification(model.eval(), tokenizer(), max_length, optim)


def encoded(dataset: Dataset, task: Classification) -> Examples:
    """All rows of a split, encoded in memory without a store."""
    return in_memory(dataset, task)


def examples(size: int = 40, seed: int = 1, task: Classification | None = None) -> Examples:
    """``size`` encoded examples of ``task`` (default: a fresh ``classifier``)."""
    task = task or classifier()
    return encoded(rows(size, seed, task.multi_label), task)
