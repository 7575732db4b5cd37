"""Lines of a text file, compressed or not, the digest that names its content in a cache, and what was found in it."""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator
from hashlib import blake2b, file_digest
from pathlib import Path

import datasets

from kga.errors import UserError

_CACHE_FORMAT = "1"  # part of the cache's key: raise it when the same file is to be read differently


def raw_lines(file: Path) -> Iterator[bytes]:
    """The lines as they are, line ends included; UserError with the line where a `.gz` file breaks off."""
    line = 0
    with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
        try:
            for line, raw in enumerate(stream, start=1):  # noqa: B007
                yield raw
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(
                f"{file}:{line + 1}: broken or cut-off gzip ({error}): fetch or make the file anew"
            ) from None


def text_lines(file: Path) -> Iterator[str]:
    """The lines as text without line ends, nor a mark of byte order; UserError with the line that is not UTF-8."""
    for line, raw in enumerate(raw_lines(file), start=1):
        try:
            yield raw.decode("utf-8-sig" if line == 1 else "utf-8").rstrip("\r\n")
        except UnicodeError as error:
            raise UserError(f"{file}:{line}: not UTF-8: {error}") from None


def digest(files: list[Path], *more: str) -> str:
    """Hex digest of the files' content and of what else decides how they are read."""
    contents = []
    for file in files:
        with open(file, "rb") as stream:
            contents.append(file_digest(stream, blake2b).hexdigest())
    return blake2b("\n".join((_CACHE_FORMAT, *contents, *more)).encode(), digest_size=16).hexdigest()


def remembered(key: str, find: Callable[[], object]) -> object:
    """What one pass over files finds (JSON can write it), kept beside the tables that `datasets` caches.

    key: a ``digest`` of the files and of what is looked for.
    """
    place = Path(datasets.config.HF_DATASETS_CACHE) / "kga" / f"{key}.json"
    try:
        return json.loads(place.read_text())
    except (OSError, ValueError):  # not there, or broken off
        found = find()
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_suffix(f".{os.getpid()}.new")
    aside.write_text(json.dumps(found))
    os.replace(aside, place)
    return found
