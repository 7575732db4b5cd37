"""Requests: which rows of D they choose, and which rows of the reserve match them."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, List, Value
from helpers import tiny

from kga.data.forget import Group, Ids, Label, Random, Request, matched, read_ids, whole_groups
from kga.errors import UserError

TRAIN, RESERVE = np.arange(10, 90), np.concatenate([np.arange(10), np.arange(90, 120)])


@pytest.fixture(scope="module")
def table() -> Dataset:
    return tiny.corpus(train=120, groups=12).train


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def choose(request: Request, table: Dataset, seed: int = 0) -> np.ndarray:
    chosen = request.choose(table, TRAIN, generator(seed))
    assert np.isin(chosen, TRAIN).all() and len(set(chosen)) == len(chosen)
    return chosen


def match(request: Request, table: Dataset, forget: np.ndarray, size: int) -> np.ndarray:
    matched = request.match(table, TRAIN, forget, RESERVE, size, generator())
    assert np.isin(matched, RESERVE).all() and len(set(matched)) == len(matched)
    return matched


def values(table: Dataset, name: str, rows: np.ndarray) -> list:
    return [table[name][row] for row in rows.tolist()]


def ids_file(folder, lines: list[str]) -> str:
    (folder / "ids").write_text("\n".join(lines), encoding="utf-8")
    return str(folder / "ids")


def test_random_takes_so_many_and_follows_the_seed(table):
    assert len(choose(Random(12), table)) == 12
    assert len(choose(Random(0.25), table)) == 20
    assert choose(Random(12), table).tolist() == choose(Random(12), table).tolist()
    assert choose(Random(12), table).tolist() != choose(Random(12), table, seed=1).tolist()
    assert len(match(Random(12), table, choose(Random(12), table), 15)) == 15


def test_random_needs_a_size(table):
    with pytest.raises(UserError, match=r"forget\.size"):
        choose(Random(), table)


@pytest.mark.parametrize("form", ["text", "JSON Lines", "with a byte-order mark"])
def test_ids_from_a_file(table, tmp_path, form):
    rows = [11, 40, 89]
    names = values(table, "id", np.array(rows))
    lines = [json.dumps({"id": name, "text": "a\u2028b"}, ensure_ascii=False) for name in names]
    lines = lines if form == "JSON Lines" else names
    mark = "\ufeff" if form == "with a byte-order mark" else ""
    path = ids_file(tmp_path, [mark + lines[2], "", f"  {lines[0]} ", lines[1], lines[1]])
    assert choose(Ids(path), table).tolist() == rows


def test_unknown_ids_are_counted_and_five_are_named(table, tmp_path):
    outside = values(table, "id", np.array([0]))
    path = ids_file(tmp_path, [*values(table, "id", TRAIN[:2]), *(f"nobody-{n}" for n in range(6)), *outside])
    with pytest.raises(UserError) as caught:
        choose(Ids(path), table)
    line = str(caught.value)
    assert "forget.path: 7 of the 9 ids" in line and path in line
    assert "(nobody-0, nobody-1, nobody-2, nobody-3, nobody-4, ...)" in line
    assert outside[0] not in line and "nobody-5" not in line


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["a", '{"name": "b"}'], "ids:2: no JSON object with a field id"), (['{"id": '], "ids:1: no JSON object")],
)
def test_faults_of_an_ids_file_are_told_by_line(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        read_ids(ids_file(tmp_path, lines))


def test_an_ids_file_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"needs forget\.path"):
        read_ids(None)
    with pytest.raises(UserError, match="nowhere is no file"):
        read_ids(str(tmp_path / "nowhere"))
    (tmp_path / "ids").write_bytes("Süß".encode("latin-1"))
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_ids(str(tmp_path / "ids"))


def test_whole_groups_until_the_size_is_reached():
    groups = pa.chunked_array([["a"] * 3 + ["b"] * 2, ["c"] * 4 + ["a"]])
    for seed in range(5):
        names = groups.to_pylist()
        chosen = Counter(names[row] for row in whole_groups(groups, 3, generator(seed)))
        assert all(chosen[name] == names.count(name) for name in chosen)
        assert chosen.total() >= 3 > chosen.total() - min(chosen.values())
    assert len(whole_groups(groups, 100, generator())) == 10
    assert len(whole_groups(groups.slice(0, 0), 3, generator())) == 0


def test_examples_without_a_group_are_no_group():
    groups = pa.chunked_array([["a", "a", None, None, "", ""] * 10])
    sizes = {len(whole_groups(groups, 5, generator(seed))) for seed in range(20)}
    assert 5 in sizes and sizes <= {5, 20, 21, 22, 23, 24}


def test_groups_are_forgotten_whole(table):
    request = Group(20)
    chosen = choose(request, table)
    forgotten = set(values(table, "group", chosen))
    assert len(chosen) >= 20
    assert not forgotten & set(values(table, "group", np.setdiff1d(TRAIN, chosen)))


def test_named_groups(table):
    one, two = sorted(set(values(table, "group", TRAIN)))[:2]
    assert set(values(table, "group", choose(Group(value=one), table))) == {one}
    assert set(values(table, "group", choose(Group(value=[one, two]), table))) == {one, two}
    with pytest.raises(UserError, match=r"forget\.value .*'person-77'.*person-"):
        choose(Group(value="person-77"), table)
    with pytest.raises(UserError, match=r"forget\.column=firm is no column of the data: it has group, id, label, text"):
        choose(Group(20, column="firm"), table)


def test_new_groups_are_wholly_unseen():
    groups = [f"person-{row % 7}" if row in TRAIN else f"person-{row % 11}" for row in range(120)]
    table = tiny.rows(120).add_column("group", groups)
    matched = match(Group(20), table, TRAIN[:20], 5)
    assert len(matched) >= 5
    names = set(values(table, "group", matched))
    assert names <= {"person-7", "person-8", "person-9", "person-10"}
    assert len(matched) == sum(groups[row] in names for row in RESERVE)


def test_a_label_whole_or_in_part(table):
    everything = choose(Label("north"), table)
    assert set(values(table, "label", everything)) == {"north"}
    assert len(everything) == values(table, "label", TRAIN).count("north")
    part = choose(Label("north", size=5), table)
    assert len(part) == 5 and np.isin(part, everything).all()
    assert set(values(table, "label", match(Label("north"), table, part, 5))) == {"north"}


def test_a_label_that_yaml_reads_as_a_number():
    table = Dataset.from_dict({"label": [str(row % 4) for row in range(120)]})
    request = Label(3)
    chosen = choose(request, table)
    assert (chosen % 4 == 3).all() and len(chosen) == 20
    assert (match(request, table, chosen, 5) % 4 == 3).all()


def test_a_label_among_several():
    labels = [["a", "b"], ["b"], [], ["c"]] * 30
    table = Dataset.from_dict({"label": labels}).cast_column("label", List(Value("string")))
    request = Label(["b", "c"])
    assert set(choose(request, table) % 4) == {0, 1, 3}
    assert set(match(request, table, TRAIN[:5], 20) % 4) == {0, 1, 3}


def test_an_unknown_label_comes_with_the_nearest(table):
    with pytest.raises(UserError, match=r"forget\.value: no example of D has 'nort'.*north"):
        choose(Label("nort"), table)
    with pytest.raises(UserError, match=r"needs forget\.value"):
        choose(Label(), table)


def test_ids_are_matched_by_label(table):
    """D_n has the label shares of D_f, filled up at random where the reserve runs out."""
    labels = np.array(values(table, "label", np.arange(120)))
    north, west = (TRAIN[labels[TRAIN] == name] for name in ("north", "west"))
    forget = np.concatenate([north[:4], west[:2]])
    drawn = matched(table, forget, RESERVE, 6, generator())
    assert Counter(labels[drawn]) == {"north": 4, "west": 2}
    drawn = matched(table, north[:5], RESERVE, 35, generator())
    assert len(drawn) == 35
    assert (labels[drawn] == "north").sum() == (labels[RESERVE] == "north").sum()


def test_the_base_request_chooses_nothing_by_itself(table):
    with pytest.raises(NotImplementedError):
        Request(3).choose(table, TRAIN, generator())


@pytest.mark.parametrize("request_", [Random(3), Ids()])
def test_where_nothing_can_be_listed_it_is_said_what_can(table, request_):
    with pytest.raises(UserError, match=r"nothing to list; forget=group, forget=label and forget=word list"):
        request_.candidates(table, TRAIN, RESERVE)


def test_candidates_are_groups_and_labels_by_size(table):
    groups = Counter(values(table, "group", TRAIN))
    columns, rows = Group().candidates(table, TRAIN, RESERVE)
    assert columns[0] == "group" and dict(rows) == groups
    assert [count for _, count in rows] == sorted(groups.values(), reverse=True)
    seen, unseen = (Counter(values(table, "label", rows)) for rows in (TRAIN, RESERVE))
    _, rows = Label("???").candidates(table, TRAIN, RESERVE)
    assert rows == [(name, count, unseen[name]) for name, count in sorted(seen.items(), key=lambda pair: -pair[1])]


def test_candidates_among_lists_of_labels_and_examples_without_a_group():
    table = Dataset.from_dict({"label": [["a", "b"], ["b"], [], ["c"]] * 30, "group": ["x", None, "", "y"] * 30})
    _, rows = Label().candidates(table, TRAIN, RESERVE)
    assert rows == [("b", 40, 20), ("a", 20, 10), ("c", 20, 10)]
    assert Group().candidates(table, TRAIN, RESERVE)[1] == [("x", 20), ("y", 20)]


def test_groups_of_several_columns():
    table = Dataset.from_dict({"firm": ["a", "b", None, ""] * 30, "year": [2000 + row // 60 for row in range(120)]})
    request = Group(1, column=["firm", "year"])
    chosen = choose(request, table)
    one, year = table["firm"][chosen[0]], table["year"][chosen[0]]
    expected = [row for row in TRAIN.tolist() if (table["firm"][row], table["year"][row]) == (one, year)]
    assert chosen.tolist() == (expected if one else chosen.tolist()) and len(chosen) == (len(expected) if one else 1)
    named = choose(Group(column=["firm", "year"], value=["a / 2000", "b / 2001"]), table)
    assert named.tolist() == [
        row for row in TRAIN.tolist() if (table["firm"][row], table["year"][row]) in (("a", 2000), ("b", 2001))
    ]
    with pytest.raises(UserError, match=r"column firm / year\).*'a / 1999'.*a / 200\d"):
        choose(Group(column=["firm", "year"], value="a / 1999"), table)
    columns, rows = request.candidates(table, TRAIN, RESERVE)
    assert columns[0] == "firm / year" and {name for name, _ in rows} == {
        "a / 2000",
        "a / 2001",
        "b / 2000",
        "b / 2001",
    }
    with pytest.raises(UserError, match=r"forget\.column=month is no column"):
        choose(Group(1, column=["firm", "month"]), table)


def planted(count: int) -> Dataset:
    """Of 120 rows every eighth is planted, with the labels of the others."""
    return tiny.rows(count).add_column("planted", ["yes" if row % 8 == 0 else "no" for row in range(count)])


def test_planted_examples_are_forgotten_without_a_file():
    table = planted(120)
    chosen = choose(Ids(), table)
    assert chosen.tolist() == [row for row in TRAIN.tolist() if row % 8 == 0]
    with pytest.raises(UserError, match=r"needs forget\.path"):
        choose(Ids(), tiny.rows(120))


def test_half_of_the_reserves_planted_examples_are_left_for_attacks():
    table = planted(120)
    request, forget = Ids(), TRAIN[TRAIN % 8 == 0]
    new = match(request, table, forget, 20)
    reserved = RESERVE[RESERVE % 8 == 0]
    assert len(new) == 20 and np.isin(new, reserved).sum() == (len(reserved) + 1) // 2
    holdout = np.setdiff1d(RESERVE, new)
    others = request.nonmembers(table, TRAIN, forget, holdout, generator())
    assert others.tolist() == np.setdiff1d(reserved, new).tolist() and len(others)
    assert len(match(request, table, forget, 2)) == 2


def test_a_file_of_ids_counts_more_than_planted_marks(tmp_path):
    table = planted(120).add_column("id", [f"n-{row}" for row in range(120)])
    assert choose(Ids(ids_file(tmp_path, ["n-11", "n-30"])), table).tolist() == [11, 30]
