"""What AiFi knows: products, customers and orders, and what happens to them."""

import collections
import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from tools.sandbox.answers import Json, order_detail
from tools.sandbox.carts import Line, Product, sums
from tools.sandbox.catalogue import make_customers, make_products
from tools.sandbox.chance import draft_times, leave_open, random_lines, settle
from tools.sandbox.lists import Listing, Query
from tools.sandbox.orders import EXTERNAL_STATUSES, Order
from tools.sandbox.settings import Settings, check_choice
from tools.sandbox.stores import store_json
from tools.sandbox.times import MINUTE_MS, Moment, milliseconds

FIRST_ORDER_ID = 1001


class Shop(Settings):
    """The shops of one retailer. All methods may be called from any thread."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stopping = threading.Event()  # set when the sandbox stops, so that whatever waits can end
        self._lock = threading.RLock()
        self._dice = random.Random(self.seed)
        self.products = make_products()
        self.customers = make_customers(self._dice)
        self.orders: dict[int, Order] = {}
        self._store_changes: dict[int, Json] = collections.defaultdict(dict)
        self._next_id = FIRST_ORDER_ID
        self._earlier: dict[int, list[Order]] = collections.defaultdict(list)
        self._listing = Listing()
        self._hidden: set[int] = set()
        self._tie_dice = random.Random(f"ties {self.seed}")
        self._unlisted: collections.deque[tuple[float, Order]] = collections.deque()

    def now(self) -> float:
        """Return the time by the sandbox's clock, in seconds since 1970."""
        return time.time() + self.clock_offset_seconds

    def moment(self, at: Moment | None) -> int:
        """Return a moment, by default now, in milliseconds."""
        return round(milliseconds(self.now() if at is None else at))

    # What AiFi can tell

    def order(self, order_id: int) -> Json:
        """Return an order as `GET /orders/{id}` answers it; raise KeyError if there is none."""
        return order_detail(self.orders[order_id], self)

    def order_ids(self) -> list[int]:
        """Return the ids of all orders, rising."""
        with self._lock:
            return sorted(self.orders)

    def session_of(self, order_id: int) -> str:
        """Return the id of the order's session."""
        return self.orders[order_id].session_id

    def orders_page(self, query: Query) -> list[Order]:
        """Return the orders of a list's page as lists show them by now."""
        with self._lock:
            now = time.monotonic()
            while self._unlisted and self._unlisted[0][0] <= now:
                order = self._unlisted.popleft()[1]
                if order.id in self.orders and order.id not in self._hidden:
                    self._listing.put(order)
            if self.past_end == "last_page" and query.limit:
                last_offset = max(0, self._listing.count(query) - 1) // query.limit * query.limit
                query = replace(query, offset=min(query.offset, last_offset))
            return self._listing.page(query, self._tie_dice if self.tie_order == "shuffled" else None)

    def contested_orders(self) -> list[Order]:
        """Return the orders with a contest, the one contested first at the beginning."""
        with self._lock:
            found = [
                (order.contest.opened_at, order)
                for order in self.orders.values()
                if order.contest and order.id not in self._hidden
            ]
        return [order for _, order in sorted(found, key=lambda entry: (entry[0], entry[1].id))]

    def store(self, store_id: int) -> Json:
        """Return a store as `GET /stores` answers it."""
        return store_json(store_id, self._store_changes[store_id])

    # New orders

    def seed_orders(self, count: int, days: float = 7.0, settled: bool = True) -> list[int]:
        """Add the orders of the last `days`, ids rising with the draft; return their ids.

        Nearly all are paid within minutes to an hour after the draft, a few percent are contested and mostly reviewed
        later. With `settled` False one in ten has stayed open: draft, completed so far, or awaiting payment.
        """
        with self._lock:
            now = self.moment(None)
            orders = []
            for drafted_at in draft_times(self._dice, count, now, days):
                order = self._new_order(drafted_at)
                stays_open = not settled and self._dice.random() < 0.1
                orders.append((leave_open if stays_open else settle)(self._dice, order, now))
            self.orders.update((order.id, order) for order in orders)
            self._listing.add_all(orders)
            return [order.id for order in orders]

    def checkout(
        self,
        store: int | None = None,
        customer: int | None = None,
        lines: Iterable[tuple[Product | str, int]] | None = None,
        drafted_at: Moment | None = None,
        at: Moment | None = None,
        hidden: bool = False,
    ) -> int:
        """Let a shopper leave with a draft order; return its id.

        :param customer: the id of one of `customers`
        :param lines: [(product, quantity), …], each product a `Product` or the name of one in the catalogue
        :param drafted_at: the date of the draft, by default now; `updatedAt` is `at`, by default now
        :param hidden: lists leave it out until `show`
        """
        with self._lock:
            changed_at = self.moment(at)
            drafted = changed_at if drafted_at is None else self.moment(drafted_at)
            order = self._new_order(drafted, store, customer, lines)._replace(updated_at=changed_at)
            if hidden:
                self._hidden.add(order.id)
            self._put(order)
        self.announce(order)
        return order.id

    def _new_order(
        self,
        drafted_at: int,
        store: int | None = None,
        customer_id: int | None = None,
        lines: Iterable[tuple[Product | str, int]] | None = None,
    ) -> Order:
        """Return a draft with whatever is not given drawn at random; take the next id for it."""
        dice, order_id = self._dice, self._next_id
        self._next_id += 1
        customer_id = dice.choice(list(self.customers)) if customer_id is None else customer_id
        cart = random_lines(dice, self.products) if lines is None else tuple(itertools.starmap(self._line, lines))
        exited_at = drafted_at - dice.randrange(1_000, 20_000)
        total, tax = sums(cart)
        return Order(
            id=order_id,
            store_id=dice.choice(self.stores) if store is None else store,
            customer_id=customer_id,
            role=self.customers[customer_id].role,
            session_id=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            entered_at=exited_at - dice.randrange(45_000, 20 * MINUTE_MS),
            exited_at=exited_at,
            visitors=dice.choice((1, 1, 1, 1, 2, 2, 3)),
            lines=cart,
            total=total,
            tax=tax,
            drafted_at=drafted_at,
            updated_at=drafted_at,
            external_id=f"R-{order_id:07d}" if dice.random() < 0.6 else None,
        )

    def _line(self, product: Product | str, quantity: int = 1) -> Line:
        """Return the line for a `Product`, or for the name of one in the catalogue."""
        if isinstance(product, str):
            product = next(known for known in self.products if known.name == product)
        return Line(product, quantity)

    # Changes of an order; each returns the order as a detail answer shows it

    def complete(self, order_id: int, at: Moment | None = None) -> Json:
        """Make the cart final; the order then awaits its payment."""
        return self._change(order_id, at, Order.completed, announced=True)

    def pay(self, order_id: int, at: Moment | None = None) -> Json:
        """Let the payment succeed."""
        return self._change(order_id, at, Order.paid)

    def fail_payment(self, order_id: int, at: Moment | None = None) -> Json:
        """Let the payment fail."""
        return self._change(order_id, at, Order.unpaid)

    def contest(
        self,
        order_id: int,
        at: Moment | None = None,
        message: str | None = None,
        items: Iterable[str] | Mapping[str, int] | None = None,
    ) -> Json:
        """Let the shopper dispute the order: a new version.

        :param message: the shopper's words, at most 500 characters; None: a sentence that fits
        :param items: names of products that the shopper did not take, or {name: quantity that he says is right}; None:
            the product of the last line
        """
        claims = items if items is None or isinstance(items, Mapping) else dict.fromkeys(items, 0)
        return self._change(order_id, at, lambda order, at: order.contested(at, message, claims))

    def review(
        self,
        order_id: int,
        refunded: bool = True,
        at: Moment | None = None,
        accept: Collection[str] | None = None,
    ) -> Json:
        """Settle the dispute; what is accepted is taken back and refunded.

        :param refunded: whether all is accepted or nothing, if `accept` is None
        :param accept: the names of the disputed products about which the shopper is right
        """
        accept = () if accept is None and not refunded else accept
        return self._change(order_id, at, lambda order, at: order.reviewed(at, accept), announced=True)

    def change_message(self, order_id: int, message: str, at: Moment | None = None) -> Json:
        """Change the shopper's words in a contest; the contest's `updatedAt` moves, the order's does not."""
        return self._change(
            order_id,
            at,
            lambda order, at: order._replace(
                contest=order.contest and order.contest._replace(message=message, updated_at=at)
            ),
        )

    def correct_price(self, order_id: int, total: str | float | Decimal, at: Moment | None = None) -> Json:
        """Charge another total, given as in "2.15"; the lines stay as they are."""
        cents = round(Decimal(str(total)) * 100)
        return self._change(order_id, at, lambda order, at: order.corrected(at, cents))

    def set_external_id(self, order_id: int, text: str | None, at: Moment | None = None) -> Json:
        """Give the order the retailer's own number."""
        return self._change(order_id, at, lambda order, at: order._replace(external_id=text, updated_at=at))

    def set_external_status(self, order_id: int, status: str, at: Moment | None = None) -> Json:
        """Tell how the retailer's own system took the order: ok, failedObtainingPrice or failedSendingWebhook."""
        check_choice("status", status, EXTERNAL_STATUSES)
        return self._change(order_id, at, lambda order, at: order._replace(external_status=status, updated_at=at))

    def refund(self, order_id: int, at: Moment | None = None) -> Json:
        """Give the money back; without `at`, `updatedAt` stays as it is."""
        return self._change(
            order_id,
            at,
            lambda order, moment: order._replace(refunded=True, updated_at=order.updated_at if at is None else moment),
        )

    def clear_draft_time(self, order_id: int) -> Json:
        """Make `draftCreatedAt` null: no time filter on it lets the order through, and newest first it comes first."""
        return self._change(order_id, None, lambda order, _: order._replace(draft_time_shown=False))

    def touch(self, order_id: int, at: Moment | None = None) -> Json:
        """Move `updatedAt` and nothing else."""
        return self._change(order_id, at, lambda order, at: order._replace(updated_at=at))

    def restore(self, order_id: int, changes: int = 1) -> Json:
        """Take so many changes back, as a restored backup does: `version` and `updatedAt` go back, too.

        Raises IndexError if there were fewer; what `seed_orders` made of an order is not a change.
        """
        with self._lock:
            earlier = self._earlier[order_id]
            order = earlier[-changes]
            del earlier[-changes:]
            self._put(order)
        return order_detail(order, self)

    # Orders that go

    def delete(self, order_id: int) -> None:
        """Delete an order: lists leave it out, and looking it up is a 404."""
        with self._lock:
            del self.orders[order_id]
            self._earlier.pop(order_id, None)
            self._listing.remove(order_id)

    def hide(self, order_id: int) -> None:
        """Leave an order and its changes out of all lists until `show`; details still tell it."""
        with self._lock:
            self._hidden.add(order_id)
            self._listing.remove(order_id)

    def show(self, order_id: int) -> None:
        """List a hidden order as it is now, with its old times."""
        with self._lock:
            self._hidden.discard(order_id)
            self._listing.put(self.orders[order_id])

    def change_customer(self, customer_id: int, **changes: Any) -> None:
        """Change fields of a `Customer`, such as first_name."""
        with self._lock:
            self.customers[customer_id] = self.customers[customer_id]._replace(**changes)

    def change_store(self, store_id: int, **fields: Any) -> None:
        """Change fields of a store by AiFi's names, such as displayableName."""
        with self._lock:
            self._store_changes[store_id].update(fields)

    def announce(self, order: Order) -> None:
        """Tell others of a checkout, a completion or a review; a shop alone has nobody to tell."""

    def _change(
        self, order_id: int, at: Moment | None, change: Callable[[Order, int], Order], announced: bool = False
    ) -> Json:
        """Put `change(order, at)` in the order's place."""
        with self._lock:
            before = self.orders[order_id]
            order = change(before, self.moment(at))
            self._earlier[order_id].append(before)
            self._put(order)
        if announced:
            self.announce(order)
        return order_detail(order, self)

    def _put(self, order: Order) -> None:
        self.orders[order.id] = order
        self._unlisted.append((time.monotonic() + self.list_lag_seconds, order))
