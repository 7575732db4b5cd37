"""Jobs that are put back, cancelled or killed in the middle of a training: what was computed is kept, what failed is told."""

import os
import signal

import pytest
from cluster import jobs
from helpers.cli import FORGET, TINY, kga, models

pytestmark = pytest.mark.cluster
# One training in each run, of 20 epochs: A_D.
TRAINING = (*TINY, FORGET, "method=none", "reference=none", "optim.epochs=20")
SEEDS = "seed=0,1,2,3"


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[int, bytes]:
    """{seed: weights of A_D} of the first three as trained without a break."""
    found = {}
    for seed in range(3):
        output = tmp_path_factory.mktemp("whole")
        assert kga(*TRAINING, f"seed={seed}", f"output={output}").code == 0
        found[seed] = _weights(output)[0]
    return found


def test_a_requeued_a_cancelled_and_a_killed_job(slurm, tmp_path, expected):
    """Of four: the first goes on from its checkpoint, two are shown as failed and tried again on request, one is left alone."""
    command = jobs.Command(slurm, tmp_path, *TRAINING, SEEDS)
    requeued, cancelled, killed, other = (f"{command.job()}_{number}" for number in range(4))
    frozen = jobs.freeze_all(slurm, dict.fromkeys((requeued, cancelled, killed), tmp_path))
    slurm.ask("scontrol", "requeue", requeued)
    slurm.ask("scancel", cancelled)
    for process in frozen[killed]:
        os.kill(process, signal.SIGKILL)  # as the kernel does that runs out of memory
    outcome = command.ends()

    assert outcome.code == 1, outcome
    assert jobs.states(tmp_path) == ["completed", "failed", "failed", "completed"]
    assert slurm.ended() == {requeued: "COMPLETED", cancelled: "CANCELLED", killed: "FAILED", other: "COMPLETED"}
    assert jobs.requeues(slurm, requeued) == 1
    assert jobs.log(tmp_path, requeued).count("going on from the checkpoint") == 1
    assert "going on" not in jobs.log(tmp_path, other)
    errors = [job["error"] for job in jobs.record(tmp_path)["jobs"]]
    assert errors[0] is errors[3] is None
    assert f"job {cancelled} is CANCELLED" in errors[1] and f"job {killed} is FAILED" in errors[2]
    assert len(outcome.errors) == 3, outcome.errors
    assert "seed=1" in outcome.errors[0] and "CANCELLED" in outcome.errors[0]
    assert "seed=2" in outcome.errors[1] and "FAILED" in outcome.errors[1]
    assert "2 runs failed" in outcome.errors[2] and "launcher.retry=true" in outcome.errors[2]

    again = jobs.kga(slurm, tmp_path, *TRAINING, SEEDS, "launcher.retry=true")
    assert again.code == 0, again
    assert "4 runs, 2 finished already, 2 to do" in again.out
    assert len(slurm.jobs()) == 6
    assert jobs.states(tmp_path) == ["completed"] * 4
    assert jobs.log(tmp_path).count("going on from the checkpoint") == 3
    assert jobs.trained(tmp_path)["A_D on D"] == [100] * 4
    assert set(expected.values()) < set(_weights(tmp_path))


def _weights(output) -> list[bytes]:
    return [(folder / "model.safetensors").read_bytes() for folder in models(output / "store", "original")]
