"""Names by content: short digests of configs, weights and files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

# Parts of every name, so that what old code made is not taken for what new code would make.
RECIPE = 4  # raised when training code changes what the same settings give
SCHEMA = 1  # of result.json


def digest(value: object) -> str:
    """Hex digest (32 characters) of anything JSON can write, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def strings_digest(values: Iterable[str]) -> str:
    """Hex digest of a sequence of strings, order included, without joining them in memory."""
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        state.update(value.encode())
        state.update(b"\0")
    return state.hexdigest()


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def folder_digest(folder: Path) -> str:
    """Hex digest of the names and bytes of the files of a folder (its model and tokenizer files)."""
    return digest(
        {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    )


def state_digest(state: Mapping) -> str:
    """Hex digest of a state_dict: names, shapes, types and values."""
    import torch

    total = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
