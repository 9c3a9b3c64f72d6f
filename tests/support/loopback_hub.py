"""A Hub on this machine's loopback: as much of its protocol as uploads and `from_pretrained` need.

Repositories are kept in memory. Files of weights go the way of large files (LFS), all others into the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_loopbackSECRETloopbackSECRET"
OWNER = "me"


@dataclass
class Repository:
    """Branches, each a mapping of paths to contents, and the commits that they went through."""

    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[tuple[str, str]] = field(default_factory=list)
    """Of each commit its branch and its message."""
    snapshots: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: bool = False

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and the files of a branch or a commit."""
        files = self.branches.get(revision, self.snapshots.get(revision))
        if files is None:
            return None
        listed = "".join(f"{path}{_sha1(content)}" for path, content in sorted(files.items()))
        commit = hashlib.sha1(listed.encode()).hexdigest()
        self.snapshots.setdefault(commit, dict(files))
        return commit, files


class LoopbackHub:
    """A context that serves; `with LoopbackHub() as hub`.

    Attributes:
        repositories (`dict[str, Repository]`)
        refusals (`list[tuple[str, int]]`): a pattern of "METHOD /path" and the status it is answered with; 0: the
            connection is cut.
        passing_refusals (`int`, *optional*): how many requests are refused before all go well; None: no end to it.
        calls (`list[str]`): "METHOD /path" of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.refusals: list[tuple[str, int]] = []
        self.passing_refusals: int | None = None
        self.calls: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables of a process that takes this for the Hub."""
        kept = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
        kept |= {} if token is None else {"HF_TOKEN": token}
        tests = Path(__file__).parent.parent
        return kept | {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "3",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)]),
        }

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        """What is in a repository."""
        return self.repositories[name].branches[branch]

    def everything(self) -> bytes:
        """All that was ever stored, to look for something in."""
        stored = [content for repo in self.repositories.values() for files in repo.snapshots.values()
                  for content in files.values()]  # fmt: skip
        stored += [content for repo in self.repositories.values() for files in repo.branches.values()
                   for content in files.values()]  # fmt: skip
        names = json.dumps([[name, repo.commits] for name, repo in self.repositories.items()])
        return b"".join([*stored, *self.large.values(), names.encode()])


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size) if size else self._chunks()
        call = f"{self.command} {path}"
        self.hub.calls.append(call)
        for pattern, status in self.hub.refusals:
            if self.hub.passing_refusals != 0 and re.search(pattern, call):
                if self.hub.passing_refusals is not None:
                    self.hub.passing_refusals -= 1
                if status == 0:
                    self.connection.close()
                    self.close_connection = True
                else:
                    self._json({"error": f"refused with {status}"}, status)
                return
        for pattern, method in _ROUTES:
            if match := re.fullmatch(pattern, call):
                getattr(self, method)(body, parse_qs(url.query), *match.groups())
                return
        self._json({"error": f"not imitated: {call}"}, 404)

    def _chunks(self) -> bytes:
        parts = []
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        return b"".join(parts)

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})

    def _missing(self, what: str) -> None:
        self._json({"error": what}, 404, **{"X-Error-Code": what, "X-Error-Message": what})

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None:
            self._missing("RepoNotFound")
        return found

    def _is_known(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._json({"error": "Invalid user token."}, 401)
        return False

    # What is asked for

    def whoami(self, body: bytes, query: dict[str, list[str]]) -> None:
        if self._is_known():
            self._json({"type": "user", "name": OWNER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def validate(self, body: bytes, query: dict[str, list[str]]) -> None:
        card = json.loads(body)["content"]
        wrong = re.findall(r"^(?:base_model|datasets|- name): *(\S*/\S*/\S*|/\S*)$", card, re.M)
        errors = [{"message": f"{name} is not an id"} for name in wrong]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self, body: bytes, query: dict[str, list[str]]) -> None:
        if not self._is_known():
            return
        asked = json.loads(body)
        name = f"{asked.get('organization') or OWNER}/{asked['name']}"
        if asked.get("organization", OWNER) not in (OWNER, None):
            self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
            return
        exists = name in self.hub.repositories
        if not exists:
            self.hub.repositories[name] = Repository(
                private=bool(asked.get("private")) or asked.get("visibility") == "private"
            )
        self._json({"url": f"{self.hub.endpoint}/{name}", "name": name}, 409 if exists else 200)

    def branch(self, body: bytes, query: dict[str, list[str]], name: str, branch: str) -> None:
        if self._is_known() and (repository := self._repository(name)):
            exists = branch in repository.branches
            repository.branches.setdefault(branch, {})
            self._json({}, 409 if exists else 201)

    def info(self, body: bytes, query: dict[str, list[str]], name: str, revision: str = "main") -> None:
        if (repository := self._repository(name)) is None:
            return
        if (found := repository.at(revision)) is None:
            self._missing("RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in found[1]]
        self._json(
            {"id": name, "modelId": name, "sha": found[0], "siblings": siblings, "tags": [],
             "private": repository.private}
        )  # fmt: skip

    def tree(
        self, body: bytes, query: dict[str, list[str]], name: str, revision: str, under: str | None = None
    ) -> None:
        if (repository := self._repository(name)) is None:
            return
        found = repository.at(revision)
        under = (under or "").strip("/")
        paths = {} if found is None else {p: c for p, c in found[1].items() if not under or p.startswith(f"{under}/")}
        if not paths and under:
            self._missing("EntryNotFound")
            return
        is_deep = query.get("recursive", ["false"])[0].lower() == "true"
        shown = {p: c for p, c in paths.items() if is_deep or "/" not in p.removeprefix(f"{under}/" if under else "")}
        self._json([{"type": "file", "path": p, "size": len(c), "oid": _sha1(c)} for p, c in shown.items()])

    def preupload(self, body: bytes, query: dict[str, list[str]], name: str, revision: str) -> None:
        if not self._is_known() or (repository := self._repository(name)) is None:
            return
        if repository.at(revision) is None:
            self._missing("RevisionNotFound")
            return
        files = json.loads(body)["files"]
        modes = {file["path"]: "lfs" if file["path"].endswith(".safetensors") else "regular" for file in files}
        self._json({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def batch(self, body: bytes, query: dict[str, list[str]], name: str) -> None:
        objects = json.loads(body)["objects"]
        for entry in objects:
            if entry["oid"] not in self.hub.large:
                entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{entry['oid']}"}}
        self._json({"transfer": "basic", "objects": objects})

    def large_file(self, body: bytes, query: dict[str, list[str]], oid: str) -> None:
        self.hub.large[oid] = body
        self._json({})

    def commit(self, body: bytes, query: dict[str, list[str]], name: str, revision: str) -> None:
        if not self._is_known() or (repository := self._repository(name)) is None:
            return
        files, message = repository.branches[revision], ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        repository.commits.append((revision, message))
        oid, _ = repository.at(revision) or ("", {})
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def file(self, body: bytes, query: dict[str, list[str]], name: str, revision: str, path: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        if (found := repository.at(revision)) is None:
            self._missing("RevisionNotFound")
        elif path not in found[1]:
            self._missing("EntryNotFound")
        else:
            content = found[1][path]
            headers = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": found[0], "Accept-Ranges": "bytes"}
            self._send(content, 200, headers)


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    (r"GET /api/whoami-v2", "whoami"),
    (r"POST /api/validate-yaml", "validate"),
    (r"POST /api/repos/create", "create"),
    (rf"POST /api/models/{_NAME}/branch/(.+)", "branch"),
    (rf"GET /api/models/{_NAME}", "info"),
    (rf"GET /api/models/{_NAME}/revision/([^/]+)", "info"),
    (rf"GET /api/models/{_NAME}/tree/([^/]+)(/.*)?", "tree"),
    (rf"POST /api/models/{_NAME}/preupload/([^/]+)", "preupload"),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /lfs/(\w+)", "large_file"),
    (rf"POST /api/models/{_NAME}/commit/([^/]+)", "commit"),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", "file"),
]


def _sha1(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


if __name__ == "__main__":
    with LoopbackHub() as served:
        print(served.endpoint, flush=True)
        sys.stdin.read()
