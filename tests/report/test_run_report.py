"""report.html of one run."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.fake_runs import SIGNATURE, fake_examples, fake_result, fake_samples, fake_updates, full_run, write_run

from kga.errors import UserError
from kga.report.run import write_run_report

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The tags of a page, its text, and whether tags are closed in order."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_full_run_shows_every_part(tmp_path):
    folder = full_run(tmp_path)
    path = write_run_report(folder)
    page = Page(path)
    assert path == folder / "report.html" and [x.name for x in folder.iterdir() if x.name.startswith(".")] == []
    for part in (
        "Result",
        "Unlearning",
        "Losses before and after",
        "Utility",
        "Forgetting",
        "Cost",
    ):
        assert part in page.text
    assert "1.3 points of accuracy from the retrained one" in page.text
    assert "changed sign" in page.text and "unlearned - floor" in page.text and "1,024.0 MiB" in page.text
    assert page.tags.count("svg") == 4 + 3 and "details" in page.tags
    assert page.text.index("noise floor") < page.text.index("retrained (A_R)") < page.text.index("original (A_D)")


def test_the_page_needs_nothing_but_itself(tmp_path):
    path = write_run_report(full_run(tmp_path))
    page, source = Page(path), path.read_text(encoding="utf-8")
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert "@import" not in source and not re.search(r"url\((?!#)", source)


def test_texts_appear_only_when_given(tmp_path):
    folder = full_run(tmp_path)
    before = Page(write_run_report(folder)).text
    most = re.search(r"forget-\d+", before.split("Most forgotten")[1]).group()
    assert "the secret text" not in before
    assert "the secret text" in Page(write_run_report(folder, {most: "the secret text"})).text


def test_most_and_least_forgotten_are_ordered_and_disjoint(tmp_path):
    examples = fake_examples(("original", "unlearned"), ids=["a", "b", "c"])
    forget = examples["split"] == "forget"
    examples.loc[forget & (examples["model"] == "original"), "loss"] = [1.0, 1.0, 1.0]
    examples.loc[forget & (examples["model"] == "unlearned"), "loss"] = [1.5, 4.0, 0.5]
    text = Page(write_run_report(write_run(tmp_path, fake_result(), examples))).text
    names = re.findall(r"^\s*([abc])$|^([abc])\s*$", text.split("Most forgotten")[1], flags=re.MULTILINE)
    assert [first or second for first, second in names] == ["b", "a", "c"]
    assert "Least forgotten" not in text  # three examples fit into the first list


def test_everything_from_data_is_escaped(tmp_path):
    models = ("original", "retrain", "unlearned")
    result = fake_result(
        method=ATTACK, data=ATTACK, model=ATTACK, key=ATTACK, config={ATTACK: ATTACK}, environment={ATTACK: [ATTACK]}
    )
    result["utility"]["unlearned"][ATTACK] = {ATTACK: 0.5}
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, result | {"method": "m", "key": "k"}, fake_examples(models, ids=[ATTACK, "b"]), fake_updates(5))
    run = next((folder / "runs").iterdir())
    (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    page = Page(write_run_report(run, {ATTACK: ATTACK}))
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count("alert(1)") >= 10


def test_a_failed_run_says_so(tmp_path):
    folder = write_run(
        tmp_path, {"status": "failed", "error": ATTACK, "task": "t", "data": "d", "method": "m", "key": "", "seed": 0}
    )
    page = Page(write_run_report(folder))
    assert "this run failed" in page.text and f"The run failed: {ATTACK}" in page.text
    assert "script" not in page.tags and "table" not in page.tags


@pytest.mark.parametrize("updates", [None, ""])
def test_missing_parts_are_left_out(tmp_path, updates):
    result = fake_result(noise_floor=False, forgetting={}, score={}, membership={}, cost={}, environment={})
    del result["utility"]["retrain"]
    folder = write_run(tmp_path, result)
    if updates is not None:
        (folder / "updates.csv").write_text(updates)
    page = Page(write_run_report(folder))
    assert "svg" not in page.tags and "cannot be said" in page.text
    for part in ("Unlearning", "Forgetting", "Membership", "retrained (A_R)", "noise floor (", "Single examples"):
        assert part not in page.text


def test_updates_of_other_methods_show_what_they_have(tmp_path):
    folder = write_run(tmp_path, fake_result(), updates=fake_updates()[["update", "loss", "lr"]])
    page = Page(write_run_report(folder))
    assert page.tags.count("svg") == 2 and "Gaps" not in page.text


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), ("{", "cannot be read"), ("[]", "not the result")]
)
def test_a_folder_without_result_is_a_user_error(tmp_path, content, said):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        write_run_report(tmp_path)
    assert str(tmp_path / "result.json") in str(caught.value) and "\n" not in str(caught.value)


def test_a_generation_run_shows_bleu_perplexity_and_how_they_came_about(tmp_path):
    text = Page(write_run_report(full_run(tmp_path, task="response"))).text
    assert "BLEU-4 of the\noutputs on test" in text and f"bleu_1, bleu_2, bleu_3, bleu_4: {SIGNATURE}\n" in text
    head = text.split("Result")[1].split("noise floor")[0].split()
    assert "".join(head) == "modeltestforgetretainBLEUPPLJSDToWseconds"
    row = "".join(text.split("unlearned (kga)")[1].split())
    assert row.startswith("74.1(-0.5)73.8(+1.3)99.0(-0.5)30.32.460.0700.970")
    utility = "".join(text.split("Utility")[1].split("Signatures")[0].split())
    assert "testbleu_430.7130.9631.5830.27" in utility and "forgetperplexity2.862.721.062.46" in utility
    assert "testlength11.2511.2511.2511.25" in utility and "testdistinct_10.12340.1234" in utility


def test_a_classification_run_shows_nothing_of_generation(tmp_path):
    text = Page(write_run_report(full_run(tmp_path), {})).text
    for part in ("BLEU", "PPL", "Signatures", "Sample outputs", "Cut at"):
        assert part not in text


def test_examples_cut_at_the_length_limits_are_counted(tmp_path):
    cut = {
        "train": {"examples": 1200, "of": 3200},
        "forget": {"examples": 0, "of": 200},
        "test": {"examples": 3, "of": 9},
    }
    text = Page(write_run_report(full_run(tmp_path, cut=cut))).text
    assert "Cut at the length limits: 1,200 of 3,200 in train, 3 of 9 in test." in text


def test_sample_outputs_stand_side_by_side_the_forget_set_first(tmp_path):
    folder = full_run(tmp_path, task="translation")
    text = Page(write_run_report(folder, {})).text
    samples = " ".join(text.split("Sample outputs")[1].split("Cost")[0].split())
    assert samples.startswith(
        "forget forget-0: inputinput text of forget-0 targettarget text of forget-0 "
        "retrained (A_R)retrain text of forget-0 original (A_D)original text of forget-0 "
        "unlearnedunlearned text of forget-0 forget-1: input"
    )
    assert samples.index("forget-1: input") < samples.index("test test-0: input") < samples.index("test-1: input")


def test_sample_outputs_need_leave(tmp_path):
    folder = full_run(tmp_path, task="translation")
    source = write_run_report(folder).read_text()
    assert "Sample outputs" not in source and "text of forget-0" not in source


def test_outputs_that_were_not_kept_are_told_where_texts_are_allowed(tmp_path):
    folder = full_run(tmp_path, task="translation")
    (folder / "samples.parquet").unlink()
    assert "not kept: report.texts was off when this run was made" in Page(write_run_report(folder, {})).text
    assert "not kept" not in Page(write_run_report(folder)).text


def test_where_nothing_was_generated_nothing_is_missed(tmp_path):
    result = fake_result(task="translation")
    for splits in result["utility"].values():
        del splits["test"]["bleu"]
    assert "Sample outputs" not in Page(write_run_report(write_run(tmp_path, result), {})).text


def test_samples_are_escaped_and_odd_ones_survive(tmp_path):
    folder = full_run(tmp_path, task="translation")
    samples = fake_samples(30).drop(columns="retrain")  # reference=none
    samples.loc[0, ["id", "input", "target", "original", "unlearned"]] = ATTACK
    samples.loc[1, ["original", "unlearned"]] = ["", None]
    samples.to_parquet(folder / "samples.parquet")
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(
        json.dumps(result | {"signatures": {ATTACK: ATTACK}, "generated": {"test": 1200}})
    )
    page = Page(write_run_report(folder, {}))
    assert not {"script", "img"} & set(page.tags) and page.text.count("alert(1)") == 5 + 2
    shown = page.text.split("Sample outputs")[1]
    assert "Texts were generated for 1,200 test examples" in " ".join(page.text.split())
    assert "(empty)" in shown and "retrained (A_R)" not in shown
    assert "test-29: input" in shown  # as many as the run kept
