"""Gradient difference: up on the forget set, down on the retain set (Liu et al. 2022; NegGrad+ of SCRUB)."""

from kga.methods.gradient_ascent import GradientAscent


class GradientDifference(GradientAscent):
    """L = -gamma * CE on D_f + alpha * CE on D_r, from A_D.

    Needs D_f, D_r. Cost per update: 3 forwards of both batches. The first term has no lower bound: few updates, or it
    over-forgets.
    """
