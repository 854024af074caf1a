"""What goes on in the background: look-ups of what lists cannot show, and the sweep, which compares mirror and AiFi."""

import contextlib
import logging
import time
from dataclasses import replace

from aifi import AifiUnreadable, ListPage
from intake import OFFER, OFFERED, STORES, Intake, Tally
from lookups import LookUps
from marks import Marks, Sweep
from orders import SWEEP, Anchor
from times import DAY, HOUR, MINUTE, age, shift, utc_seconds
from translation import read_order_id, read_store
from transport import AifiRefused, AifiUnavailable, Pace

log = logging.getLogger("bridge.sweep")

LOOKUPS = 15  # a refresh and kind
STEP_LIMIT_SECONDS = 60.0  # for one page
RECENT, ALL = "recent", "all"
SWEEPS = {RECENT: (3, HOUR), ALL: (None, DAY)}  # days back, None: to the horizon; seconds for a round
SWEEP_AIM = 0.8  # of its time, in which a round should be done
LATE_SECONDS = 10 * MINUTE  # what changed since then may still be brought by the next refresh
SWEEP_SLACK = 0.05  # of a round, by which it may lag behind


class Upkeep:
    """Looks up and compares, a little after each refresh."""

    def __init__(self, intake: Intake, look_ups: LookUps):
        self._intake = intake
        self._look_ups = look_ups
        self._client, self._store = intake.client, intake.store

    def run(self) -> None:
        """Look up what lists cannot show, and compare the mirror with AiFi; one at a time over all processes."""
        with self._store.lock("upkeep") as is_free:
            if not is_free:
                return
            marks = self._store.marks()
            try:
                self._check_orders(marks)
                self._read_stores()
                if marks.begun_at:
                    self._sweep(marks)
            except AifiUnavailable as error:  # the next refresh goes on
                log.warning("Looking orders up, or the sweep, broke off: %s", error)

    def _check_orders(self, marks: Marks) -> None:
        """Look up what a contest or a webhook told of, and without `minUpdatedAt` what AiFi may still change."""
        self._look_ups.catch_up(LOOKUPS)
        started = self._store.now()
        rows = self._store.pushed_orders(LOOKUPS, started)
        if marks.unfiltered_at:
            rows += self._store.open_orders(LOOKUPS, started, young=True)
            rows += self._store.open_orders(LOOKUPS, started, young=False)
        for row in {row.id: row for row in rows}.values():
            try:
                self._look_ups.look_up(row.id, row.session_id if row.is_session_only else None)
            except (AifiRefused, AifiUnreadable) as error:
                self._store.mark_checked(row.id)
                log.warning("AiFi's order %s cannot be read: %s", row.id, error)
            except AifiUnavailable:
                self._store.mark_checked(row.id)  # it cost its retries: the next time, others come first
                raise

    def _read_stores(self) -> None:
        """Read AiFi's stores once a day; an answer without any may be empty by mistake, so it takes none away."""
        note = self._store.notes().get(OFFER + STORES)
        if note and note.text == OFFERED and age(note.at, self._store.now()) < DAY:
            return
        stores = self._intake.try_optional(STORES, self._client.list_stores)
        if stores is not None:
            if found := list(filter(None, map(read_store, stores))):
                self._store.put_stores(found)
            self._intake.put_note(OFFER + STORES, OFFERED)

    def _sweep(self, marks: Marks) -> None:
        """Compare a page of the mirror with AiFi's list, and as many more as the bounds need.

        There are two rounds: of the last days' orders once an hour, of all once a day. Where the hour's has time, the
        day's goes on. At most one request a second is spent on average.
        """
        idle = min(age(self._store.sweep(name, marks.begun_at).stepped_at, self._store.now()) for name in SWEEPS)
        allowance = min(max(1.0, idle), MINUTE)
        name = RECENT if self._is_late(RECENT, marks) else ALL
        while True:
            allowance -= self._sweep_on(self._store.sweep(name, marks.begun_at), marks)
            late = [name for name in SWEEPS if self._is_late(name, marks)]
            if allowance <= 0 or not late:
                return
            name = late[0]

    def _lowest(self, name: str, marks: Marks) -> str:
        """Return down to which draft time the sweep of that name goes."""
        days, low = SWEEPS[name][0], marks.horizon or marks.begun_at or self._store.now()
        return max(low, shift(self._store.now(), -days * DAY)) if days else low

    def _is_late(self, name: str, marks: Marks) -> bool:
        """Return whether a sweep lags behind its time."""
        sweep = self._store.sweep(name, marks.begun_at)
        top, low = utc_seconds(sweep.begun_at), utc_seconds(self._lowest(name, marks))
        place = utc_seconds(Anchor.parse(sweep.place).drafted_at) if sweep.place else top
        done = min(1.0, (top - place) / max(1.0, top - low))  # it goes below where a complete mirror learned of more
        due = age(sweep.begun_at, self._store.now()) / (SWEEP_AIM * SWEEPS[name][1])
        return due - done > SWEEP_SLACK

    def _sweep_on(self, sweep: Sweep, marks: Marks) -> int:
        """Compare the next page of a sweep; return how many requests that took."""
        pace = Pace(deadline=time.monotonic() + STEP_LIMIT_SECONDS)
        tally = Tally(late_before=shift(self._store.now(), -LATE_SECONDS))
        if sweep.place:
            place = Anchor.parse(sweep.place)
            pages, high = [self._intake.read_on(place, pace)], place.drafted_at
        else:
            pages, high = self._top(pace), "~"
        for page in pages:
            self._intake.store_page(page, SWEEP, tally)
        page = pages[-1]
        low = "" if page.ended or not page.anchors else page.anchors[0].drafted_at
        is_done = page.ended or (low <= self._lowest(sweep.name, marks) and not (sweep.name == ALL and marks.complete))
        orders = [order for page in pages for order in page.orders]
        shown = set(map(read_order_id, orders))
        # Below the horizon single orders are mirrored, which changed or were looked up: they are asked for by id.
        reach = "" if is_done and sweep.name == ALL else low
        lacking = [name for name in self._store.confirmed_between(reach, high, sweep.begun_at) if name not in shown]
        found = tally.late + sum(self._is_found(order_id) for order_id in lacking[:LOOKUPS])
        if found:
            log.warning("Found late by the sweep, as nothing told of it: %d orders", found)
        now = self._store.now()
        sweep = replace(sweep, stepped_at=now, compared=sweep.compared + len(orders), found=sweep.found + found)
        if len(lacking) <= LOOKUPS:
            sweep = replace(sweep, place=str(page.anchors[0]) if page.anchors else None)
            if is_done:
                sweep = replace(sweep, place=None, begun_at=now, ended_at=now, compared=0)
        self._store.put_sweep(sweep)
        return len(pages) + len(lacking[:LOOKUPS])

    def _top(self, pace: Pace) -> list[ListPage]:
        """Return the list's first pages, as many as lead to an order by whose draft time it can be read on."""
        pages = []
        for page in self._client.walk(pace=pace):
            pages.append(page)
            if page.anchors:
                break
        return pages

    def _is_found(self, order_id: str) -> bool:
        """Look up an order that a list lacks; return whether AiFi's word differs from the mirror's."""
        before = self._store.get_order(order_id)
        with contextlib.suppress(AifiRefused, AifiUnreadable):
            self._look_ups.look_up(order_id, None)
        self._store.mark_checked(order_id)
        after = self._store.get_order(order_id)
        return before is not None and (after is None or after.updated_at != before.updated_at)
