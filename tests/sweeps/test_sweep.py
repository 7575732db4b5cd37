"""Sweeps: what is found before they start, their record and report, what fails, what is started again."""

import json
import re
import time
from pathlib import Path

import pytest
from helpers.cli import FORGET, KGA, TINY, Outcome, kga, models, start

from kga.sweeps.sweep import _decides

SWEPT = (*TINY, FORGET, *KGA, "method.alpha=0.5,1", "seed=0,1", "evaluation.generate.limit=0")


def record(output: Path) -> dict:
    """The record of the one sweep below an output folder."""
    (path,) = output.glob("sweeps/*/sweep.json")
    return json.loads(path.read_text())


def told(outcome: Outcome, start: str) -> str:
    """The one line of the output that starts so."""
    (line,) = [line for line in outcome.out.splitlines() if line.startswith(start)]
    return line


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def sweep(output) -> Outcome:
    outcome = kga("-m", *SWEPT, f"output={output}")
    assert outcome.code == 0, outcome.errors
    return outcome


def test_the_plan_counts_what_is_trained(sweep, output):
    assert told(sweep, "to train") == "to train: 2 A_D, 2 A_R, 2 A_f, 2 A_n, 4 A* (12 models)"
    assert {kind: len(models(output / "store", kind)) for kind in ("original", "retrained", "helpers", "unlearned")} == {
        "original": 2, "retrained": 2, "helpers": 4, "unlearned": 4
    }  # fmt: skip
    assert "timed here" in told(sweep, "time: about")


def test_the_record_names_every_run_and_the_report_lies_beside(sweep, output):
    found = record(output)
    assert [job["state"] for job in found["jobs"]] == ["completed"] * 4
    (folder,) = output.glob("sweeps/*/")
    for job in found["jobs"]:
        config = json.loads((folder / job["folder"] / "result.json").read_text())["config"]
        assert config["sweep"] == found["name"] == folder.name
        assert f"method.alpha={config['method']['alpha']:g}" in job["label"]
        assert f"seed={config['seed']}" in job["overrides"]
    assert (folder / "report.html").is_file() and (folder / "summary.csv").is_file()


def test_a_finished_sweep_trains_nothing_and_says_so(sweep, output):
    before = {path: path.stat().st_mtime_ns for path in (output / "store").rglob("*") if path.suffix != ".lock"}
    again = kga("-m", *SWEPT, f"output={output}")
    assert again.code == 0
    assert "4 runs, 4 finished already, 0 to do" in told(again, "Sweep")
    assert "to train" not in again.out and "Run 1" not in again.out
    assert {path: path.stat().st_mtime_ns for path in (output / "store").rglob("*") if path.suffix != ".lock"} == before
    assert len(list(output.glob("sweeps/*/"))) == 1


def test_batches_and_what_decides_nothing_leave_the_sweep_the_same(sweep, output):
    """Of two batches each writes its part of the record; there is one sweep, however it is made."""
    idle = ("hydra.sweeper.max_batch_size=2", "trainer.checkpoint_minutes=7", "evaluation.watch=3", "launcher=local")
    before = record(output)
    again = kga("-m", *SWEPT, *idle, f"output={output}")
    assert again.code == 0, again.errors
    assert again.out.count("2 runs, 2 finished already, 0 to do") == 2
    after = record(output)
    assert [job["folder"] for job in after["jobs"]] == [job["folder"] for job in before["jobs"]]
    assert [job["state"] for job in after["jobs"]] == ["completed"] * 4


def test_a_failure_in_a_batch_leaves_the_next_batch_to_be_made(tmp_path):
    swept = (*TINY, "method=none", "reference=none", "forget.size=500,5", "hydra.sweeper.max_batch_size=1")
    outcome = kga("-m", *swept, f"output={tmp_path}")
    assert outcome.code == 2 and "nothing would be retained" in outcome.errors[-1], outcome
    assert [job["state"] for job in record(tmp_path)["jobs"]] == ["failed", "completed"]


def test_a_mended_logger_is_no_failure_any_more(tmp_path):
    """Found when a run starts; nothing was computed by then. The report is written all the same."""
    swept = ("-m", *TINY, FORGET, "method=none", "reference=none", "seed=0,1", f"output={tmp_path}", "logger=wandb")
    wrong = kga(*swept, "logger.wandb.mode=ofline")
    assert wrong.code == 2 and "logger.wandb.mode=ofline is unknown" in wrong.errors[-1]
    assert "Traceback" not in wrong.out + "".join(wrong.errors)
    right = kga(*swept, "logger.wandb.mode=disabled")
    assert right.code == 0 and [job["state"] for job in record(tmp_path)["jobs"]] == ["completed"] * 2, right


@pytest.mark.parametrize(
    ("override", "decides"),
    [
        ("seed=1", True), ("++forget.by=loss", True), ("~attack", True), ("trainer.precision=bf16-mixed", True),
        ("method=kga", True), ("attack.shadows=4", True), ("evaluation.retain_limit=5", True),
        ("trainer.accelerator=gpu", False), ("trainer.devices=2", False), ("evaluation.watch=0", False),
        ("+launcher.options.mail-type=END", False), ("output=a=b", False), ("report.texts=true", False),
    ],
)  # fmt: skip
def test_a_sweep_is_named_by_what_names_its_runs(override, decides):
    assert _decides(override) == decides


def test_a_larger_sweep_makes_what_is_new(sweep, output, tmp_path):
    larger = kga("-m", *SWEPT, "method.alpha=0.5,1,2", f"output={output}", "launcher=local")
    assert larger.code == 0, larger.errors
    assert told(larger, "to train") == ("to train: 2 A*; in the store already: 2 A_D, 2 A_R, 2 A_f, 2 A_n (8 models)")
    assert "by what such models took before" in told(larger, "time: about")
    assert len(models(output / "store", "unlearned")) == 6 and len(models(output / "store", "helpers")) == 4
    logs = sorted(output.glob("sweeps/*/logs/*.log"))
    assert len(logs) == 2 and all("Evaluation" in log.read_text() for log in logs)


def test_failures_are_told_and_tried_again_on_request(tmp_path):
    """A mistake that only the run itself finds."""
    wrong = ("-m", *TINY, "method=none", "forget.size=5,500", "seed=0,1", "reference=none", f"output={tmp_path}")
    first = kga(*wrong)
    assert first.code == 2
    *each, last = first.errors
    assert [line.split(":")[1].strip() for line in each] == ["forget.size=500, seed=0", "forget.size=500, seed=1"]
    assert last == "kga: 2 runs failed (of 4 runs; the others are there)"
    assert [job["state"] for job in record(tmp_path)["jobs"]] == ["completed"] * 2 + ["failed"] * 2
    again = kga(*wrong)
    assert again.code == 2 and again.out.count("failed before") == 2 and "Run 3" not in again.out
    retried = kga(*wrong, "launcher.retry=true")
    assert retried.code == 2 and "Run 4 of 4  forget.size=500, seed=1" in retried.out


def test_a_sweep_of_failed_runs_has_a_report_of_them(tmp_path):
    """One line, as all failed alike."""
    outcome = kga("-m", *TINY, "method=none", "forget.size=500", "seed=0,1", f"output={tmp_path}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith("kga: the forget set has")
    (report,) = tmp_path.glob("sweeps/*/report.html")
    assert str(report) in outcome.out and report.read_text().count(outcome.errors[0].removeprefix("kga: ")) >= 2


def test_what_could_be_forgotten_is_listed_for_each_run_and_nothing_else_is_made(tmp_path):
    outcome = kga("-m", *TINY, "data.size=600", "forget=label,group", "forget.list=true", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    assert outcome.out.count(" listed; D has") == 2 and "to train" not in outcome.out
    assert not list(tmp_path.glob("sweeps/*/sweep.json")) and not (tmp_path / "runs").exists()


def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    """Killed once its first run is there: that is not made again, and no model is trained twice."""
    swept = ("-m", *TINY, FORGET, "method=none", "reference=none", "seed=0,1,2", f"output={tmp_path}")
    process, deadline = start(*swept, PYTHONUNBUFFERED="1"), time.monotonic() + 120
    while not (finished := list(tmp_path.glob("runs/*/result.json"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    said, _ = process.communicate()
    written = finished[0].stat().st_mtime_ns
    again = kga(*swept)
    assert again.code == 0, again.errors
    assert "3 runs, 1 finished already, 2 to do" in again.out
    assert finished[0].stat().st_mtime_ns == written
    assert [job["state"] for job in record(tmp_path)["jobs"]] == ["completed"] * 3
    assert len(re.findall(r"A_D on D: (\d+)/\1 in", said + again.out)) == 3
    assert len(models(tmp_path / "store", "original")) == len(list(tmp_path.glob("store/ledger/*.json"))) == 3


def test_a_mistake_in_one_run_is_found_before_any_starts(tmp_path):
    outcome = kga("-m", *TINY, FORGET, "method=none", "reference=none", "optim.lr=1e-3,-1", f"output={tmp_path}")
    assert outcome.code == 2
    assert outcome.out.index("not possible: optim.lr=-1") < outcome.out.index("Run 1 of 2")
    assert [job["folder"] is None for job in record(tmp_path)["jobs"]] == [False, True]


def test_a_name_can_be_given(tmp_path):
    outcome = kga("-m", *TINY, FORGET, "method=none", "reference=none", "sweep=my first/sweep", f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    assert record(tmp_path)["name"] == "my-first-sweep"


def test_the_name_does_not_depend_on_where_it_runs(tmp_path):
    small = ("-m", *TINY, FORGET, "method=none", "reference=none")
    names = []
    for folder, more in (("a", ()), ("b", ("launcher=local", "logger=csv", "trainer.checkpoint_minutes=7"))):
        assert kga(*small, *more, f"output={tmp_path / folder}").code == 0
        names.append(record(tmp_path / folder)["name"])
    assert names[0] == names[1]


@pytest.mark.slow
def test_processes_started_at_once_train_every_model_once(tmp_path):
    """Eight commands at the same second, on an empty store."""
    processes = [start("-m", *SWEPT, f"output={tmp_path}") for _ in range(8)]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    made = [json.loads(path.read_text())["kind"] for path in tmp_path.glob("store/ledger/*.json")]
    assert sorted(made) == ["helpers"] * 4 + ["original"] * 2 + ["retrained"] * 2 + ["unlearned"] * 4
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 4
