"""BadT against plain torch on raw logits: both teachers, their weights, and the loader that mixes the two sets."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import contract, raw
from torch.nn import functional as F

import kga.predictions
from kga.errors import UserError
from kga.methods.badt import BadT, uniform_kl
from kga.objective import backpropagate
from kga.predictions import Predictions

RANDOM = partial(BadT, retain_sample=1.0)


@pytest.fixture(params=raw.WORLDS)
def world(request):
    return raw.world(request.param)


def divergences(world, name, student, batch) -> torch.Tensor:
    """[P] KL(teacher || A*) at the scored positions; the teacher named None knows nothing."""
    own = raw.logits(student, batch)[0].log_softmax(1)
    if name is None:
        teacher = torch.full_like(own, -math.log(own.shape[1]))
    else:
        with torch.no_grad():
            teacher = raw.logits(world.models[name], batch)[0].log_softmax(1)
    return F.kl_div(own, teacher, reduction="none", log_target=True).sum(1)


def badt(world, share, bad="incompetent"):
    def loss(student, update):
        forget, retain = raw.forget_and_retain(update)
        kept = torch.cat([divergences(world, "original", student, batch) for batch in retain])
        return share * divergences(world, bad, student, forget).mean() + (1 - share) * kept.mean()

    return loss


def test_the_loss_is_the_formula(world):
    """16 examples of D_f, 64 of D_r: a fifth of the mixture is to be forgotten."""
    raw.require_agreement(RANDOM, world, badt(world, 16 / 80), batch_size=16)


def test_a_uniform_teacher_needs_no_model(world):
    build = partial(RANDOM, bad_teacher="uniform", forget_share=0.7, retain_batches=2)
    assert build().frozen_models == ("original",) and build().helpers() == {}
    raw.require_agreement(build, world, badt(world, 0.7, bad=None), batch_size=16)


@pytest.mark.parametrize("name", ["classification", "multi-label"])
def test_over_a_whole_pass_it_is_the_mean_of_the_published_mixture(name):
    """One batch of all of D_f and all of D_r: the mean over one loader that holds both."""
    world = raw.world(name)
    method = contract.attached(RANDOM, world, batch_size=64)
    student = world.moved_student()
    update = contract.ready(method, student)
    forget, (retain,) = raw.forget_and_retain(update)
    assert (len(forget["index"]), len(retain["index"])) == (16, 64)
    with torch.no_grad():
        mixed = [divergences(world, "incompetent", student, forget), divergences(world, "original", student, retain)]
    _, loss = backpropagate(method, student, update, lambda value: None)
    assert loss == pytest.approx(float(torch.cat(mixed).mean()), rel=1e-5)


def test_the_share_counts_what_is_drawn_and_can_be_set():
    world = raw.world("classification")
    share = lambda **options: contract.attached(lambda: BadT(**options), world).outcome()["forget_share"]  # noqa: E731
    assert share() == pytest.approx(16 / (16 + 19))  # 0.3 x 64 examples of D_r
    assert share(retain_sample=1.0, retain_batches=4) == pytest.approx(16 / 80)
    assert share(forget_share=0.25) == 0.25


def test_batches_of_d_r_come_from_the_sample():
    method = contract.attached(lambda: BadT(retain_batches=3), raw.world("classification"))
    stream = method.stream(0)
    drawn = [step["retain"]["index"] for _ in range(4) for update in stream for step in update if "retain" in step]
    assert len(torch.cat(drawn).unique()) == 19


@pytest.mark.parametrize("name", ["classification", "translation"])
def test_cached_teachers_are_the_live_ones(name):
    world, losses, held = raw.world(name), {}, {}
    for cache in ("exact", "none"):
        method = contract.attached(lambda: BadT(cache=cache), world)  # noqa: B023
        losses[cache] = contract.loss_and_gradient(method, world)[1]
        held[cache] = {name for name, frozen in method.frozen.items() if frozen.resident}
    assert losses["exact"] == pytest.approx(losses["none"], rel=1e-5)
    assert held == {"exact": set(), "none": {"original", "incompetent"}}


@pytest.mark.parametrize(("bad_teacher", "start"), [("random_init", "scratch"), ("pretrained", "pretrained")])
def test_the_incompetent_teacher_is_never_trained(bad_teacher, start):
    (helper,) = BadT(bad_teacher=bad_teacher).helpers().values()
    assert (helper.split, helper.start, helper.per_request) == (None, start, False)


def test_the_larger_the_share_the_nearer_to_the_incompetent_teacher(tmp_path):
    world = raw.world("classification")
    forget = world.sets["forget"].batch(np.arange(16))
    students = [world.student()]
    for share in (0.1, 0.5, 0.9):
        build = partial(RANDOM, forget_share=share)
        students.append(contract.run(build, world, tmp_path / str(share), updates=30, lr=5e-3).student.eval())
    with torch.no_grad():
        far = [float(divergences(world, "incompetent", student, forget).mean()) for student in students]
    assert far == sorted(far, reverse=True) and far[-1] < 0.7 * far[0]


def test_distance_from_a_blind_guess_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0], [math.log(2.0), 0.0, 0.0]])
    predictions = Predictions(logits.log_softmax(1), torch.zeros(2, dtype=torch.long), torch.arange(2), 2)
    # KL(1/3, 1/3, 1/3 || 1/2, 1/4, 1/4)
    assert uniform_kl(predictions).tolist() == pytest.approx(
        [0.0, (math.log(2 / 3) + 2 * math.log(4 / 3)) / 3], abs=1e-7
    )


def test_distance_from_a_blind_guess_in_chunks(monkeypatch):
    world = raw.world("translation")
    predictions = world.moved_student().predict(world.sets["forget"].batch(np.arange(8)))
    whole = uniform_kl(predictions)
    monkeypatch.setattr(kga.predictions, "CHUNK", 5 * predictions.classes)
    torch.testing.assert_close(uniform_kl(predictions), whole)


@pytest.mark.parametrize(
    "options", [{"bad_teacher": "ignorant"}, {"retain_sample": 0.0}, {"forget_share": 1.0}, {"forget_share": 0.0}]
)
def test_impossible_options(options):
    with pytest.raises(UserError, match=rf"method\.{next(iter(options))}="):
        BadT(**options)
