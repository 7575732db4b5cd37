"""Texts for an evaluation: in the order of their sets, of as many examples as asked for, scored as sacreBLEU does."""

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from helpers import sequences
from helpers.contract import HARDWARE

import kga.assess
from kga.assess import assess, named_models
from kga.data.forget import Random
from kga.data.splits import make_splits
from kga.optim import Optim
from kga.store import Store
from kga.study import Study
from kga.tasks.translation import Translation
from kga.texts import quality, write_texts


def alone(task, examples, beams: int) -> list[str]:
    """The text of each example, written by itself."""
    return [task.generate(examples.batch(np.array([position])), beams)[0] for position in range(len(examples))]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("splits", [("test",), ("test", "forget", "retain")])
def test_texts_stand_where_their_examples_do(beams, splits):
    """Batches are of similar length, so the order in which texts are written is another; sets may be views, too."""
    models = {name: sequences.translator(seed=seed, max_target_length=8) for seed, name in enumerate(("one", "two"))}
    whole = sequences.examples(models["one"], 11, seed=5)
    views = {"test": whole, "forget": whole.take(np.array([7, 2, 9, 4])), "retain": whole.take(np.array([1]))}
    given = {name: views[name] for name in splits}
    lengths = whole.lengths()
    assert (np.diff(lengths) > 0).any() and (np.diff(lengths) < 0).any()
    texts = write_texts(models, given, HARDWARE | {"profiler": None}, beams, batch_size=4)
    assert set(texts) == {"one", "two"} and all(tuple(found) == splits for found in texts.values())
    for name, model in models.items():
        for split, examples in given.items():
            assert texts[name][split] == alone(model, examples, beams)
    assert texts["one"] != texts["two"] and len(set(texts["one"]["test"])) > 3


def test_responses_of_decoder_only_models():
    model = sequences.responder(seed=1, max_target_length=6)
    examples = sequences.examples(model, 9, seed=5)
    assert write_texts({"a": model}, {"test": examples}, HARDWARE, 2, 4) == {"a": {"test": alone(model, examples, 2)}}


def test_quality_is_sacrebleus():
    task = sequences.translator()
    references = {"test": ["the house is green", "we sun", "seven boats to see"], "forget": ["a boat, isn't it?"]}
    texts = {
        "good": {"test": ["the house is green", "we sun", "seven boats to sea"], "forget": ["A boat is it?"]},
        "bad": {"test": ["green", "", "boats of seven"], "forget": ["isn't it a boat?"]},
    }
    values, signatures = quality(task, texts, references)
    for model, splits in texts.items():
        for split, outputs in splits.items():
            assert values[model][split] == pytest.approx(
                {
                    "bleu": sacrebleu.corpus_bleu(outputs, [references[split]]).score,
                    "chrf": sacrebleu.corpus_chrf(outputs, [references[split]]).score,
                }
            )
    assert values["good"]["test"]["bleu"] > values["bad"]["test"]["bleu"]
    assert set(signatures) == {"bleu", "chrf"} and "tok:13a" in signatures["bleu"]


def test_quality_of_responses():
    outputs, references = ["to be or to be", "no", "not to be"], ["to be or not", "no", "not to see"]
    values, signatures = quality(sequences.responder(), {"m": {"test": outputs}}, {"test": references})
    found = values["m"]["test"]
    for order in range(1, 5):
        expected = sacrebleu.BLEU(max_ngram_order=order, smooth_method="exp").corpus_score(outputs, [references])
        assert found[f"bleu_{order}"] == pytest.approx(expected.score)
    assert found["distinct_1"] == pytest.approx(5 / 9)  # to be or no not
    assert found["distinct_2"] == pytest.approx(4 / 6)  # to-be be-or or-to not-to
    assert found["length"] == 3 and "bleu_4" in signatures


# What an evaluation asks for --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    splits = make_splits(sequences.corpus(), Random(6), seed=0)
    optim = Optim(epochs=1, batch_size=16, lr=1e-3)
    options = {"max_target_length": 8}
    store = Store(tmp_path_factory.mktemp("store"))
    return Study(splits, Translation, sequences.family(), {}, optim, store, HARDWARE, 0, task_options=options)


@pytest.fixture
def written(monkeypatch):
    """What was asked for and written: {"sets", "texts"}."""
    seen: dict = {}

    def watched(models, sets, *rest):
        seen["sets"], seen["texts"] = sets, write_texts(models, sets, *rest)
        return seen["texts"]

    monkeypatch.setattr(kga.assess, "write_texts", watched)
    return seen


def assessed(study, folder, limit, **more) -> dict:
    generate = {"beams": 1, "limit": limit, "batch_size": 4}
    options = {"batch_size": 32, "retain_limit": 20, "generate": generate}
    original = study.original()
    return assess(study, named_models(original, [], original), options, folder, **more)[0]


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [(4, {"test": 4, "forget": 4, "retain": 4}), (8, {"test": 8, "forget": 6, "retain": 8}),
     (None, {"test": 10, "forget": 6, "retain": 20})],
)  # fmt: skip
def test_as_many_texts_are_written_as_the_limit_says(study, tmp_path, written, limit, sizes):
    found = assessed(study, tmp_path, limit)
    assert {name: len(examples) for name, examples in written["sets"].items()} == sizes
    for split, examples in written["sets"].items():
        table = study.splits.tables["test" if split == "test" else "train"]
        references = [table["target"][int(row)] for row in examples.rows]
        outputs = written["texts"]["unlearned"][split]
        expected = sacrebleu.corpus_bleu(outputs, [references]).score
        assert found["utility"]["unlearned"][split]["bleu"] == pytest.approx(expected)
    assert {"bleu", "chrf", "perplexity", "token_accuracy", "loss"} <= set(found["utility"]["original"]["test"])
    assert set(found["signatures"]) == {"bleu", "chrf"}
    assert not (tmp_path / "samples.parquet").exists(), "texts are kept only where they may be"


def test_limit_0_writes_nothing(study, tmp_path, written):
    found = assessed(study, tmp_path, 0, texts=True)
    assert not written and "signatures" not in found
    assert set(found["utility"]["original"]["test"]) == {"loss", "token_accuracy", "perplexity"}
    assert not list(tmp_path.iterdir())


def test_samples_show_each_example_beside_what_was_written_for_it(study, tmp_path, written):
    assessed(study, tmp_path, 4, texts=True)
    samples = pd.read_parquet(tmp_path / "samples.parquet")
    assert samples.split.value_counts().to_dict() == {"test": 4, "forget": 4, "retain": 4}
    tables = [study.splits.tables[name].to_pandas().set_index("id") for name in ("train", "test")]
    truth = pd.concat(tables)
    assert samples.target.tolist() == truth.loc[samples.id].target.tolist()
    for split, part in samples.groupby("split"):
        assert part.unlearned.tolist() == written["texts"]["unlearned"][split]
        assert all(row.input.endswith(truth.loc[row.id].source) for row in part.itertuples())


def test_likeness_to_the_retrained_is_bleu_against_what_it_writes(study, tmp_path, written):
    generate = {"beams": 1, "limit": 8, "batch_size": 4}
    options = {"batch_size": 32, "retain_limit": 20, "generate": generate}
    original, retrained = study.original(), study.retrained()
    models = named_models(original, [retrained], original)
    found = assess(study, models, options, tmp_path)[0]["forgetting"]
    for split in ("test", "forget", "retain"):
        outputs, references = (written["texts"][name][split] for name in ("original", "retrain"))
        expected = sacrebleu.corpus_bleu(outputs, [references]).score
        assert found["original"][split]["bleu_to_retrained"] == pytest.approx(expected)
    assert "retrain" not in found or "bleu_to_retrained" not in found["retrain"]["test"]
