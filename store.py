"""The mirror's tables and statements: orders, customers, marks and notes, as Aide and the operator read them.

Every time is fixed-width UTC text (`2025-11-01T00:00:00.000Z`), so the order of the text is the order of time.
"""

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from database import Database, Layout
from errors import StoreError
from orders import (
    ALWAYS,
    FILLINGS,
    PUSHED,
    SETTLING_SECONDS,
    UNCONFIRMED,
    WEBHOOK,
    Order,
    Snapshot,
    applies,
    conflict,
    merge,
    place,
    session_key,
)
from times import HOUR, MINUTE, shift, utc_text

log = logging.getLogger("bridge.store")
T = TypeVar("T")


VERSION = 2  # of TABLES: a file of another version is set aside
TABLES = """
CREATE TABLE orders (
    id TEXT PRIMARY KEY,             -- AiFi's id; session_key() while only webhooks without one are known
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
    watch TEXT,                      -- why and how long AiFi is asked about it; see Order.watch
    summary TEXT NOT NULL,           -- JSON, the fields that the list shows
    detail TEXT NOT NULL             -- JSON, all others
);
CREATE INDEX orders_by_update ON orders (updated_at, id);
CREATE INDEX orders_by_session ON orders (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX orders_by_customer ON orders (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX orders_watched ON orders (watch) WHERE watch IS NOT NULL;
CREATE TABLE customers (id TEXT PRIMARY KEY, body TEXT NOT NULL, aifi_at TEXT NOT NULL, known_at TEXT NOT NULL);
CREATE INDEX customers_by_time ON customers (known_at);
CREATE TABLE marks (
    file TEXT NOT NULL DEFAULT (hex(randomblob(8))),  -- tells this file from one that was begun anew
    served_until TEXT,               -- the latest updated_at that was served
    begun_at TEXT,                   -- when the first refresh of this file began
    horizon TEXT, complete INTEGER NOT NULL DEFAULT 0,
    newest_draft TEXT, newest_update TEXT,
    refreshed_at TEXT, reread_at TEXT, unfiltered_at TEXT,
    failures INTEGER NOT NULL DEFAULT 0, failing_since TEXT, retry_at TEXT, cause TEXT, error TEXT,
    next_request_at REAL NOT NULL DEFAULT 0
);
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, at TEXT NOT NULL, text TEXT NOT NULL, count INTEGER NOT NULL DEFAULT 1);
INSERT INTO marks DEFAULT VALUES;
"""

# A page's summaries and the marks, in one row: Python hands its threads' lock over at each row and statement, which
# under load costs more than they do. JSON has no bare line feed. The order is that of the inner query.
PAGE_SQL = f"""
SELECT (SELECT group_concat(summary, char(10)) FROM (
            SELECT summary FROM orders WHERE (updated_at, id) < (?, ?) AND updated_at > CASE
                WHEN complete THEN '' WHEN horizon IS NULL THEN '~'
                ELSE strftime('%Y-%m-%dT%H:%M:%fZ', horizon, '+{SETTLING_SECONDS} seconds') END
            ORDER BY updated_at DESC, id DESC LIMIT ?)) AS summaries,
       marks.* FROM marks
"""  # noqa: S608 - a constant

SUMMARY_FIELDS = ("id", "updated_at", "display_id", "created_at", "status", "total_amount", "currency", "customer_id")
NOTE_PATIENCE_SECONDS = 0.2
MAX_UNCONFIRMED = 10_000  # orders that only webhooks have named
MAX_CUSTOMERS = 10_000


class FileLost(StoreError):
    """The file was lost and begun anew since its marks were read, so what was stored in between is gone."""

    def __init__(self) -> None:
        super().__init__("the database was begun anew meanwhile")


@dataclass(frozen=True)
class Page:
    """One page of the list: the orders' summaries as JSON text, newest first.

    `last` is the (updated_at, id) to go on after; None where nothing was served. `ended`: AiFi has nothing older.
    """

    summaries: list[str]
    last: tuple[str, str] | None
    ended: bool


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


@dataclass(frozen=True)
class Marks:
    """How far the mirror has come. `horizon`: all orders drafted since are here; None: nothing was read yet."""

    file: str
    served_until: str | None
    begun_at: str | None
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


MARKS = frozenset(field.name for field in fields(Marks))


def layout(origin: Mapping[str, str]) -> Layout:
    """Return what the database must hold.

    :param origin: each setting that decides what is mirrored, with its value
    """
    return Layout(VERSION, TABLES, origin)


class Store:
    """The mirror's tables, for any number of threads and processes.

    Each method raises `StoreError` where the database cannot be used.
    """

    def __init__(self, database: Database):
        self._database = database
        self._read, self._write = database.read, database.write

    @property
    def name(self) -> str:
        """Where the tables lie, for people."""
        return self._database.name

    def clock(self) -> float:
        """Return the present time in seconds since 1970."""
        return self._database.clock()

    def now(self) -> str:
        """Return the present time as UTC text."""
        return utc_text(self.clock())

    def free_bytes(self) -> int:
        """Return how much room the disk has.

        :raises StoreError: the folder cannot be looked at
        """
        return self._database.free_bytes()

    def close(self) -> None:
        """Close the idle connections; the store may be used again."""
        self._database.close()

    # --- orders ---

    def put_orders(self, snapshots: Iterable[Snapshot]) -> tuple[int, int]:
        """Take in snapshots, in one transaction; return how many orders were new and how many changed.

        :raises StoreError: nothing was taken in
        """
        snapshots = list(snapshots)

        def work(db: sqlite3.Connection) -> tuple[int, int]:
            now, counts, marks = self.now(), [0, 0], _marks(db)
            for snapshot in snapshots:
                news = _put_order(db, snapshot, marks, now)
                if news is not None:
                    counts[news] += 1
            return counts[0], counts[1]

        return self._write(work)

    def get_order(self, order_id: str) -> Order | None:
        """Return the order with this id, or of the session with this id."""

        def work(db: sqlite3.Connection) -> Order | None:
            return _order_by_id(db, order_id) or _order_by_session(db, order_id)

        return self._read(work)

    def serve_page(
        self,
        limit: int,
        after: tuple[str, str] | None,
        may_be_short: bool,
        only_if: Callable[[Marks], bool] = lambda marks: True,
    ) -> Page | None:
        """Return the page after the row `(updated_at, id)`, and remember in the same transaction what it served.

        :param may_be_short: False: return None where the page would reach below the horizon
        :param only_if: return None where this does not hold of the marks
        """

        def work(db: sqlite3.Connection, writing: bool) -> tuple[Page | None, bool]:
            row = db.execute(PAGE_SQL, (*(after or ("~", "")), limit + 1)).fetchone()
            marks, summaries = _marks_of(row), row["summaries"].split("\n") if row["summaries"] else []
            if not (only_if(marks) and (len(summaries) > limit or marks.complete or may_be_short)):
                return None, True
            ended = bool(marks.complete) and len(summaries) <= limit
            del summaries[limit:]
            if not summaries:
                return Page([], after, ended), True
            first, last = json.loads(summaries[0]), json.loads(summaries[-1])
            page = Page(summaries, (last["updated_at"], last["id"]), ended)
            return page, _remember_served(db, marks, first["updated_at"], writing)

        page, remembered = self._read(lambda db: work(db, False))
        return page if remembered else self._write(lambda db: work(db, True))[0]

    def orders_to_check(self, limit: int, before: str, only_pushed: bool) -> list[Order]:
        """Return orders to ask AiFi about one by one, longest unchecked first.

        Those are the ones whose state a webhook brought over a minute ago and, unless `only_pushed`, the open ones
        (unpaid ones for a day). Whatever was checked since `before` is left out, and what AiFi denied for an hour.
        """
        now = self.now()
        sql = """SELECT * FROM orders
                 WHERE (watch IN (:unconfirmed, :pushed) AND (NOT :only_pushed OR pushed_at < :minute_ago)
                        OR watch > :open_after)
                 AND coalesce(checked_at, '') < :before
                 AND (confirmed OR coalesce(checked_at, '') < :hour_ago)
                 ORDER BY checked_at LIMIT :limit"""
        arguments = {
            "unconfirmed": UNCONFIRMED,
            "pushed": PUSHED,
            "only_pushed": only_pushed,
            "minute_ago": shift(now, -MINUTE),
            "open_after": ALWAYS if only_pushed else now,
            "before": before,
            "hour_ago": shift(now, -HOUR),
            "limit": limit,
        }
        return self._read(lambda db: [_order(row) for row in db.execute(sql, arguments)])

    def mark_checked(self, order_id: str) -> None:
        """Remember that AiFi was asked about an order now, and had nothing to say that could be taken in."""
        sql = "UPDATE orders SET checked_at = ? WHERE id = ?"
        self._write(lambda db: db.execute(sql, (self.now(), order_id)))

    # --- customers ---

    def put_customer(self, customer_id: str, body: Mapping[str, Any], at: str) -> None:
        """Keep a customer as AiFi showed it at that time, unless a later look is kept; the oldest make room."""
        sql = """INSERT INTO customers VALUES (?, ?, ?, ?) ON CONFLICT (id) DO
                 UPDATE SET body = excluded.body, aifi_at = excluded.aifi_at, known_at = excluded.known_at
                 WHERE excluded.aifi_at >= aifi_at"""
        trim = """DELETE FROM customers WHERE known_at <
                  (SELECT known_at FROM customers ORDER BY known_at DESC LIMIT 1 OFFSET ?)"""

        def work(db: sqlite3.Connection) -> None:
            db.execute(sql, (customer_id, _json(body), at, self.now()))
            db.execute(trim, (MAX_CUSTOMERS - 1,))

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

    def set_marks(self, file: str | None = None, **values: Any) -> None:
        """Set marks by name; with `file`, only where the marks read before with this `file` are still those in force.

        :raises FileLost: they are not
        """
        unknown = values.keys() - MARKS
        if unknown:
            raise TypeError(f"no such marks: {sorted(unknown)}")
        changes = ", ".join(f"{name} = :{name}" for name in values)
        sql = f"UPDATE marks SET {changes} WHERE file = coalesce(:file, file)"  # noqa: S608 - checked names
        if self._write(lambda db: db.execute(sql, {**values, "file": file}).rowcount) == 0:
            raise FileLost

    def lower_horizon(self, marks: Marks, horizon: str | None) -> None:
        """Lower the horizon, after all orders between that of `marks` and this one were stored.

        :param horizon: None: AiFi has nothing older
        :raises FileLost: the file is not the one of `marks` any longer
        """
        if horizon is None:
            self.set_marks(marks.file, complete=1)
            return
        sql = "UPDATE marks SET horizon = min(horizon, ?) WHERE file = ?"
        if self._write(lambda db: db.execute(sql, (horizon, marks.file)).rowcount) == 0:
            raise FileLost

    def take_lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew the lease of that name for so long; return whether `holder` has it now."""
        # One that ends too late was taken by a clock that has been put back since.
        sql = """INSERT INTO leases VALUES (:name, :holder, :until) ON CONFLICT (name) DO
                 UPDATE SET holder = excluded.holder, until = excluded.until
                 WHERE holder = excluded.holder OR until <= :now OR until > excluded.until"""

        def work(db: sqlite3.Connection) -> bool:
            now = self.clock()  # only here: who waited for the lock must not take it for a clock put back
            arguments = {"name": name, "holder": holder, "now": now, "until": now + seconds}
            return db.execute(sql, arguments).rowcount == 1

        return self._write(work)

    def drop_lease(self, name: str, holder: str) -> None:
        """Give a lease back, where `holder` still has it."""
        sql = "DELETE FROM leases WHERE name = ? AND holder = ?"
        self._write(lambda db: db.execute(sql, (name, holder)))

    def take_request_slot(self, interval: float) -> float:
        """Reserve the next of the slots that lie `interval` seconds apart, for all processes; return seconds until it.

        A slot need not survive a power cut, so it does not wait for the disk.
        """

        def work(db: sqlite3.Connection) -> float:
            now = self.clock()
            planned = db.execute("SELECT next_request_at FROM marks").fetchone()[0]
            slot = planned if now < planned < now + MINUTE else now
            db.execute("UPDATE marks SET next_request_at = ?", (slot + interval,))
            return slot - now

        return self._write(work, durable=False)

    # --- for the operator ---

    def put_note(self, name: str, text: str) -> None:
        """Note what happened last of a kind; the kinds are few. Need not survive a power cut, nor be waited for."""
        sql = """INSERT INTO notes VALUES (?, ?, ?, 1) ON CONFLICT (name) DO
                 UPDATE SET at = excluded.at, text = excluded.text, count = count + 1"""
        self._write(lambda db: db.execute(sql, (name, self.now(), text)), durable=False, patience=NOTE_PATIENCE_SECONDS)

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

        return self._read(work, statements=2)

    def try_write(self) -> None:
        """Write to the disk, to see that it works.

        :raises StoreError: it does not
        """
        self._write(lambda db: db.execute("UPDATE marks SET file = file"))


# --- statements ---


def _marks(db: sqlite3.Connection) -> Marks:
    row = db.execute("SELECT * FROM marks").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("its marks are gone")
    return _marks_of(row)


def _marks_of(row: sqlite3.Row) -> Marks:
    return Marks(**{name: row[name] for name in MARKS})


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


def _put_order(db: sqlite3.Connection, snapshot: Snapshot, marks: Marks, now: str) -> bool | None:
    """Take in one snapshot; return False for a new order, True for a changed one, None for no news."""
    stored = _order_by_id(db, snapshot.id) if snapshot.id else _order_by_session(db, snapshot.session_id)
    orphan = _orphan_of(db, snapshot)
    base = stored or orphan
    if stored and orphan and applies(stored, _as_webhook(orphan), orphan.pushed_at):
        base = merge(stored, _as_webhook(orphan), orphan.pushed_at, marks)
    if base is None or applies(base, snapshot, now):
        after = merge(base, snapshot, now, marks)
    elif snapshot.source != WEBHOOK:
        after = replace(base, checked_at=now, confirmed=True)
    else:
        after = base
    if orphan:
        db.execute("DELETE FROM orders WHERE id = ?", (orphan.id,))
        if not stored:  # to Aide the order has a new id
            after = replace(after, id=snapshot.id, updated_at=place(orphan, snapshot, now, marks)[0])
    if base is None and not after.confirmed:
        _make_room(db)
    _save(db, stored, after)
    if stored is None:
        return False
    compared = (stored.order.keys() & after.order.keys()) - FILLINGS
    changed = any(conflict(stored.order[key], after.order[key]) for key in compared)
    return True if changed or after.updated_at != stored.updated_at else None


def _orphan_of(db: sqlite3.Connection, snapshot: Snapshot) -> Order | None:
    """Return the order kept under the snapshot's session because no webhook told its id."""
    if not (snapshot.id and snapshot.session_id):
        return None
    row = _order_by_id(db, session_key(snapshot.session_id))
    return row if row and row.is_session_only else None


def _as_webhook(row: Order) -> Snapshot:
    return Snapshot(None, row.order, row.aifi_at, WEBHOOK, row.session_id, row.version)


def _make_room(db: sqlite3.Connection) -> None:
    """Bound the orders that only webhooks have named: the ones that AiFi denied longest ago make room.

    :raises StoreError: there are too many that AiFi was not asked about yet
    """
    sql = "SELECT 1 FROM orders WHERE watch = ? LIMIT 1 OFFSET ?"
    if db.execute(sql, (UNCONFIRMED, MAX_UNCONFIRMED - 1)).fetchone() is None:
        return
    sql = """DELETE FROM orders WHERE id = (
             SELECT id FROM orders WHERE watch = ? AND checked_at IS NOT NULL ORDER BY checked_at LIMIT 1)"""
    if db.execute(sql, (UNCONFIRMED,)).rowcount == 0:
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
        "watch": after.watch,
        "summary": _json(summary),
        "detail": _json(detail),
    }
    columns, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    db.execute(f"INSERT OR REPLACE INTO orders ({columns}) VALUES ({places})", values)  # noqa: S608 - constant names


def _remember_served(db: sqlite3.Connection, marks: Marks, until: str, writing: bool) -> bool:
    """Remember how far up was served; return False where that must be written, but may not be here."""
    if marks.served_until and until <= marks.served_until:
        return True
    if writing:
        db.execute("UPDATE marks SET served_until = ?", (until,))
    return writing


_json = json.JSONEncoder(separators=(",", ":")).encode
