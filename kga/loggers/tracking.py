"""The loggers of a run: open from its start to its end, given every update by Lightning and the result by kga."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from kga import config, ranks
from kga.console import note
from kga.errors import UserError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

    from kga.report.gather import Collected

SUSPENSION = 30.0  # seconds that loggers have to end before their process is ended
QUANTITIES = ("utility", "forgetting", "score", "membership", "seconds", "cost")  # of a result


class Tracking:
    """The loggers of the config, for the time of a ``with`` block: one run of each, on the first process alone.

    A logger that has more to say than Lightning's has ``begin(cfg, key, folder)``, ``conclude(result, folder)``,
    ``suspend()`` and ``end(error)``, as ``kga.loggers.wandb_logger`` has.
    """

    def __init__(self, cfg: Mapping, key: str, folder: Path) -> None:
        self.cfg, self.key, self.folder = cfg, key, folder
        self.loggers: list[Logger] = []
        self.suspended = False

    def __enter__(self) -> Tracking:
        names = self.cfg["logger"] if ranks.is_main() else ()
        self.loggers = [_built(self.cfg["logger"], name, self.folder) for name in names]
        self._begin()
        _open.append(self)
        return self

    def _begin(self) -> None:
        self.suspended = False
        for logger in self.loggers:
            if hasattr(logger, "begin"):
                logger.begin(self.cfg, self.key, self.folder)

    def conclude(self, result: Mapping) -> None:
        """Gives the loggers what the run has found."""
        for logger in self.loggers:
            with self._spared(logger, "did not take the result"):
                if hasattr(logger, "conclude"):
                    logger.conclude(result, self.folder)
                else:
                    _conclude(logger, self.cfg, result)

    def suspend(self) -> None:
        """Lets loggers put down what they have, as another process will go on with the run."""
        self.suspended = True
        for logger in self.loggers:
            if hasattr(logger, "suspend"):
                with self._spared(logger, "did not end well"):
                    logger.suspend()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        _open.remove(self)
        if self.suspended and isinstance(error, Exception):  # the job was not put back after all
            self._begin()
        for logger in () if self.suspended else self.loggers:
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


_open: list[Tracking] = []  # of this process


def suspend() -> None:
    """Suspends the runs of this process, which is about to be ended: a cluster ends W&B's service at the same moment, with
    what it has not written or sent yet.

    In a thread that is not waited for without end, as a signal may find this one in the middle of anything.
    """
    for tracking in _open:
        ending = Thread(target=tracking.suspend, daemon=True)
        ending.start()
        ending.join(SUSPENSION)


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
