"""AiFi's words in Aide's: orders, customers and webhooks. Pure functions.

Sources: [G] AiFi's guide "Data Integration: Orders & Webhooks", [R] AiFi's public API reference. What only [R] says, an
older deployment may lack: it is used where it works, and done without where it does not.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orders import LIST, LISTS, WEBHOOK, Snapshot

MAX_ORDER_BYTES, FEW_LINES = 64 * 1024, 10  # so few lines of MAX_TEXT a field are never as large
AIFI_ID = re.compile(r"0|[1-9][0-9]{0,17}")
ISO_TIME = re.compile(
    r"([12]\d{3}-\d\d-\d\d)[Tt ](\d\d:\d\d)(?:(:\d\d)(?:[.,](\d{1,9}))?)?\s{0,9}"
    r"([Zz]|[+-](?:[01]\d|2[0-3])(?::?[0-5]\d)?)?",
    re.ASCII,
)
DECIMAL = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
MAX_TEXT = 500
MEMORY = 4096  # texts whose meaning is remembered: times and prices come again and again, and reading them is slow
PRICES = ("totalPrice", "totalTax", "subtotalPrice")
CHECKOUT_STATUSES = ("draft", "completed", "reviewed")
PAID_BY_PAYMENT = {"success": "paid", "failure": "unpaid", "processing": "paymentProcessing"}


class Unreadable(ValueError):
    """An order, customer or webhook is not what AiFi documents; the text says what is wrong."""


def parse_json(body: bytes, refuse_nan: bool = False) -> Any:
    """Return the JSON in these bytes; a control character or a byte that is not UTF-8 spoils only the text it is in.

    :param refuse_nan: whether `NaN` and `Infinity`, which Python reads as numbers but JSON does not know, spoil it all
    :raises Unreadable: there is none
    """
    try:
        text = body.decode(json.detect_encoding(body), "replace")
        return json.loads(text, strict=False, parse_constant=_refuse_constant if refuse_nan else None)
    except (ValueError, RecursionError):
        raise Unreadable("the body is not JSON") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


@dataclass(frozen=True)
class CheckoutWebhook:
    """A checkout, read; `snapshot` is None where the webhook has no total to make an order of."""

    at: str  # when it was issued
    snapshot: Snapshot | None
    store_id: str | None
    role: str | None


@dataclass(frozen=True)
class CustomerWebhook:
    """A customer's personal data, read: in Aide's fields, and only those that the webhook names."""

    at: str  # when it was issued
    customer: Mapping[str, Any]
    role: str | None


@dataclass(frozen=True)
class OtherWebhook:
    """A webhook of AiFi's that tells nothing to keep."""


Webhook = CheckoutWebhook | CustomerWebhook | OtherWebhook


def is_aifi_id(text: str) -> bool:
    """Return whether this can be the id of an order or customer of AiFi: an integer [R]."""
    return AIFI_ID.fullmatch(text) is not None


def read_order(data: Any, source: str, currency: str = "") -> Snapshot:
    """Translate an order of the Orders API [G, R].

    :raises Unreadable: it has no id, no time or no total
    """
    if not isinstance(data, dict):
        raise Unreadable("the order is not an object")
    order_id = _text(data.get("id"))
    if order_id is None or not is_aifi_id(order_id):
        raise Unreadable("the order has no id")
    times = {name: _time(data.get(name)) for name in ("draftCreatedAt", "createdAt", "completedAt", "paidAt")}
    created_at = times["draftCreatedAt"] or times["createdAt"]
    if created_at is None:
        raise Unreadable(f"order {order_id} has no draftCreatedAt")
    total = _number(data.get("totalPrice"))
    if total is None:
        raise Unreadable(f"order {order_id} has no totalPrice")
    session = _session(data)
    order = {"created_at": created_at, "total_amount": total, **_order_fields(data, session, currency)}
    return Snapshot(
        id=order_id,
        order=order,
        at=read_updated_at(data) or max(filter(None, times.values())),
        source=source,
        session_id=session.get("id"),
        version=_integer(data.get("version")),
        dated=read_updated_at(data) is not None,
        listed=source in LISTS and times["draftCreatedAt"] is not None,
    )


def _order_fields(data: Mapping[str, Any], session: Mapping[str, Any], currency: str) -> dict[str, Any]:
    """Return what AiFi may leave out of an order."""
    return {
        **_known(
            currency=_text(data.get("currency")) or _text(data.get("currencyCode")) or currency or None,
            session=session or None,
            line_items=_lines(data),
            contest=read_contest(data.get("contest")) or None,
        ),
        **_present(
            data,
            status=("status", _text),
            customer_id=("customerId", _text),
            external_id=("externalId", _text),
            external_status=("externalStatus", _text),
            store_id=("storeId", _text),
            version=("version", _integer),
            subtotal_amount=("subtotalPrice", _number),
            tax_amount=("totalTax", _number),
            completed_at=("completedAt", _time),
            paid_at=("paidAt", _time),
        ),
        **_api_payment(data),
    }


def read_contest(data: Any) -> dict[str, Any]:
    """Translate a contest [R]: a shopper's dispute of an order; empty where it tells nothing."""
    contest = _object(data)
    items = contest.get("items")
    return _known(
        status=_text(contest.get("status")),
        message=_text(contest.get("message")),
        original_amount=_number(contest.get("originalTotalPrice")),
        contested_amount=_number(contest.get("contestedTotalPrice")),
        reviewed_amount=_number(contest.get("reviewedTotalPrice")),
        items=[_contest_item(item) for item in items if isinstance(item, dict)] if isinstance(items, list) else None,
    )


def read_contested(data: Any) -> tuple[str | None, str | None, dict[str, Any] | None]:
    """Return the id of a contest's order, the contest's status, and the raw order that came with it.

    The order then has the contest in it. It is None where it cannot be read, or is not of the contest's state.
    """
    contest = dict(_object(data))
    order = {**_object(contest.pop("order", None)), "contest": contest}
    order_id, status = read_order_id({"id": contest.get("orderId")}), _text(contest.get("status"))
    try:
        snapshot = read_order(order, LIST)
    except Unreadable:
        return order_id, status, None
    is_same = snapshot.id == order_id and snapshot.order.get("status") == status
    return order_id, status, order if is_same else None


def _contest_item(item: Mapping[str, Any]) -> dict[str, Any]:
    return _known(
        name=_text(item.get("name")) or _text(_object(item.get("productSnapshot")).get("name")),
        original_quantity=_quantity(item.get("originalQuantity")),
        contested_quantity=_quantity(item.get("contestedQuantity")),
        reviewed_quantity=_quantity(item.get("reviewedQuantity")),
    )


def read_store(data: Any) -> dict[str, Any] | None:
    """Translate a store [R]; None where it has no id. The name is the one that shoppers see, if there is one."""
    store = _object(data)
    if _text(store.get("id")) is None:
        return None
    return _known(
        id=_text(store.get("id")),
        name=_text(store.get("displayableName")) or _text(store.get("name")),
        city=_text(store.get("addressCity")),
        region=_text(store.get("addressRegion")),
        country=_text(store.get("addressCountry")),
        postal_code=_text(store.get("addressPostalCode")),
    )


def read_customer(data: Any, personal: Any = None) -> dict[str, Any]:
    """Translate a customer [R], or a customer webhook's `customer` with its `customerPersonalInfo`.

    :raises Unreadable: the customer has no id
    """
    customer, personal = _object(data), data if personal is None else _object(personal)
    customer_id = _text(customer.get("id"))
    if customer_id is None or not is_aifi_id(customer_id):
        raise Unreadable("the customer has no id")
    fields = {
        "id": customer_id,
        "first_name": _text(personal.get("firstName")),
        "last_name": _text(personal.get("lastName")),
        "email": email if "@" in (email := _text(personal.get("email")) or "") else None,
        "phone": _text(personal.get("phone")) or _text(personal.get("phoneNumber")),
        "external_id": _text(customer.get("externalId")),
        "role": _text(customer.get("role")),
        "billing_address": _known(address1=_text(customer.get("address"))) or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def is_customer_webhook(body: Any) -> bool:
    """Return whether a webhook tells a customer's personal data [R], readable or not."""
    return isinstance(body, dict) and body.get("status") is None and body.get("customerPersonalInfo") is not None


def read_webhook(body: Any, now: str, currency: str = "") -> Webhook:
    """Translate a webhook [G, R]; `now` stands in for a `timeOfIssue` that is not told.

    :raises Unreadable: it is no webhook of AiFi's, or has a wrong type where it matters
    """
    if not isinstance(body, dict):
        raise Unreadable("the body is not a JSON object")
    status, at = body.get("status"), _time(body.get("timeOfIssue")) or now
    if is_customer_webhook(body):
        return _read_customer_webhook(body, at)
    if status is None or (isinstance(status, str) and status not in CHECKOUT_STATUSES):
        return _read_other_webhook(body)
    _check_checkout(body)
    if not (_text(body.get("orderId")) or read_session_id(body)):
        return _read_other_webhook(body)
    role = _text(_object(body.get("customer")).get("role"))
    return CheckoutWebhook(at, _read_checkout(body, at, currency), _text(body.get("storeId")), role)


def read_session_id(data: Any) -> str | None:
    """Return the id of an order's or a checkout's shopping session, where it is told."""
    return _session(_object(data)).get("id")


def read_external_id(data: Any) -> str | None:
    """Return the retailer's own number of a raw order, where it has one."""
    return _text(_object(data).get("externalId"))


def read_order_id(data: Any) -> str | None:
    """Return the id of a raw order, where it has one."""
    order_id = _text(_object(data).get("id")) or ""
    return order_id if is_aifi_id(order_id) else None


def read_drafted_at(data: Any) -> str | None:
    """Return when a raw order was drafted: what lists are sorted by; None where AiFi gives no such time."""
    return _time(_object(data).get("draftCreatedAt"))


def read_updated_at(data: Any) -> str | None:
    """Return when a raw order changed last, where AiFi shows that [R]."""
    return _time(_object(data).get("updatedAt"))


@functools.lru_cache(maxsize=MEMORY)
def parse_time(text: str) -> str:
    """Translate an ISO 8601 time, UTC where it names no zone, to fixed-width UTC text.

    :raises ValueError: it is none, or of no year that a shop can have had (year 1 stands for "no time" in places)
    """
    match = ISO_TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"not an ISO 8601 time: {text[:40]!r}")
    date, clock, seconds, fraction, zone = match.groups()
    moment = datetime.fromisoformat(f"{date}T{clock}{seconds or ':00'}")
    if zone and zone not in "Zz":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:].lstrip(":") or 0))
        moment = moment - offset if zone[0] == "+" else moment + offset
    if not 1970 <= moment.year < 2900:
        raise ValueError(f"not a time that a shop can have had: {text[:40]!r}")
    return f"{moment.isoformat()}.{(fraction or '')[:3].ljust(3, '0')}Z"


def _read_other_webhook(body: Mapping[str, Any]) -> OtherWebhook:
    if body.get("timeOfIssue") is None:
        raise Unreadable("neither a checkout (status, and orderId or sessionId) nor another webhook of AiFi's")
    return OtherWebhook()


def _read_customer_webhook(body: Mapping[str, Any], at: str) -> CustomerWebhook:
    for name in ("customer", "customerPersonalInfo"):
        if not isinstance(body.get(name), dict):
            raise Unreadable(f"{name} is not an object")
    customer = read_customer(body["customer"], body["customerPersonalInfo"])
    return CustomerWebhook(at, customer, customer.get("role"))


def _read_checkout(body: Mapping[str, Any], at: str, currency: str) -> Snapshot | None:
    """Return the order of a checkout; without a total there is none: AiFi's API brings that order."""
    if body.get("totalPrice") is None:
        return None
    session, lines = _session(body), [_line_item(line) for line in body.get("cart") or []]
    shopper, payment = _object(body.get("customer")), _object(body.get("payment"))
    fields = {
        "created_at": _time(body.get("timeOfOrigin")) or session.get("exited_at") or at,
        "status": _checkout_status(body),
        "total_amount": _number(body.get("totalPrice")),
        "currency": _text(body.get("currency")) or currency,
        "customer_id": _text(shopper.get("id")) or _text(_object(body.get("session")).get("customerId")),
        "store_id": _text(body.get("storeId")),
        "subtotal_amount": _number(body.get("subtotalPrice")),
        "tax_amount": _number(body.get("totalTax")),
        "payment": _known(status=_text(payment.get("status")), provider=_text(payment.get("paymentProvider"))),
        "session": session,
        "line_items": lines,
    }
    order = {key: value for key, value in fields.items() if value not in (None, "", {}, [])}
    if len(lines) > FEW_LINES and len(json.dumps(order)) > MAX_ORDER_BYTES:
        raise Unreadable(f"the order is larger than {MAX_ORDER_BYTES // 1024} KiB")
    return Snapshot(_text(body.get("orderId")), order, at, WEBHOOK, session.get("id"))


def _check_checkout(body: Mapping[str, Any]) -> None:
    """Refuse wrong types where they matter; what is null counts as absent."""
    session_ids = (body.get("sessionId"), _object(body.get("session")).get("sessionId"))
    rules: list[tuple[str, Any, Callable[[Any], Any]]] = [
        ("orderId is not an integer", body.get("orderId"), _is_integer),
        ("status is not text", body.get("status"), lambda value: isinstance(value, str)),
        ("cart is not a list of objects", body.get("cart"), _is_list_of_objects),
        *(("sessionId is not short text", value, _is_short_text) for value in session_ids),
        *((f"{name} is not an object", body.get(name), _is_object) for name in ("session", "customer", "payment")),
        *((f"{name} is not a finite number", body.get(name), _is_number) for name in PRICES),
        *((f"{name} is not an ISO 8601 time", body.get(name), _time) for name in ("timeOfIssue", "timeOfOrigin")),
    ]
    for complaint, value, holds in rules:
        if value is not None and not holds(value):
            raise Unreadable(complaint)


def _checkout_status(body: Mapping[str, Any]) -> str:
    """Return the status that an order of this webhook has in the Orders API, as far as the payment tells."""
    status = str(body["status"])
    if status != "completed":
        return status
    return PAID_BY_PAYMENT.get(_text(_object(body.get("payment")).get("status")) or "", "completed")


def _api_payment(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return `payment` and `refunded`, from both of the objects that [R] shows."""
    old, new = _object(data.get("transaction")), _object(data.get("paymentTransaction"))
    refunds = [part["refunded"] for part in (new, old) if isinstance(part.get("refunded"), bool)]
    ids = [text for part in (new, old) if (text := _text(part.get("paymentTransactionId")))]
    payment = _known(
        status=_text(new.get("paymentStatus")),
        provider=_text(new.get("paymentProvider")),
        transaction_ids=list(dict.fromkeys(ids)) or None,
    )
    return _known(refunded=any(refunds) if refunds else None, payment=payment or None)


def _session(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the session, whose id and times may stand inside `session` or beside it."""
    inner = _object(data.get("session"))
    return _known(
        id=_text(inner.get("sessionId")) or _text(data.get("sessionId")),
        entered_at=_time(inner.get("customerFirstEnteredAt")) or _time(data.get("customerFirstEnteredAt")),
        exited_at=_time(inner.get("customerLastExitedAt")) or _time(data.get("customerLastExitedAt")),
        visitors=_integer(inner.get("visitors")),
    )


def _lines(data: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return an order's line items, or None where this answer has none."""
    lines = data.get("lineItems") if isinstance(data.get("lineItems"), list) else data.get("products")
    if not isinstance(lines, list):
        return None
    return [_line_item(line) for line in lines if isinstance(line, dict)]


def _line_item(line: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a line item; [R] `products` carry at the top what [G] puts into `productSnapshot`."""
    product = _object(line.get("productSnapshot")) or line
    added = line.get("isExternallyAdded")
    return _known(
        name=_text(product.get("name")),
        barcode=_text(product.get("barcode")),
        sku=_text(product.get("sku")),
        quantity=_quantity(line.get("quantity")),
        unit_price=_number(product.get("price")),
        total_amount=_number(line.get("totalPrice")),
        tax_amount=_number(line.get("totalTax")),
        tax_rates=_tax_rates(line) or None,
        status=_text(line.get("status")),
        is_externally_added=added if isinstance(added, bool) else None,
    )


def _tax_rates(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    rates = line.get("taxRates")
    return [
        found
        for rate in (rates if isinstance(rates, list) else [])
        if (
            found := _known(
                name=_text(_object(rate).get("name")),
                rate=_number(_object(rate).get("rate")),
                amount=_number(_object(rate).get("amount")),
            )
        )
    ]


def _present(data: Mapping[str, Any], **fields: tuple[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """Return the fields that AiFi names: translated, None for AiFi's null; what cannot be read is left out."""
    found = {}
    for name, (source, translate) in fields.items():
        if source in data:
            value = translate(data[source])
            if value is not None or data[source] in (None, ""):
                found[name] = value
    return found


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    """Return text or an integer as text, without what not every database holds: NUL, and half of a surrogate pair."""
    if isinstance(value, str):
        text = value.strip()[:MAX_TEXT].replace("\0", "\ufffd")
        return (text if text.isascii() else text.encode("utf-8", "replace").decode()) or None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    return None


def _is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return is_aifi_id(value)
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return _number(value) is not None


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_object, value))


def _is_short_text(value: Any) -> bool:
    return _text(value) is not None and len(str(value)) <= MAX_TEXT and str(value).isprintable()


def _integer(value: Any) -> int | None:
    return int(value) if _is_integer(value) else None


def _number(value: Any) -> float | None:
    """Return a finite number: of AiFi's decimal text the nearest that there is."""
    if isinstance(value, str):
        return _decimal(value) if len(value) <= MAX_TEXT else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return _finite(float(value))
    except OverflowError:
        return None


@functools.lru_cache(maxsize=MEMORY)
def _decimal(text: str) -> float | None:
    return _finite(float(text)) if DECIMAL.fullmatch(text) else None  # `float` reads `1_000` and `inf` too


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _quantity(value: Any) -> float | int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 10**15 else number


def _time(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        return parse_time(value)
    except ValueError:
        return None
