"""The rules of order: where an order goes, which look at it wins, what is a change, and what is watched."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from orders import (
    ALWAYS,
    DETAIL,
    HISTORY,
    LIFE,
    LIST,
    PUSHED,
    SWEEP,
    UNCONFIRMED,
    WEBHOOK,
    Anchor,
    Order,
    Outcome,
    Snapshot,
    applies,
    conflict,
    is_news,
    session_key,
    take_in,
    takes_back,
)
from tests.support import API, HEAD, HIGH, LOW, NOW, ago, look, table
from times import DAY, HOUR, shift

NEW, CHANGED, SAME = Outcome.NEW, Outcome.CHANGED, Outcome.SAME


@dataclass(frozen=True)
class Known:
    """What a mirror knows; where nothing else is said it is complete, and has served nothing."""

    served_until: str | None = None
    begun_at: str | None = None
    horizon: str | None = ago(30 * DAY)
    complete: int = 1


ALL, SERVED, EMPTY = Known(), Known(served_until=HIGH), Known(horizon=None, complete=0)


def take(row: Order | None, snapshot: Snapshot, now: str = NOW, known: Known = ALL) -> tuple[Order, Outcome]:
    """Take in a look at an order of which no other row is kept."""
    return take_in(row, None, snapshot, now, known)


def taken(*snapshots: Snapshot, now: str = NOW, known: Known = ALL) -> Order:
    """Return the order after these looks at it."""
    row = None
    for snapshot in snapshots:
        row, _ = take(row, snapshot, now, known)
    assert row is not None
    return row


# --- where an order goes


@pytest.mark.parametrize("source", [LIST, SWEEP, DETAIL, WEBHOOK])
@pytest.mark.parametrize(
    ("at", "expected"),
    [(ago(300), ago(300)), (ago(30 * DAY), ago(30 * DAY)), (NOW, NOW), (ago(-60), NOW)],
    ids=["minutes ago", "weeks ago", "now", "in AiFi's future"],
)
def test_a_new_order_takes_aifis_time_but_none_later_than_now(source, at, expected):
    row, outcome = take(None, look(at=at, source=source))
    assert (row.updated_at, outcome) == (expected, NEW)


@pytest.mark.parametrize("horizon", [None, "at the draft", "above"])
@pytest.mark.parametrize(
    ("drafted", "at", "expected", "cut"),
    [
        (ago(2 * DAY), ago(2 * DAY - 60), ago(2 * DAY - 60), False),
        (ago(2 * DAY), ago(2 * DAY - HOUR), ago(2 * DAY - HOUR), False),
        (ago(2 * DAY), ago(2 * DAY - HOUR - 0.001), ago(2 * DAY - HOUR), True),
        (ago(2 * DAY), ago(60), ago(2 * DAY - HOUR), True),
        (ago(60), ago(-600), NOW, False),
    ],
    ids=["settled at once", "after an hour", "after an hour and a bit", "days later", "in AiFi's future"],
)
def test_an_order_of_a_history_page_stays_within_an_hour_of_its_draft(drafted, at, expected, cut, horizon):
    known = Known(horizon={None: None, "at the draft": drafted, "above": shift(drafted, 1)}[horizon], complete=0)
    row, outcome = take(None, look(at=at, source=HISTORY, created_at=drafted), known=known)
    assert (row.updated_at, row.cut, outcome) == (expected, cut, NEW)


@pytest.mark.parametrize("source", [LIST, SWEEP, DETAIL, WEBHOOK])
@pytest.mark.parametrize("at", [ago(9000), LOW, ago(2000), HIGH], ids=["below", "lower end", "inside", "upper end"])
def test_a_late_order_goes_just_above_what_was_served(source, at):
    assert taken(look(at=at, source=source), known=SERVED).updated_at == HEAD


@pytest.mark.parametrize("at", [HEAD, NOW], ids=["just above", "now"])
def test_an_order_above_what_was_served_keeps_aifis_time(at):
    assert taken(look(at=at), known=SERVED).updated_at == at


def test_what_aifi_dates_next_is_above_a_late_order_though_its_clock_is_behind_ours():
    late, following = taken(look("late", ago(2000)), known=SERVED), taken(look("next", ago(240)), known=SERVED)
    assert late.updated_at < following.updated_at < NOW


def test_a_history_page_may_fill_in_below_what_was_served():
    known = Known(served_until=HIGH, horizon=ago(2100), complete=0)
    assert taken(look(at=ago(2000), source=HISTORY, created_at=ago(2100)), known=known).updated_at == ago(2000)


@pytest.mark.parametrize("source", [HISTORY, LIST, SWEEP, DETAIL, WEBHOOK])
@pytest.mark.parametrize("at", [ago(400), ago(300), ago(10), ago(-60)], ids=["before", "same", "after", "future"])
@pytest.mark.parametrize("known", [ALL, Known(served_until=ago(300))], ids=["not served", "served"])
def test_an_unchanged_order_keeps_its_place(source, at, known):
    row = taken(look(), known=known)
    for _ in range(2):
        after, outcome = take(row, look(at=at, source=source), known=known)
        assert (after.updated_at, outcome) == (row.updated_at, SAME)
        row = after


@pytest.mark.parametrize(
    ("at", "version", "expected"),
    [(ago(100), 1, ago(100)), (ago(-60), 1, NOW), (ago(300), 1, ago(300)), (ago(500), 2, ago(300))],
    ids=["later", "in AiFi's future", "at the same time", "a new version of an earlier time"],
)
def test_a_changed_order_goes_to_aifis_time_or_stays_where_it_was(at, version, expected):
    row, outcome = take(taken(look(version=1)), look(at=at, version=version, total_amount=1.0))
    assert (row.updated_at, outcome) == (expected, CHANGED)


@pytest.mark.parametrize("was_at", [LOW, HIGH], ids=["lowest", "highest"])
def test_a_changed_order_that_was_served_goes_just_above_that(was_at):
    row = taken(look(at=was_at))
    after, outcome = take(row, look(at=shift(was_at, 0.001), status="contested"), known=Known(served_until=HIGH))
    assert (after.updated_at, outcome) == (HEAD, CHANGED)


def test_a_change_goes_above_what_was_served_even_when_the_clock_was_put_back():
    row = taken(look(at=LOW))
    after, _ = take(row, look(at=shift(LOW, 1), status="contested"), ago(7200), SERVED)
    assert after.updated_at == HEAD


# --- what is history


@pytest.mark.parametrize(
    ("source", "drafted", "known", "history"),
    **table(
        {
            "a history page, below the horizon": (HISTORY, ago(9000), {}, True),
            "a history page, at the horizon": (HISTORY, ago(8000), {}, True),
            "a history page, just above the horizon": (HISTORY, ago(7999.999), {}, False),
            "the sweep, below the horizon": (SWEEP, ago(9000), {}, True),
            "the sweep, at the horizon": (SWEEP, ago(8000), {}, True),
            "the sweep, just above the horizon": (SWEEP, ago(7999.999), {}, False),
            "a look-up, below the horizon": (DETAIL, ago(9000), {}, True),
            "a look-up, at the horizon": (DETAIL, ago(8000), {}, True),
            "a look-up, just above the horizon": (DETAIL, ago(7999.999), {}, False),
            "a list of what is new, below the horizon": (LIST, ago(9000), {}, False),
            "a webhook, below the horizon": (WEBHOOK, ago(9000), {}, False),
            "below the last order of all": (HISTORY, ago(9000), {"complete": 1}, False),
            "changed before the mirror began": (HISTORY, ago(9000), {"begun_at": ago(6999)}, True),
            "changed as the mirror began": (HISTORY, ago(9000), {"begun_at": ago(7000)}, True),
            "changed since the mirror began": (HISTORY, ago(9000), {"begun_at": ago(7001)}, False),
            "looked up, changed since the mirror began": (DETAIL, ago(9000), {"begun_at": ago(7001)}, False),
            "nothing was read, but something served": (HISTORY, ago(9000), {"horizon": None}, False),
        }
    ),
)
def test_an_unknown_order_is_history_at_or_below_todays_horizon_and_else_news(source, drafted, known, history):
    extent = replace(Known(served_until=HIGH, horizon=ago(8000), complete=0), **known)
    row = taken(look(at=ago(7000), source=source, created_at=drafted), known=extent)
    assert row.updated_at == (ago(7000) if history else HEAD)


@pytest.mark.parametrize(("source", "history"), [(HISTORY, True), (SWEEP, True), (DETAIL, True), (LIST, False)])
def test_on_an_empty_mirror_that_served_nothing_all_but_news_is_history(source, history):
    row = taken(look(at=ago(60), source=source, created_at=ago(DAY)), known=EMPTY)
    assert row.updated_at == (ago(DAY - HOUR) if history else ago(60))
    assert row.cut is history


def test_a_known_order_is_never_history():
    known = Known(served_until=HIGH, horizon=ago(8000), complete=0)
    row = taken(look(at=ago(8500), source=HISTORY, created_at=ago(9000)), known=known)
    after = taken(look(at=ago(8500), source=HISTORY, created_at=ago(9000)), known=known)
    assert row == after
    changed, _ = take(row, look(at=ago(7000), source=HISTORY, created_at=ago(9000), status="contested"), known=known)
    assert changed.updated_at == HEAD


# --- cut rows

CUT_AT = ago(2 * DAY - HOUR)


def again(source: str = LIST, at: str | None = None) -> Snapshot:
    return look(at=at, source=source, created_at=ago(2 * DAY))


@pytest.fixture
def cut() -> Order:
    """Meet an order on a history page that changed five minutes ago, two days after its draft."""
    row = taken(again(HISTORY), known=EMPTY)
    assert (row.updated_at, row.cut) == (CUT_AT, True)
    return row


@pytest.mark.parametrize("source", [LIST, SWEEP, WEBHOOK])
def test_a_cut_order_that_is_shown_again_takes_its_true_time(cut, source):
    row, outcome = take(cut, again(source))
    assert (row.updated_at, row.cut, outcome) == (ago(300), False, CHANGED)


@pytest.mark.parametrize("source", [HISTORY, DETAIL])
def test_a_cut_order_stays_where_it_is_for_history_and_look_ups(cut, source):
    row, outcome = take(cut, again(source))
    assert (row.updated_at, row.cut, outcome) == (CUT_AT, True, SAME)


def test_a_look_up_does_not_make_a_cut_order_forget_that_it_was_cut(cut):
    row, _ = take(cut, again(DETAIL))
    assert take(row, again())[1] is CHANGED


def test_a_cut_order_counts_as_changed_once(cut):
    row, _ = take(cut, again())
    assert take(row, again(), ago(-60))[1] is SAME


def test_a_cut_order_whose_true_time_was_served_goes_above_that(cut):
    row, _ = take(cut, again(), known=Known(served_until=ago(200)))
    assert row.updated_at == ago(199.999)


# --- which snapshot wins: between answers of the API


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
def test_between_answers_of_the_api_the_version_decides_then_the_time(source, version, at, wins):
    row = taken(look(version=2, status="contested"), look(at=at, version=version, source=source, status="paid"))
    assert row.status == ("paid" if wins else "contested")


@pytest.mark.parametrize("source", API)
@pytest.mark.parametrize(("version", "wins"), [(1, False), (3, True)], ids=["lower", "higher"])
def test_the_version_decides_also_where_no_answer_has_an_update_time(source, version, wins):
    row = taken(look(version=2, dated=False, status="contested"))
    after, _ = take(row, look(version=version, source=source, dated=False, status="reviewed"))
    assert after.status == ("reviewed" if wins else "contested")


@pytest.mark.parametrize(
    ("dated", "status", "wins"),
    [
        ((True, True), "paid", False),
        ((True, True), "unpaid", False),
        ((True, False), "paid", True),
        ((False, True), "paid", True),
        ((False, False), "paid", True),
        ((True, False), "draft", False),
        ((False, True), "draft", False),
        ((False, False), "draft", False),
        ((False, False), "unpaid", True),
    ],
)
def test_an_earlier_time_loses_where_both_are_update_times_or_it_takes_the_order_back(dated, status, wins):
    """Of times that are made up of others, a payment's may lie before the completion's."""
    row = taken(look(status="unpaid", total_amount=1.0, dated=dated[0]))
    after, _ = take(row, look(at=ago(301), status=status, total_amount=2.0, dated=dated[1]))
    assert (after.order["total_amount"] == 2.0) is wins


@pytest.mark.parametrize(
    "older", [{"version": 1}, {"at": ago(DAY)}, {"version": 1, "at": ago(DAY), "dated": False}], ids=json.dumps
)
@pytest.mark.parametrize(
    ("seconds", "wins"), [(0, False), (HOUR, False), (HOUR + 0.001, True), (DAY, True), (-DAY, True)]
)
def test_an_hour_after_a_state_was_seen_aifis_answer_counts_even_if_it_went_back(older, seconds, wins):
    row = taken(look(version=3, status="reviewed"))
    snapshot = look(**{"version": 3, "status": "paid", **older})
    assert applies(row, snapshot, shift(NOW, seconds)) is wins
    assert take(row, snapshot, shift(NOW, seconds))[0].status == ("paid" if wins else "reviewed")


@pytest.mark.parametrize("source", API)
def test_looking_at_a_state_again_does_not_prolong_the_hour(source):
    row = taken(look())
    for seconds in (1000, 2000, 3000):
        row, _ = take(row, look(source=source), shift(NOW, seconds))
    assert row.seen_at == NOW


@pytest.mark.parametrize(
    "change", [{"at": ago(10)}, {"status": "contested"}, {"at": ago(10), "status": "contested"}], ids=json.dumps
)
def test_another_state_begins_a_new_hour(change):
    row, _ = take(taken(look()), look(**change), shift(NOW, 1000))
    assert row.seen_at == shift(NOW, 1000)


def test_an_answer_that_loses_begins_no_new_hour():
    row, _ = take(taken(look()), look(at=ago(900), status="contested"), shift(NOW, 1000))
    assert row.seen_at == NOW


@pytest.mark.parametrize("source", API)
def test_a_time_in_the_future_counts_until_the_moment_it_was_seen(source):
    row = taken(look(at=ago(-3000)))
    after, _ = take(row, look(at=shift(NOW, 1), source=source, status="contested"), shift(NOW, 2))
    assert after.status == "contested"


# --- which snapshot wins: webhooks


@pytest.mark.parametrize("known_from", [LIST, WEBHOOK])
@pytest.mark.parametrize(
    ("at", "wins"), [(ago(301), False), (ago(300), True), (ago(299), True)], ids=["before", "same", "after"]
)
def test_a_webhook_applies_if_it_is_not_older(known_from, at, wins):
    row = taken(look(source=known_from, status="draft"), look(at=at, source=WEBHOOK, status="paid"))
    assert row.status == ("paid" if wins else "draft")


@pytest.mark.parametrize("known_from", [LIST, WEBHOOK])
@pytest.mark.parametrize(("earlier", "later"), list(pairwise(LIFE)))
class TestAnOrdersLife:
    def test_a_webhook_takes_it_on(self, known_from, earlier, later):
        row = taken(look(source=known_from, status=earlier), look(at=ago(10), source=WEBHOOK, status=later))
        assert row.status == later

    def test_a_webhook_does_not_take_it_back(self, known_from, earlier, later):
        row = taken(look(source=known_from, status=later))
        assert take(row, look(at=ago(10), source=WEBHOOK, status=earlier)) == (row, SAME)


@pytest.mark.parametrize("words", [("on_hold", "draft"), ("reviewed", "on_hold")], ids=["from", "to"])
def test_a_word_that_nobody_knows_lies_nowhere_in_the_life(words):
    old, new = words
    assert not takes_back(old, new)
    assert taken(look(status=old), look(at=ago(10), source=WEBHOOK, status=new)).status == new


@pytest.mark.parametrize("ahead", [0.001, HOUR, 400 * DAY])
def test_a_webhooks_time_is_never_later_than_the_moment_it_came(ahead):
    row = taken(look(at=shift(NOW, ahead), source=WEBHOOK, status="draft"))
    assert (row.aifi_at, row.updated_at) == (NOW, NOW)
    row, _ = take(row, look(at=shift(NOW, ahead), source=WEBHOOK, status="unpaid"), shift(NOW, 5))
    assert (row.aifi_at, row.updated_at) == (min(shift(NOW, ahead), shift(NOW, 5)), row.aifi_at)


@pytest.mark.parametrize("known_from", [LIST, WEBHOOK])
def test_a_time_in_the_future_does_not_keep_later_webhooks_out(known_from):
    row = taken(look(at=ago(-HOUR), source=known_from, status="draft"))
    after, outcome = take(row, look(at=shift(NOW, 5), source=WEBHOOK, status="paid"), shift(NOW, 6))
    assert (after.status, outcome) == ("paid", CHANGED)


def test_a_state_seen_by_a_clock_that_was_put_back_since_does_not_keep_webhooks_out():
    row = taken(look(at=NOW, source=WEBHOOK, status="draft"))
    after, _ = take(row, look(at=ago(DAY), source=WEBHOOK, status="paid"), ago(DAY))
    assert after.status == "paid"


@pytest.mark.parametrize("source", API)
class TestTheApiAfterAWebhook:
    @pytest.fixture
    def row(self) -> Order:
        return taken(look(at=ago(10), source=WEBHOOK, status="paid"))

    def test_wins_though_its_time_is_earlier(self, row, source):
        assert take(row, look(at=ago(900), source=source, status="contested"))[0].status == "contested"

    def test_wins_though_its_version_is_lower(self, row, source):
        row = replace(row, version=7)
        assert take(row, look(source=source, status="contested", version=1))[0].status == "contested"

    def test_wins_within_the_minute_with_the_same_status(self, row, source):
        after, outcome = take(row, look(at=ago(900), source=source, total_amount=9.0))
        assert (after.order["total_amount"], outcome) == (9.0, CHANGED)

    @pytest.mark.parametrize(
        ("seconds", "expected"), [(0, "paid"), (59.9, "paid"), (60, "draft"), (3600, "draft"), (-3600, "draft")]
    )
    def test_takes_the_order_back_only_after_a_minute(self, row, source, seconds, expected):
        after, _ = take(row, look(at=ago(900), source=source, status="draft"), shift(NOW, seconds))
        assert after.status == expected

    def test_confirms_the_order_even_where_it_lags(self, row, source):
        after, outcome = take(row, look(at=ago(900), source=source, status="draft"), shift(NOW, 5))
        assert after.confirmed
        assert (after.checked_at, after.pushed_at, outcome) == (shift(NOW, 5), NOW, SAME)

    def test_ends_the_minute(self, row, source):
        for at, status in [(ago(9), "paid"), (ago(8), "unpaid")]:
            row, _ = take(row, look(at=at, source=source, status=status))
        assert (row.status, row.pushed_at) == ("unpaid", None)


def test_a_repeated_webhook_does_not_prolong_the_minute():
    row = None
    for seconds in (0, 30, 60):
        row, _ = take(row, look(at=ago(10), source=WEBHOOK, status="paid"), shift(NOW, seconds))
    assert row.pushed_at == NOW


def test_a_webhook_that_repeats_what_the_api_has_shown_is_not_waited_for():
    row = taken(look(), look(at=ago(10), source=WEBHOOK))
    assert (row.pushed_at, row.aifi_at) == (None, ago(300))


# --- what is a change

LINES = [{"name": "Tea", "quantity": 2}]


@pytest.mark.parametrize(
    "detail",
    [
        {"line_items": LINES},
        {"session": {"id": "s1", "visitors": 2}},
        {"tax_amount": 0.16},
        {"refunded": False, "payment": {"status": "success"}},
        {"store_id": "3", "paid_at": ago(310)},
    ],
    ids=lambda detail: next(iter(detail)),
)
@pytest.mark.parametrize("known", [ALL, Known(served_until=ago(300))], ids=["not served", "served"])
def test_detail_of_the_same_state_is_filled_in_without_a_change(detail, known):
    row, outcome = take(taken(look()), look(source=DETAIL, **detail), known=known)
    assert {name: row.order[name] for name in detail} == detail
    assert (row.updated_at, row.detailed, outcome) == (ago(300), True, SAME)


@pytest.mark.parametrize(
    "change",
    [
        {"payment": {"status": "success"}},
        {"session": {"id": "s1", "visitors": 3}},
        {"store_id": "4"},
        {"paid_at": ago(290)},
        {"completed_at": None},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("source", [LIST, DETAIL])
def test_what_no_list_can_show_is_kept_but_no_news(change, source):
    known = {"payment": {"status": "processing"}, "session": {"id": "s1", "visitors": 2}, "store_id": "3"}
    row = taken(look(paid_at=ago(300), completed_at=ago(310), **known))
    snapshot = look(at=ago(10), source=source, **change)
    assert not is_news(row, snapshot)
    after, outcome = take(row, snapshot)
    assert (after.updated_at, outcome) == (ago(300), SAME)
    assert {name: after.order[name] for name in change} == change


def test_finer_lines_are_no_change():
    row, outcome = take(taken(look(line_items=LINES)), look(source=DETAIL, line_items=[{**LINES[0], "unit_price": 1}]))
    assert (row.order["line_items"], outcome) == ([{**LINES[0], "unit_price": 1}], SAME)


@pytest.mark.parametrize("source", [HISTORY, LIST, SWEEP, WEBHOOK])
def test_lines_of_the_same_state_that_look_different_elsewhere_are_no_change(source):
    row = taken(look(source=DETAIL, line_items=LINES))
    after, outcome = take(row, look(source=source, line_items=[{"name": "Tee", "quantity": 1}]))
    assert (after.order["line_items"], outcome) == (LINES, SAME)


@pytest.mark.parametrize("source", [HISTORY, LIST, SWEEP, WEBHOOK])
def test_a_coarser_look_at_the_same_state_blurs_nothing(source):
    row = taken(look(source=DETAIL, line_items=LINES, tax_amount=0.16, session={"id": "s1", "visitors": 2}))
    after, _ = take(row, look(source=source, line_items=[{"name": "Tea"}], session={"id": "s1"}))
    assert after.body() == row.body()
    assert after.detailed


@pytest.mark.parametrize("source", [LIST, SWEEP, WEBHOOK])
def test_details_of_an_earlier_state_are_not_those_of_a_new_one(source):
    row = taken(look(source=DETAIL, line_items=LINES), look(at=ago(10), source=source, status="contested"))
    assert not row.detailed


@pytest.mark.parametrize(
    "change",
    [
        {"status": "contested"},
        {"total_amount": 2.0},
        {"subtotal_amount": 1.0},
        {"currency": "SEK"},
        {"external_id": "R-9"},
        {"external_id": "R-1"},
        {"tax_amount": 0.2},
        {"customer_id": "12"},
        {"version": 2},
        {"refunded": True},
        {"line_items": [{"name": "Tea", "quantity": 1}]},
        {"line_items": []},
    ],
    ids=json.dumps,
)
def test_what_contradicts_or_comes_later_is_a_change(change):
    known = {"tax_amount": 0.16, "subtotal_amount": 1.99, "customer_id": "11", "line_items": LINES, "refunded": False}
    if change != {"external_id": "R-9"}:  # here it was not known at all
        known["external_id"] = "R-0"
    fields = {**known, **change}
    version = fields.pop("version", 1)
    row = taken(look(version=1, **known))
    row = replace(row, order={**row.order, "version": 1})
    snapshot = look(at=ago(10), version=version, **fields)
    after, outcome = take(row, replace(snapshot, order={**snapshot.order, "version": version}))
    assert (after.updated_at, outcome) == (ago(10), CHANGED)


def test_a_value_that_aifi_takes_away_is_a_change_and_leaves_the_answer():
    row, outcome = take(taken(look(external_id="R-1")), look(at=ago(10), external_id=None))
    assert outcome is CHANGED
    assert "external_id" not in row.body()
    assert row.body()["display_id"] == "1"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (1, 1.0, False),
        (1, 2, True),
        ("a", None, True),
        ({"a": 1}, {"b": 2}, False),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, False),
        ({"a": 1}, {"a": 2}, True),
        ([{"a": 1}], [{"b": 1}], False),
        ([{"a": 1}], [{"a": 2}], True),
        ([], [{}], True),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, True),
        ({}, [], True),
    ],
    ids=repr,
)
def test_what_only_one_of_two_values_names_is_no_conflict(old, new, expected):
    assert conflict(old, new) is expected
    assert conflict(new, old) is expected


# --- a payment status belongs to a state


@pytest.mark.parametrize("source", API)
@pytest.mark.parametrize(
    ("payment", "shown", "expected"),
    [
        ({"status": "processing", "provider": "acme"}, None, {"provider": "acme"}),
        ({"status": "processing"}, None, None),
        ({"status": "processing"}, {"provider": "acme"}, {"provider": "acme"}),
        ({"status": "processing"}, {"status": "success"}, {"status": "success"}),
    ],
    ids=["with a provider", "alone", "a provider is told", "another is told"],
)
def test_a_payment_status_of_an_earlier_state_is_dropped(source, payment, shown, expected):
    row = taken(look(at=ago(400), source=WEBHOOK, status="paymentProcessing", payment=payment))
    after, _ = take(row, look(source=source, status="paid", **({"payment": shown} if shown else {})), ago(-60))
    assert (after.status, after.body().get("payment")) == ("paid", expected)


@pytest.mark.parametrize("fields", [{"status": "paid"}, {"status": None}], ids=["paid", "null"])
def test_a_payment_status_of_the_same_state_is_kept(fields):
    row = taken(look(source=DETAIL, payment={"status": "success"}, **fields), look(at=ago(10), **fields))
    assert row.body()["payment"] == {"status": "success"}


def test_a_payment_status_that_a_look_up_brings_does_not_move_the_order():
    row = taken(look(at=ago(400), source=WEBHOOK, status="paymentProcessing", payment={"status": "processing"}))
    known = Known(served_until=ago(200))
    row, _ = take(row, look(status="paid"), known=known)
    after, outcome = take(row, look(source=DETAIL, status="paid", payment={"status": "success"}), known=known)
    assert (after.updated_at, after.body()["payment"], outcome) == (row.updated_at, {"status": "success"}, SAME)


# --- what a row remembers


@pytest.mark.parametrize(
    ("snapshots", "listed"),
    [
        ([look()], True),
        ([look(source=SWEEP)], True),
        ([look(source=HISTORY)], True),
        ([look(source=DETAIL)], False),
        ([look(source=WEBHOOK)], False),
        ([look(source=WEBHOOK), look(source=DETAIL), look()], True),
        ([look(), look(source=DETAIL), look(source=WEBHOOK)], True),
        ([look(source=DETAIL), look(at=ago(900))], True),
    ],
    ids=["new", "sweep", "history", "detail", "webhook", "at last", "at first", "a look that lost"],
)
def test_an_order_is_listed_once_a_list_has_shown_it(snapshots, listed):
    assert taken(*snapshots).listed is listed


@pytest.mark.parametrize("source", API)
def test_the_time_of_a_look_that_wins_is_remembered_with_its_kind(source):
    row = taken(look(), look(at=ago(10), source=source, dated=False))
    assert (row.aifi_at, row.dated) == (ago(10), False)


def test_a_webhook_does_not_say_when_a_confirmed_order_was_drafted():
    row = taken(look(), look(at=ago(10), source=WEBHOOK, status="contested", created_at=ago(20)))
    assert row.order["created_at"] == ago(600)


@pytest.mark.parametrize(
    ("snapshots", "watch"),
    **table(
        {
            "draft": ([look(status="draft")], ALWAYS),
            "completed so far": ([look(status="completed_so_far")], ALWAYS),
            "completed": ([look(status="completed")], ALWAYS),
            "payment under way": ([look(status="paymentProcessing")], ALWAYS),
            "contested": ([look(status="contested")], ALWAYS),
            "unpaid, for a day": ([look(status="unpaid")], shift(ago(600), DAY)),
            "paid": ([look(status="paid")], None),
            "reviewed": ([look(status="reviewed")], None),
            "a word that nobody knows": ([look(status="on_hold")], None),
            "null": ([look(status=None)], None),
            "pushed only": ([look(source=WEBHOOK)], UNCONFIRMED),
            "pushed after a list": ([look(status="draft"), look(at=ago(10), source=WEBHOOK)], PUSHED),
            "pushed and confirmed": ([look(at=ago(10), source=WEBHOOK), look()], None),
        }
    ),
)
def test_an_order_is_watched_while_aifi_may_still_change_it(snapshots, watch):
    row = taken(*snapshots)
    assert (row.watch, row.open) == (watch, watch is not None)


# --- one order, two ids


@pytest.mark.parametrize(
    ("session_id", "key"), [("s1", "s1"), ("77", "session-77"), ("7-7", "7-7"), ("0", "session-0")]
)
def test_an_order_known_by_its_session_never_has_an_id_that_could_be_an_orders(session_id, key):
    row = taken(look(None, source=WEBHOOK, session_id=session_id))
    assert session_key(session_id) == row.id == key
    assert row.is_session_only


def test_a_confirmed_order_whose_session_has_its_id_is_known_by_its_own():
    assert not taken(look("s1", session_id="s1")).is_session_only


@pytest.mark.parametrize("source", API)
class TestTheRowKeptUnderTheSession:
    @pytest.fixture
    def kept(self) -> Order:
        return taken(look(None, ago(400), WEBHOOK, session_id="s1", status="paid", external_id="R-1"))

    def test_becomes_the_order_with_its_own_id(self, kept, source):
        row, outcome = take_in(None, kept, look("7", source=source, session_id="s1"), NOW, ALL)
        assert (row.id, row.session_id, row.is_session_only, outcome) == ("7", "s1", False, NEW)
        assert row.order["external_id"] == "R-1"

    def test_goes_above_what_was_served_as_its_id_is_new(self, kept, source):
        row, _ = take_in(None, kept, look("7", ago(9000), source, session_id="s1"), NOW, SERVED)
        assert row.updated_at == max(HEAD, kept.updated_at)
        row, _ = take_in(None, kept, look("7", ago(9000), source), NOW, Known(served_until=kept.updated_at))
        assert row.updated_at == shift(kept.updated_at, 0.001)

    def test_gives_its_state_to_an_order_of_the_api_that_lags(self, kept, source):
        stored = taken(look("7", ago(500), status="draft"))
        row, outcome = take_in(stored, kept, look("7", ago(500), source, session_id="s1", status="draft"), NOW, ALL)
        assert (row.id, row.status, outcome) == ("7", "paid", CHANGED)

    def test_gives_nothing_to_an_order_that_is_further_on(self, kept, source):
        stored = taken(look("7", ago(390), status="contested"))
        snapshot = look("7", ago(390), source, session_id="s1", status="contested")
        row, outcome = take_in(stored, kept, snapshot, NOW, ALL)
        assert (row.status, row.pushed_at, outcome) == ("contested", None, SAME)


# --- what Aide gets, and places in AiFi's lists


def test_an_answer_lacks_what_aifi_does_not_have():
    row = taken(look(external_id=None, customer_id="11"))
    assert row.body() == {
        "id": "1",
        "display_id": "1",
        "updated_at": ago(300),
        "created_at": ago(600),
        "status": "paid",
        "total_amount": 2.15,
        "customer_id": "11",
        "contested": False,
        "reviewed": False,
        "refunded": None,
        "canceled_at": None,
    }


@pytest.mark.parametrize(
    ("status", "version", "contested", "reviewed"),
    [
        ("paid", 1, False, False),
        ("paid", None, False, False),
        ("contested", 2, True, False),
        ("contested", None, True, False),
        ("reviewed", None, False, True),
        ("paid", 2, False, True),
        ("", None, False, False),
    ],
)
def test_the_flags_of_a_dispute_are_always_there(status, version, contested, reviewed):
    body = taken(look(status=status, version=version)).body()
    assert (body["contested"], body["reviewed"]) == (contested, reviewed)


CONTEST = {"status": "contested", "message": "no", "original_amount": 7.2, "contested_amount": 4.3}


@pytest.mark.parametrize(
    ("changes", "amount"),
    [
        ({}, None),
        ({"reviewed_amount": 5.1}, None),
        ({"status": "reviewed"}, None),
        ({"status": "reviewed", "reviewed_amount": 5.1}, 2.1),
        ({"status": "reviewed", "reviewed_amount": 7.2}, 0.0),
    ],
)
def test_the_refunded_amount_is_what_a_review_took_off(changes, amount):
    assert taken(look(contest={**CONTEST, **changes})).body().get("refunded_amount") == amount


@pytest.mark.parametrize(
    ("changes", "news"),
    [
        ({"status": "reviewed"}, True),
        ({"contested_amount": 3.0}, True),
        ({"message": "still no"}, False),
        ({"items": [{"name": "Tea"}]}, False),
    ],
)
def test_a_contest_that_moves_on_is_news_the_shoppers_words_are_not(changes, news):
    row, outcome = take(taken(look(contest=CONTEST)), look(at=ago(10), contest={**CONTEST, **changes}))
    assert outcome is (CHANGED if news else SAME)
    assert row.contest == {**CONTEST, **changes}


def test_items_of_an_earlier_state_of_a_contest_are_not_kept_beside_a_new_one():
    row = taken(look(source=DETAIL, contest={**CONTEST, "items": [{"name": "Tea"}]}))
    row, _ = take(row, look(at=ago(10), contest={**CONTEST, "status": "reviewed"}))
    assert "items" not in row.contest


@pytest.mark.parametrize("anchor", [Anchor(NOW, "7"), Anchor(NOW, ""), Anchor(NOW, "a b"), Anchor("", "7")], ids=str)
def test_a_place_comes_back_as_it_was_written(anchor):
    assert Anchor.parse(str(anchor)) == anchor


def test_places_are_in_the_order_of_time():
    places = [Anchor(HIGH, "2"), Anchor(LOW, "9"), Anchor(HIGH, "1")]
    assert sorted(places) == sorted(places, key=str) == [Anchor(LOW, "9"), Anchor(HIGH, "1"), Anchor(HIGH, "2")]
