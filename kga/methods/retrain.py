"""Retraining from scratch without the forget set: the gold standard A_R."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kga.methods.base import Method

if TYPE_CHECKING:
    from kga.study import Study, Trained


class Retrain(Method):
    """Trains the initial model on D_r with A_D's own recipe, seed and number of epochs.

    Needs D_r. Cost: a whole training run; the reference for every distance.
    """

    start = "initial"
    splits = ("retain",)

    def train(self, study: Study) -> Trained:
        return study.retrained()
