"""A W&B server of this machine that keeps what it is sent: queries with their variables, and files' lines of runs."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_USER = {
    "id": "u",
    "entity": "judges",
    "username": "me",
    "name": "me",
    "email": "me@example.org",
    "flags": "{}",
    "admin": False,
    "deletedAt": None,
    "teams": {"edges": []},
    "apiKeys": {"edges": []},
}


class WandbServer:
    """Answers W&B's client; ``groups`` are the runs its project has."""

    def __init__(self, groups: tuple[str, ...] = ()) -> None:
        self.groups = groups
        self.views: list[dict[str, Any]] = []
        """Variables of every view that was saved, their ``spec`` read."""
        self.lines: dict[str, dict[int, Any]] = {}
        """By name of a run's file, its lines."""
        self.buckets: list[dict[str, Any]] = []
        """Variables of every run that was announced."""
        self.alerts: list[dict[str, Any]] = []
        self.gone: set[str] = set()
        """Ids of views that somebody has deleted."""
        self.url = ""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL query."""
        if "upsertView(" in query:
            return {"upsertView": {"inserted": True, "view": self._save(variables)}}
        if "upsertBucket(" in query:
            self.buckets.append(variables)
            project = {"id": "p", "name": variables["project"], "entity": {"id": "e", "name": "judges"}}
            bucket = {"id": "b", "name": variables["name"], "displayName": variables.get("displayName"), "config": "{}"}
            bucket |= {"sweepName": None, "historyLineCount": 0, "project": project, "description": None}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if "notifyScriptableRunAlert(" in query:
            self.alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        if "createArtifact(" in query:
            # Tables of traces: it says that it has them, so that they are not sent.
            return {
                "createArtifact": {
                    "artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
                }
            }
        if "useArtifact(" in query:
            return {"useArtifact": {"artifact": {"id": "a"}}}
        if "createRunFiles(" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if "query Runs(" in query:
            return {"project": self._runs(json.loads(variables["filters"]))}
        if "query ProjectInternalId(" in query:
            return {"project": {"id": "p", "internalId": "1"}}
        if "query GetProjects(" in query:
            project = {"id": "p", "name": "reasoning-reward-models", "entityName": "judges", "__typename": "Project"}
            edge = {"node": project | {"createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}}
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": page, "edges": [edge]}}
        return {"viewer": _USER, "project": None, "model": None, "serverInfo": None}

    def _save(self, variables: dict[str, Any]) -> dict[str, Any]:
        if variables.get("id") in self.gone:
            raise KeyError("view not found")
        self.views.append(variables | {"spec": json.loads(variables["spec"])})
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {name: variables[name] for name in ("name", "displayName", "description", "type", "spec")}
        found = variables.get("id") or f"view-{len(self.views)}"
        return view | {"id": found, "project": project, "updatedAt": "2026-01-01T00:00:00"}

    def _runs(self, filters: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in self.groups if filters.get("group") in (None, name)]
        empty = dict.fromkeys(("sweepName", "commit", "description", "notes", "readOnly"))
        times = dict.fromkeys(("createdAt", "heartbeatAt"), "2026-01-01T00:00:00")
        nodes = [
            empty
            | times
            | {
                "id": name,
                "name": name,
                "displayName": name,
                "group": name,
                "state": "finished",
                "tags": [],
                "jobType": "rl",
                "projectId": "1",
                "historyLineCount": 1,
                "user": {"name": "m", "username": "m"},
            }
            for name in names
        ]
        page = {"endCursor": None, "hasNextPage": False}
        edges = [{"node": node, "cursor": "c"} for node in nodes]
        return {
            "internalId": "1",
            "runCount": len(names),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": page},
        }

    def stream(self, content: dict[str, Any]) -> None:
        """Lines of a run's files, which come with the number of their first one."""
        for name, part in (content.get("files") or {}).items():
            for number, line in enumerate(part["content"]):
                self.lines.setdefault(name, {})[part["offset"] + number] = line

    def history(self) -> list[dict[str, Any]]:
        """Rows of the run's history, in order."""
        return [json.loads(line) for _, line in sorted(self.lines["wandb-history.jsonl"].items())]

    def sync(self, offline: Path, home: Path) -> None:
        """Have W&B's own reader read the files of an offline run, and send them here."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        done = subprocess.run(
            [str(Path(sys.executable).parent / "wandb"), "sync", str(offline)],
            env=clean | {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "k" * 40, "HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def wandb_server(*groups: str) -> Iterator[WandbServer]:
    """A server on a free port of this machine, until the block ends."""
    server = WandbServer(groups)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path != "/graphql":
                if self.path.endswith("/file_stream"):
                    server.stream(json.loads(body))
                self.reply({})
                return
            content = json.loads(body)
            try:
                self.reply({"data": server.answer(content["query"], content.get("variables") or {})})
            except KeyError as error:
                self.reply({"data": None, "errors": [{"message": str(error)}]})

        def do_GET(self) -> None:
            self.reply({})

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.reply({})

        def reply(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Tests have a terminal of their own."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
