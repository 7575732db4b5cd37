"""The same inputs with other targets: which, how they are drawn, and that nothing else changes."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers import tiny

from kga.data.alternatives import fixed_target, random_targets, with_targets
from kga.errors import UserError

TASKS = {
    "classification": tiny.classifier,
    "multi_label": lambda: tiny.classifier(multi_label=True),
    "translation": tiny.translator,
    "response": tiny.responder,
    "response-decoder_only": lambda: tiny.responder(architecture="gpt2"),
}
DRAWN_FROM_POOL = [name for name in TASKS if name != "classification"]


def two_sets(name: str, forget: int = 20, pool: int = 30):
    """D_f, in an order of its own, and D_r of one table."""
    everything = tiny.examples(forget + pool, seed=3, task=TASKS[name]())
    return everything.take(np.arange(forget)[::-1]), everything.take(np.arange(forget, forget + pool))


def targets(examples) -> list:
    return [np.asarray(target).tolist() for target in examples.column("labels")]


def inputs(examples) -> list:
    return [list(row) for row in examples.column("input_ids")]


@pytest.mark.parametrize("name", TASKS)
def test_inputs_stay_and_targets_are_the_given_ones(name):
    forget, pool = two_sets(name)
    given = targets(pool)[: len(forget)]
    other = with_targets(forget, given)
    assert inputs(other) == inputs(forget) and targets(other) == given
    assert other.task is forget.task and other.rows.tolist() == list(range(len(forget)))
    assert other.column("cut").tolist() == forget.column("cut").tolist()
    batch = other.batch(np.array([2, 5]))
    assert batch["index"].tolist() == [2, 5]
    assert all(batch[key].dtype == value.dtype for key, value in forget.batch(np.array([2, 5])).items())


@pytest.mark.parametrize("name", ["translation", "response", "response-decoder_only"])
def test_lengths_of_texts_are_those_of_the_new_pairs(name):
    forget, pool = two_sets(name)
    other = with_targets(forget, targets(pool)[: len(forget)])
    expected = [len(source) + len(target) for source, target in zip(inputs(other), targets(other), strict=True)]
    assert other.lengths().tolist() == expected != forget.lengths().tolist()


@pytest.mark.parametrize("name", ["classification", "multi_label"])
def test_lengths_of_classified_texts_stay(name):
    forget, pool = two_sets(name)
    assert random_targets(forget, pool, 0).lengths().tolist() == forget.lengths().tolist()


def test_a_decoder_only_model_reads_the_new_target_after_the_prompt():
    forget, pool = two_sets("response-decoder_only")
    other = random_targets(forget, pool, 0)
    batch, row = other.batch(np.array([4])), other.table[4]
    assert batch["input_ids"][0].tolist() == row["input_ids"] + row["labels"]
    assert batch["labels"][0].tolist() == [-100] * len(row["input_ids"]) + row["labels"]


def test_one_target_per_example_is_asked_for():
    with pytest.raises(ValueError, match="expected 20 targets"):
        with_targets(two_sets("classification")[0], [0])


# Random ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_random_targets_are_never_the_own_ones(name):
    forget, pool = two_sets(name)
    for seed in range(10):
        drawn = targets(random_targets(forget, pool, seed))
        assert all(other != own for other, own in zip(drawn, targets(forget), strict=True))


@pytest.mark.parametrize("name", TASKS)
def test_the_seed_decides(name):
    forget, pool = two_sets(name)
    first, again, other = (targets(random_targets(forget, pool, seed)) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("name", TASKS)
def test_own_targets_may_be_allowed(name):
    forget, _ = two_sets(name)
    allowed = [targets(random_targets(forget, forget, seed, allow_own=True)) for seed in range(20)]
    assert any(other == own for drawn in allowed for other, own in zip(drawn, targets(forget), strict=True))


@pytest.mark.parametrize(("allow_own", "shares"), [(False, (0, 0.5, 0.5)), (True, (1 / 3, 1 / 3, 1 / 3))])
def test_labels_are_drawn_evenly(allow_own, shares):
    forget, pool = two_sets("classification", forget=200)
    offsets = Counter()
    for seed in range(20):
        drawn = random_targets(forget, pool, seed, allow_own).column("labels")
        offsets.update(((drawn - forget.column("labels")) % 3).tolist())
    assert [offsets[offset] / 4000 for offset in range(3)] == pytest.approx(shares, abs=0.03)


@pytest.mark.parametrize("name", DRAWN_FROM_POOL)
def test_other_targets_are_those_of_the_pool_each_example_equally_often(name):
    """A target that several examples of the pool share is drawn as often as they are many."""
    forget, pool = two_sets(name, forget=400, pool=6)
    one = with_targets(forget, [targets(forget)[0]] * 400)
    for allow_own in (True, False):
        twice = with_targets(pool, [targets(one)[0], *[[9, 9]] * 2, *[[8] * 3] * 3] if name != "multi_label"
                             else [targets(one)[0], *[[7, 0, 0]] * 2, *[[0, 7, 0]] * 3])  # fmt: skip
        drawn = Counter(map(tuple, targets(random_targets(one, twice, 1, allow_own))))
        chances = Counter(tuple(target) for target in targets(twice) if allow_own or target != targets(one)[0])
        assert drawn.keys() == chances.keys()
        for target, chance in chances.items():
            assert drawn[target] / 400 == pytest.approx(chance / chances.total(), abs=0.09)


def test_a_pool_of_nothing_but_the_own_target_is_refused():
    forget, pool = two_sets("translation")
    same = with_targets(pool, [targets(forget)[3]] * len(pool))
    with pytest.raises(UserError, match="no retained example has another target"):
        random_targets(forget, same, 0)


# Fixed ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["translation", "response", "response-decoder_only"])
def test_a_refusal_is_encoded_as_the_task_encodes_targets(name):
    forget, _ = two_sets(name)
    other, text = fixed_target(forget, "letter window"), "letter window"
    rows = {"source": ["bread"], "persona": [["bread"]], "history": [["bread", "river"]], "target": [text],
            "response": [text]}  # fmt: skip
    (expected,) = forget.task.encode({field: rows[field] for field in forget.task.fields})["labels"]
    assert targets(other) == [expected] * len(forget)
    assert inputs(other) == inputs(forget)


def test_the_fixed_target_of_classification_is_a_label():
    assert fixed_target(two_sets("classification")[0], "north").column("labels").tolist() == [1] * 20
    assert targets(fixed_target(two_sets("multi_label")[0], "north")) == [[0, 1, 0]] * 20
    for name in ("classification", "multi_label"):
        with pytest.raises(
            UserError, match=r"method\.refusal='nroth' is none of the task's labels: did you mean north"
        ):
            fixed_target(two_sets(name)[0], "nroth")


def test_predictions_on_a_derived_set_count_its_targets():
    forget, pool = two_sets("translation")
    other = random_targets(forget, pool, 0)
    with torch.no_grad():
        predictions = other.task.predict(other.batch(np.arange(20)))
    assert predictions.positions_per_example().tolist() == [len(target) for target in targets(other)]
