"""The sections of a run's report that the audit fills: attacks, what came back, what else changed, the word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from kga.report import figures, summary
from kga.report.examples import SCORE
from kga.report.membership import Finding, findings, grouped, strongest

# The best-known attacks, whose ROC curves are drawn; of several in one place the first that there is.
_DRAWN = (("loss",), ("lira_online", "lira_offline"), ("ulira_online", "ulira_offline"), ("rmia",))
_RATE = "tpr_at_fpr_"
_FIGURES = {"advantage": "advantage", "two_sided_auc": "two-sided AUC"}
_AFTER_RATES = {"privleak": "PrivLeak %", "retain_auc": "retain AUC"}
_DISTANCES = {
    "cka_forget": "CKA on forget",
    "cka_test": "CKA on test",
    "weight_l2": "weights, L2",
    "weight_ratio": "share of the original's",
}
_ALIKE = {"cka_forget": 1.0, "cka_test": 1.0, "weight_l2": 0.0, "weight_ratio": 0.0}
_SETS = {"forget": "seen", "nonmember": "unseen"}


@dataclass(frozen=True)
class Lines:
    """A table: names of the columns, and lines of (name, a value per column)."""

    columns: list[str]
    lines: list[tuple[str, list[Any]]]


@dataclass(frozen=True)
class Auc:
    """One AUC with its interval; `mark` is ▲ or ▼ where it lies above or below the retrained model's, ' ' if not."""

    value: float | None
    low: float | None
    high: float | None
    mark: str = ""


def sections(result: Mapping[str, Any], examples: pd.DataFrame | None, texts: Mapping[str, str]) -> dict[str, Any]:
    """What the template of the audit shows; parts that the result lacks are None or empty."""
    membership = result.get("membership") or {}
    return {
        "aucs": _aucs(membership, findings(result)),
        "auc_models": [summary.LABELS[model] for model in _models(membership)],
        "tested": _tested(membership),
        "further": _further(membership),
        "rocs": _rocs(result, examples),
        "relearning": _relearning(result.get("relearning") or {}),
        "quantised": _quantised(result),
        "distances": _distances(result.get("distances") or {}),
        "word": _word(result.get("word") or {}, texts),
    }


def _models(values: Mapping[str, Any]) -> list[str]:
    return [model for model in summary.LABELS if values.get(model)]


# Membership ----------------------------------------------------------------------------------------------------------


def _aucs(membership: Mapping[str, Any], found: list[Finding]) -> list[tuple[str, list[tuple[str, list[Auc]]]]]:
    """(group, [(attack, one Auc per model)])."""
    models = _models(membership)
    apart = {finding.attack: finding for finding in found if finding.apart}
    attacks = dict.fromkeys(name for model in models for name in membership[model])

    def auc(attack: str, model: str) -> Auc:
        values = membership[model].get(attack) or {}
        # The floor is a mean over models; a mean of their bounds would be nobody's interval.
        bounds = (None, None) if model == "noise_floor" else (values.get("auc_low"), values.get("auc_high"))
        mark = ""
        if model == "unlearned" and attack in apart:
            mark = "▲" if apart[attack].difference > 0 else "▼"
        return Auc(values.get("auc"), *bounds, mark)

    return [
        (group, [(name, [auc(name, model) for model in models]) for name in names])
        for group, names in grouped(attacks).items()
    ]


def _tested(membership: Mapping[str, Any]) -> dict[str, str]:
    """How many members, and non-members, the attacks were tested on; a range where that differs."""
    attacks = [values for model in _models(membership) for values in membership[model].values()]
    counts = {name: {int(found[name]) for found in attacks if found.get(name)} for name in ("members", "nonmembers")}
    return {
        name: " to ".join(f"{count:,}" for count in sorted({min(found), max(found)}))
        for name, found in counts.items()
        if found
    }


def _further(membership: Mapping[str, Any]) -> Lines | None:
    """Further figures of the unlearned model, each with the retrained model's: lines of (attack, pairs)."""
    unlearned, retrain = (membership.get(model) or {} for model in ("unlearned", "retrain"))
    present = {metric for values in unlearned.values() for metric in values}
    rates = sorted((metric for metric in present if metric.startswith(_RATE)), key=_target, reverse=True)
    names = _FIGURES | {metric: f"TPR at {100 * _target(metric):g} % FPR" for metric in rates} | _AFTER_RATES
    names = {metric: name for metric, name in names.items() if metric in present}
    if not names:
        return None
    lines = [
        (attack, [(metric, unlearned[attack].get(metric), retrain.get(attack, {}).get(metric)) for metric in names])
        for attacks in grouped(unlearned).values()
        for attack in attacks
    ]
    return Lines(list(names.values()), lines)


def _target(metric: str) -> float:
    return float(metric.removeprefix(_RATE))


def _rocs(result: Mapping[str, Any], examples: pd.DataFrame | None) -> list[tuple[str, Markup]]:
    """(attack, figure) of the best-known attacks that left scores; where there is none of them, of the strongest."""
    scored = set() if examples is None else {name.removeprefix(SCORE) for name in examples if name.startswith(SCORE)}
    known = [next((name for name in names if name in scored), None) for names in _DRAWN]
    best = strongest(findings(result))
    wanted = [name for name in known if name] or [name for name in (best and best.attack,) if name in scored]
    drawn = [(name, figures.roc_curves(examples, f"{SCORE}{name}", name)) for name in wanted]
    return [(name, figure) for name, figure in drawn if figure]


# Other attacks, distances --------------------------------------------------------------------------------------------


def _relearning(found: Mapping[str, Any]) -> dict[str, Any] | None:
    models = _models(found)
    if not models:
        return None
    columns = ["before", "after", "recovered", "minus A_R's", "updates to relearn", "test before", "test after"]
    lines = [(summary.LABELS[model], _relearned(found[model])) for model in models]
    curve = "rest_loss" if any(found[model].get("rest_loss") for model in models) else "rest_utility"
    return {
        "table": Lines(columns, lines),
        "on": found[models[0]].get("on"),
        "examples": found[models[0]].get("examples"),
        "figure": figures.relearning_curves({model: found[model] for model in models}, curve),
    }


def _relearned(values: Mapping[str, Any]) -> list[str]:
    rest, test = (values.get(name) or [None] for name in ("rest_utility", "test_utility"))
    updates = values.get("updates") or [0]
    reached = values.get("updates_to_relearn")
    return [
        summary.points(_percent(rest[0])),
        summary.points(_percent(rest[-1])),
        summary.signed(_percent(values.get("recovered"))),
        summary.signed(_percent(values.get("recovered_minus_retrain"))),
        f"> {updates[-1]}" if reached is None else f"{reached}",
        summary.points(_percent(test[0])),
        summary.points(_percent(test[-1])),
    ]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _quantised(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The main metric of the rounded models in %, each with the unrounded model's: lines of (model, pairs)."""
    found, metric = result.get("quantised") or {}, summary.main_metric(result)
    models = _models(found)
    splits = [split for split in ("forget", "nonmember", "retain", "test") if any(split in found[m] for m in models)]
    if not splits:
        return None

    def share(part: str, *keys: str) -> str:
        return summary.points(_percent(summary.lookup(result, part, *keys, metric)))

    lines = [
        (
            summary.LABELS[model],
            [(share("quantised", model, split), share("utility", model, split)) for split in splits],
        )
        for model in models
    ]
    bits = summary.lookup(result, "config", "attack", "quantised", "bits")
    return {"table": Lines(splits, lines), "bits": None if bits is None else int(bits)}


def _distances(found: Mapping[str, Any]) -> Lines | None:
    """How far every model is from A_R inside, which stands among them for comparison."""
    models = _models({**found, "retrain": _ALIKE}) if found else []
    known = [
        name for name in _DISTANCES if any(found[model].get(name) is not None for model in models if model in found)
    ]
    if not known:
        return None
    lines = [
        (summary.LABELS[model], [({"retrain": _ALIKE} | dict(found))[model].get(name) for name in known])
        for model in models
    ]
    return Lines([_DISTANCES[name] for name in known], lines)


# The word ------------------------------------------------------------------------------------------------------------


def _word(found: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any] | None:
    """What became of a forgotten word: numbers by model and set, and what took its place."""
    models = _models(found.get("models") or {})
    if not models:
        return None
    values = found["models"]
    sets = [name for name in _SETS if any(values[model].get(name) for model in models)]
    metrics = ("probability", "rank", "rate")
    lines = [
        (summary.LABELS[model], [_word_cell(metric, (values[model].get(name) or {}).get(metric)) for name in sets for metric in metrics])
        for model in models
    ]  # fmt: skip
    columns = [f"{metric}, {_SETS[name]}" for name in sets for metric in metrics]
    occurrences = {_SETS[name]: (values[models[-1]].get(name) or {}).get("occurrences") for name in sets}
    taken = found.get("substitutes") or {}
    return {
        "word": found.get("word"),
        "column": found.get("column"),
        "table": Lines(columns, lines),
        "occurrences": {name: count for name, count in occurrences.items() if count is not None},
        "substitutes": [
            (summary.LABELS[model], [(word, count, name, texts.get(str(name))) for word, count, name in taken[model]])
            for model in _models(taken)
        ],
    }


def _word_cell(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    if metric == "rank":
        return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
    return f"{100 * value:.1f} %" if metric == "rate" else f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
