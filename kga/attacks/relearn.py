"""Relearning: does what was forgotten come back when the model is trained on a part of it, or on text like it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from kga.attacks.probe import TITLES, Probe
from kga.data.batching import Ordered, supervised
from kga.data.encoded import Examples
from kga.data.splits import Split
from kga.errors import UserError, one_of
from kga.hashing import RECIPE
from kga.metrics.gathered import gathered
from kga.metrics.utility import Loss
from kga.objective import StandIn
from kga.optim import Optim
from kga.tasks.base import TaskModule
from kga.training import fit

if TYPE_CHECKING:
    from kga.study import Study, Trained

VERSION = 1  # of the findings that are kept in the store


class Relearn(Probe):
    """Fine-tunes every model a little, with plain supervision, and watches the forgotten examples that it is not shown.

    on: "forget" trains on a random ``part`` of D_f and watches the rest of it; "related" trains on non-members (unseen
    examples like D_f, of which no model was trained on any) and watches all of D_f.
    updates, optim: of the fine-tuning, the same for every model. every: updates between two looks.
    limit: examples that are looked at of a set, at most. batch_size: of looking.
    tau, threshold: a model has relearned once its loss on what it is trained on is at most A_D's before any update times
    (1 + tau), or at most ``threshold`` nats.

    Findings of a model: examples (trained on), updates (0, every, ...), at each of them seen_loss (of what is trained on),
    rest_loss and rest_utility (the task's ``score_metric``; multi-label with thresholds of .5), test_utility (before and
    after), recovered (rest_utility after minus before), recovered_minus_retrain (A_R is fine-tuned as well, and what it
    gains it can't have remembered), updates_to_relearn (null: not within the updates; Golatkar et al. 2020). A reader gets
    the ratio of relearn times from the models' values.
    """

    section = "relearning"

    def __init__(
        self, optim: Mapping, part: float = 0.5, on: str = "forget", updates: int = 40, every: int = 5, tau: float = 0.1,
        threshold: float = 0.1, limit: int = 1000, batch_size: int = 128,
    ) -> None:  # fmt: skip
        one_of("attack.relearn.on", on, ("forget", "related"))
        if not 0 < part < 1:
            raise UserError(f"attack.relearn.part={part} is the share of D_f that is trained on: between 0 and 1")
        whole = {"updates": updates, "every": every, "limit": limit, "batch_size": batch_size}
        for name, value in whole.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"attack.relearn.{name}={value} must be an integer of 1 or more")
        for name, value in {"tau": tau, "threshold": threshold}.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise UserError(f"attack.relearn.{name}={value} must be a number of 0 or more")
        if fixed := {"updates", "epochs", "patience"} & optim.keys():
            raise UserError(f"attack.relearn.optim.{min(fixed)}: how long is decided by attack.relearn.updates")
        self.optim = Optim(**optim, updates=updates, epochs=updates)  # an epoch has one update or more
        self.part, self.on, self.every, self.limit = part, on, every, limit
        self.tau, self.threshold, self.batch_size = tau, threshold, batch_size

    def require(self, study: Study) -> None:
        size = len(study.splits["forget"])
        if self.on == "forget" and not 0 < self._count(size) < size:
            raise UserError(
                f"attack=relearn needs a part of the forget set to train on and a rest to watch, attack.relearn.part="
                f"{self.part} of {size} leaves neither: forget more, change it, or set attack.relearn.on=related"
            )
        if self.on == "related" and not all(len(study.splits[name]) for name in ("nonmember", "holdout")):
            raise UserError(
                "attack.relearn.on=related needs unseen examples like the forget set, the holdout has none: raise "
                "data.reserve, give more by new.path, or set attack.relearn.on=forget"
            )

    def run(self, study: Study, models: Mapping[str, Trained], sets: Mapping[str, Split]) -> dict:
        seen, rest = self._parted(sets, study.seed)
        curves = {name: self._curve(study, name, model, seen, rest, sets["test"]) for name, model in models.items()}
        goal = max(curves["original"]["seen_loss"][0] * (1 + self.tau), self.threshold)
        gained = {name: curve["rest_utility"][-1] - curve["rest_utility"][0] for name, curve in curves.items()}
        findings = {}
        for name, curve in curves.items():
            reached = [
                update for update, loss in zip(curve["updates"], curve["seen_loss"], strict=True) if loss <= goal
            ]
            findings[name] = {"on": self.on, "examples": len(seen)} | curve | {"recovered": gained[name]}
            if "retrain" in gained:
                findings[name]["recovered_minus_retrain"] = gained[name] - gained["retrain"]
            # What is related was never learned: there is nothing to learn again.
            findings[name]["updates_to_relearn"] = reached[0] if reached and self.on == "forget" else None
        return findings

    def _count(self, size: int) -> int:
        return round(self.part * size)

    def _parted(self, sets: Mapping[str, Split], seed: int) -> tuple[Split, Split]:
        """What is trained on, and what is watched beside it."""
        forget = sets["forget"]
        if self.on == "related":
            return sets["nonmember"], forget
        order = np.random.default_rng([seed, 8]).permutation(forget.rows)
        count = self._count(len(forget))
        return Split(forget.source, np.sort(order[:count])), Split(forget.source, np.sort(order[count:]))

    def _sample(self, split: Split, seed: int) -> Split:
        if len(split) <= self.limit:
            return split
        chosen = np.random.default_rng([seed, 9]).permutation(split.rows)[: self.limit]
        return Split(split.source, np.sort(chosen))

    def _curve(self, study: Study, name: str, model: Trained, seen: Split, rest: Split, test: Split) -> dict:
        """What became of a model: computed once for it and these examples, whichever method is audited."""
        watched = {"seen": seen, "rest": rest, "test": test}
        watched = {which: self._sample(split, study.seed) for which, split in watched.items()}
        recipe = {
            "recipe": RECIPE, "version": VERSION, "model": model.key, "encoding": study.codec.encoding(),
            "trained": study.splits.fingerprint(seen), "optim": asdict(self.optim), "every": self.every,
            "watched": {which: study.splits.fingerprint(split) for which, split in watched.items()},
            "seed": study.seed, "precision": str(study.hardware.get("precision")),
        }  # fmt: skip

        def make(out: Path, work: Path) -> dict:
            module = study.load(model, self.optim)
            views = {which: study.view(split) for which, split in watched.items()}
            watch = Watch(views, self.every, self.optim.updates, self.batch_size)
            spent = fit(
                module, supervised(study.view(seen), self.optim, study.seed), optim=self.optim, hardware=study.hardware,
                seed=study.seed, work=work, description=f"{study.label}Relearning of {TITLES[name]}", callbacks=[watch],
            )  # fmt: skip
            return watch.curve | {"seconds": spent["seconds"]}

        meta = study.keep("relearned", recipe, make, f"Relearning of {TITLES[name]}", together=True).meta
        return {part: values for part, values in meta.items() if part != "seconds"}


class Watch(pl.Callback):
    """Looks at a model in training at update 0, ``every``, 2 ``every``, ... and the last; training doesn't notice.

    sets: "seen" (loss), "rest" (loss and utility) and "test" (utility, before and after). curve: what was seen so far, which
    is in the checkpoints.
    """

    def __init__(self, sets: Mapping[str, Examples], every: int, last: int, batch_size: int) -> None:
        self.sets, self.every, self.last, self.batch_size = dict(sets), every, last, batch_size
        self.curve: dict[str, list] = {
            name: [] for name in ("updates", "seen_loss", "rest_loss", "rest_utility", "test_utility")
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: TaskModule) -> None:
        if not self.curve["updates"]:
            self._look(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: TaskModule, *outputs: object) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == self.last:
            self._look(trainer, pl_module)

    def state_dict(self) -> dict:
        return {"curve": {name: list(values) for name, values in self.curve.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.curve = {name: list(values) for name, values in state["curve"].items()}

    def _look(self, trainer: pl.Trainer, module: TaskModule) -> None:
        update, model, training = trainer.global_step, module.model, module.model.training
        devices = [module.device] if module.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), trainer.precision_plugin.forward_context():
            model.eval()
            found = {name: self._values(module, name) for name in ("seen", "rest")}
            if update in (0, self.last):
                found["test"] = self._values(module, "test")
            model.train(training)
        self.curve["updates"].append(update)
        self.curve["seen_loss"].append(found["seen"]["loss"])
        self.curve["rest_loss"].append(found["rest"]["loss"])
        self.curve["rest_utility"].append(found["rest"][module.score_metric])
        if "test" in found:
            self.curve["test_utility"].append(found["test"][module.score_metric])

    def _values(self, module: TaskModule, name: str) -> dict[str, float]:
        metrics = nn.ModuleList([Loss(), *module.utility_metrics()]).to(module.device)
        for batch in Ordered(self.sets[name], self.batch_size):
            if isinstance(batch, StandIn):
                continue
            moved = {key: value.to(module.device) for key, value in batch.items()}
            for dense in (part.dense() for _, part in module.predict(moved).parts()):
                for metric in metrics:
                    metric.update(dense)
        return {key: float(value) for metric in metrics for key, value in gathered(metric).compute().items()}
