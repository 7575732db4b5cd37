"""No unlearning: the original model as it is, the lower end of every comparison."""

from kga.methods.base import Method


class NoUnlearning(Method):
    """A* = A_D. Needs nothing and costs nothing."""

    moves = False
    splits = ()
