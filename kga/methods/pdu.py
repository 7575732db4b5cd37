"""PDU: primal-dual unlearning (Entesari et al., 2025)."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kga.data.batching import in_order
from kga.errors import UserError
from kga.methods.forget_retain import ForgetRetain
from kga.objective import Step
from kga.optim import Optim
from kga.predictions import Predictions, cross_entropy, over_positions
from kga.tasks.base import TaskModule

SAMPLE = 512  # examples of D_r that the bound is measured on


class PDU(ForgetRetain):
    """L = gamma * mean (max_v z - mean_v z)^2 on D_f + dual * (CE_r - epsilon), z: the logits of A*: flattened on D_f as
    far as the loss on D_r keeps to its bound epsilon.

    After each update the dual variable moves: dual <- max(0, dual + dual_rate * (CE_r - epsilon)).
    Needs D_f, D_r. Cost per update: 3 forwards of both batches.

    dual: its value at the start. warmup_updates: how many updates it stays there.
    epsilon: the bound (None: (1 + slack) * A_D's mean CE on a sample of D_r, dropout off). slack: what that may rise by.
    """

    def __init__(
        self,
        gamma: float = 1.0,
        dual: float = 1.0,
        dual_rate: float = 1.0,
        warmup_updates: int = 10,
        epsilon: float | None = None,
        slack: float = 0.1,
        retain_batches: int = 1,
        optim: Optim | Mapping | None = None,
    ) -> None:
        super().__init__(gamma=gamma, retain_batches=retain_batches, optim=optim)
        if min(dual, dual_rate, warmup_updates, slack, epsilon or 0) < 0:
            raise UserError("method: dual, dual_rate, warmup_updates, epsilon and slack must be 0 or more")
        self.dual, self.dual_rate, self.warmup_updates = dual, dual_rate, warmup_updates
        self.epsilon, self.slack = epsilon, slack

    def prepare(self, module: TaskModule, updates: int) -> None:
        super().prepare(module, updates)
        if self.epsilon is None:  # the student is A_D still; a resumed run has the value in its state
            self.epsilon = (1 + self.slack) * self._retain_loss(module)

    def _retain_loss(self, module: TaskModule) -> float:
        """The student's mean CE on examples taken evenly from all of D_r, in eval mode."""
        retain, total, count = self.sets["retain"], 0.0, 0
        sample = retain.take(np.unique(np.linspace(0, len(retain) - 1, SAMPLE, dtype=np.int64)))
        training = module.model.training
        module.model.eval()
        for positions in in_order(sample, self.optim.batch_size):
            batch = {name: value.to(module.device) for name, value in sample.batch(positions).items()}
            losses = cross_entropy(module.predict(batch, self.view))
            total, count = total + float(losses.sum()), count + len(losses)
        module.model.train(training)
        return total / max(1, count)

    def forget(self, module: TaskModule, step: Step) -> Tensor:
        return over_positions(_peak, module.predict(step["forget"], self.view)).sum()

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        return self.gamma * means["forget"] + self.dual * (means["retain"] - self.epsilon)

    def after_update(self, module: TaskModule, means: dict[str, float], loss: float) -> None:
        super().after_update(module, means | {"dual": self.dual}, loss)
        if len(self.history) > self.warmup_updates:
            self.dual = max(0.0, self.dual + self.dual_rate * (means["retain"] - self.epsilon))

    def outcome(self) -> dict:
        return super().outcome() | {"dual": self.dual, "epsilon": self.epsilon}

    def state_dict(self) -> dict:
        return super().state_dict() | {"dual": self.dual, "epsilon": self.epsilon}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.dual, self.epsilon = state["dual"], state["epsilon"]


def _peak(predictions: Predictions) -> Tensor:
    """[P] (max - mean)^2 of the logits; log-probabilities have the same differences. Masked classes (-inf) are left out."""
    log_probs = predictions.log_probs
    used = log_probs > -torch.inf
    mean = log_probs.where(used, 0.0).sum(1) / used.sum(1)
    return (log_probs.amax(1) - mean).square()
