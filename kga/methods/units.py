"""The units of a model's linear layers: which there are, and the weights of some of them as one vector."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kga.tasks.base import TaskModule

Unit = tuple[str, int]  # name of a layer in the task module, number of the unit


def linear_layers(module: TaskModule) -> dict[str, nn.Module]:
    """The linear layers whose units can be changed by themselves, by name in the task module.

    A unit is one output of an ``nn.Linear`` (a row of its weight and its bias) or of the ``Conv1D`` of GPT-2, which is a
    linear layer with its weight transposed (a column). Left out: layers whose weight is an embedding's too (a unit of a
    tied output layer is the embedding of a token, which all other layers read) or takes no gradient, and a weight's
    second layer. The gates of an ``nn.LSTM`` are parameters of its own and no linear layers.
    """
    taken = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | Conv1D) and layer.weight.requires_grad and id(layer.weight) not in taken:
            taken.add(id(layer.weight))
            found[name] = layer
    return found


def units_of(layer: nn.Module) -> int:
    """Number of units."""
    return layer.weight.shape[1 if isinstance(layer, Conv1D) else 0]


def own(layers: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of tensors by parameter name those of the layers' weights and biases."""
    names = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    return {name: value for name, value in tensors.items() if name in names}


@dataclass
class Chosen:
    """The weights and biases of some units of a model, as one vector of p numbers."""

    module: TaskModule
    units: list[Unit]

    def __post_init__(self) -> None:
        layers, rows = linear_layers(self.module), {}
        for layer, unit in self.units:
            rows.setdefault(layer, []).append(unit)
        self._rows = {layer: torch.tensor(numbers, device=self.module.device) for layer, numbers in rows.items()}
        self._columns = {layer for layer in rows if isinstance(layers[layer], Conv1D)}

    def _parts(self, tensors: Mapping[str, Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
        """(tensor with one row per unit, rows) of every weight and bias concerned; views of the tensors."""
        for layer, rows in self._rows.items():
            weight = tensors[f"{layer}.weight"]
            yield (weight.T if layer in self._columns else weight), rows
            if f"{layer}.bias" in tensors:
                yield tensors[f"{layer}.bias"], rows

    def vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """[p] float64, in main memory: the chosen entries of tensors by parameter name, such as gradients."""
        chosen = [tensor[rows.to(tensor.device)].flatten() for tensor, rows in self._parts(tensors)]
        return torch.cat(chosen).cpu().double()

    @torch.no_grad()
    def add(self, step: Tensor) -> None:
        """Adds a step [p] to the weights; nothing else of the model is touched."""
        start = 0
        for tensor, rows in self._parts(self._parameters()):
            count = len(rows) * tensor[0].numel()
            part = step[start : start + count].reshape(len(rows), *tensor.shape[1:])
            tensor[rows] += part.to(tensor.dtype).to(tensor.device)
            start += count
        torch.clear_autocast_cache()  # it may hold half-precision copies of the weights as they were

    def _parameters(self) -> dict[str, Tensor]:
        return {name: parameter.data for name, parameter in self.module.named_parameters(remove_duplicate=False)}
