"""AiFi's API: token, pace, retries, one way to read a list, look-ups; its errors.

Sources: [G] AiFi's guide "Data Integration: Orders & Webhooks", [R] AiFi's public API reference. What only [R] says, an
older deployment may lack: it is used where it works, and done without where it does not.
"""

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, MaxRetryError
from urllib3.util.retry import Retry

from errors import BridgeError, Cause
from orders import Anchor
from times import DAY, HOUR, MINUTE, shift
from translation import Unreadable, parse_json, read_drafted_at, read_order_id, read_updated_at

log = logging.getLogger("bridge.aifi")


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


class AifiUnreadable(AifiError):
    """AiFi answers with orders, none of which can be read."""

    cause = Cause.AIFI_UNREADABLE


class AifiIncomplete(AifiUnavailable):
    """A list lacks an order that it must show, and nothing explains it."""


class AifiGone(AifiIncomplete):
    """AiFi has deleted all orders from which a list was to be read on."""


UNKNOWN = (404, 410)  # AiFi has no such order or customer
NOT_UNDERSTOOD = (400, 422)  # a parameter, or what cannot be an id


# --- the token ---

TOKEN_SERVER = "AiFi's token server (AIFI_TOKEN_URL)"  # noqa: S105 - its name in messages
DEFAULT_LIFE_SECONDS = 60.0
REFUSAL_SECONDS = 10 * MINUTE  # how long a right that a new token lacks is not asked for with another new one


@dataclass(frozen=True)
class Answer:
    """What a server answered, within all bounds."""

    status: int
    body: bytes
    retry_after: str | None = None


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

    def get(self, send: Callable[..., Answer]) -> str:
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

    def _fetch(self, send: Callable[..., Answer]) -> tuple[str, float]:
        answer = send("POST", self._url, server=TOKEN_SERVER, data=self._form)
        if 400 <= answer.status < 500:
            reason = _oauth_error(answer.body) or answer.status
            names = "AIFI_CLIENT_ID, AIFI_CLIENT_SECRET or AIFI_TOKEN_URL"
            raise AifiRefused(f"AiFi's token server refuses {names} ({reason})", 401)
        fields = _read_json(answer, TOKEN_SERVER)
        token = fields.get("access_token") if isinstance(fields, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):  # what a header can carry
            raise AifiUnavailable("AiFi's token server gave no usable access_token")
        return token, _life_seconds(fields.get("expires_in"))


class _Bearer(requests.auth.AuthBase):
    """Sets the token on each request."""

    def __init__(self, token: str):
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


# --- lists ---

PAGE_SIZE = 200  # [G] the most
FEW_ROWS = 10  # no server is thought to cut its pages below this
ANCHORS = 5  # so many rows of a page are remembered: an order may be deleted before the next page is asked for
MAX_PAGES_OF_ONE_BOUND = 200  # orders of the same draft time, or of the same day where AiFi cuts times to days
WIDENINGS = (1.0, MINUTE, HOUR, DAY, 2 * DAY)  # seconds; AiFi may cut times, read them in another zone, or both
WIDENING_SECONDS = HOUR  # how long what worked is remembered


@dataclass(frozen=True)
class ListPage:
    """A page of a list, newest draft first.

    `orders` are raw, and may repeat some of the page before; `anchors` are the places of its last orders, the last
    first: where the next page must go on. `ended`: there is nothing below. `full`: the server may have cut it off.
    """

    orders: list[Any]
    anchors: tuple[Anchor, ...]
    ended: bool
    full: bool

    @property
    def places(self) -> list[Anchor]:
        """The places of all its orders that have a draft time."""
        return _anchors_of(self.orders)

    @property
    def newest(self) -> Anchor | None:
        """The place of its newest order."""
        return max(self.places, default=None)

    def shows(self, *anchors: Anchor) -> bool:
        """Return whether one of these orders is on the page."""
        return not {anchor.id for anchor in anchors}.isdisjoint(map(read_order_id, self.orders))


@dataclass(frozen=True)
class Pace:
    """How fast and how long a piece of work may ask AiFi: seconds between two requests, and `time.monotonic()`."""

    interval: float = 1 / 16  # [G] allows 20 a second; less, as a loaded machine bunches what was to be sent evenly
    deadline: float = math.inf


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
        if len(store_ids) == 1:  # [G] takes one; several are filtered by the mirror, from the orders
            self._filters["storeId"] = store_ids[0]
        if roles:
            self._filters["customerRole"] = list(roles)
        self._wait_for_slot = wait_for_slot
        self.clock_ahead_seconds: float | None = None  # AiFi's clock less ours, by its last answer's Date
        self._refused_until: dict[str, float] = {}  # by kind of thing: when a new token is worth a try again
        self._widening, self._widening_until = 0.0, 0.0
        self._most_rows = FEW_ROWS  # that a page was seen to have
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=MAX_CONNECTIONS))

    def walk(
        self, after: Sequence[Anchor] = (), witnesses: Sequence[Anchor] = (), pace: Pace = Pace(), **filters: Any
    ) -> Iterator[ListPage]:
        """Yield a list's pages, newest draft first, to its end.

        AiFi's lists move while they are read, may be cut short, or be empty by mistake, so each page must prove that
        nothing lies between it and the one before (see `read_below`), and the whole list that it is one.

        :param after: where to begin, at the top if empty; see `read_below`
        :param witnesses: orders of which the list must show one; where it does not, it is read again from the top
        :raises AifiError: also in the middle of the list
        """
        for widening in self._attempts(witnesses, filters, pace):
            shown = not witnesses
            for page in self._pages(after, widening, pace, filters):
                if not shown and page.shows(*witnesses):
                    shown = True
                    self._remember(widening)  # now: the reader may break off
                yield page
            if shown:
                return

    def read_below(self, anchors: Sequence[Anchor], pace: Pace = Pace(), **filters: Any) -> ListPage:
        """Return the page that begins with an order where an earlier page ended: that proves that nothing lies between.

        :param anchors: the order where it ended, and then the ones before, which serve where AiFi has deleted that one
        :raises AifiIncomplete: none of them comes back, though AiFi has one
        :raises AifiGone: AiFi has deleted them all
        """
        failure: AifiIncomplete = AifiGone("AiFi has deleted the orders from which its list is to be read on")
        # A list shows more than its lower bounds promise, where AiFi reads them in another zone.
        was_shown = {name: value for name, value in filters.items() if not name.startswith("min")}
        for anchor in anchors:
            try:
                for widening in self._attempts([anchor], was_shown, pace):
                    page = self._read_from(anchor, widening, pace, filters)
                    if page is not None:
                        self._remember(widening)
                        return page
            except AifiIncomplete as error:
                failure = error
        raise failure

    def find_orders(self, **filters: Any) -> list[Any]:
        """Return the raw orders that a filter names, at most two; none where AiFi does not know the filter [R]."""
        try:
            orders = self._page(Pace(), {**filters, "pageSize": 3})
        except AifiRefused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise
            return []
        return orders if len(orders) < 3 else []  # so many: it was ignored

    def try_list(self) -> Any | None:
        """Return the newest raw order, or None where AiFi has none, with a single small request."""
        return next(iter(self._page(Pace(), {"pageSize": 1})), None)

    def knows_update_filter(self, now: str, pace: Pace = Pace()) -> bool:
        """Return whether AiFi lists nothing that was updated since the day after tomorrow, as it should."""
        try:
            return not self._page(pace, {"minUpdatedAt": shift(now, 2 * DAY), "pageSize": 1})
        except AifiRefused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise
            return False

    def get_order(self, order_id: str, pace: Pace = Pace()) -> Any | None:
        """Return the raw details of an order, or None where AiFi knows no such id."""
        return self._get_one(f"/orders/{order_id}", pace)

    def get_customer(self, customer_id: str) -> Any | None:
        """Return a raw customer, or None where AiFi knows no such id."""
        return self._get_one(f"/customers/{customer_id}", Pace())

    def get(self, path: str, params: Mapping[str, Any] | None = None, pace: Pace = Pace()) -> Any:
        """Return the JSON that AiFi answers; a token that AiFi refuses is renewed once.

        :raises AifiError: AiFi gave none
        """
        kind = path.split("/")[1]
        for renewed in (False, True):
            token = self._token.get(self._send)
            answer = self._send("GET", self.base_url + path, pace, params=params, auth=_Bearer(token))
            if answer.status != 401:
                self._refused_until.pop(kind, None)
                break
            if renewed:  # a right is lacking, not a good token: others must not be given up for it
                self._refused_until[kind] = time.monotonic() + REFUSAL_SECONDS
            elif time.monotonic() < self._refused_until.get(kind, 0.0) or not self._token.expire(token):
                break
        return _read_json(answer, token=token)

    # --- how lists are read ---

    def _attempts(self, witnesses: Sequence[Anchor], filters: Mapping[str, Any], pace: Pace) -> Iterator[float]:
        """Yield by how many seconds to widen the bounds of time, while a witness that did not come should have come.

        A missing one is a sign: of an answer that is wrong by mistake (so it is asked for again), of an order that was
        deleted (so each is looked up), or of a filter that AiFi cuts or reads in another zone.

        :raises AifiIncomplete: none of this explains it
        """
        widening = self._known_widening()
        yield widening
        yield widening
        kept = next((anchor for anchor in witnesses if self._is_listed(anchor, filters, pace)), None)
        if kept is None:
            return
        yield from (wider for wider in WIDENINGS if wider > widening)
        raise AifiIncomplete(f"AiFi's list of orders lacks order {kept.id}, which it must show")

    def _known_widening(self) -> float:
        return self._widening if time.monotonic() < self._widening_until else 0.0

    def _remember(self, widening: float) -> None:
        if widening > self._known_widening():
            log.warning("AiFi does not keep exactly to times: they are widened by %d s", widening)
            self._widening, self._widening_until = widening, time.monotonic() + WIDENING_SECONDS

    def _is_listed(self, anchor: Anchor, filters: Mapping[str, Any], pace: Pace) -> bool:
        """Return whether AiFi still has the order, and the list should show it as it is now."""
        if anchor.drafted_at and anchor.drafted_at < filters.get("minDraftCreatedAt", ""):
            return False
        order = self.get_order(anchor.id, pace)
        if order is None or filters.get("status") not in (None, order.get("status")):
            return False
        since, updated_at = filters.get("minUpdatedAt"), read_updated_at(order)
        return not (since and updated_at and updated_at < since)

    def _pages(
        self, after: Sequence[Anchor], widening: float, pace: Pace, filters: Mapping[str, Any]
    ) -> Iterator[ListPage]:
        anchors, number = tuple(after), 0
        while True:
            if anchors:
                page = self.read_below(anchors, pace, **filters)
            else:  # at the top, where orders without a draft time may fill whole pages
                orders = self._page(pace, _widened(filters, widening), number)
                page = self._list_page(orders, ended=not orders)
            yield page
            if page.ended:
                return
            if not page.anchors and number >= MAX_PAGES_OF_ONE_BOUND:
                raise AifiUnavailable("AiFi's list of orders has too many without draftCreatedAt")
            anchors, number = page.anchors, number + 1

    def _read_from(self, anchor: Anchor, widening: float, pace: Pace, filters: Mapping[str, Any]) -> ListPage | None:
        """Return the page that holds the anchor and what is below; None where it does not come.

        Mostly that is one request. Only where nothing below the anchor's time fits on a page, as many orders have that
        time or the bound was widened, the pages are counted up. Numbers may begin at 0 [R] or 1, so two in a row must
        bring nothing before that is the end.
        """
        bounds = _widened({**filters, "maxDraftCreatedAt": shift(anchor.drafted_at, 0.001)}, widening)
        rows: dict[str, Any] = {}
        for number, fresh in enumerate(self._numbered(bounds, pace)):
            rows.update(fresh)
            below = any(place.drafted_at < anchor.drafted_at for place in _anchors_of(fresh.values()))
            if below or (number == 0 and rows.keys() <= {anchor.id}):
                break
        if anchor.id not in rows:
            return None
        tied = [place for place in _anchors_of(rows.values()) if place.drafted_at == anchor.drafted_at]
        if number > 0 and len(tied) > 1:  # their order may differ from one answer to the next, but not by id
            rows.update(self._read_tied(anchor, bounds, pace))
        return self._list_page(list(rows.values()), ended=not below)

    def _read_tied(self, anchor: Anchor, bounds: Mapping[str, Any], pace: Pace) -> dict[str, Any]:
        """Return by id all orders with the anchor's draft time, and perhaps others."""
        for widening in (0.0, *WIDENINGS):
            since = shift(anchor.drafted_at, -widening)
            filters = {**bounds, "minDraftCreatedAt": since, "orderBy": "id", "direction": "asc"}
            tied = {key: order for fresh in self._numbered(filters, pace) for key, order in fresh.items()}
            if anchor.id in tied:
                return tied
        return {}

    def _numbered(self, filters: Mapping[str, Any], pace: Pace) -> Iterator[dict[str, Any]]:
        """Yield what each page of one and the same list brings that was not on those before, by id.

        :raises AifiUnavailable: it has no end
        """
        seen: set[str] = set()
        idle = 0
        for number in range(MAX_PAGES_OF_ONE_BOUND):
            fresh = {key: order for order in self._page(pace, filters, number) if (key := _key(order)) not in seen}
            yield fresh
            seen.update(fresh)
            idle = 0 if fresh else idle + 1
            if idle == 2:
                return
        raise AifiUnavailable("AiFi's list of orders has too many of one and the same time")

    def _list_page(self, orders: list[Any], ended: bool) -> ListPage:
        places = sorted(_anchors_of(orders))
        return ListPage(orders, tuple(places[:ANCHORS]), ended, full=len(orders) >= self._most_rows)

    def _page(self, pace: Pace, filters: Mapping[str, Any], number: int = 0) -> list[Any]:
        """Return one page of raw orders. The first is asked for without a number: it is the default [R].

        :raises AifiUnreadable: it has orders, but none with an id of AiFi's
        """
        params = {
            "includeProducts": "true",
            "pageSize": PAGE_SIZE,
            "orderBy": "draftCreatedAt",
            "direction": "desc",
            **self._filters,
            **filters,
            **({"page": number} if number else {}),
        }
        answer = self.get("/orders", params, pace)
        orders = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(orders, list):
            raise AifiUnavailable("AiFi's list of orders has no data")
        if answer.get("errors"):
            raise AifiUnavailable("AiFi's list of orders tells of errors")
        if orders and not any(map(read_order_id, orders)):
            raise AifiUnreadable("none of AiFi's orders has an id that can be read")
        self._most_rows = max(self._most_rows, len(orders))
        return orders

    def _get_one(self, path: str, pace: Pace) -> Any | None:
        try:
            found = self.get(path, pace=pace)
        except AifiRefused as error:
            if error.status in UNKNOWN:
                return None
            raise
        if not isinstance(found, dict):
            raise AifiUnavailable("AiFi's answer is not an object")
        return found

    # --- requests ---

    def _send(self, method: str, url: str, pace: Pace = Pace(), server: str = "AiFi", **options: Any) -> Answer:
        """Send a request, and again as urllib3's Retry says, with one bound of time for all of it.

        Exponential backoff with jitter is what [G] asks for.
        """
        deadline = min(pace.deadline, time.monotonic() + REQUEST_SECONDS)
        options.setdefault("auth", lambda request: request)  # or `requests` looks for a password in ~/.netrc
        retry = Retry(
            RETRIES, backoff_factor=BACKOFF_SECONDS, backoff_jitter=BACKOFF_SECONDS, backoff_max=PAUSE_SECONDS
        )
        while True:
            if time.monotonic() >= pace.deadline:
                raise AifiUnavailable("reading from AiFi takes too long at once: the next poll goes on with it")
            self._wait_for_turn(pace, deadline)
            retry_after = None
            try:
                answer = self._attempt(method, url, deadline, options)
                if answer.status not in FAILURES:
                    return answer
                failure, retry_after = AifiUnavailable(f"{server} answers {answer.status}"), answer.retry_after
            except NETWORK_ERRORS as error:
                failure = AifiUnavailable(f"{server} at {_describe(error, url)}")
            try:
                retry = retry.increment(method, url)
            except MaxRetryError:
                raise failure from None
            pause = _retry_after_seconds(retry, retry_after) or retry.get_backoff_time()
            if time.monotonic() + pause >= deadline:
                raise failure
            time.sleep(pause)

    def _wait_for_turn(self, pace: Pace, deadline: float) -> None:
        """Wait for a slot; a thread that wakes up late takes another, as late requests would come in a bunch."""
        for _ in range(SLOT_TRIES):
            asked_at, seconds = time.monotonic(), self._wait_for_slot(pace.interval)
            if seconds > SLOT_WAIT_SECONDS or asked_at + seconds >= deadline:
                raise AifiUnavailable("too many requests to AiFi are waiting")
            time.sleep(seconds)
            if time.monotonic() - asked_at - seconds < SLOT_LATE_SECONDS:
                return

    def _attempt(self, method: str, url: str, deadline: float, options: Mapping[str, Any]) -> Answer:
        """Send a request once. The body of a failure is not read: it could trickle for as long as it likes."""
        left = max(0.001, deadline - time.monotonic())
        timeout = (min(CONNECT_SECONDS, left), min(READ_SECONDS, left))
        with self._session.request(
            method, url, timeout=timeout, stream=True, allow_redirects=False, **options
        ) as response:
            self.clock_ahead_seconds = _clock_ahead(response.headers.get("Date"))
            status, retry_after = response.status_code, response.headers.get("Retry-After")
            left = deadline - time.monotonic()
            body = b"" if status in FAILURES else read_body(response, left, MAX_ANSWER_BYTES)
            return Answer(status, body, retry_after)


MAX_CONNECTIONS = 32
CONNECT_SECONDS, READ_SECONDS = 3.0, 15.0  # of one attempt
REQUEST_SECONDS = 30.0  # for all of a request: attempts, pauses, waiting for a turn, reading the body
RETRIES, BACKOFF_SECONDS, PAUSE_SECONDS = 4, 0.25, 10
FAILURES = (429, 500, 502, 503, 504)  # that may be over at the next attempt
SLOT_WAIT_SECONDS, SLOT_LATE_SECONDS, SLOT_TRIES = 10, 0.02, 3
MAX_ANSWER_BYTES = 64 * 1024 * 1024
NETWORK_ERRORS = (requests.RequestException, HTTPError, OSError)  # reading a streamed body raises urllib3's own


def read_body(response: requests.Response, seconds: float, limit: int) -> bytes:
    """Read a streamed answer's body within a bound of time and size, however slowly it trickles.

    :raises requests.Timeout: it took longer than `seconds`
    :raises requests.exceptions.ContentDecodingError: it is longer than `limit` bytes
    """
    deadline, chunks, size = time.monotonic() + seconds, [], 0
    while chunk := response.raw.read1(65536, decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if time.monotonic() > deadline:
            raise requests.Timeout("the body trickles")
        if size > limit:
            raise requests.exceptions.ContentDecodingError("the body is too large")
    return b"".join(chunks)


def _describe(error: Exception, url: str) -> str:
    """Say at which address a server gave no answer, and why; without path, query and credentials."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else f"{parts.hostname}"
    chain = f"{error!r}"
    if isinstance(error, requests.exceptions.SSLError) or "SSL" in type(error).__name__:
        return f"{host} has no certificate that can be trusted, or does not speak TLS"
    if isinstance(error, (requests.Timeout, TimeoutError)) or "Timeout" in type(error).__name__ or "timed out" in chain:
        return f"{host} does not answer in time"
    if isinstance(error, requests.exceptions.ContentDecodingError) and "too large" in chain:
        return f"{host} answers with more than {MAX_ANSWER_BYTES // 1024 // 1024} MB"
    if "NameResolutionError" in chain or "getaddrinfo" in chain:
        return f"{host} cannot be found: there is no such name"
    if "refused" in chain:
        return f"{host} refuses the connection"
    return f"{host} broke the connection off"


def _read_json(answer: Answer, server: str = "AiFi", token: str = "") -> Any:
    """Return the JSON of an answer to a request with that token.

    :raises AifiRefused: a 4xx; a 404 only where it is AiFi's own, in JSON: a gateway's says nothing of an order
    :raises AifiUnavailable: any other status but 200, or no JSON
    """
    status = answer.status
    if status == 401:
        raise AifiRefused("AiFi refuses the access token (401)", status)
    if status in UNKNOWN and not _is_object(answer.body):
        raise AifiUnavailable(f"AiFi answers {status}, but not as AiFi does: is AIFI_BASE_URL right?")
    if 400 <= status < 500:
        kind = "the access token" if status == 403 else "the request"
        raise AifiRefused(f"AiFi refuses {kind} ({status}{_aifis_words(answer.body, token)})", status)
    if status != 200:
        raise AifiUnavailable(f"{server} answers {status}{': is AIFI_BASE_URL right?' if server == 'AiFi' else ''}")
    try:
        return parse_json(answer.body)
    except Unreadable:
        raise AifiUnavailable(f"{server} answers something that is not JSON") from None


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(parse_json(body), dict)
    except Unreadable:
        return False


def _aifis_words(body: bytes, token: str) -> str:
    """Return what AiFi says of a refusal [R: message, errors with field]; nothing that could be a secret."""
    if not _is_object(body):
        return ""
    fields = parse_json(body)
    errors = fields.get("errors") if isinstance(fields.get("errors"), list) else []
    named = [error.get("field") for error in errors if isinstance(error, dict)]
    words = [fields.get("message"), *named]
    text = ", ".join(word for word in words if isinstance(word, str) and word.isprintable())
    text = text.replace(token, "…") if token else text
    text = re.sub(r"\S{24,}", "…", text)[:200]
    return f": {text}" if text else ""


def _oauth_error(body: bytes) -> str | None:
    """Return the token server's own word for its refusal, such as `invalid_client` [R]."""
    word = parse_json(body).get("error") if _is_object(body) else None
    return word if isinstance(word, str) and re.fullmatch(r"[a-z_]{1,40}", word) else None


def _life_seconds(expires_in: Any) -> float:
    """Return how long a token lives; a minute where its server gives no number [R: seconds, often minutes]."""
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError):
        return DEFAULT_LIFE_SECONDS
    return seconds if 0 < seconds < math.inf else DEFAULT_LIFE_SECONDS


def _retry_after_seconds(retry: Retry, text: str | None) -> float:
    """Return how long a server asks to wait, within a bound; 0 where it does not say, or nothing that makes sense."""
    try:
        return min(retry.parse_retry_after(text), PAUSE_SECONDS) if text else 0.0
    except HTTPError:
        return 0.0


def _clock_ahead(date: str | None) -> float | None:
    try:
        return (parsedate_to_datetime(date or "") - datetime.now(timezone.utc)).total_seconds()
    except (ValueError, TypeError):
        return None


def _widened(filters: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return filters whose bounds of time let through so many seconds more."""
    moves = {"min": -seconds, "max": seconds}
    return {name: shift(value, moves[name[:3]]) if name[:3] in moves else value for name, value in filters.items()}


def _anchors_of(orders: Any) -> list[Anchor]:
    """Return the places of those raw orders that have one."""
    places = ((read_drafted_at(order), read_order_id(order)) for order in orders)
    return [Anchor(drafted_at, order_id) for drafted_at, order_id in places if drafted_at and order_id]


def _key(order: Any) -> str:
    """Return what tells raw orders apart: AiFi's id, or all of what has none."""
    return read_order_id(order) or repr(order)
