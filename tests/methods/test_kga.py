"""KGA against its formulas: the presets by hand on tiny tensors, each option, the direction of the loss, the stop rules."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from helpers.contract import sets_of
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.kga import KGA
from kga.methods.pairing import label_partners
from kga.objective import backpropagate


@pytest.fixture(scope="module")
def world():
    return contract.world("classification")


def preset(name: str, *overrides: str) -> KGA:
    return contract.builder(name, "classification", *overrides)()


def prepared(method: KGA, world, **optim):
    """The method and a student, ready for the first update, and that update."""
    method = contract.attached(lambda: method, world, **optim)
    student = world.student()
    return method, student, contract.ready(method, student)


def loss_of(method: KGA, student, update) -> float:
    return backpropagate(method, student, update, lambda loss: None)[1]


@torch.no_grad()
def logits(world, name: str, batch) -> torch.Tensor:
    model = world.models[name].model.eval()
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


# The presets, by hand ---------------------------------------------------------------------------------------------


def test_released_is_the_published_classification_loop(world):
    """|a - g| + 0.9 * mean over ten batches, every KL an F.kl_div with reduction "mean" (divided by B x C)."""
    method, student, update = prepared(preset("kga_released"), world)
    forget, new, retain = sets_of(update)
    assert len(retain) == 10

    def released(teacher, student_logits):
        return F.kl_div(F.log_softmax(student_logits, 1), F.log_softmax(teacher, 1), reduction="mean", log_target=True)

    a = released(logits(world, "forget_helper", forget), logits(world, "original", forget))
    g = released(logits(world, "original", new), logits(world, "new_helper", new))
    # g = KL(A_D || A_n): in kl_div's terms A_D is the target, A_n the input.
    kept = [released(logits(world, "original", batch), logits(world, "original", batch)) for batch in retain]
    expected = (a - g).abs() + 0.9 * torch.stack(kept).mean()
    assert loss_of(method, student, update) == pytest.approx(float(expected), abs=1e-6)


def test_released_retain_term_by_hand(world):
    """Once A* has moved, r = mean_k KL(A_D || A*) / (B x C) weighs 0.9."""
    method, student, update = prepared(preset("kga_released"), world)
    with torch.no_grad():
        student.model.classifier.bias += torch.tensor([0.5, -0.25, 0.0])
    _, _, retain = sets_of(update)
    moved = student.model
    expected = 0.0
    for batch in retain:
        p = logits(world, "original", batch).softmax(1)
        with torch.no_grad():
            q = moved(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(1)
        expected += float((p * (p / q).log()).sum() / p.numel()) / len(retain)
    means, loss = backpropagate(method, student, update, lambda loss: None)
    assert means["retain"] == pytest.approx(expected, rel=1e-5)
    assert loss == pytest.approx(abs(means["forget"] - means["new"]) + 0.9 * expected, rel=1e-5)


def test_paper_is_the_summarys_formula(world):
    """|KL(A* || A_f) - KL(A_D || A_n)| + alpha KL(A* || A_D), batch means per example."""
    method, student, update = prepared(preset("kga_paper", "method.alpha=2.0"), world)
    with torch.no_grad():
        student.model.classifier.bias += torch.tensor([0.3, 0.0, -0.2])
    forget, new, retain = sets_of(update)

    def kl(first, second):
        p, q = first.log_softmax(1).exp(), second.log_softmax(1).exp()
        return float((p * (p.log() - q.log())).sum(1).mean())

    own = lambda batch: student.model(  # noqa: E731
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).logits.detach()
    a = kl(own(forget), logits(world, "forget_helper", forget))
    g = kl(logits(world, "original", new), logits(world, "new_helper", new))
    r = np.mean([kl(own(batch), logits(world, "original", batch)) for batch in retain])
    assert loss_of(method, student, update) == pytest.approx(abs(a - g) + 2.0 * r, rel=1e-5)


def test_clean_preset_compares_equal_roles_over_all_of_d_n(world):
    """a = KL(A_f || A*), g = KL(A_n || A_D) over the whole of D_n, however the update was drawn."""
    method, student, update = prepared(preset("kga"), world)
    new = world.sets["new"].batch(np.arange(len(world.sets["new"])))
    p, q = logits(world, "new_helper", new).log_softmax(1), logits(world, "original", new).log_softmax(1)
    assert method.g == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-5)
    forget, drawn, _ = sets_of(update)
    assert drawn is None, "D_n is not drawn once its gap is known"
    p, q = logits(world, "forget_helper", forget).log_softmax(1), logits(world, "original", forget).log_softmax(1)
    a = float((p.exp() * (p - q)).sum(1).mean())
    assert loss_of(method, student, update) == pytest.approx(abs(a - method.g), rel=1e-4)


# Options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["teacher_student", "student_teacher", "js"])
def test_every_divergence_order(world, order):
    method, student, update = prepared(KGA(kl_forget=order, kl_new=order, alpha=0.0), world)
    forget = sets_of(update)[0]
    p = logits(world, "forget_helper", forget).double().softmax(1)
    q = logits(world, "original", forget).double().softmax(1)
    m = (p + q) / 2
    by_hand = {
        "teacher_student": (p * (p / q).log()).sum(1),
        "student_teacher": (q * (q / p).log()).sum(1),
        "js": 0.5 * (p * (p / m).log()).sum(1) + 0.5 * (q * (q / m).log()).sum(1),
    }[order]
    assert loss_of(method, student, update) == pytest.approx(abs(float(by_hand.mean()) - method.g), rel=1e-4)


@pytest.mark.parametrize(
    ("penalty", "by_hand"),
    [("abs", lambda d: abs(d)), ("squared", lambda d: d * d), ("hinge", lambda d: max(0.0, -d)),
     ("huber", lambda d: d * d / 2 if abs(d) < 1 else abs(d) - 0.5)],
)  # fmt: skip
@pytest.mark.parametrize("difference", [-2.0, -0.5, 0.3, 1.7])
def test_every_penalty(penalty, by_hand, difference):
    value = KGA(gap_penalty=penalty)._penalty(torch.tensor(difference))
    assert float(value) == pytest.approx(by_hand(difference))


@pytest.mark.parametrize("level", ["example", "token"])
def test_gap_per_example_meets_its_partner(world, level):
    """With one position per example, example and token level agree: mean of |a_i - g_partner(i)|."""
    method, student, update = prepared(KGA(gap_level=level, pairing="fixed", alpha=0.0), world)
    forget, new, _ = sets_of(update)

    def gap(first, second, batch):
        p, q = logits(world, first, batch).log_softmax(1), logits(world, second, batch).log_softmax(1)
        return (p.exp() * (p - q)).sum(1)

    a, g = gap("forget_helper", "original", forget), gap("new_helper", "original", new)
    assert loss_of(method, student, update) == pytest.approx(float((a - g).abs().mean()), rel=1e-4)


def test_fixed_pairing_gives_an_example_the_same_partner_always(world):
    method = contract.attached(lambda: KGA(gap_level="example", pairing="fixed"), world)
    stream = method.stream(seed=0)
    partners: dict[int, set[int]] = {}
    for _ in range(3):
        for update in stream:
            step = next(step for step in update if "forget" in step)
            for own, other in zip(step["forget"]["index"].tolist(), step["new"]["index"].tolist(), strict=True):
                partners.setdefault(own, set()).add(other)
    assert all(len(others) == 1 for others in partners.values())


def test_pairing_by_length_pairs_close_lengths(world):
    method = contract.attached(lambda: KGA(gap_level="example", pairing="length"), world)
    own, others = world.sets["forget"].lengths(), world.sets["new"].lengths()
    partner = method._partners()["forget", "new"]
    shuffled = [np.abs(own - others[np.random.default_rng(n).permutation(16)]).mean() for n in range(50)]
    assert np.abs(own - others[partner]).mean() < min(shuffled)


def test_pairing_by_label_gives_the_same_label_where_there_is_one():
    partner = label_partners(np.array([0, 0, 1, 1, 3]), np.array([1, 1, 2, 2]))
    assert partner[2:4].tolist() == [0, 1]
    assert set(partner.tolist()) <= {0, 1, 2, 3}


def test_retain_sample_draws_from_a_share_and_redraws_on_request(world):
    def drawn(redraw: bool) -> list[set[int]]:
        method = contract.attached(lambda: KGA(retain_sample=0.25, retain_redraw=redraw, anchor="retain"), world)
        stream, passes = method.stream(seed=0), []
        for _ in range(2):
            passes.append(
                {
                    i
                    for update in stream
                    for step in update
                    for i in step.get("retain", {"index": torch.empty(0)})["index"].tolist()
                }
            )
        return passes

    first, second = drawn(redraw=False)
    assert first == second
    assert len(first) == 16
    assert len(set.union(*drawn(redraw=True))) > 16


def test_reductions_of_a_ragged_batch():
    """Three examples with 1, 2 and 3 positions: token_mean, seq_mean and seq_sum by hand."""
    from kga.predictions import Predictions

    values = torch.tensor([1.0, 2.0, 4.0, 3.0, 6.0, 9.0])
    example = torch.tensor([0, 1, 1, 2, 2, 2])
    ragged = Predictions(torch.zeros(6, 4), torch.zeros(6, dtype=torch.long), example, 3)
    assert float(KGA(reduction="token_mean")._sum(values, ragged)) / 6 == pytest.approx(25 / 6)
    assert float(KGA(reduction="seq_mean")._sum(values, ragged)) / 3 == pytest.approx((1 + 3 + 6) / 3)
    assert float(KGA(reduction="seq_sum")._sum(values, ragged)) / 3 == pytest.approx(25 / 3)
    assert float(KGA(reduction="legacy_mean")._sum(values, ragged)) == pytest.approx(25 / 4)


def test_student_dropout_can_be_turned_off(world, tmp_path):
    """Without the student's dropout two fits from different dropout rates are the same."""
    off = [
        contract.run(lambda: KGA(student_dropout=False), world, tmp_path / str(rate), dropout=rate).state()
        for rate in (0.0, 0.5)
    ]
    assert all(torch.equal(off[0][name], off[1][name]) for name in off[0])


@pytest.mark.parametrize(
    "option", ["gap_level", "kl_forget", "reduction", "pairing", "gap_penalty", "cache", "view", "anchor"]
)
def test_an_unknown_choice_is_refused_with_its_key(option):
    with pytest.raises(UserError, match=rf"method\.{option}=bogus is unknown"):
        KGA(**{option: "bogus"})


# What the loss does -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("g", "sign"), [(10.0, +1), (0.0, -1)])
def test_the_sign_of_a_minus_g_gives_the_direction(world, g, sign):
    """a < g: a step away from A_f (a grows). a > g: towards it."""
    method, student, update = prepared(KGA(alpha=0.0, cache="none"), world)
    method.g = g
    before = method.full_gap(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        backpropagate(method, student, update, torch.Tensor.backward)
        optimizer.step()
    assert math.copysign(1, method.full_gap(student) - before) == sign


def test_a_start_beyond_the_target_is_warned_of(world, capsys):
    swapped = copy.copy(world)
    swapped.models = world.models | {"new_helper": world.models["original"]}  # g = 0 < a0
    prepared(KGA(), swapped)
    text = capsys.readouterr().out.replace("\n", " ")
    assert "a0 =" in text
    assert "> g" in text


def test_history_holds_what_is_promised(world, tmp_path):
    outcome = contract.run(lambda: KGA(), world, tmp_path)
    for row in outcome.method.history:
        assert {"update", "a", "g", "a0", "sign", "retain", "lr", "loss"} <= set(row)
        assert row["sign"] == np.sign(row["a"] - row["g"])


# Stop rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ({"criterion": "none"}, 4),
        ({"criterion": "abs", "value": 1e9}, 1),
        ({"criterion": "abs", "value": 0.0}, 4),
        ({"criterion": "abs", "value": 1e9, "every": 3}, 3),
        ({"criterion": "abs", "value": 1e9, "smoothing": "full"}, 1),
        ({"criterion": "abs", "value": 1e9, "smoothing": "batch"}, 1),
        ({"criterion": "portion_of_first", "value": 1.0}, 1),
        ({"criterion": "sigma", "value": 1e9}, 1),
        ({"criterion": "abs", "value": 1e9, "min_forget_epochs": 1}, 2),
    ],
)
def test_stops_when_the_rule_says(world, tmp_path, stop, expected):
    """16 forget examples in batches of 8: a pass over D_f is 2 updates; 4 updates are the bound."""
    outcome = contract.run(lambda: KGA(stop=stop), world, tmp_path)
    assert len(outcome.method.history) == expected


class Trainer:
    """As much of Lightning's Trainer as the stop rule touches."""

    should_stop, global_step, loggers = False, 0, ()

    def __init__(self) -> None:
        self.optimizers = [type("O", (), {"param_groups": [{"lr": 0.1}]})()]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        # errors |a - g| with g = 2: 1.0, 0.8, 0.3, 0.5, 0.1
        ({"criterion": "abs", "value": 0.4, "smoothing": "batch"}, 3),
        ({"criterion": "portion_of_first", "value": 0.2, "smoothing": "batch"}, 5),
        ({"criterion": "sigma", "value": 0.4, "smoothing": "batch"}, 2),
        ({"criterion": "abs", "value": 0.85, "smoothing": "ema", "decay": 0.5}, 3),  # averages 1.0, .9, .6, .55, .325
        ({"criterion": "abs", "value": 0.35, "smoothing": "ema", "decay": 0.5}, 5),
        ({"criterion": "abs", "value": 0.4, "smoothing": "batch", "every": 2}, None),
        ({"criterion": "abs", "value": 0.4, "smoothing": "full"}, 1),  # the whole set is aligned from the start
    ],
)
def test_each_rule_stops_at_its_own_update(world, monkeypatch, stop, expected):
    method = contract.attached(lambda: KGA(stop=stop), world)
    method.g, method.a0 = 2.0, 1.0
    monkeypatch.setattr(method, "full_gap", lambda module: 2.1)
    module = type("Module", (), {"trainer": Trainer(), "log_dict": lambda *args, **kw: None})()
    stopped = None
    for update, error in enumerate((1.0, 0.8, 0.3, 0.5, 0.1), start=1):
        method.after_update(module, {"forget": 2.0 - error, "retain": 0.0}, loss=error)
        stopped = stopped or (update if module.trainer.should_stop else None)
    assert stopped == expected


def test_the_learning_rate_of_a_row_is_the_one_it_was_made_with(world, tmp_path):
    """Four updates of a linear schedule from a peak of .001: .001, .00075, .0005, .00025."""
    rates = [row["lr"] for row in contract.run(lambda: KGA(), world, tmp_path).method.history]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.parametrize(
    "options", [{"retain_batches": 0}, {"retain_sample": 0.0}, {"retain_sample": 2.0}, {"stop": {"every": 0}}]
)
def test_numbers_that_cannot_work_are_refused(options):
    with pytest.raises(UserError):
        KGA(**options)


def test_models_leave_memory_once_cached(world, tmp_path):
    outcome = contract.run(lambda: KGA(retain_batches=8), world, tmp_path)
    assert not any(frozen.resident for frozen in outcome.method.frozen.values())
    kept = {name for name, frozen in outcome.method.frozen.items() if frozen.bytes()}
    assert kept == {"original", "forget_helper"}  # of A_n one gap per example of D_n is all that is needed


def test_multi_label_released_view_compares_by_a_softmax():
    """Adding a constant to all logits is invisible to the softmax, not to the Bernoulli KL."""
    task = tiny.classifier(multi_label=True)
    other = tiny.classifier(multi_label=True)
    with torch.no_grad():
        other.model.classifier.bias += 4.0
    batch = tiny.examples(8, task=task).batch(np.arange(8))
    from kga.predictions import kl

    with torch.no_grad():
        gaps = {
            view: float(kl(task.predict(batch, view), other.predict(batch, view)).mean())
            for view in ("scored", "released")
        }
    assert gaps["released"] == pytest.approx(0.0, abs=1e-6)
    assert gaps["scored"] > 0.5
