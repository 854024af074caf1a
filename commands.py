"""The command line: doctor, backfill, status."""

import functools
import time
from collections.abc import Iterator

import click
import requests
from flask import current_app
from flask.cli import with_appcontext

import aifi
from diagnosis import CAUSES, FEW_BYTES, Bridge, _blame, _clock, diagnose, look_over
from orders import LIST
from store import StoreError
from times import shift, utc_seconds
from translation import Unreadable, read_order

CLOCK_SECONDS = 60  # how far AiFi's clock may be off without a word
BACKFILL_DAYS = 30
PUBLIC_SECONDS = 10


@click.command()
@click.option("--url", default="", help="Where the public reaches this bridge, if it cannot know.")
@with_appcontext
def doctor(url: str) -> None:
    """Check the configuration, the database, AiFi and the public URL; say what to do about what is wrong."""
    bridge, wrong = current_app.extensions["bridge"], 0
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
        order = read_order(newest, LIST)
        yield "AiFi's list of orders", f"the newest is {order.id} of {_clock(order.order['created_at'])}"
        if bridge.client.get_order(order.id) is None:
            raise _Sick("AiFi's details", "aifi_refuses", f"it does not show those of order {order.id}")
        yield "AiFi's details", f"those of order {order.id} can be read"
    except (aifi.AifiError, Unreadable, StoreError) as error:
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
            timeout=PUBLIC_SECONDS,
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
    bridge, count, begun = current_app.extensions["bridge"], 0, time.monotonic()
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
    overview = look_over(current_app.extensions["bridge"])
    for problem in overview.problems:
        click.echo(f"✗ {problem.message} → {problem.remedy}")
    for label, value in overview.facts:
        click.echo(f"{label + ':':<22}{value}")
    for at, problem, count in overview.errors:
        click.echo(f"{at}  {problem.message} ({count} so far)")
