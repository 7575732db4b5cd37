"""Machine unlearning for language models by knowledge gap alignment.

The names below are the parts for a script of your own; they are imported when first used, so that ``import kga`` is
quick.
"""

from importlib import import_module

_HOME = {
    "Classification": "kga.tasks.classification",
    "KGA": "kga.methods.kga",
    "Optim": "kga.optim",
    "Predictions": "kga.predictions",
    "Response": "kga.tasks.response",
    "Translation": "kga.tasks.translation",
    "Updates": "kga.data.batching",
    "examples": "kga.data.encoded",
    "supervised": "kga.data.batching",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'kga' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
