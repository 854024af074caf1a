"""The mirror's tables and statements, in a real file with a clock of our own."""

import json
from dataclasses import replace
from typing import Any

import pytest

import store as store_module
from errors import StoreError
from orders import DETAIL, WEBHOOK
from store import Page, Store
from tests.support import API, HIGH, NOW, ago, ids, look, page, rows, status, updated_at
from times import DAY, HOUR, shift

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
