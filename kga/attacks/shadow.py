"""A classifier that learns from shadow models how members differ from non-members."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kga.attacks.base import Attack
from kga.attacks.evidence import RETAIN, Evidence
from kga.errors import UserError

FEATURES = ("top_1", "top_2", "top_3", "loss", "phi", "entropy", "modified_entropy", "correct")


class Shadow(Attack):
    """One logistic regression for all examples (after Shokri et al. 2017) on ``FEATURES``, fitted on shadow models only
    and then applied to the audited model; a score is the log-odds of membership.

    "shadow": inside against outside, in shadow models as they were trained; all roles. "shadow_unlearned": the same
    after the audited method unlearned in them, so trained-on-and-unlearned against never trained on; roles forget and
    nonmember, for D_r (NaN) was not unlearned.

    The audited examples themselves are what the shadow models were trained on and tested on. That tells nothing of an
    example's membership in the audited model: each is inside as often as outside, with the same weight.

    unlearned: whether the second variant is made, for which the method unlearns in every shadow model.
    """

    shadows = True

    def __init__(self, unlearned: bool = True) -> None:
        if not isinstance(unlearned, bool):
            raise UserError(f"attack.shadow.unlearned={unlearned} must be true or false")
        self.unlearned = unlearned

    def scores(self, evidence: Evidence, model: str) -> dict[str, np.ndarray]:
        audited, everyone = evidence.targets[model], np.ones(len(evidence.role), bool)
        found = {"shadow": learned(evidence.shadows, evidence.inside, audited, everyone)}
        if self.unlearned and len(evidence.unlearned):
            forgettable = evidence.role != RETAIN
            found["shadow_unlearned"] = learned(evidence.unlearned, evidence.inside, audited, forgettable)
        return found


def learned(shadows: Sequence[pd.DataFrame], inside: np.ndarray, audited: pd.DataFrame, used: np.ndarray) -> np.ndarray:
    """[T] log-odds that an example was inside; NaN for those not ``used`` [T].

    shadows: N tables of T rows; inside: [N, T]; audited: T rows.
    """
    rows = np.concatenate([_features(table)[used] for table in shadows])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", tol=1e-8, max_iter=1000))
    classifier.fit(rows, inside[:, used].ravel())
    scores = np.full(len(used), np.nan)
    scores[used] = classifier.decision_function(_features(audited)[used])
    return scores


def _features(table: pd.DataFrame) -> np.ndarray:
    return table[list(FEATURES)].to_numpy(float)
