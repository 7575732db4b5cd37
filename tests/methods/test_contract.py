"""The contract tests: what every method of conf/method keeps, and broken methods that show that each contract can fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import contract, tiny
from helpers.contract import World

from kga.methods.base import Method
from kga.methods.finetune import Finetune
from kga.methods.kga import KGA
from kga.paths import config_dir
from kga.predictions import cross_entropy, kl

METHODS = sorted(path.stem for path in (config_dir() / "method").glob("*.yaml"))
TASKS = sorted(path.stem for path in (config_dir() / "task").glob("*.yaml"))
TINY = {"last_k": ["method.k=1"]}  # what the worlds' models, of one layer, need
BUILDERS = {
    (method, task): contract.builder(method, task, *TINY.get(method, ())) for method in METHODS for task in TASKS
}
UNLEARNING = {key: build for key, build in BUILDERS.items() if build().moves and build().start == "original"}
UPDATED = {key: build for key, build in UNLEARNING.items() if not build().edits}


@pytest.fixture
def world(request) -> World:
    """The world that a test is parametrised with; classification else."""
    return contract.world(getattr(request, "param", "classification"))


def worlds_of(task: str) -> list[str]:
    return [name for name in contract.WORLDS if name.split("-")[0] == task]


def cases(builders):
    """A parameter set of (builder, world) for every world of the tasks."""
    found = {
        f"{method}-{name}": (build, name) for (method, task), build in builders.items() for name in worlds_of(task)
    }
    return pytest.mark.parametrize(("build", "world"), found.values(), ids=found.keys(), indirect=["world"])


every_method = cases(UNLEARNING)
every_updated_method = cases(UPDATED)
every_edit = cases({key: build for key, build in UNLEARNING.items() if build().edits})
every_world = pytest.mark.parametrize("world", contract.WORLDS, indirect=True)


@every_method
def test_one_fit_keeps_every_contract(build, world, tmp_path):
    outcome = contract.run(build, world, tmp_path / "fit")
    contract.moves_as_declared(outcome)
    contract.stays_finite(outcome)
    contract.reloads(outcome, world, tmp_path)
    if getattr(outcome.method, "cache", "none") != "none":
        outcome = contract.run(lambda: uncached(build()), world, tmp_path / "live")
    contract.frozen_models_stay(outcome)


def uncached(method: Method) -> Method:
    if hasattr(method, "cache"):
        method.cache = "none"
    return method


@every_updated_method
def test_padding_changes_nothing_unless_it_is_meant_to(build, world):
    if contract.counts_padding(build(), world):
        with pytest.raises(AssertionError, match="padding changes the loss"):
            contract.ignores_padding(build, world)
    else:
        contract.ignores_padding(build, world)
        contract.ignores_padding(lambda: uncached(build()), world)


@every_updated_method
def test_micro_batches_change_nothing(build, world):
    contract.splits_evenly(build, world)


@every_updated_method
def test_same_seed_same_weights_also_when_interrupted(build, world, tmp_path):
    whole = contract.repeats(build, world, tmp_path / "repeat")
    contract.resumes(build, world, tmp_path / "resume", whole)


@every_edit
def test_an_edit_is_the_same_twice_and_ignores_padding(build, world, tmp_path):
    outcomes = [contract.run(build, replace(world, sets=sets), tmp_path / name) for name, sets in
                (("once", world.sets), ("twice", world.sets), ("padded", contract.padded_sets(world)))]  # fmt: skip
    once, again, padded = (outcome.state() for outcome in outcomes)
    assert all(torch.equal(once[name], again[name]) for name in once), "the same seed gave other weights"
    for name, value in once.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-4, atol=1e-5, msg=f"padding changes {name}")


@pytest.mark.parametrize("name", sorted(BUILDERS.keys() - UNLEARNING.keys()), ids="-".join)
def test_a_method_without_updates_needs_no_other_models(name):
    method = BUILDERS[name]()
    assert method.helpers() == {}
    assert method.frozen_models == ()


# The checks themselves ------------------------------------------------------------------------------------------------


def test_only_the_released_view_of_sequences_counts_padding():
    counting = {key for key, build in UPDATED.items()
                if contract.counts_padding(build(), contract.world(key[1]))}  # fmt: skip
    assert counting == {("kga_released", "translation"), ("kga_released", "response")}


@every_world
def test_padding_is_what_a_longer_example_in_the_batch_brings(world):
    """Rows padded by the contract's ``pad`` are the rows that the task itself collates beside the longest example."""
    examples, task = world.sets["retain"], world.models["original"]
    longest = examples.batch(np.arange(len(examples)))
    width = longest["input_ids"].shape[1]
    for position in range(len(examples)):
        padded = contract.pad(examples.batch(np.array([position])), task, width=width)
        for name, values in padded.items():
            beside = longest[name][position : position + 1]
            got = values[:, : beside.shape[1]] if values.ndim > 1 else values
            assert torch.equal(got, beside), name


@every_world
def test_the_sets_hold_examples_of_different_lengths(world):
    batch = world.sets["forget"].batch(np.arange(16))
    assert (batch["attention_mask"] == 0).any()
    assert not world.sequences or (batch["labels"] == -100).any()


# Broken on purpose ------------------------------------------------------------------------------------------------


class NeverMoves(Finetune):
    def combine(self, means):
        return 0.0 * means["retain"]


def test_a_method_that_never_moves_is_caught(world, tmp_path):
    still = lambda: NeverMoves(optim={"weight_decay": 0.0})  # noqa: E731
    with pytest.raises(AssertionError, match="moved: False"):
        contract.moves_as_declared(contract.run(still, world, tmp_path))


class TrainsItsTeacher(KGA):
    def attach(self, *arguments, **options):
        super().attach(*arguments, **options)
        self.cache = "none"
        self.frozen["original"].module.requires_grad_(True)
        return self

    def setup(self, trainer, pl_module, stage):
        super().setup(trainer, pl_module, stage)
        pl_module.teacher = self.frozen["original"].module


def test_a_method_that_trains_its_teacher_is_caught(world, tmp_path):
    with pytest.raises(AssertionError, match=r"original (moved|takes gradients|is in)"):
        contract.frozen_models_stay(contract.run(TrainsItsTeacher, world, tmp_path))


class TeacherIsStudent(KGA):
    def setup(self, trainer, pl_module, stage):
        self.frozen["original"].module.model = pl_module.model
        super().setup(trainer, pl_module, stage)


def test_a_teacher_that_is_the_student_is_refused(world, tmp_path):
    from kga.errors import UserError

    with pytest.raises(UserError, match="shares memory"):
        contract.run(TeacherIsStudent, world, tmp_path)


class LeavesTeacherInTrainMode(KGA):
    def terms(self, module, step):
        terms = super().terms(module, step)
        self.frozen["original"].module.train()
        return terms


def test_a_teacher_in_train_mode_is_caught(world, tmp_path):
    with pytest.raises(AssertionError, match="train mode"):
        contract.frozen_models_stay(contract.run(lambda: LeavesTeacherInTrainMode(cache="none"), world, tmp_path))


class CountsPadding(Finetune):
    def terms(self, module, step):
        batch = step["retain"]
        return {"retain": cross_entropy(module.predict(batch)).sum() * batch["input_ids"].shape[1]}


def test_a_loss_that_counts_padding_is_caught(world):
    with pytest.raises(AssertionError, match="padding changes the loss"):
        contract.ignores_padding(CountsPadding, world)


class MeanOfTokenMeans(Finetune):
    """Divides by the tokens of a micro-batch instead of those of the update."""

    units = {"retain": "example"}  # noqa: RUF012

    def terms(self, module, step):
        predictions = module.predict(step["retain"])
        return {"retain": cross_entropy(predictions).mean() * predictions.size}


def test_a_mean_over_the_tokens_of_each_micro_batch_is_caught():
    with pytest.raises(AssertionError, match="micro-batches change the loss"):
        contract.splits_evenly(MeanOfTokenMeans, contract.world("translation"))


class MeanOfMeans(KGA):
    """Takes the absolute value per micro-batch instead of once per update."""

    def terms(self, module, step):
        terms = super().terms(module, step)
        if "forget" in terms:
            size = len(step["forget"]["labels"])
            terms["forget"] = (terms["forget"] / size - self.g).abs() * size
        return terms

    def combine(self, means):
        return means["forget"] + self.alpha * means["retain"]


def test_a_nonlinear_loss_per_micro_batch_is_caught(world):
    """Needs parts on both sides of g, so that the sum of absolute values is not the absolute value of the sum."""

    def build():
        method = MeanOfMeans()
        prepare = method.prepare

        def between(module, updates):
            prepare(module, updates)
            halves = [step["forget"] for step in next(iter(method.stream(seed=0))) if "forget" in step]
            gaps = torch.cat([method._forget_gap(module, half)[0] for half in halves])
            method.g = float(gaps[:8].mean() + gaps[8:].mean()) / 2

        method.prepare = between
        return method

    with pytest.raises(AssertionError, match=r"micro-batches change the loss|gradient of"):
        contract.splits_evenly(build, world)


class Explodes(Finetune):
    def combine(self, means):
        return means["retain"] / 0.0


def test_a_loss_that_is_not_finite_stops_with_the_update(world, tmp_path):
    outcome = contract.run(Explodes, world, tmp_path)
    assert outcome.method.outcome() == {"updates": 0, "stopped": "diverged: the loss of the next update was not finite"}
    assert all(torch.equal(value, outcome.before[name]) for name, value in outcome.state().items())


class ForgetsItsState(KGA):
    """Keeps a moving value that is not in its state."""

    def after_update(self, module, means, loss):
        super().after_update(module, means, loss)
        self.alpha *= 0.5


def test_state_that_is_not_saved_is_caught(world, tmp_path):
    with pytest.raises(AssertionError, match="after resuming"):
        contract.resumes(ForgetsItsState, world, tmp_path)


class DrawsFreshNoise(Finetune):
    """Uses randomness that no seed decides."""

    def terms(self, module, step):
        noise = torch.empty(1).uniform_(generator=torch.Generator().manual_seed(torch.seed() % 2**31))
        return {name: value * noise for name, value in super().terms(module, step).items()}


def test_unseeded_randomness_is_caught(world, tmp_path):
    with pytest.raises(AssertionError, match="same seed gave other weights"):
        contract.repeats(DrawsFreshNoise, world, tmp_path)


class IgnoresItsSeed(Finetune):
    def stream(self, seed):
        return super().stream(0)


def test_a_seed_without_effect_is_caught(world, tmp_path):
    with pytest.raises(AssertionError, match="seed 1 gave the weights of seed 0"):
        contract.repeats(IgnoresItsSeed, without_dropout(world), tmp_path)


def without_dropout(world: World) -> World:
    """A world whose students have no dropout, the other thing that a seed decides."""
    return replace(world, make=lambda seed, dropout=0.0: world.make(seed=seed))


class LosesWeights(Finetune):
    pass


def test_a_model_that_is_saved_wrongly_is_caught(world, tmp_path, monkeypatch):
    outcome = contract.run(LosesWeights, world, tmp_path / "fit")
    save = type(outcome.student).save

    def broken(self, folder):
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.classifier.weight.data.zero_()
        save(self, folder)
        self.model.load_state_dict(kept)

    monkeypatch.setattr(type(outcome.student), "save", broken)
    with pytest.raises(AssertionError):
        contract.reloads(outcome, world, tmp_path)


@every_world
@pytest.mark.parametrize("level", ["dataset_mean", "batch", "example", "token"])
@pytest.mark.parametrize("cache", ["auto", "exact", "hidden", "topk:100000"])
def test_cached_and_live_teachers_agree(world, cache, level):
    """With dropout off, the loss of an update is the same whether teachers are run or looked up, however they are kept.

    So many classes are kept of "topk" that none is left out.
    """
    if cache == "hidden" and not world.sequences:
        pytest.skip("classification keeps its few log-probabilities")
    losses, gradients = {}, {}
    for kept in (cache, "none"):
        method = contract.attached(lambda: KGA(cache=kept, gap_level=level), world)  # noqa: B023
        gradients[kept], losses[kept] = contract.loss_and_gradient(method, world)
        held = {name for name, frozen in method.frozen.items() if frozen.resident}
        assert held == ({*method.frozen_models} if kept == "none" else set())
    assert losses[cache] == pytest.approx(losses["none"], abs=1e-5)
    for name, value in gradients[cache].items():
        torch.testing.assert_close(gradients["none"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("world", ["classification", "translation"], indirect=True)
@pytest.mark.parametrize("level", ["batch", "example", "token"])
def test_ragged_batches_of_two_sets_split_into_micro_batches(world, level):
    """14 examples of D_f and 11 of D_n in batches of 8: the last batches differ in size."""
    sets = {"forget": world.sets["forget"].take(np.arange(14)), "new": world.sets["new"].take(np.arange(11))}
    uneven = replace(world, sets=world.sets | sets)
    losses = {}
    for micro in (None, 2):
        method = contract.attached(lambda: KGA(gap_level=level), uneven, micro_batch_size=micro)
        student = uneven.moved_student()
        contract.ready(method, student)
        losses[micro] = [
            contract.backpropagate(method, student, update, lambda loss: None)[1] for update in method.stream(0)
        ]
    assert len(losses[None]) == 2
    assert losses[2] == pytest.approx(losses[None], abs=1e-5)


@every_world
def test_caches_of_sets_with_tables_of_their_own_are_kept_apart(world):
    """In a script every set has its own table: row 3 of D_r is not row 3 of D_n."""
    task = world.models["original"]
    own = {name: tiny.examples(size, seed=seed, task=task) for name, size, seed in
           (("forget", 16, 11), ("new", 24, 12), ("retain", 16, 13))}  # fmt: skip
    losses = {}
    for cache in ("exact", "none"):
        apart = replace(world, sets=own)
        method = contract.attached(lambda: KGA(cache=cache), apart)  # noqa: B023
        losses[cache] = contract.loss_and_gradient(method, apart)[1]
    assert losses["exact"] == pytest.approx(losses["none"], abs=1e-6)


@every_world
def test_a_loaded_model_trains_what_a_new_one_trains(world, tmp_path):
    """Loading makes the sines and cosines of positions trainable; optimisers kept beside a model would not fit it."""
    new = world.models["original"]
    new.save(tmp_path)
    loaded = type(new).load(tmp_path)
    names = [{name for name, p in task.named_parameters() if p.requires_grad} for task in (new, loaded)]
    assert names[0] == names[1]


@every_world
def test_examples_of_the_world_are_apart(world):
    rows = [set(view.rows.tolist()) for name, view in world.sets.items() if name != "train"]
    assert sum(map(len, rows)) == len(set.union(*rows))


@every_world
def test_kl_of_the_frozen_models_is_not_zero(world):
    batch = world.sets["forget"].batch(np.arange(4))
    with torch.no_grad():
        gap = kl(world.models["forget_helper"].predict(batch), world.models["original"].predict(batch))
    assert float(gap.mean()) > 1e-4
