"""The mirror, kept like AiFi: what Aide asks of it, and what AiFi pushes; the readings are in rooms of their own."""

import concurrent.futures
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from aifi import Client
from errors import BridgeError, StoreError, Unexpected
from history import History
from intake import CONTESTS, Intake, Settings
from lookups import LookUps
from marks import Marks
from orders import Order
from refresh import Refresh
from store import NotServed, Page, Store
from sweep import Upkeep
from times import HOUR, age
from translation import CheckoutWebhook, CustomerWebhook, Webhook, is_aifi_id
from transport import AifiRefused, AifiUnavailable

log = logging.getLogger("bridge.mirror")

MAX_TASKS = 32  # a process


@dataclass(frozen=True)
class Receipt:
    """What became of a webhook: `result` is new, changed, no news, kept, filtered or ignored."""

    kind: str
    result: str
    id: str = ""
    status: str = ""

    def __str__(self) -> str:
        words = filter(None, (self.kind, self.id if self.kind == "checkout" else "", self.status))
        return f"{' '.join(words)}, {self.result}"


def start_thread(run: Callable[[], None], name: str) -> None:
    """Run something in a thread of its own, which does not hold up the end of the process."""
    threading.Thread(target=run, daemon=True, name=name).start()


class Tasks:
    """Work that goes on when nobody waits for it any longer: a thread a key, shared by all who ask meanwhile.

    All work has a bound of its own, so no task is ever given up.

    :param start: runs something under a name; tests replace it
    """

    def __init__(self, start: Callable[[Callable[[], None], str], None] = start_thread) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._running: dict[Hashable, concurrent.futures.Future[Any]] = {}

    def share(self, key: Hashable, work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
        """Start the work, unless it is under way already; its future raises nothing but a `BridgeError`.

        :raises AifiUnavailable: too much is under way
        """
        with self._lock:
            if key in self._running:
                return self._running[key]
            if len(self._running) >= MAX_TASKS:
                raise AifiUnavailable("too many requests to AiFi are under way")
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            self._running[key] = future
        self._start(functools.partial(self._run, key, future, work), f"task {key}")
        return future

    def _run(self, key: Hashable, future: concurrent.futures.Future[Any], work: Callable[[], Any]) -> None:
        error, result = None, None
        try:
            result = work()
        except BridgeError as known:
            error = known
        except Exception as unknown:  # it is logged, and told to those who wait
            log.exception("Unexpected error")
            error = Unexpected(unknown)
        with self._lock:  # before the future is done, so that whoever asks after that starts anew
            del self._running[key]
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


class Mirror:
    """Keeps the store like AiFi."""

    def __init__(self, client: Client, store: Store, settings: Settings, tasks: Tasks | None = None):
        self._store = store
        self._settings = settings
        self._intake = Intake(client, store, settings)
        self._look_ups = LookUps(self._intake)
        self._refresh = Refresh(self._intake, self._look_ups)
        self._history = History(self._intake)
        self._upkeep = Upkeep(self._intake, self._look_ups)
        self._tasks = tasks or Tasks()

    # --- what Aide asks ---

    def page(self, limit: int, after: tuple[str, str] | None) -> Page:
        """Return a page of orders after (updated_at, id), the first one from a fresh mirror if AiFi answers in time.

        :raises AifiError: the page would be empty, but not because AiFi said that there is nothing more
        :raises StoreError: the mirror cannot be read
        """
        deadline, asked_at = self._deadline(), self._store.now()

        def is_current(marks: Marks) -> bool:
            read = marks.horizon is not None or marks.refreshed_at is not None
            return read and (after is not None or self._refresh.is_fresh(marks, asked_at))

        # Mostly the mirror is fresh and deep enough: then one statement answers the poll.
        page = self._store.serve_page(limit, after, may_be_short=False, only_if=is_current)
        if isinstance(page, Page):
            return page
        trouble: BridgeError | None = None
        if page is NotServed.STALE:
            trouble = self._refresh_until(deadline)
        # Older pages are pulled until this one is full. Once AiFi fails, the page may be short, but never both empty
        # and without an end: that would claim that there is nothing.
        while True:
            page = self._store.serve_page(limit, after, may_be_short=trouble is not None)
            if page is NotServed.BELOW_HORIZON:
                trouble = self._wait_for("history", self._history.read_page, deadline)[1]
            elif isinstance(page, Page) and (page.summaries or (page.ended and not (trouble and after is None))):
                return page
            else:
                raise trouble or AifiUnavailable("AiFi was not read yet")

    def order_body(self, name: str) -> dict[str, Any] | None:
        """Return an order as Aide gets it, with its store where AiFi told of that within the day; as `order` else."""
        shown = self._store.show_order(name)  # mostly it is here and current: then this one statement answers
        if shown is None or not self._is_current(shown[0], shown[2]):
            order = self.order(name)
            shown = self._store.show_order(order.id) if order else None
            if order and shown is None:  # it is shown, but not kept
                return order.body()
        if shown is None:
            return None
        order, shop, _ = shown
        return {**order.body(), "store": shop} if shop else order.body()

    def order(self, name: str) -> Order | None:
        """Return an order by AiFi's id, its session's id or its external id, asked of AiFi where the mirror may be old.

        What can be an order's id is taken for one first, and never for a session's. None where AiFi knows none.

        :raises BridgeError: the mirror has none, and AiFi could not be asked
        """
        by = ("external_lower",) if is_aifi_id(name) else ("session_lower", "external_lower")
        row = self._store.get_order(name)
        if row is None and not is_aifi_id(name):
            row = self._store.find_order(name, by)
        if row and self._is_current(row, self._store.marks()):
            return row
        if row:
            work = functools.partial(self._look_ups.look_up, row.id, row.session_id if row.is_session_only else None)
        else:
            work = functools.partial(self._look_ups.find, name, by)
        found, trouble = self._wait_for(("order", row.id if row else name), work, self._deadline())
        if found:
            return found  # type: ignore[no-any-return]  # what `_wait_for` waits for may be anything
        # What AiFi denied has left the mirror; what it does not show yet, or could not be asked about, has not.
        known = self._store.get_order(row.id) if row else None
        if known is None and trouble:
            raise trouble
        return known

    def customer(self, customer_id: str) -> dict[str, Any] | None:
        """Return a customer, at most an hour old where AiFi answers; None where neither AiFi nor an order names one.

        :raises BridgeError: the mirror has none, and AiFi could not be asked
        """
        known = self._store.get_customer(customer_id)
        if known and age(known[1], self._store.now()) < HOUR:
            return known[0]
        trouble = None
        if is_aifi_id(customer_id):
            work = functools.partial(self._look_ups.look_up_customer, customer_id)
            trouble = self._wait_for(("customer", customer_id), work, self._deadline())[1]
            known = self._store.get_customer(customer_id)
        if known:
            return known[0]
        if trouble and not isinstance(trouble, AifiRefused):
            raise trouble
        if self._store.names_customer(customer_id):
            return {"id": customer_id}
        if trouble:
            raise trouble
        return None

    def refresh_if_stale(self) -> BridgeError | None:
        """Freshen the mirror within the waiting bound, as a poll does; return what kept it from being fresh."""
        try:
            return self._refresh_until(self._deadline())
        except StoreError as error:
            return error

    def refresh(self) -> None:
        """Read from AiFi what is new and changed, unless the mirror is fresh; one at a time over all processes.

        What takes longer, look-ups and the sweep, goes on in the background when this has returned.

        :raises BridgeError: it failed; polls are answered from the mirror all the same
        """
        if self._refresh.run():
            with contextlib.suppress(AifiUnavailable):  # too many tasks: the next refresh starts it
                self._tasks.share("upkeep", self._upkeep.run)

    def read_history(self) -> int:
        """Read the next older page of orders; see `History.read_page`."""
        return self._history.read_page()

    def backfill(self, until: str) -> Iterator[tuple[int, str]]:
        """Deepen the mirror to drafts of that time; see `History.backfill`."""
        return self._history.backfill(until)

    # --- what AiFi pushes ---

    def store_webhook(self, webhook: Webhook) -> Receipt:
        """Take in a webhook; when this returns, what is kept of it is on disk.

        :raises StoreError: it could not be kept
        """
        if isinstance(webhook, CheckoutWebhook):
            return self._store_checkout(webhook)
        if isinstance(webhook, CustomerWebhook):
            return self._store_customer(webhook)
        return Receipt("other", "ignored")

    def _store_checkout(self, webhook: CheckoutWebhook) -> Receipt:
        stores, snapshot = self._settings.store_ids, webhook.snapshot
        if snapshot is None:
            return Receipt("checkout", "ignored")
        named = snapshot.id or snapshot.session_id or "", snapshot.order["status"]
        if self._is_other_role(webhook.role) or (stores and webhook.store_id not in stores):
            return Receipt("checkout", "filtered", *named)
        return Receipt("checkout", self._store.put_orders([snapshot])[0].value, *named)

    def _store_customer(self, webhook: CustomerWebhook) -> Receipt:
        customer_id = webhook.customer["id"]
        if self._is_other_role(webhook.role):
            return Receipt("customer", "filtered", customer_id)
        known = self._store.get_customer(customer_id)  # a webhook may name only what changed
        body = {**(known[0] if known else {}), **webhook.customer}
        self._store.put_customer(customer_id, body, min(webhook.at, self._store.now()))
        return Receipt("customer", "kept", customer_id)

    def _is_other_role(self, role: str | None) -> bool:
        return bool(self._settings.roles) and role not in self._settings.roles

    # --- shared ---

    def _is_current(self, row: Order, marks: Marks) -> bool:
        """Return whether a row can be served without asking AiFi."""
        now = self._store.now()
        try:
            self._intake.raise_while_pausing(marks)
        except AifiUnavailable:  # AiFi failed a moment ago
            return True
        if row.lacks_contest and self._intake.may_ask_for(CONTESTS):
            return False
        compared = age(row.checked_at, now) < HOUR or self._refresh.is_fresh(marks, now)
        return row.detailed and not row.open and compared

    def _refresh_until(self, deadline: float) -> BridgeError | None:
        """Wait until the deadline for a fresh mirror; return what kept it from being fresh."""
        marks = self._store.marks()
        if self._refresh.is_fresh(marks, self._store.now()):
            return None
        try:
            self._intake.raise_while_pausing(marks)
        except AifiUnavailable as error:
            return error
        return self._wait_for("refresh", self.refresh, deadline)[1]

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.wait_seconds

    def _wait_for(self, key: Hashable, work: Callable[[], Any], deadline: float) -> tuple[Any, BridgeError | None]:
        """Start or join the work and wait for it until the deadline; return its result, or what kept it from one."""
        try:
            return self._tasks.share(key, work).result(timeout=max(0.0, deadline - time.monotonic())), None
        except concurrent.futures.TimeoutError:
            return None, AifiUnavailable("AiFi has not answered yet")
        except BridgeError as error:
            return None, error
