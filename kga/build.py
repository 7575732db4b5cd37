"""From config to objects: the study, the method, the environment it ran in."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from kga import config
from kga.data.corpus import Corpus
from kga.data.splits import Splits
from kga.errors import UserError
from kga.hardware import one_device
from kga.inputs import data_alone, data_fingerprint
from kga.ledger import Ledger
from kga.methods.base import Method
from kga.optim import Optim
from kga.quiet import quiet_libraries
from kga.store import Store
from kga.study import Study, epoch_ends


def build_method(cfg: Mapping) -> Method:
    """The method of the config."""
    return config.build(cfg, "method")


def build_study(cfg: Mapping, corpus: Corpus, splits: Splits, store: Store, loggers: Sequence[Logger] = ()) -> Study:
    """The study of the config: task class, model family, optimiser, hardware."""
    quiet_libraries()
    task = get_class(cfg["task"]["_target_"])
    require_trainer(cfg["trainer"])
    return Study(
        splits,
        task,
        config.build(cfg, "model"),
        task.head_for(corpus),
        Optim(**cfg["optim"]),
        store,
        cfg["trainer"],
        cfg["seed"],
        cfg["original"]["path"],
        loggers,
        {name: value for name, value in cfg["task"].items() if name not in ("_target_", "name")},
        Ledger(store.root, cfg, data_alone(corpus, cfg), data_fingerprint(corpus, cfg)),
        cfg["evaluation"]["watch"],
    )


def require_trainer(options: Mapping) -> None:
    """UserError for hardware or precision that Lightning refuses, before anything is trained with it."""
    try:
        pl.Trainer(**one_device(options), logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise UserError(f"trainer.*: {str(error).strip().splitlines()[0]}") from error


def require_inputs(cfg: Mapping, method: Method, splits: Splits) -> None:
    """UserError for what the method needs and the study lacks, before anything is trained."""
    for name in method.needed_splits():
        if not len(splits[name]):
            given = ": with original.path, give D_n by new.path" if name == "new" else ""
            raise UserError(f"the method needs the set {name!r}, which is empty{given}")
    if any(statistic.weights == "epoch_ends" for statistic in method.statistics().values()):
        _require_epoch_ends(cfg)


def _require_epoch_ends(cfg: Mapping) -> None:
    needs = f"method={cfg['choices']['method']} needs A_D's weights at its last two epoch ends"
    given = cfg["original"]["path"]
    if given and len(epoch_ends(Path(given).expanduser())) < 2:
        raise UserError(f"{needs}, which original.path={given} lacks: train A_D here (leave out original.path)")
    if not given and cfg["optim"]["epochs"] < 2:
        raise UserError(f"{needs}: set optim.epochs to 2 or more")
    if not given and cfg["optim"].get("patience"):
        raise UserError(f"{needs}, and with optim.patience A_D is an earlier epoch: leave out optim.patience")


def environment(cfg: Mapping) -> dict:
    """Versions, device, threads and precision of this process."""
    on_gpu = torch.cuda.is_available() and cfg["trainer"]["accelerator"] != "cpu"
    packages = ("kga", "torch", "pytorch-lightning", "transformers", "datasets", "torchmetrics", "hydra-core")
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "device": torch.cuda.get_device_name() if on_gpu else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "precision": str(cfg["trainer"]["precision"]),
    }
