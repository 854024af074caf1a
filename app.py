"""The Flask app: wiring, Aide's routes, AiFi's webhook, health, the status page, and errors as JSON."""

import base64
import concurrent.futures
import functools
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

import requests
from flask import Flask, Response, current_app, render_template, request
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
from commands import backfill, doctor, status
from config import LOCAL_HOSTS, Config, read_config
from database import Database
from diagnosis import REMEDIES, Notes, Services, age_seconds, diagnose, look_over
from errors import BridgeError, Cause, StoreError
from intake import Settings
from mirror import Mirror, Tasks
from store import Store, layout
from translation import CheckoutWebhook, OtherWebhook, Unreadable, parse_json, read_webhook

log = logging.getLogger("bridge.app")

MAX_BODY_BYTES = 1024 * 1024
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 100
RETRY_AFTER_SECONDS = 10
PAYMENT_CONNECT_SECONDS, PAYMENT_SECONDS = 3, 10
MAX_PAYMENT_BYTES = 1024 * 1024
TOKEN_CHECK_BYTES = 6
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


# --- the app ---


def create_app(config: Config | None = None) -> Flask:
    """Build the app, from the environment where no configuration is given; opens no file and no connection yet.

    :raises SystemExit: the environment's configuration is of no use; its text says what to set
    """
    config = config or read_config(os.environ)
    _set_up_log(config.log_level)
    app = Flask("bridge", root_path=os.path.dirname(os.path.abspath(__file__)), static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1  # one more tells a body that is too long from one cut there
    app.url_map.merge_slashes = False  # a redirect would be no JSON
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # one proxy: the platform's router
    app.extensions["bridge"], app.extensions["payments"] = _wire(config), Tasks()
    for prefix, name in (("/v1", "v1"), ("", "root")):
        app.add_url_rule(f"{prefix}/latest_orders", f"{name}_latest_orders", latest_orders)
        app.add_url_rule(f"{prefix}/orders/<order_id>", f"{name}_order", get_order)
        app.add_url_rule(f"{prefix}/customers/<customer_id>", f"{name}_customer", get_customer)
        app.add_url_rule(f"{prefix}/openapi.yaml", f"{name}_openapi", openapi)
    app.add_url_rule("/webhooks/aifi", "webhook", take_webhook, methods=["POST"])
    app.add_url_rule("/healthz", "healthz", healthz)
    app.add_url_rule("/", "status", status_page)
    app.add_url_rule("/readme", "readme", readme)
    for command in (doctor, backfill, status):
        app.cli.add_command(command)
    for error in (HTTPException, BridgeError):
        app.register_error_handler(error, _answer_error)
    return app


def _wire(config: Config) -> Services:
    for warning in config.warnings:
        log.warning("%s. %s", warning, REMEDIES[Cause.VARIABLE_MISSPELT])
    store = Store(Database(config.database_path, layout(config.origin())))
    token = aifi.Token(**config.token)
    client = aifi.Client(config.base_url, token, config.store_ids, config.roles, store.take_request_slot)
    settings = Settings(
        config.refresh_seconds, config.refresh_wait_seconds, config.store_ids, config.roles, config.currency
    )
    return Services(config, store, client, Mirror(client, store, settings), Notes(store))


def _set_up_log(level: str) -> None:
    logger = logging.getLogger("bridge")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)


def _services() -> Services:
    services: Services = current_app.extensions["bridge"]
    return services


# --- Aide's side ---


def _for_aide(view: Callable[..., Response]) -> Callable[..., Response]:
    """Let a request through that carries one of Aide's keys, as `X-API-Key` or `Authorization: Bearer`."""

    @functools.wraps(view)
    def guarded(**arguments: str) -> Response:
        offered = (_header("X-API-Key"), _bearer())
        if not _matches(offered, _services().config.aide_api_keys):
            if any(offered):
                _services().notes.note(Cause.AIDE_KEY_WRONG, "Somebody asked with a wrong Aide key")
            raise Unauthorized("Send Aide's key as X-API-Key or as Authorization: Bearer.")
        return view(**arguments)

    return guarded


@_for_aide
def latest_orders() -> Response:
    """Answer a page of the orders updated last, newest first (Aide's `/latest_orders`)."""
    limit, after = _page_size(), _page_token()
    page = _services().mirror.page(limit, after)
    if after is None and _services().notes.note("poll", f"{len(page.summaries)} orders"):
        _services().notes.note_change("public_url", request.url_root)
    token = "" if page.ended else f',"next_page_token":"{encode_token(page.last)}"'
    # The summaries are JSON already; reading and writing them again would cost as much as all the rest.
    return _json_text(f'{{"orders":[{",".join(page.summaries)}]{token}}}')


@_for_aide
def get_order(order_id: str) -> Response:
    """Answer one order in full (Aide's `/orders/{orderId}`); a session's id finds its order too."""
    order = _services().mirror.order(order_id)
    if order is None:
        raise NotFound("AiFi knows no such order.")
    return _json(order.body())


@_for_aide
def get_customer(customer_id: str) -> Response:
    """Answer one customer (Aide's `/customers/{customerId}`)."""
    customer = _services().mirror.customer(customer_id)
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
    config, mirror = _services().config, _services().mirror
    if not config.webhook_secret:
        raise ServiceUnavailable("Webhooks are off: set AIFI_WEBHOOK_SECRET, and give AiFi the URL with that secret.")
    if not _matches((_bearer(), request.args.get("token")), (config.webhook_secret,)):
        if _bearer() or request.args.get("token"):
            _services().notes.note(Cause.WEBHOOK_SECRET_WRONG, "A webhook came with a wrong secret")
        raise Unauthorized("Send the webhook secret as Authorization: Bearer or as ?token=.")
    body = _read_body()
    try:
        webhook = read_webhook(parse_json(body, refuse_nan=True), _services().store.now(), config.currency)
    except Unreadable as error:
        log.warning("Webhook refused: %s", error)
        _services().notes.note(Cause.WEBHOOK_REFUSED, f"A webhook was refused: {error}")
        raise _bad_request("invalid_webhook", f"Not a webhook of AiFi's: {error}.") from None
    receipt = mirror.store_webhook(webhook)
    if not isinstance(webhook, OtherWebhook):  # other webhooks, and the doctor's, are nothing to speak of
        log.info("Webhook: %s", receipt)
        _services().notes.note("webhook", str(receipt))
    if isinstance(webhook, CheckoutWebhook) and config.payment_webhook_url:
        return _pass_on(_services(), body)
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


def _pass_on(services: Services, body: bytes) -> Response:
    """Give a webhook to the payment endpoint, and its answer back unchanged; 502 where it has none in time."""
    url = services.config.payment_webhook_url
    try:
        # In a thread of its own, as requests bounds the wait for each byte, but not for all of them.
        call = current_app.extensions["payments"].share(object(), functools.partial(_post_payment, url, body))
        return Response(*call.result(PAYMENT_SECONDS))
    except (*aifi.NETWORK_ERRORS, aifi.AifiUnavailable, concurrent.futures.TimeoutError) as error:
        log.error("The payment endpoint did not answer: %s", type(error).__name__)
        services.notes.note(Cause.PAYMENT_ENDPOINT_FAILED, "The retailer's payment endpoint did not answer")
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
    """Show the operator how the bridge does; HTTP Basic with any name and an Aide key as password."""
    services = _services()
    if not _matches((_password(),), services.config.aide_api_keys):
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


def _password() -> str | None:
    try:
        login = request.authorization
    except ValueError:  # not ASCII, where werkzeug expects base64
        return None
    return login.password if login and login.type == "basic" else None


def _ask_to_log_in() -> Response:
    """Ask for name and password; whoever cancels that in a browser sees a page, and a program JSON."""
    error = Unauthorized("This is a bridge's status page. Log in with any name, and Aide's key as the password.")
    error.scheme = 'Basic realm="bridge", charset="UTF-8"'
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
        raise error
    response = _render("login.html")
    response.status_code, response.headers["WWW-Authenticate"] = 401, error.scheme
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
