"""What one result says: the rows of its main table, and the same in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kga.report import membership

SPLITS = ("test", "forget", "retain")
LABELS = {
    "noise_floor": "noise floor",
    "retrain": "retrained (A_R)",
    "original": "original (A_D)",
    "unlearned": "unlearned",
}
METRIC_NAMES = {"accuracy": "accuracy", "micro_f1": "micro F1", "token_accuracy": "token accuracy"}
# The tasks whose models generate text, and the BLEU that their tables show.
BLEU = {"translation": "bleu", "response": "bleu_4"}

# What making each model cost; evaluation and attacks are nobody's price.
_STAGES = {"original": ("original",), "retrain": ("retrain",), "unlearned": ("helpers", "cache", "unlearn")}
# Below this many points, of a share or of BLEU, a difference is not worth a word; for shares it is also the margin of the
# tuning rule (.02 of utility).
MARGIN = 2.0


@dataclass(frozen=True)
class Row:
    """One model of the main table. Shares are in percent, distances in nats; None: not in the result."""

    role: str
    label: str
    utility: dict[str, float | None]
    gaps: dict[str, float | None]  # points to the retrained model; None for that model itself
    jsd: float | None
    tow: float | None
    seconds: float | None
    bleu: float | None = None  # on test, 0..100; like the next, of models that generate text alone
    perplexity: float | None = None  # on the forget set


def generates(result: Mapping[str, Any]) -> bool:
    """Whether the task's models generate text."""
    return result.get("task") in BLEU


def bleu_name(task: str) -> str:
    """What the BLEU of a task's tables is called: BLEU, or BLEU-4 where it is one of several orders."""
    return BLEU[task].upper().replace("_", "-")


def main_metric(result: Mapping[str, Any]) -> str:
    """The metric that `score` is made of: the one that the result names, else what its utilities suggest."""
    return result.get("score_metric") or metric_among(
        [values for splits in (result.get("utility") or {}).values() for values in splits.values()]
    )


def metric_name(metric: str) -> str:
    """A main metric in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def metric_among(values: Sequence[Mapping[str, float]]) -> str:
    """The main metric of {metric: value} mappings, one for each model and split.

    Single-label micro-F1 is accuracy; where the two differ the task is multi-label, and accuracy there means every label
    right.
    """
    found = {metric for metrics in values for metric in metrics}
    if "token_accuracy" in found:
        return "token_accuracy"
    if "accuracy" not in found:
        return "micro_f1" if "micro_f1" in found else "accuracy"
    pairs = [(metrics["accuracy"], metrics.get("micro_f1")) for metrics in values if "accuracy" in metrics]
    differ = any(None not in pair and abs(pair[0] - pair[1]) > 1e-5 for pair in pairs)
    return "micro_f1" if differ else "accuracy"


def seconds_of(result: Mapping[str, Any], role: str) -> float | None:
    """Seconds that making the model of this role took; None where the result does not say."""
    taken = result.get("seconds") or {}
    parts = [taken[stage] for stage in _STAGES.get(role, ()) if taken.get(stage) is not None]
    return float(sum(parts)) if parts else None


def main_rows(result: Mapping[str, Any], order: tuple[str, ...] = tuple(LABELS)) -> list[Row]:
    """The rows of the main table, for the models that the result holds, in the given order of roles."""
    return [_row(result, role) for role in order if role in (result.get("utility") or {})]


def _row(result: Mapping[str, Any], role: str) -> Row:
    utility = {split: _share(result, role, split) for split in SPLITS}
    bleu = BLEU.get(str(result.get("task")))
    # A_R is the point of comparison: at distance 0 from itself, with a tug of war of 1.
    is_reference = role == "retrain"
    return Row(
        role=role,
        label=f"unlearned ({result.get('method')})" if role == "unlearned" else LABELS[role],
        utility=utility,
        gaps={
            split: None if is_reference else difference(utility[split], _share(result, "retrain", split))
            for split in SPLITS
        },
        jsd=0.0 if is_reference else lookup(result, "forgetting", role, "forget", "jsd"),
        tow=1.0 if is_reference else lookup(result, "score", role, "tow"),
        seconds=seconds_of(result, role),
        bleu=lookup(result, "utility", role, "test", bleu) if bleu else None,
        perplexity=lookup(result, "utility", role, "forget", "perplexity") if bleu else None,
    )


def lookup(result: Mapping[str, Any], *keys: str) -> float | None:
    """The number under these keys; None where any of them is missing."""
    value: Any = result
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def difference(value: float | None, reference: float | None) -> float | None:
    """value - reference; None where either is missing."""
    return None if value is None or reference is None else value - reference


def tone(row: Row, rows: list[Row], split: str) -> str:
    """good, fair or bad: how the unlearned model's gap on a split is to be read; '' for the other rows.

    On the forget set it is measured by the original's gap (good: at most half of it or within the margin), elsewhere by
    the margin alone.
    """
    gap = row.gaps[split]
    if row.role != "unlearned" or gap is None or math.isnan(gap):
        return ""
    if abs(gap) <= MARGIN:
        return "good"
    if split != "forget":
        return "fair" if abs(gap) <= 2 * MARGIN else "bad"
    before = next((abs(other.gaps[split] or 0.0) for other in rows if other.role == "original"), 0.0)
    if abs(gap) <= before / 2:
        return "good"
    return "fair" if abs(gap) < before else "bad"


def verdict(result: Mapping[str, Any]) -> list[str]:
    """What the numbers say, in sentences: also when they say that nothing was forgotten, or that nothing can be said."""
    completed = result.get("status") != "failed"
    return [*before_attacks(result), *(membership.sentences(result) if completed else ())]


def before_attacks(result: Mapping[str, Any]) -> list[str]:
    """The verdict without what attacks found."""
    if result.get("status") == "failed":
        return [f"The run failed: {result.get('error') or 'no reason was recorded'}"]
    rows = {row.role: row for row in main_rows(result)}
    if "unlearned" not in rows or "original" not in rows:
        return ["The result holds no unlearned model to compare with the original."]
    name = metric_name(main_metric(result))
    bleu = bleu_name(result["task"]) if generates(result) else ""
    stopped = _on_stopping(result)
    if "retrain" not in rows:
        return [*stopped, *_without_reference(rows, name, bleu)]
    return [*stopped, *_on_forget_set(rows, name), *_on_the_rest(rows, name, bleu), *_on_distributions(rows)]


def _on_stopping(result: Mapping[str, Any]) -> list[str]:
    """Unlearning that ended before its updates did: its numbers are those of that moment."""
    unlearning = result.get("unlearning") or {}
    if not unlearning.get("stopped"):
        return []
    return [f"Unlearning was stopped after {unlearning.get('updates')} updates: {unlearning['stopped']}."]


def _without_reference(rows: dict[str, Row], name: str, bleu: str) -> list[str]:
    changes = [
        f"from {points(before)} to {points(after)} on {split}"
        for split in ("forget", "test", "retain")
        for before, after in [(rows["original"].utility[split], rows["unlearned"].utility[split])]
    ]
    before, after = rows["original"].bleu, rows["unlearned"].bleu
    on_bleu = f"; {bleu} went from {points(before)} to {points(after)} on test" if before is not None else ""
    return [
        f"The {name} went {', '.join(changes)}{on_bleu}.",
        "Without a retrained model (reference=none) it cannot be said whether that is as far as it should be.",
    ]


def _on_forget_set(rows: dict[str, Row], name: str) -> list[str]:
    gap, before = rows["unlearned"].gaps["forget"], rows["original"].gaps["forget"]
    if gap is None or before is None:
        return [f"The result has no {name} on the forget set, so nothing can be said about forgetting."]
    floor = rows["noise_floor"].gaps["forget"] if "noise_floor" in rows else None
    others = f"the original: {points(abs(before))}" + (
        f"; another retrained model: {points(abs(floor))}" if floor is not None else ""
    )
    sentences = [
        f"On the forget set the unlearned model is {points(abs(gap))} points of {name} from the retrained one ({others})."
    ]
    noise = max(MARGIN, abs(floor or 0.0))
    if abs(before) <= noise:
        sentences.append("The original is that close already: this run says little about forgetting.")
    elif abs(gap) >= abs(before):
        sentences.append(
            "It went far too low." if gap < -noise else "That is no closer than the original: nothing was forgotten."
        )
    elif gap < -noise:
        sentences.append(
            "It fell below the retrained one: more was lost than a model lacks that never saw these examples."
        )
    return sentences


def _on_the_rest(rows: dict[str, Row], name: str, bleu: str) -> list[str]:
    changes = {s: difference(rows["unlearned"].utility[s], rows["original"].utility[s]) for s in ("test", "retain")}
    known = {split: change for split, change in changes.items() if change is not None}
    by = " and ".join(f"{signed(change)} on {split}" for split, change in known.items())
    told = [f"{name} changed by {by}"] if known else []
    on_bleu = difference(rows["unlearned"].bleu, rows["original"].bleu)
    if on_bleu is not None:
        told.append(f"{bleu} {'by' if told else 'changed by'} {signed(on_bleu)} on test")
        known[bleu] = on_bleu
    if not told:
        return []
    suffered = ": utility suffered" if min(known.values()) < -MARGIN else ""
    return [f"Against the original, {', '.join(told)}{suffered}."]


def _on_distributions(rows: dict[str, Row]) -> list[str]:
    after, before = rows["unlearned"].jsd, rows["original"].jsd
    if after is None or before is None or after < before:
        return []
    return [
        f"Its output distributions on the forget set came no closer to the retrained model's (JSD {after:.3f}, "
        f"before {before:.3f})."
    ]


def _share(result: Mapping[str, Any], role: str, split: str) -> float | None:
    value = lookup(result, "utility", role, split, main_metric(result))
    return None if value is None else 100 * value


def points(value: float | None) -> str:
    """A share or difference in percent points with one decimal; '-' for none."""
    return "-" if value is None else f"{value:.1f}"


def signed(value: float | None) -> str:
    """Like `points`, with a sign; a difference that rounds to zero has none."""
    if value is None:
        return "-"
    return "0.0" if abs(value) < 0.05 else f"{value:+.1f}"


def perplexity(value: float | None) -> str:
    """A perplexity for reading; '-' for none."""
    return "-" if value is None else format(value, perplexity_format(value))


def perplexity_format(value: float) -> str:
    """Two decimals below 100, one below 1,000, none above; from a million on three digits and the power of ten."""
    size = abs(value)
    return ".2f" if size < 99.995 else ".1f" if size < 999.95 else ".0f" if size < 1e6 else ".3g"
