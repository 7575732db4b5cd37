"""Whether the best method is better than the next, or lucky: a paired test over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kga.report.settings import in_order

ALPHA = 0.05
MOST_EXACT = 2**14  # sign flips that are all tried; of more, so many are drawn
BOUNDS = ("none", "retrain")  # methods that are A_D and A_R themselves: they compete with nobody


@dataclass(frozen=True)
class Comparison:
    """Best against next of one request by tug of war: mean difference over the seeds that both have, and p."""

    request: str
    best: str
    other: str
    pairs: int
    difference: float
    p: float | None

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        start = f"{self.request}: " if self.request else ""
        if self.p is None:
            seeds = f"{self.pairs or 'no'} seed{'s' if self.pairs != 1 else ''}"
            return f"{start}{self.best} ahead of {self.other} by tug of war, but with {seeds} in common there is nothing to test."
        return (
            f"{start}{self.best} ahead of {self.other}: tug of war {self.difference:+.3f} over {self.pairs} common seeds, "
            f"p = {self.p:.2g}."
        )


def explained(found: Sequence[Comparison]) -> str:
    """What the p of the comparisons are, and what they cannot show; empty where nothing was tested."""
    pairs = sorted({comparison.pairs for comparison in found if comparison.p is not None})
    if not pairs:
        return ""
    flips = "exact " if 2 ** pairs[-1] <= MOST_EXACT else ""
    told = f"p: {flips}paired sign-flip permutation test over seeds, two-sided. The two were picked by the numbers that are tested, so p is rather too small."
    few = [number for number in pairs if 2 / 2**number > ALPHA]
    for number in few:
        told += f" With {number} seeds p cannot fall below {2 / 2**number:.2g}, whatever the methods do: that shows nothing yet."
    return told


def comparisons(values: pd.DataFrame) -> list[Comparison]:
    """Of every request with two methods (or two settings of the only one): the best by mean tug of war against the next.

    Of each method its best setting stands for it.

    Args:
        values: numbers of one table, as `tidy` gives them.
    """
    scores = values[(values["quantity"] == "score") & (values["metric"] == "tow") & (values["role"] == "unlearned")]
    scores = scores[~scores["method"].isin(BOUNDS)]
    found = []
    for request in sorted(scores["request"].unique(), key=in_order):
        part = scores[scores["request"] == request]
        wide = part.pivot_table(index="seed", columns=["method", "setting"], values="value", dropna=False)
        # A setting that diverged for one seed has no mean.
        ranked = wide[_complete(part, wide)].mean().sort_values(ascending=False, kind="stable")
        first = ranked[~ranked.index.get_level_values("method").duplicated()]
        pair = (first if len(first) > 1 else ranked).index[:2]
        if len(pair) == 2:
            found.append(_comparison(str(request), wide, *pair))
    return found


def _complete(part: pd.DataFrame, wide: pd.DataFrame) -> list[tuple[str, str]]:
    broken = part[part["value"].isna()].set_index(["method", "setting"]).index
    return [column for column in wide.columns if wide[column].notna().any() and column not in broken]


def _comparison(request: str, wide: pd.DataFrame, best: tuple[str, str], other: tuple[str, str]) -> Comparison:
    common = wide[[best, other]].dropna()
    a, b = (common[column].to_numpy(float) for column in (best, other))
    names = [named(*column, request) for column in (best, other)]
    difference = float(np.mean(a - b)) if len(common) else float("nan")
    return Comparison(request, *names, len(common), difference, p_value(a, b) if len(common) > 1 else None)


def p_value(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided p of the mean of a - b being 0, under flips of the signs of the pairs; exact up to 14 pairs."""
    from scipy.stats import permutation_test  # slow to import

    tested = permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=MOST_EXACT,
        vectorized=True,
        random_state=0,  # called rng by newer ones
    )
    return float(tested.pvalue)


def named(method: str, setting: str, request: str) -> str:
    """A method with its own part of the setting."""
    own = own_part(setting, request)
    return f"{method} ({own})" if own else method


def own_part(setting: str, request: str) -> str:
    """What a setting says beyond its request."""
    return setting.removeprefix(request).removeprefix(", ") if request else setting
