"""Fits the cost model to this machine, checks it on a size it has not seen, and predicts: ``python -m benchmarks.scale``."""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.cost import FORWARD_BACKWARD, Size, cache_bytes, flops, touched
from benchmarks.student import IGNORED, Student
from benchmarks.worlds import WORLDS

ENCODER, PAIR = WORLDS["classification-128"], WORLDS["translation-48"]
BATCH, UPDATES, RETAIN_BATCHES, HELPER_EPOCHS = 32, 120, 5, 20  # KGA's defaults
# (width, layers, tokens of the input, tokens of the target: 0 for a classifier)
GRID = [(w, n, s, 0) for w in (128, 256, 384) for n, s in ((2, 64), (4, 128), (2, 256))]
GRID += [(w, n, 16, 16) for w in (128, 256) for n in (2, 3)]
HELD_BACK = [(512, 4, 128, 0), (384, 3, 24, 24)]


def size_of(width: int, layers: int, target: int) -> Size:
    return Size(layers, width, 4 * width, 4, PAIR.vocabulary if target else 0, layers if target else 0)


def features(case: tuple[int, int, int, int]) -> list[float]:
    """Operations (1e9), numbers touched (1e6) and 1, of forward and backward passes over one batch."""
    width, layers, source, target = case
    size, scored = size_of(width, layers, target), BATCH * target
    parts = (size, BATCH, source, target, scored)
    return [FORWARD_BACKWARD * flops(*parts) / 1e9, FORWARD_BACKWARD * touched(*parts) / 1e6, 1.0]


def seconds(case: tuple[int, int, int, int], precision: str, repeats: int) -> float:
    """Median processor seconds of forward and backward passes over one batch."""
    width, layers, source, target = case
    if target:
        config = {"d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_ffn_dim": 4 * width,
                  "decoder_ffn_dim": 4 * width}  # fmt: skip
    else:
        config = {"dim": width, "hidden_dim": 4 * width, "n_layers": layers}
    world = PAIR if target else ENCODER
    student = Student(replace(world, config=world.config | config).model(0), precision)
    ids = torch.randint(5, world.vocabulary, (BATCH, source))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(BATCH, dtype=torch.long)}
    if target:
        words = torch.randint(5, world.vocabulary, (BATCH, target))
        batch |= {"decoder_input_ids": words, "labels": words}
        assert (words != IGNORED).all()
    student.run([[batch]])
    return float(np.median([student.run([[batch]])["cpu_seconds"] for _ in range(repeats)]))


def fitted(measured: dict[str, float]) -> dict:
    """Coefficients of ``features`` by least squares of relative errors, none below 0."""
    cases = [tuple(json.loads(case)) for case in measured]
    table, wanted = np.array([features(case) for case in cases]), np.array(list(measured.values()))
    found, _ = nnls(table / wanted[:, None], np.ones(len(wanted)))
    errors = table @ found / wanted - 1
    return {
        "coefficients": found.tolist(),
        "median_error": float(np.median(abs(errors))),
        "worst": float(abs(errors).max()),
    }


@dataclass(frozen=True)
class Scenario:
    """A study to predict. tokens: of an input and a target, padding included. evaluated: examples of all splits together.

    use: share of a GPU's peak that such a model reaches. trained: parameters that take gradients.
    """

    name: str
    size: Size
    examples: int
    epochs: int
    batch: int
    source: int
    target: int
    classes: int
    evaluated: int
    use: float
    trained: float
    frozen_body: bool = False


SCENARIOS = [
    Scenario("LEDGAR, DistilBERT", Size(6, 768, 3072, 12, 0), 60_000, 3, 32, 115, 0, 100, 23_000, 0.15, 66e6),
    Scenario("IWSLT14, 6+6 Transformer", Size(6, 512, 1024, 8, 10_000, 6), 160_000, 30, 512, 28, 28, 10_000, 18_000, 0.10, 37e6),
    Scenario("PersonaChat, BART-base", Size(6, 768, 3072, 12, 50_265, 6), 130_000, 3, 32, 120, 16, 50_265, 18_000, 0.15, 139e6),
    Scenario("7B with LoRA", Size(32, 4096, 16_512, 32, 32_000), 130_000, 1, 32, 256, 0, 32_000, 18_000, 0.35, 40e6, True),
]  # fmt: skip
PEAK, WITHIN, BETWEEN = 989e12, 450e9, 50e9  # H100: bf16 operations/s, bytes/s over NVLink and over a network per GPU
STEP = 0.015  # seconds that an update takes at the least: launching kernels, the optimiser, Python


def stages(case: Scenario, gpus: int) -> dict[str, float]:
    """Seconds of each stage of a request of 1 % on some H100, predicted."""
    scored = case.target or (16 if case.frozen_body else 0)
    one = flops(case.size, 1, case.source, case.target, scored)
    train = one * (2 if case.frozen_body else FORWARD_BACKWARD)  # a frozen body takes no gradients of its weights
    forget, drawn = 0.01 * case.examples, min(case.examples, UPDATES * RETAIN_BATCHES * BATCH)
    speed = PEAK * case.use
    share = lambda batch: min(gpus, batch)  # no more GPUs than examples have anything to do  # noqa: E731
    link = WITHIN if gpus <= 8 else BETWEEN
    step = STEP + (2 * 4 * case.trained * (gpus - 1) / gpus / link if gpus > 1 else 0.0)

    def training(examples: float, batch: int) -> float:
        return examples * train / speed / share(batch) + examples / batch * step

    return {
        "retrain": training(case.examples * case.epochs, case.batch),
        "helpers": 2 * training(forget * HELPER_EPOCHS, case.batch),
        "caches": (3 * forget + drawn) * one / speed + (3 * forget + drawn) / 256 * STEP,
        "unlearning": UPDATES * (RETAIN_BATCHES + 1) * BATCH * train / speed / share(BATCH) + UPDATES * (RETAIN_BATCHES + step / STEP) * STEP,
        "evaluation": 4 * case.evaluated * one / speed / gpus + 4 * case.evaluated / 128 / gpus * STEP,
    }  # fmt: skip


def cached(case: Scenario) -> float:
    """Bytes that ``method.cache=auto`` keeps on D_f and on what is drawn of D_r."""
    examples = 0.01 * case.examples + min(case.examples, UPDATES * RETAIN_BATCHES * BATCH)
    positions = examples * (case.target or (16 if case.frozen_body else 1))
    sizes = [cache_bytes("exact", int(positions), case.classes)]
    if case.size.vocabulary:
        sizes.append(cache_bytes("hidden", int(positions), case.classes, case.size.width))
    return min(sizes)


def state(case: Scenario) -> float:
    """Bytes of weights (bfloat16 where they are frozen), gradients and moments."""
    return (2 if case.frozen_body else 4) * case.size.parameters() + 12 * case.trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--measured", type=Path, help="scale.json of an earlier run: the document is written anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measured:
        found = json.loads(options.measured.read_text())
    else:
        found = {name: {json.dumps(case): seconds(case, name, options.repeats) for case in (*GRID, *HELD_BACK)}
                 for name in ("32-true", "bf16-mixed")}  # fmt: skip
    from benchmarks.scale_document import markdown

    (options.out / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "scale.md").write_text(markdown(found))


def checked(measured: dict[str, float]) -> tuple[dict, list[dict]]:
    """The fit to the grid, and what it says of the sizes that it was not given."""
    held = {json.dumps(case) for case in HELD_BACK}
    fit = fitted({case: value for case, value in measured.items() if case not in held})
    rows = []
    for case in HELD_BACK:
        predicted, real = float(np.dot(features(case), fit["coefficients"])), measured[json.dumps(case)]
        rows.append({"case": case, "predicted": predicted, "measured": real, "error": predicted / real - 1})
    return fit, rows


if __name__ == "__main__":
    main()
