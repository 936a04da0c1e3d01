"""A small model hub over HTTP on loopback, as the hub's client library talks to it."""

import contextlib
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves the files of one directory as one repository; counts requests."""

    def __init__(self, repo: str, directory: Path, *, mode: str = "ok") -> None:
        self.repo, self.directory, self.mode = repo, directory, mode
        self.seen: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, handler, *, body: bool) -> None:
        self.seen.append(f"{handler.command} {handler.path}")
        if self.mode == "hang":
            time.sleep(60)
        if self.mode == "gated":
            handler.send_response(403)
            handler.send_header("X-Error-Code", "GatedRepo")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        path = handler.path.split("?")[0]
        if path.startswith(f"/api/models/{self.repo}/tree"):
            self.send(handler, json.dumps([self.entry(f) for f in self.files()]).encode(), body=body)
        elif path.startswith(f"/api/models/{self.repo}"):
            siblings = [{"rfilename": f.name, "size": f.stat().st_size} for f in self.files()]
            info = {"id": self.repo, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False,
                    "cardData": {"license": "apache-2.0"}, "tags": [], "downloads": 0, "modelId": self.repo}  # fmt: skip
            self.send(handler, json.dumps(info).encode(), body=body)
        elif "/resolve/" in path and (self.directory / path.rpartition("/")[2]).is_file():
            self.send(handler, (self.directory / path.rpartition("/")[2]).read_bytes(), body=body)
        else:
            handler.send_response(404)
            handler.send_header("X-Error-Code", "RepoNotFound")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

    def files(self) -> list[Path]:
        return sorted(path for path in self.directory.iterdir() if path.is_file())

    def entry(self, file: Path) -> dict:
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": etag(file.read_bytes())}

    def send(self, handler, data: bytes, *, body: bool) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.send_header("ETag", f'"{etag(data)}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.end_headers()
        if body:
            with contextlib.suppress(BrokenPipeError):
                handler.wfile.write(data)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def etag(data: bytes) -> str:
    """The git blob id, which the hub uses for small files."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
