"""SCRUB: passes over the forget set that push the student away from A_D, and passes over the rest that hold it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kga import ranks
from kga.data.batching import Draws, in_order
from kga.data.encoded import Examples
from kga.errors import UserError
from kga.methods.base import Method
from kga.objective import Step
from kga.optim import Optim
from kga.predictions import Predictions, cross_entropy, kl, over_positions
from kga.tasks.base import TaskModule

COLUMNS = ("update", "epoch", "phase", "loss", "forget", "retain", "lr")  # of every row of updates.csv


class Scrub(Method):
    """Each of the first ``max_epochs`` epochs begins with a pass over D_f that minimises -KL_T(A_D || A*); every epoch ends
    with a pass over D_r that minimises gamma * CE + alpha * KL_T(A_D || A*) (Kurmanji et al. 2023). From A_D.

    KL_T is T^2 times the KL of the two distributions softened by the temperature T. At A* = A_D its gradient is nought: what
    starts the push is dropout. Needs D_f, D_r, A_D frozen. Cost per update: 3 forwards of a batch, one of A_D unless cached.

    epochs, max_epochs: the plan; it is the bound where ``optim.updates`` is null, and ``optim.epochs`` repeats it.
    gamma, alpha: weights of the two terms on D_r. temperature: T. retain_sample: share of D_r that a pass goes over.
    kl_bound: a position of D_f is pushed no more once its KL, before the factor T^2, reaches this many times ln C, which is
        how far a blind guess is from a certain A_D (None: without bound).
    rewind: SCRUB+R: of the weights at the epochs' ends, take those whose error on D_f is nearest to the last ones' error on
        D_n, examples of the same kind that were never seen; of equals, the later. Needs D_n. The weights lie in the folder
        "scrub" of the trainer's ``default_root_dir``.
    """

    teachers = {"original": ("forget", "retain")}  # noqa: RUF012

    def __init__(
        self,
        epochs: int = 5,
        max_epochs: int = 3,
        gamma: float = 1.0,
        alpha: float = 0.5,
        temperature: float = 2.0,
        kl_bound: float | None = 1.0,
        retain_sample: float = 0.3,
        rewind: bool = False,
        optim: Optim | Mapping | None = None,
        cache: str = "auto",
    ) -> None:
        super().__init__(optim, cache)
        if not 1 <= max_epochs <= epochs:
            raise UserError(f"method.max_epochs={max_epochs} must be at least 1 and at most method.epochs={epochs}")
        if temperature <= 0 or not 0 < retain_sample <= 1 or (kl_bound is not None and kl_bound <= 0):
            raise UserError("method: temperature, retain_sample and kl_bound are above 0, retain_sample at most 1")
        self.epochs, self.max_epochs, self.gamma, self.alpha = epochs, max_epochs, gamma, alpha
        self.temperature, self.kl_bound, self.retain_sample = temperature, kl_bound, retain_sample
        self.rewind, self.rewound = rewind, None
        self.splits = ("forget", "retain", "new") if rewind else ("forget", "retain")
        self.plan: list[tuple[int, str]] = []
        self.ends: list[dict] = []
        self._updates = 0

    # The plan --------------------------------------------------------------------------------------------------

    def attach(self, frozen: Mapping, sets: Mapping[str, Examples], *more: object, **options: object) -> "Scrub":
        super().attach(frozen, sets, *more, **options)
        streams = self.stream(0).streams
        self.plan = [
            (epoch, name)
            for epoch in range(1, self.epochs + 1)
            for name in (("forget", "retain") if epoch <= self.max_epochs else ("retain",))
            for _ in range(streams[name].batches_per_pass())
        ]
        return self

    def stream_options(self) -> dict:
        return {"length": len(self.plan), "share": {"retain": self.retain_sample}}

    def draws(self, update: int) -> Draws:
        return [(self.planned(update)[1],)]

    def planned(self, update: int) -> tuple[int, str]:
        """The epoch (from 1) of an update (from 0) and the set it draws from; after its end the plan begins anew."""
        repeats, place = divmod(update, len(self.plan))
        epoch, name = self.plan[place]
        return repeats * self.epochs + epoch, name

    # The loss --------------------------------------------------------------------------------------------------

    def terms(self, module: TaskModule, step: Step) -> dict[str, Tensor]:
        ((name, batch),) = step.items()
        student = module.predict(batch, self.view)
        teacher = self.frozen["original"].predict(batch, self.view, name)
        term = self._pushed if name == "forget" else self._held
        return {name: over_positions(term, teacher, student).sum()}

    def combine(self, means: dict[str, Tensor]) -> Tensor:
        return means["retain"] if "retain" in means else -means["forget"]

    def _pushed(self, teacher: Predictions, student: Predictions) -> Tensor:
        distance = tempered_kl(teacher, student, self.temperature)
        if self.kl_bound is None:
            return distance
        return distance.clamp(max=self.kl_bound * math.log(student.classes) * self.temperature**2)

    def _held(self, teacher: Predictions, student: Predictions) -> Tensor:
        return self.gamma * cross_entropy(student) + self.alpha * tempered_kl(teacher, student, self.temperature)

    # After each update -----------------------------------------------------------------------------------------

    def prepare(self, module: TaskModule, updates: int) -> None:
        super().prepare(module, updates)
        self._updates = updates

    def after_update(self, module: TaskModule, means: dict[str, float], loss: float) -> None:
        epoch, name = self.planned(len(self.history))
        self.record(module, {"epoch": epoch, "loss": loss, **means})
        phase = {"phase": "max" if name == "forget" else "min"}
        self.history[-1] = dict.fromkeys(COLUMNS) | self.history[-1] | phase
        done = len(self.history)
        if self.rewind and (done == self._updates or self.planned(done)[0] != epoch):
            self._keep(module)

    def diverged(self, module: TaskModule, what: str) -> None:
        if self.rewind:
            self._keep(module)
        super().diverged(module, what)

    # Rewinding -------------------------------------------------------------------------------------------------

    def _keep(self, module: TaskModule) -> None:
        """Writes the weights to a file, and remembers their errors; once for each update."""
        update = len(self.history)
        if self.ends and self.ends[-1]["update"] == update:
            return
        file = _weights_file(module.trainer, update)
        file.parent.mkdir(parents=True, exist_ok=True)
        if ranks.is_main():
            save_file({name: p.detach().cpu().clone() for name, p in module.model.named_parameters()}, file)
        errors = {f"{name}_error": self.error(module, name) for name in ("forget", "new")}
        self.ends.append({"epoch": self.planned(max(0, update - 1))[0], "update": update, **errors})

    @torch.no_grad()
    def error(self, module: TaskModule, name: str) -> float:
        """Share of a set's positions whose most probable class is not the truth, the student in eval mode."""
        training, right, count = module.model.training, 0.0, 0
        module.model.eval()
        for positions in in_order(self.sets[name], 256):
            batch = {key: value.to(module.device) for key, value in self.sets[name].batch(positions).items()}
            correct = module.predict(batch, self.view).correct()
            right, count = right + float(correct.sum()), count + len(correct)
        module.model.train(training)
        return 1 - right / count

    def on_fit_end(self, trainer: pl.Trainer, pl_module: TaskModule) -> None:
        if self.rewind:
            ranks.barrier()
            target = self.ends[-1]["new_error"]
            self.rewound = min(reversed(self.ends), key=lambda end: abs(end["forget_error"] - target))
            pl_module.model.load_state_dict(load_file(_weights_file(trainer, self.rewound["update"])), strict=False)

    # What is kept ----------------------------------------------------------------------------------------------

    def outcome(self) -> dict:
        phases = [row["phase"] for row in self.history]
        found = {"max_updates": phases.count("max"), "min_updates": phases.count("min")}
        if self.rewind:
            found |= {"rewound_to": self.rewound, "epoch_ends": self.ends}
        return super().outcome() | found

    def state_dict(self) -> dict:
        return super().state_dict() | {"ends": [dict(end) for end in self.ends]}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.ends = [dict(end) for end in state["ends"]]


def _weights_file(trainer: pl.Trainer, update: int) -> Path:
    return Path(trainer.default_root_dir) / "scrub" / f"update-{update:08d}.safetensors"


def tempered_kl(first: Predictions, second: Predictions, temperature: float) -> Tensor:
    """[P] T^2 * KL(first || second) of the distributions softened by T: of their logits divided by T."""
    soft = (replace(side, states=(side.log_probs / temperature).log_softmax(1), head=None) for side in (first, second))
    return temperature**2 * kl(*soft)
