"""A sweep as one array: each run a job, each model trained once, its report; a second start has nothing to do."""

from pathlib import Path

import pytest
from cluster import jobs
from helpers.cli import FORGET, KGA, TINY, models

pytestmark = pytest.mark.cluster
SWEEP = (*TINY, FORGET, *KGA, "seed=0,1", "method.alpha=0.5,1")


def test_an_array_sweep_trains_each_model_once_and_a_second_start_submits_nothing(slurm, tmp_path):
    first = jobs.kga(slurm, tmp_path, *SWEEP)
    assert first.code == 0, (first, jobs.log(tmp_path))
    assert "4 runs, 0 finished already, 4 to do" in first.out
    assert jobs.states(tmp_path) == ["completed"] * 4
    ended = slurm.ended()
    (array,) = {job.partition("_")[0] for job in ended}
    assert ended == {f"{array}_{number}": "COMPLETED" for number in range(4)}
    # Two seeds: two of each; four unlearned models, of which all are different.
    kinds = {kind: len(models(tmp_path / "store", kind)) for kind in ("original", "retrained", "helpers", "unlearned")}
    assert kinds == {"original": 2, "retrained": 2, "helpers": 4, "unlearned": 4}
    counts = {title: len(times) for title, times in jobs.trained(tmp_path).items()}
    assert counts == {"A_D on D": 2, "A_R on D without the forget set": 2, "A_f on the forget set": 2,
                      "A_n on the new set": 2, "A* unlearning": 4}  # fmt: skip
    (report,) = tmp_path.glob("sweeps/*/report.html")
    assert str(report) in first.out and "A_R" in report.read_text()

    written = _files(tmp_path / "runs")
    second = jobs.kga(slurm, tmp_path, *SWEEP)
    assert second.code == 0 and "4 runs, 4 finished already, 0 to do" in second.out, second
    assert slurm.jobs() == ended
    assert _files(tmp_path / "runs") == written


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
