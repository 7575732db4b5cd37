"""Models that never change: what they predict can be computed once."""

import torch
from torch import Tensor

from kga.data.batching import in_order
from kga.data.encoded import Examples
from kga.errors import UserError
from kga.objective import Batch
from kga.predictions import Predictions
from kga.tasks.base import TaskModule


class Frozen:
    """A task module in eval mode without gradients.

    It is no ``nn.Module`` and is held by the method, so that it is in no optimiser, no state_dict and no wrapper of the
    student. ``cache`` replaces the model by its predictions on some sets.
    """

    def __init__(self, module: TaskModule) -> None:
        self.module: TaskModule | None = module.eval().requires_grad_(False)
        self._cached: dict[tuple[str, str], _Table] = {}

    def to(self, device: torch.device) -> None:
        if self.module is not None:
            self.module.to(device)

    def require_apart_from(self, student: torch.nn.Module, name: str) -> None:
        """UserError if the model is the student or shares memory with it: it would be trained along."""
        if self.module is None:
            return
        if _storages(self.module) & _storages(student):
            raise UserError(
                f"the frozen model {name!r} shares memory with the model being unlearned: load or copy it anew"
            )

    @torch.no_grad()
    def predict(self, batch: Batch, view: str = "scored", of: str | None = None) -> Predictions:
        """Predictions on a batch. ``of``: the set it was drawn from, whose cached predictions may be used."""
        if (of, view) in self._cached:
            return self._cached[of, view].predict(batch)
        if self.module is None:
            raise RuntimeError(
                "a frozen model was dropped after caching, and an example outside the cache was asked for"
            )
        self.module.eval()
        return self.module.predict(batch, view)

    @torch.no_grad()
    def cache(self, of: str, examples: Examples, view: str, batch_size: int = 256) -> None:
        """Computes the predictions on the set named ``of`` once, in batches of similar length.

        Lazy predictions are kept as hidden states, with the output layer that turns them into distributions.
        """
        if not self.module.cacheable(view):
            raise UserError(
                "method.cache=exact can't hold padded positions, which differ from batch to batch: set method.cache=none"
            )
        device = next(self.module.parameters()).device
        self.module.eval()
        parts, index = [], []
        for positions in in_order(examples, batch_size):
            batch = {name: value.to(device) for name, value in examples.batch(positions).items()}
            parts.append(self.module.predict(batch, view))
            index.append(batch["index"])
        counts = torch.cat([part.positions_per_example() for part in parts])
        states, targets = torch.cat([part.states for part in parts]), torch.cat([part.targets for part in parts])
        self._cached[of, view] = _Table(torch.cat(index), counts, states, targets, parts[0].head)

    def drop_model(self) -> None:
        """Lets the model leave memory; only cached examples can be predicted from now on."""
        self.module = None

    def bytes(self) -> int:
        """Memory of the cached predictions."""
        return sum(table.states.nbytes + table.targets.nbytes for table in self._cached.values())


def _storages(module: torch.nn.Module) -> set[int]:
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


class _Table:
    """Predictions of all examples of a set, found by the numbers that a batch carries as "index"."""

    def __init__(self, index: Tensor, counts: Tensor, states: Tensor, targets: Tensor, head) -> None:
        self.states, self.targets, self.head = states, targets, head
        self._index, order = index.sort()
        self._count = counts[order]
        self._start = (counts.cumsum(0) - counts)[order]

    def predict(self, batch: Batch) -> Predictions:
        slots = torch.searchsorted(self._index, batch["index"]).clamp(max=len(self._index) - 1)
        if not bool((self._index[slots] == batch["index"]).all()):
            raise RuntimeError("a batch holds an example that is not in the cache of the set it is said to come from")
        counts = self._count[slots]
        example = torch.arange(len(slots), device=slots.device).repeat_interleave(counts)
        before = (counts.cumsum(0) - counts)[example]
        positions = self._start[slots][example] + torch.arange(len(example), device=slots.device) - before
        return Predictions(self.states[positions], self.targets[positions], example, len(slots), self.head)
