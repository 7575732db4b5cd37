"""SISA: what is trained again after a deletion, what it starts from, and how much work that is."""

from itertools import combinations

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.contract import HARDWARE

from kga.data.encoded import Examples
from kga.data.forget import Random
from kga.data.splits import Split, make_splits
from kga.errors import UserError
from kga.methods.sisa import Sisa, epochs_of_slices, expected_share
from kga.optim import Optim
from kga.store import Store
from kga.study import Study
from kga.tasks.classification import Classification, labels_head

OPTIM = Optim(epochs=4, batch_size=8, lr=1e-3, schedule="constant", warmup=0)


def study(root, *, size=1, optim=OPTIM, seed=0, dropout=0.1, **options) -> Study:
    splits = make_splits(tiny.corpus(train=150, groups=20), Random(size), seed=seed)
    head = labels_head(tiny.LABELS, False)
    return Study(splits, Classification, tiny.family(dropout), head, optim, Store(root), HARDWARE, seed, **options)


def manifests(root) -> set[str]:
    return {path.parent.name for path in (root / "shards").glob("*/manifest.json")}


# Formulas -------------------------------------------------------------------------------------------------------------


def test_epochs_of_slices_cost_as_much_as_one_model():
    assert epochs_of_slices(12, 3) == [6, 6, 6]  # 6 x 1/3 + 6 x 2/3 + 6 x 1 = 12 passes over the shard
    assert epochs_of_slices(12, 1) == [12]
    assert epochs_of_slices(5, 4) == [2, 2, 2, 2]
    assert sum(epochs_of_slices(7, 3)) == 10  # int(3 x 3.5)


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_one_deletion_redoes_the_published_share_of_a_shard(slices):
    shards, size = 4, 10
    plan = [[np.arange(size)] * slices] * shards
    epochs = 3 * (slices + 1)  # so that every slice has the same number of epochs
    assert expected_share(plan, epochs, 1) == pytest.approx((2 * slices + 1) / (3 * slices) / shards)


def test_many_deletions_redo_what_counting_all_requests_says():
    plan = [np.array_split(np.arange(0, 5), 2), np.array_split(np.arange(5, 9), 2)]
    shares = []
    for gone in combinations(range(9), 2):
        redone = total = 0
        for shard in plan:
            touched = False
            seen = 0
            for piece, passes in zip(shard, epochs_of_slices(6, 2), strict=True):
                seen += len(piece)
                touched = touched or bool(set(gone) & set(piece))
                redone, total = redone + passes * seen * touched, total + passes * seen
        shares.append(redone / total)
    assert expected_share(plan, 6, 2) == pytest.approx(np.mean(shares))
    assert expected_share(plan, 6, 9) == pytest.approx(1)


# What is trained ------------------------------------------------------------------------------------------------------


def test_one_shard_of_one_slice_is_the_retrained_model(tmp_path):
    """D and D_r have as many batches here, so even the plan of the schedule is the same."""
    here = study(tmp_path)
    joined = Sisa(shards=1, slices=1).train(here)
    expected = here.load(here.retrained()).model.state_dict()
    got = here.load(joined).model.members[0].state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_a_deletion_retrains_the_touched_shard_from_the_touched_slice(tmp_path):
    here = study(tmp_path)
    method = Sisa(shards=3, slices=2)
    joined = method.train(here)
    findings = joined.meta["unlearning"]
    rows = np.random.default_rng([0, 6]).permutation(here.splits["train"].rows)
    plan = [np.array_split(shard, 2) for shard in np.array_split(rows, 3)]
    (gone,) = here.splits["forget"].rows
    shard, piece = next((s, p) for s in range(3) for p in range(2) if gone in plan[s][p])
    assert findings["shards_touched"] == 1
    assert len(manifests(tmp_path)) == 6 + (2 - piece)
    passes = epochs_of_slices(4, 2)
    works = [[passes[p] * (len(np.concatenate(plan[s][: p + 1])) - (s == shard and p >= piece)) for p in range(2)]
             for s in range(3)]  # fmt: skip
    assert findings["redone_share"] == pytest.approx(sum(works[shard][piece:]) / sum(map(sum, works)))
    assert joined.meta["one_off_seconds"] > joined.meta["seconds"] > 0
    before = manifests(tmp_path)
    assert method.train(study(tmp_path)).key == joined.key and manifests(tmp_path) == before


def test_the_forgotten_are_in_no_shard_that_answers(tmp_path, monkeypatch):
    here = study(tmp_path, size=5)
    trained_on: list[set] = []
    original = Study.train

    def watched(self, kind, split, title, **options):
        trained_on.append(set(split.rows.tolist()))
        return original(self, kind, split, title, **options)

    monkeypatch.setattr(Study, "train", watched)
    Sisa(shards=2, slices=2).train(here)
    first, second = trained_on[:4], trained_on[4:]
    assert set.union(*first) == set(here.splits["train"].rows.tolist())
    assert set.union(*second) == set(here.splits["retain"].rows.tolist())


def test_a_slice_goes_on_with_the_optimiser_of_the_one_before(tmp_path):
    """With the whole set in one batch, two fits of one epoch are one fit of two, if the moments of AdamW are carried."""
    optim = Optim(epochs=1, batch_size=200, lr=1e-2, schedule="constant", warmup=0)
    here = study(tmp_path, optim=optim, dropout=0.0)
    rows = here.splits["train"]

    def weights(model):
        return torch.cat([value.flatten() for value in here.load(model).model.state_dict().values()])

    whole = weights(here.train("shards", rows, "whole", optim=Optim(**{**vars(optim), "epochs": 2})))
    first = here.train("shards", rows, "first", keep_optimizer=True)
    carried = weights(here.train("shards", rows, "carried", after=first, keep_optimizer=True))
    fresh = weights(here.train("shards", rows, "fresh", after=first))
    torch.testing.assert_close(carried, whole, rtol=0, atol=1e-4)
    assert (fresh - whole).abs().max() > 5e-3


def test_each_shard_loads_by_itself_and_the_ensemble_averages_them(tmp_path):
    here = study(tmp_path)
    joined = Sisa(shards=2, slices=1).train(here)
    batch = Examples(here.tables["test"], np.arange(8), here.codec).batch(np.arange(8))
    with torch.no_grad():
        alone = [
            Classification.load(joined.folder / f"shard-{n}").eval().predict(batch).log_probs.exp() for n in (0, 1)
        ]
        both = here.load(joined).eval().predict(batch).log_probs.exp()
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (Sisa(shards=40, slices=4), {}, "choose fewer"),
        (Sisa(), {"optim": Optim(epochs=2, updates=5)}, r"leave out optim\.updates"),
        (Sisa(slices=4), {"optim": Optim(epochs=2)}, "leaves slices without an epoch"),
    ],
)
def test_settings_that_leave_nothing_to_train_are_refused(tmp_path, method, options, message):
    with pytest.raises(UserError, match=message):
        method.require(study(tmp_path, **options))


def test_numbers_below_one_are_refused():
    with pytest.raises(UserError, match="1 or more"):
        Sisa(shards=0)


def test_a_shard_whose_examples_are_all_gone_answers_no_more(tmp_path):
    """The request takes so much that small shards may be empty; the others answer."""
    here = study(tmp_path, size=len(study(tmp_path).splits["train"]) - 2)
    joined = Sisa(shards=5, slices=1).train(here)
    held = [Split("train", rows) for rows in [here.splits["retain"].rows]]
    assert 1 <= joined.meta["unlearning"]["models_per_answer"] <= len(held[0]) == 2


def test_several_models_are_no_original(tmp_path):
    joined = Sisa(shards=2, slices=1).train(study(tmp_path))
    with pytest.raises(UserError, match="give one of its shard-N folders"):
        study(tmp_path, original=str(joined.folder))
