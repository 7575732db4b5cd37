"""What every unlearning method is: a Lightning callback that fills the task's objective slot."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytorch_lightning as pl
import torch

from kga.data.batching import Draws, Updates
from kga.data.encoded import Examples
from kga.methods.frozen import Frozen
from kga.objective import Objective, Supervised
from kga.optim import Optim
from kga.tasks.base import TaskModule


@dataclass(frozen=True)
class Helper:
    """An auxiliary model that a method needs trained before it starts.

    split: the set it is trained on ("forget": A_f, "new": A_n). start: "pretrained" (the model's initial weights),
    "scratch" (random weights) or "original" (A_D). retain_share: share of D_r added to its training set, drawn with
    ``seed``; dedupe: leave out added examples whose text is in the set already. per_request: whether it has to be
    trained anew for every request.
    """

    split: str
    start: str = "pretrained"
    retain_share: float = 0.0
    seed: int = 0
    dedupe: bool = True
    per_request: bool = True
    optim: dict = field(default_factory=dict)


class Method(pl.Callback, Objective):
    """Base of all methods. A method declares what it needs and overrides the few hooks that make it different.

    start: what the student starts from, "original" (A_D) or "initial" (the untrained model: a retraining method).
    moves: whether it changes the student's weights at all.
    frozen_models: names of the frozen models it needs ("original", or a helper's name).
    splits: names of the sets it draws from.
    anchor: the set whose pass is an epoch (None: the first one drawn). optim: how the student is updated. Trained methods
    define ``draws`` and the objective (``terms``, ``combine``).
    """

    start: str = "original"
    moves: bool = True
    frozen_models: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("forget", "retain")
    anchor: str | None = None

    def __init__(self, optim: Optim | Mapping | None = None) -> None:
        super().__init__()
        self.optim = optim if isinstance(optim, Optim) else Optim(**(optim or {}))
        self.frozen: dict[str, Frozen] = {}
        self.sets: dict[str, Examples] = {}
        self.history: list[dict[str, float]] = []
        self.cache_seconds = 0.0

    # What a method declares ------------------------------------------------------------------------------------

    def helpers(self) -> dict[str, Helper]:
        """The auxiliary models to train first, by name."""
        return {}

    def needed_splits(self) -> tuple[str, ...]:
        """Sets that must hold examples: those drawn from and those helpers are trained on."""
        return tuple(dict.fromkeys((*self.splits, *(helper.split for helper in self.helpers().values()))))

    def draws(self, epoch: int) -> Draws:
        """What one update consists of, see ``Updates``."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def stream(self, seed: int) -> Updates:
        """The updates of a fit, as Lightning's dataloader."""
        optim = self.optim
        return Updates(
            {name: self.sets[name] for name in self.splits},
            self.draws,
            optim.batch_size,
            seed,
            optim.micro_batch_size,
            optim.bucket,
            anchor=self.anchor,
            **self.stream_options(),
        )

    def stream_options(self) -> dict:
        """More arguments of ``Updates``: shares of sets, pairs of examples."""
        return {}

    # Life cycle ------------------------------------------------------------------------------------------------

    def attach(self, frozen: Mapping[str, TaskModule], sets: Mapping[str, Examples]) -> "Method":
        """Gives the method its frozen models and its sets. Returns the method."""
        missing = [name for name in self.frozen_models if name not in frozen]
        missing += [name for name in self.needed_splits() if name not in sets]
        if missing:
            raise ValueError(f"{type(self).__name__} needs {', '.join(missing)}: pass them to attach")
        self.frozen = {name: Frozen(frozen[name]) for name in self.frozen_models}
        self.sets = dict(sets)
        return self

    def setup(self, trainer: pl.Trainer, pl_module: TaskModule, stage: str) -> None:
        """Fills the slot and brings the method's optimiser, before a strategy wraps the module."""
        if stage != "fit":
            return
        for name, model in self.frozen.items():
            model.require_apart_from(pl_module, name)
        pl_module.objective, pl_module.optim = self, self.optim

    def on_fit_start(self, trainer: pl.Trainer, pl_module: TaskModule) -> None:
        for model in self.frozen.values():
            model.to(pl_module.device)
        updates = int(trainer.estimated_stepping_batches)
        started = time.monotonic()
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            self.prepare(pl_module, updates)
        self.cache_seconds = time.monotonic() - started

    def prepare(self, module: TaskModule, updates: int) -> None:
        """Called once before the first update, on the student's device, without gradients: caches, first values."""

    def teardown(self, trainer: pl.Trainer, pl_module: TaskModule, stage: str) -> None:
        if stage == "fit":
            pl_module.objective = Supervised()

    def after_update(self, module: TaskModule, means: dict[str, float], loss: float) -> None:
        """Keeps and logs the means of the update's sums."""
        self.record(module, {"loss": loss, **means})

    def record(self, module: TaskModule, values: dict[str, float]) -> None:
        """Adds a row to the history (``updates.csv``) and logs it."""
        rate = module.trainer.optimizers[0].param_groups[0]["lr"]
        self.history.append({"update": module.trainer.global_step, **values, "lr": rate})
        module.log_dict(
            {f"unlearn/{name}": value for name, value in values.items()} | {"unlearn/lr": rate}, batch_size=1
        )

    def state_dict(self) -> dict:
        return {"history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: dict) -> None:
        self.history = [dict(row) for row in state["history"]]
