"""Translation and response from the command line: given and small models, the engineer's path, what does not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from datasets import Dataset
from helpers import saved_models, tiny
from helpers.cli import FORGET, KGA, Outcome, kga, models, results, run_folder, write_folder
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from kga.data.corpus import FIELDS
from kga.data.embedded import load
from kga.models.lstm import LSTMForConditionalGeneration

SHORT = (
    "optim.epochs=1", "optim.batch_size=16", "evaluation.retain_limit=5", "evaluation.generate.limit=3",
    "evaluation.generate.beams=2", "trainer.accelerator=cpu", "report.texts=true", FORGET,
)  # fmt: skip
MOVED = ("method=finetune", "method.optim.updates=3", "reference=none")
BEAMS, LENGTH = 2, 48
SIZES = {
    "transformer_small": (
        "d_model=16", "encoder_layers=1", "decoder_layers=1", "encoder_attention_heads=2", "decoder_attention_heads=2",
        "encoder_ffn_dim=32", "decoder_ffn_dim=32", "init_std=0.3",
    ),
    "gpt_small": ("n_embd=16", "n_layer=1", "n_head=2", "n_inner=32", "initializer_range=0.3"),
    "lstm": ("d_model=16", "hidden_size=16", "initializer_range=0.5"),
    "encoder_small": ("dim=16", "hidden_dim=32", "n_layers=1", "n_heads=2"),
}  # fmt: skip


def small(model: str) -> tuple[str, ...]:
    """A model of random weights, as small as can be."""
    sizes = (f"model.config.{size}" for size in SIZES[model])
    return (f"model={model}", *sizes, "model.vocab_size=400", f"model.max_length={LENGTH}")


def rows(task: str, split: str, first: int, last: int) -> list[dict]:
    """Some of the embedded examples, with their ids."""
    table: Dataset = getattr(load(task, size=100), split).select(range(first, last))
    return table.select_columns(["id", *FIELDS[task]]).to_list()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data of each task, and saved models by name."""
    here = tmp_path_factory.mktemp("sequences")
    for task in FIELDS:
        sets = {"validation": rows(task, "validation", 0, 5), "test": rows(task, "test", 0, 8)}
        write_folder(here / task, rows(task, "train", 0, 60), **sets)
        write_folder(here / f"new-{task}", rows(task, "validation", 20, 50))
    for name in ("marian", "bart", "gpt2", "llama"):
        getattr(saved_models, name)(here / name)
    tiny.classifier().save(here / "classifier")
    return here


def run(folder: Path, task: str, *arguments: str, output: Path | None = None) -> Outcome:
    data = ("data=folder", f"data.path={folder / task}", f"output={output or folder / 'out'}")
    return kga(f"task={task}", *data, *SHORT, *arguments)


@pytest.fixture(scope="module")
def translated(folder) -> Path:
    """An output folder: the saved translator, fine-tuned and then unlearned."""
    output = folder / "translated"
    model = ("model=marian", f"model.name={folder / 'marian'}", f"model.max_length={LENGTH}")
    assert run(folder, "translation", *model, *MOVED, output=output).code == 0
    return output


def samples(output: Path, method: str = "finetune") -> pd.DataFrame:
    """What the run's models wrote, one row per example."""
    return pd.read_parquet(run_folder(output, method) / "samples.parquet")


def written(model, tokenizer, prompt: list[int]) -> str:
    """What a model writes after a prompt; of a decoder without the prompt itself."""
    ids = torch.tensor([prompt])
    skipped = 0 if model.config.is_encoder_decoder else len(prompt)
    rules = {"num_beams": BEAMS, "do_sample": False, "early_stopping": True, "max_new_tokens": LENGTH}
    with torch.no_grad():
        found = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=tokenizer.pad_token_id, **rules
        )
    return tokenizer.decode(found[0, skipped:], skip_special_tokens=True).strip()


def prompts(folder: Path, table: pd.DataFrame, tokenizer) -> list[list[int]]:
    """Persona and history of the sampled examples with a separator after each part."""
    known = {row["id"]: row for name in ("train", "test") for row in read(folder / "response" / f"{name}.jsonl")}
    last = tokenizer.sep_token or tokenizer.eos_token
    parts = [[*known[name]["persona"], *known[name]["history"]] for name in table["id"]]
    bare = [[tokenizer(part, add_special_tokens=False)["input_ids"] for part in row] for row in parts]
    closing = tokenizer.convert_tokens_to_ids(last)
    return [[token for ids in row for token in (*ids, closing)] for row in bare]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def whole(result: dict) -> None:
    """A finished result without A_R, with utility of texts and of tokens for each model."""
    assert result["status"] == "completed" and result["score"] == {}
    of_pairs = result["task"] == "translation"
    for model in ("original", "unlearned"):
        for split in ("test", "forget", "retain"):
            values = result["utility"][model][split]
            assert {"loss", "perplexity", "token_accuracy", "bleu" if of_pairs else "bleu_4"} <= values.keys()


def test_a_saved_translator_is_unlearned_and_loads_without_kga(translated):
    whole(results(translated)["finetune"])
    saved = run_folder(translated, "finetune") / "model"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    assert type(model).__name__ == "MarianMTModel" and type(tokenizer).__name__ == "MarianTokenizer"
    assert model.generation_config.bad_words_ids == [[tokenizer.pad_token_id]]
    table = samples(translated)
    assert [written(model, tokenizer, tokenizer(text)["input_ids"]) for text in table["input"]] == list(
        table["unlearned"]
    )
    assert list(table["unlearned"]) != list(table["original"])
    assert table["unlearned"].nunique() > len(table) // 2


@pytest.mark.parametrize("name", ["gpt2", "lstm"])
def test_a_model_that_responds_loads_on_its_own(folder, name):
    output = folder / f"responded-{name}"
    given = ("model=pretrained", f"model.name={folder / name}", f"model.max_length={LENGTH}")
    arguments = small("lstm") if name == "lstm" else given
    assert run(folder, "response", *arguments, *MOVED, "optim.lr=1e-2", output=output).code == 0
    whole(results(output)["finetune"])
    saved = run_folder(output, "finetune") / "model"
    kind = LSTMForConditionalGeneration if name == "lstm" else AutoModelForCausalLM
    model, tokenizer = kind.from_pretrained(saved).eval(), AutoTokenizer.from_pretrained(saved)
    table = samples(output)
    fed = prompts(folder, table, tokenizer)
    if name == "lstm":  # an encoder's input is framed by its tokenizer
        fed = [[*ids[:-1], tokenizer.eos_token_id] for ids in fed]
    fits = [len(ids) <= LENGTH for ids in fed]
    table, fed = table[fits], [ids for ids in fed if len(ids) <= LENGTH]
    assert len(fed) >= 3
    assert [written(model, tokenizer, ids) for ids in fed] == list(table["unlearned"])


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_other_saved_models_respond(folder, name):
    output = folder / f"response-{name}"
    model = ("model=pretrained", f"model.name={folder / name}", f"model.max_length={LENGTH}")
    assert run(folder, "response", *model, *MOVED, output=output).code == 0
    whole(results(output)["finetune"])


def test_a_small_decoder_translates(folder):
    output = folder / "translation-gpt"
    assert run(folder, "translation", *small("gpt_small"), *MOVED, output=output).code == 0
    whole(results(output)["finetune"])


def test_a_decoder_classifies(folder):
    output = folder / "classified"
    assert run(folder, "classification", *small("gpt_small"), "method=none", output=output).code == 0
    assert results(output)["none"]["status"] == "completed"


def test_from_a_fine_tuned_translator_and_unseen_examples(folder, translated):
    """No A_D is trained, nothing is retrained; A_f and A_n start from the given model."""
    output = folder / "engineer"
    (original,) = models(translated / "store", "original")
    arguments = (
        f"original.path={original}",
        f"new.path={folder / 'new-translation' / 'train.jsonl'}",
        "reference=none",
        f"model.max_length={LENGTH}",
        *KGA,
    )
    assert run(folder, "translation", *arguments, output=output).code == 0
    result = results(output)["kga"]
    whole(result)
    assert result["seconds"]["retrain"] == 0 and not models(output / "store", "original")
    assert len(models(output / "store", "helpers")) == 2
    saved = run_folder(output, "kga") / "model"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    table = samples(output, "kga")
    texts = [written(model, tokenizer, tokenizer(text)["input_ids"]) for text in table["input"]]
    assert texts == list(table["unlearned"])


def test_the_same_model_from_its_own_folder_is_trained_once(folder, translated):
    """A tokenizer that is known by its files keeps its name, whatever folder it is saved to and read from."""
    before = {kind: models(translated / "store", kind) for kind in ("original", "encodings")}
    model = ("model=marian", f"model.name={folder / 'marian'}", f"model.max_length={LENGTH}")
    assert run(folder, "translation", *model, "method=none", "reference=none", output=translated).code == 0
    assert {kind: models(translated / "store", kind) for kind in before} == before


def refused(outcome: Outcome, *parts: str) -> None:
    assert outcome.code == 2, outcome.errors
    assert len(outcome.errors) == 1, outcome.errors
    assert outcome.errors[0].startswith("kga: ") and "Traceback" not in outcome.errors[0]
    for part in parts:
        assert part in outcome.errors[0], outcome.errors[0]


Arguments = Callable[[Path], tuple[str, ...]]
UNFIT: dict[str, tuple[str, Arguments, tuple[str, ...]]] = {
    "encoder writes": ("translation", lambda here: small("encoder_small"), ("task=translation", "'distilbert'")),
    "translator classifies": (
        "classification", lambda here: small("transformer_small"), ("task=classification", "'marian'"),
    ),
    "lstm classifies": ("classification", lambda here: small("lstm"), ("task=classification", "'kga_lstm'")),
    "saved translator classifies": (
        "classification", lambda here: ("model=pretrained", f"model.name={here}/marian"),
        ("task=classification", "marian"),
    ),
    "saved classifier writes": (
        "response", lambda here: ("model=pretrained", f"model.name={here}/classifier"),
        ("task=response", "'distilbert'"),
    ),
    "original translator classifies": (
        "classification", lambda here: (f"original.path={here}/marian",),
        ("marian", "AutoModelForSequenceClassification"),
    ),
    "original with a head of no labels": (
        "classification", lambda here: (f"original.path={here}/bart",), ("original.path", "labels"),
    ),
    "original classifier writes": (
        "translation", lambda here: (f"original.path={here}/classifier",), ("classifier", "AutoModelForCausalLM"),
    ),
    "new examples of another task": (
        "translation", lambda here: (f"original.path={here}/marian", f"new.path={here}/new-response/train.jsonl"),
        ("new-response/train.jsonl", "'source'", "translation"),
    ),
    "unknown architecture": (
        "translation", lambda here: (*small("gpt_small"), "model.architecture=gpt3"), ("gpt3", "gpt2"),
    ),
    "sizes that do not fit": (
        "translation", lambda here: (*small("gpt_small"), "model.config.n_head=3"), ("model.config", "gpt2", "3"),
    ),
    "a size that is no number": (
        "translation", lambda here: (*small("gpt_small"), "model.config.n_embd=abc"), ("model.config", "n_embd", "abc"),
    ),
    "a tokenizer for classifiers": (
        "translation", lambda here: (*small("gpt_small"), "model.tokenizer=bpe"), ("model.tokenizer=byte_bpe",),
    ),
    "a tokenizer of no kind": (
        "translation", lambda here: (*small("gpt_small"), "model.tokenizer=bytebpe"), ("model.tokenizer", "byte_bpe"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_one_line(folder, tmp_path, case):
    task, arguments, parts = UNFIT[case]
    refused(run(folder, task, *arguments(folder), "method=none", "reference=none", output=tmp_path), *parts)
