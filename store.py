"""The mirror: AiFi's orders as Aide reads them, in one SQLite file that may be lost at any moment.

Knows SQLite, the order of the list, and which of two snapshots of an order wins; knows nothing of HTTP. Every time
is fixed-width UTC text (`2025-11-01T00:00:00.000Z`), so the order of the text is the order of time.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

log = logging.getLogger("bridge.store")
T = TypeVar("T")

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE orders (
    id TEXT PRIMARY KEY,             -- AiFi's id; the session's id while only a webhook without one is known
    updated_at TEXT NOT NULL,        -- the order's place in the list
    created_at TEXT NOT NULL,
    status TEXT NOT NULL,
    customer_id TEXT,
    session_id TEXT,
    version INTEGER,
    aifi_at TEXT NOT NULL,           -- AiFi's own time of this state
    pushed_at TEXT,                  -- when the webhook came that brought this state; NULL: the Orders API did
    checked_at TEXT,                 -- when the Orders API was last asked about the order
    confirmed INTEGER NOT NULL,      -- 1: the Orders API has shown the order
    detailed INTEGER NOT NULL,       -- 1: its details of this state are in
    cut INTEGER NOT NULL,            -- 1: met on a history page and placed before AiFi's own time
    open INTEGER NOT NULL,           -- 1: AiFi may still change it, or has not confirmed it
    summary TEXT NOT NULL,           -- JSON, the fields that the list shows
    detail TEXT NOT NULL             -- JSON, all others
);
CREATE INDEX orders_by_update ON orders (updated_at, id);
CREATE INDEX orders_by_session ON orders (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX orders_by_customer ON orders (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX orders_open ON orders (checked_at) WHERE open = 1;
CREATE INDEX orders_unconfirmed ON orders (checked_at) WHERE confirmed = 0;
CREATE TABLE customers (id TEXT PRIMARY KEY, body TEXT NOT NULL, known_at TEXT NOT NULL);
CREATE INDEX customers_by_time ON customers (known_at);
CREATE TABLE marks (
    origin TEXT NOT NULL,            -- which AiFi, stores and roles this file mirrors
    served_low TEXT, served_high TEXT,
    horizon TEXT, complete INTEGER NOT NULL DEFAULT 0,
    newest_draft TEXT, newest_update TEXT,
    refreshed_at TEXT, reread_at TEXT, unfiltered_at TEXT,
    failures INTEGER NOT NULL DEFAULT 0, failing_since TEXT, retry_at TEXT, cause TEXT, error TEXT,
    next_request_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, at TEXT NOT NULL, text TEXT NOT NULL, count INTEGER NOT NULL DEFAULT 1);
"""

HISTORY, LIST, DETAIL, WEBHOOK = "history", "list", "detail", "webhook"
SUMMARY_FIELDS = ("id", "updated_at", "display_id", "created_at", "status", "total_amount", "currency", "customer_id")
LIFE = ("draft", "completed_so_far", "completed", "paymentProcessing", "unpaid", "paid", "contested", "reviewed")
OPEN = frozenset({"draft", "completed_so_far", "completed", "paymentProcessing", "contested", "unpaid"})
FILLINGS = frozenset({"created_at", "line_items", "session"})  # detail of a state, no news of their own
MINUTE, HOUR, DAY = 60, 3600, 86400
SETTLING_SECONDS = HOUR  # an order is nearly always settled within this time of its draft
BUSY_SECONDS = 5.0
JOURNAL_BYTES = 16 * 1024 * 1024
MAX_UNCONFIRMED = 10_000  # orders that only webhooks have named
MAX_CUSTOMERS = 10_000


class StoreError(Exception):
    """The mirror cannot be read or written now; the text says why, for people. Trying again later may help."""


@dataclass(frozen=True)
class Snapshot:
    """One look at an order, in Aide's fields.

    `order` leaves out what AiFi did not say; None stands for what AiFi said there is not. `at` is AiFi's time of this
    state, `source` one of HISTORY, LIST, DETAIL, WEBHOOK. A webhook may know the session instead of the id.
    """

    id: str | None
    order: Mapping[str, Any]
    at: str
    source: str
    session_id: str | None = None
    version: int | None = None


@dataclass(frozen=True)
class Order:
    """A mirrored order: its row, with `order` for what Aide may see but `id`, `updated_at` and `display_id`."""

    id: str
    updated_at: str
    order: Mapping[str, Any]
    session_id: str | None
    version: int | None
    aifi_at: str
    pushed_at: str | None
    checked_at: str | None
    confirmed: bool
    detailed: bool
    cut: bool

    @property
    def status(self) -> str:
        """AiFi's word; empty where AiFi gave none."""
        return self.order.get("status") or ""

    @property
    def is_session_only(self) -> bool:
        """Whether it is known only by webhooks that named its session, but no order id."""
        return not self.confirmed and self.id == self.session_id

    @property
    def open(self) -> bool:
        """Whether AiFi may still change the order, or has not confirmed what a webhook said."""
        return self.status in OPEN or self.pushed_at is not None

    def body(self) -> dict[str, Any]:
        """Return the order in full, as Aide gets it: what AiFi does not have is left out."""
        known = {key: value for key, value in self.order.items() if value is not None}
        display_id = known.get("external_id") or self.id
        named = {"id": self.id, "display_id": display_id, "updated_at": self.updated_at}
        return {**named, **known, "canceled_at": None}


@dataclass(frozen=True)
class Page:
    """One page of the list: the orders' summaries as JSON text, newest first.

    `last` is the (updated_at, id) to go on after; None where nothing was served. `ended`: AiFi has nothing older.
    """

    summaries: list[str]
    last: tuple[str, str] | None
    ended: bool


@dataclass(frozen=True)
class Marks:
    """How far the mirror has come. `horizon`: all orders drafted since are here; None: nothing was read yet."""

    origin: str
    served_low: str | None
    served_high: str | None
    horizon: str | None
    complete: int
    newest_draft: str | None
    newest_update: str | None
    refreshed_at: str | None
    reread_at: str | None
    unfiltered_at: str | None
    failures: int
    failing_since: str | None
    retry_at: str | None
    cause: str | None
    error: str | None
    next_request_at: float


@dataclass(frozen=True)
class Note:
    """What happened last of a kind, for the operator, and how often it did so far."""

    at: str
    text: str
    count: int


@dataclass(frozen=True)
class Statistics:
    """`orders` mirrored in all; `hourly`: how many of them were drafted in each of the last hours, the latest last."""

    orders: int
    hourly: list[tuple[str, int]]


def utc_text(seconds: float) -> str:
    """Return seconds since 1970 as fixed-width UTC text, to the millisecond."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{datetime.fromtimestamp(whole, timezone.utc):%Y-%m-%dT%H:%M:%S}.{thousandths:03d}Z"


def utc_seconds(text: str) -> float:
    """Return fixed-width UTC text as seconds since 1970."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc).timestamp()


def shift(text: str, seconds: float) -> str:
    """Return the time `seconds` after `text`."""
    return utc_text(utc_seconds(text) + seconds)


# --- which snapshot wins, and where it goes: pure functions ---


def takes_back(old_status: str, new_status: str) -> bool:
    """Return whether the new status lies before the old one in an order's life; unknown words lie nowhere."""
    if old_status not in LIFE or new_status not in LIFE:
        return False
    return LIFE.index(new_status) < LIFE.index(old_status)


def applies(row: Order, snapshot: Snapshot, now: str) -> bool:
    """Return whether the snapshot replaces the stored state.

    A webhook must not be older, nor take the order back. The Orders API always beats a webhook, but for a minute, when
    its lists may lag behind, must not take the order back. Between API answers the version decides, then the time.
    """
    back = takes_back(row.status, snapshot.order.get("status") or "")
    if snapshot.source == WEBHOOK:
        return snapshot.at >= row.aifi_at and not back
    if row.pushed_at is not None:
        return not back or now >= shift(row.pushed_at, MINUTE)
    known = row.version or 1
    return (snapshot.version or known, snapshot.at) >= (known, row.aifi_at)


def is_news(row: Order, snapshot: Snapshot) -> bool:
    """Return whether the snapshot says something else than the row; more detail of the same state is no news."""
    same_state = snapshot.source == WEBHOOK or row.pushed_at is not None or snapshot.at <= row.aifi_at
    for key, value in snapshot.order.items():
        if key in row.order:
            if _conflict(row.order[key], value) and not (same_state and key in FILLINGS):
                return True
        elif value is not None and not same_state and key not in FILLINGS:
            return True
    return False


def place(row: Order | None, snapshot: Snapshot, now: str, served: tuple[str, str] | None) -> tuple[str, bool]:
    """Return the `updated_at` of a new or changed order, and whether it was cut.

    It is AiFi's time, but never later than now, never before the order's former place, and never within the range that
    was served: there it would be overlooked, so it goes to the head. A history page is no news, and stays within an
    hour of the draft, below all that was served.
    """
    at = min(snapshot.at, now)
    if row is not None:
        at = max(at, row.updated_at)
    elif snapshot.source == HISTORY:
        limit = shift(snapshot.order["created_at"], SETTLING_SECONDS)
        return min(at, limit), at > limit
    if served and served[0] <= at <= served[1]:
        at = max(now, shift(served[1], 0.001))
    return at, False


def merge(row: Order | None, snapshot: Snapshot, now: str, served: tuple[str, str] | None) -> Order:
    """Return the order as it stands after a snapshot that applies."""
    from_api = snapshot.source != WEBHOOK
    news = row is None or is_news(row, snapshot)
    uncut = row is not None and row.cut and snapshot.source in (LIST, WEBHOOK)
    if news or uncut:
        updated_at, cut = place(row, snapshot, now, served)
    else:
        updated_at, cut = row.updated_at, row.cut
    keeps_api_state = row is not None and not from_api and not news
    return Order(
        id=snapshot.id or (row.id if row else snapshot.session_id),
        updated_at=updated_at,
        order=_merge_fields(row, snapshot, news),
        session_id=snapshot.session_id or (row.session_id if row else None),
        version=snapshot.version or (row.version if row else None),
        aifi_at=row.aifi_at if keeps_api_state else snapshot.at,
        pushed_at=None if from_api else row.pushed_at if keeps_api_state else now,
        checked_at=now if from_api else row.checked_at if row else None,
        confirmed=from_api or bool(row and row.confirmed),
        detailed=snapshot.source == DETAIL or bool(row and row.detailed and not news),
        cut=cut,
    )


def _conflict(old: Any, new: Any) -> bool:
    """Return whether two values contradict each other; what only one of two objects names is no contradiction."""
    if isinstance(old, dict) and isinstance(new, dict):
        return any(_conflict(old[key], new[key]) for key in old.keys() & new.keys())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) != len(new) or any(map(_conflict, old, new))
    return old != new


def _merge_fields(row: Order | None, snapshot: Snapshot, news: bool) -> dict[str, Any]:
    """Return both looks in one: the snapshot's word counts, but must not blur better detail of the same state."""
    if row is None:
        return dict(snapshot.order)
    merged = {**row.order, **snapshot.order}
    for key, value in snapshot.order.items():
        old = row.order.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            merged[key] = {**old, **value}
    blurs = snapshot.source == WEBHOOK or (row.detailed and snapshot.source != DETAIL)
    if blurs and not news and "line_items" in row.order:
        merged["line_items"] = row.order["line_items"]
    if snapshot.source == WEBHOOK and row.confirmed:
        merged["created_at"] = row.order["created_at"]
    return merged


# --- the file ---


class Store:
    """The SQLite file, for any number of threads and processes.

    :param path: the database; created, set aside or rebuilt as needed (it is a mirror)
    :param origin: what is mirrored; a file of another origin is set aside
    :param clock: seconds since 1970; tests replace it
    """

    def __init__(self, path: str, origin: str = "", clock: Callable[[], float] = time.time):
        self.path = os.path.abspath(path)
        self.origin = origin
        self.clock = clock
        self._idle: list[_Connection] = []

    def now(self) -> str:
        """Return the present time as UTC text."""
        return utc_text(self.clock())

    def close(self) -> None:
        """Close the idle connections; the store may be used again."""
        while self._idle:
            self._idle.pop().close()

    # --- orders ---

    def put_orders(self, snapshots: Iterable[Snapshot]) -> tuple[int, int]:
        """Take in snapshots, in one transaction; return how many orders were new and how many changed.

        :raises StoreError: nothing was taken in
        """
        snapshots = list(snapshots)

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            now, counts, marks = self.now(), [0, 0], _marks(db)
            served = (marks.served_low, marks.served_high) if marks.served_high else None
            for snapshot in snapshots:
                news = _put_order(db, snapshot, served, now)
                if news is not None:
                    counts[news] += 1
            return counts[0], counts[1]

        return self._write(work)

    def get_order(self, order_id: str) -> Order | None:
        """Return the order with this id, or of the session with this id."""

        def work(db: sqlite3.Connection) -> Order | None:
            return _order_by_id(db, order_id) or _order_by_session(db, order_id)

        return self._read(work)

    def serve_page(self, limit: int, after: tuple[str, str] | None, may_be_short: bool) -> Page | None:
        """Return the page after the row `(updated_at, id)`, and remember in the same transaction what it served.

        :param may_be_short: False: return None where the page would reach below the horizon
        """

        def work(db: sqlite3.Connection, writing: bool) -> tuple[Page | None, bool]:
            marks = _marks(db)
            floor = "" if marks.complete else shift(marks.horizon, SETTLING_SECONDS) if marks.horizon else "~"
            rows = _rows_below(db, after or ("~", ""), floor, limit + 1)
            if not (len(rows) > limit or marks.complete or may_be_short):
                return None, True
            ended = bool(marks.complete) and len(rows) <= limit
            del rows[limit:]
            last = (rows[-1]["updated_at"], rows[-1]["id"]) if rows else after
            page = Page([row["summary"] for row in rows], last, ended)
            if not rows:
                return page, True
            return page, _remember_served(db, marks, rows[-1]["updated_at"], rows[0]["updated_at"], writing)

        page, remembered = self._read(lambda db: work(db, False))
        return page if remembered else self._write(lambda db: work(db, True))[0]

    def orders_to_check(self, limit: int, before: str, only_pushed: bool) -> list[tuple[str, bool]]:
        """Return (id, whether that is only a session's) of orders to ask AiFi about, longest unchecked first.

        Those are the ones whose state a webhook brought over a minute ago and, unless `only_pushed`, the open ones
        (unpaid ones for a day). Whatever was checked since `before` is left out, and what AiFi denied for an hour.
        """
        now = self.now()
        sql = """
            SELECT id, confirmed = 0 AND id IS session_id FROM orders
            WHERE open = 1 AND coalesce(checked_at, '') < :before
            AND (confirmed OR coalesce(checked_at, '') < :hour_ago)
            AND (pushed_at < :minute_ago OR
                 (NOT :only_pushed AND (status <> 'unpaid' OR created_at > :day_ago OR pushed_at IS NOT NULL)))
            ORDER BY checked_at LIMIT :limit"""
        arguments = {
            "before": before,
            "minute_ago": shift(now, -MINUTE),
            "hour_ago": shift(now, -HOUR),
            "day_ago": shift(now, -DAY),
            "only_pushed": only_pushed,
            "limit": limit,
        }
        return self._read(lambda db: [tuple(row) for row in db.execute(sql, arguments)])

    def mark_checked(self, order_id: str) -> None:
        """Remember that AiFi was asked about an order now, and did not know it."""
        sql = "UPDATE orders SET checked_at = ? WHERE id = ?"
        self._write(lambda db: db.execute(sql, (self.now(), order_id)))

    # --- customers ---

    def put_customer(self, customer_id: str, body: Mapping[str, Any]) -> None:
        """Keep a customer; the ones known longest make room."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO customers VALUES (?, ?, ?)", (customer_id, _json(body), self.now()))
            db.execute(
                "DELETE FROM customers WHERE known_at < (SELECT known_at FROM customers ORDER BY known_at DESC"
                " LIMIT 1 OFFSET ?)",
                (MAX_CUSTOMERS - 1,),
            )

        self._write(work)

    def drop_customer(self, customer_id: str) -> None:
        """Forget a customer, whom AiFi does not know any longer."""
        self._write(lambda db: db.execute("DELETE FROM customers WHERE id = ?", (customer_id,)))

    def get_customer(self, customer_id: str) -> tuple[dict[str, Any], str] | None:
        """Return a customer and since when it is known, or None."""
        sql = "SELECT body, known_at FROM customers WHERE id = ?"
        row = self._read(lambda db: db.execute(sql, (customer_id,)).fetchone())
        return (json.loads(row["body"]), row["known_at"]) if row else None

    def names_customer(self, customer_id: str) -> bool:
        """Return whether an order names the customer."""
        sql = "SELECT 1 FROM orders WHERE customer_id = ? LIMIT 1"
        return self._read(lambda db: db.execute(sql, (customer_id,)).fetchone()) is not None

    # --- marks, lease, request slots ---

    def marks(self) -> Marks:
        """Return the marks."""
        return self._read(_marks)

    def set_marks(self, **values: Any) -> None:
        """Set marks by name."""
        unknown = values.keys() - {field.name for field in fields(Marks)}
        if unknown:
            raise TypeError(f"no such marks: {sorted(unknown)}")
        sql = f"UPDATE marks SET {', '.join(f'{name} = :{name}' for name in values)}"  # noqa: S608 - checked names
        self._write(lambda db: db.execute(sql, values))

    def lower_horizon(self, start: str, horizon: str | None) -> None:
        """Lower the horizon, after all orders between `start` and it were stored; None: AiFi has nothing older.

        Does nothing where the orders above `start` are not all here: then the file was begun anew meanwhile.
        """
        change = "complete = 1" if horizon is None else "horizon = min(horizon, :horizon)"
        sql = f"UPDATE marks SET {change} WHERE horizon <= :start"  # noqa: S608 - constant
        self._write(lambda db: db.execute(sql, {"start": start, "horizon": horizon}))

    def take_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew the lease of that name for so long; return whether `holder` has it now."""
        now = self.clock()
        # One that ends too late was taken by a clock that has been put back since.
        sql = """INSERT INTO leases VALUES (:name, :holder, :until) ON CONFLICT (name) DO
                 UPDATE SET holder = excluded.holder, until = excluded.until
                 WHERE holder = excluded.holder OR until <= :now OR until > excluded.until"""
        arguments = {"name": name, "holder": holder, "now": now, "until": now + seconds}
        return self._write(lambda db: db.execute(sql, arguments).rowcount == 1)

    def drop_lease(self, name: str, holder: str) -> None:
        """Give a lease back, where `holder` still has it."""
        sql = "DELETE FROM leases WHERE name = ? AND holder = ?"
        self._write(lambda db: db.execute(sql, (name, holder)))

    def take_request_slot(self, interval: float) -> float:
        """Reserve the next of the slots that lie `interval` seconds apart, for all processes; return seconds until it.

        A slot need not survive a power cut, so it does not wait for the disk.
        """
        now = self.clock()

        def work(db: sqlite3.Connection) -> float:
            planned = db.execute("SELECT next_request_at FROM marks").fetchone()[0]
            slot = planned if now < planned < now + MINUTE else now
            db.execute("UPDATE marks SET next_request_at = ?", (slot + interval,))
            return slot - now

        return self._write(work, durable=False)

    # --- for the operator ---

    def put_note(self, name: str, text: str) -> None:
        """Note what happened last of a kind; the kinds are few. Need not survive a power cut."""
        sql = """INSERT INTO notes VALUES (?, ?, ?, 1) ON CONFLICT (name) DO
                 UPDATE SET at = excluded.at, text = excluded.text, count = count + 1"""
        self._write(lambda db: db.execute(sql, (name, self.now(), text)), durable=False)

    def notes(self) -> dict[str, Note]:
        """Return the notes by name."""
        rows = self._read(lambda db: db.execute("SELECT name, at, text, count FROM notes").fetchall())
        return {row["name"]: Note(row["at"], row["text"], row["count"]) for row in rows}

    def statistics(self, hours: int = 24) -> Statistics:
        """Count the orders, and those drafted in each of the last hours; takes a while on large mirrors."""
        now = self.now()
        names = [shift(now, -HOUR * back)[:13] for back in reversed(range(hours))]
        # No order changes before its draft, so the index by update finds the young ones.
        sql = """SELECT substr(created_at, 1, 13) AS hour, count(*) FROM orders
                 WHERE updated_at >= :since AND created_at >= :since GROUP BY hour"""

        def work(db: sqlite3.Connection) -> Statistics:
            found = dict(tuple(row) for row in db.execute(sql, {"since": names[0]}))
            total = db.execute("SELECT count(*) FROM orders").fetchone()[0]
            return Statistics(total, [(f"{name}:00:00.000Z", found.get(name, 0)) for name in names])

        return self._read(work)

    def free_bytes(self) -> int:
        """Return how much room the disk has.

        :raises StoreError: the folder cannot be looked at
        """
        try:
            return shutil.disk_usage(os.path.dirname(self.path)).free
        except OSError as error:
            raise StoreError(f"the database's folder cannot be opened: {error.strerror}") from error

    def try_write(self) -> None:
        """Write to the disk, to see that it works.

        :raises StoreError: it does not
        """
        self._write(lambda db: db.execute("UPDATE marks SET origin = origin"))

    # --- connections and transactions ---

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._transact("BEGIN", work)

    def _write(self, work: Callable[[sqlite3.Connection], T], durable: bool = True) -> T:
        return self._transact("BEGIN IMMEDIATE", work, durable)

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], T], durable: bool = True) -> T:
        """Run `work` in a transaction; a damaged file is set aside, and the work done once more on a new one."""
        for last_try in (False, True):
            db = self._take_idle() or self._open()
            try:
                result = _run(db, begin, work, durable)
            except sqlite3.Error as error:
                db.close()
                if last_try or not _is_damage(error):
                    raise StoreError(f"the database cannot be used: {error}") from error
                self._set_aside(db.file_id, str(error))
            except BaseException:
                db.close()  # which rolls back
                raise
            else:
                self._idle.append(db)
                return result
        raise AssertionError("unreachable")

    def _take_idle(self) -> "_Connection | None":
        """Return an idle connection, unless the file was deleted or replaced since it was opened."""
        while True:
            try:
                db = self._idle.pop()
            except IndexError:
                return None
            if db.file_id == _file_id(self.path):
                return db
            db.close()

    def _open(self) -> "_Connection":
        """Connect to the file; where it is missing or of no use, start a new one, one process at a time."""
        with self._directory_lock():
            for last_try in (False, True):
                if not os.path.exists(self.path):
                    self._remove_companions()
                try:
                    return self._connect()
                except sqlite3.Error as error:
                    if last_try or not _is_damage(error):
                        raise StoreError(f"the database cannot be opened: {error}") from error
                    self._rename(str(error))
        raise AssertionError("unreachable")

    def _connect(self) -> "_Connection":
        db = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=_Connection
        )
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
            _prepare_schema(db, self.origin)
        except BaseException:
            db.close()
            raise
        db.file_id = _file_id(self.path)
        return db

    @contextlib.contextmanager
    def _directory_lock(self) -> Iterator[None]:
        """Keep others from creating or replacing the file meanwhile; the lock dies with its holder."""
        try:
            folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        except OSError as error:
            raise StoreError(f"the database's folder cannot be opened: {error.strerror}") from error
        try:
            deadline = time.monotonic() + BUSY_SECONDS
            while not _try_lock(folder):
                if time.monotonic() > deadline:
                    raise StoreError("the database is being opened by another process")
                time.sleep(0.01)
            yield
        finally:
            os.close(folder)

    def _set_aside(self, file_id: tuple[int, int] | None, why: str) -> None:
        """Rename the file, unless somebody else has replaced it by now."""
        with self._directory_lock():
            if file_id == _file_id(self.path):
                self._rename(why)

    def _rename(self, why: str) -> None:
        """Move the file out of the way, so that a new one is begun; only the last such file is kept."""
        log.error("The database is of no use (%s): kept as %s.set-aside; a new one is filled from AiFi", why, self.path)
        os.replace(self.path, f"{self.path}.set-aside")
        self._remove_companions()

    def _remove_companions(self) -> None:
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path + suffix)


class _Connection(sqlite3.Connection):
    """A connection that remembers which file it opened."""

    file_id: tuple[int, int] | None = None


def _run(db: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], T], durable: bool) -> T:
    if not durable:
        db.execute("PRAGMA synchronous = NORMAL")
    db.execute(begin)
    result = work(db)
    db.execute("COMMIT")
    if not durable:
        db.execute("PRAGMA synchronous = FULL")
    return result


def _prepare_schema(db: sqlite3.Connection, origin: str) -> None:
    """Create the schema in an empty file.

    :raises sqlite3.DatabaseError: the file belongs to another version of this program, or mirrors something else
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
        db.execute("INSERT INTO marks (origin) VALUES (?)", (origin,))
        db.execute("COMMIT")
    elif version != SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"its schema has version {version}, this program's {SCHEMA_VERSION}")
    elif _marks(db).origin != origin:
        raise sqlite3.DatabaseError("it mirrors another AiFi, other stores or roles")


def _is_damage(error: sqlite3.Error) -> bool:
    """Return whether the file itself is of no use. SQLite's "corrupt" and "not a database" come as the bare class."""
    return type(error) is sqlite3.DatabaseError or str(error).startswith(("no such", "Could not decode to UTF-8"))


def _file_id(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- statements ---


def _marks(db: sqlite3.Connection) -> Marks:
    row = db.execute("SELECT * FROM marks").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("its marks are gone")
    return Marks(*row)


def _order(row: sqlite3.Row | None) -> Order | None:
    if row is None:
        return None
    try:
        order = {**json.loads(row["summary"]), **json.loads(row["detail"])}
    except ValueError as error:
        raise sqlite3.DatabaseError("a row cannot be read") from error
    for derived in ("id", "updated_at", "display_id"):
        order.pop(derived)
    return Order(
        id=row["id"],
        updated_at=row["updated_at"],
        order=order,
        session_id=row["session_id"],
        version=row["version"],
        aifi_at=row["aifi_at"],
        pushed_at=row["pushed_at"],
        checked_at=row["checked_at"],
        confirmed=bool(row["confirmed"]),
        detailed=bool(row["detailed"]),
        cut=bool(row["cut"]),
    )


def _order_by_id(db: sqlite3.Connection, order_id: str) -> Order | None:
    return _order(db.execute("SELECT * FROM orders WHERE id = ?", (order_id,)).fetchone())


def _order_by_session(db: sqlite3.Connection, session_id: str) -> Order | None:
    sql = "SELECT * FROM orders WHERE session_id = ? ORDER BY created_at DESC LIMIT 1"
    return _order(db.execute(sql, (session_id,)).fetchone())


def _put_order(db: sqlite3.Connection, snapshot: Snapshot, served: tuple[str, str] | None, now: str) -> bool | None:
    """Take in one snapshot; return False for a new order, True for a changed one, None for no news."""
    stored = _order_by_id(db, snapshot.id) if snapshot.id else _order_by_session(db, snapshot.session_id)
    orphan = _orphan_of(db, snapshot)
    base = stored or orphan
    if stored and orphan and applies(stored, _as_webhook(orphan), orphan.pushed_at):
        base = merge(stored, _as_webhook(orphan), orphan.pushed_at, served)
    if base is None or applies(base, snapshot, now):
        after = merge(base, snapshot, now, served)
    elif snapshot.source != WEBHOOK:
        after = replace(base, checked_at=now, confirmed=True)
    else:
        after = base
    if orphan:
        db.execute("DELETE FROM orders WHERE id = ?", (orphan.id,))
        if not stored:  # to Aide the order has a new id
            after = replace(after, id=snapshot.id, updated_at=place(orphan, snapshot, now, served)[0])
    if base is None and not after.confirmed:
        _make_room(db)
    _save(db, stored, after)
    return None if stored and stored.updated_at == after.updated_at else stored is not None


def _orphan_of(db: sqlite3.Connection, snapshot: Snapshot) -> Order | None:
    """Return the order kept under the snapshot's session because no webhook told its id."""
    if not (snapshot.id and snapshot.session_id) or snapshot.id == snapshot.session_id:
        return None
    row = _order_by_id(db, snapshot.session_id)
    return row if row and row.is_session_only else None


def _as_webhook(row: Order) -> Snapshot:
    return Snapshot(None, row.order, row.aifi_at, WEBHOOK, row.session_id, row.version)


def _make_room(db: sqlite3.Connection) -> None:
    """Bound the orders that only webhooks have named: the ones that AiFi denied longest ago make room.

    :raises StoreError: there are too many that AiFi was not asked about yet
    """
    sql = "SELECT 1 FROM orders WHERE confirmed = 0 LIMIT 1 OFFSET ?"
    if db.execute(sql, (MAX_UNCONFIRMED - 1,)).fetchone() is None:
        return
    sql = """DELETE FROM orders WHERE id = (
             SELECT id FROM orders WHERE confirmed = 0 AND checked_at IS NOT NULL ORDER BY checked_at LIMIT 1)"""
    if db.execute(sql).rowcount == 0:
        raise StoreError(f"{MAX_UNCONFIRMED} orders of webhooks wait for AiFi's confirmation: no room for more")


def _save(db: sqlite3.Connection, before: Order | None, after: Order) -> None:
    """Write what changed; that AiFi was asked counts only for an order that is asked about again."""
    if before is not None and before == replace(after, checked_at=before.checked_at):
        if after.open:
            db.execute("UPDATE orders SET checked_at = ? WHERE id = ?", (after.checked_at, after.id))
        return
    body = after.body()
    summary = {key: body[key] for key in SUMMARY_FIELDS if key in body}
    detail = {key: value for key, value in after.order.items() if key not in summary}
    values = {
        "id": after.id,
        "updated_at": after.updated_at,
        "created_at": after.order["created_at"],
        "status": after.status,
        "customer_id": after.order.get("customer_id"),
        "session_id": after.session_id,
        "version": after.version,
        "aifi_at": after.aifi_at,
        "pushed_at": after.pushed_at,
        "checked_at": after.checked_at,
        "confirmed": after.confirmed,
        "detailed": after.detailed,
        "cut": after.cut,
        "open": after.open,
        "summary": _json(summary),
        "detail": _json(detail),
    }
    columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    db.execute(f"INSERT OR REPLACE INTO orders ({columns}) VALUES ({places})", values)  # noqa: S608 - constant names


def _rows_below(db: sqlite3.Connection, after: tuple[str, str], floor: str, limit: int) -> list[sqlite3.Row]:
    sql = """SELECT updated_at, id, summary FROM orders
             WHERE (updated_at, id) < (?, ?) AND updated_at > ? ORDER BY updated_at DESC, id DESC LIMIT ?"""
    return db.execute(sql, (*after, floor, limit)).fetchall()


def _remember_served(db: sqlite3.Connection, marks: Marks, low: str, high: str, writing: bool) -> bool:
    """Widen the served range to these ends; return False where that must be written, but may not be here."""
    if marks.served_high and marks.served_low <= low and high <= marks.served_high:
        return True
    if writing:
        low, high = min(low, marks.served_low or low), max(high, marks.served_high or high)
        db.execute("UPDATE marks SET served_low = ?, served_high = ?", (low, high))
    return writing


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
