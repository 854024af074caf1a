"""AiFi: its API, how its orders, webhooks and customers read as Aide's, and how the mirror is kept like it.

Sources: [G] AiFi's guide "Data Integration: Orders & Webhooks", [R] AiFi's public API reference. What only [R] says, an
older deployment may lack: it is used where it works, and done without where it does not.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import json
import logging
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from store import (
    DAY,
    DETAIL,
    HISTORY,
    HOUR,
    LIST,
    REREAD,
    WEBHOOK,
    FileLost,
    Marks,
    Order,
    Page,
    Snapshot,
    Store,
    StoreError,
    merge,
    shift,
    utc_seconds,
)

log = logging.getLogger("bridge.aifi")

CONNECT_SECONDS, READ_SECONDS, BODY_SECONDS = 3, 15, 30
MAX_ANSWER_BYTES = 64 * 1024 * 1024
RETRIES, BACKOFF_SECONDS, BACKOFF_MAX_SECONDS = 4, 0.25, 10
REQUEST_INTERVAL = 1 / 16  # [G] allows 20 a second; less, as a loaded machine bunches what was to be sent evenly
BACKFILL_INTERVAL = 1 / 19.4
SLOT_WAIT_SECONDS, SLOT_LATE_SECONDS, SLOT_TRIES = 10, 0.02, 3
PAGE_SIZE = 200  # [G] the most
SURELY_LAST = 10  # no server caps its pages below this; a page shorter than the longest seen ends its list
OVERLAP_SECONDS = 300  # for clocks that differ and orders that AiFi shows late
CONTESTED_PAGES = 5
LOOKUPS_PER_REFRESH = 20
READ_AHEAD = 8
REREAD_SECONDS, REREAD_DAYS = HOUR, 3
LEASE_SECONDS, LEASE_RENEWALS = 30, 18
PAUSE_MAX_SECONDS = 10
CUSTOMER_SECONDS = HOUR
MAX_FLIGHTS, FLIGHT_SECONDS = 32, 180
MAX_ORDER_BYTES, FEW_LINES = 64 * 1024, 10  # so few lines of MAX_TEXT a field are never as large
ISO_TIME = r"([12]\d{3}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?\s*(Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)?"
MAX_TEXT = 500
NETWORK_ERRORS = (requests.RequestException, HTTPError, OSError)  # reading a streamed body raises urllib3's own
PRICES = ("totalPrice", "totalTax", "subtotalPrice")
PUSHED = ("draft", "completed", "reviewed")
PAID_BY_PAYMENT = {"success": "paid", "failure": "unpaid", "processing": "paymentProcessing"}


class AifiError(Exception):
    """AiFi did not give what it was asked for; the text says why, for people, and holds no secret.

    `cause` is one of the operator's CAUSES.
    """

    cause = "aifi_unavailable"


class AifiUnavailable(AifiError):
    """AiFi cannot be reached, fails or talks nonsense: asking again later may help."""


class AifiRefused(AifiError):
    """AiFi refuses the request with `status`: asking again will not help."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
        self.cause = "aifi_token_refused" if status in (401, 403) else "aifi_refuses"


class Unreadable(ValueError):
    """An order, customer or webhook is not what AiFi documents; the text says what is wrong."""


# --- the API ---


class Token:
    """AiFi's bearer token: a fixed API key, or OAuth 2.0 client credentials turned into tokens when needed [R]."""

    def __init__(
        self, access_token: str = "", client_id: str = "", client_secret: str = "", url: str = "", scope: str = ""
    ):
        self._fixed = access_token
        self._form = {"client_id": client_id, "client_secret": client_secret, "grant_type": "client_credentials"}
        if scope:
            self._form["scope"] = scope
        self._url = url
        self._lock = threading.Lock()
        self._token, self._renew_at = "", 0.0

    def get(self, send: Callable[..., tuple[int, bytes]]) -> str:
        """Return a token that is good for now; a new one is fetched after nine tenths of the old one's life."""
        if self._fixed:
            return self._fixed
        with self._lock:
            if time.monotonic() >= self._renew_at:
                asked_at = time.monotonic()
                self._token, life_seconds = self._fetch(send)
                self._renew_at = asked_at + 0.9 * life_seconds
            return self._token

    def expire(self, token: str) -> bool:
        """Drop a token that AiFi refused; return whether a new one can be had."""
        with self._lock:
            if token == self._token:
                self._renew_at = 0.0
        return not self._fixed

    def _fetch(self, send: Callable[..., tuple[int, bytes]]) -> tuple[str, float]:
        try:
            status, body = send("POST", self._url, data=self._form)
        except AifiUnavailable as error:
            raise AifiUnavailable(f"AiFi's token server (AIFI_TOKEN_URL): {error}") from None
        if 400 <= status < 500 and status != 429:
            names = "AIFI_CLIENT_ID, AIFI_CLIENT_SECRET or AIFI_TOKEN_URL"
            raise AifiRefused(f"AiFi's token server refuses {names} ({status})", 401)
        answer = _object(_parse_json(status, body))
        token, life_seconds = answer.get("access_token"), _number(answer.get("expires_in"))
        if not isinstance(token, str) or not fits_header(token):
            raise AifiUnavailable("AiFi's token server gave no usable access_token")
        return token, life_seconds or 60.0


class Client:
    """AiFi's Orders API over one HTTP session.

    :param wait_for_slot: called before each attempt; returns the seconds to wait so that the rate limit is kept
    """

    def __init__(
        self,
        base_url: str,
        token: Token,
        store_ids: tuple[str, ...] = (),
        roles: tuple[str, ...] = (),
        wait_for_slot: Callable[[float], float] = lambda interval: 0.0,
    ):
        self.base_url = base_url.rstrip("/")
        self._token = token
        self._filters: dict[str, Any] = {}
        if len(store_ids) == 1:  # [G] takes one; several are filtered here, from the orders
            self._filters["storeId"] = store_ids[0]
        if roles:
            self._filters["customerRole"] = list(roles)
        self.request_interval = REQUEST_INTERVAL
        self._wait_for_slot = wait_for_slot
        self.clock_ahead_seconds: float | None = None  # AiFi's clock less ours, by its last answer's Date
        self._first_page: int | None = None
        self._longest_page = SURELY_LAST
        self._session = requests.Session()
        adapter = HTTPAdapter(max_retries=_PacedRetry(before_attempt=self._pace), pool_maxsize=MAX_FLIGHTS)
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, adapter)

    def pages(self, **filters: Any) -> Iterator[list[Any]]:
        """Yield a list's pages, each as a list of raw orders, until AiFi has no more.

        Page numbers start at 0 [R]; a server that starts at 1 is noticed, or its first page read twice.

        :raises AifiError: also in the middle of the list
        """
        return self._walk(filters, functools.partial(self._page, filters))

    def pages_ahead(self, count: int, **filters: Any) -> Iterator[list[Any]]:
        """Yield what `pages` yields, with up to `count` requests under way at once."""
        ahead: dict[int, concurrent.futures.Future] = {}
        pool = concurrent.futures.ThreadPoolExecutor(count)

        def fetch(number: int) -> list[Any]:
            for later in range(number, number + count):
                if later not in ahead:
                    ahead[later] = pool.submit(self._page, filters, later)
            return ahead.pop(number).result()

        try:
            yield from self._walk(filters, fetch)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def is_last(self, orders: list[Any]) -> bool:
        """Return whether a page ends its list, being shorter than pages can be: no server's limit cut it off."""
        self._longest_page = max(self._longest_page, len(orders))
        return len(orders) < self._longest_page

    def _walk(self, filters: Mapping[str, Any], fetch: Callable[[int], list[Any]]) -> Iterator[list[Any]]:
        orders, seen = self._first(filters), []
        number = self._first_page or 0
        while orders:
            yield orders
            if self.is_last(orders):
                return
            number, seen, repeats = number + 1, orders, orders == seen
            if repeats and number > 2:
                raise AifiUnavailable("AiFi's list repeats the same page")
            orders = fetch(number)

    def try_list(self) -> Any | None:
        """Return the newest raw order, or None where AiFi has none, with a single small request.

        :raises AifiError: AiFi gave no list
        """
        return next(iter(self._first({"pageSize": 1, "orderBy": "draftCreatedAt", "direction": "desc"})), None)

    def get_order(self, order_id: str) -> Any | None:
        """Return the raw details of an order, or None where AiFi knows no such id."""
        return self._get_one(f"/orders/{order_id}")

    def get_customer(self, customer_id: str) -> Any | None:
        """Return a raw customer, or None where AiFi knows no such id."""
        return self._get_one(f"/customers/{customer_id}")

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON that AiFi answers; a token that AiFi refuses is renewed once.

        :raises AifiError: AiFi gave none
        """
        for last_try in (False, True):
            token = self._token.get(self._send)
            status, body = self._send("GET", self.base_url + path, params=params, auth=_Bearer(token))
            if status != 401 or last_try or not self._token.expire(token):
                break
        return _parse_json(status, body)

    def _get_one(self, path: str) -> Any | None:
        try:
            return self.get(path)
        except AifiRefused as error:
            if error.status in (400, 404, 410, 422):
                return None
            raise

    def _first(self, filters: Mapping[str, Any]) -> list[Any]:
        """Return a list's first page, and learn from it what number it has."""
        if self._first_page is not None:
            return self._page(filters, self._first_page)
        refusal = None
        try:
            orders = self._page(filters, 0)
        except AifiRefused as error:
            if error.status != 400:
                raise
            orders, refusal = [], error
        if orders:
            self._first_page = 0
            return orders
        try:
            orders = self._page(filters, 1)
        except AifiRefused as error:
            raise refusal or error from None
        if orders:
            self._first_page = 1
        return orders

    def _page(self, filters: Mapping[str, Any], number: int) -> list[Any]:
        params = {"includeProducts": "true", "pageSize": PAGE_SIZE, "page": number, **self._filters, **filters}
        answer = self.get("/orders", params)
        orders = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(orders, list):
            raise AifiUnavailable("AiFi's list of orders has no data")
        return orders

    def _pace(self) -> None:
        """Wait for a slot; who wakes up late takes another, as late requests would come in a bunch."""
        for _ in range(SLOT_TRIES):
            asked_at, seconds = time.monotonic(), self._wait_for_slot(self.request_interval)
            if seconds > SLOT_WAIT_SECONDS:
                raise AifiUnavailable("too many requests to AiFi are waiting")
            time.sleep(seconds)
            if time.monotonic() - asked_at - seconds < SLOT_LATE_SECONDS:
                return

    def _send(self, method: str, url: str, **options: Any) -> tuple[int, bytes]:
        """Send one request, again where urllib3's Retry says so; return status and body."""
        self._pace()
        options.setdefault("auth", lambda request: request)  # or `requests` looks for a password in ~/.netrc
        try:
            with self._session.request(
                method, url, timeout=(CONNECT_SECONDS, READ_SECONDS), stream=True, allow_redirects=False, **options
            ) as response:
                self.clock_ahead_seconds = _clock_ahead(response.headers.get("Date"))
                return response.status_code, read_body(response, BODY_SECONDS, MAX_ANSWER_BYTES)
        except requests.Timeout:
            raise AifiUnavailable("AiFi does not answer in time") from None
        except NETWORK_ERRORS as error:
            raise AifiUnavailable(f"AiFi cannot be reached ({type(error).__name__})") from None


class _Bearer(requests.auth.AuthBase):
    """Sets the token on each request."""

    def __init__(self, token: str):
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _PacedRetry(Retry):
    """Exponential backoff with jitter, as [G] asks; `before_attempt` is called before each further attempt."""

    def __init__(self, before_attempt: Callable[[], None], **options: Any):
        defaults: dict[str, Any] = {
            "total": RETRIES,
            "backoff_factor": BACKOFF_SECONDS,
            "backoff_jitter": BACKOFF_SECONDS,
            "backoff_max": BACKOFF_MAX_SECONDS,
            "retry_after_max": BACKOFF_MAX_SECONDS,
            "status_forcelist": (429, 500, 502, 503, 504),
            "allowed_methods": None,
            "raise_on_status": False,
        }
        super().__init__(**{**defaults, **options})
        self.before_attempt = before_attempt

    def new(self, **options: Any) -> "_PacedRetry":
        return super().new(before_attempt=self.before_attempt, **options)

    def sleep(self, response: Any = None) -> None:
        super().sleep(response)
        self.before_attempt()


def fits_header(text: str) -> bool:
    """Return whether a token or key can be sent in a header as it is."""
    return re.fullmatch(r"[!-~]+", text) is not None


def read_body(response: requests.Response, seconds: float, limit: int) -> bytes:
    """Read a streamed answer's body within a bound of time and size, however slowly it trickles.

    :raises requests.Timeout: it took longer than `seconds`
    :raises requests.RequestException: it is longer than `limit` bytes, or broke off
    """
    deadline, chunks, size = time.monotonic() + seconds, [], 0
    while chunk := response.raw.read1(65536, decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if time.monotonic() > deadline:
            raise requests.Timeout("the body trickles")
        if size > limit:
            raise requests.RequestException("the body is too large")
    return b"".join(chunks)


def _clock_ahead(date: str | None) -> float | None:
    try:
        return (parsedate_to_datetime(date or "") - datetime.now(timezone.utc)).total_seconds()
    except (ValueError, TypeError):
        return None


def _parse_json(status: int, body: bytes) -> Any:
    """Return the JSON of an answer.

    :raises AifiRefused: a 4xx
    :raises AifiUnavailable: any other status but 200, or no JSON
    """
    if status in (401, 403):
        raise AifiRefused(f"AiFi refuses the access token ({status})", status)
    if status == 429 or status >= 500:
        raise AifiUnavailable(f"AiFi answers {status}")
    if status >= 400:
        raise AifiRefused(f"AiFi refuses the request ({status})", status)
    if status != 200:
        raise AifiUnavailable(f"AiFi answers {status}: is AIFI_BASE_URL right?")
    try:
        return parse_json(body)
    except Unreadable:
        raise AifiUnavailable("AiFi's answer is no JSON") from None


def parse_json(body: bytes) -> Any:
    """Return the JSON in these bytes.

    :raises Unreadable: there is none, or none that can be read
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable("the body is no JSON") from None


# --- translation: pure functions ---


@dataclass(frozen=True)
class Push:
    """A webhook, read: a checkout's `snapshot`, or a `customer` in Aide's fields, or neither (nothing to keep)."""

    kind: str  # "checkout", "customer", "other"
    at: str  # when it was issued
    snapshot: Snapshot | None = None
    customer: Mapping[str, Any] | None = None
    store_id: str | None = None
    role: str | None = None


def is_aifi_id(text: str) -> bool:
    """Return whether this can be the id of an order or customer of AiFi: an integer [R]."""
    return re.fullmatch(r"0|[1-9][0-9]{0,17}", text) is not None


def read_order(data: Any, source: str, currency: str = "") -> Snapshot:
    """Translate an order of the Orders API [G, R].

    :raises Unreadable: it has no id, no time or no total
    """
    if not isinstance(data, dict):
        raise Unreadable("the order is no object")
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
    order = {
        "created_at": created_at,
        "total_amount": total,
        **_known(
            currency=_text(data.get("currency")) or currency or None, session=session or None, line_items=_lines(data)
        ),
        **_present(
            data,
            status=("status", _text),
            customer_id=("customerId", _text),
            external_id=("externalId", _text),
            store_id=("storeId", _text),
            version=("version", _integer),
            subtotal_amount=("subtotalPrice", _number),
            tax_amount=("totalTax", _number),
            completed_at=("completedAt", _time),
            paid_at=("paidAt", _time),
        ),
        **_api_payment(data),
    }
    return Snapshot(
        id=order_id,
        order=order,
        at=_time(data.get("updatedAt")) or max(filter(None, times.values())),
        source=source,
        session_id=session.get("id"),
        version=_integer(data.get("version")),
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
    }
    return {key: value for key, value in fields.items() if value is not None}


def read_push(body: Any, now: str, currency: str = "") -> Push:
    """Translate a webhook [G, R]; `now` stands in for a `timeOfIssue` that is not told.

    :raises Unreadable: it is no webhook of AiFi's, or has a wrong type where it matters
    """
    if not isinstance(body, dict):
        raise Unreadable("the body is no JSON object")
    status, at = body.get("status"), _time(body.get("timeOfIssue")) or now
    if status is None and body.get("customerPersonalInfo") is not None:
        return _read_customer_push(body, at)
    if status is None or (isinstance(status, str) and status not in PUSHED):
        return _read_other_push(body, at)
    _check_checkout(body)
    session = _session(body)
    order_id = _text(body.get("orderId"))
    if not (order_id or session.get("id")):
        return _read_other_push(body, at)
    customer = _object(body.get("customer"))
    push = {"at": at, "store_id": _text(body.get("storeId")), "role": _text(customer.get("role"))}
    if body.get("totalPrice") is None:
        return Push("checkout", **push)
    order = {
        "created_at": _time(body.get("timeOfOrigin")) or session.get("exited_at") or at,
        "status": _pushed_status(body),
        "total_amount": _number(body.get("totalPrice")),
        "currency": _text(body.get("currency")) or currency,
        "customer_id": _text(customer.get("id")) or _text(_object(body.get("session")).get("customerId")),
        "store_id": push["store_id"],
        "subtotal_amount": _number(body.get("subtotalPrice")),
        "tax_amount": _number(body.get("totalTax")),
        "payment": _known(
            status=_text(_object(body.get("payment")).get("status")),
            provider=_text(_object(body.get("payment")).get("paymentProvider")),
        ),
        "session": session,
        "line_items": [_line_item(line) for line in body.get("cart") or []],
    }
    order = {key: value for key, value in order.items() if value not in (None, "", {}, [])}
    if len(order.get("line_items", ())) > FEW_LINES and len(json.dumps(order)) > MAX_ORDER_BYTES:
        raise Unreadable(f"the order is larger than {MAX_ORDER_BYTES // 1024} KiB")
    return Push("checkout", snapshot=Snapshot(order_id, order, at, WEBHOOK, session.get("id")), **push)


def parse_time(text: str) -> str:
    """Translate an ISO 8601 time, UTC where it names no zone, to fixed-width UTC text.

    :raises ValueError: it is none, or of no year that a shop can have had (year 1 stands for "no time" in places)
    """
    match = re.fullmatch(ISO_TIME, text, re.ASCII)
    if match is None:
        raise ValueError(f"no ISO 8601 time: {text[:40]!r}")
    date, clock, fraction, zone = match.groups()
    moment = datetime.fromisoformat(f"{date}T{clock}")
    if zone and zone != "Z":
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
        moment = moment - offset if zone[0] == "+" else moment + offset
    if not 1970 <= moment.year < 2900:
        raise ValueError(f"no time of a shop: {text[:40]!r}")
    return f"{moment.isoformat()}.{(fraction or '')[:3].ljust(3, '0')}Z"


def _read_other_push(body: Mapping[str, Any], at: str) -> Push:
    if body.get("timeOfIssue") is None:
        raise Unreadable("neither a checkout (status, and orderId or sessionId) nor another webhook of AiFi's")
    return Push("other", at)


def _read_customer_push(body: Mapping[str, Any], at: str) -> Push:
    for name in ("customer", "customerPersonalInfo"):
        if not isinstance(body.get(name), dict):
            raise Unreadable(f"{name} is no object")
    customer = read_customer(body["customer"], body["customerPersonalInfo"])
    return Push("customer", at, customer=customer, role=customer.get("role"))


def _check_checkout(body: Mapping[str, Any]) -> None:
    """Refuse wrong types where they matter; what is null counts as absent."""
    session_ids = (body.get("sessionId"), _object(body.get("session")).get("sessionId"))
    rules: list[tuple[str, Any, Callable[[Any], Any]]] = [
        ("orderId is no integer", body.get("orderId"), _is_integer),
        ("status is no text", body.get("status"), lambda value: isinstance(value, str)),
        ("cart is no list of objects", body.get("cart"), _is_list_of_objects),
        *(("sessionId is no short text", value, _is_short_text) for value in session_ids),
        *((f"{name} is no object", body.get(name), _is_object) for name in ("session", "customer", "payment")),
        *((f"{name} is no finite number", body.get(name), _is_number) for name in PRICES),
        *((f"{name} is no ISO 8601 time", body.get(name), _time) for name in ("timeOfIssue", "timeOfOrigin")),
    ]
    for complaint, value, holds in rules:
        if value is not None and not holds(value):
            raise Unreadable(complaint)


def _pushed_status(body: Mapping[str, Any]) -> str:
    """Return the status that an order of this webhook has in the Orders API, as far as the payment tells."""
    if body["status"] != "completed":
        return body["status"]
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
        status=_text(line.get("status")),
        is_externally_added=added if isinstance(added, bool) else None,
    )


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
    """Return text or an integer as text; half of a surrogate pair, which no UTF-8 can carry, becomes `?`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**18 else None
    if not isinstance(value, str) or not value.strip():
        return None
    text = value.strip()[:MAX_TEXT]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


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
    """Return a finite number, from AiFi's decimal strings by way of Decimal."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(Decimal(str(value)))
    except (InvalidOperation, OverflowError, ValueError):
        return None
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


# --- the mirror, kept like AiFi ---


class Flights:
    """Work that goes on when nobody waits for it any longer: a thread a key, shared by all who ask meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, tuple[concurrent.futures.Future, float]] = {}

    def share(self, key: Hashable, work: Callable[[], Any]) -> concurrent.futures.Future:
        """Start the work, unless it is under way already.

        :raises AifiUnavailable: too much is under way
        """
        with self._lock:
            future, started = self._running.get(key, (None, 0.0))
            if future is not None and time.monotonic() - started < FLIGHT_SECONDS:
                return future
            if len(self._running) >= MAX_FLIGHTS:
                raise AifiUnavailable("too many requests to AiFi are under way")
            future = concurrent.futures.Future()
            self._running[key] = (future, time.monotonic())
        threading.Thread(target=self._run, args=(key, future, work), daemon=True, name=f"flight {key}").start()
        return future

    def _run(self, key: Hashable, future: concurrent.futures.Future, work: Callable[[], Any]) -> None:
        try:
            result = work()
        except BaseException as error:
            if not isinstance(error, (AifiError, StoreError, Unreadable, *NETWORK_ERRORS)):
                log.exception("Unexpected error")
            self._land(key, future)
            future.set_exception(error)
        else:
            self._land(key, future)
            future.set_result(result)

    def _land(self, key: Hashable, future: concurrent.futures.Future) -> None:
        with self._lock:
            if self._running.get(key, (None,))[0] is future:
                del self._running[key]


@dataclass(frozen=True)
class Settings:
    """What the mirror needs of the configuration; waits and ages in seconds."""

    refresh_seconds: float = 30
    wait_seconds: float = 3
    store_ids: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    currency: str = ""


@dataclass(frozen=True)
class Receipt:
    """What became of a webhook: `result` is new, changed, no news, filtered or ignored."""

    kind: str
    result: str
    id: str = ""
    status: str = ""

    def __str__(self) -> str:
        words = filter(None, (self.kind, self.id if self.kind == "checkout" else "", self.status))
        return f"{' '.join(words)}, {self.result}"


class Mirror:
    """Keeps the store like AiFi: refreshed when read and stale, deepened when read to its end, fed by webhooks."""

    def __init__(self, client: Client, store: Store, settings: Settings):
        self._client = client
        self._store = store
        self._settings = settings
        self._flights = Flights()
        self._leases: dict[str, str] = {}  # name and holder of what this process holds

    def close(self) -> None:
        """Give back what a refresh under way holds, so that the next process need not wait until it expires."""
        for name, holder in list(self._leases.items()):
            with contextlib.suppress(StoreError):  # then it expires
                self._store.drop_lease(name, holder)

    # --- what Aide asks, and AiFi pushes ---

    def page(self, limit: int, after: tuple[str, str] | None) -> Page:
        """Return a page of orders after (updated_at, id), the first one from a fresh mirror if AiFi answers in time.

        :raises AifiUnavailable: the page would be empty, but not because AiFi said that there is nothing more
        :raises StoreError: the mirror cannot be read
        """
        deadline, asked_at = self._deadline(), self._store.now()

        def is_current(marks: Marks) -> bool:
            return marks.horizon is not None and (after is not None or self._is_fresh(marks, asked_at))

        page = self._store.serve_page(limit, after, may_be_short=False, only_if=is_current)
        if page and (page.summaries or page.ended):
            return page
        begins = after is None or self._store.marks().horizon is None  # the file may have been lost within a walk
        trouble = self._freshen(deadline) if begins else None
        while True:
            page = self._store.serve_page(limit, after, may_be_short=trouble is not None)
            if page is None:
                _, trouble = self._await("history", self.deepen, deadline)
            elif page.summaries or (page.ended and not (trouble and after is None)):
                return page
            else:
                raise _told(trouble or AifiUnavailable("AiFi was not read yet"))

    def order(self, order_id: str) -> Order | None:
        """Return an order, asked of AiFi where the mirror may lack something; None where AiFi knows none.

        :raises AifiUnavailable: the mirror has none and AiFi could not be asked
        """
        row = self._store.get_order(order_id)
        if row and row.detailed and not row.open:
            return row
        known_id = row.id if row else order_id
        if row:
            session_id = row.session_id if row.is_session_only else None
        else:
            session_id = None if is_aifi_id(order_id) else order_id
        work = functools.partial(self._look_up, known_id, session_id)
        found, trouble = self._await(("order", known_id), work, self._deadline())
        if found is None:
            found = self._store.get_order(order_id) or row
        if found is None and trouble:
            raise _told(trouble)
        return found

    def customer(self, customer_id: str) -> dict[str, Any] | None:
        """Return a customer, at most an hour old where AiFi answers; None where neither AiFi nor an order names one.

        :raises AifiUnavailable: the mirror has none and AiFi could not be asked
        """
        known = self._store.get_customer(customer_id)
        if known and known[1] > shift(self._store.now(), -CUSTOMER_SECONDS):
            return known[0]
        trouble = None
        if is_aifi_id(customer_id):
            work = functools.partial(self._look_up_customer, customer_id)
            _, trouble = self._await(("customer", customer_id), work, self._deadline())
            known = self._store.get_customer(customer_id)
        if known:
            return known[0]
        if trouble:
            raise _told(trouble)
        return {"id": customer_id} if self._store.names_customer(customer_id) else None

    def take_push(self, push: Push) -> Receipt:
        """Take in a webhook; when this returns, what is kept of it is on disk.

        :raises StoreError: it could not be kept
        """
        stores, roles = self._settings.store_ids, self._settings.roles
        filtered = bool(roles) and push.role not in roles
        if push.kind == "checkout":
            filtered = filtered or (bool(stores) and push.store_id not in stores)
        if push.customer:
            if not filtered:
                customer_id = push.customer["id"]
                known = self._store.get_customer(customer_id)  # a webhook may name only what changed
                body = {**(known[0] if known else {}), **push.customer}
                self._store.put_customer(customer_id, body, min(push.at, self._store.now()))
            return Receipt("customer", "filtered" if filtered else "kept", push.customer["id"])
        if push.snapshot is None:
            return Receipt(push.kind, "ignored")
        named = push.snapshot.id or push.snapshot.session_id or "", push.snapshot.order["status"]
        if filtered:
            return Receipt(push.kind, "filtered", *named)
        new, changed = self._store.put_orders([push.snapshot])
        return Receipt(push.kind, "new" if new else "changed" if changed else "no news", *named)

    # --- refresh ---

    def try_refresh(self) -> Exception | None:
        """Freshen the mirror within the waiting bound, as a poll does; return what kept it from being fresh."""
        try:
            return self._freshen(self._deadline())
        except StoreError as error:
            return error

    def refresh(self) -> None:
        """Read from AiFi what is new and changed, unless the mirror is fresh; one at a time over all processes.

        :raises AifiError: AiFi failed; it is left alone until the pause after a failure is over
        :raises StoreError: the mirror cannot be written
        """
        asked_at, holder, give_up = self._store.now(), uuid.uuid4().hex, time.monotonic() + 2 * LEASE_SECONDS
        while not self._is_fresh(marks := self._store.marks(), asked_at):
            self._raise_while_pausing(marks)
            with self._lease("refresh", holder) as mine, contextlib.suppress(FileLost):  # then once more
                if mine and not self._is_fresh(marks := self._store.marks(), asked_at):
                    self._try_refresh(marks)
                    return
            if time.monotonic() > give_up:
                raise AifiUnavailable("another refresh takes long")
            time.sleep(0.02)

    def deepen(self) -> int:
        """Read the next older page of orders, and lower the horizon to it; return how many orders it brought.

        Many orders may share the draft time at the horizon, so more than one page may be needed to get below it.
        """
        marks = self._store.marks()
        self._raise_while_pausing(marks)
        if marks.horizon is None:
            raise AifiUnavailable("AiFi was not read yet")
        if marks.complete:
            return 0
        count = 0
        for orders in self._client.pages(**_older_than(marks.horizon)):
            horizon = self._take_older(orders, marks)
            count += len(orders)
            if horizon < marks.horizon:
                return count
        self._store.lower_horizon(marks, None)
        return count

    def backfill(self, until: str) -> Iterator[tuple[int, str]]:
        """Deepen the mirror to drafts of the time `until` with several requests at once, as fast as AiFi allows.

        Yields after each page how many orders it brought and the horizon then; goes on from the horizon when called
        again. Pages are read ahead, so an order that AiFi adds in the middle could push another past us: that happens
        to young orders only, and those are read one page at a time.

        :raises AifiError, StoreError: what was read before is kept
        """
        self._client.request_interval = BACKFILL_INTERVAL
        marks = self._store.marks()
        while marks.horizon and not marks.complete and marks.horizon > until:
            if marks.horizon > shift(self._store.now(), -HOUR):
                yield self.deepen(), (marks := self._store.marks()).horizon
                continue
            with contextlib.closing(self._client.pages_ahead(READ_AHEAD, **_older_than(marks.horizon))) as pages:
                for orders in pages:
                    horizon = self._take_older(orders, marks)
                    yield len(orders), horizon
                    if horizon <= until:
                        return
            self._store.lower_horizon(marks, None)
            marks = self._store.marks()

    def _take_older(self, orders: list[Any], marks: Marks) -> str:
        """Take in a page from below the horizon of `marks`, and lower the horizon to it; return its oldest draft."""
        drafts = [snapshot.order["created_at"] for snapshot in self._take(orders, HISTORY)]
        horizon = min(drafts, default=marks.horizon)
        self._store.lower_horizon(marks, horizon)
        return horizon

    def _freshen(self, deadline: float) -> Exception | None:
        """Wait until the deadline for a fresh mirror; return what kept it from being fresh."""
        marks = self._store.marks()
        if self._is_fresh(marks, self._store.now()):
            return None
        try:
            self._raise_while_pausing(marks)
        except AifiUnavailable as error:
            return error
        return self._await("refresh", self.refresh, deadline)[1]

    def _is_fresh(self, marks: Marks, asked_at: str) -> bool:
        if marks.horizon is None or marks.refreshed_at is None:
            return False
        refreshed = utc_seconds(marks.refreshed_at)
        if refreshed > self._store.clock() + 1:  # by a clock that has been put back since
            return False
        return utc_seconds(asked_at) - refreshed <= self._settings.refresh_seconds

    def _raise_while_pausing(self, marks: Marks) -> None:
        now = self._store.now()
        if marks.retry_at and now < marks.retry_at <= shift(now, PAUSE_MAX_SECONDS):
            raise AifiUnavailable(marks.error or "AiFi failed a moment ago")

    def _try_refresh(self, marks: Marks) -> None:
        """Refresh, and remember the outcome for those who wait in other processes."""
        try:
            self._refresh(marks)
        except FileLost:
            raise
        except (AifiError, StoreError) as error:
            failures, now = marks.failures + 1, self._store.now()
            if marks.failing_since is None:
                log.warning("The mirror cannot be refreshed since %s: %s", now, error)
            self._store.set_marks(
                failures=failures,
                failing_since=marks.failing_since or now,
                retry_at=shift(now, min(2.0 ** (failures - 1), PAUSE_MAX_SECONDS)),
                cause=getattr(error, "cause", "database_unavailable"),
                error=str(error),
            )
            raise
        if marks.failing_since:
            log.info("The mirror is refreshed again, after %d failures since %s", marks.failures, marks.failing_since)

    def _refresh(self, marks: Marks) -> None:
        """Read what is new and what changed; the marks move only when all of it succeeded."""
        started, tally = self._store.now(), _Tally()
        first = marks.horizon is None
        if first:
            values = self._take_newest(started, tally)
            since = min(values["horizon"], shift(started, -HOUR))
        else:
            values = self._take_new(marks, tally)
            # AiFi's own times where it shows any: its clock may be minutes behind.
            since = shift(min(marks.refreshed_at, marks.newest_update or marks.refreshed_at), -OVERLAP_SECONDS)
        knows_filter = self._take_changed(since, marks, tally)
        if not knows_filter:
            self._take_disputes(first, tally)
        if not first:
            self._check_orders(started, knows_filter, tally)
        self._store.set_marks(
            marks.file,
            **values,
            newest_update=max(filter(None, (tally.newest_update, marks.newest_update)), default=None),
            unfiltered_at=None if knows_filter else tally.unfiltered_at or marks.unfiltered_at,
            refreshed_at=started,
            failures=0,
            failing_since=None,
            retry_at=None,
            cause=None,
            error=None,
        )
        log.log(logging.INFO if tally.news else logging.DEBUG, "Refreshed from AiFi: %s", tally)
        if not (knows_filter or first) and (marks.reread_at or "") < shift(started, -REREAD_SECONDS):
            with contextlib.suppress(AifiUnavailable):  # then the next refresh tries
                self._flights.share("reread", self._reread)

    def _take_newest(self, started: str, tally: "_Tally") -> dict[str, Any]:
        """Begin an empty mirror with AiFi's newest page; return the marks that follow from it."""
        orders = next(self._client.pages(orderBy="draftCreatedAt", direction="desc"), [])
        drafts = [snapshot.order["created_at"] for snapshot in self._take(orders, HISTORY, tally)]
        return {
            "begun_at": started,
            "horizon": min(drafts, default=started),
            "newest_draft": max(drafts, default=None),
            "complete": int(self._client.is_last(orders)),
        }

    def _take_new(self, marks: Marks, tally: "_Tally") -> dict[str, Any]:
        """Read the orders drafted since the newest that a list has shown; return the mark of the newest now."""
        newest, since = marks.newest_draft, {}
        if newest:  # which may lie ahead, if AiFi's clock was put back since
            since["minDraftCreatedAt"] = shift(min(newest, self._store.now()), -OVERLAP_SECONDS)
        for orders in self._client.pages(**since, orderBy="draftCreatedAt", direction="asc"):
            drafts = [snapshot.order["created_at"] for snapshot in self._take(orders, LIST, tally)]
            newest = max([*drafts, newest or ""])
        return {"newest_draft": newest}

    def _take_changed(self, since: str, marks: Marks, tally: "_Tally") -> bool:
        """Read the orders changed since then; return whether AiFi knows how to list them.

        A server without `minUpdatedAt` [R] refuses it or ignores it; it is asked again after an hour.
        """
        if marks.unfiltered_at and marks.unfiltered_at > shift(self._store.now(), -REREAD_SECONDS):
            return False
        try:
            for orders in self._client.pages(minUpdatedAt=since, orderBy="draftCreatedAt", direction="asc"):
                if any(_ignores_filter(order, since) for order in orders):
                    break
                self._take(orders, LIST, tally)
            else:
                return True
        except AifiRefused as error:
            if error.status not in (400, 422):
                raise
        tally.unfiltered_at = self._store.now()
        return False

    def _take_disputes(self, first: bool, tally: "_Tally") -> None:
        """Read the contested orders, and the newest reviewed ones until a page brings nothing new."""
        contested = self._client.pages(status="contested", orderBy="draftCreatedAt", direction="asc")
        for orders in itertools.islice(contested, 1 if first else CONTESTED_PAGES):
            self._take(orders, LIST, tally)
        for orders in self._client.pages(status="reviewed", orderBy="draftCreatedAt", direction="desc"):
            before = tally.news
            self._take(orders, LIST, tally)
            if first or tally.news == before:
                return

    def _check_orders(self, started: str, only_pushed: bool, tally: "_Tally") -> None:
        """Look up one by one what the lists cannot show; what fails here is one order's trouble, as the lists came."""
        for row in self._store.orders_to_check(LOOKUPS_PER_REFRESH, started, only_pushed):
            tally.requests += 1
            try:
                self._look_up(row.id, row.session_id if row.is_session_only else None)
            except (AifiError, Unreadable) as error:
                self._store.mark_checked(row.id)
                log.warning("AiFi's order %s cannot be read: %s", row.id, error)
                if isinstance(error, AifiUnavailable):  # it cost its retries: the next refresh goes on behind it
                    return

    def _reread(self) -> None:
        """Read the last days whole, for changes that a server without `minUpdatedAt` shows nowhere else."""
        started, tally = self._store.now(), _Tally()
        with self._lease("reread", uuid.uuid4().hex) as mine:
            if not mine:
                return
            since = shift(started, -REREAD_DAYS * DAY)
            try:
                for orders in self._client.pages(minDraftCreatedAt=since, orderBy="draftCreatedAt", direction="asc"):
                    self._take(orders, REREAD, tally)
                self._store.set_marks(reread_at=started)
            except (AifiError, StoreError) as error:
                log.warning("Reading the last %d days again failed: %s", REREAD_DAYS, error)
            else:
                log.info("Read the last %d days again: %s", REREAD_DAYS, tally)

    # --- one order, one customer ---

    def _look_up(self, order_id: str, session_id: str | None) -> Order | None:
        """Ask AiFi for an order, by its session where no id is known; return it as it stands then.

        :raises AifiError: AiFi did not answer
        :raises Unreadable: AiFi's answer is not this order
        """
        data = self._client.get_order(order_id) if session_id is None else self._find_by_session(session_id)
        if data is None:
            self._store.mark_checked(order_id)
            return None
        snapshot = read_order(data, DETAIL, self._settings.currency)
        if session_id is None and snapshot.id != order_id:
            raise Unreadable(f"AiFi shows order {snapshot.id} for order {order_id}")
        if not self._is_ours(snapshot):
            return None
        if self._settings.roles and self._store.get_order(order_id) is None:
            # An order does not tell its shopper's role: kept, it could enter the list past the filter.
            return merge(None, snapshot, self._store.now(), self._store.marks())
        self._store.put_orders([snapshot])
        return self._store.get_order(snapshot.id)

    def _find_by_session(self, session_id: str) -> Any | None:
        """Return the raw details of a session's order. `sessionId` is only in [R]: it may be ignored."""
        if not re.fullmatch(r"[\w.:-]{1,200}", session_id, re.ASCII):
            return None
        orders = next(self._client.pages(sessionId=session_id), [])
        for order in orders[:SURELY_LAST]:
            order_id = _text(_object(order).get("id")) or ""
            if is_aifi_id(order_id) and _session(order).get("id") in (session_id, None):
                details = self._client.get_order(order_id)
                if _session(_object(details)).get("id") == session_id:
                    return details
        return None

    def _look_up_customer(self, customer_id: str) -> None:
        data = self._client.get_customer(customer_id)
        if data is None:
            self._store.drop_customer(customer_id)
        else:
            self._store.put_customer(customer_id, read_customer(data), self._store.now())

    # --- shared ---

    def _take(self, orders: list[Any], source: str, tally: "_Tally | None" = None) -> list[Snapshot]:
        """Translate a page and store what is ours of it; return all that could be read.

        An order that cannot be read is logged and left out: it must not stop the others.
        """
        snapshots = []
        for order in orders:
            try:
                snapshots.append(read_order(order, source, self._settings.currency))
            except Unreadable as error:
                log.warning("One of AiFi's orders cannot be read: %s", error)
        counts = self._store.put_orders(filter(self._is_ours, snapshots))
        if tally:
            tally.add(*counts, requests=1, newest=max((snapshot.at for snapshot in snapshots), default=None))
        return snapshots

    def _is_ours(self, snapshot: Snapshot) -> bool:
        """Return whether the order passes the store filter; the role filter is AiFi's, orders do not tell roles."""
        stores = self._settings.store_ids
        return not stores or snapshot.order.get("store_id") in (*stores, None)

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.wait_seconds

    def _await(self, key: Hashable, work: Callable[[], Any], deadline: float) -> tuple[Any, Exception | None]:
        """Start or join the work and wait for it until the deadline; return its result, or what kept it from one."""
        try:
            return self._flights.share(key, work).result(timeout=max(0.0, deadline - time.monotonic())), None
        except concurrent.futures.TimeoutError:
            return None, AifiUnavailable("AiFi has not answered yet")
        except (AifiError, StoreError, Unreadable) as error:
            return None, error

    @contextlib.contextmanager
    def _lease(self, name: str, holder: str) -> Iterator[bool]:
        """Hold a lease over all processes, renewed while the work goes on; yield whether it was free."""
        if not self._store.take_lease(name, holder, LEASE_SECONDS):
            yield False
            return
        done = threading.Event()
        threading.Thread(target=self._renew_lease, args=(name, holder, done), daemon=True).start()
        self._leases[name] = holder
        try:
            yield True
        finally:
            done.set()
            self._leases.pop(name, None)
            self._store.drop_lease(name, holder)

    def _renew_lease(self, name: str, holder: str, done: threading.Event) -> None:
        """Renew until done; not for ever, so that work that hangs loses the lease in the end."""
        for _ in range(LEASE_RENEWALS):
            if done.wait(LEASE_SECONDS / 3):
                return
            try:
                self._store.take_lease(name, holder, LEASE_SECONDS)
            except StoreError as error:
                log.warning("The lease of the %s could not be renewed: %s", name, error)


@dataclass
class _Tally:
    """What a refresh brought, for the log and the marks."""

    new: int = 0
    changed: int = 0
    requests: int = 0
    newest_update: str | None = None
    unfiltered_at: str | None = None
    begun: float = field(default_factory=time.monotonic)

    @property
    def news(self) -> int:
        return self.new + self.changed

    def add(self, new: int, changed: int, requests: int = 0, newest: str | None = None) -> None:
        self.new += new
        self.changed += changed
        self.requests += requests
        self.newest_update = max(filter(None, (self.newest_update, newest)), default=None)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.begun
        return f"{self.new} new, {self.changed} changed, {self.requests} requests, {seconds:.2f} s"


def _told(trouble: Exception) -> Exception:
    """Return what Aide is told of a failure: the database's as it is, all else as AiFi's not answering."""
    return trouble if isinstance(trouble, StoreError) else AifiUnavailable(str(trouble))


def _older_than(horizon: str) -> dict[str, str]:
    """Return the filters of a list downwards from the horizon, a millisecond more in case AiFi leaves it out."""
    return {"maxDraftCreatedAt": shift(horizon, 0.001), "orderBy": "draftCreatedAt", "direction": "desc"}


def _ignores_filter(order: Any, since: str) -> bool:
    """Return whether an order in a list by `minUpdatedAt` shows that the server ignored the parameter."""
    return isinstance(order, dict) and (_time(order.get("updatedAt")) or "") < shift(since, -1)
