"""Caches in the store: shared by the runs that need the same, and by no others."""

from dataclasses import replace

import pytest
from helpers import tiny
from helpers.contract import HARDWARE

from kga.data.forget import Random
from kga.data.splits import make_splits
from kga.errors import UserError
from kga.methods.kga import KGA
from kga.methods.npo import NPO
from kga.optim import Optim
from kga.store import Store
from kga.study import Study
from kga.tasks.classification import Classification, labels_head

OPTIM = Optim(epochs=1, batch_size=16, lr=1e-3)


@pytest.fixture(scope="module")
def corpus():
    return tiny.corpus(train=150, groups=20)


def study(corpus, root, *, precision="32-true", length=32) -> Study:
    splits = make_splits(corpus, Random(10), seed=0)
    hardware = HARDWARE | {"precision": precision}
    return Study(splits, Classification, tiny.family(max_length=length), labels_head(tiny.LABELS, False), OPTIM,
                 Store(root), hardware, 0)  # fmt: skip


def kga(**options) -> KGA:
    return KGA(**({"retain_batches": 1, "optim": {"updates": 3, "batch_size": 8}} | options))


def caches(root) -> set:
    return {path.parent.name for path in (root / "frozen").glob("*/manifest.json")}


def test_a_second_alpha_runs_no_frozen_model(corpus, tmp_path, monkeypatch):
    first = study(corpus, tmp_path)
    once = first.forget(kga(), {"alpha": 1.0})
    kept = caches(tmp_path)
    assert len(kept) == 3  # gaps on D_n, A_D on the drawn part of D_r, A_f on D_f
    second, loaded = study(corpus, tmp_path), []
    load = second.load
    monkeypatch.setattr(second, "load", lambda trained, *more: loaded.append(trained.key) or load(trained, *more))
    again = second.forget(kga(alpha=0.5), {"alpha": 0.5})
    assert caches(tmp_path) == kept
    assert {*loaded} == {first.original().key}  # for the student and to name the helpers; A_f and A_n are never read
    made, reused = (outcome.unlearned.meta["cache_seconds"] for outcome in (once, again))
    assert reused > 0.2 * made > 0  # what the caches cost is part of the request's cost, also where they were found


def test_caches_give_the_same_model_as_none(corpus, tmp_path):
    made = study(corpus, tmp_path)
    states = [
        made.load(made.forget(kga(cache=cache), {"cache": cache}).unlearned).model.state_dict()
        for cache in ("exact", "none")
    ]
    for name, value in states[0].items():
        assert (value - states[1][name]).abs().max() < 1e-5


@pytest.mark.parametrize("change", [{"precision": "bf16-mixed"}, {"length": 5}])
def test_what_changes_predictions_makes_caches_of_its_own(corpus, tmp_path, change):
    study(corpus, tmp_path).forget(kga(), {})
    before = caches(tmp_path)
    study(corpus, tmp_path, **change).forget(kga(), {})
    assert len(caches(tmp_path)) == 2 * len(before)


def test_other_draws_of_the_retain_set_are_another_cache(corpus, tmp_path):
    study(corpus, tmp_path).forget(kga(), {})
    before = caches(tmp_path)
    study(corpus, tmp_path).forget(kga(retain_batches=2), {"retain_batches": 2})
    assert len(caches(tmp_path) - before) == 1


def test_a_damaged_cache_is_made_again(corpus, tmp_path):
    study(corpus, tmp_path).forget(kga(), {})
    for path in (tmp_path / "frozen").glob("*/tensors.safetensors"):
        path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    said = []
    made = study(corpus, tmp_path)
    made.store = replace_say(made.store, said)
    made.forget(kga(alpha=0.5), {"alpha": 0.5})
    assert len([text for text in said if "does not match its checksum" in text]) == 3


def replace_say(store: Store, said: list) -> Store:
    return Store(store.root, said.append)


def test_reference_likelihoods_are_numbers_per_example(corpus, tmp_path):
    made = study(corpus, tmp_path)
    made.forget(NPO(optim=replace(OPTIM, updates=2)), {})
    (cache,) = caches(tmp_path)
    size = (tmp_path / "frozen" / cache / "tensors.safetensors").stat().st_size
    assert size < 10 * 4 + 200


def test_a_form_that_a_model_has_not_is_refused_before_anything_is_trained(corpus, tmp_path):
    with pytest.raises(UserError, match=r"method\.cache=hidden needs an output layer"):
        kga(cache="hidden").require(study(corpus, tmp_path))
    assert not (tmp_path / "original").exists()
