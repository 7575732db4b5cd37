"""Several processes at one run: they share out every update, agree, and give what one process gives."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import several, tiny
from helpers.cli import KGA, TINY, apart, kga, models
from helpers.several import DDP, METHODS
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from kga import config, ranks
from kga.attacks.shadows import spread
from kga.data.batching import Ordered, Updates
from kga.errors import UserError
from kga.objective import StandIn, backpropagate
from kga.paths import config_dir

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # of weights after some updates with a high learning rate, float32


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Sharing out, in one process that is asked as each rank in turn -----------------------------------------------------


def as_rank(monkeypatch, number: int, count: int) -> None:
    monkeypatch.setattr(ranks, "rank", lambda: number)
    monkeypatch.setattr(ranks, "world_size", lambda: count)


def drawn(step, name) -> list[int]:
    batch = step.get(name, {"index": torch.tensor([], dtype=torch.int64)})
    return [] if isinstance(batch, StandIn) else batch["index"].tolist()


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 2}, {"micro_batch_tokens": 30}, {"aligned": True}])
def test_ranks_together_draw_what_one_process_draws(monkeypatch, count, options):
    """For uneven batches, too; all make the same number of steps, with batches of the same sets."""
    sets = {"forget": tiny.examples(13, 1), "new": tiny.examples(5, 2), "retain": tiny.examples(22, 3)}

    def stream() -> list:
        made = Updates(sets, lambda update: [("forget", "new"), ("retain",)], 4, 0, **options)
        return [list(update) for _ in range(2) for update in made]

    whole = stream()
    parts = []
    for number in range(count):
        as_rank(monkeypatch, number, count)
        parts.append(stream())
    assert {len(part) for part in parts} == {len(whole)}
    for update, *shares in zip(whole, *parts, strict=True):
        for name in sets:
            expected = [row for step in update for row in drawn(step, name)]
            found = [row for share in shares for step in share for row in drawn(step, name)]
            assert Counter(found) == Counter(expected)
        assert all(len({tuple(step) for step in steps}) == 1 for steps in zip(*shares, strict=True))
    if options.get("aligned"):
        pairs = [(x, y) for update in whole for step in update if "new" in step
                 for x, y in zip(drawn(step, "forget"), drawn(step, "new"), strict=True)]  # fmt: skip
        shared = [(x, y) for part in parts for update in part for step in update if "new" in step
                  for x, y in zip(drawn(step, "forget"), drawn(step, "new"), strict=True)]  # fmt: skip
        assert Counter(shared) == Counter(pairs)


@pytest.mark.parametrize("size", [1, 16, 17, 40])
def test_ranks_take_evaluation_batches_by_turns(monkeypatch, size):
    examples = tiny.examples(size)
    whole = [batch["index"].tolist() for batch in Ordered(examples, 8)]
    shares = []
    for number in range(3):
        as_rank(monkeypatch, number, 3)
        loader = Ordered(examples, 8)
        shares.append(list(loader))
        assert len(shares[-1]) == len(loader)
    turns = [batch for turn in zip(*shares, strict=True) for batch in turn if not isinstance(batch, StandIn)]
    assert [batch["index"].tolist() for batch in turns] == whole


def test_a_stand_in_counts_nothing():
    """Its gradient is nought, not missing: the ranks' gradients are added up by parameter."""
    task = tiny.classifier()
    batch = tiny.examples(4, task=task).batch(np.arange(4))
    means, loss = backpropagate(task.objective, task, [{"train": StandIn(batch)}], lambda value: value.backward())
    assert (means, loss) == ({"train": 0.0}, 0.0)
    assert all(p.grad is not None and not p.grad.any() for p in task.model.classifier.parameters())


def test_ranks_go_through_worlds_in_one_order(monkeypatch):
    monkeypatch.setattr(ranks, "broadcast", lambda value: 4)
    assert list(spread(["a", "b", "c"])) == ["b", "c", "a"]


# Two processes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of the same fits by one process and by two."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    several.fits({"folder": str(one)})
    ranks.launch(several.fits, several.configured(two))
    return one, two


@pytest.mark.parametrize("name", ["supervised", "generation", *METHODS])
def test_two_processes_train_what_one_trains(fitted, name):
    """Dropout off: the same losses, validation values and weights (1e-5)."""
    one, two = fitted
    expected, found = (torch.load(folder / f"{name}.pt") for folder in fitted)
    if name == "supervised":
        assert found == pytest.approx(expected, abs=1e-5)
    else:
        pd.testing.assert_frame_equal(pd.DataFrame(found), pd.DataFrame(expected), rtol=1e-5, atol=1e-5)
    start = load_file(one / f"{name}.safetensors")
    for key, value in load_file(two / f"{name}.safetensors").items():
        torch.testing.assert_close(value, start[key], **CLOSE)


def test_ranks_drop_different_units_and_agree_on_the_rest(fitted):
    first, second = torch.load(fitted[1] / "random.pt", weights_only=False)
    assert first["torch"] != second["torch"]
    assert first["numpy"] == second["numpy"] and first["weights"] == second["weights"]


def test_nothing_is_left_of_the_group(fitted):
    assert not torch.distributed.is_initialized() and ranks.world_size() == 1


FAILURES = {
    "mistake": (UserError, "^one line$"),
    "mistake here": (UserError, "one line of the first"),
    "fault": (ValueError, "a fault of the second"),
    "killed": (UserError, "process 2 of 2 was ended from outside .exit code 9"),
}


@pytest.mark.parametrize(
    "how", ["mistake", "killed", *(pytest.param(how, marks=pytest.mark.slow) for how in ("mistake here", "fault"))]
)
def test_a_rank_that_fails_ends_all_and_is_named(tmp_path, how):
    kind, message = FAILURES[how]
    started = time.monotonic()
    with pytest.raises(kind, match=message):
        ranks.launch(several.fails, several.configured(tmp_path, how=how))
    assert time.monotonic() - started < 60
    assert not torch.distributed.is_initialized()


# Whole commands -----------------------------------------------------------------------------------------------------

NO_DROPOUT = tuple(f"model.config.{name}=0" for name in ("dropout", "attention_dropout", "seq_classif_dropout"))
COMMAND = (*TINY, *KGA, *NO_DROPOUT, "forget.size=12", "data.size=150", "attack=relearn")
DDP_COMMAND = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")


def numbers(value, place=()) -> dict[tuple, float]:
    """Every number of a result by its place, but for what differs from run to run."""
    if isinstance(value, dict):
        items = [
            (name, part) for name, part in value.items() if name not in ("seconds", "cost", "environment", "config")
        ]
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {place: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}
    return {key: number for name, part in items for key, number in numbers(part, (*place, name)).items()}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory) -> tuple[Path, Path]:
    """The output folders of a sweep over two seeds, by one process and by two."""
    one, two = (tmp_path_factory.mktemp("sweep") / name for name in ("one", "two"))
    outcome = apart("-m", "seed=0,1", *COMMAND, *DDP_COMMAND, f"output={two}", f"hydra.sweep.dir={two}")
    assert outcome.code == 0, outcome.errors
    assert outcome.out.count("Report:") == 2  # one process speaks
    for seed in (0, 1):
        assert kga(f"seed={seed}", *COMMAND, f"output={one}").code == 0
    return one, two


def by_seed(output: Path) -> dict[int, dict]:
    found = [json.loads(path.read_text()) for path in output.glob("runs/*/result.json")]
    assert len(found) == 2
    return {result["seed"]: result for result in found}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_by_two_processes_has_the_result_of_one(sweeps, seed):
    """Every number of the result within 1e-3, under the same key."""
    one, two = (by_seed(output)[seed] for output in sweeps)
    assert one["key"] == two["key"]
    expected, found = numbers(one), numbers(two)
    assert found.keys() == expected.keys() and len(found) > 100
    for place, number in expected.items():
        assert found[place] == pytest.approx(number, rel=1e-3, abs=1e-3), place


def test_each_part_is_made_once_and_written_by_one(sweeps):
    kinds = [{path.name: len(models(output / "store", path.name)) for path in (output / "store").iterdir()}
             for output in sweeps]  # fmt: skip
    assert kinds[0] == kinds[1]
    for output in sweeps:
        assert not [*output.glob("store/*/*.work"), *output.glob("store/*/*.new")]
        assert len([*output.glob("runs/*/report.html")]) == len([*output.glob("runs/*/examples.parquet")]) == 2


@pytest.mark.slow
def test_a_mistake_in_the_middle_of_a_run_is_one_line(tmp_path):
    """One that is found when the processes are at work."""
    outcome = apart(*TINY, "forget.size=100000", *DDP_COMMAND, f"output={tmp_path}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith("kga: the forget set has")


# Settings -----------------------------------------------------------------------------------------------------------


def test_fsdp_composes_and_is_refused_without_gpus(tmp_path, monkeypatch):
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        trainer = compose("config", overrides=["trainer=fsdp"]).trainer
    assert (trainer.strategy, trainer.devices, trainer.accelerator) == ("fsdp", 2, "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for more in ((), ("trainer.accelerator=cpu",)):
        outcome = kga("trainer=fsdp", "forget.size=5", *more, f"output={tmp_path}")
        assert outcome.code == 2 and len(outcome.errors) == 1
        assert outcome.errors[0].startswith("kga: trainer=fsdp needs GPUs")


@pytest.mark.parametrize("overrides", [("trainer.devices=2",), ("trainer=ddp", "trainer.strategy=dpp"),
                                       ("trainer=ddp", "trainer.devices=0"), ("trainer=ddp", "trainer.num_nodes=x")])  # fmt: skip
def test_hardware_that_no_run_is_made_for_is_refused(tmp_path, overrides):
    outcome = kga("forget.size=5", *overrides, f"output={tmp_path}")
    assert outcome.code == 2 and len(outcome.errors) == 1
    assert outcome.errors[0].startswith(f"kga: {overrides[-1].split('=')[0]}")


def test_several_machines_need_a_launcher():
    with pytest.raises(UserError, match="torchrun or srun"):
        ranks.launch(print, {"trainer": DDP | {"num_nodes": 2}})


def test_processes_of_a_launcher_must_be_as_many_as_asked_for(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="asks for 2 processes, the launcher started 3"):
        ranks.launch(print, {"trainer": DDP})


def test_one_process_of_ddp_starts_no_others():
    assert ranks.launch(lambda cfg: ranks.world_size(), {"trainer": DDP | {"devices": 1}}) == 1
