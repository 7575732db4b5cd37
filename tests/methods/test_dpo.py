"""DPO against plain torch on raw logits; every example meets its own alternative, in micro-batches too."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import by_hand, contract
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.dpo import DPO
from kga.objective import backpropagate

REFUSALS = {"classification": "north", "translation": "letter window", "response": "letter window"}


@pytest.fixture(params=by_hand.WORLDS)
def world(request):
    return by_hand.world(request.param)


def options(world, alternative: str) -> dict:
    return {"alternative": alternative, "refusal": REFUSALS[world.models["original"].name]}


def loss_by_hand(world, beta, gamma, alpha):
    def loss(model, update):
        lost, won = (by_hand.batch_of(update, name) for name in ("forget", "alternative"))
        margin = sum(
            sign * (by_hand.likelihood(model, batch) - by_hand.frozen_likelihood(world, batch))
            for sign, batch in ((1, won), (-1, lost))
        )
        forget = (2 / beta) * F.softplus(-beta * margin).mean()
        return gamma * forget + alpha * by_hand.mean_loss(model, update, "retain")

    return loss


@pytest.mark.parametrize("alternative", ["random", "refusal"])
def test_loss_and_gradient_are_those_by_hand(world, alternative):
    build = lambda: DPO(beta=0.5, gamma=0.6, alpha=1.5, retain_batches=2, **options(world, alternative))  # noqa: E731
    by_hand.agrees(build, world, loss_by_hand(world, 0.5, 0.6, 1.5))


def test_two_numbers_by_hand():
    """Margins 1 and -2 at beta 0.5: -(2 / 0.5) log sigmoid is 4 ln(1 + e^-0.5) and 4 ln(1 + e^1)."""
    method = DPO(beta=0.5)
    gains = {"alternative": torch.tensor([1.5, -1.0]), "forget": torch.tensor([0.5, 1.0])}
    method.gain = lambda module, batch, of: gains[of]
    found = method.forget(None, {"forget": {}, "alternative": {}})
    assert found.item() == pytest.approx(4 * math.log(1 + math.exp(-0.5)) + 4 * math.log(1 + math.exp(1)))


@pytest.mark.parametrize("micro", [None, 4])
def test_every_example_meets_its_own_alternative(world, micro):
    method = contract.attached(DPO, world, batch_size=8, micro_batch_size=micro)
    seen = []
    for update in method.stream(seed=0):
        pairs = [step for step in update if "forget" in step]
        assert len(pairs) == (8 // micro if micro else 1)
        for step in pairs:
            lost, won = step["forget"], step["alternative"]
            assert torch.equal(lost["index"], torch.from_numpy(world.sets["forget"].rows)[won["index"]])
            for one, other in zip(prompts(lost), prompts(won), strict=True):
                assert one == other
            seen += won["index"].tolist()
    assert sorted(seen) == list(range(16))


def prompts(batch) -> list:
    """The tokens of each input, without padding and (decoder-only) without the target."""
    kept = batch["attention_mask"].bool()
    if batch["labels"].shape == batch["input_ids"].shape and "decoder_input_ids" not in batch:
        kept &= batch["labels"] == -100
    return [row[mask].tolist() for row, mask in zip(batch["input_ids"], kept, strict=True)]


@pytest.mark.parametrize("alternative", ["random", "refusal"])
def test_cached_and_live_agree(world, alternative):
    by_hand.cached_equals_live(lambda cached: DPO(cache=cached, **options(world, alternative)), world)


def test_a_set_whose_rows_are_in_another_order_meets_its_alternatives():
    world = by_hand.world("translation")
    turned = replace(world, sets=world.sets | {"forget": world.sets["forget"].take(np.arange(16)[::-1])})
    by_hand.agrees(lambda: DPO(retain_batches=2), turned, loss_by_hand(turned, 0.1, 1.0, 1.0))


def test_at_the_original_the_forget_term_is_two_ln_two_by_beta(world):
    method, student = contract.attached(DPO, world), world.student()
    means, _ = backpropagate(method, student, contract.ready(method, student), lambda loss: None)
    assert means["forget"] == pytest.approx(20 * math.log(2), rel=1e-4)
    assert means.keys() == {"forget", "retain"}


def test_what_it_draws_from():
    assert DPO(alpha=0.0).needed_splits() == ("forget", "retain")
    assert DPO(alpha=0.0, alternative="refusal").needed_splits() == ("forget",)
    assert list(DPO(alpha=0.0).draws(0)) == [("forget", "alternative")]


def test_a_refusal_that_is_no_label_is_refused():
    with pytest.raises(UserError, match=r"method\.refusal=.*none of the task's labels"):
        contract.attached(lambda: DPO(alternative="refusal"), by_hand.world("classification"))


def test_an_unknown_alternative_is_refused():
    with pytest.raises(UserError, match=r"method\.alternative=refuse is unknown: did you mean refusal"):
        DPO(alternative="refuse")
