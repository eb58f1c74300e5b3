"""A stand-in for the Hugging Face Hub: the part of its HTTP API that uploads and reads files, kept in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "c0" * 20
"""Revision of everything in the stand-in."""


class Hub:
    """Repositories by kind and name, such as "models/a/b", and the requests that came."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        """Content of large files by SHA-256, before a commit names them."""
        self.requests: list[str] = []
        self.cards: list[str] = []
        """Model cards that the client had checked."""
        self.endpoint = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return status and content, JSON or bytes, of a request."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:1] == ["api"]:
            return self._answer_api(method, parts[1:], body)
        if parts[-3:] == ["info", "lfs", "objects"] or "info/lfs/objects/batch" in path:
            objects = json.loads(body)["objects"]
            return 200, {"transfer": "basic", "objects": [self._upload_action(one) for one in objects]}
        if method == "PUT" and parts[0] == "large":
            self.large[parts[1]] = body
            return 200, {}
        if "resolve" in parts:
            index = parts.index("resolve")
            repository = "/".join(parts[:index] if parts[0] in ("datasets", "spaces") else ["models", *parts[:index]])
            content = self.files.get(repository, {}).get("/".join(parts[index + 2 :]))
            return (404, {}) if content is None else (200, content)
        return 404, {}

    def _upload_action(self, item: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.endpoint}/large/{item['oid']}"
        return {**item, "actions": {"upload": {"href": href, "header": {}}}}

    def _answer_api(self, method: str, parts: list[str], body: bytes) -> tuple[int, Any]:
        if parts == ["repos", "create"]:
            new = json.loads(body)
            name = f"{new['organization']}/{new['name']}"
            self.files.setdefault(f"{new.get('type', 'model')}s/{name}", {})
            return 200, {"url": f"{self.endpoint}/{name}", "name": name}
        if parts == ["validate-yaml"]:
            self.cards.append(json.loads(body)["content"])
            return 200, {"errors": [], "warnings": []}
        repository, rest = "/".join(parts[:3]), parts[3:]
        if repository not in self.files:
            return 404, {"error": "Repository not found"}
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": path} for path in self.files[repository]]
            return 200, {"id": "/".join(parts[1:3]), "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
        if rest[0] == "preupload":
            listed = json.loads(body)["files"]
            large = [one["path"].endswith((".safetensors", ".onnx")) for one in listed]
            modes = zip(listed, large, strict=True)
            files = [
                {"path": one["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
                for one, is_large in modes
            ]
            return 200, {"files": files}
        if rest[0] == "commit":
            return 200, self._commit(repository, body)
        if rest[0] == "tree":
            inside = self._tree(repository, "/".join(rest[2:]))
            return (200, inside) if inside else (404, {})
        if rest[0] == "paths-info":
            pairs = dict(pair.split("=") for pair in body.decode().split("&")) if b"=" in body else {}
            paths = json.loads(body)["paths"] if body.startswith(b"{") else [unquote(pairs["paths"])]
            return 200, [entry for path in paths for entry in self._entries(repository) if entry["path"] == path]
        return 404, {}

    def _commit(self, repository: str, body: bytes) -> dict[str, Any]:
        name = repository.removeprefix("models/")
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                self.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                self.files[repository][value["path"]] = self.large[value["oid"]]
        return {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.endpoint}/{name}/commit/{COMMIT}"}

    def _tree(self, repository: str, folder: str) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        inside = [one for one in self._entries(repository) if one["path"].startswith(prefix)]
        return [one for one in inside if "/" not in one["path"].removeprefix(prefix)]

    def _entries(self, repository: str) -> list[dict[str, Any]]:
        """Return files and folders as the API lists them."""
        files = self.files[repository]
        folders = {str(folder) for path in files for folder in PurePosixPath(path).parents} - {"."}
        return [{"type": "directory", "oid": "", "size": 0, "path": path} for path in sorted(folders)] + [
            {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": path}
            for path, content in sorted(files.items())
        ]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            url = urlsplit(self.path)
            hub.requests.append(f"{self.command} {url.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b"".join(self.chunks())
            status, content = hub.answer(self.command, url.path, body)
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            total = len(data)
            if status == 200 and (span := self.headers.get("Range")):
                first, _, last = span.removeprefix("bytes=").partition("-")
                end = min(int(last) + 1 if last else total, total)
                status, data = 206, data[int(first) : end]
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{total}")
            if isinstance(content, bytes):
                self.send_header("ETag", hashlib.sha1(content).hexdigest())
            elif status == 404:
                self.send_header("X-Error-Code", "RepoNotFound" if "error" in content else "EntryNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def chunks(self) -> Iterator[bytes]:
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        do_GET = do_POST = do_PUT = do_HEAD = reply  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def running_hub(patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a stand-in, and make it the Hub of huggingface_hub in this process; large files go by git-lfs, not by Xet."""
    from huggingface_hub import constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    patch.setattr(constants, "ENDPOINT", hub.endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
