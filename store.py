"""The mirror's tables and statements: orders, customers, marks, sweeps and notes.

Every time is fixed-width UTC text (`2025-11-01T00:00:00.000Z`), so the order of the text is the order of time.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any, TypeVar

from database import BUSY_SECONDS, Connection, Database, Layout, Row, Values
from errors import Damage, StoreError
from marks import Marks, MarksMoved, Sweep
from orders import ALWAYS, PUSHED, SETTLING_SECONDS, UNCONFIRMED, WEBHOOK, Anchor, Order, Outcome, Snapshot, take_in
from times import HOUR, MINUTE, age, shift, utc_text
from together import Together

T = TypeVar("T")

VERSION = 3  # of TABLES: a file of another version is set aside
TABLES = """
CREATE TABLE orders (
    id TEXT PRIMARY KEY,             -- AiFi's id; orders.session_key() while only webhooks without one are known
    updated_at TEXT NOT NULL,        -- the order's place in the list
    created_at TEXT NOT NULL,
    customer_id TEXT, store_id TEXT,
    session_id TEXT,
    session_lower TEXT, external_lower TEXT,  -- in small letters: people type them
    version INTEGER,
    aifi_at TEXT NOT NULL, dated INTEGER NOT NULL, seen_at TEXT NOT NULL, pushed_at TEXT, checked_at TEXT,
    confirmed INTEGER NOT NULL, listed INTEGER NOT NULL, detailed INTEGER NOT NULL, cut INTEGER NOT NULL,
    watch TEXT,                      -- why and how long AiFi is asked about it; see Order.watch
    summary TEXT NOT NULL,           -- JSON, the fields that the list shows
    detail TEXT NOT NULL             -- JSON, all others
);
CREATE INDEX orders_by_update ON orders (updated_at, id);
CREATE INDEX orders_by_draft ON orders (created_at, id);
CREATE INDEX orders_by_session ON orders (session_lower) WHERE session_lower IS NOT NULL;
CREATE INDEX orders_by_external ON orders (external_lower) WHERE external_lower IS NOT NULL;
CREATE INDEX orders_by_customer ON orders (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX orders_watched ON orders (watch) WHERE watch IS NOT NULL;
CREATE TABLE customers (id TEXT PRIMARY KEY, body TEXT NOT NULL, aifi_at TEXT NOT NULL, known_at TEXT NOT NULL);
CREATE INDEX customers_by_time ON customers (known_at);
CREATE TABLE stores (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE marks (
    file TEXT NOT NULL,              -- tells this database from one that was begun anew
    served_until TEXT, begun_at TEXT, horizon TEXT, horizon_id TEXT, complete INTEGER NOT NULL DEFAULT 0,
    newest TEXT, gap_top TEXT, gap_low TEXT,
    newest_update TEXT, newest_update_id TEXT, changed_at TEXT, unfiltered_at TEXT, refreshed_at TEXT,
    failures INTEGER NOT NULL DEFAULT 0, failing_since TEXT, retry_at TEXT, cause TEXT, error TEXT
);
CREATE TABLE sweeps (
    name TEXT PRIMARY KEY, begun_at TEXT NOT NULL, place TEXT, stepped_at TEXT, ended_at TEXT,
    compared INTEGER NOT NULL DEFAULT 0, found INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE slots (next_at REAL NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, at TEXT NOT NULL, text TEXT NOT NULL, count INTEGER NOT NULL DEFAULT 1);
INSERT INTO marks (file) VALUES ('{token}');
INSERT INTO slots VALUES (0);
"""

# A page's summaries and the marks, in one row: Python hands its threads' lock over at each row and statement, which
# under load costs more than they do. JSON has no bare line feed. The order is that of the inner query.
PAGE_SQL = """
SELECT (SELECT group_concat(summary, '\n') FROM (
            SELECT summary FROM orders WHERE (updated_at, id) < (?, ?)
            ORDER BY updated_at DESC, id DESC LIMIT ?) AS page) AS summaries,
       marks.* FROM marks
"""

MARKS_SQL = "SELECT * FROM marks"
CROWDED_SQL = "SELECT id FROM orders WHERE watch = ? LIMIT 1 OFFSET ?"  # a row where so many are watched for that

# An order with its store and the marks, in one row for the same reason.
ORDER_SQL = """
SELECT orders.*, (SELECT body FROM stores WHERE stores.id = orders.store_id) AS store, marks.* FROM orders, marks
WHERE orders.id = ?
"""

SUMMARY_FIELDS = (
    *("id", "updated_at", "display_id", "created_at", "status", "total_amount", "currency", "customer_id"),
    *("contested", "reviewed", "refunded"),
)
MAX_UNCONFIRMED = 10_000  # orders that only webhooks have named
MAX_CUSTOMERS = 10_000
NOTE_PATIENCE_SECONDS = 0.2


class NotServed(Enum):
    """Why a page is not served as it stands."""

    STALE = "the mirror must be refreshed first"
    BELOW_HORIZON = "it would reach below the horizon"


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


MARKS = tuple(field.name for field in fields(Marks))
COLUMNS = tuple(field.name for field in fields(Order) if field.name != "order")
DERIVED = ("created_at", "customer_id", "store_id", "session_lower", "external_lower", "watch", "summary", "detail")
SWEEP = tuple(field.name for field in fields(Sweep))


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
        self._webhooks = Together(self._put_webhooks, BUSY_SECONDS)

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

    def free_bytes(self) -> int | None:
        """Return how much room the disk has; None where that is not known."""
        return self._database.free_bytes()

    def lock(self, name: str) -> AbstractContextManager[bool]:
        """Hold the lock of that name over all threads and processes; see `Database.lock`."""
        return self._database.lock(name)

    def keep_tables(self) -> None:
        """From now on, set no tables aside: they are the running service's, which knows better."""
        self._database.may_replace = False

    def close(self) -> None:
        """Close the idle connections; the store may be used again."""
        self._database.close()

    # --- orders ---

    def put_orders(self, snapshots: Iterable[Snapshot]) -> list[Outcome]:
        """Take in snapshots, in one transaction; return what each told.

        :raises StoreError: nothing was taken in
        """
        looks = list(snapshots)
        if not looks:
            return []
        # Only a webhook is acknowledged: what AiFi listed, it lists again.
        if any(look.source == WEBHOOK for look in looks):
            return self._webhooks.do(looks)
        return self._write(lambda db: _put_orders(db, looks, self.now()), durable=False)

    def _put_webhooks(self, batches: list[list[Snapshot]]) -> list[list[Outcome]]:
        looks = [look for batch in batches for look in batch]
        outcomes = iter(self._write(lambda db: _put_orders(db, looks, self.now())))
        return [list(itertools.islice(outcomes, len(batch))) for batch in batches]

    def get_order(self, order_id: str) -> Order | None:
        """Return the order with this id."""
        return self._read(lambda db: _first(_orders(db, [("id", [order_id])])[0]))

    def show_order(self, order_id: str) -> tuple[Order, dict[str, Any] | None, Marks] | None:
        """Return the order with this id, its store where AiFi told of that, and the marks."""
        row = self._read(lambda db: _first(db.rows(ORDER_SQL, (order_id,))))
        return (_order(row), _parse(row["store"]) if row["store"] else None, _marks_of(row)) if row else None

    def find_order(self, name: str, by: Sequence[str] = ("session_lower", "external_lower")) -> Order | None:
        """Return the order whose session's or external id this is, in any letter case; of several the youngest."""

        def work(db: Connection) -> Order | None:
            return _youngest([row for rows in _orders(db, [(column, [name.lower()]) for column in by]) for row in rows])

        return self._read(work, statements=2)

    def remove_order(self, order_id: str) -> bool:
        """Remove an order, which AiFi does not know any longer; return whether it was there."""
        sql = "DELETE FROM orders WHERE id = ? RETURNING id"
        return bool(self._write(lambda db: db.rows(sql, (order_id,))))

    def serve_page(
        self,
        limit: int,
        after: tuple[str, str] | None,
        may_be_short: bool,
        only_if: Callable[[Marks], bool] = lambda marks: True,
    ) -> Page | NotServed:
        """Return the page after the row `(updated_at, id)`, and remember in the same transaction what it served.

        :param may_be_short: whether the page may end at the horizon, though it has fewer orders then
        :param only_if: what must hold of the marks
        """

        def work(db: Connection, writing: bool) -> tuple[Page | NotServed, bool]:
            row = db.rows(PAGE_SQL, (*(after or ("~", "")), limit + 1))[0]
            marks = _marks_of(row)
            summaries = _above_horizon(row["summaries"].split("\n") if row["summaries"] else [], marks)
            if not only_if(marks):
                return NotServed.STALE, True
            nothing_older = _nothing_older(marks)
            if not (len(summaries) > limit or nothing_older or may_be_short):
                return NotServed.BELOW_HORIZON, True
            ended = nothing_older and len(summaries) <= limit
            del summaries[limit:]
            if not summaries:
                return Page([], after, ended), True
            first, last = _parse(summaries[0]), _parse(summaries[-1])
            page = Page(summaries, (last["updated_at"], last["id"]), ended)
            return page, _remember_served(db, marks, first["updated_at"], writing)

        # Most pages were served before: a reading is enough, and only news needs the writer's lock.
        page, remembered = self._read(lambda db: work(db, False))
        return page if remembered else self._write(lambda db: work(db, True))[0]

    def pushed_orders(self, limit: int, before: str) -> list[Order]:
        """Return orders whose state a webhook brought over a minute ago, longest unchecked first.

        What was checked since `before` is left out, and for an hour what AiFi denied.
        """
        now = self.now()
        waiting = "pushed_at BETWEEN :minute_ago AND :now"
        return self._orders_to_check(
            f"watch IN ('{UNCONFIRMED}', '{PUSHED}') AND NOT {waiting} ORDER BY checked_at NULLS FIRST",
            {"before": before, "now": now, "minute_ago": shift(now, -MINUTE), "limit": limit},
        )

    def open_orders(self, limit: int, before: str, young: bool) -> list[Order]:
        """Return orders that AiFi may still change: those of the last hour, youngest first; or longest unchecked first.

        Unpaid ones count for a day. What was checked since `before` is left out, and for an hour what AiFi denied.
        """
        now = self.now()
        order = (
            "AND created_at > :hour_ago ORDER BY created_at DESC, id DESC"
            if young
            else "ORDER BY checked_at NULLS FIRST"
        )
        return self._orders_to_check(
            f"(watch IN ('{UNCONFIRMED}', '{PUSHED}', '{ALWAYS}') OR watch > :now) {order}",
            {"before": before, "now": now, "hour_ago": shift(now, -HOUR), "limit": limit},
        )

    def _orders_to_check(self, condition: str, values: Mapping[str, Any]) -> list[Order]:
        # What lies ahead was dated by a clock that has been put back since: it does not count.
        sql = f"""SELECT * FROM orders
                  WHERE watch IS NOT NULL AND (checked_at IS NULL OR checked_at < :before OR checked_at > :now)
                  AND (confirmed = 1 OR checked_at IS NULL OR checked_at < :denied_before OR checked_at > :now)
                  AND {condition} LIMIT :limit"""  # noqa: S608 - constants
        values = {**values, "denied_before": shift(values["now"], -HOUR)}
        return self._read(lambda db: [_order(row) for row in db.rows(sql, values)])

    def mark_checked(self, order_id: str) -> None:
        """Remember that AiFi was asked about an order now, and had nothing to say that could be taken in."""
        sql = "UPDATE orders SET checked_at = ? WHERE id = ?"
        self._write(lambda db: db.post(sql, [(self.now(), order_id)]))

    # --- where lists stand ---

    def listed_from(self, drafted_at: str, limit: int) -> list[Anchor]:
        """Return orders that a list has shown, drafted at that time or later, the oldest first."""
        sql = "SELECT created_at, id FROM orders WHERE listed = 1 AND created_at >= ? ORDER BY created_at, id LIMIT ?"
        return self._anchors(sql, (drafted_at, limit))

    def listed_until(self, drafted_at: str, limit: int) -> list[Anchor]:
        """Return orders that a list has shown, drafted at that time or earlier, the newest first."""
        sql = """SELECT created_at, id FROM orders WHERE listed = 1 AND created_at <= ?
                 ORDER BY created_at DESC, id DESC LIMIT ?"""
        return self._anchors(sql, (drafted_at, limit))

    def _anchors(self, sql: str, values: Values) -> list[Anchor]:
        return self._read(lambda db: [Anchor(row["created_at"], row["id"]) for row in db.rows(sql, values)])

    def confirmed_between(self, low: str, high: str, unchecked_since: str) -> list[str]:
        """Return the ids of orders that AiFi has shown, drafted from `low` to `high`, and not checked since."""
        sql = """SELECT id FROM orders WHERE confirmed = 1 AND created_at >= ? AND created_at <= ?
                 AND (checked_at IS NULL OR checked_at < ? OR checked_at > ?) ORDER BY created_at DESC, id DESC"""
        return self._read(lambda db: [row["id"] for row in db.rows(sql, (low, high, unchecked_since, self.now()))])

    # --- customers ---

    def put_customer(self, customer_id: str, body: Mapping[str, Any], at: str) -> None:
        """Keep a customer as AiFi showed it at that time, unless a later look is kept; the oldest make room."""
        sql = """INSERT INTO customers (id, body, aifi_at, known_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO
                 UPDATE SET body = excluded.body, aifi_at = excluded.aifi_at, known_at = excluded.known_at
                 WHERE excluded.aifi_at >= customers.aifi_at OR customers.aifi_at > excluded.known_at"""
        trim = """DELETE FROM customers WHERE known_at <
                  (SELECT known_at FROM customers ORDER BY known_at DESC LIMIT 1 OFFSET ?)"""

        def work(db: Connection) -> None:
            db.post(sql, [(customer_id, _json(body), at, self.now())])
            db.post(trim, [(MAX_CUSTOMERS - 1,)])

        self._write(work)

    def remove_customer(self, customer_id: str) -> None:
        """Remove a customer, whom AiFi does not know any longer."""
        self._write(lambda db: db.post("DELETE FROM customers WHERE id = ?", [(customer_id,)]))

    def get_customer(self, customer_id: str) -> tuple[dict[str, Any], str] | None:
        """Return a customer and since when it is known, or None."""
        sql = "SELECT body, known_at FROM customers WHERE id = ?"
        row = self._read(lambda db: _first(db.rows(sql, (customer_id,))))
        return (_parse(row["body"]), row["known_at"]) if row else None

    def names_customer(self, customer_id: str) -> bool:
        """Return whether an order names the customer."""
        sql = "SELECT id FROM orders WHERE customer_id = ? LIMIT 1"
        return bool(self._read(lambda db: db.rows(sql, (customer_id,))))

    # --- stores ---

    def put_stores(self, stores: Iterable[Mapping[str, Any]]) -> None:
        """Keep AiFi's stores in place of those that were kept."""
        rows = {store["id"]: _json(store) for store in stores}

        def work(db: Connection) -> None:
            db.post("DELETE FROM stores")
            db.post("INSERT INTO stores (id, body) VALUES (?, ?)", list(rows.items()))

        self._write(work, durable=False)

    # --- marks, sweeps, request slots ---

    def marks(self) -> Marks:
        """Return the marks."""
        return self._read(_marks)

    def move_marks(self, marks: Marks, **values: Any) -> Marks:
        """Move marks, only from the state in which they were read; return the marks after that.

        :param marks: as they were read; of these `file` and the marks to be moved must still be in force
        :raises MarksMoved: they are not: whoever lost his lock or his file moves nothing
        """
        changes = ", ".join(f"{name} = :{name}" for name in values)
        sql = f"UPDATE marks SET {changes}"  # noqa: S608 - names of fields

        def work(db: Connection) -> None:
            found = _marks(db)
            if any(getattr(found, name) != getattr(marks, name) for name in ("file", *values)):
                raise MarksMoved
            db.post(sql, [values])

        self._write(work)
        return replace(marks, **values)

    def sweep(self, name: str, first_begun_at: str | None = None) -> Sweep:
        """Return where the sweep of that name stands; the first round began at that time, or begins now.

        One that began in the future begins now, too.
        """
        sql = f"SELECT {', '.join(SWEEP)} FROM sweeps WHERE name = ?"  # noqa: S608 - names of fields
        row = self._read(lambda db: _first(db.rows(sql, (name,))))
        now = self.now()
        sweep = Sweep(**{column: row[column] for column in SWEEP}) if row else Sweep(name, first_begun_at or now)
        is_ahead = age(sweep.begun_at, now) == math.inf
        return replace(sweep, begun_at=now, place=None, compared=0) if is_ahead else sweep

    def put_sweep(self, sweep: Sweep) -> None:
        """Remember where a sweep stands; its place may be lost, as then it only compares again."""
        sql = _upsert_sql("sweeps", SWEEP, "name")
        self._write(lambda db: db.post(sql, [asdict(sweep)]), durable=False)

    def take_request_slot(self, interval: float) -> float:
        """Reserve the next of the slots that lie `interval` seconds apart, for all processes; return seconds until it.

        They are below 0 where writing took longer than that. A slot need not survive a power cut, so it does not wait
        for the disk.
        """
        sql = """UPDATE slots SET next_at = :interval + CASE WHEN next_at > :now AND next_at < :now + :ahead
                 THEN next_at ELSE :now END RETURNING next_at"""
        values = {"now": self.clock(), "interval": interval, "ahead": MINUTE}
        slot = _first(self._database.change(sql, values))
        if not slot:
            raise Damage("its request slots are gone")
        next_at: float = slot["next_at"]
        return next_at - interval - self.clock()

    # --- for the operator ---

    def put_note(self, name: str, text: str) -> None:
        """Note what happened last of a kind; the kinds are few. Need not survive a power cut, nor be waited for."""
        sql = """INSERT INTO notes (name, at, text, count) VALUES (?, ?, ?, 1) ON CONFLICT (name) DO
                 UPDATE SET at = excluded.at, text = excluded.text, count = notes.count + 1"""
        self._database.change(sql, (name, self.now(), text), NOTE_PATIENCE_SECONDS)

    def notes(self) -> dict[str, Note]:
        """Return the notes by name."""
        rows = self._read(lambda db: db.rows("SELECT name, at, text, count FROM notes"))
        return {row["name"]: Note(row["at"], row["text"], row["count"]) for row in rows}

    def statistics(self, hours: int = 24) -> Statistics:
        """Count the orders, and those drafted in each of the last hours; takes a while on large mirrors."""
        now = self.now()
        names = [shift(now, -HOUR * back)[:13] for back in reversed(range(hours))]
        by_hour = """SELECT substr(created_at, 1, 13) AS hour, count(*) AS orders FROM orders
                     WHERE created_at >= ? GROUP BY hour"""
        in_all = "SELECT count(*) AS orders FROM orders"

        def work(db: Connection) -> Statistics:
            counted, (total,) = db.answers([(by_hour, (names[0],)), (in_all, ())])
            found = {row["hour"]: row["orders"] for row in counted}
            return Statistics(total["orders"], [(f"{name}:00:00.000Z", found.get(name, 0)) for name in names])

        return self._read(work, statements=2)

    def try_write(self) -> None:
        """Write to the disk, to see that it works."""
        self._write(lambda db: db.post("UPDATE marks SET file = file"))


# --- statements ---


def _marks(db: Connection) -> Marks:
    return _only_marks(db.rows(MARKS_SQL))


def _only_marks(rows: Sequence[Row]) -> Marks:
    if not rows:
        raise Damage("its marks are gone")
    return _marks_of(rows[0])


def _marks_of(row: Row) -> Marks:
    return Marks(**{name: row[name] for name in MARKS})


def _nothing_older(marks: Marks) -> bool:
    """Return whether AiFi has no order that is not here."""
    return bool(marks.complete) or (marks.horizon is None and marks.refreshed_at is not None)


def _above_horizon(summaries: list[str], marks: Marks) -> list[str]:
    """Leave out what older orders could still slip below: all, while AiFi was not read yet."""
    if _nothing_older(marks):
        return summaries
    if marks.horizon is None:
        return []
    lowest = shift(marks.horizon, SETTLING_SECONDS)
    while summaries and _parse(summaries[-1])["updated_at"] <= lowest:
        summaries.pop()
    return summaries


def _order(row: Row) -> Order:
    order = {**_parse(row["summary"]), **_parse(row["detail"])}
    for derived in ("id", "updated_at", "display_id", "contested", "reviewed"):
        order.pop(derived)
    if order["refunded"] is None:  # AiFi did not say
        del order["refunded"]
    values = {name: row[name] for name in COLUMNS}
    flags = {name: bool(row[name]) for name in ("dated", "confirmed", "listed", "detailed", "cut")}
    return Order(**{**values, **flags, "order": order})


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Damage("a row cannot be read") from error


def _orders(db: Connection, wanted: Sequence[tuple[str, Sequence[str]]]) -> list[list[Order]]:
    """Return for each column and its keys the orders that have one of them."""
    statements = [_select_sql(column, keys) for column, keys in wanted]
    return [[_order(row) for row in rows] for rows in db.answers(statements)]


def _select_sql(column: str, keys: Sequence[str]) -> tuple[str, Values]:
    places = ", ".join("?" * len(keys)) or "NULL"
    return f"SELECT * FROM orders WHERE {column} IN ({places})", keys  # noqa: S608 - names of columns


def _first(rows: Sequence[T]) -> T | None:
    return rows[0] if rows else None


def _put_orders(db: Connection, snapshots: list[Snapshot], now: str) -> list[Outcome]:
    """Load all rows that the snapshots are about, decide in memory, and save what changed."""
    sessions = list({look.session_id.lower() for look in snapshots if look.session_id})
    keys = [("id", [look.id for look in snapshots if look.id]), ("session_lower", sessions)]
    statements = [(MARKS_SQL, ()), (CROWDED_SQL, (UNCONFIRMED, MAX_UNCONFIRMED - 1))]
    found, crowded, *selected = db.answers([*statements, *(_select_sql(*key) for key in keys)])
    marks = _only_marks(found)
    before = {order.id: order for rows in selected for order in map(_order, rows)}
    rows, outcomes = dict(before), []
    named: dict[str, set[str]] = {session: set() for session in sessions}  # ids by session
    for row in before.values():
        if row.session_id and row.session_id.lower() in named:
            named[row.session_id.lower()].add(row.id)
    for look in snapshots:
        ids = named[look.session_id.lower()] if look.session_id else set()
        of_session = [rows[name] for name in ids]
        stored = rows.get(look.id) if look.id else _youngest(of_session)
        kept = next((row for row in of_session if row.is_session_only), None) if look.id else None
        after, outcome = take_in(stored, kept, look, now, marks)
        if kept:
            del rows[kept.id]
            ids.remove(kept.id)
        if stored is None and kept is None and not after.confirmed:
            _make_room(db, crowded)
        rows[after.id] = after
        ids.add(after.id)
        outcomes.append(outcome)
    _save(db, before, rows)
    return outcomes


def _youngest(rows: list[Order]) -> Order | None:
    return max(rows, key=lambda row: row.order["created_at"], default=None)


def _make_room(db: Connection, crowded: Sequence[Row]) -> None:
    """Bound the orders that only webhooks have named: the ones that AiFi denied longest ago make room.

    :raises StoreError: there are too many that AiFi was not asked about yet
    """
    sql = """DELETE FROM orders WHERE id = (SELECT id FROM orders WHERE watch = ? AND checked_at IS NOT NULL
             ORDER BY checked_at LIMIT 1) RETURNING id"""
    if crowded and not db.rows(sql, (UNCONFIRMED,)):
        raise StoreError(f"{MAX_UNCONFIRMED} orders of webhooks wait for AiFi's confirmation: no room for more")


def _save(db: Connection, before: Mapping[str, Order], rows: Mapping[str, Order]) -> None:
    """Write what changed; that AiFi was asked counts only for an order that is asked about again."""
    changed, checked = [], []
    for row in rows.values():
        old = before.get(row.id)
        if old is None or old != replace(row, checked_at=old.checked_at):
            changed.append(_values(row))
        elif row.open and row.checked_at != old.checked_at:
            checked.append((row.checked_at, row.id))
    gone = [(name,) for name in before if name not in rows]
    if gone:
        db.post("DELETE FROM orders WHERE id = ?", gone)
    if checked:
        db.post("UPDATE orders SET checked_at = ? WHERE id = ?", checked)
    if changed:
        columns = (*COLUMNS, *DERIVED)
        db.post(_upsert_sql("orders", columns, "id"), changed)


def _values(row: Order) -> dict[str, Any]:
    body = row.body()
    summary = {key: body[key] for key in SUMMARY_FIELDS if key in body}
    detail = {key: value for key, value in row.order.items() if key not in summary}
    external_id = row.order.get("external_id")
    return {
        **{name: getattr(row, name) for name in COLUMNS},
        "created_at": row.order["created_at"],
        "customer_id": row.order.get("customer_id"),
        "store_id": row.order.get("store_id"),
        "session_lower": row.session_id.lower() if row.session_id else None,
        "external_lower": external_id.lower() if external_id else None,
        "watch": row.watch,
        "summary": _json(summary),
        "detail": _json(detail),
    }


def _upsert_sql(table: str, columns: Sequence[str], key: str) -> str:
    places = ", ".join(f":{name}" for name in columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name != key)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) "  # noqa: S608 - names of columns
        f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
    )


def _remember_served(db: Connection, marks: Marks, until: str, writing: bool) -> bool:
    """Remember how far up was served; return False where that must be written, but may not be here."""
    if marks.served_until and until <= marks.served_until:
        return True
    if writing:
        db.post("UPDATE marks SET served_until = ?", [(until,)])
    return writing


_json = json.JSONEncoder(separators=(",", ":")).encode
