"""Random histories, searched for one that breaks a guarantee: every change surfaces, all looks at an order end in the
state that AiFi holds, and a walk is complete.

The real store (on disk), mirror and client run against the model of AiFi in `model_aifi`; only the clock and the
network are replaced. `make fuzz` goes on searching with new histories for as long as it is told.
"""

import contextlib
import functools
import itertools
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import aifi
import refresh
import transport
from intake import Settings
from mirror import Mirror, Tasks
from orders import Anchor, Order
from store import Page, Store
from sweep import LOOKUPS, SWEEPS
from tests.histories import model_aifi
from tests.histories.model_aifi import BARE, HONOURS, IGNORES, REFUSES, Client, Clock, Model
from tests.support import is_server, lose, new_store
from times import DAY, HOUR, MINUTE, utc_seconds, utc_text
from translation import read_webhook

START = utc_seconds("2025-11-01T12:00:00.000Z")
PAGE_SIZE, FEW_ROWS = 5, 3  # AiFi's pages and the bridge's idea of them, small, so that few orders fill many
REFRESH_SECONDS, PAUSE_SECONDS, TASK_SECONDS = 5, 11, 10
OVERLAP_SECONDS = 150  # just above the longest delay here, so that a mark which moved wrongly is noticed
MAX_ORDERS, MAX_PAGES, MAX_SWEEPS = 40, 400, 200
EXAMPLES, ON_A_SERVER = 80, 15  # which is slower
FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # real files, but no waiting for a disk

# What may happen to an order: from which states, and what it changes then.
CHANGES: dict[str, tuple[tuple[str, ...], Callable[[model_aifi.State, float], dict]]] = {
    "complete": (("draft",), lambda state, at: {"status": "completed_so_far", "completed": at}),
    "process": (("completed_so_far", "unpaid"), lambda state, at: {"status": "paymentProcessing"}),
    "fail": (("completed_so_far", "paymentProcessing"), lambda state, at: {"status": "unpaid"}),
    "pay": (("draft", "completed_so_far", "paymentProcessing", "unpaid"), lambda state, at: _paid(at)),
    "contest": (("paid", "unpaid", "reviewed"), lambda state, at: _contested(state)),
    "review": (("contested",), lambda state, at: {"status": "reviewed", "cents": state.cents - 7}),
    "price": (("paid", "contested", "reviewed", "unpaid"), lambda state, at: {"cents": state.cents + 1}),
    "external": ((), lambda state, at: {"external_id": f"X{state.cents}-{(state.external_id or '').count('-')}-"}),
    "touch": ((), lambda state, at: {}),
}
ORDERS = st.integers(0, MAX_ORDERS - 1)
LATE = st.sampled_from([0, 0, 0.5, 45, 120])  # seconds until AiFi shows a change
PAUSES = st.sampled_from([REFRESH_SECONDS + 0.001, 60, 200])  # seconds
PUSHES = st.sampled_from(["none", "now", "later", "twice"])
MISHAPS = st.sampled_from(["fail", "change", "create", "push", "tick", "deepen", "wipe", "delete", "empty", "row"])
DISTURBANCES = st.lists(st.tuples(st.integers(1, 7), MISHAPS, ORDERS), max_size=3)  # at which request or page: what
AGES = st.sampled_from([0.1, 2, 10, 40, 70, 71, 72, 600, 5000])  # minutes since a draft; few, so that many are equal
STATUSES = st.sampled_from(["draft", "completed_so_far", "paid", "paid", "paid", "unpaid", "contested", "reviewed"])
SETTLED = st.sampled_from([0, 1, 30, 100])  # minutes from the draft to that status


def _paid(at: float) -> dict:
    return {"status": "paid", "completed": at, "paid": at}


def _contested(state: model_aifi.State) -> dict:
    return {"status": "contested", "version": state.version + 1}


def _content(row: Order) -> tuple:
    """Return what `State.content` tells, as the mirror has it."""
    return row.status, row.order["total_amount"], row.order.get("external_id"), row.version or 1


def run_here(run: Callable[[], None], name: str) -> None:
    """Run a task at once, so that a history runs the same way every time."""
    run()


class Histories(RuleBasedStateMachine):
    """AiFi, two workers on one database, a poller and a walker.

    :param server: the address of a server's database; without one, the tables lie in a file
    """

    def __init__(self, server: str = ""):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="guarantees", dir=DISK)
        self.place = server or str(Path(self.folder, "orders.db"))
        lose(self.place)
        self.clock = Clock(START)
        self.model = Model(self.clock, page_size=PAGE_SIZE)
        self.model.before_request = self.on_request
        self.workers: list[Mirror] = []
        self.stores: list[Store] = []
        self.start_workers()
        self.pending: list[tuple[int, dict]] = []  # webhooks on their way: the order's id and the body
        self.odd: set[int] = set()  # orders that changed in a way that only the sweep can find
        self.pushed: dict[int, float] = {}  # when the last webhook of an order came
        self.stirred: set[int] = set()  # orders whose content changed, or was pushed, since all was settled
        self.plan: dict[int, tuple[str, int]] = {}  # what happens at which of AiFi's next requests
        self.requests, self.disturbed = 0, False
        self.wiped = False
        self.rows: dict[str, Order] = {}  # the mirror at the last look
        self.served: tuple[str, str] | None = None  # lowest and highest updated_at served from this file
        self.known: dict[str, tuple] = {}  # the poller's orders
        self.head: str | None = None  # the highest updated_at it has seen
        self.top: str | None = None  # the same, with what the poll that goes on has seen
        self.cold_start: float | None = None
        self.head_then: str | None = None
        self.met_again = 0.0  # when the poller had first read a file begun anew; infinite, while that lies ahead

    def start_workers(self) -> None:
        for store in self.stores:
            store.close()
        self.stores = [new_store(self.place, clock=self.clock) for _ in range(2)]
        wanted = Settings(refresh_seconds=REFRESH_SECONDS, wait_seconds=TASK_SECONDS)
        self.workers = [Mirror(Client(self.model), store, wanted, Tasks(run_here)) for store in self.stores]

    def teardown(self):
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)

    # --- what happens ---

    @initialize(
        kind=st.sampled_from([HONOURS, HONOURS, HONOURS, IGNORES, REFUSES, BARE]),
        lag=st.sampled_from([0, 0, 3, 20]),
        offset=st.sampled_from([0, 0, -240, 180]),
        lists_sessions=st.booleans(),
        has_contests=st.booleans(),
        unit=st.sampled_from([0.001, 0.001, 0.001, 1, 60, 86400]),
        zone_hours=st.sampled_from([0, 0, 0, 2, -5]),
        past=st.lists(st.tuples(AGES, STATUSES, SETTLED), max_size=25),
    )
    def begin(self, kind, lag, offset, lists_sessions, past, unit=0.001, zone_hours=0, has_contests=False):
        self.model.kind, self.model.lag, self.model.offset = kind, lag, offset
        self.model.unit, self.model.zone_hours = unit, zone_hours
        self.model.lists_sessions, self.model.has_contests = lists_sessions, has_contests
        for age, status, settled in past:
            drafted = round(self.model.time - age * MINUTE, 3)
            updated = min(drafted + settled * MINUTE, self.model.time)
            order = self.model.create(drafted, shown=drafted - offset)
            paid = updated if status == "paid" else None
            order.change(updated - offset, updated, status=status, paid=paid)
            self.stirred.add(order.id)

    @precondition(lambda self: len(self.model.orders) < MAX_ORDERS)
    @rule(late=LATE, count=st.sampled_from([1, 1, 2, 7]), push=PUSHES, with_id=st.booleans())
    def create(self, late, count, push, with_id):
        """Some orders begin, all at the same time."""
        for _ in range(count):
            order = self.model.create(round(self.model.time - late, 3))
            self.send(order, push, with_id)

    @precondition(lambda self: len(self.model.orders) < MAX_ORDERS)
    @rule(minutes=st.sampled_from([6, 10, 60]))
    def create_late(self, minutes):
        """An order begins that AiFi shows long after, with its old times."""
        order = self.model.create(self.model.time, shown=self.clock.now + minutes * MINUTE)
        self.stirred.add(order.id)
        self.odd.add(order.id)

    @precondition(lambda self: self.model.orders)
    @rule(number=ORDERS)
    def delete(self, number):
        """AiFi forgets an order."""
        self.model.orders[number % len(self.model.orders)].deleted = True

    @precondition(lambda self: any(len(order.states) > 1 for order in self.model.orders))
    @rule(number=ORDERS)
    def restore(self, number):
        """AiFi puts an order back to an earlier state."""
        orders = [order for order in self.model.orders if len(order.states) > 1]
        order = orders[number % len(orders)]
        order.restore(self.clock.now)
        self.stirred.add(order.id)
        self.odd.add(order.id)

    @rule(kind=st.sampled_from([HONOURS, IGNORES, REFUSES]))
    def switch(self, kind):
        """AiFi learns or forgets `minUpdatedAt`."""
        if self.model.kind != BARE:
            self.model.kind = kind
            self.odd.update(order.id for order in self.model.orders)

    @rule()
    def sweep(self):
        """AiFi is well for hours: then the mirror equals AiFi, whatever it missed."""
        self.clock.tick(2 * HOUR)
        self.model.mishap = ""
        for _ in range(2):  # the round that is under way now, and a whole one
            since = self.stores[0].now()
            for _ in range(MAX_SWEEPS):
                self.clock.tick(10 * MINUTE)
                self.do_refresh(0, [])
                if min(self.stores[0].sweep(name).ended_at or "" for name in SWEEPS) > since:
                    break
            else:
                raise AssertionError("the sweep does not end")
        self.check_equal()

    @precondition(lambda self: self.model.orders)
    @rule(number=ORDERS, kind=st.integers(0, 9), late=LATE, push=PUSHES, with_id=st.booleans())
    def change(self, number, kind, late, push, with_id):
        """An order changes in one of the ways that it can."""
        order = self.model.orders[number % len(self.model.orders)]
        state, at = order.states[-1], round(self.model.time - late, 3)
        possible = [name for name, (sources, _) in CHANGES.items() if not sources or state.status in sources]
        what = possible[kind % len(possible)]
        order.change(self.clock.now, at, **CHANGES[what][1](state, at))
        if what != "touch":
            self.stirred.add(order.id)
        self.send(order, push, with_id)

    def send(self, order: model_aifi.Order, push: str, with_id: bool) -> None:
        body = self.model.push(order, with_id) if push != "none" else None
        if body is None:
            return
        if push != "later":
            self.deliver_body(order.id, body)
        if push != "now":
            self.pending.append((order.id, body))

    @precondition(lambda self: self.pending)
    @rule(number=st.integers(0, 20), again=st.booleans(), reissued=st.booleans(), worker=st.integers(0, 1))
    def deliver(self, number, again, reissued, worker):
        """A webhook arrives late, out of order, maybe not for the last time, maybe with a new time of issue."""
        number %= len(self.pending)
        order_id, body = self.pending[number] if again else self.pending.pop(number)
        if reissued:
            body = {**body, "timeOfIssue": utc_text(max(self.model.time, utc_seconds(body["timeOfIssue"])))}
        self.deliver_body(order_id, body, worker)

    def deliver_body(self, order_id: int, body: dict, worker: int = 0) -> None:
        self.pushed[order_id] = self.clock.now
        self.stirred.add(order_id)
        webhook = read_webhook(json.loads(json.dumps(body)), self.stores[worker].now())
        self.workers[worker].store_webhook(webhook)
        self.check_rows()

    @rule(seconds=st.sampled_from([0.001, 1, 7, 30, 61, 200, 1000, HOUR + 1, 6 * HOUR]))
    def tick(self, seconds):
        self.clock.tick(seconds)

    @rule()
    def restart(self):
        self.start_workers()

    @rule()
    def wipe(self):
        """The tables are gone."""
        lose(self.place, locks=True)
        self.clock.tick(0.001)  # no file is lost and begun anew within one millisecond
        self.rows, self.served, self.wiped = {}, None, True
        self.cold_start, self.head_then = self.clock.now, self.top  # a refresh under way begins it anew
        self.met_again = math.inf

    @precondition(lambda self: self.model.orders)
    @rule(number=ORDERS, by_session=st.booleans(), worker=st.integers(0, 1))
    def look_up(self, number, by_session, worker):
        order, self.plan = self.model.orders[number % len(self.model.orders)], {}
        found = self.workers[worker].order(order.session_id if by_session else str(order.id))
        is_shown = not order.deleted and order.seen(self.clock.now) >= 0
        assert by_session or found is not None or not is_shown, f"AiFi has order {order.id}, the bridge denies it"
        self.check_rows()

    @rule(worker=st.integers(0, 1), pause=PAUSES, disturbances=DISTURBANCES)
    def refresh(self, worker, pause, disturbances):
        self.clock.tick(pause)
        self.do_refresh(worker, disturbances)

    @rule(
        worker=st.integers(0, 1),
        size=st.integers(1, 9),
        pause=PAUSES,
        at_requests=DISTURBANCES,
        at_pages=DISTURBANCES,
    )
    def poll(self, worker, size, pause, at_requests, at_pages):
        """The poller reads from the top until it meets what it has seen."""
        self.clock.tick(pause)
        refreshed = self.do_refresh(worker, at_requests)
        for at, order_id in self.walk_down(worker, size, self.head, at_pages):
            self.learn(order_id)
            self.top = max(at, self.top or at)
        self.head = self.top
        if refreshed and not self.wiped:
            self.check_known()
            self.met_again = min(self.met_again, self.clock.now)

    @rule(worker=st.integers(0, 1), size=st.integers(1, 9), at_pages=DISTURBANCES)
    def walk(self, worker, size, at_pages):
        """Somebody reads all there is, and then what moved to the head meanwhile."""
        self.clock.tick(PAUSE_SECONDS)
        if not self.do_refresh(worker, []):
            return
        existing = {
            str(order.id)
            for order in self.model.orders
            if self.listed[order.id] >= 0 and order.id not in self.found_late
        }
        met = list(self.walk_down(worker, size, None, at_pages))
        if self.wiped:
            return
        self.clock.tick(PAUSE_SECONDS)
        moved = list(self.walk_down(worker, size, met[0][0] if met else None, []))
        missing = existing - {order_id for _, order_id in [*met, *moved]}
        missing -= {str(order.id) for order in self.model.orders if order.deleted}
        assert not missing, f"the walk did not meet {missing}"

    @rule(worker=st.integers(0, 1), long=st.booleans())
    def settle(self, worker, long):
        """All lags are over, and AiFi answers."""
        self.model.mishap = ""
        self.clock.tick(HOUR + 1 if long else MINUTE + self.model.lag + 1)
        for _ in range(3):
            self.clock.tick(PAUSE_SECONDS)
            refreshed = self.do_refresh(worker, [])
            assert refreshed or self.wiped, "the refresh does not succeed although AiFi answers"
        self.check_settled(long)

    # --- how it is done ---

    def on_request(self) -> None:
        """Do what is planned for this request."""
        if self.disturbed:
            return
        self.requests += 1
        if self.requests in self.plan:
            what, number = self.plan.pop(self.requests)
            if what == "fail":
                raise transport.AifiUnavailable("the model fails as planned")
            self.disturb(what, number)

    def disturb(self, what: str, number: int) -> None:
        """Let something happen in the middle of a refresh or a walk."""
        self.disturbed = True
        try:
            if what == "change" and self.model.orders:
                push = ("none", "now", "later", "twice")[number % 4]
                self.change(number, number % 5, (0, 45, 120)[number % 3], push, number % 2 == 0)
            elif what == "create" and len(self.model.orders) < MAX_ORDERS:
                self.create((0, 45, 120)[number % 3], 1, ("none", "now", "later")[number % 3], number % 2 == 0)
            elif what == "push" and self.pending:
                self.deliver(number, number % 2 == 0, number % 3 == 0, 1)
            elif what == "tick":
                self.clock.tick(0.7)
            elif what == "deepen":
                self.other_deepens()
            elif what == "delete" and self.model.orders:
                self.delete(number)
            elif what in ("empty", "row"):
                self.model.mishap = what
            elif what == "wipe":
                self.wipe()
                if number % 2:
                    self.other_refreshes()
        finally:
            self.disturbed = False

    def other_deepens(self) -> None:
        with contextlib.suppress(transport.AifiUnavailable):  # it may be pausing after a failure
            self.workers[1].read_history()
        self.check_rows()

    def other_refreshes(self) -> None:
        self.note_cold_start()
        self.workers[1].refresh()
        self.check_rows()

    def note_cold_start(self) -> None:
        if self.stores[0].marks().horizon is None:
            self.cold_start, self.head_then, self.met_again = self.clock.now, self.top, math.inf

    def do_refresh(self, worker: int, disturbances: list[tuple[int, str, int]]) -> bool:
        """Refresh; return whether it succeeded, on a file that stayed."""
        self.note_cold_start()
        store, self.wiped = self.stores[worker], False
        self.listed = {
            order.id: -1 if order.deleted else order.seen(self.clock.now - self.model.lag)
            for order in self.model.orders
        }
        self.began = self.clock.now
        self.hidden = set() if self.model.kind == HONOURS else self.not_shown(store)
        self.requests, self.plan = 0, {at: (what, number) for at, what, number in disturbances}
        try:
            self.workers[worker].refresh()
        except transport.AifiError:
            return False
        finally:
            self.plan = {}
            self.check_rows()
        # An empty mirror may believe one empty list by mistake: then nothing is begun, until the next refresh.
        return not self.wiped and (store.marks().horizon is not None or not any(self.model.listed()))

    def not_shown(self, store: Store) -> set[int]:
        """Return the orders that a refresh without `minUpdatedAt` need not show: not new, open nor in dispute."""
        marks = store.marks()
        listed = sorted(self.model.listed(), key=lambda pair: (pair[0].drafted, pair[0].id))
        contested = [order.id for order, state in listed if state.status == "contested"]
        reviewed = [order.id for order, state in listed if state.status == "reviewed"]
        if marks.horizon is None:
            disputed = [order.id for order, state in listed if state.status in ("contested", "reviewed")]
            shown = {*disputed[-PAGE_SIZE:], *(order.id for order, _ in listed[-PAGE_SIZE:])}
        else:
            shown = {*contested[-PAGE_SIZE:], *reviewed[-PAGE_SIZE:]}
            newest = utc_seconds(Anchor.parse(marks.newest).drafted_at) if marks.newest else 0.0
            shown |= {order.id for order, _ in listed if order.drafted >= newest - refresh.OVERLAP_SECONDS}
            day_ago = utc_text(self.clock.now - DAY)
            asked = [
                row
                for row in self.rows.values()
                if row.open and (row.status != "unpaid" or row.order["created_at"] > day_ago)
            ]
            if len(asked) <= LOOKUPS:
                shown |= {int(row.id.lstrip("s")) for row in asked}
        return {order.id for order, _ in listed} - shown

    def walk_down(
        self, worker: int, size: int, until: str | None, at_pages: list[tuple[int, str, int]]
    ) -> Iterator[tuple[str, str]]:
        """Yield (updated_at, id) from the top until that time, and let things happen between the pages."""
        planned = {at: (what, number) for at, what, number in at_pages}
        cursor, seen, last = None, set(), ("~", "")
        for count in range(1, MAX_PAGES):
            page = self.read_page(worker, size, cursor)
            for at, order_id in self.rows_of(page):
                if until is not None and at <= until:
                    return
                assert (at, order_id) < last, "the list does not fall strictly"
                assert order_id not in seen or self.wiped, f"order {order_id} appears twice in one walk"
                seen.add(order_id)
                last = at, order_id
                yield at, order_id
            if page.ended:
                return
            assert page.summaries, "an empty page has a token"
            cursor = page.last
            if count in planned:
                what, number = planned[count]
                self.requests, self.plan = 0, {1: (what, number)} if what == "fail" else {}
                self.disturb(what, number)
        raise AssertionError("the walk does not end")

    def read_page(self, worker: int, size: int, cursor: tuple[str, str] | None) -> Page:
        """Return a page, asked for once more where AiFi failed: then it must come."""
        try:
            page = self.try_page(worker, size, cursor)
        except transport.AifiUnavailable:
            self.plan = {}
            self.clock.tick(PAUSE_SECONDS)
            page = self.try_page(worker, size, cursor)
        assert len(page.summaries) <= size
        if page.summaries:
            times = [at for at, _ in self.rows_of(page)]
            low, high = self.served or (times[-1], times[0])
            self.served = "" if page.ended else min(low, times[-1]), max(high, times[0])
        return page

    def try_page(self, worker: int, size: int, cursor: tuple[str, str] | None) -> Page:
        self.note_cold_start()
        try:
            return self.workers[worker].page(size, cursor)
        finally:
            self.check_rows()

    @staticmethod
    def rows_of(page: Page) -> list[tuple[str, str]]:
        return [(row["updated_at"], row["id"]) for row in map(json.loads, page.summaries)]

    def learn(self, order_id: str) -> None:
        self.known[order_id] = _content(self.rows[order_id])

    def order(self, number: int) -> model_aifi.Order:
        return self.model.orders[number - 1]

    def look(self) -> dict[str, Order]:
        """Return the rows of the mirror."""
        names = [name for order in self.model.orders for name in (str(order.id), order.session_id)]
        found = [(name, self.stores[0].get_order(name)) for name in names]
        return {name: row for name, row in found if row and row.id == name}

    # --- what must hold ---

    def check_rows(self) -> None:
        """No row goes back or slips into what was served, and what did not change stays in its place."""
        before, self.rows = self.rows, self.look()
        gone = {name for name in before.keys() - self.rows.keys() if not name.startswith("s")}
        gone -= {str(order.id) for order in self.model.orders if order.deleted or order.seen(self.clock.now) < 0}
        assert not gone, f"the mirror lost {gone}"
        for name, row in self.rows.items():
            old = before.get(name)
            if old is not None and old.updated_at == row.updated_at:
                continue
            assert row.updated_at <= utc_text(self.clock.now + 1), f"order {name} comes from the future"
            if old is not None:
                assert row.updated_at > old.updated_at, f"order {name} goes back"
                assert old.cut or int(name.lstrip("s")) in self.stirred, f"order {name} moves, but did not change"
            if self.served:
                is_history = old is None and row.updated_at < self.served[0]
                assert is_history or row.updated_at > self.served[1], f"order {name} slips into what was served"

    def check_known(self) -> None:
        """The poller knows every order as AiFi shows it."""
        for order in self.model.orders:
            number = -1 if order.deleted or order.id in self.found_late else self.listed.get(order.id, -1)
            contents = {state.content for state in order.states[number:]} if number >= 0 else set()
            known = self.known.get(str(order.id))
            if number < 0 or known in contents or self.is_excused(order, number, contents):
                continue
            row = self.rows.get(str(order.id))
            raise AssertionError(f"the poller knows order {order.id} as {known}, AiFi as {contents}; mirrored: {row}")

    def is_excused(self, order: model_aifi.Order, number: int, contents: set) -> bool:
        """Return whether the design names this as what a poller may not learn, or not yet."""
        state = order.states[number]
        row, known = self.rows.get(str(order.id)), str(order.id) in self.known
        lost_at, filtered = self.cold_start or 0.0, self.model.kind == HONOURS
        reasons = {
            "moved while the poll went on, so the next one meets it": row and row.updated_at > (self.head or "~"),
            "a webhook's word counts for a minute": known and self.began - self.pushed.get(order.id, 0) <= MINUTE,
            "shown late, just when the file was lost": utc_text(order.told_at(number)) <= (self.head_then or ""),
            "changed long before the file was lost": known and state.updated < lost_at - HOUR,
            "met as history, and changed before": known and not filtered and row and row.cut,
            "changed before a file begun anew was read, without a time": known
            and self.model.kind == BARE
            and state.shown <= self.met_again,
            "shown by no list or look-up yet": order.id in self.hidden
            and not (row and not row.cut and _content(row) in contents),
        }
        return any(reasons.values())

    def check_settled(self, long: bool) -> None:
        """The mirror has every order as AiFi holds it, once."""
        for order in self.model.orders:
            row, session = self.rows.get(str(order.id)), self.rows.get(order.session_id)
            if long and not order.deleted:
                assert not session, f"order {order.id} is still there under its session's id as well"
            if row is None or order.id in self.hidden or order.id in self.found_late or order.deleted:
                continue
            assert _content(row) == order.states[-1].content, f"order {order.id} differs from AiFi's"
            if not self.hidden and row.pushed_at is None:
                self.stirred.discard(order.id)

    @property
    def found_late(self) -> set[int]:
        """The orders that changed in a way that only the sweep can find, or that a list lacked when it mattered."""
        return self.odd | self.model.dropped

    def check_equal(self) -> None:
        """The mirror holds what AiFi has, from the horizon on, and nothing else."""
        marks = self.stores[0].marks()
        for order in self.model.orders:
            row = self.rows.get(str(order.id))
            if order.deleted:
                assert row is None or not row.confirmed, f"order {order.id} is deleted, but mirrored: {row}"
                continue
            if order.seen(self.clock.now - self.model.lag) < 0:
                continue
            below = marks.horizon is None or (not marks.complete and utc_text(order.drafted) <= marks.horizon)
            assert row or below, f"order {order.id} is missing"
            assert row is None or below or _content(row) == order.states[-1].content, f"order {order.id} differs: {row}"
        self.odd.clear()
        self.model.dropped.clear()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch, caplog):
    caplog.set_level(logging.CRITICAL, "bridge")
    monkeypatch.setattr(aifi, "FEW_ROWS", FEW_ROWS)
    monkeypatch.setattr(refresh, "OVERLAP_SECONDS", OVERLAP_SECONDS)


@pytest.fixture
def new_history(place):
    """Begin a history, on the server where that is wanted."""
    return functools.partial(Histories, place if is_server(place) else "")


@pytest.fixture
def history(new_history):
    """A history to be told step by step."""
    history = new_history()
    yield history
    history.teardown()


def search(new_history: Callable[[], Histories], max_examples: int, derandomize: bool) -> None:
    """Try so many histories.

    :raises AssertionError: with the shortest one found that breaks a guarantee
    """
    profile = settings(
        max_examples=max_examples,
        derandomize=derandomize,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(new_history, settings=profile)


@pytest.mark.timeout(FUZZ_SECONDS + 900)  # a history that was found is shortened for some minutes
def test_no_history_breaks_a_guarantee(new_history, place, capsys):
    end, count = time.monotonic() + FUZZ_SECONDS, itertools.count()

    def counted() -> Histories:
        next(count)
        return new_history()

    search(counted, ON_A_SERVER if is_server(place) else EXAMPLES, derandomize=True)
    while time.monotonic() < end:
        search(counted, 20, derandomize=False)
    if FUZZ_SECONDS:
        with capsys.disabled():
            sys.stdout.write(f"\n{next(count):,} histories break no guarantee\n")


# What the search has found.


def test_an_order_that_shows_late_surfaces_above_what_was_served(history):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=False, past=[(0.1, "draft", 0)])
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[])
    history.create(late=120, count=1, push="none", with_id=False)
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[])
    assert history.known.keys() == {"1", "2"}


def test_orders_below_the_first_page_are_news_where_an_empty_shop_was_served(history):
    begin = {"kind": HONOURS, "lag": 20, "offset": 0, "lists_sessions": False}
    history.begin(**begin, has_contests=False, unit=0.001, zone_hours=2, past=[])
    history.create(late=0, count=7, push="none", with_id=False)
    history.change(kind=0, number=0, late=0, push="now", with_id=False)
    history.walk(worker=0, size=1, at_pages=[])
    assert "2" in history.rows


def test_a_change_without_a_time_lands_above_what_a_lost_file_had_served(history):
    change = {"kind": 0, "late": 0, "number": 0, "push": "none", "with_id": False}
    poll = {"worker": 0, "size": 1, "pause": 5.001, "at_requests": []}
    pasts = [(0.1, "draft", 0), (0.1, "draft", 0)]
    habits = {"lag": 0, "offset": 0, "lists_sessions": False, "has_contests": False, "unit": 0.001, "zone_hours": 0}
    history.begin(BARE, **habits, past=pasts)
    history.change(**change)
    history.tick(seconds=0.005)
    history.poll(**poll, at_pages=[])
    history.tick(seconds=0.001)
    history.change(**change)
    history.poll(**poll, at_pages=[(1, "wipe", 0)])
    history.tick(seconds=0.001)
    history.poll(**poll, at_pages=[])
    history.tick(seconds=0.001)
    history.change(**change)
    history.poll(**poll, at_pages=[])


def test_the_sweep_runs_where_an_empty_shop_was_served(history):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=False, past=[(0.1, "draft", 0)])
    history.delete(number=0)
    history.change(kind=0, number=0, late=0, push="now", with_id=False)
    history.create_late(minutes=6)
    history.walk(worker=0, size=1, at_pages=[])
    history.sweep()


def test_the_sweep_finds_that_the_only_order_was_deleted(history):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=False, past=[(0.1, "draft", 0)])
    history.look_up(worker=0, number=0, by_session=False)
    history.delete(number=0)
    history.sweep()
    assert history.look() == {}


def test_a_page_token_is_good_on_a_file_begun_anew(history):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=True, past=[(10, "paid", 0), (40, "paid", 0)])
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[(1, "wipe", 0)])
    assert history.known.keys() == {"1", "2"}


def test_an_external_id_that_no_webhook_tells_surfaces(history):
    history.begin(HONOURS, lag=20, offset=0, lists_sessions=True, past=[(10, "paid", 0), (40, "paid", 0)])
    history.poll(worker=0, size=9, pause=60, at_requests=[], at_pages=[])
    history.create(late=0, count=1, push="none", with_id=True)
    order = history.model.orders[-1]
    order.change(history.clock.now, history.clock.now, status="paid", external_id="X1")
    history.send(order, "now", with_id=True)
    for _ in range(3):  # at first only the webhook tells of it; then the lists do
        history.poll(worker=0, size=9, pause=REFRESH_SECONDS + 10, at_requests=[], at_pages=[])
    assert history.known["3"] == order.states[-1].content


def test_a_late_order_that_was_looked_up_first_surfaces(history):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=False, past=[(0.1, "draft", 0)])
    history.poll(worker=0, size=1, pause=REFRESH_SECONDS + 1, at_requests=[], at_pages=[])
    history.create(late=45, count=1, push="none", with_id=False)
    history.look_up(number=1, by_session=False, worker=0)
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[])
    assert history.known.keys() == {"1", "2"}


def test_a_file_lost_within_its_first_refresh_does_not_pass_for_complete(history):
    history.begin(BARE, lag=0, offset=0, lists_sessions=True, past=[(600, "paid", 1), (70, "paid", 1)])
    history.poll(worker=0, size=9, pause=60, at_requests=[(2, "wipe", 0)], at_pages=[])
    assert history.known.keys() == {"1", "2"}


@pytest.mark.parametrize(("news", "is_met"), [({}, False), ({"status": "completed"}, True)], ids=["touched", "changed"])
def test_an_order_shown_late_as_the_file_was_lost_is_met_when_it_changes(history, news, is_met):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=False, past=[(0.1, "draft", 0)])
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[])
    history.wipe()
    history.create(late=90, count=1, push="none", with_id=False)
    history.refresh(worker=0, pause=REFRESH_SECONDS + 1, disturbances=[])
    history.model.orders[-1].change(history.clock.now, history.clock.now, **news)
    history.stirred.update({2} if news else ())
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[])  # which excuses what the design names alone
    assert ("2" in history.known) == is_met


def test_an_order_that_shows_late_below_a_complete_mirror_does_not_hold_the_sweep_up(history):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=False, past=[])
    history.create_late(minutes=6)
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[])
    history.create(late=0, count=1, push="none", with_id=False)
    history.walk(worker=0, size=1, at_pages=[])
    history.sweep()


def test_a_new_process_reads_several_pages_though_aifi_reads_times_in_another_zone(history):
    history.begin(HONOURS, lag=0, offset=0, lists_sessions=False, past=[], zone_hours=-5)
    history.create_late(minutes=6)
    history.tick(seconds=6 * HOUR)
    history.settle(worker=0, long=False)
    history.create(late=120, count=1, push="none", with_id=False)
    history.create(late=0, count=4, push="none", with_id=False)
    history.restart()
    history.settle(worker=0, long=False)


def test_a_change_without_a_time_before_a_file_begun_anew_was_read_is_excused(history):
    history.begin(BARE, lag=0, offset=0, lists_sessions=False, past=[(0.1, "draft", 0), (0.1, "paid", 1)])
    history.walk(worker=0, size=1, at_pages=[])
    history.poll(worker=0, size=1, pause=5.001, at_requests=[], at_pages=[(1, "wipe", 0)])
    history.poll(worker=0, size=1, pause=5.001, at_requests=[(1, "change", 1)], at_pages=[])
    history.walk(worker=0, size=1, at_pages=[])
    history.poll(worker=0, size=1, pause=60, at_requests=[], at_pages=[])
