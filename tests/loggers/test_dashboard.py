"""The workspace that `kga-dashboard` makes: what it shows, where it is sent, and what is said where it cannot be."""

import json
import subprocess
import sys

import pytest
from helpers.cli import Outcome
from helpers.stub_wandb import StubWandb

from kga.loggers import dashboard


def panels(spec: dict) -> dict[str, list[dict]]:
    """The panels of a workspace's specification by section."""
    sections = spec["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel["config"] for panel in section["panels"]] for section in sections}


def command(stub: StubWandb, home, *arguments: str, **environment: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "kga.loggers.dashboard", *arguments],
        env=stub.environment(home, **environment), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout, done.stderr.splitlines())


def assert_shows_everything(spec: dict) -> None:
    shown = panels(spec)
    lines = {config["metrics"][0]: config["xAxis"] for config in shown["While it unlearns"]}
    assert lines == dict.fromkeys(
        [f"unlearn/{name}" for name in ("a", "g", "sign", "retain", "loss")], "trainer/global_step"
    )
    looks = {config["metrics"][0] for config in shown["Utility over updates"]}
    assert looks == {"unlearn/utility_validation", "unlearn/utility_forget"}
    wanted = {
        "score/unlearned/tow", "utility/unlearned/forget/accuracy", "utility/unlearned/forget/token_accuracy",
        "forgetting/unlearned/forget/jsd", "seconds/unlearn",
    }  # fmt: skip
    bars = [config for config in shown["Methods"] if "metrics" in config]
    assert {config["metrics"][0] for config in bars} == wanted
    assert all("choices" in config["groupBy"] and "method" in config["groupBy"] for config in bars)
    assert {config["yAxis"] for config in shown["Alpha"]} == {f"summary:{name}" for name in wanted}
    assert all("alpha" in config["xAxis"] and config["xAxis"].startswith("config:") for config in shown["Alpha"])
    assert all(config["metrics"][0].startswith("system") for config in shown["System"])


def test_dry_run_is_json_without_a_server_or_key(capsys, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert dashboard.main(["--dry-run", "--project", "mine", "--entity", "us"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["entity"], found["project"]) == ("us", "mine")
    assert_shows_everything(found["spec"])


@pytest.mark.parametrize("entity", [None, "team"])
def test_it_is_saved_and_its_address_printed(tmp_path, entity):
    with StubWandb() as stub:
        outcome = command(stub, tmp_path, *(["--entity", entity] if entity else []))
    assert outcome.code == 0, outcome.errors
    (view,) = stub.views
    assert (view["entityName"], view["projectName"]) == (entity or "someone", "kga")
    assert_shows_everything(json.loads(view["spec"]))
    assert outcome.out.startswith(f"{stub.url}/{entity or 'someone'}/kga?nw=") and outcome.out.count("\n") == 1
    assert not stub.unknown


def test_without_a_key_one_line(tmp_path):
    with StubWandb() as stub:
        outcome = command(stub, tmp_path, WANDB_API_KEY="")
    (line,) = outcome.errors
    assert outcome.code == 2 and "wandb login" in line
    assert not stub.views


def test_a_refused_key_is_one_line(tmp_path):
    with StubWandb(status=401) as stub:
        outcome = command(stub, tmp_path)
    (line,) = outcome.errors
    assert outcome.code == 2 and line.startswith("kga-dashboard: W&B did not take the workspace for kga")


def test_without_the_package_one_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert dashboard.main(["--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "kga[dashboard]" in line
