"""Older orders: a page at a time as Aide walks down, or spans of time side by side for a backfill."""

import collections
import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from aifi import PAGE_SIZE, ListPage
from intake import Intake
from marks import Marks, MarksMoved
from orders import HISTORY, Anchor
from times import DAY, HOUR, MINUTE, age, shift, utc_seconds
from translation import read_order_id
from transport import AifiUnavailable, Pace

PAGE_LIMIT_SECONDS = 60.0  # for one page
FIRST_SPAN_PAGES = 4  # as long as one night's orders tell how many there are in a day
SPANS, SPAN_PAGES = 12, 14  # of a backfill, side by side; longer spans waste fewer requests at their ends
QUEUED = 2 * SPANS  # so that none waits while the uppermost is still being read
MAX_SPAN_SECONDS = 30 * DAY
BACKFILL_INTERVAL = 1 / 19.2  # seconds between requests: [G] allows 20 a second


class History:
    """Deepens the mirror below its horizon."""

    def __init__(self, intake: Intake):
        self._intake = intake
        self._client, self._store = intake.client, intake.store

    def read_page(self) -> int:
        """Read the next older page of orders, and lower the horizon to it; return how many orders it brought."""
        marks = self._store.marks()
        self._intake.raise_while_pausing(marks)
        if marks.horizon is None or marks.horizon_id is None:
            raise AifiUnavailable("AiFi was not read yet")
        if marks.complete:
            return 0
        pace = Pace(deadline=time.monotonic() + PAGE_LIMIT_SECONDS)
        page = self._intake.read_on(Anchor(marks.horizon, marks.horizon_id), pace)
        self._intake.store_page(page, HISTORY)
        with contextlib.suppress(MarksMoved):  # another process went deeper meanwhile
            self._lower_horizon(marks, min(page.places, default=None), page.ended)
        return sum(place.drafted_at < marks.horizon for place in page.places)

    def backfill(self, until: str) -> Iterator[tuple[int, str]]:
        """Deepen the mirror to drafts of the time `until`, as fast as AiFi allows.

        Yields now and then how many orders came and the horizon then; goes on from the horizon when called again.
        Orders of the last hour are read one page after the other, as AiFi may still be adding to them; then spans of
        time are read side by side.

        :raises BridgeError: what was read before is kept
        """
        while (marks := self._store.marks()).horizon and not marks.complete and marks.horizon > until:
            yield self.read_page(), self._store.marks().horizon or marks.horizon
            marks = self._store.marks()
            if marks.horizon and not marks.complete and age(marks.horizon, self._store.now()) > HOUR:
                with contextlib.suppress(MarksMoved):
                    yield from self._read_spans(marks, until)

    def _read_spans(self, marks: Marks, until: str) -> Iterator[tuple[int, str]]:
        """Read spans below the horizon side by side; the horizon follows those done without a gap from the top.

        Each span is read until an order below it has come, and the next span must show that order, too. Where it does
        not, this ends, and the next page is read by itself.
        """
        high, seconds = marks.horizon or "", FIRST_SPAN_PAGES * self._seconds_of_a_page(marks)
        above = self._intake.anchors(Anchor(high, marks.horizon_id or ""))
        spans: collections.deque[tuple[concurrent.futures.Future[_Span], float]] = collections.deque()
        expected, course = None, _Course()
        pool = concurrent.futures.ThreadPoolExecutor(SPANS)
        try:
            while spans or high > until:
                while len(spans) < QUEUED and high > until:
                    low = max(until, shift(high, -seconds))
                    spans.append((pool.submit(self._read_span, above, high, low, course), seconds))
                    above, high = [], low
                future, its_seconds = spans.popleft()
                span = future.result()
                if expected and expected.id not in span.first_ids:
                    return
                expected = span.below
                marks = self._lower_horizon(marks, span.lowest, span.ended)
                yield span.count, marks.horizon or until
                if span.ended:
                    return
                seconds = min(max(MINUTE, its_seconds * SPAN_PAGES / span.pages), MAX_SPAN_SECONDS)
        finally:
            course.stopped = True
            pool.shutdown(cancel_futures=True)

    def _read_span(self, above: list[Anchor], high: str, low: str, course: "_Course") -> "_Span":
        """Read the orders drafted from `high` down to `low`, and at least one more."""
        span = _Span(high)
        if high <= course.bottom:
            span.ended = True
            return span
        bounds: dict[str, Any] = {} if above else {"maxDraftCreatedAt": high}
        for page in self._client.walk(above, pace=Pace(BACKFILL_INTERVAL), **bounds):
            with course.storing:
                self._intake.store_page(page, HISTORY)
            span.add(page, low)
            if span.below or course.stopped:
                break
        if span.ended:
            course.bottom = max(course.bottom, high)
        return span

    def _seconds_of_a_page(self, marks: Marks) -> float:
        """Return over how much time a page of orders spreads, by the oldest that are mirrored."""
        known = self._store.listed_from(marks.horizon or "", PAGE_SIZE)
        if len(known) < 2:
            return HOUR
        seconds = utc_seconds(known[-1].drafted_at) - utc_seconds(known[0].drafted_at)
        return max(1.0, seconds * PAGE_SIZE / len(known))

    def _lower_horizon(self, marks: Marks, lowest: Anchor | None, ended: bool) -> Marks:
        """Lower the horizon to an order, after all between the horizon and that one were stored."""
        values: dict[str, Any] = {"complete": 1} if ended else {}
        if lowest and marks.horizon and lowest.drafted_at < marks.horizon:
            values.update(horizon=lowest.drafted_at, horizon_id=lowest.id)
        return self._store.move_marks(marks, **values) if values else marks


@dataclass
class _Course:
    """What the threads of a backfill share.

    `storing`: held while a page is stored. Python runs one thread at a time, and those whose turn it is to ask AiFi
    must not wait behind all that have something to store. `bottom`: at or below this time AiFi has no orders.
    """

    storing: threading.Lock = field(default_factory=threading.Lock)
    bottom: str = ""
    stopped: bool = False


@dataclass
class _Span:
    """What came of a span of time from `high` down: `below` is the first order below it, `lowest` the last read."""

    high: str
    count: int = 0
    pages: int = 0
    first_ids: frozenset[str | None] = frozenset()
    below: Anchor | None = None
    lowest: Anchor | None = None
    ended: bool = False

    def add(self, page: ListPage, low: str) -> None:
        """Count a page of the span that ends at `low`."""
        if self.pages == 0:
            self.first_ids = frozenset(map(read_order_id, page.orders))
        above = self.lowest or Anchor(self.high, "")  # a page repeats the last order of the one before
        self.count += sum(low <= place.drafted_at and place < above for place in page.places)
        self.pages += 1
        self.below = max((place for place in page.places if place.drafted_at < low), default=None)
        self.lowest, self.ended = page.anchors[0] if page.anchors else self.lowest, page.ended
