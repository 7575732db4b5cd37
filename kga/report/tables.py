"""The main tables: a line per model, method and setting, the best of each column marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from kga.report import summary
from kga.report.paired import BOUNDS, Comparison, comparisons, explained, own_part
from kga.report.select import on_trials, results
from kga.report.settings import GROUP, in_order
from kga.report.tidy import VALUE

LOSS = "loss"  # the attack that every model and task can have
BEST, SECOND = "best", "second"
_NAMING = ("model", "setting", "seeds")
_GENERATION = ("BLEU", "PPL")
_TIE = 1e-9  # relative difference up to which two numbers are one


class Cell(NamedTuple):
    """A number over seeds, as `aggregate` gives it."""

    mean: float
    std: float
    distance: float
    seeds: int


@dataclass(frozen=True)
class Line:
    """One line of a table. cells: text by column; marks: BEST or SECOND by column; own: the setting beyond the request."""

    role: str
    request: str
    cells: Mapping[str, str]
    marks: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    @property
    def own(self) -> str:
        return own_part(self.cells["setting"], self.request)


@dataclass(frozen=True)
class MainTable:
    """One (task, data, model): a line per row with the columns of `header`; `metric` is what its shares are.

    `bleu`: what the column BLEU shows; empty for tasks whose models generate nothing, which lack it and PPL. `attack`: whose
    AUC the column MIA shows; empty where nothing was attacked, and there is none. `comparisons`: the best method against the
    next, of each request. `trials`: what is to be said of those.
    """

    group: tuple[str, ...]
    metric: str
    lines: list[Line]
    bleu: str = ""
    attack: str = ""
    comparisons: Sequence[Comparison] = ()
    trials: str = ""

    @property
    def title(self) -> str:
        return " / ".join(self.group)

    @property
    def header(self) -> tuple[str, ...]:
        generation, attack = _GENERATION if self.bleu else (), ("MIA",) if self.attack else ()
        return (*_NAMING, *summary.SPLITS, *generation, "JSD", "ToW", *attack, "seconds")

    @property
    def requests(self) -> list[tuple[str, list[Line]]]:
        """The lines by request, each with its own A_D and A_R."""
        parts: dict[str, list[Line]] = {}
        for line in self.lines:
            parts.setdefault(line.request, []).append(line)
        return list(parts.items())

    @property
    def legend(self) -> str:
        """What the numbers are."""
        generation = f"{self.bleu} of the outputs on test; PPL: perplexity on the forget set; " if self.bleu else ""
        attack = f"; MIA: AUC of the {self.attack} attack, to be as the retrained model's" if self.attack else ""
        return (
            f"{self.metric[:1].upper()}{self.metric[1:]} in % on {', '.join(summary.SPLITS)}; {generation}"
            f"JSD to the retrained model on the forget set in nats; ToW: tug of war{attack}"
        )

    @property
    def testing(self) -> str:
        """What the comparisons' p are."""
        return explained(self.comparisons)

    @property
    def marking(self) -> str:
        """What the marks mean; empty where nothing is marked."""
        if not any(line.marks for line in self.lines):
            return ""
        where = " of each request" if len(self.requests) > 1 else ""
        return (
            f"best and second best method{where}, of those with the most seeds: on average closest to the retrained model of the "
            "same seed, in JSD the least, in ToW the most, in seconds the fewest"
        )


def main_tables(aggregated: pd.DataFrame, values: pd.DataFrame | None = None) -> list[MainTable]:
    """The main table of every (task, data, model). Of each request: noise floor, A_R and the original first, then methods.

    Args:
        aggregated: numbers over seeds of what is to be shown, as `aggregate` gives them.
        values: the numbers of single seeds, trials among them, as `tidy` gives them; without them no methods are compared.
    """
    parts = {} if values is None else dict(iter(values.groupby(GROUP, sort=False)))
    return [_main_table(group, part, parts.get(group)) for group, part in aggregated.groupby(GROUP, sort=True)]


def _main_table(group: tuple[str, ...], part: pd.DataFrame, values: pd.DataFrame | None) -> MainTable:
    task, metric = group[0], part["score_metric"].iloc[0]
    rows = [(*name, numbers) for name, numbers in part.groupby(["request", "role", "method", "setting"], sort=False)]
    known = [row for row in rows if row[1] in summary.LABELS and (row[-1]["quantity"] == "utility").any()]
    known.sort(key=lambda row: (in_order(row[0]), list(summary.LABELS).index(row[1]), row[2], in_order(row[3])))
    attacks = _attacks(part)
    found = [_line(row[:-1], row[-1], (metric, summary.BLEU.get(task), attacks.get(row[0], ""))) for row in known]
    rivals = [
        (line, cells)
        for (line, cells), row in zip(found, known, strict=True)
        if row[1] == "unlearned" and row[2] not in BOUNDS
    ]
    _mark(rivals)
    name = summary.bleu_name(task) if task in summary.BLEU else ""
    named = " / ".join(sorted(set(attacks.values())))
    compared, trials = ((), "") if values is None else (comparisons(results(values)), on_trials(values))
    return MainTable(group, summary.metric_name(metric), [line for line, _ in found], name, named, compared, trials)


def _attacks(part: pd.DataFrame) -> dict[str, str]:
    """By request the attack of the column MIA: loss; without it the one that is farthest from A_R's AUC (from .5).

    One attack for all lines; where a request's runs set it differently, as most of them do. Empty where nothing was attacked.
    """
    aucs = part[(part["quantity"] == "membership") & (part["metric"] == "auc")]
    if aucs.empty:
        return {}
    names = aucs["split"].str.partition(", ")[0]
    chosen = LOSS if (names == LOSS).any() else names.loc[_farthest(aucs)]
    own = aucs[names == chosen]
    return {str(request): str(splits.value_counts().idxmax()) for request, splits in own.groupby("request")["split"]}


def _farthest(aucs: pd.DataFrame) -> object:
    """The row whose AUC tells an unlearned model most clearly from A_R."""
    target = aucs[aucs["role"] == "retrain"].groupby("split")["mean"].mean()
    distance = (aucs["mean"] - aucs["split"].map(target).fillna(0.5)).abs().where(aucs["role"] == "unlearned")
    return distance.fillna(-1).idxmax()


def _line(
    row: tuple[str, str, str, str], numbers: pd.DataFrame, shown: tuple[str, str | None, str]
) -> tuple[Line, dict[str, Cell]]:
    """The line, and by column the numbers behind those of its cells that are of all its seeds.

    row: request, role, method, setting. shown: the main metric, BLEU and attack that the columns show.
    """
    (request, role, method, setting), (metric, bleu, attack) = row, shown
    known = {tuple(row[:3]): Cell(*row[3:]) for row in numbers[[*VALUE, *Cell._fields]].itertuples(index=False)}
    perplexity = ("utility", "forget", "perplexity")
    wanted = {
        **{split: (("utility", split, metric), 100, ".1f") for split in summary.SPLITS},
        "BLEU": (("utility", "test", bleu), 1, ".1f"),
        "PPL": (perplexity, 1, summary.perplexity_format(known[perplexity].mean if perplexity in known else 0.0)),
        "JSD": (("forgetting", "forget", "jsd"), 1, ".3f"),
        "ToW": (("score", "", "tow"), 1, ".3f"),
        "MIA": (("membership", attack, "auc"), 1, ".2f"),
        "seconds": (("seconds", "", "seconds"), 1, ".1f"),
    }
    seeds = int(numbers["seeds"].max())
    line = {"model": (method or summary.LABELS[role]) + _ended(known), "setting": setting, "seeds": str(seeds)}
    line |= {name: _written(known.get(key), seeds, scale, form) for name, (key, scale, form) in wanted.items()}
    if role == "retrain":
        line |= {"JSD": "0", "ToW": "1"}
    return Line(role, request, line), {
        name: known[key] for name, (key, *_) in wanted.items() if key in known and known[key].seeds == seeds
    }


def _ended(known: Mapping[tuple[str, ...], Cell]) -> str:
    """In how many runs unlearning ended before its updates did."""
    stopped = known.get(("unlearning", "", "stopped"))
    return f" (stopped early in {stopped.mean * stopped.seeds:.0f})" if stopped and stopped.mean else ""


def _written(cell: Cell | None, seeds: int, scale: float, form: str) -> str:
    """The mean and deviation, and of how many seeds where the line has more."""
    if cell is None:
        return "-"
    fewer = f" (n={cell.seeds})" if cell.seeds < seeds else ""
    return spread(cell.mean, cell.std, scale, form) + fewer


def _rank(column: str, cell: Cell) -> float:
    """How far a number is from the best there could be; NaN where that cannot be said."""
    own = {"JSD": 1, "ToW": -1, "seconds": 1}  # the less the better, or the more; others as near to A_R as can be
    return own[column] * cell.mean if column in own else cell.distance


def _mark(found: Sequence[tuple[Line, Mapping[str, Cell]]]) -> None:
    """Marks best and second of each column and request where there are two or more to compare; equal ones alike.

    What fewer seeds found competes with nothing: it may be luck.
    """
    requests: dict[str, list[tuple[Line, Mapping[str, Cell]]]] = {}
    for line, cells in found:
        requests.setdefault(line.request, []).append((line, cells))
    for lines in requests.values():
        for column in dict.fromkeys(name for _, cells in lines for name in cells):
            known = [
                (_rank(column, cells[column]), cells[column].seeds, line) for line, cells in lines if column in cells
            ]
            known = [row for row in known if not math.isnan(row[0])]
            most = max((seeds for _, seeds, _ in known), default=0)
            _mark_column(column, [(rank, line) for rank, seeds, line in known if seeds == most])


def _mark_column(column: str, ranked: list[tuple[float, Line]]) -> None:
    if len(ranked) < 2:
        return
    left, marks = ranked, [BEST, SECOND]
    while marks and left:
        least = min(rank for rank, _ in left)
        equal = [line for rank, line in left if rank - least <= _TIE * max(1.0, abs(least))]
        if len(equal) == len(ranked):
            return  # all alike: none is best
        for line in equal:
            line.marks[column] = marks[0]
        left = [(rank, line) for rank, line in left if line not in equal]
        marks = marks[1:] if len(equal) == 1 else []  # two best: no second


def spread(mean: float, deviation: float, scale: float, form: str) -> str:
    """'74.1 ± 0.3', both in a format such as .1f; the mean alone where there is one seed."""
    known = not math.isnan(deviation)
    return format(scale * mean, form) + (f" ± {format(scale * deviation, form)}" if known else "")
