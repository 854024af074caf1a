"""The bridge end to end: real HTTP in front, a sandbox AiFi behind, a real disk below."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote

import pytest
import requests

from config import VARIABLES
from tests.system.contract import check, check_value, document
from tools.harness import AIDE_KEY, PROJECT, WEBHOOK_SECRET, Bridge, free_port, wait_until
from tools.sandbox import Sandbox

LATEST, ORDER, CUSTOMER = "/v1/latest_orders", "/v1/orders/{orderId}", "/v1/customers/{customerId}"
WEBHOOK, HEALTH = "/webhooks/aifi", "/healthz"
ERROR = {"$ref": "#/components/schemas/Error"}
SELDOM = 3600  # as REFRESH_SECONDS: whatever is new after the first poll did not come by a refresh
ALWAYS = 0  # as REFRESH_SECONDS: every poll asks AiFi
FILTERS = ("honoured", "ignored", "refused")
OTHER_KEYS = ("next-key", "schlüssel-ß")


# --- helpers


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
    return check(bridge.get(HEALTH, key=None), HEALTH)


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


def remove_database(bridge: Bridge) -> None:
    path = bridge.environment["DATABASE_PATH"]
    os.remove(path)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.remove(path + suffix)


def connect_webhooks(sandbox: Sandbox, bridge: Bridge) -> None:
    """Let the sandbox push what happens in its shops to the bridge."""
    sandbox.webhook_url, sandbox.webhook_secret = bridge.url + WEBHOOK, WEBHOOK_SECRET
    sandbox.pushes = True


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


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def shops() -> Iterator[Sandbox]:
    """An AiFi in which nothing changes, for the tests that only ask."""
    with Sandbox(seed=2) as sandbox:
        sandbox.seed_orders(120)
        yield sandbox


@pytest.fixture(scope="module")
def quiet(shops: Sandbox, tmp_path_factory) -> Iterator[Bridge]:
    """A bridge to it that has read all orders, for the tests that leave no trace."""
    keys = ",".join((AIDE_KEY, *OTHER_KEYS))
    with Bridge(shops, tmp_path_factory.mktemp("quiet"), REFRESH_SECONDS=SELDOM, AIDE_API_KEY=keys) as bridge:
        walk(bridge)
        yield bridge


# --- the contract itself


def response_of(body: object, status: int = 200, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({"Content-Type": "application/json", **headers})
    response._content = json.dumps(body).encode()
    return response


GOOD_SUMMARY = {
    "id": "7",
    "updated_at": "2025-11-01T00:00:00.000Z",
    "display_id": "R-7",
    "created_at": "2025-11-01T00:00:00.000Z",
    "total_amount": 2.15,
}


def test_the_contract_holds_for_a_good_answer():
    check(response_of({"orders": [GOOD_SUMMARY]}), LATEST)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7},
        {"total_amount": "2.15"},
        {"total_amount": None},
        {"updated_at": 1761955200},
        {"updated_at": "2025-11-31T00:00:00.000Z"},
        {"updated_at": "2025-11-01 00:00:00.000Z"},
        {"updated_at": "2025-11-01T00:00:00.000+01:00"},
        {"updated_at": "2025-11-01T00:00:00Z"},
        {"customer_id": None},
        {"surprise": True},
    ],
    ids=str,
)
def test_the_contract_notices_a_wrong_field(change):
    with pytest.raises(AssertionError):
        check(response_of({"orders": [{**GOOD_SUMMARY, **change}]}), LATEST)


def test_the_contract_notices_a_bad_date_where_only_the_format_forbids_it():
    with pytest.raises(AssertionError, match="date-time"):
        check_value("2025-13-01T00:00:00.000Z", {"type": "string", "format": "date-time"})


def test_the_contract_notices_an_address_without_an_at_sign():
    with pytest.raises(AssertionError, match="email"):
        check(response_of({"id": "11", "email": "none"}), CUSTOMER)


def test_the_contract_knows_what_may_be_null():
    full = {**GOOD_SUMMARY, "canceled_at": None}
    check(response_of(full), ORDER)
    with pytest.raises(AssertionError):
        check(response_of({**full, "canceled_at": ""}), ORDER)


@pytest.mark.parametrize("name", ["id", "updated_at", "display_id", "created_at", "total_amount"])
def test_the_contract_notices_what_is_missing(name):
    summary = {key: value for key, value in GOOD_SUMMARY.items() if key != name}
    with pytest.raises(AssertionError):
        check(response_of({"orders": [summary]}), LATEST)


def test_the_contract_notices_a_status_that_is_not_documented():
    with pytest.raises(AssertionError, match="not documented"):
        check(response_of({"error": {"code": "teapot", "message": "Tea?"}}, 418), LATEST)


def test_the_contract_notices_a_503_without_retry_after():
    error = {"error": {"code": "aifi_unavailable", "message": "AiFi is away."}}
    check(response_of(error, 503, **{"Retry-After": "10"}), LATEST)
    with pytest.raises(AssertionError, match="Retry-After"):
        check(response_of(error, 503), LATEST)


@pytest.mark.parametrize(
    "name", [name for name, schema in document()["components"]["schemas"].items() if "example" in schema]
)
def test_the_examples_keep_the_contract(name):
    schema = document()["components"]["schemas"][name]
    check_value(schema["example"], schema)


def test_the_bridge_serves_its_contract(quiet):
    for path in ("/v1/openapi.yaml", "/openapi.yaml"):
        response = quiet.get(path, key=None)
        assert response.status_code == 200
        assert response.content == (PROJECT / "openapi.yaml").read_bytes()


# --- the list


@pytest.mark.parametrize("page_size", [7, 50, 100])
def test_a_walk_from_an_empty_file_meets_every_order_once_in_falling_order(sandbox, start_bridge, page_size):
    seeded = sandbox.seed_orders(1234)
    rows = walk(start_bridge(), page_size)
    assert len(rows) == 1234
    assert set(ids(rows)) == texts(seeded)
    places = [(row["updated_at"], row["id"]) for row in rows]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("updated_at_shown", [True, False], ids=["times shown", "no times"])
@pytest.mark.parametrize("updated_filter", FILTERS)
def test_the_first_poll_costs_at_most_four_requests(sandbox, start_bridge, updated_filter, updated_at_shown):
    sandbox.updated_filter, sandbox.updated_at_shown = updated_filter, updated_at_shown
    sandbox.seed_orders(1234)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    assert len(page(bridge)["orders"]) == 50
    asked = [(request.path, request.args) for request in sandbox.requests]
    assert 1 <= len(asked) <= 4, asked


@pytest.mark.parametrize("updated_filter", FILTERS)
def test_a_lost_database_file_gives_the_same_orders_at_the_same_times(sandbox, start_bridge, updated_filter):
    sandbox.updated_filter = updated_filter
    sandbox.seed_orders(1234)
    bridge = start_bridge()
    before = walk(bridge, 100)
    bridge.terminate()
    remove_database(bridge)
    bridge.start()
    assert walk(bridge, 100) == before


def test_the_list_is_the_same_at_the_root(quiet):
    assert quiet.get("/latest_orders", page_size=100).content == quiet.get(LATEST, page_size=100).content


def test_a_page_holds_fifty_orders_if_no_size_is_given(quiet):
    assert len(page(quiet)["orders"]) == 50


@pytest.mark.parametrize("page_size", [1, 99, 100])
def test_a_page_holds_as_many_orders_as_wanted(quiet, page_size):
    assert len(page(quiet, page_size=page_size)["orders"]) == page_size


def test_the_last_page_has_no_token(quiet):
    *others, last = quiet.walk(50)
    assert [len(part["orders"]) for part in (*others, last)] == [50, 50, 20]
    assert all("next_page_token" in part for part in others)
    assert "next_page_token" not in last


def test_shops_without_orders_give_an_empty_list(bridge):
    assert page(bridge) == {"orders": []}


@pytest.mark.parametrize("text", ["0", "101", "-1", "+5", "1.5", "1e1", "ten", "", " 5", "５", "9" * 5000, "5,5"])
def test_a_wrong_page_size_is_refused(quiet, text):
    response = quiet.request("GET", f"{LATEST}?page_size={quote(text[:3000])}", headers={"X-API-Key": AIDE_KEY})
    assert response.status_code == 400
    assert check(response, LATEST)["error"]["code"] == "invalid_page_size"


@pytest.mark.parametrize("text", ["", "x", "null", "MjAyNQ", "%00", "ü", "=" * 40, "A" * 3000])
def test_a_foreign_page_token_is_refused(quiet, text):
    response = quiet.get(LATEST, page_token=text)
    assert response.status_code == 400
    assert check(response, LATEST)["error"]["code"] == "invalid_page_token"


def test_a_page_token_with_one_wrong_character_is_refused(quiet):
    token = page(quiet, page_size=1)["next_page_token"]
    damaged = [token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(len(token))]
    for text in (*damaged, token[:-1], token[1:], token + "A", token + "=", token + "\n"):
        assert quiet.get(LATEST, page_token=text).status_code == 400, text


@pytest.mark.parametrize("page_zero", ["as_one", "refused", "empty"])
def test_an_aifi_that_counts_pages_from_one_does_no_harm(sandbox, start_bridge, page_zero):
    sandbox.first_page, sandbox.page_zero = 1, page_zero
    seeded = sandbox.seed_orders(450)
    rows = walk(start_bridge(), 100)
    assert len(rows) == 450
    assert set(ids(rows)) == texts(seeded)


def test_an_aifi_with_small_pages_does_no_harm(sandbox, start_bridge):
    sandbox.page_limit = 50
    seeded = sandbox.seed_orders(230)
    rows = walk(start_bridge(), 100)
    assert len(rows) == 230
    assert set(ids(rows)) == texts(seeded)


# --- how fresh it is


def test_a_checkout_that_aifi_shows_minutes_late_is_at_the_head(sandbox, start_bridge):
    sandbox.seed_orders(5)
    sandbox.checkout()
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    before = walk(bridge)
    two_minutes_ago = datetime.now(timezone.utc) - timedelta(minutes=2)
    late = sandbox.checkout(drafted_at=two_minutes_ago, at=two_minutes_ago)
    first = newest(bridge)
    assert first["id"] == str(late)
    assert first["updated_at"] > before[0]["updated_at"]


def test_a_checkout_is_in_the_very_next_answer_after_its_webhook(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    page(bridge)
    connect_webhooks(sandbox, bridge)
    order_id = sandbox.checkout()
    assert [delivery.status for delivery in sandbox.deliveries] == [200]
    first = newest(bridge)
    assert (first["id"], first["status"]) == (str(order_id), "draft")
    assert first["total_amount"] == float(sandbox.order(order_id)["totalPrice"])


def test_a_checkout_without_a_webhook_is_there_after_the_refresh_time(sandbox, bridge):
    sandbox.seed_orders(30)
    page(bridge)
    order_id = sandbox.checkout()
    wait_until(lambda: newest(bridge)["id"] == str(order_id), what="the checkout in the list")


def test_nothing_is_asked_of_aifi_within_the_refresh_time(sandbox, start_bridge):
    sandbox.seed_orders(150)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    walk(bridge)
    sandbox.forget_requests()
    walk(bridge)
    assert sandbox.requests == []


def refreshes(sandbox: Sandbox) -> int:
    """Return how many refreshes began since `forget_requests`: each asks once for what is new, from its first page."""
    return sum(
        request.path == "/orders" and "minDraftCreatedAt" in request.args and request.args["page"] == ["0"]
        for request in sandbox.requests
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_twenty_polls_at_once_on_a_stale_mirror_cause_one_refresh(sandbox, start_bridge, workers):
    sandbox.seed_orders(300)
    bridge = start_bridge(REFRESH_SECONDS=3, REFRESH_WAIT_SECONDS=10, WEB_CONCURRENCY=workers)
    page(bridge)
    order_id = sandbox.checkout()
    wait_until(lambda: health(bridge)["mirror_age_seconds"] > 3, what="a stale mirror")
    sandbox.forget_requests()
    sandbox.latency_seconds = 0.2
    pages = at_once(20, lambda: page(bridge))
    assert refreshes(sandbox) == 1, [request.args for request in sandbox.requests]
    assert {part["orders"][0]["id"] for part in pages} == {str(order_id)}


@pytest.mark.parametrize("workers", [1, 3])
def test_twenty_polls_at_once_on_an_empty_file_cause_one_refresh(sandbox, start_bridge, workers):
    sandbox.seed_orders(300)
    sandbox.latency_seconds = 0.2
    bridge = start_bridge(REFRESH_SECONDS=SELDOM, REFRESH_WAIT_SECONDS=10, WEB_CONCURRENCY=workers)
    pages = at_once(20, lambda: page(bridge))
    assert len(sandbox.requests) <= 4, [request.args for request in sandbox.requests]
    assert all(part == pages[0] for part in pages)


# --- what the answers say


@pytest.mark.parametrize("line_items_as", ["lineItems", "products"])
def test_every_answer_keeps_the_contract(sandbox, start_bridge, line_items_as):
    sandbox.line_items_as = line_items_as
    sandbox.seed_orders(20, settled=False)
    bridge = start_bridge(AIFI_CURRENCY="EUR")
    rows = walk(bridge, 7)
    assert len(rows) == 20
    for row in rows:
        order = look_up(bridge, row["id"])
        assert {key: order.get(key) for key in row} == row
        look_up_customer(bridge, row["customer_id"])


def test_an_order_says_what_aifi_says(sandbox, start_bridge):
    order_id = sandbox.checkout(store=2, lines=[("Cola 0.33 l", 2), ("Pretzel", 1)])
    sandbox.complete(order_id)
    sandbox.pay(order_id)
    sandbox.set_external_id(order_id, "R-17")
    known = sandbox.order(order_id)
    order = look_up(start_bridge(AIFI_CURRENCY="EUR"), order_id)
    assert order["updated_at"] == known["updatedAt"]
    lines = [
        {"name": "Cola 0.33 l", "quantity": 2, "unit_price": 1.79},
        {"name": "Pretzel", "quantity": 1, "unit_price": 0.95},
    ]
    for line, wanted in zip(order["line_items"], lines, strict=True):
        assert wanted.items() <= line.items()
        assert (line["status"], line["is_externally_added"]) == ("ORIGINAL", False)
    wanted = {
        "id": str(order_id),
        "display_id": "R-17",
        "external_id": "R-17",
        "created_at": known["draftCreatedAt"],
        "completed_at": known["completedAt"],
        "paid_at": known["paidAt"],
        "canceled_at": None,
        "status": "paid",
        "total_amount": 4.53,
        "tax_amount": float(known["totalTax"]),
        "subtotal_amount": float(Decimal("4.53") - Decimal(known["totalTax"])),
        "currency": "EUR",
        "customer_id": str(known["customerId"]),
        "store_id": "2",
        "version": 1,
        "refunded": False,
        "payment": {"status": "success", "transaction_ids": [f"tx_{order_id}"]},
        "session": {
            "id": known["sessionId"],
            "entered_at": known["session"]["customerFirstEnteredAt"],
            "exited_at": known["session"]["customerLastExitedAt"],
            "visitors": known["session"]["visitors"],
        },
    }
    assert {key: order.get(key) for key in wanted} == wanted
    assert order.keys() == wanted.keys() | {"updated_at", "line_items"}


def test_without_aifi_currency_no_currency_is_made_up(sandbox, bridge):
    [order_id] = sandbox.seed_orders(1)
    assert "currency" not in newest(bridge)
    assert "currency" not in look_up(bridge, order_id)


def test_the_currency_is_the_operators(sandbox, start_bridge):
    [order_id] = sandbox.seed_orders(1)
    bridge = start_bridge(AIFI_CURRENCY="CHF")
    assert newest(bridge)["currency"] == look_up(bridge, order_id)["currency"] == "CHF"


# --- one order


@pytest.mark.parametrize("order_id", ["999999999", "0", "no-such", "1e3", "-1", "%C3%BC", "a%20b", "9" * 400])
def test_an_order_that_aifi_does_not_know_is_a_404(quiet, order_id):
    assert look_up(quiet, order_id, 404)["error"]["code"] == "not_found"


def test_an_order_known_from_a_list_gets_its_details_once(sandbox, start_bridge):
    [order_id] = sandbox.seed_orders(1, days=2)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    page(bridge)
    sandbox.forget_requests()
    order = look_up(bridge, order_id)
    assert order["session"]["entered_at"] == sandbox.order(order_id)["session"]["customerFirstEnteredAt"]
    assert look_up(bridge, order_id) == order
    assert [request.path for request in sandbox.requests] == [f"/orders/{order_id}"]


def test_details_do_not_move_an_order_in_the_list(sandbox, start_bridge):
    seeded = sandbox.seed_orders(20)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    before = page(bridge)
    for order_id in seeded[:5]:
        look_up(bridge, order_id)
    assert page(bridge) == before


def test_an_order_that_the_list_has_not_shown_yet_is_found(sandbox, start_bridge):
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    page(bridge)
    order_id = sandbox.checkout()
    assert look_up(bridge, order_id)["status"] == "draft"


def test_an_open_order_is_looked_up_every_time(sandbox, start_bridge):
    order_id = sandbox.checkout()
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    assert newest(bridge)["status"] == look_up(bridge, order_id)["status"] == "draft"
    sandbox.complete(order_id)
    assert look_up(bridge, order_id)["status"] == "paymentProcessing"
    sandbox.pay(order_id)
    assert look_up(bridge, order_id)["status"] == "paid"
    assert newest(bridge)["status"] == "paid"


def test_an_order_is_found_by_its_session_too(sandbox, start_bridge):
    [order_id] = sandbox.seed_orders(1)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    page(bridge)
    assert look_up(bridge, sandbox.session_of(order_id)) == look_up(bridge, order_id)


def test_orders_and_customers_are_the_same_at_the_root(quiet):
    row = newest(quiet)
    for path in (f"/orders/{row['id']}", f"/customers/{row['customer_id']}"):
        response = quiet.get(path)
        assert response.status_code == 200
        assert response.json() == quiet.get(f"/v1{path}").json()


# --- one customer


def named(sandbox: Sandbox) -> int:
    """Return the id of a customer of whom AiFi knows everything."""
    return next(customer.id for customer in sandbox.customers.values() if customer.phone and customer.external_id)


def test_a_customer_says_what_aifi_says(sandbox, bridge):
    customer = sandbox.customers[named(sandbox)]
    assert look_up_customer(bridge, customer.id) == {
        "id": str(customer.id),
        "first_name": customer.first_name,
        "last_name": customer.last_name,
        "email": customer.email,
        "phone": customer.phone,
        "external_id": customer.external_id,
        "role": customer.role,
    }


def test_an_anonymous_customer_has_an_id_and_a_role(sandbox, bridge):
    customer = next(customer for customer in sandbox.customers.values() if not customer.email)
    assert look_up_customer(bridge, customer.id) == {"id": str(customer.id), "role": customer.role}


def test_an_address_that_is_none_breaks_no_promise(sandbox, bridge):
    sandbox.change_customer(named(sandbox), email="n/a")
    look_up_customer(bridge, named(sandbox))


def test_a_customer_is_asked_of_aifi_once_within_the_hour(sandbox, bridge):
    customer_id = named(sandbox)
    before = look_up_customer(bridge, customer_id)
    sandbox.change_customer(customer_id, first_name="Zoe")
    assert look_up_customer(bridge, customer_id) == before
    assert [request.path for request in sandbox.requests] == [f"/customers/{customer_id}"]


def test_a_customers_webhook_counts_at_once(sandbox, bridge):
    customer_id = named(sandbox)
    look_up_customer(bridge, customer_id)
    sandbox.change_customer(customer_id, first_name="Zoe")
    assert push(bridge, sandbox.customer_webhook(customer_id)) == {}
    assert look_up_customer(bridge, customer_id)["first_name"] == "Zoe"


def test_a_customer_whom_only_an_order_names_is_an_id(sandbox, bridge):
    order_id = sandbox.checkout(customer=named(sandbox))
    page(bridge)
    customer_id = look_up(bridge, order_id)["customer_id"]
    del sandbox.customers[int(customer_id)]
    assert look_up_customer(bridge, customer_id) == {"id": customer_id}


@pytest.mark.parametrize("customer_id", ["999999999", "no-such", "%C3%BC", "-1"])
def test_a_customer_whom_nobody_knows_is_a_404(quiet, customer_id):
    assert look_up_customer(quiet, customer_id, 404)["error"]["code"] == "not_found"


# --- while AiFi is away


def go_away(sandbox: Sandbox, how: str) -> None:
    if how == "stopped":
        sandbox.stop()
    else:
        sandbox.inject("hang", times=None)


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_an_empty_bridge_answers_503_in_time_while_aifi_is_away(sandbox, start_bridge, how):
    sandbox.seed_orders(30)
    bridge = start_bridge(REFRESH_WAIT_SECONDS=1)
    go_away(sandbox, how)
    for path, template in ((LATEST, LATEST), ("/v1/orders/1001", ORDER), ("/v1/customers/11", CUSTOMER)):
        response, seconds = timed(lambda path=path: bridge.get(path))
        assert (path, response.status_code) == (path, 503)
        assert check(response, template)["error"]["code"] == "aifi_unavailable"
        assert seconds < 1 + 1, path


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_a_filled_bridge_answers_from_the_mirror_in_time_while_aifi_is_away(sandbox, start_bridge, how):
    order_id = sandbox.checkout(customer=named(sandbox))
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS, REFRESH_WAIT_SECONDS=2)
    before = [page(bridge), look_up(bridge, order_id), look_up_customer(bridge, named(sandbox))]
    go_away(sandbox, how)
    calls = (
        lambda: page(bridge),
        lambda: look_up(bridge, order_id),  # it is open, so AiFi is asked
        lambda: look_up_customer(bridge, named(sandbox)),
    )
    for call, wanted in zip(calls, before, strict=True):
        answer, seconds = timed(call)
        assert answer == wanted
        assert seconds < 2 + 1


def test_the_bridge_is_itself_again_soon_after_aifi_is_back(sandbox, start_bridge):
    bridge = start_bridge()
    sandbox.stop()
    assert bridge.get(LATEST).status_code == 503
    order_id = sandbox.checkout()
    sandbox.start()
    wait_until(lambda: bridge.get(LATEST).status_code == 200, 15, "AiFi's orders")
    assert newest(bridge)["id"] == str(order_id)


@pytest.mark.parametrize("kind", ["html", "truncated", "no_data"])
def test_nonsense_from_aifi_is_a_503(sandbox, start_bridge, kind):
    sandbox.seed_orders(30)
    bridge = start_bridge()
    sandbox.inject(kind, times=None)
    response = bridge.get(LATEST)
    assert response.status_code == 503
    check(response, LATEST)


def test_one_damaged_order_does_not_stop_the_others(sandbox, start_bridge):
    sandbox.seed_orders(30)
    sandbox.inject("damaged_order")
    assert len(page(start_bridge(REFRESH_SECONDS=SELDOM))["orders"]) >= 29


def test_the_health_check_says_how_it_stands(sandbox, start_bridge):
    sandbox.seed_orders(3)
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    page(bridge)
    assert health(bridge).items() >= {"status": "ok", "aifi_answers": True, "last_error": None}.items()
    sandbox.stop()
    wait_until(lambda: page(bridge) and health(bridge)["status"] == "degraded", 30, "the failure to be noticed")
    state = health(bridge)
    assert state["aifi_answers"] is False
    assert "AiFi" in state["last_error"]
    assert state["failing_since"] is not None


# --- who may ask


def header_with(kind: str, key: str | bytes) -> dict[str, bytes]:
    """Return a header that carries the key, as UTF-8 if it is text."""
    key = key.encode() if isinstance(key, str) else key
    return {"X-API-Key": key} if kind == "X-API-Key" else {"Authorization": kind.encode() + b" " + key}


KINDS = ("X-API-Key", "Bearer", "bearer")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [AIDE_KEY, *OTHER_KEYS])
def test_each_of_the_keys_opens_in_either_header(quiet, kind, key):
    assert quiet.request("GET", LATEST, headers=header_with(kind, key)).status_code == 200


@pytest.mark.parametrize("kind", [*KINDS, "Basic"])
@pytest.mark.parametrize("key", ["", "wrong", "TEST-KEY", "test-key,next-key", "test-key2", "test", "ü", b"\xff\xfe"])
def test_a_wrong_key_opens_nothing(quiet, kind, key):
    response = quiet.request("GET", LATEST, headers=header_with(kind, key))
    assert response.status_code == 401
    assert check(response, LATEST)["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("path", ["/latest_orders", "/orders/1001", "/customers/11", "/orders/none", "/customers/none"])
def test_without_a_key_nothing_is_told(quiet, prefix, path):
    response = quiet.get(prefix + path, key=None)
    assert response.status_code == 401
    check_value(response.json(), ERROR)


def test_a_key_in_the_address_opens_nothing(quiet):
    assert quiet.get(LATEST, key=None, token=AIDE_KEY, api_key=AIDE_KEY).status_code == 401


def test_the_webhook_secret_is_no_key(quiet):
    assert quiet.get(LATEST, key=WEBHOOK_SECRET).status_code == 401


def test_an_old_key_is_out_after_its_rotation(start_bridge):
    bridge = start_bridge(AIDE_API_KEY="new-key")
    assert bridge.get(LATEST, key="new-key").status_code == 200
    assert bridge.get(LATEST).status_code == 401


# --- errors


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v2/latest_orders", "/v1/orders", "/v1/orders/1/2", "/favicon.ico"])
def test_a_path_that_does_not_exist_is_a_404_in_json(quiet, path):
    response = quiet.get(path)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/json"
    check_value(response.json(), ERROR)


@pytest.mark.parametrize(
    ("method", "path", "template", "documented"),
    [
        ("POST", LATEST, LATEST, "get"),
        ("DELETE", "/v1/orders/1001", ORDER, "get"),
        ("PUT", "/v1/customers/11", CUSTOMER, "get"),
        ("GET", WEBHOOK, WEBHOOK, "post"),
        ("POST", HEALTH, HEALTH, "get"),
    ],
)
def test_a_method_that_is_not_taken_is_a_405_in_json(quiet, method, path, template, documented):
    response = quiet.request(method, path, headers={"X-API-Key": AIDE_KEY})
    assert response.status_code == 405
    assert check(response, template, documented)["error"]["code"] == "method_not_allowed"
    assert documented.upper() in response.headers["Allow"]


# --- webhooks: who may push


def post(bridge: Bridge, body: dict, path: str = WEBHOOK, **headers: str | bytes) -> requests.Response:
    response = bridge.request("POST", path, json=body, headers=headers)
    check(response, WEBHOOK, "post")
    return response


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (WEBHOOK, {"Authorization": f"Bearer {WEBHOOK_SECRET}"}),
        (WEBHOOK, {"Authorization": f"bearer {WEBHOOK_SECRET}"}),
        (f"{WEBHOOK}?token={WEBHOOK_SECRET}", {}),
        (f"{WEBHOOK}?token={WEBHOOK_SECRET}", {"Authorization": "Bearer of-aifi-itself"}),
    ],
)
def test_a_webhook_may_carry_the_secret_in_header_or_address(quiet, path, headers):
    response = post(quiet, {"timeOfIssue": "2025-11-01T00:00:00Z"}, path, **headers)
    assert (response.status_code, response.json()) == (200, {})


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (WEBHOOK, {}),
        (WEBHOOK, {"Authorization": "Bearer wrong"}),
        (WEBHOOK, {"Authorization": "Bearer "}),
        (WEBHOOK, {"Authorization": f"Bearer {AIDE_KEY}"}),
        (WEBHOOK, {"Authorization": WEBHOOK_SECRET}),
        (WEBHOOK, {"Authorization": b"Bearer \xc3\xbc"}),
        (WEBHOOK, {"X-API-Key": WEBHOOK_SECRET}),
        (f"{WEBHOOK}?token=wrong", {}),
        (f"{WEBHOOK}?token=", {}),
        (f"{WEBHOOK}?token=%C3%BC%FF", {}),
    ],
)
def test_a_webhook_without_the_secret_is_refused_and_changes_nothing(quiet, shops, path, headers):
    before = walk(quiet)
    body = {**shops.webhook(shops.order_ids()[0]), "totalPrice": "9999.99"}
    assert post(quiet, body, path, **headers).status_code == 401
    assert walk(quiet) == before


@pytest.mark.parametrize("secret", [None, ""])
def test_without_a_webhook_secret_the_route_is_off_and_says_so(sandbox, start_bridge, secret):
    bridge = start_bridge(AIFI_WEBHOOK_SECRET=secret)
    for offered in (WEBHOOK_SECRET, "", None):
        response = bridge.webhook(sandbox.webhook(sandbox.checkout()), secret=offered)
        assert response.status_code == 503
        assert "AIFI_WEBHOOK_SECRET" in check(response, WEBHOOK, "post")["error"]["message"]


def test_no_secret_gets_into_the_log(sandbox, start_bridge):
    bridge = start_bridge()
    page(bridge)
    post(bridge, sandbox.webhook(sandbox.checkout()), f"{WEBHOOK}?token={WEBHOOK_SECRET}")
    bridge.request("POST", f"{WEBHOOK}?token=half-right", data=b"{")
    bridge.terminate()
    log = bridge.log()
    assert f"POST {WEBHOOK} 200" in log
    for secret in (WEBHOOK_SECRET, AIDE_KEY, sandbox.access_token, "half-right"):
        assert secret not in log


# --- webhooks: what is no webhook


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
CUSTOMER_PUSH = {
    "customer": {"id": 12, "externalId": None, "role": "customer"},
    "customerPersonalInfo": {"email": "ada@example.com", "firstName": "Ada", "lastName": "Zuse", "phone": None},
    "timeOfOrigin": "2025-11-01T11:41:58.771Z",
    "timeOfIssue": "2025-11-01T11:42:01.200Z",
}
NO_OBJECTS = ("text", 5, True, [], [{}])
WRONG_FIELDS = {
    "orderId": ("abc", "", "12a", 1.5, True, [], {}, 10**30),
    "status": (5, True, [], {}),
    "cart": ("text", 5, True, {}, [1], ["text"], [None], [[]], [{}, 1]),
    "totalPrice": ("abc", "", "NaN", "Infinity", "-Infinity", "1,50", "1e999", True, [], {}),
    "totalTax": ("abc", "NaN", True, []),
    "subtotalPrice": ("abc", "NaN", True, []),
    "session": NO_OBJECTS,
    "customer": NO_OBJECTS,
    "payment": NO_OBJECTS,
    "timeOfIssue": ("yesterday", "2025-13-01T00:00:00Z", 5, True, []),
}
MALFORMED = {
    "nothing": b"",
    "no JSON": b"status=completed",
    "half of it": json.dumps(ORDER_PUSH).encode()[:-20],
    "two of it": json.dumps(ORDER_PUSH).encode() * 2,
    "no UTF-8": b'{"orderId": 77001, "status": "\xff"}',
    "very deep": b"[" * 100_000,
    "a list": json.dumps([ORDER_PUSH]).encode(),
    "a text": b'"completed"',
    "a number": b"5",
    "null": b"null",
    "an empty object": b"{}",
    "another object": b'{"hello": "world"}',
    "no ids": {key: value for key, value in ORDER_PUSH.items() if key not in ("orderId", "session", "timeOfIssue")},
    "an unknown status without a time": {**ORDER_PUSH, "status": "sold", "timeOfIssue": None},
    "a literal NaN": json.dumps({**ORDER_PUSH, "totalPrice": float("nan")}).encode(),
    "a literal Infinity": json.dumps({**ORDER_PUSH, "totalPrice": float("inf")}).encode(),
    "a number beyond all bounds": json.dumps(ORDER_PUSH).replace('"1.90"', "1e999").encode(),
    "a number of 5000 digits": json.dumps(ORDER_PUSH).replace('"1.90"', "9" * 5000).encode(),
    **{
        f"{name} is {json.dumps(value)}": {**ORDER_PUSH, name: value}
        for name, values in WRONG_FIELDS.items()
        for value in values
    },
    "a session id that is an object": {**ORDER_PUSH, "session": {"sessionId": {}}},
    "a session id of 5000 characters": {**ORDER_PUSH, "sessionId": "x" * 5000},
    "personal data that is a text": {**CUSTOMER_PUSH, "customerPersonalInfo": "Ada"},
    "personal data that is a list": {**CUSTOMER_PUSH, "customerPersonalInfo": []},
    "personal data without a customer": {**CUSTOMER_PUSH, "customer": None},
    "personal data of a customer without an id": {**CUSTOMER_PUSH, "customer": {"role": "customer"}},
    "personal data of a customer with a wrong id": {**CUSTOMER_PUSH, "customer": {"id": "abc"}},
    "personal data of a customer that is a list": {**CUSTOMER_PUSH, "customer": [12]},
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_body_that_is_no_webhook_is_a_400_and_changes_nothing(quiet, body):
    before = walk(quiet, 100), look_up_customer(quiet, 12)
    assert push(quiet, body, 400)["error"]["code"] == "invalid_webhook"
    assert (walk(quiet, 100), look_up_customer(quiet, 12)) == before


@pytest.mark.parametrize("field", WRONG_FIELDS)
def test_the_error_names_the_wrong_field(quiet, field):
    assert field in push(quiet, {**ORDER_PUSH, field: WRONG_FIELDS[field][-1]}, 400)["error"]["message"]


def test_the_webhooks_that_the_malformed_ones_were_made_of_are_good(bridge):
    assert push(bridge, ORDER_PUSH) == {}
    assert push(bridge, CUSTOMER_PUSH) == {}
    assert newest(bridge)["id"] == str(ORDER_PUSH["orderId"])
    assert look_up_customer(bridge, 12)["last_name"] == "Zuse"


@pytest.mark.parametrize("name", ["orderId", "session", "cart", "timeOfIssue"])
def test_what_is_null_counts_as_absent(bridge, name):
    assert push(bridge, {**ORDER_PUSH, name: None}) == {}
    assert newest(bridge)["total_amount"] == 1.9


@pytest.mark.parametrize("status", ["shelf_restocked", None])
def test_another_push_of_aifi_is_accepted_and_not_kept(quiet, status):
    before = walk(quiet)
    assert push(quiet, {"timeOfIssue": "2025-11-01T11:42:01Z", "status": status, "storeId": 1, "gate": "open"}) == {}
    assert walk(quiet) == before


def padded(size: int) -> bytes:
    """Return a good webhook of so many bytes."""
    body = json.dumps({**ORDER_PUSH, "padding": ""}).encode()
    return body.replace(b'"padding": ""', b'"padding": "' + b"x" * (size - len(body)) + b'"')


def test_a_body_of_a_megabyte_is_taken(bridge):
    assert push(bridge, padded(1024 * 1024)) == {}


def test_a_larger_body_is_a_413_in_json(quiet):
    before = walk(quiet)
    assert "error" in push(quiet, padded(1024 * 1024 + 1), 413)
    assert walk(quiet) == before


def test_a_larger_body_of_unknown_length_is_a_413_too(quiet):
    def chunks() -> Iterator[bytes]:
        yield padded(1024 * 1024 + 1)

    response = quiet.request("POST", f"{WEBHOOK}?token={WEBHOOK_SECRET}", data=chunks())
    assert response.status_code == 413
    check(response, WEBHOOK, "post")


# --- webhooks: what they change


@pytest.fixture
def pushed_only(sandbox, start_bridge) -> Bridge:
    """A bridge that has read AiFi once, and from then on learns by webhooks and look-ups alone."""
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    assert page(bridge) == {"orders": []}
    return bridge


def test_the_reply_claims_nothing_about_the_payment(sandbox, pushed_only):
    order_id = sandbox.checkout()
    for change in (lambda _: None, sandbox.complete, sandbox.pay, sandbox.contest, sandbox.review):
        change(order_id)
        assert pushed_only.webhook(sandbox.webhook(order_id)).json() == {}


def test_a_webhook_gives_a_complete_order(sandbox, pushed_only):
    order_id = sandbox.checkout(store=2, customer=named(sandbox))
    sandbox.complete(order_id)
    push(pushed_only, sandbox.webhook(order_id))
    sandbox.stop()
    known, order = sandbox.order(order_id), look_up(pushed_only, order_id)
    wanted = {
        "status": "paymentProcessing",
        "total_amount": float(known["totalPrice"]),
        "tax_amount": float(known["totalTax"]),
        "subtotal_amount": float(known["subtotalPrice"]),
        "customer_id": str(named(sandbox)),
        "store_id": "2",
        "payment": {"status": "processing", "provider": "sandbox-pay"},
    }
    assert {key: order.get(key) for key in wanted} == wanted
    assert len(order["line_items"]) == len(known["lineItems"])
    assert order["session"]["id"] == known["sessionId"]


def test_a_completed_checkout_has_the_status_that_its_payment_tells(pushed_only):
    meanings = {"success": "paid", "failure": "unpaid", "processing": "paymentProcessing", "unheard": "completed"}
    for number, payment in enumerate(meanings):
        push(pushed_only, {**ORDER_PUSH, "orderId": 100 + number, "session": None, "payment": {"status": payment}})
    statuses = {row["id"]: row["status"] for row in page(pushed_only)["orders"]}
    assert statuses == {str(100 + number): status for number, status in enumerate(meanings.values())}


def test_a_repeated_webhook_changes_nothing(sandbox, pushed_only):
    push(pushed_only, body := sandbox.webhook(sandbox.checkout()))
    before = page(pushed_only)
    for _ in range(3):
        push(pushed_only, body)
    assert page(pushed_only) == before
    assert len(before["orders"]) == 1


def test_a_late_webhook_changes_nothing(sandbox, pushed_only):
    order_id = sandbox.checkout()
    early = sandbox.webhook(order_id)
    sandbox.complete(order_id)
    sandbox.pay(order_id)
    push(pushed_only, early)
    push(pushed_only, sandbox.webhook(order_id))
    before = page(pushed_only)
    assert before["orders"][0]["status"] == "paid"
    push(pushed_only, early)
    assert page(pushed_only) == before


def test_webhooks_in_reversed_order_end_in_the_last_state(sandbox, pushed_only):
    order_id, bodies = sandbox.checkout(), []
    for change in (sandbox.complete, sandbox.pay, sandbox.contest, sandbox.review):
        bodies.append(sandbox.webhook(order_id))
        change(order_id)
    bodies.append(sandbox.webhook(order_id))
    for body in reversed(bodies):
        push(pushed_only, body)
    [row] = page(pushed_only)["orders"]
    assert row["status"] == "reviewed"
    assert row["total_amount"] == float(sandbox.order(order_id)["totalPrice"])


def test_an_order_of_a_webhook_is_on_disk(sandbox, start_bridge):
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    page(bridge)
    order_id = sandbox.checkout()
    push(bridge, sandbox.webhook(order_id))
    bridge.kill()
    bridge.start()
    assert newest(bridge)["id"] == str(order_id)


def test_the_api_then_shows_the_same_row(sandbox, bridge):
    page(bridge)
    order_id = sandbox.checkout()
    push(bridge, sandbox.webhook(order_id))
    sandbox.complete(order_id)
    sandbox.pay(order_id)
    wait_until(lambda: newest(bridge)["status"] == "paid", what="the payment in the list")
    assert ids(walk(bridge)) == [str(order_id)]


@pytest.mark.parametrize("session_at", ["nested", "top"])
def test_a_webhook_without_an_order_id_is_kept_under_its_session(sandbox, pushed_only, session_at):
    order_id = sandbox.checkout()
    push(pushed_only, sandbox.webhook(order_id, with_order_id=False, session_at=session_at))
    session_id = sandbox.session_of(order_id)
    assert ids(page(pushed_only)["orders"]) == [session_id]
    sandbox.stop()
    assert look_up(pushed_only, session_id)["id"] == session_id


@pytest.mark.parametrize("session_at", ["nested", "top"])
def test_the_order_of_a_session_becomes_one_row_when_the_list_shows_it(sandbox, bridge, session_at):
    page(bridge)
    order_id = sandbox.checkout()
    sandbox.complete(order_id)
    push(bridge, sandbox.webhook(order_id, with_order_id=False, session_at=session_at))
    wait_until(lambda: ids(walk(bridge)) == [str(order_id)], what="the order's own id in the list")
    order = look_up(bridge, order_id)
    assert order["id"] == str(order_id)
    assert look_up(bridge, sandbox.session_of(order_id)) == order


def test_the_order_of_a_session_becomes_one_row_when_it_is_looked_up(sandbox, pushed_only):
    order_id = sandbox.checkout()
    push(pushed_only, sandbox.webhook(order_id, with_order_id=False))
    assert look_up(pushed_only, sandbox.session_of(order_id))["id"] == str(order_id)
    assert look_up(pushed_only, order_id)["id"] == str(order_id)
    assert ids(page(pushed_only)["orders"]) == [str(order_id)]


def test_a_webhook_without_an_order_id_finds_the_order_of_its_session(sandbox, start_bridge):
    order_id = sandbox.checkout()
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    assert newest(bridge)["status"] == "draft"
    sandbox.complete(order_id)
    push(bridge, sandbox.webhook(order_id, with_order_id=False))
    [row] = page(bridge)["orders"]
    assert (row["id"], row["status"]) == (str(order_id), "paymentProcessing")


# --- filters


def by_store(sandbox: Sandbox, *stores: int) -> list[int]:
    return [order_id for order_id in sandbox.order_ids() if sandbox.order(order_id)["storeId"] in stores]


def by_role(sandbox: Sandbox, *roles: str) -> list[int]:
    def role(order_id: int) -> str:
        return sandbox.customers[int(sandbox.order(order_id)["customerId"])].role

    return [order_id for order_id in sandbox.order_ids() if role(order_id) in roles]


@pytest.mark.parametrize("stores", [(1,), (1, 3)])
def test_only_orders_of_the_wanted_stores_are_listed_and_found(sandbox, start_bridge, stores):
    sandbox.stores = (1, 2, 3)
    sandbox.seed_orders(250)
    bridge = start_bridge(AIFI_STORE_ID=", ".join(map(str, stores)))
    rows = walk(bridge, 100)
    wanted = by_store(sandbox, *stores)
    assert 0 < len(wanted) < 250
    assert len(rows) == len(wanted)
    assert set(ids(rows)) == texts(wanted)
    look_up(bridge, wanted[0])
    look_up(bridge, by_store(sandbox, 2)[0], 404)


@pytest.mark.parametrize("stores", ["1", "1,3"])
def test_a_webhook_of_another_store_is_accepted_and_not_kept(sandbox, start_bridge, stores):
    bridge = start_bridge(AIFI_STORE_ID=stores, REFRESH_SECONDS=SELDOM)
    page(bridge)
    here, there = sandbox.checkout(store=1), sandbox.checkout(store=2)
    assert push(bridge, sandbox.webhook(there)) == {}
    assert push(bridge, sandbox.webhook(here)) == {}
    assert ids(page(bridge)["orders"]) == [str(here)]
    look_up(bridge, there, 404)


@pytest.mark.parametrize("roles", [("customer",), ("customer", "employee")])
def test_only_orders_of_the_wanted_roles_are_listed(sandbox, start_bridge, roles):
    sandbox.seed_orders(250)
    rows = walk(start_bridge(AIFI_CUSTOMER_ROLE=",".join(roles)), 100)
    wanted = by_role(sandbox, *roles)
    assert 0 < len(wanted) < 250
    assert len(rows) == len(wanted)
    assert set(ids(rows)) == texts(wanted)


def test_a_webhook_of_another_role_is_accepted_and_not_kept(sandbox, start_bridge):
    bridge = start_bridge(AIFI_CUSTOMER_ROLE="customer", REFRESH_SECONDS=SELDOM)
    page(bridge)
    first_by_role = {customer.role: customer.id for customer in sandbox.customers.values()}
    kept = sandbox.checkout(customer=first_by_role["customer"])
    for role in ("employee", "tester", "untracked", "customer"):
        order_id = kept if role == "customer" else sandbox.checkout(customer=first_by_role[role])
        assert push(bridge, sandbox.webhook(order_id)) == {}
    assert ids(page(bridge)["orders"]) == [str(kept)]


# --- payments handled by the retailer


def test_a_checkout_is_passed_on_as_it_came_and_the_answer_as_well(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url)
    sent = json.dumps(sandbox.webhook(sandbox.checkout()), indent=3).encode() + b"\r\n"
    sent = sent.replace(b"sandbox-pay", "für später ☕".encode())
    receiver.status, receiver.content_type = 202, "application/vnd.till+json; v=2"
    receiver.body = b'{ "paymentStatus":"success",\n "paymentTransactionIds": ["\xc3\xbc"] }\n'
    response = bridge.webhook(sent)
    [(headers, body)] = receiver.received
    assert body == sent
    assert headers["Content-Type"] == "application/json"
    assert (response.status_code, response.content) == (202, receiver.body)
    assert response.headers["Content-Type"] == receiver.content_type


def test_the_payment_endpoints_status_goes_back_unchanged(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url)
    receiver.body, receiver.content_type = b"no JSON at all", "text/plain"
    statuses = [201, 302, 400, 401, 402, 404, 429, 500, 503]
    for receiver.status in statuses:
        response = bridge.webhook(sandbox.webhook(sandbox.checkout()))
        assert (response.status_code, response.content) == (receiver.status, receiver.body)
    assert len(receiver.received) == len(statuses)


def test_the_payment_endpoint_gets_no_secret_of_the_bridge(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url)
    bridge.webhook(sandbox.webhook(sandbox.checkout()))
    [(headers, _)] = receiver.received
    assert WEBHOOK_SECRET not in str(headers)


def test_a_checkout_is_stored_before_it_is_passed_on(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url, REFRESH_SECONDS=SELDOM)
    page(bridge)
    seen = []

    def look_then_reply(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        seen.extend(ids(page(bridge)["orders"]))
        receiver.reply(handler, body)

    receiver.answer = look_then_reply
    order_id = sandbox.checkout()
    assert bridge.webhook(sandbox.webhook(order_id)).status_code == 200
    assert seen == [str(order_id)]


def test_repeated_and_filtered_checkouts_are_passed_on_too(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url, AIFI_STORE_ID="1", AIFI_CUSTOMER_ROLE="customer")
    receiver.body = b'{"paymentStatus": "failure"}'
    bodies = [json.dumps(sandbox.webhook(sandbox.checkout(store=store))).encode() for store in (1, 2)]
    for body in bodies * 2:
        assert bridge.webhook(body).content == receiver.body
    assert receiver.bodies == bodies * 2


def test_nothing_but_good_checkouts_is_passed_on(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url)
    assert push(bridge, sandbox.customer_webhook(named(sandbox))) == {}
    push(bridge, {**ORDER_PUSH, "orderId": "abc"}, 400)
    assert bridge.webhook(ORDER_PUSH, secret="wrong").status_code == 401
    assert receiver.received == []


def test_a_payment_endpoint_that_is_down_is_a_502_and_the_order_is_kept(sandbox, start_bridge):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=f"http://127.0.0.1:{free_port()}/pay", REFRESH_SECONDS=SELDOM)
    page(bridge)
    order_id = sandbox.checkout()
    assert push(bridge, sandbox.webhook(order_id), 502)["error"]["code"] == "payment_endpoint_failed"
    assert newest(bridge)["id"] == str(order_id)


def test_a_payment_endpoint_slower_than_ten_seconds_is_a_502_in_time(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url)
    heads = {
        1: None,  # not a byte
        2: b"HTTP/1.1 200 OK\r\nX-Padding: ",
        3: b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
    }

    def dawdle(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        head = heads[json.loads(body)["orderId"]]
        if head is None:
            receiver.closing.wait(60)
        else:
            receiver.trickle(handler, head)

    receiver.answer = dawdle
    with ThreadPoolExecutor(len(heads)) as pool:
        call = lambda order_id: timed(lambda: bridge.webhook({**ORDER_PUSH, "orderId": order_id}))  # noqa: E731
        answers = list(pool.map(call, heads))
    for response, seconds in answers:
        assert check(response, WEBHOOK, "post")["error"]["code"] == "payment_endpoint_failed"
        assert 9 < seconds < 15
    assert len(receiver.received) == len(heads)


def test_aifi_heeds_the_payment_endpoint_through_the_bridge(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url)
    receiver.body = b'{"paymentStatus": "success", "paymentTransactionIds": ["t1"], "externalId": "TILL-9"}'
    connect_webhooks(sandbox, bridge)
    order_id = sandbox.checkout()
    sandbox.complete(order_id)
    assert sandbox.order(order_id)["status"] == "paid"
    wait_until(lambda: newest(bridge)["display_id"] == "TILL-9", what="the retailer's number in the list")
    assert newest(bridge)["status"] == "paid"


# --- AiFi's tokens


def oauth(sandbox: Sandbox, **changes: object) -> dict[str, object]:
    """Return the environment of a bridge that has client credentials instead of an access token."""
    return {
        "AIFI_ACCESS_TOKEN": None,
        "AIFI_CLIENT_ID": sandbox.client_id,
        "AIFI_CLIENT_SECRET": sandbox.client_secret,
        "AIFI_TOKEN_URL": sandbox.token_url,
        **changes,
    }


def refused(sandbox: Sandbox) -> list[str]:
    return [request.path for request in sandbox.requests if request.status == 401]


def test_client_credentials_become_one_token_for_many_requests(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(**oauth(sandbox), REFRESH_SECONDS=ALWAYS)
    for _ in range(4):
        page(bridge)
    assert sandbox.tokens_issued == 1
    assert refused(sandbox) == []


def test_a_token_is_renewed_before_its_life_is_over(sandbox, start_bridge):
    sandbox.token_seconds = 5
    bridge = start_bridge(**oauth(sandbox), REFRESH_SECONDS=ALWAYS)
    wait_until(lambda: page(bridge) and sandbox.tokens_issued == 2, what="a second token")
    assert refused(sandbox) == []


def test_a_token_that_aifi_refuses_is_renewed_at_once(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(**oauth(sandbox), REFRESH_SECONDS=ALWAYS)
    page(bridge)
    sandbox.revoke_tokens()
    order_id = sandbox.checkout()
    assert newest(bridge)["id"] == str(order_id)
    assert sandbox.tokens_issued == 2
    assert len(refused(sandbox)) == 1


def test_a_token_is_renewed_only_once_if_aifi_refuses_every_one(sandbox, start_bridge):
    bridge = start_bridge(**oauth(sandbox))
    sandbox.inject("status", times=None, path="/orders", code=401)
    response = bridge.get(LATEST)
    assert response.status_code == 503
    assert "token" in check(response, LATEST)["error"]["message"]
    assert sandbox.tokens_issued <= 2


def test_wrong_client_credentials_are_told_in_words(sandbox, start_bridge):
    bridge = start_bridge(**oauth(sandbox, AIFI_CLIENT_SECRET="old-secret"))
    response = bridge.get(LATEST)
    assert response.status_code == 503
    assert "AIFI_CLIENT_SECRET" in check(response, LATEST)["error"]["message"]
    assert "old-secret" not in response.text + bridge.log()


@pytest.mark.parametrize("scope", [None, "", "orders.read customers.read"])
def test_a_scope_is_sent_only_where_it_is_set(sandbox, start_bridge, receiver, scope):
    receiver.body = json.dumps({"access_token": sandbox.access_token, "expires_in": 300}).encode()
    page(start_bridge(**oauth(sandbox, AIFI_TOKEN_URL=receiver.url, AIFI_TOKEN_SCOPE=scope)))
    form = {
        "grant_type": ["client_credentials"],
        "client_id": [sandbox.client_id],
        "client_secret": [sandbox.client_secret],
    }
    [body] = receiver.bodies
    assert parse_qs(body.decode(), keep_blank_values=True) == ({**form, "scope": [scope]} if scope else form)


def test_a_revoked_access_token_is_told_in_words(sandbox, start_bridge):
    sandbox.seed_orders(30)
    sandbox.revoke_tokens(static=True)
    bridge = start_bridge()
    for path, template in ((LATEST, LATEST), ("/v1/orders/1001", ORDER), ("/v1/customers/11", CUSTOMER)):
        response = bridge.get(path)
        assert (path, response.status_code) == (path, 503)
        assert "token" in check(response, template)["error"]["message"]
    assert "token" in health(bridge)["last_error"]


def test_a_filled_bridge_serves_on_with_a_revoked_access_token(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    before = page(bridge)
    sandbox.revoke_tokens(static=True)
    assert page(bridge) == before
    assert "token" in health(bridge)["last_error"]


# --- configuration


NO_TOKEN = {"AIFI_ACCESS_TOKEN": None}


@pytest.mark.parametrize(
    ("environment", "named_variables"),
    [
        ({"AIDE_API_KEY": None}, ["AIDE_API_KEY"]),
        ({"AIDE_API_KEY": ""}, ["AIDE_API_KEY"]),
        ({"AIDE_API_KEY": " , "}, ["AIDE_API_KEY"]),
        (NO_TOKEN, ["AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET"]),
        ({"AIFI_ACCESS_TOKEN": " "}, ["AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET"]),
        ({**NO_TOKEN, "AIFI_CLIENT_ID": "id"}, ["AIFI_CLIENT_SECRET"]),
        ({**NO_TOKEN, "AIFI_CLIENT_SECRET": "secret"}, ["AIFI_CLIENT_ID"]),
        ({**NO_TOKEN, "AIDE_API_KEY": None}, ["AIDE_API_KEY", "AIFI_ACCESS_TOKEN"]),
        ({"AIFI_BASE_URL": "api.aifi.com", "REFRESH_SECONDS": "soon"}, ["AIFI_BASE_URL", "REFRESH_SECONDS"]),
        ({"AIFI_TOKEN_URL": "ftp://auth"}, ["AIFI_TOKEN_URL"]),
        ({"PAYMENT_WEBHOOK_URL": "till"}, ["PAYMENT_WEBHOOK_URL"]),
        ({"REFRESH_SECONDS": "-1"}, ["REFRESH_SECONDS"]),
        ({"REFRESH_SECONDS": "nan"}, ["REFRESH_SECONDS"]),
        ({"REFRESH_WAIT_SECONDS": "60"}, ["REFRESH_WAIT_SECONDS"]),
        ({"AIFI_STORE_ID": "berlin"}, ["AIFI_STORE_ID"]),
        ({"AIFI_CURRENCY": "€"}, ["AIFI_CURRENCY"]),
        ({"LOG_LEVEL": "LOUD"}, ["LOG_LEVEL"]),
        ({"PORT": "http"}, ["PORT"]),
        ({"WEB_CONCURRENCY": "0"}, ["WEB_CONCURRENCY"]),
    ],
    ids=str,
)
def test_with_a_setting_missing_or_malformed_the_process_ends_and_names_it(start_bridge, environment, named_variables):
    bridge = start_bridge(wait=False, **environment)
    assert bridge.wait(20) != 0
    for name in named_variables:
        assert name in bridge.log()
    assert "Traceback" not in bridge.log()
    with pytest.raises(requests.ConnectionError):
        bridge.get(HEALTH)


def test_empty_variables_count_as_unset(sandbox, start_bridge):
    sandbox.seed_orders(3)
    names = VARIABLES.keys() - {"AIDE_API_KEY", "AIFI_ACCESS_TOKEN", "AIFI_BASE_URL", "DATABASE_PATH", "PORT"}
    assert len(page(start_bridge(**dict.fromkeys(names, "")))["orders"]) == 3
