"""The output layer of a language model, apart from its body: so that [positions, vocabulary] need not live as a whole."""

from collections.abc import Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PROBE = 1000.0  # factor of the probe of ``scored_states``
PROBED = 8  # positions


class OutputLayer:
    """Hidden states [P, H] to logits [P, V], as the model itself does it. Holds the layer only, not the model.

    Models that do more than a linear map and a constant bias (soft caps, scales) are not reproduced by it: see
    ``reproduces``.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.linear: nn.Module = model.get_output_embeddings()
        self.bias: Tensor | None = getattr(model, "final_logits_bias", None)
        self.classes: int = self.linear.weight.shape[0]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "OutputLayer":
        """The layer that gave ``tensors``, frozen, without its model."""
        layer = cls.__new__(cls)
        classes, width = tensors["weight"].shape
        layer.linear = nn.Linear(width, classes, bias="own_bias" in tensors, device="meta")
        own = {"weight": tensors["weight"]} | ({"bias": tensors["own_bias"]} if "own_bias" in tensors else {})
        layer.linear.load_state_dict(own, assign=True)
        layer.linear.requires_grad_(False)
        layer.bias, layer.classes = tensors.get("bias"), classes
        return layer

    @property
    def linear_only(self) -> bool:
        """Whether ``tensors`` says all of it."""
        return type(self.linear) is nn.Linear

    @property
    def trained(self) -> bool:
        """Whether it takes gradients."""
        return torch.is_grad_enabled() and any(value.requires_grad for value in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Weight [V, H] and the biases there are: what ``of`` makes the layer of."""
        found = {"weight": self.linear.weight, "own_bias": self.linear.bias, "bias": self.bias}
        return {name: value for name, value in found.items() if value is not None}

    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(value.nbytes for value in self.tensors().values())

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.linear(hidden)
        return logits if self.bias is None else logits + self.bias

    def reproduces(self, hidden: Tensor, logits: Tensor) -> bool:
        """Whether the layer alone gives the logits that the whole model gave."""
        with torch.no_grad():
            return torch.allclose(self(hidden).float(), logits.float(), rtol=1e-3, atol=1e-3)


def scored_states(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], where: Tensor, logits: bool, probe: bool = False
) -> tuple[Tensor, Tensor]:
    """Runs a model and gives the hidden states [P, H] that its output layer was fed at the positions ``where`` [B, T].

    Second, the model's logits [P, V] there, or [0, V] where they are not wanted: padding and prompts never pass the
    output layer.

    probe: of a few positions only, and one more row, the first hidden state made many times larger. What a model does to
    its logits may show there alone: a soft cap is all but the identity at the small logits of random weights.
    """
    if model.get_output_embeddings() is None:  # an ensemble: there is no layer to stop before
        given = model(**inputs, use_cache=False).logits[where]
        return given[:0], given
    kept: list[Tensor] = []

    def select(layer: nn.Module, arguments: tuple) -> tuple:
        hidden = arguments[0][where]
        if probe:
            hidden = torch.cat((hidden[:PROBED], PROBE * hidden[:1]))
        kept.append(hidden)
        return (hidden if logits else hidden[:0],)

    with _before(model.get_output_embeddings(), select):
        given = model(**inputs, use_cache=False).logits
    return kept[0], given


@contextmanager
def _before(layer: nn.Module, hook):
    handle = layer.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
