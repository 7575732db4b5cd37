"""One fit: early stopping, epoch ends, damaged checkpoints, time over interruptions, modes of the model."""

import numpy as np
import pytest
import pytorch_lightning as pl
import sacrebleu
import torch
from datasets import Dataset
from helpers import sequences, tiny
from helpers.contract import HARDWARE
from safetensors.torch import load_file

from kga.data.batching import Ordered, supervised
from kga.data.encoded import examples as in_memory
from kga.errors import UserError
from kga.optim import Optim
from kga.tasks.classification import Classification
from kga.training import EpochEnds, fit


def train(tmp_path, optim: Optim, task=None, **options):
    task = task or tiny.classifier(optim=optim)
    task.optim = optim
    examples = tiny.examples(32, task=task) if isinstance(task, Classification) else sequences.examples(task, 32)
    meta = fit(task, supervised(examples, optim, seed=0), optim=optim, hardware=HARDWARE, seed=0, work=tmp_path,
               description="test", **options)  # fmt: skip
    return task, meta


def test_fixed_epochs(tmp_path):
    _, meta = train(tmp_path, Optim(epochs=3, batch_size=8))
    assert (meta["epochs"], meta["updates"]) == (3, 12)
    assert meta["seconds"] > 0


def test_updates_bound_the_epochs(tmp_path):
    assert train(tmp_path, Optim(epochs=3, updates=5, batch_size=8))[1]["updates"] == 5


def test_stop_epochs_ends_a_longer_schedule(tmp_path):
    """The weights after 2 epochs of a schedule of 4, not those of a schedule of 2."""
    four = train(tmp_path / "a", Optim(epochs=4, batch_size=8), stop_epochs=2)
    two = train(tmp_path / "b", Optim(epochs=2, batch_size=8))
    assert four[1]["updates"] == two[1]["updates"] == 8
    assert not torch.equal(four[0].model.classifier.weight, two[0].model.classifier.weight)


def test_patience_keeps_the_best_epoch_and_says_which(tmp_path):
    """With a learning rate that ruins the model after a while, the best epoch is not the last."""
    optim = Optim(epochs=12, batch_size=8, lr=0.03, patience=2, schedule="constant", warmup=0, clip=None)
    task = tiny.classifier(optim=optim)
    held_out = tiny.examples(24, seed=9, task=task)
    losses = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            losses.append(float(trainer.callback_metrics["validation/loss"]))

    validation = Ordered(held_out, 24)
    _, meta = train(tmp_path, optim, task, validation=validation, callbacks=[Watch()])
    assert meta["epochs"] == int(np.argmin(losses)) + 1
    assert len(losses) in (meta["epochs"] + 2, 12)
    task.eval()
    with torch.no_grad():
        kept = -task.predict(held_out.batch(np.arange(24))).truth().mean()
    assert float(kept) == pytest.approx(min(losses), rel=1e-4)


# What validation says at the end of each epoch. By loss the second epoch is best, by BLEU the third.
LOSSES, BLEUS = [3.0, 1.0, 2.0, 2.5, 2.6, 2.7], [10.0, 20.0, 30.0, 5.0, 4.0, 3.0]


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [("loss", LOSSES, 2), ("perplexity", LOSSES, 2), ("bleu", BLEUS, 3), ("token_accuracy", BLEUS, 3)],
)
def test_patience_watches_its_monitor_in_the_right_direction(tmp_path, monkeypatch, monitor, values, best):
    """The weights that are kept are those of the best epoch, and training ends ``patience`` epochs later."""
    optim = Optim(epochs=6, batch_size=16, lr=1e-3, patience=2, monitor=monitor)
    task, numbers = sequences.translator(optim=optim), iter(values)
    kept = []

    def told(self) -> dict[str, float]:
        kept.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return {"loss": 0.0, monitor: next(numbers)}

    monkeypatch.setattr(type(task), "validation_values", told)
    monkeypatch.setattr(type(task), "validation_step", lambda self, batch, index: None)
    _, meta = train(tmp_path, optim, task, validation=Ordered(sequences.examples(task, 8), 8))
    assert meta["epochs"] == best and len(kept) == best + 2
    same = [all(torch.equal(value, state[name]) for name, value in task.model.state_dict().items()) for state in kept]
    assert same == [number == best for number in range(1, best + 3)]


def test_the_bleu_that_patience_watches_is_that_of_greedy_translations(tmp_path):
    """Of all batches together, without dropout. Every second target is what the model writes, so that some is right."""
    optim = Optim(epochs=1, batch_size=16, lr=1e-9, patience=5, monitor="bleu")
    task = sequences.translator(optim=optim, seed=1, dropout=0.3, max_target_length=12)
    rows = sequences.pairs(7, seed=4)
    texts = task.generate(in_memory(rows, task).batch(np.arange(7)))
    wanted = [text if number % 2 else row for number, (text, row) in enumerate(zip(texts, rows["target"], strict=True))]
    held_out = in_memory(Dataset.from_dict({"source": rows["source"], "target": wanted}), task)
    seen = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append(float(trainer.callback_metrics["validation/bleu"]))

    train(tmp_path, optim, task, validation=Ordered(held_out, 3), callbacks=[Watch()])
    cut = task.tokenizer.batch_decode(list(held_out.table["labels"]), skip_special_tokens=True)
    assert seen == [pytest.approx(sacrebleu.corpus_bleu(texts, [[text.strip() for text in cut]]).score)]
    assert 1 < seen[0] < 99


@pytest.mark.parametrize("monitor", ["blue", "accuracy"])
def test_an_unknown_monitor_is_refused_with_what_there_is(tmp_path, monitor):
    optim = Optim(epochs=1, batch_size=32, patience=1, monitor=monitor)
    task = sequences.translator(optim=optim, max_target_length=4)
    with pytest.raises(UserError, match=f"optim.monitor={monitor}: .*loss.*token_accuracy") as caught:
        train(tmp_path, optim, task, validation=Ordered(sequences.examples(task, 4), 4))
    assert "bleu" in str(caught.value) and "\n" not in str(caught.value)


def test_patience_needs_an_epoch_to_wait_for(tmp_path):
    optim = Optim(epochs=2, updates=1, batch_size=4, patience=1)
    task = sequences.translator(optim=optim)
    with pytest.raises(UserError, match=r"optim\.updates=1 ends before the first validation"):
        train(tmp_path, optim, task, validation=Ordered(sequences.examples(task, 4), 4))


def test_a_warm_up_that_never_ends_is_told(tmp_path, capsys):
    optim = Optim(epochs=1, batch_size=16, warmup=4000)
    train(tmp_path, optim, sequences.translator(optim=optim))
    assert "the warm-up takes 4000 of only" in capsys.readouterr().out.replace("\n", " ")


def test_training_by_tokens_resumes_bit_equally(tmp_path):
    optim = Optim(epochs=3, batch_tokens=120, lr=1e-2)

    def fresh():
        return sequences.translator(dropout=0.3, optim=optim)

    whole, meta = train(tmp_path / "whole", optim, fresh())
    assert meta["updates"] > 3 * 4 and meta["updates"] % 3 == 0
    with pytest.raises(Stop):
        train(tmp_path / "cut", optim, fresh(), callbacks=[StopAt(meta["updates"] * 2 // 3 + 1)])
    again, resumed = train(tmp_path / "cut", optim, fresh())
    assert resumed["updates"] == meta["updates"]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_label_smoothing_acts_in_training_and_not_in_what_is_reported(tmp_path):
    """Smoothed, the loss of one update is torch's; validation stays the plain loss."""
    optim = Optim(epochs=1, batch_size=32, label_smoothing=0.3, lr=1e-6, patience=1, schedule="constant", warmup=0)
    task, seen = sequences.translator(optim=optim), {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *rest):
            seen["train"] = float(outputs["loss"])

        def on_validation_end(self, trainer, pl_module):
            seen["validation"] = float(trainer.callback_metrics["validation/loss"])

    train(tmp_path, optim, task, callbacks=[Watch()], validation=Ordered(sequences.examples(task, 32), 32))
    with torch.no_grad():
        side = task.predict(sequences.examples(task, 32).batch(np.arange(32))).dense()
    for name, smoothing in (("train", 0.3), ("validation", 0.0)):
        expected = torch.nn.functional.cross_entropy(side.log_probs, side.targets, label_smoothing=smoothing)
        assert seen[name] == pytest.approx(float(expected), rel=1e-3)


def test_the_last_two_epoch_ends_are_kept(tmp_path):
    ends = EpochEnds(tmp_path / "ends")
    task, _ = train(tmp_path, Optim(epochs=4, batch_size=8), callbacks=[ends])
    files = sorted((tmp_path / "ends").iterdir())
    assert [path.name for path in files] == ["epoch-0002.safetensors", "epoch-0003.safetensors"]
    last = load_file(files[1])
    assert all(torch.equal(value, last[name]) for name, value in task.model.state_dict().items())
    assert not torch.equal(load_file(files[0])["classifier.weight"], last["classifier.weight"])


class Stop(Exception):
    """Ends a fit."""


class StopAt(pl.Callback):
    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.update:
            raise Stop


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys):
    optim = Optim(epochs=3, batch_size=8)
    whole, _ = train(tmp_path / "whole", optim)
    with pytest.raises(Stop):
        train(tmp_path / "cut", optim, callbacks=[StopAt(9)])
    checkpoint = tmp_path / "cut" / "checkpoints" / "epoch.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    again, _ = train(tmp_path / "cut", optim)
    assert "epoch.ckpt can't be read" in capsys.readouterr().out.replace("\n", "")
    assert torch.equal(again.model.classifier.weight, whole.model.classifier.weight)


def test_goes_on_from_the_end_of_an_epoch(tmp_path, capsys):
    optim = Optim(epochs=3, batch_size=8)
    task = tiny.classifier(dropout=0.3, optim=optim)
    whole, _ = train(tmp_path / "whole", optim, tiny.classifier(dropout=0.3, optim=optim))
    with pytest.raises(Stop):
        train(tmp_path / "cut", optim, task, callbacks=[StopAt(9)])
    again, meta = train(tmp_path / "cut", optim, tiny.classifier(dropout=0.3, optim=optim))
    assert "going on from the checkpoint" in capsys.readouterr().out
    assert meta["updates"] == 12
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def test_the_time_before_an_interruption_counts(tmp_path, monkeypatch):
    import kga.training as training

    optim = Optim(epochs=3, batch_size=8)
    clock = iter(range(10_000))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock) * 10.0)
    with pytest.raises(Stop):
        train(tmp_path, optim, callbacks=[StopAt(9)])
    saved = torch.load(tmp_path / "checkpoints" / "epoch.ckpt", weights_only=True)
    before = saved["callbacks"]["RunState"]["seconds"]
    assert before > 0
    assert train(tmp_path, optim)[1]["seconds"] > before


def test_a_fit_puts_an_eval_model_into_train_mode(tmp_path):
    """from_pretrained returns eval mode: without the switch, dropout would never act."""
    optim = Optim(epochs=1, batch_size=8)
    modes = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            modes.append(pl_module.model.training)

    task = tiny.classifier(optim=optim)
    task.eval()
    train(tmp_path, optim, task, callbacks=[Watch()])
    assert modes == [True] * 4


def test_checkpoints_load_without_pickled_code(tmp_path):
    train(tmp_path, Optim(epochs=1, batch_size=8))
    saved = torch.load(tmp_path / "checkpoints" / "epoch.ckpt", weights_only=True)
    assert {"torch", "numpy", "python"} <= set(saved["callbacks"]["RunState"]["generators"])
