"""What can go wrong on the way: faults that a test injects into answers."""

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from flask import Response, request

from tools.sandbox.answers import AifiError
from tools.sandbox.settings import check_choice

HANG_SECONDS = 3600.0


@dataclass
class Fault:
    """A fault that waits for its requests; `left` is None where it strikes until healed."""

    kind: str
    left: int | None
    path: str | None
    details: dict[str, Any]

    def matches(self, path: str) -> bool:
        """Return whether a request for this path is one of those that it strikes."""
        return self.path is None or path.startswith(self.path)

    def delay(self, stopping: threading.Event) -> None:
        """Wait before the answer is made, if that is the fault."""
        if self.kind == "hang":
            stopping.wait(self.details.get("seconds", HANG_SECONDS))

    def spoil(self, response: Response, stopping: threading.Event) -> Response:
        """Return what the fault makes of an answer."""
        return KINDS[self.kind](response, stopping, **self.details)


class Faults:
    """The faults that wait for their requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def inject(self, kind: str, times: int | None, path: str | None, details: dict[str, Any]) -> None:
        """Add a fault, see `Sandbox.inject`."""
        check_choice("kind", kind, KINDS)
        with self._lock:
            self._faults.append(Fault(kind, times, path, details))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def next(self, path: str) -> Fault | None:
        """Return the fault that a request for this path suffers, or None."""
        with self._lock:
            for fault in self._faults:
                if fault.matches(path):
                    if fault.left is not None:
                        fault.left -= 1
                        if fault.left <= 0:
                            self._faults.remove(fault)
                    return fault
        return None


def _status(
    _response: Response, _stopping: threading.Event, code: int = 503, retry_after: str | int | None = None
) -> Response:
    error = AifiError(code, "E_INJECTED", f"Answered {code} on request of a test")
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Response(json.dumps(error.body), code, headers, content_type="application/json")


def _reset(_response: Response, _stopping: threading.Event) -> Response:
    connection = request.environ["werkzeug.socket"]

    def answer() -> Iterator[bytes]:
        # Lingering for no time at all makes the kernel send RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())
        raise ConnectionResetError("reset on request of a test")
        yield b""

    return Response(answer())


def _hang(response: Response, _stopping: threading.Event, seconds: float = HANG_SECONDS) -> Response:
    """Change nothing: the wait is over before the answer is made."""
    return response


def _trickle(response: Response, stopping: threading.Event, interval: float = 0.1) -> Response:
    body = response.get_data()

    def answer() -> Iterator[bytes]:
        for place in range(len(body)):
            if place and stopping.wait(interval):
                raise ConnectionAbortedError("the sandbox stops")
            yield body[place : place + 1]

    return Response(answer(), response.status_code, response.headers)


def _html(_response: Response, _stopping: threading.Event) -> Response:
    page = "<!doctype html><html><head><title>Maintenance</title></head><body><h1>Back soon</h1></body></html>"
    return Response(page, 200, content_type="text/html; charset=utf-8")


def _truncated(response: Response, _stopping: threading.Event) -> Response:
    body = response.get_data()
    response.set_data(body[: len(body) // 2])
    return response


def _no_data(response: Response, _stopping: threading.Event) -> Response:
    answer = response.get_json()
    answer.pop("data", None)
    response.set_data(json.dumps(answer))
    return response


def _damaged_order(response: Response, _stopping: threading.Event) -> Response:
    answer = response.get_json()
    rows = answer.get("data", [answer])
    if rows:
        rows[len(rows) // 2].pop("id", None)
    response.set_data(json.dumps(answer))
    return response


def _huge(_response: Response, stopping: threading.Event, size: int = 100_000_000) -> Response:
    """Return valid JSON of `size` bytes, nearly all of it in one field."""
    start, end, chunk = b'{"data": [], "padding": "', b'"}', b"x" * 65536

    def answer() -> Iterator[bytes]:
        yield start
        left = size - len(start) - len(end)
        while left > 0 and not stopping.is_set():
            yield chunk[:left]
            left -= len(chunk)
        yield end

    return Response(answer(), 200, {"Content-Length": str(size)}, content_type="application/json")


KINDS: dict[str, Callable[..., Response]] = {
    "status": _status,
    "reset": _reset,
    "hang": _hang,
    "trickle": _trickle,
    "html": _html,
    "truncated": _truncated,
    "no_data": _no_data,
    "damaged_order": _damaged_order,
    "huge": _huge,
}
