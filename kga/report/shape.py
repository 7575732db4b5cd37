"""What a result must look like for a report over many runs: one that does not is told, and the others are reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kga.errors import UserError
from kga.hashing import SCHEMA

_NAMES = ("task", "data", "model", "method", "score_metric")
_SEEDS = 2**63  # a column of whole numbers holds no larger ones
_MOST_BITS = 1024  # of a whole number that is a float, too
# Sections of numbers: how many levels of names there are above these.
_NUMBERS = {
    **dict.fromkeys(("utility", "forgetting", "quantised", "membership"), 3),
    **dict.fromkeys(("score", "distances"), 2),
    **dict.fromkeys(("selection", "seconds", "cost"), 1),
}
_MIXED = {"relearning": 2, "unlearning": 1}  # sections that hold texts and lists besides, which no table shows
_SHOWN = 40  # characters of what is wrong


def identity(result: Mapping[str, Any]) -> dict[str, Any]:
    """Whose result it is, as far as that can be read."""
    names = {name: result[name] for name in _NAMES if isinstance(result.get(name), str)}
    return names | ({"seed": result["seed"]} if _is_seed(result.get("seed")) else {})


def require_readable(result: Mapping[str, Any]) -> None:
    """UserError with what is wrong in a result that no report can be made of. A part that is missing or null is not."""
    schema = result.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise UserError(f"cannot be read (schema {_written(schema)}; this kga reads {SCHEMA})")
    for name in _NAMES:
        _require(result.get(name) is None or isinstance(result[name], str), name, result.get(name), "a text")
    seed = result.get("seed")
    _require(seed is None or _is_seed(seed), "seed", seed, "a whole number of 0 or more")
    for name, levels in (_NUMBERS | _MIXED).items():
        _require_numbers(name, result.get(name) or {}, levels, mixed=name in _MIXED)
    word = _mapping("word", result.get("word") or {})
    _require_numbers("word.models", word.get("models") or {}, 3)
    config = _mapping("config", result.get("config") or {})
    _mapping("config.choices", config.get("choices") or {})
    _require_curves(_mapping("curves", result.get("curves") or {}))


def _require_numbers(name: str, value: object, levels: int, mixed: bool = False) -> None:
    found = _mapping(name, value)
    if levels > 1:
        for key, below in found.items():
            _require_numbers(f"{name}.{key}", below, levels - 1, mixed)
    elif not mixed:
        for key, number in found.items():
            if type(number) is not float and number is not None and not _is_number(number):  # most are, of very many
                _require(False, f"{name}.{key}", number, "a number")


def _require_curves(curves: Mapping[str, Any]) -> None:
    """ROC curves have as many true rates as false ones, and gaps as many values as updates."""
    rates = dict(_mapping("curves.roc", curves.get("roc") or {}))
    false = _rising("curves.roc.fpr", rates.pop("fpr", []))
    for attack, models in rates.items():
        for model, true in _mapping(f"curves.roc.{attack}", models).items():
            _numbers(f"curves.roc.{attack}.{model}", true, len(false))
    updates = _mapping("curves.updates", curves.get("updates") or {})
    if updates:
        places = _rising("curves.updates.update", updates.get("update"))
        for name in ("a", "g"):
            gaps = updates.get(name)  # what was not finite is null
            known = [0.0 if gap is None else gap for gap in gaps] if isinstance(gaps, list) else gaps
            _numbers(f"curves.updates.{name}", known, len(places))


def _rising(name: str, value: object) -> list[float]:
    found = _numbers(name, value)
    _require(all(low < high for low, high in pairwise([0, *found])), name, value, "a list of rising numbers above 0")
    return found


def _numbers(name: str, value: object, length: int | None = None) -> list[float]:
    known = isinstance(value, list) and all(map(_is_number, value)) and length in (None, len(value))
    _require(known, name, value, "a list of numbers" if length is None else f"a list of {length} numbers")
    return value


def _mapping(name: str, value: object) -> dict[str, Any]:
    _require(isinstance(value, dict), name, value, "an object")
    return value


def _require(fits: bool, name: str, value: object, wanted: str) -> None:
    if not fits:
        raise UserError(f"cannot be read ({name} is {_written(value)} and not {wanted})")


def _written(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _SEEDS


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < _MOST_BITS
