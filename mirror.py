"""The mirror, kept like AiFi: refreshed when read and stale, deepened when read to its end, fed by webhooks."""

import concurrent.futures
import contextlib
import functools
import itertools
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aifi import (
    BACKFILL_INTERVAL,
    FLIGHT_SECONDS,
    MAX_FLIGHTS,
    NETWORK_ERRORS,
    SURELY_LAST,
    AifiError,
    AifiRefused,
    AifiUnavailable,
    Client,
)
from errors import StoreError
from orders import DETAIL, HISTORY, LIST, REREAD, Order, Snapshot, merge
from store import FileLost, Marks, Page, Store
from times import DAY, HOUR, shift, utc_seconds
from translation import (
    CheckoutWebhook,
    CustomerWebhook,
    Unreadable,
    Webhook,
    is_aifi_id,
    read_customer,
    read_order,
    read_order_id,
    read_session_id,
    read_updated_at,
)

log = logging.getLogger("bridge.mirror")

OVERLAP_SECONDS = 300  # for clocks that differ and orders that AiFi shows late
CONTESTED_PAGES = 5
LOOKUPS_PER_REFRESH = 20
READ_AHEAD = 8
REREAD_SECONDS, REREAD_DAYS = HOUR, 3
LEASE_SECONDS, LEASE_RENEWALS = 30, 18
PAUSE_MAX_SECONDS = 10
CUSTOMER_SECONDS = HOUR


class Flights:
    """Work that goes on when nobody waits for it any longer: a thread a key, shared by all who ask meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Hashable, tuple[concurrent.futures.Future, float]] = {}

    def share(self, key: Hashable, work: Callable[[], Any]) -> concurrent.futures.Future:
        """Start the work, unless it is under way already.

        :raises AifiUnavailable: too much is under way
        """
        with self._lock:
            future, started = self._running.get(key, (None, 0.0))
            if future is not None and time.monotonic() - started < FLIGHT_SECONDS:
                return future
            if len(self._running) >= MAX_FLIGHTS:
                raise AifiUnavailable("too many requests to AiFi are under way")
            future = concurrent.futures.Future()
            self._running[key] = (future, time.monotonic())
        threading.Thread(target=self._run, args=(key, future, work), daemon=True, name=f"flight {key}").start()
        return future

    def _run(self, key: Hashable, future: concurrent.futures.Future, work: Callable[[], Any]) -> None:
        try:
            result = work()
        except BaseException as error:
            if not isinstance(error, (AifiError, StoreError, Unreadable, *NETWORK_ERRORS)):
                log.exception("Unexpected error")
            self._land(key, future)
            future.set_exception(error)
        else:
            self._land(key, future)
            future.set_result(result)

    def _land(self, key: Hashable, future: concurrent.futures.Future) -> None:
        with self._lock:
            if self._running.get(key, (None,))[0] is future:
                del self._running[key]


@dataclass(frozen=True)
class Settings:
    """What the mirror needs of the configuration; waits and ages in seconds."""

    refresh_seconds: float = 30
    wait_seconds: float = 3
    store_ids: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    currency: str = ""


@dataclass(frozen=True)
class Receipt:
    """What became of a webhook: `result` is new, changed, no news, filtered or ignored."""

    kind: str
    result: str
    id: str = ""
    status: str = ""

    def __str__(self) -> str:
        words = filter(None, (self.kind, self.id if self.kind == "checkout" else "", self.status))
        return f"{' '.join(words)}, {self.result}"


class Mirror:
    """Keeps the store like AiFi: refreshed when read and stale, deepened when read to its end, fed by webhooks."""

    def __init__(self, client: Client, store: Store, settings: Settings):
        self._client = client
        self._store = store
        self._settings = settings
        self._flights = Flights()
        self._leases: dict[str, str] = {}  # name and holder of what this process holds

    def close(self) -> None:
        """Give back what a refresh under way holds, so that the next process need not wait until it expires."""
        for name, holder in list(self._leases.items()):
            with contextlib.suppress(StoreError):  # then it expires
                self._store.drop_lease(name, holder)

    # --- what Aide asks, and AiFi pushes ---

    def page(self, limit: int, after: tuple[str, str] | None) -> Page:
        """Return a page of orders after (updated_at, id), the first one from a fresh mirror if AiFi answers in time.

        :raises AifiUnavailable: the page would be empty, but not because AiFi said that there is nothing more
        :raises StoreError: the mirror cannot be read
        """
        deadline, asked_at = self._deadline(), self._store.now()

        def is_current(marks: Marks) -> bool:
            return marks.horizon is not None and (after is not None or self._is_fresh(marks, asked_at))

        page = self._store.serve_page(limit, after, may_be_short=False, only_if=is_current)
        if page and (page.summaries or page.ended):
            return page
        begins = after is None or self._store.marks().horizon is None  # the file may have been lost within a walk
        trouble = self._freshen(deadline) if begins else None
        while True:
            page = self._store.serve_page(limit, after, may_be_short=trouble is not None)
            if page is None:
                _, trouble = self._await("history", self.deepen, deadline)
            elif page.summaries or (page.ended and not (trouble and after is None)):
                return page
            else:
                raise _told(trouble or AifiUnavailable("AiFi was not read yet"))

    def order(self, order_id: str) -> Order | None:
        """Return an order, asked of AiFi where the mirror may lack something; None where AiFi knows none.

        :raises AifiUnavailable: the mirror has none and AiFi could not be asked
        """
        row = self._store.get_order(order_id)
        if row and row.detailed and not row.open:
            return row
        known_id = row.id if row else order_id
        if row:
            session_id = row.session_id if row.is_session_only else None
        else:
            session_id = None if is_aifi_id(order_id) else order_id
        work = functools.partial(self._look_up, known_id, session_id)
        found, trouble = self._await(("order", known_id), work, self._deadline())
        if found is None:
            found = self._store.get_order(order_id) or row
        if found is None and trouble:
            raise _told(trouble)
        return found

    def customer(self, customer_id: str) -> dict[str, Any] | None:
        """Return a customer, at most an hour old where AiFi answers; None where neither AiFi nor an order names one.

        :raises AifiUnavailable: the mirror has none and AiFi could not be asked
        """
        known = self._store.get_customer(customer_id)
        if known and known[1] > shift(self._store.now(), -CUSTOMER_SECONDS):
            return known[0]
        trouble = None
        if is_aifi_id(customer_id):
            work = functools.partial(self._look_up_customer, customer_id)
            _, trouble = self._await(("customer", customer_id), work, self._deadline())
            known = self._store.get_customer(customer_id)
        if known:
            return known[0]
        if trouble:
            raise _told(trouble)
        return {"id": customer_id} if self._store.names_customer(customer_id) else None

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
        new, changed = self._store.put_orders([snapshot])
        return Receipt("checkout", "new" if new else "changed" if changed else "no news", *named)

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

    # --- refresh ---

    def try_refresh(self) -> Exception | None:
        """Freshen the mirror within the waiting bound, as a poll does; return what kept it from being fresh."""
        try:
            return self._freshen(self._deadline())
        except StoreError as error:
            return error

    def refresh(self) -> None:
        """Read from AiFi what is new and changed, unless the mirror is fresh; one at a time over all processes.

        :raises AifiError: AiFi failed; it is left alone until the pause after a failure is over
        :raises StoreError: the mirror cannot be written
        """
        asked_at, holder, give_up = self._store.now(), uuid.uuid4().hex, time.monotonic() + 2 * LEASE_SECONDS
        while not self._is_fresh(marks := self._store.marks(), asked_at):
            self._raise_while_pausing(marks)
            with self._lease("refresh", holder) as mine, contextlib.suppress(FileLost):  # then once more
                if mine and not self._is_fresh(marks := self._store.marks(), asked_at):
                    self._try_refresh(marks)
                    return
            if time.monotonic() > give_up:
                raise AifiUnavailable("another refresh takes long")
            time.sleep(0.02)

    def deepen(self) -> int:
        """Read the next older page of orders, and lower the horizon to it; return how many orders it brought.

        Many orders may share the draft time at the horizon, so more than one page may be needed to get below it.
        """
        marks = self._store.marks()
        self._raise_while_pausing(marks)
        if marks.horizon is None:
            raise AifiUnavailable("AiFi was not read yet")
        if marks.complete:
            return 0
        count = 0
        for orders in self._client.pages(**_older_than(marks.horizon)):
            horizon = self._take_older(orders, marks)
            count += len(orders)
            if horizon < marks.horizon:
                return count
        self._store.lower_horizon(marks, None)
        return count

    def backfill(self, until: str) -> Iterator[tuple[int, str]]:
        """Deepen the mirror to drafts of the time `until` with several requests at once, as fast as AiFi allows.

        Yields after each page how many orders it brought and the horizon then; goes on from the horizon when called
        again. Pages are read ahead, so an order that AiFi adds in the middle could push another past us: that happens
        to young orders only, and those are read one page at a time.

        :raises AifiError, StoreError: what was read before is kept
        """
        self._client.request_interval = BACKFILL_INTERVAL
        marks = self._store.marks()
        while marks.horizon and not marks.complete and marks.horizon > until:
            if marks.horizon > shift(self._store.now(), -HOUR):
                yield self.deepen(), (marks := self._store.marks()).horizon
                continue
            with contextlib.closing(self._client.pages_ahead(READ_AHEAD, **_older_than(marks.horizon))) as pages:
                for orders in pages:
                    horizon = self._take_older(orders, marks)
                    yield len(orders), horizon
                    if horizon <= until:
                        return
            self._store.lower_horizon(marks, None)
            marks = self._store.marks()

    def _take_older(self, orders: list[Any], marks: Marks) -> str:
        """Take in a page from below the horizon of `marks`, and lower the horizon to it; return its oldest draft."""
        drafts = [snapshot.order["created_at"] for snapshot in self._take(orders, HISTORY)]
        horizon = min(drafts, default=marks.horizon)
        self._store.lower_horizon(marks, horizon)
        return horizon

    def _freshen(self, deadline: float) -> Exception | None:
        """Wait until the deadline for a fresh mirror; return what kept it from being fresh."""
        marks = self._store.marks()
        if self._is_fresh(marks, self._store.now()):
            return None
        try:
            self._raise_while_pausing(marks)
        except AifiUnavailable as error:
            return error
        return self._await("refresh", self.refresh, deadline)[1]

    def _is_fresh(self, marks: Marks, asked_at: str) -> bool:
        if marks.horizon is None or marks.refreshed_at is None:
            return False
        refreshed = utc_seconds(marks.refreshed_at)
        if refreshed > self._store.clock() + 1:  # by a clock that has been put back since
            return False
        return utc_seconds(asked_at) - refreshed <= self._settings.refresh_seconds

    def _raise_while_pausing(self, marks: Marks) -> None:
        now = self._store.now()
        if marks.retry_at and now < marks.retry_at <= shift(now, PAUSE_MAX_SECONDS):
            raise AifiUnavailable(marks.error or "AiFi failed a moment ago")

    def _try_refresh(self, marks: Marks) -> None:
        """Refresh, and remember the outcome for those who wait in other processes."""
        try:
            self._refresh(marks)
        except FileLost:
            raise
        except (AifiError, StoreError) as error:
            failures, now = marks.failures + 1, self._store.now()
            if marks.failing_since is None:
                log.warning("The mirror cannot be refreshed since %s: %s", now, error)
            self._store.set_marks(
                failures=failures,
                failing_since=marks.failing_since or now,
                retry_at=shift(now, min(2.0 ** (failures - 1), PAUSE_MAX_SECONDS)),
                cause=error.cause,
                error=str(error),
            )
            raise
        if marks.failing_since:
            log.info("The mirror is refreshed again, after %d failures since %s", marks.failures, marks.failing_since)

    def _refresh(self, marks: Marks) -> None:
        """Read what is new and what changed; the marks move only when all of it succeeded."""
        started, tally = self._store.now(), _Tally()
        first = marks.horizon is None
        if first:
            values = self._take_newest(started, tally)
            since = min(values["horizon"], shift(started, -HOUR))
        else:
            values = self._take_new(marks, tally)
            # AiFi's own times where it shows any: its clock may be minutes behind.
            since = shift(min(marks.refreshed_at, marks.newest_update or marks.refreshed_at), -OVERLAP_SECONDS)
        knows_filter = self._take_changed(since, marks, tally)
        if not knows_filter:
            self._take_disputes(first, tally)
        if not first:
            self._check_orders(started, knows_filter, tally)
        self._store.set_marks(
            marks.file,
            **values,
            newest_update=max(filter(None, (tally.newest_update, marks.newest_update)), default=None),
            unfiltered_at=None if knows_filter else tally.unfiltered_at or marks.unfiltered_at,
            refreshed_at=started,
            failures=0,
            failing_since=None,
            retry_at=None,
            cause=None,
            error=None,
        )
        log.log(logging.INFO if tally.news else logging.DEBUG, "Refreshed from AiFi: %s", tally)
        if not (knows_filter or first) and (marks.reread_at or "") < shift(started, -REREAD_SECONDS):
            with contextlib.suppress(AifiUnavailable):  # then the next refresh tries
                self._flights.share("reread", self._reread)

    def _take_newest(self, started: str, tally: "_Tally") -> dict[str, Any]:
        """Begin an empty mirror with AiFi's newest page; return the marks that follow from it."""
        orders = next(self._client.pages(orderBy="draftCreatedAt", direction="desc"), [])
        drafts = [snapshot.order["created_at"] for snapshot in self._take(orders, HISTORY, tally)]
        return {
            "begun_at": started,
            "horizon": min(drafts, default=started),
            "newest_draft": max(drafts, default=None),
            "complete": int(self._client.is_last(orders)),
        }

    def _take_new(self, marks: Marks, tally: "_Tally") -> dict[str, Any]:
        """Read the orders drafted since the newest that a list has shown; return the mark of the newest now."""
        newest, since = marks.newest_draft, {}
        if newest:  # which may lie ahead, if AiFi's clock was put back since
            since["minDraftCreatedAt"] = shift(min(newest, self._store.now()), -OVERLAP_SECONDS)
        for orders in self._client.pages(**since, orderBy="draftCreatedAt", direction="asc"):
            drafts = [snapshot.order["created_at"] for snapshot in self._take(orders, LIST, tally)]
            newest = max([*drafts, newest or ""])
        return {"newest_draft": newest}

    def _take_changed(self, since: str, marks: Marks, tally: "_Tally") -> bool:
        """Read the orders changed since then; return whether AiFi knows how to list them.

        A server without `minUpdatedAt` [R] refuses it or ignores it; it is asked again after an hour.
        """
        if marks.unfiltered_at and marks.unfiltered_at > shift(self._store.now(), -REREAD_SECONDS):
            return False
        try:
            for orders in self._client.pages(minUpdatedAt=since, orderBy="draftCreatedAt", direction="asc"):
                if any(_ignores_filter(order, since) for order in orders):
                    break
                self._take(orders, LIST, tally)
            else:
                return True
        except AifiRefused as error:
            if error.status not in (400, 422):
                raise
        tally.unfiltered_at = self._store.now()
        return False

    def _take_disputes(self, first: bool, tally: "_Tally") -> None:
        """Read the contested orders, and the newest reviewed ones until a page brings nothing new."""
        contested = self._client.pages(status="contested", orderBy="draftCreatedAt", direction="asc")
        for orders in itertools.islice(contested, 1 if first else CONTESTED_PAGES):
            self._take(orders, LIST, tally)
        for orders in self._client.pages(status="reviewed", orderBy="draftCreatedAt", direction="desc"):
            before = tally.news
            self._take(orders, LIST, tally)
            if first or tally.news == before:
                return

    def _check_orders(self, started: str, only_pushed: bool, tally: "_Tally") -> None:
        """Look up one by one what the lists cannot show; what fails here is one order's trouble, as the lists came."""
        for row in self._store.orders_to_check(LOOKUPS_PER_REFRESH, started, only_pushed):
            tally.requests += 1
            try:
                self._look_up(row.id, row.session_id if row.is_session_only else None)
            except (AifiError, Unreadable) as error:
                self._store.mark_checked(row.id)
                log.warning("AiFi's order %s cannot be read: %s", row.id, error)
                if isinstance(error, AifiUnavailable):  # it cost its retries: the next refresh goes on behind it
                    return

    def _reread(self) -> None:
        """Read the last days whole, for changes that a server without `minUpdatedAt` shows nowhere else."""
        started, tally = self._store.now(), _Tally()
        with self._lease("reread", uuid.uuid4().hex) as mine:
            if not mine:
                return
            since = shift(started, -REREAD_DAYS * DAY)
            try:
                for orders in self._client.pages(minDraftCreatedAt=since, orderBy="draftCreatedAt", direction="asc"):
                    self._take(orders, REREAD, tally)
                self._store.set_marks(reread_at=started)
            except (AifiError, StoreError) as error:
                log.warning("Reading the last %d days again failed: %s", REREAD_DAYS, error)
            else:
                log.info("Read the last %d days again: %s", REREAD_DAYS, tally)

    # --- one order, one customer ---

    def _look_up(self, order_id: str, session_id: str | None) -> Order | None:
        """Ask AiFi for an order, by its session where no id is known; return it as it stands then.

        :raises AifiError: AiFi did not answer
        :raises Unreadable: AiFi's answer is not this order
        """
        data = self._client.get_order(order_id) if session_id is None else self._find_by_session(session_id)
        if data is None:
            self._store.mark_checked(order_id)
            return None
        snapshot = read_order(data, DETAIL, self._settings.currency)
        if session_id is None and snapshot.id != order_id:
            raise Unreadable(f"AiFi shows order {snapshot.id} for order {order_id}")
        if not self._is_ours(snapshot):
            return None
        if self._settings.roles and self._store.get_order(order_id) is None:
            # An order does not tell its shopper's role: kept, it could enter the list past the filter.
            return merge(None, snapshot, self._store.now(), self._store.marks())
        self._store.put_orders([snapshot])
        return self._store.get_order(snapshot.id)

    def _find_by_session(self, session_id: str) -> Any | None:
        """Return the raw details of a session's order. `sessionId` is only in [R]: it may be ignored."""
        if not re.fullmatch(r"[\w.:-]{1,200}", session_id, re.ASCII):
            return None
        orders = next(self._client.pages(sessionId=session_id), [])
        for order in orders[:SURELY_LAST]:
            order_id = read_order_id(order)
            if order_id and read_session_id(order) in (session_id, None):
                details = self._client.get_order(order_id)
                if read_session_id(details) == session_id:
                    return details
        return None

    def _look_up_customer(self, customer_id: str) -> None:
        data = self._client.get_customer(customer_id)
        if data is None:
            self._store.drop_customer(customer_id)
        else:
            self._store.put_customer(customer_id, read_customer(data), self._store.now())

    # --- shared ---

    def _take(self, orders: list[Any], source: str, tally: "_Tally | None" = None) -> list[Snapshot]:
        """Translate a page and store what is ours of it; return all that could be read.

        An order that cannot be read is logged and left out: it must not stop the others.
        """
        snapshots = []
        for order in orders:
            try:
                snapshots.append(read_order(order, source, self._settings.currency))
            except Unreadable as error:
                log.warning("One of AiFi's orders cannot be read: %s", error)
        counts = self._store.put_orders(filter(self._is_ours, snapshots))
        if tally:
            tally.add(*counts, requests=1, newest=max((snapshot.at for snapshot in snapshots), default=None))
        return snapshots

    def _is_ours(self, snapshot: Snapshot) -> bool:
        """Return whether the order passes the store filter; the role filter is AiFi's, orders do not tell roles."""
        stores = self._settings.store_ids
        return not stores or snapshot.order.get("store_id") in (*stores, None)

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.wait_seconds

    def _await(self, key: Hashable, work: Callable[[], Any], deadline: float) -> tuple[Any, Exception | None]:
        """Start or join the work and wait for it until the deadline; return its result, or what kept it from one."""
        try:
            return self._flights.share(key, work).result(timeout=max(0.0, deadline - time.monotonic())), None
        except concurrent.futures.TimeoutError:
            return None, AifiUnavailable("AiFi has not answered yet")
        except (AifiError, StoreError, Unreadable) as error:
            return None, error

    @contextlib.contextmanager
    def _lease(self, name: str, holder: str) -> Iterator[bool]:
        """Hold a lease over all processes, renewed while the work goes on; yield whether it was free."""
        if not self._store.take_lease(name, holder, LEASE_SECONDS):
            yield False
            return
        done = threading.Event()
        threading.Thread(target=self._renew_lease, args=(name, holder, done), daemon=True).start()
        self._leases[name] = holder
        try:
            yield True
        finally:
            done.set()
            self._leases.pop(name, None)
            self._store.drop_lease(name, holder)

    def _renew_lease(self, name: str, holder: str, done: threading.Event) -> None:
        """Renew until done; not for ever, so that work that hangs loses the lease in the end."""
        for _ in range(LEASE_RENEWALS):
            if done.wait(LEASE_SECONDS / 3):
                return
            try:
                self._store.take_lease(name, holder, LEASE_SECONDS)
            except StoreError as error:
                log.warning("The lease of the %s could not be renewed: %s", name, error)


@dataclass
class _Tally:
    """What a refresh brought, for the log and the marks."""

    new: int = 0
    changed: int = 0
    requests: int = 0
    newest_update: str | None = None
    unfiltered_at: str | None = None
    begun: float = field(default_factory=time.monotonic)

    @property
    def news(self) -> int:
        return self.new + self.changed

    def add(self, new: int, changed: int, requests: int = 0, newest: str | None = None) -> None:
        self.new += new
        self.changed += changed
        self.requests += requests
        self.newest_update = max(filter(None, (self.newest_update, newest)), default=None)

    def __str__(self) -> str:
        seconds = time.monotonic() - self.begun
        return f"{self.new} new, {self.changed} changed, {self.requests} requests, {seconds:.2f} s"


def _told(trouble: Exception) -> Exception:
    """Return what Aide is told of a failure: the database's as it is, all else as AiFi's not answering."""
    return trouble if isinstance(trouble, StoreError) else AifiUnavailable(str(trouble))


def _older_than(horizon: str) -> dict[str, str]:
    """Return the filters of a list downwards from the horizon, a millisecond more in case AiFi leaves it out."""
    return {"maxDraftCreatedAt": shift(horizon, 0.001), "orderBy": "draftCreatedAt", "direction": "desc"}


def _ignores_filter(order: Any, since: str) -> bool:
    """Return whether an order in a list by `minUpdatedAt` shows that the server ignored the parameter."""
    return isinstance(order, dict) and (read_updated_at(order) or "") < shift(since, -1)
