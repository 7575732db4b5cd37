"""What models that write are fed, scored on and made to write: by hand, by transformers' own losses, one by one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import sequences
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from kga.errors import UserError
from kga.predictions import Predictions, cross_entropy
from kga.tasks.generation import IGNORED
from kga.tasks.response import Response
from kga.tasks.translation import Translation

ALL = ("marian", "kga_lstm", "gpt2")
START = 9  # a token that no tokenizer here gives any meaning


def made(architecture: str, seed: int = 0, **options):
    """The task that each architecture is used for: gpt2 answers, the others translate."""
    kind = Response if architecture == "gpt2" else Translation
    return sequences.task(kind, architecture, seed, **options)


def encoded(task, size: int = 7):
    """Examples of a task, and all of them as one batch."""
    view = sequences.examples(task, size)
    return view, view.batch(np.arange(size))


def predicted(task, batch, view: str = "scored") -> Predictions:
    with torch.no_grad():
        return task.predict(batch, view).dense()


# What is fed and what is scored -----------------------------------------------------------------------------------


class Echo(PreTrainedModel, GenerationMixin):
    """Says at every position the token that it is fed there, all but surely."""

    config_class = PreTrainedConfig

    def __init__(self, config, size: int) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(size, size, bias=False)
        self.lm_head.weight.data = 50 * torch.eye(size)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(self, input_ids, attention_mask, decoder_input_ids=None, use_cache=False):
        fed = input_ids if decoder_input_ids is None else decoder_input_ids
        return SimpleNamespace(logits=self.lm_head(nn.functional.one_hot(fed, self.lm_head.in_features).float()))


def echoing(encoder_decoder: bool):
    config = PreTrainedConfig(is_encoder_decoder=encoder_decoder)
    config.decoder_start_token_id = START
    model = Echo(config, len(sequences.tokenizer())).eval()
    return (Translation if encoder_decoder else Response)(model, sequences.tokenizer(), 40)


def per_example(side: Predictions, values: torch.Tensor) -> list[list[int]]:
    return [values[side.example == number].tolist() for number in range(side.size)]


@pytest.mark.parametrize("encoder_decoder", [True, False])
def test_each_target_token_is_scored_where_the_token_before_it_is_fed(encoder_decoder):
    """An echo shows what was fed: one shift too many or too few, and it would differ."""
    task = echoing(encoder_decoder)
    view, batch = encoded(task)
    side = predicted(task, batch)
    targets, prompts = view.table["labels"], view.table["input_ids"]
    assert per_example(side, side.targets) == list(targets)
    before = [
        [START if encoder_decoder else prompt[-1], *row[:-1]] for prompt, row in zip(prompts, targets, strict=True)
    ]
    assert per_example(side, side.top()) == before


@pytest.mark.parametrize("encoder_decoder", [True, False])
def test_the_token_before_is_never_the_answer(encoder_decoder):
    """The echo is right only where a target repeats a token, so its loss is as large as it can be elsewhere."""
    task = echoing(encoder_decoder)
    _, batch = encoded(task)
    side = predicted(task, batch)
    repeats = side.top() == side.targets
    assert torch.equal(side.correct().bool(), repeats) and not repeats.all()
    torch.testing.assert_close(cross_entropy(side)[~repeats], torch.full((int((~repeats).sum()),), 50.0))


@pytest.mark.parametrize("architecture", ALL)
def test_nothing_but_token_ids_is_fed(architecture):
    """Never -100; and what a decoder is fed is transformers' own shift of the labels."""
    task = made(architecture)
    _, batch = encoded(task)
    for name in batch.keys() & {"input_ids", "decoder_input_ids"}:
        assert batch[name].min() >= 0 and batch[name].max() < len(task.tokenizer)
    if architecture != "gpt2":
        shifted = task.model.prepare_decoder_input_ids_from_labels(batch["labels"])
        assert torch.equal(batch["decoder_input_ids"], shifted)
        assert batch["decoder_input_ids"][:, 0].unique().tolist() == [task.model.config.decoder_start_token_id]


@pytest.mark.parametrize("architecture", ALL)
def test_the_closing_token_is_scored_and_padding_and_prompts_are_not(architecture):
    task = made(architecture)
    view, batch = encoded(task)
    side = predicted(task, batch)
    scored = per_example(side, side.targets)
    assert scored == list(view.table["labels"])
    assert all(row[-1] == task.tokenizer.eos_token_id and task.tokenizer.pad_token_id not in row for row in scored)
    assert side.example.tolist() == sorted(side.example.tolist()) and side.size == len(view)
    assert task.count(batch, "position") == len(side.targets) == sum(len(row) for row in view.table["labels"])
    assert task.count(batch, "example") == len(view)


@pytest.mark.parametrize("architecture", ALL)
def test_the_loss_is_transformers_own(architecture):
    """Its loss of the same labels, from tensors built here: encoder-decoders shift, gpt2 shifts inside."""
    task = made(architecture)
    view, batch = encoded(task)
    sources, targets = view.table["input_ids"], view.table["labels"]
    rows = [(s if architecture != "gpt2" else [*s, *t], t if architecture != "gpt2" else [IGNORED] * len(s) + list(t))
            for s, t in zip(sources, targets, strict=True)]  # fmt: skip
    inputs = task.tokenizer.pad({"input_ids": [row for row, _ in rows]}, return_tensors="pt")
    longest = max(len(labels) for _, labels in rows)
    labels = torch.tensor([[*labels, *[IGNORED] * (longest - len(labels))] for _, labels in rows])
    with torch.no_grad():
        expected = task.model(**inputs, labels=labels).loss
    torch.testing.assert_close(cross_entropy(predicted(task, batch)).mean(), expected)


@pytest.mark.parametrize("architecture", ALL)
def test_the_released_view_keeps_padded_positions(architecture):
    """As the released code does: every decoder position counts, those of padding without a truth."""
    task = made(architecture)
    _, batch = encoded(task)
    side = predicted(task, batch, "released")
    size, width = batch["labels"].shape
    fed = width - (architecture == "gpt2")  # what the last token of a sequence foretells lies outside
    assert task.count(batch, "position", "released") == len(side.targets) == size * fed
    assert side.positions_per_example().tolist() == [fed] * size
    kept = side.targets != -1
    scored = predicted(task, batch)
    torch.testing.assert_close(side.log_probs[kept], scored.log_probs)
    assert torch.equal(side.targets[kept], scored.targets)
    assert (~kept).any() and not task.cacheable("released") and task.cacheable("scored")


# Padding and company ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ALL)
def test_predictions_do_not_depend_on_who_else_is_in_the_batch(architecture):
    task = made(architecture)
    view, batch = encoded(task)
    together = predicted(task, batch)
    for number in range(len(view)):
        alone = predicted(task, view.batch(np.array([number])))
        torch.testing.assert_close(together.log_probs[together.example == number], alone.log_probs)


def wider(task, batch, names, by: int = 5):
    values = {"labels": IGNORED, "attention_mask": 0}
    return {
        name: nn.functional.pad(table, (0, by), value=values.get(name, task.tokenizer.pad_token_id))
        if name in names else table
        for name, table in batch.items()
    }  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "names"),
    [(name, side) for name in ("marian", "kga_lstm") for side in
     (("input_ids", "attention_mask"), ("labels", "decoder_input_ids"))]
    + [("gpt2", ("input_ids", "attention_mask", "labels"))],
)  # fmt: skip
def test_more_padding_of_source_or_target_changes_nothing(architecture, names):
    task = made(architecture)
    _, batch = encoded(task)
    before, after = predicted(task, batch), predicted(task, wider(task, batch, names))
    torch.testing.assert_close(after.log_probs, before.log_probs)
    assert torch.equal(after.targets, before.targets) and torch.equal(after.example, before.example)


def test_what_padding_holds_does_not_matter():
    for architecture in ALL:
        task = made(architecture)
        _, batch = encoded(task)
        other = dict(batch, input_ids=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 33))
        torch.testing.assert_close(predicted(task, other).log_probs, predicted(task, batch).log_probs)


def test_a_sequence_padded_on_the_left_has_the_same_log_probabilities():
    task = made("gpt2")
    view, batch = encoded(task)
    side = predicted(task, batch)
    for number, (prompt, target) in enumerate(zip(view.table["input_ids"], view.table["labels"], strict=True)):
        ids = [*prompt, *target]
        mask = torch.tensor([[0] * 6 + [1] * len(ids)])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            rows = torch.tensor([[77] * 6 + ids])
            logits = task.model(input_ids=rows, attention_mask=mask, position_ids=places).logits
        found = logits[0, 6:].log_softmax(1)[range(len(prompt) - 1, len(ids) - 1), target]
        torch.testing.assert_close(side.truth()[side.example == number], found)


# Generation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("beams", [1, 5])
def test_a_batch_is_written_as_one_by_one(architecture, beams):
    task = made(architecture, seed=1, max_target_length=12)
    view, batch = encoded(task, 6)
    texts = task.generate(batch, beams)
    assert texts == [task.generate(view.batch(np.array([number])), beams)[0] for number in range(6)]
    assert len(set(texts)) > 2, "the model says the same to everything: this compares nothing"


def greedy(task, prompt: list[int], most: int) -> str:
    """The most probable token again and again, each time from the whole text so far."""
    written: list[int] = []
    while len(written) < most and task.tokenizer.eos_token_id not in written:
        if task.model.config.is_encoder_decoder:
            fed = {"decoder_input_ids": torch.tensor([[task.model.config.decoder_start_token_id, *written]])}
        else:
            fed = {}
        ids = torch.tensor([prompt if fed else [*prompt, *written]])
        with torch.no_grad():
            logits = task.model(input_ids=ids, attention_mask=torch.ones_like(ids), **fed).logits
        written.append(int(logits[0, -1].argmax()))
    return task.tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("architecture", ALL)
def test_one_beam_is_greedy(architecture):
    task = made(architecture, seed=2, max_target_length=10)
    view, batch = encoded(task, 5)
    assert task.generate(batch) == [greedy(task, prompt, 10) for prompt in view.table["input_ids"]]


def test_more_beams_find_more_probable_texts():
    """Of texts of full length, which no length penalty tells apart."""
    task = made("marian", seed=4, max_target_length=6)
    task.model.final_logits_bias = torch.zeros(1, len(task.tokenizer))
    task.model.final_logits_bias[0, task.tokenizer.eos_token_id] = -1000.0  # never ends early
    _, batch = encoded(task, 6)
    inputs, written = task._prompts(batch), {}
    for beams in (1, 5):
        with torch.no_grad():
            ids = task.model.generate(**inputs, num_beams=beams, max_new_tokens=6, max_length=None)
            logits = task.model(**inputs, decoder_input_ids=ids[:, :-1]).logits
        written[beams] = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum((1, 2))
        texts = task.tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert task.generate(batch, beams) == [text.strip() for text in texts]
    assert (written[5] >= written[1] - 1e-4).all() and (written[5] > written[1] + 1e-3).any()


def test_prompts_of_decoder_only_models_are_padded_on_the_left_and_hold_no_answer():
    task = made("gpt2")
    view, batch = encoded(task)
    prompts = task._prompts(batch)
    rows = view.table["input_ids"]
    longest = max(len(row) for row in rows)
    assert len({len(row) for row in rows}) > 2
    for ids, mask, row in zip(prompts["input_ids"].tolist(), prompts["attention_mask"].tolist(), rows, strict=True):
        assert ids == [task.tokenizer.pad_token_id] * (longest - len(row)) + row
        assert mask == [0] * (longest - len(row)) + [1] * len(row)


@pytest.mark.parametrize("architecture", ALL)
def test_what_is_written_does_not_depend_on_the_truth(architecture):
    task = made(architecture, seed=1, max_target_length=8)
    view, batch = encoded(task, 5)
    others = view.table.map(lambda row: {"labels": [50, 60, task.tokenizer.eos_token_id]})
    changed = type(view)(others, view.rows, task).batch(np.arange(5))
    assert not torch.equal(changed["labels"][:, -3:], batch["labels"][:, -3:])
    assert task.generate(changed) == task.generate(batch)


def test_writing_is_without_dropout_and_leaves_the_mode_as_it_was():
    task = made("marian", dropout=0.5, max_target_length=8)
    _, batch = encoded(task, 4)
    task.model.train()
    assert task.generate(batch) == task.generate(batch)
    assert task.model.training
    task.model.eval()
    task.generate(batch)
    assert not task.model.training


@pytest.mark.parametrize("architecture", ALL)
def test_no_text_is_longer_than_its_bound(architecture, monkeypatch):
    """Counted in tokens that are written: neither the prompt nor the start token is one of them."""
    task = made(architecture, max_target_length=3)
    kept: list[torch.Tensor] = []
    monkeypatch.setattr(task, "_decoded", lambda ids: kept.append(ids) or [])
    task.generate(encoded(task, 6)[1])
    start = [] if architecture == "gpt2" else [task.model.config.decoder_start_token_id]
    assert kept[0].shape == (6, len(start) + 3)
    assert kept[0][:, : len(start)].tolist() == [start] * 6


# Framing ----------------------------------------------------------------------------------------------------------

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "d", "e"]


def framed(template: str, **special) -> PreTrainedTokenizerFast:
    """A tokenizer of single letters that frames a text as the template says."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    used = [(word, number) for number, word in enumerate(WORDS) if word in template]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=used)
    names = {"unk_token": "<unk>", "eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{k: v for k, v in names.items() if v})


def with_tokenizer(tokenizer, encoder_decoder: bool = True, kind: type = Translation, **options):
    config = PreTrainedConfig(is_encoder_decoder=encoder_decoder)
    config.decoder_start_token_id = 2
    return kind(Echo(config, len(WORDS)), tokenizer, **options)


def spelled(rows) -> list[str]:
    return [" ".join(WORDS[number] for number in row) for row in rows]


TWO = {"source": ["a b c d e", "a b c"], "target": ["e d c b a", "c b a"]}


def test_what_a_tokenizer_puts_in_front_is_kept_on_both_sides():
    """As BART's does: cutting takes from the text, never from what frames it."""
    task = with_tokenizer(framed("<s> $A </s>"), max_length=5, max_target_length=6)
    found = task.encode(TWO)
    assert spelled(found["input_ids"]) == ["<s> a b c </s>", "<s> a b c </s>"]
    assert spelled(found["labels"]) == ["<s> e d c b </s>", "<s> c b a </s>"]
    assert found["cut"] == [True, False]
    assert found["length"] == [11, 10]


@pytest.mark.parametrize("kind", [Translation, Response])
@pytest.mark.parametrize("limit", [1, 2])
def test_limits_below_the_framing_leave_the_framing(kind, limit):
    task = with_tokenizer(framed("<s> $A </s>"), kind=kind, max_length=limit, max_target_length=limit)
    texts = {"source": ["a b c"], "persona": [["a b"]], "history": [["b", "c"]]}
    found = task.encode({name: texts.get(name, ["e d"]) for name in kind.fields})
    assert spelled(found["input_ids"] + found["labels"]) == ["<s> </s>"] * 2
    assert found["cut"] == [True]


def test_a_target_is_closed_even_where_the_tokenizer_closes_nothing():
    task = with_tokenizer(framed("$A"), max_length=3, max_target_length=4)
    found = task.encode(TWO)
    assert spelled(found["input_ids"]) == ["a b c", "a b c"]
    assert spelled(found["labels"]) == ["e d c </s>", "c b a </s>"]
    assert found["cut"] == [True, False]


def test_a_decoder_only_prompt_begins_as_texts_do_and_ends_with_the_separator():
    """As Llama's does; what is answered comes without a beginning of its own."""
    task = with_tokenizer(framed("<s> $A </s>"), encoder_decoder=False, max_length=5, max_target_length=4)
    found = task.encode(TWO)
    assert spelled(found["input_ids"]) == ["<s> a b c </s>", "<s> a b c </s>"]
    assert spelled(found["labels"]) == ["e d c </s>", "c b a </s>"]
    assert found["cut"] == [True, False]
    batch = task.collate({name: found[name] for name in ("input_ids", "labels")})
    assert spelled(batch["input_ids"]) == ["<s> a b c </s> e d c </s>", "<s> a b c </s> c b a </s>"]
    assert (batch["labels"][:, :5] == IGNORED).all() and spelled(batch["labels"][:, 5:]) == spelled(found["labels"])


def test_a_separator_of_its_own_is_preferred():
    assert with_tokenizer(framed("$A", sep_token="e"), encoder_decoder=False).separator == WORDS.index("e")
    assert with_tokenizer(framed("$A"), encoder_decoder=False).separator == WORDS.index("</s>")
    own = sequences.tokenizer()
    assert own.convert_ids_to_tokens([sequences.responder().separator]) == ["<sep>"]
    assert own.sep_token_id not in (own.eos_token_id, own.pad_token_id, own.bos_token_id)


def test_a_tokenizer_without_padding_pads_with_its_closing_token_and_scores_one():
    """As GPT-2's: the closing token stands for padding, too, and must count once all the same."""
    task = with_tokenizer(framed("$A", pad_token=None), encoder_decoder=False)
    assert task.tokenizer.pad_token_id == WORDS.index("</s>")
    rows = task.encode({"source": ["a b", "a"], "target": ["c d e", "b"]})
    batch = task.collate(rows)
    side = predicted(task, batch)
    assert spelled(per_example(side, side.targets)) == ["c d e </s>", "b </s>"]
    assert batch["attention_mask"].sum(1).tolist() == [7, 4]
    assert spelled(task._prompts(batch)["input_ids"]) == ["a b </s>", "</s> a </s>"]
    assert task._prompts(batch)["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]


def test_inputs_are_encoded_without_their_targets():
    task = sequences.translator()
    found = task.encode({"source": ["sun", "green house"]})
    assert "labels" not in found and found["length"] == [len(row) for row in found["input_ids"]]


def test_a_model_without_a_start_token_is_refused():
    task = with_tokenizer(framed("$A"))
    task.model.config.decoder_start_token_id = task.model.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match="no decoder_start_token_id"):
        task.collate(task.encode(TWO))


def test_what_decides_the_encoding_names_it():
    names = [
        sequences.translator().encoding(),
        sequences.translator(max_length=39).encoding(),
        sequences.translator(max_target_length=7).encoding(),
        sequences.responder().encoding(),
        sequences.responder(history_length=7).encoding(),
        sequences.responder("marian").encoding(),
    ]
    assert all(first != second for number, first in enumerate(names) for second in names[:number])
    assert sequences.translator(seed=5).encoding() == names[0]


# Validation and files ---------------------------------------------------------------------------------------------


def test_validation_generates_only_what_is_watched(monkeypatch):
    written = []
    monkeypatch.setattr(Translation, "generate", lambda self, batch: written.append(len(batch["labels"])) or ["x"] * 4)
    for monitor, expected in (("loss", 0), ("perplexity", 0), ("token_accuracy", 0), ("bleu", 1)):
        task = sequences.translator()
        task.optim.monitor = monitor
        written.clear()
        task.on_validation_epoch_start()
        task.validation_step(encoded(task, 4)[1], 0)
        values = task.validation_values()
        assert len(written) == expected
        assert {"loss", "perplexity", "token_accuracy"} <= set(values) and ("bleu" in values) == bool(expected)


@pytest.mark.parametrize("architecture", ALL)
def test_a_saved_model_loads_and_says_the_same(architecture, tmp_path):
    task = made(architecture, seed=3, max_target_length=8)
    _, batch = encoded(task, 4)
    task.save(tmp_path)
    loaded = type(task).load(tmp_path, max_length=40, max_target_length=8)
    assert torch.equal(predicted(loaded, batch).log_probs, predicted(task, batch).log_probs)
    assert loaded.generate(batch) == task.generate(batch)
    assert loaded.encoding() == task.encoding()
