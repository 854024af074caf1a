"""What is new and what changed at AiFi since the last refresh, read from its lists."""

import contextlib
import logging
import math
import time
from typing import Any

from aifi import ANCHORS, NOT_UNDERSTOOD, AifiIncomplete, AifiRefused, AifiUnavailable, Pace
from errors import BridgeError, Unexpected
from intake import PAUSE_MAX_SECONDS, Intake, Tally
from orders import LIST, Anchor
from store import Marks, MarksMoved
from times import HOUR, MINUTE, age, shift, utc_seconds
from translation import read_updated_at

log = logging.getLogger("bridge.refresh")

OVERLAP_SECONDS = 5 * MINUTE  # for clocks that differ and orders that AiFi shows late
REFRESH_LIMIT_SECONDS = 120.0  # for all of a refresh


class Refresh:
    """Reads AiFi's lists into the store, one refresh at a time over all processes."""

    def __init__(self, intake: Intake):
        self._intake = intake
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

        Nothing was served yet, so these orders take AiFi's own times, as those do that changed.
        """
        values: dict[str, Any] = {"begun_at": marks.begun_at or started}
        for page in self._client.walk(pace=pace):
            self._intake.store_page(page, LIST, tally)
            if page.anchors:  # orders without a draft time may come first
                horizon = page.anchors[0]
                return {
                    **values,
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
        # Other lists may have brought orders that are newer, with some below them that none has shown.
        known = [anchor for anchor in self._store.listed_from(since, 1) if anchor <= newest] or [newest]
        witnesses = [*known, newest, *self._store.listed_until(newest.drafted_at, ANCHORS)]
        gap = (Anchor.parse(marks.gap_top), Anchor.parse(marks.gap_low)) if marks.gap_top and marks.gap_low else None
        top = None
        for page in self._client.walk(witnesses=witnesses, pace=pace, minDraftCreatedAt=since):
            top = top or page.newest
            self._intake.store_page(page, LIST, tally)
            if page.shows(gap[0] if gap else known[0]):
                break
            if gap is None and page.anchors:
                marks = self._store.move_marks(marks, gap_top=str(top), gap_low=str(page.anchors[0]))
        if gap:
            marks = self._store.move_marks(marks, gap_top=str(top or gap[0]))
            marks = self._close_gap(marks, gap[1], known[0], since, pace, tally)
        return marks, {"newest": str(top or newest), "gap_top": None, "gap_low": None}

    def _close_gap(self, marks: Marks, low: Anchor, known: Anchor, since: str, pace: Pace, tally: Tally) -> Marks:
        """Go on with a reading of new orders that broke off, down to an order that a list has shown before."""
        try:
            for page in self._client.walk(self._intake.anchors(low), pace=pace, minDraftCreatedAt=since):
                self._intake.store_page(page, LIST, tally)
                if page.shows(known):
                    break
                marks = self._store.move_marks(marks, gap_low=str(page.anchors[0]))
        except AifiIncomplete:  # the place is lost: the next refresh begins at the top
            self._store.move_marks(marks, gap_top=None, gap_low=None)
            raise
        return marks

    def _read_changes(
        self, marks: Marks, horizon: str, begins: bool, started: str, pace: Pace, tally: Tally
    ) -> dict[str, Any]:
        """Read what changed of older orders, by `minUpdatedAt` [R] or by what stands in for it; return marks.

        A server that does not know the parameter is asked for it again after an hour.
        """
        is_known = age(marks.unfiltered_at, started) >= HOUR
        if is_known and marks.unfiltered_at:
            is_known = self._client.knows_update_filter(started, pace)
        try:
            if is_known and self._read_changed(marks, horizon, begins, started, pace, tally):
                return {"unfiltered_at": None, "changed_at": started, **tally.newest_update(marks)}
        except AifiRefused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise
        except AifiIncomplete as error:
            log.warning("AiFi's list of changes cannot be trusted: %s", error)
        self._read_disputes(begins, pace, tally)
        if begins:  # too little was asked to learn from it
            return tally.newest_update(marks)
        return {"unfiltered_at": started if is_known or not marks.unfiltered_at else marks.unfiltered_at}

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
                # AiFi ignores the parameter, or reads it as another time: one request tells which.
                if begins or not self._client.knows_update_filter(started, pace):
                    return False
                asked = True
            news = self._intake.store_page(page, LIST, tally)
            shown = shown or page.shows(*witnesses)
            if shown and not news and not page.full:
                break
        tally.lost_newest = not shown
        return True

    def _read_disputes(self, begins: bool, pace: Pace, tally: Tally) -> None:
        """Read the contested and the reviewed orders, the newest first, each until a page brings nothing new."""
        if begins:
            with contextlib.suppress(AifiRefused):  # [R] only: the next refresh asks for one after the other
                for page in self._client.walk(pace=pace, status=["contested", "reviewed"]):
                    self._intake.store_page(page, LIST, tally)
                    return
        for status in ("contested", "reviewed"):
            for page in self._client.walk(pace=pace, status=status):
                if not self._intake.store_page(page, LIST, tally):
                    break


def _is_doubtful(orders: list[Any], since: str) -> bool:
    """Return whether orders listed by `minUpdatedAt` may be there although they did not change since.

    One without `updatedAt` proves nothing; if none has it, nothing proves that AiFi knows the parameter.
    """
    times = [time for time in map(read_updated_at, orders) if time is not None]
    return min(times, default="") < shift(since, -1) if orders else False
