import numpy as np
import pytest
from helpers import tiny

from kga.attacks.evidence import FORGET, NONMEMBER, RETAIN
from kga.attacks.shadows import audited, inclusion, spread, worlds
from kga.data.forget import Group, Random
from kga.data.splits import Split, make_splits
from kga.optim import Optim
from kga.store import Store
from kga.study import Study
from kga.tasks.classification import Classification, labels_head


@pytest.fixture(scope="module")
def splits():
    return make_splits(tiny.corpus(), Random(12), seed=0)


@pytest.fixture
def study(splits, tmp_path):
    hardware = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "deterministic": True}
    optim = Optim(epochs=1, batch_size=16)
    return Study(
        splits, Classification, tiny.family(), labels_head(tiny.LABELS, False), optim, Store(tmp_path), hardware, 3
    )


def everyone(splits, seed=0):
    return audited(splits, splits["retain"], seed)


def alone(role) -> np.ndarray:
    """Every example a unit by itself."""
    return np.arange(len(role)).astype(str)


@pytest.mark.parametrize("shadows", [2, 4, 8])
def test_each_example_is_in_exactly_half_of_the_shadow_models(shadows):
    role = np.repeat([FORGET, NONMEMBER, RETAIN], [11, 8, 5])
    inside = inclusion(role, alone(role), shadows, seed=1)
    assert inside.shape == (shadows, 24)
    assert (inside.sum(0) == shadows // 2).all()
    for name in (FORGET, NONMEMBER, RETAIN):
        of_role = inside[:, role == name].sum(1)
        assert set(of_role) <= {np.sum(role == name) // 2, -(-np.sum(role == name) // 2)}


def test_units_are_inside_or_outside_as_a_whole():
    role = np.repeat([FORGET, NONMEMBER, RETAIN], [12, 9, 6])
    units = np.concatenate([np.repeat(list("abcd"), 3), np.repeat(list("xyz"), 3), list("123456")])
    inside = inclusion(role, units, 4, seed=0)
    assert (inside.sum(0) == 2).all()
    for unit in np.unique(units):
        assert (inside[:, units == unit] == inside[:, units == unit][:, :1]).all()


def test_single_groups_leave_no_shadow_model_without_a_request():
    role = np.repeat([FORGET, NONMEMBER, RETAIN], [5, 5, 4])
    units = np.concatenate([np.repeat(["a"], 5), np.repeat(["b"], 5), list("1234")])
    inside = inclusion(role, units, 4, seed=0)
    assert inside[:, role != RETAIN].any(1).all()


def test_non_members_of_a_group_request_are_whole_groups():
    splits = make_splits(tiny.corpus(train=300, groups=40), Group(30), seed=0, reserve=0.5)
    who = everyone(splits)
    groups = splits.strings(splits["nonmember"], "group")
    chosen = splits.strings(who.sets[NONMEMBER], "group")
    assert 0 < len(chosen) < len(groups)
    assert all(chosen.count(group) == groups.count(group) for group in set(chosen))
    assert set(who.units[who.role == FORGET]) == set(splits.strings(splits["forget"], "group"))


def test_the_halves_follow_the_seed():
    role = np.repeat([FORGET, NONMEMBER], 40)
    first, again, other = (inclusion(role, alone(role), 4, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    pairs = first
    assert (pairs[0] != pairs[2]).any()


def test_who_is_audited_has_no_example_in_common(splits):
    who = everyone(splits)
    rows = [set(split.rows) for split in who.sets.values()]
    assert sum(map(len, rows)) == len(set().union(*rows))
    assert set(who.sets[FORGET].rows) == set(splits["forget"].rows)
    assert set(who.sets[NONMEMBER].rows) <= set(splits["nonmember"].rows)
    assert set(who.sets["population"].rows) <= set(splits["holdout"].rows)
    assert set(who.sets[RETAIN].rows) <= set(splits["retain"].rows)
    assert not set(splits["new"].rows) & set().union(*rows)
    assert len(who.targets) == len(who.role)


def test_the_retain_sample_lies_in_what_is_evaluated_anyway(splits):
    evaluated = Split("train", splits["retain"].rows[:7])
    assert set(audited(splits, evaluated, 0).sets[RETAIN].rows) <= set(evaluated.rows)


def test_a_world_is_d_with_its_half_of_the_audited_examples(study, splits):
    who = everyone(splits)
    inside = inclusion(who.role, who.units, 2, 0)
    rows, role = who.targets.rows, who.role
    untouched = set(splits["train"].rows) - set(rows)
    for member, world in zip(inside, worlds(study, who, inside), strict=True):
        train, forget, retain = (set(world.splits[name].rows) for name in ("train", "forget", "retain"))
        assert train == untouched | set(rows[member])
        assert forget == set(rows[member & (role != RETAIN)])
        assert retain == train - forget
        assert set(world.splits["new"].rows) == set(splits["new"].rows)
        assert not train & set(who.sets["population"].rows)


def test_worlds_have_seeds_and_models_of_their_own(study, splits):
    who = everyone(splits)
    first, second = worlds(study, who, inclusion(who.role, who.units, 2, 0))
    assert len({study.seed, first.seed, second.seed}) == 3
    assert not first.has_original()
    made = {world.original().key for world in (study, first, second)}
    assert len(made) == 3
    assert first.has_original() and first.codec is study.codec


def test_signals_are_in_the_order_of_the_set_and_computed_once(study, splits):
    chosen = Split("train", splits["train"].rows[[5, 2, 9]])
    model = study.original()
    table = study.signals(model, chosen)
    turned = study.signals(model, Split("train", chosen.rows[::-1]))
    np.testing.assert_allclose(table["loss"], turned["loss"][::-1], atol=1e-6)
    assert len(list(study.store.root.glob("signals/*/signals.parquet"))) == 2
    study.signals(model, chosen)
    assert len(list(study.store.root.glob("signals/*/signals.parquet"))) == 2


def test_processes_start_with_different_worlds(monkeypatch):
    found = []
    for process in (8, 9):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        found.append(list(spread(["a", "b", "c"])))
    assert sorted(found[0]) == sorted(found[1]) == ["a", "b", "c"]
    assert found[0][0] != found[1][0]
