"""Requests to AiFi: token, pace, retries, bounds of time and size; what can go wrong with one.

Sources: [G] AiFi's guide "Data Integration: Orders & Webhooks", [R] AiFi's public API reference.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
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
from times import MINUTE
from translation import Unreadable, parse_json


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


UNKNOWN = (404, 410)  # AiFi has no such order or customer

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


# --- requests ---


MAX_CONNECTIONS = 32
CONNECT_SECONDS, READ_SECONDS = 3.0, 15.0  # of one attempt
REQUEST_SECONDS = 30.0  # for all of a request: attempts, pauses, waiting for a turn, reading the body
RETRIES, BACKOFF_SECONDS, PAUSE_SECONDS = 4, 0.25, 10
FAILURES = (429, 500, 502, 503, 504)  # that may be over at the next attempt
SLOT_WAIT_SECONDS, SLOT_LATE_SECONDS, SLOT_TRIES = 10, 0.02, 3
MAX_ANSWER_BYTES = 64 * 1024 * 1024
NETWORK_ERRORS = (requests.RequestException, HTTPError, OSError)  # reading a streamed body raises urllib3's own


@dataclass(frozen=True)
class Pace:
    """How fast and how long a piece of work may ask AiFi: seconds between two requests, and `time.monotonic()`."""

    interval: float = 1 / 16  # [G] allows 20 a second; less, as a loaded machine bunches what was to be sent evenly
    deadline: float = math.inf


USUAL = Pace()


class Transport:
    """AiFi's API over one HTTP session.

    :param wait_for_slot: called before each attempt; returns the seconds to wait so that the rate limit is kept
    """

    def __init__(self, base_url: str, token: Token, wait_for_slot: Callable[[float], float]):
        self.base_url = base_url.rstrip("/")
        self.clock_ahead_seconds: float | None = None  # AiFi's clock less ours, by its last answer's Date
        self._token = token
        self._wait_for_slot = wait_for_slot
        self._refused_until: dict[str, float] = {}  # by kind of thing: when a new token is worth a try again
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=MAX_CONNECTIONS))

    def get(self, path: str, params: Mapping[str, Any] | None = None, pace: Pace = USUAL) -> Any:
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

    def _send(self, method: str, url: str, pace: Pace = USUAL, server: str = "AiFi", **options: Any) -> Answer:
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
            seconds = self._wait_for_slot(pace.interval)
            slot = time.monotonic() + seconds
            if seconds > SLOT_WAIT_SECONDS or slot >= deadline:
                raise AifiUnavailable("too many requests to AiFi are waiting")
            time.sleep(max(0.0, seconds))
            if time.monotonic() - slot < SLOT_LATE_SECONDS:
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
