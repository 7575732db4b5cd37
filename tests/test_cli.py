"""Whole commands: what they write, what they share, what they leave out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.cli import FORGET, KGA, MOVES, TINY, Outcome, apart, kga, models, results, run_folder, write_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kga.data.embedded import load

RESULT_KEYS = {
    "schema", "status", "error", "task", "data", "model", "method", "seed", "config", "key", "splits", "utility",
    "forgetting", "score", "membership", "seconds", "cost", "environment",
}  # fmt: skip
METHODS = {
    "none": (),
    "retrain": (),
    "finetune": MOVES,
    "gradient_difference": MOVES,
    "kga_paper": KGA,
    "kga_released": KGA,
}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """Where the studies of this module lie; they share one store."""
    return tmp_path_factory.mktemp("cli") / "outputs"


@pytest.fixture(scope="module")
def study(output) -> Outcome:
    """KGA on embedded data, with a noise floor."""
    return kga(*TINY, FORGET, *KGA, "evaluation.noise_floor=1", f"output={output}")


@pytest.fixture(scope="module")
def folder(study, output) -> Path:
    assert study.code == 0, study.errors
    return run_folder(output, "kga")


def test_help_and_config_errors_are_quick_and_import_no_torch():
    script = "import sys; from kga.cli import main\ntry:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    for argument in ("--help", "methd=kga"):
        started = os.times()
        done = subprocess.run([sys.executable, "-c", script, argument], capture_output=True, text=True, timeout=60)
        assert done.stdout.strip().endswith("False"), argument
        ended = os.times()  # of the processor, as other work on the machine is no fault of ours
        spent = ended.children_user + ended.children_system - started.children_user - started.children_system
        assert spent < 2, argument
        assert done.returncode == (0 if argument == "--help" else 2)


@pytest.mark.parametrize("sweeping", ["launcher=local", "hparams=kga"])
def test_what_is_for_sweeps_is_refused_without_m(sweeping, tmp_path):
    """Else the run would be made here, and with it nothing of what was asked for."""
    outcome = kga(*TINY, sweeping, f"output={tmp_path / 'out'}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and f"add -m, as in kga -m {sweeping}" in outcome.errors[0]
    assert not list(tmp_path.glob("out/runs/*"))


@pytest.mark.parametrize("sweep", [(), ("-m", "forget=easy,hard")])
def test_a_key_of_another_choice_is_named_with_that_choice(sweep, tmp_path):
    """In a sweep over the group the command composes without any of its choices: ++ gives the key to all."""
    outcome = kga(*sweep, *TINY, "forget.by=memorisation", f"output={tmp_path}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1
    assert "only with forget=easy or forget=hard" in outcome.errors[0] and "++forget.by=" in outcome.errors[0]


def test_result_is_strict_json_with_all_keys(folder):
    result = json.loads((folder / "result.json").read_text(), parse_constant=refuse)
    assert result.keys() >= RESULT_KEYS
    assert (result["schema"], result["status"], result["error"]) == (1, "completed", None)
    assert folder.name == f"classification-kga-{result['key'][:12]}"
    assert result["utility"].keys() == {"original", "retrain", "unlearned", "noise_floor"}
    for splits in result["utility"].values():
        assert splits.keys() == {"test", "forget", "retain"}
        assert splits["test"].keys() >= {"accuracy", "macro_f1", "loss"}
    for name in ("unlearned", "original", "noise_floor"):
        assert result["forgetting"][name]["forget"].keys() >= {"jsd", "lpd", "pdlp"}
        assert 0 <= result["score"][name]["tow"] <= 1
    assert result["forgetting"]["unlearned"]["forget"].keys() >= {"jsd_original", "lpd_original", "pdlp_original"}
    assert result["seconds"].keys() == {"original", "retrain", "helpers", "cache", "unlearn", "evaluate", "attack"}
    assert result["cost"].keys() == {"one_off_seconds", "request_seconds", "peak_memory_bytes", "stored_bytes"}
    assert result["splits"]["forget"] == 5 and result["splits"]["new"] == 5
    assert result["splits"]["train"] == result["splits"]["forget"] + result["splits"]["retain"]


def test_noise_floor_is_a_further_retrained_model(folder, output):
    assert len(models(output / "store", "retrained")) == 2
    forgetting = json.loads((folder / "result.json").read_text())["forgetting"]
    assert forgetting["noise_floor"]["forget"]["jsd"] > 0


def test_examples_name_ids_and_no_texts(folder):
    table = pd.read_parquet(folder / "examples.parquet")
    assert list(table.columns) == ["id", "model", "split", "loss", "log_prob", "correct", "confidence", "difficulty"]
    splits = pd.read_parquet(folder / "splits.parquet")
    forgotten = set(splits[splits["split"] == "forget"]["id"])
    assert set(table[table["split"] == "forget"]["id"]) == forgotten
    assert set(splits["split"]) >= {"train", "forget", "retain", "new", "holdout", "validation", "test"}
    texts = set(load("classification", size=100).train["text"])
    for frame in (table, splits):
        assert not any(texts & set(frame[name].astype(str)) for name in frame.columns)


def test_model_folder_loads_with_its_tokenizer(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    with torch.no_grad():
        logits = model(**tokenizer(["a pothole in the road"], return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.shape == (1, len(model.config.id2label)) and torch.isfinite(logits).all()


def test_same_command_again_trains_nothing_and_imports_no_torch(folder, output):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    script = "import sys; from kga.cli import main; main(); print('torch imported:', 'torch' in sys.modules)"
    arguments = [*TINY, FORGET, *KGA, "evaluation.noise_floor=1", f"output={output}"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("torch imported: False")
    assert "unlearned (kga)" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


@pytest.mark.parametrize("method", METHODS)
def test_every_method_completes_and_reuses_the_original(method, folder, output):
    outcome = kga(*TINY, FORGET, *METHODS[method], f"method={method}", f"output={output}")
    assert outcome.code == 0, outcome.errors
    result = results(output)[method]
    assert result["status"] == "completed"
    assert len(models(output / "store", "original")) == 1
    same = (run_folder(output, method) / "model/model.safetensors").read_bytes() == (
        models(output / "store", "original")[0] / "model.safetensors"
    ).read_bytes()
    assert same == (method == "none")
    if method == "retrain":
        assert result["score"]["unlearned"]["tow"] == 1


def test_without_reference_nothing_is_retrained(tmp_path):
    assert kga(*TINY, FORGET, "method=none", "reference=none", f"output={tmp_path}").code == 0
    result = results(tmp_path)["none"]
    assert result["score"] == {} and result["forgetting"] == {}
    assert result["utility"].keys() == {"original", "unlearned"}
    assert models(tmp_path / "store", "retrained") == []


def test_sweep_shares_one_original_per_seed(output, folder):
    swept = (*TINY, FORGET, "reference=none", f"output={output}/sweep")
    outcome = kga("-m", *swept, "method=none,retrain", "seed=0,1")
    assert outcome.code == 0, outcome.errors
    assert len(list(output.glob("sweep/runs/*/result.json"))) == 4
    assert len(models(output / "sweep/store", "original")) == 2


def test_failing_run_of_a_sweep_stops_no_other(tmp_path):
    outcome = kga("-m", *TINY, "method=none", "reference=none", "forget.size=5,500", f"output={tmp_path}")
    assert outcome.code == 2
    assert len([line for line in outcome.errors if line.startswith("kga:")]) == 1
    statuses = [json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/*/result.json")]
    assert sorted(statuses) == ["completed", "failed"]


def test_requests_by_group_label_and_ids(tmp_path):
    corpus = load("classification", size=100)
    result = kga(*TINY, FORGET, "method=none", "reference=none", f"output={tmp_path}/a")
    train = pd.read_parquet(run_folder(tmp_path / "a", "none") / "splits.parquet").query("split == 'train'")["id"]
    rows = {row["id"]: row for row in corpus.train}
    chosen = list(train[:4])
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps({"id": name}) + "\n" for name in chosen))
    label = rows[chosen[0]]["label"]
    requests = {
        "ids": (f"forget.path={tmp_path}/ids.jsonl",),
        "group": (f"forget.value='{rows[chosen[0]]['group']}'",),
        "label": (f"forget.value='{label}'", "new.size=1"),
    }
    for kind, arguments in requests.items():
        place = tmp_path / kind
        result = kga(*TINY, "method=none", "reference=none", f"forget={kind}", *arguments, f"output={place}")
        assert result.code == 0, (kind, result.errors)
        table = pd.read_parquet(run_folder(place, "none") / "splits.parquet")
        forgotten = set(table[table["split"] == "forget"]["id"])
        expected = {
            "ids": set(chosen),
            "group": {name for name in train if rows[name]["group"] == rows[chosen[0]]["group"]},
            "label": {name for name in train if rows[name]["label"] == label},
        }[kind]
        assert forgotten == expected, kind


def messages(size: int, first: int = 0, multi_label: bool = False) -> list[dict]:
    words = ("cats", "dogs", "birds")
    rows = []
    for number in range(first, first + size):
        names = [word for bit, word in enumerate(words) if (number % 7 + 1) >> bit & 1]
        label = names if multi_label else words[number % 3]
        text = f"message {number} about {' and '.join(names) if multi_label else label}"
        rows.append({"id": f"m{number}", "text": text, "label": label})
    return rows


def test_multi_label_folder_and_its_texts_stay_hidden(tmp_path):
    data = write_folder(
        tmp_path / "zoo", messages(90, 0, True), validation=messages(20, 90, True), test=messages(20, 110, True)
    )
    own = [item for item in TINY if not item.startswith("data.size")]
    arguments = (*own, FORGET, *MOVES, "method=finetune", "data=folder", f"data.path={data}", f"output={tmp_path}/out")
    outcome = kga(*arguments)
    assert outcome.code == 0, outcome.errors
    result = results(tmp_path / "out")["finetune"]
    assert result["data"] == "zoo"
    assert result["utility"]["unlearned"]["test"].keys() >= {"micro_f1", "macro_f1", "loss"}
    assert "validation" not in result["utility"]["unlearned"]
    folder = run_folder(tmp_path / "out", "finetune")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert model.config.problem_type == "multi_label_classification" and len(model.config.id2label) == 3
    assert "about cats" not in (folder / "report.html").read_text()
    assert kga(*arguments, "report.texts=true").code == 0
    assert "about cats" in (folder / "report.html").read_text() or "about dogs" in (folder / "report.html").read_text()


def test_texts_of_embedded_data_can_be_hidden(folder, output):
    page = (folder / "report.html").read_text()
    forgotten = pd.read_parquet(folder / "examples.parquet").query("split == 'forget'")["id"]
    texts = [row["text"] for row in load("classification", size=100).train if row["id"] in set(forgotten)]
    starts = [text[:12] for text in texts]
    assert any(start in page for start in starts)
    assert kga(*TINY, FORGET, *KGA, "evaluation.noise_floor=1", f"output={output}", "report.texts=false").code == 0
    page = (folder / "report.html").read_text()
    assert not any(text[:20] in page for text in texts)


def test_own_model_with_new_examples(tmp_path, output, folder):
    """original.path starts from a model folder and takes D_n from new.path."""
    given = models(output / "store", "original")[0]
    rows = load("classification", size=101).test.select(range(30))
    unseen = [{"id": f"n{i}", "text": f"{row['text']} {i}", "label": row["label"]} for i, row in enumerate(rows)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in unseen))
    arguments = (*TINY, FORGET, "reference=none", f"original.path={given}", f"output={tmp_path}/out")
    refused = kga(*arguments, *KGA)
    assert refused.code == 2 and len(refused.errors) == 1 and "new.path" in refused.errors[0]
    outcome = kga(*arguments, *KGA, f"new.path={tmp_path}/new.jsonl")
    assert outcome.code == 0, outcome.errors
    found = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*/result.json")]
    (result,) = [result for result in found if result["status"] == "completed"]
    assert result["splits"]["new"] == 5 and result["splits"]["holdout"] == 25
    assert result["splits"]["train"] == 100 and result["splits"]["test"] == 2000
    assert models(tmp_path / "out/store", "original") == []


def test_own_command_works_from_any_folder(tmp_path):
    """`python -m kga` where no config lies."""
    outcome = apart("--cfg", "job", folder=tmp_path)
    assert outcome.code == 0 and "_target_: kga.methods.kga.KGA" in outcome.out
    assert list(tmp_path.iterdir()) == []
