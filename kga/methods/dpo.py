"""Direct preference optimisation (Rafailov et al. 2023; IdkDPO of TOFU, Maini et al. 2024): another answer is preferred."""

import numpy as np
from torch import Tensor

from kga.data.alternatives import fixed_target, random_targets
from kga.data.batching import Draws
from kga.data.encoded import Examples
from kga.errors import one_of
from kga.methods.npo import NPO
from kga.objective import Step
from kga.tasks.base import TaskModule


class DPO(NPO):
    """L = -(2 / beta) * gamma * mean over D_f of log sigmoid(beta * m) + alpha * retain term, from A_D, where

    m = [s_{A*}(x, y') - s_{A_D}(x, y')] - [s_{A*}(x, y) - s_{A_D}(x, y)], s = log p summed over the tokens of an answer,
    y the answer to forget and y' the alternative.

    Needs D_f, D_r, A_D frozen. Cost per update: 3 forwards of a batch of D_r and twice one of D_f; 2 of A_D on D_f unless
    cached, as numbers per example. It changes what is said instead of A_D's answer and makes no model that never saw D_f.

    alternative: "random" (another label, or the target of a random example of D_r, which is therefore needed even where
        alpha is 0) or "refusal" (the text ``refusal`` for all; classification: one of the labels).
    seed: of the random alternatives.
    options: those of ``ForgetRetain``.
    """

    derived = ("alternative",)

    def __init__(
        self, beta: float = 0.1, alternative: str = "random", refusal: str = "I don't know.", seed: int = 0,
        **options: object,
    ) -> None:  # fmt: skip
        super().__init__(beta, **options)
        one_of("method.alternative", alternative, ("random", "refusal"))
        self.alternative, self.refusal, self.seed = alternative, refusal, seed
        if alternative == "random":
            self.splits = ("forget", "retain")

    def derive(self, name: str) -> Examples:
        if self.alternative == "refusal":
            return fixed_target(self.sets["forget"], self.refusal)
        return random_targets(self.sets["forget"], self.sets["retain"], self.seed)

    def draws(self, update: int) -> Draws:
        return [("forget", "alternative"), *super().draws(update)[1:]]

    def stream_options(self) -> dict:
        """Position i of the alternatives belongs to position i of D_f: both are drawn and split together."""
        return {"partners": {("forget", "alternative"): np.arange(len(self.sets["forget"]))}}

    def margin(self, module: TaskModule, step: Step) -> Tensor:
        won = self.gain(module, step["alternative"], "alternative")
        return won - self.gain(module, step["forget"], "forget")
