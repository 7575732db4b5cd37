"""L-CODEC (Mehta et al., "Deep Unlearning via Randomized Conditionally Independent Hessians", CVPR 2022)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from kga.console import Advance, note, progress
from kga.data.batching import in_order
from kga.data.encoded import Examples
from kga.errors import UserError, one_of
from kga.methods.base import Method, Statistic
from kga.methods.foci import foci
from kga.methods.gradients import Gradients, gradient_of, mean_gradient, trainable
from kga.methods.newton import newton_step, noise_scale
from kga.methods.perturb import record
from kga.methods.units import Chosen, linear_layers, own
from kga.predictions import cross_entropy
from kga.tasks.base import TaskModule

SHOWN = 50  # units that the result names


class LCODEC(Method):
    """A damped Newton step away from D_f on the few units that the loss depends on: for a request x of D_f

        w <- w + strength m / (n - m) (H + damping I)^-1 grad l(x),   H = (n H_D - m H_x) / (n - m)

    on the weight rows and biases of chosen units of linear layers (``linear_layers``); all else stays bit for bit. n
    and m are the scored positions left of D and in x, l the mean loss per position: (n L_D - m l) / (n - m) is then the
    training loss without x. H_D and H_x are secants dg dg^T / |dw|_1 of rank 1, dg the change of the gradient over A_D's
    last epoch dw, |dw|_1 over the chosen weights. For x it is taken along the same dw up to the weights as they are, so
    for the first request from one epoch end to the other. H has rank 2 and is inverted exactly, without H_x where that
    would leave it indefinite (``newton_step``).

    Units are chosen on perturbed copies of x (``perturbed``, seeded), by how a copy changes their mean output and the
    loss: of the ``candidates`` with the largest correlation those that FOCI picks, the first one always, at most
    ``max_units``.

    Needs A_D at its last two epoch ends and D, once (two passes over D with gradient; dw and dg are kept in float32: at
    most twice the model), then D_f alone. Cost of a request: 2 x perturbations x copy_size forwards, a gradient of x at
    two points, and FOCI: perturbations^2 x candidates per unit chosen, a third of a second on one core for 500 and 256.

    request: "batch" (D_f at once; a copy perturbs ``copy_size`` examples drawn from it) or "example" (one after
    another, a copy perturbs it alone; each has its own choice at the weights that the last one left, and n decreases).
    Single examples have far larger gradients than D_f: they need some ten times the damping, or the model runs away.
    strength: multiple of the step; 1 is the method. noise: added to the chosen weights, see ``noise_scale``.
    """

    edits = True
    splits = ("forget",)

    def __init__(
        self, request: str = "batch", perturbations: int = 500, copy_size: int = 1, candidates: int = 256,
        max_units: int = 64, damping: float = 0.005, strength: float = 1.0, noise: bool = False, epsilon: float = 1.0,
        delta: float = 1.0, hessian_lipschitz: float = 0.25, lipschitz: float = 1.0, batch_size: int = 64,
    ) -> None:  # fmt: skip
        super().__init__(cache="none")
        one_of("method.request", request, ("batch", "example"))
        sizes = (perturbations - 1, copy_size, candidates, max_units, batch_size)
        if min(sizes) < 1 or min(damping, strength, epsilon) <= 0 or not 0 < delta <= 1:
            raise UserError(
                "method: perturbations is 2 or more, copy_size, candidates, max_units and batch_size 1 or more, damping, "
                "strength and epsilon above 0, delta above 0 and at most 1"
            )
        self.request, self.perturbations, self.copy_size = request, perturbations, copy_size
        self.candidates, self.max_units, self.batch_size = candidates, max_units, batch_size
        self.damping, self.strength, self.noise = damping, strength, noise
        self.privacy = {"epsilon": epsilon, "delta": delta}
        self.privacy |= {"hessian_lipschitz": hessian_lipschitz, "lipschitz": lipschitz}
        self.steps: list[dict] = []  # one per request
        self.moved: dict[str, float] = {}

    # The secant of D -------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Statistic]:
        return {"secant": Statistic(self._secant, {"secant": 1}, split="train", weights="epoch_ends")}

    def _secant(self, models: Sequence[TaskModule], examples: Examples) -> dict[str, Tensor]:
        """dw of all weights ("step."), dg of the linear layers ("change."), the scored positions of D."""
        when = ("the last epoch but one", "the last epoch")
        first, last = (mean_gradient(model, examples, self.batch_size, title=f"gradients of D after {title}")
                       for model, title in zip(models, when, strict=True))  # fmt: skip
        before, after = map(trainable, models)
        steps = {f"step.{name}": (after[name] - before[name]).detach() for name in after}
        changes = {f"change.{name}": last[name] - first[name] for name in own(linear_layers(models[1]), last)}
        batches = (examples.batch(positions) for positions in in_order(examples, self.batch_size))
        count = sum(models[1].count(batch, "position") for batch in batches)
        return steps | changes | {"positions": torch.tensor(count)}

    # A request -------------------------------------------------------------------------------------------------

    def edit(self, module: TaskModule) -> None:
        forget, left = self.sets["forget"], int(self.statistics_found["secant"]["positions"])
        requests, size = [forget], min(self.copy_size, len(forget))
        if self.request == "example":
            requests, size = [forget.take(np.array([position])) for position in range(len(forget))], 1
        rng = np.random.default_rng(torch.initial_seed())
        before = _copy(trainable(module))
        with progress("L-CODEC", 2 * len(forget) + len(requests) * size * self.perturbations) as advance:
            for request in requests:
                try:
                    left -= self._forget(module, request, size, left, rng, advance)
                except FloatingPointError as error:
                    self.stopped = f"diverged: the {error} of request {len(self.steps) + 1} was not finite"
                    note(f"L-CODEC stopped, the weights stay as the request before left them: {self.stopped}")
                    break
        self._measure(module, before)

    def _forget(
        self, module: TaskModule, request: Examples, size: int, left: int, rng: np.random.Generator, advance: Advance
    ) -> int:
        """One request of D_f, of which ``left`` positions of D are left; returns how many it has."""
        gradient, earlier, count = self._gradients(module, request, advance)
        if count >= left:
            raise UserError("method=lcodec: D_f is all of D, nothing is left to keep: forget less")
        chosen, values = self._choose(module, request, size, rng, advance)
        step, kept = self._step(chosen, gradient, earlier, count, left)
        chosen.add(step + self._noise(step, count / left, rng))
        self.steps.append({"units": chosen.units, "T": values, "kept": kept})
        return count

    def _gradients(self, module: TaskModule, request: Examples, advance: Advance) -> tuple[Gradients, Gradients, int]:
        """The request's mean gradient, the same at the weights before the last epoch's step, its scored positions."""
        gradient, count = self._mean_gradient(module, request, advance)
        with _moved_back(module, _named("step.", self.statistics_found["secant"])):
            earlier, _ = self._mean_gradient(module, request, advance)
        return gradient, earlier, count

    def _mean_gradient(self, module: TaskModule, request: Examples, advance: Advance) -> tuple[Gradients, int]:
        total, count = {}, 0
        for positions in in_order(request, self.batch_size):
            batch = {name: value.to(module.device) for name, value in request.batch(positions).items()}
            found, here = gradient_of(module, batch, cross_entropy)
            total = {name: total.get(name, 0.0) + here * value for name, value in found.items()}
            count += here
            advance(len(positions))
        return {name: value / max(1, count) for name, value in total.items()}, count

    def _choose(
        self, module: TaskModule, request: Examples, size: int, rng: np.random.Generator, advance: Advance
    ) -> tuple[Chosen, list[float]]:
        """The units that the loss of perturbed copies of a request depends on, and the T of each choice."""
        copies = [rng.choice(len(request), size, replace=False) for _ in range(self.perturbations)]
        outputs, losses = record(module, request, copies, rng, self.batch_size, advance, changes=len(request) > 1)
        _require_finite("loss", losses, *outputs.values())
        units = [(layer, unit) for layer, values in outputs.items() for unit in range(values.shape[1])]
        place = torch.device("cpu") if module.device.type == "mps" else module.device  # Apple's has no float64
        table, losses = torch.cat(list(outputs.values()), 1).to(place).double(), losses.to(place).double()
        nearest = most_correlated(table, losses, self.candidates)
        picked, values = foci(losses, table[:, nearest], self.max_units, at_least=1)
        return Chosen(module, [units[int(nearest[column])] for column in picked]), values

    def _step(
        self, chosen: Chosen, gradient: Gradients, earlier: Gradients, count: int, left: int
    ) -> tuple[Tensor, bool]:
        """The step [p] of the chosen weights, and whether H_x stayed in H."""
        secant = self.statistics_found["secant"]
        now, before, rest = chosen.vector(gradient), chosen.vector(earlier), left - count
        _require_finite("gradient", now, before)
        way = max(float(chosen.vector(_named("step.", secant)).abs().sum()), torch.finfo(torch.float32).tiny)
        step, kept = newton_step(
            now, chosen.vector(_named("change.", secant)), now - before,
            (left / rest / way, count / rest / way), self.damping,
        )  # fmt: skip
        return self.strength * count / rest * step, kept

    def _noise(self, step: Tensor, share: float, rng: np.random.Generator) -> Tensor:
        """Noise [p] for forgetting a share of what is left; none unless it is asked for."""
        sigma = noise_scale(share, self.damping, **self.privacy) if self.noise else 0.0
        return sigma * torch.from_numpy(rng.standard_normal(len(step)))

    # What is reported ------------------------------------------------------------------------------------------

    def _measure(self, module: TaskModule, before: Gradients) -> None:
        after = _copy(trainable(module))
        moved = sum(float((after[name] - value).norm()) ** 2 for name, value in before.items())
        norm = sum(float(value.norm()) ** 2 for value in before.values())
        self.moved = {"update_norm": moved**0.5, "relative_update_norm": (moved / norm) ** 0.5}

    def outcome(self) -> dict:
        """Adds how many units moved, the most often chosen ones with their mean T, and how far the weights moved."""
        times, total = Counter(), Counter()
        for step in self.steps:
            times.update(step["units"])
            total.update(dict(zip(step["units"], step["T"], strict=True)))
        shown = {f"{layer.removeprefix('model.')}:{unit}": total[layer, unit] / count
                 for (layer, unit), count in times.most_common(SHOWN)}  # fmt: skip
        return super().outcome() | self.moved | {
            "requests": len(self.steps),
            "units": len(times),
            "units_per_request": times.total() / max(1, len(self.steps)),
            "without_forget_hessian": sum(not step["kept"] for step in self.steps),
            "dependence_T": shown,
        }  # fmt: skip


def most_correlated(table: Tensor, target: Tensor, count: int) -> Tensor:
    """[count] columns of table [n, c] whose correlation with target [n] is largest in absolute value, best first.

    Columns that don't vary are left out; where none does, the first one is given.
    """
    centred, aim = table - table.mean(0), target - target.mean()
    spread, size = centred.norm(dim=0), table.norm(dim=0)
    varies = spread > 1e-6 * size
    correlation = (centred.T @ aim).abs() / torch.where(varies, spread, torch.ones_like(spread))
    order = correlation.masked_fill(~varies, -1.0).argsort(descending=True, stable=True)
    return order[: min(count, max(1, int(varies.sum())))]


def _require_finite(what: str, *tensors: Tensor) -> None:
    """FloatingPointError unless all numbers are finite."""
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise FloatingPointError(what)


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _copy(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in parameters.items()}


@contextmanager
@torch.no_grad()
def _moved_back(module: TaskModule, step: Mapping[str, Tensor]) -> Iterator[None]:
    """The module at its weights less a step, for the block; afterwards its own weights again, bit for bit."""
    parameters = trainable(module)
    kept = _copy(parameters)
    for name, parameter in parameters.items():
        parameter.sub_(step[name].to(parameter.device))
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.copy_(kept[name])
        torch.clear_autocast_cache()  # it holds half-precision copies of the weights of the block
