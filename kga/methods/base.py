"""What every unlearning method is: a Lightning callback that fills the task's objective slot."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from kga.console import note
from kga.data.batching import Draws, Updates
from kga.data.encoded import Examples
from kga.errors import UserError
from kga.methods.caches import Keep, Mode, chosen, in_memory, parsed, passes, readable, require_cacheable
from kga.methods.frozen import Frozen
from kga.objective import Objective, Supervised
from kga.optim import Optim
from kga.predictions import Predictions
from kga.tasks.base import TaskModule

if TYPE_CHECKING:
    from kga.study import Study, Trained


@dataclass(frozen=True)
class Helper:
    """An auxiliary model that a method needs before it starts.

    split: the set it is trained on ("forget": A_f, "new": A_n), or None: it is not trained at all.
    start: "pretrained" (the model's initial weights), "scratch" (random weights) or "original" (A_D).
    retain_share: share of D_r added to its training set, drawn with ``seed``; dedupe: leave out added examples whose text
    is in the set already. per_request: whether it has to be trained anew for every request.
    """

    split: str | None
    start: str = "pretrained"
    retain_share: float = 0.0
    seed: int = 0
    dedupe: bool = True
    per_request: bool = True
    optim: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Statistic:
    """Tensors that a method computes once from A_D and one of its sets, kept for all requests that follow.

    compute: (models, examples) -> tensors by name; recipe: what decides them, besides models and examples.
    weights: "final" (one model: A_D) or "epoch_ends" (two: A_D at its last two epoch ends, the later one second).
    """

    compute: Callable[[Sequence[TaskModule], Examples], dict[str, Tensor]]
    recipe: Mapping
    split: str = "train"
    weights: str = "final"


class Method(pl.Callback, Objective):
    """Base of all methods. A method declares what it needs and overrides the few hooks that make it different.

    start: what the student starts from, "original" (A_D) or "initial" (the untrained model: a retraining method, which
    defines ``train``).
    moves: whether it changes the student's weights at all.
    edits: whether it changes them once (``edit``) instead of by updates (``draws``, ``terms``, ``combine``).
    teachers: the frozen models it needs ("original", or a helper's name), and the sets that each predicts on.
    splits: names of the sets it draws from. derived: sets that it makes itself from those (``derive``).
    anchor: the set whose pass is an epoch (None: the first one drawn). optim: how the student is updated.
    cache: how what frozen models predict is kept, so that they leave memory (see ``kga.methods.caches``): "none" (they run at
    every update), "exact", "hidden", "topk" or "auto". top_classes: whether its losses need no more of a frozen model than
    KL(frozen || student), which "topk" can tell.
    """

    start: str = "original"
    moves: bool = True
    edits: bool = False
    teachers: Mapping[str, tuple[str, ...]] = {}
    splits: tuple[str, ...] = ("forget", "retain")
    derived: tuple[str, ...] = ()
    anchor: str | None = None
    cache: str = "auto"
    top_classes: bool = False

    def __init__(self, optim: Optim | Mapping | None = None, cache: str = "auto") -> None:
        super().__init__()
        self.cache = cache
        if parsed(cache).name == "topk" and not self.top_classes:
            raise UserError(
                f"method.cache={cache} holds the likeliest classes, of which this loss needs more: set method.cache=auto or none"
            )
        self.optim = optim if isinstance(optim, Optim) else Optim(**(optim or {}))
        self.frozen: dict[str, Frozen] = {}
        self.sets: dict[str, Examples] = {}
        self.statistics_found: dict[str, dict[str, Tensor]] = {}
        self.keep: Keep = in_memory
        self.drawn: dict[str, np.ndarray] = {}  # positions that the planned updates draw, by set; without a set: all
        self.kept: dict[str, object] = {}
        self.history: list[dict[str, float]] = []
        self.stopped: str | None = None
        self.cache_seconds = 0.0

    # What a method declares ------------------------------------------------------------------------------------

    @property
    def frozen_models(self) -> tuple[str, ...]:
        """Names of the frozen models it needs."""
        return tuple(self.teachers)

    def helpers(self) -> dict[str, Helper]:
        """The auxiliary models to make first, by name."""
        return {}

    def statistics(self) -> dict[str, Statistic]:
        """What is computed once from A_D, by name; given back as ``statistics_found``."""
        return {}

    def needed_splits(self) -> tuple[str, ...]:
        """Sets that must hold examples: those drawn from and those helpers are trained on."""
        trained = (helper.split for helper in self.helpers().values() if helper.split)
        return tuple(dict.fromkeys((*self.splits, *trained)))

    def require(self, study: "Study") -> None:
        """UserError for settings that a study can't carry; called before anything is trained."""
        mode = parsed(self.cache)
        require_cacheable(mode, study.codec.cacheable(self.view))
        if mode.name == "hidden":
            chosen(mode, self._sample(study.examples("forget"), study.codec)[0], 1)

    def draws(self, update: int) -> Draws:
        """What an update consists of (counted from 0), see ``Updates``."""
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def derive(self, name: str) -> Examples:
        """One of the sets ``derived``."""
        raise NotImplementedError(f"{type(self).__name__} derives no set {name!r}")

    def stream(self, seed: int) -> Updates:
        """The updates of a fit, as Lightning's dataloader."""
        optim = self.optim
        return Updates(
            {name: self.sets[name] for name in (*self.splits, *self.derived)},
            self.draws,
            optim.batch_size,
            seed,
            optim.micro_batch_size,
            optim.bucket,
            anchor=self.anchor,
            micro_batch_tokens=optim.micro_batch_tokens,
            **self.stream_options(),
        )

    def stream_options(self) -> dict:
        """More arguments of ``Updates``: shares of sets, pairs of examples, the length of a plan."""
        return {}

    # Life cycle ------------------------------------------------------------------------------------------------

    def attach(
        self,
        frozen: Mapping[str, TaskModule | Callable[[], TaskModule]],
        sets: Mapping[str, Examples],
        statistics: Mapping[str, dict[str, Tensor]] | None = None,
        keep: Keep = in_memory,
    ) -> "Method":
        """Gives the method its frozen models (or what loads them), its sets, its statistics and a place for caches.

        Returns the method.
        """
        given = statistics or {}
        missing = [name for name in self.frozen_models if name not in frozen]
        missing += [name for name in self.splits if name not in sets]
        missing += [name for name in self.statistics() if name not in given]
        if missing:
            raise ValueError(f"{type(self).__name__} needs {', '.join(missing)}: pass them to attach")
        self.frozen = {name: Frozen(frozen[name], name) for name in self.frozen_models}
        self.keep = keep
        self.sets, self.statistics_found = dict(sets), dict(given)
        self.sets |= {name: self.derive(name) for name in self.derived}
        return self

    def setup(self, trainer: pl.Trainer, pl_module: TaskModule, stage: str) -> None:
        """Fills the slot and brings the method's optimiser, before a strategy wraps the module."""
        if stage != "fit":
            return
        for model in self.frozen.values():
            model.require_apart_from(pl_module)
        pl_module.objective, pl_module.optim = self, self.optim

    def on_fit_start(self, trainer: pl.Trainer, pl_module: TaskModule) -> None:
        trainer.should_stop = self.stopped is not None  # a run that was stopped, and then cut off before it was saved
        for model in self.frozen.values():
            model.to(pl_module.device)
        updates = int(trainer.estimated_stepping_batches)
        trainer.fit_loop.setup_data()  # a Trainer with a number of steps has not asked for its stream yet
        self.drawn = {"retain": trainer.train_dataloader.planned(updates).get("retain")}
        started = time.monotonic()
        with trainer.precision_plugin.forward_context(), torch.no_grad():
            self.prepare(pl_module, updates)
        self.cache_seconds = time.monotonic() - started

    def prepare(self, module: TaskModule, updates: int) -> None:
        """Called once before the first update, on the student's device, without gradients: caches, first values."""
        mode = parsed(self.cache)
        if not self.frozen or mode.name == "none":
            return
        if mode.name == "auto" and not module.cacheable(self.view):
            self.kept = {"cache": "none"}
            return
        require_cacheable(mode, module.cacheable(self.view))
        training = module.model.training
        module.model.eval()
        self.fill_caches(module)
        module.model.train(training)

    def fill_caches(self, module: TaskModule) -> None:
        """Keeps what frozen models predict; they leave memory one after the other."""
        for name, sets in self.teachers.items():
            self.keep_predictions(name, sets, module)

    def keep_predictions(self, name: str, sets: Sequence[str], module: TaskModule) -> None:
        """Keeps what one frozen model predicts on some sets, each as ``cache`` says; then it leaves memory, unless "auto"
        keeps nothing of a set that is too large. Notes the mass that "topk" leaves out, and its error against the student.
        """
        complete = True
        for of in sets:
            mode = self.mode_of(of, module)
            if mode.name == "none":
                complete = False
                continue
            student = module if name != "original" else None  # at the start the student is A_D
            table = self.frozen[name].cache(of, self.cached_set(of), self.view, mode, self.keep, student)
            self.kept |= {f"topk_{what}_{of}": value for what, value in table.left_out().items()}
        if complete:
            self.frozen[name].drop_model()

    def mode_of(self, of: str, module: TaskModule) -> Mode:
        """How predictions on a set are kept: "auto" takes what is smaller, and says so where it is large."""
        examples = self.cached_set(of)
        sample, each = self._sample(examples, module)
        positions = each * examples.lengths().sum()
        mode, size = chosen(parsed(self.cache), sample, positions)
        if self.cache == "auto" and (size > 1e9 or mode.name == "none"):
            kept = "nothing" if mode.name == "none" else mode.name
            note(f"predictions of frozen models on {of}: about {readable(size)}, method.cache=auto keeps {kept}")
        self.kept.setdefault("cache", mode.name)
        return mode

    @torch.no_grad()
    def _sample(self, examples: Examples, module: TaskModule) -> tuple[Predictions, float]:
        """A model's predictions on a few examples, and scored positions for each of their tokens."""
        some = examples.take(np.arange(min(8, len(examples))))
        _, batch = next(passes(some, module.device))
        sample = module.predict(batch, self.view)
        return sample, len(sample.targets) / max(1, some.lengths().sum())

    def cached_set(self, name: str) -> Examples:
        """The examples of a set that frozen models predict on: of D_r those that are drawn."""
        drawn = self.drawn.get(name)
        return self.sets[name] if drawn is None else self.sets[name].take(drawn)

    def edit(self, module: TaskModule) -> None:
        """Changes the student's weights once, on its device, in eval mode. For methods that declare ``edits``."""
        raise NotImplementedError(f"{type(self).__name__} edits nothing")

    def train(self, study: "Study") -> "Trained":
        """The model of a method that starts from the initial model: trained by the study, on what may still be used."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

    def teardown(self, trainer: pl.Trainer, pl_module: TaskModule, stage: str) -> None:
        if stage == "fit":
            pl_module.objective = Supervised()

    # What is kept ----------------------------------------------------------------------------------------------

    def after_update(self, module: TaskModule, means: dict[str, float], loss: float) -> None:
        """Keeps and logs the means of the update's sums."""
        self.record(module, {"loss": loss, **means})

    def record(self, module: TaskModule, values: dict[str, float]) -> None:
        """Adds a row to the history (``updates.csv``) and logs it.

        Loggers get it at once: Lightning would hand it over after the checkpoint of the update, and a run that is ended between
        the two would go on without it.
        """
        trainer = module.trainer
        row = {**values, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        self.history.append({"update": trainer.global_step, **row})
        told = {f"unlearn/{name}": value for name, value in row.items()}
        module.log_dict(told, logger=False, batch_size=1)  # for callbacks that watch a value
        for logger in trainer.loggers:
            logger.log_metrics(told, trainer.global_step)
            logger.save()

    def halt(self, module: TaskModule, reason: str) -> None:
        """Ends unlearning after this update, and says why (``unlearning.stopped`` of the result)."""
        self.stopped = reason
        module.trainer.should_stop = True
        note(f"unlearning stopped after {len(self.history)} updates: {reason}")

    def diverged(self, module: TaskModule, what: str) -> None:
        """Keeps the last finite weights: a method that blows up is a result, and is reported as such."""
        self.halt(module, f"diverged: the {what} of the next update was not finite")

    def outcome(self) -> dict:
        """What the result says of the unlearning itself, beside its models: a method adds its own findings."""
        return {"updates": len(self.history), "stopped": self.stopped, **self.kept}

    def state_dict(self) -> dict:
        return {"history": [dict(row) for row in self.history], "stopped": self.stopped}

    def load_state_dict(self, state: dict) -> None:
        self.history, self.stopped = [dict(row) for row in state["history"]], state["stopped"]
