"""Where a study keeps what its frozen models predict: in the store, found by every run that needs the same."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import Tensor

from kga.data.encoded import Examples
from kga.data.splits import Split
from kga.hashing import RECIPE
from kga.methods.caches import in_memory

if TYPE_CHECKING:
    from kga.study import Study, Trained


class Keeper:
    """The ``Keep`` of ``kga.methods.caches`` for one method: tensors named by all that decides them.

    That is the frozen models' keys, the ids and contents of the examples, tokenizer and lengths, precision, and how
    predictions are kept: anything else is another file. Read back, they are memory-mapped.

    saved_seconds: what it once took to make those that were found, less the time to find them.
    """

    def __init__(self, study: "Study", frozen: Mapping[str, "Trained"]) -> None:
        self.study, self.frozen, self.saved_seconds = study, frozen, 0.0

    def __call__(
        self, recipe: Mapping, models: Sequence[str], examples: Examples, make: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        study = self.study
        if examples.table is not study.tables["train"]:  # made for this run alone: other targets, alternatives
            return in_memory(recipe, models, examples, make)
        whole = {
            "recipe": RECIPE, **recipe, "models": {name: self.frozen[name].key for name in models},
            "examples": study.splits.fingerprint(Split("train", examples.rows)),
            "encoding": study.codec.encoding(), "precision": study.precision(frozen=True),
        }  # fmt: skip

        def write(out: Path, work: Path) -> dict:
            started = time.monotonic()
            save_file({name: value.contiguous() for name, value in make().items()}, out / "tensors.safetensors")
            return {"seconds": time.monotonic() - started}

        started = time.monotonic()
        found = study.store.get("frozen", whole, write)
        if found.reused:  # in the place of the time to find it, or to wait for who is making it
            self.saved_seconds += found.meta["seconds"] - (time.monotonic() - started)
        return load_file(found.path / "tensors.safetensors")
