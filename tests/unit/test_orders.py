"""The rules of order, as the store applies them: where an order goes, which look at it wins, what is a change."""

import json
import os
from itertools import pairwise

import pytest

from orders import DETAIL, HISTORY, LIFE, LIST, WEBHOOK
from store import Store
from tests.support import API, HIGH, LOW, NOW, ago, ids, look, page, rows, status, updated_at
from times import DAY, HOUR, shift

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
