"""What huggingface_hub asks a hub for, over loopback: model info, the file tree, and files with ETag, HEAD and Range."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT, OLDER = "c" * 40, "a" * 40
LARGE = 1000  # from this size on, a file is an LFS one


@dataclass
class Hub:
    """Context manager. `files`: repository -> name -> bytes. With `token`, files want it. `pause`: only half of that
    file is sent, and no more until the connection is gone. `page`: whatever is asked, a page answers."""

    files: dict[str, dict[str, bytes]]
    token: str | None = None
    pause: str | None = None
    page: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, file, Range

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            served = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def answer(self) -> None:
        if self.served.page:
            return self.body(b"<html>Log in</html>", "text/html")
        path = unquote(urlsplit(self.path).path)
        match = re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/(revision|tree)/([^/]+))?", path)
        file = re.fullmatch(r"/(\w+/[\w-]+)/resolve/([^/]+)/(.+)", path)
        id, revision = (match[1], match[3]) if match else (file[1], file[2]) if file else ("", None)
        if id not in self.served.files:
            return self.refuse(404, "RepoNotFound")
        if revision not in (None, "main", COMMIT, OLDER):
            return self.refuse(404, "RevisionNotFound")
        commit = OLDER if revision == OLDER else COMMIT
        if file:
            return self.file(id, file[3], commit)
        described = [_described(name, data) for name, data in self.served.files[id].items()]
        if match and match[2] == "tree":
            return self.json([_entry(one) for one in described])
        return self.json({"id": id, "sha": commit, "siblings": described})

    def file(self, id: str, name: str, commit: str) -> None:
        hub, range_ = self.served, self.headers.get("Range")
        hub.requests.append((self.command, name, range_))
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        data = hub.files[id][name]
        start = int(range_.removeprefix("bytes=").split("-")[0]) if range_ else 0
        described = _described(name, data)
        etag = described["lfs"]["sha256"] if "lfs" in described else described["blobId"]
        self.send_response(206 if range_ else 200)
        for key, value in {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Content-Length": str(len(data) - start)}.items():
            self.send_header(key, value)
        if range_:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET" and hub.pause == name:
            self.wfile.write(data[start : len(data) // 2])
            self.wfile.flush()
            self.connection.recv(1)  # until the other side hangs up
            self.close_connection = True
        elif self.command == "GET":
            self.wfile.write(data[start:])

    def json(self, value: object) -> None:
        self.body(json.dumps(value).encode(), "application/json")

    def body(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _described(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    lfs = {"lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}} if len(data) >= LARGE else {}
    return {"rfilename": name, "size": len(data), "blobId": blob} | lfs


def _entry(described: dict[str, Any]) -> dict[str, Any]:
    """The same as an entry of the file tree."""
    lfs = {"lfs": described["lfs"] | {"oid": described["lfs"]["sha256"]}} if "lfs" in described else {}
    return {"type": "file", "path": described["rfilename"], "oid": described["blobId"], "size": described["size"]} | lfs
