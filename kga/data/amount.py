"""Sizes as users write them: a number of examples, or a share."""

from kga.errors import UserError


def amount(value: object, total: int, key: str) -> int:
    """Number of examples that ``value`` asks for: an integer of 1 or more, or a share strictly between 0 and 1.

    total: what a share is a share of. key: the config key, named in the UserError for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{key}={value} is no size: give a number of examples (1 or more) or a share between 0 and 1")
    if isinstance(value, int) and value >= 1:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return max(1, round(value * total))
    raise UserError(f"{key}={value} is no size: give a whole number of examples (1 or more) or a share between 0 and 1")
