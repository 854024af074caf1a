"""What all readings of AiFi's lists share: a page is translated and stored, and what cannot be read is told."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aifi import ANCHORS, AifiGone, AifiIncomplete, AifiUnreadable, Client, ListPage
from errors import Cause, StoreError
from marks import Marks
from orders import LIST, Anchor, Outcome, Snapshot
from store import Store
from times import HOUR, MINUTE, age, shift
from translation import Unreadable, read_order
from transport import AifiError, AifiRefused, AifiUnavailable, Pace

log = logging.getLogger("bridge.intake")

T = TypeVar("T")

PAUSE_MAX_SECONDS = 10  # after a failure
# Parts of AiFi's API that an old deployment may lack, and the notes of what this one offers: their names and texts.
CONTESTS, CONTESTS_BY_TIME, STORES = "contests", "contests_by_time", "stores"
OFFER, OFFERED, FAILS = "aifi_offers_", "yes", "fails"


@dataclass(frozen=True)
class Settings:
    """What the mirror needs of the configuration; waits and ages in seconds."""

    refresh_seconds: float = 30
    wait_seconds: float = 3
    store_ids: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    currency: str = ""


@dataclass
class Tally:
    """What a refresh brought, for the log and the marks."""

    new: int = 0
    changed: int = 0
    pages: int = 0
    newest: tuple[str, str] | None = None  # the newest `updatedAt`, and whose it is
    late_before: str = ""  # what is dated before that is late
    late: int = 0  # so many of the new and changed ones
    lost_newest: bool = False  # the order with the newest update so far is gone, or was put back
    begun: float = field(default_factory=time.monotonic)

    @property
    def news(self) -> int:
        """How many orders were new or changed."""
        return self.new + self.changed

    def add(self, outcomes: list[Outcome], snapshots: list[Snapshot]) -> int:
        """Count a page; return how many of its orders were new or changed."""
        new, changed = outcomes.count(Outcome.NEW), outcomes.count(Outcome.CHANGED)
        self.new, self.changed, self.pages = self.new + new, self.changed + changed, self.pages + 1
        pairs = zip(outcomes, snapshots, strict=True)
        self.late += sum(outcome is not Outcome.SAME and look.at < self.late_before for outcome, look in pairs)
        dated = [(snapshot.at, snapshot.id) for snapshot in snapshots if snapshot.dated and snapshot.id]
        self.newest = max([*dated, *([self.newest] if self.newest else [])], default=None)
        return new + changed

    def newest_update(self, marks: Marks) -> dict[str, Any]:
        """Return the marks of the newest update that AiFi has shown."""
        if self.newest is None:
            return {"newest_update_id": None} if self.lost_newest else {}
        if not self.lost_newest and (marks.newest_update or "", marks.newest_update_id or "") > self.newest:
            return {}
        return {"newest_update": self.newest[0], "newest_update_id": self.newest[1]}

    def __str__(self) -> str:
        seconds = time.monotonic() - self.begun
        return f"{self.new} new, {self.changed} changed, {self.pages} pages, {seconds:.2f} s"


class Intake:
    """AiFi on one side, the store on the other, and how a page comes from here to there."""

    def __init__(self, client: Client, store: Store, settings: Settings):
        self.client = client
        self.store = store
        self.settings = settings

    def store_page(self, page: ListPage, source: str, tally: "Tally | None" = None) -> int:
        """Translate a page, and store what is ours of it; return how many orders were new or changed.

        An order that cannot be read is told and left out: it must not stop the others.

        :raises AifiUnreadable: none of them can be read
        """
        snapshots, complaints = [], []
        for order in page.orders:
            try:
                snapshots.append(read_order(order, source, self.settings.currency))
            except Unreadable as error:
                complaints.append(str(error))
        if complaints and not snapshots and (source != LIST or len(complaints) > 1):
            raise AifiUnreadable(f"none of AiFi's orders can be read: {complaints[0]}")
        if complaints:
            text = f"{len(complaints)} of AiFi's orders cannot be read: {complaints[0]}"
            log.warning("%s", text)
            self.put_note(Cause.AIFI_ORDER_UNREADABLE, text)
        ours = [snapshot for snapshot in snapshots if self.is_ours(snapshot)]
        return (tally or Tally()).add(self.store.put_orders(ours), ours)

    def put_note(self, name: str, text: str) -> None:
        """Note something for the operator; a note that cannot be kept must not harm what it tells of."""
        try:
            self.store.put_note(str(name), text)
        except StoreError as error:
            log.warning("A note could not be kept: %s", error)

    def offers(self, part: str) -> bool:
        """Return whether AiFi is known to have a part of its API that only the reference documents."""
        return self._word(part) == OFFERED

    def may_ask_for(self, part: str) -> bool:
        """Return whether to ask for such a part: an hour after it was refused, a minute after it failed."""
        note = self.store.notes().get(OFFER + part)
        pause = MINUTE if note and note.text.startswith(FAILS) else HOUR
        return note is None or note.text == OFFERED or age(note.at, self.store.now()) >= pause

    def _word(self, part: str) -> str:
        note = self.store.notes().get(OFFER + part)
        return note.text if note else ""

    def try_optional(self, part: str, ask: Callable[[], T | None]) -> T | None:
        """Ask AiFi for such a part; None where it does not have that, or not now.

        The note tells all processes, and the operator.
        """
        if not self.may_ask_for(part):
            return None
        known, found = self._word(part), None
        word = known
        try:
            found = ask()
            if found is not None:
                word = OFFERED
            elif known != OFFERED:  # else there is no such order
                word = "no (404)"
        except AifiRefused as error:
            word = f"no ({error.status})"
        except AifiError as error:
            word = f"{FAILS}: {error}"
        if word != OFFERED or known != OFFERED:
            self.put_note(OFFER + part, word)
        return found

    def read_on(self, place: Anchor, pace: Pace) -> ListPage:
        """Return the page of AiFi's list that goes on below an order, whatever of the mirror AiFi has deleted.

        :raises AifiError: AiFi does not show it
        """
        while True:
            anchors = self.anchors(place)
            try:
                return self.client.read_below(anchors, pace)
            except AifiGone:  # each was looked up, and AiFi said 404
                if not [anchor for anchor in anchors if self.store.remove_order(anchor.id)]:
                    break
        for page in self.client.walk(pace=pace):
            if page.ended or min(page.places, default=place) < place:
                return page
        raise AifiIncomplete("AiFi's list ends without an end")

    def anchors(self, place: Anchor) -> list[Anchor]:
        """Return an order, and the mirrored ones above it, which serve where AiFi has deleted it."""
        return list(dict.fromkeys([place, *self.store.listed_from(place.drafted_at, ANCHORS)]))

    def is_ours(self, snapshot: Snapshot) -> bool:
        """Return whether the order passes the store filter; the role filter is AiFi's, orders do not tell roles."""
        stores = self.settings.store_ids
        return not stores or snapshot.order.get("store_id") in (*stores, None)

    def raise_while_pausing(self, marks: Marks) -> None:
        """Raise what AiFi failed with a moment ago: it is left alone for a pause that grows with each failure."""
        now = self.store.now()
        if marks.retry_at and now < marks.retry_at <= shift(now, PAUSE_MAX_SECONDS):
            raise AifiUnavailable(marks.error or "AiFi failed a moment ago")
