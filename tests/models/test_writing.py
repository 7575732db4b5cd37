"""Which models may write: those that can end a text and do not see what they are to predict."""

import pytest
import torch
from helpers import saved_models, tiny
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from kga.errors import UserError
from kga.models.writing import looks_ahead, require_writer
from kga.tasks.translation import Translation

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 40}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for name in ("gpt2", "llama", "bert", "bart"):
        getattr(saved_models, name)(folder / name)
    return folder


def random(architecture: str, **more: object):
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SIZES, **more))


def test_encoders_look_ahead_and_decoders_do_not(root):
    """GPT-NeoX is causal although its config says is_decoder: false, as BERT's does."""
    assert looks_ahead(AutoModelForCausalLM.from_pretrained(root / "bert"))
    assert looks_ahead(random("roberta", pad_token_id=0)) and not looks_ahead(random("bert", is_decoder=True))
    neox = random("gpt_neox")
    assert neox.config.is_decoder is False and not looks_ahead(neox)
    for name in ("gpt2", "llama"):
        assert not looks_ahead(AutoModelForCausalLM.from_pretrained(root / name))


def test_dropout_does_not_look_like_looking_ahead_and_the_mode_stays(root):
    model = AutoModelForCausalLM.from_pretrained(root / "gpt2").train()
    assert model.config.resid_pdrop > 0
    state = torch.get_rng_state()
    assert not looks_ahead(model) and model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert not looks_ahead(model.eval()) and not model.training


def test_an_encoder_is_refused(root):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(root / "bert"), AutoTokenizer.from_pretrained(root / "bert")
    with pytest.raises(UserError, match=r"bert can't write: its tokenizer has no eos_token"):
        require_writer(model, tokenizer)
    tokenizer.eos_token = "[SEP]"
    with pytest.raises(UserError, match=r"bert can't write: it is an encoder"):
        require_writer(model, tokenizer)


def test_a_tokenizer_for_classifiers_is_refused_with_what_to_set():
    with pytest.raises(UserError, match=r"the model \(gpt_neox\) can't write.*model\.tokenizer=byte_bpe"):
        Translation(random("gpt_neox"), tiny.tokenizer())


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_classifier_whose_architecture_could_write_is_refused(root, tmp_path, name):
    AutoModelForSequenceClassification.from_pretrained(root / name).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(root / name).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"can't write: it was saved as a classifier \(\w+ForSequenceClassification\)"):
        Translation.load(tmp_path)
    assert Translation.load(root / name).model.config.model_type == name
