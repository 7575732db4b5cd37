"""Which models a study trains, what names them, and what they are trained on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.contract import HARDWARE
from safetensors.torch import load_file

from kga.build import require_inputs
from kga.data.forget import Group, Random
from kga.data.splits import make_splits
from kga.errors import UserError
from kga.methods.base import Helper, Statistic
from kga.methods.finetune import Finetune
from kga.methods.kga import KGA
from kga.methods.none import NoUnlearning
from kga.methods.retrain import Retrain
from kga.optim import Optim
from kga.store import Store
from kga.study import Study
from kga.tasks.classification import Classification, labels_head

OPTIM = Optim(epochs=1, batch_size=16, lr=1e-3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def corpus():
    return tiny.corpus(train=150, groups=20)


def study(corpus, root, *, seed=0, size=10, optim=OPTIM, request=None, **options) -> Study:
    splits = make_splits(corpus, request or Random(size), seed=seed, **options.pop("splits", {}))
    head = labels_head(tiny.LABELS, False)
    return Study(splits, Classification, tiny.family(), head, optim, Store(root), HARDWARE, seed, **options)


def weights(study: Study, trained) -> dict:
    return study.load(trained).model.state_dict()


def made(root, kind: str) -> int:
    return len(list((root / kind).glob("*/manifest.json")))


def test_the_original_model_never_depends_on_the_request(corpus, root):
    keys = {
        study(corpus, root, size=10).original().key,
        study(corpus, root, size=25).original().key,
        study(corpus, root, request=Group(12)).original().key,
    }
    assert len(keys) == 1
    assert study(corpus, root, seed=1).original().key not in keys


def test_a_second_study_trains_nothing(corpus, root):
    first, again = study(corpus, root), study(corpus, root)
    first.original(), first.retrained()
    before = {kind: made(root, kind) for kind in ("original", "retrained", "encodings", "tokenizers")}
    again.original(), again.retrained()
    assert {kind: made(root, kind) for kind in before} == before


@pytest.mark.parametrize(
    "change", [{"lr": 2e-3}, {"epochs": 2}, {"batch_size": 8}, {"warmup": 0.5}, {"weight_decay": 0.0}]
)
def test_whatever_changes_training_changes_the_name(corpus, root, change):
    other = study(corpus, root, optim=replace(OPTIM, **change))
    assert other.original().key != study(corpus, root).original().key


def test_retrained_models_differ_by_seed_alone(corpus, root):
    here = study(corpus, root)
    first, second = here.retrained(0), here.retrained(1)
    assert first.key != second.key
    assert any(not torch.equal(value, weights(here, second)[name]) for name, value in weights(here, first).items())


def test_the_original_keeps_two_epoch_ends(corpus, root):
    here = study(corpus, root, optim=replace(OPTIM, epochs=3))
    folder = here.original().folder / "epoch_ends"
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_retrain_takes_as_many_epochs_as_the_original_stopped_after(corpus, root):
    optim = Optim(epochs=8, batch_size=8, lr=0.05, patience=1, schedule="constant", clip=None)
    here = study(corpus, root, optim=optim)
    assert here.original().meta["epochs"] == here.retrained().meta["epochs"]


def test_retrain_is_the_retrained_model_and_none_the_original(corpus, root):
    here = study(corpus, root)
    assert here.unlearned(Retrain(), {}, here.original(), {}).key == here.retrained().key
    assert here.unlearned(NoUnlearning(), {}, here.original(), {}).key == here.original().key


@pytest.mark.parametrize("start", ["pretrained", "scratch", "original"])
def test_helpers_start_where_they_are_told(corpus, root, start):
    """Without a single change by training (a learning rate of next to nothing), a helper is its start."""
    here = study(corpus, root)
    helper = here.helper("forget_helper", Helper("forget", start=start, optim={"lr": 1e-12, "weight_decay": 0.0}))
    expected = (
        weights(here, here.original()) if start == "original" else here._initial(start, 0, OPTIM).model.state_dict()
    )
    for name, value in weights(here, helper).items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0)


def test_a_share_of_the_retain_set_joins_the_helpers(corpus, root):
    here = study(corpus, root)
    helper = Helper("forget", retain_share=0.5, seed=3)
    forget, retain = here.splits["forget"].rows, here.splits["retain"].rows
    extra = here._extra(helper, forget)
    assert set(extra) <= set(retain)
    assert 0.35 < len(extra) / len(retain) < 0.65
    assert np.array_equal(extra, here._extra(helper, forget)), "the same seed draws the same share"
    assert not np.array_equal(extra, here._extra(replace(helper, seed=0), forget))


def test_shared_examples_that_repeat_the_set_are_left_out_on_request(root):
    corpus = tiny.corpus(train=150, groups=20)
    doubled = corpus.train.select([*range(150), *range(150)]).remove_columns(["id", "content", "input_hash"])
    from kga.data.corpus import make_corpus

    twice = make_corpus(
        "twice", "classification", {"train": doubled, "test": corpus.test.select_columns(["text", "label", "group"])}
    )
    here = study(twice, root)
    forget = here.splits["forget"].rows
    texts = twice.train["input_hash"]
    own = {texts[row] for row in forget}

    def repeats(dedupe: bool) -> list[int]:
        extra = here._extra(Helper("forget", retain_share=0.99, dedupe=dedupe), forget)
        return [row for row in extra if texts[row] in own]

    assert repeats(dedupe=False)
    assert not repeats(dedupe=True)


def test_unlearned_models_are_kept_too(corpus, root):
    here = study(corpus, root)
    settings = {"name": "finetune", "updates": 2}
    method = lambda: Finetune(Optim(updates=2, batch_size=8, lr=1e-3))  # noqa: E731
    first = here.unlearned(method(), settings, here.original(), {})
    again = here.unlearned(method(), settings, here.original(), {})
    other = here.unlearned(method(), settings | {"updates": 3}, here.original(), {})
    assert first.folder == again.folder
    assert first.key != other.key
    assert (first.folder / "updates.csv").read_text().count("\n") == 3
    assert first.meta["peak_memory_bytes"] > 1e6


def test_kga_reports_what_helpers_and_caches_cost(corpus, root):
    here = study(corpus, root)
    method = KGA(optim={"updates": 2, "batch_size": 8}, helpers={"optim": {"epochs": 1}})
    helpers = {name: here.helper(name, helper) for name, helper in method.helpers().items()}
    unlearned = here.unlearned(method, {"name": "kga"}, here.original(), helpers)
    assert all(helper.seconds > 0 and helper.bytes > 0 for helper in helpers.values())
    assert unlearned.meta["cache_seconds"] > 0
    assert unlearned.meta["cache_bytes"] > 0


def test_a_method_whose_set_is_empty_is_refused(corpus, root):
    given = study(corpus, root).original().folder
    here = study(corpus, root, original=str(given), splits={"original_is_given": True})
    with pytest.raises(UserError, match=r"new\.path"):
        require_inputs({}, KGA(), here.splits)


def test_a_given_model_is_used_as_it_is(corpus, root):
    given = study(corpus, root).original().folder
    here = study(corpus, root, original=str(given), splits={"original_is_given": True})
    assert here.original().folder == given
    assert len(here.splits["train"]) == len(corpus.train), "a given model was trained on all of the training data"


# Statistics and untrained models --------------------------------------------------------------------------------------


def norms(models, examples) -> dict:
    return {"norms": torch.stack([next(model.model.parameters()).norm() for model in models]).detach()}


def test_a_statistic_is_computed_once_for_all_requests(corpus, root):
    calls = []

    def counted(models, examples):
        calls.append(len(examples))
        return norms(models, examples)

    first = study(corpus, root, size=10).statistic("norms", Statistic(counted, {"version": 1}))
    again = study(corpus, root, size=20).statistic("norms", Statistic(counted, {"version": 1}))
    assert first.key == again.key and calls == [len(study(corpus, root).splits["train"])]
    other = study(corpus, root).statistic("norms", Statistic(counted, {"version": 2}))
    assert other.key != first.key and len(calls) == 2
    assert first.seconds > 0 and first.bytes > 0


def test_epoch_ends_are_the_last_two_and_the_second_is_the_original(corpus, root):
    here = study(corpus, root, optim=replace(OPTIM, epochs=3))
    found = here.statistic("ends", Statistic(norms, {}, weights="epoch_ends"))
    before, after = load_file(found.folder / "tensors.safetensors")["norms"]
    assert after == next(here.load(here.original()).model.parameters()).norm() != before


def test_a_method_that_needs_epoch_ends_is_refused_without_them(corpus, root, tmp_path):
    class Second(NoUnlearning):
        def statistics(self):
            return {"ends": Statistic(norms, {}, weights="epoch_ends")}

    here = study(corpus, root)
    wanted = {"choices": {"method": "second"}, "optim": {"epochs": 1}, "original": {"path": None}}
    with pytest.raises(UserError, match=r"set optim\.epochs to 2 or more"):
        require_inputs(wanted, Second(), here.splits)
    early = wanted | {"optim": {"epochs": 9, "patience": 2}}
    with pytest.raises(UserError, match=r"leave out optim\.patience"):
        require_inputs(early, Second(), here.splits)
    with pytest.raises(UserError, match=r"original\.path=.* lacks"):
        require_inputs(wanted | {"original": {"path": str(tmp_path)}}, Second(), here.splits)
    with pytest.raises(UserError, match="train A_D for 2 epochs or more"):
        here.statistic("ends", Second().statistics()["ends"])


def test_an_untrained_helper_is_the_model_that_training_starts_from(corpus, root):
    here = study(corpus, root)
    untrained = here.helper("initial", Helper(None, start="scratch"))
    expected = tiny.family().model(Classification, here.tokenizer, here.head, here.seed).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in weights(here, untrained).items())
    assert untrained.seconds == 0
