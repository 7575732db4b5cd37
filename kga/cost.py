"""What a run cost: seconds of every stage, per request and once, memory, storage."""

from kga.study import Forgotten, Trained


def seconds(original: Trained, retrained: list[Trained], made: Forgotten) -> dict:
    """What making each model cost, also when it was reused; statistics of A_D count as helpers."""
    unlearned = made.unlearned
    return {
        "original": original.seconds,
        "retrain": retrained[0].seconds if retrained else 0.0,
        "helpers": sum(found.seconds for found in (*made.helpers.values(), *made.statistics.values())),
        "cache": unlearned.meta.get("cache_seconds", 0.0),
        "unlearn": 0.0 if unlearned.key == original.key else unlearned.seconds,
    }


def cost(made: Forgotten, moves: bool) -> dict:
    """One-off and per-request seconds, peak memory of unlearning in bytes, and bytes that are stored for it.

    A helper that is not ``per_request`` is made once for all requests, as statistics of A_D are, and what a method trained
    before the first request (``one_off_seconds`` of its meta data).
    """
    unlearned = made.unlearned
    spent = {True: 0.0, False: unlearned.meta.get("one_off_seconds", 0.0)}
    spent[False] += sum(statistic.seconds for statistic in made.statistics.values())
    for name, helper in made.helpers.items():
        spent[made.declared[name].per_request] += helper.seconds
    own = unlearned.seconds + unlearned.meta.get("cache_seconds", 0.0) if moves else 0.0
    held = sum(found.bytes for found in (*made.helpers.values(), *made.statistics.values()))
    return {
        "one_off_seconds": spent[False],
        "request_seconds": spent[True] + own,
        "peak_memory_bytes": unlearned.meta.get("peak_memory_bytes"),
        "stored_bytes": held + unlearned.meta.get("cache_bytes", 0),
    }
