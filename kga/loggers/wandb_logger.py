"""A W&B run for each run of kga: named by its key, so that it goes on after a requeue; its tables and curves at the end."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import wandb
from pytorch_lightning.loggers import WandbLogger

from kga.console import note
from kga.errors import UserError
from kga.loggers.tracking import numbers
from kga.report import summary
from kga.report.gather import Collected
from kga.report.subject import CHOICE, subjects, swept_keys
from kga.report.sweep_figures import swept_curves
from kga.report.tables import MainTable

STEP = "trainer/global_step"
# What methods say of an update, and of which of it a run's summary keeps extremes.
EXTREMES = ("a", "g", "retain", "forget", "loss", "error", "utility_validation", "utility_forget")
LAST = ("sign", "a0", "lr")
SECONDS = {
    "init_timeout": 30.0,  # that a server has to answer; what it missed can be synced
    "finish_timeout": 60.0,
    "x_transaction_log_flush_interval": 2.0,  # of what a killed process may lose
}
UNANSWERED = "a server that does not answer is not asked again by this process"
HIDDEN = "(not sent without logger.wandb.texts=true)"
_told: set[str] = set()  # what has been said in this process: once is enough in a sweep


class RunLogger(WandbLogger):
    """Lightning's logger around a W&B run of kga's own.

    group: the sweep's name if None. mode: "online", "offline" or "disabled"; if None as WANDB_MODE says, else online with a
    key and offline without one. texts: whether sample outputs go there, too (only such as the report may show), and what
    `forget.value` says: the word, label or group is as much a trace of what was forgotten.
    """

    def __init__(
        self, save_dir: str, project: str = "kga", entity: str | None = None, group: str | None = None,
        tags: Sequence[str] = (), mode: str | None = None, texts: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(save_dir=save_dir, project=project)
        self.place = {"project": project, "entity": entity, "group": group, "mode": mode or _mode()}
        self.tags, self.texts = list(tags), texts

    def begin(self, cfg: Mapping, key: str, folder: Path) -> None:
        """Starts the W&B run, or goes on with it. Exact names are defined before Lightning's glob would win over them."""
        choices = cfg["choices"]
        own = {"group": self.place["group"] or cfg["sweep"]}
        self.private, self.output = () if self.texts else named(cfg), folder.parent.parent
        self._experiment = run = start(
            self.place | own, folder, self.texts, id=key[:16], name=folder.name, job_type=choices["method"],
            tags=[cfg["task"]["name"], choices["data"], choices["model"], f"forget={choices['forget']}", *self.tags],
            config=_described(cfg, self.private),
        )  # fmt: skip
        run.define_metric(STEP, hidden=True)
        for name in EXTREMES:
            run.define_metric(f"unlearn/{name}", step_metric=STEP, summary="min,max,last")
        for name in LAST:
            run.define_metric(f"unlearn/{name}", step_metric=STEP, summary="last")

    def conclude(self, result: Mapping, folder: Path) -> None:
        """Numbers of the result, the comparison as a table, ROC curves and losses."""
        run = self.experiment
        run.summary.update(dict(numbers(result)) | {"status": "completed", "error": None} | _extremes(folder))
        shown: dict[str, Any] = {"comparison": _comparison(result)}
        examples = pd.read_parquet(folder / "examples.parquet")
        shown |= _losses(examples) | _curves(result)
        if self.texts and (folder / "samples.parquet").is_file():
            shown["samples"] = wandb.Table(dataframe=pd.read_parquet(folder / "samples.parquet").astype(str))
        run.log(shown)

    def suspend(self) -> None:
        """Ends this part of the W&B run, which goes on under the same id when its job does."""
        run = self.experiment
        run.summary.update({"status": "interrupted"})
        run.mark_preempting()
        finish(run, failed=True, output=self.output)

    def end(self, error: BaseException | None) -> None:
        """Ends the W&B run; a failed one with its error. One that was interrupted goes on under the same id."""
        run = self.experiment
        if isinstance(error, Exception):
            run.summary.update({"status": "failed", "error": masked(str(error), self.private)})
        elif error is not None:
            run.summary.update({"status": "interrupted"})
        finish(run, failed=error is not None, output=self.output)

    def summarise(self, name: str, collected: Collected, folder: Path) -> None:
        """A W&B run for a whole sweep, in its group: the tables over seeds, what alpha does, and how many runs there are."""
        failed = len(collected.failed) + sum(run.state == "failed" for run in collected.missing)
        counts = {"completed": len(collected.completed), "failed": failed}
        shown = partial(_without_names, collected) if not self.texts else str
        place = self.place | {"group": self.place["group"] or name}
        run = start(
            place, folder, self.texts, id=_identifier(name), name=name, job_type="sweep", tags=["sweep", *self.tags]
        )
        run.summary.update({"runs": len(collected.runs) + len(collected.missing)} | counts)
        tables = {}
        for table in collected.tables:
            cells = [[shown(line[column]) for column in table.header] for line in table.lines]
            tables[f"table/{_titled(table)}"] = wandb.Table(columns=list(table.header), data=cells)
        run.log(tables | _swept(collected, shown))
        finish(run, failed=failed > 0, output=folder.parent.parent)


def named(cfg: Mapping) -> tuple[str, ...]:
    """What a request names of the examples to be forgotten: words, labels, groups."""
    value = (cfg.get("forget") or {}).get("value")
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return tuple(str(part) for part in values)


def masked(text: str, private: Sequence[str]) -> str:
    """A text without some others."""
    for part in private:
        text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", HIDDEN, text)
    return text


def _without_names(collected: Collected, text: str) -> str:
    """A setting without what requests name, as the report writes it."""
    requests = (run.result["config"].get("forget") or {} for run in collected.completed if "config" in run.result)
    named = {f"forget.value={request['value']}" for request in requests if request.get("value") is not None}
    for setting in sorted(named, key=len, reverse=True):
        text = text.replace(setting, f"forget.value={HIDDEN}")
    return text


def _described(cfg: Mapping, private: Sequence[str]) -> dict:
    """The resolved config as W&B gets it."""
    told = {name: value for name, value in cfg.items() if name != "logger"}
    return told | ({"forget": {**cfg["forget"], "value": HIDDEN}} if private else {})


def start(place: Mapping, folder: Path, texts: bool, **described: object):
    """A W&B run, the same again for the same id; offline where the server does not answer, once and for all.

    texts: whether the command line may name what is forgotten. UserError for settings that W&B refuses.
    """
    if UNANSWERED in _told:
        place = {**place, "mode": "offline"}
    options = {"dir": str(folder), "resume": "allow", **place, **described}
    with nullcontext() if texts else _command_without_names():
        try:
            return wandb.init(**options, settings=_settings())
        except (wandb.errors.UsageError, ValueError) as error:
            raise UserError(f"logger.wandb.*: W&B does not take these settings: {_line(error)}") from error
        except wandb.Error as error:
            if place["mode"] == "offline":
                raise
            _say(f"W&B does not answer ({_line(error)}): going on offline")
            _told.add(UNANSWERED)
            wandb.teardown()  # else W&B's service holds the id of the failed start to be in use
            return wandb.init(**options | {"mode": "offline"}, settings=_settings())


def _settings() -> wandb.Settings:
    return wandb.Settings(silent=_silent(), **SECONDS)


@contextmanager
def _command_without_names() -> Iterator[None]:
    """W&B reads the command line when a run starts, and has no setting to keep a part of it."""
    whole = sys.argv
    sys.argv = [re.sub(r"(?s)(\bforget\.value=).*", rf"\1{HIDDEN}", part) for part in whole]
    try:
        yield
    finally:
        sys.argv = whole


def _line(error: Exception) -> str:
    """What W&B says, in a line."""
    return " ".join(str(error).split())[:200]


def finish(run, failed: bool, output: Path) -> None:
    """Ends a W&B run and says where it is."""
    offline, url = run.offline, None if run.disabled or run.offline else run.url
    run.finish(exit_code=int(failed))
    if offline and not run.disabled:
        _say(f"W&B: kept offline; to upload: {_login()}wandb sync {output}/*/*/wandb/offline-run-*")
    elif url:
        note(f"W&B: {url}")


def _say(text: str) -> None:
    """A note that is made once in a process."""
    if text not in _told:
        _told.add(text)
        note(text)


def _silent() -> bool:
    """W&B's own lines are shown where the environment asks for them."""
    return os.environ.get("WANDB_SILENT", "true").lower() == "true"


def _login() -> str:
    """What comes before an upload where there is no key yet."""
    return "" if wandb.setup().settings.api_key else "wandb login (there is no key here), then "


def _mode() -> str:
    """As the environment says; else online where there is a key."""
    if chosen := os.environ.get("WANDB_MODE"):
        return chosen
    wandb.setup(wandb.Settings(silent=_silent()))
    try:
        return "online" if wandb.login(prompt=False, verify=False) else "offline"
    except (wandb.Error, ValueError) as error:
        raise UserError(
            f"logger=wandb: the key is none ({_line(error)}): wandb login, or WANDB_MODE=offline"
        ) from error


def _extremes(folder: Path) -> dict[str, float]:
    """Least and greatest of the updates: W&B's own are of the last part alone where a run was interrupted."""
    path = folder / "updates.csv"
    if not path.is_file():
        return {}
    updates = pd.read_csv(path)
    names = [name for name in EXTREMES if name in updates]
    return {f"unlearn/{name}.{end}": getattr(updates[name], end)() for name in names for end in ("min", "max")}


def _comparison(result: Mapping) -> wandb.Table:
    """The main table: a row for each model."""
    rows = summary.main_rows(result)
    columns = ["model", *summary.SPLITS, "jsd", "tow", "seconds"]
    cells = [
        [row.label, *(row.utility[split] for split in summary.SPLITS), row.jsd, row.tow, row.seconds] for row in rows
    ]
    return wandb.Table(columns=columns, data=cells)


def _losses(examples: pd.DataFrame) -> dict[str, wandb.Histogram]:
    found = {}
    for (model, split), rows in examples[examples["split"].isin(summary.SPLITS)].groupby(["model", "split"]):
        finite = rows["loss"].to_numpy(float)
        finite = finite[np.isfinite(finite)]
        if len(finite):
            found[f"losses/{split}/{model}"] = wandb.Histogram(finite)
    return found


def _curves(result: Mapping) -> dict[str, Any]:
    """An ROC curve of every attack: D_f against unseen examples, a line for each model."""
    rates = dict((result.get("curves") or {}).get("roc") or {})
    false = [0.0, *rates.pop("fpr", ())]
    return {
        f"roc/{attack}": wandb.plot.line_series(
            xs=false, ys=[[0.0, *true] for true in models.values()], keys=list(models),
            title=f"ROC of {attack}", xname="false positives",
        )
        for attack, models in rates.items()
    }  # fmt: skip


def _swept(collected: Collected, shown: Callable[[str], str]) -> dict[str, Any]:
    """Tug of war, and utility on the forget set, over alpha and whatever else was swept: the lines of the report's figures."""
    found = {}
    several = len(collected.tables) > 1
    for subject in subjects(collected):
        numbers = {
            "tug of war": ("score", "", "tow"),
            "utility on the forget set": ("utility", "forget", subject.metric),
        }
        for key, (what, number) in product((key for key in swept_keys(subject) if key != CHOICE), numbers.items()):
            curves = swept_curves(subject, key, number)
            title = f"{what} over {key}" + (f", {_titled(subject.table)}" if several else "")
            if curves:
                found[f"sweep/{title}"] = wandb.plot.line_series(
                    xs=[curve.x.tolist() for curve in curves], ys=[curve.mean.tolist() for curve in curves],
                    keys=[shown(curve.label) for curve in curves], title=title, xname=key,
                )  # fmt: skip
    return found


def _titled(table: MainTable) -> str:
    """A table's title without the slashes that part folders of W&B's."""
    return ", ".join(table.group)


def _identifier(name: str) -> str:
    """A sweep's name as the id of a W&B run."""
    return re.sub(r"[^\w-]+", "-", name)
