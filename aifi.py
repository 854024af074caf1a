"""AiFi's API: token, pace, retries, lists and look-ups; its errors.

Sources: [G] AiFi's guide "Data Integration: Orders & Webhooks", [R] AiFi's public API reference. What only [R] says, an
older deployment may lack: it is used where it works, and done without where it does not.
"""

import concurrent.futures
import functools
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.retry import Retry

from errors import BridgeError, Cause
from translation import Unreadable, parse_json

log = logging.getLogger("bridge.aifi")

CONNECT_SECONDS, READ_SECONDS, BODY_SECONDS = 3, 15, 30
MAX_ANSWER_BYTES = 64 * 1024 * 1024
RETRIES, BACKOFF_SECONDS, BACKOFF_MAX_SECONDS = 4, 0.25, 10
REQUEST_INTERVAL = 1 / 16  # [G] allows 20 a second; less, as a loaded machine bunches what was to be sent evenly
BACKFILL_INTERVAL = 1 / 19.4
SLOT_WAIT_SECONDS, SLOT_LATE_SECONDS, SLOT_TRIES = 10, 0.02, 3
PAGE_SIZE = 200  # [G] the most
SURELY_LAST = 10  # no server caps its pages below this; a page shorter than the longest seen ends its list
DEFAULT_LIFE_SECONDS = 60.0
MAX_FLIGHTS, FLIGHT_SECONDS = 32, 180
NETWORK_ERRORS = (requests.RequestException, HTTPError, OSError)  # reading a streamed body raises urllib3's own


class AifiError(BridgeError):
    """AiFi did not give what it was asked for."""

    cause = Cause.AIFI_UNAVAILABLE


class AifiUnavailable(AifiError):
    """AiFi cannot be reached, fails, or its answer makes no sense: asking again later may help."""


class AifiRefused(AifiError):
    """AiFi refuses the request with `status`: asking again will not help."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status
        self.cause = Cause.AIFI_TOKEN_REFUSED if status in (401, 403) else Cause.AIFI_REFUSES


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
        answer = _parse_json(status, body)
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):  # what a header can carry
            raise AifiUnavailable("AiFi's token server gave no usable access_token")
        return token, _life_seconds(answer.get("expires_in"))


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


def _life_seconds(expires_in: Any) -> float:
    """Return how long a token lives; a minute where its server gives no number [R: seconds, often minutes]."""
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError):
        return DEFAULT_LIFE_SECONDS
    return seconds if 0 < seconds < math.inf else DEFAULT_LIFE_SECONDS


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
