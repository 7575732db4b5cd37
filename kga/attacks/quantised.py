"""Quantised weights: does rounding bring back what a method has only just pushed out of sight?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kga.attacks.probe import TITLES, Probe
from kga.errors import UserError
from kga.evaluation import evaluate
from kga.hashing import RECIPE

if TYPE_CHECKING:
    from kga.data.splits import Split
    from kga.study import Study, Trained

VERSION = 1  # of the findings that are kept in the store
REPORTED = ("forget", "nonmember", "retain", "test")


class Quantised(Probe):
    """Utility of every model after its weights were rounded to integers of ``bits`` bits (8 or 4).

    Weights alone, symmetrically, with a scale for each output channel (``quantise``); they are used as the numbers that the
    integers stand for, so activations stay as precise as the run's. (torch's own dynamic quantisation is deprecated, runs on
    processors only, and passes over GPT-2's layers and the output layer that shares the embedding's weights.) Four bits can
    bring back most of what a method keeps out of sight with small changes of weights (Zhang et al. 2024).

    Findings of a model: {split: {metric: value}} for forget, nonmember, retain and test; multi-label thresholds are tuned
    on validation, with the rounded weights. batch_size: examples at a time.
    """

    section = "quantised"

    def __init__(self, bits: int = 8, batch_size: int = 128) -> None:
        if bits not in (8, 4):
            raise UserError(f"attack.quantised.bits={bits} is not supported: use 8 or 4")
        self.bits, self.batch_size = bits, batch_size

    def run(self, study: Study, models: Mapping[str, Trained], sets: Mapping[str, Split]) -> dict:
        used = {name: sets[name] for name in (*REPORTED, "validation") if len(sets[name])}
        return {name: self._utility(study, name, model, used) for name, model in models.items()}

    def _utility(self, study: Study, name: str, model: Trained, sets: Mapping[str, Split]) -> dict:
        """Computed once for a model and these sets, whichever method is audited."""
        recipe = {
            "recipe": RECIPE, "version": VERSION, "model": model.key, "bits": self.bits,
            "sets": {split: study.splits.fingerprint(rows) for split, rows in sets.items()},
            "encoding": study.codec.encoding(), "precision": str(study.hardware.get("precision")),
        }  # fmt: skip

        def make(out: Path, work: Path) -> dict:
            module = study.load(model)
            quantise(module.model, self.bits)
            views = {split: study.view(rows) for split, rows in sets.items()}
            found = evaluate({name: module}, views, study.hardware, self.batch_size, compared=())[0][name]
            return {split: values for split, values in found.items() if split in REPORTED}

        title = f"{TITLES[name]} with weights of {self.bits} bits"
        return dict(study.keep("quantised", recipe, make, title, together=True).meta)


@torch.no_grad()
def quantise(model: nn.Module, bits: int) -> None:
    """Rounds the weight matrices of a model in place: of linear maps, recurrent layers, convolutions, attention.

    Embeddings, biases and norms stay; an embedding that is the output layer's matrix too is rounded with it.
    """
    done: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        for weight in module.parameters(recurse=False):
            if weight.ndim > 1 and id(weight) not in done:
                done.add(id(weight))
                # Rows are output channels, but GPT-2's Conv1D holds [in, out].
                weight.copy_(rounded(weight, bits, inputs=0 if isinstance(module, Conv1D) else -1))


def rounded(weight: Tensor, bits: int, inputs: int = -1) -> Tensor:
    """The nearest of the 2^bits - 1 values from -max|w| to max|w| in equal steps, the maximum taken along ``inputs``."""
    largest = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(inputs, keepdim=True) / largest
    return (weight / scale.where(scale > 0, 1.0)).round() * scale
