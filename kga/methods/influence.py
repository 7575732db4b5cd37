"""Influence unlearning: one Newton step from the optimum with D_f to that without it, curvature by Fisher information."""

import torch
from torch import Tensor

from kga.data.batching import in_order
from kga.data.encoded import Examples
from kga.errors import UserError
from kga.methods.base import Method
from kga.methods.gradients import Gradients, batch_gradients, mean_gradient, sample, trainable
from kga.tasks.base import TaskModule

BATCH = 32  # examples per backward pass of the mean gradients, which are the same whatever it is


class Influence(Method):
    """theta <- theta + scale (lambda I + F)^-1 (|D_f| / |D|) (g_f - g_r), D = D_f and D_r (WoodFisher; Jia et al. 2023).

    g is the gradient of the mean CE over the positions of a set, |.| counts positions, F = (1/N) sum g_i g_i^T over N
    examples of D_r at A_D. As (|D_f| / |D|) (g_f - g_r) = g_D - g_r, the step goes downhill on D_r by as much as A_D has not
    gone downhill on D yet: where A_D is the optimum of the CE with a ridge lambda and F is the curvature, scale 1 is
    Newton's step to the optimum without D_f. F + lambda I is inverted exactly (Woodbury), not by a recursion over examples.

    Needs D_f, D_r. Cost: a pass with gradients over both, ``samples`` passes of one example, the memory of their gradients.

    samples: N. damping: lambda. memory_gb: the most that the N gradients may take (N x parameters x 4 bytes).
    """

    edits = True

    def __init__(self, scale: float = 1.0, damping: float = 0.01, samples: int = 64, memory_gb: float = 8.0) -> None:
        super().__init__()
        if damping <= 0 or samples < 1:
            raise UserError("method: damping must be above 0, samples at least 1")
        self.scale, self.damping, self.samples, self.memory_gb = scale, damping, samples, memory_gb
        self.step = 0.0

    @torch.no_grad()
    def edit(self, module: TaskModule) -> None:
        self.require_memory(module)
        forget, retain = self.sets["forget"], self.sets["retain"]
        g_f = mean_gradient(module, forget, BATCH, title="mean gradient of D_f")
        g_r = mean_gradient(module, retain, BATCH, title="mean gradient of D_r")
        share = _positions(module, forget) / (_positions(module, forget) + _positions(module, retain))
        change = {name: share * (g_f[name] - g_r[name]) for name in g_f}
        step = solve(self.table(module), change, self.damping)
        moved, size = 0.0, 0.0
        for name, parameter in trainable(module).items():
            moved, size = moved + float(step[name].square().sum()), size + float(parameter.square().sum())
            parameter += self.scale * step[name]
        self.step = abs(self.scale) * (moved / max(size, torch.finfo(torch.float32).tiny)) ** 0.5

    def require_memory(self, module: TaskModule) -> None:
        """UserError if the gradients of single examples would not fit."""
        number = min(self.samples, len(self.sets["retain"]))
        parameters = sum(parameter.numel() for parameter in trainable(module).values())
        needed = number * parameters * 4 / 1e9
        if needed > self.memory_gb:
            raise UserError(
                f"method.samples={self.samples}: {number} gradients of {parameters} weights take {needed:.1f} GB, "
                f"method.memory_gb is {self.memory_gb:g}: lower the one or raise the other"
            )

    def table(self, module: TaskModule) -> Gradients:
        """[N, size of the parameter] gradients of N examples of D_r, by parameter."""
        examples = sample(self.sets["retain"], self.samples)
        table = {
            name: torch.empty(len(examples), parameter.numel(), device=parameter.device)
            for name, parameter in trainable(module).items()
        }
        title = "Fisher information of D_r"
        for row, (gradients, _) in enumerate(batch_gradients(module, examples, 1, title=title)):
            for name, value in gradients.items():
                table[name][row] = value.flatten()
        return table

    def outcome(self) -> dict:
        """``step``: the norm of the step, as a share of that of the weights."""
        return super().outcome() | {"step": self.step}


def solve(table: Gradients, vector: Gradients, damping: float) -> Gradients:
    """(damping I + (1/N) G^T G)^-1 v for G = ``table`` [N, .] and a ``vector``, both by parameter.

    By Woodbury (v - G^T (N damping I + G G^T)^-1 G v) / damping: a system of N equations, solved in float64.
    """
    first = next(iter(table.values()))
    with torch.autocast(first.device.type, enabled=False):  # products in half precision would drown the difference
        gram = sum((rows @ rows.T).double() for rows in table.values())
        seen = sum((rows @ vector[name].flatten()).double() for name, rows in table.items())
        number = len(first)
        ridge = number * damping * torch.eye(number, dtype=torch.float64, device=first.device)
        weights: Tensor = torch.linalg.solve(gram + ridge, seen).float()
        return {
            name: (vector[name] - (rows.T @ weights).view_as(vector[name])) / damping for name, rows in table.items()
        }


def _positions(module: TaskModule, examples: Examples) -> int:
    """Scored positions of a set."""
    return sum(module.count(examples.batch(chosen), "position") for chosen in in_order(examples, BATCH))
