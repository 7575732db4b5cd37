"""A W&B server on loopback: enough for runs online, `wandb sync` and saved workspaces.

A client finds it through WANDB_BASE_URL: run it in a subprocess with `StubWandb.environment(home)`.
"""

import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import unquote, urlsplit

KEY = "0123456789" * 4
ENTITY = "someone"


@dataclass
class Run:
    """What a client has sent of one run. Lines of a stream stand at the offset that the client gave them."""

    name: str
    described: dict = field(default_factory=dict)  # groupName, jobType, tags, displayName, as sent
    config: dict = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=dict)
    summary: dict = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def history(self) -> list[dict]:
        """The steps that were logged, in order."""
        return [json.loads(line) for line in self.streams.get("wandb-history.jsonl", []) if line]

    @property
    def console(self) -> str:
        """The lines that the run's process printed."""
        return "\n".join(self.streams.get("output.log", []))

    def values(self, name: str) -> list:
        """The values of one metric, in order."""
        return [step[name] for step in self.history if name in step]

    def tables(self) -> dict[str, dict]:
        """The tables that were uploaded, by the end of their path."""
        return {path: json.loads(body) for path, body in self.files.items() if path.endswith(".table.json")}


class StubWandb:
    """Serves while the block runs.

    status: of every answer; anything but 200 is an answer without data, such as 401 for a key that is not known.
    Attributes: runs, by id; views, the specifications of saved workspaces; requests, names of queries and paths in order;
    bodies, whatever else came, as bytes.
    """

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.runs: dict[str, Run] = {}
        self.views: list[dict] = []
        self.requests: list[str] = []
        self.unknown: list[dict] = []
        self.lock = Lock()
        handler = type("Handler", (_Handler,), {"server_of": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "StubWandb":
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """The environment of a client process whose W&B settings lie in `home`."""
        return wandb_environment(self.url, home, **more)


def wandb_environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """This process's environment without any W&B setting, but with a server, a key and places below `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    kept = {name: value for name, value in kept.items() if "proxy" not in name.lower()}
    places = {f"WANDB_{name}_DIR": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    own = {"HOME": str(home), "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}
    return kept | places | own | {"NETRC": str(home / "netrc"), **more}


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that ends cuts its connections, which is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server_of: StubWandb
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        stub, path = self.server_of, unquote(urlsplit(self.path).path)
        with stub.lock:
            if path == "/graphql":
                self._send(self._graphql(json.loads(body)))
                return
            stub.requests.append(f"{self.command} {path}")
            if path.endswith("/file_stream"):
                _stream(_run(stub, path.split("/")[-2]), json.loads(body))
            elif path.startswith("/upload/"):
                _, _, run, name = path.split("/", 3)
                _run(stub, run).files[name] = body
            self._send({})

    do_GET = do_PUT = do_HEAD = do_POST

    def _graphql(self, asked: Mapping) -> dict:
        stub, values = self.server_of, asked.get("variables") or {}
        name = asked.get("operationName") or asked["query"].split("(")[0].split("{")[0].split()[-1]
        stub.requests.append(name)
        answer = _ANSWERS.get(name)
        if answer is None:
            stub.unknown.append(asked)
            return {"data": {}}
        return {"data": answer(stub, values)}

    def _send(self, answer: Mapping) -> None:
        status = self.server_of.status
        content = json.dumps(answer if status == 200 else {"errors": [{"message": "refused"}]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _run(stub: StubWandb, name: str) -> Run:
    return stub.runs.setdefault(name, Run(name))


def _stream(run: Run, sent: Mapping) -> None:
    """Takes lines of history, events and console, each from its offset on, and the summary."""
    for name, part in (sent.get("files") or {}).items():
        if name == "wandb-summary.json":
            run.summary |= json.loads(part["content"][-1])
            continue
        lines = run.streams.setdefault(name, [])
        lines += [""] * (part["offset"] - len(lines))
        lines[part["offset"] : part["offset"] + len(part["content"])] = part["content"]
    if sent.get("complete"):
        run.exit_code = sent.get("exitcode")


def _viewer(stub: StubWandb, values: Mapping) -> dict:
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    viewer = {"id": "U1", "entity": ENTITY, "username": ENTITY, "email": "a@b.c", "flags": "{}", "teams": teams}
    return {"viewer": viewer | {"admin": False, "name": ENTITY, "apiKeys": {"edges": []}}}


def _project(name: str) -> dict:
    return {"id": "P1", "internalId": "P1", "name": name, "entityName": ENTITY, "entity": {"id": "E1", "name": ENTITY}}


def _resume(stub: StubWandb, values: Mapping) -> dict:
    """What the server has of a run: a client that goes on with it takes steps and offsets from here."""
    run = stub.runs.get(values["name"])
    if run is None:
        return {"model": _project(values["project"]) | {"bucket": None}}
    history, events = (run.streams.get(f"wandb-{name}.jsonl", []) for name in ("history", "events"))
    bucket = {
        "id": run.name, "name": run.name, "displayName": run.described.get("displayName"), "notes": None,
        "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config),
        "logLineCount": len(run.streams.get("output.log", [])), "historyLineCount": len(history),
        "eventsLineCount": len(events), "historyTail": json.dumps(history[-1:]), "eventsTail": json.dumps(events[-1:]),
        "tags": run.described.get("tags") or [], "wandbConfig": json.dumps({"t": 1}),
    }  # fmt: skip
    return {"model": _project(values["project"]) | {"bucket": bucket}}


def _upsert(stub: StubWandb, values: Mapping) -> dict:
    new = values["name"] not in stub.runs
    run = _run(stub, values["name"])
    run.described |= {name: value for name, value in values.items() if value is not None}
    run.config |= json.loads(values.get("config") or "{}")
    project = _project(run.described["project"])
    bucket = {"id": run.name, "name": run.name, "displayName": run.described.get("displayName"), "description": "",
              "config": json.dumps(run.config), "sweepName": None, "project": project,
              "historyLineCount": len(run.history)}  # fmt: skip
    return {"upsertBucket": {"bucket": bucket, "inserted": new}}


def _files(stub: StubWandb, values: Mapping) -> dict:
    places = [{"name": name, "uploadUrl": f"{stub.url}/upload/{values['run']}/{name}"} for name in values["files"]]
    return {"createRunFiles": {"runID": values["run"], "uploadHeaders": [], "files": places}}


def _artifact(stub: StubWandb, values: Mapping) -> dict:
    """Says that the server has it: the client then sends no second copy of a table, which is a file of the run too."""
    artifact = {"id": "A1", "state": "COMMITTED", "artifactSequence": {"id": "S1", "latestArtifact": None}}
    return {"createArtifact": {"artifact": artifact}}


def _view(stub: StubWandb, values: Mapping) -> dict:
    stub.views.append(dict(values))
    return {"upsertView": {"view": {"id": "V1", "name": values.get("name"), "displayName": ""}, "inserted": True}}


_ANSWERS = {
    "Viewer": _viewer,
    "GetDefaultEntity": _viewer,
    "ServerFeaturesQuery": lambda stub, values: {"serverInfo": {"features": []}},
    "RunResumeStatus": _resume,
    "UpsertBucket": _upsert,
    "CreateRunFiles": _files,
    "ArtifactType": lambda stub, values: {"project": {"artifact": None}},
    "CreateArtifact": _artifact,
    "UpsertView2": _view,
    "OrganizationCoreWeaveOrganizationID": lambda stub, values: {"entity": {"organization": None}},
}
