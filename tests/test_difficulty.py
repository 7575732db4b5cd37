"""forget=easy and forget=hard: which third of D they take, by which score, at which cost."""

from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from helpers.cli import TINY, kga, models, results, run_folder

SMALL = (*TINY, "method=none", "forget.size=12", "reference=none", "optim.epochs=3")


def losses(output, split: str) -> pd.Series:
    """A_D's loss by id on an evaluated split."""
    (folder,) = [path for path in output.glob("runs/*/")]
    table = pd.read_parquet(folder / "examples.parquet")
    return table[(table["model"] == "original") & (table["split"] == split)].set_index("id")["loss"]


@pytest.mark.parametrize(("kind", "sign"), [("easy", -1), ("hard", 1)])
def test_the_forget_set_is_of_low_or_high_loss_under_the_original(tmp_path, kind, sign):
    whole = ("forget.size=null", "new.size=20", "data.size=600", "evaluation.retain_limit=null",
             "optim.epochs=6", "optim.lr=5e-3")  # fmt: skip
    outcome = kga(*SMALL, *whole, f"forget={kind}", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    chosen, rest = losses(tmp_path, "forget"), losses(tmp_path, "retain")
    assert len(chosen) / (len(chosen) + len(rest)) == pytest.approx(1 / 3, abs=0.05)
    assert sign * (chosen.mean() - rest.mean()) > 0
    assert len(models(tmp_path / "store", "original")) == 1


def test_easy_and_hard_sets_have_one_original_and_no_example_in_common(tmp_path):
    forgotten = []
    for kind in ("easy", "hard"):
        assert kga(*SMALL, f"forget={kind}", f"output={tmp_path / kind}", f"store={tmp_path / 'store'}").code == 0
        splits = pd.read_parquet(run_folder(tmp_path / kind, "none") / "splits.parquet")
        forgotten.append(set(splits[splits["split"] == "forget"]["id"]))
    assert not forgotten[0] & forgotten[1]
    assert len(models(tmp_path / "store", "original")) == 1


def test_memorisation_trains_models_of_halves_of_d_and_goes_by_their_losses(tmp_path):
    outcome = kga(*SMALL, "forget=hard", "forget.by=memorisation", "forget.shadows=2", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    assert len(models(tmp_path / "store", "original")) == 3
    assert results(tmp_path)["none"]["splits"]["forget"] == 12
    assert "2 models of random halves of D: 0 in the store, 2 to train" in " ".join(outcome.out.split())


def test_loss_without_an_example_is_the_mean_over_models_that_lack_it():
    from types import SimpleNamespace

    from kga import difficulty
    from kga.attacks.shadows import inclusion
    from kga.data.splits import Split, Splits

    rows = np.array([3, 5, 8, 9])
    said = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 30.0, 40.0])]
    worlds = iter(range(2))
    Made = namedtuple("Made", ["number", "seconds"], defaults=[0.0])

    def world(sets, seed, label):
        number = next(worlds)
        return SimpleNamespace(original=lambda: Made(number), has_original=lambda: True)

    table = Dataset.from_dict({"input_hash": [str(row) for row in range(10)]})
    splits = Splits({"train": Split("train", rows)}, {"train": table}, ())
    signals = lambda model, split: pd.DataFrame({"loss": said[model.number]})  # noqa: E731
    study = SimpleNamespace(splits=splits, seed=0, world=world, signals=signals, original=lambda: Made(0))
    inside = inclusion(np.full(4, "forget"), np.arange(4).astype(str), 2, 0)
    expected = [said[0][place] if not inside[0, place] else said[1][place] for place in range(4)]
    np.testing.assert_allclose(difficulty._loss_without(study, 2), expected)
