"""Sizes: a whole number of examples, or a share; nothing else."""

import pytest

from kga.data.amount import amount
from kga.errors import UserError


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1), (7, 7), (500, 500), (0.5, 50), (0.014, 1), (0.001, 1), (0.999, 100)]
)
def test_examples_or_a_share_of_100(value, expected):
    assert amount(value, 100, "forget.size") == expected


@pytest.mark.parametrize(
    "value", [1.5, 0, -3, 0.0, 1.0, -0.2, True, False, None, "10", "", float("nan"), float("inf"), [1]]
)
def test_anything_else_is_refused_with_its_key(value):
    with pytest.raises(UserError, match=r"new\.size=.* is no size") as caught:
        amount(value, 100, "new.size")
    assert "\n" not in str(caught.value)
