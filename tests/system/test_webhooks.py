"""What AiFi pushes: who may, what is no webhook, and what a good one changes."""

import json
from collections.abc import Iterator

import pytest
import requests

from tests.system.contract import check
from tests.system.support import (
    ORDER_PUSH,
    SELDOM,
    WEBHOOK,
    ids,
    look_up,
    look_up_customer,
    named,
    newest,
    page,
    push,
    walk,
)
from tools.harness import AIDE_KEY, WEBHOOK_SECRET, Bridge, wait_until

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
