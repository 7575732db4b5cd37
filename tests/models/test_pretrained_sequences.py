"""Models that write, from folders as the hub holds them: the tasks give what transformers itself gives for them."""

import pytest
import torch
from helpers import saved_models
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, T5ForConditionalGeneration

from kga.errors import UserError
from kga.hashing import digest, state_digest
from kga.models.pretrained import Pretrained
from kga.predictions import cross_entropy
from kga.tasks.classification import Classification, labels_head
from kga.tasks.generation import IGNORED
from kga.tasks.response import Response
from kga.tasks.translation import Translation

PAIRS = ("marian", "bart", "t5")
PROMPTED = ("gpt2", "llama")
LENGTH = 24
TALKS = {
    "persona": [["I am Ada.", "I bake."], [], ["I am Bo."]],
    "history": [["Hello?"], ["Who are you?", "Ada.", "And you?"], ["What?"]],
    "response": ["Yes, I bake bread.", "I am Bo.", "No."],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    for name in (*PAIRS, *PROMPTED):
        getattr(saved_models, name)(folder / name)
    return folder


def sentences() -> dict[str, list[str]]:
    """Pairs of different lengths, some within ``LENGTH`` and some to be cut."""
    sources, targets = (side[:6] for side in saved_models.sides())
    return {
        "source": [*sources, "Ja.", " ".join(sources[:3])],
        "target": [*targets, "Yes.", " ".join(targets[:3])],
    }


def given(root, name: str, max_length: int = LENGTH):
    """A task around the model of a folder, as a study makes it."""
    task = Translation if name in PAIRS else Response
    family = Pretrained(str(root / name), max_length)
    tokenizer = family.tokenizer(list)
    return task(family.model(task, tokenizer, {}, 0).eval(), tokenizer, max_length)


def on_its_own(root, name: str):
    """Model and tokenizer as transformers loads them."""
    kind = AutoModelForSeq2SeqLM if name in PAIRS else AutoModelForCausalLM
    return kind.from_pretrained(root / name), AutoTokenizer.from_pretrained(root / name)


def documented(tokenizer, rows) -> tuple[dict, torch.Tensor]:
    """Inputs and labels of an encoder-decoder, made as transformers' documentation has it."""
    options = {"padding": True, "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    made = tokenizer(rows["source"], text_target=rows["target"], **options)
    labels = made.pop("labels")
    return dict(made), labels.masked_fill(labels == tokenizer.pad_token_id, IGNORED)


@pytest.mark.parametrize("name", PAIRS)
def test_encoder_decoders_are_fed_and_scored_as_transformers_does_it(root, name):
    task, (model, tokenizer) = given(root, name), on_its_own(root, name)
    encoded = task.encode(sentences())
    batch = task.collate(encoded)
    inputs, labels = documented(tokenizer, sentences())
    assert set(encoded["cut"]) == {True, False}
    for key in ("input_ids", "attention_mask"):
        assert torch.equal(batch[key], inputs[key])
    assert torch.equal(batch["labels"], labels)
    with torch.no_grad():
        loss = model(**inputs, labels=labels).loss.item()
        first, again = task.predict(batch), task.predict(batch)  # the second goes without the output layer
        assert first.head is not None and again.states.shape[1] == task.model.config.d_model
        for side in (first, again):
            assert cross_entropy(side).mean().item() == pytest.approx(loss, rel=1e-5)
    assert len(first.targets) == (labels != IGNORED).sum()


@pytest.mark.parametrize("name", PROMPTED)
def test_decoders_are_scored_as_transformers_does_it(root, name):
    task, (model, _) = given(root, name, 48), on_its_own(root, name)
    encoded = task.encode(TALKS)
    losses = []
    for prompt, target in zip(encoded["input_ids"], encoded["labels"], strict=True):
        labels = torch.tensor([[IGNORED] * len(prompt) + target])
        losses.append(model(input_ids=torch.tensor([prompt + target]), labels=labels).loss.item())
    with torch.no_grad():
        for _ in range(2):
            side = task.predict(task.collate(encoded))
            assert side.head is not None
            assert side.mean_per_example(cross_entropy(side)).tolist() == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("name", PROMPTED)
def test_a_prompt_is_persona_and_history_and_a_response_ends(root, name):
    task, (_, tokenizer) = given(root, name, 48), on_its_own(root, name)
    encoded = task.encode(TALKS)
    end, begin = tokenizer.eos_token, "<|begin_of_text|>" if name == "llama" else ""
    prompts = tokenizer.batch_decode(encoded["input_ids"])
    assert prompts[0] == f"{begin}I am Ada.{end}I bake.{end}Hello?{end}"
    assert prompts[1] == f"{begin}Who are you?{end}Ada.{end}And you?{end}"
    assert tokenizer.batch_decode(encoded["labels"]) == [text + end for text in TALKS["response"]]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", PAIRS)
def test_translations_are_those_of_the_model_itself(root, name, beams):
    task, (model, tokenizer) = given(root, name), on_its_own(root, name)
    inputs, _ = documented(tokenizer, sentences())
    written = model.generate(**inputs, num_beams=beams, max_new_tokens=LENGTH, early_stopping=beams > 1)
    texts = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
    assert task.generate(task.collate(task.encode(sentences())), beams) == texts
    assert len(set(texts)) > 4


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", PROMPTED)
def test_responses_are_those_of_the_model_itself(root, name, beams):
    """One prompt at a time there, all of them padded here; the folder's own generation config asks for sampling."""
    task, (model, tokenizer) = given(root, name, 48), on_its_own(root, name)
    encoded, texts = task.encode(TALKS), []
    rules = {"do_sample": False, "num_beams": beams, "early_stopping": beams > 1, "max_new_tokens": 48}
    for prompt in encoded["input_ids"]:
        ids = torch.tensor([prompt])
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=tokenizer.eos_token_id, **rules
        )
        texts.append(tokenizer.decode(written[0, len(prompt) :], skip_special_tokens=True).strip())
    assert task.generate(task.collate(encoded), beams) == texts
    assert len(set(texts)) == 3


@pytest.mark.parametrize("name", (*PAIRS, *PROMPTED))
def test_the_encoding_has_one_name_over_loads_use_and_saving(root, tmp_path, name):
    task = given(root, name)
    before = digest(task.encoding())
    batch = task.collate(task.encode(sentences() if name in PAIRS else TALKS))
    texts = task.generate(batch, beams=2)
    assert digest(task.encoding()) == before
    assert digest(given(root, name).encoding()) == before
    task.save(tmp_path / "once")
    loaded = type(task).load(tmp_path / "once", LENGTH)
    assert digest(loaded.encoding()) == before
    assert state_digest(loaded.model.state_dict()) == state_digest(task.model.state_dict())
    assert loaded.generate(batch, beams=2) == texts
    loaded.save(tmp_path / "twice")
    assert digest(type(task).load(tmp_path / "twice", LENGTH).encoding()) == before


def test_another_vocabulary_has_another_name(root, tmp_path):
    """A sentencepiece tokenizer is known by its files."""
    task = given(root, "marian")
    task.save(tmp_path)
    (tmp_path / "source.spm").write_bytes((tmp_path / "target.spm").read_bytes())
    assert digest(Translation.load(tmp_path, LENGTH).encoding()) != digest(task.encoding())


def test_what_a_scaling_model_does_before_its_output_layer_is_kept(root):
    """T5 multiplies its states by d_model^-0.5; without that the loss would be another one."""
    task = given(root, "t5")
    assert isinstance(task.model, T5ForConditionalGeneration) and task.model.config.tie_word_embeddings
    batch = task.collate(task.encode(sentences()))
    with torch.no_grad():
        side = task.predict(batch)
        unscaled = task.model.lm_head(side.states * task.model.config.d_model**0.5).log_softmax(1)
    assert not torch.allclose(unscaled, side.log_probs, atol=0.1)


@pytest.mark.parametrize("name", (*PAIRS, *PROMPTED))
def test_from_scratch_the_architecture_is_kept_and_the_weights_are_not(root, name):
    family = Pretrained(str(root / name), LENGTH)
    task = Translation if name in PAIRS else Response
    model = family.model(task, family.tokenizer(list), {}, 3, scratch=True)
    saved, _ = on_its_own(root, name)
    assert type(model) is type(saved)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in saved.state_dict().items()
    }
    assert not torch.equal(model.get_input_embeddings().weight, saved.get_input_embeddings().weight)
    fresh = task(model.eval(), family.tokenizer(list), LENGTH)
    assert fresh.encoding() == given(root, name).encoding()
    rows = sentences() if name in PAIRS else TALKS
    assert len(fresh.generate(fresh.collate(fresh.encode(rows)))) == len(
        rows["response" if task is Response else "target"]
    )


def test_a_model_that_the_task_cannot_use_is_refused(root):
    family = Pretrained(str(root / "marian"), LENGTH)
    head = labels_head(("down", "up"), False)
    for scratch in (False, True):
        with pytest.raises(UserError, match=r"marian can't be trained for task=classification.* no 'marian' model"):
            family.model(Classification, family.tokenizer(list), head, 0, scratch=scratch)


@pytest.mark.parametrize("name", (*PAIRS, *PROMPTED))
def test_a_folder_without_its_tokenizer_is_refused(root, tmp_path, name):
    """transformers gives most of them a tokenizer of a few special tokens, to which every word is unknown."""
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((root / name / file).read_bytes())
    with pytest.raises(UserError, match=r"model\.name=.* (has no tokenizer for its model|can't be loaded)") as caught:
        Pretrained(str(tmp_path), LENGTH).tokenizer(list)
    assert "\n" not in str(caught.value)


def test_a_broken_sentencepiece_file_is_refused(root, tmp_path):
    for file in (root / "marian").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "source.spm").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"model\.name=.* can't be loaded \(.*source\.spm"):
        Pretrained(str(tmp_path), LENGTH).tokenizer(list)
