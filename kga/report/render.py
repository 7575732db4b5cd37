"""Templates and how numbers are written in them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from kga.report import summary

TEMPLATES = Path(__file__).parent / "templates"
_TEXT_SCORES = ("bleu", "chrf")
_COUNTS = ("ks_n", "members", "nonmembers")  # whole numbers, though they may be written as others
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would be an argument of the \\ or the rule before it; so would a star
    "*": "{*}",
    "±": r"$\pm$",
}
_MARKDOWN = {character: f"\\{character}" for character in "\\`*_[]|#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def render(template: str, **context: Any) -> str:
    """Fill a template of this package; an .html.j2 escapes everything that it is given."""
    return _environment(autoescape=template.endswith(".html.j2")).get_template(template).render(**context)


@functools.cache
def _environment(autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number, "decimals": decimals, "latex": latex, "markdown": markdown}
    environment.filters["perplexity"] = summary.perplexity
    return environment


def number(value: Any, metric: str = "") -> str:
    """A value of a result for reading: four decimals, fewer for large numbers; lists and mappings element by element.

    Values of a `metric` that is a BLEU or chrF (0..100), a perplexity, a length or a count have decimals of their own.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if metric == "perplexity":
            return summary.perplexity(value)
        if metric in _COUNTS:
            return f"{value:.0f}"
        if metric.startswith(_TEXT_SCORES) or metric == "length":
            return f"{value:.2f}"
    match value:
        case None:
            return "-"
        case bool() | int() | str():
            return str(value)
        case Mapping():
            return ", ".join(f"{key} {number(item)}" for key, item in value.items())
        case list() | tuple():
            return ", ".join(number(item) for item in value)
    size = abs(value)
    if not math.isfinite(value) or size >= 1e6 or 0 < size < 5e-5:
        return f"{value:.3g}"
    return f"{value:.1f}" if size >= 100 else f"{value:.4f}"


def decimals(value: float | None, places: int) -> str:
    """A number with so many decimals; a dash for none."""
    return "-" if value is None else f"{value:.{places}f}"


def latex(text: object) -> str:
    """Text with LaTeX's special characters escaped, and without those that it cannot read."""
    known = filter(str.isprintable, " ".join(str(text).split()))
    return "".join(_LATEX.get(character, character) for character in known)


def markdown(text: object) -> str:
    """Text as one cell of a Markdown table."""
    return "".join(_MARKDOWN.get(character, character) for character in " ".join(str(text).split()))
