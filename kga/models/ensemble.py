"""Several models that answer as one: their probabilities are averaged (or their votes counted) at every position."""

import copy
import inspect
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, ModelOutput

from kga.models.output import scored_states

SETTINGS = "ensemble.json"


@dataclass
class EnsembleOutput(ModelOutput):
    """logits: as a single model gives them."""

    logits: Tensor | None = None


class Ensemble(PreTrainedModel, GenerationMixin):
    """Members of one architecture and vocabulary; the logits are such that their softmax (sigmoid) is the aggregate.

    aggregate: "mean" of the members' probabilities; or "vote" (classifiers alone): the share of members whose most
    probable class it is, with so much of the mean probability mixed in that it breaks ties and no more.
    Generation averages at every step; it keeps no cache of earlier steps, since every member would need its own.
    Folder: one model folder for each member, ``shard-0``, ``shard-1``, ...
    """

    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, members: Sequence[PreTrainedModel], aggregate: str = "mean") -> None:
        super().__init__(copy.deepcopy(members[0].config))
        self.members, self.aggregate = nn.ModuleList(members), aggregate
        if members[0].can_generate():
            self.generation_config = copy.deepcopy(members[0].generation_config)
        self.encoder = Encoders(members) if self.config.is_encoder_decoder else None

    def get_output_embeddings(self) -> None:
        """None: the logits of an ensemble come from no single layer."""
        return None

    def get_encoder(self, *arguments: Any, **more: Any) -> nn.Module:
        """All members' encoders as one, for generation."""
        return self.encoder

    def forward(
        self, input_ids: Tensor | None = None, encoder_outputs: BaseModelOutput | None = None, last_only: bool = False,
        **inputs: Any,
    ) -> EnsembleOutput:  # fmt: skip
        """What the members' ``forward`` takes. last_only: logits [B, 1, V] of the last position instead of all [B, T, V]."""
        inputs = {name: value for name, value in inputs.items() if value is not None} | {"use_cache": False}
        encoded = self.encoder.apart(encoder_outputs) if encoder_outputs is not None else None
        parts = []
        for number, member in enumerate(self.members):
            known = inspect.signature(member.forward).parameters
            own = inputs if "kwargs" in known else {name: value for name, value in inputs.items() if name in known}
            own = own | ({"input_ids": input_ids} if encoded is None else {"encoder_outputs": encoded[number]})
            parts.append(_last_logits(member, own) if last_only else member(**own).logits.float())
        return EnsembleOutput(logits=self._aggregate(torch.stack(parts)))

    def _aggregate(self, logits: Tensor) -> Tensor:
        """[S, ..., C] logits of S members to [..., C]."""
        if self.config.problem_type == "multi_label_classification":
            on, off = (self._mean(F.logsigmoid(sign * logits), logits > 0, sign) for sign in (1, -1))
            return on - off
        best = F.one_hot(logits.argmax(-1), logits.shape[-1]) if self.aggregate == "vote" else logits
        return self._mean(logits.log_softmax(-1), best, 1)

    def _mean(self, log_probs: Tensor, chosen: Tensor, sign: int) -> Tensor:
        members = len(log_probs)
        mean = log_probs.logsumexp(0) - torch.tensor(float(members)).log()
        if self.aggregate == "mean":
            return mean
        votes = (chosen.float() if sign > 0 else 1 - chosen.float()).mean(0)
        tie = 1 / (members + 2)  # less than a vote is worth, (1 - tie) / members
        return torch.logaddexp(((1 - tie) * votes).log(), mean + math.log(tie))

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, encoder_outputs: BaseModelOutput | None = None,
        **more: Any,
    ) -> dict:  # fmt: skip
        """What ``forward`` takes at a step of generation: all that is written so far."""
        if encoder_outputs is not None:
            step = {"decoder_input_ids": input_ids, "encoder_outputs": encoder_outputs}
        else:  # prompts are padded on the left: positions count from the first real token
            step = {"input_ids": input_ids, "position_ids": (attention_mask.long().cumsum(1) - 1).clamp(min=0)}
        return step | {"attention_mask": attention_mask, "last_only": True}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def save_pretrained(self, folder: Path | str, **options: Any) -> None:
        """Writes every member to a folder of its own, and how they are aggregated."""
        for number, member in enumerate(self.members):
            member.save_pretrained(Path(folder) / f"shard-{number}", **options)
        write_settings(Path(folder), self.aggregate)


def _last_logits(member: PreTrainedModel, inputs: dict) -> Tensor:
    """[B, 1, V] logits of the last position; no other passes the output layer."""
    where = torch.zeros_like(inputs.get("decoder_input_ids", inputs.get("input_ids")), dtype=torch.bool)
    where[:, -1] = True
    own = {name: value for name, value in inputs.items() if name != "use_cache"}
    return scored_states(member, own, where, logits=True)[1].float().unsqueeze(1)


class Encoders(nn.Module):
    """The members' encoders side by side: their states are joined along the last dimension."""

    main_input_name = "input_ids"

    def __init__(self, members: Sequence[PreTrainedModel]) -> None:
        super().__init__()
        # Held as a plain list: they are the members' parts, and would be listed twice among the parameters.
        self.parts = [member.get_encoder() for member in members]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> BaseModelOutput:
        states = [encoder(input_ids=input_ids, attention_mask=attention_mask)[0] for encoder in self.parts]
        return BaseModelOutput(last_hidden_state=torch.cat(states, -1))

    def apart(self, joined: BaseModelOutput) -> list[BaseModelOutput]:
        """Each member's own states."""
        return [BaseModelOutput(last_hidden_state=states) for states in joined[0].chunk(len(self.parts), -1)]


def write_settings(folder: Path, aggregate: str) -> None:
    """Writes how the members in the folder are aggregated."""
    (folder / SETTINGS).write_text(json.dumps({"aggregate": aggregate}))


def read_settings(folder: Path) -> dict:
    """How the members in the folder are aggregated."""
    return json.loads((folder / SETTINGS).read_text())


def member_folders(folder: Path) -> Iterator[Path]:
    """The members' folders in order; none where the folder holds a single model."""
    number = 0
    while (folder / f"shard-{number}" / "config.json").is_file():
        yield folder / f"shard-{number}"
        number += 1
