"""The trained models of one study: each is made once, kept in the store, and found again by whoever needs it."""

import shutil
import time
from collections.abc import Mapping
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from kga import ranks
from kga.console import note
from kga.data.batching import Ordered, supervised
from kga.data.corpus import Listed
from kga.data.encoded import Examples, encode, everything
from kga.data.splits import Split, Splits, unlike
from kga.errors import UserError
from kga.evaluation import measure
from kga.hashing import RECIPE, digest, folder_digest, state_digest
from kga.keeper import Keeper
from kga.ledger import HELPERS, ORIGINAL, UNLEARNED, Ledger, retrained
from kga.loggers.watching import Watch
from kga.memory import PeakMemory
from kga.methods.base import Helper, Method, Statistic
from kga.models.ensemble import member_folders
from kga.optim import Optim
from kga.store import Artifact, Store
from kga.tasks.base import TaskModule
from kga.training import EpochEnds, KeepOptimizer, fit
from kga.unlearning import on_device, unlearn

DTYPE = ("dtype",)  # what a model's file says of it is moot: all are loaded in float32


@dataclass(frozen=True)
class Trained:
    """A model of the study. key: names it by content. seconds: what it cost to make, also when it was reused."""

    folder: Path
    key: str
    meta: Mapping
    bytes: int = 0

    @property
    def seconds(self) -> float:
        return self.meta.get("seconds", 0.0)


@dataclass(frozen=True)
class Forgotten:
    """What a method made of A_D, and what it needed for that."""

    unlearned: Trained
    declared: Mapping[str, Helper]
    helpers: Mapping[str, Trained]
    statistics: Mapping[str, Trained]


class Study:
    """Data, splits, model family and store of one run; trains what is asked for.

    task: class of the task; task_options: its further arguments. family: builds models and tokenizers (kga.models). original: a given model folder, instead
    of training A_D. hardware: arguments of Lightning's Trainer.
    """

    def __init__(
        self, splits: Splits, task: type[TaskModule], family, head: dict, optim: Optim, store: Store, hardware: Mapping,
        seed: int, original: str | None = None, loggers=(), task_options: Mapping | None = None,
        ledger: Ledger | None = None, watch: int = 0,
    ) -> None:  # fmt: skip
        self.splits, self.task, self.family, self.optim = splits, task, family, optim
        self.task_options = dict(task_options or {})
        self.store, self.hardware, self.seed, self.loggers = store, dict(hardware), seed, loggers
        self.given = self.source = Path(original).expanduser() if original else None
        self.ledger, self.watch = ledger, watch
        self.label = ""  # before the titles of what is trained, in a world
        self._original: Trained | None = None
        self.max_length = family.max_length
        if self.given and any(member_folders(self.given)):
            raise UserError(f"original.path={self.given} holds several models (SISA): give one of its shard-N folders")
        given = task.load(self.given, **self.task_options) if self.given else None
        if given:
            given.require_fits(splits.tables["train"], f"original.path={self.given}")
        self.head = given.head() if given else head
        self.tokenizer = given.tokenizer if given else self._tokenizer()
        codec = self._around(given.model if given else family.model(task, self.tokenizer, head, seed))
        _require_positions(codec)
        self.tables: dict[str, Dataset] = {
            name: encode(table, codec, store, splits.fingerprint(Split(name, np.arange(len(table)))))
            for name, table in splits.tables.items()
        }
        self.codec = codec
        self.cut = {name: self._cut(name) for name in splits.sets if len(splits[name])}

    # Parts -----------------------------------------------------------------------------------------------------

    def _tokenizer(self):
        """The pretrained model's, or one trained on the inputs of D alone."""
        recipe = self.family.tokenizer_recipe()
        if recipe is None:
            return self.family.tokenizer(lambda: ())
        train = self.splits["train"]

        def make(out: Path, work: Path) -> dict:
            columns = {field: Listed(self.splits.column(train, field)) for field in self.task.fields}
            self.family.tokenizer(lambda: self.task.texts(columns)).save_pretrained(out / "tokenizer")
            return {}

        from transformers import AutoTokenizer

        found = self.store.get("tokenizers", recipe | {"examples": self.splits.fingerprint(train)}, make)
        return AutoTokenizer.from_pretrained(found.path / "tokenizer")

    def _around(self, model, optim: Optim | None = None) -> TaskModule:
        return self.task(model, self.tokenizer, self.max_length, optim or self.optim, **self.task_options)

    def _cut(self, name: str) -> dict[str, int]:
        """How many examples of a set were cut at the length limits, and of how many."""
        return {"examples": int(self.examples(name).column("cut").sum()), "of": len(self.splits[name])}

    def load(self, trained: Trained, optim: Optim | None = None) -> TaskModule:
        """A task around a model of this study."""
        return self.task.load(trained.folder, self.max_length, optim or self.optim, **self.task_options)

    def _load_frozen(self, trained: Trained) -> TaskModule:
        kind = self.hardware.get("frozen_dtype")
        return self.load(trained).to(getattr(torch, kind) if kind else None)

    def examples(self, name: str) -> Examples:
        """The encoded examples of a set."""
        return self.view(self.splits[name])

    def view(self, split: Split) -> Examples:
        """The encoded examples of some rows."""
        return Examples(self.tables[split.source], split.rows, self.codec)

    def world(self, sets: Mapping[str, Split], seed: int, label: str) -> "Study":
        """The same study on other sets of the same tables, with a seed of its own: a shadow model's.

        Tokenizer, encodings and store are shared; its A_D is trained, also where this study's was given (``source``).
        """
        other = copy(self)
        other.splits, other.seed, other.label = replace(self.splits, sets=dict(sets)), seed, label
        other.given, other.loggers, other._original = None, (), None
        return other

    def precision(self, frozen: bool = False) -> str:
        """What arithmetic models are trained and run in: part of the name of all they make. frozen: also what teaches."""
        kind = self.hardware.get("frozen_dtype") if frozen else None
        return str(self.hardware.get("precision")) + (f", frozen {kind}" if kind else "")

    # Models ----------------------------------------------------------------------------------------------------

    def has_original(self) -> bool:
        """Whether A_D is in the store already."""
        return self.store.has("original", self.planned(self.splits["train"], epoch_ends=True)[1])

    def original(self) -> Trained:
        """A_D: trained on D, or the given model."""
        if self._original is None:
            self._original = (
                self.train("original", self.splits["train"], ORIGINAL, epoch_ends=True)
                if self.given is None
                else Trained(self.given, folder_digest(self.given), {})
            )
        return self._original

    def retrained(self, number: int = 0) -> Trained:
        """A_R: trained on D_r with A_D's recipe and number of epochs. ``number`` > 0: further ones, with other seeds."""
        epochs = self.original().meta.get("epochs") if self.optim.patience else None
        return self.train(
            "retrained", self.splits["retain"], retrained(number), seed=self.seed + 1000 * number, stop_epochs=epochs
        )

    def helper(self, name: str, helper: Helper) -> Trained:
        """An auxiliary model of a method."""
        if helper.split is None:
            return self._untrained(name, helper)
        rows = self.splits[helper.split].rows
        if helper.retain_share:
            rows = np.concatenate([rows, self._extra(helper, rows)])
        optim = replace(self.optim, **helper.optim)
        title = HELPERS.get(helper.split, name)
        return self.train("helpers", Split("train", rows), title, optim=optim, start=helper.start)

    def _untrained(self, name: str, helper: Helper) -> Trained:
        module = self._initial(helper.start, self.seed, self.optim)
        recipe = {"encoding": module.encoding(), "architecture": _architecture(module),
                  "weights": state_digest(module.model.state_dict())}  # fmt: skip
        return self.keep("untrained", recipe, lambda out, work: module.save(out) or {}, f"{name}, untrained")

    def statistic(self, name: str, wanted: Statistic) -> Trained:
        """Tensors that a method computes once from A_D (``tensors.safetensors``)."""
        original, examples = self.original(), self.splits[wanted.split]
        recipe = {
            "recipe": RECIPE, "name": name, "settings": dict(wanted.recipe), "weights": wanted.weights,
            "original": original.key, "examples": self.splits.fingerprint(examples), "seed": self.seed,
            "encoding": self.codec.encoding(), "precision": self.precision(),
        }  # fmt: skip

        def make(out: Path, work: Path) -> dict:
            models = self._ends(original) if wanted.weights == "epoch_ends" else [self.load(original)]
            started = time.monotonic()
            with on_device(models, self.hardware, self.seed):
                tensors = wanted.compute(models, self.view(examples))
            save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, out / "tensors.safetensors")
            return {"seconds": time.monotonic() - started}

        return self.keep("statistics", recipe, make, f"{name.replace('_', ' ')} of A_D")

    def _ends(self, original: Trained) -> list[TaskModule]:
        """A_D at its last two epoch ends."""
        files = epoch_ends(original.folder)
        if len(files) < 2:
            raise UserError(
                f"{original.folder} lacks its weights at the last two epoch ends: train A_D for 2 epochs or more"
            )
        models = [self.load(original) for _ in files]
        for model, file in zip(models, files, strict=True):
            model.model.load_state_dict(load_file(file), strict=False)
        return models

    def _extra(self, helper: Helper, rows: np.ndarray) -> np.ndarray:
        retain = self.splits["retain"].rows
        chosen = np.random.default_rng([helper.seed, 4]).random(len(retain)) < helper.retain_share
        extra = retain[chosen]
        if helper.dedupe:
            extra = unlike(self.splits.tables["train"], extra, rows)
        return extra

    def _initial(self, start: str, seed: int, optim: Optim) -> TaskModule:
        if start == "original":
            return self.load(self.original(), optim)
        model = self.family.model(self.task, self.tokenizer, self.head, seed, scratch=start == "scratch")
        module = self._around(model, optim)
        if self.source and _architecture(module, DTYPE) != _architecture(self.codec, DTYPE):
            raise UserError(
                f"original.path={self.source} is another architecture than model=... builds for the models trained beside it: set "
                "model=pretrained model.name=BACKBONE to what it was fine-tuned from, or train none (reference=none, no shadow models)"
            )
        return module

    def train(
        self, kind: str, split: Split, title: str, *, seed: int | None = None, optim: Optim | None = None,
        start: str = "pretrained", epoch_ends: bool = False, stop_epochs: int | None = None,
        after: Trained | None = None, keep_optimizer: bool = False,
    ) -> Trained:  # fmt: skip
        """A model trained on some examples, from the store where it is there.

        start: "pretrained", "scratch" or "original"; after: go on from that model, and from its optimiser where that was
        kept (``keep_optimizer``). epoch_ends: keep the weights of the last two.
        """
        module, recipe = self.planned(
            split, seed=seed, optim=optim, start=start, epoch_ends=epoch_ends, stop_epochs=stop_epochs, after=after,
            keep_optimizer=keep_optimizer,
        )  # fmt: skip
        seed, optim = recipe["seed"], module.optim

        def make(out: Path, work: Path) -> dict:
            updates = supervised(self.view(split), optim, seed)
            watch = kind == "original" and bool(optim.patience)
            validation = everything(self.tables["validation"], self.codec)
            callbacks = [EpochEnds(work / "epoch_ends")] if epoch_ends else []
            callbacks += [KeepOptimizer(after.folder if after else None, out)] if keep_optimizer else []
            with PeakMemory() as memory:
                meta = fit(
                    module, updates, optim=optim, hardware=self.hardware, seed=seed, work=work,
                    description=self.label + title,
                    callbacks=callbacks, stop_epochs=stop_epochs,
                    validation=Ordered(validation, optim.batch_size) if watch else None,
                )  # fmt: skip
            module.save(out)
            if epoch_ends:
                shutil.copytree(work / "epoch_ends", out / "epoch_ends")
            return meta | {"units": len(split) * meta["epochs"], "peak_memory_bytes": memory.peak}

        return self.keep(kind, recipe, make, title, together=True)

    def planned(
        self, split: Split, *, seed: int | None = None, optim: Optim | None = None, start: str = "pretrained",
        epoch_ends: bool = False, stop_epochs: int | None = None, after: Trained | None = None,
        keep_optimizer: bool = False,
    ) -> tuple[TaskModule, dict]:  # fmt: skip
        """The model that ``train`` starts from, and everything that decides what becomes of it."""
        seed, optim = self.seed if seed is None else seed, optim or self.optim
        module = self.load(after, optim) if after else self._initial(start, seed, optim)
        recipe = {
            "recipe": RECIPE,
            "encoding": module.encoding(),
            "weights": state_digest(module.model.state_dict()),
            "architecture": _architecture(module),
            "examples": self.splits.fingerprint(split),
            "optim": asdict(optim) | {"stop_epochs": stop_epochs},
            "validation": self.splits.fingerprint(self.splits["validation"]) if optim.patience else None,
            "seed": seed,
            "precision": self.precision(),
            "epoch_ends": epoch_ends,
        }
        if after or keep_optimizer:
            recipe |= {"after": after.key if after else None, "keep_optimizer": keep_optimizer}
        return module, recipe

    def keep(self, kind: str, recipe: dict, make, title: str, together: bool = False) -> Trained:
        """What ``make`` makes (see ``Store.get``), or has made before; says so, but in a world, of which there are many."""
        artifact: Artifact = self.store.get(kind, recipe, make, together)
        if artifact.reused and not self.label:
            note(f"{title}: reused from the store")
        if self.ledger is not None and ranks.is_main():
            meta = artifact.meta
            self.ledger.note(kind, self.label + title, artifact.path, meta.get("seconds", 0.0), meta.get("units", 0.0))
        return Trained(artifact.path, artifact.key, artifact.meta, artifact.bytes())

    def signals(self, trained: Trained, split: Split, batch_size: int = 128) -> pd.DataFrame:
        """What a model says of each example of a set: its signals (``kga.metrics.signals``), in the set's order.

        Computed once for a model and a set, in whatever run.
        """
        recipe = {
            "recipe": RECIPE, "version": 2, "model": trained.key, "examples": self.splits.fingerprint(split),
            "encoding": self.codec.encoding(), "precision": self.precision(),
        }  # fmt: skip

        def make(out: Path, work: Path) -> dict:
            started = time.monotonic()
            measure(self.load(trained), self.view(split), self.hardware, batch_size).to_parquet(out / "signals.parquet")
            return {"seconds": time.monotonic() - started}

        return pd.read_parquet(self.store.get("signals", recipe, make, together=True).path / "signals.parquet")

    # Unlearning ------------------------------------------------------------------------------------------------

    def forget(self, method: Method, settings: Mapping) -> Forgotten:
        """Everything between A_D and A*: the method's helpers, its statistics of A_D, the unlearning.

        settings: the method's resolved config, part of what names the result.
        """
        declared = method.helpers()
        helpers = {name: self.helper(name, helper) for name, helper in declared.items()}
        statistics = {name: self.statistic(name, statistic) for name, statistic in method.statistics().items()}
        return Forgotten(
            self.unlearned(method, settings, self.original(), helpers, statistics), declared, helpers, statistics
        )

    def unlearned(
        self, method: Method, settings: Mapping, original: Trained, helpers: Mapping[str, Trained],
        statistics: Mapping[str, Trained] | None = None,
    ) -> Trained:  # fmt: skip
        """A*: the method applied to A_D. settings: the method's resolved config, part of what names the result."""
        if method.start == "initial":
            return method.train(self)
        if not method.moves:
            return original
        computed = statistics or {}
        recipe = {
            "recipe": RECIPE,
            "method": settings,
            "original": original.key,
            "helpers": {name: helper.key for name, helper in helpers.items()},
            "statistics": {name: found.key for name, found in computed.items()},
            "encoding": self.codec.encoding(),
            "sets": {name: self.splits.fingerprint(self.splits[name]) for name in method.needed_splits()},
            "seed": self.seed,
            "precision": self.precision(frozen=True),
        }

        def make(out: Path, work: Path) -> dict:
            frozen = {"original": original, **helpers}
            keeper = Keeper(self, frozen)
            loaders = {name: partial(self._load_frozen, frozen[name]) for name in method.frozen_models}
            tensors = {name: load_file(found.folder / "tensors.safetensors") for name, found in computed.items()}
            method.attach(loaders, {name: self.examples(name) for name in method.splits}, tensors, keeper)
            student = self.load(original)
            with PeakMemory() as memory:
                meta = unlearn(
                    method, student, hardware=self.hardware, seed=self.seed, work=work, loggers=self.loggers,
                    callbacks=self._watching(), description=f"{self.label}A* unlearning",
                )  # fmt: skip
            student.save(out)
            if method.history:
                pd.DataFrame(method.history).to_csv(out / "updates.csv", index=False)
            held = sum(model.bytes() for model in method.frozen.values())
            method.frozen.clear()  # the evaluation needs the memory
            cached = method.cache_seconds + keeper.saved_seconds
            return meta | {"cache_seconds": cached, "peak_memory_bytes": memory.peak, "cache_bytes": held,
                           "unlearning": method.outcome()}  # fmt: skip

        return self.keep("unlearned", recipe, make, UNLEARNED, together=not method.edits)

    def _watching(self) -> list[Watch]:
        """What shows the loggers how A* does while it unlearns; not where a model lies in parts."""
        if not (self.loggers and self.watch) or self.hardware.get("strategy") == "fsdp":
            return []
        sets = {"validation": everything(self.tables["validation"], self.codec), "forget": self.examples("forget")}
        return [Watch(sets, self.watch)]


def _require_positions(module: TaskModule) -> None:
    """UserError if an example may be longer than the model has positions for."""
    positions = getattr(module.model.config, "max_position_embeddings", None)
    if positions and module.longest() > positions:
        raise UserError(
            f"model.max_length={module.max_length}: an example may take {module.longest()} positions, the model has "
            f"{positions}: lower model.max_length or task.max_target_length"
        )


def epoch_ends(folder: Path) -> list[Path]:
    """The weights that a model kept of its last two epoch ends, the earlier first."""
    return sorted((folder / "epoch_ends").glob("epoch-*.safetensors"))


def _architecture(module: TaskModule, ignored: tuple[str, ...] = ()) -> str:
    config = module.model.config.to_dict()
    for volatile in ("transformers_version", "_name_or_path", "architectures", *ignored):
        config.pop(volatile, None)
    return digest(config)
