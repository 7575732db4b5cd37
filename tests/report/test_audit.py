"""The sections of report.html that an audit fills."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.fake_runs import AUCS, audited_examples, audited_run, fake_audit, fake_result, fake_word, write_run

from kga.report import figures
from kga.report.run import write_run_report

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
PARTS = (
    "Membership inference",
    "Relearning",
    "Quantised weights",
    "Distances inside",
    "The word",
    "What took its place",
)


def words(path: Path) -> str:
    """The text of a page, on one line."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).replace("\N{EN DASH}", "-").split())


def test_an_audited_run_shows_every_part(tmp_path):
    path = write_run_report(audited_run(tmp_path))
    text = words(path)
    assert [part for part in PARTS if part not in text] == []
    assert path.read_text().count("<svg") == 4 + 3 + 4 + 1  # updates, histograms, ROC, relearning
    assert "Each attack scores 200 forgotten examples and 200 that no model saw" in text
    assert "The value to reach is the retrained model's, not 0.5" in text


def test_aucs_stand_by_group_with_intervals_and_marks(tmp_path):
    text = words(write_run_report(audited_run(tmp_path)))
    assert "per example lira_online 0.540 0.520 0.47-0.57 0.950 0.90-1.00 ▲ 0.710 0.66-0.76" in text
    assert "ulira_online 0.530 0.510 0.46-0.56 0.880 0.83-0.93 ▼ 0.380" in text
    assert "population loss 0.510 0.520 0.47-0.57 0.830 0.78-0.88 0.550 0.50-0.60" in text, "within: no mark"


def test_only_figures_that_there_are_have_columns(tmp_path):
    text = words(write_run_report(audited_run(tmp_path)))
    assert "attack advantage two-sided AUC TPR at 10 % FPR PrivLeak % retain AUC loss 0.070 0.028" in text
    assert "TPR at 1 % FPR" not in text
    assert "tpr_at_fpr_0.1 0." in text, "all figures stand behind a fold"


def test_relearning_is_told_beside_the_retrained_model(tmp_path):
    text = words(write_run_report(audited_run(tmp_path)))
    assert "fine-tuned on 100 of the forgotten examples, while the rest of the forget set was watched" in text
    assert "retrained (A_R) 36.8 44.9 +8.1 0.0 &gt; 20 75.0 74.8" in text
    assert "unlearned 40.7 74.1 +33.4 +25.3 15 75.0 74.8" in text
    related = {name: values | {"on": "related"} for name, values in fake_audit()["relearning"].items()}
    text = words(write_run_report(audited_run(tmp_path / "related", relearning=related)))
    assert "on 100 unseen examples like the forgotten ones, while the forget set was watched" in text


def test_quantised_weights_stand_beside_unquantised_ones(tmp_path):
    config = {"attack": {"quantised": {"bits": 4}}}
    audit = fake_audit()
    audit["quantised"]["unlearned"]["forget"]["accuracy"] = 0.911
    text = words(write_run_report(audited_run(tmp_path, config=config, quantised=audit["quantised"])))
    assert "unlearned 91.1 73.8 73.0 99.0 99.0 74.1 74.1" in text and "weights rounded to 4 bits" in text


def test_distances_have_the_retrained_model_as_reference_and_skip_what_is_null(tmp_path):
    distances = {"original": {"cka_forget": 0.8, "cka_test": None, "weight_l2": None}, "unlearned": {"cka_forget": 0.9}}
    text = words(write_run_report(audited_run(tmp_path, distances=distances)))
    part = text.split("Distances inside the model")[1].split("To the retrained")[0]
    assert part.split() == [
        "model",
        "CKA",
        "on",
        "forget",
        "retrained",
        "(A_R)",
        "1.0000",
        "original",
        "(A_D)",
        "0.8000",
        "unlearned",
        "0.9000",
    ]


def test_a_word_is_told_by_model_and_what_took_its_place(tmp_path):
    folder = audited_run(tmp_path, task="translation")
    text = words(write_run_report(folder))
    assert "unlearned 0.100 7.5 2.0 % 0.080 7.5 1.6 %" in text
    assert "212 seen and 40 unseen occurrences" in text
    assert "retrained (A_R) bike 140 forget-1 motorcycle 21 forget-2" in text and "Fahrrad" not in text
    assert "bike 140 forget-1 Ein Fahrrad" in words(write_run_report(folder, {"forget-1": "Ein Fahrrad"}))


def test_single_examples_gain_columns(tmp_path):
    folder = audited_run(tmp_path)
    text = words(write_run_report(folder))
    head = "example change original (difficulty) unlearned retrained memorisation lira_online score forget-"
    assert head in text and "loss. Memorisation: mean loss of shadow models" in text and "that did. The score" in text
    examples = pd.read_parquet(folder / "examples.parquet")
    examples["difficulty"] += 1
    examples.drop(columns="memorisation").to_parquet(folder / "examples.parquet")
    text = words(write_run_report(folder))
    assert "example change original unlearned retrained difficulty lira_online score" in text
    first = examples[(examples["split"] == "forget")].pivot_table(index="id", columns="model", values="loss")
    most = (first["unlearned"] - first["original"]).idxmax()
    score = examples.query("model == 'unlearned' and id == @most")["score_lira_online"].item()
    assert f"{score:.4f}" in text.split(most)[1].split("forget-")[0]


def test_nothing_is_shown_of_what_is_absent(tmp_path):
    text = words(write_run_report(write_run(tmp_path, fake_result(), audited_examples())))
    assert [part for part in PARTS if part in text] == []
    assert " score" not in text


@pytest.mark.parametrize("part", ["membership", "relearning", "quantised", "distances", "word"])
@pytest.mark.parametrize("empty", [None, {}])
def test_parts_come_and_go_alone(tmp_path, part, empty):
    titles = dict(zip(("membership", "relearning", "quantised", "distances", "word"), PARTS, strict=False))
    text = words(write_run_report(write_run(tmp_path, fake_result() | fake_audit() | {part: empty})))
    assert [name for name, title in titles.items() if title not in text] == [part]


def test_without_reference_no_value_is_to_be_reached(tmp_path):
    audit = fake_audit()
    for name in ("membership", "relearning", "quantised"):
        del audit[name]["retrain"]
    for values in audit["membership"]["unlearned"].values():
        del values["privleak"]
    for values in audit["relearning"].values():
        del values["recovered_minus_retrain"]
    text = words(write_run_report(write_run(tmp_path, fake_result() | audit | {"distances": {}})))
    assert "there is none here" in text and "▲" not in text and "PrivLeak" not in text


def test_results_of_before_still_work(tmp_path):
    old = {
        model: {"population": {"auc": 0.5, "tpr_at_fpr_0.01": 0.01}} for model in ("original", "retrain", "unlearned")
    }
    text = words(write_run_report(write_run(tmp_path, fake_result(membership=old))))
    assert "other population 0.500 0.500 0.500" in text and "TPR at 1 % FPR" in text


def test_values_that_were_not_finite_are_dashes(tmp_path):
    audit = fake_audit()
    audit["membership"]["unlearned"]["loss"]["privleak"] = None
    for name in ("rest_loss", "rest_utility"):
        audit["relearning"]["unlearned"][name][-1] = None
    audit["relearning"]["unlearned"]["recovered"] = audit["word"]["models"]["unlearned"]["forget"]["rank"] = None
    text = words(write_run_report(write_run(tmp_path, fake_result() | audit)))
    assert "unlearned 40.7 - - +25.3" in text and "unlearned 0.100 - 2.0 %" in text


def test_everything_from_data_is_escaped(tmp_path):
    audit = fake_audit()
    for values in audit["membership"].values():
        values[ATTACK] = values.pop("rmia")
    audit["word"] |= {"word": ATTACK, "column": ATTACK, "substitutes": {"unlearned": [[ATTACK, 3, ATTACK]]}}
    folder = audited_run(tmp_path, **audit)
    examples = pd.read_parquet(folder / "examples.parquet").rename(columns={"score_rmia": f"score_{ATTACK}"})
    examples.drop(columns=["score_loss", "score_lira_online", "score_lira_offline", "score_ulira_online"]).to_parquet(
        folder / "examples.parquet"
    )
    source = write_run_report(folder, {ATTACK: ATTACK}).read_text(encoding="utf-8")
    assert "<script" not in source and "<img" not in source and source.count("alert(1)") > 10


def test_forgetting_has_no_excess_of_p_values_and_counts(tmp_path):
    text = words(write_run_report(audited_run(tmp_path)))
    assert "forget ks_p 0.0010 1e-09 1e-06 -" in text and "forget ks_n 200 200 200 -" in text
    assert (
        "forget ks 0.1000 0.3000 0.2000 0.1000" in text
        and "forget exact_agreement 0.8000 0.7000 0.7500 -0.0500" in text
    )


# Figures -------------------------------------------------------------------------------------------------------------


def test_corners_are_what_steps_show_from_one_example_on():
    """Non-members at .9, .5, .1 and members at 1, .7, .6, .3: true positives after each false one."""
    false, true = figures._corners(
        np.array([0, 0, 1, 1, 1, 2, 2, 3]) / 3, np.array([0, 1, 1, 2, 3, 3, 4, 4]) / 4, least=1 / 3
    )
    assert false.tolist() == [1 / 3, 2 / 3, 1.0] and true.tolist() == [0.75, 1.0, 1.0]


def test_roc_curves_leave_out_models_without_scores():
    examples = audited_examples(20)
    examples.loc[examples["model"] == "retrain", "score_loss"] = np.nan
    drawn = figures.roc_curves(examples, "score_loss", "loss")
    assert drawn.count("var(--retrain)") == 0 and "var(--unlearned)" in drawn and ">retrained<" not in drawn
    assert figures.roc_curves(examples.assign(score_loss=np.nan), "score_loss", "loss") is None


@pytest.mark.filterwarnings("error")
def test_roc_curves_survive_extreme_scores():
    examples = audited_examples(5)
    for value in (np.inf, -np.inf, 0.0):
        assert "<svg" in figures.roc_curves(examples.assign(score_loss=value), "score_loss", "loss")


def test_made_up_scores_have_about_the_made_up_aucs():
    """So that the pictures of made-up runs can be looked at."""
    examples = audited_examples(2000).query("model == 'unlearned'")
    scores = {
        split: examples.loc[examples["split"] == split, "score_lira_online"].to_numpy()
        for split in ("forget", "nonmember")
    }
    found = (scores["forget"][:, None] > scores["nonmember"]).mean()
    assert found == pytest.approx(AUCS["lira_online"][2], abs=0.02)


def test_a_word_without_generated_texts_or_unseen_examples(tmp_path):
    word = fake_word()
    for values in word["models"].values():
        del values["nonmember"]
        values["forget"]["rate"] = None
    text = words(write_run_report(write_run(tmp_path, fake_result() | {"word": word | {"substitutes": {}}})))
    assert "model probability, seen rank, seen rate, seen noise floor" in text and "0.100 7.5 - " in text
    assert "What took its place" not in text
