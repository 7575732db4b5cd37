"""Encodings are made once; a batch is its examples and nothing that stands beside them."""

import datasets
import numpy as np
import pytest
import torch
from datasets import load_from_disk
from helpers import tiny

from kga.data import encoded
from kga.data.encoded import encode, everything, examples
from kga.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


class Counted:
    """A task that counts how often its ``encode`` is asked for."""

    def __init__(self, task) -> None:
        self.task, self.calls = task, 0

    def __getattr__(self, name):
        return getattr(self.task, name)

    def encode(self, rows):
        self.calls += 1
        return self.task.encode(rows)


def test_encoded_once_then_mapped_from_the_store(store):
    rows, task = tiny.rows(20), Counted(tiny.classifier())
    first, second = (encode(rows, task, store, "print") for _ in range(2))
    assert task.calls == 1
    assert first[:] == second[:] and len(second) == 20
    assert set(second.column_names) == {"input_ids", "length", "labels", "cut"}
    assert second.cache_files


def test_other_examples_and_other_encodings_are_encoded_anew(store):
    rows, task, short = tiny.rows(20), Counted(tiny.classifier()), Counted(tiny.classifier(max_length=5))
    encode(rows, task, store, "print")
    encode(tiny.rows(20, seed=2), task, store, "other print")
    assert task.calls == 2
    assert max(encode(rows, short, store, "print")["length"]) == 5 and short.calls == 1


def test_another_model_with_the_same_tokenizer_shares_the_encoding(store):
    task, other = (Counted(tiny.classifier(seed)) for seed in (0, 1))
    encode(tiny.rows(20), task, store, "print")
    encode(tiny.rows(20), other, store, "print")
    assert (task.calls, other.calls) == (1, 0)


def test_large_sets_are_written_to_the_store_alone(store, monkeypatch, tmp_path):
    """Nothing stays in the cache of `datasets`, and what is written is what would be kept in memory."""
    monkeypatch.setattr(encoded, "IN_MEMORY", 10)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows, task = tiny.rows(20), tiny.classifier()
    rows.save_to_disk(tmp_path / "rows")
    on_disk = load_from_disk(tmp_path / "rows")
    before = sorted((tmp_path / "rows").iterdir())
    written = encode(on_disk, task, store, "print")
    assert written[:] == examples(rows, task).table[:]
    assert sorted((tmp_path / "rows").iterdir()) == before and not (tmp_path / "cache").exists()
    assert not list((tmp_path / "encodings").glob("*.work"))


def test_a_damaged_encoding_is_made_again(store):
    rows, task = tiny.rows(20), Counted(tiny.classifier())
    path = next(iter(encode(rows, task, store, "print").cache_files))["filename"]
    whole = encode(rows, task, store, "print")[:]
    with open(path, "r+b") as file:
        file.truncate(100)
    assert encode(rows, task, store, "print")[:] == whole and task.calls == 2


def test_tokens_are_those_of_the_tokenizer_and_are_cut_at_the_end():
    rows, task = tiny.rows(20), tiny.classifier(max_length=6)
    view = tiny.encoded(rows, task)
    for row, ids, length in zip(rows, view.table["input_ids"], view.table["length"], strict=True):
        whole = task.tokenizer(row["text"])["input_ids"]
        assert length == len(ids) <= 6
        assert ids == (whole if len(whole) <= 6 else [*whole[:5], whole[-1]])


def test_views_know_their_rows():
    view = tiny.examples(20)
    part = view.take(np.array([7, 3, 11])).take(np.array([2, 0]))
    assert part.rows.tolist() == [11, 7] and len(part) == 2
    assert part.lengths().tolist() == [view.table["length"][row] for row in (11, 7)]
    assert part.column("labels").tolist() == [view.table["labels"][row] for row in (11, 7)]
    batch = part.batch(np.array([1, 0]))
    assert batch["index"].tolist() == [7, 11]
    whole = view.batch(np.array([7]))
    tokens = int(whole["attention_mask"].sum())
    assert batch["input_ids"][0, :tokens].tolist() == whole["input_ids"][0].tolist()


def test_rows_of_a_script_are_encoded_as_a_table_is():
    rows, task = tiny.rows(5), tiny.classifier()
    assert examples(rows.to_list(), task).table[:] == examples(rows, task).table[:]
    assert len(examples(rows, task)) == 5


def test_everything_is_all_rows_in_order():
    view = tiny.examples(9)
    assert everything(view.table, view.task).rows.tolist() == list(range(9))


def pad(batch: dict[str, torch.Tensor], columns: int, token: int) -> dict[str, torch.Tensor]:
    """More masked positions at the end; what token stands there must not matter."""
    tail = torch.full((len(batch["input_ids"]), columns), token)
    padded = {"input_ids": torch.cat([batch["input_ids"], tail], 1)}
    padded["attention_mask"] = torch.cat([batch["attention_mask"], torch.zeros_like(tail)], 1)
    return batch | padded


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("token", [0, 7])
def test_padding_changes_no_prediction(multi_label, token):
    task = tiny.classifier(multi_label=multi_label)
    batch = tiny.examples(12, task=task).batch(np.arange(12))
    with torch.no_grad():
        plain, padded = task.predict(batch), task.predict(pad(batch, 9, token))
    torch.testing.assert_close(padded.log_probs, plain.log_probs, atol=1e-6, rtol=0)


def test_the_company_of_an_example_changes_no_prediction():
    view = tiny.examples(12)
    with torch.no_grad():
        together = view.task.predict(view.batch(np.arange(12))).log_probs
        alone = torch.cat([view.task.predict(view.batch(np.array([row]))).log_probs for row in range(12)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=0)
