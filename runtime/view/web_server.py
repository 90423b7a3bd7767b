"""A small web server in threads: answers GET by a table of paths, and never makes its owner wait.

Each client has a thread; the number of clients is bounded, the rest is turned away with 503. A request that is not
whole after ten seconds, however it drips in, and an answer that nobody takes within ten seconds are cut off. Beside
the clients there is room for a few who ask for :data:`VITAL` alone; of these the oldest makes room for the newest, so
that whoever restarts things is always answered. Pages of other sites can neither read nor embed an answer.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from glint.cli import talk
from glint.errors import InputError, OutputError

CLIENTS = 64  # at once; a browser holds up to six connections
VITAL = "/healthz"
_VITAL_CLIENTS = 4  # at once, beside the others
_PATIENCE_S = 10.0  # for a request to come in, or an answer to go out
_HINTS = {
    errno.EADDRINUSE: "another program, maybe another glint, listens there: choose another port",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "ports below 1024 need root: choose a higher one",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Answer:
    """What a path answers.

    Attributes:
        body: the content.
        kind: its media type.
        status: HTTP status code.
        headers: beyond, or instead of, those that every answer has.
    """

    body: bytes
    kind: str = "application/json"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Mapping[str, str]], Answer]


def json_answer(value: Any, status: int = 200) -> Answer:
    """A JSON document."""
    return Answer(json.dumps(value, allow_nan=False).encode(), status=status)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class WebServer:
    """Serves ``routes`` from the moment it is made until :meth:`close`.

    Args:
        host, port: where to listen; port 0 takes any free one.
        routes: by path; each is given the query's parameters and may be called by several threads at once.
        what: named in the warning that other machines can look.

    Raises:
        InputError: if ``host`` is not an address of this machine.
        OutputError: if the port is in use or not allowed.
    """

    def __init__(self, host: str, port: int, routes: Mapping[str, Route], *, what: str, clients: int = CLIENTS) -> None:
        self._server = _bound(host, port)
        self._server.routes, self._server.most, self._server.private = routes, clients, is_loopback(host)
        self.host, self.port = host, int(self._server.server_address[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        if not self._server.private:
            talk(f"warning: {what} at {self.url} can be seen by every machine that reaches this one")
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and hang up on every client; may be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join()


def _bound(host: str, port: int) -> _Server:
    if not 0 <= port <= 65535:
        raise InputError(f"port {port}: expected 0 to 65535", hint="e.g. --view 127.0.0.1:8080")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _Server(family, address[:2])
    except socket.gaierror as error:
        raise InputError(
            f"host {host!r} is not known: {error.strerror}",
            hint="e.g. --view 127.0.0.1:8080, or 0.0.0.0:8080 for all networks",
        ) from error
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        raise OutputError(f"cannot listen on {host}:{port}: {error.strerror or error}", hint=hint) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32
    routes: Mapping[str, Route]
    most: int
    private: bool

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.address_family = family
        self._open: dict[socket.socket, threading.Thread | None] = {}
        self._until: dict[socket.socket, float] = {}  # when a request or an answer must be over, monotonic seconds
        self._vital: list[socket.socket] = []  # who may ask for that alone, the oldest first
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name service who we are.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._until[request] = time.monotonic() + _PATIENCE_S
            if len(self._open) - len(self._vital) >= self.most:
                if len(self._vital) >= _VITAL_CLIENTS:
                    _hang_up(self._vital.pop(0))
                self._vital.append(request)
            self._open[request] = None
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Called several times a second: hang up on whoever takes too long."""
        now = time.monotonic()
        with self._lock:
            for request, until in self._until.items():
                if now > until:
                    _hang_up(request)

    def grant(self, request: socket.socket) -> None:
        """A request or an answer begins: it has its time from now on."""
        with self._lock:
            if request in self._until:
                self._until[request] = time.monotonic() + _PATIENCE_S

    def is_vital(self, request: socket.socket) -> bool:
        """Whether the client was let in for one question only."""
        with self._lock:
            return request not in self._open or request in self._vital

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = threading.current_thread()
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
            self._until.pop(request, None)
            if request in self._vital:
                self._vital.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no news; a fault of ours is, in one line."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            talk(f"warning: a request to the web server failed: {type(error).__name__}")

    def hang_up(self) -> None:
        with self._lock:
            still = list(self._open.items())
        for request, _ in still:
            _hang_up(request)
        for _, thread in still:
            if thread is not None:
                thread.join(timeout=2.0)


def _hang_up(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE_S
    disable_nagle_algorithm = True
    server: _Server

    def handle_one_request(self) -> None:
        self.server.grant(self.connection)
        super().handle_one_request()

    def do_GET(self) -> None:
        answer = self._answer()
        self.server.grant(self.connection)
        self.send_response(answer.status)
        headers = {**_HEADERS, "Content-Type": answer.kind, "Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self) -> Answer:
        try:
            parts = urlsplit(self.path)
            query = dict(parse_qsl(parts.query, max_num_fields=100))
        except ValueError:
            return Answer(b"malformed address\n", "text/plain", 400)
        route = self.server.routes.get(parts.path)
        if self.server.is_vital(self.connection) and parts.path != VITAL:
            self.close_connection = True
            return Answer(b"too many clients\n", "text/plain", 503, {"Retry-After": "5", "Connection": "close"})
        if not self._welcome():
            return Answer(b"this address is for this machine only\n", "text/plain", 403)
        if route is None:
            return Answer(b"not found\n", "text/plain", 404)
        return route(query)

    def _welcome(self) -> bool:
        """A page that names a host of its own which leads here must not read what this machine shows itself."""
        if not self.server.private:
            return True
        try:
            return is_loopback(urlsplit(f"//{self.headers.get('Host', 'localhost')}").hostname or "")
        except ValueError:
            return False

    def version_string(self) -> str:
        return "glint"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no news."""
