"""One order, looked up: what it says, and where that is from."""

from decimal import Decimal

import pytest

from tests.system.support import SELDOM, look_up, look_up_customer, newest, page, wait_for_sweep, walk

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
        "contested": False,
        "reviewed": False,
        "refunded": False,
        "external_status": "ok",
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
    wait_for_sweep(bridge)
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
