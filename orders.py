"""Orders: what one is, which of two looks at it wins, and where it goes in the list. Pure functions.

Every time is fixed-width UTC text (`2025-11-01T00:00:00.000Z`), so the order of the text is the order of time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, Protocol

from times import DAY, HOUR, MINUTE, age, shift

HISTORY, LIST, SWEEP, DETAIL, WEBHOOK = "history", "list", "sweep", "detail", "webhook"
LISTS = frozenset({HISTORY, LIST, SWEEP})

SETTLING_SECONDS = HOUR  # an order is nearly always settled within this time of its draft
LIFE = ("draft", "completed_so_far", "completed", "paymentProcessing", "unpaid", "paid", "contested", "reviewed")
OPEN = frozenset({"draft", "completed_so_far", "completed", "paymentProcessing", "contested", "unpaid"})

# What a list can show: only this is news. What a webhook may lack is news when it appears, too.
CONTENT = (
    *("status", "total_amount", "subtotal_amount", "tax_amount", "currency", "line_items"),
    *("external_id", "customer_id", "version", "refunded", "contest"),
)
APPEARING = frozenset({"external_id", "customer_id", "currency", "refunded"})
NO_NEWS = frozenset({"message", "items"})  # of a contest: the shopper's words, and what only details show

# Of Order.watch: texts that sort below and above all times.
UNCONFIRMED, PUSHED, ALWAYS = "0", "1", "9"


class Anchor(NamedTuple):
    """Where an order stands in AiFi's lists, which are sorted by draft time."""

    drafted_at: str
    id: str

    def __str__(self) -> str:
        return f"{self.drafted_at} {self.id}"

    @classmethod
    def parse(cls, text: str) -> "Anchor":
        """Read what `str` wrote."""
        drafted_at, _, order_id = text.partition(" ")
        return cls(drafted_at, order_id)


@dataclass(frozen=True)
class Snapshot:
    """One look at an order, in Aide's fields.

    `order` leaves out what AiFi did not say; None stands for what AiFi said there is not. `at` is AiFi's time of this
    state; `dated`: it is AiFi's own `updatedAt`, not made of other times. `source` is HISTORY (a page below the
    horizon), LIST (of what is new or changed), SWEEP, DETAIL or WEBHOOK; `listed`: a list showed the order at its draft
    time. A webhook may know the session instead of the id.
    """

    id: str | None
    order: Mapping[str, Any]
    at: str
    source: str
    session_id: str | None = None
    version: int | None = None
    dated: bool = False
    listed: bool = False


@dataclass(frozen=True)
class Order:
    """A mirrored order: its row, with `order` for what Aide may see but `id`, `updated_at` and `display_id`."""

    id: str
    updated_at: str
    order: Mapping[str, Any]
    session_id: str | None
    version: int | None
    aifi_at: str  # AiFi's time of this state
    dated: bool  # that is AiFi's own `updatedAt`
    seen_at: str  # when this state was taken in
    pushed_at: str | None  # when the webhook came that brought this state; None: the Orders API did
    checked_at: str | None  # when the Orders API was last asked about the order
    confirmed: bool  # the Orders API has shown the order
    listed: bool  # a list has shown it at its draft time
    detailed: bool  # its details of this state are in
    cut: bool  # met on a history page, and placed before AiFi's own time

    @property
    def status(self) -> str:
        """AiFi's word; empty where AiFi gave none."""
        return self.order.get("status") or ""

    @property
    def is_session_only(self) -> bool:
        """Whether it is known only by webhooks that named its session, but no order id."""
        return not self.confirmed and self.session_id is not None and self.id == session_key(self.session_id)

    @property
    def open(self) -> bool:
        """Whether AiFi may still change the order, or has not confirmed what a webhook said."""
        return self.status in OPEN or self.pushed_at is not None

    @property
    def watch(self) -> str | None:
        """Why AiFi is asked about the order: UNCONFIRMED, PUSHED, or the time until which it counts as open."""
        if self.pushed_at is not None:
            return PUSHED if self.confirmed else UNCONFIRMED
        if self.status == "unpaid":
            return shift(self.order["created_at"], DAY)
        return ALWAYS if self.status in OPEN else None

    @property
    def contest(self) -> Mapping[str, Any]:
        """The shopper's dispute, as far as AiFi told of it."""
        return self.order.get("contest") or {}

    @property
    def contested(self) -> bool:
        """Whether the shopper disputes the order, and nobody has settled that yet."""
        return self.status == "contested"

    @property
    def reviewed(self) -> bool:
        """Whether a dispute was settled: AiFi counts the version up when an order is contested [G]."""
        return self.status == "reviewed" or (not self.contested and (self.version or 1) > 1)

    @property
    def lacks_contest(self) -> bool:
        """Whether the order is or was disputed, but the details of that were not read in its present state."""
        return (self.contested or self.reviewed) and not (self.detailed and "items" in self.contest)

    def body(self) -> dict[str, Any]:
        """Return the order in full, as Aide gets it: what AiFi does not have is left out.

        The flags are always there: Aide builds its conditions from them. `refunded` is None where AiFi did not say.
        """
        known = {key: value for key, value in self.order.items() if value is not None}
        display_id = known.get("external_id") or self.id
        named = {"id": self.id, "display_id": display_id, "updated_at": self.updated_at}
        flags = {"contested": self.contested, "reviewed": self.reviewed, "refunded": known.get("refunded")}
        return {**named, **known, **flags, **_refund(self.contest), "canceled_at": None}


EVER = "1970-01-01T00:00:00.000Z"


class Outcome(Enum):
    """What a look at an order told."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "no news"


class Extent(Protocol):
    """What of the mirror an order's place depends on: the marks that the store keeps."""

    @property
    def served_until(self) -> str | None:
        """The latest `updated_at` that was served; at least the time when this database was begun."""

    @property
    def begun_at(self) -> str | None:
        """When the first refresh of this database began; EVER where an empty shop had been served by then."""

    @property
    def horizon(self) -> str | None:
        """All orders drafted since are mirrored; None: nothing was read yet."""

    @property
    def complete(self) -> int:
        """Whether AiFi has nothing older than the horizon."""


def _refund(contest: Mapping[str, Any]) -> dict[str, float]:
    """Return the amount that the review of a contest took off the order, where AiFi tells it."""
    original, reviewed = contest.get("original_amount"), contest.get("reviewed_amount")
    if contest.get("status") != "reviewed" or original is None or reviewed is None:
        return {}
    return {"refunded_amount": float(Decimal(str(original)) - Decimal(str(reviewed)))}


def session_key(session_id: str) -> str:
    """Return the id of an order known by its session only: the session's, told apart where it could be an order's."""
    return f"session-{session_id}" if session_id.isdigit() else session_id


def take_in(
    stored: Order | None, kept: Order | None, snapshot: Snapshot, now: str, extent: Extent
) -> tuple[Order, Outcome]:
    """Return the order as it stands after a snapshot, and what that told.

    :param stored: the order's row, if there is one
    :param kept: the row that webhooks without an order id made of the same session; it becomes part of the order
    """
    base = stored or kept
    if stored and kept and kept.pushed_at and applies(stored, _as_webhook(kept), kept.pushed_at):
        base = _merge(stored, _as_webhook(kept), kept.pushed_at, extent)
    if base is None or applies(base, snapshot, now):
        after = _merge(base, snapshot, now, extent)
    elif snapshot.source != WEBHOOK:
        after = replace(base, checked_at=now, confirmed=True, listed=base.listed or snapshot.listed)
    else:
        after = base
    if kept and not stored and snapshot.id:  # to Aide the order has a new id
        after = replace(after, id=snapshot.id, updated_at=_place(kept, snapshot, now, extent)[0])
    if stored is None:
        return after, Outcome.NEW
    told = [key for key in CONTENT if key != "line_items" and key in stored.order and key in after.order]
    changed = any(conflict(stored.order[key], after.order[key]) for key in told)
    return after, Outcome.CHANGED if changed or after.updated_at != stored.updated_at else Outcome.SAME


def takes_back(old_status: str, new_status: str) -> bool:
    """Return whether the new status lies before the old one in an order's life; unknown words lie nowhere."""
    if old_status not in LIFE or new_status not in LIFE:
        return False
    return LIFE.index(new_status) < LIFE.index(old_status)


def applies(row: Order, snapshot: Snapshot, now: str) -> bool:
    """Return whether the snapshot replaces the stored state.

    A webhook must not be older, nor take the order back. The Orders API always beats a webhook, but for a minute, when
    its lists may lag behind, must not take the order back. Between API answers the version decides, then `updatedAt`,
    then the later answer; after an hour AiFi's answer counts even if it went back, as after a restore.
    """
    back = takes_back(row.status, snapshot.order.get("status") or "")
    stored_at = min(row.aifi_at, row.seen_at, now)  # a time after we saw it, or after now, was a clock ahead
    if snapshot.source == WEBHOOK:
        return min(snapshot.at, now) >= stored_at and not back
    if row.pushed_at is not None:
        return not back or age(row.pushed_at, now) >= MINUTE
    if age(row.seen_at, now) > HOUR:
        return True
    known = row.version or 1
    if (snapshot.version or known) != known:
        return (snapshot.version or known) > known
    return snapshot.at >= stored_at or not ((row.dated and snapshot.dated) or back)


def is_news(row: Order, snapshot: Snapshot) -> bool:
    """Return whether the snapshot says something else than the row, of what a list can show."""
    for key in CONTENT:
        value = snapshot.order.get(key)
        if key not in snapshot.order or (key == "line_items" and not _same_kind_of_lines(row, snapshot)):
            continue
        if key in row.order:
            if conflict(row.order[key], value):
                return True
        elif value and key in APPEARING:
            return True
    return False


def conflict(old: Any, new: Any) -> bool:
    """Return whether two values contradict each other; what only one of two objects names is no contradiction."""
    if isinstance(old, dict) and isinstance(new, dict):
        return any(conflict(old[key], new[key]) for key in (old.keys() & new.keys()) - NO_NEWS)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) != len(new) or any(map(conflict, old, new))
    return bool(old != new)


def _same_kind_of_lines(row: Order, snapshot: Snapshot) -> bool:
    """Return whether line items can be compared: webhooks, lists and details show those of one state differently."""
    if snapshot.source == WEBHOOK or row.pushed_at is not None:
        return snapshot.source == WEBHOOK and row.pushed_at is not None
    return row.detailed == (snapshot.source == DETAIL) or snapshot.at > row.aifi_at


def _place(row: Order | None, snapshot: Snapshot, now: str, extent: Extent) -> tuple[str, bool]:
    """Return the `updated_at` of a new or changed order, and whether it was cut.

    It is AiFi's time, but never later than now, never before the order's former place, and always above what was
    served: who reads from the top down to what is known would overlook it there. Just above, not at the present time:
    AiFi's clock may be behind ours, and what it dates next must be above that, too. An order met below the horizon is
    no news: it stays within an hour of its draft, and so below all that was served.
    """
    at = min(snapshot.at, now)
    if row is None and _is_history(snapshot, extent):
        limit = shift(snapshot.order["created_at"], SETTLING_SECONDS)
        return min(at, limit), at > limit
    if row is not None:
        at = max(at, row.updated_at)
    if extent.served_until and at <= extent.served_until:
        at = shift(extent.served_until, 0.001)
    return at, False


def _is_history(snapshot: Snapshot, extent: Extent) -> bool:
    """Return whether an unknown order is an old one met by reading back or looking up, not because it changed.

    The horizon is today's: a page that was asked for before others went deeper may bring what they have not seen.
    """
    if snapshot.source in (LIST, WEBHOOK) or extent.complete:
        return False
    if extent.begun_at and snapshot.at > extent.begun_at:  # it changed while we were watching
        return False
    if extent.horizon is None:
        return extent.served_until is None
    return bool(snapshot.order["created_at"] <= extent.horizon)


def _first(snapshot: Snapshot, now: str, extent: Extent) -> Order:
    """Return an order as its first look shows it."""
    from_api = snapshot.source != WEBHOOK
    updated_at, cut = _place(None, snapshot, now, extent)
    return Order(
        id=snapshot.id or session_key(snapshot.session_id or ""),
        updated_at=updated_at,
        order=dict(snapshot.order),
        session_id=snapshot.session_id,
        version=snapshot.version,
        aifi_at=snapshot.at if from_api else min(snapshot.at, now),
        dated=snapshot.dated,
        seen_at=now,
        pushed_at=None if from_api else now,
        checked_at=now if from_api else None,
        confirmed=from_api,
        listed=snapshot.listed,
        detailed=snapshot.source == DETAIL,
        cut=cut,
    )


def _merge(row: Order | None, snapshot: Snapshot, now: str, extent: Extent) -> Order:
    """Return the order as it stands after a snapshot that applies."""
    if row is None:
        return _first(snapshot, now, extent)
    from_api = snapshot.source != WEBHOOK
    news = is_news(row, snapshot)
    uncut = row.cut and snapshot.source in (LIST, SWEEP, WEBHOOK)
    updated_at, cut = _place(row, snapshot, now, extent) if news or uncut else (row.updated_at, row.cut)
    if not from_api and not news:  # a webhook that repeats what is known confirms nothing
        state: dict[str, Any] = {}
    else:
        at = snapshot.at if from_api else min(snapshot.at, now)
        same_state = not news and row.pushed_at is None and at == row.aifi_at
        state = {
            "aifi_at": at,
            "dated": snapshot.dated,
            "seen_at": row.seen_at if same_state else now,
            "pushed_at": None if from_api else now,
        }
    return replace(
        row,
        id=snapshot.id or row.id,
        updated_at=updated_at,
        order=_merge_fields(row, snapshot, news),
        session_id=snapshot.session_id or row.session_id,
        version=snapshot.version or row.version,
        checked_at=now if from_api else row.checked_at,
        confirmed=from_api or row.confirmed,
        listed=row.listed or snapshot.listed,
        detailed=snapshot.source == DETAIL or (row.detailed and not news),
        cut=cut,
        **state,
    )


def _merge_fields(row: Order, snapshot: Snapshot, news: bool) -> dict[str, Any]:
    """Return both looks in one: the snapshot's word counts, but must not blur better detail of the same state."""
    known = dict(row.order)
    if (snapshot.order.get("status", row.status) or "") != row.status:  # what was told of the earlier state goes
        known["payment"] = {key: value for key, value in (known.get("payment") or {}).items() if key != "status"}
        known.pop("contest", None)
    merged = {**known, **snapshot.order}
    for key, value in snapshot.order.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict) and not (key == "contest" and news):
            merged[key] = {**known[key], **value}
    blurs = snapshot.source == WEBHOOK or (row.detailed and snapshot.source != DETAIL)
    if blurs and not news and "line_items" in known:
        merged["line_items"] = known["line_items"]
    if snapshot.source == WEBHOOK and row.confirmed:
        merged["created_at"] = known["created_at"]
    return {key: value for key, value in merged.items() if value != {}}


def _as_webhook(row: Order) -> Snapshot:
    return Snapshot(None, row.order, row.aifi_at, WEBHOOK, row.session_id, row.version)
