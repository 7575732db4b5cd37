"""In what runs differ."""

import copy

import pytest
from helpers.fake_runs import fake_audit, fake_result, write_run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from kga import config
from kga.paths import config_dir
from kga.report.collect import collect
from kga.report.settings import decides, flat, in_order, settings_of, varying
from kga.report.tables import main_tables
from kga.report.tidy import aggregate, tidy


def test_keys_that_a_choice_brings_along_are_not_told():
    easy = {"forget": "easy", "forget.size": 150, "forget.by": "loss"}
    other = {"forget": "random", "forget.size": 150}
    assert varying([easy, other], decides) == ["forget"]
    assert varying([easy, easy | {"forget.by": "memorisation"}, other], decides) == ["forget", "forget.by"]


def test_a_key_that_only_some_have_counts_where_nothing_explains_it():
    assert varying([{"model.x": 1}, {}], decides) == ["model.x"]


def test_the_choice_of_a_request_stands_for_its_target(tmp_path):
    for name in ("easy", "hard"):
        result = fake_result()
        choices = {"task": "classification", "data": "d", "model": "m", "method": "kga", "forget": name}
        result["config"] |= {
            "choices": choices,
            "forget": {"_target_": f"kga.data.forget.{name}", "size": None, "by": "loss"},
        }
        result["config"] |= {"sweep": name, "launcher": {"name": name}}
        write_run(tmp_path / name, result)
    found = settings_of(collect([tmp_path])).values()
    assert sorted(setting.whole for setting in found) == ["forget=easy", "forget=hard"]


def test_null_is_written_as_the_command_line_has_it(tmp_path):
    for size in (None, 100):
        result = fake_result()
        result["config"]["new"] = {"size": size}
        write_run(tmp_path / str(size), result)
    assert {setting.request for setting in settings_of(collect([tmp_path])).values()} == {
        "new.size=null",
        "new.size=100",
    }


def audited(root, shadows: int, auc: float, seed: int = 0, **attack):
    result = fake_result(seed=seed) | fake_audit()
    result["config"]["attack"] = {"shadows": shadows, "bootstrap": 1000, "population": {"signals": None}} | attack
    result["membership"]["unlearned"]["lira_online"]["auc"] = auc
    write_run(root / f"{shadows}-{seed}-{len(attack)}", result)


def test_findings_of_differently_set_attacks_are_not_averaged(tmp_path):
    for seed in (0, 1):
        audited(tmp_path, 4, 0.6, seed)
        audited(tmp_path, 16, 0.8, seed)
    values = tidy(collect([tmp_path]))
    table = aggregate(values)
    aucs = table[(table["role"] == "unlearned") & (table["metric"] == "auc")].set_index("split")
    assert aucs.loc["lira_online, attack.shadows=4", ["mean", "seeds"]].tolist() == [pytest.approx(0.6), 2]
    assert aucs.loc["lira_online, attack.shadows=16", ["mean", "seeds"]].tolist() == [pytest.approx(0.8), 2]
    utility = table[(table["role"] == "unlearned") & (table["quantity"] == "utility")]
    assert utility["seeds"].eq(2).all() and not utility["split"].str.contains("attack").any(), (
        "one model, attacked twice"
    )
    (main,) = main_tables(table, values)
    assert (
        len(main.lines) == 4
        and main.attack.startswith("loss, attack.shadows=")
        and main.lines[-1]["MIA"] == "0.55 ± 0.00"
    )


def test_another_request_may_be_attacked_otherwise(tmp_path):
    """Nothing there could be averaged: the names stay, and every line has its number."""
    for size, shadows in ((100, 4), (200, 8)):
        result = fake_result() | fake_audit()
        result["config"] |= {"forget": {"size": size}, "attack": {"shadows": shadows}}
        write_run(tmp_path / str(size), result)
    values = tidy(collect([tmp_path]))
    (main,) = main_tables(aggregate(values), values)
    assert main.attack == "loss" and [line["MIA"] for line in main.lines] == ["0.51", "0.52", "0.83", "0.55"] * 2


def test_another_attack_beside_changes_no_name(tmp_path):
    audited(tmp_path, 8, 0.6)
    audited(tmp_path, 8, 0.6, seed=1, relearn={"updates": 40})
    write_run(tmp_path / "none", fake_result(seed=2))
    values = tidy(collect([tmp_path]))
    assert not values["split"].str.contains("attack").any()


def test_settings_are_sorted_as_people_do():
    texts = ["a=10", "a=3", "a=1e-05", "forget=hard", "forget=easy", "forget=random", "a=0.5"]
    assert sorted(texts, key=in_order) == [
        "a=1e-05",
        "a=0.5",
        "a=3",
        "a=10",
        "forget=easy",
        "forget=random",
        "forget=hard",
    ]


# What names a run, though the same A* comes out of it; what is told apart otherwise; and what is averaged over.
NAMES_ALONE = ("reference", "evaluation.noise_floor", "evaluation.batch_size", "evaluation.generate.batch_size")
TOLD_OTHERWISE = ("choices", "attack", "seed")


def composed() -> dict:
    """The whole config, as plain values, with a key of each group that decides nothing."""
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", overrides=["trainer=ddp", "attack=population", "launcher=slurm", "logger=wandb"])
    OmegaConf.set_struct(cfg, False)
    del cfg.choices  # it needs a running Hydra
    return OmegaConf.to_container(cfg, resolve=True) | {"choices": {}, "hparams": {"trials": 1}}


def changed(cfg: dict, key: str) -> dict:
    """The config with another value there."""
    copied = copy.deepcopy(cfg)
    *sections, last = key.split(".")
    section = copied
    for name in sections:
        section = section[name]
    section[last] = "another value"
    return copied


def test_what_decides_a_runs_key_is_a_setting_and_what_does_not_is_none():
    cfg = composed()
    keys = [key for key in flat(cfg) if key.split(".")[0] not in TOLD_OTHERWISE]
    named = {key for key in keys if config.run_key(changed(cfg, key), "") != config.run_key(cfg, "")}
    assert {"trainer.precision", "trainer.frozen_dtype", "data.seed", "method.helpers.seed"} <= named
    assert {"evaluation.watch", "forget.list", "trainer.devices", "sweep", "output", "hparams.trials"} <= {
        *keys
    } - named
    assert {key for key in keys if decides(key)} == named - {*NAMES_ALONE}


@pytest.mark.parametrize(("key", "value"), [("evaluation", {"watch": 0}), ("hparams", {"trials": 3})])
def test_runs_that_differ_in_what_only_loggers_see_are_seeds_of_one_setting(tmp_path, key, value):
    for seed in (0, 1):
        result = fake_result(seed=seed)
        result["config"] |= {key: value} if seed else {}
        result["config"].setdefault("evaluation", {"watch": 20})
        write_run(tmp_path / str(seed), result)
    assert {setting.whole for setting in settings_of(collect([tmp_path])).values()} == {""}


@pytest.mark.parametrize("key", ["precision", "frozen_dtype", "deterministic"])
def test_runs_of_one_seed_that_compute_otherwise_are_not_merged(tmp_path, key):
    for value in (1, 2):
        result = fake_result()
        result["config"]["trainer"] = {"devices": value, key: value}
        write_run(tmp_path / str(value), result)
    table = aggregate(tidy(collect([tmp_path])))
    assert sorted(table["request"].unique()) == [f"trainer.{key}=1", f"trainer.{key}=2"]


def test_a_seed_of_a_part_is_a_setting_unless_it_is_the_runs_own():
    own = [{"seed": seed, "method.seed": seed, "data.seed": 0} for seed in (0, 1)]
    assert varying(own, decides) == []
    other = [{"seed": seed, "method.seed": seed, "data.seed": data} for seed in (0, 1) for data in (0, 1)]
    assert varying(other, decides) == ["data.seed"]
