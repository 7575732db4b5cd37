"""KGA on sequences against its formulas: the presets by hand on raw logits, padded positions, chunks of positions."""

import copy

import numpy as np
import pytest
import torch
from helpers import contract
from helpers.contract import sets_of
from torch.nn import functional as F

import kga.predictions
from kga.errors import UserError
from kga.methods.kga import KGA
from kga.objective import backpropagate
from kga.optim import factor

SEQUENCES = [name for name in contract.WORLDS if name != "classification"]
RETAIN_BATCHES = {"translation": 8, "response": 2}


@pytest.fixture(params=SEQUENCES)
def world(request):
    return contract.world(request.param)


def task_of(world) -> str:
    return world.models["original"].name


def preset(name: str, world, *overrides: str) -> KGA:
    return contract.builder(name, task_of(world), *overrides)()


def prepared(method: KGA, world, **optim):
    """The method and a student that has moved, ready for the first update, and that update of whole batches."""
    method = contract.attached(lambda: method, world, **({"batch_size": 16} | optim))
    student = world.moved_student()
    return method, student, contract.ready(method, student)


# By hand: plain torch on what the models themselves return ------------------------------------------------------------


def log_probs(model, batch) -> torch.Tensor:
    """[B, T, V] at every decoder position; of a decoder-only model at all but the last, which predicts nothing."""
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    logits = model(**{name: batch[name] for name in names if name in batch}).logits
    return (logits if "decoder_input_ids" in batch else logits[:, :-1]).log_softmax(-1)


def frozen(world, name: str, batch) -> torch.Tensor:
    with torch.no_grad():
        return log_probs(world.models[name].model.eval(), batch)


def scored(batch) -> torch.Tensor:
    """[B, T] which positions predict a token of the target."""
    return (batch["labels"] if "decoder_input_ids" in batch else batch["labels"][:, 1:]) != -100


def released_kl(student, teacher) -> torch.Tensor:
    """KL(teacher || student), summed over all positions and the vocabulary, divided by the examples."""
    return F.kl_div(student, teacher, reduction="sum", log_target=True) / len(student)


def published_loss(world, model, update) -> dict[str, torch.Tensor]:
    """The authors' loop for one update: its parts and its loss, with gradient to ``model``."""
    forget, new, retain = sets_of(update)
    a = released_kl(log_probs(model, forget), frozen(world, "forget_helper", forget))
    g = released_kl(frozen(world, "original", new), frozen(world, "new_helper", new))
    kept = [released_kl(log_probs(model, batch), frozen(world, "original", batch)) for batch in retain]
    retain_term = torch.stack(kept).mean()
    return {"forget": a, "new": g, "retain": retain_term, "loss": (a - g).abs() + 0.3 * retain_term}


def kl(first, second) -> torch.Tensor:
    """[B, T] KL(first || second) at each position."""
    return (first.exp() * (first - second)).sum(-1)


def token_mean(values, masks) -> torch.Tensor:
    """The mean over the scored positions of some batches together."""
    return sum((value * mask).sum() for value, mask in zip(values, masks, strict=True)) / sum(
        mask.sum() for mask in masks
    )


def same_gradient(student, model) -> None:
    """The task's student and a copy of its model have the same gradient, up to the rounding of the largest ones."""
    pairs = zip(student.model.named_parameters(), model.parameters(), strict=True)
    trained = [(name, own.grad, by_hand.grad) for (name, own), by_hand in pairs if by_hand.requires_grad]
    largest = max(float(by_hand.abs().max()) for _, _, by_hand in trained)
    for name, own, by_hand in trained:
        torch.testing.assert_close(own, by_hand, rtol=1e-3, atol=2e-6 * largest, msg=f"gradient of {name} differs")


# The released preset ----------------------------------------------------------------------------------------------


def test_released_is_the_published_loop(world):
    """|KL(A_f || A*) - KL(A_n || A_D)| + 0.3 * mean over K batches of KL(A_D || A*), padded positions counted."""
    method, student, update = prepared(preset("kga_released", world), world)
    forget, new, retain = sets_of(update)
    assert len(retain) == RETAIN_BATCHES[task_of(world)]
    assert all(len(batch["labels"]) == 16 for batch in (forget, new, *retain))
    model = copy.deepcopy(student.model)
    by_hand = published_loss(world, model, update)
    by_hand["loss"].backward()
    means, loss = backpropagate(method, student, update, torch.Tensor.backward)
    for name in ("forget", "new", "retain"):
        assert means[name] == pytest.approx(by_hand[name].item(), rel=1e-5)
    assert loss == pytest.approx(by_hand["loss"].item(), rel=1e-4)
    same_gradient(student, model)


@pytest.mark.parametrize("name", ["translation", "response-decoder_only"])
def test_released_in_micro_batches_padded_alike(name, size=4):
    """Cut into parts that are padded as the whole batches were, the loop's loss and gradient are the same."""
    world = contract.world(name)
    method, student, update = prepared(preset("kga_released", world), world)
    model = copy.deepcopy(student.model)
    by_hand = published_loss(world, model, update)
    by_hand["loss"].backward()
    parts = [
        {name: {key: value[start : start + size] for key, value in batch.items()} for name, batch in step.items()}
        for step in update
        for start in range(0, 16, size)
    ]
    assert backpropagate(method, student, parts, torch.Tensor.backward)[1] == pytest.approx(
        by_hand["loss"].item(), rel=1e-4
    )
    same_gradient(student, model)


def test_what_sets_the_released_loop_apart_is_seen_here(world):
    """Padding, the order of each KL and who is the teacher on D_n all change the numbers of these worlds."""
    method, student, update = prepared(preset("kga_released", world), world)
    forget, new, _ = sets_of(update)
    means, _ = backpropagate(method, student, update, lambda loss: None)
    helper, original = frozen(world, "new_helper", new), frozen(world, "original", new)
    with torch.no_grad():
        own = log_probs(student.model, forget)
    teacher = frozen(world, "forget_helper", forget)
    others = {
        "forget": [kl(own, teacher).sum() / 16, (kl(teacher, own) * scored(forget)).sum() / 16],
        "new": [kl(original, helper).sum() / 16, (kl(helper, original) * scored(new)).sum() / 16],
    }
    for name, values in others.items():
        for value in values:
            assert abs(means[name] - float(value)) > 0.01 * means[name], name


@pytest.mark.parametrize(
    ("task", "rate", "updates", "criterion"),
    [("translation", 2e-5, 5000, "none"), ("response", 5e-5, 12000, "abs")],
)
def test_released_numbers(task, rate, updates, criterion):
    """As released: batch 16, rate, inverse square root after 1,000 updates, no clipping, when it stops."""
    method = contract.builder("kga_released", task)()
    optim = method.optim
    assert (optim.batch_size, optim.lr, optim.updates, optim.warmup) == (16, rate, updates, 1000)
    assert (optim.clip, optim.betas, optim.weight_decay, optim.bucket) == (None, (0.9, 0.98), 1e-4, 1)
    assert (method.alpha, method.gap_weight, method.retain_batches) == (0.3, 1.0, RETAIN_BATCHES[task])
    assert (method.retain_sample, method.pairing, method.student_dropout) == (1.0, "random", True)
    assert method.stop.criterion == criterion
    if criterion == "abs":
        assert (method.stop.value, method.stop.every, method.stop.smoothing) == (0.05, 200, "batch")
    # lr * u / 1000 up to update 1000, then lr * sqrt(1000 / u); how long the schedule is makes no difference.
    at = lambda update: factor(update - 1, optim, updates * optim.schedule_stretch)  # noqa: E731
    assert [at(250), at(1000), at(4000)] == pytest.approx([0.25, 1.0, 0.5])


@pytest.mark.parametrize(("error", "stops_at"), [(0.049, 200), (0.051, None)])
def test_released_responses_stop_at_an_update_divisible_by_200(monkeypatch, error, stops_at):
    """When that batch's own |a - g| is at most .05, whatever it was before."""
    method = contract.attached(contract.builder("kga_released", "response"), contract.world("response"))
    trainer = type("Trainer", (), {"should_stop": False})()
    module = type("Module", (), {"trainer": trainer})()
    monkeypatch.setattr(method, "record", lambda module, row: method.history.append(row))
    stopped = None
    for update in range(1, 401):
        off = error if update % 200 == 0 else (0.0 if update % 2 else 9.0)
        method.after_update(module, {"forget": 2.0 + off, "new": 2.0, "retain": 0.0}, loss=off)
        stopped = stopped or (update if trainer.should_stop else None)
    assert stopped == stops_at


@pytest.mark.parametrize("name", ["translation", "response-decoder_only"])
def test_released_predictions_are_not_cached(name):
    """How far an example is padded depends on its batch, so that a cache could not hold the released quantity."""
    world = contract.world(name)
    method = contract.attached(lambda: preset("kga_released", world, "method.cache=exact"), world)
    with pytest.raises(UserError, match=r"set method\.cache=none"):
        contract.ready(method, world.student())


# The clean and the paper's preset -------------------------------------------------------------------------------------


def test_clean_preset_is_means_over_the_tokens_of_targets(world):
    """|KL(A_f || A*) - g| + KL(A_D || A*), g = KL(A_n || A_D) over all of D_n; every mean is one over tokens."""
    method, student, update = prepared(preset("kga", world), world)
    forget, drawn, retain = sets_of(update)
    assert drawn is None and len(retain) == 5
    model = copy.deepcopy(student.model)
    new = world.sets["new"].batch(np.arange(16))
    g = token_mean([kl(frozen(world, "new_helper", new), frozen(world, "original", new))], [scored(new)])
    a = token_mean([kl(frozen(world, "forget_helper", forget), log_probs(model, forget))], [scored(forget)])
    kept = [kl(frozen(world, "original", batch), log_probs(model, batch)) for batch in retain]
    r = token_mean(kept, [scored(batch) for batch in retain])
    by_hand = (a - g).abs() + r
    by_hand.backward()
    means, loss = backpropagate(method, student, update, torch.Tensor.backward)
    assert method.g == pytest.approx(g.item(), rel=1e-5)
    assert method.a0 == method.full_gap(student) == pytest.approx(a.item(), rel=1e-5)
    assert means["forget"] == pytest.approx(a.item(), rel=1e-5)
    assert means["retain"] == pytest.approx(r.item(), rel=1e-4)
    assert loss == pytest.approx(by_hand.item(), rel=1e-4)
    same_gradient(student, model)
    of_batches = torch.stack([token_mean([value], [scored(batch)]) for value, batch in zip(kept, retain, strict=True)])
    assert abs(of_batches.mean().item() - r.item()) > 1e-5 * r.item(), "batches of equal length show nothing"


def test_paper_preset_takes_the_student_first(world):
    """|KL(A* || A_f) - KL(A_D || A_n)| + KL(A* || A_D) over tokens, g of the batch that was drawn."""
    method, student, update = prepared(preset("kga_paper", world), world)
    forget, new, retain = sets_of(update)
    model = copy.deepcopy(student.model)
    a = token_mean([kl(log_probs(model, forget), frozen(world, "forget_helper", forget))], [scored(forget)])
    g = token_mean([kl(frozen(world, "original", new), frozen(world, "new_helper", new))], [scored(new)])
    kept = [kl(log_probs(model, batch), frozen(world, "original", batch)) for batch in retain]
    by_hand = (a - g).abs() + token_mean(kept, [scored(batch) for batch in retain])
    by_hand.backward()
    assert backpropagate(method, student, update, torch.Tensor.backward)[1] == pytest.approx(by_hand.item(), rel=1e-4)
    same_gradient(student, model)


# Options ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["seq_mean", "seq_sum", "legacy_mean", "legacy_batchmean_padded"])
def test_reductions_of_scored_tokens(world, reduction):
    method, student, update = prepared(KGA(reduction=reduction, gap_level="batch", alpha=0.0), world)
    forget = sets_of(update)[0]
    with torch.no_grad():
        values = kl(frozen(world, "forget_helper", forget), log_probs(student.model, forget))
    where = scored(forget)
    sums, tokens = (values * where).sum(1), where.sum(1)
    by_hand = {
        "seq_mean": (sums / tokens).mean(),
        "seq_sum": sums.mean(),
        "legacy_mean": sums.sum() / tokens.sum() / student.model.config.vocab_size,
        "legacy_batchmean_padded": sums.mean(),
    }[reduction]
    means, _ = backpropagate(method, student, update, lambda loss: None)
    assert means["forget"] == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("level", ["example", "token"])
def test_gaps_of_examples_and_tokens_meet_their_partners(world, level):
    """Mean over examples of |a_i - g_i|, or over tokens of |a_it - g_i|, g_i the token mean of i's partner in D_n."""
    method, student, update = prepared(KGA(gap_level=level, pairing="fixed", alpha=0.0), world)
    forget, new, _ = sets_of(update)
    with torch.no_grad():
        values = kl(frozen(world, "forget_helper", forget), log_probs(student.model, forget))
    target = kl(frozen(world, "new_helper", new), frozen(world, "original", new))
    g = (target * scored(new)).sum(1) / scored(new).sum(1)
    where = scored(forget)
    a = (values * where).sum(1) / where.sum(1)
    per_token = ((values - g[:, None]).abs() * where).sum() / where.sum()
    by_hand = {"example": (a - g).abs().mean(), "token": per_token}[level]
    assert backpropagate(method, student, update, lambda loss: None)[1] == pytest.approx(by_hand.item(), rel=1e-5)


# Chunks of positions --------------------------------------------------------------------------------------------------


class Widest:
    """Watches output layers: the largest number of positions that one of them was given at once."""

    def __init__(self, *modules) -> None:
        self.rows = 0
        for module in modules:
            module.model.get_output_embeddings().register_forward_hook(self._seen)

    def _seen(self, layer, arguments, output) -> None:
        self.rows = max(self.rows, output.shape[:-1].numel())


@pytest.mark.parametrize(
    "options",
    [{"cache": "exact"}, {"cache": "none", "kl_forget": "js", "kl_new": "js", "kl_retain": "student_teacher"}],
    ids=["cached", "live"],
)
def test_chunks_change_nothing_and_bound_the_table(world, monkeypatch, options):
    """With room for 5 positions at a time the loss and the gradient stay, and no larger table is made on the way."""
    found = {}
    for size in (None, 5):
        method = contract.attached(lambda: KGA(gap_level="batch", **options), world)
        student = world.moved_student()
        watched = Widest(student, *(model.module for model in method.frozen.values()))
        update = contract.ready(method, student)
        if size:
            monkeypatch.setattr(kga.predictions, "CHUNK", size * student.model.config.vocab_size + 1)
        watched.rows = 0
        _, loss = backpropagate(method, student, update, torch.Tensor.backward)
        found[size] = (loss, {name: p.grad for name, p in student.named_parameters()}, watched.rows)
    (loss, gradient, widest), (chunked_loss, chunked, bound) = found.values()
    assert widest > 20 and bound == 5
    assert chunked_loss == pytest.approx(loss, rel=1e-5)
    for name, value in gradient.items():
        torch.testing.assert_close(chunked[name], value, rtol=1e-4, atol=1e-6)


def test_released_in_chunks_is_the_published_loop(world, monkeypatch):
    method, student, update = prepared(preset("kga_released", world), world)
    monkeypatch.setattr(kga.predictions, "CHUNK", 7 * student.model.config.vocab_size)
    watched = Widest(student, *(model.module for model in method.frozen.values()))
    model = copy.deepcopy(student.model)
    by_hand = published_loss(world, model, update)
    by_hand["loss"].backward()
    watched.rows = 0
    _, loss = backpropagate(method, student, update, torch.Tensor.backward)
    assert loss == pytest.approx(by_hand["loss"].item(), rel=1e-4)
    assert watched.rows == 7
    same_gradient(student, model)
