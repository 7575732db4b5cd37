"""Small random models: decided by their seed, and by nothing around them."""

import torch
from helpers import tiny

from kga.hashing import state_digest
from kga.tasks.classification import Classification, labels_head


def weights(seed: int) -> str:
    head = labels_head(tiny.LABELS, False)
    return state_digest(tiny.family(dropout=0.1).model(Classification, tiny.tokenizer(), head, seed).state_dict())


def test_a_seed_decides_the_weights():
    torch.manual_seed(1)
    first = weights(0)
    torch.manual_seed(2)
    assert weights(0) == first
    assert weights(1) != first


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    weights(5)
    assert torch.equal(before, torch.get_rng_state())


def test_the_model_is_of_the_config_and_knows_tokenizer_and_labels():
    head = labels_head(tiny.LABELS, True)
    model = tiny.family(dropout=0.3).model(Classification, tiny.tokenizer(), head, 0)
    config = model.config
    assert (config.model_type, config.dim, config.n_layers, config.dropout) == ("distilbert", 16, 1, 0.3)
    assert (config.vocab_size, config.pad_token_id) == (len(tiny.tokenizer()), tiny.tokenizer().pad_token_id)
    assert [config.id2label[index] for index in range(3)] == list(tiny.LABELS)
    assert config.problem_type == "multi_label_classification"
    assert model.get_input_embeddings().num_embeddings == len(tiny.tokenizer())


def test_the_tokenizer_is_trained_on_the_given_texts_alone():
    family = tiny.family()
    tokenizer = family.tokenizer(lambda: ["alpha beta"] * 5)
    assert "alpha" in tokenizer.get_vocab() and "north" not in tokenizer.get_vocab()
    assert len(tokenizer) <= family.vocab_size
    assert family.tokenizer_recipe() == {"type": "bpe", "vocab_size": 200}
