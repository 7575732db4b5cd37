"""An encoder-decoder LSTM with attention, as a model of transformers: it saves, loads and generates like the others.

Importing this module registers it: ``AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("kga_lstm", ...))``.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple


class LSTMConfig(PreTrainedConfig):
    """Sizes of the model: d_model of embeddings and output, hidden_size of each LSTM (each direction of the encoder)."""

    model_type = "kga_lstm"

    vocab_size: int = 1500
    d_model: int = 128
    hidden_size: int = 128
    encoder_layers: int = 1
    decoder_layers: int = 1
    dropout: float | int = 0.1
    initializer_range: float = 0.1  # of embeddings and linear layers; with .05 it learns many times slower
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 1


class Encoder(nn.Module):
    """Token ids [B, S] to states [B, S, 2 hidden_size]; it holds the embedding that the decoder uses too."""

    main_input_name = "input_ids"

    def __init__(self, config: LSTMConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = _lstm(config.d_model, config.hidden_size, config.encoder_layers, config.dropout, bidirectional=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Positions that the mask [B, S] leaves out get zeros; ValueError unless they follow the others."""
        if attention_mask is not None and (attention_mask.long().diff(dim=1) > 0).any():
            raise ValueError("the source must be padded on the right: attention_mask has a 0 before a 1")
        lengths = source_lengths(input_ids, attention_mask)
        embedded = self.dropout(self.embed_tokens(input_ids))
        # Lengths on the CPU: packing asks for that on every device. Without autocast: on a GPU it would make the states
        # half precision whatever precision it is set to, and they would not fit the rest.
        embedded = embedded.to(self.lstm.weight_ih_l0.dtype)
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
        with torch.autocast(embedded.device.type, enabled=False):
            states, _ = self.lstm(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=input_ids.shape[1])
        return BaseModelOutput(last_hidden_state=states)


class Attention(nn.Module):
    """Global attention of Luong et al. (2015), score "general": score(query, state) = query W state."""

    def __init__(self, query_size: int, state_size: int):
        super().__init__()
        self.score = nn.Linear(state_size, query_size, bias=False)

    def forward(self, queries: Tensor, states: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Contexts [B, T, state] and weights [B, T, S] of queries [B, T, query] over states [B, S, state].

        real: [B, S], the positions that may be looked at; at least one in each row.
        """
        scores = queries @ self.score(states).transpose(1, 2)
        weights = scores.masked_fill(~real[:, None], -torch.inf).softmax(-1)
        return weights @ states, weights


class LSTMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A bidirectional LSTM reads the source, an LSTM with attention (``Attention``) writes the target.

    The decoder starts at a tanh layer of the encoder's two end states. Attention follows its top layer, without input
    feeding, so that it runs over all target positions at once: hidden = tanh(W [context; state]). Generation keeps no
    cache: each step runs the decoder over what it has written so far, and the encoder runs once.
    """

    config_class = LSTMConfig
    main_input_name = "input_ids"
    _tied_weights_keys: ClassVar = {"lm_head.weight": "encoder.embed_tokens.weight"}

    def __init__(self, config: LSTMConfig):
        super().__init__(config)
        width, layers = config.hidden_size, config.decoder_layers
        self.encoder = Encoder(config)
        self.bridge = nn.Linear(2 * width, 2 * layers * width)
        self.decoder = _lstm(config.d_model, width, layers, config.dropout)
        self.attention = Attention(width, 2 * width)
        self.combine = nn.Linear(3 * width, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The one embedding, of source and target."""
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Logits [B, T, V] of the last ``logits_to_keep`` target positions (0: of all T); T from labels if need be.

        decoder_attention_mask is ignored: the decoder sees nothing but what stands to its left. With labels [B, T], the
        loss is their mean cross-entropy, without those of -100.
        """
        if decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        states = encoder_outputs[0]
        lengths = source_lengths(states, attention_mask)
        decoded = self._decode(decoder_input_ids, states, lengths)[:, -logits_to_keep:]
        context, _ = self.attention(decoded, states, leading(lengths, states.shape[1]))
        hidden = self.dropout(torch.tanh(self.combine(torch.cat((context, decoded), -1))))
        logits = self.lm_head(hidden)
        loss = None if labels is None else nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=states)

    def _decode(self, decoder_input_ids: Tensor, states: Tensor, lengths: Tensor) -> Tensor:
        """The decoder's top states [B, T, hidden] for encoder states [B, S, 2 hidden] of which ``lengths`` are real."""
        rows = torch.arange(len(states), device=states.device)
        forward, backward = states.chunk(2, -1)
        ends = torch.cat((forward[rows, lengths - 1], backward[:, 0]), -1)
        start = torch.tanh(self.bridge(ends)).unflatten(1, (2, self.config.decoder_layers, -1))
        hidden, cell = start.permute(1, 2, 0, 3).contiguous()
        embedded = self.dropout(self.get_input_embeddings()(decoder_input_ids))
        with torch.autocast(embedded.device.type, enabled=False):
            kind = self.decoder.weight_ih_l0.dtype
            return self.decoder(embedded.to(kind), (hidden.to(kind), cell.to(kind)))[0]

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Labels [B, T] shifted right behind the start token; -100 becomes padding."""
        start = labels.new_full((len(labels), 1), self.config.decoder_start_token_id)
        return torch.cat((start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, self.config.pad_token_id)), 1)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> dict:
        """What ``forward`` takes at a step of generation: all that is written so far [B, T], never a part of it."""
        return {
            "decoder_input_ids": input_ids,
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
            "logits_to_keep": logits_to_keep,
        }

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """No: such a cache holds keys and values of attention layers; generation then goes without one."""
        return False


def source_lengths(source: Tensor, mask: Tensor | None) -> Tensor:
    """Real positions [B] of each row of a source [B, S, ...], at least 1.

    A row without any token counts its first position as one, so that how far it is padded makes no difference.
    """
    if mask is None:
        return torch.full((len(source),), source.shape[1], device=source.device)
    return mask.long().sum(1).clamp(min=1)


def leading(lengths: Tensor, width: int) -> Tensor:
    """[B, width], true at the first ``lengths`` [B] positions of each row."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def _lstm(inputs: int, hidden: int, layers: int, dropout: float, bidirectional: bool = False) -> nn.LSTM:
    between = dropout if layers > 1 else 0.0  # torch warns of dropout between layers where there is one layer
    return nn.LSTM(inputs, hidden, layers, batch_first=True, dropout=between, bidirectional=bidirectional)


AutoConfig.register(LSTMConfig.model_type, LSTMConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(LSTMConfig, LSTMForConditionalGeneration, exist_ok=True)
