"""The Flask app: wiring, Aide's routes, AiFi's webhook, health, the status page, and errors as JSON."""

import base64
import contextlib
import functools
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from flask import Flask, Response, current_app, render_template, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.middleware.proxy_fix import ProxyFix

import aifi
import transport
from commands import backfill, doctor, status
from config import LOCAL_HOSTS, Config, read_config
from database import Database
from diagnosis import REMEDIES, Notes, Services, age_seconds, diagnose, look_over
from errors import BridgeError, Cause, StoreError
from intake import Settings
from mirror import Mirror
from relay import RELAY_HEADER, BodyError, PaymentFailed, PaymentOverloaded, PaymentRelay, decompress
from store import Store, layout
from translation import OtherWebhook, Unreadable, Webhook, is_customer_webhook, parse_json, read_webhook

log = logging.getLogger("bridge.app")

WEBHOOK_PATH = "/webhooks/aifi"


class ApiError(Exception):
    """A request that is answered with an error: this status, and this code and message as JSON."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


# --- the app ---


def create_app(config: Config | None = None) -> Flask:
    """Build the app, from the environment where no configuration is given; opens no file and no connection yet.

    :raises SystemExit: the environment's configuration cannot be used; its text says what to set
    """
    config = config or read_config(os.environ)
    _set_up_log(config.log_level)
    app = Flask("bridge", root_path=os.path.dirname(os.path.abspath(__file__)), static_folder=None)
    app.url_map.merge_slashes = False  # it would redirect, and a redirect is not JSON: _tidy_path does it
    wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # one proxy: the platform's router
    app.wsgi_app = _tidy_path(wsgi_app)  # type: ignore[method-assign]  # Flask's documented way to add middleware
    app.extensions["bridge"] = _wire(config)
    app.extensions["relay"] = PaymentRelay(config.payment_webhook_url) if config.payment_webhook_url else None
    for prefix, name in (("/v1", "v1"), ("", "root")):
        app.add_url_rule(f"{prefix}/latest_orders", f"{name}_latest_orders", latest_orders)
        app.add_url_rule(f"{prefix}/orders/<order_id>", f"{name}_order", get_order)
        app.add_url_rule(f"{prefix}/customers/<customer_id>", f"{name}_customer", get_customer)
        app.add_url_rule(f"{prefix}/openapi.yaml", f"{name}_openapi", openapi)
    app.add_url_rule(WEBHOOK_PATH, "webhook", take_webhook, methods=["POST"])
    app.add_url_rule("/healthz", "healthz", healthz)
    app.add_url_rule("/", "status", status_page)
    app.add_url_rule("/readme", "readme", readme)
    for command in (doctor, backfill, status):
        app.cli.add_command(command)
    for error in (ApiError, HTTPException, BridgeError):
        app.register_error_handler(error, _answer_error)
    return app


def _wire(config: Config) -> Services:
    for warning in config.warnings:
        log.warning("%s. %s", warning, REMEDIES[Cause.VARIABLE_MISSPELT])
    store = Store(_database(config))
    token = transport.Token(**config.token)
    client = aifi.Client(config.base_url, token, config.store_ids, config.roles, store.take_request_slot)
    settings = Settings(
        config.refresh_seconds, config.refresh_wait_seconds, config.store_ids, config.roles, config.currency
    )
    return Services(config, store, client, Mirror(client, store, settings), Notes(store))


def _database(config: Config) -> Database:
    """Return the server that DATABASE_URL names, or the file.

    :raises SystemExit: the address cannot be read
    """
    wanted = layout(config.origin())
    # Imported here, as each driver costs memory.
    if not config.database_url:
        from sqlite import SqliteDatabase

        return SqliteDatabase(config.database_path, wanted)
    from postgres import PostgresDatabase

    try:
        return PostgresDatabase(config.database_url, wanted)
    except StoreError as error:
        raise SystemExit(f"The bridge cannot start:\n✗ DATABASE_URL: {error}") from None


def _set_up_log(level: str) -> None:
    logger = logging.getLogger("bridge")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


def _tidy_path(wsgi_app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Wrap the app so that doubled and trailing slashes in a path do no harm."""

    def tidied(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # An escaped slash belongs to an id. PATH_INFO holds it unescaped, so only the raw address can tell.
        if "%2f" not in environ.get("RAW_URI", "").partition("?")[0].lower():
            environ["PATH_INFO"] = re.sub("/+", "/", environ["PATH_INFO"]).rstrip("/") or "/"
        return wsgi_app(environ, start_response)

    return tidied


def _services() -> Services:
    services: Services = current_app.extensions["bridge"]
    return services


# --- Aide's side ---

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 100
TOKEN_CHECK_BYTES = 6


def _for_aide(view: Callable[..., Response]) -> Callable[..., Response]:
    """Let a request through only if it carries one of Aide's keys."""

    @functools.wraps(view)
    def guarded(**arguments: str) -> Response:
        if not _matches(_offered_keys(), _services().config.aide_api_keys):
            cause = Cause.AIDE_KEY_WRONG if any(_offered_keys()) else Cause.AIDE_KEY_ABSENT
            raise _unauthorized(cause, "Aide's key", "AIDE_API_KEY as X-API-Key or as Authorization: Bearer")
        return view(**arguments)

    return guarded


@_for_aide
def latest_orders() -> Response:
    """Answer a page of the orders updated last, newest first (Aide's `/latest_orders`)."""
    limit, after = _page_size(), _page_token()
    page = _services().mirror.page(limit, after)
    if after is None and _services().notes.note("poll", f"{len(page.summaries)} orders"):
        _services().notes.note_change("public_url", request.url_root)
    token = "" if page.ended or page.last is None else f',"next_page_token":"{encode_token(page.last)}"'
    # The database holds each summary as JSON text. Joining the texts keeps a poll cheap: parsing them, only to write
    # them again, would cost as much as all the rest. A token is Base64, so it needs no escapes either.
    return _json_text(f'{{"orders":[{",".join(page.summaries)}]{token}}}')


@_for_aide
def get_order(order_id: str) -> Response:
    """Answer one order in full (Aide's `/orders/{orderId}`); a session's id finds its order too."""
    body = _services().mirror.order_body(order_id)
    if body is None:
        raise ApiError(404, "not_found", "AiFi knows no such order.")
    return _json(body)


@_for_aide
def get_customer(customer_id: str) -> Response:
    """Answer one customer (Aide's `/customers/{customerId}`)."""
    customer = _services().mirror.customer(customer_id)
    if customer is None:
        raise ApiError(404, "not_found", "AiFi knows no such customer.")
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

    :raises ValueError: it is damaged, or not from this bridge
    """
    data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    updated_at, _, order_id = data[TOKEN_CHECK_BYTES:].decode().partition(" ")
    if encode_token((updated_at, order_id)) != token:
        raise ValueError("not a page token of this bridge")
    return updated_at, order_id


def _check_sum(text: bytes) -> bytes:
    return hashlib.blake2s(text, digest_size=TOKEN_CHECK_BYTES).digest()


def _page_size() -> int:
    text = request.args.get("page_size") or str(DEFAULT_PAGE_SIZE)
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_PAGE_SIZE:
        raise ApiError(400, "invalid_page_size", f"page_size must be a whole number from 1 to {MAX_PAGE_SIZE}.")
    return int(text)


def _page_token() -> tuple[str, str] | None:
    token = request.args.get("page_token")
    if not token:
        return None
    try:
        return decode_token(token)
    except ValueError:
        message = "page_token is damaged or not from this bridge: begin at the top."
        raise ApiError(400, "invalid_page_token", message) from None


# --- AiFi's side ---

MAX_KEPT_BYTES, MAX_RELAYED_BYTES = 1024 * 1024, 10 * 1024 * 1024
BODY_ERRORS = {"unsupported_encoding": 415, "request_entity_too_large": 413, "invalid_body": 400}  # statuses by code
CHECK_HEADER = "X-Bridge-Check"  # on what the doctor sends to see that the public URL leads here


def take_webhook() -> Response:
    """Take in a webhook of AiFi's; where there is a payment endpoint, pass it on and answer what that answers."""
    relay: PaymentRelay | None = current_app.extensions["relay"]
    if relay and RELAY_HEADER in request.headers:
        message = "PAYMENT_WEBHOOK_URL leads back to this bridge: set it to the retailer's payment endpoint."
        raise ApiError(508, "relay_loop", message, {RELAY_HEADER: "loop"})
    _require_webhook_secret()
    body = _read_body(MAX_RELAYED_BYTES if relay else MAX_KEPT_BYTES)
    if relay and not _is_for_bridge_alone(body):
        return _pass_on(relay, body)
    _keep(body)
    return _json({})


def _require_webhook_secret() -> None:
    """Raise an error unless the request carries the webhook secret, as `Authorization: Bearer` or `?token=`."""
    secret, authorization = _services().config.webhook_secret, _header("Authorization")
    if not secret:
        message = "Webhooks are off: set AIFI_WEBHOOK_SECRET, and give AiFi the URL with that secret."
        raise ApiError(503, "webhooks_off", message)
    scheme, _, bearer = authorization.partition(b" ")
    offered = [*_query_tokens(), *([bearer] if scheme.lower() == b"bearer" else [])]
    if not _matches(offered, (secret,)):
        cause = Cause.WEBHOOK_SECRET_WRONG if any(offered) else Cause.WEBHOOK_SECRET_ABSENT
        raise _unauthorized(cause, "The webhook secret", "AIFI_WEBHOOK_SECRET as Authorization: Bearer or as ?token=")


def _query_tokens() -> Iterator[bytes]:
    """Yield what `?token=` may mean: a raw `+` is itself, as in a pasted secret, or a blank, as in a form."""
    for part in request.query_string.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"token":
            yield unquote_to_bytes(value)
            yield unquote_to_bytes(value.replace(b"+", b" "))


def _read_body(limit: int) -> bytes:
    """Return the request's body as it came; one that is too long or cannot be read to its end is the sender's error."""
    request.max_content_length = limit + 1  # one more tells a body that is too long from one cut there
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise _too_large(limit) from None
    except (OSError, ValueError, ParseException):  # what gunicorn raises for broken chunks
        raise ApiError(400, "invalid_body", "The body broke off or is badly chunked.") from None
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "request_entity_too_large", f"The body is larger than {limit // 1024**2} MB.")


def _is_for_bridge_alone(body: bytes) -> bool:
    """Return whether a webhook is a customer's, or the doctor's check, which the payment endpoint must not get."""
    if CHECK_HEADER in request.headers:
        return True
    try:
        return is_customer_webhook(_parse_body(body))
    except (ApiError, Unreadable):
        return False


def _keep(body: bytes) -> None:
    """Store what a webhook says; when this returns, what is kept of it is on disk.

    :raises ApiError: it cannot be read
    :raises StoreError: it cannot be stored
    """
    services = _services()
    try:
        webhook = _read_webhook(body)
    except ApiError as refusal:
        log.warning("Webhook refused: %s", refusal.message)
        services.notes.note(Cause.WEBHOOK_REFUSED, f"A webhook was refused: {refusal.message}")
        raise
    receipt = services.mirror.store_webhook(webhook)
    if not isinstance(webhook, OtherWebhook):  # the others, and the doctor's, change nothing
        log.info("Webhook: %s", receipt)
        services.notes.note("webhook", str(receipt))


def _try_to_keep(body: bytes) -> None:
    """Store what a webhook says if that is possible; whatever fails must not harm the payment, so it is only logged."""
    try:
        _keep(body)
    except ApiError:
        return  # logged and noted already
    except StoreError as error:
        log.warning("A webhook was passed on but not stored: %s", error)
    except Exception:
        log.exception("A webhook was passed on but not stored")


def _read_webhook(body: bytes) -> Webhook:
    try:
        return read_webhook(_parse_body(body), _services().store.now(), _services().config.currency)
    except Unreadable as error:
        raise ApiError(400, "invalid_webhook", f"Not a webhook of AiFi's: {error}.") from None


def _parse_body(body: bytes) -> Any:
    try:
        plain = decompress(body, request.headers.get("Content-Encoding", ""), MAX_KEPT_BYTES)
    except BodyError as error:
        raise ApiError(BODY_ERRORS[error.code], error.code, str(error)) from None
    return parse_json(plain, refuse_nan=True)


def _pass_on(relay: PaymentRelay, body: bytes) -> Response:
    """Pass a webhook on, store it meanwhile, and return the payment endpoint's answer as it came."""
    try:
        answer = relay.pass_on(body, _headers_to_pass_on(), functools.partial(_try_to_keep, body))
    except (PaymentFailed, PaymentOverloaded) as error:
        _tell_payment_failed(str(error))
        raise
    if failure := answer.failure():
        _tell_payment_failed(failure)
    else:
        _services().notes.note("payment", f"answered {answer.status}", ends=Cause.PAYMENT_ENDPOINT_FAILED)
    response = Response(answer.body, answer.status, answer.headers)
    if "Content-Type" not in answer.headers:
        del response.headers["Content-Type"]  # Flask's own guess
    return response


def _headers_to_pass_on() -> dict[str, str]:
    """Return what describes the body, and AiFi's own `Authorization` unless that holds a secret of the bridge's."""
    names, config = ["Content-Type", "Content-Encoding"], _services().config
    if not _matches(_keys_in(_header("Authorization")), (config.webhook_secret, *config.aide_api_keys)):
        names.append("Authorization")
    return {name: request.headers[name] for name in names if request.headers.get(name)}


def _tell_payment_failed(text: str) -> None:
    log.error("%s", text)
    _services().notes.note(Cause.PAYMENT_ENDPOINT_FAILED, text, ends="payment")


# --- the operator's side ---

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


def healthz() -> Response:
    """Answer whether the bridge works, to anybody: 200 while this process can serve, whatever AiFi does."""
    services = _services()
    diagnosis = diagnose(services)
    problems, marks = diagnosis.problems, diagnosis.marks
    body: dict[str, Any] = {"status": "degraded" if problems else "ok"}
    if marks:
        asked = marks.refreshed_at or marks.failing_since
        body["aifi_answers"] = not marks.failing_since if asked and marks.cause != Cause.DATABASE_UNAVAILABLE else None
        body["mirror_age_seconds"] = age_seconds(services, marks.refreshed_at) if marks.refreshed_at else None
        body["failing_since"] = marks.failing_since
        body["last_error"] = marks.error or (problems[0].message if problems else None)
        body["instance"] = diagnosis.instance
    return _json({**body, "problems": [asdict(problem) for problem in problems], "next_steps": diagnosis.steps})


def status_page() -> Response:
    """Show the operator the state of the bridge; HTTP Basic with any name and an Aide key as password."""
    services, (_, password) = _services(), _basic_login(_header("Authorization"))
    if not _matches([password], services.config.aide_api_keys):
        return _ask_to_log_in()
    services.mirror.refresh_if_stale()
    # Over plain http others may read along; on the machine itself there are none.
    secure = request.is_secure or request.host.rsplit(":", 1)[0].strip("[]") in LOCAL_HOSTS
    shown = secure and request.args.get("secrets") == "show"
    return _render(
        "status.html",
        secure=secure,
        shown=shown,
        overview=look_over(services),
        public_url=request.url_root,
        https_url=f"https://{request.host}/",
        aide_key=services.config.aide_api_keys[0] if shown else "",
        webhook_secret=quote(services.config.webhook_secret, safe="") if shown else "",
        has_webhook_secret=bool(services.config.webhook_secret),
    )


def _ask_to_log_in() -> Response:
    """Ask for name and password; whoever cancels that in a browser sees a page, and a program JSON."""
    scheme = {"WWW-Authenticate": 'Basic realm="bridge", charset="UTF-8"'}
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
        message = "This is a bridge's status page. Log in with any name, and Aide's key as the password."
        raise ApiError(401, "unauthorized", message, scheme)
    response = _render("login.html")
    response.status_code = 401
    response.headers.update(scheme)
    return response


def _render(template: str, **values: Any) -> Response:
    """Return a page that may load and run nothing but its own style and script."""
    nonce = secrets.token_urlsafe(16)
    response = Response(render_template(template, nonce=nonce, **values), headers=PAGE_HEADERS)
    response.headers["Content-Security-Policy"] = PAGE_POLICY.format(nonce=nonce)
    return response


def readme() -> Response:
    """Answer the README, to which the status page refers."""
    path = os.path.join(current_app.root_path, "README.md")
    with open(path, encoding="utf-8") as file:
        return Response(file.read(), mimetype="text/plain")


# --- keys and secrets ---

KEY_HEADERS = ("X-API-Key", "Api-Key", "Authorization")


def _offered_keys() -> Iterator[bytes]:
    """Yield every text in the request's headers that may be Aide's key; which form Aide uses is not documented."""
    for name in KEY_HEADERS:
        yield from _keys_in(_header(name))


def _keys_in(value: bytes) -> Iterator[bytes]:
    """Yield what may be a key in a header: all of it, what follows its first word, Basic's user and password."""
    yield value
    yield value.partition(b" ")[2]
    yield from _basic_login(value)


def _basic_login(authorization: bytes) -> tuple[bytes, bytes]:
    """Return user and password of HTTP Basic, empty where there are none; werkzeug's parser fails on some bytes."""
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() == b"basic":
        with contextlib.suppress(ValueError):
            user, _, password = base64.b64decode(rest + b"==").partition(b":")
            return user, password
    return b"", b""


def _header(name: str) -> bytes:
    """Return a header as the client sent it; WSGI hands its bytes over as Latin-1."""
    return request.headers.get(name, "").encode("latin-1", "replace").strip()


def _unauthorized(cause: Cause, name: str, remedy: str) -> ApiError:
    """Note a request without the right key or secret, and return its error."""
    word = "missing" if cause in (Cause.AIDE_KEY_ABSENT, Cause.WEBHOOK_SECRET_ABSENT) else "wrong"
    _services().notes.note(cause, f"A request was refused: {name} is {word}")
    return ApiError(
        401, "unauthorized", f"{name} is {word}: send the value of {remedy}.", {"WWW-Authenticate": "Bearer"}
    )


def _matches(offered: Iterable[bytes], keys: Iterable[str]) -> bool:
    """Return whether one of the texts is one of the keys; blanks and line ends around a pasted text do no harm.

    A comparison by `==` ends at the first byte that differs, so its time would show a guesser how much is right.
    `compare_digest` always takes the same time, and every pair is compared, even after a match.
    """
    encoded, found = [form for key in keys for form in _encodings(key)], False
    for text in offered:
        for key in encoded:
            found |= hmac.compare_digest(text.strip(), key)
    return found


def _encodings(key: str) -> set[bytes]:
    """Return the bytes that a client may send for a key: UTF-8, and Latin-1 as some HTTP libraries do."""
    forms = {key.encode("utf-8", "surrogateescape")}
    with contextlib.suppress(UnicodeEncodeError):
        forms.add(key.encode("latin-1"))
    return forms


# --- shared ---

RETRY_AFTER_SECONDS = 10


def _json(value: Any, status: int = 200) -> Response:
    return _json_text(json.dumps(value, separators=(",", ":")), status)


def _json_text(text: str, status: int = 200) -> Response:
    return Response(text + "\n", status, {"Cache-Control": "no-store"}, mimetype="application/json")


def _answer_error(error: Exception) -> Response:
    """Turn every error into the one JSON shape."""
    if not isinstance(error, ApiError):
        error = _as_api_error(error)
    response = _json({"error": {"code": error.code, "message": error.message}}, error.status)
    response.headers.update(error.headers)
    if error.status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response


def _as_api_error(error: Exception) -> ApiError:
    """Return the error to answer for one of AiFi's, of the database's or of Flask's."""
    if isinstance(error, MethodNotAllowed):
        return _refuse_method(error)
    if isinstance(error, NotFound):
        return ApiError(404, "unknown_route", "There is no such route: /openapi.yaml lists the routes.")
    if isinstance(error, HTTPException):
        return ApiError(error.code or 500, error.name.lower().replace(" ", "_"), error.description or error.name)
    message = f"{str(error)[:1].upper()}{str(error)[1:]}."
    if isinstance(error, PaymentFailed):
        return ApiError(502, "payment_endpoint_failed", message)
    if isinstance(error, PaymentOverloaded):
        return ApiError(503, "payment_overloaded", message)
    return ApiError(503, "database_unavailable" if isinstance(error, StoreError) else "aifi_unavailable", message)


def _refuse_method(error: MethodNotAllowed) -> ApiError:
    """Return the error for a method that a route does not take; on the webhook's it may be a console's test ping."""
    allowed, message = ", ".join(error.valid_methods or ()), f"This route does not take {request.method}."
    if request.path == WEBHOOK_PATH:
        message = (
            f"Webhooks must be sent as POST, not as {request.method}: set this URL in AiFi's console as it is, as a "
            "checkout or customer webhook."
        )
        _services().notes.note(Cause.WEBHOOK_NOT_POSTED, f"A {request.method} request came to the webhook URL")
    return ApiError(405, "method_not_allowed", message, {"Allow": allowed})
