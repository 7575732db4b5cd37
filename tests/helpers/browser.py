"""Opens a page in headless Chromium and drives it by a script that is put behind it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=2000",
    "--enable-logging=stderr",
    "--v=0",
)


def browse(page: Path, script: str, folder: Path, *flags: str, width: int | None = None) -> tuple[Any, list[str]]:
    """What the script's function body returns, run on a copy of the page in the folder; and the console's messages.

    width: of a frame, in pixels, narrower than a window can be.
    """
    run = f"(() => {{ {script} }})()"
    copy = folder / "driven.html"
    sent = "parent.postMessage(JSON.stringify(found), '*')" if width else "show(JSON.stringify(found))"
    copy.write_text(_with_script(page.read_text(), f"const found = {run}; {sent};"))
    if width:
        frame = f'<iframe src="driven.html" style="width:{width}px;height:900px;border:0"></iframe>'
        copy = folder / "frame.html"
        copy.write_text(_with_script(f"<body>{frame}</body>", "onmessage = (event) => show(event.data);"))
    done = chromium(copy, folder, "--dump-dom", *flags)
    shown = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert shown, f"the script found nothing: {console(done)}"
    return json.loads(html.unescape(shown[1])), console(done)


def _with_script(page: str, script: str) -> str:
    show = (
        "const show = (text) => { const found = document.createElement('pre'); found.id = 'found'; "
        "found.textContent = text; document.body.append(found); };"
    )
    head, _, tail = page.rpartition("</body>")
    return f"{head}<script>{{ {show} {script} }}</script></body>{tail}"


def chromium(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs Chromium on a page with a profile of its own."""
    command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The page's own messages."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]
