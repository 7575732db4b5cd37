"""Attacks from the command line: what a run's result says of them, what is shared, what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.cli import KGA, TINY, kga, models, results, run_folder
from sklearn.metrics import roc_auc_score

from kga.data.embedded import load

SMALL = (*TINY, "data.size=200", "forget.size=12", "attack.shadows=2", "attack.bootstrap=100", "data.reserve=0.4")
SCORED = {
    "loss", "confidence", "entropy", "modified_entropy", "reference", "shadow", "shadow_unlearned", "lira_online",
    "lira_offline", "ulira_online", "ulira_offline", "rmia",
}  # fmt: skip
RELEARN = ("attack.relearn.updates=4", "attack.relearn.every=2")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A KGA run with all attacks."""
    output = tmp_path_factory.mktemp("audited")
    outcome = kga(*SMALL, *KGA, *RELEARN, "attack=all", f"output={output}", "evaluation.noise_floor=1")
    assert outcome.code == 0, outcome.errors
    return output, outcome


def test_every_attack_is_reported_for_every_model(everything):
    output, _ = everything
    membership = results(output)["kga"]["membership"]
    assert set(membership) == {"original", "retrain", "unlearned", "noise_floor"}
    for model, figures in membership.items():
        assert set(figures) == SCORED
        for row in figures.values() if model != "noise_floor" else ():
            assert 0 <= row["auc_low"] <= row["auc"] <= row["auc_high"] <= 1
    assert membership["unlearned"]["loss"]["members"] == 12
    assert "privleak" in membership["unlearned"]["loss"] and "privleak" not in membership["retrain"]["loss"]


def test_auc_is_that_of_the_scores_beside_it(everything):
    output, _ = everything
    membership = results(output)["kga"]["membership"]
    table = pd.read_parquet(run_folder(output, "kga") / "examples.parquet")
    for model in ("original", "retrain", "unlearned"):
        rows = table[table["model"] == model]
        for attack in SCORED:
            scored = rows[rows["split"].isin(("forget", "nonmember"))].dropna(subset=f"score_{attack}")
            expected = roc_auc_score(scored["split"] == "forget", scored[f"score_{attack}"])
            assert membership[model][attack]["auc"] == pytest.approx(expected, abs=1e-6)


def test_examples_carry_difficulty_and_memorisation(everything):
    output, _ = everything
    table = pd.read_parquet(run_folder(output, "kga") / "examples.parquet")
    forget = table[table["split"] == "forget"].pivot(index="id", columns="model", values=["loss", "difficulty"])
    for model in ("retrain", "unlearned"):
        np.testing.assert_allclose(forget["difficulty"][model], forget["loss"]["original"])
    memorised = table[table["split"].isin(("forget", "nonmember"))]["memorisation"]
    assert memorised.notna().all() and memorised.std() > 0
    assert "row" not in table and set(table["split"]) == {"forget", "retain", "test", "nonmember"}


def test_no_member_of_the_audit_is_one_of_d_n_or_test(everything):
    output, _ = everything
    folder = run_folder(output, "kga")
    table, splits = pd.read_parquet(folder / "examples.parquet"), pd.read_parquet(folder / "splits.parquet")
    ids = {name: set(part["id"]) for name, part in splits.groupby("split")}
    outside = set(table[table["split"] == "nonmember"]["id"])
    assert outside and outside <= ids["holdout"]
    assert not outside & (ids["new"] | ids["train"] | ids["test"])


def test_probes_report_on_every_model(everything):
    output, _ = everything
    result = results(output)["kga"]
    assert set(result["relearning"]) == set(result["quantised"]) == {"original", "retrain", "unlearned"}
    assert result["relearning"]["unlearned"]["updates"] == [0, 2, 4]
    assert result["seconds"]["attack"] > 0


def test_distances_to_the_retrained_model(everything):
    output, _ = everything
    distances = results(output)["kga"]["distances"]
    assert set(distances) == {"original", "unlearned", "noise_floor"}
    assert distances["original"]["weight_ratio"] == pytest.approx(1)
    assert "weight_l2" not in distances["noise_floor"], "of other initial weights"
    assert all(0 <= row["cka_forget"] <= 1 + 1e-9 for row in distances.values())


def test_what_takes_time_is_told_before_it_starts(everything):
    _, outcome = everything
    lines = " ".join(outcome.out.split())
    assert "2 shadow models, shared by all methods: 0 in the store, 2 to train" in lines
    assert "then 2 requests, one in each, of about" in lines


def test_the_next_method_uses_the_same_shadow_models(everything):
    output, _ = everything
    before = [path.name for path in models(output / "store", "original")]
    outcome = kga(*SMALL, "attack=lira", "attack.lira.unlearned=false", "method=none", f"output={output}")
    assert outcome.code == 0, outcome.errors
    assert [path.name for path in models(output / "store", "original")] == before
    assert "2 in the store, 0 to train" in " ".join(outcome.out.split())
    found = results(output)["none"]["membership"]
    assert found["unlearned"] == {
        name: row | ({"privleak": row["privleak"]}) for name, row in found["original"].items()
    }
    assert set(found["original"]) == {"lira_online", "lira_offline"}


@pytest.mark.parametrize("method", ["sisa", "lcodec", "retrain", "scrub_rewind"])
def test_methods_of_every_kind_unlearn_in_shadow_models(tmp_path, method):
    outcome = kga(*SMALL, f"method={method}", "attack=lira", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    assert {"ulira_online", "ulira_offline"} <= set(results(tmp_path)[method]["membership"]["unlearned"])


def test_a_run_without_attacks_has_none(tmp_path):
    assert kga(*SMALL, "method=none", f"output={tmp_path}").code == 0
    result = results(tmp_path)["none"]
    assert result["membership"] == {} and result["seconds"]["attack"] == 0
    table = pd.read_parquet(run_folder(tmp_path, "none") / "examples.parquet")
    assert not [name for name in table if name.startswith("score_")]


def test_attacks_can_be_combined(tmp_path):
    outcome = kga(*SMALL, "method=none", "attack=[population,rmia]", "reference=none", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    assert not models(tmp_path / "store", "retrained"), "no retrained model is paid for"
    found = results(tmp_path)["none"]["membership"]["original"]
    assert {"loss", "rmia"} <= set(found) and not any("privleak" in row for row in found.values())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("attack.shadows=3", "even number"),
        ("attack.shadows=0", "even number"),
        ("attack.population.signals=[reference] reference=none", "asks for a reference model"),
        ("attack.bootstrap=5", "attack.bootstrap=5"),
        ("+attack.depth=3", "attack.depth"),
        ("attack=lyra", "lira"),
        ("forget.size=4", "needs a forget set of 10 examples or more"),
        ("data.reserve=0.06", "unseen examples"),
    ],
)
def test_what_cannot_be_audited_is_one_line_before_anything_is_trained(tmp_path, wrong, told):
    outcome = kga(*SMALL, "method=none", "attack=population", f"output={tmp_path}", *wrong.split())
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and told in outcome.errors[0]
    assert not models(tmp_path / "store", "original")


def test_more_shadow_models_than_the_disk_holds_are_refused(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 10**4))
    outcome = kga(*SMALL, "method=none", "attack=lira", f"output={tmp_path}")
    assert outcome.code == 2
    assert "attack.shadows=2 needs about" in outcome.errors[0] and "store=DIR" in outcome.errors[0]


def test_the_result_is_strict_json(everything):
    output, _ = everything
    json.loads((run_folder(output, "kga") / "result.json").read_text(), parse_constant=pytest.fail)


WRITES = (
    "data.size=400", "data.reserve=0.5", "model.config.d_model=16", "model.config.encoder_layers=1",
    "model.config.decoder_layers=1", "model.config.encoder_attention_heads=2", "model.config.decoder_attention_heads=2",
    "model.config.encoder_ffn_dim=32", "model.config.decoder_ffn_dim=32", "model.vocab_size=400", "model.max_length=48",
    "optim.epochs=1", "optim.batch_size=16", "evaluation.retain_limit=20", "trainer.accelerator=cpu", "method=none",
    "evaluation.generate.limit=6", "evaluation.generate.beams=1", "attack.shadows=2", "attack.bootstrap=100",
)  # fmt: skip


def test_translators_are_attacked_and_asked_for_the_word(tmp_path):
    outcome = kga("task=translation", *WRITES, "forget=word", "forget.value=[lamp,small,because,girl]", "attack=all",
                  *RELEARN, f"output={tmp_path}")  # fmt: skip
    assert outcome.code == 0, outcome.errors
    result = results(tmp_path)["none"]
    assert {"min_k", "min_k_plus", "zlib"} <= set(result["membership"]["unlearned"])
    assert "word" not in result, "several words have no table of substitutes"
    assert "bleu_to_retrained" in result["forgetting"]["unlearned"]["forget"]


def test_one_word_is_followed_into_what_models_write(tmp_path):
    outcome = kga("task=translation", *WRITES, "forget=word", "forget.value=small", "evaluation.noise_floor=1",
                  f"output={tmp_path}")  # fmt: skip
    assert outcome.code == 0, outcome.errors
    word = results(tmp_path)["none"]["word"]
    assert word["word"] == "small" and word["column"] == "target"
    assert set(word["models"]) == {"original", "retrain", "unlearned", "noise_floor"}
    seen = word["models"]["original"]["forget"]
    assert 0 < seen["probability"] < 1 and seen["rank"] >= 1 and seen["occurrences"] > 0
    assert set(word["substitutes"]) == {"retrain", "unlearned"}


def test_a_signal_that_the_task_lacks_is_refused(tmp_path):
    wrong = "attack.population.signals=[loss,min_k]"
    outcome = kga(*SMALL, "method=none", "attack=population", wrong, f"output={tmp_path}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and "min_k" in outcome.errors[0] and "writes text" in outcome.errors[0]
    assert not models(tmp_path / "store", "original")


def test_an_unknown_word_is_one_line_with_near_ones(tmp_path):
    outcome = kga(*SMALL, "method=none", "forget=word", "forget.value=lighthing", f"output={tmp_path}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and "lighthing" in outcome.errors[0]


def test_a_given_model_is_attacked_with_shadow_models_of_its_architecture(everything, tmp_path):
    output, _ = everything
    rows = load("classification", size=100).validation.select(range(60))
    unseen = tmp_path / "unseen.jsonl"
    unseen.write_text("".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows))
    given = (f"original.path={run_folder(output, 'kga') / 'model'}", f"new.path={unseen}", "reference=none")
    outcome = kga(*SMALL, *given, "method=none", "attack=[population,lira]", f"output={tmp_path / 'out'}")
    assert outcome.code == 0, outcome.errors
    assert {"loss", "lira_online"} <= set(results(tmp_path / "out")["none"]["membership"]["unlearned"])
    assert len(models(tmp_path / "out" / "store", "original")) == 2, "the two shadow models"


def test_a_given_model_without_unseen_examples_cannot_be_attacked(everything, tmp_path):
    output, _ = everything
    given = f"original.path={run_folder(output, 'kga') / 'model'}"
    outcome = kga(*SMALL, given, "method=none", "reference=none", "attack=population", f"output={tmp_path}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and "new.path" in outcome.errors[0]


def test_only_what_compares_with_a_population_computes_signals_of_one(tmp_path):
    outcome = kga(*SMALL, "method=none", "attack=lira", "attack.lira.unlearned=false", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    assert len(list((tmp_path / "store").glob("signals/*/manifest.json"))) == 2, "of the audited, for two shadow models"
