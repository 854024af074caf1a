"""A sandbox AiFi: the Orders API and the webhooks of AiFi over a seeded, lifelike data set.

    with Sandbox(seed=7) as sandbox:
        sandbox.seed_orders(400, days=3)
        order_id = sandbox.checkout()
        requests.get(f"{sandbox.base_url}/orders", headers={"Authorization": "Bearer sandbox-token"})

It serves real HTTP on 127.0.0.1. What AiFi documents, it does as documented: filters, pages, the limit of 20
requests a second, tokens, versions, webhooks. What AiFi leaves open is a setting, and what can go wrong on the way
is a fault to `inject`. All settings are plain attributes and may be changed while it serves.

Inside, times are whole milliseconds since 1970 (UTC) by the sandbox's own clock, and money is whole cents. Methods take
a moment as seconds since 1970, as a `datetime`, or as ISO 8601 text.

    python -m tools.sandbox --port 8001 --orders 400 --days 3 --live
"""

import argparse
import bisect
import collections
import itertools
import json
import os
import queue
import random
import signal
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import requests
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import http_date
from werkzeug.serving import WSGIRequestHandler, make_server

BASE_PATH = "/api/admin/v2"
TOKEN_PATH = "/realms/aifi/protocol/openid-connect/token"
DEFAULT_PAGE_SIZE = 50
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
# An order's row exists shortly before its draft is dated, so `createdAt` is never equal to `draftCreatedAt`.
CREATED_BEFORE_DRAFT_MS = 350
PUSH_TIMEOUT_SECONDS = 15
# Up to so many candidates, sorting them costs less than trying all orders in the wanted order.
FEW_ROWS = 2_000

Moment = float | str | datetime

STATUSES = ("draft", "completed_so_far", "paymentProcessing", "paid", "unpaid", "contested", "reviewed")
OPEN_STATUSES = ("draft", "completed_so_far", "paymentProcessing", "contested")
ROLES = ("customer", "employee", "tester", "untracked", "unknown")
EVERYTHING = (float("-inf"), float("inf"))

# Shoppers by the hour of the day: hardly anybody at night, peaks before work, at lunch, and after work.
SHOPPERS_BY_HOUR = (1, 0, 0, 0, 1, 6, 30, 70, 80, 45, 40, 60, 100, 90, 50, 40, 50, 80, 95, 70, 40, 25, 12, 4)

# Product group: (VAT in percent, [(name, price in cents), …]).
CATALOGUE = {
    "Water": (19, [("Still Water 0.5 l", 119), ("Sparkling Water 0.5 l", 119), ("Alpine Water 1 l", 189)]),
    "Soft drinks": (19, [("Cola 0.33 l", 179), ("Lemonade 0.33 l", 189), ("Ice Tea Peach 0.5 l", 219)]),
    "Juice": (19, [("Orange Juice 0.25 l", 299), ("Apple Juice 0.25 l", 249), ("Ginger Shot", 279)]),
    "Hot drinks": (19, [("Filter Coffee", 210), ("Cappuccino", 290), ("Green Tea", 200)]),
    "Bakery": (7, [("Butter Croissant", 145), ("Pretzel", 95), ("Cinnamon Roll", 225), ("Rye Roll", 65)]),
    "Sandwiches": (7, [("Cheese Sandwich", 389), ("Chicken Wrap", 479), ("Falafel Wrap", 449), ("Egg Bagel", 419)]),
    "Salads": (7, [("Caesar Salad", 599), ("Couscous Salad", 499), ("Fruit Bowl", 349)]),
    "Dairy": (7, [("Plain Yoghurt", 99), ("Berry Skyr", 169), ("Oat Drink 1 l", 229), ("Milk 1 l", 129)]),
    "Snacks": (7, [("Paprika Crisps", 229), ("Salted Peanuts", 199), ("Protein Bar", 259), ("Trail Mix", 319)]),
    "Sweets": (7, [("Milk Chocolate", 149), ("Wine Gums", 139), ("Peppermints", 89)]),
    "Household": (19, [("Paper Tissues", 79), ("USB-C Cable", 1299), ("Umbrella", 999)]),
    "Reading": (0, [("City Map", 450), ("Daily Newspaper", 290), ("Crossword Booklet", 350)]),
}
FIRST_NAMES = ("Ada", "Bruno", "Carla", "Deniz", "Elif", "Finn", "Greta", "Hugo", "Ines", "Jonas", "Klara", "Luca")
LAST_NAMES = ("Albers", "Böhm", "Costa", "Dietz", "Eriksen", "Fuchs", "Gärtner", "Huber", "İnan", "Jansen", "Kowalski")


# ── What AiFi knows ─────────────────────────────────────────────────────────────────────────────────────────────────


class Product(NamedTuple):
    name: str
    barcode: str
    sku: str
    price: int
    tax_percent: int


class Line(NamedTuple):
    product: Product
    quantity: int
    status: str = "ORIGINAL"
    externally_added: bool = False

    @property
    def total(self):
        return self.product.price * self.quantity

    @property
    def tax(self):
        """The tax inside the gross price, in cents."""
        percent = self.product.tax_percent
        return round(self.total * percent / (100 + percent))


class Customer(NamedTuple):
    id: int
    external_id: str | None = None
    role: str = "unknown"
    metadata: dict | None = None
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None


class Order(NamedTuple):
    """One order as it is at one moment; each change makes a new one."""

    id: int
    store_id: int
    customer_id: int
    role: str
    session_id: str
    entered_at: int
    exited_at: int
    visitors: int
    lines: tuple
    total: int
    tax: int
    drafted_at: int
    updated_at: int
    status: str = "draft"
    version: int = 1
    external_id: str | None = None
    completed_at: int | None = None
    paid_at: int | None = None
    payment_status: str = "processing"
    refunded: bool = False

    def completed(self, at):
        return self._replace(status="paymentProcessing", completed_at=at, updated_at=at)

    def paid(self, at):
        completed_at = self.completed_at or at
        return self._replace(
            status="paid", payment_status="success", completed_at=completed_at, paid_at=at, updated_at=at
        )

    def unpaid(self, at):
        return self._replace(
            status="unpaid", payment_status="failure", completed_at=self.completed_at or at, updated_at=at
        )

    def contested(self, at):
        return self._replace(status="contested", version=self.version + 1, updated_at=at)

    def reviewed(self, at, refunded=True):
        """Settle the dispute; a refund takes the last line back."""
        settled = self._replace(status="reviewed", updated_at=at)
        if not (refunded and self.lines):
            return settled
        lines = (*self.lines[:-1], self.lines[-1]._replace(status="REMOVED"))
        total, tax = _sums(lines)
        return settled._replace(lines=lines, total=total, tax=tax, refunded=True)

    def corrected(self, at, total):
        """Charge `total` cents instead, with the tax in proportion; the lines stay as they are."""
        tax = round(total * self.tax / self.total) if self.total else 0
        return self._replace(total=total, tax=tax, updated_at=at)


@dataclass(frozen=True)
class Request:
    """A request that came in; `at` in monotonic seconds, `status` None where no answer went out (yet)."""

    at: float
    method: str
    path: str
    args: dict
    status: int | None = None


@dataclass(frozen=True)
class Delivery:
    """A webhook that was pushed: the answer's status, or the error in words."""

    body: dict
    status: int | None = None
    error: str | None = None


def _sums(lines):
    """Return what the lines cost and the tax in it, in cents."""
    charged = [line for line in lines if line.status != "REMOVED"]
    return sum(line.total for line in charged), sum(line.tax for line in charged)


def _barcode(number):
    """Return an EAN-13 from the range for a shop's own use, with its check digit."""
    digits = f"20{number:010d}"
    check = -sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10
    return f"{digits}{check}"


def _make_products():
    products = []
    for group, (tax_percent, entries) in CATALOGUE.items():
        for name, price in entries:
            number = len(products) + 1
            products.append(Product(name, _barcode(number), f"{group[:3].upper()}-{number:03d}", price, tax_percent))
    return tuple(products)


def _make_customers(dice, count=200):
    """Return shoppers by id: three in five with a name, the others with nothing but an id and a role."""
    customers = {}
    for customer_id in range(11, 11 + count):
        if dice.random() < 0.4:
            customers[customer_id] = Customer(customer_id, role=dice.choice(("customer", "untracked", "unknown")))
            continue
        first, last = dice.choice(FIRST_NAMES), dice.choice(LAST_NAMES)
        customers[customer_id] = Customer(
            id=customer_id,
            external_id=f"member-{customer_id:05d}" if dice.random() < 0.7 else None,
            role=dice.choices(("customer", "employee", "tester"), (90, 7, 3))[0],
            metadata={"newsletter": dice.random() < 0.5},
            email=f"shopper{customer_id}@example.com",
            first_name=first,
            last_name=last,
            phone=f"+4930{dice.randrange(10**7):07d}" if dice.random() < 0.6 else None,
        )
    return customers


def _draft_times(dice, count, now, days):
    """Return `count` rising moments of the last `days`, crowded where shops are."""
    first = now - int(days * DAY_MS)
    hours = range(first - first % HOUR_MS, now + 1, HOUR_MS)
    spans = [(max(first, hour), min(now, hour + HOUR_MS)) for hour in hours]
    weights = [(end - start + 1) * (SHOPPERS_BY_HOUR[start // HOUR_MS % 24] or 0.1) for start, end in spans]
    return sorted(dice.randint(*span) for span in dice.choices(spans, weights, k=count))


# ── Lists ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Index:
    """Rows (key, order id) in rising order."""

    def __init__(self, key):
        self.key = key
        self.rows = []

    def add_all(self, orders):
        self.rows.extend((self.key(order), order.id) for order in orders)
        self.rows.sort()

    def move(self, old, new):
        if old:
            del self.rows[bisect.bisect_left(self.rows, (self.key(old), old.id))]
        bisect.insort(self.rows, (self.key(new), new.id))

    def ids(self, positions):
        return (self.rows[position][1] for position in positions)

    def span(self, low, high):
        """Return the positions of the rows whose key lies between `low` and `high`, both included."""
        return range(bisect.bisect_left(self.rows, (low,)), bisect.bisect_right(self.rows, (high, float("inf"))))


@dataclass
class _Query:
    """What a list request asks for; `ranges` by sort key, `wanted` by the name of the order's field."""

    order_by: str
    descending: bool
    offset: int
    limit: int
    ranges: dict = field(default_factory=dict)
    wanted: dict = field(default_factory=dict)


class _Listing:
    """The orders as lists show them, with an index for each sort key, and one for each field with exact filters."""

    def __init__(self):
        self.orders = {}
        self.indexes = {
            "id": _Index(lambda order: order.id),
            "storeId": _Index(lambda order: order.store_id),
            "totalPrice": _Index(lambda order: order.total),
            "draftCreatedAt": _Index(lambda order: order.drafted_at),
            "updatedAt": _Index(lambda order: order.updated_at),
        }
        fields = ("status", "store_id", "customer_id", "session_id", "external_id")
        self.ids_by_value = {name: collections.defaultdict(set) for name in fields}

    def add_all(self, orders):
        """Take in orders that it does not know yet."""
        for order in orders:
            self.orders[order.id] = order
            for name, ids in self.ids_by_value.items():
                ids[getattr(order, name)].add(order.id)
        for index in self.indexes.values():
            index.add_all(orders)

    def put(self, order):
        old = self.orders.get(order.id)
        self.orders[order.id] = order
        for name, ids in self.ids_by_value.items():
            if old:
                ids[getattr(old, name)].discard(order.id)
            ids[getattr(order, name)].add(order.id)
        for index in self.indexes.values():
            index.move(old, order)

    def page(self, query):
        """Return the orders of one page."""
        ordered = self.indexes[query.order_by]
        span = ordered.span(*query.ranges.get(query.order_by, EVERYTHING))
        page = slice(query.offset, query.offset + query.limit)
        if not query.wanted and set(query.ranges) <= {query.order_by}:
            return [self.orders[order_id] for order_id in ordered.ids((span[::-1] if query.descending else span)[page])]
        matches = _matcher(query, self.indexes)
        count, ids = self._fewest_ids(query)
        if count <= max(FEW_ROWS, len(span) // 20):
            orders = filter(matches, map(self.orders.get, ids))
            return sorted(orders, key=lambda order: (ordered.key(order), order.id), reverse=query.descending)[page]
        orders = map(self.orders.get, ordered.ids(reversed(span) if query.descending else span))
        return list(itertools.islice(filter(matches, orders), page.start, page.stop))

    def _fewest_ids(self, query):
        """Return how many orders pass the most selective one of the query's filters, and their ids."""
        found = [(len(self.orders), self.orders)]
        for name in query.wanted.keys() & self.ids_by_value.keys():
            groups = [self.ids_by_value[name].get(value, ()) for value in query.wanted[name]]
            found.append((sum(map(len, groups)), itertools.chain.from_iterable(groups)))
        for name, bounds in query.ranges.items():
            index = self.indexes[name]
            span = index.span(*bounds)
            found.append((len(span), index.ids(span)))
        return min(found, key=lambda candidate: candidate[0])


def _matcher(query, indexes):
    """Return the test that an order passes when the query wants it."""
    ranges = [(indexes[name].key, low, high) for name, (low, high) in query.ranges.items()]
    wanted = list(query.wanted.items())

    def matches(order):
        for name, values in wanted:
            if getattr(order, name) not in values:
                return False
        return all(low <= key(order) <= high for key, low, high in ranges)

    return matches


# ── Reading requests ────────────────────────────────────────────────────────────────────────────────────────────────


class AifiError(Exception):
    """An answer other than 200, as AiFi words it."""

    def __init__(self, status, kind, message, rule=None, field=None):
        super().__init__(message)
        self.status = status
        details = [{"error": message, "rule": rule, "field": field}] if rule else []
        self.body = {"message": message, "type": kind, "errors": details}


def _malformed(name, rule, wanted):
    return AifiError(400, "E_VALIDATION_FAILURE", f"{name} must be {wanted}", rule, name)


def _integer(args, name, default, least):
    text = args.get(name)
    if text is None:
        return default
    if not _is_natural(text) or int(text) < least:
        raise _malformed(name, "integer", f"an integer of {least} or more")
    return int(text)


def _is_natural(text):
    return text.isdecimal() and len(text) < 19


def _moment(args, name, default):
    if name not in args:
        return default
    try:
        return _milliseconds(args[name])
    except ValueError:
        raise _malformed(name, "date", "an ISO 8601 date") from None


def _one_of(args, name, default, choices):
    value = args.get(name, default)
    if value not in choices:
        raise _malformed(name, "enum", "one of " + ", ".join(choices))
    return value


def _all_of(args, name, choices):
    values = args.getlist(name)
    for value in values:
        if value not in choices:
            raise _malformed(name, "enum", "one of " + ", ".join(choices))
    return set(values)


def _milliseconds(moment):
    """Return a moment (seconds since 1970, datetime, or ISO 8601 text; UTC unless it says otherwise) as milliseconds.

    Raises ValueError for text that is no date.
    """
    if isinstance(moment, (int, float)):
        return round(moment * 1000)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment.strip().replace("Z", "+00:00").replace("z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - EPOCH) / timedelta(milliseconds=1)


# ── Writing answers ─────────────────────────────────────────────────────────────────────────────────────────────────


def _iso(milliseconds):
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"


def _price(cents):
    sign, cents = ("-" if cents < 0 else ""), abs(cents)
    return f"{sign}{cents // 100}.{cents % 100:02d}"


def _prices(order):
    return {
        "totalPrice": _price(order.total),
        "totalTax": _price(order.tax),
        "subtotalPrice": _price(order.total - order.tax),
    }


def _line_item(line):
    product = line.product
    return {
        "productSnapshot": {
            "name": product.name,
            "barcode": product.barcode,
            "sku": product.sku,
            "price": _price(product.price),
        },
        "quantity": line.quantity,
        "status": line.status,
        "isExternallyAdded": line.externally_added,
    }


def _product_entry(line):
    """Return the line in the flat form that some deployments answer as `products`."""
    product = line.product
    return {
        "name": product.name,
        "price": _price(product.price),
        "barcode": product.barcode,
        "sku": product.sku,
        "thumbnail": f"https://images.example.com/{product.barcode}.png",
        "quantity": line.quantity,
    }


def _with_taxes(entry, line):
    percent = line.product.tax_percent
    tax = {"name": f"VAT {percent} %", "rate": f"{percent / 100:.2f}", "amount": _price(line.tax)}
    return {**entry, "taxRates": [tax]}


def _session(order):
    return {
        "sessionId": order.session_id,
        "customerFirstEnteredAt": _iso(order.entered_at),
        "customerLastExitedAt": _iso(order.exited_at),
        "visitors": order.visitors,
    }


def _summary(order):
    """Return an order as lists without products show it."""
    return {
        "id": order.id,
        "version": order.version,
        "isLatest": True,
        "status": order.status,
        "storeId": order.store_id,
        # AiFi has been seen to write it either way.
        "customerId": str(order.customer_id) if order.id % 2 else order.customer_id,
        "sessionId": order.session_id,
        "externalId": order.external_id,
        **_prices(order),
        "draftCreatedAt": _iso(order.drafted_at),
        "createdAt": _iso(order.drafted_at - CREATED_BEFORE_DRAFT_MS),
        "updatedAt": _iso(order.updated_at),
        "completedAt": _iso(order.completed_at),
        "paidAt": _iso(order.paid_at),
        "transaction": {
            "paymentTransactionId": f"tx_{order.id}" if order.paid_at else None,
            "refunded": order.refunded,
            "paymentFailed": order.payment_status == "failure",
        },
    }


def _customer_json(customer):
    return {
        "id": customer.id,
        "externalId": customer.external_id,
        "role": customer.role,
        "metadata": customer.metadata or {},
        "email": customer.email,
        "firstName": customer.first_name,
        "lastName": customer.last_name,
        "phone": customer.phone,
    }


# ── Faults ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Fault:
    kind: str
    left: int | None
    path: str | None
    details: dict


def _status_fault(_sandbox, _response, code=503, retry_after=None):
    error = AifiError(code, "E_INJECTED", f"Answered {code} on request of a test")
    return Response(
        json.dumps(error.body),
        code,
        {} if retry_after is None else {"Retry-After": str(retry_after)},
        content_type="application/json",
    )


def _reset_fault(_sandbox, _response):
    connection = request.environ["werkzeug.socket"]

    def answer():
        # Lingering for no time at all makes the kernel send RST instead of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())
        raise ConnectionResetError("reset on request of a test")
        yield b""

    return Response(answer())


def _hang_fault(_sandbox, response, seconds=3600.0):
    """Change nothing: the wait is over before the answer is made, see `_enter`."""
    return response


def _trickle_fault(sandbox, response, interval=0.1):
    body, stopping = response.get_data(), sandbox.stopping

    def answer():
        for place in range(len(body)):
            if place and stopping.wait(interval):
                raise ConnectionAbortedError("the sandbox stops")
            yield body[place : place + 1]

    return Response(answer(), response.status_code, response.headers)


def _html_fault(_sandbox, _response):
    page = "<!doctype html><html><head><title>Maintenance</title></head><body><h1>Back soon</h1></body></html>"
    return Response(page, 200, content_type="text/html; charset=utf-8")


def _truncated_fault(_sandbox, response):
    body = response.get_data()
    response.set_data(body[: len(body) // 2])
    return response


def _no_data_fault(_sandbox, response):
    answer = response.get_json()
    answer.pop("data", None)
    response.set_data(json.dumps(answer))
    return response


def _damaged_order_fault(_sandbox, response):
    answer = response.get_json()
    rows = answer.get("data", [answer])
    if rows:
        rows[len(rows) // 2].pop("id", None)
    response.set_data(json.dumps(answer))
    return response


def _huge_fault(sandbox, _response, size=100_000_000):
    """Return valid JSON of `size` bytes, nearly all of it in one field."""
    start, end, chunk, stopping = b'{"data": [], "padding": "', b'"}', b"x" * 65536, sandbox.stopping

    def answer():
        yield start
        left = size - len(start) - len(end)
        while left > 0 and not stopping.is_set():
            yield chunk[:left]
            left -= len(chunk)
        yield end

    return Response(answer(), 200, {"Content-Length": str(size)}, content_type="application/json")


FAULTS = {
    "status": _status_fault,
    "reset": _reset_fault,
    "hang": _hang_fault,
    "trickle": _trickle_fault,
    "html": _html_fault,
    "truncated": _truncated_fault,
    "no_data": _no_data_fault,
    "damaged_order": _damaged_order_fault,
    "huge": _huge_fault,
}


# ── The sandbox ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Sandbox:
    """AiFi, its shops, and the line to it. All methods may be called from any thread."""

    def __init__(
        self,
        *,
        seed: int = 1,
        stores: Iterable[int] = (1, 2),
        updated_filter: str = "honoured",
        updated_at_shown: bool = True,
        first_page: int = 0,
        page_zero: str = "as_one",
        page_limit: int = 200,
        latency_seconds: float = 0.0,
        rate_limit: int | None = 20,
        access_token: str | None = "sandbox-token",
        client_id: str = "sandbox-client",
        client_secret: str = "sandbox-secret",
        token_seconds: float = 300,
        required_scope: str | None = None,
        clock_offset_seconds: float = 0.0,
        list_lag_seconds: float = 0.0,
        line_items_as: str = "lineItems",
        webhook_url: str | None = None,
        webhook_secret: str = "sandbox-webhook-secret",
    ):
        """
        :param updated_filter: what min/maxUpdatedAt do: "honoured", "ignored", or "refused" (400)
        :param updated_at_shown: False: orders carry no `updatedAt`
        :param page_zero: with `first_page=1`, what page=0 is: "as_one", "refused" (400), or "empty"
        :param page_limit: a larger pageSize is taken for this
        :param rate_limit: requests that any second may hold, of all clients together; None: no limit
        :param access_token: the token that never expires; None: there is none
        :param required_scope: without this scope the token endpoint answers 400
        :param clock_offset_seconds: how far the sandbox's clock is ahead of the true time
        :param list_lag_seconds: lists show a change only this long after it; details show it at once
        :param line_items_as: "lineItems", or "products" for the flat form
        """
        _check_choice("updated_filter", updated_filter, ("honoured", "ignored", "refused"))
        _check_choice("page_zero", page_zero, ("as_one", "refused", "empty"))
        _check_choice("line_items_as", line_items_as, ("lineItems", "products"))
        self.stores = tuple(stores)
        self.updated_filter = updated_filter
        self.updated_at_shown = updated_at_shown
        self.first_page = first_page
        self.page_zero = page_zero
        self.page_limit = page_limit
        self.latency_seconds = latency_seconds
        self.rate_limit = rate_limit
        self.access_token = access_token
        self.client_id = client_id
        self.client_secret = client_secret
        self.token_seconds = token_seconds
        self.required_scope = required_scope
        self.clock_offset_seconds = clock_offset_seconds
        self.list_lag_seconds = list_lag_seconds
        self.line_items_as = line_items_as
        self.webhook_url = webhook_url
        self.webhook_secret = webhook_secret
        self.pushes = False
        self.deliveries = []
        self.refused_by_rate = []
        self.tokens_issued = 0
        self.stopping = threading.Event()
        self.port = None

        self._lock = threading.RLock()
        self._dice = random.Random(seed)
        self._life_dice = random.Random(f"life {seed}")
        self.products = _make_products()
        self.customers = _make_customers(self._dice)
        self._orders = {}
        self._listing = _Listing()
        self._unlisted = collections.deque()
        self._next_id = 1001
        self._requests = {}
        self._request_numbers = itertools.count()
        self._arrivals = collections.deque()
        self._faults = []
        self._tokens = {}
        self._revoked = set()
        self._outbox = queue.SimpleQueue()
        self._lives = False
        self._threads = []
        self._server = None
        self._app = _make_app(self)

    # Serving

    def start(self, port: int = 0) -> "Sandbox":
        """Serve on 127.0.0.1, on the port of the last time if there was one; return the sandbox."""
        self.stopping = threading.Event()
        self._server = make_server("127.0.0.1", port or self.port or 0, self._app, True, request_handler=_Handler)
        self._server.connections = set()
        self._server.stopping = self.stopping
        self.port = self._server.server_port
        self._spawn(self._server.serve_forever, 0.02)
        return self

    def stop(self) -> None:
        """Refuse connections from now on, close those that are open, and end the sandbox's life."""
        self.stopping.set()
        self._lives = False
        server, self._server = self._server, None
        if server:
            server.shutdown()
            server.server_close()
            for connection in list(server.connections):
                _close(connection)
        threads, self._threads = self._threads, []
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(PUSH_TIMEOUT_SECONDS)

    def __enter__(self):
        return self if self._server else self.start()

    def __exit__(self, *_):
        self.stop()

    @property
    def root_url(self) -> str:
        if self.port is None:
            raise RuntimeError("The sandbox has no address before start().")
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return self.root_url + BASE_PATH

    @property
    def token_url(self) -> str:
        return self.root_url + TOKEN_PATH

    def _spawn(self, target, *args):
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    # What came in

    @property
    def requests(self) -> list[Request]:
        """The requests so far, as `Request`, in the order in which they came in; token requests too."""
        with self._lock:
            return list(self._requests.values())

    def forget_requests(self) -> None:
        """Empty `requests`; `refused_by_rate` keeps what it has."""
        with self._lock:
            self._requests.clear()

    def note_request(self, method: str, path: str, args: dict) -> int:
        """Write a request down; return the number by which `note_answer` completes it."""
        with self._lock:
            number = next(self._request_numbers)
            self._requests[number] = Request(time.monotonic(), method, path, args)
            return number

    def note_answer(self, number: int, status: int | None) -> None:
        with self._lock:
            if number in self._requests:
                self._requests[number] = replace(self._requests[number], status=status)

    def admit(self, number: int) -> None:
        """Raise AiFi's 503 if the last second already held as many requests as it may."""
        with self._lock:
            now = time.monotonic()
            while self._arrivals and self._arrivals[0] <= now - 1:
                self._arrivals.popleft()
            if self.rate_limit is None or len(self._arrivals) < self.rate_limit:
                self._arrivals.append(now)
                return
            if number in self._requests:
                self.refused_by_rate.append(replace(self._requests[number], status=503))
        raise AifiError(503, "E_TOO_MANY_REQUESTS", f"No more than {self.rate_limit} requests a second")

    # Tokens

    def issue_token(self, form: Mapping) -> tuple[dict, int]:
        """Answer a client credentials request: (JSON, status)."""
        if form.get("grant_type") != "client_credentials":
            return {"error": "unsupported_grant_type"}, 400
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            return {"error": "invalid_client", "error_description": "Invalid client or Invalid client credentials"}, 401
        if self.required_scope and self.required_scope not in form.get("scope", "").split():
            return {"error": "invalid_scope", "error_description": "Invalid scopes"}, 400
        token = uuid.uuid4().hex
        with self._lock:
            self.tokens_issued += 1
            self._tokens[token] = time.monotonic() + self.token_seconds
        return {"access_token": token, "expires_in": self.token_seconds, "token_type": "Bearer"}, 200

    def check_token(self, header: str) -> None:
        """Raise AiFi's 401 unless the Authorization header carries a token that holds."""
        kind, _, token = header.partition(" ")
        with self._lock:
            known = token == self.access_token or self._tokens.get(token, 0) > time.monotonic()
            if kind.lower() != "bearer" or not token or not known or token in self._revoked:
                raise AifiError(401, "E_UNAUTHORIZED_ACCESS", "Unauthorized access")

    def revoke_tokens(self, static: bool = False) -> None:
        """Refuse every token handed out so far; with `static` the one that never expires, too."""
        with self._lock:
            self._revoked.update(self._tokens)
            if static:
                self._revoked.add(self.access_token)

    def restore_tokens(self) -> None:
        """Accept the revoked tokens again (those that have not expired meanwhile)."""
        with self._lock:
            self._revoked.clear()

    # Faults

    def inject(self, kind: str, times: int | None = 1, path: str | None = None, **details: Any) -> None:
        """Let the next `times` requests suffer (None: all until `heal`), if given only those whose path starts so.

        A request counts once it has passed the rate limit and the check of its token; token requests count too.
        Kinds and their details:

        - status: `code`=503, `retry_after`=None (text or seconds)
        - reset: the connection is reset without an answer
        - hang: the answer is made after `seconds`=3600, or never if the sandbox stops before
        - trickle: a byte every `interval`=0.1 seconds
        - html: 200 with a page of HTML
        - truncated: the first half of the JSON, with headers that fit
        - no_data: a list without `data`
        - damaged_order: one order in the middle of the list, or the order itself, lacks its id
        - huge: a body of `size`=100,000,000 bytes
        """
        _check_choice("kind", kind, FAULTS)
        with self._lock:
            self._faults.append(_Fault(kind, times, path, details))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def next_fault(self, path: str) -> _Fault | None:
        """Return the fault that a request for this path suffers, or None."""
        with self._lock:
            for fault in self._faults:
                if fault.path is None or path.startswith(fault.path):
                    if fault.left is not None:
                        fault.left -= 1
                        if fault.left <= 0:
                            self._faults.remove(fault)
                    return fault
        return None

    # What happens in the shops

    def now(self) -> float:
        """The time by the sandbox's clock, in seconds since 1970."""
        return time.time() + self.clock_offset_seconds

    def _moment(self, at):
        return round(_milliseconds(self.now() if at is None else at))

    def seed_orders(self, count: int, days: float = 7.0, settled: bool = True) -> list[int]:
        """Add the orders of the last `days`, ids rising with the draft; return their ids.

        Nearly all are paid within minutes to an hour after the draft, a few percent are contested and mostly reviewed
        later. With `settled` False one in ten has stayed open: draft, completed so far, or awaiting payment.
        """
        with self._lock:
            now = self._moment(None)
            orders = []
            for drafted_at in _draft_times(self._dice, count, now, days):
                order = self._new_order(drafted_at)
                leave_open = not settled and self._dice.random() < 0.1
                orders.append((self._opened if leave_open else self._settled)(order, now))
            self._orders.update((order.id, order) for order in orders)
            self._listing.add_all(orders)
            return [order.id for order in orders]

    def _new_order(self, drafted_at, store=None, customer_id=None, lines=None):
        """Return a draft with whatever is not given drawn at random; take the next id for it."""
        dice, order_id = self._dice, self._next_id
        self._next_id += 1
        customer_id = dice.choice(list(self.customers)) if customer_id is None else customer_id
        lines = self._random_lines() if lines is None else tuple(itertools.starmap(self._line, lines))
        exited_at = drafted_at - dice.randrange(1_000, 20_000)
        total, tax = _sums(lines)
        return Order(
            id=order_id,
            store_id=dice.choice(self.stores) if store is None else store,
            customer_id=customer_id,
            role=self.customers[customer_id].role,
            session_id=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            entered_at=exited_at - dice.randrange(45_000, 20 * MINUTE_MS),
            exited_at=exited_at,
            visitors=dice.choice((1, 1, 1, 1, 2, 2, 3)),
            lines=lines,
            total=total,
            tax=tax,
            drafted_at=drafted_at,
            updated_at=drafted_at,
            external_id=f"R-{order_id:07d}" if dice.random() < 0.6 else None,
        )

    def _random_lines(self):
        dice = self._dice
        products = dice.sample(self.products, dice.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 7)))
        return tuple(
            Line(product, dice.choice((1, 1, 1, 1, 2, 3)), externally_added=dice.random() < 0.02)
            for product in products
        )

    def _line(self, product, quantity=1):
        """Return the line for a `Product`, or for the name of one in the catalogue."""
        if isinstance(product, str):
            product = next(known for known in self.products if known.name == product)
        return Line(product, quantity)

    def _settled(self, order, now):
        """Return what becomes of a draft in the end, as far as it is known now."""
        dice = self._dice
        completed_at = min(now, order.drafted_at + dice.randrange(20_000, dice.choice((5, 5, 15, 55)) * MINUTE_MS))
        order = order.completed(completed_at)
        paid_at = min(now, completed_at + dice.randrange(2_000, 4 * MINUTE_MS))
        if dice.random() < 0.01:
            return order.unpaid(paid_at)
        order = order.paid(paid_at)
        contested_at = paid_at + dice.randrange(HOUR_MS, 2 * DAY_MS)
        if dice.random() > 0.03 or contested_at > now:
            return order
        reviewed_at = contested_at + dice.randrange(HOUR_MS, DAY_MS)
        order = order.contested(contested_at)
        return order if reviewed_at > now else order.reviewed(reviewed_at, refunded=dice.random() < 0.7)

    def _opened(self, order, now):
        at = min(now, order.drafted_at + self._dice.randrange(20_000, 10 * MINUTE_MS))
        status = self._dice.choice(("draft", "completed_so_far", "paymentProcessing"))
        if status == "paymentProcessing":
            return order.completed(at)
        return order._replace(status=status, updated_at=order.updated_at if status == "draft" else at)

    def checkout(
        self,
        store: int | None = None,
        customer: int | None = None,
        lines: Iterable[tuple] | None = None,
        drafted_at: Moment | None = None,
        at: Moment | None = None,
    ) -> int:
        """Let a shopper leave with a draft order; return its id.

        :param customer: the id of one of `customers`
        :param lines: [(product, quantity), …], each product a `Product` or the name of one in the catalogue
        :param drafted_at: the date of the draft, by default now; `updatedAt` is `at`, by default now
        """
        with self._lock:
            changed_at = self._moment(at)
            drafted = changed_at if drafted_at is None else self._moment(drafted_at)
            order = self._new_order(drafted, store, customer, lines)._replace(updated_at=changed_at)
            self._keep(order)
        self._announce(order)
        return order.id

    def complete(self, order_id: int, at: Moment | None = None) -> dict:
        """The cart is final and awaits its payment."""
        return self._change(order_id, at, Order.completed, announced=True)

    def pay(self, order_id: int, at: Moment | None = None) -> dict:
        return self._change(order_id, at, Order.paid)

    def fail_payment(self, order_id: int, at: Moment | None = None) -> dict:
        return self._change(order_id, at, Order.unpaid)

    def contest(self, order_id: int, at: Moment | None = None) -> dict:
        """The shopper disputes the order: a new version."""
        return self._change(order_id, at, Order.contested)

    def review(self, order_id: int, refunded: bool = True, at: Moment | None = None) -> dict:
        """The dispute is settled; a refund takes the last line back."""
        return self._change(order_id, at, lambda order, at: order.reviewed(at, refunded), announced=True)

    def correct_price(self, order_id: int, total: str | float, at: Moment | None = None) -> dict:
        """Charge another total, given as in "2.15"; the lines stay as they are."""
        cents = round(Decimal(str(total)) * 100)
        return self._change(order_id, at, lambda order, at: order.corrected(at, cents))

    def set_external_id(self, order_id: int, text: str | None, at: Moment | None = None) -> dict:
        return self._change(order_id, at, lambda order, at: order._replace(external_id=text, updated_at=at))

    def touch(self, order_id: int, at: Moment | None = None) -> dict:
        """Move `updatedAt` and nothing else."""
        return self._change(order_id, at, lambda order, at: order._replace(updated_at=at))

    def _change(self, order_id, at, change, announced=False):
        """Put `change(order, at)` in the order's place; return it as a detail answer shows it."""
        with self._lock:
            order = change(self._orders[order_id], self._moment(at))
            self._keep(order)
        if announced:
            self._announce(order)
        return self.detail(order)

    def _keep(self, order):
        self._orders[order.id] = order
        self._unlisted.append((time.monotonic() + self.list_lag_seconds, order))

    # What AiFi answers

    def order(self, order_id: int) -> dict:
        """Return an order as `GET /orders/{id}` answers it; KeyError if there is none."""
        return self.detail(self._orders[order_id])

    def order_ids(self) -> list[int]:
        with self._lock:
            return sorted(self._orders)

    def session_of(self, order_id: int) -> str:
        """Return the id of the order's session."""
        return self._orders[order_id].session_id

    def orders_page(self, query: _Query) -> list[Order]:
        """Return the orders of a list's page as lists show them by now."""
        with self._lock:
            now = time.monotonic()
            while self._unlisted and self._unlisted[0][0] <= now:
                self._listing.put(self._unlisted.popleft()[1])
            return self._listing.page(query)

    def summary(self, order: Order) -> dict:
        shown = _summary(order)
        if not self.updated_at_shown:
            del shown["updatedAt"]
        return shown

    def lines(self, order: Order, taxes: bool = False) -> dict:
        """Return the line items under the name and in the form that this deployment has for them."""
        form = _line_item if self.line_items_as == "lineItems" else _product_entry
        entries = [_with_taxes(form(line), line) if taxes else form(line) for line in order.lines]
        return {self.line_items_as: entries}

    def detail(self, order: Order) -> dict:
        payment = {
            "paymentTransactionId": f"tx_{order.id}" if order.paid_at else None,
            "refunded": order.refunded,
            "paymentStatus": order.payment_status,
        }
        return {
            **self.summary(order),
            **self.lines(order, taxes=True),
            "session": _session(order),
            "paymentTransaction": payment,
        }

    # Webhooks

    def webhook(
        self,
        order_id: int,
        status: str | None = None,
        with_order_id: bool = True,
        session_at: str = "nested",
        time_of_issue: Moment | None = None,
    ) -> dict:
        """Return the checkout webhook of the order's present state.

        :param status: draft, completed or reviewed instead of what fits the order
        :param session_at: "nested": the session's id and times in `session`; "top": at the top level
        :param time_of_issue: by default now
        """
        _check_choice("session_at", session_at, ("nested", "top"))
        order = self._orders[order_id]
        return self._checkout_webhook(order, status, with_order_id, session_at, time_of_issue)

    def _checkout_webhook(self, order, status=None, with_order_id=True, session_at="nested", time_of_issue=None):
        fitting = {"draft": "draft", "reviewed": "reviewed"}.get(order.status, "completed")
        status = status or fitting
        session = {key: value for key, value in _session(order).items() if key != "visitors"}
        customer = self.customers[order.customer_id]
        completed_at = order.completed_at if status == "completed" else None
        return {
            **({"orderId": order.id} if with_order_id else {}),
            **(session if session_at == "top" else {"session": {**session, "customerId": order.customer_id}}),
            "customer": {
                "id": customer.id,
                "externalId": customer.external_id,
                "role": customer.role,
                "metadata": customer.metadata or {},
            },
            "storeId": order.store_id,
            "storeExternalId": f"store-{order.store_id}",
            "timeOfOrigin": _iso(completed_at or order.drafted_at),
            "timeOfIssue": _iso(self._moment(time_of_issue)),
            "status": status,
            "cart": [_line_item(line) for line in order.lines],
            **_prices(order),
            "payment": {
                "status": "processing" if status == "draft" else order.payment_status,
                "paymentProvider": "sandbox-pay",
            },
            "pushAttempt": {"note": "a field that nobody knows"},
        }

    def customer_webhook(self, customer_id: int) -> dict:
        """Return the webhook for a customer who was created or updated."""
        customer, now = self.customers[customer_id], _iso(self._moment(None))
        return {
            "customer": {"id": customer.id, "externalId": customer.external_id, "role": customer.role},
            "customerPersonalInfo": {
                "email": customer.email,
                "firstName": customer.first_name,
                "lastName": customer.last_name,
                "phone": customer.phone,
                "phoneNumber": customer.phone,
            },
            "timeOfOrigin": now,
            "timeOfIssue": now,
        }

    def change_customer(self, customer_id: int, **changes: Any) -> None:
        """Change fields of a `Customer`, such as first_name."""
        with self._lock:
            self.customers[customer_id] = self.customers[customer_id]._replace(**changes)

    def push(self, body: Any) -> "requests.Response":
        """POST a webhook to `webhook_url`, do what the answer says about the payment, and return the answer.

        Raises requests.RequestException where no answer came.
        """
        headers = {"Authorization": f"Bearer {self.webhook_secret}"}
        with requests.Session() as session:
            # Past any proxy of the developer's machine.
            session.trust_env = False
            answer = session.post(self.webhook_url, json=body, headers=headers, timeout=PUSH_TIMEOUT_SECONDS)
        if answer.ok and isinstance(body, dict) and body.get("status") == "completed":
            self._heed(answer, body.get("orderId"))
        return answer

    def _heed(self, answer, order_id):
        """Act on the answer to a completed order's webhook, as AiFi does for payments handled by the retailer."""
        try:
            reply = answer.json()
        except ValueError:
            return
        if not isinstance(reply, dict) or order_id not in self._orders:
            return
        if reply.get("externalId"):
            self.set_external_id(order_id, str(reply["externalId"]))
        if reply.get("paymentStatus") == "success":
            self.pay(order_id)
        elif reply.get("paymentStatus") == "failure":
            self.fail_payment(order_id)

    def _announce(self, order):
        """Push the order's webhook if `pushes` is set: at once, or by another thread while the sandbox lives."""
        if not (self.pushes and self.webhook_url):
            return
        body = self._checkout_webhook(order)
        if self._lives:
            self._outbox.put(body)
        else:
            self._deliver(body)

    def _deliver(self, body):
        """Push and write down what came of it; a receiver that is down does not stop AiFi."""
        try:
            self.deliveries.append(Delivery(body, status=self.push(body).status_code))
        except requests.RequestException as error:
            self.deliveries.append(Delivery(body, error=str(error)))

    # Life

    def live(self, every_seconds: float = 4.0) -> None:
        """Let checkouts, payments, contests and reviews happen by themselves until `stop`."""
        self._lives = True
        self._spawn(self._live, every_seconds, self.stopping)
        self._spawn(self._serve_outbox, self.stopping)

    def _serve_outbox(self, stopping):
        while not stopping.is_set():
            try:
                self._deliver(self._outbox.get(timeout=0.1))
            except queue.Empty:
                continue

    def _live(self, every_seconds, stopping):
        with self._lock:
            in_play = [order.id for order in self._orders.values() if order.status in OPEN_STATUSES]
            settled = collections.deque(sorted(self._orders)[-200:], maxlen=200)
        dice = self._life_dice
        while not stopping.wait(every_seconds * dice.uniform(0.5, 1.5)):
            in_play.append(self.checkout())
            if settled and dice.random() < 0.1:
                in_play.extend(self._dispute(dice.choice(settled)))
            for order_id in list(in_play):
                if dice.random() < 0.4 and not self._move_on(order_id):
                    in_play.remove(order_id)
                    settled.append(order_id)

    def _dispute(self, order_id):
        """Contest a paid order; return the ids of the orders that this puts into play."""
        if self._orders[order_id].status != "paid":
            return []
        self.contest(order_id)
        return [order_id]

    def _move_on(self, order_id):
        """Take an order one step further; return whether it is still open."""
        status = self._orders[order_id].status
        if status in ("draft", "completed_so_far"):
            self.complete(order_id)
        elif status == "paymentProcessing":
            (self.fail_payment if self._life_dice.random() < 0.04 else self.pay)(order_id)
        elif status == "contested":
            self.review(order_id, refunded=self._life_dice.random() < 0.7)
        return self._orders[order_id].status in OPEN_STATUSES


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(choices)}")


# ── HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _make_app(sandbox):
    app = Flask("sandbox")
    app.json.sort_keys = False
    app.before_request(lambda: _enter(sandbox))
    app.after_request(lambda response: _leave(sandbox, response))
    app.register_error_handler(AifiError, lambda error: (error.body, error.status))
    app.register_error_handler(HTTPException, _http_error)
    app.add_url_rule(f"{BASE_PATH}/orders", view_func=lambda: _list_orders(sandbox), endpoint="list_orders")
    app.add_url_rule(
        f"{BASE_PATH}/orders/<order_id>", view_func=lambda order_id: _get_order(sandbox, order_id), endpoint="get_order"
    )
    app.add_url_rule(f"{BASE_PATH}/customers", view_func=lambda: _list_customers(sandbox), endpoint="list_customers")
    app.add_url_rule(
        f"{BASE_PATH}/customers/<customer_id>",
        view_func=lambda customer_id: _get_customer(sandbox, customer_id),
        endpoint="get_customer",
    )
    app.add_url_rule(
        TOKEN_PATH, view_func=lambda: sandbox.issue_token(request.form), endpoint="token", methods=["POST"]
    )
    app.add_url_rule("/sandbox/checkouts", view_func=lambda: _check_out(sandbox), endpoint="checkout", methods=["POST"])
    return app


def _enter(sandbox):
    """What every request passes on its way in: the record, the limit, the line, the token, the faults."""
    if request.path.startswith("/sandbox/"):
        return
    path = request.path.removeprefix(BASE_PATH)
    g.number = sandbox.note_request(request.method, path, request.args.to_dict(flat=False))
    if request.path.startswith(BASE_PATH):
        sandbox.admit(g.number)
    sandbox.stopping.wait(sandbox.latency_seconds)
    if request.path.startswith(BASE_PATH):
        sandbox.check_token(request.headers.get("Authorization", ""))
    g.fault = sandbox.next_fault(path)
    if g.fault and g.fault.kind == "hang":
        sandbox.stopping.wait(g.fault.details.get("seconds", 3600.0))


def _leave(sandbox, response):
    """What every answer passes on its way out: the fault, the clock, the record."""
    fault = g.get("fault")
    if fault:
        response = FAULTS[fault.kind](sandbox, response, **fault.details)
    response.headers["Date"] = http_date(sandbox.now())
    if "number" in g:
        sandbox.note_answer(g.number, None if fault and fault.kind == "reset" else response.status_code)
    return response


def _http_error(error):
    return AifiError(error.code, f"E_{error.name.upper().replace(' ', '_')}", error.description).body, error.code


def _list_orders(sandbox):
    query, page = _read_query(sandbox, request.args)
    with_products = _one_of(request.args, "includeProducts", "false", ("true", "false", "1", "0")) in ("true", "1")
    orders = sandbox.orders_page(query) if query else []
    rows = [sandbox.summary(order) | (sandbox.lines(order) if with_products else {}) for order in orders]
    return {"data": rows, "page": page}


def _read_query(sandbox, args):
    """Return (query, page number); the query is None where the page is before the first one and stays empty."""
    size = min(_integer(args, "pageSize", DEFAULT_PAGE_SIZE, 1), sandbox.page_limit)
    page = _integer(args, "page", sandbox.first_page, 0)
    if page < sandbox.first_page and sandbox.page_zero == "refused":
        raise _malformed("page", "min", f"{sandbox.first_page} or more")
    if page < sandbox.first_page and sandbox.page_zero == "empty":
        return None, page
    query = _Query(
        order_by=_one_of(args, "orderBy", "id", ("id", "storeId", "totalPrice", "draftCreatedAt")),
        descending=_one_of(args, "direction", "asc", ("asc", "desc")) == "desc",
        offset=max(0, page - sandbox.first_page) * size,
        limit=size,
        ranges=_read_ranges(sandbox, args),
        wanted=_read_wanted(args),
    )
    return query, page


def _read_ranges(sandbox, args):
    """Return {sort key: (low, high)} in milliseconds, both included."""
    bounds = {
        name: (_moment(args, f"min{name}", EVERYTHING[0]), _moment(args, f"max{name}", EVERYTHING[1]))
        for name in ("DraftCreatedAt", "CreatedAt", "UpdatedAt")
    }
    if bounds["UpdatedAt"] != EVERYTHING and sandbox.updated_filter == "refused":
        raise _malformed("minUpdatedAt", "unknown", "left out")
    if sandbox.updated_filter == "ignored":
        bounds["UpdatedAt"] = EVERYTHING
    # An order's creation lies a fixed time before its draft, so both bounds become one range.
    drafts, creations = bounds["DraftCreatedAt"], [bound + CREATED_BEFORE_DRAFT_MS for bound in bounds["CreatedAt"]]
    ranges = {
        "draftCreatedAt": (max(drafts[0], creations[0]), min(drafts[1], creations[1])),
        "updatedAt": bounds["UpdatedAt"],
    }
    return {name: bound for name, bound in ranges.items() if bound != EVERYTHING}


def _read_wanted(args):
    """Return {field of the order: the values that pass} of the filters given."""
    stores, customers = _integer(args, "storeId", None, 0), _integer(args, "customerId", None, 0)
    wanted = {
        "status": _all_of(args, "status", STATUSES),
        "role": _all_of(args, "customerRole", ROLES),
        "session_id": set(args.getlist("sessionId")),
        "external_id": set(args.getlist("externalId")),
        "store_id": set() if stores is None else {stores},
        "customer_id": set() if customers is None else {customers},
    }
    return {name: values for name, values in wanted.items() if values}


def _get_order(sandbox, order_id):
    try:
        return sandbox.order(_path_integer("orderId", order_id))
    except KeyError:
        raise AifiError(404, "E_ROW_NOT_FOUND", "Order not found") from None


def _list_customers(sandbox):
    query, page = _read_query(sandbox, request.args)
    customers = sorted(sandbox.customers.values()) if query else []
    if query and query.descending:
        customers.reverse()
    rows = customers[query.offset : query.offset + query.limit] if query else []
    return {"data": [_customer_json(customer) for customer in rows], "page": page}


def _get_customer(sandbox, customer_id):
    customer = sandbox.customers.get(_path_integer("customerId", customer_id))
    if customer is None:
        raise AifiError(404, "E_ROW_NOT_FOUND", "Customer not found")
    return _customer_json(customer)


def _path_integer(name, text):
    if not _is_natural(text):
        raise _malformed(name, "integer", "an integer")
    return int(text)


def _check_out(sandbox):
    """Let a shopper check out, for a demonstration; no part of AiFi."""
    order_id = sandbox.checkout()
    return {"orderId": order_id}, 201


class _Handler(WSGIRequestHandler):
    """Serves HTTP/1.1 with keep-alive, which werkzeug's own handler does not, and lets answers end in a reset."""

    protocol_version = "HTTP/1.1"
    # An answer's head and body are two packets; without this the second would wait for the client's acknowledgement.
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.connections.add(self.connection)
        if self.server.stopping.is_set():
            _close(self.connection)

    def finish(self):
        self.server.connections.discard(self.connection)
        super().finish()

    def run_wsgi(self):
        # A body that nobody read would be taken for the next request.
        self.close_connection = self.close_connection or self.command != "GET"
        head = []
        try:
            parts = self.server.app(self.make_environ(), lambda status, headers, _=None: head.extend((status, headers)))
            self._write_answer(head, parts)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _write_answer(self, head, parts):
        """Send the head once the first part of the body is there, then part by part."""
        parts = iter(parts)
        first = next(parts, b"")
        if self.server.stopping.is_set():
            raise ConnectionAbortedError("the sandbox stops")
        status, headers = head
        code, _, reason = status.partition(" ")
        self.send_response_only(int(code), reason)
        for name, value in headers:
            self.send_header(name, value)
        if self.close_connection or "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(first)
        for part in parts:
            self.wfile.write(part)

    def log_request(self, code="-", size="-"):
        """Stay silent; `Sandbox.requests` is the record."""


def _close(connection):
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The other side was quicker.
        return


# ── Command line ────────────────────────────────────────────────────────────────────────────────────────────────────


def main():
    """Serve a sandbox until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A sandbox AiFi with lifelike orders.")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--orders", type=int, default=400, help="orders at the start")
    parser.add_argument("--days", type=float, default=3.0, help="days over which they spread")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--live", action="store_true", help="let orders come and change by themselves")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between checkouts, about")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each answer takes")
    parser.add_argument("--updated-filter", default="honoured", help="honoured, ignored or refused")
    parser.add_argument("--webhook-url", help="push webhooks to this URL")
    parser.add_argument("--webhook-secret", default="sandbox-webhook-secret")
    options = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sandbox = Sandbox(
        seed=options.seed,
        latency_seconds=options.latency,
        updated_filter=options.updated_filter,
        webhook_url=options.webhook_url,
        webhook_secret=options.webhook_secret,
    )
    sandbox.pushes = options.webhook_url is not None
    sandbox.seed_orders(options.orders, days=options.days)
    with sandbox.start(options.port):
        if options.live:
            sandbox.live(options.every)
        print(f"Sandbox AiFi with {options.orders} orders at {sandbox.base_url}", flush=True)
        stop.wait()
