"""How hard each example of D is, so that a forget set can be chosen by it, before any request is made."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from kga.attacks.evidence import FORGET
from kga.attacks.shadows import SEEDS, inclusion, train_all, units
from kga.console import stage
from kga.data.corpus import Corpus
from kga.data.splits import Split, Splits
from kga.inputs import cut_off
from kga.study import Study

Difficulty = Callable[[np.ndarray], np.ndarray]


def difficulty(
    corpus: Corpus, train: np.ndarray, by: str, shadows: int, make_study: Callable[[Splits], Study]
) -> Difficulty:
    """Row numbers of D -> how hard each is.

    by: "loss", A_D's loss in nats; or "memorisation", the mean loss of models that were trained on halves of D without the
    example minus A_D's loss (Feldman and Zhang 2020, by loss). shadows: number of those models.
    """
    sets = {"train": Split("train", train)} | {
        name: Split(name, np.arange(len(table))) for name, table in corpus.splits.items() if name != "train"
    }
    study = make_study(Splits(sets, corpus.splits, ()))
    stage("Difficulty", f"of D, by {by}")
    scores = study.signals(study.original(), sets["train"])["loss"].to_numpy()
    if by == "memorisation":
        scores = _loss_without(study, shadows) - scores
    places = pd.Index(train)
    return lambda rows: scores[places.get_indexer(rows)]


def _loss_without(study: Study, shadows: int) -> np.ndarray:
    """[N] mean loss of each example of D under the models of random halves of D that don't hold it."""
    whole = study.splits["train"]
    inside = inclusion(np.full(len(whole), FORGET), units(study.splits, whole), shadows, study.seed)
    worlds = []
    for number, member in enumerate(inside):
        half = {**study.splits.sets, "train": Split("train", whole.rows[member])}
        label = f"half {number + 1} of {shadows}: "
        worlds.append(study.world(half, (study.seed + SEEDS * (number + 1)) % 2**31, label))
    train_all(worlds, "models of random halves of D", study.original())
    losses = np.stack([study.signals(world.original(), whole)["loss"].to_numpy() for world in worlds])
    return np.where(inside, 0.0, losses).sum(0) / (~inside).sum(0)


def of_request(request, corpus: Corpus, cfg: Mapping, make_study: Callable[[Splits], Study]) -> None:
    """Gives a request that goes by difficulty what it needs."""
    if getattr(request, "by", None) is None:
        return
    train, _ = cut_off(cfg, corpus)
    known: list[Difficulty] = []

    def score(rows: np.ndarray) -> np.ndarray:
        if not known:
            known.append(difficulty(corpus, train, request.by, request.shadows, make_study))
        return known[0](rows)

    request.difficulty = score
