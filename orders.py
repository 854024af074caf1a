"""Orders: what one is, which of two looks at it wins, and where it goes in the list. Pure functions.

Every time is fixed-width UTC text (`2025-11-01T00:00:00.000Z`), so the order of the text is the order of time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from times import DAY, HOUR, MINUTE, shift

SETTLING_SECONDS = HOUR  # an order is nearly always settled within this time of its draft
HISTORY, LIST, REREAD, DETAIL, WEBHOOK = "history", "list", "reread", "detail", "webhook"
LIFE = ("draft", "completed_so_far", "completed", "paymentProcessing", "unpaid", "paid", "contested", "reviewed")
OPEN = frozenset({"draft", "completed_so_far", "completed", "paymentProcessing", "contested", "unpaid"})
LISTED = frozenset({"external_id", "customer_id", "currency"})  # shown by the list, and not by every webhook
FILLINGS = frozenset({"created_at", "line_items", "session"})  # detail of a state, no news of their own
UNCONFIRMED, PUSHED, ALWAYS = "0", "1", "9"  # of Order.watch, as texts around all times


@dataclass(frozen=True)
class Snapshot:
    """One look at an order, in Aide's fields.

    `order` leaves out what AiFi did not say; None stands for what AiFi said there is not. `at` is AiFi's time of this
    state. `source` is HISTORY (a page below the horizon), LIST (of what is new or changed), REREAD (of everything in a
    span), DETAIL or WEBHOOK. A webhook may know the session instead of the id.
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

    def body(self) -> dict[str, Any]:
        """Return the order in full, as Aide gets it: what AiFi does not have is left out."""
        known = {key: value for key, value in self.order.items() if value is not None}
        display_id = known.get("external_id") or self.id
        named = {"id": self.id, "display_id": display_id, "updated_at": self.updated_at}
        return {**named, **known, "canceled_at": None}


class Extent(Protocol):
    """What of the mirror an order's place depends on: the marks that the store keeps."""

    @property
    def served_until(self) -> str | None:
        """The latest `updated_at` that was served."""

    @property
    def begun_at(self) -> str | None:
        """When the first refresh of this database began."""

    @property
    def horizon(self) -> str | None:
        """All orders drafted since are mirrored; None: nothing was read yet."""

    @property
    def complete(self) -> int:
        """Whether AiFi has nothing older than the horizon."""


def session_key(session_id: str) -> str:
    """Return the id of an order known by its session only: the session's, told apart where it could be an order's."""
    return f"session-{session_id}" if session_id.isdigit() else session_id


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
    stored_at = min(row.aifi_at, row.checked_at or row.aifi_at)  # a time after we saw it was a clock ahead
    if snapshot.source == WEBHOOK:
        return snapshot.at >= stored_at and not back
    if row.pushed_at is not None:
        return not back or now >= shift(row.pushed_at, MINUTE)
    known = row.version or 1
    return (snapshot.version or known, snapshot.at) >= (known, stored_at)


def is_news(row: Order, snapshot: Snapshot) -> bool:
    """Return whether the snapshot says something else than the row; more detail of the same state is no news."""
    same_state = snapshot.source == WEBHOOK or row.pushed_at is not None or snapshot.at <= row.aifi_at
    for key, value in snapshot.order.items():
        if key in row.order:
            if conflict(row.order[key], value) and not (same_state and key in FILLINGS):
                return True
        elif value is not None and (key in LISTED or not (same_state or key in FILLINGS)):
            return True
    return False


def place(row: Order | None, snapshot: Snapshot, now: str, extent: Extent) -> tuple[str, bool]:
    """Return the `updated_at` of a new or changed order, and whether it was cut.

    It is AiFi's time, but never later than now, never before the order's former place, and never at or below what was
    served: who reads from the top down to what is known would overlook it there, so it goes to the head. An order met
    below the horizon is no news: it stays within an hour of its draft, and so below all that was served.
    """
    at = min(snapshot.at, now)
    if row is None and _is_history(snapshot, extent):
        limit = shift(snapshot.order["created_at"], SETTLING_SECONDS)
        return min(at, limit), at > limit
    if row is not None:
        at = max(at, row.updated_at)
    if extent.served_until and at <= extent.served_until:
        at = max(now, shift(extent.served_until, 0.001))
    return at, False


def _is_history(snapshot: Snapshot, extent: Extent) -> bool:
    """Return whether an unknown order is an old one met by reading back or looking up, not because it changed."""
    if extent.begun_at and snapshot.at > extent.begun_at:  # it changed while this file has been watching
        return False
    if snapshot.source == HISTORY or extent.horizon is None:
        return snapshot.source in (HISTORY, REREAD, DETAIL)
    below = not extent.complete and snapshot.order["created_at"] <= extent.horizon
    return snapshot.source in (REREAD, DETAIL) and below


def merge(row: Order | None, snapshot: Snapshot, now: str, extent: Extent) -> Order:
    """Return the order as it stands after a snapshot that applies."""
    from_api = snapshot.source != WEBHOOK
    news = row is None or is_news(row, snapshot)
    uncut = row is not None and row.cut and snapshot.source in (LIST, REREAD, WEBHOOK)
    updated_at, cut = place(row, snapshot, now, extent) if news or uncut else (row.updated_at, row.cut)
    keeps_api_state = row is not None and not from_api and not news
    return Order(
        id=snapshot.id or (row.id if row else session_key(snapshot.session_id)),
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


def conflict(old: Any, new: Any) -> bool:
    """Return whether two values contradict each other; what only one of two objects names is no contradiction."""
    if isinstance(old, dict) and isinstance(new, dict):
        return any(conflict(old[key], new[key]) for key in old.keys() & new.keys())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) != len(new) or any(map(conflict, old, new))
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
