"""Model folders as the hub holds them: real tokenizers, tiny random weights, made without network.

Each function writes one into an empty folder. Vocabularies are learned from texts of the embedded data.
"""

import io
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import sentencepiece
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from kga.data.corpus import column
from kga.data.embedded import load

WIDTH = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip


@cache
def sides() -> tuple[list[str], list[str]]:
    """German and English sentences."""
    train = load("translation", size=200).train
    return column(train, "source").to_pylist(), column(train, "target").to_pylist()


def texts() -> list[str]:
    """The sentences of both languages."""
    return [text for side in sides() for text in side]


def marian(folder: Path) -> None:
    """MarianMT: a sentencepiece model per language, padding starts the decoder and is forbidden, the end is forced."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["</s>", "<unk>"]
    for name, side in zip(("source.spm", "target.spm"), sides(), strict=True):
        model = _sentencepiece(side)
        (folder / name).write_bytes(model.serialized_model_proto())
        pieces += [model.id_to_piece(number) for number in range(model.vocab_size())]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, "<pad>"]))}
    padding = len(vocabulary) - 1
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    languages = {"source_lang": "deu", "target_lang": "eng"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(languages | {"tokenizer_class": "MarianTokenizer", "model_max_length": 512})
    )
    special = {"pad_token_id": padding, "eos_token_id": 0, "bos_token_id": 0, "decoder_start_token_id": padding}
    config = hf.MarianConfig(
        vocab_size=len(vocabulary), **special, **WIDTH, forced_eos_token_id=0, max_position_embeddings=512,
        scale_embedding=True, static_position_embeddings=True, init_std=0.5,
    )  # fmt: skip
    _save(hf.MarianMTModel, config, folder, bad_words_ids=[[padding]], forced_eos_token_id=0, num_beams=6,
          max_length=512, renormalize_logits=True, **special)  # fmt: skip


def bart(folder: Path) -> None:
    """BART: byte-level tokens in ``<s> ... </s>``; the decoder starts at ``</s>`` and is made to write ``<s>``."""
    vocabulary, merges = _byte_pairs(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    hf.BartTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = hf.BartConfig(vocab_size=len(vocabulary), **special, **WIDTH, max_position_embeddings=512, init_std=0.5)
    _save(hf.BartForConditionalGeneration, config, folder, forced_bos_token_id=0, forced_eos_token_id=2,
          no_repeat_ngram_size=3, num_beams=4, early_stopping=True, **special)  # fmt: skip


def t5(folder: Path) -> None:
    """T5: the decoder starts at the padding token, and its states are scaled before the output layer."""
    model = _sentencepiece(texts(), pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    pieces = [(model.id_to_piece(number), model.get_score(number)) for number in range(model.vocab_size())]
    tokenizer = hf.T5Tokenizer(vocab=pieces, extra_ids=10)
    tokenizer.save_pretrained(folder)
    config = hf.T5Config(
        vocab_size=len(tokenizer) + 6, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, initializer_factor=4.0,
        tie_word_embeddings=True, decoder_start_token_id=0,
    )  # fmt: skip
    _save(hf.T5ForConditionalGeneration, config, folder, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)


def gpt2(folder: Path) -> None:
    """GPT-2: byte-level tokens, no framing and no padding token."""
    vocabulary, merges = _byte_pairs([], ["<|endoftext|>"])
    hf.GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token=None).save_pretrained(folder)
    end = {"bos_token_id": len(vocabulary) - 1, "eos_token_id": len(vocabulary) - 1}
    config = hf.GPT2Config(
        vocab_size=len(vocabulary), n_embd=16, n_layer=1, n_head=2, n_positions=256, initializer_range=0.5, **end
    )
    _save(hf.GPT2LMHeadModel, config, folder, **end)


def llama(folder: Path) -> None:
    """Llama: rotary positions, a text begins with a token of its own, sampling by default, no padding token."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    vocabulary, merges = _byte_pairs([], [begin, end])
    rules = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    rules.pre_tokenizer, rules.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    rules.post_processor = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, vocabulary[begin])])
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=rules, bos_token=begin, eos_token=end)
    tokenizer.save_pretrained(folder)
    framing = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = hf.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, initializer_range=0.5, **framing,
    )  # fmt: skip
    _save(hf.LlamaForCausalLM, config, folder, do_sample=True, temperature=0.6, top_p=0.9, max_length=256, **framing)


def bert(folder: Path) -> None:
    """BERT, an encoder: it sees what stands to the right, and a masked-word head is all that it writes with."""
    from kga.models.tokenizer import train_subwords

    tokenizer = train_subwords(texts(), 300)
    tokenizer.save_pretrained(folder)
    config = hf.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    hf.BertForMaskedLM(config).save_pretrained(folder)


def _save(kind: type, config: hf.PretrainedConfig, folder: Path, **generation: object) -> None:
    """Weights and config, and the generation config beside them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
    model.generation_config = hf.GenerationConfig(**generation)
    model.save_pretrained(folder)


def _sentencepiece(side: Iterable[str], **ids: int) -> sentencepiece.SentencePieceProcessor:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(side), model_writer=trained, vocab_size=200, hard_vocab_limit=False, minloglevel=2,
        num_threads=1, **ids,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())


def _byte_pairs(first: list[str], last: Iterable[str] = ()) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level tokenizer, with special tokens before and behind the others."""
    rules = Tokenizer(BPE())
    rules.pre_tokenizer = ByteLevel(add_prefix_space=False)
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=400, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    rules.train_from_iterator(texts(), trainer)
    model = json.loads(rules.to_str())["model"]
    vocabulary = model["vocab"] | {token: len(model["vocab"]) + number for number, token in enumerate(last)}
    return vocabulary, [tuple(pair) for pair in model["merges"]]
