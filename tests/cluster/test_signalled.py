"""Jobs that the cluster warns before it takes their place: pre-emption and the time limit. They put themselves back."""

from pathlib import Path

import pytest
from cluster import jobs
from helpers import offline
from helpers.cli import FORGET, KGA, TINY, kga, models

pytestmark = pytest.mark.cluster
# Unlearning of 20 updates, each an epoch with its checkpoint, as five are forgotten.
UNLEARNING = (*TINY, FORGET, *KGA, "reference=none", "method.optim.updates=20")

LOGGER = ("logger=wandb", "logger.wandb.mode=offline")


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> bytes:
    """Weights of A* as unlearned without a break."""
    output = tmp_path_factory.mktemp("whole")
    assert kga(*UNLEARNING, f"output={output}").code == 0
    return _weights(output)


def test_a_preempted_job_puts_itself_back_and_goes_on(slurm, tmp_path, expected):
    """A sweep of one run, which is no array; an urgent job takes both nodes while it unlearns."""
    command = jobs.Command(slurm, tmp_path, *UNLEARNING, *LOGGER, "launcher.partition=main")
    job = command.job()
    frozen = jobs.freeze(slurm, tmp_path, job, "unlearned")
    urgent = slurm.ask("sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null",
                       "--wrap=sleep 1")  # fmt: skip
    jobs.thaw_at("SIGUSR2", frozen)
    outcome = command.ends()
    assert outcome.code == 0, (outcome, jobs.log(tmp_path))
    assert jobs.states(tmp_path) == ["completed"]
    assert jobs.requeues(slurm, job) == 1 and slurm.ended() == {job: "COMPLETED", urgent: "COMPLETED"}
    assert "submitit WARNING" in jobs.log(tmp_path) and "Caught signal SIGUSR2" in jobs.log(tmp_path)
    _went_on(tmp_path, expected)
    _one_wandb_run(*tmp_path.glob("runs/*/"))


def test_a_job_that_runs_out_of_time_goes_on_as_often_as_it_may(slurm, tmp_path, expected):
    """One may be put back once. The other may not, and has too much to do: it fails, with a reason."""
    once, never = tmp_path / "once", tmp_path / "never"
    short = "launcher.minutes=10"  # submitit takes any warning for one about time then
    commands = {
        once: jobs.Command(slurm, once, *UNLEARNING, short, "launcher.requeues=1"),
        never: jobs.Command(
            slurm, never, *UNLEARNING, *LOGGER, short, "launcher.requeues=0", "method.optim.updates=100000"
        ),
    }
    numbers = {output: command.job() for output, command in commands.items()}
    found = jobs.freeze_all(slurm, {job: output for output, job in numbers.items()}, "unlearned")
    frozen = {output: found[job] for output, job in numbers.items()}
    jobs.thaw(frozen[never])
    for job in numbers.values():
        jobs.shorten(slurm, job)
    jobs.thaw_at("SIGUSR2", frozen[once])
    slurm.ask("scontrol", "update", f"job={numbers[once]}", "timelimit=10")

    outcome = commands[never].ends()
    assert outcome.code == 1, (outcome, jobs.log(never))
    assert jobs.states(never) == ["failed"] and jobs.requeues(slurm, numbers[never]) == 0
    assert "timed-out too many times" in outcome.errors[0], outcome.errors
    assert [update["status"] for update in _statuses(*never.glob("runs/*/"))] == ["interrupted", "failed"]
    outcome = commands[once].ends()
    assert outcome.code == 0, (outcome, jobs.log(once))
    assert jobs.states(once) == ["completed"] and jobs.requeues(slurm, numbers[once]) == 1
    assert "this job is timed-out" in jobs.log(once)
    _went_on(once, expected)


def _went_on(output, expected: bytes) -> None:
    """All was trained once, and A* came out as without a break."""
    assert jobs.log(output).count("going on from the checkpoint") == 1
    assert jobs.trained(output)["A* unlearning"] == [20]
    assert {title: len(times) for title, times in jobs.trained(output).items() if len(times) > 1} == {}
    assert _weights(output) == expected


def _one_wandb_run(folder: Path) -> None:
    """Both parts are of the same W&B run, in the group of the sweep; together they have every update.

    One whose checkpoint was not yet written is made, and told, again: with the same value.
    """
    parts = [offline.records(part) for part in offline.folders(folder)]
    described = [run for part in parts for run in offline.of(part, "run")]
    assert len(parts) == 2 and {run["run_id"] for run in described} == {described[0]["run_id"]}
    assert {run["run_group"] for run in described} == {next(folder.parents[1].glob("sweeps/*/")).name}
    history = [record["item"] for part in parts for record in offline.of(part, "history")]
    told = {(item["trainer/global_step"], item["unlearn/a"]) for item in history if "unlearn/a" in item}
    assert sorted(step for step, _ in told) == list(range(1, 21))
    assert [update["status"] for update in _statuses(folder)] == ["interrupted", "completed"]


def _statuses(folder: Path) -> list[dict]:
    """What the parts of a W&B run say of its status, in order."""
    summary = [
        record["update"] for part in offline.folders(folder) for record in offline.of(offline.records(part), "summary")
    ]
    return [update for update in summary if "status" in update]


def _weights(output) -> bytes:
    (folder,) = models(output / "store", "unlearned")
    return (folder / "model.safetensors").read_bytes()
