"""Which examples a request asks to forget, and which unseen ones match the request (D_n).

A kind of request is one class in a file of its own and one YAML in conf/forget. ``choose`` picks row numbers out of D;
``match`` picks row numbers out of the reserve, of the same shape as the request; ``nonmembers`` those of the holdout
that attacks compare the forget set with.
"""

from kga.data.forget.base import Request
from kga.data.forget.difficulty import Easy, Hard
from kga.data.forget.group import Group
from kga.data.forget.ids import Ids, read_ids
from kga.data.forget.label import Label
from kga.data.forget.matching import matched, whole_groups
from kga.data.forget.random import Random
from kga.data.forget.word import Word

__all__ = [
    "Easy",
    "Group",
    "Hard",
    "Ids",
    "Label",
    "Random",
    "Request",
    "Word",
    "matched",
    "read_ids",
    "whole_groups",
]
