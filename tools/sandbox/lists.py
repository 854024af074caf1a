"""The orders as lists show them: indexes, filters, pages."""

import bisect
import collections
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tools.sandbox.orders import Order

# Up to so many candidates, sorting them costs less than trying all orders in the wanted order.
FEW_ROWS = 2_000
EVERYTHING = (float("-inf"), float("inf"))
# Rows without a value are sorted behind all others, and pass no range: ranges end here at the latest.
WITHOUT_VALUE = float("inf")
LAST_VALUE = 1e15


@dataclass
class Query:
    """What a list request asks for; `ranges` by sort key, `wanted` by the name of the order's field."""

    order_by: str
    descending: bool
    offset: int
    limit: int
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    wanted: dict[str, set[Any]] = field(default_factory=dict)


class Index:
    """Rows (key, order id) in rising order."""

    def __init__(self, key: Callable[[Order], float]):
        self.key = key
        self.rows: list[tuple[float, int]] = []

    def add_all(self, orders: Iterable[Order]) -> None:
        """Add orders that are not in the index yet."""
        self.rows.extend((self.key(order), order.id) for order in orders)
        self.rows.sort()

    def add(self, order: Order) -> None:
        """Add an order that is not in the index yet."""
        bisect.insort(self.rows, (self.key(order), order.id))

    def remove(self, order: Order) -> None:
        """Remove an order as it was added."""
        del self.rows[bisect.bisect_left(self.rows, (self.key(order), order.id))]

    def ids(self, positions: Iterable[int]) -> Iterator[int]:
        """Return the ids of the orders at these positions."""
        return (self.rows[position][1] for position in positions)

    def span(self, low: float, high: float) -> range:
        """Return the positions of the rows whose key lies between `low` and `high`, both included."""
        return range(bisect.bisect_left(self.rows, (low,)), bisect.bisect_right(self.rows, (high, float("inf"))))


class Listing:
    """The orders of all lists, with an index for each sort key, and one for each field with exact filters."""

    def __init__(self) -> None:
        self.orders: dict[int, Order] = {}
        self.indexes = {
            "id": Index(lambda order: order.id),
            "storeId": Index(lambda order: order.store_id),
            "totalPrice": Index(lambda order: order.total),
            "draftCreatedAt": Index(lambda order: order.drafted_at if order.draft_time_shown else WITHOUT_VALUE),
            "createdAt": Index(lambda order: order.created_at),
            "updatedAt": Index(lambda order: order.updated_at),
        }
        fields = ("status", "store_id", "customer_id", "session_id", "external_id")
        self.ids_by_value: dict[str, dict[Any, set[int]]] = {name: collections.defaultdict(set) for name in fields}

    def add_all(self, orders: Iterable[Order]) -> None:
        """Add orders that are not listed yet."""
        for order in orders:
            self.orders[order.id] = order
            for name, ids in self.ids_by_value.items():
                ids[getattr(order, name)].add(order.id)
        for index in self.indexes.values():
            index.add_all(orders)

    def put(self, order: Order) -> None:
        """List an order as it is now."""
        self.remove(order.id)
        self.orders[order.id] = order
        for name, ids in self.ids_by_value.items():
            ids[getattr(order, name)].add(order.id)
        for index in self.indexes.values():
            index.add(order)

    def remove(self, order_id: int) -> None:
        """Remove an order from all lists, if it is listed."""
        order = self.orders.pop(order_id, None)
        if order is None:
            return
        for name, ids in self.ids_by_value.items():
            ids[getattr(order, name)].discard(order_id)
        for index in self.indexes.values():
            index.remove(order)

    def count(self, query: Query) -> int:
        """Return how many orders all pages hold together."""
        return sum(1 for _ in self._matching(query))

    def page(self, query: Query, tie_dice: random.Random | None = None) -> list[Order]:
        """Return the orders of one page; `tie_dice` shuffles those with the same sort key."""
        ordered = self.indexes[query.order_by]
        first, end = query.offset, query.offset + query.limit
        if not (query.wanted or set(query.ranges) - {query.order_by} or tie_dice):
            span = ordered.span(*query.ranges.get(query.order_by, EVERYTHING))
            ids = ordered.ids((span[::-1] if query.descending else span)[first:end])
            return [self.orders[order_id] for order_id in ids]
        orders = self._matching(query)
        if tie_dice:
            orders = _shuffle_ties(orders, ordered.key, tie_dice)
        return list(itertools.islice(orders, first, end))

    def _matching(self, query: Query) -> Iterable[Order]:
        """Return the orders of all pages, in their order."""
        ordered = self.indexes[query.order_by]
        span = ordered.span(*query.ranges.get(query.order_by, EVERYTHING))
        matches = _matcher(query, self.indexes)
        count, ids = self._fewest_ids(query)
        if count <= max(FEW_ROWS, len(span) // 20):
            found = filter(matches, (self.orders[order_id] for order_id in ids))
            return sorted(found, key=lambda order: (ordered.key(order), order.id), reverse=query.descending)
        ids = ordered.ids(reversed(span) if query.descending else span)
        return filter(matches, (self.orders[order_id] for order_id in ids))

    def _fewest_ids(self, query: Query) -> tuple[int, Iterable[int]]:
        """Return how many orders pass the most selective one of the query's filters, and their ids."""
        found: list[tuple[int, Iterable[int]]] = [(len(self.orders), self.orders)]
        for name in query.wanted.keys() & self.ids_by_value.keys():
            groups = [self.ids_by_value[name].get(value, set()) for value in query.wanted[name]]
            found.append((sum(map(len, groups)), itertools.chain.from_iterable(groups)))
        for name, bounds in query.ranges.items():
            index = self.indexes[name]
            span = index.span(*bounds)
            found.append((len(span), index.ids(span)))
        return min(found, key=lambda candidate: candidate[0])


def _shuffle_ties(orders: Iterable[Order], key: Callable[[Order], float], dice: random.Random) -> Iterator[Order]:
    for _, tied in itertools.groupby(orders, key):
        group = list(tied)
        dice.shuffle(group)
        yield from group


def _matcher(query: Query, indexes: dict[str, Index]) -> Callable[[Order], bool]:
    """Return the test that an order passes when the query wants it."""
    ranges = [(indexes[name].key, low, high) for name, (low, high) in query.ranges.items()]
    wanted = list(query.wanted.items())

    def matches(order: Order) -> bool:
        for name, values in wanted:
            if getattr(order, name) not in values:
                return False
        return all(low <= key(order) <= high for key, low, high in ranges)

    return matches
