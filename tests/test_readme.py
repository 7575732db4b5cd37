"""The README keeps its promises: its commands compose, its script runs, its excerpts are what the code says."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers import tiny
from hydra import compose, initialize_config_dir

from kga import config
from kga.paths import config_dir

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def commands(program: str) -> list[list[str]]:
    """Arguments of every call of a program in the README's shell blocks."""
    calls = [shlex.split(part) for line in COMMANDS for part in line.split("&&")]
    return [words[1:] for words in calls if words and words[0] == program]


@pytest.mark.parametrize("arguments", commands("kga"), ids=" ".join)
def test_every_kga_command_composes(arguments, monkeypatch, tmp_path):
    """Sweeps are taken at their first values; placeholders stand for folders and files of the user's."""
    config.register()
    overrides = [word if "=[" in word else word.split(",")[0] for word in arguments if "=" in word]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("config", overrides=overrides, return_hydra_config=True)
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    config.check(config.resolved(cfg))


def test_the_readme_names_both_commands_and_make_has_them():
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands("make"):
        assert words[0] in targets, f"make {words[0]}"
    assert ["demo"] in commands("make")
    assert ["test"] in commands("make")


@pytest.mark.parametrize("arguments", commands("kga-report"), ids=" ".join)
def test_every_kga_report_command_parses(arguments):
    from kga.report.cli import _formats, _parser

    _formats(_parser().parse_args(arguments).to)


def test_every_method_of_the_tree_is_in_the_table():
    listed = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert {path.stem for path in (config_dir() / "method").glob("*.yaml")} <= listed


def test_pictures_and_files_that_are_linked_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path


def test_the_excerpt_of_a_method_is_its_code():
    """Every line of the excerpt, without comments and annotations, stands in the file."""
    excerpt = next(block for kind, block in BLOCKS if kind == "python" and "class SimNPO" in block)
    source = (ROOT / "kga/methods/simnpo.py").read_text()
    for line in excerpt.splitlines():
        code = line.split("#")[0].strip()
        if code and not code.startswith("def "):
            assert code in source, code


def test_the_script_unlearns_without_hydra(tmp_path, capsys):
    script = next(block for kind, block in BLOCKS if kind == "python" and "def unlearn" in block)
    assert len(script.strip().splitlines()) <= 30
    namespace: dict = {}
    exec(compile(script, "README.md", "exec"), namespace)
    original = tiny.classifier()
    original.save(tmp_path / "model")
    rows = [{"text": row["text"], "label": row["label"]} for row in tiny.rows(64)]
    namespace["unlearn"](str(tmp_path / "model"), rows[:16], rows[16:32], rows[32:], str(tmp_path / "out"))
    after = type(original).load(tmp_path / "out")
    before = original.model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.model.state_dict().items())
