"""forget.list=true shows what could be forgotten, and does nothing else."""

import re

import pytest
from helpers.cli import TINY, kga


@pytest.mark.parametrize(("kind", "told"), [("group", "group"), ("label", "label"), ("word", "word")])
def test_candidates_are_printed_and_nothing_is_made(tmp_path, kind, told):
    output = tmp_path / "out"
    outcome = kga(*TINY, "data.size=600", f"forget={kind}", "forget.list=true", f"output={output}")
    assert outcome.code == 0, outcome.errors
    lines = outcome.out.splitlines()
    assert lines[1].split()[0] == told
    assert re.fullmatch(r"[1-9]\d* listed; D has 4\d\d examples, the reserve 1\d\d", " ".join(lines[-1].split()))
    assert not list(output.iterdir())


@pytest.mark.parametrize("kind", ["random", "ids", "easy"])
def test_where_there_is_nothing_to_choose_from_it_says_so(tmp_path, kind):
    given = ["forget.path=x.txt"] if kind == "ids" else []
    outcome = kga(*TINY, f"forget={kind}", *given, "forget.list=true", f"output={tmp_path / 'out'}")
    assert outcome.code == 2
    assert len(outcome.errors) == 1 and "nothing to list" in outcome.errors[0]
