"""What a support agent is asked: what was disputed, what came of it, which shop, which lines."""

from typing import Any

import pytest

from tests.system.support import ALWAYS, look_up, look_up_customer, named, newest, page_text, wait_for_sweep, walk
from times import DAY
from tools.harness import wait_until

MESSAGE = "I put the tea back, and the milk"
WITHOUT_FILTER = {"updated_filter": "refused"}
DISPUTED = ["Rye Roll", "Milk 1 l"]
LACKING = {"/contests": 404, "/stores": 403}


def dispute(sandbox: Any) -> int:
    """Return an old, paid order with two lines that the shopper did not take."""
    sandbox.seed_orders(300, days=5)
    drafted_at = sandbox.now() - 4 * DAY
    order_id = sandbox.checkout(lines=[("Plain Yoghurt", 2), *((name, 1) for name in DISPUTED)], at=drafted_at)
    sandbox.pay(order_id, at=drafted_at + 60)
    return order_id


@pytest.mark.parametrize("settings", [{}, WITHOUT_FILTER, {"include_contest": "refused"}], ids=str)
def test_a_dispute_can_be_told_from_its_opening_to_its_refund(start_bridge, sandbox, settings):
    for name, value in settings.items():
        setattr(sandbox, name, value)
    order_id = dispute(sandbox)
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS, AIFI_CURRENCY="EUR")
    walk(bridge)
    wait_for_sweep(bridge)
    total = look_up(bridge, order_id)["total_amount"]

    sandbox.contest(order_id, message=MESSAGE, items=DISPUTED)
    head = newest(bridge)
    assert (head["id"], head["contested"], head["reviewed"]) == (str(order_id), True, False)
    contest = look_up(bridge, order_id)["contest"]
    assert (contest["status"], contest["message"], contest["original_amount"]) == ("contested", MESSAGE, total)
    assert contest["contested_amount"] < total
    assert {item["name"] for item in contest["items"]} == {*DISPUTED}

    sandbox.review(order_id, accept=["Rye Roll"])
    head = newest(bridge)
    assert (head["id"], head["contested"], head["reviewed"]) == (str(order_id), False, True)
    order = look_up(bridge, order_id)
    contest = order["contest"]
    assert contest["contested_amount"] < contest["reviewed_amount"] == order["total_amount"] < total
    assert order["refunded_amount"] == round(total - order["total_amount"], 2)
    assert [line["name"] for line in order["line_items"] if line["status"] == "REMOVED"] == ["Rye Roll"]
    assert MESSAGE not in bridge.log()


def test_the_shop_is_told_by_name_and_the_lines_with_their_totals(start_bridge, sandbox):
    order_id = sandbox.checkout(store=2)
    sandbox.set_external_status(order_id, "failedSendingWebhook")
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    newest(bridge)
    wait_until(lambda: "store" in look_up(bridge, order_id), what="the stores")
    order = look_up(bridge, order_id)
    assert (
        order["store"].items() >= {"id": "2", "name": "Sandbox Hamburg 2", "city": "Hamburg", "country": "DE"}.items()
    )
    assert order["external_status"] == "failedSendingWebhook"
    assert round(sum(line["total_amount"] for line in order["line_items"]), 2) == order["total_amount"]
    assert all(line["tax_rates"] and line["tax_amount"] >= 0 for line in order["line_items"])


def test_an_aifi_without_contests_and_stores_gives_fewer_fields_and_nothing_else(start_bridge, sandbox):
    sandbox.lacking, sandbox.include_contest, sandbox.line_totals = LACKING, "refused", False
    order_id = dispute(sandbox)
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    walk(bridge)
    for change, flag in ((sandbox.contest, "contested"), (sandbox.review, "reviewed")):
        change(order_id)
        assert (newest(bridge)["id"], newest(bridge)[flag]) == (str(order_id), True)
        order = look_up(bridge, order_id)
        assert order[flag] is True
        assert not {"contest", "store", "refunded_amount"} & order.keys()
    wait_for_sweep(bridge)
    for path, count in (("/contests", 1), ("/stores", 1)):
        assert len([asked for asked in sandbox.requests if asked.path.startswith(path)]) == count
    assert "contests: no (404)" in page_text(bridge)
    assert "stores: no (403)" in page_text(bridge)


def test_an_old_deployments_address_is_a_billing_address_and_gets_into_no_log(start_bridge, sandbox):
    sandbox.customer_addresses = True
    bridge = start_bridge(LOG_LEVEL="DEBUG")
    customer = look_up_customer(bridge, named(sandbox))
    assert customer["billing_address"] == {"address1": f"Hauptstraße {customer['id']}, 10827 Berlin"}
    assert "Hauptstraße" not in bridge.log()
