"""L-CODEC: its step against a dense one on raw logits, what it leaves alone, and what it measures on perturbed copies."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from torch.nn import functional as F

from kga.errors import UserError
from kga.methods.gradients import trainable
from kga.methods.lcodec import LCODEC, _moved_back, most_correlated
from kga.methods.newton import SAFE, newton_step, noise_scale
from kga.methods.perturb import perturbed, record, vocabulary
from kga.methods.units import Chosen, linear_layers

KINDS = {
    **contract.WORLDS,
    "multi_label": partial(tiny.classifier, multi_label=True),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def world_of(kind: str) -> contract.World:
    if kind in contract.WORLDS:
        return contract.world(kind)
    task = KINDS[kind](seed=0)
    everything = tiny.examples(40, seed=1, task=task)
    sets = {"forget": everything.take(np.arange(6)), "train": everything}
    return contract.World(sets, {"original": task}, KINDS[kind])


def ready(kind: str, forget: int = 4, **options) -> tuple[LCODEC, object, contract.World]:
    """The method with what it needs, and a student to edit."""
    found = world_of(kind)
    sets = {"forget": found.sets["forget"].take(np.arange(forget)), "train": found.sets["train"].take(np.arange(10))}
    found = replace(found, sets=found.sets | sets, models={"original": found.opinionated(5)})
    method = LCODEC(**({"perturbations": 24, "max_units": 5} | options))
    statistics = {name: found.statistic(wanted) for name, wanted in method.statistics().items()}
    return method.attach({}, found.sets, statistics), found.student().eval(), found


def edited(method: LCODEC, student) -> dict[str, torch.Tensor]:
    """The weights after an edit, as the study seeds it."""
    torch.manual_seed(0)
    method.edit(student)
    return {name: value.detach().clone() for name, value in student.named_parameters()}


# An implementation of its own: raw logits, one example at a time, a dense Hessian -----------------------------------


def raw_loss(task, batch) -> tuple[torch.Tensor, int]:
    """The summed loss of a batch and its scored positions, from the model's logits."""
    labels = batch["labels"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids") if name in batch}
    logits = task.model(**inputs).logits
    if task.name == "classification" and task.multi_label:
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum"), labels.numel()
    if task.name == "classification":
        return F.cross_entropy(logits, labels, reduction="sum"), len(labels)
    if not task.model.config.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"), int((labels != -100).sum())


def raw_gradient(task, examples) -> tuple[dict[str, np.ndarray], int]:
    """The gradient of the mean loss per position, in float64."""
    task.zero_grad()
    count = 0
    for position in range(len(examples)):
        loss, positions = raw_loss(task, examples.batch(np.array([position])))
        loss.backward()
        count += positions
    found = {n: p.grad.double().numpy() / count for n, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    return found, count


def raw_chosen(task, tensors, units) -> np.ndarray:
    """The entries of the units' weights and biases, a vector in the order weight rows, biases per layer."""
    layers = dict.fromkeys(layer for layer, _ in units)
    parts = []
    for layer in layers:
        rows = [unit for name, unit in units if name == layer]
        weight = np.asarray(tensors[f"{layer}.weight"])
        transposed = type(task.get_submodule(layer)).__name__ == "Conv1D"
        parts += [(weight[:, row] if transposed else weight[row]) for row in rows]
        parts += [np.asarray(tensors[f"{layer}.bias"])[rows]] if f"{layer}.bias" in tensors else []
    return np.concatenate(parts).astype(np.float64)


def values_of(task) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy().copy() for name, value in task.named_parameters()}


def dense_step(task, ends, train, request, units, damping, gone=0):
    """The step of the chosen weights and m: ends are the weights at the last two epoch ends, gone those forgotten before."""
    models = []
    for weights in ends:
        model = tiny_copy(task, weights)
        models.append(raw_gradient(model, train))
    (before, n), (after, _) = models
    n -= gone
    now, m = raw_gradient(task, request)
    dw = {name: ends[1][name].double().numpy() - ends[0][name].double().numpy() for name in ends[0]}
    back = tiny_copy(task, {name: value - torch.tensor(dw[name]).float() for name, value in task.named_parameters()})
    earlier, _ = raw_gradient(back, request)
    pick = partial(raw_chosen, task, units=units)
    whole, part = pick(after) - pick(before), pick(now) - pick(earlier)
    way = np.abs(pick(dw)).sum()
    hessian = (n * np.outer(whole, whole) - m * np.outer(part, part)) / way / (n - m)
    matrix = hessian + damping * np.eye(len(whole))
    assert np.linalg.eigvalsh(matrix).min() > SAFE * damping
    return m / (n - m) * np.linalg.solve(matrix, pick(now)), m


def tiny_copy(task, weights):
    import copy

    other = copy.deepcopy(task)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(weights[name])
    return other


def ends_of(world: contract.World) -> list[dict[str, torch.Tensor]]:
    """The two epoch ends that the world's statistics are computed at."""
    kept = []

    def keep(models, examples):
        kept.extend({n: p.detach().clone() for n, p in model.named_parameters()} for model in models)
        return {}

    world.statistic(contract.Statistic(keep, {}, weights="epoch_ends"))
    return kept


@every_kind
def test_a_request_is_a_dense_newton_step_on_the_chosen_units(kind):
    method, student, world = ready(kind, damping=0.02, strength=1.5)
    before = values_of(student)
    untouched = tiny_copy(student, dict(student.named_parameters()))
    edited(method, student)
    (step,) = method.steps
    expected, _ = dense_step(untouched, ends_of(world), world.sets["train"], method.sets["forget"], step["units"], 0.02)
    pick = partial(raw_chosen, untouched, units=step["units"])
    moved = pick(values_of(student)) - pick(before)
    np.testing.assert_allclose(moved, 1.5 * expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    assert np.abs(moved).max() > 1e-4


@every_kind
def test_nothing_but_the_chosen_rows_and_biases_moves(kind):
    method, student, _ = ready(kind)
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    after = edited(method, student)
    units = method.steps[0]["units"]
    assert 1 <= len(units) <= 5
    moved = 0
    for layer, unit in units:  # put back: then all must be equal, bit for bit
        transposed = type(student.get_submodule(layer)).__name__ == "Conv1D"
        row = (slice(None), unit) if transposed else unit
        moved += not torch.equal(after[f"{layer}.weight"][row], before[f"{layer}.weight"][row])
        after[f"{layer}.weight"][row] = before[f"{layer}.weight"][row]
        if f"{layer}.bias" in after:
            after[f"{layer}.bias"][unit] = before[f"{layer}.bias"][unit]
    assert moved, "no unit moved (some may not: behind a ReLU that is off)"
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("kind", ["classification", "translation"])
def test_examples_are_forgotten_one_after_another(kind):
    method, student, world = ready(kind, forget=3, request="example", damping=0.3, max_units=3)
    current = tiny_copy(student, dict(student.named_parameters()))
    edited(method, student)
    ends, gone = ends_of(world), 0
    assert len(method.steps) == 3
    for number, step in enumerate(method.steps):
        request = method.sets["forget"].take(np.array([number]))
        delta, m = dense_step(current, ends, world.sets["train"], request, step["units"], 0.3, gone)
        gone += m
        Chosen(current, step["units"]).add(torch.tensor(delta))
    for name, value in values_of(current).items():
        np.testing.assert_allclose(values_of(student)[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


# The step and the noise ---------------------------------------------------------------------------------------------


def test_woodbury_is_the_dense_solve():
    rng = np.random.default_rng(0)
    gradient, data, request = (torch.tensor(rng.normal(size=30)) for _ in range(3))
    for scale, damping in (((0.7, 0.01), 0.5), ((0.3, 0.0), 0.01), ((0.0, 0.0), 2.0), ((1e-6, 1e-7), 1e-3)):
        dense = scale[0] * np.outer(data, data) - scale[1] * np.outer(request, request) + damping * np.eye(30)
        assert np.linalg.eigvalsh(dense).min() > SAFE * damping
        step, kept = newton_step(gradient, data, request, scale, damping)
        assert kept
        np.testing.assert_allclose(step, np.linalg.solve(dense, gradient), rtol=1e-9)


@pytest.mark.parametrize(("share", "kept"), [(0.89, True), (0.91, False), (1.0, False), (3.0, False)])
def test_a_request_that_makes_the_hessian_indefinite_is_left_out_of_it(share, kept):
    """With request = (1, 0, ...) orthogonal to the data, H + I has the eigenvalue 1 - share there."""
    gradient, data, request = torch.ones(4).double(), torch.zeros(4).double(), torch.zeros(4).double()
    data[1], request[0] = 2.0, 1.0
    step, stayed = newton_step(gradient, data, request, (0.5, share), 1.0)
    assert stayed == kept
    assert step.tolist() == pytest.approx([1 / (1 - share) if kept else 1.0, 1 / 3, 1, 1])


def test_the_scale_of_the_noise_by_hand():
    """gamma = 2 x .25 x 1 x (1/1000)^2 / .01^3 = .5; sigma = .5 sqrt(2 ln 1.25) = .33402."""
    given = {"epsilon": 1.0, "delta": 1.0, "hessian_lipschitz": 0.25, "lipschitz": 1.0}
    assert noise_scale(1 / 1000, 0.01, **given) == pytest.approx(0.334024, abs=1e-6)
    assert noise_scale(2 / 1000, 0.02, **given) == pytest.approx(0.334024 * 4 / 8, abs=1e-6)
    assert noise_scale(1 / 1000, 0.01, **given | {"epsilon": 4.0}) == pytest.approx(0.334024 / 4, abs=1e-6)
    assert noise_scale(1 / 1000, 0.01, **given | {"lipschitz": 3.0}) == pytest.approx(0.334024 * 9, abs=1e-5)
    assert noise_scale(1 / 1000, 0.01, **given | {"delta": 0.5}) == pytest.approx(0.5 * math.sqrt(2 * math.log(2.5)))


def test_noise_is_added_to_the_chosen_weights_alone():
    plain, student, _ = ready("classification", damping=0.5)
    without = edited(plain, student)
    noisy, student, _ = ready("classification", damping=0.5, noise=True, lipschitz=3.0)
    after = edited(noisy, student)
    units = noisy.steps[0]["units"]
    assert units == plain.steps[0]["units"]
    pick = partial(raw_chosen, student, units=units)
    difference = pick(after) - pick(without)
    sigma = noise_scale(4 / 10, 0.5, 1.0, 1.0, 0.25, 3.0)
    assert len(difference) > 60
    assert difference.std() == pytest.approx(sigma, rel=0.25)
    assert sum(int((after[name] != without[name]).sum()) for name in after) == len(difference)


# The statistic ------------------------------------------------------------------------------------------------------


@every_kind
def test_the_statistic_holds_two_different_gradients_of_d(kind):
    method, student, world = ready(kind)
    found = method.statistics_found["secant"]
    first, last = ends_of(world)
    (before, n), (after, _) = (raw_gradient(tiny_copy(student, end), world.sets["train"]) for end in (first, last))
    assert int(found["positions"]) == n
    changes = {name.removeprefix("change."): value for name, value in found.items() if name.startswith("change.")}
    expected = {f"{layer}.{part}" for layer in linear_layers(student) for part in ("weight", "bias")}
    assert changes.keys() == expected & dict(student.named_parameters()).keys()
    for name, value in changes.items():
        blind = name.endswith(("k_lin.bias", "k_proj.bias"))  # adds the same to all scores of a query
        assert blind or value.abs().max() > 1e-4, f"no change of the gradient of {name} (zeroed before?)"
        np.testing.assert_allclose(value, after[name] - before[name], rtol=1e-2, atol=1e-5, err_msg=name)
    for name in trainable(student):
        assert torch.equal(found[f"step.{name}"], last[name] - first[name])


# Units and copies ---------------------------------------------------------------------------------------------------


def test_units_are_those_of_linear_layers_that_share_their_weight_with_no_embedding():
    lstm = tiny.translator(architecture="kga_lstm")
    assert set(linear_layers(lstm)) == {"model.bridge", "model.attention.score", "model.combine"}
    assert "model.lm_head" not in linear_layers(tiny.translator())
    assert "model.lm_head" in linear_layers(untied())
    gpt = linear_layers(tiny.responder(architecture="gpt2"))
    assert {name.split(".")[-1] for name in gpt} == {"c_attn", "c_proj", "c_fc"}
    frozen = tiny.classifier()
    frozen.model.pre_classifier.requires_grad_(False)
    assert "model.pre_classifier" not in linear_layers(frozen)


def untied():
    family = tiny.family(architecture="marian")
    family.config = dict(family.config) | {"tie_word_embeddings": False}
    model = family.model(tiny.Translation, tiny.writing_tokenizer(), {}, 0)
    return tiny.Translation(model.eval(), tiny.writing_tokenizer(), 32)


@every_kind
def test_a_copy_differs_by_one_ordinary_token_of_each_input(kind):
    world = world_of(kind)
    task, examples = world.models["original"], world.sets["forget"]
    batch = examples.batch(np.arange(6))
    rng, words = np.random.default_rng(0), vocabulary(task)
    assert not set(words) & set(task.tokenizer.all_special_ids)
    seen = set()
    for _ in range(200):
        copy = perturbed(batch, rng.random(6), rng.choice(words, 6))
        different = copy["input_ids"] != batch["input_ids"]
        assert different.sum(1).max() <= 1 and not different[:, 0].any()
        assert not (different & (batch["attention_mask"] == 0)).any()
        assert all(torch.equal(copy[name], batch[name]) for name in batch if name != "input_ids")
        seen |= {tuple(where) for where in different.nonzero().tolist()}
    assert len(seen) == int(batch["attention_mask"].sum()) - 6, "some position is never replaced"
    padded = contract.pad(batch, task, extra=3)
    longer = perturbed(padded, np.full(6, 0.7), np.full(6, words[0]))["input_ids"][:, : batch["input_ids"].shape[1]]
    assert torch.equal(longer, perturbed(batch, np.full(6, 0.7), np.full(6, words[0]))["input_ids"])


def recorded(task, examples, copies, seed=0, **options):
    options = {"batch_size": 64} | options
    return record(task, examples, copies, np.random.default_rng(seed), advance=lambda n=1, info="": None, **options)


@every_kind
def test_what_is_recorded_is_the_mean_over_a_copys_real_tokens(kind, monkeypatch):
    """Without perturbation, against each example run alone and unpadded."""
    monkeypatch.setattr("kga.methods.perturb.perturbed", lambda batch, where, new: batch)
    world = world_of(kind)
    check_means(world.opinionated(5).eval(), world.sets["forget"])


def test_an_untied_output_layer_is_recorded_at_the_scored_positions(monkeypatch):
    monkeypatch.setattr("kga.methods.perturb.perturbed", lambda batch, where, new: batch)
    task = untied()
    assert "model.lm_head" in check_means(task, contract.world("translation").sets["forget"])


def check_means(task, examples):
    copies = [np.array([0, 3]), np.array([1, 2]), np.array([4, 5])]
    outputs, losses = recorded(task, examples, copies, batch_size=4)
    assert outputs.keys() == linear_layers(task).keys()
    for number, copy in enumerate(copies):
        alone = [run_alone(task, examples.batch(np.array([position]))) for position in copy]
        loss = sum(float(loss) for _, (loss, _) in alone) / sum(count for _, (_, count) in alone)
        assert float(losses[number]) == pytest.approx(loss, rel=1e-4)
        for name, values in outputs.items():
            expected = torch.cat([seen[name] for seen, _ in alone]).mean(0)
            torch.testing.assert_close(values[number], expected, rtol=1e-4, atol=1e-5, msg=name)
    return outputs


def run_alone(task, batch):
    """[tokens, units] outputs of all linear layers on one example, and its loss."""
    seen, handles = {}, []
    for name, layer in linear_layers(task).items():
        hook = lambda layer, given, output, name=name: seen.__setitem__(name, output.detach().flatten(0, -2))  # noqa: E731
        handles.append(layer.register_forward_hook(hook))
    with torch.no_grad():
        loss = raw_loss(task, batch)
    for handle in handles:
        handle.remove()
    return seen, loss


def test_input_and_target_of_equal_width_are_told_apart():
    """Attention to the encoder has outputs over either; padding must be found by the right one."""
    world = contract.world("translation")
    task, examples = world.opinionated(5).eval(), world.sets["train"]
    widths = [(len(i), len(t)) for i, t in zip(examples.table["input_ids"], examples.table["labels"], strict=True)]
    pair = next(
        np.array([a, b]) for a in range(40) for b in range(40)
        if max(widths[a][0], widths[b][0]) == max(widths[a][1], widths[b][1]) and widths[a][0] != widths[a][1]
    )  # fmt: skip
    examples = replace(examples, rows=np.arange(len(widths)))
    alone = [run_alone(task, examples.batch(np.array([position])))[0] for position in pair]
    outputs, _ = recorded(task, examples, [pair], seed=0, batch_size=2)
    once, _ = recorded(task, examples, [pair[:1], pair[1:]], seed=0, batch_size=1)
    for name, values in outputs.items():
        counts = [len(seen[name]) for seen in alone]
        expected = (once[name][0] * counts[0] + once[name][1] * counts[1]) / sum(counts)
        torch.testing.assert_close(values[0], expected, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["classification", "translation"])
def test_passes_of_any_size_see_the_same_copies(kind):
    world = world_of(kind)
    task, examples = world.models["original"], world.sets["forget"]
    copies = [np.array([k % 5, 5]) for k in range(9)]
    for changes in (False, True):
        whole, parts = (recorded(task, examples, copies, batch_size=size, changes=changes) for size in (64, 4))
        torch.testing.assert_close(parts[1], whole[1], rtol=1e-4, atol=1e-5)
        for name, values in whole[0].items():
            torch.testing.assert_close(parts[0][name], values, rtol=1e-4, atol=1e-5)


def test_changes_are_differences_to_the_same_examples_unperturbed(monkeypatch):
    world = world_of("translation")
    task, examples = world.models["original"], world.sets["forget"]
    copies = [np.array([k]) for k in range(6)]
    (
        changed,
        with_,
    ) = recorded(task, examples, copies, changes=True), recorded(task, examples, copies)
    monkeypatch.setattr("kga.methods.perturb.perturbed", lambda batch, where, new: batch)
    base = recorded(task, examples, copies)
    torch.testing.assert_close(changed[1], with_[1] - base[1])
    name = "model.model.encoder.layers.0.fc1"
    torch.testing.assert_close(changed[0][name], with_[0][name] - base[0][name])
    first = "model.model.decoder.layers.0.self_attn.q_proj"  # sees the target alone
    assert float(changed[0][first].abs().max()) < 1e-6 < float(changed[0][name].abs().max())


def test_candidates_are_the_most_correlated_columns_that_vary():
    rng = np.random.default_rng(0)
    table = torch.tensor(rng.normal(size=(50, 6)))
    target = -table[:, 4] + 0.8 * table[:, 1]
    table[:, 2] = 3.0
    table[:, 0] *= 1e-3
    assert most_correlated(table, target, 2).tolist() == [4, 1]
    assert set(most_correlated(table, target, 99).tolist()) == {0, 1, 3, 4, 5}
    correlations = [abs(np.corrcoef(table[:, k], target)[0, 1]) for k in most_correlated(table, target, 99)]
    assert correlations == sorted(correlations, reverse=True)


def test_half_precision_sees_the_weights_as_they_are():
    """Autocast keeps copies of weights for as long as it is on, so for a whole edit."""
    task = world_of("classification").opinionated(5).eval()
    batch = world_of("classification").sets["forget"].batch(np.arange(6))
    shift = {name: torch.full_like(value, 0.3) for name, value in trainable(task).items()}
    with torch.autocast("cpu", torch.bfloat16):
        first = task.predict(batch).log_probs
        with _moved_back(task, shift):
            torch.clear_autocast_cache()
            assert not torch.equal(task.predict(batch).log_probs, first)
        assert torch.equal(task.predict(batch).log_probs, first)
        chosen = Chosen(task, [("model.classifier", 0)])
        chosen.add(torch.ones(17).double())
        after = task.predict(batch).log_probs
        torch.clear_autocast_cache()
        assert torch.equal(task.predict(batch).log_probs, after) and not torch.equal(after, first)


# What it reports and refuses ----------------------------------------------------------------------------------------


def test_the_outcome_names_the_units_and_the_size_of_the_update():
    method, student, _ = ready("classification")
    before = torch.cat([value.detach().flatten() for value in student.parameters()])
    edited(method, student)
    after = torch.cat([value.detach().flatten() for value in student.parameters()])
    outcome, (step,) = method.outcome(), method.steps
    assert outcome["requests"] == 1 and outcome["units"] == len(step["units"]) == outcome["units_per_request"]
    names = [f"{layer.removeprefix('model.')}:{unit}" for layer, unit in step["units"]]
    assert outcome["dependence_T"] == dict(zip(names, step["T"], strict=True))
    assert outcome["update_norm"] == pytest.approx(float((after - before).norm()), rel=1e-4)
    assert outcome["relative_update_norm"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    assert outcome["stopped"] is None and outcome["without_forget_hessian"] in (0, 1)


def test_a_step_that_is_not_finite_is_not_taken():
    method, student, _ = ready("classification", request="example")
    method.statistics_found["secant"]["step.model.pre_classifier.bias"][0] = torch.nan
    before = {name: value.detach().clone() for name, value in student.named_parameters()}
    after = edited(method, student)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert method.outcome()["stopped"] == "diverged: the gradient of request 1 was not finite"
    assert method.outcome()["requests"] == 0


def test_forgetting_all_of_d_is_refused():
    method, student, _ = ready("classification")
    method.statistics_found["secant"]["positions"] = torch.tensor(4)
    with pytest.raises(UserError, match="all of D"):
        edited(method, student)


@pytest.mark.parametrize("options", [{"request": "all"}, {"perturbations": 1}, {"copy_size": 0}, {"damping": 0.0},
                                     {"strength": -1.0}, {"delta": 2.0}, {"epsilon": 0.0}])  # fmt: skip
def test_senseless_options_are_refused(options):
    with pytest.raises(UserError, match="method"):
        LCODEC(**options)
