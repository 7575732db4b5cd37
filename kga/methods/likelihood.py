"""How probable a model holds the whole target of an example, beside how probable a frozen one held it."""

import torch
from torch import Tensor

from kga.data.encoded import Examples
from kga.methods.caches import Keep, Rows, in_memory, passes
from kga.methods.frozen import Frozen
from kga.objective import Batch
from kga.predictions import Predictions


def log_likelihood(predictions: Predictions) -> Tensor:
    """[B] s(x), the log-probability of the truth summed over the scored positions of each example, in nats."""
    return predictions.sum_per_example(predictions.truth())


class Reference:
    """s(x) of a frozen model: one number per example where it is kept, computed anew else.

    The model is handed in at every call, so that nothing here holds it in memory.
    """

    def __init__(self, view: str = "scored") -> None:
        self.view = view
        self._kept: dict[str, tuple[Rows, Tensor]] = {}

    def keep(self, model: Frozen, of: str, examples: Examples, keep: Keep = in_memory) -> None:
        """Computes the numbers of the set named ``of`` once, in batches of similar length, on the model's device."""

        @torch.no_grad()
        def make() -> dict[str, Tensor]:
            found = torch.empty(len(examples))
            for positions, batch in passes(examples, next(model.module.parameters()).device):
                found[torch.from_numpy(positions)] = log_likelihood(model.predict(batch, self.view)).float().cpu()
            return {"log_likelihood": found}

        recipe = {"what": "log-likelihood", "view": self.view}
        self._kept[of] = Rows(examples), keep(recipe, (model.name,), examples, make)["log_likelihood"]

    @torch.no_grad()
    def __call__(self, model: Frozen, batch: Batch, of: str) -> Tensor:
        """[B] s(x) of the examples of a batch that was drawn from the set ``of``."""
        if of not in self._kept:
            return log_likelihood(model.predict(batch, self.view, of))
        rows, values = self._kept[of]
        return values[rows.slots(batch)].to(batch["index"].device)
