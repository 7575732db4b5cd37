"""What the reports say of unlearning itself: that it was stopped, what a method found, how its phases went."""

import pandas as pd
import pytest
from helpers.fake_runs import fake_result, write_run

from kga.report import figures
from kga.report.collect import collect
from kga.report.run import write_run_report
from kga.report.summary import verdict
from kga.report.tables import main_tables
from kga.report.tidy import aggregate, tidy

STOPPED = {"updates": 7, "stopped": "diverged: the loss of the next update was not finite"}


def test_a_run_that_was_stopped_says_so_first():
    assert verdict(fake_result(unlearning=STOPPED))[0] == (
        "Unlearning was stopped after 7 updates: diverged: the loss of the next update was not finite."
    )
    assert "stopped" not in verdict(fake_result(unlearning={"updates": 60, "stopped": None}))[0]


def test_the_collected_table_counts_the_runs_that_were_stopped(tmp_path):
    for seed, unlearning in enumerate((STOPPED, STOPPED, {"updates": 60, "stopped": None})):
        write_run(tmp_path, fake_result(seed=seed, unlearning=unlearning))
    write_run(tmp_path, fake_result(method="finetune", unlearning={"updates": 60, "stopped": None}))
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    names = {line["model"] for line in table.lines}
    assert "kga (stopped early in 2)" in names and "finetune" in names


def test_the_page_shows_what_a_method_found(tmp_path):
    found = {"updates": 0, "stopped": None, "redone_share": 0.25, "expected_share": 0.2,
             "chosen": {"layer.0:3": 0.5, "layer.1:<b>": 0.25}}  # fmt: skip
    page = write_run_report(write_run(tmp_path, fake_result(unlearning=found))).read_text()
    assert "Training that the request repeated" in page and "Chosen: 2 of 2" in page
    assert "layer.0:3" in page and "<b>" not in page, "names from a model are escaped"


def test_phases_are_drawn_apart(tmp_path):
    updates = pd.DataFrame({"update": [1, 2, 3], "phase": ["max", "max", "min"], "forget": [1.0, 2.0, None],
                            "retain": [None, None, 0.5], "loss": [-1.0, -2.0, 0.5], "lr": [1e-3] * 3})  # fmt: skip
    folder = write_run(tmp_path, fake_result(unlearning={"updates": 3, "stopped": None}), updates=updates)
    page = write_run_report(folder).read_text()
    assert "Phases: 2 updates of the max phase and 1 updates of the min phase" in page
    assert "max phase: forget term" in page


@pytest.mark.parametrize("values", [{"one": 1.0}, {str(number): number for number in range(20)}])
def test_every_bar_is_named(values):
    drawn = figures.bars(values, "share")
    assert all(f">{name}<" in drawn for name in values)
