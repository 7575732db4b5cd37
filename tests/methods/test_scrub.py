"""SCRUB: the order of its passes, both losses in plain torch on raw logits, and the epoch that SCRUB+R goes back to."""

import math
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import contract, raw
from torch.nn import functional as F

import kga.predictions
from kga.errors import UserError
from kga.methods.scrub import COLUMNS, Scrub, tempered_kl
from kga.objective import backpropagate
from kga.predictions import Predictions

# 16 examples of D_f and 0.3 x 64 of D_r in batches of 8: passes of 2 and 3 updates.
SHORT = partial(Scrub, epochs=3, max_epochs=2)
PHASES = ["max"] * 2 + ["min"] * 3 + ["max"] * 2 + ["min"] * 3 + ["min"] * 3
WHOLE = {"updates": None, "epochs": 1}


@pytest.fixture(params=raw.WORLDS)
def world(request):
    return raw.world(request.param)


@pytest.fixture
def texts():
    return raw.world("classification")


# The plan -------------------------------------------------------------------------------------------------------------


def test_every_pass_goes_over_its_set_once_and_the_last_holds(texts):
    method = contract.attached(SHORT, texts, **WHOLE)
    stream = method.stream(0)
    updates = list(stream)
    assert len(updates) == len(stream) == len(PHASES)
    names = [name for update in updates for step in update for name in step]
    assert ["max" if name == "forget" else "min" for name in names] == PHASES
    everything = set(texts.sets["forget"].rows.tolist())
    drawn = [set(update[0][name]["index"].tolist()) for update, name in zip(updates, names, strict=True)]
    assert drawn[0] | drawn[1] == drawn[5] | drawn[6] == everything
    passes = [set.union(*drawn[start : start + 3]) for start in (2, 7, 10)]
    assert passes[0] == passes[1] == passes[2] and len(passes[0]) == 19


def test_the_plan_is_the_bound_where_updates_is_null(texts, tmp_path):
    outcome = contract.run(SHORT, texts, tmp_path, **WHOLE)
    history = outcome.method.history
    assert [row["phase"] for row in history] == PHASES
    assert [row["epoch"] for row in history] == [1] * 5 + [2] * 5 + [3] * 3
    told = {"updates": 13, "stopped": None, "cache": "exact", "max_updates": 4, "min_updates": 9}
    assert outcome.method.outcome() == told
    assert all(tuple(row) == COLUMNS for row in history)
    for row in history:
        own, other = ("forget", "retain") if row["phase"] == "max" else ("retain", "forget")
        assert row[other] is None and row["loss"] == pytest.approx(-row[own] if own == "forget" else row[own])


def test_more_epochs_of_the_optimiser_repeat_the_plan(texts, tmp_path):
    outcome = contract.run(SHORT, texts, tmp_path, updates=None, epochs=2)
    assert [row["phase"] for row in outcome.method.history] == 2 * PHASES
    assert [row["epoch"] for row in outcome.method.history][12:15] == [3, 4, 4]


# The losses -----------------------------------------------------------------------------------------------------------


def softened(world, student, batch, temperature) -> torch.Tensor:
    """[P] KL(A_D || A*) of logits divided by T."""
    with torch.no_grad():
        teacher = (raw.logits(world.models["original"], batch)[0] / temperature).log_softmax(1)
    own = (raw.logits(student, batch)[0] / temperature).log_softmax(1)
    return F.kl_div(own, teacher, reduction="none", log_target=True).sum(1)


def agrees(method, world, number: int, expected) -> None:
    """Loss and gradient of an update of the plan are those of ``expected(student, batch)``."""
    student, by_hand = world.moved_student(), world.moved_student()
    contract.ready(method, student)
    update = list(method.stream(0))[number]
    _, loss = backpropagate(method, student, update, torch.Tensor.backward)
    ((batch,),) = (step.values() for step in update)
    value = expected(by_hand.eval(), batch)
    value.backward()
    assert loss == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-6)
    largest = max(float(p.grad.abs().max()) for p in by_hand.parameters() if p.grad is not None)
    assert largest > 0
    for (name, own), other in zip(student.named_parameters(), by_hand.parameters(), strict=True):
        if other.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-4 * largest, msg=name)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_pass_over_d_f_pushes_away(world, temperature):
    method = contract.attached(lambda: SHORT(temperature=temperature, kl_bound=None), world)
    agrees(method, world, 1, lambda student, batch: -(temperature**2) * softened(
        world, student, batch, temperature).mean())  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"gamma": 0.3, "alpha": 2.0, "temperature": 3.0}])
def test_a_pass_over_d_r_holds(world, options):
    method = contract.attached(lambda: SHORT(**options), world)
    gamma, alpha, t = method.gamma, method.alpha, method.temperature

    def expected(student, batch):
        logits, truth, _ = raw.logits(student, batch)
        return gamma * F.cross_entropy(logits, truth) + alpha * t**2 * softened(world, student, batch, t).mean()

    agrees(method, world, 3, expected)


def test_positions_beyond_the_bound_are_pushed_no_more(world):
    """The bound lies between the KLs of the positions, in units of ln C before the factor T^2."""
    student = world.moved_student().eval()
    batch = contract.attached(SHORT, world).sets["forget"].batch(np.arange(16))
    logits, _, _ = raw.logits(student, batch)
    with torch.no_grad():
        far = softened(world, student, batch, 2.0).sort().values
    below = int(far.diff().argmax())  # where rounding can't put a position on the other side
    bound = float(far[below] + far[below + 1]) / 2
    method = contract.attached(lambda: SHORT(kl_bound=bound / math.log(logits.shape[1])), world, batch_size=16)
    assert 0 < (far > bound).sum() < len(far)
    agrees(method, world, 0, lambda student, batch: -4 * softened(world, student, batch, 2.0).clamp(max=bound).mean())


def predictions(log_probs) -> Predictions:
    size = len(log_probs)
    return Predictions(log_probs, torch.zeros(size, dtype=torch.long), torch.arange(size), size)


def test_a_temperature_of_two_takes_the_root_of_probabilities():
    first, second = (predictions(torch.tensor([row]).log()) for row in ([0.9, 0.1], [0.5, 0.5]))
    # sqrt(.9) : sqrt(.1) = 3 : 1
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert tempered_kl(first, second, 2.0).tolist() == pytest.approx([by_hand], rel=1e-6)


def test_temperature_of_a_label_divides_its_log_odds():
    odds = torch.tensor([[2.0], [-0.5]])
    first, second = (predictions(F.logsigmoid(torch.cat((-z, z), 1))) for z in (odds, -3 * odds))
    p, q = (odds / 5).sigmoid(), (-3 * odds / 5).sigmoid()
    by_hand = 25 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).squeeze(1)
    torch.testing.assert_close(tempered_kl(first, second, 5.0), by_hand)


def test_chunks_of_positions_change_nothing(monkeypatch):
    world, found = raw.world("translation"), {}
    for number in (0, 2):
        for size in (None, 5):
            method = contract.attached(SHORT, world)
            student = world.moved_student()
            contract.ready(method, student)
            if size:
                monkeypatch.setattr(kga.predictions, "CHUNK", size * student.model.config.vocab_size)
            _, loss = backpropagate(method, student, list(method.stream(0))[number], torch.Tensor.backward)
            monkeypatch.undo()
            found[size] = loss, {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
        assert found[5][0] == pytest.approx(found[None][0], rel=1e-5)
        for name, value in found[None][1].items():
            torch.testing.assert_close(found[5][1][name], value, rtol=1e-3, atol=1e-6)


# Rewinding ------------------------------------------------------------------------------------------------------------

REWIND = partial(SHORT, rewind=True)


class AtUpdates(pl.Callback):
    """Keeps the weights at some updates, and ends the process after one, a checkpoint written."""

    def __init__(self, *updates: int, crash: int | None = None):
        self.updates, self.crash, self.weights = updates, crash, {}

    def on_train_batch_end(self, trainer, pl_module, *given):
        if trainer.global_step in self.updates:
            self.weights[trainer.global_step] = {k: v.clone() for k, v in pl_module.model.state_dict().items()}
        if trainer.global_step == self.crash:
            trainer.save_checkpoint(f"{trainer.default_root_dir}/checkpoints/crash.ckpt")
            raise contract.KeyboardCrash


class AtTheEnd(pl.Callback):
    def on_fit_end(self, trainer, pl_module):
        raise contract.KeyboardCrash


class Scripted(Scrub):
    """Its errors are given: on D_f at the three epochs' ends, and on D_n."""

    def __init__(self, forget, new):
        super().__init__(epochs=3, max_epochs=2, rewind=True)
        self.given = {"forget": forget, "new": new}

    def error(self, module, name):
        return self.given[name][len(self.ends)]


@pytest.mark.parametrize(
    ("forget", "new", "update"),
    [([0.1, 0.5, 0.9], [9, 9, 0.4], 10), ([0.3, 0.5, 0.9], [9, 9, 0.0], 5), ([0.1, 0.5, 0.9], [0.1, 0.5, 0.8], 13),
     ([0.5, 0.25, 0.75], [9, 9, 0.5], 5), ([0.5, 0.5, 0.9], [9, 9, 0.5], 10)],
    ids=["second", "first", "last", "nearest of all", "later of equals"],
)  # fmt: skip
def test_it_goes_back_to_the_epoch_nearest_to_the_last_models_error_on_d_n(texts, tmp_path, forget, new, update):
    ends = AtUpdates(5, 10, 13)
    outcome = contract.run(lambda: Scripted(forget, new), texts, tmp_path, callbacks=[ends], **WHOLE)
    assert outcome.method.outcome()["rewound_to"]["update"] == update
    assert [(end["epoch"], end["update"]) for end in outcome.method.outcome()["epoch_ends"]] == [
        (1, 5),
        (2, 10),
        (3, 13),
    ]
    for name, value in outcome.student.model.state_dict().items():
        assert torch.equal(value, ends.weights[update][name]), name
    assert any(not torch.equal(value, ends.weights[other][name]) for other in ends.weights if other != update
               for name, value in outcome.student.model.state_dict().items())  # fmt: skip


def test_errors_are_shares_of_wrong_positions(world):
    given = dict(world.sets) | {"new": world.sets["retain"].take(np.arange(20))}
    method = REWIND().attach(world.frozen(["original"]), given)
    student = world.moved_student()
    student.model.train()
    for name in ("forget", "new"):
        with torch.no_grad():
            logits, truth, _ = raw.logits(student.eval(), given[name].batch(np.arange(len(given[name]))))
        student.model.train()
        wrong = (logits.argmax(1) != truth).float().mean()
        assert method.error(student, name) == pytest.approx(float(wrong), abs=1e-6)
        assert student.model.training


def test_it_looks_at_new_examples_and_never_at_the_test_set():
    assert set(REWIND().needed_splits()) == {"forget", "retain", "new"}
    assert set(SHORT().needed_splits()) == {"forget", "retain"}


@pytest.mark.parametrize("callback", [AtUpdates(crash=7), AtTheEnd()], ids=["second epoch", "after the last update"])
def test_an_interrupted_run_goes_back_to_the_same_epoch(texts, tmp_path, callback):
    build = partial(Scripted, [0.1, 0.5, 0.9], [9, 9, 0.0])
    whole = contract.run(build, texts, tmp_path / "whole", dropout=0.2, **WHOLE)
    with pytest.raises(contract.KeyboardCrash):
        contract.run(build, texts, tmp_path / "cut", dropout=0.2, callbacks=[callback], **WHOLE)
    resumed = contract.run(build, texts, tmp_path / "cut", dropout=0.2, **WHOLE)
    assert resumed.method.outcome() == whole.method.outcome()
    assert resumed.method.outcome()["rewound_to"]["update"] == 5
    for name, value in whole.state().items():
        assert torch.equal(resumed.state()[name], value), name


def test_a_run_cut_short_may_stay_at_its_last_update(texts, tmp_path):
    outcome = contract.run(REWIND, texts, tmp_path, updates=7, epochs=1)
    assert [(end["epoch"], end["update"]) for end in outcome.method.outcome()["epoch_ends"]] == [(1, 5), (2, 7)]


class Diverges(Scripted):
    def combine(self, means):
        return super().combine(means) * (math.inf if len(self.history) == 6 else 1.0)


def test_a_run_that_diverges_rewinds_among_finite_weights(texts, tmp_path):
    outcome = contract.run(lambda: Diverges([0.1, 0.9], [9, 0.0]), texts, tmp_path, **WHOLE)
    found = outcome.method.outcome()
    assert found["stopped"].startswith("diverged") and found["rewound_to"]["update"] == 5
    assert [end["update"] for end in found["epoch_ends"]] == [5, 6]


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"epochs": 2, "max_epochs": 3}, {"max_epochs": 0}])
def test_impossible_plans(options):
    with pytest.raises(UserError, match=r"method\.max_epochs="):
        Scrub(**options)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"kl_bound": 0.0}, {"retain_sample": 0.0}, {"retain_sample": 2}]
)
def test_impossible_options(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Scrub(**options)


def test_the_configs_are_one_but_for_the_rewinding():
    plain, rewound = (contract.builder(name)() for name in ("scrub", "scrub_rewind"))
    assert (plain.rewind, rewound.rewind) == (False, True)
    assert plain.optim == rewound.optim and plain.optim.updates is None and plain.optim.epochs == 1
    assert (plain.epochs, plain.max_epochs) == (rewound.epochs, rewound.max_epochs)
