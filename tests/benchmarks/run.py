"""The benchmark: ``python -m benchmarks.run`` in ``tests/``, or ``make bench``."""

import argparse
import json
import logging
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.contenders import kga, plain, scaling, student
from benchmarks.document import markdown
from benchmarks.measure import Measured, alternate, each, ratio, spread
from benchmarks.memory import peak_bytes
from benchmarks.worlds import WORLDS, World
from kga.console import console

FP32, BF16 = "32-true", "bf16-mixed"
TOKENS = 2048  # of a micro-batch, where a budget is measured
PARTS = ("speed", "memory", "scaling")


def speed(world: World, updates: int, plain_updates: int, repeats: int) -> dict:
    """Examples per second of each contender, and how many times as long as the lower bound kga takes."""
    contenders = {"plain": lambda turn: plain(world, plain_updates, turn)}
    for name, precision in (("fp32", FP32), ("bf16", BF16)):
        contenders[f"student {name}"] = partial(student, world, precision, updates)
        contenders[f"kga {name}"] = partial(kga, world, precision, updates)
    contenders[f"kga bf16, {TOKENS} tokens"] = lambda turn: kga(world, BF16, updates, turn, TOKENS)
    found = alternate(contenders, repeats)
    rates = {name: each(np.divide, run["examples"], run["seconds"]) for name, run in found.items()}
    figures = {name: {"examples_per_second": spread(rates[name])} for name in found}
    for name, run in found.items():
        figures[name] |= {key: spread(values) for key, values in run.items() if key != "examples"}
        if name.startswith("kga"):
            figures[name] |= compared(run, found["plain"], found["student " + name[4:8]])
    return figures


def compared(run: Mapping, plain: Mapping, bound: Mapping) -> dict[str, Measured]:
    """How many times as fast as the published loop, and how many times as slow as the bound; also in processor seconds."""
    found = {}
    for key, clock in (("", "seconds"), ("cpu_", "cpu_seconds")):
        pace, plain_pace = (each(np.divide, side["examples"], side[clock]) for side in (run, plain))
        stepped = each(np.add, bound[clock], bound[f"optimiser_{clock}"])
        found[f"{key}times_plain"] = ratio(pace, plain_pace)
        found[f"{key}times_student"] = ratio(run[clock], bound[clock])
        found[f"{key}times_student_with_optimiser"] = ratio(run[clock], stepped)
    return found


def memory(world: World, updates: int = 2) -> dict[str, float]:
    """Peak bytes of tensors while updates are made, models and optimiser states included."""
    runs = {
        "plain": lambda within: plain(world, updates, within=within),
        "kga fp32": lambda within: kga(world, FP32, updates, within=within),
        "kga bf16": lambda within: kga(world, BF16, updates, within=within),
        f"kga fp32, {TOKENS} tokens": lambda within: kga(world, FP32, updates, tokens=TOKENS, within=within),
        f"kga bf16, {TOKENS} tokens": lambda within: kga(world, BF16, updates, tokens=TOKENS, within=within),
    }
    return {name: float(peak_bytes(run)) for name, run in runs.items()}


def scale(world: World, sizes: Sequence[int], updates: int, repeats: int) -> dict:
    """Seconds of unlearning as D grows, and their slope: the share by which ten times as much data lengthens them."""
    found = alternate({str(size): partial(scaling, world, FP32, updates, size) for size in sizes}, repeats)
    figures = {size: {key: spread(values) for key, values in run.items()} for size, run in found.items()}
    rounds = zip(*(found[str(size)]["fit_seconds"] for size in sizes), strict=True)
    slopes = [np.polyfit(np.log10(sizes), np.divide(times, np.mean(times)), 1)[0] for times in rounds]
    return {"sizes": figures, "slope_per_decade": spread(slopes)}


def machine(threads: int) -> Measured:
    """What it was measured on."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"cpu": (names or [platform.processor()])[0], "cores": os.cpu_count(), "threads": threads, **versions}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models and few repeats: does it run?")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch (default: all cores)")
    parser.add_argument(
        "--only",
        nargs="*",
        default=[*PARTS, *WORLDS],
        help="parts and worlds (speed, translation-48, ...) to measure anew; others stay as the file has them",
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are measured, after one that warms up")
    parser.add_argument("--updates", type=int, default=6, help="of a measurement of kga and its bound")
    parser.add_argument("--plain-updates", type=int, default=2, help="of a measurement of the published loop")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of benchmark.json and benchmark.md")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    options = arguments(given)
    torch.set_num_threads(options.threads)
    parts = [part for part in PARTS if part in options.only] or PARTS
    worlds = [world for name, world in WORLDS.items() if name in options.only] or list(WORLDS.values())
    sizes, repeats, updates = (1_000, 10_000, 100_000), options.repeats, options.updates
    if options.quick:
        worlds, sizes = [world.tiny() for world in worlds], (200, 400)
        repeats, updates, options.plain_updates = 1, 2, 1
    options.out.mkdir(parents=True, exist_ok=True)
    found = _measured_before(options) | {"machine": machine(options.threads), "updates": updates, "repeats": repeats}
    measures = {
        "speed": lambda world: speed(world, updates, options.plain_updates, repeats),
        "memory": memory,
        "scaling": lambda world: scale(world, sizes, updates, repeats),
    }
    for part in parts:
        for world in worlds if part != "scaling" else worlds[:1]:
            print(f"{part}: {world.name}", flush=True)
            found.setdefault(part, {})[world.name] = measures[part](world)
            (options.out / "benchmark.json").write_text(json.dumps(found, indent=1) + "\n")
            (options.out / "benchmark.md").write_text(markdown(found))


def _measured_before(options: argparse.Namespace) -> dict:
    """What a call with ``--only`` adds to."""
    path = options.out / "benchmark.json"
    whole = set(options.only) == {*PARTS, *WORLDS}
    return {} if whole or not path.is_file() else json.loads(path.read_text())


def _quiet() -> None:
    """Only what the benchmark itself says is shown."""
    console.quiet = True
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


if __name__ == "__main__":
    _quiet()
    main()
