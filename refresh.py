"""What is new and what changed at AiFi since the last refresh, read from its lists."""

import contextlib
import logging
import math
import time
from typing import Any

from aifi import ANCHORS, NOT_UNDERSTOOD, AifiIncomplete, ListPage
from errors import BridgeError, Unexpected
from intake import CONTESTS_BY_TIME, PAUSE_MAX_SECONDS, Intake, Tally
from lookups import LookUps
from marks import Marks, MarksMoved
from orders import EVER, LIST, Anchor
from times import HOUR, MINUTE, age, shift, utc_seconds
from translation import read_contested, read_updated_at
from transport import AifiRefused, AifiUnavailable, Pace

log = logging.getLogger("bridge.refresh")

OVERLAP_SECONDS = 5 * MINUTE  # for clocks that differ and orders that AiFi shows late
REFRESH_LIMIT_SECONDS = 120.0  # for all of a refresh


class Refresh:
    """Reads AiFi's lists into the store, one refresh at a time over all processes."""

    def __init__(self, intake: Intake, look_ups: LookUps):
        self._intake = intake
        self._look_ups = look_ups
        self._client, self._store, self._settings = intake.client, intake.store, intake.settings

    def run(self) -> bool:
        """Read from AiFi what is new and changed, unless the mirror is fresh; return whether that was done here.

        :raises AifiError: AiFi failed; it is left alone until the pause after a failure is over
        :raises StoreError: the mirror cannot be written
        """
        asked_at, give_up = self._store.now(), time.monotonic() + REFRESH_LIMIT_SECONDS
        while not self.is_fresh(marks := self._store.marks(), asked_at):
            self._intake.raise_while_pausing(marks)
            with self._store.lock("refresh") as is_free, contextlib.suppress(MarksMoved):  # then once more
                if is_free and not self.is_fresh(marks := self._store.marks(), asked_at):
                    self._try_lists(marks)
                    return True
            if time.monotonic() > give_up:
                raise AifiUnavailable("another refresh takes long")
            time.sleep(0.02)
        return False

    def is_fresh(self, marks: Marks, asked_at: str) -> bool:
        """Return whether a refresh began so shortly before that, or since."""
        if marks.refreshed_at is None or age(marks.refreshed_at, self._store.now()) == math.inf:
            return False
        return utc_seconds(asked_at) - utc_seconds(marks.refreshed_at) <= self._settings.refresh_seconds

    def _try_lists(self, marks: Marks) -> None:
        """Read the lists, and remember a failure of whatever kind for those who wait in other processes."""
        try:
            self._read_lists(marks)
        except MarksMoved:
            raise
        except BridgeError as error:
            self._note_failure(error)
            raise
        except Exception as unknown:
            log.exception("A refresh failed unexpectedly")
            unexpected = Unexpected(unknown)
            self._note_failure(unexpected)
            raise unexpected from unknown
        if marks.failing_since:
            log.info("The mirror is refreshed again, after %d failures since %s", marks.failures, marks.failing_since)

    def _note_failure(self, error: BridgeError) -> None:
        marks, now = self._store.marks(), self._store.now()
        if marks.failing_since is None:
            log.warning("The mirror cannot be refreshed since %s: %s", now, error)
        if marks.failing_since is None or marks.error != str(error):
            self._intake.put_note(error.cause, str(error))
        with contextlib.suppress(MarksMoved):
            self._store.move_marks(
                marks,
                failures=marks.failures + 1,
                failing_since=marks.failing_since or now,
                retry_at=shift(now, min(2.0 ** min(marks.failures, 10), PAUSE_MAX_SECONDS)),
                cause=error.cause.value,
                error=str(error),
            )

    def _read_lists(self, marks: Marks) -> None:
        """Read what is new and what changed; `refreshed_at` moves only when all of it succeeded."""
        started, tally = self._store.now(), Tally()
        pace = Pace(deadline=time.monotonic() + REFRESH_LIMIT_SECONDS)
        if marks.horizon is None:
            values = self._begin(marks, started, pace, tally)
        else:
            marks, values = self._read_new(marks, started, pace, tally)
        begins = marks.horizon is None
        horizon = marks.horizon or values.get("horizon")
        if horizon:
            values.update(self._read_changes(marks, horizon, begins, started, pace, tally))
        self._store.move_marks(
            marks,
            **values,
            refreshed_at=started,
            failures=0,
            failing_since=None,
            retry_at=None,
            cause=None,
            error=None,
        )
        log.log(logging.INFO if tally.news else logging.DEBUG, "Refreshed from AiFi: %s", tally)

    def _begin(self, marks: Marks, started: str, pace: Pace, tally: Tally) -> dict[str, Any]:
        """Begin an empty mirror with AiFi's newest page; while AiFi shows no order, nothing is begun.

        Mostly nothing was served yet, so these orders take AiFi's own times, as those do that changed. Where orders of
        webhooks were, as all that there is, no other is history.
        """
        values: dict[str, Any] = {"begun_at": EVER if marks.served_until else marks.begun_at or started}
        for page in self._client.walk(pace=pace):
            self._intake.store_page(page, LIST, tally)
            if page.anchors:  # orders without a draft time may come first
                horizon = page.anchors[0]
                return {
                    **values,
                    "served_until": max(marks.served_until or "", started),  # by a database that was lost, perhaps
                    "horizon": horizon.drafted_at,
                    "horizon_id": horizon.id,
                    "newest": str(page.newest),
                }
        return values

    def _read_new(self, marks: Marks, started: str, pace: Pace, tally: Tally) -> tuple[Marks, dict[str, Any]]:
        """Read the orders drafted since the newest that a list has shown, newest first.

        Done is a list that has come down to the oldest order of its span that a list has shown before. A reading that
        breaks off leaves a gap; what was read above the gap is remembered, so that the next reading goes on within it.
        """
        newest = Anchor.parse(marks.newest) if marks.newest else Anchor(started, "")
        since = shift(min(newest.drafted_at, started), -OVERLAP_SECONDS)
        above = self._store.listed_until(newest.drafted_at, ANCHORS)
        known = next((place for place in self._store.listed_from(since, 1) if place <= newest), newest)
        lower = next((place for place in above if place < newest), newest)
        witnesses = list(dict.fromkeys([known, newest, *(place for place in above if place.drafted_at >= since)]))
        try:
            marks, top = self._read_since(marks, since, known, witnesses, pace, tally)
        except AifiIncomplete:  # the next reading begins at an older order: its list may be whole
            now = self._store.marks()
            if (now.file, now.newest) == (marks.file, marks.newest):
                self._store.move_marks(now, newest=str(lower), gap_top=None, gap_low=None)
            raise
        # A list that is rightly empty: AiFi has deleted the newest orders.
        return marks, {"newest": str(top or lower), "gap_top": None, "gap_low": None}

    def _read_since(
        self, marks: Marks, since: str, known: Anchor, witnesses: list[Anchor], pace: Pace, tally: Tally
    ) -> tuple[Marks, Anchor | None]:
        """Read the orders drafted since then, down to a known one; return the newest of them, if there is any.

        Also read is what lies below the known one and is of that time: AiFi may show it late.
        """
        gap = (Anchor.parse(marks.gap_top), Anchor.parse(marks.gap_low)) if marks.gap_top and marks.gap_low else None
        top, came = None, False
        for page in self._client.walk(witnesses=witnesses, pace=pace, minDraftCreatedAt=since):
            top = top or page.newest
            self._intake.store_page(page, LIST, tally)
            came = came or page.shows(gap[0] if gap else known)
            if came and (gap or page.reaches(since)):
                break
            if gap is None and page.anchors:
                marks = self._store.move_marks(marks, gap_top=str(top), gap_low=str(page.anchors[0]))
        if gap:
            marks, came = self._store.move_marks(marks, gap_top=str(top or gap[0])), False
            for page in self._client.walk(self._intake.anchors(gap[1]), pace=pace, minDraftCreatedAt=since):
                self._intake.store_page(page, LIST, tally)
                came = came or page.shows(known)
                if came and page.reaches(since):
                    break
                marks = self._store.move_marks(marks, gap_low=str(page.anchors[0]))
        return marks, top

    def _read_changes(
        self, marks: Marks, horizon: str, begins: bool, started: str, pace: Pace, tally: Tally
    ) -> dict[str, Any]:
        """Read what changed of older orders, by `minUpdatedAt` [R] or by what stands in for it; return marks.

        A server that does not know the parameter is asked for it again after an hour.
        """
        is_due = age(marks.unfiltered_at, started) >= HOUR
        was_known = begins or (marks.changed_at and not marks.unfiltered_at)
        is_known = is_due and (was_known or self._client.knows_update_filter(started, pace))
        values: dict[str, Any] = {}
        try:
            if is_known and self._read_changed(marks, horizon, begins, started, pace, tally):
                return {"unfiltered_at": None, "changed_at": started, **tally.newest_update(marks)}
        except AifiRefused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise
        except AifiIncomplete as error:  # the next one is read without that order
            log.warning("AiFi's list of changes cannot be trusted: %s", error)
            values["newest_update_id"] = None
        # Where that took requests already, one that may be refused is left to the next refresh.
        may_ask = not (begins or is_due) or self._intake.offers(CONTESTS_BY_TIME)
        if not (may_ask and self._read_contests(marks, started, pace, tally)):
            self._read_disputes(begins or is_known, pace, tally)
        values = {**tally.newest_update(marks), **values}
        if is_due and not begins:  # at the beginning too little was asked to learn from it
            values["unfiltered_at"] = started
        return values

    def _read_changed(self, marks: Marks, horizon: str, begins: bool, started: str, pace: Pace, tally: Tally) -> bool:
        """Read the orders changed since the last reading; return whether AiFi knows how to list them.

        The list must show the order whose update was the newest. On an empty mirror, orders above the horizon were
        read a moment ago.
        """
        since, witnesses = min(horizon, shift(started, -HOUR)), list[Anchor]()
        filters: dict[str, Any] = {}
        if begins:
            filters["maxDraftCreatedAt"] = shift(horizon, 0.001)
        elif age(marks.changed_at, started) < math.inf:
            since = shift(min(filter(None, (marks.changed_at, marks.newest_update))), -OVERLAP_SECONDS)
            witnesses = [Anchor("", marks.newest_update_id)] if marks.newest_update_id else []
        shown, asked = not witnesses, False
        for page in self._client.walk(witnesses=witnesses, pace=pace, minUpdatedAt=since, **filters):
            if not asked and _is_doubtful(page.orders, since):
                # AiFi may ignore the parameter, or read it as another time: one request tells which.
                if begins or not self._client.knows_update_filter(started, pace):
                    return False
                asked = True
            news = self._intake.store_page(page, LIST, tally)
            shown = shown or page.shows(*witnesses)
            if shown and not news and not page.full:
                break
        tally.lost_newest = not shown
        return True

    def _read_contests(self, marks: Marks, started: str, pace: Pace, tally: Tally) -> bool:
        """Read the contests opened or settled since the last refresh [R]; return whether AiFi lists them by time.

        AiFi's clock may be behind: so it is since the newest update that AiFi has shown, if that is earlier. The order
        that comes with a contest counts where it is of the contest's state; else it is looked up after the refresh.
        """
        since = shift(min(filter(None, (marks.refreshed_at, marks.newest_update)), default=started), -OVERLAP_SECONDS)
        contests = self._intake.try_optional(CONTESTS_BY_TIME, lambda: self._client.list_contests(since, pace))
        if contests is None:
            return False
        orders = []
        for contest in contests:
            order_id, status, order = read_contested(contest)
            known = self._store.get_order(order_id) if order_id else None
            if order_id is None or (known is None and self._settings.roles):
                continue  # an order does not tell its shopper's role
            if order:
                orders.append(order)
            elif known is None or known.status != status:
                self._look_ups.put_off(order_id)
        self._intake.store_page(ListPage(orders, ended=True, full=False), LIST, tally)
        return True

    def _read_disputes(self, briefly: bool, pace: Pace, tally: Tally) -> None:
        """Read the contested and the reviewed orders, the newest first, each until a page brings nothing new.

        :param briefly: with one request, as others were spent to learn that this is needed
        """
        if briefly:
            with contextlib.suppress(AifiRefused):  # [R] only: the next refresh asks for one after the other
                for page in self._client.walk(pace=pace, status=["contested", "reviewed"]):
                    self._intake.store_page(page, LIST, tally)
                    return
        for status in ("contested", "reviewed"):
            for page in self._client.walk(pace=pace, status=status):
                if not self._intake.store_page(page, LIST, tally):
                    break


def _is_doubtful(orders: list[Any], since: str) -> bool:
    """Return whether a list by `minUpdatedAt` may be one of all orders: it has older ones, or none shows its time.

    A single order without `updatedAt` proves nothing.
    """
    times = [updated_at for order in orders if (updated_at := read_updated_at(order))]
    return min(times) < shift(since, -1) if times else bool(orders)
