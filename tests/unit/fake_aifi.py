"""An AiFi without a network, with habits that are switches; and the rooms of a mirror that is kept like it."""

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from aifi import Client
from history import History
from intake import Intake, Settings
from lookups import LookUps
from marks import Marks
from mirror import Mirror
from refresh import Refresh
from store import Page, Store
from sweep import Upkeep
from tests.support import Clock, ago, join_tasks, new_store
from times import HOUR, MINUTE, shift, utc_seconds, utc_text
from transport import AifiRefused, AifiUnavailable, Pace, Token

Raw = dict[str, Any]
ANY_PACE = Pace()


def nothing(path: str, params: Mapping[str, Any]) -> None:
    """Do nothing before a request."""


def raw(order_id: int, drafted_at: str | None, **fields: Any) -> Raw:
    """Return an order as AiFi shows it: paid, and last changed a minute after its draft."""
    return {
        "id": order_id,
        "version": 1,
        "status": "paid",
        "totalPrice": "2.15",
        "storeId": 1,
        "sessionId": f"s{order_id}",
        "draftCreatedAt": drafted_at,
        "updatedAt": shift(drafted_at, MINUTE) if drafted_at else None,
        "lineItems": [],
        **fields,
    }


class FakeAifi:
    """AiFi's lists and look-ups. With no switch moved it does what its documents say."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.orders: dict[int, Raw] = {}
        self.customers: dict[int, Raw] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.before: Callable[[str, Mapping[str, Any]], None] = nothing  # it may raise
        # --- habits
        self.cut = 0.001  # to so many seconds times in filters are cut
        self.zone = 0.0  # so many hours ahead is the zone in which they are read
        self.ignores: set[str] = set()  # names of parameters
        self.refuses: set[str] = set()
        self.status_of_refusal = 400
        self.hides: set[str] = set()  # fields of orders that it does not show
        self.empty_answers = 0  # so many coming lists are empty by mistake
        self.empty_where = ""  # only those with this parameter
        self.page_cap = 200
        self.first_page = 0
        self.last_row: int | None = None  # of a list; what is beyond is empty
        self.repeats_last_page = False  # for ever
        self.differs = False  # a field that is another in each answer
        self.shuffles_ties = False
        self.nulls_first = False
        self.lacks = {"contests", "stores"}  # parts of the API, as an old deployment does
        self.contests: dict[int, Raw] = {}  # by the order's id
        self.stores: list[Raw] = []
        self._lists = {"contests": self._contested, "stores": lambda params: {"stores": self.stores}}
        self.drops: set[int] = set()  # ids that are left out of pages, after these were cut
        self._random, self._count = random.Random(7), itertools.count()

    def add(self, *orders: Raw) -> None:
        """Show these orders, in place of those with their ids."""
        self.orders.update((order["id"], order) for order in orders)

    def fill(self, count: int, newest: float = 10 * MINUTE, gap: float = MINUTE, **fields: Any) -> None:
        """Show so many orders, number 1 the oldest; the newest was drafted so many seconds ago."""
        self.add(*(raw(count - row, ago(newest + row * gap), **fields) for row in range(count)))

    def change(self, order_id: int, **fields: Any) -> None:
        """Change an order now."""
        self.orders[order_id] = {**self.orders[order_id], "updatedAt": utc_text(self.clock()), **fields}

    def lists(self) -> list[dict[str, Any]]:
        """Return the parameters of each list that was asked for."""
        return [params for path, params in self.asked if path == "/orders"]

    def forget(self) -> None:
        """Count requests anew."""
        self.asked.clear()

    def answer(self, path: str, params: Mapping[str, Any]) -> Any:
        """Answer a request.

        :raises AifiError: as `Client.get` does
        """
        self.asked.append((path, dict(params)))
        self.before(path, params)
        if path == "/orders":
            return {"data": self._list(params)}
        kind, _, name = path.lstrip("/").partition("/")
        if kind in self.lacks:
            raise AifiRefused("AiFi refuses the request (404)", 404)
        if not name:
            return self._lists[kind](params)
        rows = {"orders": self.orders, "customers": self.customers, "contests": self.contests}[kind]
        found = rows.get(int(name))
        if found is None:
            raise AifiRefused("AiFi refuses the request (404)", 404)
        return self._show(found)

    def _list(self, params: Mapping[str, Any]) -> list[Raw]:
        if self.refuses & params.keys():
            raise AifiRefused(f"AiFi refuses the request ({self.status_of_refusal})", self.status_of_refusal)
        if self.empty_answers and (not self.empty_where or self.empty_where in params):
            self.empty_answers -= 1
            return []
        filters = {name: value for name, value in params.items() if name not in self.ignores}
        tests = list(self._tests(filters))
        listed = self._sorted([order for order in self.orders.values() if all(test(order) for test in tests)], params)
        size = min(self.page_cap, params["pageSize"])
        number = max(0, filters.get("page", 0) - self.first_page)
        if self.repeats_last_page:
            number = min(number, max(0, (len(listed) - 1) // size))
        page = listed[: self.last_row][number * size : (number + 1) * size]
        return [self._show(order) for order in page if order["id"] not in self.drops]

    def _contested(self, params: Mapping[str, Any]) -> Raw:
        """Return a page of those contests that have an `updatedAt` in the bounds; details alone show the items."""
        number, size = params.get("page", 0), params["pageSize"]
        since = "" if "minUpdatedAt" in self.ignores else params["minUpdatedAt"]
        rows = [contest for contest in self.contests.values() if contest["updatedAt"] >= since]
        shown = [{name: value for name, value in row.items() if name != "items"} for row in rows]
        return {"contestedOrders": shown[number * size :][:size]}

    def _sorted(self, orders: list[Raw], params: Mapping[str, Any]) -> list[Raw]:
        if params["orderBy"] == "id":
            return sorted(orders, key=lambda order: order["id"], reverse=params["direction"] == "desc")
        if self.shuffles_ties:
            self._random.shuffle(orders)
        else:
            orders.sort(key=lambda order: order["id"], reverse=True)
        null = "9" if self.nulls_first else "0"
        return sorted(orders, key=lambda order: order["draftCreatedAt"] or null, reverse=True)

    def _tests(self, filters: Mapping[str, Any]) -> Iterator[Callable[[Raw], bool]]:
        """Yield for each filter what an order must pass."""
        for name, value in filters.items():
            if bound := re.fullmatch("(min|max)(Draft|Created|Updated)(?:Created)?At", name):
                yield self._bound(bound[1], "draftCreatedAt" if bound[2] == "Draft" else "updatedAt", value)
            elif name in ("status", "sessionId", "externalId", "storeId"):
                values = set(map(str, value if isinstance(value, list) else [value]))
                yield lambda order, name=name, values=values: str(order.get(name)) in values

    def _bound(self, side: str, field: str, value: str) -> Callable[[Raw], bool]:
        cut = round(self.cut * 1000)
        seconds = (round(utc_seconds(value) * 1000) // cut * cut) / 1000 - self.zone * HOUR
        bound = utc_text(seconds)
        passes = bound.__le__ if side == "min" else bound.__ge__
        return lambda order: order.get(field) is None or passes(order[field])

    def _show(self, order: Raw) -> Raw:
        shown = {name: value for name, value in order.items() if name not in self.hides}
        return {**shown, "requestId": next(self._count)} if self.differs else shown


class FakeClient(Client):
    """The real client, but for the network."""

    def __init__(self, fake: FakeAifi, store_ids: tuple[str, ...] = (), roles: tuple[str, ...] = ()):
        super().__init__("https://aifi.test", Token("token"), store_ids, roles)
        self.fake = fake

    def get(self, path: str, params: Mapping[str, Any] | None = None, pace: Pace = ANY_PACE) -> Any:
        """Return what the fake answers."""
        return self.fake.answer(path, params or {})


def fail_after(count: int, where: Callable[[str], bool] = lambda path: True) -> Callable[..., None]:
    """Let AiFi fail after so many requests, for good."""
    numbers = itertools.count(1)

    def before(path: str, params: Mapping[str, Any]) -> None:
        if where(path) and next(numbers) > count:
            raise AifiUnavailable("AiFi answers 503")

    return before


class World:
    """A fake AiFi, a store in a real file, and the rooms between them; all on one clock that stands still."""

    def __init__(self, place: str, clock: Clock, fake: FakeAifi, settings: Settings):
        self.place, self.clock, self.fake, self.settings = place, clock, fake, settings
        self.store: Store = new_store(place, clock=clock)
        self.start()

    def start(self) -> None:
        """Begin as a new process does: what is remembered is on the disk."""
        self.store.close()
        self.store = new_store(self.place, clock=self.clock)
        self.client = FakeClient(self.fake, self.settings.store_ids, self.settings.roles)
        self.intake = Intake(self.client, self.store, self.settings)
        self.look_ups = LookUps(self.intake)
        self.refresh_room = Refresh(self.intake, self.look_ups)
        self.history = History(self.intake)
        self.upkeep = Upkeep(self.intake, self.look_ups)
        self.mirror = Mirror(self.client, self.store, self.settings)

    @property
    def marks(self) -> Marks:
        return self.store.marks()

    def refresh(self, after: float = 31) -> int:
        """Refresh after so many seconds; return how many requests that took."""
        self.clock.move(after)
        self.fake.forget()
        assert self.refresh_room.run()
        return len(self.fake.asked)

    def sweep(self, rounds: int = 1, every: float = 31) -> None:
        """Keep the mirror up until so many rounds of the sweep over all are done."""
        ended = 0
        for _ in range(5000):
            before = self.store.sweep("all").ended_at
            self.upkeep.run()
            ended += self.store.sweep("all").ended_at != before
            if ended >= rounds:
                return
            self.clock.move(every)
        raise AssertionError("the sweep does not come round")

    def poll(self, limit: int = 1000) -> list[Raw]:
        """Ask for the first page as Aide does, and wait for what goes on in the background."""
        page = self.mirror.page(limit, None)
        join_tasks()
        return summaries(page)

    def walk(self, limit: int = 100) -> list[Raw]:
        """Walk the whole list as Aide does."""
        found: list[Raw] = []
        after = None
        for _ in range(10_000):
            page = self.mirror.page(limit, after)
            found += summaries(page)
            if page.ended:
                join_tasks()
                return found
            after = page.last
        raise AssertionError("the list has no end")

    def ids(self) -> set[int]:
        """Return the ids of all mirrored orders."""
        return {int(anchor.id) for anchor in self.store.listed_from("", 1_000_000)}

    def status(self, order_id: int) -> str | None:
        """Return an order's status in the mirror."""
        order = self.store.get_order(str(order_id))
        return order.status if order else None


def summaries(page: Page) -> list[Raw]:
    return [json.loads(text) for text in page.summaries]


def assert_mirrors(world: World, order_ids: Iterable[int] | None = None) -> None:
    """Compare the mirror with AiFi, in what a list can show."""
    wanted = world.fake.orders if order_ids is None else {key: world.fake.orders[key] for key in order_ids}
    assert world.ids() == set(wanted)
    for order_id, order in wanted.items():
        mirrored = world.store.get_order(str(order_id))
        assert mirrored is not None
        assert (mirrored.status, f"{mirrored.order['total_amount']:.2f}") == (order["status"], order["totalPrice"])
