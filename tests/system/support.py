"""What the tests of the whole system are written with: Aide's and AiFi's part, and a look at the database."""

import contextlib
import html
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

from tests.system.contract import check, check_value
from tools.harness import AIDE_KEY, WEBHOOK_SECRET, Bridge, wait_until
from tools.sandbox import Sandbox

LATEST, ORDER, CUSTOMER = "/v1/latest_orders", "/v1/orders/{orderId}", "/v1/customers/{customerId}"
WEBHOOK, HEALTH = "/webhooks/aifi", "/healthz"
ERROR = {"$ref": "#/components/schemas/Error"}
SELDOM = 3600  # as REFRESH_SECONDS: whatever is new after the first poll did not come by a refresh
ALWAYS = 0  # as REFRESH_SECONDS: every poll asks AiFi
FILTERS = ("honoured", "ignored", "refused")
WAIT_SECONDS = 1
IN_TIME = WAIT_SECONDS + 3  # for an answer that may wait for AiFi; a busy machine gets some slack
LOCK_SECONDS = 5  # how long the bridge waits for a locked database
MENDS_SECONDS = 20  # a pause after failures is 10 s at most
QUICK = {"REFRESH_SECONDS": ALWAYS, "REFRESH_WAIT_SECONDS": WAIT_SECONDS}
OTHER_KEYS = ("next-key", "schlüssel-ß")
ORDER_PUSH = {
    "orderId": 77001,
    "session": {"sessionId": "5b0f2c84-0000-4b3a-8f0e-2d1c6f8a7e13", "customerId": 11},
    "customer": {"id": 11, "role": "customer"},
    "storeId": 1,
    "timeOfOrigin": "2025-11-01T11:41:58.771Z",
    "timeOfIssue": "2025-11-01T11:42:01.200Z",
    "status": "completed",
    "cart": [{"productSnapshot": {"name": "Pretzel", "price": "0.95"}, "quantity": 2}],
    "totalPrice": "1.90",
    "totalTax": "0.12",
    "subtotalPrice": "1.78",
    "payment": {"status": "success", "paymentProvider": "acme-pay"},
}


# --- as Aide and AiFi, held against the contract


def page(bridge: Bridge, **params: object) -> dict:
    response = bridge.get(LATEST, **params)
    body = check(response, LATEST)
    assert response.status_code == 200, response.text
    return body


def newest(bridge: Bridge) -> dict:
    return page(bridge, page_size=1)["orders"][0]


def walk(bridge: Bridge, page_size: int = 50) -> list[dict]:
    """Return all orders that a walk meets, in its order."""
    rows = []
    for part in bridge.walk(page_size):
        check_value(part, {"$ref": "#/components/schemas/OrderPage"}, "a page of the walk")
        rows.extend(part["orders"])
    return rows


def ids(rows: list[dict]) -> list[str]:
    return [row["id"] for row in rows]


def look_up(bridge: Bridge, order_id: object, status: int = 200) -> dict:
    response = bridge.get(f"/v1/orders/{order_id}")
    body = check(response, ORDER)
    assert response.status_code == status, response.text
    return body


def look_up_customer(bridge: Bridge, customer_id: object, status: int = 200) -> dict:
    response = bridge.get(f"/v1/customers/{customer_id}")
    body = check(response, CUSTOMER)
    assert response.status_code == status, response.text
    return body


def push(bridge: Bridge, body: dict | bytes, status: int = 200) -> dict:
    response = bridge.webhook(body)
    answer = check(response, WEBHOOK, "post")
    assert response.status_code == status, response.text
    return answer


def health(bridge: Bridge) -> dict:
    response = bridge.get(HEALTH, key=None)
    body = check(response, HEALTH)
    assert response.status_code == 200, response.text
    return body


def page_source(bridge: Bridge, path: str = "/", **headers: str) -> str:
    """Return the status page as its operator gets it."""
    response = bridge.request("GET", path, auth=("operator", AIDE_KEY), headers=headers)
    assert response.status_code == 200, response.text
    return response.text


def page_text(bridge: Bridge) -> str:
    return html.unescape(page_source(bridge))


def texts(numbers: list[int]) -> set[str]:
    return set(map(str, numbers))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the call returns, and how many seconds it took."""
    begun = time.monotonic()
    return call(), time.monotonic() - begun


def at_once(count: int, call: Callable[[], Any]) -> list[Any]:
    """Return what so many calls return that begin together, each in a thread of its own."""
    barrier = threading.Barrier(count)

    def run(_: int) -> Any:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def connect_webhooks(sandbox: Sandbox, bridge: Bridge) -> None:
    """Let the sandbox push what happens in its shops to the bridge."""
    sandbox.webhook_url, sandbox.webhook_secret = bridge.url + WEBHOOK, WEBHOOK_SECRET
    sandbox.pushes = True


def named(sandbox: Sandbox) -> int:
    """Return the id of a customer of whom AiFi knows everything."""
    return next(customer.id for customer in sandbox.customers.values() if customer.phone and customer.external_id)


def oauth(sandbox: Sandbox, **changes: object) -> dict[str, object]:
    """Return the environment of a bridge that has client credentials instead of an access token."""
    return {
        "AIFI_ACCESS_TOKEN": None,
        "AIFI_CLIENT_ID": sandbox.client_id,
        "AIFI_CLIENT_SECRET": sandbox.client_secret,
        "AIFI_TOKEN_URL": sandbox.token_url,
        **changes,
    }


# --- what Aide and AiFi get in trouble


def answer_in_time(ask: Callable[[], requests.Response], in_time: float = IN_TIME) -> requests.Response:
    """Return an answer that is as good as it may be in trouble: 200, or 503 with a time to return, and soon."""
    response, seconds = timed(ask)
    assert response.status_code in (200, 503), f"{response.status_code}: {response.text}"
    if response.status_code == 503:
        assert response.headers["Retry-After"].isdigit()
        assert response.json()["error"]["message"]
    assert seconds < in_time, f"answered {response.status_code} only after {seconds:.1f} s"
    return response


def try_poll(bridge: Bridge, in_time: float = IN_TIME) -> requests.Response:
    return answer_in_time(lambda: bridge.get(LATEST), in_time)


def try_look_up(bridge: Bridge, order_id: int, in_time: float = IN_TIME) -> requests.Response:
    return answer_in_time(lambda: bridge.get(f"/v1/orders/{order_id}"), in_time)


def try_push(bridge: Bridge, body: dict, in_time: float = IN_TIME) -> requests.Response:
    return answer_in_time(lambda: bridge.webhook(body), in_time)


def listed(response: requests.Response) -> list[str]:
    """Return the ids that a poll got, none where it got an error."""
    return ids(response.json().get("orders", []))


def wait_for_order(bridge: Bridge, order_id: int, seconds: float = MENDS_SECONDS) -> None:
    """Poll until the order is in the list."""
    wait_until(lambda: str(order_id) in listed(try_poll(bridge)), seconds, f"order {order_id} in the list")


def assert_complete(bridge: Bridge, sandbox: Sandbox) -> None:
    """Hold that a walk meets every order of AiFi, each once."""
    assert sorted(ids(walk(bridge, 100))) == sorted(map(str, sandbox.order_ids()))


def assert_log_is_clean(bridge: Bridge, sandbox: Sandbox) -> None:
    """Hold that nothing which happened has written a secret or a trace into the log."""
    for secret in (WEBHOOK_SECRET, sandbox.access_token, bridge.environment["AIDE_API_KEY"]):
        assert secret not in bridge.log()
    assert "Traceback" not in bridge.log()


# --- the database, from outside


def database(bridge: Bridge) -> Path:
    """Return the file; what is about it is skipped where the tables lie on a server."""
    if "DATABASE_URL" in bridge.environment:
        pytest.skip("this is about the file")
    return Path(bridge.environment["DATABASE_PATH"])


@contextlib.contextmanager
def opened(bridge: Bridge) -> Iterator[sqlite3.Connection]:
    """Connect to the database; what is still to be committed at the end is."""
    with contextlib.closing(sqlite3.connect(database(bridge), timeout=10)) as connection, connection:
        yield connection


def query(bridge: Bridge, sql: str) -> list[tuple]:
    if url := bridge.environment.get("DATABASE_URL"):
        return query_server(url, sql)
    with opened(bridge) as connection:
        return connection.execute(sql).fetchall()


def check_integrity(bridge: Bridge) -> None:
    if "DATABASE_URL" not in bridge.environment:
        assert query(bridge, "PRAGMA integrity_check") == [("ok",)]


def query_server(url: str, sql: str) -> list[tuple]:
    """Run a statement in the one namespace of a server's database."""
    names = "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, 'bridge_v')"
    with psycopg.connect(url, autocommit=True) as connection:
        [(name,)] = connection.execute(names).fetchall()
        connection.execute(f"SET search_path TO {name}".encode())
        return connection.execute(sql.encode()).fetchall()


def delete_database(bridge: Bridge) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database(bridge)}{suffix}").unlink(missing_ok=True)


def wait_for_sweep(bridge: Bridge) -> None:
    """Wait until the sweep has made its step, the last of what goes on in the background of a refresh."""
    wait_until(lambda: query(bridge, "SELECT 1 FROM marks, sweeps WHERE stepped_at >= refreshed_at"), what="the sweep")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a disk, which only root can; where everything is checked, not being able to is a failure."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk]
    mounting = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounting.returncode:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse(f"no disk can be mounted here: {mounting.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


# --- a server of the retailer


class Receiver:
    """A web server that notes what it is POSTed, and answers as its attributes say."""

    def __init__(self) -> None:
        self.status, self.body, self.content_type = 200, b"{}", "application/json"
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.answer = self.reply
        self.closing = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - the library's name; `self` is the receiver
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                self.received.append((dict(handler.headers), body))
                self.answer(handler, body)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/pay"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.received]

    def reply(self, handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(self.status)
        if self.content_type:
            handler.send_header("Content-Type", self.content_type)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body)

    def trickle(self, handler: BaseHTTPRequestHandler, head: bytes) -> None:
        """Send this, and then a space every half second until nobody listens any longer."""
        try:
            handler.wfile.write(head)
            while not self.closing.wait(0.5):
                handler.wfile.write(b" ")
        except OSError:
            return
