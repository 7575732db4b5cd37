"""Schedules by hand, and who decays."""

import math

import pytest
import torch
from helpers import tiny

from kga.optim import Optim, factor, optimizer_and_schedule, parameter_groups


def factors(total: int, **options) -> list[float]:
    return [factor(update, Optim(**options), total) for update in range(total)]


def test_linear():
    assert factors(6, warmup=2, schedule="linear") == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])


def test_cosine():
    expected = [0.5, 1, 1, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 + math.cos(3 * math.pi / 4))]
    assert factors(6, warmup=2, schedule="cosine") == pytest.approx(expected)


def test_inverse_sqrt():
    """lr * u / W up to update W, then lr * sqrt(W / u), counting updates from 1."""
    expected = [0.25, 0.5, 0.75, 1, math.sqrt(4 / 5), math.sqrt(4 / 6), math.sqrt(4 / 7), math.sqrt(4 / 8)]
    assert factors(8, warmup=4, schedule="inverse_sqrt") == pytest.approx(expected)


def test_inverse_sqrt_goes_on_for_good_and_is_the_same_however_long_training_is():
    """As released: the warm-up counts updates, and the total has no say, unlike in linear and cosine schedules."""
    options = {"warmup": 10, "schedule": "inverse_sqrt"}
    short, long = factors(20, **options), factors(4000, **options)
    assert short == long[:20]
    for update in (1, 7, 10, 11, 40, 1000, 4000):
        assert long[update - 1] == pytest.approx(update / 10 if update < 10 else math.sqrt(10 / update))
    assert factor(5999, Optim(**options), 4000) == pytest.approx(math.sqrt(10 / 6000))


def test_inverse_sqrt_has_no_jump_after_a_warmup_that_is_a_share():
    rates = factors(40, warmup=0.2, schedule="inverse_sqrt")
    assert rates[7] == 1 and rates[6] == 7 / 8 and rates[8] == pytest.approx(math.sqrt(8 / 9))
    assert factors(5, warmup=0, schedule="inverse_sqrt") == pytest.approx([1 / math.sqrt(u) for u in range(1, 6)])


def test_constant():
    assert factors(4, warmup=2, schedule="constant") == [0.5, 1, 1, 1]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "inverse_sqrt", "constant"])
def test_no_warmup_starts_at_the_peak(schedule):
    assert factors(5, warmup=0, schedule=schedule)[0] == 1


def test_warmup_below_1_is_a_share_of_all_updates():
    assert factors(20, warmup=0.2, schedule="constant")[:5] == [0.25, 0.5, 0.75, 1, 1]


def test_beyond_the_schedule_the_rate_stays_0():
    assert factor(9, Optim(warmup=0), 5) == 0
    assert factor(9, Optim(warmup=0, schedule="cosine"), 5) == pytest.approx(0)


def test_an_unknown_schedule_is_not_taken_for_a_constant_one():
    with pytest.raises(ValueError, match="'exponential'"):
        factor(5, Optim(warmup=0, schedule="exponential"), 10)


def test_matrices_decay_and_biases_and_norms_do_not():
    model = tiny.classifier().model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ([names[id(p)] for p in group["params"]] for group in parameter_groups(model, 0.1))
    assert {group["weight_decay"] for group in parameter_groups(model, 0.1)} == {0.1, 0.0}
    assert sorted(decayed + plain) == sorted(names.values())
    assert plain and all(name.endswith(".bias") or "norm" in name.lower() for name in plain)
    assert all(name.endswith(".weight") and "norm" not in name.lower() for name in decayed)


def test_frozen_weights_are_in_no_group():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    taken = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert taken == {id(p) for p in model[1].parameters()}


def test_the_schedule_moves_the_rate_of_both_groups():
    options = Optim(lr=0.1, warmup=2, betas=[0.8, 0.9], eps=1e-6, weight_decay=0.3)
    (optimizer,), (schedule,) = optimizer_and_schedule(torch.nn.Linear(2, 2), options, total=4)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.9) and optimizer.defaults["eps"] == 1e-6
    assert schedule["interval"] == "step"
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule["scheduler"].step()
    assert rates == [pytest.approx([rate, rate]) for rate in (0.05, 0.1, 0.1, 0.05)]


def test_the_fused_optimiser_takes_the_same_steps():
    states = []
    for fused in (True, False):
        task = tiny.classifier()
        (optimizer,), _ = optimizer_and_schedule(task, Optim(lr=1e-2, fused=fused), 4)
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            for parameter in task.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        assert optimizer.defaults["fused"] is fused
        states.append(task.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)
