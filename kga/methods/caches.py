"""What frozen models predict, computed once: kept by example, read from memory-mapped files where a study keeps them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kga.data.batching import in_order
from kga.data.encoded import Examples
from kga.errors import UserError
from kga.models.output import OutputLayer
from kga.objective import Batch
from kga.predictions import Predictions, kl
from kga.tasks.base import TaskModule
from kga.topk import TopClasses, bucketed_kl, top

Tensors = dict[str, Tensor]
# (what decides the tensors, names of the frozen models they come from, the examples, how to make them) -> the tensors
Keep = Callable[[Mapping, Sequence[str], Examples, Callable[[], Tensors]], Tensors]

MODES = ("auto", "none", "exact", "hidden", "topk")
K = 64  # classes of "topk"; "topk:K" sets another number
LIMIT = 4 * 2**30  # bytes of a set above which "auto" keeps nothing of it; filling takes up to twice as much memory
RESIDENT = 2**30  # tables above this stay on disk, also where the model is on a GPU
BATCH = 256
PROBED = 2048  # positions on which the error of "topk" is measured


def in_memory(recipe: Mapping, models: Sequence[str], examples: Examples, make: Callable[[], Tensors]) -> Tensors:
    """The ``Keep`` of a method without a study."""
    return make()


@dataclass(frozen=True)
class Mode:
    """How predictions are kept: "none", "exact" (log-probabilities), "hidden" (what the output layer is fed) or "topk"."""

    name: str
    k: int = 0

    def recipe(self) -> dict:
        return {"mode": self.name, "k": self.k}


def parsed(text: str) -> Mode:
    """The mode of ``method.cache``; UserError where it is none. "topk" and "topk:32" differ in the classes kept."""
    name, _, number = str(text).partition(":")
    if name not in MODES or (number and not (name == "topk" and number.isdigit() and int(number))):
        raise UserError(f"method.cache={text} is unknown: choose {', '.join(MODES)} (or topk:32 for 32 classes)")
    return Mode(name, int(number or K) if name == "topk" else 0)


def chosen(mode: Mode, sample: Predictions, positions: float) -> tuple[Mode, float]:
    """The mode that "auto" means for a set, and about how many bytes it takes; UserError for one that can't be.

    sample: some predictions of such a model. positions: how many will be kept.
    """
    sizes = {"exact": 4.0 * positions * sample.classes, "topk": positions * (8.0 * mode.k + 4)}
    if isinstance(sample.head, OutputLayer) and sample.head.linear_only:
        wide = sample.states
        sizes["hidden"] = positions * wide.shape[1] * wide.element_size() + sample.head.bytes()
    if mode.name == "hidden" and "hidden" not in sizes:
        raise UserError(
            "method.cache=hidden needs an output layer that is one linear map: set method.cache=exact, topk or none"
        )
    if mode.name != "auto":
        return mode, sizes[mode.name]
    best = min((name for name in ("exact", "hidden") if name in sizes), key=sizes.__getitem__)
    return Mode(best if sizes[best] <= LIMIT else "none"), sizes[best]


def require_cacheable(mode: Mode, cacheable: bool) -> None:
    """UserError for a mode that keeps what would differ from batch to batch."""
    if mode.name not in ("auto", "none") and not cacheable:
        raise UserError(
            f"method.cache={mode.name} can't hold padded positions, which differ from batch to batch: set method.cache=none"
        )


def passes(examples: Examples, device: torch.device) -> Iterator[tuple[object, Batch]]:
    """(positions, batch) over all examples, in batches of similar length."""
    for positions in in_order(examples, BATCH):
        yield positions, {name: value.to(device) for name, value in examples.batch(positions).items()}


@torch.no_grad()
def table(model: TaskModule, examples: Examples, view: str, mode: Mode, student: TaskModule | None = None) -> Tensors:
    """A model's predictions on a set, as tensors to keep: "start" and "count" [N] say where an example's positions lie.

    student: against it the "error" of "topk" is measured on the first positions.
    """
    device = next(model.parameters()).device
    slots, counts, parts, found = [], [], [], {}
    for positions, batch in passes(examples, device):
        predictions = model.predict(batch, view)
        if not parts:
            found = _constants(predictions, mode)
            if mode.name == "topk" and student is not None:
                found["error"] = _error(predictions, student.predict(batch, view), mode.k)
        slots.append(torch.from_numpy(positions))
        counts.append(predictions.positions_per_example().cpu())
        parts.append({name: value.cpu() for name, value in _kept(predictions, mode).items()})
    slot, count = torch.cat(slots), torch.cat(counts)
    columns = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
    start = count.cumsum(0) - count
    return {**found, **columns, "start": _scattered(start, slot), "count": _scattered(count, slot)}


def _scattered(values: Tensor, slot: Tensor) -> Tensor:
    return torch.empty_like(values).index_copy(0, slot, values)


def _kept(predictions: Predictions, mode: Mode) -> Tensors:
    if mode.name == "hidden":
        return {"states": predictions.states, "targets": predictions.targets}
    if mode.name == "exact":
        return {"states": predictions.log_probs, "targets": predictions.targets}
    parts = [top(part.log_probs, mode.k) for _, part in predictions.parts()]
    ids, log_probs, tail = (torch.cat(column) for column in zip(*parts, strict=True))
    return {"ids": ids, "log_probs": log_probs, "log_tail": tail, "targets": predictions.targets}


def _constants(predictions: Predictions, mode: Mode) -> Tensors:
    own = {"classes": torch.tensor(predictions.classes)}
    if mode.name == "hidden":
        own |= {f"head.{name}": value.detach().cpu() for name, value in predictions.head.tensors().items()}
    return own


def _error(teacher: Predictions, student: Predictions, k: int) -> Tensor:
    """Mean difference of the full divergence and the bucketed one, in nats."""
    window = slice(0, max(1, min(PROBED, len(teacher.targets))))
    teacher, student = teacher.at(window).dense(), student.at(window).dense()
    return (kl(teacher, student) - bucketed_kl(top_classes(teacher, k), student.log_probs)).mean().cpu()


def top_classes(predictions: Predictions, k: int) -> TopClasses:
    """Predictions reduced to their k most probable classes."""
    kept = _kept(predictions, Mode("topk", k))
    return TopClasses(**kept, example=predictions.example, size=predictions.size, classes=predictions.classes)


class Rows:
    """Values per example of a set, found by the numbers that a batch carries as "index"."""

    def __init__(self, examples: Examples) -> None:
        self._index, self._slot = torch.from_numpy(examples.rows).sort()

    def slots(self, batch: Batch) -> Tensor:
        """[B] where the examples of a batch stand in the set."""
        index = batch["index"].cpu()
        found = torch.searchsorted(self._index, index).clamp(max=len(self._index) - 1)
        if not bool((self._index[found] == index).all()):
            raise RuntimeError("a batch holds an example that is not in the cache of the set it is said to come from")
        return self._slot[found]


class Table:
    """Kept predictions of a set."""

    def __init__(self, tensors: Tensors, examples: Examples, device: torch.device) -> None:
        self.rows, self.tensors = Rows(examples), dict(tensors)
        if device.type != "cpu" and self.bytes() < RESIDENT:
            self.tensors = {name: value.to(device) for name, value in tensors.items()}
        self.start, self.count = tensors["start"], tensors["count"]
        head = {name[5:]: value.to(device) for name, value in tensors.items() if name.startswith("head.")}
        self.head = OutputLayer.of(head) if head else None

    def bytes(self) -> int:
        """Size of what is kept."""
        return sum(value.nbytes for value in self.tensors.values())

    def left_out(self) -> dict[str, float]:
        """Of "topk": "tail", the mean mass of the classes that are not kept, and "error" where it was measured."""
        if "log_tail" not in self.tensors:
            return {}
        error = {"error": float(self.tensors["error"])} if "error" in self.tensors else {}
        return {"tail": float(self.tensors["log_tail"].exp().mean())} | error

    def predict(self, batch: Batch) -> Predictions | TopClasses:
        """The kept predictions of the examples of a batch, on its device."""
        device, slots = batch["index"].device, self.rows.slots(batch)
        counts = self.count[slots]
        example = torch.arange(len(slots)).repeat_interleave(counts)
        before = (counts.cumsum(0) - counts)[example]
        positions = self.start[slots][example] + torch.arange(len(example)) - before
        column = {name: self._at(name, positions, device) for name in ("targets", "states", "ids", "log_probs", "log_tail")
                  if name in self.tensors}  # fmt: skip
        if "states" in column:
            return Predictions(**column, example=example.to(device), size=len(slots), head=self.head)
        classes = int(self.tensors["classes"])
        return TopClasses(**column, example=example.to(device), size=len(slots), classes=classes)

    def _at(self, name: str, positions: Tensor, device: torch.device) -> Tensor:
        values = self.tensors[name]
        return values[positions.to(values.device)].to(device)


def readable(size: float) -> str:
    """Bytes as a person reads them."""
    power = min(4, int(math.log(max(1.0, size), 1000)))
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
