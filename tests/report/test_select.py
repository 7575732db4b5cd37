"""The tuning rule over trials: by validation utility and unseen examples alone."""

import pandas as pd
import pytest
from helpers.fake_runs import fake_result, write_run

from kga.errors import UserError
from kga.report.cli import main
from kga.report.collect import collect
from kga.report.gather import gather
from kga.report.select import select
from kga.report.subject import subjects
from kga.report.tidy import tidy


def trials(*rows: tuple[str, str, float, float, float, float]) -> pd.DataFrame:
    """Rows of (method, setting, validation of A_D, validation of A*, A* on D_f, A_D on D_n)."""
    names = ("validation_original", "validation_unlearned", "forget_unlearned", "new_original")
    table = [
        {"task": "t", "data": "d", "model": "m", "score_metric": "accuracy", "role": "unlearned", "method": method, "request": "",
         "setting": setting, "quantity": "selection", "split": "", "metric": name, "value": value, "seed": 100}
        for method, setting, *values in rows
        for name, value in zip(names, values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(table).astype({"seed": "Int64"})


def chosen(*rows) -> list[str]:
    table = select(trials(*rows))
    return list(table[table["chosen"]]["setting"])


def test_the_smallest_gap_among_trials_that_keep_their_utility():
    assert chosen(("a", "keeps", 0.80, 0.79, 0.70, 0.60), ("a", "nearer", 0.80, 0.781, 0.63, 0.60),
                  ("a", "ruined", 0.80, 0.70, 0.60, 0.60)) == ["nearer"]  # fmt: skip


def test_of_equal_gaps_the_smaller_loss():
    assert chosen(("a", "dear", 0.80, 0.79, 0.7, 0.6), ("a", "cheap", 0.80, 0.795, 0.7, 0.6)) == ["cheap"]


def test_a_method_keeps_to_its_own_settings():
    """Settings of one method do not become trials of another."""
    table = select(trials(("a", "x", 0.8, 0.8, 0.7, 0.6), ("b", "y", 0.8, 0.8, 0.9, 0.6)))
    assert list(table[["method", "setting"]].itertuples(index=False, name=None)) == [("a", "x"), ("b", "y")]


def test_the_gap_counts_in_both_directions():
    assert chosen(("a", "over", 0.8, 0.8, 0.45, 0.60), ("a", "under", 0.8, 0.8, 0.70, 0.60)) == ["under"]


def test_where_every_trial_loses_too_much_the_mildest_is_taken():
    assert chosen(("a", "bad", 0.8, 0.6, 0.6, 0.6), ("a", "mild", 0.8, 0.75, 0.9, 0.6)) == ["mild"]


def test_one_choice_per_method():
    assert chosen(("a", "x", 0.8, 0.8, 0.7, 0.6), ("b", "y", 0.8, 0.8, 0.9, 0.6), ("b", "z", 0.8, 0.8, 0.8, 0.6)) == [
        "x",
        "z",
    ]


def test_better_on_validation_than_the_original_is_no_loss():
    table = select(trials(("a", "x", 0.8, 0.9, 0.7, 0.6)))
    assert table["validation_loss"].item() == pytest.approx(-0.1)
    assert table["gap"].item() == pytest.approx(0.1)


def write_trial(root, seed, alpha=1.0, method="kga", **changes):
    """A run's folder with a setting of its method and a seed."""
    floor = changes.pop("noise_floor", 0)
    result = fake_result(seed=seed, method=method, noise_floor=bool(floor), **changes)
    result["config"]["method"]["alpha"] = alpha
    result["config"]["evaluation"] = {"noise_floor": floor}
    write_run(root / f"{method}-{alpha}-{seed}-{floor}", result)


def seeds_counted(root) -> dict[tuple[str, str], int]:
    table = select(tidy(collect([root])))
    return {(row.method, row.setting): row.seeds for row in table.itertuples()}


def test_two_seeds_of_a_setting_count_two_whatever_lies_beside_them(tmp_path):
    for seed in (100, 101):
        write_trial(tmp_path, seed, alpha=1.0)
        write_trial(tmp_path, seed, alpha=3.0)
        write_trial(tmp_path, seed, method="finetune")
    write_trial(tmp_path, 101, alpha=1.0, noise_floor=1)  # the same trial, with another retrained model beside it
    write_trial(tmp_path, 0, alpha=1.0)  # a result with the setting that was chosen
    write_trial(tmp_path, 102, alpha=1.0, status="failed", error="NaN at update 3")
    assert seeds_counted(tmp_path) == {
        ("finetune", ""): 2,
        ("kga", "method.alpha=1.0"): 2,
        ("kga", "method.alpha=3.0"): 2,
    }


def test_a_noise_floor_beside_one_seed_splits_no_setting(tmp_path):
    write_trial(tmp_path, 100, noise_floor=0)
    write_trial(tmp_path, 101, noise_floor=2)
    assert seeds_counted(tmp_path) == {("kga", ""): 2}


def test_results_choose_nothing(tmp_path):
    """On the seeds of the results alpha=3 looks better; on those of the trials alpha=1 is."""
    for seed, alpha, forget in ((100, 1.0, 0.62), (100, 3.0, 0.70), (0, 1.0, 0.90), (0, 3.0, 0.60)):
        selection = fake_result()["selection"] | {"forget_unlearned": forget}
        write_trial(tmp_path, seed, alpha=alpha, selection=selection)
    table = select(tidy(collect([tmp_path])))
    assert list(table[table["chosen"]]["setting"]) == ["method.alpha=1.0"]
    assert table["gap"].tolist() == pytest.approx([0.02, 0.10])


def told(root, capsys) -> dict[str, str]:
    """What the report says, by format."""
    assert main([str(root / "runs"), "--to", "html,csv,latex,markdown", "--output", str(root / "out")]) == 0
    files = {end: (root / "out" / f"report.{end}").read_text() for end in ("html", "tex", "md")}
    return {name: " ".join(text.split()) for name, text in (files | {"terminal": capsys.readouterr().out}).items()}


def test_trials_beside_results_are_in_no_table_test_or_figure(tmp_path, capsys):
    """With the trials kga would be at 85.5 % over four seeds, and ahead of npo."""
    for seed, share, tow in ((0, 0.7, 0.8), (1, 0.72, 0.82), (100, 1.0, 0.99), (101, 1.0, 0.99)):
        for method, ahead in (("kga", 0.0 if seed < 100 else 0.01), ("npo", 0.005)):
            result = fake_result(seed=seed, method=method, score={"unlearned": {"tow": tow + ahead}})
            result["utility"]["unlearned"]["forget"] |= {"accuracy": share, "micro_f1": share}
            write_run(tmp_path / "runs" / f"{method}-{seed}", result)
    said = told(tmp_path, capsys)
    collected = gather([tmp_path / "runs"])
    (table,) = collected.tables
    assert {line["seeds"] for line in table.lines} == {"2"} and table.lines[-2]["forget"] == "71.0 ± 1.4"
    (comparison,) = table.comparisons
    assert (comparison.best, comparison.pairs) == ("npo", 2)
    (subject,) = subjects(collected)
    assert sorted({run.result["seed"] for run in subject.runs}) == [0, 1] == sorted(subject.values["seed"].unique())
    left_out = "Left out: 4 trials (seeds of 100 and above), which choose settings; values.csv has all."
    assert [text.count(left_out) for text in said.values()] == [1, 1, 1, 1]
    assert sorted(pd.read_csv(tmp_path / "out" / "values.csv")["seed"].unique()) == [0, 1, 100, 101]
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")["seeds"]) == {2}


def test_trials_alone_are_shown_as_such(tmp_path, capsys):
    for seed in (100, 101):
        write_trial(tmp_path / "runs", seed)
    for seed in (0, 100):
        write_trial(tmp_path / "runs" / "other", seed, data="reviews")
    said = told(tmp_path, capsys)
    tables = {table.group[1]: table for table in gather([tmp_path / "runs"]).tables}
    assert tables["embedded"].lines[-1]["seeds"] == "2" and tables["reviews"].lines[-1]["seeds"] == "1"
    note = "These are trials (seeds of 100 and above), which choose settings: they are no results."
    assert [text.count(note) for text in said.values()] == [1, 1, 1, 1]
    assert tables["reviews"].trials.startswith("Left out: 1 trial (")


def test_without_trials_nothing_is_chosen(tmp_path):
    write_trial(tmp_path, 0)
    result = fake_result()
    write_run(tmp_path, result | {"seed": None})
    with pytest.raises(UserError, match="--select: no completed run has a seed of 100 or above"):
        select(tidy(collect([tmp_path])))


def test_without_unseen_examples_the_gap_is_unknown(tmp_path):
    selection = fake_result()["selection"]
    del selection["new_original"]
    write_trial(tmp_path, 100, selection=selection)
    table = select(tidy(collect([tmp_path])))
    assert table["gap"].isna().all() and table["chosen"].all()
