"""Whether the best method is better than the next, or lucky: a paired test over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from kga.report.settings import in_order

ALPHA = 0.05
MOST_EXACT = 2**14  # sign flips that are all tried; of more, so many are drawn
_TIE = 1e-9  # difference up to which two methods are level
BOUNDS = ("none", "retrain")  # methods that are A_D and A_R themselves: they compete with nobody


@dataclass(frozen=True)
class Comparison:
    """Best against next of one request by tug of war: mean difference over the seeds that both have, and p.

    picked: (method, number of its settings) where one of several stands for a method.
    """

    request: str
    best: str
    other: str
    pairs: int
    difference: float
    p: float | None
    picked: tuple[tuple[str, int], ...] = ()

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        start = f"{self.request}: " if self.request else ""
        if not self.pairs:
            return f"{start}{self.best} and {self.other} have no seed in common: their tugs of war cannot be compared."
        order = "ahead of" if self.difference > _TIE else "level with"
        if self.p is None:
            told = f"{self.best} {order} {self.other} by tug of war, but with 1 seed in common there is nothing to test"
        else:
            told = (
                f"{self.best} {order} {self.other}: tug of war {self.difference:+.3f} over {self.pairs} common seeds, "
                f"p = {self.p:.2g}"
            )
        return f"{start}{told}{self._picking}."

    @property
    def _picking(self) -> str:
        """Which of the two is the best of several settings."""
        told = ", ".join(f"{method} is the best of {settings} settings" for method, settings in self.picked)
        return f" ({told}, chosen by the numbers that are tested)" if told else ""


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

    Of each method its best setting stands for it. Everything is decided on the seeds that all of those have which have the
    most: a setting with fewer competes with nobody.

    Args:
        values: numbers of one table, as `tidy` gives them.
    """
    scores = values[(values["quantity"] == "score") & (values["metric"] == "tow") & (values["role"] == "unlearned")]
    scores = scores[~scores["method"].isin(BOUNDS) & scores["seed"].notna()]  # without a seed there is no pair
    found = []
    for request in sorted(scores["request"].unique(), key=in_order):
        part = scores[scores["request"] == request]
        wide = part.pivot_table(index="seed", columns=["method", "setting"], values="value", dropna=False)
        common = _common(wide[_complete(part, wide)])
        if common is not None:
            found.append(_comparison(str(request), common))
    return found


def _complete(part: pd.DataFrame, wide: pd.DataFrame) -> list[tuple[str, str]]:
    """The settings that did not diverge for any seed: others have no mean."""
    broken = part[part["value"].isna()].set_index(["method", "setting"]).index
    return [column for column in wide.columns if wide[column].notna().any() and column not in broken]


def _common(wide: pd.DataFrame) -> pd.DataFrame | None:
    """The numbers of the most seeds that two methods (or two settings of the only one) share, and of all that have these.

    [seed, (method, setting)]; without a row where no seed is shared, None where there are no two.
    """
    seeds = {column: frozenset(wide.index[wide[column].notna()]) for column in wide}
    several = wide.columns.get_level_values("method").nunique() > 1
    shared = {a & b for a, b in product(set(seeds.values()), repeat=2)}
    for chosen in sorted(shared, key=lambda seeds: (-len(seeds), sorted(seeds))):
        columns = [column for column in wide if chosen <= seeds[column]]
        if len({method for method, _ in columns} if several else columns) > 1:
            return wide.loc[sorted(chosen), columns]
    return None


def _comparison(request: str, common: pd.DataFrame) -> Comparison:
    ranked = common.mean().sort_values(ascending=False, kind="stable").index
    methods = ranked.get_level_values("method")
    settings = methods.value_counts()
    (best, other), pairs = (ranked[~methods.duplicated()] if len(settings) > 1 else ranked)[:2], len(common)
    names = [named(*column, request) for column in (best, other)]
    a, b = (common[column].to_numpy(float) for column in (best, other))
    several = tuple((method, int(settings[method])) for method, _ in (best, other) if settings[method] > 1)
    return Comparison(
        request,
        *names,
        pairs,
        float(np.mean(a - b)) if pairs else float("nan"),
        p_value(a, b) if pairs > 1 else None,
        several if len(settings) > 1 else (),
    )


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
