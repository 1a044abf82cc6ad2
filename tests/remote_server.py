"""A web server on this machine that serves files from memory, and misbehaves as told."""

from __future__ import annotations

import contextlib
import io
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


@dataclass
class Served:
    """files: path → content. announced: size that HEAD states. body: what GET sends instead. fails: answers of 500 to come.
    silent: paths that never answer. gets: number of GET requests by path."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    announced: dict[str, int] = field(default_factory=dict)
    body: dict[str, bytes] = field(default_factory=dict)
    fails: Counter[str] = field(default_factory=Counter)
    silent: set[str] = field(default_factory=set)
    gets: Counter[str] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            served.gets[self.path] += 1
            self._answer(served.body.get(self.path, served.files.get(self.path, b"")))

        def _answer(self, body: bytes) -> None:
            self.close_connection = True
            if self.path in served.silent and self.command == "GET":
                served.over.wait(20)
                return
            if self.path not in served.files:
                self.send_error(404)
                return
            if self.command == "GET" and served.fails[self.path] > 0:
                served.fails[self.path] -= 1
                self.send_error(500)
                return
            length = len(served.files[self.path]) if self.command == "GET" else served.announced.get(self.path, len(served.files[self.path]))  # fmt: skip
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        served.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def tar(first: int, count: int) -> bytes:
    """A shard of `count` pictures with captions, numbered from `first`."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for k in range(first, first + count):
            pixels = np.random.default_rng(k).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "PNG")
            for name, data in ((f"{k:03d}.png", picture.getvalue()), (f"{k:03d}.txt", f"caption {k}".encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
