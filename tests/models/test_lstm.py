"""The LSTM: what it computes, what padding must not do, and that it saves, loads and generates like any other model."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from kga.hashing import state_digest
from kga.models.lstm import Attention, LSTMConfig, LSTMForConditionalGeneration
from kga.models.output import scored_states

PAD, START, END, WORDS = 0, 1, 2, 3  # WORDS: the first id that is no special token
SOURCE = torch.tensor([[5, 9, 4, 7, 11, END], [8, 3, END, PAD, PAD, PAD], [6, END, PAD, PAD, PAD, PAD]])
MASK = (SOURCE != PAD).long()
TARGET = torch.tensor([[START, 10, 3, 5], [START, 7, 7, 4], [START, 12, PAD, PAD]])
ROOT = Path(__file__).parents[2]


def build(seed: int = 0, **config) -> LSTMForConditionalGeneration:
    """A model of width 12 and vocabulary 14, in eval mode; large weights, so that what it writes depends on its input."""
    sizes = {"vocab_size": 14, "d_model": 10, "hidden_size": 12, "dropout": 0.0, "initializer_range": 0.7}
    torch.manual_seed(seed)
    return AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("kga_lstm", **sizes | config)).eval()


def logits(model, source=SOURCE, mask=MASK, target=TARGET) -> torch.Tensor:
    return model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits


def widened(table: torch.Tensor, by: int, value: int = PAD) -> torch.Tensor:
    return nn.functional.pad(table, (0, by), value=value)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-6)


# What it computes -------------------------------------------------------------------------------------------------


def test_attention_by_hand():
    attention = Attention(query_size=1, state_size=2)
    attention.score.weight.data = torch.tensor([[1.0, -2.0]])
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    context, weights = attention(torch.tensor([[[0.0], [2.0]]]), states, torch.tensor([[True, True, False]]))
    first = 1 / (1 + torch.exp(torch.tensor(-6.0)))  # scores of the second query: 2 * 1 and 2 * -2
    expected = torch.tensor([[[0.5, 0.5, 0.0], [first, 1 - first, 0.0]]])
    assert same(weights, expected)
    assert same(context, expected[:, :, :2])


def cells(lstm: nn.LSTM, layer: int, suffix: str = "") -> nn.LSTMCell:
    """One layer and direction of an LSTM as a cell that makes single steps."""
    cell = nn.LSTMCell(getattr(lstm, f"weight_ih_l{layer}{suffix}").shape[1], lstm.hidden_size)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    cell.load_state_dict({name: getattr(lstm, f"{name}_l{layer}{suffix}") for name in names})
    return cell


def stepwise(cell: nn.LSTMCell, inputs: list, state: tuple) -> list:
    outputs = []
    for value in inputs:
        state = cell(value[None], state)
        outputs.append(state[0][0])
    return outputs


def reference(model, source: list[int], target: list[int]) -> torch.Tensor:
    """Logits [T, V] of one unpadded example, step by step."""
    weights, width = dict(model.named_parameters()), model.config.hidden_size
    embedding = weights["encoder.embed_tokens.weight"]
    zeros = (torch.zeros(1, width), torch.zeros(1, width))
    states = [embedding[token] for token in source]
    for layer in range(model.config.encoder_layers):
        onward = stepwise(cells(model.encoder.lstm, layer), states, zeros)
        back = stepwise(cells(model.encoder.lstm, layer, "_reverse"), states[::-1], zeros)[::-1]
        states = [torch.cat(pair) for pair in zip(onward, back, strict=True)]
    ends = torch.cat((onward[-1], back[0]))
    start = torch.tanh(weights["bridge.weight"] @ ends + weights["bridge.bias"]).reshape(2, -1, 1, width)
    outputs = [embedding[token] for token in target]
    for layer in range(model.config.decoder_layers):
        outputs = stepwise(cells(model.decoder, layer), outputs, (start[0, layer], start[1, layer]))
    rows = []
    for query in outputs:
        scores = torch.stack([query @ weights["attention.score.weight"] @ state for state in states])
        context = sum(weight * state for weight, state in zip(scores.softmax(0), states, strict=True))
        both = torch.cat((context, query))
        rows.append(model.lm_head.weight @ torch.tanh(weights["combine.weight"] @ both + weights["combine.bias"]))
    return torch.stack(rows)


@pytest.mark.parametrize("layers", [(1, 1), (2, 1), (1, 3)])
def test_the_whole_model_is_what_single_steps_give(layers):
    model = build(encoder_layers=layers[0], decoder_layers=layers[1])
    given = logits(model)
    assert same(given[0], reference(model, SOURCE[0].tolist(), TARGET[0].tolist()))
    assert same(given[1], reference(model, SOURCE[1, :3].tolist(), TARGET[1].tolist()))


def test_the_loss_is_the_cross_entropy_of_labels_shifted_right():
    model = build()
    labels = torch.tensor([[10, 3, END], [7, END, -100], [END, -100, -100]])
    given = model(input_ids=SOURCE, attention_mask=MASK, labels=labels)
    shifted = torch.tensor([[START, 10, 3], [START, 7, END], [START, END, PAD]])
    log_probs = logits(model, target=shifted).log_softmax(-1)
    places = [(row, t) for row, t in itertools.product(range(3), range(3)) if labels[row, t] != -100]
    expected = -sum(log_probs[row, t, labels[row, t]] for row, t in places) / len(places)
    assert same(given.logits, logits(model, target=shifted))
    assert same(given.loss, expected)


def test_the_output_layer_comes_last_and_may_be_fed_selected_rows():
    model, where = build(), TARGET != PAD
    inputs = {"input_ids": SOURCE, "attention_mask": MASK, "decoder_input_ids": TARGET}
    hidden, given = scored_states(model, inputs, where, logits=True)
    assert torch.equal(given, model.lm_head(hidden))
    assert same(given, logits(model)[where])


# What must make no difference -------------------------------------------------------------------------------------


def test_padding_of_the_source_has_no_influence():
    model = build(encoder_layers=2)
    for filler in (PAD, 13):  # nor what stands there
        assert same(logits(model), logits(model, widened(SOURCE, 5, filler), widened(MASK, 5, 0)))


def test_padding_of_the_target_has_no_influence():
    model = build(decoder_layers=2)
    assert same(logits(model), logits(model, target=widened(TARGET, 5))[:, : TARGET.shape[1]])


def test_a_batch_gives_what_its_examples_give_one_by_one():
    model = build(encoder_layers=2, decoder_layers=2)
    together = logits(model)
    for row, length in enumerate(MASK.sum(1)):
        alone = SOURCE[row : row + 1, :length]
        given = logits(model, alone, torch.ones_like(alone), TARGET[row : row + 1])
        assert same(together[row], given[0])
        assert same(given, logits(model, alone, None, TARGET[row : row + 1]))


def test_no_position_sees_what_comes_after_it():
    model = build(decoder_layers=2)
    before = logits(model)
    for position in range(TARGET.shape[1] - 1):
        changed = TARGET.clone()
        changed[:, position + 1 :] = 13
        after = logits(model, target=changed)
        assert same(before[:, : position + 1], after[:, : position + 1])
        assert not same(before[:2, position + 1], after[:2, position + 1])


def test_a_source_without_tokens_is_as_good_however_far_it_is_padded():
    model, source = build(), torch.full((1, 2), PAD)
    short = logits(model, source, torch.zeros(1, 2), TARGET[:1])
    assert short.isfinite().all()
    assert same(short, logits(model, widened(source, 3), torch.zeros(1, 5), TARGET[:1]))


def test_padding_on_the_left_is_refused():
    with pytest.raises(ValueError, match="padded on the right"):
        logits(build(), SOURCE.flip(1), MASK.flip(1))
    assert same(logits(build(), mask=MASK.bool()), logits(build()))


# Generation -------------------------------------------------------------------------------------------------------


def generate(model, source=SOURCE, mask=MASK, beams: int = 1, **rules) -> list[list[int]]:
    """What is written for each row behind the start token, as far as the end token (beam search fills up with it)."""
    rules = {"max_new_tokens": 9, "do_sample": False, "num_beams": beams} | rules
    rows = model.generate(input_ids=source, attention_mask=mask, **rules)
    texts = (row[1:].tolist() for row in rows)
    return [text[: text.index(END) + 1] if END in text else text for text in texts]


def greedy(model, source: torch.Tensor, mask: torch.Tensor, steps: int) -> list[int]:
    """The most probable token at each step until the end token."""
    written = [START]
    while len(written) <= steps and written[-1] != END:
        written.append(int(logits(model, source, mask, torch.tensor([written]))[0, -1].argmax()))
    return written[1:]


def test_one_beam_is_a_greedy_loop():
    found = set()
    for seed in range(6):
        model = build(seed)
        expected = [greedy(model, SOURCE[[row]], MASK[[row]], 9) for row in range(3)]
        assert generate(model) == expected
        found.update(map(tuple, expected))
    assert len(found) > 6 and {len(row) for row in found} > {9}  # different texts, some of which end early


def test_beam_search_with_enough_beams_finds_the_most_probable_of_all_texts():
    texts, better = torch.tensor(list(itertools.product(range(6), repeat=3))), 0
    decoder = torch.cat((torch.full((len(texts), 1), START), texts[:, :-1]), 1)
    source, mask = SOURCE[1:2].clamp(max=5), MASK[1:2]
    for seed in range(6):
        model = build(seed, vocab_size=6, eos_token_id=None)
        every = logits(model, source.expand(len(texts), -1), mask.expand(len(texts), -1), decoder).log_softmax(-1)
        best = texts[every.gather(2, texts[:, :, None]).sum((1, 2)).argmax()].tolist()
        written = model.generate(input_ids=source, attention_mask=mask, num_beams=36, max_new_tokens=3, do_sample=False)
        assert written[0, 1:].tolist() == best
        one_beam = model.generate(input_ids=source, attention_mask=mask, max_new_tokens=3, do_sample=False)
        better += one_beam[0, 1:].tolist() != best
    assert better


@pytest.mark.parametrize("beams", [1, 5])
def test_generation_in_a_batch_is_generation_one_by_one(beams):
    for seed in range(3):
        model = build(seed)
        alone = [generate(model, SOURCE[[row], :length], None, beams)[0] for row, length in enumerate(MASK.sum(1))]
        assert generate(model, beams=beams) == alone
        assert generate(model, widened(SOURCE, 4), widened(MASK, 4), beams) == alone


def test_generation_needs_no_cache_and_reads_the_source_once():
    model, calls = build(), []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    for beams in (1, 4):
        with_setting = [generate(model, beams=beams, use_cache=use_cache) for use_cache in (True, False)]
        assert with_setting[0] == with_setting[1] == generate(model, beams=beams)
    assert len(calls) == 6
    rules = {"max_new_tokens": 3, "return_dict_in_generate": True}
    assert model.generate(input_ids=SOURCE, attention_mask=MASK, **rules).past_key_values is None


# A model like any other -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_loads_as_the_same_model(tmp_path, tied):
    model = build(tie_word_embeddings=tied, decoder_layers=2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert type(loaded) is LSTMForConditionalGeneration and loaded.config.decoder_layers == 2
    assert state_digest(loaded.state_dict()) == state_digest(model.state_dict())
    assert same(logits(model), logits(loaded))  # not to the bit: what is loaded lies elsewhere in memory
    assert generate(model, beams=3) == generate(loaded, beams=3)
    for either in (model, loaded):
        assert (either.get_output_embeddings().weight is either.get_input_embeddings().weight) == tied


def test_a_copy_is_a_model_of_its_own():
    model = build()
    before, other = logits(model), copy.deepcopy(model)
    assert torch.equal(before, logits(other))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    assert torch.equal(before, logits(model)) and not same(before, logits(other))


def test_more_tokens_can_be_added():
    model = build()
    before = logits(model)
    model.resize_token_embeddings(20, mean_resizing=False)
    assert logits(model).shape == (3, 4, 20)
    assert same(logits(model)[..., :14], before)


@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_reaches_every_parameter(tied):
    model = build(encoder_layers=2, decoder_layers=2, tie_word_embeddings=tied)
    model(input_ids=SOURCE, attention_mask=MASK, labels=TARGET).loss.backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]


def steps(seed: int, count: int = 3) -> str:
    """The weights after a few updates with dropout."""
    model = build(seed, dropout=0.3, encoder_layers=2).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(count):
        optimiser.zero_grad()
        model(input_ids=SOURCE, attention_mask=MASK, labels=TARGET).loss.backward()
        optimiser.step()
    return state_digest(model.state_dict())


def test_a_seed_decides_training(recwarn):
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first = steps(0)
        assert steps(0) == first != steps(1)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not [str(warning.message) for warning in recwarn if "deterministic" in str(warning.message)]


def test_bfloat16_autocast_trains_and_generates():
    exact, model = logits(build()), build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = model(input_ids=SOURCE, attention_mask=MASK, decoder_input_ids=TARGET, labels=TARGET)
        written = generate(model, beams=3)
    given.loss.backward()
    assert given.logits.dtype == torch.bfloat16 and torch.allclose(given.logits.float(), exact, atol=0.1)
    assert all(value.grad.dtype == torch.float32 and value.grad.isfinite().all() for value in model.parameters())
    assert [len(row) > 0 for row in written] == [True] * 3


def test_it_learns_to_reverse():
    model = build(vocab_size=20, d_model=32, hidden_size=48, initializer_range=0.1).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=8e-3)
    words = torch.randint(WORDS, 20, (600, 5), generator=torch.Generator().manual_seed(0))
    for update in range(200):
        batch = words[torch.arange(update * 32, update * 32 + 32) % 500]
        loss = model(input_ids=batch, labels=batch.flip(1)).loss
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    unseen = words[500:]
    with torch.no_grad():
        written = generate(model.eval(), unseen, None, max_new_tokens=5, eos_token_id=None)
    right = sum(row == truth for row, truth in zip(written, unseen.flip(1).tolist(), strict=True))
    assert right >= 80, f"{right} of 100"


def test_the_config_file_names_fields_that_exist():
    family = OmegaConf.load(ROOT / "conf" / "model" / "lstm.yaml")
    assert family.architecture == LSTMConfig.model_type
    assert set(family.config) <= set(LSTMConfig().to_diff_dict()) | set(LSTMConfig.__dataclass_fields__)
    model = build(**OmegaConf.to_container(family.config))
    assert (model.config.d_model, model.config.hidden_size) == (family.config.d_model, family.config.hidden_size)
