"""What could be forgotten, as a table in the terminal (``forget.list=true``)."""

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kga import config
from kga.console import console, note
from kga.inputs import cut_off, load_corpus


def list_candidates(cfg: Mapping) -> None:
    """Prints groups, labels or words of D with their sizes. Nothing is trained or written."""
    corpus, request = load_corpus(cfg), config.build_request(cfg)
    train, reserve = cut_off(cfg, corpus)
    columns, rows = request.candidates(corpus.train, train, reserve)
    table = Table(box=SIMPLE_HEAD)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(value if isinstance(value, str) else f"{value:,}") for value in row))
    console.print(table)
    note(f"{len(rows)} listed; D has {len(train):,} examples, the reserve {len(reserve):,}")
