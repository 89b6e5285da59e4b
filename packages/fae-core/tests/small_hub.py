"""A hub on this machine, served from a folder: the few addresses at which huggingface_hub downloads and commits."""

from __future__ import annotations

import base64
import hashlib
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
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class SmallHub:
    """Serves `root/OWNER/NAME` as repositories and takes commits.

    Attributes:
        fetched: names of files that were downloaded, in order.
        created: bodies of the requests that make repositories and branches.
        commits: one per commit: revision, create_pr, summary, and files by name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.fetched: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.commits: list[dict[str, Any]] = []
        self.address = ""

    def run(self, code: str, home: Path) -> str:
        """What a Python program prints whose hub is this one; `home` holds its cache."""
        environment = {**os.environ, "HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*", "no_proxy": "*"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def files(self, repo: str) -> list[str]:
        """The files of a repository."""
        folder = self.root / repo
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def small_hub(root: Path) -> Iterator[SmallHub]:
    """A running hub, whose address is on this machine."""
    hub = SmallHub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            if not (self.hub.root / repo).is_dir():
                return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            files = [{"rfilename": name} for name in self.hub.files(repo)]
            tree = [{"type": "file", "path": f["rfilename"], "size": 1, "oid": SHA} for f in files]
            return self._answer(200, tree if "/tree/" in path else {"id": repo, "sha": SHA, "siblings": files})
        self._file(path, send=True)

    def do_HEAD(self) -> None:
        self._file(unquote(urlsplit(self.path).path), send=False)

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path == "/api/repos/create" or "/branch/" in path:
            self.hub.created.append({"path": path, **(json.loads(data) if data else {})})
            return self._answer(200, {"url": f"{self.hub.address}/owner/name", "name": "owner/name"})
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(data)["files"]]
            return self._answer(
                200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            )
        if "/commit/" in path:
            lines = [json.loads(line) for line in data.splitlines() if line]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            header = next(line["value"] for line in lines if line["key"] == "header")
            revision, pull = path.partition("/commit/")[2], "create_pr" in query
            self.hub.commits.append({"revision": revision, "create_pr": pull, **header, "files": files})
            repo = path.removeprefix("/api/models/").partition("/commit/")[0]
            found = {"commitUrl": f"{self.hub.address}/{repo}/commit/{SHA}", "commitOid": SHA, "success": True}
            request = {"pullRequestUrl": f"{self.hub.address}/{repo}/discussions/1"} if pull else {}
            return self._answer(200, {**found, **request})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        self._answer(404, {"error": path})

    def _file(self, path: str, send: bool) -> None:
        repo, _, rest = path.strip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        file = self.hub.root / repo / name
        if not (self.hub.root / repo).is_dir():
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if not name or not file.is_file():
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        content = file.read_bytes()
        if send:
            self.hub.fetched.append(name)
        self.send_response(200)
        for key, value in {
            "X-Repo-Commit": SHA,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Content-Length": str(len(content)),
            "Accept-Ranges": "bytes",
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {
            **(headers or {}),
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
