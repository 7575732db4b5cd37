"""The curves in a result: rates as counted by hand and by scikit-learn, histories of any length in few points."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from helpers.cli import FORGET, KGA, TINY, kga, results, run_folder
from sklearn.metrics import roc_curve

from kga import curves
from kga.runs import write_result


def test_true_rates_are_the_steps_of_the_roc_curve():
    rng = np.random.default_rng(0)
    members, nonmembers = rng.normal(1, 1, 300).round(1), rng.normal(0, 1, 2000).round(1)  # with equal scores
    truth = np.r_[np.ones(300), np.zeros(2000)]
    false, true, _ = roc_curve(truth, np.r_[members, nonmembers], drop_intermediate=False)
    expected = [true[false <= rate + 1e-12].max() for rate in curves.FALSE]
    assert curves.true_rates(members, nonmembers) == pytest.approx(expected, abs=1e-5)
    assert curves.FALSE[0] == pytest.approx(1e-3) and curves.FALSE[-1] == 1 and expected[-1] == 1


def test_every_attack_and_model_with_two_scores_of_each_kind_has_a_curve():
    table = pd.DataFrame(
        [("unlearned", split, score, math.nan) for split, score in [("forget", 2), ("forget", 3), ("nonmember", 0), ("nonmember", 1)]]
        + [("noise_floor_1", "forget", 1, 1), ("original", "forget", 1, 1), ("unlearned", "retain", 1, 1)],
        columns=["model", "split", "score_a", "score_b"],
    )  # fmt: skip
    found = curves.rocs(table)
    assert found.keys() == {"fpr", "a"} and found["a"] == {"unlearned": [1.0] * len(curves.FALSE)}
    assert curves.rocs(table[["model", "split"]]) == {}


@pytest.mark.parametrize("length", [1, 99, 100, 101, 1234])
def test_long_histories_are_averaged_over_neighbours(length):
    update = np.arange(1, length + 1)
    found = curves.gaps(pd.DataFrame({"update": update, "a": update / 2, "g": 1.0}))
    width = math.ceil(length / curves.POINTS)
    assert found["update"] == update[::width].tolist() and len(found["update"]) <= curves.POINTS
    assert found["a"] == pytest.approx([update[i : i + width].mean() / 2 for i in range(0, length, width)], rel=1e-4)
    assert set(found["g"]) == {1.0}
    assert curves.gaps(pd.DataFrame({"update": update, "loss": 1.0})) == {}


def test_a_result_holds_its_curves_each_on_a_line(tmp_path):
    attacked = ("data.size=200", "forget.size=12", "attack=population", f"output={tmp_path}")
    assert kga(*TINY, FORGET, *KGA, *attacked).code == 0
    held = results(tmp_path)["kga"]["curves"]
    history = pd.read_csv(run_folder(tmp_path, "kga") / "updates.csv")
    assert held["updates"]["a"] == pytest.approx(history["a"].tolist(), rel=1e-4)
    examples = pd.read_parquet(run_folder(tmp_path, "kga") / "examples.parquet")
    own = examples[examples["model"] == "unlearned"].set_index("split")["score_loss"]
    assert held["roc"]["loss"]["unlearned"] == curves.true_rates(own["forget"].array, own["nonmember"].array)
    text = (run_folder(tmp_path, "kga") / "result.json").read_text()
    (line,) = [line for line in text.splitlines() if line.strip().startswith('"fpr"')]
    assert line.rstrip().endswith("1.0],")


def test_a_text_that_looks_like_numbers_stays_as_it_is(tmp_path):
    result = {
        "status": "failed",
        "error": "[1,\n  2]",
        "numbers": [1, math.nan, -2.5e-7],
        "nested": [[1, 2], [3]],
        "no": [],
    }
    write_result(tmp_path, result)
    text = (tmp_path / "result.json").read_text()
    assert json.loads(text) == result | {"numbers": [1, None, -2.5e-7]}
    assert '"numbers": [1, null, -2.5e-07]' in text
