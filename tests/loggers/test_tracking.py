"""What loggers get of a run: its place in a sweep, the curves while it unlearns, the result; and what they never get."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import wandb
from helpers import offline
from helpers.cli import FORGET, KGA, TINY, Outcome, kga, run_folder, write_folder
from helpers.fake_runs import fake_result, write_run
from helpers.offline import of

from kga.data.embedded import load
from kga.loggers import wandb_logger
from kga.loggers.wandb_logger import HIDDEN
from kga.report.gather import gather

OFFLINE = {"WANDB_MODE": "offline"}


def records(folder: Path) -> list[dict]:
    """The records of the one W&B run that lies in a folder."""
    (part,) = offline.folders(folder)
    return offline.records(part)


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def sweep(output) -> Outcome:
    """Two alphas with W&B, and an attack."""
    swept = ("method.alpha=0.5,1", "data.size=200", "forget.size=12", "attack=population", "evaluation.watch=1")
    outcome = kga("-m", *TINY, *KGA, *swept, f"output={output}", "logger=[wandb,csv]", **OFFLINE)
    assert outcome.code == 0, outcome.errors
    return outcome


@pytest.fixture(scope="module")
def run(sweep, output) -> tuple[Path, list[dict]]:
    """The folder of one of its runs, and what W&B has of it."""
    folder = sorted(output.glob("runs/*/"))[0]
    return folder, records(folder)


def test_a_run_has_its_name_group_type_and_config(run, output):
    folder, found = run
    (described,) = of(found, "run")
    result = json.loads((folder / "result.json").read_text())
    (name,) = (path.name for path in output.glob("sweeps/*/"))
    assert described["run_id"] == result["key"][:16]
    assert described["run_group"] == name and described["job_type"] == "kga"
    assert set(described["tags"]) >= {"classification", "embedded", "forget=random"}
    assert described["config"]["update"]["method"]["alpha"] == result["config"]["method"]["alpha"]


def test_metrics_are_defined_exactly_with_extremes(run):
    defined = {metric["name"]: metric for metric in of(run[1], "metric")}
    for name in ("a", "g", "retain", "utility_validation", "utility_forget"):
        metric = defined[f"unlearn/{name}"]
        assert metric["step_metric"] == "trainer/global_step"
        assert metric["summary"]["min"] and metric["summary"]["max"]
    assert "unlearn/sign" in defined and "*" not in defined


def test_every_update_and_look_arrives(run):
    history = [record["item"] for record in of(run[1], "history")]
    updates = pd.read_csv(run[0] / "updates.csv")
    found = {item["trainer/global_step"]: item for item in history if "unlearn/a" in item}
    assert list(found) == updates["update"].tolist() == [1, 2, 3]
    for name in ("a", "g", "sign", "retain", "loss"):
        assert [item[f"unlearn/{name}"] for item in found.values()] == pytest.approx(updates[name].tolist())
    looks = [item["trainer/global_step"] for item in history if "unlearn/utility_forget" in item]
    assert looks == [0, 1, 2, 3]


def test_the_result_arrives_as_numbers_table_and_curves(run):
    folder, found = run
    summary: dict = {}
    for record in of(found, "summary"):
        summary |= record["update"]
    result = json.loads((folder / "result.json").read_text())
    assert summary["score/unlearned/tow"] == pytest.approx(result["score"]["unlearned"]["tow"])
    assert summary["membership/unlearned/loss/auc"] == pytest.approx(result["membership"]["unlearned"]["loss"]["auc"])
    assert summary["status"] == "completed"
    (path,) = folder.glob("wandb/offline-run-*/files/media/table/comparison_*.table.json")
    table = json.loads(path.read_text())
    assert [row[0] for row in table["data"]] == ["retrained (A_R)", "original (A_D)", "unlearned (kga)"]
    assert list(folder.glob("wandb/offline-run-*/files/media/table/roc/loss_table_*.json"))


def test_the_sweep_has_a_run_of_its_own(sweep, output):
    (folder,) = output.glob("sweeps/*/")
    found = records(folder)
    (described,) = of(found, "run")
    assert (described["run_id"], described["run_group"], described["job_type"]) == (folder.name, folder.name, "sweep")
    assert {"runs": 2, "completed": 2, "failed": 0} in [record["update"] for record in of(found, "summary")]
    (path,) = folder.glob("wandb/offline-run-*/files/media/table/sweep/tug of war over method.alpha_*.table.json")
    results = [json.loads(path.read_text()) for path in output.glob("runs/*/result.json")]
    scores = {result["config"]["method"]["alpha"]: result["score"]["unlearned"]["tow"] for result in results}
    table = json.loads(path.read_text())
    drawn = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert {row["step"]: row["lineVal"] for row in drawn} == pytest.approx(scores)
    assert {row["lineKey"] for row in drawn} == {"kga"}


def test_what_the_requests_of_a_sweep_name_stays_here(tmp_path):
    """Names with commas and brackets, which the report writes as they are."""
    names = ["Smith, John [2]", "Doe, Jane"]
    for number, name in enumerate(names):
        result = fake_result(method="npo", seed=0)
        config = result["config"] | {"forget": {"name": "group", "value": name, "size": None}}
        write_run(tmp_path / str(number), result | {"config": config, "key": str(number) * 64})
    collected = gather([tmp_path])
    assert {line["setting"] for table in collected.tables for line in table.lines} == {
        f"forget.value={name}" for name in names
    }
    logger = wandb_logger.RunLogger(save_dir=str(tmp_path), mode="offline")
    logger.summarise("some", collected, tmp_path / "sweeps" / "some")
    files = [path for path in (tmp_path / "sweeps").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if any(part in path.read_bytes() for part in (b"Smith", b"John", b"Jane"))]
    (summary, *_) = [
        update for update in of(records(tmp_path / "sweeps" / "some"), "summary") if "runs" in update["update"]
    ]
    assert summary["update"]["runs"] == summary["update"]["completed"] == 2


def test_how_to_upload_is_said_once(sweep, output):
    assert sweep.out.count("wandb sync") == 1
    assert f"wandb sync {output}/*/*/wandb/offline-run-*" in sweep.out.replace("\n", "")


def test_forgotten_texts_stay_here(tmp_path):
    """Marked texts of a user's own are in no file that W&B has, console output included."""
    rows = [
        {"text": f"private{i:03} {row['text']}", "label": row["label"]}
        for i, row in enumerate(load("classification", size=100).train)
    ]
    data = write_folder(tmp_path / "data", rows)
    own = [part for part in TINY if not part.startswith("data.")]
    outcome = kga(*own, FORGET, *KGA, "data=folder", f"data.path={data}", f"output={tmp_path}", "logger=wandb",
                  "logger.wandb.texts=true", **OFFLINE)  # fmt: skip
    assert outcome.code == 0, outcome.errors
    files = [path for path in run_folder(tmp_path, "kga").rglob("wandb/**/*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if b"private0" in path.read_bytes()]


def test_what_a_request_names_stays_here(tmp_path):
    """A word that is forgotten, and one that no example has: W&B has neither, from wherever it might."""
    rows = [
        {"text": f"{'zebrine ' * (i % 3 == 0)}{row['text']}", "label": row["label"]}
        for i, row in enumerate(load("classification", size=100).train)
    ]
    own = [part for part in TINY if not part.startswith("data.")]
    data = ("data=folder", f"data.path={write_folder(tmp_path / 'data', rows)}", "reference=none", "new.size=2")
    for value, code in (("zebrine", 0), ("janedoe", 2)):
        outcome = kga(*own, *data, "forget=word", f"forget.value={value}", "method=none", f"output={tmp_path}",
                      "logger=wandb", **OFFLINE)  # fmt: skip
        assert outcome.code == code, outcome.errors
    files = [path for path in tmp_path.glob("runs/*/wandb/**/*") if path.is_file()]
    assert len(files) > 6
    assert not [path for path in files if b"janedoe" in path.read_bytes() or b"zebrine" in path.read_bytes()]
    read = [records(folder) for folder in tmp_path.glob("runs/*/")]
    assert [run["config"]["update"]["forget"]["value"] for found in read for run in of(found, "run")] == [HIDDEN] * 2


@pytest.fixture
def afresh() -> Iterator[None]:
    """W&B keeps what it read of the environment for the time of a process."""
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("logger.wandb.mode=ofline", "logger.wandb.mode=ofline is unknown: did you mean offline"),
        ("logger.wandb.project=a/b", "logger.wandb.*: W&B does not take these settings"),
        ("WANDB_API_KEY=secretshort", "logger=wandb: the key is none"),
    ],
)
def test_settings_that_wandb_refuses_are_mistakes(setting, said, tmp_path, monkeypatch, afresh):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    own, environment = ((), dict([setting.split("=")])) if setting.startswith("WANDB") else ((setting,), {})
    outcome = kga(*TINY, FORGET, "method=none", "logger=wandb", *own, f"output={tmp_path}", **environment)
    assert outcome.code == 2 and len(outcome.errors) == 1 and said in outcome.errors[0], outcome.errors
    assert "secretshort" not in outcome.out + outcome.errors[0]
    assert not list(tmp_path.glob("store/original/*"))


def test_a_logger_without_its_package_is_a_mistake(tmp_path, monkeypatch):
    from pytorch_lightning.loggers import tensorboard

    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'", name="tensorboard")

    monkeypatch.setattr(tensorboard.TensorBoardLogger, "__init__", missing)
    outcome = kga(*TINY, FORGET, "method=none", "logger=tensorboard", f"output={tmp_path}")
    assert outcome.code == 2
    assert outcome.errors == ["kga: logger=tensorboard: its package is missing: pip install tensorboard"]


def test_a_logger_that_breaks_costs_no_run(tmp_path, monkeypatch):
    """A switched-off one has no folder to name, and one that cannot end is told of."""
    off = kga(*TINY, FORGET, "method=none", "logger=wandb", "logger.wandb.mode=disabled", f"output={tmp_path}")
    assert off.code == 0, off.errors
    assert "wandb sync" not in off.out
    finish = wandb_logger.finish
    monkeypatch.setattr(wandb_logger, "finish", lambda *given, **named: finish(*given, **named) or 1 / 0)
    broken = kga(*TINY, FORGET, "method=none", "seed=1", "logger=wandb", f"output={tmp_path}", **OFFLINE)
    assert broken.code == 0 and "RunLogger did not end well (ZeroDivisionError" in broken.out, broken.errors
    assert all(json.loads(path.read_text())["status"] == "completed" for path in tmp_path.glob("runs/*/result.json"))


def test_a_failed_run_ends_as_failed(tmp_path):
    outcome = kga(*TINY, "method=none", "forget.size=500", f"output={tmp_path}", "logger=wandb", **OFFLINE)
    assert outcome.code == 2
    found = records(run_folder(tmp_path, "none"))
    updates = [record["update"] for record in of(found, "summary")]
    assert any(
        update.get("status") == "failed" and "nothing would be retained" in update["error"] for update in updates
    )
    assert [record["exit_code"] for record in of(found, "exit")] == [1]


def test_being_watched_changes_no_weight(tmp_path):
    weights = []
    for name, more in (("a", ("logger=none",)), ("b", ("logger=csv", "evaluation.watch=1"))):
        outcome = kga(*TINY, FORGET, *KGA, "model.config.dropout=0.3", *more, f"output={tmp_path / name}")
        assert outcome.code == 0, outcome.errors
        folder = run_folder(tmp_path / name, "kga")
        weights.append((folder.name, (folder / "model/model.safetensors").read_bytes()))
    assert weights[0] == weights[1]


def test_tensorboard_gets_the_result_beside_the_config(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert kga(*TINY, FORGET, "method=none", f"output={tmp_path}", "logger=tensorboard").code == 0
    folder = run_folder(tmp_path, "none")
    files = list(folder.rglob("events.out.tfevents.*"))
    tags = set()
    for path in files:
        events = EventAccumulator(str(path))
        events.Reload()
        tags |= set(events.Tags()["scalars"])
    assert "score/unlearned/tow" in tags
