"""The HTTP server: keeps connections alive, closes them all when it stops, lets answers end in a reset."""

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

STOP_SECONDS = 15


class Server:
    """Serves a WSGI app on 127.0.0.1; it can be stopped and started again at the same port."""

    def __init__(self, app: Callable[..., Iterable[bytes]]):
        self.port: int | None = None
        self._app = app
        self._server: BaseWSGIServer | None = None
        self._threads: list[threading.Thread] = []

    @property
    def runs(self) -> bool:
        """Return whether it serves."""
        return self._server is not None

    def start(self, port: int, stopping: threading.Event) -> None:
        """Serve on this port, or if it is 0 on that of the last time, or on any; `stopping` ends answers early."""
        server: Any = make_server("127.0.0.1", port or self.port or 0, self._app, True, request_handler=Handler)
        server.connections = set()
        server.stopping = stopping
        self._server, self.port = server, server.server_port
        self.spawn(server.serve_forever, 0.02)

    def spawn(self, target: Callable[..., None], *args: object) -> None:
        """Run a function in a thread that `stop` waits for."""
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Refuse connections from now on, and close those that are open."""
        server: Any = self._server
        self._server = None
        if server:
            server.shutdown()
            server.server_close()
            for connection in list(server.connections):
                _close(connection)
        threads, self._threads = self._threads, []
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(STOP_SECONDS)


class Handler(WSGIRequestHandler):
    """Serves HTTP/1.1 with keep-alive, which werkzeug's own handler does not, and lets answers end in a reset."""

    protocol_version = "HTTP/1.1"
    # An answer's head and body are two packets; without this the second would wait for the client's acknowledgement.
    disable_nagle_algorithm = True
    server: Any

    def setup(self) -> None:
        """Remember the connection, so that `Server.stop` can close it."""
        super().setup()
        self.server.connections.add(self.connection)
        if self.server.stopping.is_set():
            _close(self.connection)

    def finish(self) -> None:
        """Forget the connection."""
        self.server.connections.discard(self.connection)
        super().finish()

    def run_wsgi(self) -> None:
        """Answer one request."""
        # A body that nobody read would be taken for the next request.
        self.close_connection = self.close_connection or self.command != "GET"
        head: list[Any] = []
        try:
            parts = self.server.app(self.make_environ(), lambda status, headers, _=None: head.extend((status, headers)))
            self._write_answer(head, parts)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _write_answer(self, head: list[Any], parts: Iterable[bytes]) -> None:
        """Send the head once the first part of the body is there, then part by part."""
        parts = iter(parts)
        first = next(parts, b"")
        if self.server.stopping.is_set():
            raise ConnectionAbortedError("the sandbox stops")
        status, headers = head
        code, _, reason = status.partition(" ")
        self.send_response_only(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection or "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(first)
        for part in parts:
            self.wfile.write(part)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Stay silent; `Sandbox.requests` is the record."""


def _close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The other side was quicker.
        return
