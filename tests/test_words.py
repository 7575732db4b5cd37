"""A word's probability against a plain pass of the raw model; rates and substitutes against cases made by hand."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import saved_models, sequences, tiny
from transformers import AutoTokenizer

from kga.data.encoded import examples as in_memory
from kga.models.ensemble import Ensemble
from kga.tasks.translation import Translation
from kga.words import (
    NOTHING,
    REWRITTEN,
    find_word,
    pattern,
    rate,
    statistics_at,
    substitutes,
    top_substitutes,
    word_analysis,
)

TARGETS = ["Wir sehen Haus", "Haus Sonne Haus", "haus grün", "Hausboot Sonne", "zu grün: Haus!", "Sonne", "sieben grün"]
FAMILIES = {
    "marian": lambda seed=0: sequences.translator("marian", seed),
    "lstm": lambda seed=0: sequences.translator("kga_lstm", seed),
    "gpt2": lambda seed=0: sequences.responder("gpt2", seed),
}


def encoded(task, targets=TARGETS):
    if isinstance(task, Translation):
        return in_memory(Dataset.from_dict({"source": ["to the sun"] * len(targets), "target": targets}), task)
    rows = [{"persona": ["we"], "history": ["to the sun"], "response": target} for target in targets]
    return in_memory(Dataset.from_list(rows), task)


def word_statistics(task, examples, texts, word, batch_size=64):
    return statistics_at(task, examples, find_word(task, examples, texts, word), batch_size)


def by_hand(task, examples, word: str):
    """Probabilities and ranks of the word's occurrences from logits of the raw model, by a search for its token ids.

    The tokenizer is byte-level and puts a blank before every word, as a part of its first token or as a token of its own,
    which is not counted.
    """
    probabilities, ranks = [], []
    for row in examples.table:
        source, target = row["input_ids"], row["labels"]
        with torch.no_grad():
            if task.model.config.is_encoder_decoder:
                start = [task.model.config.decoder_start_token_id, *target[:-1]]
                logits = task.model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([start])).logits[0]
            else:
                logits = task.model(input_ids=torch.tensor([source + target])).logits[0, len(source) - 1 : -1]
        text = task.tokenizer.decode(target[:-1])
        for spelled in (word.capitalize(), word.lower()):
            blank, *ids = task.tokenizer(spelled, add_special_tokens=False)["input_ids"]
            if task.tokenizer.decode([blank]) != " ":
                ids = [blank, *ids]
            for place in range(len(target) - len(ids) + 1):
                after = task.tokenizer.decode(target[: place + len(ids)])
                if target[place : place + len(ids)] == ids and not re.match(r"\w", text[len(after) :]):
                    steps = logits[place : place + len(ids)].softmax(1)
                    probabilities.append(np.prod([float(step[token]) for step, token in zip(steps, ids, strict=True)]))
                    ranks.append(1 + int((steps[0] > steps[0][ids[0]]).sum()))
    return probabilities, ranks


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("word", ["haus", "grün"])
def test_probability_and_rank_are_those_of_a_plain_pass(family, word):
    """Batches of two, so that targets of different lengths are padded."""
    task = FAMILIES[family]()
    examples = encoded(task)
    probabilities, ranks = by_hand(task, examples, word)
    found = word_statistics(task, examples, TARGETS, word, batch_size=2)
    assert len(probabilities) == found["occurrences"] == {"haus": 5, "grün": 3}[word]
    assert found["probability"] == pytest.approx(np.mean(probabilities), rel=1e-4)
    assert found["rank"] == np.median(ranks) and max(ranks) > 1
    for target in TARGETS[:3]:  # one by one: a mean hides what is small
        alone = encoded(task, [target])
        probabilities, _ = by_hand(task, alone, word)
        if probabilities:
            one = word_statistics(task, alone, [target], word)
            assert one["probability"] == pytest.approx(np.mean(probabilities), rel=1e-4, abs=0)


def test_an_ensemble_is_measured_as_it_answers():
    first, second = FAMILIES["marian"](0), FAMILIES["marian"](1)
    both = Translation(Ensemble([first.model, second.model]), first.tokenizer, first.max_length).eval()
    places = find_word(first, encoded(first), TARGETS, "sonne")
    assert len(places) == 3
    one = [_probability(task, places, "sonne") for task in (first, second)]
    if all(len(tokens) == 1 for _, tokens in places):  # else the mean of products is not the product of means
        assert _probability(both, places, "sonne") == pytest.approx(np.mean(one), rel=1e-4)
    assert _probability(both, places, "sonne") > 0


def _probability(task, places, word):
    return word_statistics(task, encoded(task), TARGETS, word)["probability"]


def test_what_occurs_nowhere_has_no_numbers():
    task = FAMILIES["marian"]()
    assert word_statistics(task, encoded(task), TARGETS, "Mond") == {
        "probability": None, "rank": None, "occurrences": 0,
    }  # fmt: skip


def test_examples_that_were_cut_are_left_out():
    task = sequences.translator(max_target_length=4)
    targets = ["Haus", "Haus " + "sieben " * 9]
    places = find_word(task, encoded(task, targets), targets, "Haus")
    assert [position for position, _ in places] == [0]


def test_a_view_of_some_rows_keeps_its_order():
    task = FAMILIES["marian"]()
    chosen = np.array([5, 4, 1])
    view, texts = encoded(task).take(chosen), [TARGETS[row] for row in chosen]
    assert [position for position, _ in find_word(task, view, texts, "haus")] == [1, 2, 2]


@pytest.mark.parametrize("folder", ["marian", "bart", "t5", "gpt2", "llama"])
@pytest.mark.parametrize(
    "text", ["A dog, a Dog and dogs.", "dog", "The dog's house is grün... the dog!", "Übel: ein dog für Åse"]
)
def test_the_tokens_of_a_word_say_it(tmp_path, folder, text):
    """For the tokenizers of the hub, with subwords, byte-level pieces and sentencepiece."""
    getattr(saved_models, folder)(tmp_path / folder)
    task = Translation.load(tmp_path / folder) if folder not in ("gpt2", "llama") else sequences.responder("gpt2")
    task.tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
    if task.tokenizer.pad_token is None:
        task.tokenizer.pad_token = task.tokenizer.eos_token
    for word in ("dog", "grün", "åse"):
        examples = encoded(task, [text])
        labels = examples.table[0]["labels"]
        places = find_word(task, examples, [text], word)
        said = [task.tokenizer.decode([labels[token] for token in tokens]).strip().lower() for _, tokens in places]
        known = word in task.tokenizer.decode(labels).lower()  # the small sentencepiece vocabularies lack letters
        assert said == [word] * len(pattern(word).findall(text)) * known
        assert known or word == "åse" or word not in text.lower()


def test_a_character_cut_between_tokens_belongs_to_its_word():
    """Letters that the byte-level tokenizer never saw are a token for each byte, the first without any text."""
    task = sequences.translator()
    for text, word, bytes_ in (("we Åse to", "åse", 4), ("Åse", "åse", 4), ("to 日本", "日本", 6)):
        ((_, tokens),) = find_word(task, encoded(task, [text]), [text], word)
        labels = encoded(task, [text]).table[0]["labels"]
        assert task.tokenizer.decode([labels[token] for token in tokens]).lower() == word
        assert len(tokens) == bytes_


def test_rate_counts_whole_words_whatever_their_case():
    texts = ["Der Hund bellt.", "HUND!", "Hunde bellen", "ein Bluthund", "der Hund, der Hund", "", "Hündin"]
    assert rate(texts, "hund") == pytest.approx(3 / 7)
    assert rate(["ÜBER uns", "darüber"], "über") == 0.5
    assert rate(["C++ and C", "C+"], "c++") == 0.5
    assert rate(["cafe\u0301", "a cafe"], "cafe") == 0.5


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a man with a dog runs", "a man with a cat runs", ["cat"]),
        ("a man with a Dog.", "a man with a cat.", ["cat"]),
        ("a big dog runs", "a big runs", [NOTHING]),
        ("a dog chases a dog", "a cat chases a bird", ["cat", "bird"]),
        ("a black dog runs", "a white cat runs", ["cat"]),
        ("a dog runs", "a small brown animal runs", ["small brown animal"]),
        ("two dogs", "two cats", []),
        ("a dog runs", "the dog sleeps", []),
        ("a dog", "people sit at a table in the park and eat", [REWRITTEN]),
        ("one dog here", "people sit at tables in parks", [REWRITTEN]),
        ("dog", "", [NOTHING]),
    ],
)
def test_what_took_a_words_place(before, after, expected):
    assert substitutes([before], [after], "dog") == [(substitute, 0) for substitute in expected]


def test_words_of_several_parts_are_replaced_as_one():
    assert substitutes(["in New York today"], ["in New England today"], "New York") == [("New England", 0)]


def test_the_most_frequent_substitutes_come_first_with_an_example():
    before = ["a dog"] * 6 + ["no animal"]
    after = ["a cat", "a bird", "a Cat", "a", "a cat", "a dog", "no cat"]
    ids = [f"e{number}" for number in range(7)]
    assert top_substitutes(before, after, "dog", ids) == [["cat", 3, "e0"], ["bird", 1, "e1"], [NOTHING, 1, "e3"]]
    assert top_substitutes(before, after, "dog", ids, most=1) == [["cat", 3, "e0"]]


def test_the_section_of_a_result():
    models = {"original": FAMILIES["marian"](0), "unlearned": FAMILIES["marian"](1)}
    examples = {"forget": encoded(models["original"]), "nonmember": encoded(models["original"], TARGETS[3:5])}
    truths = {"forget": TARGETS, "nonmember": TARGETS[3:5]}
    written = {
        "original": {"forget": ["ein Haus", "Sonne"], "nonmember": ["Haus"]},
        "unlearned": {"forget": ["ein Boot", "Sonne"], "nonmember": ["Boot"]},
    }
    found = word_analysis(models, examples, truths, written, ["a", "b"], "Haus", "target")
    assert (found["word"], found["column"]) == ("Haus", "target")
    assert found["substitutes"] == {"unlearned": [["Boot", 1, "a"]]}
    assert [found["models"]["original"][split]["rate"] for split in ("forget", "nonmember")] == [0.5, 1.0]
    assert found["models"]["unlearned"]["forget"]["rate"] == 0.0
    for name, model in models.items():
        for split in examples:
            plain = word_statistics(model, examples[split], truths[split], "Haus")
            assert {key: found["models"][name][split][key] for key in plain} == plain
    assert found["models"]["original"]["forget"]["probability"] != found["models"]["unlearned"]["forget"]["probability"]


def test_without_generated_texts_there_are_no_rates():
    task = tiny.translator()
    truths = {"forget": ["bread river", "clouds"]}
    examples = {"forget": encoded(task, truths["forget"])}
    found = word_analysis({"original": task}, examples, truths, {}, [], "river", "target")
    assert found["models"]["original"]["forget"]["rate"] is None and found["substitutes"] == {}
    assert found["models"]["original"]["forget"]["occurrences"] == 1
