"""How far two models' hidden states and weights are apart."""

import torch
from torch import Tensor, nn


def cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment of [N, H1] and [N, H2] states of the same examples (Kornblith et al. 2019).

    0 to 1; 1: the same up to rotation and scale. NaN where one of them is constant.
    """
    x, y = (states.double() - states.double().mean(0) for states in (first, second))
    if len(x) < min(x.shape[1], y.shape[1]):  # the smaller of the two equal forms
        a, b = x @ x.T, y @ y.T
        value = (a * b).sum() / (a.norm() * b.norm())
    else:
        value = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    return float(value)


def weight_distance(first: nn.Module, second: nn.Module) -> float | None:
    """L2 over all parameters (tied ones once); None for models of different shapes.

    Means something only between models of the same initial weights and the same order of data.
    """
    here, there = (dict(model.named_parameters()) for model in (first, second))
    if {name: value.shape for name, value in here.items()} != {name: value.shape for name, value in there.items()}:
        return None
    squares = [(here[name].detach().double() - there[name].detach().double()).square().sum() for name in here]
    return float(torch.stack(squares).sum().sqrt())
