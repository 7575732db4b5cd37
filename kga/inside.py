"""How far models are from A_R inside: their hidden states and their weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kga.console import note
from kga.data.batching import in_order
from kga.data.encoded import Examples
from kga.data.splits import Split
from kga.errors import UserError
from kga.metrics.distances import cka, weight_distance
from kga.models.ensemble import Ensemble
from kga.models.layers import blocks
from kga.study import Study
from kga.tasks.base import TaskModule
from kga.unlearning import on_device


def inner_distances(study: Study, models: Mapping[str, TaskModule], rows: Mapping[str, Split]) -> dict:
    """{model: how far it is from A_R inside}: cka of the last block's mean states on D_f and test (1: alike), weight_l2,
    and that as a share of A_D's (weight_ratio). None where an ensemble has no such states or weights."""
    sets = {name: study.view(rows[name]) for name in ("forget", "test")}
    with on_device(list(models.values()), study.hardware, study.seed):
        states = {
            name: {split: mean_states(model, view) for split, view in sets.items()} for name, model in models.items()
        }
    far = {name: weight_distance(model.model, models["retrain"].model) for name, model in models.items()}
    found: dict = {}
    for name in models:
        if name == "retrain":
            continue
        pairs = {split: (states[name][split], states["retrain"][split]) for split in sets}
        found[name] = {f"cka_{split}": None if a is None or b is None else cka(a, b) for split, (a, b) in pairs.items()}
        if name.startswith("noise_floor"):
            continue  # of other initial weights: how far those are says nothing
        ratio = far[name] / far["original"] if far[name] is not None and far["original"] else None
        found[name] |= {"weight_l2": far[name], "weight_ratio": ratio}
    return found


def mean_states(task: TaskModule, examples: Examples, batch_size: int = 64) -> Tensor | None:
    """[N, H] the last block's states, mean over each example's tokens; None (and a note) where there is no such block."""
    try:
        if isinstance(task.model, Ensemble):
            raise UserError("an ensemble's members have blocks of their own")
        layer = blocks(task.model)[-1][0]
    except UserError as error:
        note(f"hidden states are not compared: {error}")
        return None
    found: list = [None] * len(examples)
    with torch.no_grad():
        for positions in in_order(examples, batch_size):
            batch = {name: value.to(task.device) for name, value in examples.batch(positions).items()}
            states, owner = task.hidden(batch, layer)
            sums = states.new_zeros(len(positions), states.shape[1]).index_add(0, owner, states)
            means = sums / torch.bincount(owner, minlength=len(positions)).clamp(min=1).unsqueeze(1)
            for position, mean in zip(positions, means.cpu(), strict=True):
                found[position] = mean
    return torch.stack(found)
