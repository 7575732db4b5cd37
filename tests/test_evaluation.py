"""One pass over models and splits gives what each metric gives by itself."""

import numpy as np
import pytest
import torch
from helpers import sequences, tiny
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import accuracy_score, f1_score

import kga.predictions
from kga.evaluation import Ordered, evaluate

HARDWARE = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "checkpoint_minutes": 30, "profiler": None}


def sets(task) -> dict:
    sizes = {"test": 30, "forget": 17, "validation": 40}
    return {name: tiny.examples(size, seed, task) for seed, (name, size) in enumerate(sizes.items(), start=1)}


def models(multi_label: bool = False) -> dict:
    names = ("original", "retrain", "unlearned")
    return {name: sharpened(tiny.classifier(seed, multi_label=multi_label)) for seed, name in enumerate(names)}


def sharpened(task):
    """Random weights hardly tell texts apart: larger ones do."""
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return task


def all_predictions(task, examples):
    with torch.no_grad():
        return task.predict(examples.batch(np.arange(len(examples))))


@pytest.fixture(scope="module")
def single():
    tasks = models()
    given = sets(tasks["original"])
    return tasks, given, evaluate(tasks, given, HARDWARE, batch_size=7)


def test_utility_is_each_models_own(single):
    tasks, given, (utility, _, _) = single
    assert {name: set(splits) for name, splits in utility.items()} == {name: set(given) for name in tasks}
    for name, task in tasks.items():
        for split, examples in given.items():
            predictions = all_predictions(task, examples)
            truth, predicted = predictions.targets, predictions.log_probs.argmax(1)
            assert utility[name][split] == pytest.approx(
                {
                    "loss": -predictions.truth().mean().item(),
                    "accuracy": accuracy_score(truth, predicted),
                    "micro_f1": accuracy_score(truth, predicted),
                    "macro_f1": f1_score(truth, predicted, average="macro"),
                },
                abs=1e-5,
            )


def test_forgetting_is_against_a_r_and_with_its_suffix_against_a_d(single):
    tasks, given, (_, forgetting, _) = single
    assert set(forgetting) == {"original", "retrain", "unlearned"}
    plain = {
        "jsd",
        "jsd_legacy",
        "agreement",
        "lpd",
        "lpd_median",
        "log_ppl_difference",
        "log_ppl_difference_median",
        "pdlp",
        *("output_l2", "exact_agreement", "ks", "ks_p", "ks_n"),
        *("truth_ratio", "truth_ratio_ks", "truth_ratio_ks_p"),
    }
    against_original = {f"{name}_original" for name in plain}
    assert set(forgetting["unlearned"]["forget"]) == plain | against_original
    assert set(forgetting["original"]["forget"]) == plain
    assert set(forgetting["retrain"]["test"]) == against_original
    unlearned = all_predictions(tasks["unlearned"], given["forget"])
    for suffix, base in (("", "retrain"), ("_original", "original")):
        reference = all_predictions(tasks[base], given["forget"])
        distance = jensenshannon(unlearned.log_probs.exp(), reference.log_probs.exp(), axis=1) ** 2
        shift = (unlearned.truth() - reference.truth()).numpy()
        found = forgetting["unlearned"]["forget"]
        assert found[f"jsd{suffix}"] == pytest.approx(distance.mean(), abs=1e-5)
        assert found[f"pdlp{suffix}"] == pytest.approx((shift < 0).mean())
        assert found[f"lpd{suffix}"] == pytest.approx(np.abs(np.expm1(-shift)).mean(), rel=1e-3)
    assert forgetting["original"]["forget"]["jsd"] == pytest.approx(
        forgetting["retrain"]["forget"]["jsd_original"], abs=1e-6
    )


def test_every_example_has_its_own_values(single):
    tasks, given, (_, _, frame) = single
    assert len(frame) == len(tasks) * (30 + 17 + 40)
    for (name, split), rows in frame.groupby(["model", "split"]):
        predictions = all_predictions(tasks[name], given[split])
        rows = rows.sort_values("row")
        assert rows.row.tolist() == given[split].rows.tolist()
        np.testing.assert_allclose(rows.loss, -predictions.truth(), atol=1e-5)
        np.testing.assert_allclose(rows.log_prob, predictions.truth(), atol=1e-5)
        assert rows.correct.tolist() == predictions.correct().tolist()


def test_the_batch_size_does_not_matter(single):
    tasks, given, (utility, forgetting, frame) = single
    again = evaluate(tasks, given, HARDWARE, batch_size=64)
    for found, expected in zip(again[:2], (utility, forgetting), strict=True):
        for name, splits in expected.items():
            for split, values in splits.items():
                assert found[name][split] == pytest.approx(values, abs=1e-5, rel=1e-4)
    order = ["model", "split", "row"]
    both = [each.sort_values(order).reset_index(drop=True) for each in (again[2], frame)]
    assert both[0][order].equals(both[1][order])
    np.testing.assert_allclose(both[0].loss, both[1].loss, atol=1e-5)


def test_dropout_is_off_and_no_gradient_is_kept():
    task = tiny.classifier(dropout=0.5)
    task.train()
    given = {"test": tiny.examples(20, task=task)}
    first, second = (evaluate({"original": task}, given, HARDWARE, 8)[0] for _ in range(2))
    assert first == second
    assert first["original"]["test"]["loss"] == pytest.approx(
        -all_predictions(task.eval(), given["test"]).truth().mean().item(), abs=1e-5
    )
    assert all(parameter.grad is None for parameter in task.parameters())


def test_without_a_retrained_model_only_the_original_is_compared_with():
    tasks = {name: task for name, task in models().items() if name != "retrain"}
    utility, forgetting, _ = evaluate(tasks, {"test": tiny.examples(9)}, HARDWARE, 8)
    assert set(utility) == {"original", "unlearned"}
    assert set(forgetting) == {"unlearned"}
    assert all(name.endswith("_original") for name in forgetting["unlearned"]["test"])


def best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    grid = torch.arange(1, 100).div(100).numpy()
    return max(grid, key=lambda threshold: f1_score(truth, probabilities > threshold))


def test_multi_label_thresholds_are_tuned_on_validation_alone():
    tasks = models(multi_label=True)
    given = sets(tasks["original"])
    utility, _, _ = evaluate(tasks, given, HARDWARE, 8)
    for name, task in tasks.items():
        probabilities, truth = {}, {}
        for split, examples in given.items():
            predictions = all_predictions(task, examples)
            probabilities[split] = predictions.log_probs[:, 1].exp().reshape(-1, 3).numpy()
            truth[split] = predictions.targets.reshape(-1, 3).numpy()
        columns = zip(truth["validation"].T, probabilities["validation"].T, strict=True)
        given_labels = probabilities["test"] > np.array([best_threshold(*column) for column in columns])
        expected = f1_score(truth["test"], given_labels, average="micro")
        assert utility[name]["test"]["micro_f1"] == pytest.approx(expected, abs=1e-5)
    plain, _, _ = evaluate(tasks, {"test": given["test"]}, HARDWARE, 8)
    assert plain["unlearned"]["test"]["micro_f1"] != utility["unlearned"]["test"]["micro_f1"]


def test_batches_for_evaluation_are_counted():
    ordered = Ordered(tiny.examples(21), 8)
    assert len(ordered) == 3 == len(list(ordered))
    assert sorted(row for batch in ordered for row in batch["index"].tolist()) == list(range(21))


# Models that write ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["marian", "gpt2"])
def writers(request):
    """Three models, a set of texts of different lengths, and every model's predictions for it as one dense batch."""
    make = sequences.translator if request.param == "marian" else sequences.responder
    names = ("original", "retrain", "unlearned")
    tasks = {name: make(request.param, seed=seed) for seed, name in enumerate(names)}
    given = sequences.examples(tasks["original"], 13)
    return tasks, given, {name: all_predictions(task, given).dense().detach() for name, task in tasks.items()}


@pytest.mark.parametrize("chunk", [None, 1])
def test_generation_is_evaluated_by_token(writers, chunk, monkeypatch):
    """Perplexity and accuracy of all tokens of the corpus, however batches and parts of batches are cut."""
    if chunk:
        monkeypatch.setattr(kga.predictions, "CHUNK", chunk)
    tasks, given, dense = writers
    utility, forgetting, _ = evaluate(tasks, {"test": given}, HARDWARE, batch_size=4)
    for name, side in dense.items():
        loss = torch.nn.functional.nll_loss(side.log_probs.double(), side.targets).item()
        accuracy = accuracy_score(side.targets, side.log_probs.argmax(1))
        expected = {"loss": loss, "perplexity": np.exp(loss), "token_accuracy": accuracy}
        assert utility[name]["test"] == pytest.approx(expected, rel=1e-4)
    first, second = (dense[name].log_probs.double().exp().numpy() for name in ("unlearned", "retrain"))
    distance = jensenshannon(first, second, axis=1) ** 2
    assert forgetting["unlearned"]["test"]["jsd"] == pytest.approx(distance.mean(), rel=1e-3)
    agreement = (first.argmax(1) == second.argmax(1)).mean()
    assert forgetting["unlearned"]["test"]["agreement"] == pytest.approx(agreement)


@pytest.mark.parametrize("chunk", [None, 1])
def test_values_per_example_are_over_its_own_tokens(writers, chunk, monkeypatch):
    if chunk:
        monkeypatch.setattr(kga.predictions, "CHUNK", chunk)
    tasks, given, dense = writers
    _, _, frame = evaluate(tasks, {"test": given}, HARDWARE, batch_size=4)
    for name, side in dense.items():
        rows = frame[frame.model == name].set_index("row").sort_index()
        assert rows.index.tolist() == given.rows.tolist()
        for number in range(13):
            truth = side.truth()[side.example == number]
            assert rows.log_prob[number] == pytest.approx(float(truth.sum()), rel=1e-4)
            assert rows.loss[number] == pytest.approx(-float(truth.mean()), rel=1e-4)
            hits = (side.log_probs.argmax(1) == side.targets)[side.example == number]
            assert rows.correct[number] == pytest.approx(float(hits.float().mean()))
