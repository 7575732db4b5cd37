"""Classifiers that read their label off the first position: in the last block the others need not be computed to the end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kga.errors import UserError
from kga.models.ensemble import Ensemble
from kga.models.layers import blocks

TOLERANCE = 1e-4  # of logits, relative and absolute: what rounding may change


@contextmanager
def first_position_from(norm: nn.Module) -> Iterator[None]:
    """Inside, only the first position of what ``norm`` gives [B, S, H] goes on: [B, 1, H]."""
    handle = norm.register_forward_hook(lambda module, arguments, output: output[:, :1])
    try:
        yield
    finally:
        handle.remove()


def last_mixing(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> nn.Module | None:
    """The norm behind the last attention of a model whose logits depend on the first position alone from there on.

    None where there is none: a model that averages over positions, or that norms before it attends. That is tried with
    ``inputs``, of which texts have several tokens, in eval mode and with the random state put back.
    """
    if isinstance(model, Ensemble):  # its members run at once, on stacked weights
        return None
    try:
        block = blocks(model)[-1][1]
    except (UserError, IndexError):
        return None
    weights = next(model.parameters())
    if weights.dtype != torch.float32 or inputs["input_ids"].shape[1] < 2:
        return None  # half precision can't tell rounding from another result
    training = model.training
    devices = [weights.device] if weights.device.type == "cuda" else []
    model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices), torch.autocast(weights.device.type, enabled=False):
        called, whole = _calls(block, model, inputs)
        norms = [place for place, module in enumerate(called) if isinstance(module, nn.LayerNorm)]
        found = called[norms[0]] if norms and norms[0] > 0 else None  # what comes before it has attended
        if found is not None:
            with first_position_from(found):
                same = _agrees(model, inputs, whole)
            found = found if same else None
    model.train(training)
    return found


def within(norm: nn.Module | None):
    """``first_position_from``, or nothing where there is no such norm."""
    return nullcontext() if norm is None else first_position_from(norm)


def _agrees(model: PreTrainedModel, inputs: Mapping[str, Tensor], whole: Tensor) -> bool:
    try:
        narrow = model.forward(**inputs).logits  # not as compiled: hooks come and go here
    except RuntimeError:  # shapes that do not go together: it looks at other positions too
        return False
    return narrow.shape == whole.shape and torch.allclose(narrow, whole, rtol=TOLERANCE, atol=TOLERANCE)


def _calls(block: nn.Module, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[list[nn.Module], Tensor]:
    """The innermost modules of a block in the order in which they are called, and the model's logits."""
    called: list[nn.Module] = []
    leaves = [module for module in block.modules() if not any(True for _ in module.children())]
    leaves = [module for module in leaves if any(True for _ in module.parameters())]
    handles = [leaf.register_forward_hook(lambda module, *more: called.append(module)) for leaf in leaves]
    try:
        return called, model.forward(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()
