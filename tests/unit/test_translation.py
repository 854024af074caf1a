"""How AiFi's orders, webhooks, customers, times and ids read in Aide's words."""

import json
from typing import Any

import pytest

from orders import DETAIL, HISTORY, LIST, SWEEP, WEBHOOK
from tests.support import table
from translation import (
    CheckoutWebhook,
    CustomerWebhook,
    OtherWebhook,
    Unreadable,
    is_aifi_id,
    parse_json,
    parse_time,
    read_contest,
    read_contested,
    read_customer,
    read_drafted_at,
    read_external_id,
    read_order,
    read_order_id,
    read_session_id,
    read_store,
    read_updated_at,
    read_webhook,
)

NOW = "2025-11-01T12:00:00.000Z"
DRAFTED, UPDATED = "2025-11-01T10:00:00.000Z", "2025-11-01T11:00:00.000Z"
ORDER = {"id": 7, "draftCreatedAt": DRAFTED, "totalPrice": "2.15"}
CHECKOUT = {"orderId": 7, "status": "completed", "totalPrice": "2.15", "timeOfIssue": UPDATED}
ABSENT = object()
NOT_NUMBERS = {
    "word": "two",
    "empty": "",
    "comma": "2,15",
    "with a currency": "$2.15",
    "true": True,
    "list": ["2.15"],
    "object": {},
    "NaN": float("nan"),
    "infinite": float("inf"),
    "text NaN": "NaN",
    "text signalling NaN": "sNaN",
    "text infinity": "-Infinity",
    "beyond a float": "1e400",
    "beyond a Decimal": "1e999999999999999999999",
    "huge integer": 10**400,
    "integer too long to print": 10**5000,
    "thousands by underscore": "1_000",
    "thousands by comma": "1,000.00",
    "thousands by blank": "1 000",
    "full-width digits": "２.15",
    "Arabic digits": "٢",
    "hexadecimal": "0x10",
    "two points": "2.1.5",
    "a point": ".",
    "a sign": "-",
    "NUL behind": "2.15\0",
}
NOT_IDS = {
    "true": True,
    "false": False,
    "fraction": 7.5,
    "float": 7.0,
    "empty": "",
    "blank": "  ",
    "word": "seven",
    "path": "7/../8",
    "query": "7?x=1",
    "negative": -7,
    "leading zero": "07",
    "full-width digit": "７",
    "list": [7],
    "object": {"id": 7},
    "19 digits": 10**18,
    "huge": 10**5000,
}
NOT_TIMES = {
    "empty": "",
    "word": "yesterday",
    "the 30th of February": "2025-02-30T10:00:00Z",
    "the leap day of another year": "2025-02-29T10:00:00Z",
    "the leap day of 1900": "1900-02-29T10:00:00Z",
    "month 13": "2025-13-01T10:00:00Z",
    "hour 25": "2025-11-01T25:00:00Z",
    "minute 60": "2025-11-01T10:60:00Z",
    "second 61": "2025-11-01T10:00:61Z",
    "no clock": "2025-11-01",
    "no date": "10:00:00Z",
    "ten digits of a second": "2025-11-01T10:00:00.1234567890Z",
    "point without digits": "2025-11-01T10:00:00.Z",
    "fraction of a minute": "2025-11-01T10:00.5Z",
    "hour only": "2025-11-01T10Z",
    "colon without seconds": "2025-11-01T10:00:Z",
    "small letters elsewhere": "2025-11-01t10:00:00utc",
    "zone of one digit": "2025-11-01T10:00:00+1",
    "zone without digits": "2025-11-01T10:00:00+",
    "zone of three digits": "2025-11-01T10:00:00+010",
    "zone without minutes behind its colon": "2025-11-01T10:00:00+01:",
    "unknown zone": "2025-11-01T10:00:00 CET",
    "zone of 30 hours": "2025-11-01T10:00:00+30:00",
    "zone of 99 minutes": "2025-11-01T10:00:00+01:99",
    "newline": "2025-11-01T10:00:00Z\n",
    "other digits": "２０２５-11-01T10:00:00Z",
    "year 0": "0000-01-01T00:00:00Z",
    "before the year 1": "0001-01-01T00:00:00+01:00",
    "after the year 9999": "9999-12-31T23:59:59-01:00",
    "NUL": "2025-11-01T10:00:00Z\0",
}


def order(**fields: Any) -> dict[str, Any]:
    """Return what Aide would see of an AiFi order with these fields; ABSENT removes one."""
    data = {key: value for key, value in {**ORDER, **fields}.items() if value is not ABSENT}
    return dict(read_order(data, LIST).order)


def pushed(**fields: Any) -> dict[str, Any]:
    """Return what Aide would see of a checkout webhook with these fields."""
    snapshot = read_webhook({**CHECKOUT, **fields}, NOW).snapshot
    assert snapshot is not None
    return dict(snapshot.order)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


# --- orders: one AiFi field, one field of Aide's


@pytest.mark.parametrize(
    ("fields", "expected"),
    **table(
        {
            "created_at is the draft": ({}, {"created_at": DRAFTED}),
            "created_at is createdAt without a draft": (
                {"draftCreatedAt": ABSENT, "createdAt": UPDATED},
                {"created_at": UPDATED},
            ),
            "the draft goes before createdAt": ({"createdAt": UPDATED}, {"created_at": DRAFTED}),
            "createdAt stands in for a null draft": (
                {"draftCreatedAt": None, "createdAt": UPDATED},
                {"created_at": UPDATED},
            ),
            "createdAt stands in for a malformed draft": (
                {"draftCreatedAt": "soon", "createdAt": UPDATED},
                {"created_at": UPDATED},
            ),
            "total_amount of decimal text": ({"totalPrice": "2.15"}, {"total_amount": 2.15}),
            "total_amount of a number": ({"totalPrice": 2.15}, {"total_amount": 2.15}),
            "total_amount of nothing to pay": ({"totalPrice": "0.00"}, {"total_amount": 0.0}),
            "total_amount below nothing": ({"totalPrice": "-1.50"}, {"total_amount": -1.5}),
            "total_amount with an exponent": ({"totalPrice": "1.5E+2"}, {"total_amount": 150.0}),
            "total_amount with blanks": ({"totalPrice": " 2.15 "}, {"total_amount": 2.15}),
            "total_amount with a plus": ({"totalPrice": "+2.15"}, {"total_amount": 2.15}),
            "total_amount without a whole": ({"totalPrice": ".50"}, {"total_amount": 0.5}),
            "total_amount with a bare point": ({"totalPrice": "2."}, {"total_amount": 2.0}),
            "total_amount is not rounded": ({"totalPrice": "1234567.891"}, {"total_amount": 1234567.891}),
            "subtotal_amount": ({"subtotalPrice": "1.99"}, {"subtotal_amount": 1.99}),
            "tax_amount": ({"totalTax": "0.16"}, {"tax_amount": 0.16}),
            "customer_id of text": ({"customerId": "11"}, {"customer_id": "11"}),
            "customer_id of an integer": ({"customerId": 11}, {"customer_id": "11"}),
            "store_id": ({"storeId": 3}, {"store_id": "3"}),
            "external_id of text": ({"externalId": "R-9"}, {"external_id": "R-9"}),
            "external_id of an integer": ({"externalId": 9}, {"external_id": "9"}),
            "status is AiFi's word": ({"status": "contested"}, {"status": "contested"}),
            "status may be a word nobody knows yet": ({"status": "on_hold"}, {"status": "on_hold"}),
            "version": ({"version": 2}, {"version": 2}),
            "paid_at": ({"paidAt": UPDATED}, {"paid_at": UPDATED}),
            "completed_at": ({"completedAt": UPDATED}, {"completed_at": UPDATED}),
            "external_status": ({"externalStatus": "ok"}, {"external_status": "ok"}),
            "contest": (
                {"contest": {"status": "contested", "message": "no", "contestedTotalPrice": "1.10", "id": 5}},
                {"contest": {"status": "contested", "message": "no", "contested_amount": 1.1}},
            ),
            "contest null": ({"contest": None}, {}),
            "contest of nothing": ({"contest": {}}, {}),
            "contest of a wrong type": ({"contest": ["contested"]}, {}),
            "currencyCode": ({"currencyCode": "NOK"}, {"currency": "NOK"}),
            "currency goes before currencyCode": ({"currency": "SEK", "currencyCode": "NOK"}, {"currency": "SEK"}),
            "currency where AiFi sends one": ({"currency": "SEK"}, {"currency": "SEK"}),
            "session inside": (
                {
                    "session": {
                        "sessionId": "s1",
                        "customerFirstEnteredAt": DRAFTED,
                        "customerLastExitedAt": UPDATED,
                        "visitors": 2,
                    }
                },
                {"session": {"id": "s1", "entered_at": DRAFTED, "exited_at": UPDATED, "visitors": 2}},
            ),
            "session at the top": ({"sessionId": "s1"}, {"session": {"id": "s1"}}),
            "the session inside goes before the one at the top": (
                {"sessionId": "old", "session": {"sessionId": "new"}},
                {"session": {"id": "new"}},
            ),
            "session of a numeric id": ({"sessionId": 42}, {"session": {"id": "42"}}),
            "transaction": (
                {"transaction": {"paymentTransactionId": "t1", "refunded": True, "paymentFailed": False}},
                {"payment": {"transaction_ids": ["t1"]}, "refunded": True},
            ),
            "paymentTransaction": (
                {
                    "paymentTransaction": {
                        "paymentTransactionId": "t2",
                        "refunded": False,
                        "paymentStatus": "success",
                        "paymentProvider": "stripe",
                    }
                },
                {"payment": {"status": "success", "provider": "stripe", "transaction_ids": ["t2"]}, "refunded": False},
            ),
            "both transactions": (
                {
                    "transaction": {"paymentTransactionId": "t1", "refunded": True},
                    "paymentTransaction": {"paymentTransactionId": "t2", "refunded": False},
                },
                {"payment": {"transaction_ids": ["t2", "t1"]}, "refunded": True},
            ),
            "one transaction shown twice": (
                {"transaction": {"paymentTransactionId": 5}, "paymentTransaction": {"paymentTransactionId": "5"}},
                {"payment": {"transaction_ids": ["5"]}},
            ),
        }
    ),
)
def test_an_order_field_reads_as_aides(fields, expected):
    seen = order(**fields)
    assert {name: seen.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("status", "status"),
        ("customerId", "customer_id"),
        ("externalId", "external_id"),
        ("storeId", "store_id"),
        ("version", "version"),
        ("subtotalPrice", "subtotal_amount"),
        ("totalTax", "tax_amount"),
        ("completedAt", "completed_at"),
        ("paidAt", "paid_at"),
    ],
)
class TestWhatAnOrderFieldMayLack:
    def test_absent_stays_absent(self, source, target):
        assert target not in order()

    def test_null_is_told_apart_from_absent(self, source, target):
        assert order(**{source: None})[target] is None

    def test_malformed_counts_as_not_said(self, source, target):
        assert target not in order(**{source: {"what": "ever"}})

    def test_a_truth_value_is_no_value(self, source, target):
        assert target not in order(**{source: True})


@pytest.mark.parametrize("name", ["session", "transaction", "paymentTransaction", "lineItems", "products"])
@pytest.mark.parametrize("value", [None, 7, "text", True, [], [None, 7, "x"], {}], ids=repr)
def test_a_part_of_the_wrong_type_does_not_lose_the_order(name, value):
    assert order(**{name: value})["total_amount"] == 2.15


@pytest.mark.parametrize("part", ["session", "payment", "line_items", "refunded", "currency"])
def test_a_part_that_aifi_does_not_show_is_absent(part):
    assert part not in order()


@pytest.mark.parametrize("value", **table(NOT_NUMBERS))
def test_an_order_without_a_finite_total_cannot_be_read(value):
    with pytest.raises(Unreadable, match="totalPrice"):
        read_order({**ORDER, "totalPrice": value}, LIST)


@pytest.mark.parametrize("value", [*NOT_NUMBERS.values(), None], ids=[*NOT_NUMBERS, "null"])
def test_a_malformed_tax_is_no_number_of_ours(value):
    assert order(totalTax=value).get("tax_amount") is None


@pytest.mark.parametrize("value", **table(NOT_IDS))
def test_an_order_without_an_id_cannot_be_read(value):
    with pytest.raises(Unreadable, match="no id"):
        read_order({**ORDER, "id": value}, LIST)


@pytest.mark.parametrize("missing", ["id", "draftCreatedAt", "totalPrice"])
@pytest.mark.parametrize("how", [ABSENT, None], ids=["absent", "null"])
def test_an_order_must_have_id_time_and_total(missing, how):
    with pytest.raises(Unreadable, match=missing):
        order(**{missing: how})


@pytest.mark.parametrize("value", [*NOT_TIMES.values(), 1761991200, True], ids=[*NOT_TIMES, "number", "true"])
def test_an_order_of_a_malformed_time_cannot_be_read(value):
    with pytest.raises(Unreadable, match="draftCreatedAt"):
        read_order({**ORDER, "draftCreatedAt": value}, LIST)


@pytest.mark.parametrize("data", [None, [], "order", 7, True, [ORDER]], ids=repr)
def test_what_is_no_object_is_no_order(data):
    with pytest.raises(Unreadable):
        read_order(data, LIST)


@pytest.mark.parametrize("order_id", [7, "7", " 7 "], ids=repr)
def test_an_order_id_is_text(order_id):
    assert read_order({**ORDER, "id": order_id}, LIST).id == "7"


@pytest.mark.parametrize(
    ("fields", "at"),
    **table(
        {
            "updatedAt": ({"updatedAt": UPDATED, "paidAt": NOW}, UPDATED),
            "the latest time without updatedAt": ({"completedAt": UPDATED, "paidAt": NOW, "createdAt": DRAFTED}, NOW),
            "the latest time beside a null updatedAt": ({"updatedAt": None, "completedAt": UPDATED}, UPDATED),
            "the latest time beside a malformed updatedAt": ({"updatedAt": "now", "completedAt": UPDATED}, UPDATED),
            "the draft where there is nothing else": ({}, DRAFTED),
        }
    ),
)
def test_the_time_of_a_snapshot_is_aifis(fields, at):
    assert read_order({**ORDER, **fields}, LIST).at == at


@pytest.mark.parametrize(
    ("fields", "dated"),
    [
        ({"updatedAt": UPDATED}, True),
        ({"updatedAt": None, "paidAt": UPDATED}, False),
        ({"updatedAt": "now", "paidAt": UPDATED}, False),
        ({"completedAt": UPDATED}, False),
    ],
    ids=["updatedAt", "null", "malformed", "absent"],
)
def test_a_snapshot_knows_whether_its_time_is_an_update_time(fields, dated):
    assert read_order({**ORDER, **fields}, LIST).dated is dated


@pytest.mark.parametrize(
    ("source", "listed"), [(LIST, True), (HISTORY, True), (SWEEP, True), (DETAIL, False)], ids=lambda case: f"{case}"
)
def test_a_snapshot_of_a_list_knows_that_it_was_listed(source, listed):
    assert read_order(ORDER, source).listed is listed


@pytest.mark.parametrize("draft", [ABSENT, None, "soon"], ids=["absent", "null", "malformed"])
def test_an_order_without_a_draft_time_has_no_place_in_the_lists(draft):
    data = {**ORDER, "createdAt": UPDATED, "draftCreatedAt": draft}
    assert not read_order(data, LIST).listed


def test_a_webhook_neither_lists_an_order_nor_dates_its_update():
    snapshot = read_webhook(CHECKOUT, NOW).snapshot
    assert (snapshot.dated, snapshot.listed) == (False, False)


def test_a_snapshot_knows_its_source_session_and_version():
    snapshot = read_order({**ORDER, "version": "3", "session": {"sessionId": "s1"}}, DETAIL)
    assert (snapshot.source, snapshot.session_id, snapshot.version) == (DETAIL, "s1", 3)


def test_the_configured_currency_stands_in_where_aifi_sends_none():
    assert read_order(ORDER, LIST, "USD").order["currency"] == "USD"
    assert read_order({**ORDER, "currency": "SEK"}, LIST, "USD").order["currency"] == "SEK"


def test_an_unknown_field_changes_nothing():
    assert order(isLatest=0, novelty={"deep": nested(50)}) == order()


# --- what the mirror reads of a raw order


@pytest.mark.parametrize(
    ("read", "data", "expected"),
    **table(
        {
            "session inside": (read_session_id, {"session": {"sessionId": "s1"}, "sessionId": "s2"}, "s1"),
            "session beside": (read_session_id, {"sessionId": 77}, "77"),
            "no session": (read_session_id, {"session": None}, None),
            "external id": (read_external_id, {"externalId": " R-1 "}, "R-1"),
            "numeric external id": (read_external_id, {"externalId": 9}, "9"),
            "no external id": (read_external_id, {"externalId": ""}, None),
            "id": (read_order_id, {"id": 7}, "7"),
            "id as text": (read_order_id, {"id": "7"}, "7"),
            "draft time": (read_drafted_at, {"draftCreatedAt": "2025-11-01T10:00:00Z"}, DRAFTED),
            "createdAt is no draft time": (read_drafted_at, {"createdAt": DRAFTED}, None),
            "update time": (read_updated_at, {"updatedAt": "2025-11-01T12:00:00+01"}, UPDATED),
            "no update time": (read_updated_at, {"draftCreatedAt": DRAFTED, "paidAt": UPDATED}, None),
        }
    ),
)
def test_a_part_of_a_raw_order_can_be_read_by_itself(read, data, expected):
    assert read(data) == expected


READERS = (read_session_id, read_external_id, read_order_id, read_drafted_at, read_updated_at)


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("data", [None, [], "x", 7, {}, {"session": []}], ids=repr)
def test_what_has_no_such_part_reads_as_none(read, data):
    assert read(data) is None


@pytest.mark.parametrize("value", **table(NOT_IDS))
def test_an_id_that_is_none_of_aifis_reads_as_none(value):
    assert read_order_id({"id": value}) is None


@pytest.mark.parametrize("read", [read_drafted_at, read_updated_at], ids=lambda read: read.__name__)
@pytest.mark.parametrize("value", [*NOT_TIMES.values(), 1761991200], ids=[*NOT_TIMES, "number"])
def test_a_malformed_time_reads_as_none(read, value):
    assert read({"draftCreatedAt": value, "updatedAt": value}) is None


# --- line items, both shapes


SNAPSHOT_LINE = {
    "productSnapshot": {"name": "Tea", "barcode": "4006", "price": "1.10", "sku": "T-1"},
    "quantity": 2,
    "status": "ADDED",
    "isExternallyAdded": True,
}
PRODUCT_LINE = {"name": "Tea", "barcode": "4006", "price": "1.10", "sku": "T-1", "thumbnail": "t.png", "quantity": 2}
TEA = {"name": "Tea", "barcode": "4006", "sku": "T-1", "quantity": 2, "unit_price": 1.1}


@pytest.mark.parametrize(
    ("fields", "lines"),
    **table(
        {
            "lineItems": ({"lineItems": [SNAPSHOT_LINE]}, [{**TEA, "status": "ADDED", "is_externally_added": True}]),
            "products": ({"products": [PRODUCT_LINE]}, [TEA]),
            "both": ({"lineItems": [PRODUCT_LINE], "products": []}, [TEA]),
            "lineItems null": ({"lineItems": None, "products": [PRODUCT_LINE]}, [TEA]),
            "an empty list": ({"lineItems": []}, []),
            "what is no object is left out": ({"lineItems": [None, 7, "x", PRODUCT_LINE]}, [TEA]),
            "an empty productSnapshot": ({"lineItems": [{**PRODUCT_LINE, "productSnapshot": {}}]}, [TEA]),
            "a fraction": ({"lineItems": [{"quantity": "0.250"}]}, [{"quantity": 0.25}]),
            "an integer as text": ({"lineItems": [{"quantity": "3.000"}]}, [{"quantity": 3}]),
            "a removed line": (
                {"lineItems": [{"status": "REMOVED", "quantity": 0}]},
                [{"status": "REMOVED", "quantity": 0}],
            ),
            "totals": (
                {"lineItems": [{"totalPrice": "2.20", "totalTax": "0.14"}]},
                [{"total_amount": 2.2, "tax_amount": 0.14}],
            ),
            "tax rates": (
                {
                    "lineItems": [
                        {"taxRates": [{"name": "VAT 7 %", "rate": "0.07", "amount": "0.14", "id": 3}, {}, None]}
                    ]
                },
                [{"tax_rates": [{"name": "VAT 7 %", "rate": 0.07, "amount": 0.14}]}],
            ),
            "tax rates of a wrong type": ({"lineItems": [{"taxRates": "7 %"}, {"taxRates": [7]}]}, [{}, {}]),
            "a barcode that is a number": ({"lineItems": [{"barcode": 4006}]}, [{"barcode": "4006"}]),
            "a flag that is no truth value": ({"lineItems": [{"isExternallyAdded": "yes"}]}, [{}]),
            "malformed everywhere": (
                {
                    "lineItems": [
                        {"name": [], "barcode": {}, "sku": True, "quantity": "many", "price": "x", "status": 1.5}
                    ]
                },
                [{}],
            ),
        }
    ),
)
def test_line_items_read_alike_in_both_shapes(fields, lines):
    assert order(**fields)["line_items"] == lines


def test_a_whole_quantity_is_an_integer():
    [line] = order(lineItems=[{"quantity": 2.0}])["line_items"]
    assert type(line["quantity"]) is int


# --- webhooks


@pytest.mark.parametrize(
    ("fields", "expected"),
    **table(
        {
            "draft": ({"status": "draft"}, {"status": "draft"}),
            "reviewed": ({"status": "reviewed", "payment": {"status": "failure"}}, {"status": "reviewed"}),
            "completed and paid": ({"payment": {"status": "success"}}, {"status": "paid"}),
            "completed, payment failed": ({"payment": {"status": "failure"}}, {"status": "unpaid"}),
            "completed, payment under way": ({"payment": {"status": "processing"}}, {"status": "paymentProcessing"}),
            "completed, payment unknown": ({"payment": {"status": "maybe"}}, {"status": "completed"}),
            "completed, payment of a wrong type": ({"payment": {"status": ["success"]}}, {"status": "completed"}),
            "completed, no payment": ({}, {"status": "completed"}),
            "completed, payment null": ({"payment": None}, {"status": "completed"}),
            "payment": (
                {"payment": {"status": "success", "paymentProvider": "stripe"}},
                {"payment": {"status": "success", "provider": "stripe"}},
            ),
            "created_at is the origin": ({"timeOfOrigin": DRAFTED}, {"created_at": DRAFTED}),
            "created_at is the exit": ({"session": {"customerLastExitedAt": DRAFTED}}, {"created_at": DRAFTED}),
            "created_at is the issue at worst": ({}, {"created_at": UPDATED}),
            "amounts": (
                {"totalTax": "0.16", "subtotalPrice": 1.99},
                {"total_amount": 2.15, "tax_amount": 0.16, "subtotal_amount": 1.99},
            ),
            "customer": ({"customer": {"id": 11}}, {"customer_id": "11"}),
            "customer of the session": ({"session": {"customerId": "11"}}, {"customer_id": "11"}),
            "store": ({"storeId": "3"}, {"store_id": "3"}),
            "cart": (
                {"cart": [SNAPSHOT_LINE]},
                {"line_items": [{**TEA, "status": "ADDED", "is_externally_added": True}]},
            ),
            "cart of products": ({"cart": [PRODUCT_LINE]}, {"line_items": [TEA]}),
            "cart with a removed line": (
                {"status": "reviewed", "cart": [{"status": "REMOVED", "quantity": 0}]},
                {"line_items": [{"status": "REMOVED", "quantity": 0}]},
            ),
            "currency": ({"currency": "SEK"}, {"currency": "SEK"}),
            "session inside": (
                {"session": {"sessionId": "s1", "customerFirstEnteredAt": DRAFTED, "customerLastExitedAt": UPDATED}},
                {"session": {"id": "s1", "entered_at": DRAFTED, "exited_at": UPDATED}},
            ),
            "session at the top": (
                {"sessionId": "s1", "customerFirstEnteredAt": DRAFTED, "customerLastExitedAt": UPDATED},
                {"session": {"id": "s1", "entered_at": DRAFTED, "exited_at": UPDATED}},
            ),
        }
    ),
)
def test_a_checkout_webhook_reads_as_aides(fields, expected):
    seen = pushed(**fields)
    assert {name: seen.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "part", ["customer_id", "store_id", "tax_amount", "subtotal_amount", "payment", "session", "line_items", "currency"]
)
def test_what_a_webhook_does_not_say_is_absent(part):
    assert part not in pushed()


@pytest.mark.parametrize(
    "name",
    [
        "orderId",
        "sessionId",
        "session",
        "customer",
        "storeId",
        "timeOfOrigin",
        "timeOfIssue",
        "cart",
        "payment",
        "totalTax",
    ],
)
def test_null_in_a_webhook_counts_as_absent(name):
    body = {**CHECKOUT, "session": {"sessionId": "s1"}}
    absent = {key: value for key, value in body.items() if key != name} | (
        {"sessionId": "s1"} if name == "session" else {}
    )
    null = {**absent, name: None}
    assert read_webhook(null, NOW) == read_webhook(absent, NOW)


@pytest.mark.parametrize(
    ("fields", "order_id", "session_id"),
    **table(
        {
            "order only": ({}, "7", None),
            "text order": ({"orderId": "7"}, "7", None),
            "order and session": ({"sessionId": "s1"}, "7", "s1"),
            "session only": ({"orderId": None, "sessionId": "s1"}, None, "s1"),
            "session inside only": ({"orderId": None, "session": {"sessionId": "s1"}}, None, "s1"),
        }
    ),
)
def test_a_checkout_is_known_by_its_order_or_its_session(fields, order_id, session_id):
    snapshot = read_webhook({**CHECKOUT, **fields}, NOW).snapshot
    assert (snapshot.id, snapshot.session_id, snapshot.source) == (order_id, session_id, WEBHOOK)


def test_a_webhook_counts_from_its_time_of_issue():
    assert read_webhook({**CHECKOUT, "timeOfOrigin": DRAFTED}, NOW).snapshot.at == UPDATED


def test_a_webhook_without_a_time_of_issue_counts_from_now():
    assert read_webhook({**CHECKOUT, "timeOfIssue": None}, NOW).snapshot.at == NOW


def test_a_webhook_tells_its_store_and_role_for_the_filters():
    webhook = read_webhook({**CHECKOUT, "storeId": 3, "customer": {"id": 11, "role": "tester"}}, NOW)
    assert (webhook.store_id, webhook.role) == ("3", "tester")


def test_the_configured_currency_stands_in_for_a_webhooks():
    assert read_webhook(CHECKOUT, NOW, "USD").snapshot.order["currency"] == "USD"


def test_a_checkout_without_a_total_is_a_checkout_but_nothing_to_keep():
    webhook = read_webhook({"orderId": 7, "status": "draft", "timeOfIssue": UPDATED}, NOW)
    assert isinstance(webhook, CheckoutWebhook)
    assert webhook.snapshot is None


@pytest.mark.parametrize(
    ("fields", "complaint"),
    **table(
        {
            **{
                f"orderId {name}": ({"orderId": value}, "orderId")
                for name, value in NOT_IDS.items()
                if name != "negative"
            },
            **{f"totalPrice {name}": ({"totalPrice": value}, "totalPrice") for name, value in NOT_NUMBERS.items()},
            "tax": ({"totalTax": "much"}, "totalTax"),
            "subtotal": ({"subtotalPrice": [1]}, "subtotalPrice"),
            "status number": ({"status": 1}, "status"),
            "status object": ({"status": {}}, "status"),
            "cart object": ({"cart": {}}, "cart"),
            "cart text": ({"cart": "tea"}, "cart"),
            "cart of text": ({"cart": ["tea"]}, "cart"),
            "cart with a null": ({"cart": [SNAPSHOT_LINE, None]}, "cart"),
            "session text": ({"session": "s1"}, "session"),
            "customer number": ({"customer": 11}, "customer"),
            "payment text": ({"payment": "success"}, "payment"),
            "payment list": ({"payment": []}, "payment"),
            "sessionId object": ({"sessionId": {}}, "sessionId"),
            "sessionId too long": ({"sessionId": "s" * 501}, "sessionId"),
            "sessionId inside too long": ({"session": {"sessionId": "s" * 501}}, "sessionId"),
            "timeOfIssue malformed": ({"timeOfIssue": "now"}, "timeOfIssue"),
            "timeOfIssue number": ({"timeOfIssue": 1761991200}, "timeOfIssue"),
            "timeOfOrigin malformed": ({"timeOfOrigin": "2025-02-30T10:00:00Z"}, "timeOfOrigin"),
            "neither order nor session": ({"orderId": None, "timeOfIssue": None}, "neither"),
            "unknown status, no time of issue": ({"status": "lost", "timeOfIssue": None}, "neither"),
        }
    ),
)
def test_a_webhook_with_a_wrong_type_where_it_matters_is_refused_by_name(fields, complaint):
    with pytest.raises(Unreadable, match=complaint):
        read_webhook({**CHECKOUT, **fields}, NOW)


@pytest.mark.parametrize("body", [None, [], "x", 7, True, {}, {"hello": "world"}, [CHECKOUT]], ids=repr)
def test_what_is_no_webhook_is_refused(body):
    with pytest.raises(Unreadable):
        read_webhook(body, NOW)


@pytest.mark.parametrize(
    "body",
    [
        {"timeOfIssue": UPDATED, "event": "entry"},
        {"timeOfIssue": UPDATED, "status": "entered", "sessionId": "s1"},
        {"timeOfIssue": UPDATED, "status": "draft"},
    ],
    ids=["without status", "another status", "neither order nor session"],
)
def test_aifis_other_pushes_are_told_by_their_time_of_issue_and_not_kept(body):
    assert read_webhook(body, NOW) == OtherWebhook()


def test_an_order_of_a_webhook_is_bounded():
    with pytest.raises(Unreadable, match="larger"):
        read_webhook({**CHECKOUT, "cart": [{"name": "x" * 400} for _ in range(200)]}, NOW)


def test_a_customer_webhook_reads_as_aides():
    webhook = read_webhook(
        {
            "customer": {"id": 11, "externalId": "L-4", "role": "customer"},
            "customerPersonalInfo": {"firstName": "Ada", "lastName": "Byron", "email": "a@b.se", "phoneNumber": "+46"},
            "timeOfIssue": UPDATED,
        },
        NOW,
    )
    assert isinstance(webhook, CustomerWebhook)
    assert webhook.role == "customer"
    assert webhook.customer == {
        "id": "11",
        "first_name": "Ada",
        "last_name": "Byron",
        "email": "a@b.se",
        "phone": "+46",
        "external_id": "L-4",
        "role": "customer",
    }


def test_a_checkout_that_tells_of_its_shopper_is_no_customer_webhook():
    shopper = {"customer": {"id": 11}, "customerPersonalInfo": {"firstName": "Ada"}}
    assert read_webhook({**CHECKOUT, **shopper}, NOW).snapshot.id == "7"


@pytest.mark.parametrize(
    "body",
    [
        {"customer": {"id": 11}, "customerPersonalInfo": "Ada"},
        {"customer": {"id": 11}, "customerPersonalInfo": []},
        {"customer": 11, "customerPersonalInfo": {}},
        {"customerPersonalInfo": {}},
        {"customer": {}, "customerPersonalInfo": {}},
        {"customer": {"id": True}, "customerPersonalInfo": {}},
        {"customer": {"id": "../orders"}, "customerPersonalInfo": {}},
    ],
    ids=json.dumps,
)
def test_a_malformed_customer_webhook_is_refused(body):
    with pytest.raises(Unreadable):
        read_webhook({**body, "timeOfIssue": UPDATED}, NOW)


# --- contests and stores


def test_a_contest_in_full_reads_as_aides():
    item = {"name": "Tea", "originalQuantity": 2, "contestedQuantity": "1", "reviewedQuantity": None, "productId": 3}
    contest = {"originalTotalPrice": "7.20", "reviewedTotalPrice": None, "items": [item, None]}
    items = [{"name": "Tea", "original_quantity": 2, "contested_quantity": 1}]
    assert read_contest(contest) == {"original_amount": 7.2, "items": items}


def test_the_name_of_a_disputed_product_may_stand_in_its_snapshot():
    assert read_contest({"items": [{"productSnapshot": {"name": "Tea"}}]}) == {"items": [{"name": "Tea"}]}


@pytest.mark.parametrize("value", [None, [], "contested", 7, {}, {"items": None}, {"status": 7.5}], ids=repr)
def test_what_is_no_contest_tells_nothing(value):
    assert read_contest(value) == {}


CONTESTED = {"id": 7, "status": "contested", "draftCreatedAt": DRAFTED, "totalPrice": "2.15"}


@pytest.mark.parametrize(
    ("changes", "comes"),
    [
        ({}, True),
        ({"order": None}, False),
        ({"order": {**CONTESTED, "status": "paid"}}, False),
        ({"order": {**CONTESTED, "id": 8}}, False),
        ({"order": {**CONTESTED, "totalPrice": None}}, False),
    ],
)
def test_an_order_comes_with_its_contest_if_it_is_of_its_state(changes, comes):
    contest = {"orderId": "7", "status": "contested", "message": "no", "order": CONTESTED, **changes}
    order_id, status, order = read_contested(contest)
    assert (order_id, status, order is not None) == ("7", "contested", comes)
    assert order is None or order["contest"]["message"] == "no"


@pytest.mark.parametrize("value", [None, 7, [], {}, {"orderId": "x", "order": 7}], ids=repr)
def test_what_is_no_contest_names_no_order(value):
    assert read_contested(value)[::2] == (None, None)


def test_a_store_reads_as_aides():
    store = {
        "id": "12",
        "name": "de-ber-12",
        "displayableName": "Alexanderplatz",
        "addressCity": "Berlin",
        "addressRegion": "Berlin",
        "addressCountry": "DE",
        "addressPostalCode": 10178,
        "status": "OPEN",
    }
    assert read_store(store) == {
        "id": "12",
        "name": "Alexanderplatz",
        "city": "Berlin",
        "region": "Berlin",
        "country": "DE",
        "postal_code": "10178",
    }


@pytest.mark.parametrize("displayed", [None, "", " ", {}])
def test_a_store_without_a_name_for_shoppers_has_its_own(displayed):
    assert read_store({"id": 12, "name": "de-ber-12", "displayableName": displayed}) == {
        "id": "12",
        "name": "de-ber-12",
    }


@pytest.mark.parametrize("value", [None, [], "12", {}, {"id": None}, {"id": {}}], ids=repr)
def test_what_is_no_store_reads_as_none(value):
    assert read_store(value) is None


# --- customers


@pytest.mark.parametrize(
    ("fields", "expected"),
    **table(
        {
            "anonymous": ({}, {}),
            "everything null": (dict.fromkeys(("externalId", "role", "email", "firstName", "lastName", "phone")), {}),
            "everything empty": (
                dict.fromkeys(("externalId", "role", "email", "firstName", "lastName", "phone"), ""),
                {},
            ),
            "names": ({"firstName": "Ada", "lastName": "Byron"}, {"first_name": "Ada", "last_name": "Byron"}),
            "email": ({"email": "a@b.se"}, {"email": "a@b.se"}),
            "email that is none": ({"email": "ada"}, {}),
            "phone": ({"phone": "+46", "phoneNumber": "+47"}, {"phone": "+46"}),
            "phoneNumber": ({"phone": None, "phoneNumber": "+47"}, {"phone": "+47"}),
            "externalId": ({"externalId": "L-4"}, {"external_id": "L-4"}),
            "role": ({"role": "untracked"}, {"role": "untracked"}),
            "address": ({"address": "Main St 1"}, {"billing_address": {"address1": "Main St 1"}}),
            "address that is no text": ({"address": {"street": "Main St"}}, {}),
            "unknown": ({"metadata": {"tier": "gold"}, "novelty": 1}, {}),
            "malformed": ({"firstName": {}, "email": ["a@b.se"], "phone": True, "role": 1.5}, {}),
        }
    ),
)
def test_a_customer_reads_as_aides(fields, expected):
    assert read_customer({"id": 11, **fields}) == {"id": "11", **expected}


@pytest.mark.parametrize("value", [*NOT_IDS.values(), None], ids=[*NOT_IDS, "null"])
def test_a_customer_without_an_id_cannot_be_read(value):
    with pytest.raises(Unreadable):
        read_customer({"id": value})


@pytest.mark.parametrize("data", [None, [], "x", 7], ids=repr)
def test_what_is_no_object_is_no_customer(data):
    with pytest.raises(Unreadable):
        read_customer(data)


# --- ids


@pytest.mark.parametrize("text", ["0", "7", "1234567890", "9" * 18])
def test_an_integer_can_be_an_id(text):
    assert is_aifi_id(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "07",
        "00",
        "-7",
        "+7",
        "7.0",
        "7 ",
        "7\n",
        "1e3",
        "0x7",
        "1_000",
        "s1",
        "7/8",
        "７",
        "٧",
        "9" * 19,
        "\0",
    ],
    ids=ascii,
)
def test_other_text_can_be_none(text):
    assert not is_aifi_id(text)


# --- times


@pytest.mark.parametrize(
    ("text", "expected"),
    **table(
        {
            "UTC": ("2025-11-01T10:00:00Z", "2025-11-01T10:00:00.000Z"),
            "no zone": ("2025-11-01T10:00:00", "2025-11-01T10:00:00.000Z"),
            "a blank": ("2025-11-01 10:00:00Z", "2025-11-01T10:00:00.000Z"),
            "plus zero": ("2025-11-01T10:00:00+00:00", "2025-11-01T10:00:00.000Z"),
            "minus zero": ("2025-11-01T10:00:00-00:00", "2025-11-01T10:00:00.000Z"),
            "east": ("2025-11-01T10:00:00+02:00", "2025-11-01T08:00:00.000Z"),
            "west": ("2025-11-01T10:00:00-05:30", "2025-11-01T15:30:00.000Z"),
            "zone without a colon": ("2025-11-01T10:00:00+0545", "2025-11-01T04:15:00.000Z"),
            "zone without minutes": ("2025-11-01T10:00:00+00", "2025-11-01T10:00:00.000Z"),
            "east without minutes": ("2025-11-01T10:00:00+02", "2025-11-01T08:00:00.000Z"),
            "west without minutes": ("2025-11-01T10:00:00.25-05", "2025-11-01T15:00:00.250Z"),
            "a blank before the zone": ("2025-11-01 10:00:00 +02:00", "2025-11-01T08:00:00.000Z"),
            "no seconds": ("2025-11-01T10:07Z", "2025-11-01T10:07:00.000Z"),
            "no seconds, no zone": ("2025-11-01T10:07", "2025-11-01T10:07:00.000Z"),
            "no seconds, east": ("2025-11-01T10:07+02:00", "2025-11-01T08:07:00.000Z"),
            "no seconds, west without minutes": ("2025-11-01T10:07-05", "2025-11-01T15:07:00.000Z"),
            "small t and z": ("2025-11-01t10:00:00z", "2025-11-01T10:00:00.000Z"),
            "small t, no seconds": ("2025-11-01t10:07z", "2025-11-01T10:07:00.000Z"),
            "the farthest east": ("2025-11-01T00:00:00+14:00", "2025-10-31T10:00:00.000Z"),
            "over the year's end": ("2025-12-31T23:30:00-01:00", "2026-01-01T00:30:00.000Z"),
            "one digit": ("2025-11-01T10:00:00.5Z", "2025-11-01T10:00:00.500Z"),
            "two digits": ("2025-11-01T10:00:00.05Z", "2025-11-01T10:00:00.050Z"),
            "three digits": ("2025-11-01T10:00:00.123Z", "2025-11-01T10:00:00.123Z"),
            "six digits": ("2025-11-01T10:00:00.123456Z", "2025-11-01T10:00:00.123Z"),
            "nine digits": ("2025-11-01T10:00:00.999999999Z", "2025-11-01T10:00:00.999Z"),
            "a comma": ("2025-11-01T10:00:00,25+01:00", "2025-11-01T09:00:00.250Z"),
            "the leap day": ("2024-02-29T23:59:59Z", "2024-02-29T23:59:59.000Z"),
            "out of the leap day": ("2024-02-29T23:59:59-01:00", "2024-03-01T00:59:59.000Z"),
            "the leap day of 2000": ("2000-02-29T00:00:00Z", "2000-02-29T00:00:00.000Z"),
            "the hour that summer time skips": ("2025-03-30T02:30:00Z", "2025-03-30T02:30:00.000Z"),
        }
    ),
)
def test_a_time_reads_as_fixed_width_utc(text, expected):
    assert parse_time(text) == expected


@pytest.mark.parametrize("text", **table(NOT_TIMES))
def test_nonsense_is_no_time(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the text is the caller's
        parse_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+01:00",
        "2900-01-01T00:00:00Z",
        "2899-12-31T23:59:59-01:00",
        "9999-12-31T23:59:59Z",
    ],
)
def test_a_time_too_far_off_to_reckon_with_is_refused(text):
    """.NET and Go send the year 1 for "no time"; an hour after the last one there is no year."""
    with pytest.raises(ValueError):  # noqa: PT011
        parse_time(text)


# --- hostile values


@pytest.mark.parametrize("name", ["status", "customerId", "externalId", "storeId", "sessionId", "currency"])
def test_half_a_surrogate_pair_becomes_text_that_utf8_can_carry(name):
    assert json.dumps(order(**{name: "x\ud800y"}), ensure_ascii=False).encode()


def test_text_holds_no_nul_which_not_every_database_takes():
    assert order(currency="x\0y")["currency"] == "x\ufffdy"


def test_a_long_text_is_cut():
    assert len(order(externalId="x" * 100_000)["external_id"]) <= 500


@pytest.mark.parametrize("value", [10**5000, -(10**30), float("nan"), float("inf"), nested(200)], ids=lambda _: "")
@pytest.mark.parametrize("name", ["customerId", "storeId", "version", "totalTax", "quantity", "updatedAt", "sessionId"])
def test_a_hostile_value_leaves_the_order_readable_and_its_json_strict(name, value):
    seen = order(**{name: value, "lineItems": [{"quantity": value, "price": value, "name": value}]})
    json.dumps(seen, allow_nan=False)
    assert seen["total_amount"] == 2.15


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"a":' * 100_000, b"", b"{", b"<html>", b"\xff\xfe\xfa", b'{"a": 1' + b"0" * 10_000 + b"}"],
    ids=["deep list", "deep object", "empty", "truncated", "HTML", "no UTF-8", "endless integer"],
)
def test_a_body_that_is_no_json_is_unreadable(body):
    with pytest.raises(Unreadable):
        parse_json(body)


@pytest.mark.parametrize(
    ("raw", "text"),
    **table(
        {
            "tab": (b"Green\ttea", "Green\ttea"),
            "line feed": (b"Green\ntea", "Green\ntea"),
            "unit separator": (b"Green\x1ftea", "Green\x1ftea"),
            "NUL": (b"Green\x00tea", "Green\x00tea"),
            "Latin-1": (b"Th\xe9", "Th\ufffd"),
            "Latin-1 between": (b"Th\xe9 vert", "Th\ufffd vert"),
            "cut UTF-8": (b"Th\xc3", "Th\ufffd"),
            "cut longer UTF-8": (b"\xf0\x9f\x8d", "\ufffd"),
            "whole UTF-8": ("Thé 🍵".encode(), "Thé 🍵"),
        }
    ),
)
@pytest.mark.parametrize("refuse_nan", [False, True], ids=["AiFi's answer", "webhook"])
def test_a_spoiled_character_spoils_only_the_text_it_is_in(raw, text, refuse_nan):
    body = b'[{"name": "' + raw + b'", "price": 1}, {"name": "Caf\xc3\xa9"}]'
    assert parse_json(body, refuse_nan) == [{"name": text, "price": 1}, {"name": "Café"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_every_encoding_it_may_have(encoding):
    assert parse_json('{"name": "Café"}'.encode(encoding)) == {"name": "Café"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize(
    "body", ["%s", '{"totalPrice": %s}', '{"cart": [{"quantity": %s}]}'], ids=["top", "in", "deep"]
)
def test_what_json_does_not_know_as_a_number_spoils_a_webhook_but_not_aifis_answer(number, body):
    with pytest.raises(Unreadable):
        parse_json((body % number).encode(), refuse_nan=True)
    parse_json((body % number).encode())


@pytest.mark.parametrize("text", ["NaN", "Infinity"])
def test_such_a_word_in_a_text_spoils_nothing(text):
    assert parse_json(json.dumps({"name": text}).encode(), refuse_nan=True) == {"name": text}


def test_a_deeply_nested_webhook_is_read_or_refused():
    deep = nested(900)
    assert read_webhook({**CHECKOUT, "metadata": deep}, NOW) == read_webhook(CHECKOUT, NOW)
    with pytest.raises(Unreadable, match="cart"):
        read_webhook({**CHECKOUT, "cart": [*deep, deep]}, NOW)
