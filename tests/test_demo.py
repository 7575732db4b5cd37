"""The default study: what the embedded data promises, and what KGA reaches on it over three seeds."""

import numpy as np
import pytest
from helpers.cli import kga, results


def accuracy(result: dict, model: str, split: str) -> float:
    return result["utility"][model][split][result["score_metric"]]


def test_the_original_remembers_and_the_retrained_model_does_not(tmp_path):
    """Part of the labels can only be known by heart: A_D is 25 points better on D_f than on test, A_R is not."""
    outcome = kga("method=none", "optim.epochs=10", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    result = results(tmp_path)["none"]
    assert result["splits"]["test"] == 2000
    assert accuracy(result, "original", "forget") - accuracy(result, "original", "test") >= 0.25
    assert accuracy(result, "retrain", "forget") - accuracy(result, "retrain", "test") < 0.10
    assert result["score"]["unlearned"]["tow"] == result["score"]["original"]["tow"] < 0.75


STUDIES = {
    "classification": (),
    "translation": ("task=translation", "evaluation.generate.limit=0"),
    "response": ("task=response", "model.max_length=24", "evaluation.generate.limit=0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", STUDIES.values(), ids=STUDIES.keys())
def test_kga_comes_close_to_the_retrained_model(arguments, tmp_path):
    """Three seeds: mean |accuracy difference| to A_R at most .05 on D_f and .02 on test; tug of war at least .90."""
    gaps, score = {"forget": [], "test": []}, {"original": [], "unlearned": []}
    for seed in (0, 1, 2):
        outcome = kga(*arguments, f"seed={seed}", f"output={tmp_path}/{seed}")
        assert outcome.code == 0, outcome.errors
        result = results(tmp_path / str(seed))["kga"]
        for split, values in gaps.items():
            values.append(abs(accuracy(result, "unlearned", split) - accuracy(result, "retrain", split)))
        for model, values in score.items():
            values.append(result["score"][model]["tow"])
    assert np.mean(gaps["forget"]) <= 0.05
    assert np.mean(gaps["test"]) <= 0.02
    assert np.mean(score["unlearned"]) >= 0.90
    assert np.mean(score["unlearned"]) > np.mean(score["original"])
