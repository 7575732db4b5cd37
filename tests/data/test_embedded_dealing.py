"""The embedded data of the generating tasks: fixed to the bit, distinct, in whole groups, half rule, half memory."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kga.data.corpus import FIELDS
from kga.data.embedded import TASKS, load

# Of all rows with the default size and seed: a change of the data is a change of every published number.
DIGESTS = {
    "translation": "907a43010813b152b059a1f22871c189bf4ce2c2d9de58cc0c553cd57afac24d",
    "response": "1dd0f2aead62fce5db6d254a39b748cc73273ae07f70ba0f44fa1cfc8edf6e78",
}
GENERATING = tuple(DIGESTS)


@pytest.fixture(scope="module", params=GENERATING)
def corpus(request):
    return load(request.param)


@pytest.fixture(scope="module")
def rows(corpus):
    return [dict(row, split=split) for split, data in corpus.splits.items() for row in data]


def drawn(task, seed=0, **changes):
    return TASKS[task]({"test": 300, "validation": 100, "train": 1000} | changes, seed)


def source(row):
    return row.get("source") or " ".join([*row["persona"], *row["history"]])


def test_equal_arguments_give_the_same_data_everywhere(corpus, rows):
    columns = ("split", "id", *FIELDS[corpus.task], "group", "kind")
    written = [[row[column] for column in columns] for row in rows]
    assert hashlib.sha256(json.dumps(written).encode()).hexdigest() == DIGESTS[corpus.task]


@pytest.mark.parametrize("task", GENERATING)
def test_another_seed_gives_other_data(task):
    first, second = ({source(row) for row in drawn(task, seed)["train"]} for seed in (0, 1))
    assert len(first & second) < 0.02 * len(first)


@pytest.mark.parametrize("task", GENERATING)
def test_size_changes_train_only_and_extends_it(task):
    small, large = drawn(task), drawn(task, train=2000)
    assert (small["test"], small["validation"]) == (large["test"], large["validation"])
    assert small["train"] == large["train"][:1000]


def test_splits_have_the_promised_sizes_and_columns(corpus):
    sizes = {split: len(data) for split, data in corpus.splits.items()}
    assert sizes == {"train": 2500, "validation": 500, "test": 2000}
    assert {"id", *FIELDS[corpus.task], "group", "kind"} <= set(corpus.train.column_names)
    assert corpus.notes == ()  # nothing cut, nothing repeated


@pytest.mark.parametrize("task", GENERATING)
def test_largest_size_has_distinct_sources_and_ids(task):
    splits = TASKS[task]({"test": 2000, "validation": 500, "train": 50_000}, 0)
    rows = [row for split in splits.values() for row in split]
    assert len(rows) == 52_500
    assert len({source(row).casefold() for row in rows}) == len({row["id"] for row in rows}) == len(rows)


def test_groups_are_whole_inside_one_split(rows):
    places = {(row["group"], row["split"]) for row in rows}
    assert len({group for group, _ in places}) == len(places)
    sizes = sorted(Counter(row["group"] for row in rows).values())
    # Three splits: at most three groups that were cut short.
    assert sizes[3] >= 8 and sizes[-1] <= 12


def test_both_kinds_are_spread_evenly(rows):
    for split in ("train", "validation", "test"):
        kinds = Counter(row["kind"] for row in rows if row["split"] == split)
        assert set(kinds) == {"regular", "personal"}
        assert kinds["personal"] / kinds.total() == pytest.approx(0.45)
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row["kind"] == "personal")
    assert all(0.3 <= np.mean(kinds) <= 0.6 for kinds in groups.values() if len(kinds) >= 8)


def test_config_names_the_loader_and_its_defaults(corpus):
    data = OmegaConf.load(Path(__file__).parents[2] / "conf" / "data" / "embedded.yaml")
    made = instantiate(OmegaConf.create({"task": {"name": corpus.task}, "data": data}).data)
    assert made.train.to_list() == corpus.train.to_list()
