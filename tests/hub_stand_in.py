# SPDX-License-Identifier: Apache-2.0
"""A Hub of one's own on loopback: create, upload (small and large files), read back.

It answers the few requests that `push_to_hub` and `from_pretrained` send, keeps files in memory and
counts what it was asked. Metadata of cards is checked as far as YAML goes; the rest of the Hub's
own check runs in `huggingface_hub` before a request is sent.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # pragma: allowlist secret
LARGE = 100_000  # bytes; larger files go the way of large files


class Hub(ThreadingHTTPServer):
    """Files of repositories by (repository, path); requests as (method, path)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.objects = {}
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def answer(self, body, status=200, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def route(self):
        path = unquote(urlparse(self.path).path)
        self.server.requests.append((self.command, path))
        return path

    def do_POST(self):
        path, body = self.route(), self.body()
        server = self.server
        known = self.headers.get("Authorization") == "Bearer hf_stand_in"
        if not known and path != "/api/validate-yaml":
            self.answer({"error": "who are you?"}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            self.answer({"url": f"{server.url}/{name}", "name": name, "id": name})
        elif path == "/api/validate-yaml":
            text = json.loads(body)["content"]
            head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
            errors = [] if isinstance(head, dict) else [{"message": "no mapping"}]
            self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        elif "/preupload/" in path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] > LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **one,
                    "actions": {"upload": {"href": f"{server.url}/objects/{one['oid']}"}},
                }
                for one in json.loads(body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            repository = path.removeprefix("/api/models/").split("/commit/")[0]
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "file":
                    content = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    content = server.objects[value["oid"]]
                else:
                    continue
                server.files[repository, value["path"]] = content
            url = f"{server.url}/{repository}/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT, "hookOutput": ""})
        else:
            self.answer({"error": f"nothing at {path}"}, 404)

    def do_PUT(self):
        path, body = self.route(), self.body()
        name = path.removeprefix("/objects/")
        if hashlib.sha256(body).hexdigest() != name:
            self.answer({"error": "another content"}, 400)
            return
        self.server.objects[name] = body
        self.answer({}, headers={"ETag": name})

    def do_GET(self):
        path = self.route()
        if path.startswith("/api/whoami"):
            self.answer({"name": "someone", "type": "user", "orgs": []})
        elif path.startswith("/api/models/"):
            parts = path.removeprefix("/api/models/").split("/")
            repository = "/".join(parts[:2])
            files = [name for owner, name in self.server.files if owner == repository]
            if not files:
                self.missing("RepoNotFound")
            elif parts[2:3] == ["tree"]:
                self.answer(
                    [{"type": "file", "path": name, "size": 1, "oid": COMMIT} for name in files]
                )
            else:
                siblings = [{"rfilename": name} for name in files]
                self.answer({"id": repository, "sha": COMMIT, "siblings": siblings})
        elif "/resolve/" in path:
            repository, rest = path[1:].split("/resolve/")
            content = self.server.files.get((repository, rest.split("/", 1)[1]))
            if content is None:
                self.missing("EntryNotFound")
                return
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.answer(content, headers={"ETag": etag, "X-Repo-Commit": COMMIT})
        else:
            self.missing("EntryNotFound")

    do_HEAD = do_GET

    def missing(self, code):
        self.answer({"error": code}, 404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})


@contextmanager
def hub():
    """A running Hub."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
