"""The bridge between AiFi and Aide: configuration, routes and errors. `create_app` wires the other two modules."""

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import click
import requests
from flask import Flask, Response, current_app, render_template, request
from flask.cli import with_appcontext
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Unauthorized,
)
from werkzeug.middleware.proxy_fix import ProxyFix

import aifi
from store import Marks, Note, Store, StoreError, shift, utc_seconds

log = logging.getLogger("bridge.app")

VARIABLES = {
    "AIDE_API_KEY": "",
    "AIFI_ACCESS_TOKEN": "",
    "AIFI_CLIENT_ID": "",
    "AIFI_CLIENT_SECRET": "",
    "AIFI_TOKEN_URL": "https://auth.aifi.com/realms/aifi/protocol/openid-connect/token",
    "AIFI_TOKEN_SCOPE": "",
    "AIFI_BASE_URL": "https://api.aifi.com/api/admin/v2",
    "AIFI_WEBHOOK_SECRET": "",
    "PAYMENT_WEBHOOK_URL": "",
    "AIFI_CURRENCY": "",
    "AIFI_STORE_ID": "",
    "AIFI_CUSTOMER_ROLE": "",
    "REFRESH_SECONDS": "30",
    "REFRESH_WAIT_SECONDS": "3",
    "DATABASE_PATH": "orders.db",
    "LOG_LEVEL": "INFO",
    "PORT": "8000",  # these two are gunicorn.conf.py's
    "WEB_CONCURRENCY": "1",
}
MAX_BODY_BYTES = 1024 * 1024
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 100
RETRY_AFTER_SECONDS = 10
MAX_WAIT_SECONDS = 20  # Heroku's router gives up after 30
PAYMENT_CONNECT_SECONDS, PAYMENT_SECONDS = 3, 10
MAX_PAYMENT_BYTES = 1024 * 1024
TOKEN_CHECK_BYTES = 6
FEW_BYTES = 8 * 1024 * 1024
NOTE_SECONDS = 0.5  # how often one process writes the same note at most
WRONG_KEY_SECONDS = 86400  # how long a wrong key counts as a problem
RECENT_SECONDS = 300  # whoever came in with the right key so shortly before a wrong one is fine
CLOCK_SECONDS = 60  # how far AiFi's clock may be off without a word
BACKFILL_DAYS = 30
PAGE_POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
CAUSES = {
    "aifi_token_refused": "Set AIFI_ACCESS_TOKEN (or AIFI_CLIENT_ID and AIFI_CLIENT_SECRET) to what AiFi gave you.",
    "aifi_refuses": "Check AIFI_BASE_URL, AIFI_STORE_ID and AIFI_CUSTOMER_ROLE.",
    "aifi_unavailable": "Nothing to do: it is tried again at every poll. If it lasts, check AIFI_BASE_URL (or "
    "AIFI_TOKEN_URL), or ask AiFi.",
    "database_unavailable": "Check that the folder of DATABASE_PATH can be written and is on a local disk.",
    "disk_full": "Make room on the disk of DATABASE_PATH, or give the service a larger one.",
    "aide_key_wrong": "Give Aide the key that AIDE_API_KEY holds.",
    "webhook_secret_missing": "Set AIFI_WEBHOOK_SECRET to a long random text, and give AiFi the webhook URL with it.",
    "webhook_secret_wrong": "Copy the webhook URL from this bridge's status page into AiFi's console.",
    "webhook_refused": "Check that only AiFi sends to this URL, and only checkout or customer webhooks.",
    "public_url_unreachable": "Check that the service is up at this address, or name another with --url.",
    "payment_endpoint_failed": "Check PAYMENT_WEBHOOK_URL, and that the retailer's payment endpoint is up.",
}


# --- configuration ---


class ConfigError(Exception):
    """The environment lacks something or holds something malformed; the text names each variable and the remedy."""


@dataclass(frozen=True)
class Config:
    """All that an operator may set, read once; seconds where a number is a time."""

    aide_api_keys: tuple[str, ...]
    token: Mapping[str, str]
    base_url: str
    webhook_secret: str
    payment_webhook_url: str
    settings: aifi.Settings
    database_path: str
    log_level: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Config":
        """Read the variables; an empty one counts as unset.

        :raises ConfigError: naming all that is wrong
        """
        reader = _Reader(environment)
        config = cls(
            aide_api_keys=reader.keys("AIDE_API_KEY"),
            token=reader.credentials(),
            base_url=reader.url("AIFI_BASE_URL"),
            webhook_secret=reader.text("AIFI_WEBHOOK_SECRET"),
            payment_webhook_url=reader.url("PAYMENT_WEBHOOK_URL"),
            settings=aifi.Settings(
                refresh_seconds=reader.seconds("REFRESH_SECONDS", most=86400),
                wait_seconds=reader.seconds("REFRESH_WAIT_SECONDS", most=MAX_WAIT_SECONDS),
                store_ids=reader.listed("AIFI_STORE_ID", r"\d+", "whole numbers"),
                roles=reader.listed("AIFI_CUSTOMER_ROLE", r"\w+", "AiFi's roles, such as customer"),
                currency=reader.matching("AIFI_CURRENCY", r"[A-Z]{3}", "a currency code such as USD"),
            ),
            database_path=reader.text("DATABASE_PATH"),
            log_level=reader.matching("LOG_LEVEL", "DEBUG|INFO|WARNING|ERROR", "DEBUG, INFO, WARNING or ERROR"),
        )
        if reader.problems:
            raise ConfigError("\n".join(f"✗ {problem}" for problem in reader.problems))
        return config


class _Reader:
    """Reads variables, and gathers what is wrong with them instead of stopping at the first."""

    def __init__(self, environment: Mapping[str, str]):
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self._environment.get(name, "").strip() or VARIABLES[name]

    def keys(self, name: str) -> tuple[str, ...]:
        keys = tuple(key.strip() for key in self.text(name).split(",") if key.strip())
        if not keys:
            self.problems.append(f"{name} is not set: set it to a long random text, and give that to Aide as its key")
        return keys

    def credentials(self) -> dict[str, str]:
        names = ("AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET")
        access_token, client_id, client_secret = map(self.text, names)
        if access_token and not aifi.fits_header(access_token):
            self.problems.append("AIFI_ACCESS_TOKEN holds a blank or another odd character: copy it again")
        if not access_token and not (client_id and client_secret):
            self.problems.append(
                "AIFI_ACCESS_TOKEN is not set: set it to the API key from AiFi, or set both AIFI_CLIENT_ID and "
                "AIFI_CLIENT_SECRET from AiFi's console"
            )
        return {
            "access_token": access_token,
            "client_id": client_id,
            "client_secret": client_secret,
            "url": self.url("AIFI_TOKEN_URL"),
            "scope": self.text("AIFI_TOKEN_SCOPE"),
        }

    def url(self, name: str) -> str:
        text = self.text(name)
        if text and not _is_web_address(text):
            self.problems.append(f"{name} is no web address: set it to one that begins with https://")
        return text

    def seconds(self, name: str, most: float) -> float:
        try:
            number = float(self.text(name))
        except ValueError:
            number = math.nan
        if not 0 <= number <= most:
            self.problems.append(f"{name} is {self.text(name)!r}: set it to a number of seconds from 0 to {most:g}")
        return number

    def listed(self, name: str, pattern: str, meaning: str) -> tuple[str, ...]:
        values = tuple(value.strip() for value in self.text(name).split(",") if value.strip())
        if not all(re.fullmatch(pattern, value, re.ASCII) for value in values):
            self.problems.append(f"{name} is {self.text(name)!r}: set it to {meaning}, separated by commas")
        return values

    def matching(self, name: str, pattern: str, meaning: str) -> str:
        text = self.text(name).upper()
        if text and not re.fullmatch(pattern, text):
            self.problems.append(f"{name} is {self.text(name)!r}: set it to {meaning}")
        return text


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


# --- the app ---


@dataclass(frozen=True)
class Bridge:
    """What the routes work with; kept as `app.extensions["bridge"]`."""

    config: Config
    store: Store
    client: aifi.Client
    mirror: aifi.Mirror
    payments: aifi.Flights
    journal: "Journal"

    def close(self) -> None:
        """Give back what is held, and close the database."""
        self.mirror.close()
        self.store.close()


class Journal:
    """Notes for the operator what happened last of each kind; under load not each time, to spare the disk."""

    def __init__(self, store: Store):
        self._store = store
        self._written: dict[str, float] = {}
        self._texts: dict[str, str] = {}

    def note(self, name: str, text: str) -> bool:
        """Note it, and return whether it was time to; a note that cannot be written must not harm what it tells of."""
        now = time.monotonic()
        if now - self._written.get(name, -math.inf) < NOTE_SECONDS:
            return False
        self._written[name] = now
        try:
            self._store.put_note(name, text)
        except StoreError as error:
            log.warning("A note could not be kept: %s", error)
        return True

    def note_change(self, name: str, text: str) -> None:
        """Note it where it differs from what this process noted last."""
        if self._texts.get(name) != text and self.note(name, text):
            self._texts[name] = text


def create_app(config: Config | None = None) -> Flask:
    """Build the app, from the environment where no configuration is given; opens no file and no connection yet.

    :raises SystemExit: the environment's configuration is of no use; its text says what to set
    """
    if config is None:
        try:
            config = Config.from_environment(os.environ)
        except ConfigError as error:
            raise SystemExit(f"The bridge cannot start:\n{error}") from None
    _set_up_log(config.log_level)
    app = Flask("bridge", root_path=os.path.dirname(os.path.abspath(__file__)), static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1  # one more tells a body that is too long from one cut there
    app.url_map.merge_slashes = False  # a redirect would be no JSON
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # one proxy: the platform's router
    app.extensions["bridge"] = _build(config)
    for prefix, name in (("/v1", "v1"), ("", "root")):
        app.add_url_rule(f"{prefix}/latest_orders", f"{name}_latest_orders", latest_orders)
        app.add_url_rule(f"{prefix}/orders/<order_id>", f"{name}_order", get_order)
        app.add_url_rule(f"{prefix}/customers/<customer_id>", f"{name}_customer", get_customer)
        app.add_url_rule(f"{prefix}/openapi.yaml", f"{name}_openapi", openapi)
    app.add_url_rule("/webhooks/aifi", "webhook", take_webhook, methods=["POST"])
    app.add_url_rule("/healthz", "healthz", healthz)
    app.add_url_rule("/", "status", status_page)
    for command in (doctor, backfill, status):
        app.cli.add_command(command)
    for error in (HTTPException, aifi.AifiUnavailable, StoreError):
        app.register_error_handler(error, _answer_error)
    return app


def _build(config: Config) -> Bridge:
    settings = config.settings
    origin = json.dumps([config.base_url, settings.store_ids, settings.roles, settings.currency])
    store = Store(config.database_path, origin)
    client = aifi.Client(
        config.base_url, aifi.Token(**config.token), settings.store_ids, settings.roles, store.take_request_slot
    )
    return Bridge(config, store, client, aifi.Mirror(client, store, settings), aifi.Flights(), Journal(store))


def _set_up_log(level: str) -> None:
    logger = logging.getLogger("bridge")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


def _bridge() -> Bridge:
    return current_app.extensions["bridge"]


# --- Aide's side ---


def _for_aide(view: Callable[..., Response]) -> Callable[..., Response]:
    """Let a request through that carries one of Aide's keys, as `X-API-Key` or `Authorization: Bearer`."""

    @functools.wraps(view)
    def guarded(**arguments: str) -> Response:
        offered = (_header("X-API-Key"), _bearer())
        if not _matches(offered, _bridge().config.aide_api_keys):
            if any(offered):
                _bridge().journal.note("aide_key_wrong", "Somebody asked with a wrong Aide key")
            raise Unauthorized("Send Aide's key as X-API-Key or as Authorization: Bearer.")
        return view(**arguments)

    return guarded


@_for_aide
def latest_orders() -> Response:
    """Answer a page of the orders updated last, newest first (Aide's `/latest_orders`)."""
    limit, after = _page_size(), _page_token()
    page = _bridge().mirror.page(limit, after)
    if after is None and _bridge().journal.note("poll", f"{len(page.summaries)} orders"):
        _bridge().journal.note_change("public_url", request.url_root)
    token = "" if page.ended else f',"next_page_token":"{encode_token(page.last)}"'
    # The summaries are JSON already; reading and writing them again would cost as much as all the rest.
    return _json_text(f'{{"orders":[{",".join(page.summaries)}]{token}}}')


@_for_aide
def get_order(order_id: str) -> Response:
    """Answer one order in full (Aide's `/orders/{orderId}`); a session's id finds its order too."""
    order = _bridge().mirror.order(order_id)
    if order is None:
        raise NotFound("AiFi knows no such order.")
    return _json(order.body())


@_for_aide
def get_customer(customer_id: str) -> Response:
    """Answer one customer (Aide's `/customers/{customerId}`)."""
    customer = _bridge().mirror.customer(customer_id)
    if customer is None:
        raise NotFound("AiFi knows no such customer.")
    return _json(customer)


def openapi() -> Response:
    """Answer the description of this interface."""
    path = os.path.join(current_app.root_path, "openapi.yaml")
    with open(path, encoding="utf-8") as file:
        return Response(file.read(), mimetype="application/yaml")


def encode_token(last: tuple[str, str]) -> str:
    """Return the opaque page token that goes on after the order with this (updated_at, id)."""
    text = " ".join(last).encode()
    return base64.urlsafe_b64encode(_check_sum(text) + text).decode().rstrip("=")


def decode_token(token: str) -> tuple[str, str]:
    """Return the (updated_at, id) of a page token.

    :raises ValueError: it is damaged, or none of ours
    """
    data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    updated_at, _, order_id = data[TOKEN_CHECK_BYTES:].decode().partition(" ")
    if encode_token((updated_at, order_id)) != token:
        raise ValueError("no page token of this bridge")
    return updated_at, order_id


def _check_sum(text: bytes) -> bytes:
    return hashlib.blake2s(text, digest_size=TOKEN_CHECK_BYTES).digest()


def _page_size() -> int:
    text = request.args.get("page_size", str(DEFAULT_PAGE_SIZE))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE_SIZE:
        raise _bad_request("invalid_page_size", f"page_size must be a whole number from 1 to {MAX_PAGE_SIZE}.")
    return int(text)


def _page_token() -> tuple[str, str] | None:
    token = request.args.get("page_token")
    if token is None:
        return None
    try:
        return decode_token(token)
    except ValueError:
        raise _bad_request(
            "invalid_page_token", "page_token is damaged or not from this bridge: begin at the top."
        ) from None


# --- AiFi's side ---


def take_webhook() -> Response:
    """Take in a webhook of AiFi's, and pass a checkout on to the retailer's payment endpoint where one is set."""
    config, mirror = _bridge().config, _bridge().mirror
    if not config.webhook_secret:
        raise ServiceUnavailable("Webhooks are off: set AIFI_WEBHOOK_SECRET, and give AiFi the URL with that secret.")
    if not _matches((_bearer(), request.args.get("token")), (config.webhook_secret,)):
        if _bearer() or request.args.get("token"):
            _bridge().journal.note("webhook_secret_wrong", "A webhook came with a wrong secret")
        raise Unauthorized("Send the webhook secret as Authorization: Bearer or as ?token=.")
    body = _read_body()
    try:
        push = aifi.read_push(aifi.parse_json(body), _bridge().store.now(), config.settings.currency)
    except aifi.Unreadable as error:
        log.warning("Webhook refused: %s", error)
        _bridge().journal.note("webhook_refused", f"A webhook was refused: {error}")
        raise _bad_request("invalid_webhook", f"Not a webhook of AiFi's: {error}.") from None
    receipt = mirror.take_push(push)
    if push.kind != "other":  # AiFi's other pushes, and the doctor's, are nothing to speak of
        log.info("Webhook: %s", receipt)
        _bridge().journal.note("webhook", str(receipt))
    if push.kind == "checkout" and config.payment_webhook_url:
        return _pass_on(_bridge(), body)
    return _json({})


def _read_body() -> bytes:
    """Return the request's body; one that is too long or cannot be read to its end is the sender's error."""
    try:
        body = request.get_data(cache=False)
    except (OSError, ValueError, ParseException):  # gunicorn's words for broken chunks
        raise _bad_request("invalid_body", "The body broke off or is badly chunked.") from None
    if len(body) > MAX_BODY_BYTES:
        raise RequestEntityTooLarge
    return body


def _pass_on(bridge: Bridge, body: bytes) -> Response:
    """Give a webhook to the payment endpoint, and its answer back unchanged; 502 where it has none in time."""
    url = bridge.config.payment_webhook_url
    try:
        # In a thread of its own, as requests bounds the wait for each byte, but not for all of them.
        call = bridge.payments.share(object(), functools.partial(_post_payment, url, body))
        return Response(*call.result(PAYMENT_SECONDS))
    except (*aifi.NETWORK_ERRORS, aifi.AifiUnavailable, concurrent.futures.TimeoutError) as error:
        log.error("The payment endpoint did not answer: %s", type(error).__name__)
        bridge.journal.note("payment_endpoint_failed", "The retailer's payment endpoint did not answer")
        return _error(502, "payment_endpoint_failed", "The retailer's payment endpoint did not answer.")


def _post_payment(url: str, body: bytes) -> tuple[bytes, int, dict[str, str]]:
    """Return the payment endpoint's body, status and content type."""
    timeout = (PAYMENT_CONNECT_SECONDS, PAYMENT_SECONDS)
    headers = {"Content-Type": "application/json"}
    with requests.post(url, body, headers=headers, timeout=timeout, allow_redirects=False, stream=True) as answer:
        text = aifi.read_body(answer, PAYMENT_SECONDS, MAX_PAYMENT_BYTES)
        kept = {name: answer.headers[name] for name in ("Content-Type",) if name in answer.headers}
        return text, answer.status_code, kept


# --- the operator's side ---


def healthz() -> Response:
    """Answer whether the bridge works, to anybody: 200 while this process can serve, whatever AiFi does."""
    bridge = _bridge()
    problems, marks = diagnose(bridge)
    body: dict[str, Any] = {"status": "degraded" if problems else "ok"}
    if marks:
        asked = marks.refreshed_at or marks.failing_since
        body["aifi_answers"] = not marks.failing_since if asked and marks.cause != "database_unavailable" else None
        body["mirror_age_seconds"] = _age(bridge, marks.refreshed_at)
        body["failing_since"] = marks.failing_since
        body["last_error"] = marks.error or (problems[0].message if problems else None)
    return _json({**body, "problems": [asdict(problem) for problem in problems]})


def status_page() -> Response:
    """Show the operator how the bridge does; HTTP Basic with any name and an Aide key as password."""
    bridge, login = _bridge(), request.authorization
    password = login.password if login and login.type == "basic" else None
    if not _matches((password,), bridge.config.aide_api_keys):
        error = Unauthorized("This is a bridge. Log in with any name, and Aide's key as the password.")
        error.scheme = 'Basic realm="bridge", charset="UTF-8"'
        raise error
    bridge.mirror.try_refresh()
    nonce, shown = secrets.token_urlsafe(16), request.args.get("secrets") == "show"
    text = render_template(
        "status.html",
        nonce=nonce,
        shown=shown,
        overview=look_over(bridge),
        public_url=request.url_root,
        aide_key=bridge.config.aide_api_keys[0] if shown else "",
        webhook_secret=quote(bridge.config.webhook_secret, safe="") if shown else "",
        has_webhook_secret=bool(bridge.config.webhook_secret),
    )
    response = Response(text, headers=PAGE_HEADERS)
    response.headers["Content-Security-Policy"] = PAGE_POLICY.format(nonce=nonce)
    return response


@dataclass(frozen=True)
class Problem:
    """What is wrong now, in words, and what to do; `cause` is one of CAUSES."""

    cause: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Overview:
    """What the status page and the command `status` show; `facts` are (label, value) pairs.

    `hourly` counts the orders drafted in each hour; before `unread_before`, where it says a time, not all were read.
    """

    problems: list[Problem]
    facts: list[tuple[str, str]]
    hourly: list[tuple[str, int]]
    unread_before: str
    errors: list[tuple[str, Problem, int]]  # when, what, how often so far


def diagnose(bridge: Bridge) -> tuple[list[Problem], Marks | None]:
    """Return what is wrong now, as far as is known without asking AiFi, and the marks, if they can be read."""
    found: list[tuple[str, str]] = []
    marks = None
    try:
        if bridge.store.free_bytes() < FEW_BYTES:
            found.append(("disk_full", "The disk is full"))
        marks, notes = bridge.store.marks(), bridge.store.notes()
    except StoreError as error:
        found = [_blame(bridge, error)]
    else:
        if marks.failing_since:
            found.append((marks.cause, f"{marks.error}, since {_clock(marks.failing_since)}"))
        for wrong, right in (("aide_key_wrong", "poll"), ("webhook_secret_wrong", "webhook")):
            if _is_current(bridge, notes.get(wrong), notes.get(right)):
                found.append((wrong, f"{notes[wrong].text}, last {_clock(notes[wrong].at)}"))
    if not bridge.config.webhook_secret:
        found.append(("webhook_secret_missing", "Webhooks are off: AIFI_WEBHOOK_SECRET is not set"))
    return [Problem(cause, message, CAUSES[cause]) for cause, message in found], marks


def _is_current(bridge: Bridge, wrong: Note | None, right: Note | None) -> bool:
    """Return whether somebody came with a wrong key lately, and nobody with the right one since, or shortly before."""
    if wrong is None or _age(bridge, wrong.at) > WRONG_KEY_SECONDS:
        return False
    return right is None or right.at < shift(wrong.at, -RECENT_SECONDS)


def _blame(bridge: Bridge, error: Exception) -> tuple[str, str]:
    """Return the cause of a failure, and its message; of what a full disk brings about, that is the cause."""
    if isinstance(error, StoreError):
        with contextlib.suppress(StoreError):
            if bridge.store.free_bytes() < FEW_BYTES:
                return "disk_full", "The disk is full"
        return "database_unavailable", str(error)
    return getattr(error, "cause", "aifi_unavailable"), str(error)


def look_over(bridge: Bridge) -> Overview:
    """Gather what the operator wants to know; where the mirror cannot be read, the problem says so."""
    problems, marks = diagnose(bridge)
    if marks is None:
        return Overview(problems, [], [], "", [])
    notes, statistics = bridge.store.notes(), bridge.store.statistics()
    if marks.failing_since:
        aifi_state = f"fails since {_clock(marks.failing_since)}: {marks.error}"
    else:
        aifi_state = "answers, the key is accepted" if marks.refreshed_at else "was not asked yet"
    depth = f"back to {_clock(marks.horizon)}" if marks.horizon else "nothing yet"
    facts = [
        ("AiFi", aifi_state),
        ("Mirror", f"refreshed {_ago(bridge, marks.refreshed_at)}" if marks.refreshed_at else "is empty"),
        ("Aide's last poll", _told(bridge, notes.get("poll"))),
        ("AiFi's last webhook", _told(bridge, notes.get("webhook"))),
        ("Orders mirrored", f"{statistics.orders:,}"),
        ("History", f"complete, {depth}" if marks.complete else depth),
    ]
    errors = [
        (_clock(note.at), Problem(name, note.text, CAUSES[name]), note.count)
        for name, note in sorted(notes.items(), key=lambda item: item[1].at, reverse=True)
        if name in CAUSES
    ]
    unread = not marks.complete and (marks.horizon or "~") > statistics.hourly[0][0]
    unread_before = _clock(marks.horizon or bridge.store.now()) if unread else ""
    return Overview(problems, facts, statistics.hourly, unread_before, errors)


def _told(bridge: Bridge, note: Note | None) -> str:
    return f"{_ago(bridge, note.at)}: {note.text}" if note else "none yet"


def _age(bridge: Bridge, at: str | None) -> int | None:
    return None if at is None else max(0, round(utc_seconds(bridge.store.now()) - utc_seconds(at)))


def _ago(bridge: Bridge, at: str) -> str:
    seconds = _age(bridge, at)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _clock(at: str) -> str:
    return f"{at[:10]} {at[11:16]} UTC"


# --- the operator's commands ---


@click.command()
@click.option("--url", default="", help="Where the public reaches this bridge, if it cannot know.")
@with_appcontext
def doctor(url: str) -> None:
    """Check the configuration, the database, AiFi and the public URL; say what to do about what is wrong."""
    bridge, wrong = _bridge(), 0
    click.echo("✓ Configuration: complete")  # without that, this would not run
    for check in (_check_database, _check_aifi, functools.partial(_check_public, url=url)):
        try:
            for name, finding in check(bridge):
                click.echo(f"✓ {name}: {finding}")
        except _Unchecked as reason:
            click.echo(f"– {reason}")
        except _Sick as error:
            wrong += 1
            click.echo(f"✗ {error} → {CAUSES[error.cause]}")
    problems, _ = diagnose(bridge)
    for problem in problems:
        click.echo(f"✗ Bridge: {problem.message} → {problem.remedy}")
    if not problems:
        click.echo("✓ Bridge: has met no problem lately")
    raise SystemExit(1 if wrong or problems else 0)


class _Unchecked(Exception):
    """The doctor could not check something, for the reason in the text."""


class _Sick(Exception):
    """A check of the doctor's found something wrong, of one of CAUSES."""

    def __init__(self, name: str, cause: str, message: str):
        super().__init__(f"{name}: {message}")
        self.cause = cause


def _check_database(bridge: Bridge) -> Iterator[tuple[str, str]]:
    try:
        free = bridge.store.free_bytes()
        if free < FEW_BYTES:
            raise _Sick("Database", "disk_full", "The disk is full")
        bridge.store.try_write()
    except StoreError as error:
        raise _Sick("Database", *_blame(bridge, error)) from None
    yield "Database", f"{bridge.store.path} can be written, {free / 1e9:.1f} GB free"


def _check_aifi(bridge: Bridge) -> Iterator[tuple[str, str]]:
    """Ask AiFi for a token, the newest order and its details."""
    try:
        newest = bridge.client.try_list()
        yield "AiFi's access token", "accepted"
        ahead = bridge.client.clock_ahead_seconds or 0.0
        odd = "" if abs(ahead) < CLOCK_SECONDS else " (the bridge copes, but times look odd)"
        yield "AiFi's clock", f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours{odd}"
        if newest is None:
            yield "AiFi's list of orders", "there is none yet"
            return
        order = aifi.read_order(newest, aifi.LIST)
        yield "AiFi's list of orders", f"the newest is {order.id} of {_clock(order.order['created_at'])}"
        if bridge.client.get_order(order.id) is None:
            raise _Sick("AiFi's details", "aifi_refuses", f"it does not show those of order {order.id}")
        yield "AiFi's details", f"those of order {order.id} can be read"
    except (aifi.AifiError, aifi.Unreadable, StoreError) as error:
        raise _Sick("AiFi", *_blame(bridge, error)) from None


def _check_public(bridge: Bridge, url: str) -> Iterator[tuple[str, str]]:
    """Push a webhook that is ignored through the public URL, to see that it leads here and knows the secret."""
    if not bridge.config.webhook_secret:
        raise _Unchecked("Public URL: not checked, as webhooks are off")
    try:
        note = bridge.store.notes().get("public_url")
    except StoreError as error:
        raise _Sick("Public URL", *_blame(bridge, error)) from None
    address = (url or (note.text if note else "")).rstrip("/")
    if not address:
        raise _Unchecked("Public URL: not known until Aide has polled; name it with --url")
    try:
        answer = requests.post(
            f"{address}/webhooks/aifi",
            json={"timeOfIssue": bridge.store.now()},
            headers={"Authorization": f"Bearer {bridge.config.webhook_secret}"},
            timeout=PAYMENT_SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        name = type(error).__name__
        raise _Sick("Public URL", "public_url_unreachable", f"{address} does not answer ({name})") from None
    if answer.status_code == 401:
        raise _Sick("Public URL", "webhook_secret_wrong", f"{address} knows another webhook secret")
    if answer.status_code != 200:
        raise _Sick("Public URL", "public_url_unreachable", f"{address} answers {answer.status_code} to a webhook")
    yield "Public URL", f"{address} answers, and takes webhooks"


@click.command()
@click.option("--days", type=click.IntRange(1, 36500), default=BACKFILL_DAYS, show_default=True)
@with_appcontext
def backfill(days: int) -> None:
    """Read older orders into the mirror; goes on where it was when started again."""
    bridge, count, begun = _bridge(), 0, time.monotonic()
    now = bridge.store.now()
    until = shift(now, -days * 86400)
    try:
        bridge.mirror.refresh()
        start = bridge.store.marks().horizon
        span = max(1, round(utc_seconds(start) - utc_seconds(until)))
        with click.progressbar(length=span, label="Backfill", item_show_func=lambda text: text) as bar:
            for more, horizon in bridge.mirror.backfill(until):
                count += more
                rate = count / max(time.monotonic() - begun, 0.001)
                bar.update(
                    round(utc_seconds(start) - utc_seconds(horizon)) - bar.pos,
                    f"{count:,} orders, {rate:,.0f} a second, back to {horizon[:10]}",
                )
            bar.update(span - bar.pos)  # AiFi may have nothing that old
    except (aifi.AifiError, StoreError) as error:
        raise click.ClickException(f"{error}. What was read is kept: start it again to go on.") from None
    except KeyboardInterrupt:
        raise click.ClickException("Interrupted. What was read is kept: start it again to go on.") from None
    marks = bridge.store.marks()
    click.echo(f"{count:,} older orders read; the mirror reaches back to {_clock(marks.horizon)}.")


@click.command()
@with_appcontext
def status() -> None:
    """Print what the status page shows."""
    overview = look_over(_bridge())
    for problem in overview.problems:
        click.echo(f"✗ {problem.message} → {problem.remedy}")
    for label, value in overview.facts:
        click.echo(f"{label + ':':<22}{value}")
    for at, problem, count in overview.errors:
        click.echo(f"{at}  {problem.message} ({count} so far)")


# --- shared ---


def _header(name: str) -> str:
    """Return a header as clients send it, in UTF-8; WSGI hands it over as Latin-1."""
    return request.headers.get(name, "").encode("latin-1", "replace").decode("utf-8", "replace")


def _bearer() -> str | None:
    scheme, _, token = _header("Authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _matches(offered: tuple[str | None, ...], keys: tuple[str, ...]) -> bool:
    """Compare every key that was offered with every right one, in constant time."""
    found = False
    for text in offered:
        for key in keys:
            found |= hmac.compare_digest((text or "").encode("utf-8", "replace"), key.encode("utf-8", "replace"))
    return found


def _json(value: Any, status: int = 200) -> Response:
    return _json_text(json.dumps(value, separators=(",", ":")), status)


def _json_text(text: str, status: int = 200) -> Response:
    return Response(text + "\n", status, {"Cache-Control": "no-store"}, mimetype="application/json")


def _error(status: int, code: str, message: str) -> Response:
    return _json({"error": {"code": code, "message": message}}, status)


def _bad_request(code: str, message: str) -> BadRequest:
    error = BadRequest(message)
    error.code_name = code
    return error


def _answer_error(error: Exception) -> Response:
    """Turn every error into the one JSON shape."""
    if not isinstance(error, HTTPException):
        kind = "database_unavailable" if isinstance(error, StoreError) else "aifi_unavailable"
        error = ServiceUnavailable(f"{str(error)[:1].upper()}{str(error)[1:]}.")
        error.code_name = kind
    code = getattr(error, "code_name", error.name.lower().replace(" ", "_"))
    response = _error(error.code or 500, code, error.description or error.name)
    if error.code == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if error.code == 401:
        response.headers["WWW-Authenticate"] = getattr(error, "scheme", "Bearer")
    if error.code == 405:
        response.headers["Allow"] = ", ".join(error.valid_methods or ())
    return response
