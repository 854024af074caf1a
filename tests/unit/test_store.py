"""The mirror's tables and statements, in a real file with a clock of our own."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

import store as store_module
from database import Connection
from errors import StoreError
from marks import MarksMoved, Sweep
from orders import DETAIL, HISTORY, LIST, SWEEP, WEBHOOK, Anchor, Outcome, Snapshot
from sqlite import SqliteDatabase
from store import NotServed, Page, Store, layout
from tests.support import (
    API,
    HEAD,
    HIGH,
    NOW,
    Clock,
    ago,
    ids,
    look,
    lose,
    move_marks,
    page,
    rows,
    status,
    updated_at,
)
from times import DAY, HOUR, shift

NEW, CHANGED, SAME = Outcome.NEW, Outcome.CHANGED, Outcome.SAME

# --- taking in


def test_each_look_has_its_outcome(store):
    store.put_orders([look("1"), look("2")])
    looks = [look("2", ago(10), status="contested"), look("3"), look("1"), look("3", status="draft"), look("3")]
    assert store.put_orders(looks) == [CHANGED, NEW, SAME, CHANGED, CHANGED]


def test_no_look_has_no_outcome(store):
    assert store.put_orders([]) == []
    assert store.put_orders(iter(())) == []


@pytest.mark.parametrize("source", [*API, WEBHOOK])
def test_an_order_comes_back_from_the_disk_as_it_was_taken_in(store, open_store, source):
    snapshot = look(
        at=ago(300.001),
        source=source,
        session_id="S1",
        version=3,
        external_id="R-1",
        customer_id="11",
        line_items=[{"name": "Tee „grün“\n🍵", "quantity": 0.25}],
        payment={"status": "success"},
        paid_at=None,
    )
    store.put_orders([snapshot])
    row = store.get_order("1")
    store.close()
    again = open_store().get_order("1")
    assert again == row
    assert (again.order, again.session_id, again.version, again.aifi_at, again.seen_at) == (
        snapshot.order,
        "S1",
        3,
        ago(300.001),
        NOW,
    )


def test_an_order_is_got_by_its_id_only(store):
    store.put_orders([look("7", session_id="s1", external_id="R-1")])
    assert store.get_order("7").id == "7"
    assert (store.get_order("s1"), store.get_order("R-1"), store.get_order("07")) == (None, None, None)


@pytest.mark.parametrize("name", ["Session-A", "session-a", "SESSION-A", "Ord-Ä17", "ord-ä17", "ORD-Ä17"])
def test_an_order_is_found_by_its_session_or_external_id_in_any_letter_case(store, name):
    store.put_orders([look("7", session_id="Session-A", external_id="Ord-Ä17"), look("8", session_id="Session-B")])
    assert store.find_order(name).id == "7"


@pytest.mark.parametrize("name", ["7", "", "session", "session-a ", "session_a", "%"])
def test_no_other_name_finds_an_order(store, name):
    store.put_orders([look("7", session_id="Session-A", external_id="Ord-17")])
    assert store.find_order(name) is None


@pytest.mark.parametrize(
    ("by", "found"),
    [(("session_lower",), "7"), (("external_lower",), "8"), (("session_lower", "external_lower"), "8")],
    ids=["session", "external id", "both: the younger"],
)
def test_an_order_is_found_by_those_names_that_are_asked_for(store, by, found):
    store.put_orders([look("7", session_id="A17"), look("8", external_id="a17", created_at=ago(500))])
    assert store.find_order("A17", by).id == found


def test_of_several_orders_of_a_name_the_youngest_is_found(store):
    drafts = {"1": ago(700), "2": ago(500), "3": ago(600)}
    store.put_orders([look(n, external_id="R-1", created_at=drafted) for n, drafted in drafts.items()])
    assert store.find_order("r-1").id == "2"


def test_each_of_many_webhooks_at_once_learns_what_itself_told(store):
    store.put_orders([look(str(number), source=WEBHOOK) for number in range(0, 200, 2)])
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda number: store.put_orders([look(str(number), source=WEBHOOK)]), range(200)))
    assert told == [[Outcome.SAME], [Outcome.NEW]] * 100


def test_a_version_may_be_as_large_as_aifi_likes(store):
    store.put_orders([look(version=10**18 - 2)])
    assert store.put_orders([look(version=10**18 - 1, status="contested")]) == [Outcome.CHANGED]
    assert status(store) == "contested"


def test_a_name_that_was_taken_away_finds_no_order(store):
    store.put_orders([look(external_id="R-1")])
    store.put_orders([look(at=ago(10), external_id=None)])
    assert store.find_order("R-1") is None


# --- an order that AiFi does not know any longer


def test_a_removed_order_leaves_list_and_look_up(store):
    store.put_orders([look("1", session_id="s1"), look("2")])
    assert store.remove_order("1")
    assert (ids(store), store.get_order("1"), store.find_order("s1")) == (["2"], None, None)


def test_an_order_is_removed_once(store):
    store.put_orders([look()])
    assert [store.remove_order(order_id) for order_id in ("1", "1", "2")] == [True, False, False]


@pytest.mark.parametrize("source", [LIST, SWEEP, DETAIL, WEBHOOK])
def test_a_removed_order_that_aifi_shows_again_is_new_at_the_head(served, source):
    served.remove_order("low")
    assert served.put_orders([look("low", ago(3000), source)]) == [NEW]
    assert rows(page(served))[0] == (HEAD, "low")


# --- one order, two ids


def test_an_order_known_by_its_session_is_found_by_it(store):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1")])
    order = store.find_order("S1")
    assert (order.id, order.is_session_only) == ("s1", True)


@pytest.mark.parametrize("source", API)
@pytest.mark.parametrize("was_served", [False, True], ids=["not served", "served"])
def test_the_apis_order_replaces_the_one_known_by_its_session(store, source, was_served):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1")])
    if was_served:
        page(store)
    assert store.put_orders([look("7", source=source, session_id="S1")]) == [NEW]
    assert ids(store) == ["7"]
    assert store.get_order("7") == store.find_order("s1")


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
    assert store.put_orders([look(None, ago(10), WEBHOOK, session_id="S1", status="paid")]) == [CHANGED]
    assert (ids(store), status(store, "7")) == (["7"], "paid")


def test_a_webhook_of_a_session_with_several_orders_reaches_the_youngest(store):
    store.put_orders([look(n, session_id="s1", status="draft", created_at=ago(900 + int(n))) for n in ("2", "1", "3")])
    store.put_orders([look(None, ago(10), WEBHOOK, session_id="s1", status="paid")])
    assert [status(store, n) for n in ("1", "2", "3")] == ["paid", "draft", "draft"]


def test_a_webhook_with_the_id_replaces_the_order_known_by_its_session(store):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1", status="draft")])
    store.put_orders([look("7", ago(10), WEBHOOK, session_id="s1", status="paid")])
    assert (ids(store), store.find_order("s1").status) == (["7"], "paid")


def test_details_that_tell_the_session_join_two_rows(store):
    store.put_orders([look("7", ago(60), status="draft")])
    store.put_orders([look(None, ago(10), WEBHOOK, session_id="s1", status="paid")])
    store.put_orders([look("7", ago(60), DETAIL, session_id="s1", status="draft")])
    assert (ids(store), status(store, "7"), store.find_order("s1").id) == (["7"], "paid", "7")


def test_rows_of_one_session_are_joined_within_a_batch(store):
    looks = [look(None, ago(10), WEBHOOK, session_id="s1"), look("7", ago(60), session_id="s1", status="draft")]
    assert store.put_orders(looks) == [NEW, NEW]
    assert (ids(store), status(store, "7")) == (["7"], "paid")


def test_an_order_whose_id_equals_another_ones_session_is_left_alone(store):
    store.put_orders([look("7"), look("8", session_id="7")])
    assert sorted(ids(store)) == ["7", "8"]
    assert store.get_order("7").id == "7"


def test_a_session_whose_id_could_be_an_orders_is_told_apart_from_that_order(store):
    store.put_orders([look("123"), look(None, source=WEBHOOK, session_id="123", status="draft")])
    assert store.get_order("123").status == "paid"
    assert store.get_order("session-123").status == "draft"
    store.put_orders([look("124", session_id="123")])
    assert store.get_order("session-123") is None


# --- pages


def test_what_another_process_served_counts(served, open_store):
    open_store().put_orders([look("late", ago(2000))])
    assert updated_at(served, "late") == HEAD


@pytest.mark.parametrize("source", [LIST, SWEEP, DETAIL, WEBHOOK])
def test_a_late_order_is_at_the_head(served, source):
    served.put_orders([look("late", ago(9000), source)])
    assert ids(served) == ["late", "high", "low"]


def test_what_is_served_pushes_the_next_late_order_up(served):
    for n in range(3):
        served.put_orders([look(str(n), ago(2000))])
        assert ids(served)[0] == str(n)
    assert [at for at, _ in rows(page(served))][:3] == [shift(HEAD, 0.001 * n) for n in (2, 1, 0)]


def test_a_late_order_is_at_the_head_even_when_the_clock_was_put_back(served, clock):
    clock.move(-7200)
    served.put_orders([look("late", ago(9000), created_at=ago(9000))])
    assert ids(served)[0] == "late"
    served.put_orders([look("low", HIGH, status="contested")])
    assert ids(served)[0] == "low"


def test_the_same_orders_come_back_to_the_same_places_in_a_new_file(open_store, place):
    store = open_store()
    history = [look(str(n), ago(n * 100), HISTORY, created_at=ago(n * 120)) for n in range(20)]
    listed = []
    for _ in range(2):
        store.put_orders(history)
        move_marks(store, horizon=ago(DAY), complete=1)
        listed.append(rows(page(store)))
        lose(place)
    assert len(listed[0]) == 20
    assert listed[0] == listed[1]


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
        "contested": False,
        "reviewed": False,
        "refunded": None,
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
        move_marks(store, horizon=ago(2 * HOUR), complete=0)
        store.put_orders([look("above", ago(HOUR - 1)), look("at", ago(HOUR)), look("below", ago(HOUR + 1))])

    def test_a_page_that_would_reach_there_is_not_served(self, store):
        assert store.serve_page(1, None, may_be_short=False) is NotServed.BELOW_HORIZON
        assert store.marks().served_until is None

    def test_a_page_above_it_is_served(self, store):
        store.put_orders([look("higher", ago(60))])
        assert rows(page(store, 1)) == [(ago(60), "higher")]

    def test_a_short_page_does_not_end_the_walk(self, store):
        served = store.serve_page(10, None, may_be_short=True)
        assert [order_id for _, order_id in rows(served)] == ["above"]
        assert not served.ended

    def test_what_would_be_served_there_was_not_served(self, store):
        store.serve_page(10, None, may_be_short=True)
        assert store.marks().served_until == ago(HOUR - 1)

    def test_the_horizon_sinks_until_the_history_is_complete(self, store):
        move_marks(store, horizon=ago(3 * HOUR))
        assert rows(page(store, 2))[1][1] == "at"
        move_marks(store, complete=1)
        assert page(store, 3).ended

    def test_a_mirror_that_was_never_read_serves_nothing(self, store):
        move_marks(store, horizon=None)
        assert store.serve_page(10, None, may_be_short=False) is NotServed.BELOW_HORIZON
        assert store.serve_page(10, None, may_be_short=True) == Page([], None, False)

    def test_a_shop_without_an_order_of_aifis_shows_what_webhooks_told(self, store):
        move_marks(store, horizon=None, refreshed_at=NOW)
        served = page(store)
        assert [order_id for _, order_id in rows(served)] == ["above", "at", "below"]
        assert served.ended


class TestAPageThatIsServedOnlyIf:
    """Only where something holds of the marks."""

    @pytest.fixture(autouse=True)
    def _order(self, store):
        store.put_orders([look()])

    def test_it_holds_is_served(self, store):
        served = store.serve_page(1, None, may_be_short=False, only_if=lambda marks: marks.complete == 1)
        assert [order_id for _, order_id in rows(served)] == ["1"]

    def test_it_does_not_hold_is_not_served(self, store):
        refused = store.serve_page(1, None, may_be_short=False, only_if=lambda marks: marks.complete == 0)
        assert refused is NotServed.STALE
        assert store.marks().served_until is None

    def test_it_holds_may_still_reach_too_deep(self, store):
        move_marks(store, horizon=ago(60), complete=0)
        assert store.serve_page(1, None, False, lambda marks: True) is NotServed.BELOW_HORIZON


# --- what to ask AiFi about

OPEN = ("draft", "completed_so_far", "completed", "paymentProcessing", "contested", "unpaid")


def pushed_orders(store: Store, limit: int = 10, before: str | None = None) -> list[str]:
    return [order.id for order in store.pushed_orders(limit, before or store.now())]


def open_orders(store: Store, limit: int = 10, before: str | None = None, young: bool = False) -> list[str]:
    return [order.id for order in store.open_orders(limit, before or store.now(), young)]


@pytest.mark.parametrize(
    ("snapshot", "is_open"),
    [
        *((look(status=word), True) for word in OPEN),
        (look(status="unpaid", created_at=ago(DAY + HOUR)), False),
        (look(status="unpaid", created_at=ago(DAY - 2 * HOUR - 1)), True),
        (look(status="unpaid", created_at=ago(DAY - 2 * HOUR)), False),
        (look(status="paid"), False),
        (look(status="reviewed"), False),
        (look(source=WEBHOOK, status="paid"), True),
        (look(source=WEBHOOK, status="unpaid", created_at=ago(DAY + HOUR)), True),
    ],
    ids=lambda case: f"{case.source} {case.order['status']}" if isinstance(case, Snapshot) else None,
)
def test_what_aifi_may_still_change_is_open(store, clock, snapshot, is_open):
    store.put_orders([snapshot])
    clock.move(2 * HOUR)
    assert open_orders(store) == (["1"] if is_open else [])
    assert pushed_orders(store) == (["1"] if snapshot.source == WEBHOOK else [])


def test_the_young_open_orders_are_those_of_the_last_hour_the_youngest_first(store, clock):
    drafts = {"1": ago(HOUR - 2), "2": ago(60), "3": ago(HOUR - 1), "4": ago(600), "5": ago(600)}
    store.put_orders([look(n, status="draft", created_at=drafted) for n, drafted in drafts.items()])
    clock.move(1)
    assert open_orders(store, young=True) == ["2", "5", "4", "1"]
    assert open_orders(store, 2, young=True) == ["2", "5"]
    assert sorted(open_orders(store)) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("seconds", "asked"), [(1, []), (60, []), (60.001, ["1"]), (DAY, ["1"])])
def test_a_webhooks_order_is_left_alone_for_a_minute(store, clock, seconds, asked):
    store.put_orders([look(source=WEBHOOK)])
    clock.move(seconds)
    assert pushed_orders(store) == asked


def test_a_webhooks_order_is_asked_about_until_the_api_has_shown_it(store, clock):
    store.put_orders([look(source=WEBHOOK)])
    clock.move(61)
    store.put_orders([look(source=DETAIL)])
    clock.move(61)
    assert pushed_orders(store) == []


def test_an_order_known_by_its_session_is_to_be_checked_by_it(store, clock):
    store.put_orders([look(None, source=WEBHOOK, session_id="s1")])
    clock.move(61)
    [order] = store.pushed_orders(10, store.now())
    assert (order.session_id, order.is_session_only) == ("s1", True)


@pytest.mark.parametrize("source", [LIST, WEBHOOK])
def test_the_longest_unchecked_come_first_up_to_the_limit(store, clock, source):
    for order_id in ("1", "2", "3"):
        store.put_orders([look(order_id, source=source, status="draft")])
        clock.move(1)
        store.mark_checked(order_id)
    clock.move(1)
    store.mark_checked("1")
    clock.move(2 * HOUR)
    asked = pushed_orders if source == WEBHOOK else open_orders
    assert asked(store, 2) == ["2", "3"]
    assert asked(store) == ["2", "3", "1"]


def test_an_order_that_was_never_checked_comes_first(store, clock):
    store.put_orders([look("1", source=WEBHOOK), look("2", source=WEBHOOK)])
    store.mark_checked("1")
    clock.move(HOUR + 61)
    assert pushed_orders(store) == ["2", "1"]


@pytest.mark.parametrize("young", [False, True])
def test_what_was_checked_since_is_left_out(store, clock, young):
    store.put_orders([look(status="draft")])
    assert open_orders(store, before=NOW, young=young) == []
    clock.move(1)
    assert open_orders(store, young=young) == ["1"]


def test_seeing_an_open_order_again_is_a_check(store, clock):
    store.put_orders([look(status="draft")])
    clock.move(10)
    store.put_orders([look(status="draft")])
    assert store.get_order("1").checked_at == shift(NOW, 10)
    assert open_orders(store, before=shift(NOW, 10)) == []


def test_what_aifi_denied_is_left_out_for_an_hour(store, clock):
    store.put_orders([look(source=WEBHOOK)])
    clock.move(61)
    store.mark_checked("1")
    clock.move(HOUR - 1)
    assert (pushed_orders(store), open_orders(store)) == ([], [])
    clock.move(2)
    assert (pushed_orders(store), open_orders(store)) == (["1"], ["1"])


def test_what_aifi_has_shown_is_not_left_out_for_an_hour(store, clock):
    store.put_orders([look(status="draft"), look(at=ago(10), source=WEBHOOK)])
    clock.move(61)
    store.mark_checked("1")
    clock.move(1)
    assert (pushed_orders(store), open_orders(store)) == (["1"], ["1"])


@pytest.mark.parametrize("back", [2, 61, DAY, 3000 * DAY])
class TestAClockThatWasPutBack:
    def test_hides_no_open_order(self, store, clock, back):
        store.put_orders([look(status="draft")])
        clock.move(-back)
        assert (open_orders(store), open_orders(store, young=True)) == (["1"], ["1"])

    def test_hides_no_webhooks_order(self, store, clock, back):
        store.put_orders([look(source=WEBHOOK)])
        store.mark_checked("1")
        clock.move(-back)
        assert pushed_orders(store) == ["1"]

    def test_hides_no_order_from_the_sweep(self, store, clock, back):
        store.put_orders([look(created_at=ago(10_000 * DAY))])
        clock.move(-back)
        assert store.confirmed_between("", NOW, store.now()) == ["1"]

    def test_does_not_keep_a_customer_as_it_was(self, store, clock, back):
        store.put_customer("11", {"id": "11", "email": "old@example.com"}, store.now())
        clock.move(-back)
        store.put_customer("11", {"id": "11", "email": "new@example.com"}, store.now())
        assert store.get_customer("11") == ({"id": "11", "email": "new@example.com"}, shift(NOW, -back))

    def test_begins_the_round_of_a_sweep_anew(self, store, clock, back):
        store.put_sweep(Sweep("all", NOW, f"{ago(600)} 7", NOW, NOW, compared=200, found=3))
        clock.move(-back)
        assert store.sweep("all") == Sweep("all", store.now(), None, NOW, NOW, compared=0, found=3)


# --- where lists stand

DRAFTS = {"1": ago(500), "2": ago(400), "3": ago(400), "4": ago(300)}


@pytest.fixture
def drafted(store: Store) -> Store:
    """Hold four orders that lists have shown, and two at the same times that none has."""
    store.put_orders([look(order_id, created_at=at) for order_id, at in DRAFTS.items()])
    store.put_orders([look("5", source=DETAIL, created_at=ago(400)), look("6", source=WEBHOOK, created_at=ago(400))])
    return store


def places(*order_ids: str) -> list[Anchor]:
    return [Anchor(DRAFTS[order_id], order_id) for order_id in order_ids]


@pytest.mark.parametrize(
    ("since", "limit", "expected"),
    [
        (ago(500), 9, "1234"),
        (ago(499.999), 9, "234"),
        (ago(400), 9, "234"),
        (ago(300), 9, "4"),
        (ago(299.999), 9, ""),
        ("", 3, "123"),
        (ago(400), 1, "2"),
    ],
)
def test_the_orders_that_a_list_has_shown_from_a_time_on_the_oldest_first(drafted, since, limit, expected):
    assert drafted.listed_from(since, limit) == places(*expected)


@pytest.mark.parametrize(
    ("until", "limit", "expected"),
    [
        (ago(300), 9, "4321"),
        (ago(300.001), 9, "321"),
        (ago(400), 9, "321"),
        (ago(500), 9, "1"),
        (ago(500.001), 9, ""),
        (NOW, 2, "43"),
        (ago(400), 1, "3"),
    ],
)
def test_the_orders_that_a_list_has_shown_until_a_time_the_newest_first(drafted, until, limit, expected):
    assert drafted.listed_until(until, limit) == places(*expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (ago(500), ago(300), "45321"),
        (ago(499.999), ago(300), "4532"),
        (ago(399.999), ago(300), "4"),
        (ago(500), ago(300.001), "5321"),
        ("", NOW, "45321"),
        (ago(299.999), NOW, ""),
    ],
)
def test_the_orders_that_aifi_has_shown_between_two_times(drafted, low, high, expected):
    assert drafted.confirmed_between(low, high, shift(NOW, 1)) == list(expected)


def test_what_was_checked_since_is_not_missing(drafted, clock):
    clock.move(10)
    drafted.mark_checked("2")
    assert drafted.confirmed_between("", NOW, shift(NOW, 10)) == ["4", "5", "3", "1"]
    assert drafted.confirmed_between("", NOW, NOW) == []


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
    small.put_orders([look(str(n), source=WEBHOOK) for n in range(3)])
    with pytest.raises(StoreError, match="no room"):
        small.put_orders([look("0", ago(10), WEBHOOK, status="contested"), look("3"), look("4", source=WEBHOOK)])
    assert (sorted(ids(small)), status(small, "0")) == (["0", "1", "2"], "paid")


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
    store.remove_customer("11")
    assert store.get_customer("11") is None


def test_an_order_names_its_customer(store):
    store.put_orders([look(customer_id="11")])
    assert store.names_customer("11")
    assert not store.names_customer("12")


# --- sweeps


def test_a_sweep_that_never_was_begins_now(store, clock):
    clock.move(5)
    assert store.sweep("all") == Sweep("all", shift(NOW, 5))


def test_sweeps_come_back_from_the_disk_each_by_its_name(store, open_store):
    sweeps = [Sweep("all", ago(100), f"{ago(600)} 7", ago(10), ago(200), 400, 3), Sweep("recent", ago(50))]
    for sweep in sweeps:
        store.put_sweep(sweep)
    store.close()
    assert [open_store().sweep(name) for name in ("all", "recent")] == sweeps


def test_a_sweep_goes_on(store):
    sweep = Sweep("all", ago(100), found=1)
    for place in (f"{ago(600)} 7", f"{ago(700)} 6", None):
        sweep = replace(sweep, place=place, found=sweep.found + 1)
        store.put_sweep(sweep)
        assert store.sweep("all") == sweep


# --- request slots


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


# --- marks


def test_marks_come_back_from_the_disk(store, open_store):
    move_marks(store, refreshed_at=NOW, failures=2, error="AiFi answers 503")
    move_marks(store, error=None)
    store.close()
    marks = open_store().marks()
    assert (marks.refreshed_at, marks.failures, marks.error) == (NOW, 2, None)


def test_a_new_mirror_has_read_nothing(open_store):
    marks = open_store("here").marks()
    assert (marks.horizon, marks.complete, marks.refreshed_at, marks.served_until) == (None, 0, None, None)


def test_moved_marks_are_returned_as_they_are_then(store):
    moved = store.move_marks(store.marks(), horizon=ago(60), horizon_id="7", newest=None)
    assert moved == store.marks()
    assert (moved.horizon, moved.horizon_id) == (ago(60), "7")


def test_of_two_that_read_the_same_marks_only_one_moves_them(store, open_store):
    other = open_store()
    ours, theirs = store.marks(), other.marks()
    other.move_marks(theirs, horizon=ago(40 * DAY))
    with pytest.raises(MarksMoved):
        store.move_marks(ours, horizon=ago(35 * DAY))
    assert store.marks().horizon == ago(40 * DAY)


def test_marks_that_others_moved_move_on_once_they_are_read_again(store, open_store):
    other = open_store()
    other.move_marks(other.marks(), horizon=ago(40 * DAY))
    store.move_marks(store.marks(), horizon=ago(50 * DAY))
    assert other.marks().horizon == ago(50 * DAY)


def test_a_mark_that_was_not_set_is_compared_too(store, open_store):
    ours, other = store.marks(), open_store()
    other.move_marks(other.marks(), newest="theirs")
    with pytest.raises(MarksMoved):
        store.move_marks(ours, newest="ours")
    with pytest.raises(MarksMoved):
        store.move_marks(ours, newest=None)


def test_who_lost_one_mark_moves_none(store, open_store):
    ours, other = store.marks(), open_store()
    other.move_marks(other.marks(), refreshed_at=NOW)
    with pytest.raises(MarksMoved):
        store.move_marks(ours, newest="ours", refreshed_at=ago(1))
    assert (store.marks().newest, store.marks().refreshed_at) == (None, NOW)


def test_marks_that_nobody_else_moves_are_no_matter(store, open_store):
    ours, other = store.marks(), open_store()
    other.move_marks(other.marks(), refreshed_at=NOW)
    other.put_orders([look()])
    page(other)
    store.move_marks(ours, horizon=ago(40 * DAY))
    marks = store.marks()
    assert (marks.horizon, marks.refreshed_at, marks.served_until) == (ago(40 * DAY), NOW, ago(300))


def test_the_marks_of_a_file_begun_anew_are_left_alone(store, place):
    of_the_lost_file = store.marks()
    lose(place)
    for values in ({"horizon": ago(4 * HOUR)}, {"complete": 1}, {"failures": 1}):
        with pytest.raises(MarksMoved):
            store.move_marks(of_the_lost_file, **values)
    marks = store.marks()
    assert (marks.horizon, marks.complete, marks.failures) == (None, 0, 0)
    assert marks.file != of_the_lost_file.file


def test_lost_marks_are_an_error_of_the_store():
    assert issubclass(MarksMoved, StoreError)


def test_a_mark_of_another_name_is_a_programming_error(store):
    with pytest.raises(AttributeError, match="horizont"):
        move_marks(store, horizont=NOW)


# --- what survives a power cut

FULL, NORMAL = 2, 1  # as SQLite numbers `synchronous`


class WatchedDatabase(SqliteDatabase):
    """Notes how each transaction is committed."""

    def write(self, work: Callable[[Connection], Any], *arguments: Any, **options: Any) -> Any:
        def watched(db: Connection) -> Any:
            self.committed.append(db.rows("PRAGMA synchronous")[0]["synchronous"])
            return work(db)

        self.committed: list[int] = []
        return super().write(watched, *arguments, **options)


@pytest.fixture
def watched(path: object, clock: Clock) -> Iterator[WatchedDatabase]:
    database = WatchedDatabase(str(path), layout({}), clock)
    yield database
    database.close()


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.put_orders([look(source=WEBHOOK)]),
        lambda store: store.put_customer("11", {"id": "11"}, NOW),
        lambda store: store.remove_order("1"),
        lambda store: move_marks(store, refreshed_at=NOW),
        lambda store: store.try_write(),
    ],
    ids=["webhook", "customer", "removal", "marks", "test of the disk"],
)
def test_what_is_acknowledged_is_on_the_disk_also_after_what_need_not_be(watched, write):
    store = Store(watched)
    write(store)
    assert watched.committed == [FULL]
    store.take_request_slot(0.5)
    write(store)
    assert watched.committed == [FULL]


def test_what_aifi_lists_again_need_not_be_on_the_disk_but_goes_there_with_the_marks(watched):
    store = Store(watched)
    store.put_orders([look()])
    assert watched.committed == [NORMAL]
    move_marks(store, refreshed_at=NOW)
    assert watched.committed == [FULL]


def test_what_was_served_is_on_the_disk_before_it_is_served(watched):
    store = Store(watched)
    store.put_orders([look()])
    store.take_request_slot(0.5)
    store.serve_page(1, None, may_be_short=True)
    move_marks(store, complete=1)
    store.take_request_slot(0.5)
    page(store)
    assert watched.committed == [FULL]


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.take_request_slot(0.5),
        lambda store: store.put_note("customer", "seen"),
        lambda store: store.put_sweep(Sweep("all", NOW)),
    ],
    ids=["request slot", "note", "sweep"],
)
def test_what_may_be_lost_does_not_wait_for_the_disk(watched, write):
    write(Store(watched))
    assert watched.committed == [NORMAL]


# --- notes and statistics


def test_a_note_counts_and_tells_what_happened_last(store, clock):
    for text in ("first", "second"):
        store.put_note("aide", text)
        clock.move(1)
    store.put_note("webhook", "paid")
    notes = store.notes()
    assert (notes["aide"].text, notes["aide"].count, notes["aide"].at) == ("second", 2, shift(NOW, 1))
    assert (notes["webhook"].text, notes["webhook"].count) == ("paid", 1)


def test_orders_are_counted_by_the_hour_of_their_draft(store, clock):
    drafts = [NOW, ago(0.001), ago(HOUR), ago(23 * HOUR), ago(23 * HOUR + 0.001), ago(DAY)]
    store.put_orders([look(str(n), created_at=at) for n, at in enumerate(drafts)])
    statistics = store.statistics()
    assert statistics.orders == 6
    assert len(statistics.hourly) == 24
    assert [(at, count) for at, count in statistics.hourly if count] == [
        (ago(23 * HOUR), 1),
        (ago(HOUR), 2),
        (NOW, 1),
    ]
