"""How probable a model holds the whole target of an example, beside how probable a frozen one held it."""

import torch
from torch import Tensor

from kga.data.batching import in_order
from kga.data.encoded import Examples
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
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def keep(self, model: Frozen, of: str, examples: Examples, batch_size: int = 256) -> None:
        """Computes the numbers of the set named ``of`` once, in batches of similar length, on the model's device."""
        device = next(model.module.parameters()).device
        index, values = [], []
        for positions in in_order(examples, batch_size):
            batch = {name: value.to(device) for name, value in examples.batch(positions).items()}
            index.append(batch["index"])
            values.append(log_likelihood(model.predict(batch, self.view)))
        numbers, order = torch.cat(index).sort()
        self._kept[of] = numbers, torch.cat(values)[order]

    @torch.no_grad()
    def __call__(self, model: Frozen, batch: Batch, of: str) -> Tensor:
        """[B] s(x) of the examples of a batch that was drawn from the set ``of``."""
        if of not in self._kept:
            return log_likelihood(model.predict(batch, self.view, of))
        numbers, values = self._kept[of]
        slots = torch.searchsorted(numbers, batch["index"]).clamp(max=len(numbers) - 1)
        if not bool((numbers[slots] == batch["index"]).all()):
            raise RuntimeError(f"a batch holds an example that is not among those kept of the set {of!r}")
        return values[slots]
