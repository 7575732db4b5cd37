"""Submit and leave, or a lost connection: the jobs go on, and the same command or kga-report collects."""

import signal
import subprocess
import sys
import time

import pytest
from cluster import jobs
from helpers.cli import FORGET, TINY

pytestmark = pytest.mark.cluster
SWEEP = (*TINY, FORGET, "method=none", "reference=none", "optim.epochs=20", "seed=0,1")


def test_a_sweep_that_is_left_goes_on_and_is_collected_later(slurm, tmp_path):
    left = jobs.kga(slurm, tmp_path, *SWEEP, "launcher.wait=false")
    assert left.code == 0 and left.errors == [], left
    assert "the same command" in left.out and "kga-report" in left.out
    assert jobs.states(tmp_path) == ["pending"] * 2
    submitted = [job["job_id"] for job in jobs.record(tmp_path)["jobs"]]
    frozen = [
        process for found in jobs.freeze_all(slurm, dict.fromkeys(submitted, tmp_path)).values() for process in found
    ]

    # While they run, the same command finds them, and waits. It may end before they do.
    waits = jobs.Command(slurm, tmp_path, *SWEEP)
    waits.says("2 runs are in the queue already")
    time.sleep(1)
    waits.process.send_signal(signal.SIGINT)
    cut = waits.ends()
    assert cut.code == 130 and "the jobs go on" in cut.out and "scancel" in cut.out, cut
    assert slurm.jobs() == dict.fromkeys(submitted, "RUNNING")

    jobs.thaw(frozen)
    collected = jobs.kga(slurm, tmp_path, *SWEEP)
    assert collected.code == 0, collected
    assert jobs.states(tmp_path) == ["completed"] * 2
    assert slurm.ended() == dict.fromkeys(submitted, "COMPLETED")
    assert jobs.trained(tmp_path) == {"A_D on D": [100, 100]}
    command = (sys.executable, "-m", "kga.report.cli", str(tmp_path), "--to", "csv")
    report = subprocess.run(command, capture_output=True, text=True)
    assert report.returncode == 0, report
