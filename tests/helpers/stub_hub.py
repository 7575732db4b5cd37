"""A Hugging Face hub on loopback that serves folders: enough for load_dataset and from_pretrained.

A client finds it through HF_ENDPOINT, which is read when huggingface_hub is imported: run the client in a subprocess
with `StubHub.environment(home)`.
"""

import json
import os
import re
from collections.abc import Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

_RESOLVE = re.compile(r"^/(?:(datasets)/)?(.+?)/resolve/([^/]+)/(.+)$")
_API = re.compile(r"^/api/(datasets|models)/(.+?)(?:/(revision|tree|paths-info|refs)(?:/([^/]+))?(?:/(.*))?)?$")


Repo = Path | Mapping[str, Path]  # its files, or by branch ("main", "refs/convert/parquet")


class StubHub:
    """Serves `models` and `datasets`, each a mapping from repository id to a folder of files, while the block runs.

    A repository with several branches is a mapping from branch to folder.

    Attributes:
        requests: method and path of what was asked, in order.
    """

    def __init__(self, datasets: Mapping[str, Repo] | None = None, models: Mapping[str, Repo] | None = None) -> None:
        self.repos = {"datasets": dict(datasets or {}), "models": dict(models or {})}
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "StubHub":
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a client process whose whole Hugging Face cache lies in `home`."""
        return hub_environment(self.url, home, **more)


def hub_environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    """This process's environment without any Hugging Face setting, but with the endpoint and the cache folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **more}


def commit_of(folder: Path) -> str:
    """The commit the stub reports for a folder: 40 hex digits that follow its files' content."""
    digests = (f"{file.relative_to(folder)} {_etag(file)}" for file in _files(folder))
    return sha256("\n".join(digests).encode()).hexdigest()[:40]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _etag(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: StubHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {unquote(path)}")
        # Parts are unquoted one by one: a branch may have slashes, which come as %2F.
        if match := _API.match(path):
            self._api(*(part and unquote(part) for part in match.groups()), body=body)
        elif match := _RESOLVE.match(path):
            self._resolve(*(part and unquote(part) for part in match.groups()))
        else:
            self._send(200 if path == "/" else 404, b"")

    def _resolve(self, kind: str | None, repo: str, revision: str, name: str) -> None:
        folder = self._folder(kind or "models", repo, revision)
        if folder is None:
            return
        file = folder / name
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit_of(folder)})
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": commit_of(folder), "Accept-Ranges": "bytes"}
        wanted = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or "")
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        self._send(206 if wanted else 200, content, headers)

    def _api(
        self, kind: str, repo: str, part: str | None, revision: str | None, path: str | None, *, body: str
    ) -> None:
        folder = self._folder(kind, repo, revision)
        if folder is None:
            return
        entries = [_entry(folder, file) for file in _entries(folder)]
        if part == "tree":
            under = f"{path.rstrip('/')}/" if path else ""
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() in ("1", "true")
            below = [entry for entry in entries if entry["path"].startswith(under)]
            answer = [entry for entry in below if recursive or "/" not in entry["path"][len(under) :]]
        elif part == "paths-info":
            asked = _asked_paths(body)
            answer = [entry for entry in entries if entry["path"] in asked]
        elif part == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit_of(folder)}
            answer = {"branches": [main], "tags": [], "converts": []}
        else:
            siblings = [{"rfilename": entry["path"]} for entry in entries if entry["type"] == "file"]
            flags = {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
            answer = {"id": repo, "sha": commit_of(folder), "siblings": siblings, **flags}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _folder(self, kind: str, repo: str, revision: str | None) -> Path | None:
        branches = self.hub.repos[kind].get(repo)
        if branches is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        named = {"main": branches} if isinstance(branches, Path) else dict(branches)
        commits = {commit_of(folder): folder for folder in named.values()}
        found = (named | commits).get(revision or "main")
        if found is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return found

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def _entry(folder: Path, file: Path) -> dict[str, object]:
    path = file.relative_to(folder).as_posix()
    if file.is_dir():
        return {"type": "directory", "path": path, "oid": sha256(path.encode()).hexdigest()[:40], "size": 0}
    return {"type": "file", "path": path, "oid": _etag(file)[:40], "size": file.stat().st_size}


def _asked_paths(body: str) -> list[str]:
    """The paths of a paths-info request, which clients send as JSON or as a form."""
    if body.startswith("{"):
        asked = json.loads(body)["paths"]
        return [asked] if isinstance(asked, str) else asked
    return parse_qs(body).get("paths", [])
