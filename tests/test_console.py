"""What the terminal shows: bars and plain lines, notes, and the table of a result."""

import io
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers.fake_runs import fake_audit, fake_result
from rich.console import Console

from kga import console


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch):
    """Replace the console by one that writes into memory; call it with terminal=True for a terminal of 80 columns."""

    def make(terminal: bool) -> io.StringIO:
        file = io.StringIO()
        made = Console(
            file=file,
            width=80,
            force_terminal=terminal,
            color_system=None,
            markup=False,
            highlight=False,
            legacy_windows=False,
        )
        monkeypatch.setattr(console, "console", made)
        return file

    return make


def test_importing_the_console_loads_neither_torch_nor_pandas():
    code = "import sys, kga.console; print([name for name in ('torch', 'pandas', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stage_and_note_print_text_as_it_is(screen):
    out = screen(terminal=False)
    console.stage("Retrain [bold]A_R", "900 examples :smile:")
    console.note("from [red]the store " + "x" * 100)
    assert out.getvalue().splitlines() == [
        "Retrain [bold]A_R  900 examples :smile:",
        "from [red]the store " + "x" * 100,
    ]


def test_without_terminal_progress_prints_a_line_per_interval_and_a_closing_one(screen, monkeypatch):
    out = screen(terminal=False)
    clock = iter([0.0, 5.0, 21.0, 30.0, 42.0, 50.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("train", total=8, done=4) as advance:
        for info in ("a", "loss 0.5", "c", "loss 0.4"):
            advance(info=info)
    assert out.getvalue().splitlines() == [
        "train: 6/8, 0:00:21 left, loss 0.5",
        "train: 8/8, 0:00:00 left, loss 0.4",
        "train: 8/8 in 50.0 s",
    ]


def test_without_terminal_an_unknown_total_and_a_failure_are_told(screen):
    out = screen(terminal=False)
    with pytest.raises(RuntimeError), console.progress("count", total=None) as advance:
        advance(3)
        raise RuntimeError
    assert out.getvalue().startswith("count: 3 stopped after 0.")


def test_on_a_terminal_warnings_and_logs_appear_above_the_bar(screen, monkeypatch):
    out = screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", out)
    handler = logging.StreamHandler(out)  # like Lightning's: made before the bar, holding the terminal
    logger = logging.getLogger("kga_test_console")
    logger.propagate = False
    logger.addHandler(handler)
    with console.progress("evaluate", total=3) as advance, warnings.catch_warnings():
        warnings.simplefilter("always")
        advance(2, info="loss 0.25")
        logger.warning("a log line")
        warnings.showwarning = lambda message, *_: sys.stderr.write(f"{message}\n")
        warnings.warn("a warning", stacklevel=1)
        advance()
    logger.removeHandler(handler)
    assert handler.stream is out
    lines = _visible(out.getvalue())
    assert "a log line" in lines and "a warning" in lines
    assert lines[-1].startswith("evaluate") and "3/3" in lines[-1] and "loss 0.25" in lines[-1]


def _visible(output: str) -> list[str]:
    """The lines that a terminal shows: each later write after a cursor-up-and-erase replaces what stood there."""
    lines = [""]
    for part in output.replace("\x1b[?25l", "").replace("\x1b[?25h", "").replace("\r", "").split("\n"):
        part = lines.pop() + part
        while "\x1b[1A" in part or "\x1b[2K" in part:
            before, _, part = part.partition("\x1b[2K")
            if "\x1b[1A" in before:
                lines.pop()
        lines += [part, ""]
    return [line.rstrip() for line in lines if line.strip()]


def test_other_ranks_are_silent():
    code = "from kga import console as c\nc.stage('x')\nwith c.progress('y', 1) as advance: advance()\nc.note('z')"
    for rank, expected in (("0", True), ("1", False)):
        done = subprocess.run(
            [sys.executable, "-c", code], env={"LOCAL_RANK": rank}, capture_output=True, text=True, check=True
        )
        assert bool(done.stdout) is expected


def test_the_result_fits_80_columns_and_says_what_it_means(screen):
    out = screen(terminal=False)
    console.print_result(fake_result(method="a_rather_long_method_name"), Path("outputs/runs/x/report.html"))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line[:9]: line.split() for line in reversed(lines)}  # the table's lines come first
    assert rows["original "][-7:] == ["98.0", "+25.5", "99.4", "-0.1", "0.160", "0.740", "61.2"]
    assert rows["retrained"][-6:] == ["74.6", "72.5", "99.5", "0.000", "1.000", "58.9"]
    assert rows["unlearned"][-9:] == ["74.1", "-0.5", "73.8", "+1.3", "99.0", "-0.5", "0.070", "0.970", "14.4"]
    assert rows["noise flo"][-3:] == ["0.030", "-", "-"]
    said = " ".join(" ".join(lines).split())
    assert "1.3 points of accuracy from the retrained one (the original: 25.5; another retrained model: 1.0)" in said
    assert lines[-1] == "Report: outputs/runs/x/report.html"


@pytest.mark.parametrize(("task", "bleu"), [("translation", "BLEU"), ("response", "BLEU-4")])
@pytest.mark.parametrize("method", ["kga", "a_rather_long_method_name"])
def test_generation_fits_80_columns(screen, task, bleu, method):
    out = screen(terminal=False)
    result = fake_result(task=task, method=method)
    result["seconds"] |= {"original": 98765.4}
    console.print_result(result)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and not any("…" in line.partition(" (")[0] for line in lines)
    rows = {line[:9]: line.split() for line in reversed(lines)}
    assert rows["model    "] == ["model", "test", "forget", "retain", "BLEU", "JSD", "ToW", "sec"]
    assert rows["unlearned"][-5:] == ["-0.5", "30.3", "0.070", "0.970", "14.4"]
    assert f"{bleu} of the outputs on test" in lines


def test_perplexity_is_shown_where_it_fits(screen):
    out = screen(terminal=False)
    console.print_result(fake_result(task="translation"))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line[:9]: line.split() for line in reversed(lines)}
    assert rows["model    "][-5:] == ["BLEU", "PPL", "JSD", "ToW", "sec"]
    assert rows["retrained"][-6:] == ["99.5", "31.0", "2.72", "0.000", "1.000", "58.9"]
    assert "BLEU of the outputs on test; PPL: perplexity on the forget set" in lines


def test_spare_columns_go_in_their_order_until_the_others_fit():
    columns = {"wide": ["1234567"], "a": ["1"], "b": ["12"]}  # 8, 2 and 3 characters with their blanks
    fitting = {room: console.columns_that_fit(columns, ("b", "a"), room) for room in (13, 12, 10, 9, 0)}
    assert fitting == {13: ["wide", "a", "b"], 12: ["wide", "a"], 10: ["wide", "a"], 9: ["wide"], 0: ["wide"]}


def test_a_failed_run_shows_its_error_and_no_table(screen):
    out = screen(terminal=False)
    console.print_result({"status": "failed", "error": "NaN at update 3 [red]"})
    assert out.getvalue() == "The run failed: NaN at update 3 [red]\n"


def test_attacks_have_one_line_under_the_table(screen):
    out = screen(terminal=False)
    console.print_result(fake_result() | fake_audit())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    at = next(number for number, line in enumerate(lines) if line.startswith("Attacks: "))
    assert lines[at] == "Attacks: lira_online (strongest of 10) AUC 0.71, retrained 0.52, original 0.95"
    assert lines[at + 1].startswith("On the forget set")
    assert "lira_online" not in " ".join(lines[at + 1 :]), "told once"
