"""Contenders run in turn, several times, so that what else the machine does meets them all."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Measured = dict[str, float]


class Stopwatch:
    """Seconds, and processor seconds of all threads, which other work on the machine does not lengthen; they add up."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0

    def start(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]

    def measured(self, prefix: str = "") -> Measured:
        return {f"{prefix}seconds": self.seconds, f"{prefix}cpu_seconds": self.cpu_seconds}


def alternate(contenders: Mapping[str, Callable[[int], Measured]], repeats: int) -> dict[str, dict[str, list[float]]]:
    """What each contender measured in every round, by name of the figure.

    A contender is called with the number of the round; a first round warms up and is left out.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            gc.collect()
            for figure, value in run(turn).items() if turn else ():
                found[name].setdefault(figure, []).append(value)
    return found


def each(function: Callable, first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Two figures put together, round by round."""
    return function(first, second).tolist()


def spread(values: list[float]) -> Measured:
    """Median and quartiles."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high, "times": len(values)}


def ratio(first: list[float], second: list[float]) -> Measured:
    """Median and quartiles of the ratios within each round."""
    return spread([a / b for a, b in zip(first, second, strict=True)])
