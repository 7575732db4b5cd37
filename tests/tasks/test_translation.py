"""What translation encodes: which end of a text is cut, and that nothing is at exactly the limit."""

from types import SimpleNamespace

import pytest
from helpers import sequences

from kga.data.encoded import examples as in_memory
from kga.metrics.text import TranslationQuality
from kga.tasks.translation import Translation

SOURCE, TARGET = "we sun to 漢 green boat", "Boot grün 漢 zu Sonne wir"


def ids(text: str) -> list[int]:
    return sequences.tokenizer()(text, add_special_tokens=False)["input_ids"]


def encoded(max_length: int, max_target_length: int | None = None) -> SimpleNamespace:
    """The one example, encoded at some limits."""
    task = sequences.translator(max_length=max_length, max_target_length=max_target_length)
    found = task.encode({"source": [SOURCE], "target": [TARGET]})
    return SimpleNamespace(**{name: column[0] for name, column in found.items()})


END = sequences.tokenizer().eos_token_id
SOURCE_LIMIT, TARGET_LIMIT = len(ids(SOURCE)) + 1, len(ids(TARGET)) + 1  # the closing token is one of them


def test_a_pair_within_its_limits_is_kept_whole():
    found = encoded(SOURCE_LIMIT, TARGET_LIMIT)
    assert found.input_ids == [*ids(SOURCE), END]
    assert found.labels == [*ids(TARGET), END]
    assert found.cut is False
    assert found.length == SOURCE_LIMIT + TARGET_LIMIT


@pytest.mark.parametrize("over", [1, 2, SOURCE_LIMIT - 2])
def test_of_a_long_source_the_end_is_cut(over):
    found = encoded(SOURCE_LIMIT - over, TARGET_LIMIT)
    assert found.input_ids == [*ids(SOURCE)[: SOURCE_LIMIT - 1 - over], END]
    assert found.labels == [*ids(TARGET), END]
    assert found.cut is True


@pytest.mark.parametrize("over", [1, 2, TARGET_LIMIT - 2])
def test_of_a_long_target_the_end_is_cut_and_it_still_closes(over):
    found = encoded(SOURCE_LIMIT, TARGET_LIMIT - over)
    assert found.labels == [*ids(TARGET)[: TARGET_LIMIT - 1 - over], END]
    assert found.input_ids == [*ids(SOURCE), END]
    assert found.cut is True


def test_a_limit_that_leaves_no_room_for_text():
    found = encoded(1, 1)
    assert (found.input_ids, found.labels, found.cut) == ([END], [END], True)


def test_the_target_has_the_inputs_limit_unless_it_has_its_own():
    longer = max(SOURCE_LIMIT, TARGET_LIMIT)
    assert encoded(longer - 1).cut is True and encoded(longer).cut is False
    assert encoded(longer, 3).labels == [*ids(TARGET)[:2], END]


def test_decoder_only_translation_has_the_separator_between_the_two():
    task = sequences.translator("gpt2")
    found = task.encode({"source": [SOURCE], "target": [TARGET]})
    assert found["input_ids"] == [[*ids(SOURCE), task.tokenizer.sep_token_id]]
    assert found["labels"] == [[*ids(TARGET), END]]


def test_encoded_texts_turn_back_into_the_texts():
    task, rows = sequences.translator(), sequences.pairs(20, seed=8)
    view = in_memory(rows, task)
    for name, column in (("input_ids", "source"), ("labels", "target")):
        assert task.tokenizer.batch_decode(list(view.table[name]), skip_special_tokens=True) == [
            f" {text}" for text in rows[column]
        ]
    assert not view.column("cut").any()


def test_both_sides_teach_the_tokenizer():
    columns = {"source": ["a", "b"], "target": ["c", "d"]}
    assert sorted(Translation.texts(columns)) == ["a", "b", "c", "d"]


def test_what_its_texts_are_measured_by():
    (metric,) = sequences.translator().text_metrics()
    assert isinstance(metric, TranslationQuality)
    assert sequences.translator().score_metric == "token_accuracy"
