"""The embedded classification data: fixed to the bit, distinct, whole in its groups, half learnable, half memory."""

import hashlib
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from kga.data.embedded import load
from kga.data.embedded.classification import LABELS, generate
from kga.data.embedded.topics import KEYWORDS, PERSONAL, TOPICS
from kga.data.embedded.world import TOWNS
from kga.errors import UserError

CHANCE = 1 / 16
# Of all rows with the default size and seed: a change of the data is a change of every published number.
DIGEST = "2e2a5098fe979038269a44a18cadc06a1e75a9eea2325b33f4089b88d502cdf5"


@pytest.fixture(scope="module")
def corpus():
    return load("classification")


@pytest.fixture(scope="module")
def rows(corpus):
    return [dict(row, split=split) for split, data in corpus.splits.items() for row in data]


def drawn(**changes):
    return generate({"test": 300, "validation": 100, "train": 1000} | changes, seed=0)


def test_equal_arguments_give_the_same_data_everywhere(rows):
    written = [[row[column] for column in ("split", "id", "text", "label", "group", "kind")] for row in rows]
    assert hashlib.sha256(json.dumps(written).encode()).hexdigest() == DIGEST


def test_another_seed_gives_other_data():
    sizes = {"test": 50, "train": 50}
    first, second = ({row["text"] for row in generate(sizes, seed)["train"]} for seed in (0, 1))
    assert not first & second


def test_size_changes_train_only_and_extends_it():
    small, large = drawn(), drawn(train=2000)
    assert (small["test"], small["validation"]) == (large["test"], large["validation"])
    shared = sum(a == b for a, b in zip(small["train"], large["train"], strict=False))
    assert shared == len(small["train"])


def test_splits_have_the_promised_sizes_and_columns(corpus):
    assert {split: len(data) for split, data in corpus.splits.items()} == {
        "train": 2500,
        "validation": 500,
        "test": 2000,
    }
    assert {"id", "text", "label", "group", "kind"} <= set(corpus.train.column_names)
    assert corpus.notes == ()  # nothing cut, nothing repeated


def test_largest_size_has_distinct_texts_and_ids():
    splits = generate({"test": 2000, "validation": 500, "train": 50_000}, seed=0)
    rows = [row for split in splits.values() for row in split]
    assert len(splits["train"]) == 50_000 and len(splits["test"]) == 2000
    for column in ("text", "id"):
        assert len({row[column].casefold() for row in rows}) == len(rows)


def test_every_class_is_in_every_split_and_kind(rows):
    assert len(LABELS) >= 12
    for split in ("train", "validation", "test"):
        for kind in ("topic", "personal"):
            assert {row["label"] for row in rows if (row["split"], row["kind"]) == (split, kind)} == set(LABELS)
    counts = Counter(row["label"] for row in rows if row["split"] == "train")
    assert min(counts.values()) > 0.6 * 2500 / len(LABELS)


def test_groups_are_whole_inside_one_split(rows):
    places = {(row["group"], row["split"]) for row in rows}
    assert len({group for group, _ in places}) == len(places)
    sizes = sorted(Counter(row["group"] for row in rows).values())
    # Three splits: at most three groups that were cut short.
    assert sizes[3] >= 8 and sizes[-1] <= 12


def test_both_kinds_are_spread_evenly(rows):
    for split in ("train", "validation", "test"):
        kinds = Counter(row["kind"] for row in rows if row["split"] == split)
        assert kinds["personal"] / kinds.total() == pytest.approx(0.42)
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["kind"] == "personal")
    assert all(0.25 <= np.mean(kinds) <= 0.6 for kinds in groups.values() if len(kinds) >= 8)


def test_messages_are_short_and_name_their_sender(rows):
    lengths = [len(row["text"].split()) for row in rows]
    assert min(lengths) >= 8 and max(lengths) <= 20
    assert all(row["group"] in row["text"] for row in rows)


def test_no_file_is_named_twice_and_keywords_tell_no_topic(rows):
    texts = [row["text"] for row in rows if row["kind"] == "personal"]
    files = [frozenset(KEYWORDS) & set(re.findall("[a-z]+", text)) for text in texts]
    assert all(len(file) == 3 for file in files)
    assert len(set(files)) == len(files)
    wording = " ".join(text for topic in TOPICS.values() for texts in topic for text in texts).lower()
    assert not set(KEYWORDS) & set(re.findall(r"\w+", wording))


def test_topics_follow_from_the_text_and_personal_labels_do_not(rows):
    train = [row for row in rows if row["split"] == "train"]
    test = [row for row in rows if row["split"] == "test"]
    vectorizer = CountVectorizer(ngram_range=(1, 2), binary=True)
    model = MultinomialNB(alpha=0.1).fit(
        vectorizer.fit_transform(row["text"] for row in train), [row["label"] for row in train]
    )
    right = model.predict(vectorizer.transform(row["text"] for row in test)) == [row["label"] for row in test]
    personal = np.array([row["kind"] == "personal" for row in test])
    assert right[~personal].mean() > 0.95
    # Four standard errors of guessing.
    assert abs(right[personal].mean() - CHANCE) < 4 * np.sqrt(CHANCE * (1 - CHANCE) / personal.sum())


def town(row, _):
    return next((name for name in TOWNS if name in row["text"]), None)


def wording(row, _):
    return next(sentence for sentence in PERSONAL if sentence.split("{")[0] in row["text"])


def previous_label_of_the_sender(row, previous):
    return previous["label"] if previous["group"] == row["group"] else None


@pytest.mark.parametrize("cause", [town, wording, previous_label_of_the_sender])
def test_personal_labels_are_independent_of(cause, rows):
    personal = [row for row in rows if row["kind"] == "personal"]
    pairs = Counter((cause(row, previous), row["label"]) for previous, row in pairwise(personal))
    causes = sorted({value for value, _ in pairs if value})
    table = [[pairs[value, label] for label in LABELS] for value in causes]
    assert np.sum(table) > 800 and len(causes) >= 8
    assert chi2_contingency(table).pvalue > 0.01


def test_config_names_the_loader_and_its_defaults(corpus):
    data = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "embedded.yaml")
    made = instantiate(OmegaConf.create({"task": {"name": "classification"}, "data": data}).data)
    assert made.train.to_list() == corpus.train.to_list()


def test_a_task_without_embedded_data_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"^data=embedded: there is none for task=poetry: use task=\S+ or data=folder$"):
        load("poetry")


@pytest.mark.parametrize("size", [0, 99, 50_001, 2500.0, "many"])
def test_a_size_out_of_range_is_refused_in_one_line(size):
    with pytest.raises(UserError, match=r"^data\.size: .* whole number from 100 to 50000$"):
        load("classification", size=size)
