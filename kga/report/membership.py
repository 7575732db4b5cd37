"""What the attacks of one result found: which of them is the strongest, and the same in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GROUPS = {
    "population": (
        "loss",
        "confidence",
        "entropy",
        "modified_entropy",
        "min_k",
        "min_k_plus",
        "zlib",
        "reference",
    ),
    "shadow models": ("shadow", "shadow_unlearned"),
    "per example": ("lira_online", "lira_offline", "ulira_online", "ulira_offline", "rmia"),
}
OTHERS = "other"  # the group of attacks that this list does not know


@dataclass(frozen=True)
class Finding:
    """AUCs of one attack, of D_f against unseen examples; the interval is the unlearned model's. None: not in the result."""

    attack: str
    unlearned: float
    low: float | None
    high: float | None
    retrain: float | None
    original: float | None
    noise_floor: float | None

    @property
    def difference(self) -> float | None:
        """To the retrained model's AUC, which is the value to reach."""
        return None if self.retrain is None else self.unlearned - self.retrain

    @property
    def apart(self) -> bool | None:
        """Whether the interval leaves the retrained model's AUC out; None where that can't be told."""
        if self.retrain is None or self.low is None or self.high is None:
            return None
        return not self.low <= self.retrain <= self.high

    @property
    def _strength(self) -> tuple[bool, float]:
        # One that lies apart tells more than a larger difference that chance explains.
        distance = self.unlearned - 0.5 if self.difference is None else self.difference
        return self.apart is not False, abs(distance)


def grouped(attacks: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of attacks by group, both in a fixed order; groups of which there are none are left out."""
    known = {name for names in GROUPS.values() for name in names}
    groups = GROUPS | {OTHERS: tuple(name for name in attacks if name not in known)}
    return {
        title: present for title, names in groups.items() if (present := [name for name in names if name in attacks])
    }


def findings(result: Mapping[str, Any]) -> list[Finding]:
    """One for each attack with an AUC of the unlearned model."""
    membership = result.get("membership") or {}
    attacks = membership.get("unlearned") or {}
    found = []
    for name in (name for names in grouped(attacks).values() for name in names):
        own = attacks[name]
        others = (
            (membership.get(model) or {}).get(name, {}).get("auc") for model in ("retrain", "original", "noise_floor")
        )
        if own.get("auc") is not None:
            found.append(Finding(name, own["auc"], own.get("auc_low"), own.get("auc_high"), *others))
    return found


def strongest(found: list[Finding]) -> Finding | None:
    """The attack whose AUC is farthest from the retrained model's (without one: from .5); those that lie apart first."""
    return max(found, key=lambda finding: finding._strength, default=None)


def sentences(result: Mapping[str, Any]) -> list[str]:
    """What the attacks found, for the verdict; none where nothing was attacked."""
    found = findings(result)
    best = strongest(found)
    if best is None:
        return []
    if best.apart is False:
        who = "The attack doesn't tell" if len(found) == 1 else f"No attack of {len(found)} tells"
        return [
            f"{who} the unlearned model from the retrained one: the largest difference ({best.attack}, AUC "
            f"{best.unlearned:.2f} against {best.retrain:.2f}) lies within its 95 % interval "
            f"({best.low:.2f} to {best.high:.2f})."
        ]
    who = f"The {best.attack} attack" if len(found) == 1 else f"The strongest of {len(found)} attacks ({best.attack})"
    others = _named({"retrained model": best.retrain, "another one": best.noise_floor, "original": best.original})
    return [
        f"{who} tells the forgotten examples from unseen ones with AUC {best.unlearned:.2f} ({others}).",
        *_reading(best),
    ]


def line(result: Mapping[str, Any]) -> str:
    """The same for a terminal, short; empty where nothing was attacked."""
    found = findings(result)
    best = strongest(found)
    if best is None:
        return ""
    if best.apart is False:
        compared = f"{best.attack}: AUC {best.unlearned:.2f}, retrained {best.retrain:.2f}"
        return f"Attacks: none of {len(found)} tells it from the retrained model ({compared})"
    of = f" (strongest of {len(found)})" if len(found) > 1 else ""
    others = _named({"retrained": best.retrain, "original": best.original})
    return f"Attacks: {best.attack}{of} AUC {best.unlearned:.2f}, {others}"


def _named(aucs: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in aucs.items() if value is not None)


def _reading(best: Finding) -> list[str]:
    """How the AUC is to be read."""
    if best.difference is None:
        return ["Without a retrained model (reference=none) there is no value that it should have."]
    said = []
    if best.difference < 0:
        said.append("That is below the retrained model's: what was pushed too far gives itself away as well.")
    if best.noise_floor is not None and abs(best.noise_floor - best.retrain) >= abs(best.difference):
        said.append("Another retrained model differs from it by as much.")
    return said
