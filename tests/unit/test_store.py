"""The mirror: a real file, a clock of our own, and other processes that write, hang or die."""

import contextlib
import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import database as database_module
import store as store_module
from database import Database
from errors import StoreError
from orders import DETAIL, HISTORY, LIFE, LIST, WEBHOOK, Snapshot
from store import Page, Store, layout
from times import DAY, HOUR, shift, utc_seconds

NOW = "2025-11-01T12:00:00.000Z"
API = [HISTORY, LIST, DETAIL]
PROCESS_SECONDS = 30
SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: str = NOW):
        self.seconds = utc_seconds(now)

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.seconds += seconds


def ago(seconds: float) -> str:
    """Return the time so many seconds before the test's beginning."""
    return shift(NOW, -seconds)


def look(order_id: str | None = "1", at: str | None = None, source: str = LIST, **fields: Any) -> Snapshot:
    """Return a snapshot, of a paid order drafted ten minutes ago where nothing else is said."""
    session_id, version = fields.pop("session_id", None), fields.pop("version", None)
    order = {"created_at": ago(600), "status": "paid", "total_amount": 2.15, **fields}
    return Snapshot(order_id, order, at or ago(300), source, session_id, version)


def page(store: Store, limit: int = 100, after: tuple[str, str] | None = None) -> Page:
    """Serve a page that the mirror can serve."""
    served = store.serve_page(limit, after, may_be_short=False)
    assert served is not None
    return served


def rows(served: Page) -> list[tuple[str, str]]:
    return [(row["updated_at"], row["id"]) for row in map(json.loads, served.summaries)]


def ids(store: Store) -> list[str]:
    """Return all ids in the order of the list."""
    return [order_id for _, order_id in rows(page(store, 10_000))]


def updated_at(store: Store, order_id: str = "1") -> str:
    order = store.get_order(order_id)
    assert order is not None
    return order.updated_at


def status(store: Store, order_id: str = "1") -> str:
    order = store.get_order(order_id)
    assert order is not None
    return order.status


def new_store(path: object, origin: str = "", clock: Callable[[], float] = time.time) -> Store:
    """Return a store on that file."""
    return Store(Database(str(path), layout({"origin": origin}), clock))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
def open_store(path: Path, clock: Clock) -> Iterator[Callable[..., Store]]:
    """Open stores on one file and one clock."""
    with contextlib.ExitStack() as stack:

        def start(origin: str = "") -> Store:
            store = new_store(path, origin, clock)
            stack.callback(store.close)
            return store

        yield start


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    """Open a store that holds all there is."""
    store = open_store()
    store.set_marks(horizon=ago(30 * DAY), complete=1)
    return store


# --- where an order goes


@pytest.mark.parametrize("source", [LIST, DETAIL, WEBHOOK])
@pytest.mark.parametrize(
    ("at", "expected"),
    [(ago(300), ago(300)), (ago(30 * DAY), ago(30 * DAY)), (NOW, NOW), (ago(-60), NOW)],
    ids=["minutes ago", "weeks ago", "now", "in AiFi's future"],
)
def test_a_new_order_takes_aifis_time_but_none_later_than_now(store, source, at, expected):
    store.put_orders([look(at=at, source=source)])
    assert updated_at(store) == expected


@pytest.mark.parametrize(
    ("drafted", "at", "expected"),
    [
        (ago(2 * DAY), ago(2 * DAY - 60), ago(2 * DAY - 60)),
        (ago(2 * DAY), ago(2 * DAY - HOUR), ago(2 * DAY - HOUR)),
        (ago(2 * DAY), ago(2 * DAY - HOUR - 0.001), ago(2 * DAY - HOUR)),
        (ago(2 * DAY), ago(60), ago(2 * DAY - HOUR)),
        (ago(60), ago(-600), NOW),
    ],
    ids=["settled at once", "after an hour", "after an hour and a bit", "days later", "in AiFi's future"],
)
def test_an_order_of_a_history_page_stays_within_an_hour_of_its_draft(store, drafted, at, expected):
    store.put_orders([look(at=at, source=HISTORY, created_at=drafted)])
    assert updated_at(store) == expected


LOW, HIGH = ago(3000), ago(1000)


@pytest.fixture
def served(store: Store) -> Store:
    """Serve orders from LOW to HIGH."""
    store.put_orders([look("low", LOW), look("high", HIGH)])
    assert len(page(store).summaries) == 2
    return store


@pytest.mark.parametrize("source", [LIST, DETAIL, WEBHOOK])
@pytest.mark.parametrize("at", [ago(9000), LOW, ago(2000), HIGH], ids=["below", "lower end", "inside", "upper end"])
def test_a_late_order_does_not_sink_into_what_was_served(served, source, at):
    served.put_orders([look("late", at, source)])
    assert updated_at(served, "late") == NOW
    assert ids(served)[0] == "late"


@pytest.mark.parametrize("at", [shift(HIGH, 0.001), NOW], ids=["just above", "now"])
def test_an_order_above_what_was_served_keeps_aifis_time(served, at):
    served.put_orders([look("late", at)])
    assert updated_at(served, "late") == at


def test_a_history_page_may_fill_in_what_was_served(served):
    served.put_orders([look("old", ago(2000), HISTORY, created_at=ago(2100))])
    assert updated_at(served, "old") == ago(2000)


def test_the_head_is_above_what_was_served_even_when_the_clock_was_put_back(served, clock):
    clock.move(-7200)
    served.put_orders([look("late", ago(9000), created_at=ago(9000))])
    served.put_orders([look("low", HIGH, status="contested")])
    assert updated_at(served, "low") > HIGH
    assert ids(served)[0] == "low"


def test_what_another_process_served_counts(served, open_store):
    open_store().put_orders([look("late", ago(2000))])
    assert updated_at(served, "late") == NOW


def test_a_later_page_does_not_lower_what_was_served(served):
    first = page(served, 1)
    page(served, 1, first.last)
    assert served.marks().served_until == HIGH


def test_an_empty_page_serves_nothing(store):
    assert page(store) == Page([], None, True)
    assert store.marks().served_until is None


@pytest.mark.parametrize("source", [HISTORY, LIST, DETAIL, WEBHOOK])
@pytest.mark.parametrize("at", [ago(400), ago(300), ago(10), ago(-60)], ids=["before", "same", "after", "future"])
@pytest.mark.parametrize("was_served", [False, True], ids=["not served", "served"])
def test_an_unchanged_order_keeps_its_place(store, source, at, was_served):
    store.put_orders([look()])
    if was_served:
        page(store)
    for _ in range(2):
        assert store.put_orders([look(at=at, source=source)]) == (0, 0)
    assert updated_at(store) == ago(300)


@pytest.mark.parametrize(
    ("at", "version", "expected"),
    [(ago(100), 1, ago(100)), (ago(-60), 1, NOW), (ago(300), 1, ago(300)), (ago(500), 2, ago(300))],
    ids=["later", "in AiFi's future", "at the same time", "a new version of an earlier time"],
)
def test_a_changed_order_goes_to_aifis_time_or_stays_where_it_was(store, at, version, expected):
    store.put_orders([look(version=1)])
    assert store.put_orders([look(at=at, version=version, total_amount=1.0)]) == (0, 1)
    assert updated_at(store) == expected


def test_a_changed_order_that_was_served_goes_to_the_head(served):
    served.put_orders([look("low", ago(2000), status="contested")])
    assert updated_at(served, "low") == NOW


def test_the_same_orders_come_back_to_the_same_places_in_a_new_file(store, path):
    history = [look(str(n), ago(n * 100), HISTORY, created_at=ago(n * 120)) for n in range(20)]
    store.put_orders(history)
    before = rows(page(store))
    os.remove(path)
    store.set_marks(horizon=ago(DAY), complete=1)
    store.put_orders(history)
    assert rows(page(store)) == before


# --- cut rows


CUT_AT = ago(2 * DAY - HOUR)


@pytest.fixture
def cut(store: Store) -> Store:
    """Meet an order on a history page that changed five minutes ago, two days after its draft."""
    store.put_orders([look(source=HISTORY, created_at=ago(2 * DAY))])
    assert updated_at(store) == CUT_AT
    return store


@pytest.mark.parametrize("source", [LIST, WEBHOOK])
def test_a_cut_order_that_is_shown_again_takes_its_true_time(cut, source):
    assert cut.put_orders([look(source=source, created_at=ago(2 * DAY))]) == (0, 1)
    assert updated_at(cut) == ago(300)


@pytest.mark.parametrize("source", [HISTORY, DETAIL])
def test_a_cut_order_stays_where_it_is_for_history_and_look_ups(cut, source):
    assert cut.put_orders([look(source=source, created_at=ago(2 * DAY))]) == (0, 0)
    assert updated_at(cut) == CUT_AT


def test_a_look_up_does_not_make_a_cut_order_forget_that_it_was_cut(cut):
    cut.put_orders([look(source=DETAIL, created_at=ago(2 * DAY))])
    assert cut.put_orders([look(created_at=ago(2 * DAY))]) == (0, 1)


def test_a_cut_order_counts_as_changed_once(cut, clock):
    cut.put_orders([look(created_at=ago(2 * DAY))])
    clock.move(60)
    assert cut.put_orders([look(created_at=ago(2 * DAY))]) == (0, 0)


def test_a_cut_order_whose_true_time_was_served_goes_to_the_head(cut):
    cut.put_orders([look("a", ago(400)), look("b", ago(200))])
    page(cut)
    cut.put_orders([look(created_at=ago(2 * DAY))])
    assert updated_at(cut) == NOW


# --- which snapshot wins


@pytest.mark.parametrize("source", API)
@pytest.mark.parametrize(
    ("version", "at", "wins"),
    [
        (2, ago(300), True),
        (3, ago(900), True),
        (1, ago(10), False),
        (2, ago(299), True),
        (2, ago(301), False),
        (None, ago(299), True),
        (None, ago(301), False),
    ],
    ids=["tie", "new version, earlier", "old version, later", "later", "earlier", "unknown, later", "unknown, earlier"],
)
def test_between_answers_of_the_api_the_version_decides_then_the_time(store, source, version, at, wins):
    store.put_orders([look(version=2, status="contested")])
    store.put_orders([look(at=at, version=version, source=source, status="paid")])
    assert status(store) == ("paid" if wins else "contested")


@pytest.mark.parametrize("known_from", [LIST, WEBHOOK])
@pytest.mark.parametrize(
    ("at", "wins"), [(ago(301), False), (ago(300), True), (ago(299), True)], ids=["before", "same", "after"]
)
def test_a_webhook_applies_if_it_is_not_older(store, known_from, at, wins):
    store.put_orders([look(source=known_from, status="draft")])
    store.put_orders([look(at=at, source=WEBHOOK, status="paid")])
    assert status(store) == ("paid" if wins else "draft")


@pytest.mark.parametrize("known_from", [LIST, WEBHOOK])
@pytest.mark.parametrize(("earlier", "later"), list(pairwise(LIFE)))
class TestAnOrdersLife:
    def test_a_webhook_takes_it_on(self, store, known_from, earlier, later):
        store.put_orders([look(source=known_from, status=earlier)])
        store.put_orders([look(at=ago(10), source=WEBHOOK, status=later)])
        assert status(store) == later

    def test_a_webhook_does_not_take_it_back(self, store, known_from, earlier, later):
        store.put_orders([look(source=known_from, status=later)])
        assert store.put_orders([look(at=ago(10), source=WEBHOOK, status=earlier)]) == (0, 0)
        assert status(store) == later


@pytest.mark.parametrize("words", [("on_hold", "draft"), ("reviewed", "on_hold")], ids=["from", "to"])
def test_a_word_that_nobody_knows_lies_nowhere_in_the_life(store, words):
    old, new = words
    store.put_orders([look(status=old)])
    store.put_orders([look(at=ago(10), source=WEBHOOK, status=new)])
    assert status(store) == new


@pytest.mark.parametrize("source", API)
class TestTheApiAfterAWebhook:
    @pytest.fixture(autouse=True)
    def _webhook(self, store):
        store.put_orders([look(at=ago(10), source=WEBHOOK, status="paid")])

    def test_wins_though_its_time_is_earlier(self, store, source):
        store.put_orders([look(at=ago(900), source=source, status="contested")])
        assert status(store) == "contested"

    def test_wins_within_the_minute_with_the_same_status(self, store, source):
        assert store.put_orders([look(at=ago(900), source=source, total_amount=9.0)]) == (0, 1)
        assert store.get_order("1").order["total_amount"] == 9.0

    @pytest.mark.parametrize(("seconds", "expected"), [(0, "paid"), (59.9, "paid"), (60, "draft"), (3600, "draft")])
    def test_takes_the_order_back_only_after_a_minute(self, store, clock, source, seconds, expected):
        clock.move(seconds)
        store.put_orders([look(at=ago(900), source=source, status="draft")])
        assert status(store) == expected

    def test_confirms_the_order_even_where_it_lags(self, store, source):
        store.put_orders([look(at=ago(900), source=source, status="draft")])
        assert store.get_order("1").confirmed

    def test_ends_the_minute(self, store, source):
        store.put_orders([look(at=ago(9), source=source, status="paid")])
        store.put_orders([look(at=ago(8), source=source, status="unpaid")])
        assert status(store) == "unpaid"


def test_a_repeated_webhook_does_not_prolong_the_minute(store, clock):
    for _ in range(3):
        store.put_orders([look(at=ago(10), source=WEBHOOK, status="paid")])
        clock.move(30)
    store.put_orders([look(at=ago(900), status="draft")])
    assert status(store) == "draft"


# --- more detail is no change


LINES = [{"name": "Tea", "quantity": 2}]


@pytest.mark.parametrize(
    "detail",
    [
        {"line_items": LINES},
        {"session": {"id": "s1", "visitors": 2}},
        {"tax_amount": 0.16},
        {"refunded": False, "payment": {"status": "success"}},
    ],
    ids=lambda detail: next(iter(detail)),
)
def test_detail_of_the_same_state_is_filled_in_without_a_change(store, detail):
    store.put_orders([look()])
    assert store.put_orders([look(source=DETAIL, **detail)]) == (0, 0)
    order = store.get_order("1")
    assert {name: order.order[name] for name in detail} == detail
    assert order.updated_at == ago(300)


def test_finer_lines_are_no_change(store):
    store.put_orders([look(line_items=LINES)])
    assert store.put_orders([look(source=DETAIL, line_items=[{**LINES[0], "unit_price": 1.1}])]) == (0, 0)
    assert store.get_order("1").order["line_items"] == [{**LINES[0], "unit_price": 1.1}]


@pytest.mark.parametrize("source", [HISTORY, LIST, WEBHOOK])
def test_a_coarser_look_at_the_same_state_blurs_nothing(store, source):
    store.put_orders([look(source=DETAIL, line_items=LINES, tax_amount=0.16, session={"id": "s1", "visitors": 2})])
    before = store.get_order("1")
    store.put_orders([look(source=source, line_items=[{"name": "Tea"}], session={"id": "s1"})])
    assert store.get_order("1").body() == before.body()


@pytest.mark.parametrize(
    "change",
    [
        {"status": "contested"},
        {"total_amount": 2.0},
        {"external_id": "R-9"},
        {"external_id": "R-1"},
        {"tax_amount": 0.2},
        {"customer_id": "12"},
        {"refunded": True},
        {"line_items": [{"name": "Tea", "quantity": 1}]},
        {"line_items": []},
    ],
    ids=json.dumps,
)
def test_what_contradicts_or_comes_later_is_a_change(store, change):
    known = {"tax_amount": 0.16, "customer_id": "11", "line_items": LINES, "refunded": False}
    if change != {"external_id": "R-9"}:  # here it was not known at all
        known["external_id"] = "R-0"
    store.put_orders([look(**known)])
    assert store.put_orders([look(at=ago(10), **{**known, **change})]) == (0, 1)
    assert updated_at(store) == ago(10)


def test_a_value_that_aifi_takes_away_is_a_change_and_leaves_the_answer(store):
    store.put_orders([look(external_id="R-1")])
    assert store.put_orders([look(at=ago(10), external_id=None)]) == (0, 1)
    body = store.get_order("1").body()
    assert "external_id" not in body
    assert body["display_id"] == "1"


# --- one order, two ids


def test_an_order_known_by_its_session_is_found_by_it(store):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1")])
    order = store.get_order("s1")
    assert (order.id, order.is_session_only) == ("s1", True)


@pytest.mark.parametrize("source", API)
@pytest.mark.parametrize("was_served", [False, True], ids=["not served", "served"])
def test_the_apis_order_replaces_the_one_known_by_its_session(store, source, was_served):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1")])
    if was_served:
        page(store)
    store.put_orders([look("7", source=source, session_id="s1")])
    assert ids(store) == ["7"]
    assert store.get_order("7") == store.get_order("s1")


def test_a_poller_that_saw_the_session_learns_of_the_order(store, clock):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1")])
    [(seen, _)] = rows(page(store))
    clock.move(5)
    store.put_orders([look("7", session_id="s1")])
    assert updated_at(store, "7") > seen


def test_the_webhooks_state_outlives_a_list_that_lags(store):
    store.put_orders([look(None, ago(1), WEBHOOK, session_id="s1", status="paid")])
    store.put_orders([look("7", ago(60), session_id="s1", status="draft")])
    assert (ids(store), status(store, "7")) == (["7"], "paid")


def test_a_webhook_of_the_session_reaches_the_order_that_the_api_has_shown(store):
    store.put_orders([look("7", session_id="s1", status="draft")])
    assert store.put_orders([look(None, ago(10), WEBHOOK, session_id="s1", status="paid")]) == (0, 1)
    assert (ids(store), status(store, "7")) == (["7"], "paid")


def test_a_webhook_with_the_id_replaces_the_order_known_by_its_session(store):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1", status="draft")])
    store.put_orders([look("7", ago(10), WEBHOOK, session_id="s1", status="paid")])
    assert (ids(store), status(store, "s1")) == (["7"], "paid")


def test_details_that_tell_the_session_join_two_rows(store):
    store.put_orders([look("7", ago(60), status="draft")])
    store.put_orders([look(None, ago(10), WEBHOOK, session_id="s1", status="paid")])
    store.put_orders([look("7", ago(60), DETAIL, session_id="s1", status="draft")])
    assert (ids(store), status(store, "7"), status(store, "s1")) == (["7"], "paid", "paid")


def test_an_order_whose_id_equals_another_ones_session_is_left_alone(store):
    store.put_orders([look("7"), look("8", session_id="7")])
    assert sorted(ids(store)) == ["7", "8"]
    assert store.get_order("7").id == "7"


# --- pages


def test_the_list_falls_by_time_and_ties_by_id(store):
    store.put_orders([look(n, ago(at)) for n, at in [("1", 30), ("3", 20), ("2", 20), ("4", 40), ("5", 20)]])
    assert ids(store) == ["5", "3", "2", "1", "4"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 12, 13])
def test_a_walk_meets_every_order_once_at_any_page_size(store, limit):
    store.put_orders([look(str(n), ago(300 + n // 4)) for n in range(12)])
    met, after, ended = [], None, False
    for _ in range(13):
        if ended:
            break
        served = page(store, limit, after)
        met, after, ended = met + rows(served), served.last, served.ended
    assert ended
    assert met == sorted(set(met), reverse=True)
    assert len(met) == 12


def test_a_full_last_page_is_the_end(store):
    store.put_orders([look("1"), look("2")])
    assert page(store, 2).ended
    assert not page(store, 1).ended


def test_a_page_after_the_last_row_is_empty_and_goes_on_after_it(store):
    store.put_orders([look()])
    last = page(store).last
    assert page(store, 10, last) == Page([], last, True)


def test_rows_that_move_to_the_head_meanwhile_shift_no_page(store, clock):
    store.put_orders([look(str(n), ago(300 + n)) for n in range(12)])
    met, after = [], None
    for moving in ("1", "6", "11"):
        served = page(store, 3, after)
        met, after = met + [order_id for _, order_id in rows(served)], served.last
        clock.move(1)
        store.put_orders([look(moving, shift(NOW, 1), status="contested"), look(f"new {moving}", shift(NOW, 1))])
    met += [order_id for _, order_id in rows(page(store, 100, after))]
    stayed = {str(n) for n in range(12)} - {"1", "6", "11"}
    assert stayed <= set(met)
    assert len(met) == len(set(met))
    assert {"1", "6", "11"} <= set(ids(store)[:6])


def test_the_list_shows_the_summary_and_the_look_up_all(store):
    store.put_orders([look(customer_id="11", currency="SEK", external_id="R-1", tax_amount=0.16, paid_at=None)])
    summary = {
        "id": "1",
        "updated_at": ago(300),
        "display_id": "R-1",
        "created_at": ago(600),
        "status": "paid",
        "total_amount": 2.15,
        "currency": "SEK",
        "customer_id": "11",
    }
    assert [json.loads(text) for text in page(store).summaries] == [summary]
    assert store.get_order("1").body() == {
        **summary,
        "external_id": "R-1",
        "tax_amount": 0.16,
        "canceled_at": None,
    }


class TestBelowTheHorizon:
    """The mirror is complete from an hour ago on: only what was updated since then may be served."""

    @pytest.fixture(autouse=True)
    def _horizon(self, store):
        store.set_marks(horizon=ago(2 * HOUR), complete=0)
        store.put_orders([look("above", ago(HOUR - 1)), look("at", ago(HOUR)), look("below", ago(HOUR + 1))])

    def test_a_page_that_would_reach_there_is_not_served(self, store):
        assert store.serve_page(1, None, may_be_short=False) is None
        assert store.marks().served_until is None

    def test_a_page_above_it_is_served(self, store):
        store.put_orders([look("higher", ago(60))])
        assert rows(page(store, 1)) == [(ago(60), "higher")]

    def test_a_short_page_does_not_end_the_walk(self, store):
        served = store.serve_page(10, None, may_be_short=True)
        assert [order_id for _, order_id in rows(served)] == ["above"]
        assert not served.ended

    def test_a_mirror_that_was_never_filled_serves_nothing(self, store):
        store.set_marks(horizon=None)
        assert store.serve_page(10, None, may_be_short=False) is None
        assert store.serve_page(10, None, may_be_short=True) == Page([], None, False)

    def test_the_horizon_sinks_until_the_history_is_complete(self, store):
        store.lower_horizon(store.marks(), ago(3 * HOUR))
        assert rows(page(store, 2))[1][1] == "at"
        store.lower_horizon(store.marks(), None)
        assert page(store, 3).ended

    def test_the_horizon_never_rises(self, store):
        store.lower_horizon(store.marks(), ago(HOUR))
        assert store.marks().horizon == ago(2 * HOUR)

    def test_the_horizon_of_a_file_begun_anew_is_left_alone(self, store):
        of_the_lost_file = replace(store.marks(), file="another")
        for horizon in (ago(4 * HOUR), None):
            with pytest.raises(StoreError):
                store.lower_horizon(of_the_lost_file, horizon)
        marks = store.marks()
        assert (marks.horizon, marks.complete) == (ago(2 * HOUR), 0)


# --- what to ask AiFi about


@pytest.mark.parametrize(
    ("snapshot", "all_open", "only_pushed"),
    [
        (look(status="draft"), True, False),
        (look(status="completed_so_far"), True, False),
        (look(status="paymentProcessing"), True, False),
        (look(status="contested"), True, False),
        (look(status="unpaid"), True, False),
        (look(status="unpaid", created_at=ago(DAY + HOUR)), False, False),
        (look(status="paid"), False, False),
        (look(status="reviewed"), False, False),
        (look(source=WEBHOOK, status="paid"), True, True),
        (look(source=WEBHOOK, status="unpaid", created_at=ago(DAY + HOUR)), True, True),
    ],
    ids=lambda case: f"{case.source} {case.status}" if hasattr(case, "status") else None,
)
def test_open_orders_and_those_of_webhooks_are_to_be_checked(store, clock, snapshot, all_open, only_pushed):
    store.put_orders([snapshot])
    clock.move(2 * HOUR)
    assert bool(store.orders_to_check(10, store.now(), only_pushed=False)) == all_open
    assert bool(store.orders_to_check(10, store.now(), only_pushed=True)) == only_pushed


def test_a_webhooks_order_is_left_alone_for_a_minute(store, clock):
    store.put_orders([look(source=WEBHOOK)])
    assert to_check(store, 10, shift(NOW, 1), only_pushed=True) == []
    clock.move(61)
    assert to_check(store, 10, store.now(), only_pushed=True) == ["1"]


def to_check(store: Store, *arguments: Any, **options: Any) -> list[str]:
    return [order.id for order in store.orders_to_check(*arguments, **options)]


def test_an_order_known_by_its_session_is_to_be_checked_by_it(store, clock):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1")])
    clock.move(61)
    [order] = store.orders_to_check(10, store.now(), only_pushed=True)
    assert (order.session_id, order.is_session_only) == ("s1", True)


def test_a_session_whose_id_could_be_an_orders_is_told_apart_from_that_order(store):
    store.put_orders([look("123"), look(None, source=WEBHOOK, session_id="123", status="draft")])
    assert store.get_order("123").status == "paid"
    assert store.get_order("session-123").status == "draft"
    store.put_orders([look("124", session_id="123")])
    assert store.get_order("session-123") is None


def test_the_longest_unchecked_come_first_up_to_the_limit(store, clock):
    for order_id in ("1", "2", "3"):
        store.put_orders([look(order_id, status="draft")])
        clock.move(1)
    store.put_orders([look("1", status="draft")])
    clock.move(1)
    assert to_check(store, 2, store.now(), only_pushed=False) == ["2", "3"]


def test_what_was_checked_since_is_left_out(store, clock):
    store.put_orders([look(status="draft")])
    assert to_check(store, 10, NOW, only_pushed=False) == []
    clock.move(1)
    assert to_check(store, 10, store.now(), only_pushed=False) == ["1"]


def test_what_aifi_denied_is_left_out_for_an_hour(store, clock):
    store.put_orders([look(source=WEBHOOK)])
    clock.move(61)
    store.mark_checked("1")
    clock.move(HOUR - 1)
    assert to_check(store, 10, store.now(), only_pushed=True) == []
    clock.move(2)
    assert to_check(store, 10, store.now(), only_pushed=True) == ["1"]


# --- bounds


@pytest.fixture
def small(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(store_module, "MAX_UNCONFIRMED", 3)
    monkeypatch.setattr(store_module, "MAX_CUSTOMERS", 3)
    return store


def test_orders_that_only_webhooks_have_named_are_bounded(small):
    small.put_orders([look(str(n), source=WEBHOOK) for n in range(3)])
    with pytest.raises(StoreError, match="no room"):
        small.put_orders([look("3", source=WEBHOOK)])
    assert sorted(ids(small)) == ["0", "1", "2"]


def test_a_batch_that_finds_no_room_leaves_nothing_behind(small):
    with pytest.raises(StoreError):
        small.put_orders([look(str(n), source=WEBHOOK) for n in range(4)])
    assert ids(small) == []


def test_the_one_that_aifi_denied_longest_ago_makes_room(small, clock):
    small.put_orders([look(str(n), source=WEBHOOK) for n in range(3)])
    for denied in ("2", "1"):
        clock.move(1)
        small.mark_checked(denied)
    small.put_orders([look("3", source=WEBHOOK)])
    assert sorted(ids(small)) == ["0", "1", "3"]


def test_a_full_store_still_takes_what_is_not_new(small):
    small.put_orders([look(str(n), source=WEBHOOK, status="draft") for n in range(3)])
    small.put_orders([look("0", ago(10), WEBHOOK, status="paid")])
    assert status(small, "0") == "paid"


def test_a_full_store_still_takes_aifis_orders(small):
    small.put_orders([look(str(n), source=WEBHOOK) for n in range(3)])
    small.put_orders([look("3"), look("0")])
    small.put_orders([look("4", source=WEBHOOK)])  # AiFi has confirmed one meanwhile
    assert len(ids(small)) == 5


def test_customers_are_bounded_and_the_oldest_make_room(small, clock):
    for n in range(5):
        small.put_customer(str(n), {"id": str(n)}, small.now())
        clock.move(1)
    assert [n for n in range(5) if small.get_customer(str(n))] == [2, 3, 4]


def test_a_customer_who_is_seen_again_stays(small, clock):
    for n in (0, 1, 2, 0, 3):
        small.put_customer(str(n), {"id": str(n)}, small.now())
        clock.move(1)
    assert [n for n in range(5) if small.get_customer(str(n))] == [0, 2, 3]


def test_an_earlier_look_at_a_customer_does_not_replace_a_later_one(store):
    store.put_customer("11", {"id": "11", "email": "new@example.com"}, NOW)
    store.put_customer("11", {"id": "11", "email": "old@example.com"}, shift(NOW, -1))
    assert store.get_customer("11") == ({"id": "11", "email": "new@example.com"}, NOW)


def test_a_customer_comes_back_with_the_time_it_was_seen(store):
    store.put_customer("11", {"id": "11", "first_name": "Åsa"}, store.now())
    assert store.get_customer("11") == ({"id": "11", "first_name": "Åsa"}, NOW)
    store.drop_customer("11")
    assert store.get_customer("11") is None


def test_an_order_names_its_customer(store):
    store.put_orders([look(customer_id="11")])
    assert store.names_customer("11")
    assert not store.names_customer("12")


# --- leases, slots, marks


def test_a_lease_has_one_holder(store, open_store):
    assert store.take_lease("refresh", "a", 30)
    assert not open_store().take_lease("refresh", "b", 30)
    assert store.take_lease("another", "b", 30)


def test_a_lease_is_renewed_by_its_holder(store, clock):
    store.take_lease("refresh", "a", 30)
    clock.move(20)
    assert store.take_lease("refresh", "a", 30)
    clock.move(20)
    assert not store.take_lease("refresh", "b", 30)


@pytest.mark.parametrize(("seconds", "free"), [(29.9, False), (30, True), (31, True)])
def test_a_lease_ends_with_its_time(store, clock, seconds, free):
    store.take_lease("refresh", "a", 30)
    clock.move(seconds)
    assert store.take_lease("refresh", "b", 30) is free


def test_a_lease_that_is_given_back_is_free(store):
    store.take_lease("refresh", "a", 30)
    store.drop_lease("refresh", "a")
    assert store.take_lease("refresh", "b", 30)


def test_a_lease_is_given_back_by_its_holder_only(store):
    store.take_lease("refresh", "a", 30)
    store.drop_lease("refresh", "b")
    assert not store.take_lease("refresh", "b", 30)


def test_a_lease_of_a_clock_that_was_put_back_does_not_last(store, clock):
    store.take_lease("refresh", "a", 30)
    clock.move(-DAY)
    assert store.take_lease("refresh", "b", 30)


def test_request_slots_lie_apart_over_all_stores(store, open_store):
    stores = [store, open_store(), open_store()]
    waits = [stores[n % 3].take_request_slot(0.5) for n in range(6)]
    assert waits == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5])


def test_time_that_passes_frees_request_slots_but_saves_none_up(store, clock):
    store.take_request_slot(0.5)
    clock.move(100)
    assert [store.take_request_slot(0.5) for _ in range(2)] == pytest.approx([0, 0.5])


def test_a_clock_that_was_put_back_blocks_no_request_slot(store, clock):
    store.take_request_slot(0.5)
    clock.move(-DAY)
    assert store.take_request_slot(0.5) == 0


def test_marks_come_back_from_the_disk(store, open_store):
    store.set_marks(refreshed_at=NOW, failures=2, error="AiFi answers 503")
    store.set_marks(error=None)
    store.close()
    marks = open_store().marks()
    assert (marks.refreshed_at, marks.failures, marks.error) == (NOW, 2, None)


def test_a_new_mirror_has_read_nothing(open_store):
    marks = open_store("here").marks()
    assert (marks.horizon, marks.complete, marks.refreshed_at) == (None, 0, None)


def test_a_mark_of_another_name_is_a_programming_error(store):
    with pytest.raises(TypeError, match="horizont"):
        store.set_marks(horizont=NOW)


# --- many at once


def _write(path: str, writer: int, rounds: int) -> None:
    """Put orders of one's own and one that all share, serve pages between."""
    store = new_store(path)
    for n in range(rounds):
        store.put_orders([look(f"{writer}-{n}"), look("shared", shift(ago(300), n), tax_amount=float(n))])
        store.serve_page(5, None, may_be_short=True)
        store.take_request_slot(0.01)
    store.close()


def _write_in_threads(path: str, writer: int, rounds: int, result: Any) -> None:
    database_module.BUSY_SECONDS = PROCESS_SECONDS  # the disk may be slow
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda thread: _write(path, 2 * writer + thread, rounds), range(2)))
    except StoreError as error:
        result.send(str(error))
    else:
        result.send("done")


def _take_slots(path: str, count: int, result: Any) -> None:
    store = new_store(path, clock=Clock())
    result.send([store.take_request_slot(0.5) for _ in range(count)])
    store.close()


@contextlib.contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[Any, Any]]:
    """Run a process that reports through a pipe; yield both, and end it at the latest after the block."""
    ours, theirs = SPAWN.Pipe(duplex=False)
    child = SPAWN.Process(target=target, args=(*arguments, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join(PROCESS_SECONDS)
        child.close()
        ours.close()


def receive(pipe: Any) -> Any:
    """Return what a process reports next."""
    assert pipe.poll(PROCESS_SECONDS), "the process reports nothing"
    return pipe.recv()


def test_processes_and_threads_that_write_at_once_lose_nothing(store, path):
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(process(_write_in_threads, str(path), n, 25))[1] for n in range(3)]
        assert [receive(pipe) for pipe in pipes] == ["done"] * 3
    expected = {f"{writer}-{n}" for writer in range(6) for n in range(25)} | {"shared"}
    assert set(ids(store)) == expected
    assert store.get_order("shared").order["tax_amount"] == 24.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", PROCESS_SECONDS)


@pytest.mark.usefixtures("patient")
def test_threads_share_one_store(store):
    def write(writer: int) -> None:
        for n in range(20):
            store.put_orders([look(f"{writer}-{n}")])
            assert store.get_order(f"{writer}-{n}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(ids(store)) == 160


def test_processes_share_the_request_slots(store, path):
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(process(_take_slots, str(path), 10))[1] for _ in range(3)]
        waits = sorted(wait for pipe in pipes for wait in receive(pipe))
    assert waits == pytest.approx([0.5 * n for n in range(30)])


@pytest.mark.usefixtures("patient")
def test_stores_that_open_a_new_file_at_once_agree_on_it(path):
    stores = [new_store(str(path)) for _ in range(8)]
    gate = threading.Barrier(8)

    def put(n: int) -> None:
        gate.wait(PROCESS_SECONDS)
        stores[n].put_orders([look(str(n))])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(8)))
    stores[0].set_marks(horizon=ago(DAY), complete=1)
    assert sorted(ids(stores[0])) == [str(n) for n in range(8)]
    for store in stores:
        store.close()


# --- what happens to files


SET_ASIDE = ".set-aside"


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"this is no database " * 1000)


def fill_the_middle_with_garbage(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * (size - 100))


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_to_a_hundred_bytes(path: Path) -> None:
    os.truncate(path, 100)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def drop_the_marks(path: Path) -> None:
    run_sql(path, "DELETE FROM marks")


def drop_a_table(path: Path) -> None:
    run_sql(path, "DROP TABLE orders")


def run_sql(path: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(sql)
        db.commit()


def checkpoint(path: Path) -> None:
    """Bring everything from the journal into the file."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


DAMAGE = [
    fill_with_garbage,
    fill_the_middle_with_garbage,
    cut_in_half,
    cut_to_a_hundred_bytes,
    empty,
    drop_the_marks,
    drop_a_table,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_replaced_at_the_start(store, open_store, path, damage):
    store.put_orders([look(str(n)) for n in range(200)])
    store.close()
    damage(path)
    again = open_store()
    assert again.put_orders([look("after")]) == (1, 0)
    assert again.get_order("after")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_while_open_is_replaced(store, open_store, path, damage):
    store.put_orders([look(str(n)) for n in range(200)])
    checkpoint(path)
    damage(path)
    assert store.put_orders([look("after")]) == (1, 0)
    assert store.get_order("after")
    assert open_store().get_order("after")


def test_a_damaged_file_is_kept_and_the_log_says_so(open_store, path, caplog):
    path.write_bytes(b"precious" * 1000)
    open_store().put_orders([look()])
    assert Path(f"{path}{SET_ASIDE}").read_bytes() == b"precious" * 1000
    assert "set-aside" in caplog.text


@pytest.mark.parametrize("companion", ["-wal", "-shm"])
def test_a_deleted_file_leaves_no_companions_behind(store, path, companion):
    store.put_orders([look("before")])
    os.remove(path)
    Path(f"{path}{companion}").write_bytes(b"\x07" * 5000)
    store.put_orders([look("after")])
    assert store.get_order("before") is None
    assert store.get_order("after")


def test_a_file_that_is_deleted_while_open_is_begun_anew_by_all(store, open_store, path):
    other = open_store()
    store.put_orders([look("before")])
    assert other.get_order("before")
    os.remove(path)
    store.put_orders([look("after")])
    assert other.get_order("before") is None
    assert other.get_order("after")
    assert store.marks().horizon is None


def test_a_file_that_is_deleted_while_open_may_first_be_read(store, path):
    store.put_orders([look()])
    os.remove(path)
    assert store.get_order("1") is None


@pytest.mark.parametrize("version", [store_module.VERSION + 1, 99, -1])
def test_a_file_of_another_schema_is_set_aside(store, open_store, path, version):
    store.put_orders([look()])
    store.close()
    run_sql(path, f"PRAGMA user_version = {version}")
    assert open_store().get_order("1") is None
    with contextlib.closing(sqlite3.connect(f"{path}{SET_ASIDE}")) as db:
        assert db.execute("SELECT count(*) FROM orders").fetchone() == (1,)


def test_a_file_of_another_origin_is_set_aside(open_store, path):
    first = open_store("AiFi one")
    first.put_orders([look()])
    first.close()
    assert open_store("AiFi two").get_order("1") is None
    assert Path(f"{path}{SET_ASIDE}").exists()


def test_a_file_of_the_same_origin_is_kept(open_store):
    first = open_store("AiFi one")
    first.put_orders([look()])
    first.close()
    assert open_store("AiFi one").get_order("1")


def test_only_the_last_file_is_set_aside(store, path):
    for _ in range(3):
        store.close()
        fill_with_garbage(path)
        store.put_orders([look()])
    store.close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["orders.db", "orders.db.set-aside"]


def test_a_missing_folder_is_a_store_error(tmp_path):
    store = new_store(str(tmp_path / "nowhere" / "orders.db"))
    with pytest.raises(StoreError, match="folder"):
        store.marks()


def test_a_folder_in_the_files_place_is_a_store_error(path):
    path.mkdir()
    store = new_store(str(path))
    with pytest.raises(StoreError):
        store.marks()
    assert path.is_dir()


def _put_as_nobody(path: str, result: Any) -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        new_store(path).put_orders([look()])
    except StoreError as error:
        result.send(f"StoreError: {error}")
    else:
        result.send("put")


def test_a_folder_that_cannot_be_written_is_a_store_error():
    folder = tempfile.mkdtemp()  # not in tmp_path, which is closed to all other users
    os.chmod(folder, 0o555)
    try:
        with process(_put_as_nobody, os.path.join(folder, "orders.db")) as (_, pipe):
            assert receive(pipe).startswith("StoreError")
    finally:
        shutil.rmtree(folder)


def _hold_write_lock(path: str, result: Any) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    result.send("locked")
    time.sleep(PROCESS_SECONDS)


def _hold_directory_lock(path: str, result: Any) -> None:
    fcntl.flock(os.open(os.path.dirname(path), os.O_RDONLY), fcntl.LOCK_EX)
    result.send("locked")
    time.sleep(PROCESS_SECONDS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_a_file_locked_by_another_process_can_be_read_but_not_written(store, open_store, path):
    store.put_orders([look("before")])
    reader = open_store()
    reader.marks()
    with process(_hold_write_lock, str(path)) as (_, pipe):
        assert receive(pipe) == "locked"
        assert reader.get_order("before")
        begun = time.monotonic()
        with pytest.raises(StoreError, match="locked"):
            reader.put_orders([look("during")])
        assert time.monotonic() - begun < 5
    assert reader.put_orders([look("after")]) == (1, 0)
    assert reader.get_order("before")


@pytest.mark.usefixtures("impatient")
def test_a_folder_locked_by_another_process_is_a_store_error_in_time(open_store, path):
    store = open_store()
    with process(_hold_directory_lock, str(path)) as (_, pipe):
        assert receive(pipe) == "locked"
        begun = time.monotonic()
        with pytest.raises(StoreError, match="another process"):
            store.marks()
        assert time.monotonic() - begun < 5
    assert store.put_orders([look()]) == (1, 0)


# --- processes that die


def _write_batches(path: str, result: Any) -> None:
    """Put batches of 50 orders for ever, and report each one that was acknowledged."""
    store = new_store(path)
    batch = 0
    while True:
        store.put_orders([look(f"{batch}-{n}") for n in range(50)])
        result.send(batch)
        batch += 1


class _Stuck(dict):
    """An order that stops the process in the middle of its transaction."""

    def __init__(self, result: Any, order: Any):
        super().__init__(order)
        self._result = result

    def get(self, *arguments: Any) -> Any:
        self._result.send("in the middle")
        time.sleep(PROCESS_SECONDS)
        return super().get(*arguments)


def _stop_within_a_batch(path: str, result: Any) -> None:
    last = look("last")
    stuck = Snapshot(last.id, _Stuck(result, last.order), last.at, last.source)
    new_store(path).put_orders([look("first", status="contested"), look("new"), stuck])


def batches(store: Store) -> dict[int, int]:
    """Return how many orders of each batch are there."""
    counts: dict[int, int] = {}
    for order_id in ids(store):
        counts[int(order_id.split("-")[0])] = counts.get(int(order_id.split("-")[0]), 0) + 1
    return counts


def check_integrity(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("acknowledgements", [1, 5, 20])
def test_what_was_acknowledged_survives_a_kill_and_nothing_is_there_in_part(open_store, path, acknowledgements):
    with process(_write_batches, str(path)) as (child, pipe):
        acknowledged = [receive(pipe) for _ in range(acknowledgements)]
        time.sleep(random.random() * 0.01)  # somewhere within a batch
        os.kill(child.pid, signal.SIGKILL)
        child.join(PROCESS_SECONDS)
        with contextlib.suppress(EOFError):
            while pipe.poll():
                acknowledged.append(pipe.recv())
    store = open_store()
    store.set_marks(horizon=ago(DAY), complete=1)
    there = batches(store)
    assert set(acknowledged) <= set(there)
    assert set(there.values()) == {50}
    check_integrity(path)


def test_a_kill_within_a_transaction_undoes_it_and_frees_the_file(store, path):
    store.put_orders([look("first"), look("last")])
    with process(_stop_within_a_batch, str(path)) as (child, pipe):
        assert receive(pipe) == "in the middle"
        os.kill(child.pid, signal.SIGKILL)
        child.join(PROCESS_SECONDS)
    assert (status(store, "first"), store.get_order("new")) == ("paid", None)
    assert store.put_orders([look("after")]) == (1, 0)
    check_integrity(path)


def _die_with_a_lease(path: str, result: Any) -> None:
    result.send(new_store(path, clock=Clock()).take_lease("refresh", "child", 30))
    time.sleep(PROCESS_SECONDS)


def test_the_lease_of_a_killed_process_is_free_after_its_time(store, path, clock):
    with process(_die_with_a_lease, str(path)) as (_, pipe):
        assert receive(pipe) is True
    assert not store.take_lease("refresh", "ours", 30)
    clock.move(30)
    assert store.take_lease("refresh", "ours", 30)
