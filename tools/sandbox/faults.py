"""What can go wrong on the way: faults that a test injects into answers."""

import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flask import Response, request

from tools.sandbox.answers import AifiError, Json
from tools.sandbox.rewriting import REWRITINGS
from tools.sandbox.settings import check_choice

HANG_SECONDS = 3600.0
LIST_NAMES = ("data", "contestedOrders", "stores")  # under which an answer holds its list


@dataclass
class Fault:
    """A fault that waits for its requests, see `Sandbox.inject`."""

    kind: str
    times: int | None = 1
    path: str | None = None
    having: str | None = None
    after: int = 0
    again: bool = False
    details: dict[str, Any] = field(default_factory=dict)
    count: int = 0  # requests that matched so far

    def strikes(self, path: str, args: dict[str, list[str]]) -> bool:
        """Count a request if it matches; return whether the fault strikes it."""
        if self.over or not self._matches(path, args):
            return False
        place = self.count
        self.count += 1
        if self.again and self.times is not None:
            place %= self.after + self.times
        return place >= self.after

    @property
    def over(self) -> bool:
        """Return whether the fault strikes no more."""
        return self.times is not None and not self.again and self.count >= self.after + self.times

    def _matches(self, path: str, args: dict[str, list[str]]) -> bool:
        if self.path is not None and not path.startswith(self.path):
            return False
        if self.having is None:
            return True
        name, equals, value = self.having.partition("=")
        return name in args and (not equals or value in args[name])

    def precede(self, stopping: threading.Event) -> None:
        """Do what the fault does before the answer is made."""
        if self.kind == "hang":
            stopping.wait(self.details.get("seconds", HANG_SECONDS))
        elif self.kind == "meanwhile":
            self.details["action"]()

    def spoil(self, response: Response, stopping: threading.Event) -> Response:
        """Return what the fault makes of an answer."""
        return KINDS[self.kind](response, stopping, **self.details)


class Faults:
    """The faults that wait for their requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        """Add a fault."""
        check_choice("kind", fault.kind, KINDS)
        with self._lock:
            self._faults.append(fault)

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def next(self, path: str, args: dict[str, list[str]]) -> Fault | None:
        """Return the first fault that strikes a request, or None."""
        with self._lock:
            return next((fault for fault in self._faults if fault.strikes(path, args)), None)


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


def _unchanged(response: Response, _stopping: threading.Event, **_details: Any) -> Response:
    """Change nothing: what such a fault does, it does before the answer is made."""
    return response


def _trickle(response: Response, stopping: threading.Event, interval: float = 0.1, code: int | None = None) -> Response:
    body = response.get_data()

    def answer() -> Iterator[bytes]:
        for place in range(len(body)):
            if place and stopping.wait(interval):
                raise ConnectionAbortedError("the sandbox stops")
            yield body[place : place + 1]

    return Response(answer(), code or response.status_code, response.headers)


def _html(_response: Response, _stopping: threading.Event, code: int = 200) -> Response:
    page = "<!doctype html><html><head><title>Maintenance</title></head><body><h1>Back soon</h1></body></html>"
    return Response(page, code, content_type="text/html; charset=utf-8")


def _truncated(response: Response, _stopping: threading.Event) -> Response:
    body = response.get_data()
    response.set_data(body[: len(body) // 2])
    return response


def _no_data(response: Response, _stopping: threading.Event) -> Response:
    answer = response.get_json()
    answer.pop(_list_name(answer), None)
    response.set_data(json.dumps(answer))
    return response


def _empty(response: Response, _stopping: threading.Event, errors: list[Any] | None = None) -> Response:
    answer = {_list_name(response.get_json()): []} | ({} if errors is None else {"errors": errors})
    return Response(json.dumps(answer), 200, content_type="application/json")


def _missing_row(response: Response, _stopping: threading.Event, row: int | None = None) -> Response:
    answer = response.get_json()
    rows = answer.get(_list_name(answer))
    if rows:
        del rows[len(rows) // 2 if row is None else row]
    response.set_data(json.dumps(answer))
    return response


def _damaged_order(response: Response, _stopping: threading.Event) -> Response:
    answer = response.get_json()
    orders = _orders_in(answer)
    if orders:
        orders[len(orders) // 2].pop("id", None)
    response.set_data(json.dumps(answer))
    return response


def _rewritten(response: Response, _stopping: threading.Event, how: str | Callable[[Json], None]) -> Response:
    answer = response.get_json()
    for order in _orders_in(answer):
        (REWRITINGS[how] if isinstance(how, str) else how)(order)
    response.set_data(json.dumps(answer))
    return response


def _odd_bytes(
    response: Response, _stopping: threading.Event, raw: bytes = b"\t", order_id: int | None = None
) -> Response:
    answer = response.get_json()
    for order in _orders_in(answer):
        lines = order.get("lineItems") or order.get("products")
        if lines and order_id in (None, order["id"]):
            product = lines[0].get("productSnapshot", lines[0])
            product["name"] = f"{product['name'][:2]}ODD_BYTES{product['name'][2:]}"
            break
    response.set_data(json.dumps(answer).encode().replace(b"ODD_BYTES", raw))
    return response


def _list_name(answer: Json) -> str:
    return next((name for name in LIST_NAMES if name in answer), LIST_NAMES[0])


def _orders_in(answer: Json) -> list[Json]:
    """Return the orders of a list, or the one that the answer is."""
    orders: list[Json] = answer.get(_list_name(answer), [answer] if "id" in answer else [])
    return orders


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
    "hang": _unchanged,
    "meanwhile": _unchanged,
    "trickle": _trickle,
    "html": _html,
    "truncated": _truncated,
    "no_data": _no_data,
    "empty": _empty,
    "missing_row": _missing_row,
    "damaged_order": _damaged_order,
    "rewritten": _rewritten,
    "odd_bytes": _odd_bytes,
    "huge": _huge,
}
