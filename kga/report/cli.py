"""`kga-report PATH...`: collects results and writes the tables over them."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kga.console import columns_that_fit, console
from kga.errors import UserError
from kga.report.gather import gather
from kga.report.select import select
from kga.report.tables import BEST, SECOND, Line, MainTable
from kga.report.writers import WRITERS, write

_LEAST_MODEL = 10  # characters of the terminal table's first column, which is wrapped
_STYLES = {BEST: "bold", SECOND: "underline"}
_SPARE = ("PPL", "seconds", "ToW")  # columns that a narrow terminal goes without, in this order


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, or 2 after a mistake of the user, told in one line."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows ? and not a traceback
    try:
        _report(arguments.paths, _formats(arguments.to), arguments.output, arguments.select)
    except UserError as error:
        print(f"kga-report: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kga-report", description="Collect the results of runs into tables over seeds."
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="folder with runs below it, a result.json or a sweep.json"
    )
    parser.add_argument("--to", default="html,csv", metavar="FORMATS", help=f"comma-separated: {','.join(WRITERS)}")
    parser.add_argument("--select", action="store_true", help="show which setting of each method the tuning rule takes")
    parser.add_argument("--output", default="kga-report", type=Path, metavar="DIR", help="where to write (kga-report)")
    return parser


def _formats(text: str) -> list[str]:
    formats = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in formats if name not in WRITERS]
    if unknown or not formats:
        raise UserError(f"--to {text}: name one or more of {', '.join(WRITERS)}")
    return formats


def _report(paths: list[Path], formats: list[str], output: Path, selecting: bool) -> None:
    collected = gather(paths)
    trials = select(collected.values) if selecting else None
    for table in collected.tables:
        console.print(_terminal_table(table))
        for comparison in table.comparisons:
            console.print(Text(comparison.sentence))
        for told in filter(None, (table.testing, table.trials)):
            console.print(Text(told, "dim"))
        console.print()
    if trials is not None:
        console.print(_selection_table(trials))
    for run in collected.failed:
        console.print(Text.assemble(("failed: ", "red"), f"{run.folder}: {run.error}"), soft_wrap=True)
    for lost in collected.missing:
        told = " ".join(filter(None, (lost.name, *lost.overrides, f"({lost.error})" if lost.error else "")))
        console.print(Text.assemble(("no result: ", "yellow"), f"{told}: {lost.state}"), soft_wrap=True)
    console.print(collected.counted)
    for path in write(collected, formats, output):
        console.print(Text.assemble("Wrote ", (str(path), "bold")), soft_wrap=True)


def _selection_table(trials: pd.DataFrame) -> Table:
    shown = Table(title="Trials, the chosen ones marked", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for name in ("", "method", "n", "validation lost", "gap", "setting"):
        shown.add_column(name, justify="left" if name in ("", "method", "setting") else "right", overflow="fold")
    for row in trials.sort_values(["method", "gap"]).itertuples():
        cells = (row.method, str(row.seeds), f"{row.validation_loss:+.3f}", f"{row.gap:.3f}")
        setting = row.setting.replace("method.", "").replace(", ", "\n")
        shown.add_row("*" if row.chosen else "", *cells, Text(setting), style="bold" if row.chosen else "")
    return shown


def _terminal_table(table: MainTable) -> Table:
    numbers = [_terminal_numbers(table, line) for line in table.lines]
    columns = {name: [part for line in numbers for part in line[name].split("\n")] for name in (numbers or [{}])[0]}
    spare = _SPARE if table.bleu or table.attack else ()
    names = columns_that_fit(columns, spare, console.width - _LEAST_MODEL)
    left_out = [name for name in columns if name not in names]
    below = [f"MIA: AUC of the {table.attack} attack"] if "MIA" in names else []
    below += [f"no room here for: {', '.join(left_out)}"] if left_out else []
    shown = Table(
        title=f"{table.title}: {table.metric} in %, mean±deviation over n seeds",
        title_justify="left",
        title_style="bold",
        caption="\n".join(below) or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    shown.add_column("model", min_width=_LEAST_MODEL, overflow="fold")
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    several, request = len(table.requests) > 1, None
    for line, cells in zip(table.lines, numbers, strict=True):
        if several and line.request != request:
            shown.add_section()
            shown.add_row(Text(line.request.replace(", ", "\n") or "as set by default", "italic"))
        request = line.request
        # The setting stands under the model: the table fits 80 columns however many keys differ.
        own = line.own if several else line["setting"]
        setting = f"\n{own.replace(', ', chr(10))}" if own else ""
        marked = (Text(cells[name], _STYLES.get(line.marks.get(name, ""), "")) for name in names)
        shown.add_row(Text.assemble(line["model"], (setting, "dim")), *marked)
    return shown


def _terminal_numbers(table: MainTable, line: Line) -> dict[str, str]:
    """The numbers of a line by column, as narrow as they get: of how many seeds stands below, seconds have no deviation."""
    numbers = {"n" if name == "seeds" else name: line[name] for name in table.header[2:]}
    numbers["seconds"] = re.sub(r" ± \S+", "", numbers["seconds"])
    return {name: text.replace(" ± ", "±").replace(" (", "\n(") for name, text in numbers.items()}


if __name__ == "__main__":
    sys.exit(main())
