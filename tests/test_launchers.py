"""Launchers: processes of this machine, what ends them, what they leave."""

import json
from pathlib import Path

import pytest
from helpers.cli import FORGET, TINY, kga, models

SMALL = (*TINY, FORGET, "method=none", "reference=none")


def states(output: Path) -> dict[str, tuple[str, str | None]]:
    """{label: (state, error)} of the runs of the one sweep below an output folder."""
    (path,) = output.glob("sweeps/*/sweep.json")
    return {job["label"]: (job["state"], job["error"]) for job in json.loads(path.read_text())["jobs"]}


def test_a_killed_process_costs_its_own_run_alone(tmp_path):
    outcome = kga(
        "-m", *SMALL, "method._target_=helpers.deadly.Deadly", "seed=0,1,2", f"output={tmp_path}", "launcher=local"
    )
    assert outcome.code == 1
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith("kga: seed=1: its process was ended from outside")
    assert {label: state for label, (state, _) in states(tmp_path).items()} == {
        "seed=0": "completed", "seed=1": "failed", "seed=2": "completed"
    }  # fmt: skip


def test_an_error_of_the_program_is_shown_with_its_file(tmp_path):
    """The other run finishes; the traceback is in the log of the one that failed."""
    outcome = kga("-m", *SMALL, "seed=0,1", "+task.broken=1", f"output={tmp_path}", "launcher=local")
    assert outcome.code == 2  # a key that the task has not is a mistake
    assert all(state == "failed" for state, _ in states(tmp_path).values())


def test_threads_are_divided_among_the_processes(tmp_path, monkeypatch):
    import os

    monkeypatch.delenv("OMP_NUM_THREADS")
    outcome = kga("-m", *SMALL, "seed=0,1", f"output={tmp_path}", "launcher=local", "launcher.jobs=2")
    assert outcome.code == 0, outcome.errors
    threads = [json.loads(path.read_text())["environment"]["threads"] for path in tmp_path.glob("runs/*/result.json")]
    assert threads == [max(1, len(os.sched_getaffinity(0)) // 2)] * 2
    assert len(models(tmp_path / "store", "original")) == 2


@pytest.mark.parametrize("wrong", ["launcher.jobs=0", "launcher.retry=maybe", "launcher.wait=true"])
def test_settings_that_a_launcher_has_not_are_refused(wrong, tmp_path):
    outcome = kga("-m", *SMALL, "seed=0,1", f"output={tmp_path}", "launcher=local", wrong)
    assert outcome.code == 2
    assert wrong.split("=")[0] in outcome.errors[-1]
    assert not list(tmp_path.glob("runs/*"))


def test_slurm_needs_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    outcome = kga("-m", *SMALL, "seed=0,1", f"output={tmp_path}", "launcher=slurm")
    assert outcome.code == 2
    assert "no sbatch here" in outcome.errors[-1] and "launcher=local" in outcome.errors[-1]
