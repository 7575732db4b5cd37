"""Every logger gets each update of unlearning, and ends with its run."""

import csv
from pathlib import Path

import pytest
from helpers import offline
from helpers.cli import FORGET, KGA, TINY, kga

UPDATES = 3


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("loggers")


def logged(output: Path, logger: str, seed: int = 0) -> Path:
    """The folder of a run with a logger."""
    before = set(output.glob("runs/*"))
    outcome = kga(*TINY, FORGET, *KGA, f"output={output}", f"logger={logger}", f"seed={seed}", "method.alpha=1.5",
                  f"store={output}/store-{logger}", WANDB_MODE="offline", WANDB_SILENT="true")  # fmt: skip
    assert outcome.code == 0, outcome.errors
    (folder,) = set(output.glob("runs/*")) - before or {next(iter(before))}
    return folder


def test_csv_has_a_row_per_update(tmp_path):
    folder = logged(tmp_path, "csv")
    (path,) = folder.rglob("metrics.csv")
    rows = [row for row in csv.DictReader(path.open()) if row["unlearn/a"]]
    own = list(csv.DictReader((folder / "updates.csv").open()))
    assert len(rows) == len(own) == UPDATES
    assert [float(row["unlearn/a"]) for row in rows] == pytest.approx([float(row["a"]) for row in own])


def test_tensorboard_has_a_point_per_update(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = logged(tmp_path, "tensorboard")
    points = 0
    for path in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(path))
        events.Reload()
        points += len(events.Scalars("unlearn/a")) if "unlearn/a" in events.Tags()["scalars"] else 0
    assert points == UPDATES


def test_wandb_runs_offline_and_ends_with_the_run(tmp_path):
    """Two runs of one process are two W&B runs; each is read back by W&B's own tool."""
    for seed in (0, 1):
        folder = logged(tmp_path, "wandb", seed)
        (part,) = offline.folders(folder)
        history = [record["item"] for record in offline.of(offline.records(part), "history")]
        assert len([item for item in history if "unlearn/a" in item]) == UPDATES
    import wandb

    assert wandb.run is None
