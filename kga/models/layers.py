"""A model as a stack of blocks, whatever its architecture: the blocks themselves, and the parameters of the last few."""

from contextlib import ExitStack

import torch
from torch import nn
from transformers import PreTrainedModel

from kga.errors import UserError


def blocks(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Names and modules of the stack nearest the output, the lowest first; UserError if none is found.

    Encoder-decoder: the blocks of the decoder; a recurrent decoder is one block. A block gives its hidden states, alone or
    first in a tuple.
    """
    root = model.get_decoder() if model.config.is_encoder_decoder else model
    prefix = next(name for name, module in model.named_modules() if module is root)
    if isinstance(root, nn.RNNBase):
        return [(prefix, root)]
    lists = [(name, module) for name, module in root.named_modules(prefix=prefix) if _is_stack(module)]
    lists = [(name, stack) for name, stack in lists if not any(name.startswith(f"{outer}.") for outer, _ in lists)]
    if not lists:
        raise UserError(
            f"no stack of blocks is found in a model of type {model.config.model_type!r}: choose another model, or a "
            "method that does not work on single blocks"
        )
    name, stack = max(reversed(lists), key=lambda found: len(found[1]))
    return [(f"{name}.{number}", block) for number, block in enumerate(stack)]


def last(model: PreTrainedModel, k: int) -> list[str]:
    """Names of the parameters of the last k blocks and of all that runs after them: norms, pooler, head.

    Weights tied to the input embedding belong to the embedding, so are never among them. UserError: fewer than k blocks.
    """
    stack = blocks(model)
    if k > len(stack):
        raise UserError(f"method.k={k}: the model has {len(stack)} blocks of which to take the last: lower method.k")
    started = _first_calls(model)
    first = started[stack[-k][0]]
    embedding = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    return [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) not in embedding and started[_owner(name, started)] >= first
    ]


def _is_stack(module: nn.Module) -> bool:
    """Whether a module is a list of modules that hold weights."""
    blocks = isinstance(module, nn.ModuleList) and list(module)
    return bool(blocks) and all(any(True for _ in block.parameters()) for block in blocks)


def _first_calls(model: PreTrainedModel) -> dict[str, int]:
    """The modules that run, by name, numbered as they start: the order in which they are declared may be another."""
    started: dict[str, int] = {}

    def note(name: str):
        def hook(*_) -> None:
            started.setdefault(name, len(started))

        return hook

    training = model.training
    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(note(name)).remove)
        model.eval()(**_some_input(model))
    model.train(training)
    return started


def _some_input(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Two closing tokens: BART's classifier reads its text off the last one."""
    closing, size = model.config.eos_token_id, model.get_input_embeddings().num_embeddings
    closing = closing[0] if isinstance(closing, list) else closing or 0
    ids = torch.full((1, 2), min(closing, size - 1), device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})


def _owner(parameter: str, started: dict[str, int]) -> str:
    """The innermost module around a parameter that runs as a whole."""
    name = parameter
    while name:
        name = name.rpartition(".")[0]
        if name in started:
            return name
    return ""
