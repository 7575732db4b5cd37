"""Perturbed copies of examples: what every unit of a model's linear layers, and the loss, are on each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from kga.console import Advance
from kga.data.encoded import Examples
from kga.methods.units import linear_layers, units_of
from kga.objective import Batch
from kga.predictions import Predictions, cross_entropy
from kga.tasks.base import TaskModule


def vocabulary(module: TaskModule) -> np.ndarray:
    """[V] the token ids that may replace another: all but special ones."""
    known = min(len(module.tokenizer), module.model.get_input_embeddings().weight.shape[0])
    return np.setdiff1d(np.arange(known), module.tokenizer.all_special_ids)


def perturbed(batch: Batch, where: np.ndarray, new: np.ndarray) -> Batch:
    """The batch with one token of each input replaced by the token ``new`` [B]; targets stay.

    where: [B] in [0, 1), as a share of the positions of 1 or more within the attention span, wherever the padding ends;
    an input of a single token stays as it is. A decoder-only model's input is prompt and target.
    """
    ids, lengths = batch["input_ids"].clone(), batch["attention_mask"].sum(1).tolist()
    for row, length in enumerate(lengths):
        if length > 1:
            ids[row, 1 + int(where[row] * (length - 1))] = int(new[row])
    return batch | {"input_ids": ids}


@torch.no_grad()
def record(
    module: TaskModule, examples: Examples, copies: Sequence[np.ndarray], rng: np.random.Generator,
    batch_size: int, advance: Advance, changes: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
    """What a model does on perturbed copies, each of which holds the examples at some positions, equally many.

    Returns by layer the mean output of its units over the copy's examples and their real tokens, [copies, units]
    float32, and the loss [copies] (mean over the scored positions). ``advance`` is called with the examples that are done.

    changes: give the differences to the same examples unperturbed. Copies of different examples differ by more than
    their perturbations, and any unit that tells the examples apart would seem to decide the loss.
    """
    size = len(copies[0])
    per_pass = max(1, batch_size // size)
    where = rng.random((len(copies), size))
    new = rng.choice(vocabulary(module), where.shape)
    means: dict[str, list[Tensor]] = {}
    losses = []
    for start in range(0, len(copies), per_pass):
        some = slice(start, start + per_pass)
        whole = _widths_apart(examples.batch(np.concatenate(copies[some])), module)
        count = len(whole["input_ids"]) // size
        found, loss = _pass(module, perturbed(whole, where[some].ravel(), new[some].ravel()), count)
        if changes:
            unperturbed, base = _pass(module, whole, count)
            found, loss = {name: value - unperturbed[name] for name, value in found.items()}, loss - base
        losses.append(loss)
        for name, value in found.items():
            means.setdefault(name, []).append(value)
        advance(count * size)
    return {name: torch.cat(parts) for name, parts in means.items()}, torch.cat(losses)


def _pass(module: TaskModule, batch: Batch, copies: int) -> tuple[dict[str, Tensor], Tensor]:
    """One forward pass over a batch of ``copies`` copies of equal size: means by layer and losses."""
    batch = {name: value.to(module.device) for name, value in batch.items()}
    rows = len(batch["input_ids"])
    copy = torch.arange(copies, device=module.device).repeat_interleave(rows // copies)
    layers = linear_layers(module)
    output = module.model.get_output_embeddings()  # None in classification
    hidden = {name: layer for name, layer in layers.items() if layer is not output}
    with module.everywhere(), _recorded(hidden, _averages(batch, copy, copies)) as means:
        predictions = module.predict(batch)
    average = _average(copy[predictions.example], copies)
    means |= {name: _output_means(predictions, average) for name in layers.keys() - hidden.keys() if predictions.head}
    return means, _means(average, cross_entropy(predictions)[:, None])[:, 0]


def _output_means(predictions: Predictions, average: Tensor) -> Tensor:
    """Mean logits of a language model's output layer, which is linear: from the mean of what it is fed."""
    return predictions.head(_means(average, predictions.states)).float()


@contextmanager
def _recorded(layers: Mapping[str, nn.Module], averages: Mapping[int, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Fills a dictionary with the mean outputs of layers as a model runs."""
    means: dict[str, Tensor] = {}

    def watch(name: str, units: int):
        def hook(layer: nn.Module, arguments: tuple, output: Tensor) -> None:
            average = averages.get(output.numel() // units)
            if average is not None:  # else a layer that sees something other than tokens or examples
                means[name] = _means(average, output.reshape(-1, units))

        return hook

    handles = [layer.register_forward_hook(watch(name, units_of(layer))) for name, layer in layers.items()]
    try:
        yield means
    finally:
        for handle in handles:
            handle.remove()


def _averages(batch: Batch, copy: Tensor, copies: int) -> dict[int, Tensor]:
    """How outputs are averaged, by their number of rows: one per example, per input token or per target token.

    Padding counts nothing. copy: [B] which copy each example of the batch belongs to.
    """
    masks = [batch["attention_mask"].bool()]
    if "decoder_input_ids" in batch:
        masks.insert(0, batch["labels"] >= 0)
    found = {mask.numel(): mask for mask in masks}
    averages = {rows: _average(copy[:, None].expand_as(mask).masked_fill(~mask, -1).flatten(), copies)
                for rows, mask in found.items()}  # fmt: skip
    return averages | {len(copy): _average(copy, copies)}


def _average(copy: Tensor, copies: int) -> Tensor:
    """[copies, rows] what a product with [rows, ...] makes means over the rows of each copy; -1: of none."""
    members = (copy == torch.arange(copies, device=copy.device)[:, None]).float()
    return members / members.sum(1, keepdim=True).clamp(min=1)


def _means(average: Tensor, values: Tensor) -> Tensor:
    """[copies, units] in float32, also where the model runs in half precision."""
    with torch.autocast(values.device.type, enabled=False):
        return average @ values.float()


def _widths_apart(batch: Batch, module: TaskModule) -> Batch:
    """The batch with the input padded by one column where input and target are equally wide.

    The two are told apart by their width: attention of a decoder to its encoder has outputs of either.
    """
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if "decoder_input_ids" not in batch or ids.shape != batch["decoder_input_ids"].shape:
        return batch
    pad = torch.nn.functional.pad
    padding = module.tokenizer.pad_token_id
    return batch | {"input_ids": pad(ids, (0, 1), value=padding), "attention_mask": pad(mask, (0, 1))}
