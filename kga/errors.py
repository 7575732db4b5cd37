"""The one exception for mistakes that the user can mend."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the configuration, the data or the surroundings of a run.

    The message is one line that says what is wrong, where (config key, or file and line) and what to do. The command
    line prints it without a traceback and exits with code 2; finished work stays as it is.
    """


class RunFailed(UserError):
    """One or more runs failed; the message says why, or where that stands. code: what the command ends with."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def nearest(name: object, known: Iterable[str]) -> str:
    """The names most like ``name``, or all (if few) where none is near, to end an error message with."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, 3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(known)}" if len(known) <= 40 else "`kga --cfg job` prints all that exist"


def one_of(key: str, value: object, known: Iterable[str]) -> None:
    """UserError unless ``value`` is one of the known names."""
    known = tuple(known)
    if value not in known:
        raise UserError(f"{key}={value} is unknown: {nearest(value, known)}")
