"""What every attack is: scores of membership from signals. An attack is one file here and one YAML in conf/attack."""

import numpy as np

from kga.attacks.evidence import Evidence
from kga.tasks.base import TaskModule


class Attack:
    """Scores how likely each audited example was a member of a model's training set.

    shadows: whether it needs shadow models; unlearned: whether it needs them after the audited method unlearned in them,
    too; reference: whether it needs a model trained without the audited examples, insists: whether that was asked for by
    name. population: the fewest unseen examples
    it needs beside the audited ones.
    """

    shadows: bool = False
    unlearned: bool = False
    reference: bool = False
    insists: bool = False
    population: int = 0

    def require(self, name: str, task: TaskModule) -> None:
        """UserError for an option that the task can't carry, before anything is trained. name: as in ``attack.NAME``."""

    def scores(self, evidence: Evidence, model: str) -> dict[str, np.ndarray]:
        """variant -> [T] score of every audited example for one audited model; larger: rather a member. NaN: no score."""
        raise NotImplementedError(f"{type(self).__name__} scores nothing")
