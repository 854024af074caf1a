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
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from orders import (
    ALWAYS,
    FILLINGS,
    PUSHED,
    SETTLING_SECONDS,
    UNCONFIRMED,
    WEBHOOK,
    Marks,
    Order,
    Snapshot,
    _conflict,
    applies,
    merge,
    place,
    session_key,
)
from times import HOUR, MINUTE, shift, utc_text

log = logging.getLogger("bridge.store")
T = TypeVar("T")


SCHEMA_VERSION = 1
SCHEMA = """
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
    origin TEXT NOT NULL,            -- which AiFi, stores and roles this file mirrors
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
"""

# A page's summaries and the marks, in one row: Python hands its threads' lock over at each row and statement, which
# under load costs more than they do. JSON has no bare line feed. The order is that of the inner query.
PAGE_SQL = f"""
SELECT (SELECT group_concat(summary, char(10)) FROM (
            SELECT summary FROM orders WHERE (updated_at, id) < (?, ?) AND updated_at > CASE
                WHEN complete THEN '' WHEN horizon IS NULL THEN '~'
                ELSE strftime('%Y-%m-%dT%H:%M:%fZ', horizon, '+{SETTLING_SECONDS} seconds') END
            ORDER BY updated_at DESC, id DESC LIMIT ?)),
       marks.* FROM marks
"""  # noqa: S608 - a constant

SUMMARY_FIELDS = ("id", "updated_at", "display_id", "created_at", "status", "total_amount", "currency", "customer_id")
BUSY_SECONDS = 3.0  # for SQLite's lock, and before that for our own
NOTE_PATIENCE_SECONDS = 0.2
JOURNAL_BYTES = 16 * 1024 * 1024
CHECKPOINT_PAGES = 4000  # as much; seldom, as many commits write the same pages of the indexes
CACHE_KIB = 512  # a connection; the system caches the file anyhow, and once for all
MAX_UNCONFIRMED = 10_000  # orders that only webhooks have named
MAX_CUSTOMERS = 10_000


class StoreError(Exception):
    """The mirror cannot be read or written now; the text says why, for people. Trying again later may help."""


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


MARKS = frozenset(field.name for field in fields(Marks))


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
        self._writing = threading.Lock()  # lets the threads queue, where SQLite's own lock makes them poll

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
            text, *values = db.execute(PAGE_SQL, (*(after or ("~", "")), limit + 1)).fetchone()
            marks, summaries = Marks(*values), text.split("\n") if text else []
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

    def _read(self, work: Callable[[sqlite3.Connection], T], statements: int = 1) -> T:
        """Run a reading; more than one statement need a transaction to see the same state, one is its own."""
        return self._transact("BEGIN" if statements > 1 else "", work)

    def _write(
        self, work: Callable[[sqlite3.Connection], T], durable: bool = True, patience: float = BUSY_SECONDS
    ) -> T:
        if not self._writing.acquire(timeout=patience):
            raise StoreError("the database is busy")
        try:
            return self._transact("BEGIN IMMEDIATE", work, durable, patience)
        finally:
            self._writing.release()

    def _transact(
        self,
        begin: str,
        work: Callable[[sqlite3.Connection], T],
        durable: bool = True,
        patience: float = BUSY_SECONDS,
    ) -> T:
        """Run `work` in a transaction; a damaged file is set aside, and the work done once more on a new one."""
        for last_try in (False, True):
            db = self._take_idle() or self._open()
            try:
                db.configure(durable, patience)
                if begin:
                    db.execute(begin)
                result = work(db)
                if begin:
                    db.execute("COMMIT")
            except sqlite3.Error as error:
                db.close()
                if last_try or not _is_damage(error):
                    raise StoreError(f"the database cannot be used: {error}") from error
                self._set_aside(db.file_id[0], str(error))
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
                self._tidy()
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
            db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
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
        except OSError as error:
            raise StoreError(f"the database's folder cannot be used: {error.strerror}") from error
        finally:
            os.close(folder)

    def _tidy(self) -> None:
        """Make sure that the journal belongs to the file: SQLite removes the index before the journal, never after."""
        journal, index = os.path.exists(self.path + "-wal"), os.path.exists(self.path + "-shm")
        if _inode(self.path) is None:
            self._remove(self.path)
            self._remove_companions()
        elif index and not journal:
            self._rename("its journal was deleted")

    def _set_aside(self, inode: tuple[int, int] | None, why: str) -> None:
        """Rename the file, unless somebody else has replaced it by now."""
        with self._directory_lock():
            if inode == _inode(self.path):
                self._rename(why)

    def _rename(self, why: str) -> None:
        """Move the file out of the way, so that a new one is begun; only the last such file is kept."""
        log.error("The database is of no use (%s): kept as %s.set-aside; a new one is filled from AiFi", why, self.path)
        os.replace(self.path, f"{self.path}.set-aside")
        self._remove_companions()

    def _remove_companions(self) -> None:
        for suffix in ("-wal", "-shm"):
            self._remove(self.path + suffix)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


class _Connection(sqlite3.Connection):
    """A connection that remembers which file it opened, and how it is set."""

    file_id: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None)
    _setting: tuple[bool, float] = (True, BUSY_SECONDS)

    def configure(self, durable: bool, patience: float) -> None:
        """Say whether a commit waits for the disk, and how many seconds to wait for SQLite's lock."""
        if self._setting != (durable, patience):
            self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
            self._setting = (durable, patience)


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
    if getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHORT_READ":  # a file that was cut off; Python 3.11+
        return True
    return type(error) is sqlite3.DatabaseError or str(error).startswith(("no such", "Could not decode to UTF-8"))


def _file_id(path: str) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return what tells whether the database and its journal are still the files that were opened."""
    return _inode(path), _inode(path + "-wal", may_be_empty=True)


def _inode(path: str, may_be_empty: bool = False) -> tuple[int, int] | None:
    """Return the file's identity; None where there is no file, or nothing in it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size or may_be_empty else None


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# --- statements ---


def _marks(db: sqlite3.Connection) -> Marks:
    row = db.execute("SELECT * FROM marks").fetchone()
    if row is None or len(row) != len(MARKS):
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
    changed = any(_conflict(stored.order[key], after.order[key]) for key in compared)
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
