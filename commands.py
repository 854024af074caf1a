"""The command line: doctor, backfill, status."""

import functools
import time
from collections.abc import Iterator

import click
import requests
from flask import current_app
from flask.cli import with_appcontext

from diagnosis import FEW_BYTES, REMEDIES, Services, diagnose, look_over, name_cause
from errors import BridgeError, Cause, StoreError
from orders import LIST
from times import minute_text, shift, utc_seconds
from translation import Unreadable, read_order

CLOCK_SECONDS = 60  # how far AiFi's clock may be off without a word
BACKFILL_DAYS = 30
PUBLIC_SECONDS = 10


@click.command()
@click.option("--url", default="", help="Where the public reaches this bridge, if it cannot know.")
@with_appcontext
def doctor(url: str) -> None:
    """Check the configuration, the database, AiFi and the public URL; say what to do about what is wrong."""
    services, wrong = _services(), 0
    click.echo("✓ Configuration: complete")  # without that, this would not run
    for check in (_check_database, _check_aifi, functools.partial(_check_public, url=url)):
        try:
            for name, finding in check(services):
                click.echo(f"✓ {name}: {finding}")
        except _Unchecked as reason:
            click.echo(f"– {reason}")
        except _Failed as error:
            wrong += 1
            click.echo(f"✗ {error} → {REMEDIES[error.cause]}")
    problems, _ = diagnose(services)
    for problem in problems:
        click.echo(f"✗ Bridge: {problem.message} → {problem.remedy}")
    if not problems:
        click.echo("✓ Bridge: has met no problem lately")
    raise SystemExit(1 if wrong or problems else 0)


def _services() -> Services:
    services: Services = current_app.extensions["bridge"]
    return services


class _Unchecked(Exception):
    """The doctor could not check something, for the reason in the text."""


class _Failed(Exception):
    """A check of the doctor's failed, for this cause."""

    def __init__(self, name: str, cause: Cause, message: str):
        super().__init__(f"{name}: {message}")
        self.cause = cause


def _check_database(services: Services) -> Iterator[tuple[str, str]]:
    try:
        free = services.store.free_bytes()
        if free < FEW_BYTES:
            raise _Failed("Database", Cause.DISK_FULL, "The disk is full")
        services.store.try_write()
    except StoreError as error:
        raise _Failed("Database", *name_cause(services, error)) from None
    yield "Database", f"{services.store.name} can be written, {free / 1e9:.1f} GB free"


def _check_aifi(services: Services) -> Iterator[tuple[str, str]]:
    """Ask AiFi for a token, the newest order and its details."""
    try:
        newest = services.client.try_list()
        yield "AiFi's access token", "accepted"
        ahead = services.client.clock_ahead_seconds or 0.0
        odd = "" if abs(ahead) < CLOCK_SECONDS else " (the bridge copes, but times look odd)"
        yield "AiFi's clock", f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours{odd}"
        if newest is None:
            yield "AiFi's list of orders", "there is none yet"
            return
        order = read_order(newest, LIST)
        yield "AiFi's list of orders", f"the newest is {order.id} of {minute_text(order.order['created_at'])}"
        if services.client.get_order(order.id) is None:
            raise _Failed("AiFi's details", Cause.AIFI_REFUSES, f"it does not show those of order {order.id}")
        yield "AiFi's details", f"those of order {order.id} can be read"
    except (BridgeError, Unreadable) as error:
        raise _Failed("AiFi", *name_cause(services, error)) from None


def _check_public(services: Services, url: str) -> Iterator[tuple[str, str]]:
    """Push a webhook that is ignored through the public URL, to see that it leads here and knows the secret."""
    if not services.config.webhook_secret:
        raise _Unchecked("Public URL: not checked, as webhooks are off")
    try:
        note = services.store.notes().get("public_url")
    except StoreError as error:
        raise _Failed("Public URL", *name_cause(services, error)) from None
    address = (url or (note.text if note else "")).rstrip("/")
    if not address:
        raise _Unchecked("Public URL: not known until Aide has polled; name it with --url")
    try:
        answer = requests.post(
            f"{address}/webhooks/aifi",
            json={"timeOfIssue": services.store.now()},
            headers={"Authorization": f"Bearer {services.config.webhook_secret}"},
            timeout=PUBLIC_SECONDS,
            allow_redirects=False,
        )
    except requests.RequestException as error:
        name = type(error).__name__
        raise _Failed("Public URL", Cause.PUBLIC_URL_UNREACHABLE, f"{address} does not answer ({name})") from None
    if answer.status_code == 401:
        raise _Failed("Public URL", Cause.WEBHOOK_SECRET_WRONG, f"{address} knows another webhook secret")
    if answer.status_code != 200:
        raise _Failed(
            "Public URL", Cause.PUBLIC_URL_UNREACHABLE, f"{address} answers {answer.status_code} to a webhook"
        )
    yield "Public URL", f"{address} answers, and takes webhooks"


@click.command()
@click.option("--days", type=click.IntRange(1, 36500), default=BACKFILL_DAYS, show_default=True)
@with_appcontext
def backfill(days: int) -> None:
    """Read older orders into the mirror; goes on where it was when started again."""
    services, count, begun = _services(), 0, time.monotonic()
    now = services.store.now()
    until = shift(now, -days * 86400)
    try:
        services.mirror.refresh()
        start = services.store.marks().horizon
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
    marks = services.store.marks()
    click.echo(f"{count:,} older orders read; the mirror reaches back to {minute_text(marks.horizon)}.")


@click.command()
@with_appcontext
def status() -> None:
    """Print what the status page shows."""
    overview = look_over(_services())
    for problem in overview.problems:
        click.echo(f"✗ {problem.message} → {problem.remedy}")
    for label, value in overview.facts:
        click.echo(f"{label + ':':<22}{value}")
    for at, problem, count in overview.errors:
        click.echo(f"{at}  {problem.message} ({count} so far)")
