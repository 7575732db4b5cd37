"""Collecting runs and averaging over seeds."""

import json
import math

import pytest
from helpers.fake_runs import fake_audit, fake_result, write_run

from kga.errors import UserError
from kga.report.collect import collect
from kga.report.tables import main_tables
from kga.report.tidy import aggregate, tidy


def sweep(root, alphas=(1.0,), seeds=(0, 1, 2), **changes):
    for alpha in alphas:
        for seed in seeds:
            result = fake_result(seed=seed, **changes)
            result["config"]["method"]["alpha"] = alpha
            share = 0.7 + 0.01 * seed + 0.1 * (alpha == 3.0)
            result["utility"]["unlearned"]["forget"] |= {"accuracy": share, "micro_f1": share}
            write_run(root / f"{changes.get('method', 'kga')}-{alpha}", result)
    return root


def test_collect_finds_each_run_once_and_keeps_the_unreadable(tmp_path):
    sweep(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").write_text("{")
    one = next((tmp_path / "a").rglob("result.json"))
    runs = collect([tmp_path, tmp_path / "a", one])
    assert len(runs) == 4 and [run.error is None for run in runs] == [True, True, True, False]
    assert "cannot be read" in runs[-1].error


@pytest.mark.parametrize("name", ["empty", "missing", "file.txt"])
def test_a_path_without_results_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    with pytest.raises(UserError, match=f"{name}: no result.json"):
        collect([tmp_path / name])


def test_mean_and_deviation_over_seeds(tmp_path):
    table = aggregate(tidy(collect([sweep(tmp_path)])))
    row = table[(table["role"] == "unlearned") & (table["split"] == "forget") & (table["metric"] == "accuracy")]
    assert row[["mean", "std", "seeds"]].to_numpy().tolist() == [[pytest.approx(0.71), pytest.approx(0.01), 3]]


def test_settings_are_not_averaged_and_shared_models_count_once(tmp_path):
    sweep(tmp_path, alphas=(1.0, 3.0))
    sweep(tmp_path, method="badt")
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert [(line["model"], line["setting"], line["seeds"]) for line in table.lines] == [
        ("noise floor", "", "3"),
        ("retrained (A_R)", "", "3"),
        ("original (A_D)", "", "3"),
        ("badt", "", "3"),
        ("kga", "method.alpha=1.0", "3"),
        ("kga", "method.alpha=3.0", "3"),
    ]
    assert [line["forget"] for line in table.lines[-2:]] == ["71.0 ± 1.0", "81.0 ± 1.0"]


def test_requests_tell_the_shared_models_apart_but_hardware_does_not(tmp_path):
    for size, accelerator in ((100, "cpu"), (200, "gpu")):
        result = fake_result()
        result["config"] |= {"forget": {"size": size}, "trainer": {"accelerator": accelerator}, "output": str(size)}
        write_run(tmp_path / str(size), result)
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert {line["setting"] for line in table.lines} == {"forget.size=100", "forget.size=200"}
    assert len(table.lines) == 8


def test_one_seed_has_no_deviation_and_nan_is_not_averaged_away(tmp_path):
    sweep(tmp_path / "one", seeds=(0,))
    (table,) = main_tables(aggregate(tidy(collect([tmp_path / "one"]))))
    assert table.lines[-1]["forget"] == "70.0"
    result = fake_result(seed=1)
    result["utility"]["unlearned"]["forget"]["accuracy"] = math.nan
    write_run(tmp_path / "two", result)
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert table.lines[-1]["forget"] == "nan" and table.lines[-1]["test"] == "74.0 ± 0.1"


def test_tasks_get_their_own_tables_and_metrics(tmp_path):
    for task in ("classification", "translation", "multilabel"):
        write_run(tmp_path / task, fake_result(task=task) | {"data": task})
    tables = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert [(table.title, table.metric) for table in tables] == [
        ("classification / classification / lstm", "accuracy"),
        ("classification / multilabel / lstm", "micro F1"),
        ("translation / translation / lstm", "token accuracy"),
    ]
    assert {table.lines[-1]["forget"] for table in tables} == {"73.8"}


def test_failed_runs_alone_give_no_tables(tmp_path):
    write_run(tmp_path, fake_result(status="failed", error="boom"))
    runs = collect([tmp_path])
    assert [run.error for run in runs] == ["boom"]
    assert main_tables(aggregate(tidy(runs))) == []


def test_a_seed_of_none_is_kept(tmp_path):
    folder = write_run(tmp_path, fake_result())
    result = json.loads((folder / "result.json").read_text()) | {"seed": None}
    (folder / "result.json").write_text(json.dumps(result))
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert table.lines[-1]["seeds"] == "1"


@pytest.mark.parametrize(("task", "bleu"), [("translation", "BLEU"), ("response", "BLEU-4")])
def test_generation_has_columns_of_its_own(tmp_path, task, bleu):
    for seed in (0, 2):
        write_run(tmp_path / str(seed), fake_result(task=task, seed=seed))
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert table.header[3:8] == ("test", "forget", "retain", "BLEU", "PPL")
    line = table.lines[-1]
    assert (line["test"], line["BLEU"], line["PPL"]) == ("73.9 ± 0.3", "29.3 ± 1.4", "2.46 ± 0.00")
    assert table.legend.startswith("Token accuracy in %") and f"; {bleu} of the outputs on test; " in table.legend


def test_classification_has_no_new_columns(tmp_path):
    write_run(tmp_path, fake_result())
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert table.header == ("model", "setting", "seeds", "test", "forget", "retain", "JSD", "ToW", "seconds")
    assert "BLEU" not in table.legend and "perplexity" not in table.legend


def test_large_perplexities_have_no_decimals_and_small_ones_two(tmp_path):
    for seed, perplexity in ((0, 1500.25), (1, 2500.75)):
        result = fake_result(task="translation", seed=seed)
        result["utility"]["unlearned"]["forget"]["perplexity"] = perplexity
        write_run(tmp_path / str(seed), result)
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert [line["PPL"] for line in table.lines[-2:]] == ["1.06 ± 0.00", "2000 ± 707"]


def test_the_metric_that_a_result_names_is_shown_and_older_results_join_it(tmp_path):
    """Accuracy and micro-F1 are equal here, so nothing but the name can tell."""
    for seed, named in ((0, None), (1, "micro_f1")):
        write_run(tmp_path / str(seed), fake_result(seed=seed, score_metric=named))
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert table.metric == "micro F1" and {line["seeds"] for line in table.lines} == {"2"}


def test_a_number_that_was_not_finite_is_not_left_out_of_the_mean(tmp_path):
    """JSON has no infinity: such a perplexity is null."""
    for seed in (0, 1):
        result = fake_result(task="translation", seed=seed)
        if seed:
            result["utility"]["unlearned"]["forget"]["perplexity"] = None
        write_run(tmp_path / str(seed), result)
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert [line["PPL"] for line in table.lines[-2:]] == ["1.06 ± 0.00", "nan"]


def test_how_a_run_is_evaluated_is_no_setting_but_what_is_generated_is(tmp_path):
    for batch_size, beams in ((8, 1), (16, 1), (8, 5)):
        result = fake_result(task="translation")
        generate = {"batch_size": batch_size, "beams": beams}
        result["config"]["evaluation"] = {"batch_size": batch_size, "noise_floor": batch_size, "generate": generate}
        write_run(tmp_path / f"{batch_size}-{beams}", result)
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert {line["setting"] for line in table.lines} == {"evaluation.generate.beams=1", "evaluation.generate.beams=5"}


def audited(root, seeds=(0, 1), method="kga", without=()):
    for seed in seeds:
        result = fake_result(seed=seed, method=method) | fake_audit()
        for attacks in result["membership"].values():
            for name in without:
                del attacks[name]
        result["membership"]["unlearned"]["lira_online"]["auc"] += 0.02 * seed
        write_run(root / method, result)
    return root


def test_attacks_have_a_column_of_their_own(tmp_path):
    write_run(tmp_path / "more", fake_result(method="none"))
    (table,) = main_tables(aggregate(tidy(collect([audited(tmp_path)]))))
    assert table.header[-4:] == ("JSD", "ToW", "MIA", "seconds") and "MIA: AUC of the loss attack" in table.legend
    assert {line["model"]: line["MIA"] for line in table.lines} == {
        "noise floor": "0.51 ± 0.00",
        "retrained (A_R)": "0.52 ± 0.00",
        "original (A_D)": "0.83 ± 0.00",
        "kga": "0.55 ± 0.00",
        "none": "-",
    }


def test_without_the_loss_attack_the_strongest_one_is_shown_in_all_lines(tmp_path):
    audited(tmp_path, without=("loss",))
    (table,) = main_tables(aggregate(tidy(collect([audited(tmp_path, method="badt", without=("loss",))]))))
    assert table.attack == "lira_online"
    assert [line["MIA"] for line in table.lines] == ["0.54 ± 0.00", "0.52 ± 0.00", "0.95 ± 0.00"] + ["0.72 ± 0.01"] * 2


def test_every_number_of_an_audit_is_in_the_tidy_frame(tmp_path):
    values = tidy(collect([audited(tmp_path, seeds=(0,))])).set_index(["role", "quantity", "split", "metric"])["value"]
    assert values["unlearned", "membership", "ulira_online", "retain_auc_low"] == pytest.approx(0.84)
    assert values["unlearned", "relearning", "", "updates_to_relearn"] == 15
    assert math.isnan(values["retrain", "relearning", "", "updates_to_relearn"])
    assert values["noise_floor", "distances", "", "cka_forget"] == 0.96
    assert values["original", "quantised", "nonmember", "accuracy"] == 0.73
    assert values["unlearned", "word", "nonmember", "rank"] == 7.5
    assert not {"updates", "on", "rest_loss"} & set(values.index.get_level_values("metric")), "single numbers alone"


def marks(root) -> dict[str, dict[str, str]]:
    values = tidy(collect([root]))
    (table,) = main_tables(aggregate(values), values)
    return {line["model"]: dict(line.marks) for line in table.lines}


def methods(root, **changed):
    """A run of each method with these tugs of war, forget utilities and JSD."""
    for method, (tow, forget, jsd) in changed.items():
        result = fake_result(method=method, score={"unlearned": {"tow": tow}})
        result["utility"]["unlearned"]["forget"] |= {"accuracy": forget, "micro_f1": forget}
        result["forgetting"]["unlearned"]["forget"]["jsd"] = jsd
        write_run(root / method, result)
    return root


def test_best_is_closest_to_the_retrained_model(tmp_path):
    """A_R is at 72.5 on forget: .72 is nearer than .74, which is nearer than .60."""
    found = marks(
        methods(tmp_path, high=(0.8, 0.74, 0.09), near=(0.9, 0.72, 0.08), far=(0.7, 0.60, 0.10), none=(1, 0.725, 0))
    )
    assert found["near"] == {"forget": "best", "JSD": "best", "ToW": "best"}
    assert found["high"] == {"forget": "second", "JSD": "second", "ToW": "second"}
    assert not any(found[name] for name in ("far", "none", "noise floor", "retrained (A_R)", "original (A_D)"))


def test_two_best_leave_no_second_and_one_method_is_not_marked(tmp_path):
    found = marks(methods(tmp_path / "a", a=(0.9, 0.7, 0.1), b=(0.9, 0.7, 0.2), c=(0.8, 0.6, 0.3)))
    assert [found[name].get("ToW") for name in "abc"] == ["best", "best", None]
    assert [found[name].get("JSD") for name in "abc"] == ["best", "second", None]
    assert "test" not in found["a"], "all alike"
    assert not any(marks(methods(tmp_path / "b", a=(0.9, 0.7, 0.1))).values())


def test_without_a_retrained_model_only_what_needs_none_is_marked(tmp_path):
    for method, seconds in (("a", 1.0), ("b", 2.0)):
        result = fake_result(method=method, noise_floor=False, forgetting={}, score={})
        del result["utility"]["retrain"]
        result["seconds"] = {"unlearn": seconds}
        write_run(tmp_path / method, result)
    found = marks(tmp_path)
    assert (found["a"], found["b"]) == ({"seconds": "best"}, {"seconds": "second"})


def test_a_number_that_is_not_finite_is_never_best(tmp_path):
    found = marks(methods(tmp_path, a=(math.nan, 0.7, 0.1), b=(0.8, 0.6, 0.2), c=(0.7, 0.5, 0.3)))
    assert [found[name].get("ToW") for name in "abc"] == [None, "best", "second"]


def test_requests_have_marks_and_models_of_their_own(tmp_path):
    for size, near in ((100, "a"), (20, "b")):
        for method in ("a", "b"):
            result = fake_result(method=method, score={"unlearned": {"tow": 0.9 if method == near else 0.8}})
            result["config"]["forget"]["size"] = size
            write_run(tmp_path / f"{size}{method}", result)
    values = tidy(collect([tmp_path]))
    (table,) = main_tables(aggregate(values), values)
    (first, small), (second, large) = table.requests
    assert (first, second) == ("forget.size=20", "forget.size=100")
    for lines, best in ((small, "b"), (large, "a")):
        assert [line["model"] for line in lines] == ["noise floor", "retrained (A_R)", "original (A_D)", "a", "b"]
        assert {line["model"]: line.marks.get("ToW") for line in lines[3:]}[best] == "best" and lines[3].own == ""
    assert "of each request" in table.marking


def offset(root, **methods):
    """Runs of methods whose forget accuracy is so many points from A_R's of the same seed, which moves from seed to seed."""
    for method, points in methods.items():
        for seed, distance in enumerate(points):
            result = fake_result(method=method, seed=seed, score={})
            target = 0.725 + 0.02 * seed
            for model, share in (("retrain", target), ("unlearned", target + distance / 100)):
                result["utility"][model]["forget"] |= {"accuracy": share, "micro_f1": share}
            write_run(root / method, result)
    return root


def test_errors_of_seeds_that_cancel_out_do_not_make_a_method_best(tmp_path):
    """10 points too much and 10 too little have a mean of 0, but are 10 points away."""
    found = marks(offset(tmp_path, extreme=(10, -10), close=(1, 1), middle=(3, -2)))
    assert [found[name].get("forget") for name in ("extreme", "close", "middle")] == [None, "best", "second"]


def test_what_one_seed_found_competes_with_nothing(tmp_path):
    found = marks(offset(tmp_path, lucky=(0,), a=(3, 3, 3), b=(4, 4, 4), c=(5, 5, 5)))
    assert [found[name].get("forget") for name in ("lucky", "a", "b", "c")] == [None, "best", "second", None]
    assert "lucky" in found and not found["lucky"]


def test_a_cell_of_fewer_seeds_says_so_and_is_not_marked(tmp_path):
    for method, auc, attacked in (("a", 0.52, 1), ("b", 0.6, 3), ("c", 0.7, 3)):
        for seed in range(3):
            result = fake_result(method=method, seed=seed)
            if seed < attacked:
                result |= {"membership": fake_audit()["membership"]}
                result["membership"]["unlearned"]["loss"]["auc"] = auc
            if seed == 2:
                del result["seconds"]["retrain"]
            write_run(tmp_path / method, result)
    values = tidy(collect([tmp_path]))
    (table,) = main_tables(aggregate(values), values)
    lines = {line["model"]: line for line in table.lines}
    assert {name: lines[name]["MIA"] for name in "abc"} == {"a": "0.52 (n=1)", "b": "0.60 ± 0.00", "c": "0.70 ± 0.00"}
    assert lines["a"]["seeds"] == "3" and lines["retrained (A_R)"]["seconds"] == "58.9 ± 0.0 (n=2)"
    assert [lines[name].marks.get("MIA") for name in "abc"] == [None, "best", "second"]


def test_where_only_one_seed_was_attacked_nothing_is_best(tmp_path):
    for method, auc in (("a", 0.52), ("b", 0.6)):
        for seed in range(2):
            result = fake_result(method=method, seed=seed) | (
                {} if seed else {"membership": fake_audit()["membership"]}
            )
            if not seed:
                result["membership"]["unlearned"]["loss"]["auc"] = auc
            write_run(tmp_path / method, result)
    assert not any("MIA" in line for line in marks(tmp_path).values())


def test_unlearning_that_was_stopped_is_counted_among_the_runs_that_tell_of_it(tmp_path):
    for seed, unlearning in enumerate(({"stopped": "a > g"}, {"stopped": None}, {})):
        write_run(tmp_path / str(seed), fake_result(seed=seed, unlearning=unlearning and {"updates": 9} | unlearning))
    (table,) = main_tables(aggregate(tidy(collect([tmp_path]))))
    assert table.lines[-1]["model"] == "kga (stopped early in 1)"


def test_distances_to_the_retrained_model_are_paired_by_seed(tmp_path):
    """+2 and -2 points to A_R of the same seed are 2 points away, though the means agree."""
    for seed, share in ((0, 0.745), (1, 0.703)):
        result = fake_result(seed=seed)
        result["utility"]["unlearned"]["forget"]["accuracy"] = share
        write_run(tmp_path / str(seed), result)
    table = aggregate(tidy(collect([tmp_path])))
    chosen = table[(table["split"] == "forget") & (table["metric"] == "accuracy")].set_index("role")
    assert chosen.loc["unlearned", "distance"] == pytest.approx(0.02) and chosen.loc["retrain", "distance"] == 0
