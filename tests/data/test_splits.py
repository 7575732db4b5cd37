"""The reserve comes before the request; what must be unseen is unseen, by id and by text."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, concatenate_datasets
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from kga.data.corpus import Corpus, make_corpus
from kga.data.forget import Group, Ids, Label, Random, Request
from kga.data.splits import Splits, cut, cut_reserve, make_splits
from kga.errors import UserError

PLAIN = tiny.corpus(train=200)
GROUPED = tiny.corpus(train=200, groups=40)


def sets_of(splits: Splits, name: str) -> dict[str, set[str]]:
    return {key: set(splits.strings(split, name)) for key, split in splits.sets.items()}


def with_train(train: Dataset) -> Corpus:
    return make_corpus("d", "classification", {"train": train, "validation": tiny.rows(9, 2), "test": tiny.rows(9, 3)})


def refusal(*arguments, **options) -> str:
    with pytest.raises(UserError) as caught:
        make_splits(*arguments, **{"seed": 0} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def requests(folder) -> list[Request]:
    (folder / "ids").write_text(
        "\n".join(GROUPED.train.select(original(make_splits(GROUPED, Random(1), seed=0))[:9])["id"])
    )
    return [
        Random(10),
        Random(0.3),
        Group(15),
        Group(60),
        Label("north"),
        Label("west", size=5),
        Ids(str(folder / "ids")),
    ]


def original(splits: Splits) -> np.ndarray:
    return splits["train"].rows


def test_a_d_never_depends_on_the_request(tmp_path):
    """The rows of D are the same for every kind and size of request, of D_n too."""
    expected = original(make_splits(GROUPED, Random(1), seed=0)).tolist()
    for request in requests(tmp_path):
        for new_size in (None, 5, 0.02):
            assert original(make_splits(GROUPED, request, seed=0, new_size=new_size)).tolist() == expected


def test_the_sets_are_what_they_are_called(tmp_path):
    for request in requests(tmp_path):
        splits = make_splits(GROUPED, request, seed=0)
        ids, texts = sets_of(splits, "id"), sets_of(splits, "input_hash")
        assert ids["forget"] | ids["retain"] == ids["train"] and not ids["forget"] & ids["retain"]
        for values in (ids, texts):
            assert not values["train"] & (values["new"] | values["holdout"])
            assert not values["new"] & values["holdout"]
        assert len(splits["validation"]) == 24 and len(splits["test"]) == 40
        assert splits.sizes() == {name: len(split) for name, split in splits.sets.items()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60), st.sampled_from([PLAIN, GROUPED]), st.sampled_from([None, 30, 120]))
def test_whatever_the_seed_and_size(seed, size, corpus, limit):
    try:
        splits = make_splits(corpus, Random(size), seed=seed, limit=limit, new_size=5)
    except UserError as error:
        assert "as many as D" in str(error) and limit == 30 and size >= 30
        return
    ids, texts = sets_of(splits, "id"), sets_of(splits, "input_hash")
    assert len(ids["forget"]) == size and ids["forget"] < ids["train"]
    assert len(ids["train"]) == min(limit or 200, len(original(make_splits(corpus, Random(1), seed=seed))))
    for values in (ids, texts):
        assert not values["train"] & (values["new"] | values["holdout"])


def test_the_reserve_takes_groups_whole():
    train, kept = cut_reserve(GROUPED.train, 0.2, "group", None, 0)
    assert len(train) + len(kept) == 200 and len(kept) >= 40
    groups = np.array(GROUPED.train["group"])
    assert not set(groups[train]) & set(groups[kept])
    alone, _ = cut_reserve(GROUPED.train, 0.2, "no such column", None, 0)
    assert len(alone) == 160


def test_a_seed_decides_everything():
    first, again, other = (make_splits(PLAIN, Random(20), seed=seed) for seed in (0, 0, 1))
    for name in first.sets:
        assert first[name].rows.tolist() == again[name].rows.tolist()
    for name in ("train", "forget", "new", "holdout"):
        assert first[name].rows.tolist() != other[name].rows.tolist()
    assert first["test"].rows.tolist() == other["test"].rows.tolist()


def test_a_limit_shrinks_d_and_reserve_in_proportion():
    whole, half = (make_splits(PLAIN, Random(10), seed=0, limit=limit) for limit in (None, 80))
    assert (len(whole["train"]), len(whole["new"]) + len(whole["holdout"])) == (160, 40)
    assert (len(half["train"]), len(half["new"]) + len(half["holdout"])) == (80, 20)
    assert set(original(half)) < set(original(whole))
    more = make_splits(PLAIN, Random(10), seed=0, limit=1000)
    assert original(more).tolist() == original(whole).tolist()


def test_texts_of_d_are_never_reserved():
    """Copies of D's texts, even with another label, are left out of D_n and holdout; D keeps all of its own."""
    first = tiny.rows(60)
    copies = Dataset.from_dict({"text": first["text"], "label": [tiny.LABELS[0]] * 60})
    corpus = with_train(concatenate_datasets([first, copies, tiny.rows(60, seed=9)]))
    for seed in range(4):
        splits = make_splits(corpus, Random(8), seed=seed, new_size=6)
        texts = sets_of(splits, "input_hash")
        assert not texts["train"] & (texts["new"] | texts["holdout"]) and not texts["new"] & texts["holdout"]
        assert len(splits["train"]) == 144
        assert len(splits["new"]) + len(splits["holdout"]) < 36


def test_a_group_request_is_matched_by_wholly_unseen_groups():
    splits = make_splits(GROUPED, Group(20), seed=0, new_size=12)
    groups = sets_of(splits, "group")
    assert not groups["forget"] & groups["retain"]
    assert not groups["new"] & groups["train"] and not groups["new"] & groups["holdout"]
    assert len(splits["new"]) >= 12
    reserved = [row for name in ("new", "holdout") for row in splits[name].rows]
    names = np.array(GROUPED.train["group"])
    assert sorted(reserved) == np.flatnonzero(np.isin(names, list(groups["new"] | groups["holdout"]))).tolist()


def test_groups_by_another_column_than_the_reserves():
    corpus = with_train(tiny.rows(200).add_column("firm", [f"firm-{row % 40}" for row in range(200)]))
    request = Group(12, column="firm")
    assert "cut the reserve by data.group=firm" in refusal(corpus, request)
    splits = make_splits(corpus, request, seed=0, group="firm")
    firms = {name: set(splits.strings(splits[name], "firm")) for name in ("train", "new", "holdout")}
    assert len(splits["new"]) >= 12 and not firms["new"] & (firms["train"] | firms["holdout"])


def test_a_label_request_forgets_the_label_and_leaves_some_in_the_holdout():
    splits = make_splits(PLAIN, Label("north"), seed=0, new_size=4)
    labels = sets_of(splits, "label")
    assert labels["forget"] == {"north"} == labels["new"]
    assert "north" not in labels["retain"] and "north" in labels["holdout"]


def test_a_label_in_a_column_of_its_own_stays_in_the_holdout():
    topics = ["tax" if row % 3 else "rent" for row in range(200)]
    corpus = with_train(tiny.rows(200).add_column("topic", topics))
    splits = make_splits(corpus, Label("rent", column="topic"), seed=0, new_size=4)
    topics = {name: set(splits.strings(splits[name], "topic")) for name in ("forget", "new", "holdout")}
    assert topics["forget"] == topics["new"] == {"rent"} and topics["holdout"] == {"rent", "tax"}


def test_d_n_is_as_large_as_d_f_unless_told():
    sizes = [len(make_splits(PLAIN, Random(16), seed=0, new_size=size)["new"]) for size in (None, 7, 0.05)]
    assert sizes == [16, 7, 8]


def test_a_d_n_that_falls_short_is_noted():
    labels = ["rare" if row % 40 == 0 else "usual" for row in range(400)]
    corpus = with_train(Dataset.from_dict({"text": [f"text {row}" for row in range(400)], "label": labels}))
    cuts = {seed: cut_reserve(corpus.train, 0.2, "group", None, seed)[1] for seed in range(20)}
    seed = next(seed for seed, kept in cuts.items() if (kept % 40 == 0).sum() == 2)  # of which D_n needs both
    (note,) = make_splits(corpus, Label("rare", size=5), seed=seed).notes
    assert "D_n has 2 examples, fewer than the 5 asked for" in note
    assert make_splits(PLAIN, Random(10), seed=0).notes == ()


def drawn_before(corpus: Corpus, request: Request, seed: int) -> tuple[list[int], list[int]]:
    """D_n and holdout as they are without regard to non-members: all that is asked for, and all that is left."""
    train, kept = cut_reserve(corpus.train, 0.2, "group", None, seed)
    forget = request.choose(corpus.train, train, np.random.default_rng([seed, 1]))
    new = request.match(corpus.train, train, forget, kept, len(forget), np.random.default_rng([seed, 3]))
    return new.tolist(), [row for row in kept.tolist() if row not in new]


@pytest.mark.parametrize(
    ("request_", "corpus"), [(Random(15), PLAIN), (Label("north", size=4), PLAIN), (Group(8), GROUPED)]
)
def test_a_plentiful_reserve_is_drawn_from_as_if_nobody_attacked(request_, corpus):
    for seed in range(3):
        splits = make_splits(corpus, request_, seed=seed)
        new, left = drawn_before(corpus, request_, seed)
        assert (splits["new"].rows.tolist(), splits["holdout"].rows.tolist()) == (new, left)
        assert splits.notes == ()


def test_where_little_matches_half_of_it_is_left_for_attacks():
    splits = make_splits(PLAIN, Random(30), seed=0)
    assert (len(splits["new"]), len(splits["holdout"]), len(splits["nonmember"])) == (20, 20, 20)
    assert splits["new"].rows.tolist() == make_splits(PLAIN, Random(30), seed=0)["new"].rows.tolist()
    (note,) = splits.notes
    assert "D_n has 20 examples instead of 30: the reserve holds only 40 that match" in note
    north = make_splits(PLAIN, Label("north"), seed=0)
    matching = sum(label == "north" for name in ("new", "holdout") for label in north.strings(north[name], "label"))
    assert len(north["new"]) == (matching + 1) // 2 and len(north["nonmember"]) == matching // 2
    (note,) = north.notes
    assert f"the reserve holds only {matching} that match" in note


def test_nonmembers_are_those_of_the_holdout_that_are_like_the_forget_set(tmp_path):
    for request in requests(tmp_path):
        splits = make_splits(GROUPED, request, seed=0)
        ids = sets_of(splits, "id")
        assert ids["nonmember"] and ids["nonmember"] <= ids["holdout"]
        if isinstance(request, Random | Group):
            assert ids["nonmember"] == ids["holdout"]
        if isinstance(request, Label):
            assert sets_of(splits, "label")["nonmember"] == {request.value}
        if isinstance(request, Ids):
            assert len(splits["nonmember"]) <= len(splits["forget"])


def test_half_a_group_is_not_left():
    """A reserve of one matching group goes to D_n whole, as without any regard to attacks."""
    groups = [f"person-{row // 10}" for row in range(200)]
    corpus = with_train(tiny.rows(200).add_column("group", groups))
    splits = make_splits(corpus, Group(10), seed=0, reserve=0.05)
    assert (len(splits["new"]), len(splits["holdout"]), len(splits["nonmember"])) == (10, 0, 0)
    assert splits.notes == ()


def test_d_and_the_reserve_can_be_had_before_a_request():
    for whole in (False, True):
        train, kept = cut(GROUPED, 3, 0.2, "group", 90, whole)
        splits = make_splits(GROUPED, Random(5), seed=3, limit=90, original_is_given=whole)
        assert original(splits).tolist() == train.tolist()
        unseen = {row for name in ("new", "holdout") for row in splits[name].rows.tolist()}
        assert unseen == set(kept.tolist()) and bool(unseen) is not whole


def test_groups_of_several_columns():
    years = [str(2000 + row % 3) for row in range(200)]
    corpus = with_train(tiny.rows(200, groups=30).add_column("year", years))
    splits = make_splits(corpus, Group(9, column=["group", "year"]), seed=0)
    both = {
        name: set(zip(*(splits.strings(splits[name], column) for column in ("group", "year")), strict=True))
        for name in ("forget", "retain", "new", "holdout", "train")
    }
    assert not both["forget"] & both["retain"] and not both["new"] & (both["holdout"] | both["train"])
    assert {group for group, _ in both["forget"]} & {group for group, _ in both["retain"]}


def test_an_empty_forget_set_is_refused(tmp_path):
    (tmp_path / "ids").write_text("\n\n")
    assert "the forget set is empty" in refusal(PLAIN, Ids(str(tmp_path / "ids")))


@pytest.mark.parametrize("size", [160, 161, 10_000])
def test_a_forget_set_as_large_as_d_is_refused(size):
    assert "has 160 examples, as many as D (160)" in refusal(PLAIN, Random(size))


def test_too_few_to_hold_out_is_refused():
    labels = ["north"] * 30 + ["west"] * 30
    table = Dataset.from_dict({"text": [f"text {row}" for row in range(60)], "label": labels, "group": labels})
    corpus = with_train(table)
    splits = make_splits(corpus, Random(5), seed=0)
    (label,) = sets_of(splits, "label")["train"]
    line = refusal(corpus, Label(label, size=5))
    assert "too few examples to hold out: the reserve of 30 has 0 that match the request, 5 are needed" in line
    assert "too few examples or groups" in refusal(with_train(table.select(range(30))), Random(5))


@pytest.mark.parametrize("reserve", [0, 1, -0.5, 2])
def test_a_reserve_is_a_share(reserve):
    assert f"data.reserve={reserve}" in refusal(PLAIN, Random(5), reserve=reserve)


def new_corpus(rows: Dataset) -> Corpus:
    return make_corpus("new", "classification", {"train": rows, "validation": tiny.rows(3, 5), "test": tiny.rows(3, 6)})


def test_d_n_from_a_file_of_its_own():
    new = new_corpus(tiny.rows(30, seed=7))
    splits = make_splits(PLAIN, Random(10), seed=0, new=new)
    ids = sets_of(splits, "id")
    assert len(splits["new"]) == 10 and ids["new"] | ids["holdout"] == set(new.train["id"])
    assert original(splits).tolist() == original(make_splits(PLAIN, Random(10), seed=0)).tolist()
    assert set(splits.strings(splits["new"], "text")) <= set(new.train["text"])
    assert ids["nonmember"] == ids["holdout"]
    short = make_splits(PLAIN, Random(50), seed=0, new=new)
    assert (len(short["new"]), len(short["holdout"])) == (30, 0)
    assert "new.path holds no more" in short.notes[0]


def test_columns_that_the_file_of_d_n_lacks_still_serve_the_request():
    new = new_corpus(tiny.rows(30, seed=7).add_column("stars", [1] * 30))
    splits = make_splits(GROUPED, Group(5), seed=0, new=new)
    assert splits["nonmember"].rows.tolist() == splits["holdout"].rows.tolist() and len(splits["holdout"])
    assert "new.path has no column group" in splits.notes[0]
    splits = make_splits(GROUPED, Group(15), seed=0, new=new)
    assert splits["forget"].rows.tolist() == make_splits(GROUPED, Group(15), seed=0)["forget"].rows.tolist()
    stars = with_train(tiny.rows(50).add_column("stars", ["one"] * 50))
    assert len(make_splits(stars, Random(5), seed=0, new=new)["new"]) == 5


def test_nonmembers_from_the_file_of_d_n():
    new = new_corpus(tiny.rows(60, seed=7, groups=12))
    splits = make_splits(GROUPED, Label("west", size=9), seed=0, new=new)
    assert sets_of(splits, "label")["nonmember"] == {"west"} and len(sets_of(splits, "label")["holdout"]) == 3
    unseen = new_corpus(tiny.rows(60, seed=7).add_column("group", [f"stranger-{row % 12}" for row in range(60)]))
    splits = make_splits(GROUPED, Group(10), seed=0, new=unseen)
    groups = sets_of(splits, "group")
    assert groups["holdout"] & groups["new"]  # D_n is drawn from a file example by example
    assert groups["nonmember"] == groups["holdout"] - groups["new"]


def test_a_file_of_d_n_that_overlaps_by_id_is_refused():
    train = tiny.rows(50).add_column("id", [f"a-{row}" for row in range(50)])
    corpus = with_train(train)
    kept = corpus.train["id"][int(original(make_splits(corpus, Random(5), seed=0))[0])]
    new = new_corpus(tiny.rows(10, seed=7).add_column("id", [kept, *(f"b-{row}" for row in range(9))]))
    line = refusal(corpus, Random(5), new=new, new_size=10)
    assert "new.path: 1 examples of the set new share their id with the set train" in line and kept in line


def test_a_file_of_d_n_that_overlaps_by_text_is_refused():
    row = int(original(make_splits(PLAIN, Random(5), seed=0))[0])
    other = Dataset.from_dict({"text": [PLAIN.train["text"][row]], "label": ["east"]})
    other = (
        other if PLAIN.train["label"][row] != "east" else Dataset.from_dict({"text": other["text"], "label": ["west"]})
    )
    new = new_corpus(concatenate_datasets([tiny.rows(10, seed=7), other]))
    line = refusal(PLAIN, Random(5), new=new, new_size=11)
    assert "new.path: 1 examples of the set new share their text with the set train" in line
    assert new.train["id"][10] in line


def test_a_file_of_d_n_with_other_labels_is_refused():
    strange = Dataset.from_dict({"text": ["x", "y"], "label": ["up", "down"]})
    assert "new.path has 2 labels that the training split lacks (down, up)" in refusal(
        PLAIN, Random(2), new=new_corpus(strange)
    )
    several = Dataset.from_dict({"text": ["x", "y"], "label": [["east"], ["west"]]})
    new = make_corpus("new", "classification", dict.fromkeys(("train", "validation", "test"), several))
    assert "new.path: its labels are lists" in refusal(PLAIN, Random(2), new=new)


def test_a_given_original_was_trained_on_everything():
    splits = make_splits(PLAIN, Random(10), seed=0, original_is_given=True)
    assert len(splits["train"]) == 200 and len(splits["forget"]) == 10
    assert len(splits["new"]) == len(splits["holdout"]) == 0 and splits.notes == ()
    with_new = make_splits(PLAIN, Random(10), seed=0, original_is_given=True, new=new_corpus(tiny.rows(30, seed=7)))
    assert (len(with_new["train"]), len(with_new["new"]), len(with_new["holdout"])) == (200, 10, 20)


def test_fingerprints_follow_ids_and_contents():
    splits = make_splits(PLAIN, Random(10), seed=0)
    again = make_splits(PLAIN, Random(10), seed=0)
    prints = {name: splits.fingerprint(split) for name, split in splits.sets.items()}
    assert prints == {name: again.fingerprint(split) for name, split in again.sets.items()}
    assert prints.pop("nonmember") == prints["holdout"]  # of a random request
    assert len(set(prints.values())) == len(prints)
    ids = [f"a-{row}" for row in range(50)]
    relabelled = tiny.rows(50).map(lambda row: {"label": "east"})
    first, second = (with_train(table.add_column("id", ids)) for table in (tiny.rows(50), relabelled))
    first, second = (make_splits(corpus, Random(5), seed=0) for corpus in (first, second))
    assert first.strings(first["train"], "id") == second.strings(second["train"], "id")
    assert first.fingerprint(first["train"]) != second.fingerprint(second["train"])


def test_the_sets_are_written_by_id(tmp_path):
    splits = make_splits(PLAIN, Random(10), seed=0)
    splits.write(tmp_path / "splits.parquet")
    written = pd.read_parquet(tmp_path / "splits.parquet")
    assert list(written.columns) == ["split", "id"]
    for name, split in splits.sets.items():
        assert written.loc[written.split == name, "id"].tolist() == splits.strings(split, "id")
