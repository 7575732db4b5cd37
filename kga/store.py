"""Results that are dear to make (trained models, encodings), kept by the hash of everything that decides them.

Whoever asks first locks and makes; whoever asks meanwhile waits and loads. What is made is written aside and renamed,
and checked by its checksums before it is used: a half-written or altered one is made again, never loaded.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from kga import ranks
from kga.hashing import digest, file_digest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A finished folder of the store. ``meta`` is what its maker returned (seconds, epochs, ...)."""

    path: Path
    key: str
    meta: dict
    reused: bool

    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


class Store:
    """Artifacts under ``root/KIND/KEY``. ``say`` tells the user about waiting and about damaged artifacts."""

    def __init__(self, root: Path | str, say: Callable[[str], None] = lambda text: None) -> None:
        self.root = Path(root)
        self.say = say

    def get(self, kind: str, recipe: dict, make: Callable[[Path, Path], dict], together: bool = False) -> Artifact:
        """The artifact of ``recipe``, made by ``make(out, work)`` if it is not there.

        ``make`` writes the artifact's files into the empty folder ``out`` and returns its meta data (JSON). ``work`` is
        a folder that survives a killed process: checkpoints to go on from belong there.

        Of several processes all ask for the same, and the first looks and locks. It makes alone, or all make at once
        (``together``): what others than the first write into ``out`` is thrown away, into ``work`` only the first writes.
        """
        key = digest(recipe)
        folder = self.root / kind / key[:24]
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))

        def look() -> Artifact | None:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.say(f"another process is making {kind}/{folder.name}: waiting for it")
                lock.acquire()
            return self._load(folder, key)

        def build() -> Artifact:
            return self._make(folder, key, recipe, make)

        try:
            return ranks.from_main(look) or (build() if together else ranks.from_main(build))
        finally:
            lock.release()

    def has(self, kind: str, recipe: dict) -> bool:
        """Whether the artifact of ``recipe`` is there; it is not checked for damage."""
        return (self.root / kind / digest(recipe)[:24] / MANIFEST).is_file()

    def _load(self, folder: Path, key: str) -> Artifact | None:
        if not folder.is_dir():
            return None
        reason = _damage(folder)
        if reason:
            self.say(f"{folder} is damaged ({reason}): it is made again")
            shutil.rmtree(folder)
            return None
        manifest = json.loads((folder / MANIFEST).read_text())
        return Artifact(folder, key, manifest["meta"], reused=True)

    def _make(self, folder: Path, key: str, recipe: dict, make: Callable[[Path, Path], dict]) -> Artifact:
        work, out = folder.with_suffix(".work"), folder.with_suffix(".new")

        def clear() -> None:
            work.mkdir(exist_ok=True)
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()

        ranks.from_main(clear)
        with _own(out) as folder_of_this_rank:
            meta = make(folder_of_this_rank, work)
        ranks.barrier()
        return ranks.from_main(lambda: self._finish(folder, work, out, key, recipe, meta))

    def _finish(self, folder: Path, work: Path, out: Path, key: str, recipe: dict, meta: dict) -> Artifact:
        """Lists what was made, and puts it where it is found."""
        files = {str(path.relative_to(out)): file_digest(path) for path in sorted(out.rglob("*")) if path.is_file()}
        manifest = {"key": key, "recipe": recipe, "meta": meta, "files": files, "made": time.time()}
        (out / MANIFEST).write_text(json.dumps(manifest, indent=1, default=str))
        os.replace(out, folder)
        shutil.rmtree(work)
        return Artifact(folder, key, json.loads(json.dumps(meta, default=str)), reused=False)


@contextmanager
def _own(out: Path) -> Iterator[Path]:
    """The folder itself on the first of several processes, one that is thrown away on the others."""
    if ranks.is_main():
        yield out
        return
    with tempfile.TemporaryDirectory() as aside:
        yield Path(aside)


def _damage(folder: Path) -> str | None:
    """What is wrong with an artifact's files, or None."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if file_digest(path) != expected:
            return f"{name} does not match its checksum"
    return None
