"""Records of sweeps, and runs without a result."""

import json

import pandas as pd
import pytest
from helpers.fake_runs import fake_result, write_run
from helpers.fake_sweeps import write_record

from kga.errors import UserError
from kga.report import writers
from kga.report.cli import main
from kga.report.collect import search
from kga.report.gather import gather


def folder(root, name, *files):
    path = root / "runs" / name
    path.mkdir(parents=True)
    for file in files:
        (path / file).touch()
    return path


def test_runs_that_were_begun_or_wanted_are_found_once(tmp_path):
    done = write_run(tmp_path, fake_result())
    cut, gone = folder(tmp_path, "cut", ".lock", "splits.parquet"), folder(tmp_path, "unknown", ".lock")
    folder(tmp_path, "empty")
    (tmp_path / "store" / "original" / "abc").mkdir(parents=True)
    (tmp_path / "store" / "original" / "abc" / ".lock").touch()
    jobs = [(("a=1",), done, "completed", None), (("a=2",), cut, "pending", None), (("a=3",), None, "failed", "a is 3"),
            (("a=4",), tmp_path / "runs" / "never", "failed", "cancelled")]  # fmt: skip
    write_record(tmp_path / "sweeps" / "one", jobs)
    write_record(tmp_path / "sweeps" / "two", jobs[:2])
    found = search([tmp_path, tmp_path / "runs"])
    assert len(found.runs) == 1 and len(found.records) == 2
    assert [(lost.name, lost.state, lost.overrides, lost.error, lost.sweep) for lost in found.missing] == [
        ("cut", "pending", ("a=2",), None, "one"),
        ("no folder", "failed", ("a=3",), "a is 3", "one"),
        ("never", "failed", ("a=4",), "cancelled", "one"),
        (gone.name, "begun", (), None, ""),
    ]


def test_a_result_that_was_deleted_is_told(tmp_path):
    sweep = write_record(tmp_path / "sweeps" / "one", [(("a=1",), tmp_path / "runs" / "x", "completed", None)])
    assert search([sweep]).missing[0].state == "completed, its result is gone"


def test_the_folder_of_a_sweep_stands_for_its_runs(tmp_path):
    runs = [write_run(tmp_path / str(seed), fake_result(seed=seed)) for seed in range(3)]
    sweep = write_record(
        tmp_path / "sweeps" / "s", [((f"seed={i}",), runs[i], "completed", None) for i in (0, 2)], "kga -m seed=0,2"
    )
    found = search([sweep])
    assert [run.result["seed"] for run in found.runs] == [0, 2] and found.missing == []
    assert [run.result["seed"] for run in search([sweep, tmp_path / "1"]).runs] == [0, 1, 2]
    html, *tables = writers.write(gather([sweep]), ["html", "csv"], sweep)
    assert [path.parent for path in (html, *tables)] == [sweep] * 3
    assert "<h1>Sweep s</h1>" in html.read_text() and "kga -m seed=0,2" in html.read_text()
    assert sorted(pd.read_csv(tables[0])["seed"].unique()) == [0, 2]
    assert len(search([sweep]).runs) == 2, "the report that lies there now is no run"


def test_the_record_of_a_sweep_stands_for_its_runs_as_its_folder_does(tmp_path, capsys):
    runs = [write_run(tmp_path / str(seed), fake_result(seed=seed)) for seed in range(3)]
    jobs = [(("seed=0",), runs[0], "completed", None), (("seed=2",), tmp_path / "runs" / "never", "pending", None)]
    sweep = write_record(tmp_path / "sweeps" / "s", jobs)
    assert main([str(sweep / "sweep.json"), "--output", str(tmp_path / "out")]) == 0
    assert "1 runs, 0 of them failed, 1 more without a result" in capsys.readouterr().out
    assert "<h1>Sweep s</h1>" in (tmp_path / "out" / "report.html").read_text()
    assert pd.read_csv(tmp_path / "out" / "values.csv")["seed"].dropna().unique().tolist() == [0]


def test_one_sweep_among_other_runs_does_not_name_the_report(tmp_path):
    runs = [write_run(tmp_path / str(seed), fake_result(seed=seed)) for seed in range(2)]
    write_record(tmp_path / "sweeps" / "s", [(("seed=0",), runs[0], "completed", None)])
    (html,) = writers.write(gather([tmp_path]), ["html"], tmp_path / "out")
    assert "<h1>Collected runs</h1>" in html.read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"jobs": 3}', '{"jobs": [3]}', '{"jobs": [{"overrides": 3}]}'])
def test_a_broken_record_is_named(tmp_path, text):
    path = tmp_path / "sweep.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"sweep.json: not the record of a sweep"):
        search([tmp_path])


def test_nothing_but_missing_runs_is_a_report_too(tmp_path):
    sweep = write_record(tmp_path / "s", [(("a=1",), tmp_path / "runs" / "x", "pending", None)])
    (html, *_) = writers.write(gather([sweep]), ["html", "csv", "parquet", "latex", "markdown"], sweep)
    assert "a=1" in html.read_text() and "pending" in html.read_text()
    assert json.loads((sweep / "sweep.json").read_text())["jobs"]
