"""One damaged result among others: it is told, and the report is written."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.fake_runs import fake_audit, fake_result, write_run
from helpers.fake_sweeps import held

from kga.report.cli import main
from kga.report.collect import collect

# Not read by tables and figures, or a table of its own.
UNREAD = ("status", "error", "key", "splits", "signatures", "cut", "environment", "task", "data", "model")
CURVES = held(fake_result() | fake_audit())


def complete(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A result with everything that a result can have."""
    result = fake_result(seed=seed) | fake_audit() | {"unlearning": {"updates": 20, "stopped": None, "cache": "none"}}
    result["config"]["choices"] = {"forget": "random", "method": "kga"}
    return result | {"curves": CURVES} | changes


def put(result: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    """The result with this value there."""
    changed = section = copy.deepcopy(result)
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    return changed


def rewrite(root: Path, result: dict[str, Any]) -> Path:
    """A run's folder with a result that need not be one."""
    folder = write_run(root, complete())
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("utility", "unlearned", "forget"), None, "utility.unlearned.forget is null and not an object"),
        (
            ("utility", "unlearned", "forget", "accuracy"),
            "high",
            'utility.unlearned.forget.accuracy is "high" and not a number',
        ),
        (("curves",), "x", 'curves is "x" and not an object'),
        (("curves", "updates", "g"), [0.5], "curves.updates.g is [0.5] and not a list of 60 numbers"),
        (
            ("curves", "updates", "update"),
            [1, 1],
            "curves.updates.update is [1, 1] and not a list of rising numbers above 0",
        ),
        (("score", "unlearned", "tow"), 10**400, f"score.unlearned.tow is {'1' + 38 * '0'}… and not a number"),
        (("seed",), "abc", 'seed is "abc" and not a whole number of 0 or more'),
        (("seed",), 2**70, "seed is 1180591620717411303424 and not a whole number of 0 or more"),
        (("schema",), 2, "schema 2; this kga reads 1"),
        (("schema",), None, "schema null; this kga reads 1"),
        (("config",), [1], "config is [1] and not an object"),
        (("method",), {"name": "kga"}, 'method is {"name": "kga"} and not a text'),
    ],
)
def test_a_damaged_result_is_a_failed_run_and_the_report_is_written(tmp_path, capsys, path, value, said):
    write_run(tmp_path / "good", complete())
    damaged = rewrite(tmp_path / "bad", put(complete(seed=1), path, value))
    assert main([str(tmp_path), "--to", "csv", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"failed: {damaged}: cannot be read ({said})" in printed and "2 runs, 1 of them failed" in printed
    failed = pd.read_csv(tmp_path / "out" / "values.csv").query("status == 'failed'")
    assert failed["error"].tolist() == [f"cannot be read ({said})"]
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["seeds"].eq(1).all()


def test_a_failed_run_that_is_damaged_too_is_told(tmp_path):
    write_run(tmp_path, complete() | {"status": "failed", "error": "boom", "seed": "abc"})
    (run,) = collect([tmp_path])
    assert run.error == 'cannot be read (seed is "abc" and not a whole number of 0 or more)'
    assert run.result == {"task": "classification", "data": "embedded", "model": "lstm", "method": "kga",
                          "score_metric": "accuracy", "status": "failed"}  # fmt: skip


@pytest.mark.parametrize("without", ["schema", "config", "curves", "membership", "seed", "score_metric", "cost"])
def test_what_is_missing_or_null_is_no_damage(tmp_path, without):
    kept = {name: value for name, value in complete().items() if name != without}
    rewrite(tmp_path / "missing", kept)
    rewrite(tmp_path / "null", kept if without == "schema" else kept | {without: None})
    assert [run.error for run in collect([tmp_path])] == [None, None]


def places(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every place of a result; where many alike lie side by side, the first two."""
    if isinstance(value, dict):
        for name in list(value) if len(path) < 1 else list(value)[:2]:
            yield (*path, name)
            yield from places(value[name], (*path, name))


def test_whatever_stands_in_a_result_there_is_a_report(tmp_path):
    write_run(tmp_path / "good", complete())
    names = [path for path in places(complete()) if path[0] not in UNREAD]
    assert len(names) > 60
    for number, path in enumerate(names):
        for kind, value in enumerate((None, "x", [[1], None], {"x": {"y": "z"}}, math.nan)):
            rewrite(tmp_path / f"{number}-{kind}", put(complete(seed=1 + 10 * number + kind), path, value))
    assert main([str(tmp_path), "--to", "html,csv,parquet,latex,markdown", "--output", str(tmp_path / "out")]) == 0
    assert not pd.read_csv(tmp_path / "out" / "summary.csv").query("role == 'unlearned'").empty


def test_a_gap_that_was_not_finite_is_a_hole_in_its_curve(tmp_path):
    updates = CURVES["updates"]
    result = put(complete(), ("curves", "updates", "a"), [None, *updates["a"][1:]])
    assert collect([rewrite(tmp_path, result)])[0].error is None
    assert main([str(tmp_path), "--to", "html", "--output", str(tmp_path / "out")]) == 0
    assert "Gap alignment" in (tmp_path / "out" / "report.html").read_text()
