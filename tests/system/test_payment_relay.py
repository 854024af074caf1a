"""Payments handled by the retailer: checkouts are passed on to his endpoint, and its answer to AiFi."""

import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

from tests.system.contract import check
from tests.system.support import ORDER_PUSH, SELDOM, WEBHOOK, connect_webhooks, ids, named, newest, page, push, timed
from tools.harness import WEBHOOK_SECRET, free_port, wait_until


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


def test_a_checkout_is_stored_while_the_payment_endpoint_is_asked(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url, REFRESH_SECONDS=SELDOM)
    page(bridge)
    seen = []

    def look_then_reply(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        seen.extend(wait_until(lambda: ids(page(bridge)["orders"]), what="the order in the list"))
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


def test_a_customers_data_and_what_strangers_send_is_not_passed_on(sandbox, start_bridge, receiver):
    bridge = start_bridge(PAYMENT_WEBHOOK_URL=receiver.url)
    assert push(bridge, sandbox.customer_webhook(named(sandbox))) == {}
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
