"""One fit: a task, a stream of updates, Lightning's Trainer; resumable, timed, the same when interrupted."""

import random
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from safetensors.torch import save_file

from kga import ranks
from kga.console import note
from kga.data.batching import Ordered, Updates
from kga.errors import UserError
from kga.hardware import all_devices
from kga.optim import Optim
from kga.progress import FitProgress
from kga.quiet import quiet_advice
from kga.tasks.base import TaskModule

CHECKPOINTS = "checkpoints"  # folder of a fit's checkpoints, in its work folder


class RunState(pl.Callback):
    """Puts what Lightning leaves out into the checkpoint: random generators, the stream of updates, seconds spent.

    Lightning would restore the stream by itself, had it not been asked for its length before (for the schedule).
    """

    def __init__(self, updates: Updates) -> None:
        self.updates = updates
        self.spent, self._started, self._restored = 0.0, time.monotonic(), None

    @property
    def seconds(self) -> float:
        """Time of training, over all interruptions."""
        return self.spent + time.monotonic() - self._started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        if self._restored is not None:
            kept = [self._restored["generators"], *self._restored.get("others", ())]
            _restore_generators(kept[ranks.rank() % len(kept)])
            self.updates.load_state_dict(self._restored["updates"])
            self._restored = None
        elif ranks.rank():  # Lightning has seeded all ranks alike; they are to drop different units
            torch.manual_seed(torch.initial_seed() + ranks.rank())

    def state_dict(self) -> dict:
        first, *others = ranks.gather(_generators())  # all ranks call this, the first one writes it
        state = {"seconds": self.seconds, "generators": first, "updates": self.updates.state_dict()}
        return state | ({"others": others} if others else {})

    def load_state_dict(self, state: dict) -> None:
        self.spent, self._restored = state["seconds"], state


def _generators() -> dict:
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _restore_generators(state: dict) -> None:
    torch.set_rng_state(state["torch"].cpu())
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])


class EpochEnds(pl.Callback):
    """Keeps the weights of the last two epoch ends (second-order methods take gradients at both)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: TaskModule) -> None:
        state = ranks.whole(pl_module.model.state_dict())
        if not ranks.is_main():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(state, self.folder / f"epoch-{trainer.current_epoch:04d}.safetensors")
        for old in sorted(self.folder.glob("epoch-*.safetensors"))[:-2]:
            old.unlink()


class KeepOptimizer(pl.Callback):
    """Starts from an optimiser's state kept beside a model (``folder``; None: a fresh one), and keeps it at the end."""

    FILE = "optimizer.pt"

    def __init__(self, folder: Path | None, out: Path) -> None:
        self.folder, self.out = folder, out

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.folder is not None and trainer.global_step == 0:  # else a checkpoint has it already
            state = torch.load(self.folder / self.FILE, weights_only=True, map_location=pl_module.device)
            own = trainer.optimizers[0].state_dict()
            trainer.optimizers[0].load_state_dict({**own, "state": state["state"]})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if ranks.is_main():
            torch.save({"state": trainer.optimizers[0].state_dict()["state"]}, self.out / self.FILE)


def fit(
    module: TaskModule,
    updates: Updates,
    *,
    optim: Optim,
    hardware: Mapping,
    seed: int,
    work: Path,
    description: str,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence = (),
    validation: Ordered | None = None,
    stop_epochs: int | None = None,
) -> dict:
    """Trains ``module`` on ``updates``; goes on from the newest checkpoint in ``work`` if there is one.

    hardware: arguments of Lightning's Trainer (``trainer.*`` of the config), and ``checkpoint_minutes``.
    validation: with ``optim.patience``, the best epoch by ``optim.monitor`` is kept. stop_epochs: end after that many
    epochs of a longer schedule.
    Returns {"seconds", "epochs", "updates"}.
    """
    state = RunState(updates)
    best = _early_stopping(optim, work, len(updates)) if validation is not None else []
    ending = [_StopAfter(stop_epochs)] if stop_epochs else []
    pl.seed_everything(seed, verbose=False)
    # With deterministic algorithms torch would fill all new memory, a tenth of the time; nothing here reads it unwritten.
    torch.utils.deterministic.fill_uninitialized_memory = False
    if hardware.get("compile"):
        torch._dynamo.config.skip_nnmodule_hook_guards = False  # tasks look into models by hooks
        module.model.compile(dynamic=True)  # in place: names of weights and what is saved stay
    trainer = _trainer(optim, hardware, work, [state, *callbacks, *best, *ending, FitProgress(description)], loggers)
    with quiet_advice():
        try:
            newest = ranks.from_main(lambda: _newest(work / CHECKPOINTS))
            trainer.fit(module, updates, validation if best else None, ckpt_path=newest, weights_only=True)
        except SystemExit as exit:
            if exit.code != 1:  # a SLURM job that is put back into the queue
                raise
            raise KeyboardInterrupt from exit  # what Lightning makes 1 of
        finally:
            module.model._compiled_call_impl = None
    ranks.barrier()
    if hardware.get("profiler") and ranks.is_main():
        print(trainer.profiler.summary())
    epochs = _take_best(module, best[1]) if best else trainer.current_epoch
    return {"seconds": state.seconds, "epochs": epochs, "updates": trainer.global_step}


def _take_best(module: TaskModule, best: ModelCheckpoint) -> int:
    """Gives the module the weights of its best epoch, and says how many epochs that took."""
    chosen = torch.load(best.best_model_path, weights_only=True)
    module.load_state_dict(chosen["state_dict"])
    return chosen["epoch"] + 1


def _trainer(
    optim: Optim, hardware: Mapping, work: Path, callbacks: Sequence[pl.Callback], loggers: Sequence
) -> pl.Trainer:
    """Lightning's Trainer with checkpoints at every epoch's end, and every ``checkpoint_minutes`` of the hardware."""
    arguments, folder = all_devices(hardware, fit=True), work / CHECKPOINTS
    keep = [
        ModelCheckpoint(folder, "epoch", every_n_epochs=1, enable_version_counter=False, save_on_train_epoch_end=True)
    ]
    if minutes := hardware.get("checkpoint_minutes"):
        interval = timedelta(minutes=minutes)
        keep.append(ModelCheckpoint(folder, "time", train_time_interval=interval, enable_version_counter=False))
    return pl.Trainer(
        max_epochs=optim.epochs,
        max_steps=optim.updates or -1,
        callbacks=[*callbacks, *keep],
        logger=list(loggers) or False,
        default_root_dir=work,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        profiler=hardware.get("profiler"),
        **arguments,
    )


class _StopAfter(pl.Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 >= self.epochs


def _early_stopping(optim: Optim, work: Path, epoch: int) -> list[pl.Callback]:
    """What ends training and keeps the best epoch, with ``optim.patience``. epoch: updates before the first validation."""
    if not optim.patience:
        return []
    if optim.updates and optim.updates < epoch:
        raise UserError(
            f"optim.updates={optim.updates} ends before the first validation, after {epoch} updates: raise it, or "
            "leave out optim.patience"
        )
    watched = f"validation/{optim.monitor}"
    mode = "min" if optim.monitor in ("loss", "perplexity") else "max"
    best = ModelCheckpoint(work / "best", "best", monitor=watched, mode=mode, enable_version_counter=False)
    return [EarlyStopping(watched, patience=optim.patience, mode=mode), best]


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; damaged ones are named and removed."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except Exception as error:  # whatever a torn file makes the reader raise
            note(f"checkpoint {path} can't be read ({type(error).__name__}): it is removed")
            path.unlink()
            continue
        note(f"going on from the checkpoint {path.name}")
        return path
    return None
