"""What a person sees in the terminal: stages, notes, one progress bar at a time, and the result as one table."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kga.report import membership, summary

PLAIN_INTERVAL = 20.0  # seconds between two lines of progress where there is no terminal
_LABEL, _LABEL_BESIDE_BLEU = 20, 17  # characters of a model's label at most: the title names the method in full
_SHARE = 12  # characters of a share beside its distance, with the blank before them
_STYLES = {"good": "green", "fair": "yellow", "bad": "red", "": "dim"}


def is_first_process() -> bool:
    """Whether this process is the first of those that a launcher has started, as launchers announce it."""
    found = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((int(value) for value in found if value), 0) == 0


# Names, labels and paths come from users: nothing in them is markup. Only rank zero speaks.
console = Console(markup=False, highlight=False, emoji=False, quiet=not is_first_process())


class Advance(Protocol):
    """Moves a bar on by n; `info` is shown beside it."""

    def __call__(self, n: int = 1, info: str = "") -> None: ...


def stage(title: str, detail: str = "") -> None:
    """Print the heading of a stage: a bold line, the detail beside it."""
    console.print(Text.assemble((title, "bold"), f"  {detail}" if detail else ""), soft_wrap=True)


def note(text: str) -> None:
    """Print a dim line."""
    console.print(Text(text, style="dim"), soft_wrap=True)


@contextmanager
def progress(description: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """Show progress while the block runs; yields `advance(n=1, info="")`.

    A bar with the remaining time on a terminal; elsewhere (a job's log, CI) a line at most every 20 s and a closing one
    with the seconds. `total` None: not known. `done`: units that an earlier, interrupted run has finished.
    """
    bar = _bar if console.is_terminal else _lines
    with bar(description, total, done) as advance:
        yield advance


@contextmanager
def _bar(description: str, total: int | None, done: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}", style="dim", markup=False),
    )
    terminal = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    with Progress(*columns, console=console, disable=console.quiet) as bar, _logs_above(terminal):
        task = bar.add_task(description, total=total, completed=done, info="")

        def advance(n: int = 1, info: str = "") -> None:
            bar.update(task, advance=n, **({"info": info} if info else {}))

        yield advance


@contextmanager
def _logs_above(terminal: list[Any]) -> Iterator[None]:
    """Send log lines through the running bar, which prints them above itself.

    rich redirects sys.stdout and sys.stderr; handlers made before (Lightning's, transformers') still hold a stream of
    the terminal and would write into the bar.
    """
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    held = {
        handler: handler.stream
        for logger in loggers
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and any(handler.stream is stream for stream in terminal)
    }
    for handler in held:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in held.items():
            handler.setStream(stream)


@contextmanager
def _lines(description: str, total: int | None, done: int) -> Iterator[Advance]:
    start, first = time.monotonic(), done
    last = start

    def advance(n: int = 1, info: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL:
            last = now
            parts = [_count(done, total), _remaining(now - start, done - first, total and total - done), info]
            note(f"{description}: {', '.join(part for part in parts if part)}")

    finished = False
    try:
        yield advance
        finished = True
    finally:
        ending = "in" if finished else "stopped after"
        note(f"{description}: {_count(done, total)} {ending} {time.monotonic() - start:.1f} s")


def _count(done: int, total: int | None) -> str:
    return str(done) if total is None else f"{done}/{total}"


def _remaining(elapsed: float, done: int, left: int | None) -> str:
    if left is None or done <= 0:
        return ""
    seconds = round(elapsed / done * max(left, 0))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left"


def print_result(result: Mapping[str, Any], report: Path | None = None) -> None:
    """Print a run's main table, what it says in plain words, and where its report lies (readable at 80 columns)."""
    if result.get("status") != "failed":
        console.print()
        table, names = _result_table(result)
        console.print(table)
        note(_legend(result, names))
        if attacks := membership.line(result):
            console.print(attacks)
    for sentence in summary.before_attacks(result):  # what they found stands in their line
        console.print(sentence)
    if report is not None:
        console.print(Text.assemble("Report: ", (str(report), "bold")), soft_wrap=True)


def columns_that_fit(columns: Mapping[str, Sequence[str]], spare: Sequence[str], room: int) -> list[str]:
    """Names of the columns (with their cells) that fit into so many characters, each after a blank.

    Of the spare ones as many are left out as must be, in the order that they are given in.
    """
    widths = {name: 1 + max(map(len, (name, *cells))) for name, cells in columns.items()}
    for name in spare:
        if sum(widths.values()) <= room:
            break
        widths.pop(name, None)
    return list(widths)


def _result_table(result: Mapping[str, Any]) -> tuple[Table, list[str]]:
    """The table, and the names of the numbers that it had room for."""
    title = " / ".join(str(result.get(part)) for part in ("task", "data", "model", "method"))
    table = Table(
        title=f"{title}, seed {result.get('seed')}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    rows = summary.main_rows(result, ("original", "retrain", "unlearned", "noise_floor"))
    numbers = _numbers(rows, summary.generates(result))
    label = min(
        _LABEL_BESIDE_BLEU if summary.generates(result) else _LABEL,
        max((len(row.label) for row in rows), default=_LABEL),
    )
    names = columns_that_fit(numbers, ("PPL",), console.width - label - len(summary.SPLITS) * _SHARE)
    table.add_column("model", no_wrap=True, max_width=label)
    for split in summary.SPLITS:
        table.add_column(f"{split:>6}", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        cells = [_share_cell(row, split, summary.tone(row, rows, split)) for split in summary.SPLITS]
        style = "bold" if row.role == "unlearned" else ""
        table.add_row(row.label, *cells, *(numbers[name][index] for name in names), style=style)
    return table, names


def _numbers(rows: Sequence[summary.Row], generates: bool) -> dict[str, list[str]]:
    """The columns beside the shares: a cell per row."""
    generation = {
        "BLEU": [summary.points(row.bleu) for row in rows],
        "PPL": [summary.perplexity(row.perplexity) for row in rows],
    }
    distances = {"JSD": [_number(row.jsd, 3) for row in rows], "ToW": [_number(row.tow, 3) for row in rows]}
    seconds = {"sec" if generates else "seconds": [_number(row.seconds, 1) for row in rows]}
    return (generation if generates else {}) | distances | seconds


def _legend(result: Mapping[str, Any], names: Sequence[str]) -> str:
    metric = f"{summary.metric_name(summary.main_metric(result))} in %"
    compared = "retrain" in (result.get("utility") or {})
    lines = [f"{metric}, beside it the points to the retrained model" if compared else metric]
    if compared:
        lines.append("JSD to it on the forget set in nats; ToW: tug of war, 1 as the retrained model")
    if "BLEU" in names:
        perplexity = "; PPL: perplexity on the forget set" if "PPL" in names else ""
        lines.append(f"{summary.bleu_name(result['task'])} of the outputs on test{perplexity}")
    return "\n".join(lines)


def _share_cell(row: summary.Row, split: str, tone: str) -> Text:
    """The share, and beside it its distance to the retrained model's, in columns of 5 characters each."""
    cell = Text(f"{summary.points(row.utility[split]):>5}")
    if row.gaps[split] is not None:
        cell.append(f" {summary.signed(row.gaps[split]):>5}", style=_STYLES[tone])
    return cell


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
