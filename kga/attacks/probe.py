"""What every probe is: an attack that works on the models themselves, not on what they say of each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kga.data.splits import Split
    from kga.study import Study, Trained

TITLES = {"original": "A_D", "retrain": "A_R", "unlearned": "A*"}


class Probe:
    """An attack that works on the models themselves.

    section: where its findings stand in result.json.
    """

    section: str

    def require(self, study: Study) -> None:
        """UserError for what the study can't carry, before anything is trained."""

    def run(self, study: Study, models: Mapping[str, Trained], sets: Mapping[str, Split]) -> dict:
        """{model: findings}, of what JSON can write.

        models: "original", "unlearned" and, where there is one, "retrain". sets: forget, nonmember, retain, test,
        validation, ..., capped by the caller.
        """
        raise NotImplementedError(f"{type(self).__name__} finds nothing")
