"""Relearning: the curves against fits and passes of their own, undisturbed training, resuming, what is found and refused."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import contract, sequences, tiny
from helpers.contract import HARDWARE
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from kga import config
from kga.attacks.probe import Probe
from kga.attacks.relearn import Relearn, Watch
from kga.data.batching import supervised
from kga.data.forget import Random
from kga.data.splits import Split, make_splits
from kga.errors import UserError
from kga.evaluation import evaluate
from kga.models.ensemble import Ensemble
from kga.optim import Optim
from kga.paths import config_dir
from kga.store import Store
from kga.study import Study
from kga.tasks.classification import Classification, labels_head
from kga.training import fit

RATES = {"lr": 5e-3, "batch_size": 4, "schedule": "constant", "warmup": 0}


def make_study(root, size=20, **options) -> Study:
    splits = make_splits(tiny.corpus(train=150), Random(size), seed=0)
    splits = replace(splits, sets=splits.sets | {"nonmember": Split("train", splits["holdout"].rows[:12])})
    optim = Optim(epochs=6, batch_size=16, lr=5e-3)
    return Study(splits, Classification, tiny.family(dropout=0.2), labels_head(tiny.LABELS, False), optim, Store(root),
                 HARDWARE, 0, **options)  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def models(study):
    return {"original": study.original(), "retrain": study.retrained(), "unlearned": study.retrained(1)}


def probe(**options) -> Relearn:
    return Relearn(RATES, **({"updates": 7, "every": 3} | options))


def weights(task) -> dict:
    return {name: value.clone() for name, value in task.model.state_dict().items()}


# The curve ----------------------------------------------------------------------------------------------------------


def test_the_curve_is_that_of_fits_of_their_own(study, models):
    """Fits that end at each watched update, evaluated the ordinary way."""
    found = probe().run(study, models, study.splits.sets)["retrain"]
    assert found["updates"] == [0, 3, 6, 7] and found["examples"] == 10 and found["on"] == "forget"
    seen, rest = probe()._parted(study.splits.sets, 0)
    views = {"seen": study.view(seen), "rest": study.view(rest), "test": study.view(study.splits["test"])}
    for place, updates in enumerate(found["updates"]):
        optim = Optim(**RATES, epochs=7, updates=updates)
        task = study.load(models["retrain"], optim)
        if updates:
            fit(task, supervised(views["seen"], optim, 0), optim=optim, hardware=HARDWARE, seed=0,
                work=study.store.root / f"by-hand-{updates}", description="by hand")  # fmt: skip
        utility = evaluate({"m": task}, views, HARDWARE, 128)[0]["m"]
        assert found["seen_loss"][place] == pytest.approx(utility["seen"]["loss"], rel=1e-4)
        assert found["rest_loss"][place] == pytest.approx(utility["rest"]["loss"], rel=1e-4)
        assert found["rest_utility"][place] == pytest.approx(utility["rest"]["accuracy"])
        if updates in (0, 7):
            assert found["test_utility"][bool(updates)] == pytest.approx(utility["test"]["accuracy"])
    assert found["seen_loss"][-1] < found["seen_loss"][0] and len(found["test_utility"]) == 2


def test_what_is_found_follows_from_the_curves(study, models):
    found = probe().run(study, models, study.splits.sets)
    for values in found.values():
        assert values["recovered"] == values["rest_utility"][-1] - values["rest_utility"][0]
        assert values["recovered_minus_retrain"] == values["recovered"] - found["retrain"]["recovered"]
    assert found["retrain"]["recovered_minus_retrain"] == 0.0
    assert found["original"]["updates_to_relearn"] == 0
    assert (
        "recovered_minus_retrain"
        not in probe().run(study, {name: models[name] for name in ("original", "unlearned")}, study.splits.sets)[
            "unlearned"
        ]
    )


def curve(*losses) -> dict:
    return {"updates": [0, 5, 10], "seen_loss": list(losses), "rest_loss": [1.0] * 3, "rest_utility": [0.5, 0.75, 0.625],
            "test_utility": [0.5, 0.5]}  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "original", "tau", "threshold", "expected"),
    [
        ((2.0, 1.05, 0.2), 1.0, 0.1, 0.0, 5),
        ((2.0, 1.05, 0.2), 1.0, 0.0, 0.0, 10),
        ((2.0, 1.05, 0.2), 0.1, 0.1, 0.05, None),
        ((2.0, 1.05, 0.2), 0.1, 0.1, 0.3, 10),
        ((0.9, 1.5, 1.5), 1.0, 0.0, 0.0, 0),
    ],
)
def test_the_first_look_at_which_the_loss_is_as_low_as_the_originals(
    study, monkeypatch, losses, original, tau, threshold, expected
):
    curves = {"original": curve(original, 0.0, 0.0), "unlearned": curve(*losses)}
    monkeypatch.setattr(Relearn, "_curve", lambda self, study, name, *more: curves[name])
    found = probe(tau=tau, threshold=threshold).run(study, curves, study.splits.sets)
    assert found["unlearned"]["updates_to_relearn"] == expected
    assert found["unlearned"]["recovered"] == 0.125  # the end, not the best


# What is trained on and watched -------------------------------------------------------------------------------------


def test_the_part_and_the_rest_are_the_forget_set(study):
    seen, rest = probe(part=0.25)._parted(study.splits.sets, 0)
    assert (len(seen), len(rest)) == (5, 15)
    assert sorted([*seen.rows, *rest.rows]) == sorted(study.splits["forget"].rows)
    assert not np.array_equal(seen.rows, probe(part=0.25)._parted(study.splits.sets, 1)[0].rows)


def test_related_text_is_the_non_members_and_all_of_the_forget_set_is_watched(study, models):
    seen, rest = probe(on="related")._parted(study.splits.sets, 0)
    assert np.array_equal(seen.rows, study.splits["nonmember"].rows)
    assert np.array_equal(rest.rows, study.splits["forget"].rows)
    found = probe(on="related").run(study, models, study.splits.sets)["original"]
    assert found["on"] == "related" and found["examples"] == 12
    forgotten = evaluate({"m": study.load(models["original"])}, {"forget": study.examples("forget")}, HARDWARE, 8)[0][
        "m"
    ]
    assert found["rest_utility"][0] == pytest.approx(forgotten["forget"]["accuracy"])


def test_no_more_than_the_limit_is_looked_at(study, models, monkeypatch):
    sizes = []
    monkeypatch.setattr(Watch, "__init__", _telling(Watch.__init__, sizes))
    found = probe(limit=6).run(study, {"original": models["original"]}, study.splits.sets)
    assert sizes == [{"seen": 6, "rest": 6, "test": 6}] and found["original"]["examples"] == 10


def _telling(init, sizes: list):
    def tell(self, sets, *more):
        sizes.append({name: len(examples) for name, examples in sets.items()})
        init(self, sets, *more)

    return tell


def test_findings_are_kept_for_a_model_whatever_it_is_called(study, models, monkeypatch):
    before = probe().run(study, models, study.splits.sets)
    monkeypatch.setattr("kga.attacks.relearn.fit", None)  # whatever is computed again would fail
    assert (
        probe(tau=0.5).run(study, models, study.splits.sets)["retrain"]["rest_loss"] == before["retrain"]["rest_loss"]
    )
    swapped = {"original": models["original"], "unlearned": models["retrain"]}
    assert probe().run(study, swapped, study.splits.sets)["unlearned"]["rest_loss"] == before["retrain"]["rest_loss"]
    with pytest.raises(TypeError):
        probe(every=2).run(study, models, study.splits.sets)


# Training -----------------------------------------------------------------------------------------------------------

WORLDS = {
    **contract.WORLDS,
    "multi_label": partial(tiny.classifier, multi_label=True),
}


def relearned(task, work, *callbacks, updates: int = 6):
    """The task after a fit, with those callbacks."""
    optim = Optim(**RATES, epochs=updates, updates=updates)
    task.optim = optim
    fit(task, supervised(tiny.examples(8, 3, task), optim, 0), optim=optim, hardware=HARDWARE, seed=0, work=work,
        description="test", callbacks=callbacks)  # fmt: skip
    return task


def watch_of(task, every: int = 2, last: int = 6) -> Watch:
    sets = {name: tiny.examples(6, seed, task) for seed, name in enumerate(("seen", "rest", "test"), 3)}
    return Watch(sets, every, last, 4)


@pytest.mark.parametrize("world", WORLDS)
def test_watching_changes_nothing(tmp_path, world):
    """With dropout: the same weights to the bit, of every kind of model."""
    plain = relearned(WORLDS[world](dropout=0.3), tmp_path / "plain")
    task = WORLDS[world](dropout=0.3)
    watch = watch_of(task)
    start = weights(task)
    relearned(task, tmp_path / "watched", watch)
    assert watch.curve["updates"] == [0, 2, 4, 6] and len(watch.curve["test_utility"]) == 2
    assert all(np.isfinite(values).all() for values in watch.curve.values())
    for name, value in plain.model.state_dict().items():
        assert torch.equal(task.model.state_dict()[name], value), name
    assert any(not torch.equal(value, start[name]) for name, value in task.model.state_dict().items())


class Stop(Exception):
    """Ends a fit."""


class StopAt(pl.Callback):
    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.update:
            raise Stop


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_curve_survives_being_killed(tmp_path, at):
    """Checkpoints are made every two updates, at the ends of epochs."""
    whole = watch_of(tiny.classifier())
    expected = relearned(tiny.classifier(dropout=0.3), tmp_path / "whole", whole)
    with pytest.raises(Stop):
        relearned(tiny.classifier(dropout=0.3), tmp_path / "cut", watch_of(tiny.classifier()), StopAt(at))
    again = watch_of(tiny.classifier())
    task = relearned(tiny.classifier(dropout=0.3), tmp_path / "cut", again)
    assert again.curve == whole.curve
    assert all(torch.equal(value, weights(task)[name]) for name, value in weights(expected).items())


@pytest.mark.parametrize("aggregate", ["mean", "vote"])
def test_an_ensemble_relearns_as_one(tmp_path, aggregate):
    """SISA's models: gradients flow through the mean into every member; votes, which jump, come down in the end."""
    first, second = tiny.classifier(0), tiny.classifier(1)
    task = Classification(Ensemble([first.model, second.model], aggregate), first.tokenizer, first.max_length)
    start, watch = weights(task), watch_of(task, every=5, last=40)
    relearned(task, tmp_path, watch, updates=40)
    for member in ("members.0.classifier.weight", "members.1.classifier.weight"):
        assert not torch.equal(task.model.state_dict()[member], start[member])
    assert watch.curve["seen_loss"][-1] < watch.curve["seen_loss"][0]


def test_an_ensemble_that_writes_relearns_too(tmp_path):
    first, second = sequences.translator(seed=0), sequences.translator(seed=1)
    task = type(first)(Ensemble([first.model, second.model]), first.tokenizer, first.max_length)
    watch = watch_of(task)
    relearned(task, tmp_path, watch)
    assert watch.curve["seen_loss"][-1] < watch.curve["seen_loss"][0]


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "translation", "response"])
def test_the_settings_of_the_config_build_it(task):
    config.register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        both = [compose("config", [f"task={task}", f"attack={name}", "evaluation.batch_size=9"])
                for name in ("relearn", "quantised")]  # fmt: skip
    relearn, quantised = (OmegaConf.to_container(cfg.attack, resolve=True) for cfg in both)
    built = config.build(relearn, "relearn")
    assert isinstance(built, Probe) and built.optim.updates == 40 and built.optim.schedule == "constant"
    assert built.optim.lr == both[0].model.recommended.unlearning_lr
    assert built.batch_size == config.build(quantised, "quantised").batch_size == 9
    with pytest.raises(UserError, match="relearn has no option parts"):
        config.build({"relearn": relearn["relearn"] | {"parts": 1}}, "relearn")


@pytest.mark.parametrize(
    "options",
    [{"part": 0}, {"part": 1.0}, {"on": "both"}, {"updates": 0}, {"every": 2.5}, {"limit": None}, {"batch_size": True},
     {"tau": -1}, {"threshold": "low"}],
)  # fmt: skip
def test_impossible_settings_are_refused_with_their_key(options):
    with pytest.raises(UserError, match=rf"attack\.relearn\.{next(iter(options))}=") as caught:
        probe(**options)
    assert "\n" not in str(caught.value)


def test_the_length_is_said_once():
    with pytest.raises(UserError, match=r"attack\.relearn\.optim\.updates"):
        Relearn(RATES | {"updates": 3})


def test_a_part_without_a_rest_is_refused_before_training(study):
    probe().require(study), probe(on="related").require(study)
    with pytest.raises(UserError, match=r"attack\.relearn\.part=0\.99 of 20"):
        probe(part=0.99).require(study)
    empty = {name: Split("train", np.empty(0, np.int64)) for name in ("nonmember", "holdout")}
    without = study.world(study.splits.sets | empty, 0, "")
    probe().require(without)
    with pytest.raises(UserError, match="on=related needs unseen examples"):
        probe(on="related").require(without)
