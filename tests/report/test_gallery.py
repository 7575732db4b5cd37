"""Which figures a report over many runs shows, and what is in them."""

import re

import numpy as np
import pytest
from helpers.fake_sweeps import ALPHAS, METHODS, SIZES, run, write, write_sweeps
from helpers.fake_sweeps import held as curves_of

from kga.curves import FALSE
from kga.report import held
from kga.report.canvas import plain
from kga.report.curves import Curve, Style, key_curves, seconds
from kga.report.gallery import galleries
from kga.report.gather import gather
from kga.report.subject import rest_of, subjects, swept_keys
from kga.report.sweep_figures import _curves, _lines, _places


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    return gather([write_sweeps(tmp_path_factory.mktemp("sweeps"), seeds=(0, 1))])


@pytest.fixture(scope="module")
def drawn(collected):
    return galleries(collected)


def subject(root):
    (found,) = subjects(gather([root]))
    return found


def texts(svg: str) -> set[str]:
    return {text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)}


def test_every_table_has_the_figures_that_its_runs_have_numbers_for(drawn):
    found = {group[1]: [gallery.title for gallery in part] for group, part in drawn.items()}
    assert found == {
        "embedded": ["Utility against forgetting", "By method.alpha", "Cost and membership inference",
                     "Gap alignment over the updates"],
        "news": ["Utility against forgetting", "By difficulty of the request", "Cost"],
        "reviews": ["Utility against forgetting", "By forget.size", "Cost"],
    }  # fmt: skip


def test_figures_are_themed_and_name_what_they_show(drawn):
    figures = [svg for part in drawn.values() for gallery in part for _, svg in gallery.figures]
    assert len(figures) > 20
    for svg in figures:
        assert svg.startswith("<svg viewBox=") and not re.search(r"#[0-9a-f]{6}\b", svg) and "<g id=" not in svg
    tradeoff, close, *_ = drawn["classification", "embedded", "lstm"][0].figures
    assert set(METHODS) - {"none"} | {"retrained (A_R)", "original (A_D)", "noise floor"} <= texts(tradeoff[1])
    assert "gradient_ascent" not in texts(close[1]) and "kga" in texts(close[1]), "it is far off"


def test_zero_has_a_place_on_a_log_axis(drawn):
    alpha = drawn["classification", "embedded", "lstm"][1]
    assert {"0", "0.1", "1", "3", "10", "100"} <= texts(alpha.figures[0][1])


def test_curves_are_means_over_seeds(tmp_path):
    for seed in (0, 1):
        for alpha in ALPHAS[:3]:
            write(tmp_path, run(seed=seed, alpha=alpha))
    found = subject(tmp_path)
    assert swept_keys(found) == ["method.alpha"]
    places = _places(found, "method.alpha")
    (curve,) = _curves(found, places, _lines(found, "method.alpha", places), ("utility", "forget", "accuracy"), 100)
    shares = np.array(
        [[run(seed=s, alpha=a)["utility"]["unlearned"]["forget"]["accuracy"] for s in (0, 1)] for a in ALPHAS[:3]]
    )
    assert curve.x.tolist() == list(ALPHAS[:3]) and curve.label == "kga"
    assert curve.mean == pytest.approx(100 * shares.mean(1)) and curve.std == pytest.approx(100 * shares.std(1, ddof=1))


def test_other_keys_make_other_lines_and_followers_none():
    configs = {
        str(number): {"forget.size": size, "new.size": 2 * size, "method.alpha": alpha}
        for number, (size, alpha) in enumerate((size, alpha) for size in (50, 100) for alpha in (1, 3))
    }
    assert set(rest_of(configs, "forget.size").values()) == {"method.alpha=1", "method.alpha=3"}


def test_a_search_without_two_points_on_a_line_is_not_drawn(tmp_path):
    for seed, (alpha, size) in enumerate(zip(ALPHAS[1:], (*SIZES, 7), strict=True)):
        result = run(seed=100, alpha=alpha, size=200)
        result["config"]["method"] |= {"rate": [0.3, 0.1, 0.2, 0.3, 0.1][seed], "batch": size}
        write(tmp_path, result)
    (gallery, *_) = galleries(gather([tmp_path])).values()
    titles = [part.title for part in gallery]
    assert "By method.rate" not in titles and "Utility against forgetting" in titles


def test_without_a_retrained_model_there_is_no_target(tmp_path):
    result = run()
    del result["utility"]["retrain"], result["utility"]["noise_floor"]
    write(tmp_path, result | {"forgetting": {}, "score": {}, "membership": {}})
    (part,) = galleries(gather([tmp_path])).values()
    assert "kga" in texts(part[0].figures[0][1]) and "retrained (A_R)" not in texts(part[0].figures[0][1])


def test_the_roc_is_the_mean_over_seeds_of_the_best_methods(tmp_path, monkeypatch):
    for method in METHODS:
        for seed in range(3):
            write(tmp_path, run(method, seed), curves=True)
    drawn = {}
    monkeypatch.setattr(held, "rocs", lambda curves, grid, looks, title: drawn.update(curves, grid=grid) or "svg")
    caption, _ = held.roc_figure(subject(tmp_path))
    assert "loss attack" in caption and f"of {len(METHODS) - 1} methods" not in caption
    assert {"kga", "retrained (A_R)", "original (A_D)"} < set(drawn)
    shares = [curves_of(run("kga", seed))["roc"]["loss"]["unlearned"] for seed in range(3)]
    seen = FALSE >= 1 / 200 - 1e-9  # of 200 non-members
    assert drawn["grid"] == pytest.approx(FALSE[seen], abs=1e-5)
    assert drawn["kga"] == pytest.approx(np.mean(shares, axis=0)[seen])


def test_a_setting_with_fewer_seeds_has_no_roc(tmp_path):
    for alpha, seeds, tow in ((1.0, (0, 1), 0.8), (3.0, (0,), 0.99)):
        for seed in seeds:
            write(tmp_path, run(seed=seed, alpha=alpha) | {"score": {"unlearned": {"tow": tow}}}, curves=True)
    (runs,) = held._best_settings(subject(tmp_path)).values()
    assert [run.result["config"]["method"]["alpha"] for run in runs] == [1.0, 1.0]


def test_rates_of_another_grid_are_not_averaged_with_the_first_ones(tmp_path, monkeypatch):
    for seed in range(3):
        result = run("npo", seed)
        result["curves"] = curves_of(result)
        if seed == 2:
            result["membership"]["unlearned"]["loss"]["nonmembers"] = None
            for rates in (result["curves"]["roc"], result["curves"]["roc"]["loss"]):
                rates |= {name: values[1:] for name, values in rates.items() if isinstance(values, list)}
        write(tmp_path, result)
    drawn = {}
    monkeypatch.setattr(held, "rocs", lambda curves, grid, looks, title: drawn.update(curves) or "svg")
    held.roc_figure(subject(tmp_path))
    shares = [curves_of(run("npo", seed))["roc"]["loss"]["unlearned"] for seed in range(2)]
    assert drawn["npo"] == pytest.approx(np.mean(shares, axis=0)[FALSE >= 1 / 1000 - 1e-9])


def test_gaps_are_shown_for_a_few_settings(collected):
    (found,) = [part for part in subjects(collected) if part.table.group[1] == "embedded"]
    note, figures = held.gap_figures(found)
    assert note == "4 of 6 settings." and figures[0][0] == "kga alpha=0.0, 2 seeds"


def test_names_from_data_are_plain_text():
    style = Style("#080100")
    names = ["<script>alert(1)</script>", "$\\frac{", "_hidden", "a\x00b", "x" * 100]
    curves = [
        Curve(name, np.array([1.0, 2.0]), np.array([1.0, number]), np.zeros(2), style)
        for number, name in enumerate(names)
    ]
    svg = key_curves(curves, "<b>", "y & z")
    assert "<script" not in svg and "<b>" not in svg and "\x00" not in svg
    shown = texts(svg)
    assert {
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "$\\frac{",
        "\N{ZERO WIDTH SPACE}_hidden",
        "a b",
        "&lt;b&gt;",
    } <= shown
    assert len(plain("x" * 100)) < 50


@pytest.mark.parametrize(
    ("value", "written"), [(0.0123, "0.012 s"), (1.0, "1.0 s"), (59.94, "59.9 s"), (1234.5, "1234 s")]
)
def test_seconds_have_digits_by_their_size(value, written):
    assert seconds(value) == written
