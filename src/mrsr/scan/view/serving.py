"""Serve one page to a browser on the same machine, and to nobody else, until Ctrl-C."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mrsr.errors import UserError
from mrsr.raw.scan_formats import is_folder

HOME = "127.0.0.1"  # loopback: other machines cannot reach it
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server(ThreadingHTTPServer):
    """One page under a random address; every other path is 404, every other host name 403.

    Host names are checked because a page from elsewhere could have its own name lead here.
    """

    daemon_threads = True

    def __init__(self, text: str, port: int = 0) -> None:
        self.content = text.encode("utf-8")
        self.token = secrets.token_urlsafe(24)
        super().__init__((HOME, port), _Answer)

    @property
    def address(self) -> str:
        """What to open."""
        return f"http://{HOME}:{self.server_port}/{self.token}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names under which a browser may ask for the page."""
        return f"{HOME}:{self.server_port}", f"localhost:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.headers.get("Host", "") not in self.server.hosts:
            self.send_error(403)
        elif not hmac.compare_digest(self.path.encode(), f"/{self.server.token}/".encode()):
            self.send_error(404)
        else:
            self.send_response(200)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(self.server.content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a browser that was closed meanwhile
                self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the address with its token is not for logs."""


def check_save(path: Path, overwrite: bool) -> None:
    """Raise a `UserError` if a page cannot be saved under this name, before scans are read."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--save {path} must be named .html")
    if is_folder(path):
        raise UserError(f"--save {path} is a folder; give the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{path} exists; give another name, or --overwrite to replace it")


def serve(text: str, *, port: int = 0, browser: bool = True) -> None:
    """Print the page's address, open it in a browser, and serve it until Ctrl-C.

    port: 0 takes a free one.

    Raises:
        UserError: the port is taken or not allowed.
    """
    try:
        server = Server(text, port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on port {port}: {why}; give another --port, or 0") from None
    with server:
        print(server.address, flush=True)
        print("for this machine only, until Ctrl-C", flush=True)
        if browser:
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print("stopped")
