"""The plan of a sweep: what it counts is what is trained; how long it takes comes from what such models took."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.cli import FORGET, KGA, TINY, kga, models
from hydra import compose, initialize_config_dir

from kga import config, hashing
from kga.inputs import data_alone, data_fingerprint, load_corpus
from kga.ledger import Ledger
from kga.paths import config_dir
from kga.sweeps.plan import lines, needed


def job(store: Path, *overrides: str) -> SimpleNamespace:
    """A run as a sweep knows it."""
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", overrides=[*TINY, *overrides, f"store={store}"], return_hydra_config=True)
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg = config.resolved(cfg)
    corpus = load_corpus(cfg)
    book = Ledger(store, cfg, data_alone(corpus, cfg), data_fingerprint(corpus, cfg))
    return SimpleNamespace(number=0, cfg=cfg, ledger=book, sizes={name: len(t) for name, t in corpus.splits.items()})


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (("method=none", "reference=none"), {"original": 1}),
        (("method=kga",), {"original": 1, "retrained": 1, "helpers": 2, "unlearned": 1}),
        (("method=retrain", "reference=none"), {"original": 1, "retrained": 1}),
        (("method=badt", "evaluation.noise_floor=2"), {"original": 1, "retrained": 3, "unlearned": 1}),
        (("method=finetune", "attack=population"), {"original": 1, "retrained": 2, "unlearned": 1}),
        (("method=finetune", "attack=rmia", "attack.shadows=4"), {"original": 5, "retrained": 1, "unlearned": 1}),
        (("method=none", "forget=hard", "forget.by=memorisation", "forget.shadows=2"), {"original": 3, "retrained": 1}),
    ],
)
def test_every_model_that_a_run_needs_is_counted(overrides, expected, tmp_path):
    found = list(needed(job(tmp_path, FORGET, *overrides)))
    assert Counter(model.kind for model in found) == expected
    assert len({model.name for model in found}) == len(found)
    assert not any(model.there for model in found)


def test_halves_of_d_serve_every_request(tmp_path):
    """Of the four of this seed the store holds one each, whoever asks: another request, size, method, or D_n."""
    by = ("forget.by=memorisation", "method=finetune")
    same = ((FORGET, "forget=easy"), ("forget.size=7", "forget=hard"), (FORGET, "forget=easy", "new.size=6"))
    jobs = [job(tmp_path, *request, *by) for request in same]
    models = {model.name: model for one in jobs for model in needed(one)}.values()
    counts = Counter(model.short for model in models)
    assert counts["models of halves of D"] == 4 and counts["A_D"] == 1 and "shadow models" not in counts
    other = {model.name for model in needed(job(tmp_path, FORGET, "forget=easy", *by, "forget.shadows=2", "seed=1"))}
    assert not other & {model.name for model in models}


def test_sisa_is_told_with_its_parts(tmp_path):
    (model,) = [model for model in needed(job(tmp_path, FORGET, "method=sisa")) if model.kind == "sisa"]
    assert model.short == "SISA (4 shards x 3 slices)"


def test_the_type_of_frozen_models_is_part_of_what_is_unlearned(tmp_path):
    plain, bf16 = (
        {model.title: model.name for model in needed(job(tmp_path, FORGET, *more))}
        for more in ((), ("trainer.frozen_dtype=bfloat16",))
    )
    assert {title for title in plain if plain[title] != bf16[title]} == {"A*"}


def test_a_models_folder_is_read_once_unless_it_changes(tmp_path, monkeypatch):
    """Each run of a sweep asks for it."""
    (tmp_path / "weights").write_text("one")
    read = []
    monkeypatch.setattr(hashing, "file_digest", lambda path: read.append(path) or path.read_text())
    assert hashing.folder_digest(tmp_path) == hashing.folder_digest(tmp_path) and len(read) == 1
    before = hashing.folder_digest(tmp_path)
    (tmp_path / "weights").write_text("other")
    assert hashing.folder_digest(tmp_path) != before and len(read) == 2


def test_what_a_run_has_made_is_there_for_others(tmp_path):
    """By kind, whether it is there: for another alpha, another D_n, another request, another seed."""
    ran = kga(
        *TINY, FORGET, *KGA, "data.size=200", "forget.size=12", f"output={tmp_path}", "attack=rmia", "attack.shadows=4"
    )
    assert ran.code == 0, ran.errors
    store = tmp_path / "store"
    assert len(models(store, "original")) == 5
    same = ("data.size=200", "forget.size=12", *KGA)

    def there(*overrides: str) -> dict[str, bool]:
        return {model.title: model.there for model in needed(job(store, *same, *overrides))}

    helpers = {"A_f on the forget set": True, "A_n on the new set": True}
    base = {"A_D on D": True, "A_R on D without the forget set": True}
    assert there() == base | helpers | {"A*": True}
    assert there("method.alpha=3") == base | helpers | {"A*": False}
    assert there("new.size=6") == base | helpers | {"A_n on the new set": False, "A*": False}
    assert there("forget.size=10") == {"A_D on D": True} | dict.fromkeys([*list(base)[1:], *helpers, "A*"], False)
    assert not any(there("seed=1").values())
    attacked = there("method.alpha=3", "attack=rmia", "attack.shadows=4")
    assert sum(found for title, found in attacked.items() if title.startswith("shadow")) == 4


def test_the_time_is_that_of_such_models(tmp_path):
    """2,000 s for each A_D and A_R, 2 s an example: two seeds, one run after another, and two at a time.

    Evaluation of a run: 3 models, 2,000 + 5 + 20 examples, a third of 2 s each.
    """
    known = job(tmp_path, FORGET, "method=none", "seed=7")
    for kind, title in (("original", "A_D on D"), ("retrained", "A_R on D without the forget set")):
        known.ledger.note(kind, title, tmp_path, 2000.0, units=1000.0)
    jobs = [job(tmp_path, FORGET, "method=none", f"seed={seed}") for seed in (0, 1)]
    for number, one in enumerate(jobs):
        one.number = number
    said = lines(jobs, workers=1)
    assert said[0] == "to train: 2 A_D, 2 A_R (4 models)"
    minutes = {"1": lines(jobs, 1)[1], "2": lines(jobs, 2)[1]}
    assert "about 4 h 28 min" in minutes["1"]  # 2 x (2,000 + 2,000 + 4,050 + 5) s
    assert "about 2 h 14 min with 2 runs at a time" in minutes["2"]


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (("model.max_length=100000",), "model.max_length=100000"),
        (("trainer=fsdp",), "trainer.strategy=fsdp"),
    ],
)
def test_a_plan_is_made_though_no_update_can_be_timed(overrides, why, tmp_path):
    """The run itself tells what is wrong; others may be as they should."""
    said = lines([job(tmp_path, FORGET, "method=none", *overrides)], workers=1)
    assert said[0] == "to train: 1 A_D, 1 A_R (2 models)"
    assert "not known" in said[1] and why in said[1] and len(said[1]) < 200


def test_nothing_is_timed_where_runs_are_made_elsewhere(tmp_path):
    said = lines([job(tmp_path, FORGET, "method=none")], workers=4, probe=False)
    assert "not known" in said[1]
