"""The wheel carries the config tree, and its commands work from an empty folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory) -> Path:
    """Where the commands of an environment lie in which only the wheel and kga's dependencies are installed."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    # A plain path line adds the folder without running its own .pth files, so the editable kga stays out of sight.
    Path(target, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def run(command: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_wheel_holds_every_config_and_no_test(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"kga/conf/{path.relative_to(ROOT / 'conf')}" in names
    for path in (ROOT / "kga").rglob("*"):
        if path.suffix in (".py", ".j2", ".html", ".css"):
            assert str(path.relative_to(ROOT)) in names
    assert not any(name.startswith(("tests/", "outputs/", "conf/")) for name in names)


def test_commands_of_the_wheel_work_from_an_empty_folder(commands, tmp_path):
    where = run(commands / "python", "-c", "import kga.paths; print(kga.paths.config_dir())", folder=tmp_path)
    assert where.stdout.startswith(str(commands.parent.resolve())) or where.stdout.startswith(str(commands.parent))
    for command, arguments, expected in (
        ("kga", ("--help",), "makes a trained language model forget"),
        ("kga", ("--cfg", "job"), "_target_: kga.methods.kga.KGA"),
        ("kga-report", ("--help",), "usage"),
        ("kga-data", ("--help",), "usage"),
    ):
        done = run(commands / command, *arguments, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout, (command, done.stdout)
    mistake = run(commands / "kga", "method=kgaa", folder=tmp_path)
    assert mistake.returncode == 2 and mistake.stderr.startswith("kga: method=kgaa is unknown")
    assert list(tmp_path.iterdir()) == []
