"""The command line: doctor, backfill, status."""

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

import click
import requests
from flask import current_app
from flask.cli import with_appcontext

from aifi import Client
from config import WEBHOOK_PATH, Config, complete_address
from diagnosis import Services, describe_filters, diagnose, find_remedy, is_disk_full, look_over, name_cause
from errors import BridgeError, Cause, StoreError
from orders import LIST
from times import DAY, minute_text, shift, utc_seconds, utc_text
from translation import Unreadable, read_order
from transport import AifiError, AifiRefused, Token

BACKFILL_DAYS = 30
SWITCH_SECONDS = 0.0005  # until a backfill's thread makes way for one whose turn it is to ask AiFi; else ten times that


# --- doctor

CHECK_SECONDS = 15
HTTP_SECONDS = 10
CLOCK_SECONDS = 60  # how far AiFi's clock may be off without a word
FILTERS_TRIED = 10
FILTER_REMEDY = "Correct this value, or take it out of the variable."
HEALTH_REQUESTS = 8  # of two instances, so many miss one in less than one of a hundred cases
CHECK_HEADER = {"X-Bridge-Check": "1"}  # a webhook with it is not passed on to the payment endpoint
DATABASE_CAUSES = (Cause.DATABASE_UNAVAILABLE, Cause.DISK_FULL)


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: `mark` is … (at it), ✓ (good), ✗ (wrong), – (not checked) or → (to do next)."""

    mark: str
    text: str
    cause: str = ""
    remedy: str = ""


@dataclass
class Examination:
    """What the doctor looks at, and what one check leaves to those after it."""

    services: Services
    url: str
    causes: set[str] = field(default_factory=set)  # found so far
    health: dict[str, Any] | None = None  # what /healthz answers at the public URL

    @property
    def config(self) -> Config:
        """Return the configuration of the bridge."""
        return self.services.config

    def wrong(self, cause: Cause, text: str) -> Finding:
        """Return a finding that something is wrong, with its remedy."""
        return Finding("✗", text, cause, find_remedy(self.config, cause))


Check = Callable[[Examination], Iterator[Finding]]


@click.command()
@click.option("--url", default="", help="Where the public reaches this bridge, if it cannot know.")
@with_appcontext
def doctor(url: str) -> None:
    """Check the configuration, the database, AiFi and the public URL; say what to do about what is wrong."""
    examination = Examination(_services(), url)
    logging.getLogger("bridge").setLevel(logging.CRITICAL)  # the findings say it
    click.echo("✓ Configuration: complete")  # without that, this would not run
    for name, cause, check in CHECKS:
        for finding in _within_bound(examination, name, cause, check):
            if finding.cause:
                examination.causes.add(finding.cause)
            click.echo(f"{finding.mark} {finding.text}" + (f" → {finding.remedy}" if finding.remedy else ""))
    raise SystemExit(1 if examination.causes else 0)


def _services() -> Services:
    """Return the services of a command: the shell it runs in may have other variables than the running service."""
    services: Services = current_app.extensions["bridge"]
    services.store.keep_tables()
    return services


def _within_bound(examination: Examination, name: str, cause: Cause, check: Check) -> Iterator[Finding]:
    """Yield a check's findings as they come; what it still waits for at the bound is left behind."""
    found: queue.SimpleQueue[Finding | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for finding in check(examination):
                found.put(finding)
            found.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again below, where it ends the command
            found.put(error)

    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + CHECK_SECONDS
    while True:
        try:
            finding = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield examination.wrong(cause, f"{name}: not done within {CHECK_SECONDS} s")
            return
        if finding is None:
            return
        if isinstance(finding, BaseException):
            raise finding
        yield finding


def _check_database(examination: Examination) -> Iterator[Finding]:
    store = examination.services.store
    yield Finding("…", "Database: writing to it")
    try:
        if is_disk_full(store):
            yield examination.wrong(Cause.DISK_FULL, f"Database: The disk is full ({store.name})")
            return
        store.try_write()
        free = store.free_bytes()
    except StoreError as error:
        cause, message = name_cause(examination.services, error)
        yield examination.wrong(cause, f"Database: {message} ({store.name})")
    else:
        room = "" if free is None else f", {free / 1e9:.1f} GB free"
        yield Finding("✓", f"Database: {store.name} can be written{room}")


def _check_aifi(examination: Examination) -> Iterator[Finding]:
    """Ask AiFi for a token, the newest order and its details."""
    config = examination.config
    client = _client(config, config.store_ids, config.roles)
    yield Finding("…", f"AiFi: asking for the newest order, {CHECK_SECONDS} s at most")
    try:
        newest = client.try_list()
        yield Finding("✓", "AiFi's access token: accepted")
        ahead = client.clock_ahead_seconds or 0.0
        odd = "" if abs(ahead) < CLOCK_SECONDS else " (the bridge copes, but times look odd)"
        yield Finding("✓", f"AiFi's clock: {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours{odd}")
        if newest is None and config.filters:
            yield examination.wrong(Cause.NO_ORDERS, f"AiFi shows no orders with {describe_filters(config)}")
        elif newest is None:
            yield Finding("✓", "AiFi's list of orders: there is none yet")
        else:
            yield from _check_details(examination, client, newest)
    except BridgeError as error:
        yield examination.wrong(error.cause, f"AiFi: {error}")
    except Unreadable as error:
        yield examination.wrong(Cause.AIFI_UNREADABLE, f"AiFi: its newest order cannot be read: {error}")


def _check_details(examination: Examination, client: Client, newest: Any) -> Iterator[Finding]:
    order = read_order(newest, LIST)
    at = minute_text(order.order["created_at"])
    yield Finding("✓", f"AiFi's list of orders: the newest is {order.id} of {at}")
    if client.get_order(str(order.id)) is None:
        yield examination.wrong(Cause.AIFI_REFUSES, f"AiFi's details: it does not show those of order {order.id}")
    else:
        yield Finding("✓", f"AiFi's details: those of order {order.id} can be read")


def _client(config: Config, store_ids: tuple[str, ...], roles: tuple[str, ...]) -> Client:
    """Return a client that does without the database, which may be what is wrong."""
    return Client(config.base_url, Token(**config.token), store_ids, roles)


def _check_filters(examination: Examination) -> Iterator[Finding]:
    """Try each store and role by itself, to name the one that AiFi refuses or has no orders of."""
    config, blamed = examination.config, {Cause.AIFI_REFUSES, Cause.NO_ORDERS}
    if not config.filters or examination.causes - blamed - set(DATABASE_CAUSES):
        return
    yield Finding("…", f"Filters: asking AiFi for an order of each, {CHECK_SECONDS} s at most")
    try:
        if _client(config, (), ()).try_list() is None:
            yield Finding("–", "Filters: not checked, as AiFi shows no orders without them either")
            return
    except AifiError as error:
        yield Finding("–", f"Filters: not checked, as AiFi answers no list without them either ({error})")
        return
    stores = [("AIFI_STORE_ID", value, _client(config, (value,), ())) for value in config.store_ids]
    roles = [("AIFI_CUSTOMER_ROLE", value, _client(config, (), (value,))) for value in config.roles]
    for name, value, client in (stores + roles)[:FILTERS_TRIED]:
        try:
            some = client.try_list() is not None
        except AifiRefused as error:
            yield Finding("✗", f"{name} {value}: {error}", error.cause, FILTER_REMEDY)
            continue
        except AifiError as error:
            yield examination.wrong(error.cause, f"{name} {value}: {error}")
            return
        if some:
            yield Finding("✓", f"{name} {value}: AiFi shows orders")
        else:
            yield Finding("✗", f"{name} {value}: AiFi shows no orders", Cause.NO_ORDERS, FILTER_REMEDY)


def _check_public_url(examination: Examination) -> Iterator[Finding]:
    """See that the public URL leads to this bridge, to one instance of it, and that it takes webhooks there."""
    try:
        address = _find_address(examination)
    except ValueError as error:
        yield examination.wrong(Cause.PUBLIC_URL_UNREACHABLE, f"Public URL: {error}")
        return
    if not address:
        yield Finding("–", "Public URL: not known until Aide has polled; name it with --url")
        return
    yield Finding("…", f"Public URL: calling {address}, {CHECK_SECONDS} s at most")
    try:
        yield from _check_health(examination, address)
        if examination.health is None:
            return
        if not examination.config.webhook_secret:
            yield Finding("–", "Webhooks: not checked, as they are off")
            return
        yield _check_webhook(examination, address)
    except requests.RequestException as error:
        name = type(error).__name__
        yield examination.wrong(Cause.PUBLIC_URL_UNREACHABLE, f"Public URL: {address} does not answer ({name})")


def _find_address(examination: Examination) -> str:
    """Return where the public reaches the bridge: as named, as the platform says, or as Aide last came in.

    :raises ValueError: what was named is not an address
    """
    if examination.url:
        if not (address := complete_address(examination.url)):
            raise ValueError(f"{examination.url} is not a web address")
        return address.rstrip("/")
    if examination.config.public_url or examination.causes & set(DATABASE_CAUSES):
        return examination.config.public_url
    note = examination.services.store.notes().get("public_url")
    return note.text.rstrip("/") if note else ""


def _check_health(examination: Examination, address: str) -> Iterator[Finding]:
    """Ask /healthz several times, each on a connection of its own, so that every instance may answer."""
    instances = set()
    for _ in range(HEALTH_REQUESTS):
        answer = _send("GET", f"{address}/healthz")
        health = _json_object(answer)
        if answer.status_code != 200 or not {"status", "problems"} <= health.keys():
            text = f"Public URL: {address} answers {answer.status_code} to /healthz, but not as this bridge does"
            yield examination.wrong(Cause.PUBLIC_URL_UNREACHABLE, text)
            return
        instances.add(health.get("instance"))
        examination.health = health
        if not health.get("instance"):  # its database fails, which takes its time to tell
            break
    yield Finding("✓", f"Public URL: {address} answers")
    if len(instances) > 1:
        text = f"Instances: {len(instances)} answer at {address}, each with a mirror of its own"
        yield examination.wrong(Cause.SEVERAL_INSTANCES, text)


def _check_webhook(examination: Examination, address: str) -> Finding:
    """Push a webhook that is ignored."""
    answer = _send(
        "POST",
        address + WEBHOOK_PATH,
        json={"timeOfIssue": utc_text(time.time())},
        # As bytes, since text in a header can only be Latin-1.
        headers={"Authorization": f"Bearer {examination.config.webhook_secret}".encode()},
    )
    if answer.status_code == 401:
        return examination.wrong(Cause.WEBHOOK_SECRET_WRONG, f"Webhooks: {address} has another webhook secret")
    if answer.status_code != 200 or answer.text.strip() != "{}":
        text = f"Webhooks: {address} answers {answer.status_code} to one, but not as this bridge does"
        return examination.wrong(Cause.PUBLIC_URL_UNREACHABLE, text)
    return Finding("✓", f"Webhooks: {address} takes them")


def _check_payment_endpoint(examination: Examination) -> Iterator[Finding]:
    """Send the payment endpoint an OPTIONS request, which by HTTP's rules changes nothing, so it pays nothing."""
    url, cause = examination.config.payment_webhook_url, Cause.PAYMENT_ENDPOINT_FAILED
    if not url:
        return
    name = f"Payment endpoint: {urlsplit(url).hostname}"
    yield Finding("…", f"Payment endpoint: asking what it takes, {CHECK_SECONDS} s at most")
    try:
        answer = _send("OPTIONS", url)
    except requests.RequestException as error:
        yield examination.wrong(cause, f"{name} does not answer ({type(error).__name__})")
        return
    status, allowed = answer.status_code, answer.headers.get("Allow", "POST").upper()
    # A path that is there may refuse the method (405, 501) or ask for AiFi's own credentials (401, 403).
    if status in (404, 410) or 300 <= status < 400 or (status >= 500 and status != 501):
        yield examination.wrong(cause, f"{name} answers {status} to an OPTIONS request")
    elif "POST" not in allowed:
        yield examination.wrong(cause, f"{name} does not take POST, only {allowed}")
    else:
        yield Finding("✓", f"{name} is there ({status} to an OPTIONS request, which pays nothing)")


def _check_bridge(examination: Examination) -> Iterator[Finding]:
    """Report what the running bridge and this process know to be wrong, each cause once."""
    diagnosis, health = diagnose(examination.services), examination.health or {}
    problems = health.get("problems", [])
    known = {problem["cause"] for problem in problems}
    problems = problems + [asdict(problem) for problem in diagnosis.problems if problem.cause not in known]
    told = examination.causes & set(DATABASE_CAUSES)
    for problem in problems:
        if problem["cause"] not in told:
            yield Finding("✗", f"Bridge: {problem['message']}", problem["cause"], problem["remedy"])
    if not (problems or told):
        yield Finding("✓", "Bridge: has met no problem lately")
    for step in health.get("next_steps", diagnosis.steps):
        yield Finding("→", f"Next step: {step}")


def _send(method: str, url: str, headers: dict[str, Any] | None = None, **options: Any) -> requests.Response:
    """Send one request on a connection of its own, without passwords of ~/.netrc; redirects are not followed."""
    return requests.request(
        method,
        url,
        headers={**CHECK_HEADER, **(headers or {})},
        auth=lambda request: request,
        timeout=HTTP_SECONDS,
        allow_redirects=False,
        **options,
    )


def _json_object(answer: requests.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


CHECKS: tuple[tuple[str, Cause, Check], ...] = (
    ("Database", Cause.DATABASE_UNAVAILABLE, _check_database),
    ("AiFi", Cause.AIFI_UNAVAILABLE, _check_aifi),
    ("Filters", Cause.AIFI_UNAVAILABLE, _check_filters),
    ("Public URL", Cause.PUBLIC_URL_UNREACHABLE, _check_public_url),
    ("Payment endpoint", Cause.PAYMENT_ENDPOINT_FAILED, _check_payment_endpoint),
    ("Bridge", Cause.DATABASE_UNAVAILABLE, _check_bridge),
)


# --- backfill and status


@click.command()
@click.option("--days", type=click.IntRange(1, 36500), default=BACKFILL_DAYS, show_default=True)
@with_appcontext
def backfill(days: int) -> None:
    """Read older orders into the mirror; goes on where it was when started again."""
    services, count, begun = _services(), 0, time.monotonic()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        now = services.store.now()
        until = shift(now, -days * DAY)
        services.mirror.refresh()
        start = services.store.marks().horizon or now
        span = max(1, round(utc_seconds(start) - utc_seconds(until)))
        with click.progressbar(length=span, label="Backfill", item_show_func=lambda text: text) as bar:
            for more, horizon in services.mirror.backfill(until):
                count += more
                rate = count / max(time.monotonic() - begun, 0.001)
                bar.update(
                    round(utc_seconds(start) - utc_seconds(horizon)) - bar.pos,
                    f"{count:,} orders, {rate:,.0f} a second, back to {horizon[:10]}",
                )
            bar.update(span - bar.pos)  # AiFi may have nothing that old
    except BridgeError as error:
        raise click.ClickException(f"{error}. What was read is kept: start it again to go on.") from None
    except KeyboardInterrupt:
        raise click.ClickException("Interrupted. What was read is kept: start it again to go on.") from None
    horizon = services.store.marks().horizon or now
    click.echo(f"{count:,} older orders read; the mirror reaches back to {minute_text(horizon)}.")


@click.command()
@with_appcontext
def status() -> None:
    """Print what the status page shows."""
    overview = look_over(_services())
    click.echo(overview.headline)
    for problem in overview.problems:
        click.echo(f"✗ {problem.message} → {problem.remedy}")
    for step in overview.steps:
        click.echo(f"→ Next step: {step}")
    for label, value in overview.facts + overview.settings:
        click.echo(f"{label + ':':<22}{value}")
    for at, problem, count in overview.errors:
        click.echo(f"{at}  {problem.message} ({count} so far)")
