"""What a model must be able to do before a task has it write texts."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kga.errors import UserError

ADVICE = "choose an encoder-decoder or a decoder-only language model"


def require_writer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """UserError unless a model was made to write: the tokenizer can end a text, no position sees what follows it.

    transformers makes language models of classifiers (with the embedding as output layer) and of encoders, too.
    Encoders (BERT and its kin) see the token that they are to predict: trained and scored like the others, they would
    seem to know everything and write nonsense.
    """
    config = model.config
    name = config.name_or_path or f"the model ({config.model_type})"
    if any("Classification" in saved for saved in config.architectures or ()):
        raise UserError(f"{name} can't write: it was saved as a classifier ({config.architectures[0]}); {ADVICE}")
    if tokenizer.eos_token_id is None:
        own = "" if config.name_or_path else " (model.tokenizer=byte_bpe has one)"
        raise UserError(f"{name} can't write: its tokenizer has no eos_token that ends a text{own}; {ADVICE}")
    if not config.is_encoder_decoder and looks_ahead(model):
        raise UserError(f"{name} can't write: it is an encoder, which sees the words that it is to predict; {ADVICE}")


@torch.no_grad()
def looks_ahead(model: PreTrainedModel) -> bool:
    """Whether what a language model says at its first position depends on the tokens that follow."""
    ids = torch.tensor([[0, 0, 0], [0, 1, 1]], device=model.device)
    was_training = model.training
    model.eval()
    first, other = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0].float()
    model.train(was_training)
    return bool((first - other).abs().max() > 1e-4 * first.abs().max())
