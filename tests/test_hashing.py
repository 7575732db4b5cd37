"""Equal content has equal names, and every change that matters has another."""

from datetime import date

import pyarrow as pa
import pytest
import torch

from kga.hashing import PIECE, column_digest, digest, file_digest, folder_digest, state_digest, strings_digest


def test_the_order_of_keys_does_not_matter_and_values_do():
    assert digest({"a": 1, "b": {"c": 2, "d": [3]}}) == digest({"b": {"d": [3], "c": 2}, "a": 1})
    others = [{"a": 2}, {"a": "1"}, {"a": 1.5}, {"a": True}, {"a": None}, {"a": [1]}, {"b": 1}, {}]
    assert len({digest(value) for value in [{"a": 1}, *others]}) == len(others) + 1
    assert digest([1, 2]) != digest([2, 1])


def test_a_digest_is_known():
    """A change of the hash would orphan every store: it must be meant."""
    assert digest({"seed": 0, "name": "Süß"}) == "df9dc50eec6153ddff9060c25a721855"


def test_strings_are_told_apart_at_their_ends():
    assert strings_digest(["ab", "c"]) != strings_digest(["a", "bc"])
    assert strings_digest(["a", "b"]) != strings_digest(["b", "a"])
    assert strings_digest(["a"]) != strings_digest(["a", ""])
    assert strings_digest(iter(["a", "b"])) == strings_digest(["a", "b"])


@pytest.mark.parametrize("values", [
    ["a", "", "Süß \u0301", "tab\tand\0nought", "a"],
    ["a", None, "None"],
    [3, -7, None, 2**53 + 1],
    [1.0, 0.1, 1e20, None],
    [True, False, None],
    [["a", "b"], [], None],
    [date(2020, 1, 2), None],
    [None, None],
    [],
], ids=["strings", "nulls", "integers", "floats", "booleans", "lists", "dates", "nothing else", "empty"])  # fmt: skip
def test_a_column_hashes_as_its_values_written_out(values):
    whole = pa.array(values, None if values else pa.string())
    cut = pa.chunked_array([whole[:1], whole[1:1], whole[1:]])
    for column in (pa.chunked_array([whole], whole.type), cut, cut.slice(0)):
        assert column_digest(column) == strings_digest(map(str, values))


def test_long_columns_hash_piece_by_piece():
    values = [f"value {number}" for number in range(2 * PIECE + 3)]
    column = pa.chunked_array([pa.array(values[:7]), pa.array(["left out", *values[7:]])[1:]])
    assert column_digest(column) == strings_digest(values)
    assert column_digest(column.slice(5)) == strings_digest(values[5:])
    assert column_digest(pa.chunked_array([values], pa.large_string())) == strings_digest(values)


def test_files_by_content_and_folders_by_names_too(tmp_path):
    for folder, name, text in (("one", "a", "x"), ("two", "a", "x"), ("three", "b", "x"), ("four", "a", "y")):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / name).write_text(text)
    assert file_digest(tmp_path / "one/sub/a") == file_digest(tmp_path / "three/sub/b")
    assert file_digest(tmp_path / "one/sub/a") != file_digest(tmp_path / "four/sub/a")
    one, two, three, four = (folder_digest(tmp_path / name) for name in ("one", "two", "three", "four"))
    assert one == two
    assert len({one, three, four}) == 3


def test_weights_by_name_shape_type_and_value():
    weights = {"a": torch.arange(4.0), "b": torch.tensor(True)}
    same = {"b": torch.tensor(True), "a": torch.arange(8.0)[:4].clone()}
    assert state_digest(weights) == state_digest(same)
    others = [
        {**weights, "a": torch.arange(4.0).reshape(2, 2)},
        {**weights, "a": torch.arange(4.0).bfloat16()},
        {**weights, "a": torch.arange(4.0) + 1e-6},
        {**weights, "b": torch.tensor(False)},
        {"c": weights["a"], "b": weights["b"]},
    ]
    assert len({state_digest(state) for state in [weights, *others]}) == len(others) + 1


def test_weights_that_lie_crosswise_in_memory_hash_by_value():
    matrix = torch.arange(6.0).reshape(2, 3)
    assert state_digest({"a": matrix.T}) == state_digest({"a": matrix.T.contiguous()})
