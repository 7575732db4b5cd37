"""Models that never change: loaded when they are first needed, in eval mode, without gradients."""

from collections.abc import Callable

import torch

from kga.data.encoded import Examples
from kga.errors import UserError
from kga.methods.caches import Keep, Mode, Table, in_memory, table
from kga.objective import Batch
from kga.predictions import Predictions
from kga.tasks.base import TaskModule
from kga.topk import TopClasses


class Frozen:
    """A task module in eval mode without gradients.

    It is no ``nn.Module`` and is held by the method, so that it is in no optimiser, no state_dict and no wrapper of the
    student. ``cache`` replaces the model by its predictions on some sets.

    source: the module, or what loads it: a model whose predictions are all kept already is never read.
    """

    def __init__(self, source: TaskModule | Callable[[], TaskModule], name: str = "") -> None:
        self.name, self.device = name, torch.device("cpu")
        self._module: TaskModule | None = None
        self._load: Callable[[], TaskModule] | None = None
        if isinstance(source, TaskModule):
            self._module = source.eval().requires_grad_(False)
        else:
            self._load = source
        self._tables: dict[tuple[str, str], Table] = {}

    @property
    def module(self) -> TaskModule:
        """The model; loaded at the first use. RuntimeError once it was dropped."""
        if self._module is None:
            if self._load is None:
                raise RuntimeError(
                    f"the frozen model {self.name!r} was dropped after caching, and an example outside the cache was asked for"
                )
            with torch.random.fork_rng([]):  # building a model may draw: what is trained meanwhile must not notice
                self._module = self._load().eval().requires_grad_(False).to(self.device)
        return self._module

    @property
    def resident(self) -> bool:
        """Whether the model is in memory."""
        return self._module is not None

    def to(self, device: torch.device) -> None:
        """Where the model predicts, now or once it is loaded."""
        self.device = device
        if self._module is not None:
            self._module.to(device)

    def require_apart_from(self, student: torch.nn.Module) -> None:
        """UserError if the model is the student or shares memory with it: it would be trained along."""
        if self._module is not None and _storages(self._module) & _storages(student):
            raise UserError(
                f"the frozen model {self.name!r} shares memory with the model being unlearned: load or copy it anew"
            )

    @torch.no_grad()
    def predict(self, batch: Batch, view: str = "scored", of: str | None = None) -> Predictions | TopClasses:
        """Predictions on a batch. ``of``: the set it was drawn from, whose cached predictions may be used."""
        if (of, view) in self._tables:
            return self._tables[of, view].predict(batch)
        self.module.eval()
        return self.module.predict(batch, view)

    @torch.no_grad()
    def cache(
        self, of: str, examples: Examples, view: str, mode: Mode, keep: Keep = in_memory,
        student: TaskModule | None = None,
    ) -> Table:  # fmt: skip
        """Computes the predictions on the set named ``of`` once, or finds them where they were computed before."""

        def make() -> dict[str, torch.Tensor]:
            self.module.eval()
            return table(self.module, examples, view, mode, student)

        models = (self.name, "original") if mode.k and student is not None else (self.name,)  # A* starts as A_D
        tensors = keep({"what": "predictions", "view": view, **mode.recipe()}, models, examples, make)
        self._tables[of, view] = Table(tensors, examples, self.device)
        return self._tables[of, view]

    def drop_model(self) -> None:
        """Lets the model leave memory; only cached examples can be predicted from now on."""
        self._module = self._load = None

    def bytes(self) -> int:
        """Size of the cached predictions."""
        return sum(table.bytes() for table in self._tables.values())


def _storages(module: torch.nn.Module) -> set[int]:
    tensors = (*module.parameters(), *module.buffers())
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
