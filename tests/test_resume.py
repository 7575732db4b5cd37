"""Killed, damaged, started twice: the store holds what one uninterrupted run would have left."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from helpers.cli import FORGET, KGA, MOVES, TINY, apart, kga, models, results, run_folder, start

# Long enough to be killed in the middle: 20 epochs of A_D, 40 updates of A* (an epoch each: five are forgotten).
LONG = (*TINY, FORGET, "reference=none", "optim.epochs=20", "method.helpers.optim.epochs=1", "method.optim.updates=40")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # bit equality is promised at equal numbers of threads
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole")
    assert kga(*LONG, f"output={output}").code == 0
    return output


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def kill_at_checkpoint(kind: str, output: Path, least: int) -> None:
    """Starts the study, and kills it once a checkpoint of ``least`` updates or more lies in the store."""
    process = start(*LONG, f"output={output}")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for path in output.glob(f"store/{kind}/*.work/checkpoints/epoch.ckpt"):
            try:
                reached = torch.load(path, weights_only=True)["global_step"]
            except (OSError, RuntimeError, EOFError):
                continue  # caught while it was being replaced
            if reached >= least:
                process.kill()
                process.communicate()
                return
        time.sleep(0.005)
    process.kill()
    pytest.fail(f"no checkpoint of {kind} was seen: {process.communicate()}")


def test_killed_runs_go_on_from_the_last_checkpoint(whole, tmp_path):
    """Twice: in the training of A_D and in unlearning."""
    for kind, least in (("original", 12), ("unlearned", 6)):
        kill_at_checkpoint(kind, tmp_path, least)
        assert models(tmp_path / "store", kind) == []
        assert results(tmp_path) == {}
    outcome = apart(*LONG, f"output={tmp_path}")
    assert outcome.code == 0, outcome.errors
    assert "A_D on D: reused from the store" in outcome.out
    assert "going on from the checkpoint epoch.ckpt" in outcome.out
    for kind in ("original", "helpers", "unlearned"):
        expected = {path.name: weights(path) for path in models(whole / "store", kind)}
        assert {path.name: weights(path) for path in models(tmp_path / "store", kind)} == expected
    first, second = results(whole)["kga"], results(tmp_path)["kga"]
    assert first["utility"] == second["utility"]
    history = [(run_folder(output, "kga") / "updates.csv").read_text() for output in (whole, tmp_path)]
    assert history[0] == history[1] and history[0].count("\n") == 41
    assert list(tmp_path.glob("store/*/*.work")) == [] and list(tmp_path.glob("store/*/*.new")) == []


def test_damaged_models_are_named_and_trained_again(tmp_path):
    arguments = (*TINY, FORGET, "method=retrain", f"output={tmp_path}")
    assert kga(*arguments).code == 0
    expected = results(tmp_path)["retrain"]["utility"]
    original, retrained = models(tmp_path / "store", "original")[0], models(tmp_path / "store", "retrained")[0]
    kept = weights(original), weights(retrained)
    (original / "model.safetensors").write_bytes(kept[0][:-100])
    altered = bytearray(kept[1])
    altered[-1] ^= 1
    (retrained / "model.safetensors").write_bytes(altered)
    (run_folder(tmp_path, "retrain") / "result.json").unlink()
    outcome = kga(*arguments)
    assert outcome.code == 0, outcome.errors
    for folder in (original, retrained):
        assert f"{folder} is damaged (model.safetensors does not match its checksum): it is made again" in outcome.out
    assert (weights(original), weights(retrained)) == kept
    assert results(tmp_path)["retrain"]["utility"] == expected


def test_unfinished_manifest_counts_as_damage(tmp_path):
    arguments = (*TINY, FORGET, "method=none", "reference=none", f"output={tmp_path}")
    assert kga(*arguments).code == 0
    (original,) = models(tmp_path / "store", "original")
    expected = weights(original)
    (original / "manifest.json").write_text('{"key": ')
    (run_folder(tmp_path, "none") / "result.json").unlink()
    outcome = kga(*arguments)
    assert outcome.code == 0 and "manifest.json is missing or unreadable" in outcome.out
    assert weights(original) == expected and json.loads((original / "manifest.json").read_text())["files"]


def test_processes_started_together_train_each_model_once(tmp_path):
    """The same command twice, and another method beside it."""
    long = (*TINY, FORGET, "optim.epochs=8", f"output={tmp_path}")
    commands = [(*long, *KGA), (*long, *KGA), (*long, "method=none")]
    processes = [start(*command) for command in commands]
    outs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outs
    said = "\n".join(out for out, _ in outs)
    for title in (
        "A_D on D",
        "A_R on D without the forget set",
        "A_f on the forget set",
        "A_n on the new set",
        "A* unlearning",
    ):
        assert len(re.findall(rf"^{re.escape(title)}: \d+/\d+ in", said, re.MULTILINE)) == 1, (title, said)
    assert {method: result["status"] for method, result in results(tmp_path).items()} == {
        "kga": "completed",
        "none": "completed",
    }


def test_methods_audited_side_by_side_train_each_shadow_model_once(tmp_path):
    shape = (*TINY, "data.size=200", "data.reserve=0.4", "forget.size=12", f"output={tmp_path}")
    audit = ("attack=lira", "attack.lira.unlearned=false", "attack.shadows=4", "attack.bootstrap=100")
    processes = [start(*shape, *audit, *method) for method in (("method=none",), ("method=finetune", *MOVES))]
    outs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outs
    said = "\n".join(out for out, _ in outs)
    for number in range(1, 5):
        title = f"shadow {number} of 4: A_D on D"
        assert len(re.findall(rf"^{re.escape(title)}: \d+/\d+ in", said, re.MULTILINE)) == 1, (title, said)
    assert len({json.dumps(result["membership"]["original"]) for result in results(tmp_path).values()}) == 1
