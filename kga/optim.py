"""The optimiser and its schedule: AdamW without decay on biases and norms, warm-up, then a decay."""

import math
from dataclasses import dataclass

import torch


@dataclass
class Optim:
    """How weights are updated.

    epochs: passes over the anchor set (the first one an update draws from).
    updates: upper bound on optimiser steps; None leaves it to ``epochs``.
    batch_size: examples of each drawn batch. micro_batch_size: examples per forward pass (None: all at once);
    micro_batch_tokens: number times longest of those (None: no bound). Neither changes a result but by rounding and dropout.
    warmup: updates of linear warm-up; a number below 1 is a share of all updates.
    schedule: "linear" (to 0), "cosine" (to 0), "inverse_sqrt" or "constant" after the warm-up.
    schedule_stretch: the schedule is as long as this many times the updates (the released KGA loop: retain_batches).
    clip: largest gradient norm (None or 0: no clipping).
    patience: epochs without a better validation loss before training stops (None: fixed epochs, no validation).
    monitor: what ``patience`` watches: "loss" or another value of the validation split (bleu: greedy translations).
    label_smoothing: share of the target that is spread evenly over all classes.
    batch_tokens: instead of ``batch_size``, as many examples of similar length that their number times the longest (tokens
        of input and target) stays within this (supervised training only).
    bucket: batches of similar length are cut from windows of this many batches (1: no sorting by length).
    fused: AdamW in one kernel; the same numbers but for rounding.
    schedule_start, schedule_total: where a fit stands in a schedule that spans several (None: this fit is all of it).
    """

    epochs: int = 10
    updates: int | None = None
    batch_size: int = 32
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    lr: float = 5e-5
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.1
    schedule: str = "linear"
    schedule_stretch: int = 1
    clip: float | None = 1.0
    patience: int | None = None
    monitor: str = "loss"
    label_smoothing: float = 0.0
    batch_tokens: int | None = None
    bucket: int = 50
    fused: bool = True
    schedule_start: int = 0
    schedule_total: int | None = None

    def __post_init__(self) -> None:
        self.betas = tuple(self.betas)


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Weight matrices decay; vectors (biases, norms) do not."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def factor(update: int, optim: Optim, total: int) -> float:
    """Learning rate at an update (counted from 0) as a share of the peak, of ``total`` scheduled updates."""
    warmup = round(optim.warmup * total) if optim.warmup < 1 else int(optim.warmup)
    if update < warmup:
        return (update + 1) / warmup
    progress = min(1.0, (update - warmup) / max(1, total - warmup))
    if optim.schedule == "linear":
        return 1.0 - progress
    if optim.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if optim.schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup) / max(1, update + 1))
    if optim.schedule == "constant":
        return 1.0
    raise ValueError(f"expected linear, cosine, inverse_sqrt or constant, got {optim.schedule!r}")


def optimizer_and_schedule(module: torch.nn.Module, optim: Optim, total: int):
    """AdamW over the trainable parameters of ``module`` and its per-update schedule, as Lightning takes them."""
    groups = parameter_groups(module, optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=optim.fused)
    total, start = optim.schedule_total or total, optim.schedule_start
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: factor(start + update, optim, total))
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]
