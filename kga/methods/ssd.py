"""Selective synaptic dampening: weights that matter to D_f far more than to D are made smaller, without training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kga.console import note
from kga.data.encoded import Examples
from kga.errors import UserError, one_of
from kga.methods.base import Method, Statistic
from kga.methods.gradients import Gradients, mean_over_batches, trainable
from kga.predictions import Predictions, cross_entropy, over_positions
from kga.tasks.base import TaskModule


class SSD(Method):
    """Where I_f > alpha I_D: theta <- theta min(1, lam I_D / I_f) (Foster et al. 2024).

    I is a mean over batches, of D_f or of D = D_f and D_r. Needs D_f, and D once: I_D is kept for all requests. Cost: one
    pass with gradients over D once, one over D_f per request.

    importance: "fisher", the squared gradient of the batch's mean cross-entropy, or "magnitude" (label-free SSD), the size
        of the gradient of the mean squared norm of the outputs. Predictions know outputs up to a constant per position
        alone, so those are the logits less their mean over the classes (of a multi-label model: half the squared logit).
    alpha: measured on single examples, I_f / I_D is at most |D| / |D_f|, as D holds D_f: an alpha above that dampens
        nothing. (Means of batches, which cancel in D, have no such bound; sizes of outputs do not cancel, and need an alpha
        near 1.)
    batch_size: the same for both sets, because the gradient of a batch's mean shrinks as batches grow.
    skip_norms: leave the parameters of normalisation layers as they are.
    """

    edits = True
    splits = ("forget",)

    def __init__(
        self,
        alpha: float = 10.0,
        lam: float = 1.0,
        importance: str = "fisher",
        batch_size: int = 16,
        skip_norms: bool = True,
    ) -> None:
        super().__init__()
        one_of("method.importance", importance, ("fisher", "magnitude"))
        if alpha < 0 or lam < 0 or batch_size < 1:
            raise UserError("method: alpha and lam are 0 or more, batch_size at least 1")
        self.alpha, self.lam, self.importance = alpha, lam, importance
        self.batch_size, self.skip_norms = batch_size, skip_norms
        self.dampened = 0.0

    def statistics(self) -> dict[str, Statistic]:
        recipe = {"importance": self.importance, "batch_size": self.batch_size}
        return {"importance": Statistic(lambda models, examples: self.measure(models, examples, "D"), recipe)}

    def measure(self, models: Sequence[TaskModule], examples: Examples, title: str) -> Gradients:
        """The importance of every trainable parameter for a set."""
        function, loss = {"fisher": (torch.square, cross_entropy), "magnitude": (torch.abs, squared_norm)}[
            self.importance
        ]
        return mean_over_batches(
            models[0], examples, self.batch_size, function, loss, f"importance of weights for {title}"
        )

    @torch.no_grad()
    def edit(self, module: TaskModule) -> None:
        everywhere, here = self.statistics_found["importance"], self.measure([module], self.sets["forget"], "D_f")
        spared = norm_parameters(module) if self.skip_norms else set()
        parameters = {name: parameter for name, parameter in trainable(module).items() if name not in spared}
        dampened = 0
        for name, parameter in parameters.items():
            important = everywhere[name].to(parameter.device)
            factor = self.lam * important / here[name]
            chosen = (here[name] > self.alpha * important) & (factor < 1)
            parameter.copy_(torch.where(chosen, factor * parameter, parameter))
            dampened += int(chosen.sum())
        self.dampened = dampened / max(1, sum(parameter.numel() for parameter in trainable(module).values()))
        if not dampened:
            note("SSD dampened no weight: lower method.alpha")

    def outcome(self) -> dict:
        """``dampened``: the share of trainable parameters that were made smaller."""
        return super().outcome() | {"dampened": self.dampened}


def squared_norm(predictions: Predictions) -> Tensor:
    """[P] sum over the classes of (logit - mean logit)^2."""
    return over_positions(_squared_norm, predictions)


def _squared_norm(predictions: Predictions) -> Tensor:
    log_probs = predictions.log_probs
    return (log_probs - log_probs.mean(1, keepdim=True)).square().sum(1)


def norm_parameters(module: nn.Module) -> set[str]:
    """Names of the parameters of normalisation layers (models bring their own kinds, so they are known by name)."""
    layers = {name: part for name, part in module.named_modules() if "norm" in type(part).__name__.lower()}
    return {f"{name}.{own}" for name, part in layers.items() for own, _ in part.named_parameters(recurse=False)}
