"""A publisher on 127.0.0.1 for tests: byte ranges, broken connections, busy answers.

with serving({"IXI-T1.tar": data}) as publisher:
    publisher.breaks["IXI-T1.tar"] = [100_000]  # the first answer ends after so many bytes
    publisher.answers["IXI-T1.tar"] = [503]     # the first answer is a status without the file
    fetch(f"{publisher.url}/IXI-T1.tar", ...)
    publisher.requests                          # [(path with query, Range header), ...]
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Publisher:
    """What is served, and what was asked for."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True  # False: the server knows no Range and always sends the whole file
    tags: bool = True  # False: no ETag
    breaks: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    publisher: Publisher

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format, *args):
        """Quiet: test output is looked through for secrets."""

    def do_GET(self):
        publisher = self.server.publisher
        self.close_connection = True
        name = urlsplit(self.path).path.lstrip("/")
        asked = self.headers.get("Range", "")
        publisher.requests.append((self.path, asked))
        data = publisher.files.get(name)
        refusals = publisher.answers.get(name)
        status = refusals.pop(0) if refusals else 200 if data is not None else 404
        if status != 200 or data is None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        tag = f'"{hashlib.sha256(data).hexdigest()[:8]}"'
        start = 0
        fits = self.headers.get("If-Range", tag) == tag
        match = re.fullmatch(r"bytes=(\d+)-", asked)
        if match and publisher.ranges and fits:
            start = int(match[1])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        if publisher.tags:
            self.send_header("ETag", tag)
        self.end_headers()
        breaks = publisher.breaks.get(name)
        stop = start + breaks.pop(0) if breaks else len(data)
        self.wfile.write(data[start:stop])


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Publisher]:
    """Serve `files` (path -> content) until the block ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    publisher = Publisher(files=files, url=f"http://127.0.0.1:{server.server_port}")
    server.publisher = publisher
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield publisher
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
