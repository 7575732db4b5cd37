"""Figures are SVG that takes its colours from the page."""

import re

import numpy as np
import pytest
from helpers.fake_runs import fake_examples, fake_updates

from kga.report import figures


def all_figures() -> list[str]:
    examples = fake_examples(("original", "retrain", "unlearned"))
    return [
        figures.gap_curves(fake_updates()),
        figures.curve(fake_updates(), "lr", "learning rate"),
        figures.loss_histogram(examples, "forget"),
    ]


@pytest.mark.parametrize("svg", all_figures(), ids=("gap", "curve", "histogram"))
def test_figures_are_themed_and_refer_to_nothing_outside(svg):
    assert svg.startswith("<svg viewBox=") and svg.rstrip().endswith("</svg>")
    assert "var(--ink)" in svg and not re.search(r"#[0-9a-f]{6}\b", svg)
    assert not re.search(r"(?:src|href)=\"(?!#)|url\((?!#)|<script|@import", svg)
    assert "<g id=" not in svg


def test_the_same_data_give_the_same_figure():
    assert all_figures() == all_figures()


def test_the_gap_is_shaded_by_its_sign():
    updates = fake_updates()
    assert "var(--away)" in figures.gap_curves(updates) and "var(--towards)" in figures.gap_curves(updates)
    below = updates.assign(a=updates["g"] - 0.1)
    shaded = re.findall(r'<path d="([^"]*)"[^>]*var\(--towards\)', figures.gap_curves(below))
    assert all(len(path) < 200 for path in shaded)  # the legend's patch alone


def test_long_runs_are_thinned():
    assert len(figures.gap_curves(fake_updates(50_000))) < 150_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("losses", "shown"), [([np.nan, np.inf, 0.5], True), ([0.0, 0.0, 0.0], True), ([np.nan, np.nan, np.nan], False)]
)
def test_histograms_survive_extreme_losses(losses, shown):
    examples = fake_examples(("original", "unlearned"), size=3)
    examples.loc[(examples["split"] == "test") & (examples["model"] == "unlearned"), "loss"] = losses
    svg = figures.loss_histogram(examples, "test")
    assert "before (original)" in svg and ("after (unlearned)" in svg) is shown
