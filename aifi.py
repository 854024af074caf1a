"""AiFi's Orders API: the one way to read a list, look-ups.

Sources: [G] AiFi's guide "Data Integration: Orders & Webhooks", [R] AiFi's public API reference. What only [R] says, an
older deployment may lack: it is used where it works, and done without where it does not.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from errors import Cause
from orders import Anchor
from times import DAY, HOUR, MINUTE, shift
from translation import read_drafted_at, read_order_id, read_updated_at
from transport import UNKNOWN, USUAL, AifiError, AifiRefused, AifiUnavailable, Pace, Token, Transport

log = logging.getLogger("bridge.aifi")


class AifiUnreadable(AifiError):
    """AiFi answers with orders, none of which can be read."""

    cause = Cause.AIFI_UNREADABLE


class AifiIncomplete(AifiUnavailable):
    """A list lacks an order that it must show, and nothing explains it."""


class AifiGone(AifiIncomplete):
    """AiFi has deleted all orders from which a list was to be read on."""


NOT_UNDERSTOOD = (400, 422)  # a parameter, or what cannot be an id


# --- lists ---

PAGE_SIZE = 200  # [G] the most
FEW_ROWS = 10  # no server is thought to cut its pages below this
ANCHORS = 5  # so many rows of a page are remembered: an order may be deleted before the next page is asked for
MAX_PAGES = 200  # of contests or stores
MAX_PAGES_OF_ONE_BOUND = 200  # orders of the same draft time, or of the same day where AiFi cuts times to days
WIDENINGS = (1.0, MINUTE, HOUR, DAY, 2 * DAY)  # seconds; AiFi may cut times, read them in another zone, or both
WIDENING_SECONDS = HOUR  # how long what worked is remembered


@dataclass(frozen=True)
class ListPage:
    """A page of a list, newest draft first.

    `orders` are raw, and may repeat some of the page before. `ended`: there is nothing below. `full`: the server may
    have cut it off.
    """

    orders: list[Any]
    ended: bool
    full: bool

    @functools.cached_property
    def places(self) -> list[Anchor]:
        """The places of all its orders that have a draft time, the oldest first."""
        return sorted(_anchors_of(self.orders))

    @property
    def anchors(self) -> list[Anchor]:
        """The places of its last orders, the last first: where the next page must go on."""
        return self.places[:ANCHORS]

    @property
    def newest(self) -> Anchor | None:
        """The place of its newest order."""
        return self.places[-1] if self.places else None

    def reaches(self, drafted_at: str) -> bool:
        """Return whether nothing is left below that was drafted since then."""
        return self.ended or not self.full or not self.anchors or self.anchors[0].drafted_at < drafted_at

    def shows(self, *anchors: Anchor) -> bool:
        """Return whether one of these orders is on the page."""
        return not {anchor.id for anchor in anchors}.isdisjoint(map(read_order_id, self.orders))


class Client(Transport):
    """AiFi's orders and customers.

    :param wait_for_slot: see `Transport`
    """

    def __init__(
        self,
        base_url: str,
        token: Token,
        store_ids: tuple[str, ...] = (),
        roles: tuple[str, ...] = (),
        wait_for_slot: Callable[[float], float] = lambda interval: 0.0,
    ):
        super().__init__(base_url, token, wait_for_slot)
        self._filters: dict[str, Any] = {}
        if len(store_ids) == 1:  # [G] takes one; several are filtered by the mirror, from the orders
            self._filters["storeId"] = store_ids[0]
        if roles:
            self._filters["customerRole"] = list(roles)
        self._widening, self._widening_until = 0.0, 0.0
        self._most_rows = FEW_ROWS  # that a page was seen to have
        self._takes_contests, self._without_contests_until = False, 0.0

    def walk(
        self, after: Sequence[Anchor] = (), witnesses: Sequence[Anchor] = (), pace: Pace = USUAL, **filters: Any
    ) -> Iterator[ListPage]:
        """Yield a list's pages, newest draft first, to its end.

        AiFi's lists move while they are read, may be cut short, or be empty by mistake, so each page must prove that
        nothing lies between it and the one before (see `read_below`), and the whole list that it is one.

        :param after: where to begin, at the top if empty; see `read_below`
        :param witnesses: orders of which the list must show one; where it does not, it is read again from the top
        :raises AifiError: also in the middle of the list
        """
        for widening in self._attempts(witnesses, filters, pace):
            shown = not witnesses
            for page in self._pages(after, widening, pace, filters):
                if not shown and page.shows(*witnesses):
                    shown = True
                    self._remember(widening)  # now: the reader may break off
                yield page
            if shown:
                return

    def read_below(
        self, anchors: Sequence[Anchor], pace: Pace = USUAL, widening: float = 0.0, **filters: Any
    ) -> ListPage:
        """Return the page that begins with an order where an earlier page ended: that proves that nothing lies between.

        :param anchors: the order where it ended, and then the ones before, which serve where AiFi has deleted that one
        :param widening: by how many seconds the bounds of time are widened at least
        :raises AifiIncomplete: none of them comes back, though AiFi has one
        :raises AifiGone: AiFi has deleted them all
        """
        failure: AifiIncomplete = AifiGone("AiFi has deleted the orders from which its list is to be read on")
        # A list shows more than its lower bounds promise, where AiFi reads them in another zone.
        was_shown = {name: value for name, value in filters.items() if not name.startswith("min")}
        for anchor in anchors:
            try:
                for wider in self._attempts([anchor], was_shown, pace, widening):
                    page = self._read_from(anchor, wider, pace, filters)
                    if page is not None:
                        self._remember(wider)
                        return page
            except AifiIncomplete as error:
                failure = error
        raise failure

    def find_orders(self, **filters: Any) -> list[Any]:
        """Return the raw orders that a filter names, at most two; none where AiFi does not know the filter [R]."""
        try:
            orders = self._page(USUAL, {**filters, "pageSize": 3})
        except AifiRefused as error:
            if error.status not in (*NOT_UNDERSTOOD, *UNKNOWN):
                raise
            return []
        return orders if len(orders) < 3 else []  # so many: it was ignored

    def try_list(self) -> Any | None:
        """Return the newest raw order, or None where AiFi has none, with a single small request."""
        return next(iter(self._page(USUAL, {"pageSize": 1})), None)

    def knows_update_filter(self, now: str, pace: Pace = USUAL) -> bool:
        """Return whether AiFi lists nothing that was updated since the day after tomorrow, as it should.

        An order without a time may pass any bound, so it proves nothing; but so many of them are a list without one.
        """
        bound = shift(now, 2 * DAY)
        try:
            orders = self._page(pace, {"minUpdatedAt": bound, "pageSize": FEW_ROWS})
        except AifiRefused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise
            return False
        return len(orders) < FEW_ROWS and all((read_updated_at(order) or bound) >= bound for order in orders)

    def get_order(self, order_id: str, pace: Pace = USUAL) -> Any | None:
        """Return the raw details of an order, or None where AiFi knows no such id."""
        return self._get_one(f"/orders/{order_id}", pace)

    def get_customer(self, customer_id: str) -> Any | None:
        """Return a raw customer, or None where AiFi knows no such id."""
        return self._get_one(f"/customers/{customer_id}", USUAL)

    # --- what only [R] knows, and a deployment may lack ---

    def get_contest(self, order_id: str) -> Any | None:
        """Return an order's raw contest with its items, or None where AiFi knows of none."""
        return self._get_one(f"/contests/{order_id}", USUAL)

    def list_contests(self, since: str, pace: Pace) -> list[Any]:
        """Return the raw contests that were opened or settled since then.

        :raises AifiRefused: AiFi has no such list, or does not keep to that bound
        """
        bound = _widened({"minUpdatedAt": since}, self._known_widening())
        contests: dict[str, Any] = {}
        for number in range(MAX_PAGES):
            params = {**bound, "pageSize": PAGE_SIZE, **({"page": number} if number else {})}
            answer = self.get("/contests", params, pace)
            rows = {repr(row): row for row in _listed(answer, "contestedOrders")}
            if any((read_updated_at(row) or "") < shift(since, -2 * DAY) for row in rows.values()):
                raise AifiRefused("AiFi's list of contests does not keep to minUpdatedAt", 400)
            if rows.keys() <= contests.keys() or _cursor(answer, "next", default={}) is None:
                return [*contests.values(), *rows.values()]
            contests.update(rows)
        raise AifiUnavailable("AiFi's list of contests has no end")

    def list_stores(self) -> list[Any]:
        """Return the raw stores.

        :raises AifiRefused: AiFi has no such list
        """
        stores: list[Any] = []
        after = None
        for _ in range(MAX_PAGES):
            answer = self.get("/stores", {"count": PAGE_SIZE, **({"after": after} if after else {})})
            stores += _listed(answer, "stores")
            before, after = after, _cursor(answer, "after")
            if after in (None, before):
                return stores
        raise AifiUnavailable("AiFi's list of stores has no end")

    # --- how lists are read ---

    def _attempts(
        self, witnesses: Sequence[Anchor], filters: Mapping[str, Any], pace: Pace, least: float = 0.0
    ) -> Iterator[float]:
        """Yield by how many seconds to widen the bounds of time, while a witness that did not come should have come.

        A missing one is a sign: of an answer that is wrong by mistake (so it is asked for again), of an order that was
        deleted (so each is looked up), or of a filter that AiFi cuts or reads in another zone.

        :raises AifiIncomplete: none of this explains it
        """
        widening = max(self._known_widening(), least)
        yield widening
        yield widening
        kept = next((anchor for anchor in witnesses if self._is_listed(anchor, filters, pace)), None)
        if kept is None:
            return
        yield from (wider for wider in WIDENINGS if wider > widening)
        raise AifiIncomplete(f"AiFi's list of orders lacks order {kept.id}, which it must show")

    def _known_widening(self) -> float:
        return self._widening if time.monotonic() < self._widening_until else 0.0

    def _remember(self, widening: float) -> None:
        if widening > self._known_widening():
            log.warning("AiFi does not keep exactly to times: they are widened by %d s", widening)
            self._widening, self._widening_until = widening, time.monotonic() + WIDENING_SECONDS

    def _is_listed(self, anchor: Anchor, filters: Mapping[str, Any], pace: Pace) -> bool:
        """Return whether AiFi still has the order, and the list should show it as it is now."""
        if anchor.drafted_at and anchor.drafted_at < filters.get("minDraftCreatedAt", ""):
            return False
        order = self.get_order(anchor.id, pace)
        if order is None or filters.get("status") not in (None, order.get("status")):
            return False
        since, updated_at = filters.get("minUpdatedAt"), read_updated_at(order)
        return not (since and updated_at and updated_at < since)

    def _pages(
        self, after: Sequence[Anchor], widening: float, pace: Pace, filters: Mapping[str, Any]
    ) -> Iterator[ListPage]:
        anchors, number = list(after), 0
        while True:
            if anchors:
                page = self.read_below(anchors, pace, widening, **filters)
            else:  # at the top, where orders without a draft time may fill whole pages
                orders = self._page(pace, _widened(filters, widening), number)
                page = self._list_page(orders, ended=not orders)
            yield page
            if page.ended:
                return
            if not page.anchors and number >= MAX_PAGES_OF_ONE_BOUND:
                raise AifiUnavailable("AiFi's list of orders has too many without draftCreatedAt")
            anchors, number = page.anchors, number + 1

    def _read_from(self, anchor: Anchor, widening: float, pace: Pace, filters: Mapping[str, Any]) -> ListPage | None:
        """Return the page that holds the anchor and what is below; None where it does not come.

        Mostly that is one request. Only where nothing below the anchor's time fits on a page, as many orders have that
        time or the bound was widened, the pages are counted up. Numbers may begin at 0 [R] or 1, so two in a row must
        bring nothing before that is the end.
        """
        bounds = _widened({**filters, "maxDraftCreatedAt": shift(anchor.drafted_at, 0.001)}, widening)
        rows: dict[str, Any] = {}
        for number, fresh in enumerate(self._numbered(bounds, pace)):
            rows.update(fresh)
            below = any(place.drafted_at < anchor.drafted_at for place in _anchors_of(fresh.values()))
            if below or (number == 0 and rows.keys() <= {anchor.id}):
                break
        if anchor.id not in rows:
            return None
        tied = [place for place in _anchors_of(rows.values()) if place.drafted_at == anchor.drafted_at]
        if number > 0 and len(tied) > 1:  # their order may differ from one answer to the next, but not by id
            rows.update(self._read_tied(anchor, bounds, pace))
        return self._list_page(list(rows.values()), ended=not below)

    def _read_tied(self, anchor: Anchor, bounds: Mapping[str, Any], pace: Pace) -> dict[str, Any]:
        """Return by id all orders with the anchor's draft time, and perhaps others."""
        for widening in (0.0, *WIDENINGS):
            since = shift(anchor.drafted_at, -widening)
            filters = {**bounds, "minDraftCreatedAt": since, "orderBy": "id", "direction": "asc"}
            tied = {key: order for fresh in self._numbered(filters, pace) for key, order in fresh.items()}
            if anchor.id in tied:
                return tied
        return {}

    def _numbered(self, filters: Mapping[str, Any], pace: Pace) -> Iterator[dict[str, Any]]:
        """Yield what each page of one and the same list brings that was not on those before, by id.

        :raises AifiUnavailable: it has no end
        """
        seen: set[str] = set()
        idle = 0
        for number in range(MAX_PAGES_OF_ONE_BOUND):
            fresh = {key: order for order in self._page(pace, filters, number) if (key := _key(order)) not in seen}
            yield fresh
            seen.update(fresh)
            idle = 0 if fresh else idle + 1
            if idle == 2:
                return
        raise AifiUnavailable("AiFi's list of orders has too many of one and the same time")

    def _list_page(self, orders: list[Any], ended: bool) -> ListPage:
        return ListPage(orders, ended, full=len(orders) >= self._most_rows)

    def _page(self, pace: Pace, filters: Mapping[str, Any], number: int = 0) -> list[Any]:
        """Return one page of raw orders. The first is asked for without a number: it is the default [R].

        :raises AifiUnreadable: it has orders, but none with an id of AiFi's
        """
        params = {
            "includeProducts": "true",
            "pageSize": PAGE_SIZE,
            "orderBy": "draftCreatedAt",
            "direction": "desc",
            **self._filters,
            **filters,
            **({"page": number} if number else {}),
        }
        orders = _listed(self._with_contests(params, pace), "data")
        if orders and not any(map(read_order_id, orders)):
            raise AifiUnreadable("none of AiFi's orders has an id that can be read")
        self._most_rows = max(self._most_rows, len(orders))
        return orders

    def _with_contests(self, params: dict[str, Any], pace: Pace) -> Any:
        """Return a list's answer, with contests where AiFi takes that parameter; it is tried again after an hour.

        Where `minUpdatedAt` is asked for too, it is not learned from: a refusal may mean either.
        """
        learns = "minUpdatedAt" not in params
        if params["pageSize"] < PAGE_SIZE or time.monotonic() < self._without_contests_until:
            return self.get("/orders", params, pace)
        if not (learns or self._takes_contests):
            return self.get("/orders", params, pace)
        try:
            answer = self.get("/orders", {**params, "includeContest": "true"}, pace)
            self._takes_contests = True
        except AifiRefused as error:
            if error.status not in NOT_UNDERSTOOD or not learns:
                raise
            answer = self.get("/orders", params, pace)  # refused, too, where it is another parameter
            self._takes_contests, self._without_contests_until = False, time.monotonic() + HOUR
        return answer

    def _get_one(self, path: str, pace: Pace) -> Any | None:
        try:
            found = self.get(path, pace=pace)
        except AifiRefused as error:
            if error.status in UNKNOWN:
                return None
            raise
        if not isinstance(found, dict):
            raise AifiUnavailable("AiFi's answer is not an object")
        return found


def _widened(filters: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return filters whose bounds of time let through so many seconds more."""
    moves = {"min": -seconds, "max": seconds}
    return {name: shift(value, moves[name[:3]]) if name[:3] in moves else value for name, value in filters.items()}


def _anchors_of(orders: Any) -> list[Anchor]:
    """Return the places of those raw orders that have one."""
    places = ((read_drafted_at(order), read_order_id(order)) for order in orders)
    return [Anchor(drafted_at, order_id) for drafted_at, order_id in places if drafted_at and order_id]


def _listed(answer: Any, name: str) -> list[Any]:
    """Return the rows of a list; one that tells of an error, too, may lack some or all of them."""
    rows = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise AifiUnavailable(f"AiFi's answer has no {name}")
    if answer.get("errors") or answer.get("error") or str(answer.get("type")).startswith("E_"):
        raise AifiUnavailable(f"AiFi's answer with {name} tells of an error")
    return rows


def _cursor(answer: Any, name: str, default: Any = None) -> Any | None:
    """Return what an answer's `pagination` says of the page after it; None where there is none."""
    pagination = answer.get("pagination")
    return pagination.get(name, default) if isinstance(pagination, dict) else default


def _key(order: Any) -> str:
    """Return what tells raw orders apart: AiFi's id, or all of what has none."""
    return read_order_id(order) or repr(order)
