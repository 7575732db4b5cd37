"""Runs that reach a W&B server, a stub on loopback: online, by `wandb sync`, gone on with after a kill, and without one."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli import FORGET, KGA, TINY, Outcome, run_folder
from helpers.stub_wandb import KEY, StubWandb

WANDB = str(Path(sys.executable).parent / "wandb")
SCRIPT = """
import sys, time, wandb
mode, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
run = wandb.init(project="kga", id="same", resume="allow", group="some", mode=mode, config={"method": {"alpha": 0.5}})
for update in range(first, last):
    run.log({"unlearn/a": update / 2, "trainer/global_step": update})
    print("update", update)
run.log({"comparison": wandb.Table(columns=["model", "tow"], data=[["original", 0.25]])})
run.summary["status"] = "completed"
run.finish()
"""


def ended(command: list[str], folder: Path, environment: dict[str, str]) -> Outcome:
    """A process in a folder, waited for."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    return Outcome(done.returncode, done.stdout, done.stderr.splitlines())


def logged(stub: StubWandb, folder: Path, mode: str, first: int = 0, last: int = 3) -> None:
    """A run made with the wandb package alone."""
    command = [sys.executable, "-c", SCRIPT, mode, str(first), str(last)]
    outcome = ended(command, folder, stub.environment(folder / "home"))
    assert outcome.code == 0, outcome.errors


def sync(stub: StubWandb, folder: Path, *runs: Path) -> Outcome:
    outcome = ended([WANDB, "sync", *map(str, runs)], folder, stub.environment(folder / "home"))
    assert outcome.code == 0, outcome.errors
    return outcome


def offline(folder: Path) -> list[Path]:
    return sorted(folder.rglob("offline-run-*"))


def assert_whole(stub: StubWandb) -> None:
    """Everything of the script's three updates is at the server."""
    (run,) = stub.runs.values()
    assert run.name == "same" and run.described["groupName"] == "some" and run.described["project"] == "kga"
    assert run.values("unlearn/a") == [0, 0.5, 1] and run.values("trainer/global_step") == [0, 1, 2]
    assert run.config["method"]["value"] == {"alpha": 0.5}
    assert run.summary["status"] == "completed" and run.summary["unlearn/a"] == 1
    (table,) = run.tables().values()
    assert table == {"columns": ["model", "tow"], "data": [["original", 0.25]]}
    assert [line.split(" ", 1)[1] for line in run.console.splitlines()[:3]] == ["update 0", "update 1", "update 2"]
    assert run.exit_code == 0
    assert not stub.unknown


def test_a_run_online_arrives(tmp_path):
    with StubWandb() as stub:
        logged(stub, tmp_path, "online")
    assert_whole(stub)


def test_a_synced_run_arrives_once(tmp_path):
    with StubWandb() as stub:
        logged(stub, tmp_path, "offline")
        assert not stub.requests
        sync(stub, tmp_path, *offline(tmp_path))
        assert_whole(stub)
        again = sync(stub, tmp_path, *offline(tmp_path))
    assert "Skipped 1 synced run" in "\n".join(again.errors)
    assert_whole(stub)


@pytest.mark.parametrize("together", [True, False])
def test_the_second_folder_of_a_run_goes_on_from_the_first(tmp_path, together):
    """Named in one command, even in the wrong order, or one after the other: no step is written over."""
    with StubWandb() as stub:
        logged(stub, tmp_path, "offline", 0, 3)
        logged(stub, tmp_path, "offline", 3, 5)
        first, second = offline(tmp_path)
        for folders in [(second, first)] if together else [(first,), (second,)]:
            sync(stub, tmp_path, *folders)
    (run,) = stub.runs.values()
    assert run.values("trainer/global_step") == [0, 1, 2, 3, 4]
    assert [step["_step"] for step in run.history] == list(range(7))  # five updates and two tables
    assert run.console.count("update") == 5


def test_a_run_online_goes_on(tmp_path):
    with StubWandb() as stub:
        logged(stub, tmp_path, "online", 0, 3)
        logged(stub, tmp_path, "online", 3, 5)
    (run,) = stub.runs.values()
    assert run.values("trainer/global_step") == [0, 1, 2, 3, 4]
    assert [step["_step"] for step in run.history] == list(range(7))


def study(stub: StubWandb, folder: Path, *more: str, **environment: str) -> Outcome:
    """A tiny run of kga with W&B, in a process of its own."""
    command = [sys.executable, "-m", "kga", *TINY, FORGET, *KGA, f"output={folder}", "logger=wandb", *more]
    return ended(command, folder, stub.environment(folder / "home", OMP_NUM_THREADS="1", **environment))


def assert_arrived(stub: StubWandb, folder: Path) -> None:
    """The updates, results, table and console of a run of kga; no key and no request unanswered."""
    (run,) = stub.runs.values()
    assert run.described["jobType"] == "kga" and run.described["displayName"] == run_folder(folder, "kga").name
    assert len(run.values("unlearn/a")) == 3
    assert run.summary["status"] == "completed" and "score/unlearned/tow" in run.summary
    assert run.config["choices"]["value"]["method"] == "kga"
    (table,) = (table for path, table in run.tables().items() if "comparison" in path)
    assert [row[0] for row in table["data"]] == ["retrained (A_R)", "original (A_D)", "unlearned (kga)"]
    assert run.exit_code == 0
    assert not stub.unknown
    assert not any(KEY.encode() in body for body in run.files.values())
    assert KEY not in run.console and KEY not in str(run.config)


def holders(folder: Path) -> list[Path]:
    """The files below a folder that hold the key."""
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_kga_online(tmp_path):
    with StubWandb() as stub:
        outcome = study(stub, tmp_path)
    assert outcome.code == 0, outcome.errors
    assert_arrived(stub, tmp_path)
    assert f"{stub.url}/someone/kga/runs/" in outcome.out.replace("\n", "")
    assert not holders(tmp_path)
    assert KEY not in outcome.out + "".join(outcome.errors)


@pytest.mark.slow
def test_kga_offline_and_synced(tmp_path):
    with StubWandb() as stub:
        outcome = study(stub, tmp_path, "logger.wandb.mode=offline")
        assert outcome.code == 0, outcome.errors
        assert not stub.requests
        sync(stub, tmp_path, *offline(tmp_path))
    assert_arrived(stub, tmp_path)
    assert not holders(tmp_path)


@pytest.mark.slow
def test_kga_goes_on_offline_where_the_key_is_refused(tmp_path):
    with StubWandb(status=401) as stub:
        outcome = study(stub, tmp_path)
    assert outcome.code == 0, outcome.errors
    assert "W&B does not answer" in outcome.out and "401" in outcome.out
    assert len(offline(run_folder(tmp_path, "kga"))) == 1
    assert not holders(tmp_path)
