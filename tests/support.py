"""What tests of more than one layer are written with: a store with a clock of our own, AiFi's client, settings."""

import json
import logging
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aifi import Client
from config import Config
from database import Database, Layout
from marks import Marks
from orders import DETAIL, HISTORY, LIST, LISTS, SWEEP, WEBHOOK, Snapshot
from sqlite import SqliteDatabase
from store import Page, Store, layout
from times import shift, utc_seconds
from transport import AifiError, Token

NOW = "2025-11-01T12:00:00.000Z"
ENOUGH = {"AIDE_API_KEY": "aide-key", "AIFI_ACCESS_TOKEN": "aifi-token"}
TASK_SECONDS = 20
API = [HISTORY, LIST, SWEEP, DETAIL]
TOKEN_URL = "https://auth.aifi.test/token"
STATIC, SECRET = "static-access-token", "very-secret-client-secret"


def table(cases: dict[str, Any]) -> dict[str, Any]:
    """Return a table of cases by id as arguments for `parametrize`."""
    return {"argvalues": list(cases.values()), "ids": list(cases)}


# --- a store


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: str = NOW):
        self.seconds = utc_seconds(now)

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.seconds += seconds


def ago(seconds: float) -> str:
    """Return the time so many seconds before the test's beginning."""
    return shift(NOW, -seconds)


LOW, HIGH = ago(3000), ago(1000)  # between which the fixture `served` has served orders
HEAD = shift(HIGH, 0.001)  # the place above that


def look(
    order_id: str | None = "1",
    at: str | None = None,
    source: str = LIST,
    *,
    session_id: str | None = None,
    version: int | None = None,
    dated: bool | None = None,
    **fields: Any,
) -> Snapshot:
    """Return a snapshot, of a paid order drafted ten minutes ago where nothing else is said."""
    return Snapshot(
        order_id,
        {"created_at": ago(600), "status": "paid", "total_amount": 2.15, **fields},
        at or ago(300),
        source,
        session_id,
        version,
        dated=source != WEBHOOK if dated is None else dated,
        listed=source in LISTS,
    )


def move_marks(store: Store, **values: Any) -> Marks:
    """Move marks, wherever they stand."""
    return store.move_marks(store.marks(), **values)


def page(store: Store, limit: int = 100, after: tuple[str, str] | None = None) -> Page:
    """Serve a page that the mirror can serve."""
    served = store.serve_page(limit, after, may_be_short=False)
    assert isinstance(served, Page)
    return served


def rows(served: Page) -> list[tuple[str, str]]:
    return [(row["updated_at"], row["id"]) for row in map(json.loads, served.summaries)]


def ids(store: Store) -> list[str]:
    """Return all ids in the order of the list."""
    return [order_id for _, order_id in rows(page(store, 10_000))]


def updated_at(store: Store, order_id: str = "1") -> str:
    order = store.get_order(order_id)
    assert order is not None
    return order.updated_at


def status(store: Store, order_id: str = "1") -> str:
    order = store.get_order(order_id)
    assert order is not None
    return order.status


def new_store(
    place: object, origin: str = "", clock: Callable[[], float] | None = None, may_replace: bool = True
) -> Store:
    """Return a store on that file, or on the server of that address."""
    return Store(new_database(str(place), layout({"origin": origin}), clock, may_replace))


def new_database(
    place: str, wanted: Layout, clock: Callable[[], float] | None = None, may_replace: bool = True
) -> Database:
    """Return the database in that file, or on the server of that address; with a clock of our own, if one is given."""
    if not is_server(place):
        return SqliteDatabase(place, wanted, clock or time.time, may_replace)
    from postgres import PostgresDatabase

    database = PostgresDatabase(place, wanted, may_replace)
    if clock:
        vars(database)["clock"] = clock
    return database


def is_server(place: str) -> bool:
    return place.startswith("postgresql://")


def lose(place: str, locks: bool = False) -> None:
    """Lose all tables, as on a disk that is wiped; with the locks that are held, if that is said."""
    if not is_server(place):
        Path(place).unlink(missing_ok=True)
        for path in Path(place).parent.glob("*.lock") if locks else ():
            path.unlink()
        return
    import psycopg

    with psycopg.connect(place, autocommit=True) as db:
        others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while locks and db.execute(f"SELECT pg_terminate_backend(pid, 1000) {others}".encode()).fetchall():
            pass
        for (name,) in db.execute("SELECT nspname FROM pg_namespace WHERE starts_with(nspname, 'bridge_v')").fetchall():
            db.execute(f"DROP SCHEMA {name} CASCADE".encode())


def join_tasks() -> None:
    """Wait until no task of a mirror is under way; one may start another as it ends."""
    while tasks := [thread for thread in threading.enumerate() if thread.name.startswith("task ")]:
        for thread in tasks:
            thread.join(TASK_SECONDS)
            assert not thread.is_alive(), f"{thread.name} does not end"


# --- AiFi's client


def credentials(url: str = TOKEN_URL, scope: str = "") -> Token:
    return Token(client_id="the-client", client_secret=SECRET, url=url, scope=scope)


def assert_nothing_is_told(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AifiError) as failure:
        client.get("/orders")
    told = "".join(traceback.format_exception(failure.value)) + repr(failure.value) + caplog.text
    assert [secret for secret in (SECRET, "token-1", "token-2") if secret in told] == []


# --- the configuration


def read(**variables: str) -> Config:
    """Read a sufficient environment with these variables."""
    return Config.from_environment({**ENOUGH, **variables})
