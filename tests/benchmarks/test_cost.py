"""Operations against torch's own counter, bytes against real caches and graphs, padding against real batches."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import contract
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import cost, scale, texts
from benchmarks.student import Student
from benchmarks.worlds import WORLDS
from kga.data.batching import bucketed
from kga.methods.caches import LIMIT, Mode, chosen, table
from kga.models.first import last_mixing, within

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("classification-128", "translation-48")
B, S, T = 3, 40, 30


def world_of(name: str, layers: int = 2):
    """A small world without dropout, whose attention is fused and keeps no [S, S], and its size."""
    world = replace(WORLDS[name], dropout=0.0, vocabulary=300)
    if name == "translation-48":
        config = {
            "d_model": 64,
            "encoder_layers": layers,
            "decoder_layers": layers,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
        }
        return replace(world, config=world.config | config), cost.Size(layers, 64, 128, 4, 300, 300, decoder=layers)
    config = {"n_layers": layers, "dim": 64, "hidden_dim": 128}
    return replace(world, config=world.config | config), cost.Size(layers, 64, 128, 4, 300, labels=texts.LABELS)


def batch_of(name: str) -> dict[str, torch.Tensor]:
    ids = torch.full((B, S), 7)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(B, dtype=torch.long)}
    target = torch.full((B, T), 7)
    return batch | ({"decoder_input_ids": target, "labels": target} if name == "translation-48" else {})


def predicted(name: str, size: cost.Size, **options: bool) -> float:
    return cost.flops(size, B, S, T, B * T) if name == "translation-48" else cost.flops(size, B, S, **options)


def counted(model, loss) -> tuple[int, int]:
    """Operations of the forward and of the backward pass."""
    model.set_attn_implementation("eager")  # the counter does not know the fused attention of processors
    with FlopCounterMode(display=False) as forward:
        value = loss()
    with FlopCounterMode(display=False) as backward:
        value.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_those_that_torch_counts(name):
    world, size = world_of(name)
    student, batch = Student(world.model(0), "32-true"), batch_of(name)
    forward, backward = counted(student.model, lambda: student.loss(batch))
    assert forward == predicted(name, size)
    assert forward + backward == cost.FORWARD_BACKWARD * predicted(name, size)


def test_positions_that_a_classifier_never_reads_are_not_counted():
    world, size = world_of(NAMES[0])
    student, batch = Student(world.model(0), "32-true"), batch_of(NAMES[0])
    mixing = last_mixing(student.model, {name: batch[name] for name in ("input_ids", "attention_mask")})
    assert mixing is not None
    with within(mixing):
        forward, _ = counted(student.model, lambda: student.loss(batch))
    assert forward == predicted(NAMES[0], size, first_only=True) < predicted(NAMES[0], size)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_those_of_real_models(name):
    world, size = world_of(name)
    found = sum(
        value.numel() for key, value in world.model(0).named_parameters() if value.ndim > 1 and "position" not in key
    )
    assert found == size.parameters()


@pytest.mark.parametrize(("name", "dropout"), [(NAMES[0], 0.0), (NAMES[0], 0.1), (NAMES[1], 0.0)])
def test_activations_are_what_a_layer_keeps_for_the_backward_pass(name, dropout):
    """In float32. Without dropout its masks (4 H) are taken off what is predicted, and attention is fused."""
    expected = []
    for layers in (3, 2):
        size = world_of(name, layers)[1]
        target = T if size.decoder else 0
        options = {"mixed": False, "kept": 1 if target else 2, "fused": not dropout}
        masks = 0 if dropout else 4 * size.width * layers * (S + target)
        expected.append(B * (cost.activation_bytes(size, S, target, **options) - masks))
    more, few = (kept_bytes(name, layers, dropout) for layers in (3, 2))
    assert more - few == pytest.approx(expected[0] - expected[1], rel=0.1)


def kept_bytes(name: str, layers: int, dropout: float) -> int:
    student = Student(replace(world_of(name, layers)[0], dropout=dropout).model(0), "32-true")
    weights = {value.untyped_storage().data_ptr() for value in student.model.parameters()}
    found, alive = {}, []

    def pack(value: torch.Tensor) -> torch.Tensor:
        alive.append(value)  # or another could be given its place in memory
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        student.loss(batch_of(name))
    return sum(found.values())


KEPT = [("exact", "classification"), ("topk", "classification")]  # a classifier keeps no hidden states
KEPT += [(mode, "translation") for mode in ("exact", "hidden", "topk")]


@pytest.mark.parametrize(("mode", "task"), KEPT)
def test_bytes_are_those_of_real_caches(mode, task):
    world = contract.world(task)
    model, examples = world.models["original"].eval(), world.sets["retain"]
    tensors = table(model, examples, "scored", Mode(mode, 5 if mode == "topk" else 0))
    positions, classes = len(tensors["targets"]), int(tensors["classes"])
    width = getattr(model.model.config, "d_model", 0)
    bias = tensors["head.bias"].numel() if "head.bias" in tensors else 0
    found = sum(value.nbytes for value in tensors.values())
    assert found == cost.cache_bytes(mode, len(examples), positions, classes, width, 5, bias=bias)


@pytest.mark.parametrize("positions", [100, 50_000, 200_000_000])
def test_auto_keeps_what_kga_keeps(positions):
    """Few positions: exact; many: hidden; too many: nothing."""
    world = contract.world("translation")
    model, examples = world.models["original"].eval(), world.sets["retain"]
    with torch.no_grad():
        sample = model.predict(examples.batch(np.arange(4)), "scored")
    classes, width = sample.classes, sample.states.shape[1]
    sizes = {mode: cost.cache_bytes(mode, 0, positions, classes, width) - 8 * positions for mode in ("exact", "hidden")}
    assert cost.auto(sizes, LIMIT)[0] == chosen(Mode("auto"), sample, positions)[0].name


@pytest.mark.parametrize("bucket", [50, 1])
@pytest.mark.parametrize("pairs", [False, True])
def test_padding_is_that_of_real_batches(bucket, pairs):
    """Examples of different draws: the shares of padding agree, and sorting spares much of it."""
    rng = np.random.default_rng(5)
    share = rng.random(8000)
    columns = [texts.lengths(texts.SOURCES if pairs else texts.PROVISIONS, share, 128)]
    columns.append(texts.lengths(texts.TARGETS, rng.random(8000), 128) if pairs else np.zeros(8000, int))
    lengths = np.stack(columns, 1)
    batches = bucketed(lengths.sum(1), rng.permutation(8000), 32, bucket, rng)
    real = sum(len(batch) * lengths[batch].max(0).sum() for batch in batches) / 8000
    found = 32 * cost.longest(lengths[rng.permutation(8000)], 32, bucket).sum() / 8000
    assert found == pytest.approx(real, rel=0.02)
    assert found > lengths.sum(1).mean()


def test_sorting_spares_padding():
    lengths = np.stack(
        [texts.lengths(texts.PROVISIONS, np.random.default_rng(0).random(8000), 512), np.zeros(8000, int)], 1
    )
    sorted_, random = (cost.longest(lengths, 32, bucket)[:, 0].mean() for bucket in (50, 1))
    assert sorted_ < 1.1 * lengths[:, 0].mean()
    assert random > 2 * lengths[:, 0].mean()


# Seconds -------------------------------------------------------------------------------------------------------


def simple(**changed: object) -> cost.Study:
    """One layer of width 1, 1,000 examples of 10 tokens."""
    size, lengths = cost.Size(1, 1, 1, 1, 10), np.tile([10, 0], (1000, 1))
    return cost.Study(
        "", size, 1000, **{"epochs": 2, "batch": 10, "lengths": lengths, "evaluated": 128, "use": 1.0} | changed
    )


def test_seconds_of_stages_by_hand():
    """Arithmetic alone: 2 (4 + 2) 10 + 4 * 10^2 = 520 operations an example, at one a second."""
    gpu, request = (
        cost.Gpu(1.0, 1e18, 0.0, 0.0, 1e18),
        cost.Request(updates=3, retain_batches=2, batch=10, helper_epochs=4),
    )
    found = cost.stages(simple(), gpu, 1, request)
    operations = {"A_D": 2 * 1000 * 3, "Retrain": 2 * 990 * 3, "helpers": 2 * 4 * 10 * 3, "caches": 4 * 10 + 60,
                  "unlearning": 3 * 3 * 10 * 3, "evaluation": 3 * 128}  # fmt: skip
    assert found == pytest.approx({name: 520 * number for name, number in operations.items()})
    live = cost.stages(simple(), gpu, 1, replace(request, live=True))
    assert live["unlearning"] == pytest.approx(found["unlearning"] * 4 / 3)
    assert live["caches"] == pytest.approx(520 * 40)


def test_prompt_and_target_of_a_decoder_are_padded_as_one():
    lengths = np.array([[10, 1], [2, 8]])
    assert simple(lengths=lengths).padded(2).tolist() == [[10, 8]]
    assert simple(lengths=lengths, whole=True).padded(2).tolist() == [[11, 0]]


def test_more_gpus_than_examples_have_nothing_to_do():
    gpu, request = cost.Gpu(1.0, 1e18, 0.0, 0.0, 1e18), cost.Request(3, 2, 10, 4)
    one, ten, many = (cost.stages(simple(), gpu, gpus, request)["unlearning"] for gpus in (1, 10, 40))
    assert (ten, many) == pytest.approx((one / 10, one / 10))


def test_launching_counts_where_arithmetic_is_shorter_and_gradients_are_summed():
    gpu, study = cost.Gpu(1e12, 1e18, 0.5, 7.0, 8.0), simple()
    assert cost.batch_seconds(study, gpu, 10, 10, trained=True) == 0.5 * 2.5
    assert cost.update_seconds(study, gpu, 2) == pytest.approx(7 + 2 * 4 * study.size.parameters() / 2 / 8)


def test_a_frozen_body_costs_two_passes_and_two_bytes():
    gpu, study = cost.Gpu(1.0, 1e18, 0.0, 0.0, 1e18), simple(trained=1.0)
    assert cost.batch_seconds(study, gpu, 1, 10, trained=True) == 2 * 520
    assert cost.state_bytes(study.size, 1.0) == 2 * study.size.parameters() + 16


# The fit and the document --------------------------------------------------------------------------------------


def test_a_fit_finds_the_coefficients_it_was_made_from():
    wanted = [0.01, 0.03, 0.002, 0.005]
    found, errors = scale.fitted({case: float(np.dot(scale.features(case), wanted)) for case in scale.GRID})
    assert found == pytest.approx(wanted, rel=1e-6)
    assert abs(errors).max() < 1e-9


def test_the_document_is_written_from_what_was_measured():
    """The fit in docs/scale.md is that of docs/scale.json; every held-back size, study and number of GPUs has its row."""
    assert not set(scale.GRID) & set(scale.HELD_BACK)
    found, benchmark = (json.loads((DOCS / f"{name}.json").read_text()) for name in ("scale", "benchmark"))
    text, kept = scale.markdown(found, benchmark), (DOCS / "scale.md").read_text()
    fits = [line for line in text.splitlines() if line.startswith(("| fp32 |", "| bf16 |"))]
    assert len(fits) == 2
    assert all(line in kept for line in fits)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert sum(" layers of " in line for line in rows) == len(scale.HELD_BACK)
    for study in scale.studies():
        assert sum(line.startswith(f"| {study.name} |") for line in rows) == 4  # 1, 8, 64 GPUs, and the options


def test_measuring_keeps_what_was_measured_before(tmp_path, monkeypatch):
    before = {"measured": {precision: {"[32, 1, 4, 0]": {"median": 1.0}} for precision in scale.PRECISIONS}}
    (tmp_path / "scale.json").write_text(json.dumps(before))
    monkeypatch.setattr(scale, "GRID", [(32, 1, 4, 0), (32, 1, 4, 4)])
    monkeypatch.setattr(scale, "HELD_BACK", [(32, 2, 4, 0)])
    monkeypatch.setattr("sys.argv", ["scale", "--repeats", "1", "--out", str(tmp_path)])
    threads = torch.get_num_threads()
    scale.main()
    torch.set_num_threads(threads)
    found = json.loads((tmp_path / "scale.json").read_text())
    assert found["earlier"] == before["measured"]
    assert all(run["median"] > 0 for runs in found["measured"].values() for run in runs.values())
    text = (tmp_path / "scale.md").read_text()
    assert "2 layers of 32, 4 tokens" in text
    assert "Measured twice" in text
