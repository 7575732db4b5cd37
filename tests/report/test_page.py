"""The page over many runs as a browser shows it."""

import re
import zlib
from pathlib import Path

import pytest
from helpers.browser import CHROMIUM, browse, chromium
from helpers.fake_sweeps import METHODS, run, write, write_sweeps

from kga.report import writers
from kga.report.gather import gather

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: pages are not opened")
DARK = "--blink-settings=preferredColorScheme=0"  # as if the system were set to dark
ROWS = """
const rows = (body) => Array.from(body.rows).filter((row) => !row.hidden).map((row) => row.cells[0].firstChild.textContent);
const main = document.querySelector('table.main');
const click = (head) => head.querySelector('button').click();
const heads = Array.from(main.tHead.rows[0].cells);
const named = (name) => heads.find((head) => head.textContent === name);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (path,) = writers.write(gather([write_sweeps(folder / "outputs", seeds=(0, 1))]), ["html"], folder / "report")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """One table with one line for each method."""
    folder = tmp_path_factory.mktemp("small")
    for method in METHODS:
        write(folder / "outputs", run(method))
    (path,) = writers.write(gather([folder / "outputs"]), ["html"], folder / "report")
    return path


def test_a_click_sorts_and_the_reference_rows_stay_on_top(small, tmp_path):
    script = f"""{ROWS}
    const found = [rows(main.tBodies[0])];
    for (const name of ['forget', 'forget', 'model', 'JSD']) {{
      click(named(name));
      found.push([name, named(name).getAttribute('aria-sort'), rows(main.tBodies[0])]);
    }}
    found.push(heads.filter((head) => head.getAttribute('aria-sort') !== 'none').length);
    return found;"""
    (before, *clicks, sorted_heads), messages = browse(small, script, tmp_path)
    top = ["noise floor", "retrained (A_R)", "original (A_D)"]
    forget = {method: run(method)["utility"]["unlearned"]["forget"]["accuracy"] for method in METHODS}
    rising = sorted(METHODS, key=forget.get)
    assert messages == [] and sorted_heads == 1
    assert before == [*top, *sorted(METHODS)]
    assert clicks[0] == ["forget", "ascending", [*top, *rising]]
    assert clicks[1] == ["forget", "descending", [*top, *rising[::-1]]]
    assert clicks[2] == ["model", "ascending", [*top, *sorted(METHODS)]]
    assert clicks[3][2][3] == "kga", "the smallest JSD"


def test_sorting_is_done_by_keyboard_too(small, tmp_path):
    script = f"""{ROWS}
    const button = named('forget').querySelector('button');
    button.focus();
    return [document.activeElement === button, button.tabIndex, document.querySelectorAll('[onclick]').length];"""
    assert browse(small, script, tmp_path)[0] == [True, 0, 0]


def test_every_table_can_be_sorted_by_every_column(page, tmp_path):
    script = """
    const heads = Array.from(document.querySelectorAll('th[aria-sort]'));
    const before = document.querySelectorAll('tbody tr').length;
    for (const head of heads) { head.querySelector('button').click(); head.querySelector('button').click(); }
    return [heads.length, before, document.querySelectorAll('tbody tr').length];"""
    (heads, before, after), messages = browse(page, script, tmp_path)
    assert heads == 3 * 9 + 4 + 4 + 8 and before == after and messages == []


def test_the_filter_keeps_rows_and_what_they_are_compared_with(page, tmp_path):
    script = f"""{ROWS}
    const input = document.getElementById('filter');
    const type = (text) => {{ input.value = text; input.dispatchEvent(new Event('input')); }};
    const shown = () => Array.from(document.querySelectorAll('section')).filter((part) => !part.hidden).map((part) => part.id);
    const found = [];
    for (const text of ['KGA alpha=10.0', 'reviews npo', 'nothing of the kind', '']) {{
      type(text);
      found.push([shown(), rows(main.tBodies[0]), document.getElementById('count').textContent]);
    }}
    return found;"""
    (alpha, reviews, nothing, everything), messages = browse(page, script, tmp_path)
    assert messages == []
    assert alpha[0] == ["table-1", "runs"]
    assert alpha[1] == ["noise floor", "retrained (A_R)", "original (A_D)", "kga"]
    assert alpha[2] == "3 rows", "one of the table, two seeds of all runs"
    assert reviews[0] == ["table-3", "runs"] and nothing[0] == [] and nothing[2] == "0 rows"
    assert everything[0] == ["table-1", "table-2", "table-3", "failed", "missing", "runs"] and everything[2] == ""


def test_a_word_of_the_filter_with_an_equals_sign_is_a_whole_setting(tmp_path):
    for alpha, size in ((1.0, 200), (10.0, 200), (100.0, 200), (1.0, 20)):
        write(tmp_path / "outputs", run(alpha=alpha, size=size))
        write(tmp_path / "outputs", run("npo", size=size)) if alpha == 1.0 else None
    (path,) = writers.write(gather([tmp_path / "outputs"]), ["html"], tmp_path / "report")
    script = f"""{ROWS}
    const input = document.getElementById('filter');
    const shown = (id) => Array.from(document.querySelectorAll(`#${{id}} tbody tr:not(.group):not(.reference)`))
      .filter((row) => !row.hidden).map((row) => row.innerText.match(/alpha=[0-9.]*|npo/)[0]);
    const found = {{}};
    for (const text of ['kga alpha=1', 'alpha=10', 'method.alpha=100.0', 'alpha=', 'pha=1', 'size=20', 'alpha=1 size=200', 'npo']) {{
      input.value = text;
      input.dispatchEvent(new Event('input'));
      document.querySelectorAll('details').forEach((part) => {{ part.open = true; }});
      found[text] = [shown('table-1').sort(), shown('runs').length];
    }}
    return found;"""
    found, messages = browse(path, script, tmp_path)
    assert messages == []
    one, ten, hundred = "alpha=1.0", "alpha=10.0", "alpha=100.0"
    assert found == {
        "kga alpha=1": [[one, one], 2],
        "alpha=10": [[ten], 1],
        "method.alpha=100.0": [[hundred], 1],
        "alpha=": [[one, one, ten, hundred], 4],
        "pha=1": [[], 0],
        "size=20": [[one, "npo"], 2],
        "alpha=1 size=200": [[one], 1],
        "npo": [["npo", "npo"], 2],
    }


COLOURS = """
const style = (element) => getComputedStyle(element);
const colours = () => [style(document.body).backgroundColor, style(document.querySelector('figure svg text')).fill];
"""


def test_light_and_dark_follow_the_system_until_somebody_chooses(small, tmp_path):
    script = f"""{COLOURS}
    const button = document.getElementById('theme');
    const found = [[button.textContent, ...colours()]];
    for (let i = 0; i < 2; i++) {{ button.click(); found.push([button.textContent, ...colours()]); }}
    return found;"""
    light, dark = ["Dark", "rgb(255, 255, 255)"], ["Light", "rgb(20, 23, 27)"]
    for flags, wanted in (((), [light, dark, light]), ((DARK,), [dark, light, dark])):
        found, messages = browse(small, script, tmp_path, *flags)
        assert [part[:2] for part in found] == wanted and messages == []
        assert found[0][2] != found[1][2], "the text of figures changes with the page"


def test_on_a_phone_tables_scroll_in_themselves(page, tmp_path):
    script = """
    const root = document.documentElement;
    const wide = Array.from(document.querySelectorAll('.wide'));
    const figures = Array.from(document.querySelectorAll('figure'));
    return [innerWidth, root.scrollWidth, wide.filter((part) => part.scrollWidth > part.clientWidth).length,
            new Set(figures.map((part) => part.getBoundingClientRect().left)).size];"""
    (width, needed, scrolling, columns), messages = browse(page, script, tmp_path, width=390)
    assert width == 390 and needed <= 390 and scrolling >= 3 and columns == 1 and messages == []


def test_paper_is_white_whatever_was_chosen(small, tmp_path):
    drawn = []
    for click in ("", "document.getElementById('theme').click()"):
        copy, pdf = tmp_path / "copy.html", tmp_path / "page.pdf"
        copy.write_text(small.read_text().replace("</body>", f"<script>{click}</script></body>"))
        chromium(copy, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
        drawn.append(streams(pdf.read_bytes()))
    assert drawn[0] and drawn[0] == drawn[1]


def streams(pdf: bytes) -> list[bytes]:
    """What the pages of a PDF draw."""
    found = [re.sub(rb"^\r?\n", b"", part) for part in re.findall(rb"stream(.*?)endstream", pdf, re.DOTALL)]
    unpacked = []
    for part in found:
        try:
            unpacked.append(zlib.decompress(part))
        except zlib.error:
            continue
    return sorted(part for part in unpacked if b" re\n" in part or b" Tf" in part)


def test_a_script_from_data_does_not_run(tmp_path):
    label = "<script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"
    for alpha in (1.0, 3.0):
        result = run(label, 0, error=label)
        result["config"]["method"] |= {"alpha": alpha, label: alpha}
        write(tmp_path / f"a{alpha}", result | {"method": "m"}).joinpath("result.json").write_text(_json(result))
    write(tmp_path / "failed", run("kga", 1, status="failed", error=label))
    (path,) = writers.write(gather([tmp_path]), ["html"], tmp_path / "report")
    script = "return [document.title, document.querySelectorAll('img').length, document.body.textContent.includes('<img src=x')];"
    assert browse(path, script, tmp_path)[0] == ["Collected runs", 0, True]


def _json(result: dict) -> str:
    import json

    return json.dumps(result)


def test_the_page_needs_nothing_else(page):
    text = page.read_text()
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//|url\((?!#)|@import", text)
    assert "default-src 'none'" in text
