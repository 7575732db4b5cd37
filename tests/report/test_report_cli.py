"""kga-report, from the command line to the files."""

import json
import re
import resource
import subprocess
import sys

import pandas as pd
import pytest
from helpers.fake_runs import fake_audit, fake_result, full_run, write_run
from helpers.fake_sweeps import held, write_record
from helpers.fake_sweeps import run as sweep_run

from kga.console import console
from kga.report.cli import main
from kga.report.run import write_run_report

ATTACK = "<script>alert(1)</script>"


@pytest.fixture
def runs(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), fake_result(seed=seed))
    write_run(tmp_path / "runs" / "failed", fake_result(seed=2, status="failed", error="NaN at update 3"))
    return tmp_path / "runs"


def test_every_format_is_written_and_failed_runs_are_in_all(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(runs), "--to", "html,csv,parquet,latex,markdown", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "73.7±0.1" in printed and "failed: " in printed and "3 runs, 1 of them failed" in printed
    assert max(len(line) for line in printed.splitlines() if "±" in line) <= 80
    names = {"report.html", "report.md", "report.tex", "values.csv", "summary.csv", "values.parquet", "summary.parquet"}
    assert {path.name for path in out.iterdir()} == names
    for name in ("report.html", "report.md", "report.tex", "values.csv"):
        assert "NaN at update 3" in (out / name).read_text(), name
    read = pd.read_parquet(out / "values.parquet")
    assert sorted(read["seed"].unique()) == [0, 1, 2] and (read["status"] == "failed").sum() == 1
    assert pd.read_csv(out / "summary.csv")["seeds"].eq(2).all()


def test_the_default_is_html_and_csv(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([str(runs)]) == 0
    assert {path.name for path in (tmp_path / "kga-report").iterdir()} == {"report.html", "values.csv", "summary.csv"}


def test_html_links_to_the_reports_of_runs(tmp_path):
    folder = full_run(tmp_path / "a b")
    write_run_report(folder)
    assert main([str(tmp_path), "--output", str(tmp_path / "out"), "--to", "html"]) == 0
    (link,) = re.findall(r' href="([^"]*)"', (tmp_path / "out" / "report.html").read_text())
    assert link == f"../a%20b/runs/{folder.name}/report.html"


def test_special_characters_are_escaped_in_every_format(tmp_path):
    result = fake_result(data="a_b & 50% #1", model="x|y")
    result["config"]["method"]["name"] = result["method"] = ATTACK
    write_run(tmp_path / "runs", result | {"method": "m"}).joinpath("result.json").write_text(json.dumps(result))
    assert main([str(tmp_path), "--to", "html,latex,markdown", "--output", str(tmp_path / "out")]) == 0
    html, tex, markdown = ((tmp_path / "out" / f"report.{end}").read_text() for end in ("html", "tex", "md"))
    assert html.count("<script") == 1 and "alert(1)</script" not in html and "&lt;script&gt;" in html
    assert r"a\_b \& 50\% \#1" in tex and r"\textless{}script\textgreater{}" in tex and "<script" not in tex
    assert "<script" not in markdown and r"x\|y" in markdown
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert rows and all(len(re.findall(r"(?<!\\)&", row)) == 8 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: no result.json"),
        (["RUNS", "--to", "html,pdf"], "--to html,pdf"),
        (["RUNS", "--output", "RUNS/0/runs/file"], "--output"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(runs, capsys, arguments, said):
    (runs / "0" / "runs" / "file").touch()
    assert main([argument.replace("RUNS", str(runs)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("kga-report: ") and error.count("\n") == 1


@pytest.mark.parametrize("task", ["translation", "response"])
def test_generation_fits_80_columns_and_the_files_have_every_column(tmp_path, capsys, task):
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), fake_result(task=task, seed=seed))
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--to", "html,csv,latex,markdown", "--output", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in printed if not line.startswith("Wrote")) <= 80
    assert columns(printed) == ["model", "n", "test", "forget", "retain", "BLEU", "JSD", "ToW", "seconds"]
    assert any("74.0±0.1" in line and "29.8±0.7" in line for line in printed)
    assert "no room here for: PPL" in [line.strip() for line in printed]
    html, tex, markdown = ((out / f"report.{end}").read_text() for end in ("html", "tex", "md"))
    assert ">BLEU</button>" in html and ">PPL</button>" in html and "<td>29.8 <small>± 0.7</small></td>" in html
    assert "BLEU & PPL & JSD" in tex and r"29.8 $\pm$ 0.7 & 2.46" in tex
    assert "| BLEU | PPL | JSD |" in markdown and "| 29.8 ± 0.7 | 2.46 ± 0.00 |" in markdown
    means = (
        pd.read_csv(out / "summary.csv").query("role == 'unlearned' and split == 'test'").set_index("metric")["mean"]
    )
    assert means["bleu" if task == "translation" else "bleu_4"] == pytest.approx(29.77)


def columns(printed: list[str]) -> list[str]:
    """The heading of the first table."""
    return next(line.split() for line in printed if line.startswith("model "))


def test_room_for_perplexity_is_used(tmp_path, capsys, monkeypatch):
    write_run(tmp_path, fake_result(task="translation"))
    monkeypatch.setattr(console, "width", 100)
    assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert columns(capsys.readouterr().out.splitlines())[-5:] == ["BLEU", "PPL", "JSD", "ToW", "seconds"]


def test_select_marks_the_choice_and_refuses_results_alone(runs, tmp_path, capsys):
    assert main([str(runs), "--select", "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert "--select: no completed run has a seed of 100" in captured.err and captured.out == ""
    for seed in (100, 101):
        write_run(tmp_path / "runs" / str(seed), fake_result(seed=seed))
    assert main([str(runs), "--select", "--output", str(tmp_path / "out")]) == 0
    assert ["*", "kga", "2", "+0.010", "0.100"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_in_html_the_setting_stands_under_the_model(tmp_path):
    for alpha in (1.0, 3.0):
        result = fake_result()
        result["config"]["method"] |= {"alpha": alpha, "<b>": alpha}
        write_run(tmp_path / str(alpha), result)
    assert main([str(tmp_path), "--to", "html", "--output", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert '<small class="setting">method.alpha=3.0\nmethod.&lt;b&gt;=3.0</small>' in html and "method.<b>" not in html


def test_marks_and_the_test_of_the_best_are_in_every_format(tmp_path, capsys):
    for method, tow in (("kga", 0.97), ("npo", 0.95), ("badt", 0.90)):
        for seed in (0, 1, 2):
            result = fake_result(method=method, seed=seed, score={"unlearned": {"tow": tow + 0.001 * seed}})
            write_run(tmp_path / "runs" / f"{method}-{seed}", result)
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--to", "html,latex,markdown", "--output", str(out)]) == 0
    html, tex, markdown = ((out / f"report.{end}").read_text() for end in ("html", "tex", "md"))
    assert '<td class="best"><span>0.971</span>' in html and '<td class="second"><span>0.951</span>' in html
    assert r"\textbf{0.971 $\pm$ 0.001}" in tex and r"\underline{0.951 $\pm$ 0.001}" in tex
    assert "| **0.971 ± 0.001** |" in markdown and "| *0.951 ± 0.001* |" in markdown
    said = "kga ahead of npo: tug of war +0.020 over 3 common seeds, p = 0.25"
    printed = " ".join(capsys.readouterr().out.split())
    for text in (html, tex.replace("$", ""), markdown.replace("\\", ""), printed):
        assert said in " ".join(text.split()) and "cannot fall below 0.25" in " ".join(text.split())


def test_what_has_no_result_is_told_in_every_format(tmp_path, capsys):
    folder = write_run(tmp_path, fake_result())
    (folder.parent / "classification-kga-cut").mkdir()
    (folder.parent / "classification-kga-cut" / ".lock").touch()
    jobs = [(("method.alpha=5_0",), None, "failed", "method.alpha is too <b>large</b>")]
    write_record(tmp_path / "sweeps" / "alpha", jobs)
    out = tmp_path / "out"
    assert main([str(tmp_path), "--to", "html,csv,parquet,latex,markdown", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "1 runs, 0 of them failed, 2 more without a result" in printed
    assert "no result: classification-kga-cut: begun" in printed
    html, tex, markdown = ((out / f"report.{end}").read_text() for end in ("html", "tex", "md"))
    assert "too &lt;b&gt;large" in html and r"alpha=5\_0" in tex and r"alpha=5\_0" in markdown
    assert all("classification-kga-cut" in text for text in (html, tex, markdown))
    missing = pd.read_csv(out / "values.csv").query("status == 'missing'")
    assert missing["error"].tolist() == ["failed: method.alpha is too <b>large</b>", "begun"]
    assert missing["setting"].tolist()[0] == "method.alpha=5_0" and len(pd.read_parquet(out / "values.parquet"))


def test_a_terminal_without_unicode_gets_no_traceback(runs, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "kga.report.cli", str(runs), "--output", str(tmp_path / "out")],
        env={"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "73.7?0.1" in done.stdout


@pytest.mark.parametrize(("formats", "unwanted"), [("html,csv", "torch"), ("csv", "matplotlib")])
def test_a_thousand_runs_are_collected_in_ten_seconds(tmp_path, formats, unwanted):
    """Methods, settings and seeds among them, so that there is something to test and to draw; configs of 120 keys, curves."""
    parts = {f"part{part}": {f"key{key}": (part, "text", None)[key % 3] for key in range(10)} for part in range(12)}
    curves = {method: held(sweep_run(method)) for method in ("kga", "npo")}
    for number in range(1000):
        method, alpha, seed = ("kga", "npo")[number % 2], (0.1, 1.0, 3.0, 10.0)[number // 2 % 4], number // 8
        result = fake_result(method=method, seed=seed) | fake_audit() | {"curves": curves[method]}
        result["config"] |= parts | {"method": {"alpha": alpha}}
        write_run(tmp_path / "runs" / str(number), result)
    code = (
        "import sys; from kga.report.cli import main; code = main(sys.argv[1:]); "
        f"assert '{unwanted}' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs"), "--to", formats, "--output", str(tmp_path / "out")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "1000 runs, 0 of them failed" in done.stdout
    # Seconds of the processor: those of the clock depend on what else the machine does.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


@pytest.mark.parametrize("task", ["classification", "translation"])
def test_audited_runs_fit_80_columns_with_their_attack(tmp_path, capsys, task):
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), fake_result(task=task, seed=seed) | fake_audit(task))
    assert main([str(tmp_path / "runs"), "--to", "csv,markdown,latex", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in printed if not line.startswith("Wrote")) <= 80
    assert columns(printed)[-1] == "MIA" and any(line.strip() == "MIA: AUC of the loss attack" for line in printed)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    rows = summary.query("quantity == 'membership' and split == 'rmia' and metric == 'auc' and role == 'retrain'")
    assert rows["mean"].tolist() == [pytest.approx(0.53)] and "| MIA |" in (tmp_path / "out" / "report.md").read_text()


def test_of_how_many_seeds_a_cell_is_stands_in_every_format(tmp_path, capsys):
    for seed in (0, 1, 2):
        audit = fake_audit() if seed == 0 else {}
        write_run(tmp_path / "runs" / str(seed), fake_result(seed=seed) | audit)
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--to", "html,latex,markdown", "--output", str(out)]) == 0
    html, tex, markdown = ((out / f"report.{end}").read_text() for end in ("html", "tex", "md"))
    assert "<td>0.55 <small>(n=1)</small></td>" in html and "<td>73.6 <small>± 0.2</small></td>" in html
    assert "& 0.55 (n=1) &" in tex and "| 0.55 (n=1) |" in markdown
    printed = capsys.readouterr().out.splitlines()
    row = next(number for number, line in enumerate(printed) if line.startswith("kga"))
    assert "0.55" in printed[row] and printed[row + 1].split() == ["(n=1)"]
    assert max(len(line) for line in printed if not line.startswith("Wrote")) <= 80


def test_texts_in_csv_are_no_formulas_and_numbers_stay_numbers(tmp_path):
    hostile = '=HYPERLINK("http://x","y")'
    for method, data in ((hostile, "@SUM(1)"), ("-1+1", "+1"), ("kga", "a=b")):
        result = fake_result(data=data, method=method) | {"cost": {"one_off_seconds": -2.5}}
        write_run(tmp_path / "runs" / data, result | {"method": "m"}).joinpath("result.json").write_text(
            json.dumps(result)
        )
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--to", "csv,parquet", "--output", str(out)]) == 0
    for name in ("values", "summary"):
        read, exact = pd.read_csv(out / f"{name}.csv"), pd.read_parquet(out / f"{name}.parquet")
        assert {"'@SUM(1)", "'+1", "a=b"} == set(read["data"]) and {"'" + hostile, "'-1+1", "kga"} == set(
            read["method"].dropna()
        )
        assert {"@SUM(1)", "+1", "a=b"} == set(exact["data"]) and hostile in set(exact["method"])
    values = pd.read_csv(out / "values.csv").query("quantity == 'cost'")["value"]
    assert values.tolist() == [-2.5] * 3
    assert "'" not in pd.read_csv(out / "values.csv")["folder"].str.cat()


def unescaped(text: str, character: str) -> int:
    return len(re.findall(rf"(?<!\\){re.escape(character)}", text.replace(r"\\", "")))


def test_the_latex_is_sound(tmp_path):
    """Braces and math are closed, rows have as many cells as there are columns, rules stand where booktabs wants them."""
    for number, method in enumerate(("[a]", "*b\0", "c_{1}$x^2~|\\d%")):
        for seed, size in ((0, 100), (1, 100), (0, 20)):
            result = (
                fake_result(method=method, seed=seed, score={"unlearned": {"tow": 0.9 - 0.1 * number}}) | fake_audit()
            )
            result["config"]["forget"]["size"] = size
            result["config"]["method"] |= {"alpha": 2.0 if size == 20 else 1.0}
            write_run(tmp_path / "runs" / f"{number}{seed}{size}", result)
    write_run(tmp_path / "runs" / "failed", fake_result(seed=9, status="failed", error="50 % {\nlost"))
    assert main([str(tmp_path), "--to", "latex", "--output", str(tmp_path / "out")]) == 0
    tex = (tmp_path / "out" / "report.tex").read_text()
    code = "\n".join(line for line in tex.splitlines() if not line.startswith("%"))
    assert (
        "lost" not in code
        and "\0" not in code
        and unescaped(code, "%") == unescaped(code, "_") == unescaped(code, "#") == 0
    )
    assert unescaped(code, "{") == unescaped(code, "}") and unescaped(code, "$") % 2 == 0
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", code):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    for name in ("table", "tabular"):
        assert code.count(rf"\begin{{{name}}}") == code.count(rf"\end{{{name}}}") == 1
    (columns,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", code)
    inside = [line.strip() for line in code.split(columns + "}")[1].split(r"\end{tabular}")[0].strip().splitlines()]
    rows = [line for line in inside if line.endswith(r"\\")]
    assert {unescaped(row, "&") for row in rows} == {len(columns) - 1} and len(columns) == 10
    assert not any(row.startswith(("[", "*")) for row in rows) and sum(row.startswith("{[}a]") for row in rows) == 2
    shape = ["row" if line in rows else line for line in inside]
    request = [r"\midrule", *["row"] * 6]
    assert shape == [r"\toprule", "row", *request, *request, r"\bottomrule"]
    assert re.search(r"\\textbf\{0\.900 \$\\pm\$ 0\.000\}", code) and r"\underline{0.800}" in code
