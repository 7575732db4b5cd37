"""Models from a folder: the saved backbone, its own tokenizer, and a head for the task's labels."""

import pytest
import torch
from helpers import tiny

from kga.errors import UserError
from kga.hashing import state_digest
from kga.models.pretrained import Pretrained
from kga.tasks.classification import Classification, labels_head

TWO = labels_head(("down", "up"), False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    tiny.classifier(seed=9).save(folder)
    return Pretrained(str(folder), max_length=32)


def test_the_backbone_is_the_saved_one_and_the_head_is_drawn_from_the_seed(saved):
    source = tiny.classifier(seed=9).model
    first, again, other = (saved.model(Classification, saved.tokenizer(list), TWO, seed) for seed in (0, 0, 1))
    for model in (first, other):
        assert state_digest(model.base_model.state_dict()) == state_digest(source.base_model.state_dict())
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert first.classifier.out_features == 2 and first.config.id2label == {0: "down", 1: "up"}


def test_from_scratch_it_has_the_architecture_and_nothing_else(saved):
    source = tiny.classifier(seed=9).model
    model = saved.model(Classification, saved.tokenizer(list), TWO, 0, scratch=True)
    assert model.config.dim == 16 and model.config.id2label == {0: "down", 1: "up"}
    assert not torch.equal(model.get_input_embeddings().weight, source.get_input_embeddings().weight)


def test_the_global_random_state_is_left_alone(saved):
    before = torch.get_rng_state()
    saved.model(Classification, saved.tokenizer(list), TWO, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_the_tokenizer_comes_with_the_model_and_is_not_trained(saved):
    def never():
        raise AssertionError("a pretrained tokenizer sees no text of D")

    assert saved.tokenizer(never).get_vocab() == tiny.tokenizer().get_vocab()
    assert saved.tokenizer_recipe() is None


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.name=.* is no model folder"):
        Pretrained(str(tmp_path), 32)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.name=.* can't be loaded") as caught:
        Pretrained(str(tmp_path), 32).model(Classification, tiny.tokenizer(), TWO, 0)
    assert "\n" not in str(caught.value)
