"""What a run cost: seconds of every stage, per request and once, memory, storage."""

from collections.abc import Mapping

from kga.methods.base import Helper
from kga.study import Trained


def seconds(original: Trained, retrained: list[Trained], helpers: Mapping[str, Trained], unlearned: Trained) -> dict:
    """What making each model cost, also when it was reused."""
    return {
        "original": original.seconds,
        "retrain": retrained[0].seconds if retrained else 0.0,
        "helpers": sum(helper.seconds for helper in helpers.values()),
        "cache": unlearned.meta.get("cache_seconds", 0.0),
        "unlearn": 0.0 if unlearned.key == original.key else unlearned.seconds,
    }


def cost(helpers: Mapping[str, Trained], declared: Mapping[str, Helper], unlearned: Trained, moves: bool) -> dict:
    """One-off and per-request seconds, peak memory of unlearning in bytes, and bytes that are stored for it.

    declared: the method's helpers; one that is not ``per_request`` is trained once for all requests.
    """
    spent = {True: 0.0, False: 0.0}
    for name, helper in helpers.items():
        spent[declared[name].per_request] += helper.seconds
    own = unlearned.seconds + unlearned.meta.get("cache_seconds", 0.0) if moves else 0.0
    return {
        "one_off_seconds": spent[False],
        "request_seconds": spent[True] + own,
        "peak_memory_bytes": unlearned.meta.get("peak_memory_bytes"),
        "stored_bytes": sum(helper.bytes for helper in helpers.values()) + unlearned.meta.get("cache_bytes", 0),
    }
