"""A user's mistake: exit code 2, one line that says what and where, and nothing lost."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest
from helpers.cli import FORGET, KGA, MOVES, TINY, Outcome, apart, kga, models, results, write_folder

from kga.data.embedded import load

NONE = ("method=none", "reference=none")
OWN = tuple(item for item in TINY if not item.startswith("data.size"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """An output folder with one finished run."""
    output = tmp_path_factory.mktemp("bad") / "outputs"
    assert kga(*TINY, FORGET, *NONE, f"output={output}").code == 0
    return output


def refused(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome.errors
    assert len(outcome.errors) == 1, outcome.errors
    line = outcome.errors[0]
    assert line.startswith("kga: ") and "Traceback" not in line and "Error(" not in line
    for part in parts:
        assert part in line, line


def files(folder: Path) -> dict[Path, bytes]:
    """Content of finished work: failed runs may add folders of their own."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


MISTAKES = {
    "methd=kga": ("methd", "method"),
    "method=kgaa": ("method=kgaa", "kga"),
    "data=foldr": ("data=foldr", "folder"),
    "method.gap_levl=batch": ("method.gap_levl", "method.gap_level"),
    "optim.lrr=1": ("optim.lrr", "optim.lr"),
    "+optim.lrr=1": ("optim.lrr", "lr"),
    "+new.pth=x": ("new.pth", "path"),
    "+seeds=1": ("seeds", "seed"),
    "~seed": ("seed",),
    "method=null": ("Config group",),
    "bad": ("bad",),
    "optim.lr=${nope}": ("nope", "optim.lr"),
    "seed=-1": ("seed=-1",),
    "seed=null": ("seed=null",),
    "optim.epochs=0": ("optim.epochs=0",),
    "optim.lr=-1": ("optim.lr=-1",),
    "optim.lr=nan": ("optim.lr=nan",),
    "optim.schedule=lineer": ("optim.schedule=lineer", "linear"),
    "method.optim.batch_size=0": ("method.optim.batch_size=0",),
    "method.helpers.optim.epochs=none": ("method.helpers.optim.epochs=none",),
    "evaluation.batch_size=0": ("evaluation.batch_size=0",),
    "evaluation.noise_floor=-1": ("evaluation.noise_floor=-1",),
    "reference=retrian": ("reference=retrian", "retrain"),
    "data.limit=0": ("data.limit=0",),
    "data=folder": ("data.path must be given",),
    "forget=label": ("forget.value must be given",),
    "forget.size=1.5": ("forget.size=1.5",),
    "forget.size=0": ("forget.size=0",),
    "forget.size=-3": ("forget.size=-3",),
    "forget.size=abc": ("forget.size=abc",),
    "new.size=0": ("new.size=0",),
    "method.alpha=abc": ("method.alpha=abc must be a number of 0 or more",),
    "method.alpha=-1": ("method.alpha=-1",),
    "logger=[csv,wanb]": ("logger=wanb is unknown: did you mean wandb?",),
    "launcher.partiton=gpu": ("launcher.partiton", "launcher.partition"),
}  # fmt: skip


@pytest.mark.parametrize("argument", MISTAKES)
def test_config_mistakes(argument, tmp_path):
    refused(kga(argument, f"output={tmp_path}"), *MISTAKES[argument])


def test_key_of_another_choice_is_explained(tmp_path):
    refused(
        kga("forget=ids", "forget.path=x", "forget.size=3", f"output={tmp_path}"),
        "forget.size",
        "only with forget=easy or",
    )


STUDIES = {
    "forget.size=500": ("forget set", "as many as D"),
    "forget=group forget.column=nope": ("forget.column=nope", "group", "kind"),
    "forget=group forget.value=Nobody": ("forget.value", "Nobody"),
    "forget=label forget.value=nosie": ("forget.value", "nosie", "noise"),
    "forget=ids forget.path=/nowhere": ("forget.path=/nowhere",),
    "forget.size=5 method.gap_level=foo": ("method.gap_level=foo", "batch"),
    "forget.size=5 method.stop.criterion=foo": ("method.stop.criterion=foo", "sigma"),
    "forget.size=5 method.helpers.start=foo": ("method.helpers.start=foo", "scratch"),
    "forget.size=5 +method.alfa=1": ("method has no option alfa", "alpha"),
    "forget.size=5 +model.vocab=1": ("model has no option vocab", "vocab_size"),
    "forget.size=5 +data.sze=1": ("data has no option sze", "size"),
    "forget.size=5 trainer.precision=foo": ("trainer", "foo"),
    "forget.size=5 trainer.accelerator=foo": ("trainer", "foo"),
    "forget.size=5 +trainer.foo=1": ("trainer", "foo"),
    "forget.size=5 data.reserve=2": ("data.reserve=2",),
    "forget.size=5 data.size=7": ("data.size",),
    "forget.size=5 method=none original.path=/nowhere": ("/nowhere", "model folder"),
    "forget.size=5 model=pretrained model.name=/nowhere": ("model.name=/nowhere", "model folder"),
}


@pytest.mark.parametrize("arguments", STUDIES)
def test_mistakes_that_need_the_data(arguments, finished):
    before = files(finished)
    model = [item for item in TINY if not (item.startswith("model.") and "model=" in arguments)]
    refused(kga(*model, f"output={finished}", *arguments.split()), *STUDIES[arguments])
    after = files(finished)
    assert all(after[path] == content for path, content in before.items())


def zoo(size: int, first: int = 0) -> list[dict]:
    words = ("cats", "dogs")
    return [
        {"id": f"m{i}", "text": f"message {i} about {words[i % 2]}", "label": words[i % 2]}
        for i in range(first, first + size)
    ]


def on_folder(path: Path, output: Path, *arguments: str) -> Outcome:
    return kga(*OWN, *NONE, "data=folder", f"data.path={path}", f"output={output}", *arguments)


def test_data_folders(tmp_path):
    out = tmp_path / "out"
    refused(on_folder(tmp_path / "none", out, FORGET), "data.path=", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(on_folder(tmp_path / "empty", out, FORGET), "data.path=", "no training file")
    rows = zoo(10)
    del rows[3]["label"]
    refused(on_folder(write_folder(tmp_path / "lacks", rows), out, FORGET), "train.jsonl:4", "'label'")
    broken = write_folder(tmp_path / "broken", zoo(10))
    with (broken / "train.jsonl").open("a") as file:
        file.write('{"text": \n')
    refused(on_folder(broken, out, FORGET), "train.jsonl:11", "broken JSON")
    cut = tmp_path / "cut"
    cut.mkdir()
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in zoo(2000)).encode())
    (cut / "train.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    refused(on_folder(cut, out, FORGET), "train.jsonl.gz", "gzip")
    unseen = write_folder(tmp_path / "unseen", zoo(60), test=[{"text": "a", "label": "birds"}])
    refused(on_folder(unseen, out, FORGET), "test split", "birds")
    few = write_folder(tmp_path / "few", zoo(3), validation=zoo(3, 10), test=zoo(3, 20))
    refused(on_folder(few, out, FORGET), "D (")
    enough = write_folder(tmp_path / "enough", zoo(60), validation=zoo(3, 100), test=zoo(3, 200))
    refused(on_folder(enough, out, FORGET, "data.reserve=0.01"), "too few examples to hold out", "data.reserve")


def test_ids(tmp_path):
    data = write_folder(tmp_path / "zoo", zoo(60), validation=zoo(5, 100), test=zoo(5, 200))
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"zz{number}\n" for number in range(7)))
    wrong = on_folder(data, tmp_path / "out", "forget=ids", f"forget.path={ids}")
    refused(wrong, "7 of the 7 ids", "zz0, zz1, zz2, zz3, zz4, ...")
    assert "zz5" not in wrong.errors[0]
    ids.write_text("\n")
    refused(on_folder(data, tmp_path / "out", "forget=ids", f"forget.path={ids}"), "forget set is empty")
    ids.write_text('{"id": "m1"}\n{"ident": "m2"}\n')
    refused(on_folder(data, tmp_path / "out", "forget=ids", f"forget.path={ids}"), "ids.txt:2")


def test_new_examples_that_the_original_has_seen(finished, tmp_path):
    rows = load("classification", size=100).train.select(range(20))
    new = write_folder(tmp_path / "new", [{"text": row["text"], "label": row["label"]} for row in rows])
    given = models(finished / "store", "original")[0]
    arguments = (*TINY, FORGET, *NONE, f"original.path={given}", f"output={tmp_path}/out")
    refused(kga(*arguments, f"new.path={new}"), "new.path", "text", "train")
    refused(kga(*arguments, f"new.path={new}/train.jsonl"), "new.path", "text")
    refused(kga(*arguments, "new.path=/nowhere"), "new.path=/nowhere")
    (tmp_path / "new.txt").write_text("x")
    refused(kga(*arguments, f"new.path={tmp_path}/new.txt"), "new.txt", ".jsonl")


def test_output_below_a_file(tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    for argument in (f"output={file}", f"output={file}/below", f"store={file}/below"):
        refused(kga(*TINY, FORGET, *NONE, f"output={tmp_path}/out", argument), str(file), "DIR")
        refused(kga("-m", *TINY, FORGET, *NONE, f"output={tmp_path}/out", argument), str(file), "DIR")
    assert file.read_text() == "kept"


def test_full_disk(tmp_path):
    """Wherever the disk runs full: before, while and after a model is trained."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for size in ("64k", "500k", "900k"):
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
        if mounted.returncode:
            pytest.skip("a small file system can't be mounted here")
        try:
            refused(kga(*TINY, FORGET, *MOVES, "method=finetune", f"output={disk}"), "disk is full")
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)  # models stay memory-mapped


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    refused(kga(*TINY, FORGET, *NONE, f"output={tmp_path}/out"), "output=")


def test_loss_that_is_not_finite_keeps_the_last_good_checkpoint(tmp_path, finished):
    import torch

    before = files(finished)
    arguments = (*TINY, FORGET, *NONE, "data.limit=16", "optim.lr=1e30", f"output={finished}")
    for _ in range(2):
        refused(kga(*arguments), "not finite", "update 2", "1e+30")
    (path,) = finished.glob("store/original/*.work/checkpoints/*.ckpt")
    state = torch.load(path, weights_only=True)
    assert state["global_step"] == 1
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())
    assert [result["status"] for result in results(finished).values()]
    after = files(finished)
    assert all(after[path] == content for path, content in before.items())


def test_traceback_on_demand(tmp_path):
    outcome = kga("seed=-1", f"output={tmp_path}", HYDRA_FULL_ERROR="1")
    assert outcome.code == 2 and outcome.errors[-1].startswith("kga: seed=-1")
    assert any(line.startswith("Traceback") for line in outcome.errors)


def test_fault_of_the_program_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    from kga import experiment

    def fault(*arguments: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(experiment, "make_splits", lambda *arguments, **options: fault())
    with pytest.raises(KeyError, match="a fault"):
        kga(*TINY, FORGET, *KGA, f"output={tmp_path}")
    assert results(tmp_path)["kga"]["status"] == "failed"


def test_own_process_prints_one_line(tmp_path):
    refused(apart("forget.size=0", f"output={tmp_path}"), "forget.size=0")
