"""Subword tokenizers trained on D alone."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


WRITING = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "<sep>",
}


def train_byte_subwords(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A subword tokenizer for models that write: no character is unknown, and tokens turn back into the same text.

    Byte-pair merges over UTF-8 bytes (Radford et al. 2019); a text is framed as ``text </s>``. ``<sep>`` stands between
    the parts of an input.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(WRITING.values()),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    closing = (WRITING["eos_token"], tokenizer.token_to_id(WRITING["eos_token"]))
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[closing])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **WRITING)


def train_subwords(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """A subword tokenizer that frames a text as ``[CLS] text [SEP]``.

    Byte-pair merges (Sennrich et al. 2016), because they come out the same in every process; the library's WordPiece
    and Unigram trainers break ties by the order of a hash map, which would give the same D other token ids each time.
    """
    tokenizer = Tokenizer(BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    trainer = BpeTrainer(vocab_size=vocab_size, special_tokens=list(SPECIAL.values()), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    framing = [(name, tokenizer.token_to_id(name)) for name in (SPECIAL["cls_token"], SPECIAL["sep_token"])]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=framing)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
