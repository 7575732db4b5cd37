"""Classification: what it predicts at which positions, what it encodes, and what it saves."""

import json

import numpy as np
import pytest
import torch
from helpers import tiny
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kga.errors import UserError
from kga.metrics.utility import MultiLabel, SingleLabel
from kga.tasks.classification import Classification


def logits_of(task: Classification, batch) -> torch.Tensor:
    with torch.no_grad():
        return task.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


@pytest.fixture
def single():
    task = tiny.classifier()
    return task, tiny.examples(6, task=task).batch(np.arange(6))


@pytest.fixture
def several():
    task = tiny.classifier(multi_label=True)
    return task, tiny.examples(6, task=task).batch(np.arange(6))


def test_single_label_has_one_position_per_example(single):
    task, batch = single
    predictions = task.predict(batch)
    torch.testing.assert_close(predictions.log_probs, logits_of(task, batch).log_softmax(1))
    assert torch.equal(predictions.targets, batch["labels"])
    assert predictions.example.tolist() == list(range(6)) and predictions.size == 6


def test_multi_label_has_one_position_per_example_and_label(several):
    task, batch = several
    predictions, logits = task.predict(batch), logits_of(task, batch)
    assert predictions.log_probs.shape == (18, 2) and predictions.size == 6
    torch.testing.assert_close(predictions.log_probs.exp()[:, 1].reshape(6, 3), logits.sigmoid())
    torch.testing.assert_close(predictions.log_probs.exp().sum(1), torch.ones(18))
    assert torch.equal(predictions.targets.reshape(6, 3), batch["labels"])
    assert predictions.example.reshape(6, 3)[:, 0].tolist() == list(range(6))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"].float())
    torch.testing.assert_close(-predictions.truth().mean(), expected)


def test_extreme_logits_stay_finite(several):
    task, batch = several
    with torch.no_grad():
        task.model.classifier.bias.fill_(300.0)
        assert torch.isfinite(task.predict(batch).log_probs).all()


def test_the_released_view_of_multi_label_is_one_softmax(several):
    task, batch = several
    predictions = task.predict(batch, view="released")
    torch.testing.assert_close(predictions.log_probs, logits_of(task, batch).log_softmax(1))
    assert predictions.targets.tolist() == [-1] * 6


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("view", ["scored", "released"])
def test_counts_are_those_of_the_predictions(multi_label, view):
    task = tiny.classifier(multi_label=multi_label)
    batch = tiny.examples(6, task=task).batch(np.arange(6))
    predictions = task.predict(batch, view)
    assert task.count(batch, "position", view) == len(predictions.log_probs)
    assert task.count(batch, "example", view) == predictions.size


def test_labels_are_encoded_by_the_models_own_names():
    task, both = tiny.classifier(), tiny.classifier(multi_label=True)
    assert task.encode({"text": ["a", "b"], "label": ["west", "east"]})["labels"] == [2, 0]
    found = both.encode({"text": ["a", "b"], "label": [["west", "east"], []]})["labels"]
    assert found == [[1, 0, 1], [0, 0, 0]]
    assert "labels" not in task.encode({"text": ["a"]})


def test_batches_are_padded_at_the_end_and_masked(single):
    task, batch = single
    rows = tiny.examples(6, task=task).table["input_ids"]
    for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], rows, strict=True):
        assert ids.tolist() == row + [task.tokenizer.pad_token_id] * (len(ids) - len(row))
        assert mask.tolist() == [1] * len(row) + [0] * (len(ids) - len(row))


def test_the_encoding_is_named_by_tokenizer_length_and_labels():
    names = {
        json.dumps(task.encoding())
        for task in (tiny.classifier(), tiny.classifier(max_length=9), tiny.classifier(multi_label=True))
    }
    assert len(names) == 3
    assert json.dumps(tiny.classifier(seed=1).encoding()) in names


def test_using_the_tokenizer_does_not_rename_the_encoding():
    task = tiny.classifier()
    task.tokenizer("north", padding="max_length", max_length=9)
    before = task.encoding()
    task.encode({"text": ["north"]})
    assert task.encoding() == before


def test_metrics_follow_the_kind_of_labels():
    assert isinstance(tiny.classifier().utility_metrics()[0], SingleLabel)
    assert isinstance(tiny.classifier(multi_label=True).utility_metrics()[0], MultiLabel)
    assert tiny.classifier().score_metric == "accuracy"
    assert tiny.classifier(multi_label=True).score_metric == "micro_f1"


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_saved_model_loads_with_from_pretrained_and_predicts_the_same(multi_label, tmp_path):
    task = tiny.classifier(seed=3, multi_label=multi_label)
    view = tiny.examples(6, task=task)
    task.save(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = tiny.rows(6, 1, multi_label)["text"]
    inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert torch.equal(found, logits_of(task, view.batch(np.arange(6))))
    assert [model.config.id2label[index] for index in range(3)] == list(tiny.LABELS)

    loaded = Classification.load(tmp_path, max_length=32)
    assert loaded.multi_label == multi_label and loaded.labels == list(tiny.LABELS)
    batch = view.batch(np.arange(6))
    with torch.no_grad():
        assert torch.equal(loaded.predict(batch).log_probs, task.predict(batch).log_probs)
    assert loaded.encoding() == task.encoding()


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no model folder: it has no config\.json"):
        Classification.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="can't be loaded") as caught:
        Classification.load(tmp_path)
    assert "\n" not in str(caught.value)
