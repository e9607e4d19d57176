"""A small server that speaks the part of the Hugging Face hub's protocol that reading and pushing models needs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MadeHub:
    """Repositories in memory behind HTTP.

    Attributes:
        files: Contents of each repository, by path.
        requests: Method, path and access token of each request.
        gated: Repositories whose terms have not been accepted.
        url: Address of the server.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.gated: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> MadeHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit_of(self, repository: str) -> str:
        """Return the commit's name: a hash of all contents."""
        return hashlib.sha1(repr(sorted(self.files[repository].items())).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: MadeHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("authorization")))
        words = self.path.split("?")[0].strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if not self.hub.gated.isdisjoint({"/".join(words[:2]), "/".join(words[2:4])}):
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif words[:3] == ["api", "repos", "create"]:
            made = json.loads(body)
            name = f"{made.get('organization') or 'someone'}/{made['name']}"
            self.hub.files.setdefault(name, {})
            self._json({"url": f"{self.hub.url}/{name}", "name": name})
        elif words[:2] == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif words[:2] == ["api", "models"] and "/".join(words[2:4]) in self.hub.files:
            self._repository("/".join(words[2:4]), words[4:], body)
        elif words[2:3] == ["resolve"] and "/".join(words[:2]) in self.hub.files:
            self._file("/".join(words[:2]), "/".join(words[4:]))
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def _repository(self, name: str, words: list[str], body: bytes) -> None:
        files = self.hub.files[name]
        if words[:1] == ["preupload"]:
            self._json(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]}
            )
        elif words[:1] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = self.hub.commit_of(name)
            self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})
        elif words[:1] == ["tree"]:
            self._json([{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files.items()])
        elif words[:2] not in ([], ["revision", "main"], ["revision", self.hub.commit_of(name)]):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "modelId": name, "sha": self.hub.commit_of(name), "siblings": siblings, "private": False, "tags": []})

    def _file(self, name: str, path: str) -> None:
        data = self.hub.files[name].get(path)
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        return self._send(200, data, {"ETag": etag, "X-Repo-Commit": self.hub.commit_of(name), "Accept-Ranges": "bytes"})

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
