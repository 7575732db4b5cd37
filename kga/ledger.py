"""What is in the store, by what a config asks for.

The store names a model by what it is made of: the weights it starts from, the examples it sees. Before a sweep is started
those are not known. Here a model is found by the parts of the config that decide it, with the seconds that it took, so that a
sweep can say what it will have to train. Only what is said depends on this, never what is loaded.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from kga.hashing import RECIPE, digest

FOLDER = "ledger"  # in the store
ORIGINAL, UNLEARNED = "A_D on D", "A*"
HALF = "half "  # how the titles of models of halves of D begin (kga.difficulty)
HELPERS = {"forget": "A_f on the forget set", "new": "A_n on the new set"}


def retrained(number: int) -> str:
    """What a retrained model is called."""
    return "A_R on D without the forget set" + (f" (seed {number + 1})" if number else "")


class Ledger:
    """The models of one run's store. data: digest of its data; request: of all that it reads (``kga.inputs``)."""

    def __init__(self, store: Path | str, cfg: Mapping, data: str, request: str) -> None:
        self.store, self.cfg = Path(store), cfg
        precision = cfg["trainer"].get("precision")
        self.family = digest([cfg["task"]["name"], cfg["model"], precision])[:8]
        forget = {name: value for name, value in cfg["forget"].items() if name != "list"}
        self._model = [RECIPE, data, *(cfg[name] for name in ("data", "task", "model", "optim", "original")), precision]
        self._request = [*self._model, request, forget]

    def note(self, kind: str, title: str, folder: Path, seconds: float, units: float = 0.0) -> None:
        """Writes down that a model is there. units: examples that were trained on, times passes over them."""
        path = self._path(kind, title)
        if path.is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.new")
        entry = {
            "kind": kind,
            "title": title,
            "folder": os.path.relpath(folder, self.store),
            "seconds": seconds,
            "units": units,
        }
        aside.write_text(json.dumps(entry))
        os.replace(aside, path)

    def has(self, kind: str, title: str) -> bool:
        """Whether a model is there."""
        path = self._path(kind, title)
        return path.is_file() and (self.store / json.loads(path.read_text())["folder"]).is_dir()

    def name(self, kind: str, title: str) -> str:
        """Digest of all that decides a model."""
        return digest([kind, title, self.cfg["seed"], *self._deciding(kind, title)])[:16]

    def seconds(self, kind: str, title: str) -> float | None:
        """How long such models took, with whatever seed, on average; None where there were none."""
        found = [entry["seconds"] for entry in self._entries(f"{self.family}-{self._like(kind, title)}-*")]
        return sum(found) / len(found) if found else None

    def rate(self) -> float | None:
        """Seconds that one example takes in a pass of training, by all models of the kind of A_D and A_R that are there."""
        entries = [entry for entry in self._entries(f"{self.family}-*") if entry["units"]]
        return (
            sum(entry["seconds"] for entry in entries) / sum(entry["units"] for entry in entries) if entries else None
        )

    def _entries(self, pattern: str) -> Iterator[dict]:
        for path in (self.store / FOLDER).glob(f"{pattern}.json"):
            yield json.loads(path.read_text())

    def _path(self, kind: str, title: str) -> Path:
        return self.store / FOLDER / f"{self.family}-{self._like(kind, title)}-{self.name(kind, title)}.json"

    def _like(self, kind: str, title: str) -> str:
        """Digest of what decides how long a model takes: not the seed, nor which of several it is."""
        what = title.split(": ")[-1].split(" (seed")[0]
        if kind in ("original", "retrained"):
            return digest(self._model)[:8]
        own = [self.cfg["method"].get(part) for part in ("helpers", "optim")]
        return digest([kind, what, *self._request, self.cfg["choices"]["method"], own])[:8]

    def _deciding(self, kind: str, title: str) -> list:
        if kind == "retrained":
            return self._request
        shadows = [self.cfg["new"], self.cfg["attack"]["shadows"], self.cfg["evaluation"]["retain_limit"]]
        if kind == "original":  # halves of D are drawn before any request
            return self._model if title == ORIGINAL or title.startswith(HALF) else [*self._request, *shadows]
        frozen = self.cfg["trainer"].get("frozen_dtype")
        unlearned = [self.cfg["choices"]["method"], self.cfg["method"], frozen]
        own = [self.cfg["method"].get("helpers")] if kind == "helpers" else unlearned
        new = [] if title == HELPERS["forget"] else [self.cfg["new"]]  # A_f is the same for any D_n
        return [*self._request, *(shadows if ": " in title else new), *own]
