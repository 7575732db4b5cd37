"""Names by content: short digests of configs, weights and files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# Parts of every name, so that what old code made is not taken for what new code would make.
RECIPE = 5  # raised when training code changes what the same settings give
SCHEMA = 1  # of result.json

PIECE = 50_000  # values of a column that are worked on at a time


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


def column_digest(values: "pa.ChunkedArray") -> str:
    """``strings_digest`` of a column's values as text (null: "None"), without a Python string for each."""
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = pa.types.is_string(values.type) or pa.types.is_signed_integer(values.type)
    state = hashlib.blake2b(digest_size=16)
    for chunk in pieces(values):
        if not plain:  # Arrow writes other types otherwise than Python does
            chunk = pa.array([str(value) for value in chunk.to_pylist()], pa.string())
        texts = pc.fill_null(chunk.cast(pa.large_string()), "None")
        ended = pc.binary_join_element_wise(texts, *(pa.scalar(text, pa.large_string()) for text in ("", "\0")))
        _, offsets, data = ended.buffers()
        if len(ended):
            bounds = memoryview(offsets).cast("q")
            state.update(memoryview(data)[bounds[ended.offset] : bounds[ended.offset + len(ended)]])
    return state.hexdigest()


def pieces(values: "pa.ChunkedArray", size: int = PIECE) -> Iterator["pa.Array"]:
    """A column in order, ``size`` values or fewer at a time."""
    for chunk in values.chunks:
        for start in range(0, len(chunk), size):
            yield chunk.slice(start, size)


def file_digest(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def folder_digest(folder: Path) -> str:
    """Hex digest of the names and bytes of the files of a folder (its model and tokenizer files).

    They are read once by a process, and again where a size or time has changed: a sweep asks for the same model in each run.
    """
    files = {str(path.relative_to(folder)): path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    return _read_once(folder.absolute(), tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files.items()))


@lru_cache(maxsize=256)
def _read_once(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    return digest({name: file_digest(folder / name) for name, *_ in files})


def state_digest(state: Mapping) -> str:
    """Hex digest of a state_dict: names, shapes, types and values."""
    import torch

    total = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
