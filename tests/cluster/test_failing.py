"""Runs that fail by themselves: told with their error, the others finish, and nothing is tried again unasked."""

import pytest
from cluster import jobs
from helpers.cli import FORGET, TINY

pytestmark = pytest.mark.cluster
# A learning rate under which the loss is no number any more; found when the run is in the middle of it.
SWEEP = (*TINY, FORGET, "method=none", "reference=none", "optim.lr=0.001,1e30")


def test_a_failing_run_is_shown_with_its_error_and_not_tried_again(slurm, tmp_path):
    first = jobs.kga(slurm, tmp_path, *SWEEP)
    assert first.code, first
    assert jobs.states(tmp_path) == ["completed", "failed"]
    error = jobs.record(tmp_path)["jobs"][1]["error"]
    assert "not finite at update" in error
    assert len(first.errors) == 1 and first.errors[0].startswith("kga: optim.lr=1e") and error in first.errors[0]
    submitted = slurm.ended()
    second = jobs.kga(slurm, tmp_path, *SWEEP)
    assert second.code and "failed before" in second.out, second
    assert slurm.jobs() == submitted
