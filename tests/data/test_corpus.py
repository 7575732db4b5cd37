"""What make_corpus promises: ids, hashes, cuts that depend on nothing but the examples, and faults told by place."""

import random
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from kga.data.corpus import SPLITS, Listed, column, make_corpus, taken
from kga.errors import UserError


def table(texts, labels=None, **columns) -> Dataset:
    return Dataset.from_dict({"text": list(texts), "label": list(labels or ["a"] * len(texts)), **columns})


def numbered(prefix: str, size: int, **columns) -> Dataset:
    return table([f"{prefix} {i}" for i in range(size)], [str(i % 3) for i in range(size)], **columns)


def classify(train: Dataset, name: str = "d", seed: int = 0, **splits: Dataset):
    return make_corpus(name, "classification", {"train": train, **splits}, seed=seed)


def held_out() -> dict[str, Dataset]:
    return {"validation": numbered("v", 3), "test": numbered("t", 4)}


def values(dataset: Dataset, name: str) -> list:
    return dataset[:][name]


def test_hashes_are_blake2b_of_canonical_json():
    corpus = classify(table(["Süß"], ["x"]), **held_out())
    content, inputs = '{"label":"x","text":"Süß"}', '{"text":"Süß"}'
    assert corpus.train[0]["content"] == blake2b(content.encode(), digest_size=16).hexdigest()
    assert corpus.train[0]["input_hash"] == blake2b(inputs.encode(), digest_size=16).hexdigest()
    assert corpus.train[0]["id"] == corpus.train[0]["content"]


def test_content_follows_the_label_and_input_hash_does_not():
    first, second = (classify(table(["a b"], [label]), **held_out()).train[0] for label in ("x", "y"))
    assert first["content"] != second["content"]
    assert first["input_hash"] == second["input_hash"]


@pytest.mark.parametrize(
    ("task", "rows", "changed"),
    [
        ("translation", {"source": ["ja"], "target": ["yes"]}, {"target": ["yeah"]}),
        ("response", {"persona": [[]], "history": [["hi"]], "response": ["yo"]}, {"response": ["hey"]}),
    ],
)
def test_the_last_field_is_not_part_of_the_input(task, rows, changed):
    splits = {split: Dataset.from_dict(rows) for split in SPLITS}
    other = {**splits, "train": Dataset.from_dict({**rows, **changed})}
    first, second = make_corpus("d", task, splits).train[0], make_corpus("d", task, other).train[0]
    assert first["content"] != second["content"]
    assert first["input_hash"] == second["input_hash"]


def test_repeated_examples_get_numbered_ids_in_order():
    corpus = classify(table(["a", "b", "a", "a"]), validation=table(["v"]), test=table(["a", "t"]))
    a = corpus.train[0]["content"]
    assert values(corpus.train, "id") == [a, corpus.train[1]["content"], f"{a}-2", f"{a}-3"]
    assert values(corpus.test, "id")[0] == f"{a}-4"
    assert corpus.notes == (
        "2 of 4 training examples are exact copies of an earlier one.",
        "3 training inputs also occur in test, word for word.",
    )


def test_ids_and_notes_are_those_of_a_count_by_hand():
    chooser = random.Random(0)
    parts = {name: [chooser.choice("abcdefgh") for _ in range(size)] for name, size in (("train", 60), ("test", 9))}
    corpus = classify(table(parts["train"]), validation=table(["v"]), test=table(parts["test"]))
    seen: dict[str, int] = {}
    for split in (corpus.train, corpus.validation, corpus.test):
        for row in split:
            seen[row["content"]] = number = seen.get(row["content"], 0) + 1
            assert row["id"] == row["content"] + (f"-{number}" if number > 1 else "")
    in_test = sum(text in parts["test"] for text in parts["train"])
    assert corpus.notes == (
        f"{60 - len(set(parts['train']))} of 60 training examples are exact copies of an earlier one.",
        f"{in_test} training inputs also occur in test, word for word.",
    )


def test_ids_do_not_follow_the_other_examples():
    few = classify(table(["a", "b"]), **held_out())
    more = classify(table(["z", "b", "a"]), **held_out())
    assert set(values(few.train, "id")) < set(values(more.train, "id"))
    assert values(few.test, "id") == values(more.test, "id")
    assert few.notes == more.notes == ()


def test_given_ids_become_strings_and_other_columns_stay():
    corpus = classify(numbered("x", 3, id=[7, 8, 9], company=["p", "q", None]), **held_out())
    assert values(corpus.train, "id") == ["7", "8", "9"]
    assert values(corpus.train, "company") == ["p", "q", None]


def test_made_ids_keep_clear_of_given_ones():
    made = classify(table(["a", "a"]), validation=table(["v"]), test=table(["t"]))
    given = table(["a", "a"], id=values(made.train, "id"))
    corpus = classify(given, validation=table(["v"]), test=table(["a"]))
    assert values(corpus.test, "id") == [f"{made.train[0]['content']}-3"]


def test_repeated_given_ids_are_refused_with_the_first_five():
    ids = [str(i // 2) for i in range(14)]
    with pytest.raises(UserError, match=r"7 ids occur more than once \(0, 1, 2, 3, 4\)"):
        classify(numbered("x", 14, id=ids), **held_out())
    with pytest.raises(UserError, match=r"1 ids .*\(2\).* over all splits"):
        classify(numbered("x", 2, id=[1, 2]), validation=numbered("v", 1, id=[2]), test=numbered("t", 1, id=[3]))
    with pytest.raises(UserError, match="train, row 2: 'id' is missing"):
        classify(numbered("x", 3, id=["p", None, "q"]), **held_out())


def test_missing_splits_are_cut_from_train_and_said_so():
    train = numbered("x", 200, id=range(200))
    corpus = classify(train)
    assert [len(split) for split in corpus.splits.values()] == [160, 20, 20]
    ids = [set(values(split, "id")) for split in corpus.splits.values()]
    assert set.union(*ids) == {str(i) for i in range(200)}
    assert sum(map(len, ids)) == 200
    assert corpus.notes == (
        "d has no test split: 20 of 200 training examples were cut for it.",
        "d has no validation split: 20 of 200 training examples were cut for it.",
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_a_cut_depends_on_ids_only(grouped):
    rows = list(range(300))
    columns = {"group": [f"g{i % 40}" for i in rows]} if grouped else {}
    train = numbered("x", 300, **columns)
    random.Random(1).shuffle(rows)
    first, second, other = classify(train), classify(train.select(rows)), classify(train, seed=1)
    for split in SPLITS:
        assert set(values(first.splits[split], "id")) == set(values(second.splits[split], "id"))
    assert set(values(first.test, "id")) != set(values(other.test, "id"))


def test_a_given_test_split_is_kept_whole():
    corpus = classify(numbered("x", 100), test=numbered("t", 3))
    assert values(corpus.test, "text") == ["t 0", "t 1", "t 2"]
    assert (len(corpus.train), len(corpus.validation)) == (90, 10)
    assert len(corpus.notes) == 1


def test_whole_groups_are_cut():
    groups = [f"g{i // 7}" if i < 280 else None for i in range(400)]
    corpus = classify(numbered("x", 400, group=groups))
    of_split = [{group for group in values(split, "group") if group} for split in corpus.splits.values()]
    assert sum(map(len, of_split)) == 40
    assert 40 <= len(corpus.test) < 47
    assert 0 < values(corpus.test, "group").count(None) < 40  # examples of no group are cut one by one
    assert all("by whole groups" in note for note in corpus.notes)


def test_train_must_be_there_and_large_enough():
    with pytest.raises(UserError, match="data d: the training split is empty"):
        make_corpus("d", "classification", {"test": numbered("t", 3)})
    with pytest.raises(UserError, match="training split is empty"):
        classify(Dataset.from_dict({}))
    with pytest.raises(UserError, match="too small to cut a validation split"):
        classify(numbered("x", 2), validation=numbered("v", 0))
    with pytest.raises(UserError, match="too small to cut a test split"):
        classify(numbered("x", 20, group=["one"] * 20))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"text": ["a", "b", None]}, "d, train, row 3: 'text' is missing"),
        ({"text": ["a", " \n", None]}, "d, train, row 2: 'text' is empty"),
        ({"label": ["x", None, ""]}, "d, train, row 2: 'label' is missing"),
        ({"label": [["x"], [], ["y", None]]}, "d, train, row 3: 'label' has an empty item"),
        ({"label": [["x"], None, []]}, "d, train, row 2: 'label' is missing"),
        ({"text": [1, 2, 3]}, "d, train: column 'text' must hold strings, not int64"),
        ({"text": [["a"], ["b"], ["c"]]}, "d, train: column 'text' must hold strings"),
        ({"label": [{"p": 1}] * 3}, "d, train: column 'label' must hold strings"),
        ({"content": ["p", "q", "r"]}, "d, train: the column name 'content' is kept"),
    ],
)
def test_faults_are_told_by_place(rows, told):
    with pytest.raises(UserError, match=told) as caught:
        classify(Dataset.from_dict({"text": ["a", "b", "c"], "label": ["x", "y", "z"], **rows}), **held_out())
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named_with_those_found():
    with pytest.raises(
        UserError, match=r"d, train: column 'label' is missing: .* needs text, label; found: text, topic"
    ):
        classify(Dataset.from_dict({"text": ["a"], "topic": ["x"]}), **held_out())
    with pytest.raises(UserError, match="column 'persona' must hold lists of strings"):
        make_corpus(
            "d", "response", {"train": Dataset.from_dict({"persona": ["x"], "history": [[]], "response": ["y"]})}
        )


def test_class_numbers_become_names():
    classes = ClassLabel(names=["no", "yes"])
    single = Dataset.from_dict(
        {"text": ["a", "b"], "label": [1, 0]}, Features({"text": Value("string"), "label": classes})
    )
    assert values(classify(single, **held_out()).train, "label") == ["yes", "no"]
    several = Dataset.from_dict(
        {"text": ["a", "b"], "label": [[1, 0], []]}, Features({"text": Value("string"), "label": List(classes)})
    )
    corpus = classify(several, validation=table(["v"], [["no"]]), test=table(["t"], [["yes"]]))
    assert values(corpus.train, "label") == [["yes", "no"], []]
    assert corpus.multi_label
    unlabelled = Dataset.from_dict(
        {"text": ["a", "b"], "label": [1, -1]}, Features({"text": Value("string"), "label": classes})
    )
    with pytest.raises(UserError, match="test, row 2: 'label' is missing"):
        classify(single, validation=single, test=unlabelled)


def test_bare_numbers_and_large_strings_become_strings():
    features = Features({"text": Value("large_string"), "label": Value("int32")})
    corpus = classify(Dataset.from_dict({"text": ["a", "b"], "label": [3, 4]}, features), **held_out())
    assert values(corpus.train, "label") == ["3", "4"]
    assert corpus.train.features["text"] == Value("string")
    assert not corpus.multi_label


def test_labels_have_one_form_in_all_splits():
    with pytest.raises(UserError, match="lists in one split and single in another"):
        classify(table(["a"], [["x"]]), **held_out())


def test_values_are_taken_in_any_order_piece_by_piece(monkeypatch):
    monkeypatch.setattr("kga.data.corpus.PIECE", 3)
    values = pa.chunked_array([["a", "b"], ["c"], ["d", "e", None]])
    for rows in ([5, 0, 0, 4, 1, 3, 2, 5], [2], []):
        found = taken(values, np.array(rows, np.int64))
        assert found.type == values.type and found.to_pylist() == [values[row].as_py() for row in rows]
    listed = Listed(values)
    assert list(listed) == list(listed) == values.to_pylist()


def test_column_follows_selection_and_order():
    dataset = numbered("x", 2500)
    for view in (dataset, dataset.select([3, 1, 2]), dataset.shuffle(seed=3), dataset.shuffle(seed=3).select([5, 2])):
        assert column(view, "text").to_pylist() == values(view, "text")
