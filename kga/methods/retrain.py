"""Retraining from scratch without the forget set: the gold standard A_R."""

from kga.methods.base import Method


class Retrain(Method):
    """Trains the initial model on D_r with A_D's own recipe, seed and number of epochs.

    Needs D_r. Cost: a whole training run; the reference for every distance.
    """

    start = "initial"
    splits = ("retain",)
