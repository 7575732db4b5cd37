"""Streams of updates: every example once per pass, by seed, of similar lengths, and the same when interrupted."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from kga.data.batching import Stream, Updates, bucketed, in_order, supervised, token_batches, train_only
from kga.data.encoded import Examples
from kga.optim import Optim


class Lengths:
    """A task whose batches are the lengths of their examples."""

    @staticmethod
    def collate(rows) -> dict[str, torch.Tensor]:
        return {"length": torch.tensor(rows["length"])}


def examples(size: int, first: int = 0) -> Examples:
    """``size`` examples, rows ``first`` and up of their table, of 1 to 60 tokens."""
    lengths = np.random.default_rng(5).integers(1, 61, first + size)
    return Examples(Dataset.from_dict({"length": lengths}), np.arange(first, first + size), Lengths())


def indices(update) -> list[dict[str, list[int]]]:
    return [{name: batch["index"].tolist() for name, batch in step.items()} for step in update]


def epochs(updates: Updates, numbers) -> list:
    """All updates of some epochs, driven as Lightning does."""
    taken = []
    for number in numbers:
        updates.set_epoch(number)
        taken += [indices(update) for update in updates]
    return taken


def drawn(update_list, name: str) -> list[int]:
    return [row for update in update_list for step in update for row in step.get(name, [])]


def plain(seed: int = 0, size: int = 50, **options) -> Updates:
    return Updates({"train": examples(size)}, train_only, 8, seed, **options)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 9),
    st.sampled_from([1, 2, 50]),
    st.integers(0, 10**6),
    st.sampled_from([None, 1, 3]),
)
def test_every_example_once_per_pass(size, batch_size, bucket, seed, micro):
    options = {"bucket": bucket, "micro_batch_size": micro}
    updates = Updates({"train": examples(size, 3)}, train_only, batch_size, seed, **options)
    for number in range(2):
        taken = epochs(updates, [number])
        assert sorted(drawn(taken, "train")) == list(range(3, 3 + size))
        assert len(taken) == len(updates) == -(-size // batch_size)


def test_seed_0_is_a_seed_of_its_own_and_passes_differ():
    first, again, other = (epochs(plain(seed), range(2)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first[:7] != first[7:]


def test_sets_of_one_seed_are_shuffled_apart():
    both = Updates({"a": examples(40), "b": examples(40)}, lambda update: [("a", "b")], 40, 0, bucket=1)
    ((step,),) = epochs(both, [0])
    assert step["a"] != step["b"]


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    epochs(plain(), range(2))
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def padding(batches, lengths: np.ndarray) -> float:
    """Share of the cells of padded batches that hold no token."""
    return 1 - lengths.sum() / sum(len(batch) * lengths[batch].max() for batch in batches)


def test_buckets_hold_similar_lengths_and_windows_keep_the_order_random():
    lengths, rng = np.random.default_rng(0).integers(1, 100, 2000), np.random.default_rng
    order = rng(1).permutation(2000)
    loose, tight = (bucketed(lengths, order, 16, bucket, rng(2)) for bucket in (1, 50))
    assert padding(loose, lengths) > 0.4 and padding(tight, lengths) < 0.05
    longest = [lengths[batch].max() for batch in tight]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.4
    assert set(np.concatenate(tight[:50])) != set(np.argsort(-lengths)[:800])


def test_evaluation_goes_in_order_of_length_and_sees_everything_once():
    view = examples(21, 4)
    batches = list(in_order(view, 8))
    assert sorted(np.concatenate(batches)) == list(range(21))
    assert [len(batch) for batch in batches] == [8, 8, 5]
    lengths = view.lengths()[np.concatenate(batches)]
    assert (np.diff(lengths) <= 0).all()
    assert [batch.tolist() for batch in in_order(view, 8)] == [batch.tolist() for batch in batches]


def draws(update: int):
    """Two phases in turn, five updates each: K = 2 retain batches beside a pair, then three steps."""
    return (
        [("forget", "new"), ("retain",), ("retain",)] if update // 5 % 2 == 0 else [("retain",), ("forget",), ("new",)]
    )


def study(**options) -> Updates:
    sets = {"forget": examples(20), "new": examples(23, 20), "retain": examples(88, 43)}
    return Updates(sets, draws, 4, 0, bucket=3, **options)


def test_an_update_has_the_steps_that_were_declared():
    updates = study(anchor="forget")
    first = epochs(updates, [0])
    assert len(first) == 5 and [list(step) for step in first[0]] == [["forget", "new"], ["retain"], ["retain"]]
    assert sorted(drawn(first, "forget")) == list(range(20))
    assert all(len(step["retain"]) == 4 for update in first for step in update[1:])
    second = epochs(updates, [1])
    assert [list(step) for step in second[0]] == [["retain"], ["forget"], ["new"]]


def test_sets_beside_the_anchor_go_on_where_they_were():
    """Retain examples come again only when all have been seen."""
    taken = epochs(study(anchor="forget"), [0, 1])
    retained = drawn(taken, "retain")
    assert len(retained) == 60 == len(set(retained))


def test_the_length_is_one_pass_over_the_anchor():
    assert len(study()) == 5
    assert len(study(anchor="retain")) == 11  # 22 batches, two of them per update
    planned = study(length=7)
    assert len(planned) == 7 == len(list(planned))


def test_a_share_is_drawn_once_or_anew():
    fixed, redrawn = (
        Updates({"retain": examples(60)}, lambda update: [("retain",)], 4, 0, share={"retain": 0.3}, redraw=redraw)
        for redraw in (False, True)
    )
    assert len(fixed) == 5
    kept = [set(drawn(epochs(fixed, [number]), "retain")) for number in range(3)]
    assert len(kept[0]) == 18 and kept[0] == kept[1] == kept[2]
    anew = [set(drawn(epochs(redrawn, [number]), "retain")) for number in range(3)]
    assert all(len(chosen) == 18 for chosen in anew) and anew[0] != anew[1] != anew[2]


def test_partners_come_with_their_firsts():
    partner = np.random.default_rng(0).permutation(23)[:20]
    taken = epochs(study(partners={("forget", "new"): partner}, micro_batch_size=3), [0])
    pairs = [step for update in taken for step in update if "forget" in step]
    assert len(pairs) == 10
    for step in pairs:
        assert step["new"] == [20 + partner[row] for row in step["forget"]]


@pytest.mark.parametrize(("micro", "sizes"), [(None, [4]), (4, [4]), (3, [3, 1]), (1, [1, 1, 1, 1]), (100, [4])])
def test_micro_batches_cut_the_same_batches(micro, sizes):
    whole, cut = epochs(study(), [0, 1]), epochs(study(micro_batch_size=micro), [0, 1])
    assert [len(step["forget"]) for step in cut[0] if "forget" in step] == sizes
    for name in ("forget", "new", "retain"):
        assert drawn(whole, name) == drawn(cut, name)
    assert len(whole) == len(cut)


def test_micro_batches_of_sets_of_different_size():
    updates = Updates({"a": examples(2), "b": examples(5)}, lambda update: [("a", "b")], 5, 0, micro_batch_size=2)
    ((*steps,),) = epochs(updates, [0])
    assert [Counter({name: len(rows) for name, rows in step.items()}) for step in steps] == [
        {"a": 2, "b": 2},
        {"b": 2},
        {"b": 1},
    ]


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 9, 15, 16, 17, 20, 21])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(cut):
    """At any update, the first and last of an epoch included, through a state written as JSON."""
    options = {"share": {"retain": 0.5}, "redraw": True, "micro_batch_size": 3}
    whole = epochs(study(**options), range(6))
    updates, taken, epoch = study(**options), [], 0
    while len(taken) < cut:
        updates.set_epoch(epoch)
        for update in updates:
            taken.append(indices(update))
            if len(taken) == cut:
                break
        epoch += 1
    resumed = study(**options)
    resumed.load_state_dict(json.loads(json.dumps(updates.state_dict())))
    if updates.done < len(updates):  # Lightning goes on within the epoch, or else with the next one
        taken += [indices(update) for update in resumed]
    assert taken + epochs(resumed, range(epoch, 6)) == whole


def test_supervised_training_takes_its_sizes_from_the_optimiser():
    options = Optim(batch_size=6, micro_batch_size=4, bucket=1)
    taken = epochs(supervised(examples(20), options, seed=3), [0])
    assert taken == epochs(Updates({"train": examples(20)}, train_only, 6, 3, micro_batch_size=4, bucket=1), [0])
    assert [len(step["train"]) for step in taken[0]] == [4, 2]


def test_a_stream_larger_than_its_set_gives_the_whole_set():
    stream = Stream("train", examples(5), 8, 50, 0)
    assert [sorted(stream.next()) for _ in range(3)] == [list(range(5))] * 3
    assert stream.batches_per_pass() == 1


# Batches by tokens ------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 120), st.integers(0, 10**6))
def test_batches_by_tokens_stay_within_their_budget(lengths, tokens, seed):
    lengths = np.array(lengths)
    order = np.random.default_rng(seed).permutation(len(lengths))
    batches = token_batches(lengths, order, tokens)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * lengths[batch].max() <= tokens or len(batch) == 1
    for batch, after in pairwise(batches):  # and none is smaller than it has to be
        assert (len(batch) + 1) * lengths[batch].max() > tokens
        assert lengths[batch].min() >= lengths[after].max()


def test_an_example_longer_than_the_budget_stands_alone():
    batches = token_batches(np.array([3, 50, 2, 50, 5]), np.arange(5), 10)
    assert [batch.tolist() for batch in batches] == [[1], [3], [4, 0], [2]]


def test_the_order_decides_between_examples_of_one_length():
    first, second = (token_batches(np.full(12, 4), np.random.default_rng(seed).permutation(12), 12) for seed in (0, 1))
    assert len(first) == len(second) == 4
    assert [set(batch) for batch in first] != [set(batch) for batch in second]


def by_tokens(seed: int = 0, size: int = 60, tokens: int = 150, **options) -> Updates:
    return Updates({"train": examples(size, 3)}, train_only, 8, seed, batch_tokens=tokens, **options)


def test_every_pass_by_tokens_has_all_examples_and_the_same_number_of_batches():
    updates = by_tokens()
    passes = [epochs(updates, [number]) for number in range(4)]
    expected = len(token_batches(updates.sets["train"].lengths(), np.arange(60), 150))
    assert [len(taken) for taken in passes] == [len(updates)] * 4 == [expected] * 4
    assert all(sorted(drawn(taken, "train")) == list(range(3, 63)) for taken in passes)
    assert passes[0] != passes[1] != passes[2]
    assert len(by_tokens(tokens=300)) < expected < len(by_tokens(tokens=60))


def test_batches_by_tokens_do_not_come_from_long_to_short():
    updates = by_tokens(size=400)
    lengths = dict(zip(updates.sets["train"].rows.tolist(), updates.sets["train"].lengths().tolist(), strict=True))
    longest = [max(lengths[row] for row in step["train"]) for (step,) in epochs(updates, [0])]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.4


@pytest.mark.parametrize("cut", [1, 5, 11, 12, 13, 25])
@pytest.mark.parametrize("micro", [None, 3])
def test_an_interrupted_run_by_tokens_goes_on_as_if_nothing_had_happened(cut, micro):
    options = {"micro_batch_size": micro}
    whole = epochs(by_tokens(**options), range(3))
    updates, taken, epoch = by_tokens(**options), [], 0
    while len(taken) < cut:
        updates.set_epoch(epoch)
        for update in updates:
            taken.append(indices(update))
            if len(taken) == cut:
                break
        epoch += 1
    resumed = by_tokens(**options)
    resumed.load_state_dict(json.loads(json.dumps(updates.state_dict())))
    if updates.done < len(updates):
        taken += [indices(update) for update in resumed]
    assert len(taken) > cut
    assert taken + epochs(resumed, range(epoch, 3)) == whole


def test_micro_batches_cut_batches_by_tokens():
    whole, cut = epochs(by_tokens(), [0, 1]), epochs(by_tokens(micro_batch_size=2), [0, 1])
    assert drawn(whole, "train") == drawn(cut, "train") and len(whole) == len(cut)
    assert max(len(step["train"]) for update in cut for step in update) == 2


def test_supervised_training_by_tokens():
    options = Optim(batch_size=6, batch_tokens=150)
    taken = epochs(supervised(examples(60, 3), options, seed=0), [0])
    assert taken == epochs(by_tokens(), [0])


@pytest.mark.parametrize("tokens", [20, 100, 700])
def test_micro_batches_stay_within_a_token_budget(tokens):
    """The updates are the same ones; only single examples may be longer than the budget."""
    whole, cut = epochs(study(), [0, 1]), epochs(study(micro_batch_tokens=tokens), [0, 1])
    lengths = np.random.default_rng(5).integers(1, 61, 1000)
    for name in ("forget", "new", "retain"):
        assert drawn(whole, name) == drawn(cut, name)
    parts = [rows for update in cut for step in update for rows in step.values()]
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= tokens for rows in parts)
    assert (len(parts) > sum(len(step) for update in whole for step in update)) == (tokens < 200)


@pytest.mark.parametrize("updates", [1, 7, 23])
def test_what_will_be_drawn_is_known_before(updates):
    """Without moving the streams: caches are filled with just that."""
    stream = study(share={"retain": 0.7}, redraw=True)
    planned = stream.planned(updates)
    taken = epochs(stream, range(40))[:updates]
    for name in ("forget", "new", "retain"):
        rows = set(drawn(taken, name))
        assert {int(stream.sets[name].rows[position]) for position in planned[name]} == rows
