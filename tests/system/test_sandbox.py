"""The sandbox does what is known of AiFi, and can fail in the ways that AiFi may."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection

import pytest
import requests

from tools.harness import PROJECT, free_port, wait_until
from tools.sandbox import Sandbox
from tools.sandbox.orders import STATUSES

TIMEOUT_SECONDS = 5
BERLIN = timezone(timedelta(hours=1))


def get(sandbox, path, token="sandbox-token", timeout=TIMEOUT_SECONDS, **params):
    """Ask the sandbox as the bridge does, on a connection of its own."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.get(sandbox.base_url + path, params=params, headers=headers, timeout=timeout)


def ids(sandbox, **params):
    answer = get(sandbox, "/orders", **params)
    assert answer.status_code == 200, answer.text
    return [order["id"] for order in answer.json()["data"]]


def fetch_token(sandbox, **form):
    form = {
        "grant_type": "client_credentials",
        "client_id": "sandbox-client",
        "client_secret": "sandbox-secret",
        **form,
    }
    return requests.post(sandbox.token_url, data=form, timeout=TIMEOUT_SECONDS)


@pytest.fixture(scope="module")
def shop():
    """Serve 500 orders to tests that change nothing."""
    with Sandbox(rate_limit=None) as sandbox:
        sandbox.seed_orders(500, days=5, settled=False)
        yield sandbox


def statuses(receiver):
    return [json.loads(body)["status"] for body in receiver.bodies]


# --- lists


@pytest.mark.parametrize(
    ("order_by", "key"),
    [
        ("id", lambda order: order["id"]),
        ("storeId", lambda order: (order["storeId"], order["id"])),
        ("totalPrice", lambda order: (Decimal(order["totalPrice"]), order["id"])),
        ("draftCreatedAt", lambda order: (order["draftCreatedAt"], order["id"])),
    ],
)
@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_pages_hold_every_order_once_and_in_order(shop, order_by, key, direction):
    seen = []
    for page in range(100):
        rows = get(shop, "/orders", orderBy=order_by, direction=direction, page=page, pageSize=120).json()["data"]
        if not rows:
            break
        seen += rows
    assert len({order["id"] for order in seen}) == len(seen) == 500
    assert seen == sorted(seen, key=key, reverse=direction == "desc")


def test_defaults_are_the_first_50_by_id(shop):
    assert ids(shop) == shop.order_ids()[:50] == ids(shop, page=0, pageSize=50, orderBy="id", direction="asc")


def test_a_page_holds_at_most_200(shop):
    assert len(ids(shop, pageSize=1000)) == 200


@pytest.mark.parametrize(
    ("params", "passes"),
    [
        ({"status": "paid"}, lambda order: order["status"] == "paid"),
        ({"status": ["draft", "paymentProcessing"]}, lambda order: order["status"] in ("draft", "paymentProcessing")),
        ({"storeId": 2}, lambda order: order["storeId"] == 2),
        ({"customerId": 42}, lambda order: str(order["customerId"]) == "42"),
        (
            {"externalId": ["R-0001001", "R-0001002", "R-0001003"]},
            lambda order: order["externalId"] in ("R-0001001", "R-0001002", "R-0001003"),
        ),
        ({"status": "draft", "storeId": 1}, lambda order: (order["status"], order["storeId"]) == ("draft", 1)),
    ],
)
def test_exact_filters_let_through_what_fits_and_nothing_else(shop, params, passes):
    expected = [order_id for order_id in shop.order_ids() if passes(shop.order(order_id))]
    assert expected
    assert ids(shop, **params, pageSize=200) == expected[:200]


@pytest.mark.parametrize("field", ["draftCreatedAt", "createdAt", "updatedAt"])
def test_time_filters_include_both_ends(shop, field):
    low, high = sorted(shop.order(order_id)[field] for order_id in shop.order_ids()[200:202])
    expected = [order_id for order_id in shop.order_ids() if low <= shop.order(order_id)[field] <= high]
    name = field[0].upper() + field[1:]
    assert len(expected) >= 2
    assert ids(shop, **{f"min{name}": low, f"max{name}": high}) == expected


def test_time_filters_understand_offsets(shop):
    order = shop.order(1100)
    berlin = datetime.fromisoformat(order["draftCreatedAt"].replace("Z", "+00:00")).astimezone(BERLIN)
    assert 1100 in ids(shop, minDraftCreatedAt=berlin.isoformat(), maxDraftCreatedAt=berlin.isoformat())


def test_the_role_filter_goes_by_the_shopper(shop):
    employees = {customer.id for customer in shop.customers.values() if customer.role == "employee"}
    found = get(shop, "/orders", customerRole="employee", pageSize=200).json()["data"]
    assert found
    assert {int(order["customerId"]) for order in found} <= employees


def test_a_session_leads_to_its_order(shop):
    assert ids(shop, sessionId=[shop.session_of(1007), shop.session_of(1003)]) == [1003, 1007]


@pytest.mark.parametrize(
    "params",
    [
        {"page": -1},
        {"page": "one"},
        {"pageSize": 0},
        {"pageSize": "1" * 5000},
        {"storeId": "x"},
        {"status": "lost"},
        {"orderBy": "updatedAt"},
        {"direction": "up"},
        {"minDraftCreatedAt": "yesterday"},
        {"customerRole": "king"},
        {"includeProducts": "perhaps"},
    ],
)
def test_malformed_parameters_are_refused_in_aifis_words(shop, params):
    answer = get(shop, "/orders", **params)
    error = answer.json()
    assert answer.status_code == 400
    assert error["type"].startswith("E_")
    assert [detail["field"] for detail in error["errors"]] == list(params)


def test_lists_carry_products_only_when_asked_and_never_the_session(shop):
    bare = get(shop, "/orders").json()["data"][0]
    full = get(shop, "/orders", includeProducts="true").json()["data"][0]
    assert set(full) - set(bare) == {"lineItems"}
    assert "session" not in full


# --- settings


def test_an_aifi_without_update_filter_ignores_or_refuses_it(shop):
    try:
        shop.updated_filter = "ignored"
        assert len(ids(shop, minUpdatedAt="2099-01-01T00:00:00Z")) == 50
        shop.updated_filter = "refused"
        assert get(shop, "/orders", minUpdatedAt="2099-01-01T00:00:00Z").status_code == 400
    finally:
        shop.updated_filter = "honoured"
    assert ids(shop, minUpdatedAt="2099-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    ("page_zero", "status", "count"), [("as_one", 200, 2), ("empty", 200, 0), ("refused", 400, None)]
)
def test_pages_can_count_from_one(page_zero, status, count):
    with Sandbox(first_page=1, page_zero=page_zero) as sandbox:
        sandbox.seed_orders(3)
        assert ids(sandbox, pageSize=2) == ids(sandbox, pageSize=2, page=1) == [1001, 1002]
        assert ids(sandbox, pageSize=2, page=2) == [1003]
        answer = get(sandbox, "/orders", pageSize=2, page=0)
        assert answer.status_code == status
        assert count is None or len(answer.json()["data"]) == count


def test_an_older_deployment_shows_no_update_time_and_flat_products():
    with Sandbox(updated_at_shown=False, line_items_as="products") as sandbox:
        order_id = sandbox.checkout(lines=[("Cappuccino", 2)])
        (listed,) = get(sandbox, "/orders", includeProducts="true").json()["data"]
        detail = get(sandbox, f"/orders/{order_id}").json()
    assert "updatedAt" not in listed | detail
    assert {key: listed["products"][0][key] for key in ("name", "price", "quantity")} == {
        "name": "Cappuccino",
        "price": "2.90",
        "quantity": 2,
    }
    assert detail["products"][0]["taxRates"][0]["rate"] == "0.19"


def test_lists_may_lag_behind_details():
    with Sandbox(list_lag_seconds=0.3) as sandbox:
        order_id = sandbox.checkout()
        assert get(sandbox, f"/orders/{order_id}").status_code == 200
        assert ids(sandbox) == []
        wait_until(lambda: ids(sandbox) == [order_id], seconds=5)


def test_all_its_times_follow_its_clock():
    with Sandbox(clock_offset_seconds=600) as sandbox:
        order = sandbox.order(sandbox.checkout())
        date = parsedate_to_datetime(get(sandbox, "/orders").headers["Date"])
    for shown in (date, datetime.fromisoformat(order["updatedAt"].replace("Z", "+00:00"))):
        assert 595 < (shown - datetime.now(timezone.utc)).total_seconds() <= 600


def test_an_aifi_without_draft_filter_ignores_or_refuses_it():
    with Sandbox(draft_filter="ignored") as sandbox:
        order_id = sandbox.checkout()
        assert ids(sandbox, minDraftCreatedAt="2099-01-01T00:00:00Z") == [order_id]
        sandbox.draft_filter = "refused"
        answer = get(sandbox, "/orders", maxDraftCreatedAt="2099-01-01T00:00:00Z")
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == "maxDraftCreatedAt"


def test_a_setting_that_does_not_exist_is_refused():
    sandbox = Sandbox()
    with pytest.raises(ValueError, match="draft_filter is 'lost', but must be one of honoured, ignored, refused"):
        sandbox.draft_filter = "lost"


@pytest.fixture
def three_times():
    """Serve orders 1001 to 1003, drafted and updated at these times."""
    with Sandbox(rate_limit=None) as sandbox:
        for moment in ("2026-01-05T10:00:00.000Z", "2026-01-05T10:20:30.400Z", "2026-01-05T12:00:00.000Z"):
            sandbox.checkout(drafted_at=moment, at=moment)
        yield sandbox


@pytest.mark.parametrize("name", ["DraftCreatedAt", "UpdatedAt"])
@pytest.mark.parametrize(
    ("seconds", "least", "most"),
    [
        (0, [1002, 1003], [1001, 1002]),
        (1, [1002, 1003], [1001]),
        (60, [1002, 1003], [1001]),
        (3600, [1001, 1002, 1003], [1001]),
        (86400, [1001, 1002, 1003], []),
    ],
)
def test_time_filters_can_be_coarse(three_times, name, seconds, least, most):
    three_times.coarse_filters = seconds
    bound = "2026-01-05T10:20:30.400Z"
    assert ids(three_times, **{f"min{name}": bound}) == least
    assert ids(three_times, **{f"max{name}": bound}) == most


@pytest.mark.parametrize("name", ["DraftCreatedAt", "UpdatedAt"])
@pytest.mark.parametrize(
    ("hours", "least", "most"),
    [(2, [1001, 1002, 1003], []), (-1, [1003], [1001, 1002]), (-5, [], [1001, 1002, 1003])],
)
def test_time_filters_can_be_read_in_another_zone(three_times, name, hours, least, most):
    three_times.filter_offset_hours = hours
    bound = "2026-01-05T10:20:30.400Z"
    assert ids(three_times, **{f"min{name}": bound}) == least
    assert ids(three_times, **{f"max{name}": bound}) == most


def test_lists_can_end_at_a_row_or_refuse_to_go_beyond_it():
    with Sandbox(rate_limit=None, depth_limit=25) as sandbox:
        sandbox.seed_orders(40)
        assert [len(ids(sandbox, pageSize=10, page=page)) for page in range(4)] == [10, 10, 5, 0]
        sandbox.beyond_depth = "refused"
        statuses = [get(sandbox, "/orders", pageSize=10, page=page).status_code for page in range(4)]
        assert statuses == [200, 200, 400, 400]


@pytest.mark.parametrize("params", [{}, {"status": "draft"}])
def test_the_last_page_can_come_again_and_again(params):
    with Sandbox(past_end="last_page") as sandbox:
        for _ in range(5):
            sandbox.checkout()
        pages = [ids(sandbox, pageSize=2, page=page, **params) for page in (0, 1, 2, 3, 10**6)]
        assert pages == [[1001, 1002], [1003, 1004], [1005], [1005], [1005]]
        assert ids(sandbox, status="paid", page=7) == []


def test_orders_can_carry_a_field_that_differs_each_time():
    with Sandbox(signed_links=True) as sandbox:
        sandbox.checkout()
        first, second = (get(sandbox, "/orders").json()["data"][0] for _ in range(2))
    assert first.pop("receiptUrl") != second.pop("receiptUrl")
    assert first == second


@pytest.mark.parametrize("params", [{}, {"status": "draft"}])
def test_ties_can_be_shuffled_anew_in_each_answer(params):
    with Sandbox(tie_order="shuffled", rate_limit=None) as sandbox:
        for minute in (1, 2, 3):
            for _ in range(8):
                sandbox.checkout(drafted_at=f"2026-01-05T10:0{minute}:00Z")
        answers = [ids(sandbox, orderBy="draftCreatedAt", direction="desc", **params) for _ in range(5)]
        tied = [range(1017, 1025), range(1009, 1017), range(1001, 1009)]
        assert len({tuple(answer) for answer in answers}) > 1
        for answer in answers:
            assert [sorted(answer[start : start + 8]) for start in (0, 8, 16)] == [list(ids) for ids in tied]


# --- orders and customers


def test_prices_add_up_and_are_text(shop):
    for order in get(shop, "/orders", pageSize=200, includeProducts="true", status="paid").json()["data"]:
        lines = sum(Decimal(line["productSnapshot"]["price"]) * line["quantity"] for line in order["lineItems"])
        assert Decimal(order["totalPrice"]) == Decimal(order["subtotalPrice"]) + Decimal(order["totalTax"]) == lines


def test_seeded_orders_rise_with_their_drafts_and_settle_within_the_hour_or_as_disputes():
    sandbox = Sandbox()
    orders = [sandbox.order(order_id) for order_id in sandbox.seed_orders(2000)]
    drafts = [order["draftCreatedAt"] for order in orders]
    disputed = [order for order in orders if order["version"] == 2]
    assert drafts == sorted(drafts)
    assert {order["status"] for order in orders} == {"paid", "unpaid", "contested", "reviewed"}
    assert 10 < len(disputed) < 100
    assert {order["status"] for order in disputed} == {"contested", "reviewed"}
    for order in orders:
        drafted, completed = map(datetime.fromisoformat, (order["draftCreatedAt"][:-1], order["completedAt"][:-1]))
        assert 0 <= (completed - drafted).total_seconds() <= 3600


def test_details_add_taxes_and_the_session(shop):
    order = get(shop, "/orders/1001").json()
    assert order["session"]["sessionId"] == order["sessionId"]
    assert order["session"]["customerFirstEnteredAt"] < order["session"]["customerLastExitedAt"]
    assert {"name", "rate", "amount"} == set(order["lineItems"][0]["taxRates"][0])
    assert order == shop.order(1001)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/orders/1", 404), ("/orders/x", 400), ("/orders/" + "9" * 5000, 400), ("/customers/1", 404), ("/nothing", 404)],
)
def test_what_is_not_there_is_answered_in_json(shop, path, status):
    answer = get(shop, path)
    assert answer.status_code == status
    assert answer.json()["type"].startswith("E_")


def test_customers_are_listed_and_looked_up_and_some_are_anonymous(shop):
    rows = get(shop, "/customers").json()
    assert [row["id"] for row in rows] == sorted(shop.customers)
    assert get(shop, f"/customers/{rows[0]['id']}").json() == rows[0]
    assert {row["firstName"] is None for row in rows} == {True, False}


def test_an_old_deployment_tells_the_customers_address():
    with Sandbox(customer_addresses=True) as sandbox:
        sandbox.change_customer(42, address="Hauptstraße 5, 10827 Berlin")
        assert get(sandbox, "/customers/42").json()["address"] == "Hauptstraße 5, 10827 Berlin"
        sandbox.customer_addresses = False
        assert "address" not in get(sandbox, "/customers/42").json()


@pytest.mark.parametrize("form", ["lineItems", "products"])
def test_lines_tell_their_totals_and_taxes_unless_the_deployment_lacks_them(form):
    totals = {"subtotalPrice": "2.66", "totalPrice": "2.85", "totalTax": "0.19"}
    taxes = {"taxRates": [{"name": "VAT 7 %", "rate": "0.07", "amount": "0.19"}]}
    with Sandbox(line_items_as=form) as sandbox:
        order_id = sandbox.checkout(lines=[("Pretzel", 3)])
        for line_totals in (True, False):
            sandbox.line_totals = line_totals
            (listed,) = get(sandbox, "/orders", includeProducts="true").json()["data"][0][form]
            (detailed,) = get(sandbox, f"/orders/{order_id}").json()[form]
            assert (listed.items() >= (totals | taxes).items()) == line_totals
            assert (detailed.items() >= totals.items()) == line_totals
            assert detailed.items() >= taxes.items()
        assert not listed.keys() & (totals | taxes).keys()


def test_orders_tell_their_external_status_and_perhaps_a_currency():
    with Sandbox(currency_code="EUR") as sandbox:
        fine, failed = sandbox.checkout(), sandbox.checkout()
        sandbox.set_external_status(failed, "failedSendingWebhook")
        assert ids(sandbox, externalStatus="failedSendingWebhook") == [failed]
        assert ids(sandbox, externalStatus=["ok", "failedSendingWebhook"]) == [fine, failed]
        assert get(sandbox, "/orders", externalStatus="lost").status_code == 400
        assert sandbox.order(fine)["externalStatus"] == "ok"
        assert sandbox.order(fine)["currencyCode"] == "EUR"
        sandbox.currency_code = None
        assert "currencyCode" not in sandbox.order(fine)


def test_an_order_lives_from_draft_to_review():
    sandbox = Sandbox()
    order_id = sandbox.checkout(store=2, customer=42, lines=[("Cappuccino", 2), ("Pretzel", 1)])
    steps = [
        sandbox.order(order_id),
        sandbox.complete(order_id),
        sandbox.pay(order_id),
        sandbox.contest(order_id),
        sandbox.review(order_id),
    ]
    assert [order["status"] for order in steps] == ["draft", "paymentProcessing", "paid", "contested", "reviewed"]
    assert [order["version"] for order in steps] == [1, 1, 1, 2, 2]
    assert [order["totalPrice"] for order in steps] == ["6.75"] * 4 + ["5.80"]
    assert [line["status"] for line in steps[-1]["lineItems"]] == ["ORIGINAL", "REMOVED"]
    assert steps[-1]["transaction"]["refunded"] is True


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda sandbox, order_id, at: sandbox.fail_payment(order_id, at=at), {"status": "unpaid"}),
        (lambda sandbox, order_id, at: sandbox.correct_price(order_id, "3.21", at=at), {"totalPrice": "3.21"}),
        (lambda sandbox, order_id, at: sandbox.set_external_id(order_id, "X-1", at=at), {"externalId": "X-1"}),
        (lambda sandbox, order_id, at: sandbox.touch(order_id, at=at), {}),
    ],
)
def test_every_change_moves_the_update_time(change, shown):
    sandbox = Sandbox()
    order = change(sandbox, sandbox.checkout(), "2031-02-03T04:05:06.789Z")
    assert order["updatedAt"] == "2031-02-03T04:05:06.789Z"
    assert order.items() >= shown.items()


# --- contests


@pytest.fixture
def disputed():
    """Serve order 1001, of which the shopper disputes the pretzel and one of two cappuccinos."""
    with Sandbox(rate_limit=None) as sandbox:
        order_id = sandbox.checkout(store=2, lines=[("Cappuccino", 2), ("Pretzel", 1), ("Umbrella", 1)])
        sandbox.pay(order_id)
        items = {"Pretzel": 0, "Cappuccino": 1}
        sandbox.contest(order_id, "2026-01-05T10:00:00Z", message="Just one coffee!", items=items)
        yield sandbox


def test_a_contest_tells_its_message_its_amounts_and_its_items(disputed):
    contest = get(disputed, "/contests/1001").json()
    items = [(item["name"], item["originalQuantity"], item["contestedQuantity"]) for item in contest["items"]]
    assert items == [("Pretzel", 1, 0), ("Cappuccino", 2, 1)]
    expected = {
        "orderId": "1001",
        "orderVersion": 2,
        "sessionId": disputed.session_of(1001),
        "message": "Just one coffee!",
        "status": "contested",
        "originalTotalPrice": "16.74",
        "contestedTotalPrice": "12.89",
        "reviewedTotalPrice": None,
        "createdAt": "2026-01-05T10:00:00.000Z",
    }
    assert contest.items() >= expected.items()
    assert disputed.order(1001)["totalPrice"] == "16.74"


def test_a_review_accepts_what_it_is_told_to(disputed):
    order = disputed.review(1001, accept=["Cappuccino"], at="2026-01-06T10:00:00Z")
    lines = [(line["productSnapshot"]["name"], line["quantity"], line["status"]) for line in order["lineItems"]]
    assert lines == [
        ("Cappuccino", 1, "ORIGINAL"),
        ("Cappuccino", 1, "REMOVED"),
        ("Pretzel", 1, "ORIGINAL"),
        ("Umbrella", 1, "ORIGINAL"),
    ]
    assert order["totalPrice"] == "13.84"
    assert order["transaction"]["refunded"] is True
    contest = get(disputed, "/contests/1001").json()
    assert [item["reviewedQuantity"] for item in contest["items"]] == [1, 1]
    expected = {"status": "reviewed", "reviewedTotalPrice": "13.84", "updatedAt": "2026-01-06T10:00:00.000Z"}
    assert contest.items() >= expected.items()


def test_a_review_can_accept_all_or_nothing(disputed):
    refused = disputed.review(1001, refunded=False)
    assert (refused["totalPrice"], refused["transaction"]["refunded"]) == ("16.74", False)
    assert get(disputed, "/contests/1001").json()["reviewedTotalPrice"] == "16.74"
    disputed.contest(1001, items=["Umbrella", "Pretzel"])
    accepted = disputed.review(1001)
    assert (accepted["totalPrice"], accepted["transaction"]["refunded"]) == ("5.80", True)
    assert accepted["version"] == 3


@pytest.mark.parametrize(
    ("dispute", "message"),
    [
        (lambda sandbox: sandbox.contest(1001, items=["Cola"]), "'Cola' is not in the cart"),
        (lambda sandbox: sandbox.contest(1001, items={"Pretzel": 1}), "must be below 1"),
        (lambda sandbox: sandbox.contest(1001, message="x" * 501), "must have 500 or fewer"),
        (lambda sandbox: sandbox.review(1001, accept=["Umbrella"]), "'Umbrella' is not disputed"),
    ],
)
def test_a_dispute_must_fit_its_order(disputed, dispute, message):
    with pytest.raises(ValueError, match=message):
        dispute(disputed)


def test_the_shoppers_words_alone_move_the_contest_and_not_the_order(disputed):
    before = disputed.order(1001)
    assert disputed.change_message(1001, "Please!", at="2026-01-07T10:00:00Z") == before
    (contest,) = get(disputed, "/contests", minUpdatedAt="2026-01-07T10:00:00Z").json()["contestedOrders"]
    assert contest["message"] == "Please!"


def test_contests_are_listed_in_pages_with_their_orders():
    with Sandbox(rate_limit=None) as sandbox:
        order_ids = [sandbox.checkout() for _ in range(13)]
        for minute, order_id in enumerate(reversed(order_ids[1:])):
            sandbox.contest(order_id, at=f"2026-01-05T10:{minute:02d}:00Z")
        pages = [get(sandbox, "/contests", page=page).json() for page in range(3)]
        listed = [contest["orderId"] for page in pages for contest in page["contestedOrders"]]
        assert listed == [str(order_id) for order_id in reversed(order_ids[1:])]
        assert [len(page["contestedOrders"]) for page in pages] == [10, 2, 0]
        assert [page["pagination"]["next"] for page in pages] == [{"offset": 10, "count": 10}, None, None]
        assert pages[0]["contestedOrders"][0]["order"]["id"] == order_ids[-1]
        assert get(sandbox, f"/contests/{order_ids[0]}").status_code == 404


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"status": "contested"}, True),
        ({"status": "reviewed"}, False),
        ({"orderId": 1001}, True),
        ({"orderId": 1002}, False),
        ({"storeId": 2}, True),
        ({"storeId": 1}, False),
        ({"minCreatedAt": "2026-01-05T10:00:00Z", "maxCreatedAt": "2026-01-05T10:00:00Z"}, True),
        ({"minUpdatedAt": "2026-01-05T10:00:00.001Z"}, False),
        ({"maxUpdatedAt": "2026-01-05T09:59:59.999Z"}, False),
    ],
)
def test_contests_are_filtered(disputed, params, found):
    assert len(get(disputed, "/contests", **params).json()["contestedOrders"]) == found


def test_lists_carry_contests_where_that_is_honoured(disputed):
    disputed.checkout()
    listed = get(disputed, "/orders", includeContest="true").json()["data"]
    assert listed[0]["contest"]["message"] == "Just one coffee!"
    assert "items" not in listed[0]["contest"]
    assert listed[1]["contest"] is None
    assert "contest" not in get(disputed, "/orders").json()["data"][0]
    disputed.include_contest = "ignored"
    assert "contest" not in get(disputed, "/orders", includeContest="true").json()["data"][0]
    disputed.include_contest = "refused"
    assert get(disputed, "/orders", includeContest="true").status_code == 400


def test_seeded_disputes_are_contests(shop):
    contests = get(shop, "/contests", pageSize=200).json()["contestedOrders"]
    assert {contest["orderId"] for contest in contests} == {
        str(order_id) for order_id in shop.order_ids() if shop.order(order_id)["version"] == 2
    }


# --- stores and what a deployment lacks


def test_stores_are_paged_by_cursors_or_ids():
    with Sandbox(stores=range(1, 8)) as sandbox:
        sandbox.change_store(3, displayableName=None)
        seen, after = [], {}
        while True:
            page = get(sandbox, "/stores", count=3, **after).json()
            seen += page["stores"]
            if page["pagination"]["after"] is None:
                break
            after = {"after": page["pagination"]["after"]}
        assert [store["id"] for store in seen] == list("1234567")
        assert seen[0].items() >= {"displayableName": "Sandbox Berlin 1", "addressCountry": "DE"}.items()
        assert seen[2]["displayableName"] is None
        by_id = get(sandbox, "/stores", count=2, after=5).json()["stores"]
        assert [store["id"] for store in by_id] == ["6", "7"]
        before = get(sandbox, "/stores", count=2, before=5).json()["stores"]
        assert [store["id"] for store in before] == ["3", "4"]


@pytest.mark.parametrize("params", [{"count": 0}, {"count": 201}, {"after": "x"}, {"before": "bm8="}])
def test_malformed_cursors_and_counts_are_refused(shop, params):
    assert get(shop, "/stores", **params).status_code == 400


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_deployment_may_lack_contests_or_stores(status):
    with Sandbox(lacking={"/contests": status, "/stores": status}) as sandbox:
        order_id = sandbox.checkout()
        sandbox.contest(order_id)
        for path in ("/contests", f"/contests/{order_id}", "/stores"):
            answer = get(sandbox, path)
            assert answer.status_code == status
            assert answer.json()["type"].startswith("E_")
        assert get(sandbox, f"/orders/{order_id}").status_code == 200


# --- refunds, restores, deletions


def test_a_refund_need_not_move_the_update_time():
    sandbox = Sandbox()
    order_id = sandbox.checkout(at="2026-01-05T10:00:00Z")
    refunded = sandbox.refund(order_id)
    assert refunded["transaction"]["refunded"] is True
    assert refunded["updatedAt"] == "2026-01-05T10:00:00.000Z"
    assert sandbox.refund(order_id, at="2026-01-06T10:00:00Z")["updatedAt"] == "2026-01-06T10:00:00.000Z"


def test_a_restore_takes_version_and_update_time_back():
    with Sandbox() as sandbox:
        order_id = sandbox.checkout()
        sandbox.complete(order_id)
        paid = sandbox.pay(order_id)
        sandbox.contest(order_id)
        sandbox.review(order_id)
        assert sandbox.restore(order_id, changes=2) == paid == get(sandbox, f"/orders/{order_id}").json()
        assert ids(sandbox, status="paid") == [order_id]
        assert sandbox.restore(order_id)["status"] == "paymentProcessing"
        sandbox.restore(order_id)
        with pytest.raises(IndexError):
            sandbox.restore(order_id)


def test_a_deleted_order_is_gone():
    with Sandbox() as sandbox:
        kept, gone = sandbox.checkout(), sandbox.checkout()
        assert ids(sandbox) == [kept, gone]
        sandbox.touch(gone)
        sandbox.delete(gone)
        assert ids(sandbox) == sandbox.order_ids() == [kept]
        answer = get(sandbox, f"/orders/{gone}")
        assert (answer.status_code, answer.json()["type"]) == (404, "E_ROW_NOT_FOUND")


def test_an_order_can_be_shown_late_with_its_old_times():
    with Sandbox() as sandbox:
        late = sandbox.checkout(at="2026-01-05T10:00:00Z", hidden=True)
        seen = sandbox.checkout()
        sandbox.set_external_id(late, "X-1", at="2026-01-05T10:01:00Z")
        assert ids(sandbox) == [seen]
        assert get(sandbox, f"/orders/{late}").status_code == 200
        sandbox.show(late)
        assert ids(sandbox) == [late, seen]
        assert get(sandbox, "/orders").json()["data"][0]["updatedAt"] == "2026-01-05T10:01:00.000Z"
        sandbox.hide(seen)
        assert ids(sandbox) == [late]


def test_an_order_without_draft_time_comes_first_and_passes_no_filter_on_it():
    with Sandbox() as sandbox:
        old, *others = sandbox.seed_orders(5)
        order = sandbox.clear_draft_time(old)
        assert order["draftCreatedAt"] is None
        assert order["createdAt"]
        assert ids(sandbox, orderBy="draftCreatedAt", direction="desc")[0] == old
        assert ids(sandbox, minDraftCreatedAt="2000-01-01T00:00:00Z") == others
        assert ids(sandbox, maxDraftCreatedAt="9999-01-01T00:00:00Z", status=list(STATUSES)) == others
        assert ids(sandbox, minCreatedAt=order["createdAt"], maxCreatedAt=order["createdAt"]) == [old]


# --- tokens and the rate limit


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_a_good_token_there_is_no_answer(shop, token):
    answer = get(shop, "/orders", token=token)
    assert answer.status_code == 401
    assert answer.json()["type"] == "E_UNAUTHORIZED_ACCESS"


def test_client_credentials_buy_a_token_that_expires():
    with Sandbox(token_seconds=0.3) as sandbox:
        token = fetch_token(sandbox).json()["access_token"]
        assert get(sandbox, "/orders", token=token).status_code == 200
        wait_until(lambda: get(sandbox, "/orders", token=token).status_code == 401, seconds=5)
        assert sandbox.tokens_issued == 1


def test_the_token_endpoint_refuses_wrong_secrets_grants_and_scopes():
    with Sandbox(required_scope="orders") as sandbox:
        assert fetch_token(sandbox, client_secret="wrong").status_code == 401
        assert fetch_token(sandbox, grant_type="password").status_code == 400
        assert fetch_token(sandbox).status_code == 400
        assert fetch_token(sandbox, scope="orders").status_code == 200


def test_tokens_are_revoked_and_restored():
    with Sandbox() as sandbox:
        token = fetch_token(sandbox).json()["access_token"]
        sandbox.revoke_tokens()
        assert get(sandbox, "/orders", token=token).status_code == 401
        assert get(sandbox, "/orders").status_code == 200
        sandbox.revoke_tokens(static=True)
        assert get(sandbox, "/orders").status_code == 401
        sandbox.restore_tokens()
        assert get(sandbox, "/orders", token=token).status_code == 200


def test_more_requests_than_a_second_may_hold_are_refused():
    with Sandbox(rate_limit=5) as sandbox:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: get(sandbox, "/orders"), range(30)))
        passed = sorted(request.at for request in sandbox.requests if request.status == 200)
        refused = [answer.json()["type"] for answer in answers if answer.status_code == 503]
        assert refused
        assert len(refused) == len(sandbox.refused_by_rate) == 30 - len(passed)
        assert all(later - earlier > 0.9 for earlier, later in zip(passed, passed[5:], strict=False))
        wait_until(lambda: get(sandbox, "/orders").status_code == 200, seconds=5)


def test_requests_are_written_down(shop):
    shop.forget_requests()
    get(shop, "/orders", status=["paid", "draft"])
    fetch_token(shop)
    listed, token = shop.requests
    assert (listed.method, listed.path, listed.args, listed.status) == (
        "GET",
        "/orders",
        {"status": ["paid", "draft"]},
        200,
    )
    assert token.path.endswith("/token")


# --- faults


@pytest.fixture
def faulty():
    with Sandbox(rate_limit=None) as sandbox:
        sandbox.seed_orders(9)
        yield sandbox


def test_a_fault_strikes_as_often_as_told_and_only_its_path(faulty):
    faulty.inject("status", times=2, path="/orders", code=429, retry_after=7)
    statuses = [get(faulty, path).status_code for path in ("/customers", "/orders", "/orders/1001", "/orders")]
    assert statuses == [200, 429, 429, 200]


def test_a_status_fault_can_ask_to_wait_and_lasts_until_healed(faulty):
    faulty.inject("status", times=None, retry_after=7)
    assert [get(faulty, "/orders").headers["Retry-After"] for _ in range(3)] == ["7"] * 3
    faulty.heal()
    assert get(faulty, "/orders").status_code == 200


def test_a_reset_breaks_the_connection(faulty):
    faulty.inject("reset")
    with pytest.raises(requests.ConnectionError, match="reset by peer"):
        get(faulty, "/orders")
    assert get(faulty, "/orders").status_code == 200
    assert [request.status for request in faulty.requests] == [None, 200]


def test_a_hanging_answer_comes_late(faulty):
    faulty.inject("hang", seconds=0.4)
    with pytest.raises(requests.ReadTimeout):
        get(faulty, "/orders", timeout=0.1)


def test_stopping_ends_a_hanging_request_at_once(faulty):
    faulty.inject("hang")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(get, faulty, "/orders", timeout=30)
        wait_until(lambda: faulty.requests, what="the request")
        faulty.stop()
        with pytest.raises(requests.ConnectionError):
            answer.result(5)


def test_a_trickling_answer_takes_its_time_but_is_whole(faulty):
    faulty.inject("trickle", interval=0.002)
    started = time.monotonic()
    answer = get(faulty, "/orders", pageSize=1)
    assert time.monotonic() - started > 0.002 * len(answer.content) / 2
    assert len(answer.json()["data"]) == 1


def test_an_answer_can_be_html_or_cut_or_lack_its_data(faulty):
    for kind in ("html", "truncated", "no_data"):
        faulty.inject(kind)
    html, cut, bare = (get(faulty, "/orders") for _ in range(3))
    assert [answer.status_code for answer in (html, cut, bare)] == [200, 200, 200]
    assert html.text.startswith("<!doctype html>")
    assert cut.headers["Content-Type"] == "application/json"
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        cut.json()
    assert "data" not in bare.json()


def test_one_order_in_the_middle_can_be_damaged(faulty):
    faulty.inject("damaged_order", times=2)
    rows = get(faulty, "/orders").json()["data"]
    assert ["id" in order for order in rows] == [True] * 4 + [False] + [True] * 4
    assert "id" not in get(faulty, "/orders/1001").json()


def test_an_answer_can_be_huge(faulty):
    faulty.inject("huge", size=3_000_000)
    answer = get(faulty, "/orders")
    assert len(answer.content) == 3_000_000
    assert answer.json()["data"] == []


def test_a_fault_can_choose_requests_by_a_parameter(faulty):
    faulty.inject("empty", having="maxDraftCreatedAt")
    faulty.inject("status", times=None, having="page=0", code=422)
    late = {"maxDraftCreatedAt": "2099-01-01T00:00:00Z"}
    assert [len(ids(faulty, **params)) for params in ({}, late, late, {"page": 1, "pageSize": 5})] == [9, 0, 9, 4]
    assert get(faulty, "/orders", page=0).status_code == 422


@pytest.mark.parametrize("name", ["page", "sessionId", "externalId"])
def test_a_parameter_can_be_refused_altogether(faulty, name):
    faulty.inject("status", times=None, having=name, code=400)
    assert [get(faulty, "/orders", **{name: value}).status_code for value in (0, 1, 7)] == [400] * 3
    assert get(faulty, "/orders").status_code == 200


def test_a_fault_can_let_requests_pass_first_and_come_again(faulty):
    faulty.inject("status", times=2, after=3, code=500)
    assert [get(faulty, "/orders").status_code for _ in range(7)] == [200] * 3 + [500] * 2 + [200] * 2
    faulty.inject("status", times=2, after=3, again=True, code=500)
    assert [get(faulty, "/orders").status_code for _ in range(10)] == ([200] * 3 + [500] * 2) * 2


def test_one_path_alone_can_be_forbidden(faulty):
    faulty.inject("status", times=None, path="/customers", code=403)
    assert get(faulty, "/customers/11").status_code == 403
    assert get(faulty, "/orders").status_code == 200


def test_lookups_can_hang_while_lists_work(faulty):
    faulty.inject("hang", times=None, path="/orders/")
    with pytest.raises(requests.ReadTimeout):
        get(faulty, "/orders/1001", timeout=0.2)
    assert len(ids(faulty)) == 9


def test_a_list_can_be_empty_by_mistake_or_beside_errors(faulty):
    faulty.inject("empty", times=2)
    faulty.inject("empty", errors=[{"error": "shard 3 timed out"}])
    answers = [get(faulty, "/orders").json() for _ in range(4)]
    assert answers[:3] == [{"data": []}, {"data": []}, {"data": [], "errors": [{"error": "shard 3 timed out"}]}]
    assert len(answers[3]["data"]) == 9


def test_a_page_can_lack_a_row(faulty):
    faulty.inject("missing_row")
    faulty.inject("missing_row", row=-1)
    whole = faulty.order_ids()
    assert [ids(faulty) for _ in range(3)] == [whole[:4] + whole[5:], whole[:-1], whole]


def test_something_can_happen_between_two_pages(faulty):
    faulty.inject("meanwhile", having="page", after=1, action=lambda: faulty.delete(1001))
    pages = [ids(faulty, page=page, pageSize=3) for page in range(3)]
    assert pages == [[1001, 1002, 1003], [1005, 1006, 1007], [1008, 1009]]


def test_a_gateway_can_answer_404_in_html(faulty):
    faulty.inject("html", path="/orders/", code=404)
    answer = get(faulty, "/orders/1001")
    assert answer.status_code == 404
    assert answer.text.startswith("<!doctype html>")


def test_an_error_can_trickle(faulty):
    faulty.inject("trickle", interval=0.0001, code=503)
    assert get(faulty, "/orders/1001").status_code == 503


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("renamed_total", lambda order: "totalPrice" not in order and order["grossTotal"] == "2.85"),
        ("uuid_ids", lambda order: order["id"] == "00000000-0000-0000-0000-0000000003e9"),
        ("long_ids", lambda order: order["id"] == 9_000_000_000_000_001_001),
        ("epoch_times", lambda order: order["updatedAt"] == 1_767_607_210_500),
        ("minute_times", lambda order: order["updatedAt"] == "2026-01-05T10:00Z"),
        ("short_offsets", lambda order: order["updatedAt"] == "2026-01-05T10:00:10.500+00"),
        ("lower_case_times", lambda order: order["updatedAt"] == "2026-01-05t10:00:10.500z"),
        (lambda order: order.update(storeId="one"), lambda order: order["storeId"] == "one"),
    ],
)
def test_orders_can_be_written_in_other_ways(how, shown):
    with Sandbox() as sandbox:
        order_id = sandbox.checkout(lines=[("Pretzel", 3)], at="2026-01-05T10:00:10.500Z")
        sandbox.inject("rewritten", times=None, path="/orders", how=how)
        assert all(shown(order) for order in get(sandbox, "/orders").json()["data"])
        assert shown(get(sandbox, f"/orders/{order_id}").json())
        assert get(sandbox, "/orders/1").status_code == 404


@pytest.mark.parametrize("raw", [b"\t", b"\x1f", b"\xe9", b"\xe2\x82"])
@pytest.mark.parametrize("form", ["lineItems", "products"])
def test_a_products_name_can_hold_odd_bytes(raw, form):
    with Sandbox(line_items_as=form) as sandbox:
        for _ in range(2):
            sandbox.checkout(lines=[("Pretzel", 1)])
        sandbox.inject("odd_bytes", raw=raw, order_id=1002)
        body = get(sandbox, "/orders", includeProducts="true").content
        assert b"Pr" + raw + b"etzel" in body
        first, second = json.loads(body.replace(raw, b""))["data"]
        assert first[form] == second[form]


# --- serving


def test_a_stopped_sandbox_refuses_and_comes_back_at_the_same_address(faulty):
    with requests.Session() as session:
        headers = {"Authorization": "Bearer sandbox-token"}
        session.get(faulty.base_url + "/orders", headers=headers, timeout=TIMEOUT_SECONDS)
        address = faulty.base_url
        faulty.stop()
        with pytest.raises(requests.ConnectionError):
            session.get(address + "/orders", headers=headers, timeout=TIMEOUT_SECONDS)
        faulty.start()
        assert faulty.base_url == address
        assert session.get(address + "/orders", headers=headers, timeout=TIMEOUT_SECONDS).ok


def test_connections_are_kept_alive(faulty):
    with contextlib.closing(HTTPConnection("127.0.0.1", faulty.port, timeout=TIMEOUT_SECONDS)) as connection:
        connection.connect()
        connection.auto_open = False
        for _ in range(3):
            connection.request("GET", "/api/admin/v2/orders", headers={"Authorization": "Bearer sandbox-token"})
            assert len(json.load(connection.getresponse())["data"]) == 9


def test_stopping_closes_idle_connections(faulty):
    with contextlib.closing(HTTPConnection("127.0.0.1", faulty.port, timeout=TIMEOUT_SECONDS)) as connection:
        connection.request("GET", "/api/admin/v2/orders")
        connection.getresponse().read()
        faulty.stop()
        assert connection.sock.recv(1) == b""


def test_the_command_serves_until_it_is_told_to_stop():
    port = free_port()
    command = [sys.executable, "-m", "tools.sandbox", "--port", str(port), "--orders", "7", "--live"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        url = f"http://127.0.0.1:{port}/api/admin/v2"
        count = len(
            requests.get(f"{url}/orders", headers={"Authorization": "Bearer sandbox-token"}, timeout=5).json()["data"]
        )
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 0
    assert url in line
    assert count >= 7


# --- webhooks


def test_a_webhook_tells_the_orders_state():
    sandbox = Sandbox()
    order_id = sandbox.checkout(customer=42, lines=[("Pretzel", 3)])
    bodies = [sandbox.webhook(order_id)]
    for change in (sandbox.complete, sandbox.pay, sandbox.contest, sandbox.review):
        change(order_id)
        bodies.append(sandbox.webhook(order_id))
    states = [(body["status"], body["payment"]["status"]) for body in bodies]
    assert states == [
        ("draft", "processing"),
        ("completed", "processing"),
        ("completed", "success"),
        ("completed", "success"),
        ("reviewed", "success"),
    ]
    assert bodies[0]["cart"][0]["productSnapshot"]["name"] == "Pretzel"
    assert bodies[0]["totalPrice"] == "2.85"
    assert bodies[0]["customer"]["id"] == bodies[0]["session"]["customerId"] == 42
    assert bodies[4]["timeOfOrigin"] == bodies[0]["timeOfOrigin"] <= bodies[0]["timeOfIssue"]


def test_a_webhook_can_lack_the_orders_id_and_put_its_session_on_top():
    sandbox = Sandbox()
    order_id = sandbox.checkout()
    body = sandbox.webhook(order_id, with_order_id=False, session_at="top", time_of_issue="2031-01-01T00:00:00Z")
    assert "orderId" not in body
    assert "session" not in body
    assert body["sessionId"] == sandbox.session_of(order_id)
    assert {"customerFirstEnteredAt", "customerLastExitedAt"} <= set(body)
    assert body["timeOfIssue"] == "2031-01-01T00:00:00.000Z"


def test_a_customer_webhook_follows_the_customer():
    sandbox = Sandbox()
    sandbox.change_customer(42, first_name="Zoë", phone="+1")
    body = sandbox.customer_webhook(42)
    assert body["customer"]["id"] == 42
    assert body["customerPersonalInfo"].items() >= {"firstName": "Zoë", "phone": "+1", "phoneNumber": "+1"}.items()


def test_a_push_carries_the_secret_and_heeds_the_retailers_answer(receiver):
    sandbox = Sandbox(webhook_url=receiver.url, webhook_secret="s3cret")
    order_id = sandbox.checkout()
    sandbox.complete(order_id)
    receiver.body = b'{"paymentStatus": "success", "paymentTransactionIds": ["tx"], "externalId": "erp-1"}'
    assert sandbox.push(sandbox.webhook(order_id)).status_code == 200
    ((headers, body),) = receiver.received
    assert headers["Authorization"] == "Bearer s3cret"
    assert json.loads(body)["orderId"] == order_id
    assert sandbox.order(order_id).items() >= {"status": "paid", "externalId": "erp-1"}.items()


def test_with_pushes_on_aifi_announces_drafts_completions_and_reviews(receiver):
    sandbox = Sandbox(webhook_url=receiver.url)
    sandbox.pushes = True
    order_id = sandbox.checkout()
    for change in (sandbox.complete, sandbox.pay, sandbox.contest, sandbox.review):
        change(order_id)
    assert statuses(receiver) == ["draft", "completed", "reviewed"]
    assert [delivery.status for delivery in sandbox.deliveries] == [200, 200, 200]


def test_a_receiver_that_is_down_does_not_stop_aifi():
    sandbox = Sandbox(webhook_url=f"http://127.0.0.1:{free_port()}/")
    sandbox.pushes = True
    order_id = sandbox.checkout()
    assert sandbox.order(order_id)["status"] == "draft"
    assert "refused" in sandbox.deliveries[0].error


def test_life_goes_on_by_itself(receiver):
    with Sandbox(webhook_url=receiver.url) as sandbox:
        sandbox.pushes = True
        sandbox.seed_orders(50, settled=False)
        sandbox.live(every_seconds=0.01)
        wait_until(lambda: {"draft", "completed", "reviewed"} <= {*statuses(receiver)})
        wait_until(lambda: len(sandbox.order_ids()) > 60)


def test_anyone_at_the_keyboard_can_let_a_shopper_check_out(faulty):
    answer = requests.post(f"{faulty.root_url}/sandbox/checkouts", timeout=TIMEOUT_SECONDS)
    assert answer.status_code == 201
    assert ids(faulty)[-1] == answer.json()["orderId"]


def test_the_same_seed_makes_the_same_data():
    first, second = Sandbox(seed=3), Sandbox(seed=3)
    assert first.customers == second.customers
    carts = [[sandbox.order(sandbox.checkout())["lineItems"] for _ in range(20)] for sandbox in (first, second)]
    assert carts[0] == carts[1]
