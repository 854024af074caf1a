"""A model of AiFi in this process: a clock that stands still, orders with all their states, a client that reads them.

Times are seconds since 1970, in whole milliseconds; money is in cents.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aifi
import transport
from times import utc_seconds, utc_text

# What this AiFi makes of `minUpdatedAt`; a BARE one ignores it, and its orders have no `updatedAt` either.
HONOURS, IGNORES, REFUSES, BARE = "honours", "ignores", "refuses", "bare"
EXACT = 0.0001  # seconds; times are whole milliseconds
PAYMENTS = {"paid": "success", "unpaid": "failure", "paymentProcessing": "processing"}
PUSHED = {"draft": "draft", "reviewed": "reviewed", "completed_so_far": "completed"} | dict.fromkeys(
    PAYMENTS, "completed"
)


class Clock:
    """The bridge's clock, which moves only when told to."""

    def __init__(self, now: float):
        self.now = now

    def __call__(self) -> float:
        return self.now

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now = round(self.now + seconds, 3)


@dataclass(frozen=True)
class State:
    """How an order stands; `shown` is the bridge's time since when AiFi shows it, `updated` AiFi's time of it."""

    shown: float
    updated: float
    status: str = "draft"
    cents: int = 1000
    external_id: str | None = None
    version: int = 1
    completed: float | None = None
    paid: float | None = None

    @property
    def content(self) -> tuple[str, float, str | None, int]:
        """What a poller must know: status, total, external id, version."""
        return self.status, self.cents / 100, self.external_id, self.version


@dataclass
class Order:
    """An order with its states, oldest first."""

    id: int
    drafted: float
    states: list[State] = field(default_factory=list)
    deleted: bool = False

    @property
    def session_id(self) -> str:
        """The id of its shopping session."""
        return f"s{self.id}"

    def seen(self, at: float) -> int:
        """Return the number of its state as it showed then; -1 where it did not show yet."""
        return sum(state.shown <= at for state in self.states) - 1

    def told_at(self, number: int) -> float:
        """Return AiFi's time since when it stands as in that state; an update that moves the time alone is no news."""
        while number and self.states[number - 1].content == self.states[number].content:
            number -= 1
        return self.states[number].updated

    def restore(self, now: float) -> None:
        """Put it back to the state before its last, with that state's version and times."""
        self.states.append(replace(self.states[-2], shown=now))

    def change(self, now: float, at: float, **values: Any) -> None:
        """Change it, by AiFi's clock at that time, or just after its last change if that is later."""
        last = self.states[-1]
        self.states.append(replace(last, shown=now, updated=max(at, round(last.updated + 0.001, 3)), **values))


@dataclass
class Model:
    """AiFi. Its lists are `lag` seconds behind its details, its clock is `offset` seconds ahead of the bridge's.

    Bounds of time are cut to `unit` seconds, and read as if they were of a zone so many `zone_hours` ahead.
    """

    clock: Clock
    kind: str = HONOURS
    lag: float = 0.0
    offset: float = 0.0
    lists_sessions: bool = True
    has_contests: bool = False
    page_size: int = 5
    unit: float = 0.001
    zone_hours: int = 0
    mishap: str = ""  # of the next list: empty, or without a row in its middle
    dropped: set[int] = field(default_factory=set)  # orders that a list once lacked so
    orders: list[Order] = field(default_factory=list)
    before_request: Callable[[], None] = lambda: None

    @property
    def time(self) -> float:
        """AiFi's own time."""
        return round(self.clock.now + self.offset, 3)

    def create(self, drafted: float, shown: float | None = None) -> Order:
        """Begin an order, drafted at that time of AiFi's, and shown from now where no time is given."""
        order = Order(len(self.orders) + 1, drafted)
        order.states.append(State(shown=self.clock.now if shown is None else shown, updated=drafted))
        self.orders.append(order)
        return order

    def listed(self) -> Iterator[tuple[Order, State]]:
        """Yield the orders that lists show now, as they show them."""
        for order in self.orders:
            number = -1 if order.deleted else order.seen(self.clock.now - self.lag)
            if number >= 0:
                yield order, order.states[number]

    def answer(self, path: str, params: Mapping[str, Any]) -> Any:
        """Answer a request as AiFi would.

        :raises transport.AifiError: as `aifi.Client.get` does
        """
        self.before_request()
        if path == "/orders":
            return {"data": self._list(params)}
        kind, _, text = path.lstrip("/").partition("/")
        if kind == "contests" and self.has_contests and not text:
            return {"contestedOrders": self._list_contests(params)}
        if kind not in ("orders", "contests") or not text or not 1 <= int(text) <= len(self.orders):
            raise transport.AifiRefused("no such thing", 404)
        order = self.orders[int(text) - 1]
        if order.deleted or order.seen(self.clock.now) < 0:
            raise transport.AifiRefused("no such thing", 404)
        if kind == "orders":
            return self._raw(order, order.states[-1], detail=True)
        contest = self._contest(order, order.states[-1])
        if contest is None:
            raise transport.AifiRefused("no such thing", 404)
        return {**contest, "items": [{"name": "Tea", "originalQuantity": 1}]}

    def push(self, order: Order, with_order_id: bool) -> dict[str, Any] | None:
        """Return the checkout webhook of an order as it stands, issued now; None where AiFi sends none."""
        state = order.states[-1]
        if state.status not in PUSHED:
            return None
        body = {
            "sessionId": order.session_id,
            "customer": {"id": 11, "role": "customer"},
            "storeId": 1,
            "timeOfOrigin": utc_text(order.drafted),
            "timeOfIssue": utc_text(max(self.time, state.updated)),
            "status": PUSHED[state.status],
            "totalPrice": f"{state.cents / 100:.2f}",
            "cart": [{"productSnapshot": {"name": "Tea", "price": "2.15"}, "quantity": 1}],
        }
        if with_order_id:
            body["orderId"] = order.id
        if state.status in PAYMENTS:
            body["payment"] = {"status": PAYMENTS[state.status]}
        return body

    def _list(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        if "minUpdatedAt" in params and self.kind == REFUSES:
            raise transport.AifiRefused("minUpdatedAt is not known", 400)
        listed = [(order, state) for order, state in self.listed() if self._matches(order, state, params)]
        if params.get("orderBy") == "draftCreatedAt":
            listed.sort(key=lambda pair: (pair[0].drafted, pair[0].id), reverse=params.get("direction") == "desc")
        begin, size = params.get("page", 0) * self.page_size, min(params["pageSize"], self.page_size)
        page = listed[begin : begin + size]
        rows = [self._raw(order, state) for order, state in page]
        if "includeContest" in params:
            contests = [self._contest(order, state) for order, state in page]
            rows = [{**row, "contest": contest} for row, contest in zip(rows, contests, strict=True)]
        mishap, self.mishap = self.mishap, ""
        if mishap == "row" and len(rows) > 2:
            self.dropped.add(rows.pop(len(rows) // 2)["id"])
        return [] if mishap == "empty" else rows

    def _list_contests(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        since = self._bound(params, "minUpdatedAt") or 0.0
        rows = [
            {**contest, "order": self._raw(order, state)}
            for order, state in self.listed()
            if (contest := self._contest(order, state)) and state.updated >= since - EXACT
        ]
        begin = params.get("page", 0) * self.page_size
        return rows[begin : begin + self.page_size]

    def _contest(self, order: Order, state: State) -> dict[str, Any] | None:
        """Return the contest as it stood in that state; None before the first, and where this AiFi has none."""
        if state.version == 1 or not self.has_contests:
            return None
        settled = {"status": "reviewed", "reviewedTotalPrice": f"{state.cents / 100:.2f}"}
        contest = {"orderId": str(order.id), "updatedAt": utc_text(state.updated), "originalTotalPrice": "10.00"}
        return {**contest, **({"status": "contested"} if state.status == "contested" else settled)}

    def _bound(self, params: Mapping[str, Any], name: str) -> float | None:
        """Return a bound of time as this AiFi understands it."""
        if name not in params:
            return None
        seconds = utc_seconds(params[name]) - self.zone_hours * 3600
        return math.floor(round(seconds / self.unit, 3)) * self.unit

    def _matches(self, order: Order, state: State, params: Mapping[str, Any]) -> bool:
        lowest, highest = self._bound(params, "minDraftCreatedAt"), self._bound(params, "maxDraftCreatedAt")
        wanted = params.get("status")
        since = self._bound(params, "minUpdatedAt") if self.kind == HONOURS else None
        return (
            (lowest is None or order.drafted >= lowest - EXACT)
            and (highest is None or order.drafted <= highest + EXACT)
            and (since is None or state.updated >= since - EXACT)
            and (wanted is None or state.status in ([wanted] if isinstance(wanted, str) else wanted))
            and params.get("sessionId") in (None, order.session_id)
        )

    def _raw(self, order: Order, state: State, detail: bool = False) -> dict[str, Any]:
        times = {"draftCreatedAt": order.drafted, "completedAt": state.completed, "paidAt": state.paid}
        if self.kind != BARE:
            times["updatedAt"] = state.updated
        raw = {
            "id": order.id,
            "version": state.version,
            "isLatest": True,
            "status": state.status,
            "totalPrice": f"{state.cents / 100:.2f}",
            "customerId": "11",
            "storeId": 1,
            "externalId": state.external_id,
            "lineItems": [{"productSnapshot": {"name": "Tea", "price": "2.15"}, "quantity": 1, "status": "ORIGINAL"}],
            **{name: None if seconds is None else utc_text(seconds) for name, seconds in times.items()},
        }
        if self.lists_sessions or detail:
            raw["sessionId"] = order.session_id
        if detail:
            raw["session"] = {"sessionId": order.session_id, "customerFirstEnteredAt": utc_text(order.drafted)}
        return raw


class Client(aifi.Client):
    """The real client, but for the network: it asks the model."""

    def __init__(self, model: Model):
        super().__init__("https://aifi.example", transport.Token("token"))
        self._model = model

    def get(self, path: str, params: Mapping[str, Any] | None = None, pace: transport.Pace | None = None) -> Any:
        """Return what the model answers."""
        return self._model.answer(path, params or {})
