"""The loss of one update, and how it is backpropagated piece by piece.

An update is a list of steps; a step maps set names ("forget", "retain", ...) to one batch each. An objective gives, for
a step, *sums* named after the sets they were measured on, and says how the loss of the update follows from their
*means over the whole update*. Because everything nonlinear is applied to those means, one batch of 16 equals two
of 8, and several processes equal one.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from kga.errors import UserError
from kga.predictions import cross_entropy

Batch = dict[str, Tensor]
Step = dict[str, Batch]
Update = list[Step]


class StandIn(dict):
    """A batch of an example that is another process's: it keeps a process without one in step, and counts nothing."""


class Objective:
    """What a task minimises. A method fills a task's slot with one of these.

    units: what the mean of a set's sum is taken over, "position" (default) or "example".
    view: how the task is asked to predict, see ``TaskModule.predict``.
    nonlinear: names of the sums that enter ``combine`` nonlinearly; they are measured before anything is
        backpropagated when an update spreads them over several steps.
    """

    units: Mapping[str, str] = {}
    view: str = "scored"
    nonlinear: tuple[str, ...] = ()

    def terms(self, module, step: Step) -> dict[str, Tensor]:
        """Sums (scalars, with gradient) for one step, each named after the set of the step it was measured on."""
        raise NotImplementedError(f"{type(self).__name__} declares no loss")

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        """Loss of the update from the means of all its sums."""
        return sum(means.values())

    def shape_gradients(self, module) -> None:
        """Called when the gradients of an update are complete, before they are clipped: to mask some in place."""

    def after_update(self, module, means: dict[str, float], loss: float) -> None:
        """Called after the optimiser's step, for logging, stopping and dual variables."""

    def diverged(self, module, what: str) -> None:
        """Called instead of the optimiser's step when the loss or the gradient is not finite. UserError: nothing to save."""
        raise UserError(
            f"the {what} is not finite at update {module.trainer.global_step + 1}: stopped before the weights were "
            f"touched, and what was saved before is kept; try a lower learning rate (now {module.optim.lr:g}) or clipping"
        )

    def counts(self, module, step: Step) -> dict[str, int]:
        """How many units each set of the step contributes to the means."""
        return {name: module.count(batch, self.units.get(name, "position"), self.view) for name, batch in step.items()}


class Supervised(Objective):
    """Mean cross-entropy over the positions of the update: how A_D, A_R and the helpers are trained."""

    def terms(self, module, step: Step) -> dict[str, Tensor]:
        smoothing = module.optim.label_smoothing
        return {name: cross_entropy(module.predict(batch), smoothing).sum() for name, batch in step.items()}


def backpropagate(
    objective: Objective,
    module,
    update: Update,
    backward: Callable[[Tensor], None],
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    world_size: int = 1,
) -> tuple[dict[str, float], float]:
    """Adds the gradient of the update's loss, one step at a time, so that graphs never pile up.

    For every step the derivative of ``combine`` at the means weighs the step's sums. ``reduce`` adds a tensor over
    processes; as data-parallel training averages gradients over ``world_size`` processes, the loss is scaled by it.
    Returns the means of the whole update and its loss.
    """
    counts = _total(
        (
            {
                name: torch.tensor(float(count)) * (not _void(step, name))
                for name, count in objective.counts(module, step).items()
            }
            for step in update
        ),
        reduce,
        module.device,
    )
    measured = _measure(objective, module, update, reduce)
    sums: dict[str, Tensor] = {}
    for step in update:
        terms = _terms(objective, module, step)
        seen = {name: reduce(value.detach()) for name, value in terms.items()} | measured
        weights = _derivative(
            objective,
            {name: seen.get(name, torch.zeros_like(count)) / count.clamp(min=1) for name, count in counts.items()},
        )
        backward(world_size * sum(weights[name] * value / counts[name].clamp(min=1) for name, value in terms.items()))
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
    means = {name: reduce(value) / counts[name].clamp(min=1) for name, value in sums.items()}
    loss = float(objective.combine(means).detach())
    return {name: float(value) for name, value in means.items()}, loss


def _measure(objective: Objective, module, update: Update, reduce) -> dict[str, Tensor]:
    """Sums of the nonlinear terms over the update, where more than one step holds them (else one pass is enough).

    The random state is put back, so that the pass with gradient sees the same dropout; steps with nonlinear terms
    must therefore stand first in an update.
    """
    steps = [step for step in update if set(step) & set(objective.nonlinear)]
    if len(steps) < 2:
        return {}
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        return _total(
            (_keep(_terms(objective, module, step), objective.nonlinear) for step in steps), reduce, module.device
        )


def _terms(objective: Objective, module, step: Step) -> dict[str, Tensor]:
    """The step's sums; nought, with a gradient of nought, where a batch stands in."""
    return {name: value * 0 if _void(step, name) else value for name, value in objective.terms(module, step).items()}


def _void(step: Step, name: str) -> bool:
    batches = [step[name]] if name in step else step.values()
    return any(isinstance(batch, StandIn) for batch in batches)


def _keep(terms: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    return {name: value for name, value in terms.items() if name in names}


def _total(parts: Iterable[dict[str, Tensor]], reduce, device: torch.device) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value.to(device)
    return {name: reduce(value) for name, value in total.items()}


def _derivative(objective: Objective, means: dict[str, Tensor]) -> dict[str, Tensor]:
    """d loss / d mean for every name."""
    with torch.enable_grad():
        leaves = {name: value.detach().float().requires_grad_() for name, value in means.items()}
        loss = objective.combine(leaves)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: torch.zeros(()) if g is None else g for name, g in zip(leaves, gradients, strict=True)}
