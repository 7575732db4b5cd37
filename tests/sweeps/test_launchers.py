"""Launchers: processes of this machine, what ends them, what they leave."""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.cli import FORGET, TINY, kga, models, start
from submitit.core.utils import FailedJobError

from kga.paths import config_dir
from kga.sweeps import slurm

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
    expected = {"seed=0": "completed", "seed=1": "failed", "seed=2": "completed"}
    assert {label: state for label, (state, _) in states(tmp_path).items()} == expected
    again = kga(
        "-m", *SMALL, "method._target_=helpers.deadly.Deadly", "seed=0,1,2", f"output={tmp_path}", "launcher=local"
    )
    assert again.code == 1 and "failed before: seed=1: its process was ended" in again.out and "0 to do" in again.out
    assert {label: state for label, (state, _) in states(tmp_path).items()} == expected


def test_two_starts_at_once_both_end_well_and_say_so(tmp_path):
    """One makes the run, the other waits for it; launcher.jobs=1, where runs are made in the command's own process."""
    commands = [
        start("-m", *SMALL, f"output={tmp_path}", "launcher=local", "launcher.jobs=1", "seed=0") for _ in range(2)
    ]
    for command in commands:
        out, errors = command.communicate(timeout=300)
        assert command.returncode == 0, errors
        assert "the only run: completed" in out and "Report of the sweep" in out and "Evaluation" not in out
    (log,) = tmp_path.glob("sweeps/*/logs/*")
    assert "Evaluation" in log.read_text()


def test_an_error_of_the_program_is_shown_with_its_file(tmp_path):
    """The other run finishes; the traceback is in the log of the one that failed."""
    outcome = kga("-m", *SMALL, "seed=0,1", "+task.broken=1", f"output={tmp_path}", "launcher=local")
    assert outcome.code == 2  # a key that the task has not is a mistake
    assert all(state == "failed" for state, _ in states(tmp_path).values())


def test_threads_are_divided_among_the_processes(tmp_path, monkeypatch):
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


# On a stand-in for SLURM, whose commands are files on the PATH ------------------------------------------------------------

SBATCH = """#!/bin/sh
number=$(($(ls "$QUEUE" | wc -l) + 1))
cp "$1" "$QUEUE/$number"
sleep 0.3
echo Submitted batch job $number
"""
# All that was submitted runs for ever, or (GONE) has left; as it leaves, results may appear (RESULTS).
SQUEUE = r"""#!/bin/sh
[ -n "$RESULTS" ] && cp -r "$RESULTS" "$OUTPUT"
[ -n "$GONE" ] && exit 0
for job in $(ls "$QUEUE"); do
    last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\)%.*/\1/p' "$QUEUE/$job")
    if [ -n "$last" ]; then for task in $(seq 0 $last); do echo ${job}_$task RUNNING; done; else echo $job RUNNING; fi
done
"""


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """A folder with what was submitted, by number. There is no accounting."""
    (tmp_path / "bin").mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("sacct", "#!/bin/sh\nexit 1\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "queue").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    monkeypatch.setattr(slurm, "POLL", 0.05)
    monkeypatch.setattr(slurm, "GRACE", 0.2)
    return tmp_path / "queue"


def test_two_starts_at_once_submit_one_array(queue, tmp_path):
    arguments = ("-m", *SMALL, "seed=0,1", f"output={tmp_path / 'out'}", "launcher=slurm", "launcher.wait=false")
    said = ""
    for command in [start(*arguments) for _ in range(2)]:
        out, errors = command.communicate(timeout=300)
        assert command.returncode == 0, errors
        said += out
    assert [path.name for path in queue.iterdir()] == ["1"]
    assert said.count("submitted as SLURM job 1") == said.count("2 runs are in the queue already") == 1
    (path,) = tmp_path.glob("out/sweeps/*/sweep.json")
    assert [job["job_id"] for job in json.loads(path.read_text())["jobs"]] == ["1_0", "1_1"]


def test_a_job_that_is_gone_is_not_submitted_again_unasked(queue, tmp_path):
    arguments = ("-m", *SMALL, "seed=0", f"output={tmp_path / 'out'}", "launcher=slurm")
    first = kga(*arguments, GONE="1")
    assert first.code == 1 and "SLURM job 1 is gone from the queue, without a result" in first.errors[-1]
    again = kga(*arguments, GONE="1")
    assert again.code == 1 and "failed before" in again.out and len(list(queue.iterdir())) == 1
    back = kga(*arguments, "launcher.wait=false")  # put back into the queue meanwhile
    assert back.code == 0 and "1 runs are in the queue already" in back.out and len(list(queue.iterdir())) == 1
    retried = kga(*arguments, "launcher.retry=true", GONE="1")
    assert retried.code == 1 and len(list(queue.iterdir())) == 2


def test_runs_that_are_left_in_the_queue_are_not_said_to_be_there(queue, tmp_path):
    common = ("-m", *SMALL, f"output={tmp_path / 'out'}", "launcher=slurm", "launcher.wait=false")
    outcome = kga(*common, "optim.lr=1e-3,-1")
    assert outcome.code == 2 and outcome.errors[-1].endswith("(of 2 runs; 1 not over yet)")


def test_a_result_says_more_than_the_queue(queue, tmp_path):
    """A job whose own traces are not to be seen: what its run has written is."""
    run = (*SMALL, "seed=0")
    assert kga(*run, f"output={tmp_path / 'made'}").code == 0
    results = {"GONE": "1", "RESULTS": str(tmp_path / "made" / "runs"), "OUTPUT": str(tmp_path / "out")}
    outcome = kga("-m", *run, f"output={tmp_path / 'out'}", "launcher=slurm", **results)
    assert outcome.code == 0, outcome.errors
    assert states(tmp_path / "out") == {"the only run": ("completed", None)}


SLURM_COMMENT = re.findall("^#   (kga .*)", (config_dir() / "launcher" / "slurm.yaml").read_text(), re.MULTILINE)


def test_the_comments_commands_are_taken_as_typed(queue, tmp_path):
    options = [part for line in SLURM_COMMENT for part in shlex.split(line) if re.match("launcher[.]", part)]
    wanted = ("--gpus-per-node=1\n", "--gpus-per-node=a100:2\n", "--mail-type=END\n", "--constraint=fast\n",
              "--partition=gpu\n", "\nmodule load cuda\nexport HF_HOME=/scratch/hf\n")  # fmt: skip
    assert len(options) == 5
    common = ("-m", *SMALL, "seed=0", f"output={tmp_path / 'out'}", "launcher=slurm", "launcher.wait=false")
    for line in SLURM_COMMENT:
        outcome = kga(*common, *[part for part in shlex.split(line) if re.match("launcher[.]", part)])
        assert outcome.code == 0, outcome.errors
        shutil.rmtree(tmp_path / "out")
    submitted = "".join(path.read_text() for path in queue.iterdir())
    assert [text for text in wanted if text not in submitted] == []
    assert (
        submitted.count("#SBATCH --requeue") == submitted.count("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK") == 3
    )


def test_a_folder_that_slurm_would_read_as_a_pattern_is_refused(queue, tmp_path):
    outcome = kga("-m", *SMALL, "seed=0", f"output={tmp_path / '50%'}", "launcher=slurm")
    assert outcome.code == 2 and len(outcome.errors) == 1
    assert "the % in output=" in outcome.errors[0] and not list(queue.iterdir())


def test_the_reason_is_the_last_line_of_what_was_raised():
    rule = "----------------------"
    message = (
        f"Job (task=0) failed during processing with trace:\n{rule}\nTraceback (most recent call last):\n  File x\n"
        f"OSError: no module\n\n{rule}\nYou can check full logs with 'job.stderr(0)'or at paths:\n  - /a.err\n  - /a.out"
    )
    assert slurm.reason(FailedJobError(message)) == "OSError: no module"
    assert slurm.reason(RuntimeError("Unknown job exception")) == "Unknown job exception"


def test_slurm_needs_sbatch(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    outcome = kga("-m", *SMALL, "seed=0,1", f"output={tmp_path}", "launcher=slurm")
    assert outcome.code == 2
    assert "no sbatch here" in outcome.errors[-1] and "launcher=local" in outcome.errors[-1]
