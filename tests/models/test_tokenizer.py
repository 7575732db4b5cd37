"""Tokenizers trained on D: the same everywhere, and knowing nothing but D."""

import os
import subprocess
import sys
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from kga.models.tokenizer import SPECIAL, WRITING, train_byte_subwords, train_subwords

# Many pairs of letters are equally frequent, so that an order taken from a hash table would show.
TEXTS = [f"{first}{second}{first} {second}{first}x Zoë" for first in "abcdefg" for second in "hijklmn"]
SCRIPT = f"""
import sys
import kga.models.tokenizer as module
print(getattr(module, sys.argv[1])({TEXTS!r}, int(sys.argv[2])).backend_tokenizer.to_str())
"""
KINDS = [(train_subwords, 60), (train_byte_subwords, 290)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_subwords(iter(TEXTS), 60)


@pytest.mark.parametrize(("train", "size"), KINDS)
def test_the_same_texts_give_the_same_tokenizer_in_another_process(train, size):
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}
    command = [sys.executable, "-c", SCRIPT, train.__name__, str(size)]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    assert other == train(iter(TEXTS), size).backend_tokenizer.to_str()
    assert train(TEXTS[1:], size).backend_tokenizer.to_str() != other


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


# For models that write --------------------------------------------------------------------------------------------


@cache
def byte_subwords():
    return train_byte_subwords(iter(TEXTS), 290)


@pytest.fixture
def writing():
    return byte_subwords()


def read_back(tokenizer, text: str) -> str:
    """As written texts are read: without special tokens, and without the space that every text begins with."""
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True).removeprefix(" ")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).map(str.strip))
@example("Übergrößenträger: naïve Łódź, Ελλάδα; 漢字 かな")
@example("a 👩‍👩‍👧‍👦 family 🇩🇪, 1,000.50 € -- isn't it ? n't 's . , !")
@example("e\u0301 is two characters and \u00e9 is one")
@example("two  spaces\ta tab\na line\r\nanother\u00a0\u200bthere")
@example("MiXeD CASE")
@example("")
def test_any_text_comes_back(text):
    assert read_back(byte_subwords(), text) == text


def test_nothing_is_unknown_to_bytes_whatever_the_texts_were():
    """A vocabulary smaller than the bytes would lose characters: all of them come first."""
    small = train_byte_subwords(["aa"] * 9, 10)
    text = "".join(map(chr, [*range(33, 127), *range(161, 800), 0x4E00, 0x1F600]))
    assert small.unk_token_id not in small(text)["input_ids"]
    assert read_back(small, text) == text


def test_what_d_never_showed_is_spelled_in_bytes(writing):
    assert len(writing("漢", add_special_tokens=False)["input_ids"]) == 1 + len("漢".encode())
    assert len(writing("aha", add_special_tokens=False)["input_ids"]) < 4


def test_a_text_for_writing_is_closed_and_nothing_stands_before_it(writing):
    ids, bare = writing("aha hax")["input_ids"], writing("aha hax", add_special_tokens=False)["input_ids"]
    assert ids == [*bare, writing.eos_token_id]
    assert not set(bare) & set(writing.all_special_ids)
    assert [writing.convert_tokens_to_ids(name) for name in WRITING.values()] == list(range(5))
    named = [getattr(writing, f"{name}_id") for name in WRITING]
    assert named == list(range(5)) and len(writing) == 290


def test_a_word_is_the_same_at_the_beginning_and_later(writing):
    first, later = (writing(text, add_special_tokens=False)["input_ids"] for text in ("hax", "aha hax"))
    assert later[-len(first) :] == first


def test_a_saved_tokenizer_for_writing_says_the_same(writing, tmp_path):
    writing.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, "don't , stop !  ü"]
    assert loaded(texts)["input_ids"] == writing(texts)["input_ids"]
    assert [read_back(loaded, text) for text in texts] == texts
    assert [getattr(loaded, f"{name}_id") for name in WRITING] == list(range(5))
