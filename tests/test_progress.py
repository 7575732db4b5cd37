"""FitProgress counts updates, wherever they come from."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from kga import console, progress
from kga.progress import FitProgress, Pace


class Manual(pl.LightningModule):
    """Two batches per update, by manual optimisation."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(2, 1)
        self.fail_at = fail_at

    def training_step(self, batch: list[torch.Tensor], index: int) -> None:
        if index == self.fail_at:
            raise ArithmeticError("NaN")
        loss = self.layer(batch[0]).pow(2).mean()
        self.manual_backward(loss)
        self.log("train/loss", loss)
        if index % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Automatic(Manual):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        return self.layer(batch[0]).pow(2).mean()


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=file, width=100, force_terminal=False))
    monkeypatch.setattr(console, "PLAIN_INTERVAL", 0.0)
    return file


def fit(module: pl.LightningModule, checkpoint: str | None = None, **options: object) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FitProgress("A_D")],
        **options,
    )
    data = torch.utils.data.TensorDataset(torch.randn(16, 2))
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2), ckpt_path=checkpoint)
    return trainer


def test_manual_optimisation_is_counted_in_updates_and_shows_the_loss(screen):
    fit(Manual(), max_steps=4)
    lines = screen.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines[:-1]] == [f"A_D: {n}/4" for n in (1, 2, 3, 4)]
    assert "loss 0." in lines[0] or "loss" in lines[0]
    assert lines[-1].startswith("A_D: 4/4 in ")


def test_the_total_comes_from_epochs_and_accumulation(screen):
    fit(Automatic(), max_epochs=3, accumulate_grad_batches=4)
    assert screen.getvalue().splitlines()[-1].startswith("A_D: 6/6 in ")
    assert "loss" in screen.getvalue().splitlines()[0]


def test_a_resumed_fit_starts_where_it_stopped(screen, tmp_path):
    fit(Automatic(), max_steps=8).save_checkpoint(tmp_path / "last.ckpt")
    screen.truncate(0)
    fit(Automatic(), checkpoint=str(tmp_path / "last.ckpt"), max_steps=10)
    lines = screen.getvalue().strip("\0").splitlines()
    assert lines[0].startswith("A_D: 9/10") and lines[-1].startswith("A_D: 10/10 in ")


def test_a_failing_fit_closes_the_bar_and_keeps_its_error(screen):
    with pytest.raises(ArithmeticError, match="NaN"):
        fit(Manual(fail_at=4), max_steps=4)
    assert screen.getvalue().splitlines()[-1].startswith("A_D: 2/4 stopped after ")


@pytest.mark.parametrize(
    ("module", "batches", "took", "most", "counted"),
    [
        (Automatic, 6, [9, 5, 1, 2, 7, 1], 100, [1, 2, 7, 1]),  # the first two are slow
        (Automatic, 6, [9, 5, 1, 2, 7, 1], 14.5, [1]),  # enough
        (Manual, 8, [9, 5, 1, 2], 100, [1, 2]),  # two batches for each update
        (Automatic, 2, [9, 5], 100, [9, 5]),  # there are no more
    ],
)
def test_the_pace_is_the_median_of_updates_after_the_first(module, batches, took, most, counted, monkeypatch):
    ends = iter([0.0, *np.cumsum(took)])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(ends))))
    pace = Pace(most)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(batches, 2)), batch_size=1)
    trainer = pl.Trainer(max_epochs=1, callbacks=[pace], logger=False, enable_checkpointing=False, accelerator="cpu",
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module(), data)
    assert pace.counted == pytest.approx(counted) and pace.seconds == pytest.approx(float(np.median(counted)))
