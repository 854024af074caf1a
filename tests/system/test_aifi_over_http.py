"""AiFi's client over a real socket: how it bears what servers and networks do."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

import transport
from aifi import Client
from tests.support import STATIC, assert_nothing_is_told, credentials
from transport import AifiUnavailable, Pace, Token

pytestmark = pytest.mark.usefixtures("steady_pace")


# --- a server with a script for each path

Script = Callable[[BaseHTTPRequestHandler], None]


def answer(status: int = 200, body: bytes = b'{"data": []}', headers: Mapping[str, str] | None = None) -> Script:
    def script(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return script


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """End the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def say(text: bytes) -> Script:
    """Write this instead of an answer, and end the connection."""

    def script(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(text)

    return script


TOKEN = answer(body=b'{"access_token": "token-1"}')


class Server(ThreadingHTTPServer):
    """An HTTP server with a script for each path: one answer after another, the last one for ever."""

    daemon_threads, block_on_close = True, False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []  # paths
        self.released = threading.Event()
        self._scripts: dict[str, list[Script]] = {}
        self._lock = threading.Lock()

    def on(self, path: str, *scripts: Script) -> None:
        self._scripts[path] = list(scripts)

    def next(self, path: str) -> Script:
        with self._lock:
            self.asked.append(path)
            scripts = self._scripts[path]
            return scripts.pop(0) if len(scripts) > 1 else scripts[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    server: Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client gave up
            super().handle()

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.next(urlsplit(self.path).path)(self)

    do_POST = do_GET  # noqa: N815 - the base class's name

    def log_message(self, *_: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.on("/orders", answer())
        server.on("/token", TOKEN)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join(10)


class Slots:
    """Hands out slots, and remembers each that was asked for; waits in seconds."""

    def __init__(self, *waits: float):
        self.waits = list(waits)
        self.intervals: list[float] = []

    def __call__(self, interval: float) -> float:
        self.intervals.append(interval)
        return self.waits.pop(0) if self.waits else 0.0


def connect(server: Server, slots: Slots | None = None, oauth: bool = False) -> Client:
    token = credentials(f"{server.url}/token") if oauth else Token(STATIC)
    return Client(server.url, token, wait_for_slot=slots or Slots())


# --- retries

FAILURES = {**{str(status): answer(status) for status in (429, 500, 502, 503, 504)}, "hang up": hang_up}


@pytest.mark.parametrize("failure", list(FAILURES.values()), ids=list(FAILURES))
class TestAfterAFailure:
    def test_the_request_is_sent_again(self, server, failure):
        server.on("/orders", failure, failure, answer(body=b'{"data": [1]}'))
        assert connect(server).get("/orders") == {"data": [1]}
        assert len(server.asked) == 3

    def test_the_number_of_attempts_is_bounded(self, server, failure):
        server.on("/orders", failure)
        with pytest.raises(AifiUnavailable):
            connect(server).get("/orders")
        assert len(server.asked) == transport.RETRIES + 1

    def test_the_token_is_asked_for_again_too(self, server, failure):
        server.on("/token", failure, failure, TOKEN)
        assert connect(server, oauth=True).get("/orders") == {"data": []}
        assert server.asked == ["/token"] * 3 + ["/orders"]


def test_a_server_that_does_not_listen_is_tried_a_bounded_number_of_times():
    slots = Slots()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(AifiUnavailable, match=rf"^AiFi at {url[7:]} refuses the connection$"):
            Client(url, Token(STATIC), wait_for_slot=slots).get("/orders")
    assert len(slots.intervals) == transport.RETRIES + 1


def test_a_host_that_does_not_exist_is_named():
    with pytest.raises(AifiUnavailable, match=r"^AiFi at nowhere\.invalid cannot be found"):
        Client("http://nowhere.invalid", Token(STATIC)).get("/orders")


def test_a_token_server_that_does_not_exist_is_named_with_its_variable():
    with pytest.raises(AifiUnavailable, match=r"AIFI_TOKEN_URL.* at nowhere\.invalid cannot be found"):
        Client("http://localhost", credentials("http://nowhere.invalid/token")).get("/orders")


def test_a_server_without_tls_is_told_from_one_that_is_down(server):
    url = server.url.replace("http:", "https:")
    with pytest.raises(AifiUnavailable, match=rf"^AiFi at {url[8:]} has no certificate.*TLS$"):
        Client(url, Token(STATIC), wait_for_slot=Slots()).get("/orders")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the seconds that would be slept; there is no waiting for slots in it."""
    pauses: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", lambda seconds: pauses.append(seconds) if seconds else None)
    return pauses


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [("1", [1]), ("3600", [10]), (formatdate(time.time() + 3600, usegmt=True), [10]), ("0", [])],
    ids=["a second", "an hour", "a date in an hour", "at once"],
)
def test_retry_after_is_honoured_within_a_bound(server, pauses, status, retry_after, expected):
    server.on("/orders", answer(status, headers={"Retry-After": retry_after}), answer())
    connect(server).get("/orders")
    assert pauses == expected


def test_the_pauses_between_attempts_grow_and_differ_from_time_to_time(server, pauses, monkeypatch):
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.5)
    server.on("/orders", answer(503))
    for _ in range(2):
        with pytest.raises(AifiUnavailable):
            connect(server).get("/orders")
    assert [least <= pause <= least + 0.5 for least, pause in zip((1, 2, 4) * 2, pauses, strict=True)] == [True] * 6
    assert pauses[:3] != pauses[3:]


def test_the_pauses_between_attempts_are_bounded(server, pauses, monkeypatch):
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 100)
    server.on("/orders", answer(503))
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")
    assert pauses == [10, 10, 10]  # urllib3 pauses from the second retry on


def test_a_retry_after_that_means_nothing_is_no_crash(server):
    server.on("/orders", answer(503, headers={"Retry-After": "soon"}))
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")


@pytest.mark.parametrize("path", ["/token", "/orders"])
@pytest.mark.parametrize("failure", [answer(503), hang_up], ids=["503", "hang up"])
def test_retries_tell_no_secret(server, caplog, path, failure):
    server.on(path, failure)
    assert_nothing_is_told(connect(server, oauth=True), caplog)


# --- the request slot


def test_a_slot_is_asked_for_before_every_attempt(server):
    slots = Slots()
    server.on("/token", answer(503), TOKEN)
    server.on("/orders", answer(503), hang_up, answer(401), answer(500), answer())
    connect(server, slots, oauth=True).get("/orders")
    assert len(slots.intervals) == len(server.asked) == 8


def test_the_slots_keep_below_twenty_requests_a_second(server):
    slots = Slots()
    connect(server, slots).get("/orders")
    assert [1 / 20 < interval <= 1 / 15 for interval in slots.intervals] == [True]


def test_a_slot_is_waited_for(server):
    begun = time.monotonic()
    connect(server, Slots(0.3)).get("/orders")
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("waits", [(99,), (0, 99)], ids=["at first", "for a retry"])
def test_a_slot_that_is_too_far_off_is_not_waited_for(server, waits):
    server.on("/orders", answer(503))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable, match="too many"):
        connect(server, Slots(*waits)).get("/orders")
    assert len(server.asked) == len(waits) - 1
    assert time.monotonic() - begun < 10


def test_threads_share_one_token(server):
    client = connect(server, oauth=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.get("/orders"), range(8)))
    assert sorted(server.asked) == ["/orders"] * 8 + ["/token"]


# --- bounds


@pytest.mark.parametrize(
    "script",
    [
        say(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data": []}'),
        say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n{"),
        say(b"220 mail.example.com ESMTP\r\n"),
    ],
    ids=["broken off", "broken chunk", "another protocol"],
)
def test_an_answer_that_breaks_off_makes_aifi_unavailable(server, script):
    server.on("/orders", script)
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_an_answer_that_is_too_large_is_not_read_to_its_end(server, monkeypatch, compressed):
    monkeypatch.setattr(transport, "MAX_ANSWER_BYTES", 2 * 1024 * 1024)
    body = json.dumps({"data": [], "padding": "x" * 5_000_000}).encode()
    packed = answer(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    server.on("/orders", packed if compressed else answer(body=body))
    with pytest.raises(AifiUnavailable, match="more than 2 MB"):
        connect(server).get("/orders")


def trickle(server: Server, status: int = 200, before: float = 0.0) -> Script:
    """Answer after so many seconds, with a body that comes a byte at a time and never ends."""

    def script(handler: BaseHTTPRequestHandler) -> None:
        server.released.wait(before)
        handler.send_response(status)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not server.released.wait(0.02):
            handler.wfile.write(b" ")

    return script


@pytest.mark.parametrize("before", [0, 1.9], ids=["at once", "after a while"])
def test_an_answer_that_trickles_is_given_up_at_the_requests_one_deadline(server, before):
    server.on("/orders", trickle(server, before=before))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable, match=rf"^AiFi at {server.url[7:]} does not answer in time$"):
        connect(server).get("/orders", pace=Pace(deadline=begun + 2))
    assert time.monotonic() - begun < 3.5


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failure_whose_body_trickles_is_not_read(server, status):
    server.on("/orders", trickle(server, status))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable, match=f"answers {status}"):
        connect(server).get("/orders")
    assert time.monotonic() - begun < 5
    assert len(server.asked) == transport.RETRIES + 1


@pytest.mark.parametrize("status", [400, 404])
def test_a_refusal_whose_body_trickles_is_given_up_at_the_deadline(server, status):
    server.on("/orders/7", trickle(server, status))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable):
        connect(server).get_order("7", Pace(deadline=begun + 1))
    assert time.monotonic() - begun < 5


def test_a_server_that_stays_silent_is_given_up(server, monkeypatch):
    monkeypatch.setattr(transport, "READ_SECONDS", 0.1)
    monkeypatch.setattr(transport, "RETRIES", 1)
    server.on("/orders", lambda handler: server.released.wait(30))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable, match="does not answer in time"):
        connect(server).get("/orders")
    assert time.monotonic() - begun < 10
    assert len(server.asked) == 2


def test_silence_and_retries_share_one_deadline(server, monkeypatch):
    monkeypatch.setattr(transport, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(transport, "READ_SECONDS", 0.4)
    server.on("/orders", lambda handler: server.released.wait(30))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")
    assert time.monotonic() - begun < 5
    assert 1 < len(server.asked) <= 3
