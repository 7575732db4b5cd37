"""Gradients of A_D outside a fit: in eval mode, by parameter name, of losses that are means over scored positions.

All of them cover the trainable parameters (weights that are tied once), in float32 on the module's device, whatever the
grad mode of the caller; they leave the module in eval mode and the parameters' ``grad`` alone.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from kga.console import progress
from kga.data.batching import in_order
from kga.data.encoded import Examples
from kga.objective import Batch
from kga.predictions import Predictions, cross_entropy
from kga.tasks.base import TaskModule

Gradients = dict[str, Tensor]
Loss = Callable[[Predictions], Tensor]  # predictions at P positions to [P]


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that gradients are taken of, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def sample(examples: Examples, number: int) -> Examples:
    """At most so many examples, drawn evenly with PyTorch's random state."""
    return examples.take(torch.randperm(len(examples))[:number].sort().values.numpy())


def mean_gradient(
    module: TaskModule, examples: Examples, batch_size: int, loss: Loss = cross_entropy, title: str = "gradients"
) -> Gradients:
    """Gradient of the loss's mean over all scored positions of a set; the same whatever the batches."""
    total, positions = _zeros(module), 0
    for gradients, count in batch_gradients(module, examples, batch_size, loss, title):
        for name, value in gradients.items():
            total[name].add_(value, alpha=count)
        positions += count
    return {name: value / max(1, positions) for name, value in total.items()}


def squared_gradients(
    module: TaskModule, examples: Examples, batch_size: int, title: str = "squared gradients"
) -> Gradients:
    """Mean over batches of the squared gradient of a batch's mean loss; never below 0.

    With ``batch_size`` 1 the diagonal of the empirical Fisher information (of an example's mean over its positions).
    Batches are an even draw from the set, as in training, because here they decide the result.
    """
    return mean_over_batches(module, examples, batch_size, torch.square, title=title)


def mean_over_batches(
    module: TaskModule, examples: Examples, batch_size: int, function: Callable[[Tensor], Tensor],
    loss: Loss = cross_entropy, title: str = "gradients",
) -> Gradients:  # fmt: skip
    """Mean over batches of a function of the gradient of a batch's mean loss; batches as in ``squared_gradients``."""
    total, batches = _zeros(module), 0
    for gradients, _ in batch_gradients(module, examples, batch_size, loss, title, shuffled=True):
        for name, value in gradients.items():
            total[name] += function(value)
        batches += 1
    return {name: value / max(1, batches) for name, value in total.items()}


def batch_gradients(
    module: TaskModule, examples: Examples, batch_size: int, loss: Loss = cross_entropy, title: str = "gradients",
    shuffled: bool = False,
) -> Iterator[tuple[Gradients, int]]:  # fmt: skip
    """For each batch of a set the gradient of its mean loss, and its number of scored positions; with a progress bar.

    Batches are always the same: of similar length, or (``shuffled``) of one random order.
    """
    module.eval()
    batches = list(_shuffled(len(examples), batch_size) if shuffled else in_order(examples, batch_size))
    with progress(title, len(batches)) as advance:
        for positions in batches:
            batch = {name: value.to(module.device) for name, value in examples.batch(positions).items()}
            yield gradient_of(module, batch, loss)
            advance()


def gradient_of(module: TaskModule, batch: Batch, loss: Loss) -> tuple[Gradients, int]:
    """The gradient of a batch's mean loss, and the batch's number of scored positions."""
    parameters = trainable(module)
    # Half-precision copies that autocast keeps of the weights may be older than the weights, or know no gradient.
    torch.clear_autocast_cache()
    with torch.enable_grad(), _recurrent_layers(module):
        values = loss(module.predict(batch))
        found = torch.autograd.grad(values.sum() / max(1, len(values)), list(parameters.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
    }
    return gradients, len(values)


def _recurrent_layers(module: nn.Module) -> AbstractContextManager:
    """cuDNN has no backward pass of recurrent layers in eval mode; PyTorch's own kernels have."""
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    return torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()


def _zeros(module: TaskModule) -> Gradients:
    return {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in trainable(module).items()}


def _shuffled(size: int, batch_size: int) -> Iterator[np.ndarray]:
    order = np.random.default_rng(0).permutation(size)
    return (order[start : start + batch_size] for start in range(0, size, batch_size))
