"""An ensemble answers with the mean of its members' probabilities, or with their votes, and writes step by step."""

import numpy as np
import pytest
import torch
from helpers import contract, tiny

from kga.models.ensemble import Ensemble, member_folders
from kga.tasks.classification import Classification

WRITERS = [name for name in contract.WORLDS if name != "classification"]


def members(make, size: int = 3, **options):
    """Tasks with weights large enough that they contradict each other."""
    return [contract._disturbed(make(seed=seed, **options), seed, 0.5).eval() for seed in range(size)]


def together(tasks, aggregate: str = "mean"):
    first = tasks[0]
    return type(first)(Ensemble([task.model for task in tasks], aggregate), first.tokenizer, first.max_length).eval()


def probabilities(task, batch) -> np.ndarray:
    with torch.no_grad():
        return task.predict(batch).log_probs.exp().double().numpy()


@pytest.mark.parametrize("multi_label", [False, True])
def test_classifiers_average_probabilities(multi_label):
    tasks = members(tiny.classifier, multi_label=multi_label)
    batch = tiny.examples(12, task=tasks[0]).batch(np.arange(12))
    expected = np.mean([probabilities(task, batch) for task in tasks], axis=0)
    np.testing.assert_allclose(probabilities(together(tasks), batch), expected, atol=1e-6)
    assert np.abs(expected - probabilities(tasks[0], batch)).max() > 0.05


def votes_by_hand(parts: np.ndarray) -> np.ndarray:
    """[S, P, C] probabilities to the winners [P]: most votes, of those the largest mean probability."""
    counts = np.stack([np.bincount(column, minlength=parts.shape[2]) for column in parts.argmax(2).T])
    ahead = counts == counts.max(1, keepdims=True)
    return np.where(ahead, parts.mean(0), -1).argmax(1)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_votes_count_and_the_mean_breaks_ties(multi_label, size):
    ensemble = together(members(tiny.classifier, size, multi_label=multi_label), "vote").model
    logits = 3 * torch.randn(size, 200, 3, generator=torch.Generator().manual_seed(size))
    voted = ensemble._aggregate(logits)
    if multi_label:  # each label is a vote of its own: off or on
        on = logits.sigmoid().flatten(1)
        parts, voted = torch.stack((1 - on, on), 2), voted.flatten()
        voted = torch.stack((1 - voted.sigmoid(), voted.sigmoid()), 1)
    else:
        parts, voted = logits.softmax(2), voted.exp()
    np.testing.assert_allclose(voted.sum(1), 1, atol=1e-5)
    assert np.array_equal(voted.argmax(1), votes_by_hand(parts.numpy()))
    assert size == 2 or not torch.equal(voted.argmax(1), parts.mean(0).argmax(1)), "votes and means never differ here"


def test_votes_of_members_that_are_certain_stay_finite():
    ensemble = together(members(tiny.classifier, 2), "vote").model
    assert torch.isfinite(ensemble._aggregate(torch.tensor([[[200.0, 0.0, -200.0]]] * 2))).all()


@pytest.mark.parametrize("world", WRITERS)
def test_models_that_write_average_at_every_scored_position(world):
    tasks = members(contract.WORLDS[world])
    batch = tiny.examples(8, seed=4, task=tasks[0]).batch(np.arange(8))
    expected = np.mean([probabilities(task, batch) for task in tasks], axis=0)
    np.testing.assert_allclose(probabilities(together(tasks), batch), expected, atol=1e-6)


@pytest.mark.parametrize("world", WRITERS)
@pytest.mark.parametrize("beams", [1, 4])
def test_copies_of_one_model_write_what_it_writes(world, beams):
    """With the prompt's padding, every encoder run once, and beams reordered."""
    (task,) = members(contract.WORLDS[world], 1)
    batch = tiny.examples(6, seed=5, task=task).batch(np.arange(6))
    assert together([task, task]).generate(batch, beams) == task.generate(batch, beams)


@pytest.mark.parametrize("world", WRITERS)
def test_greedy_writing_follows_the_mean_of_the_members_at_every_step(world):
    """Against one forward pass of every member for each token, on one example at a time."""
    tasks = members(contract.WORLDS[world])
    examples = tiny.examples(4, seed=6, task=tasks[0])
    ensemble = together(tasks)
    whole = ensemble.generate(examples.batch(np.arange(4)))
    for number in range(4):
        ids = stepwise(tasks, examples.batch(np.array([number])))
        assert whole[number] == tasks[0].tokenizer.decode(ids, skip_special_tokens=True).strip()


@torch.no_grad()
def stepwise(tasks, batch) -> list[int]:
    written: list[int] = []
    for _ in range(tasks[0].max_target_length):
        token = int(sum(next_token(task, batch, written) for task in tasks).argmax())
        if token == tasks[0].tokenizer.eos_token_id:
            break
        written.append(token)
    return written


def next_token(task, batch, written: list[int]) -> torch.Tensor:
    """[V] probabilities of the token that follows."""
    if task.model.config.is_encoder_decoder:
        prefix = torch.tensor([[task.model.config.decoder_start_token_id, *written]])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")} | {"decoder_input_ids": prefix}
    else:
        prompt = batch["input_ids"][batch["labels"] == -100]
        inputs = {"input_ids": torch.cat((prompt, torch.tensor(written, dtype=torch.long)))[None]}
    return task.model(**inputs).logits[0, -1].float().softmax(0)


def test_a_folder_of_members_is_loaded_as_they_were(tmp_path):
    tasks = members(tiny.classifier)
    batch = tiny.examples(8, task=tasks[0]).batch(np.arange(8))
    ensemble = together(tasks, "vote")
    ensemble.save(tmp_path)
    for folder in member_folders(tmp_path):
        tasks[0].tokenizer.save_pretrained(folder)
    loaded = Classification.load(tmp_path).eval()
    assert loaded.model.aggregate == "vote" and len(list(member_folders(tmp_path))) == 3
    np.testing.assert_array_equal(probabilities(loaded, batch), probabilities(ensemble, batch))
    alone = Classification.load(tmp_path / "shard-1").eval()
    np.testing.assert_array_equal(probabilities(alone, batch), probabilities(tasks[1], batch))
