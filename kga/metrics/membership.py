"""What an attack's scores are worth: how well members are told from non-members. Larger scores mean: rather a member."""

import numpy as np
from scipy.stats import rankdata

RATES = (0.1, 0.01, 0.001)  # of false positives at which true ones are reported
FEWEST = 10  # false positives that a rate must allow to be reported
LEVEL = 95  # per cent, of intervals
BLOCK = 2**21  # scores that are resampled at once


def auc(members: np.ndarray, nonmembers: np.ndarray) -> float:
    """Probability that a member scores higher than a non-member; equal scores count half."""
    members, nonmembers = _checked(members, nonmembers)
    size = len(members)
    ranks = rankdata(np.concatenate([members, nonmembers]))[:size].sum()  # Mann-Whitney
    return float((ranks - size * (size + 1) / 2) / (size * len(nonmembers)))


def auc_interval(
    members: np.ndarray, nonmembers: np.ndarray, seed: int = 0, bootstrap: int = 1000
) -> tuple[float, float, float]:
    """AUC and the bounds of its 95 % bootstrap interval; members and non-members are resampled apart."""
    members, nonmembers = _checked(members, nonmembers)
    drawn = _resampled(members, nonmembers, bootstrap, np.random.default_rng([seed, 10]))
    low, high = np.percentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    value = auc(members, nonmembers)
    return value, float(min(low, value)), float(max(high, value))


def roc(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false, true) positive rates at all thresholds, from (0, 0) to (1, 1)."""
    members, nonmembers = _checked(members, nonmembers)
    thresholds = np.unique(np.concatenate([members, nonmembers]))[::-1]
    rates = [
        np.concatenate([[0.0], np.searchsorted(np.sort(-values), -thresholds, side="right") / len(values)])
        for values in (nonmembers, members)
    ]
    return rates[0], rates[1]


def membership_figures(members: np.ndarray, nonmembers: np.ndarray, seed: int = 0, bootstrap: int = 1000) -> dict:
    """All figures of one attack on one model.

    auc with auc_low and auc_high (see ``auc_interval``); advantage: max(TPR - FPR); balanced_accuracy of that threshold;
    two_sided_auc: AUC of the distance to the non-members' median, as over-forgetting gives members away as well;
    tpr_at_fpr_T: largest TPR with FPR <= T, only where T times the non-members is 10 or more; members, nonmembers: numbers.
    ValueError for scores that are no numbers or fewer than 2.
    """
    members, nonmembers = _checked(members, nonmembers)
    value, low, high = auc_interval(members, nonmembers, seed, bootstrap)
    false, true = roc(members, nonmembers)
    advantage, centre = float((true - false).max()), np.median(nonmembers)
    found = {"auc": value, "auc_low": low, "auc_high": high, "advantage": advantage, "balanced_accuracy": (1 + advantage) / 2,
             "two_sided_auc": auc(np.abs(members - centre), np.abs(nonmembers - centre))}  # fmt: skip
    found |= {
        f"tpr_at_fpr_{rate}": float(true[false <= rate + 1e-12].max())
        for rate in RATES
        if len(nonmembers) * rate >= FEWEST - 1e-9
    }
    return found | {"members": len(members), "nonmembers": len(nonmembers)}


def privleak(unlearned: float, retrained: float) -> float | None:
    """[(1 - AUC_unlearned) - (1 - AUC_retrained)] / (1 - AUC_retrained), in per cent (Shi et al. 2024, MUSE): 0 is like
    A_R, negative where too little was forgotten, positive where too much. None where A_R's AUC is 1."""
    return None if retrained >= 1 else (retrained - unlearned) / (1 - retrained) * 100


def _resampled(members: np.ndarray, nonmembers: np.ndarray, bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """[bootstrap] AUC of resampled members and non-members.

    Scores are sorted once and non-members below each counted, which is ten times faster than ranking every resample; in
    blocks, as large sets would fill the memory.
    """
    values, place = np.unique(np.concatenate([members, nonmembers]), return_inverse=True)
    own, other = np.split(place, [len(members)])
    found, rows = [], max(1, BLOCK // len(place))
    for start in range(0, bootstrap, rows):
        size = min(rows, bootstrap - start)
        offset = len(values) * np.arange(size)[:, None]
        drawn = other[rng.integers(len(other), size=(size, len(other)))] + offset
        counts = np.bincount(drawn.ravel(), minlength=size * len(values)).reshape(size, -1)
        below = counts.cumsum(1) - counts / 2  # equal ones count half
        taken = own[rng.integers(len(own), size=(size, len(own)))]
        found.append(np.take_along_axis(below, taken, 1).mean(1) / len(other))
    return np.concatenate(found)


def _checked(members: np.ndarray, nonmembers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.asarray(members, float), np.asarray(nonmembers, float)
    if min(map(len, both)) < 2:
        raise ValueError(f"expected 2 members and 2 non-members or more, got {len(both[0])} and {len(both[1])}")
    if any(np.isnan(values).any() for values in both):
        raise ValueError("a score is not a number")
    return both
