"""Tokenizers trained on D: the same everywhere, and knowing nothing but D."""

import os
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from kga.models.tokenizer import SPECIAL, train_subwords

# Many pairs of letters are equally frequent, so that an order taken from a hash table would show.
TEXTS = [f"{first}{second}{first} {second}{first}x Zoë" for first in "abcdefg" for second in "hijklmn"]
SCRIPT = f"""
from kga.models.tokenizer import train_subwords
print(train_subwords({TEXTS!r}, 60).backend_tokenizer.to_str())
"""


@pytest.fixture(scope="module")
def tokenizer():
    return train_subwords(iter(TEXTS), 60)


def test_the_same_texts_give_the_same_tokenizer_in_another_process(tokenizer):
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}
    command = [sys.executable, "-c", SCRIPT]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert other == train_subwords(iter(TEXTS), 60).backend_tokenizer.to_str()
    assert train_subwords(TEXTS[1:], 60).backend_tokenizer.to_str() != other


def test_a_text_is_framed_and_its_special_tokens_are_known(tokenizer):
    ids = tokenizer("aha hax")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert tokenizer.pad_token_id == 0
    assert [tokenizer.convert_tokens_to_ids(name) for name in SPECIAL.values()] == list(range(5))
    assert "".join(tokenizer.convert_ids_to_tokens(ids[1:-1])) == "ahahax"


def test_the_vocabulary_is_bounded(tokenizer):
    assert len(tokenizer) == 60


def test_what_the_texts_never_showed_is_unknown(tokenizer):
    assert tokenizer("漢")["input_ids"][1:-1] == [tokenizer.unk_token_id]


def test_case_is_folded_unless_told_otherwise(tokenizer):
    assert tokenizer("ZOË")["input_ids"] == tokenizer("zoë")["input_ids"]
    cased = train_subwords(TEXTS, 60, lowercase=False)
    assert cased("ZOË")["input_ids"] != cased("Zoë")["input_ids"]


def test_saved_and_loaded_it_says_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert (loaded.pad_token_id, loaded.cls_token_id) == (tokenizer.pad_token_id, tokenizer.cls_token_id)
