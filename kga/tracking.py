"""The loggers of a run: open from its start to its end, given every update by Lightning and the result by kga."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kga import config, ranks
from kga.console import note
from kga.errors import UserError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from kga.report.gather import Collected

QUANTITIES = ("utility", "forgetting", "score", "membership", "seconds", "cost")  # of a result


class Tracking:
    """The loggers of the config, for the time of a ``with`` block: one run of each, on the first process alone.

    A logger that has more to say than Lightning's has ``begin(cfg, key, folder)``, ``conclude(result, folder)`` and
    ``end(error)``, as ``kga.wandb_logger`` has.
    """

    def __init__(self, cfg: Mapping, key: str, folder: Path) -> None:
        self.cfg, self.key, self.folder = cfg, key, folder
        self.loggers: list[Logger] = []

    def __enter__(self) -> Tracking:
        for name in self.cfg["logger"] if ranks.is_main() else ():
            logger = _built(self.cfg["logger"], name, self.folder)
            if hasattr(logger, "begin"):
                logger.begin(self.cfg, self.key, self.folder)
            self.loggers.append(logger)
        return self

    def conclude(self, result: Mapping) -> None:
        """Gives the loggers what the run has found."""
        for logger in self.loggers:
            with self._spared(logger, "did not take the result"):
                if hasattr(logger, "conclude"):
                    logger.conclude(result, self.folder)
                else:
                    _conclude(logger, self.cfg, result)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        for logger in self.loggers:
            with self._spared(logger, "did not end well"):
                if hasattr(logger, "end"):
                    logger.end(error)
                else:
                    logger.finalize("failed" if error else "success")

    @contextmanager
    def _spared(self, logger: Logger, what: str) -> Iterator[None]:
        """A run is not lost for what a logger makes of it."""
        try:
            yield
        except Exception as error:
            note(f"{type(logger).__name__} {what} ({type(error).__name__}: {error}); the result is in {self.folder}")


def _built(loggers: Mapping, name: str, folder: Path) -> Logger:
    """A logger of the config; UserError where its package is missing."""
    try:
        return config.build(loggers, name, save_dir=str(folder))
    except ModuleNotFoundError as error:
        raise UserError(f"logger={name}: its package is missing: pip install {error.name or name}") from error


def summarise(cfg: Mapping, name: str, collected: Collected, folder: Path) -> None:
    """Gives the loggers that take it what a whole sweep has found."""
    for part in cfg["logger"]:
        if not str(cfg["logger"][part]["_target_"]).startswith("kga."):
            continue
        logger = _built(cfg["logger"], part, folder)
        if hasattr(logger, "summarise"):
            logger.summarise(name, collected, folder)


def _conclude(logger: Logger, cfg: Mapping, result: Mapping) -> None:
    """The resolved config, and where a logger takes them (TensorBoard's hparams) the result's numbers."""
    from pytorch_lightning.loggers import TensorBoardLogger

    settings = {name: value for name, value in cfg.items() if name != "logger"}
    if isinstance(logger, TensorBoardLogger):
        logger.log_hyperparams(settings, dict(numbers(result)))
    else:
        logger.log_hyperparams(settings)


def numbers(result: Mapping) -> Iterator[tuple[str, float]]:
    """Every number of a result, by a name such as "utility/unlearned/forget/accuracy"."""

    def walk(value: object, name: str) -> Iterator[tuple[str, float]]:
        if isinstance(value, Mapping):
            for part, below in value.items():
                yield from walk(below, f"{name}/{part}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value

    for quantity in QUANTITIES:
        yield from walk(result.get(quantity), quantity)
