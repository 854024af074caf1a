"""What a refresh reads, by which marks, and what it costs; AiFi is a fake, the store a real file."""

import random
import threading
from typing import Any

import pytest

import aifi
from aifi import AifiIncomplete
from errors import Unexpected
from intake import PAUSE_MAX_SECONDS
from orders import Anchor
from refresh import OVERLAP_SECONDS
from tests.support import ago, lose, table
from tests.unit.fake_aifi import assert_mirrors, fail_after, raw
from times import DAY, HOUR, MINUTE, shift, utc_text
from transport import AifiRefused, AifiUnavailable

WITHOUT_FILTER: dict[str, dict[str, Any]] = {
    "refuses the filter": {"refuses": {"minUpdatedAt"}},
    "ignores the filter": {"ignores": {"minUpdatedAt"}},
    "ignores it and shows no updatedAt": {"ignores": {"minUpdatedAt"}, "hides": {"updatedAt"}},
}


def set_habits(fake, habits):
    for name, value in habits.items():
        setattr(fake, name, value)


def with_parameter(fake, name):
    return [params[name] for params in fake.lists() if name in params]


# --- the first refresh


def test_an_empty_mirror_begins_with_the_newest_page(world, fake):
    fake.fill(450)
    world.refresh()
    assert world.marks.horizon == fake.orders[251]["draftCreatedAt"]
    assert world.marks.newest == str(Anchor(fake.orders[450]["draftCreatedAt"], "450"))
    assert world.ids() >= set(range(251, 451))


@pytest.mark.parametrize("count", [1, 50, 450])
@pytest.mark.parametrize("habits", **table({"knows the filter": {}, **WITHOUT_FILTER}))
def test_an_empty_mirror_is_begun_in_three_round_trips(world, fake, count, habits):
    fake.fill(count)
    set_habits(fake, habits)
    assert world.refresh() <= 3


@pytest.mark.parametrize("horizon_is", ["older than an hour", "younger"])
def test_the_first_look_back_at_changes_begins_at_the_horizon_or_an_hour_ago(world, fake, horizon_is):
    fake.fill(450, gap=MINUTE if horizon_is == "older than an hour" else 5)
    world.refresh(after=0)
    expected = min(world.marks.horizon, ago(HOUR))
    assert with_parameter(fake, "minUpdatedAt")[0] == expected


@pytest.mark.parametrize("gap", [MINUTE, 5], ids=["horizon hours ago", "horizon minutes ago"])
def test_an_old_order_that_changed_since_the_horizon_is_news_on_the_first_refresh(world, fake, gap):
    fake.fill(450, gap=gap)
    fake.change(3, status="contested", updatedAt=ago(11 * MINUTE))
    world.refresh()
    assert world.status(3) == "contested"


def test_the_list_of_changes_on_an_empty_mirror_shows_the_order_at_the_horizon(world, fake):
    fake.fill(200)
    world.refresh(after=0)
    [bound, *_] = with_parameter(fake, "maxDraftCreatedAt")
    assert bound == shift(world.marks.horizon, 0.001)


@pytest.mark.parametrize("empty_answers", [1, 2, 5])
def test_a_first_answer_that_is_empty_by_mistake_has_no_lasting_effect(world, fake, empty_answers):
    fake.fill(300)
    fake.empty_answers = empty_answers
    for _ in range(empty_answers + 1):
        world.refresh()
    world.refresh()
    assert world.marks.horizon == fake.orders[101]["draftCreatedAt"]
    assert world.marks.complete == 0


def test_while_aifi_has_no_order_nothing_is_begun_and_nothing_complete(world, fake):
    for _ in range(3):
        assert world.refresh() == 1
    assert (world.marks.horizon, world.marks.complete, world.marks.failures) == (None, 0, 0)
    assert world.marks.begun_at == utc_text(world.clock.seconds - 62)


def test_the_first_order_of_an_aifi_that_had_none_is_news(world, fake):
    world.refresh()
    assert world.poll() == []
    fake.add(raw(1, utc_text(world.clock()), updatedAt=utc_text(world.clock())))
    world.clock.move(31)
    assert [order["id"] for order in world.poll()] == ["1"]


@pytest.mark.parametrize("nulls", [1, 250])
@pytest.mark.parametrize("habits", **table({"knows the filter": {}, **WITHOUT_FILTER}))
def test_orders_without_a_draft_time_that_come_first_do_not_become_the_horizon(world, fake, nulls, habits):
    fake.fill(801)
    fake.add(*(raw(2000 + number, None, createdAt=ago(30 * DAY)) for number in range(nulls)))
    set_habits(fake, habits)
    fake.nulls_first = True
    world.refresh()
    assert world.marks.horizon > ago(2 * DAY)
    assert {int(order["id"]) for order in world.walk()} == set(fake.orders)


# --- what is new


def test_new_orders_are_read_with_an_overlap_below_the_newest(world, fake):
    fake.fill(50)
    world.refresh()
    newest = Anchor.parse(world.marks.newest).drafted_at
    fake.add(raw(99, shift(newest, -OVERLAP_SECONDS)))
    world.refresh()
    assert with_parameter(fake, "minDraftCreatedAt") == [shift(newest, -OVERLAP_SECONDS)]
    assert world.status(99) == "paid"


@pytest.mark.parametrize("refused", [set(), {"minUpdatedAt"}], ids=["with the filter", "without"])
@pytest.mark.parametrize("ahead", [MINUTE, 10 * DAY])
def test_a_newest_draft_ahead_of_the_clock_does_not_hide_what_is_drafted_now(world, fake, ahead, refused):
    fake.refuses = refused
    fake.fill(50)
    fake.add(raw(51, ago(-ahead)))
    world.refresh()
    fake.add(raw(52, utc_text(world.clock())))
    world.refresh()
    assert world.status(52) == "paid"


@pytest.mark.parametrize("cut", [1, MINUTE, HOUR, DAY])
@pytest.mark.parametrize("zone", [0, 2, -5])
def test_new_orders_are_seen_though_times_are_cut_or_read_in_another_zone(world, fake, cut, zone):
    fake.fill(250)
    fake.cut, fake.zone = cut, zone
    world.refresh()
    for number in range(5):
        fake.add(raw(1000 + number, utc_text(world.clock() + 20)))
        world.refresh()
        assert world.status(1000 + number) == "paid"


@pytest.mark.parametrize("count", [1, 199, 250, 450])
def test_orders_that_show_late_below_the_newest_known_one_are_read_to_the_end(world, fake, count):
    fake.fill(300, gap=10 * MINUTE)
    fake.refuses = {"minUpdatedAt"}
    world.refresh()
    late = [raw(1000 + number, ago(10 * MINUTE + 1 + number / 2)) for number in range(count)]
    fake.add(*late)
    world.refresh()
    assert {order["id"] for order in late} <= world.ids()


def test_a_list_without_bounds_is_read_no_further_than_the_overlap(world, fake):
    fake.fill(1500)
    fake.ignores = {"minDraftCreatedAt"}
    world.refresh()
    world.refresh()
    assert world.refresh() <= 2


@pytest.mark.parametrize("zone", [2, -5])
def test_a_new_process_reads_several_pages_though_times_are_read_in_another_zone(world, fake, zone):
    fake.fill(300)
    fake.zone = zone
    world.refresh()
    world.clock.move(6 * HOUR)
    fake.add(*(raw(1000 + number, utc_text(world.clock() - number - 600)) for number in range(450)))
    world.start()
    world.refresh()
    assert set(range(1000, 1450)) <= world.ids()


def test_a_zone_is_learned_once_not_at_each_refresh(world, fake):
    fake.fill(100)
    fake.zone = -5
    world.refresh()
    learning = world.refresh()
    assert world.refresh() <= learning / 2


@pytest.mark.parametrize("behind", [199, 200, 450, 2400])
def test_new_orders_of_many_pages_are_all_read(world, fake, behind):
    fake.fill(300, newest=2 * DAY)
    world.refresh()
    fake.add(*(raw(1000 + number, ago(DAY - number * 30)) for number in range(behind)))
    world.refresh()
    assert world.ids() >= {1000 + number for number in range(behind)}


@pytest.mark.parametrize("last", [2, 3, 8])
def test_a_long_catch_up_that_breaks_off_brings_the_newest_first_and_goes_on(world, fake, last):
    fake.fill(300, newest=2 * DAY)
    world.refresh()
    fake.add(*(raw(1000 + number, ago(DAY - number * 30)) for number in range(2400)))
    for rounds in range(14):
        fake.before = fail_after(last)
        seen = len(world.ids())
        world.clock.move(31)
        with pytest.raises(AifiUnavailable):
            world.refresh_room.run()
        assert world.status(3399) == "paid"
        if world.ids() >= {1000 + number for number in range(2400)}:
            break
        assert len(world.ids()) > seen
        fake.add(raw(5000 + rounds, utc_text(world.clock())))
    assert rounds <= 13 / (last - 1)
    fake.before = fail_after(1000)
    world.refresh()
    assert_mirrors(world, set(fake.orders) - set(range(1, 100)))


def test_a_gap_is_read_to_its_end_though_the_order_at_its_top_is_deleted(world, fake):
    fake.fill(300, newest=2 * DAY)
    world.refresh()
    fake.add(*(raw(1000 + number, ago(DAY - number * 30)) for number in range(1200)))
    fake.before = fail_after(3)
    world.clock.move(31)
    with pytest.raises(AifiUnavailable):
        world.refresh_room.run()
    top, low = Anchor.parse(world.marks.gap_top), Anchor.parse(world.marks.gap_low)
    del fake.orders[int(top.id)], fake.orders[int(low.id)]
    fake.before = fail_after(100)
    world.refresh()
    assert world.ids() >= {order_id for order_id in fake.orders if order_id >= 1000}
    assert (world.marks.gap_top, world.marks.gap_low) == (None, None)


def test_a_gap_whose_orders_were_all_deleted_is_read_anew(world, fake):
    fake.fill(300, newest=2 * DAY)
    world.refresh()
    fake.add(*(raw(1000 + number, ago(DAY - number * 30)) for number in range(1200)))
    fake.before = fail_after(3)
    world.clock.move(31)
    with pytest.raises(AifiUnavailable):
        world.refresh_room.run()
    low = int(Anchor.parse(world.marks.gap_low).id)
    for order_id in range(low, low + aifi.ANCHORS + 1):
        del fake.orders[order_id]
    fake.before = fail_after(1000)
    world.clock.move(31)
    with pytest.raises(AifiIncomplete):
        world.refresh_room.run()
    world.refresh()
    assert world.ids() >= {order_id for order_id in fake.orders if order_id >= 1000}


@pytest.mark.parametrize("known", ["nothing known in the span", "the newest not ours"])
def test_a_gap_is_not_closed_by_what_the_broken_reading_brought(start_world, fake, known):
    world = start_world(store_ids=("1", "2"))
    fake.fill(300, newest=2 * DAY)
    fake.add(raw(900, ago(2 * DAY - HOUR), storeId=3))  # the newest, and no order of ours within the overlap
    world.refresh()
    fake.add(*(raw(1000 + number, ago(DAY - number * 30)) for number in range(1200)))
    fake.before = fail_after(3)
    world.clock.move(31)
    with pytest.raises(AifiUnavailable):
        world.refresh_room.run()
    if known == "nothing known in the span":
        del fake.orders[900]
    fake.before = fail_after(1000)
    world.refresh()
    assert world.ids() >= {order_id for order_id in fake.orders if order_id >= 1000}


def test_orders_that_the_sweep_or_a_change_showed_first_hide_none_below_them(world, fake):
    fake.fill(300, newest=2 * DAY)
    del fake.orders[300]
    fake.add(raw(300, ago(DAY + HOUR), status="draft"))
    world.refresh()
    world.store.remove_order("300")  # as after AiFi's 404
    fake.add(*(raw(1000 + number, ago(DAY - number * 30)) for number in range(700)))
    page = next(world.client.walk())
    world.intake.store_page(page, "sweep")  # the newest 200
    world.refresh()
    assert world.ids() >= {order_id for order_id in fake.orders if order_id >= 1000}


@pytest.mark.parametrize("before", [10 * MINUTE, HOUR, 2 * DAY, 10 * DAY], ids=["minutes", "an hour", "days", "weeks"])
@pytest.mark.parametrize("deleted", [1, 3, 7])
def test_the_newest_orders_may_be_deleted_in_a_quiet_shop(world, fake, before, deleted):
    fake.fill(20, gap=before)
    world.refresh()
    for order_id in range(21 - deleted, 21):
        del fake.orders[order_id]
    for _ in range(deleted + 1):
        world.refresh()
    fake.add(raw(99, utc_text(world.clock())))
    world.refresh()
    assert world.status(99) == "paid"
    assert world.refresh() <= 2
    assert world.marks.failures == 0


@pytest.mark.parametrize("before", [10 * MINUTE, 2 * DAY])
def test_an_order_that_leaves_the_list_but_not_aifi_stops_no_refresh_for_good(world, fake, before):
    fake.fill(20, gap=before)
    world.refresh()
    fake.drops = {20}  # as one whose shopper's role was changed, where lists are asked for by role
    refreshed = []
    for number in range(3):
        fake.add(raw(100 + number, utc_text(world.clock())))
        world.clock.move(31)
        try:
            refreshed.append(world.refresh_room.run())
        except AifiIncomplete:
            refreshed.append(False)
    assert refreshed[-1]
    assert {100, 101, 102} <= world.ids()


def test_a_new_order_is_seen_before_details_that_hang(world, fake):
    fake.fill(30, status="draft")
    fake.refuses = {"minUpdatedAt"}
    world.refresh()
    fake.add(raw(99, utc_text(world.clock())))
    hanging, released = threading.Event(), threading.Event()

    def hang(path: str, params: Any) -> None:
        if path != "/orders":
            hanging.set()
            released.wait(20)

    fake.before = hang
    world.clock.move(HOUR)
    try:
        page = world.mirror.page(5, None)
        assert '"id":"99"' in page.summaries[0]
        assert hanging.wait(20)
    finally:
        released.set()


# --- what changed


@pytest.mark.parametrize("changed", [1, 199, 200, 450, 1200])
def test_all_changes_are_read(world, fake, changed):
    fake.fill(1500, newest=DAY)
    world.refresh()
    for order_id in range(1, changed + 1):
        fake.change(order_id, status="contested")
    world.refresh()
    assert [world.status(order_id) for order_id in range(1, changed + 1)] == ["contested"] * changed


def test_a_row_dropped_from_a_page_of_changes_hides_no_other(world, fake):
    fake.fill(900, newest=DAY)
    world.refresh()
    for order_id in range(1, 451):
        fake.change(order_id, status="contested")
    fake.drops = {300}
    world.refresh()
    assert [order_id for order_id in range(1, 451) if world.status(order_id) != "contested"] == [300]


@pytest.mark.parametrize("empty_answers", [1, 2])
def test_changes_outlive_a_list_that_is_empty_by_mistake(world, fake, empty_answers):
    fake.fill(300, newest=DAY)
    world.refresh()
    world.clock.move(2 * HOUR)
    for order_id in range(1, 41):
        fake.change(order_id, status="contested", updatedAt=utc_text(world.clock() - HOUR))
    fake.empty_answers, fake.empty_where = empty_answers, "minUpdatedAt"
    world.refresh()
    world.refresh()
    assert [world.status(order_id) for order_id in range(1, 41)] == ["contested"] * 40


FILTER_TROUBLES = {
    "one refusal": {"refuses": {"minUpdatedAt"}},
    "another refusal": {"refuses": {"minUpdatedAt"}, "status_of_refusal": 422},
    "ignored once": {"ignores": {"minUpdatedAt"}},
}


@pytest.mark.parametrize("habits", **table(FILTER_TROUBLES))
@pytest.mark.parametrize("later", [1, 50], ids=["at once", "much later"])
def test_a_filter_that_fails_once_is_asked_for_again_after_an_hour_and_nothing_is_missed(world, fake, habits, later):
    fake.fill(300, newest=5 * DAY)
    world.refresh()
    world.refresh()
    usual = {name: getattr(fake, name) for name in habits}
    set_habits(fake, habits)
    world.refresh()
    set_habits(fake, usual)
    fake.change(250, totalPrice="1.00")
    for _ in range(later):
        world.refresh()
        assert with_parameter(fake, "minUpdatedAt") == []
    assert world.store.get_order("250").order["total_amount"] == 2.15
    world.refresh(after=HOUR)
    assert world.store.get_order("250").order["total_amount"] == 1.00
    assert world.refresh() == 2


def test_fresh_orders_without_a_time_of_update_do_not_switch_the_filter_off(world, fake):
    fake.fill(300, newest=5 * DAY)
    world.refresh()
    fake.add(raw(301, utc_text(world.clock()), updatedAt=None))
    fake.change(250, totalPrice="1.00")
    world.refresh()
    assert world.marks.unfiltered_at is None
    assert world.store.get_order("250").order["total_amount"] == 1.00


@pytest.mark.parametrize("habits", **table(WITHOUT_FILTER))
def test_a_server_without_the_filter_is_asked_for_it_once_an_hour(world, fake, habits):
    fake.fill(300)
    set_habits(fake, habits)
    world.refresh()
    asked = []
    for _ in range(240):
        world.refresh(after=60)
        asked += with_parameter(fake, "minUpdatedAt")
    assert len(asked) in (4, 5)


@pytest.mark.parametrize("habits", **table(WITHOUT_FILTER))
def test_a_server_without_the_filter_is_not_read_down_to_its_end(world, fake, habits):
    fake.fill(900)
    set_habits(fake, habits)
    for _ in range(3):
        assert world.refresh() <= 4
    assert len(world.ids()) < 402


def test_a_server_that_reads_the_filter_in_another_zone_knows_it(world, fake):
    fake.fill(300, newest=3 * HOUR)
    fake.zone = 5
    world.refresh()
    fake.change(5, status="contested")
    world.refresh()
    assert (world.status(5), world.marks.unfiltered_at) == ("contested", None)


def test_the_newest_update_of_an_aifi_whose_clock_is_behind_is_where_changes_are_read_from(world, fake):
    fake.fill(300, newest=DAY)
    behind = 20 * MINUTE
    fake.change(299, status="contested", updatedAt=utc_text(world.clock() - behind))
    world.refresh()
    for order_id in (5, 6):
        fake.change(order_id, status="contested", updatedAt=utc_text(world.clock() - behind + 1))
        world.refresh()
        assert world.status(order_id) == "contested"


def test_the_newest_update_is_remembered(world, fake):
    fake.fill(300)
    world.refresh()
    assert (world.marks.newest_update, world.marks.newest_update_id) == (fake.orders[300]["updatedAt"], "300")
    fake.change(7, status="contested")
    world.refresh()
    assert (world.marks.newest_update, world.marks.newest_update_id) == (fake.orders[7]["updatedAt"], "7")


@pytest.mark.parametrize("others", [0, 5], ids=["alone", "with others"])
@pytest.mark.parametrize("happens", ["deleted", "put back"])
def test_the_order_with_the_newest_update_may_go(world, fake, happens, others):
    fake.fill(300, newest=DAY)
    world.refresh()
    for order_id in range(20, 20 + others):
        fake.change(order_id, status="contested")
    world.clock.move(1)
    fake.change(7, status="contested")
    world.refresh()
    if happens == "deleted":
        del fake.orders[7]
    else:
        fake.change(7, status="paid", updatedAt=ago(DAY))
    world.refresh()
    assert world.refresh() == 2
    fake.change(8, status="contested")
    world.refresh()
    assert (world.status(8), world.marks.newest_update_id) == ("contested", "8")


def test_an_order_that_changes_lists_but_not_aifi_costs_the_filter_for_an_hour_only(world, fake):
    fake.fill(300, newest=DAY)
    world.refresh()
    fake.change(7, status="contested")
    world.refresh()
    fake.drops = {7}
    world.refresh()
    assert world.marks.unfiltered_at is not None
    fake.change(8, totalPrice="1.00")
    world.refresh(after=HOUR + 1)
    assert world.marks.unfiltered_at is None
    assert world.store.get_order("8").order["total_amount"] == 1.00


# --- what stands in for the filter


@pytest.mark.parametrize("habits", **table(WITHOUT_FILTER))
@pytest.mark.parametrize("status", ["contested", "reviewed"])
@pytest.mark.parametrize("disputes", [1, 200, 450])
def test_disputes_are_read_without_the_filter_however_many_pages_they_fill(world, fake, habits, status, disputes):
    fake.fill(900, newest=DAY)
    set_habits(fake, habits)
    world.refresh()
    world.refresh()
    for order_id in range(901 - disputes, 901):
        fake.change(order_id, status=status)
    world.refresh()
    assert [world.status(order_id) for order_id in range(901 - disputes, 901)] == [status] * disputes


@pytest.mark.parametrize("habits", **table(WITHOUT_FILTER))
def test_a_new_dispute_is_seen_among_a_thousand(world, fake, habits):
    fake.fill(1200, newest=DAY, status="contested")
    fake.add(raw(2000, ago(HOUR)))
    set_habits(fake, habits)
    for _ in range(3):
        world.refresh()
    fake.change(2000, status="contested")
    world.refresh()
    assert world.status(2000) == "contested"


@pytest.mark.parametrize("age", [2 * HOUR, 30 * MINUTE], ids=["old", "young"])
def test_a_fresh_payment_is_seen_among_drafts_that_were_abandoned(world, fake, age):
    fake.fill(400, newest=age, gap=2, status="draft")
    fake.add(raw(1000, ago(15 * MINUTE), status="draft"))
    fake.refuses = {"minUpdatedAt"}
    for _ in range(2):
        world.refresh()
        world.upkeep.run()
    fake.change(1000, status="paid")
    world.refresh()
    world.upkeep.run()
    assert world.status(1000) == "paid"


# --- what it costs


@pytest.mark.parametrize("count", [1, 5, 50, 450])
@pytest.mark.parametrize("newest", [10, HOUR, 10 * DAY], ids=["just now", "an hour ago", "days ago"])
@pytest.mark.parametrize(
    ("habits", "most"), [({}, 2), *((habits, 4) for habits in WITHOUT_FILTER.values())], ids=["filter", *WITHOUT_FILTER]
)
def test_a_refresh_costs_few_requests_when_nothing_changed(world, fake, count, newest, habits, most):
    fake.fill(count, newest=newest)
    set_habits(fake, habits)
    world.refresh()
    assert max(world.refresh() for _ in range(5)) <= most
    world.start()  # as a new process that has seen no page
    assert max(world.refresh() for _ in range(3)) <= most


def test_a_fresh_mirror_asks_nothing(world, fake):
    fake.fill(5)
    world.refresh()
    fake.forget()
    world.clock.move(29)
    assert not world.refresh_room.run()
    assert fake.asked == []


# --- marks


def test_the_mark_of_a_refresh_is_taken_at_its_beginning(world, fake):
    fake.fill(450)

    def take_long(path: str, params: Any) -> None:
        world.clock.move(7)

    fake.before = take_long
    begun = utc_text(world.clock())
    world.refresh_room.run()
    assert (world.marks.refreshed_at, world.marks.begun_at, world.marks.changed_at) == (begun, begun, begun)


def test_what_changes_while_a_refresh_reads_is_read_by_the_next(world, fake):
    fake.fill(300, newest=DAY)
    world.refresh()

    def take_long(path: str, params: Any) -> None:
        world.clock.move(10 * MINUTE)
        if "minUpdatedAt" not in params:
            return
        fake.before = lambda path, params: None
        fake.add({**fake.orders[9], "status": "contested", "updatedAt": utc_text(world.clock() - MINUTE)})
        fake.drops = {9}  # the list was made before

    fake.before = take_long
    world.clock.move(31)
    world.refresh_room.run()
    fake.drops = set()
    world.refresh()
    assert world.status(9) == "contested"


def test_marks_do_not_move_when_one_of_the_lists_fails(world, fake):
    fake.fill(300)
    world.refresh()
    before = world.marks
    fake.add(raw(301, utc_text(world.clock())))
    fake.before = fail_after(1)
    world.clock.move(31)
    with pytest.raises(AifiUnavailable):
        world.refresh_room.run()
    after = world.marks
    names = ("refreshed_at", "newest", "newest_update", "changed_at", "horizon", "begun_at")
    assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]
    assert (after.failures, after.cause) == (1, "aifi_unavailable")
    assert world.status(301) == "paid"


def test_a_refresh_that_lost_its_file_moves_nothing_and_reads_again(world, fake):
    fake.fill(300)
    world.refresh()

    def lose_the_file(path: str, params: Any) -> None:
        fake.before = lambda path, params: None
        lose(world.place)

    fake.before = lose_the_file
    world.clock.move(31)
    assert world.refresh_room.run()
    assert world.marks.horizon == fake.orders[101]["draftCreatedAt"]
    assert world.marks.refreshed_at == utc_text(world.clock())


def test_a_refresh_that_hangs_until_another_process_has_read_all_moves_nothing(world, start_world, fake):
    fake.fill(450)
    other = start_world()

    def hang(path: str, params: Any) -> None:
        fake.before = lambda path, params: None
        with other.store.lock("refresh") as is_free:
            assert not is_free  # the lock is held: the other one must have lost it for this to happen
        other.refresh_room._try_lists(other.marks)
        while not other.marks.complete:
            other.history.read_page()

    fake.before = hang
    world.refresh_room.run()
    assert (world.marks.horizon, world.marks.complete) == (fake.orders[1]["draftCreatedAt"], 1)
    assert_mirrors(world)


def test_one_refresh_at_a_time(world, start_world, fake):
    fake.fill(50)
    other = start_world()
    done: list[bool] = []

    def ask(path: str, params: Any) -> None:
        fake.before = lambda path, params: None
        thread = threading.Thread(target=lambda: done.append(other.refresh_room.run()))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        threads.append(thread)

    threads: list[threading.Thread] = []
    fake.before = ask
    assert world.refresh_room.run()
    threads[0].join(20)
    assert done == [False]


# --- failures


def test_aifi_is_left_alone_after_a_failure_for_a_pause_that_grows_within_a_bound(world, fake):
    fake.fill(5)
    fake.before = fail_after(0)
    pauses = []
    for _ in range(6):
        with pytest.raises(AifiUnavailable, match="503"):
            world.refresh_room.run()
        waited = 0.0
        fake.forget()
        while True:
            world.clock.move(0.5)
            waited += 0.5
            with pytest.raises(AifiUnavailable, match="503"):
                world.refresh_room.run()
            if fake.asked:
                break
        pauses.append(waited)
    assert pauses == sorted(pauses)
    assert (pauses[0] < 5, pauses[-1]) == (True, PAUSE_MAX_SECONDS)


def test_a_weekend_of_failures_is_borne(world, fake):
    fake.fill(5)
    assert len(world.walk()) == 5
    world.clock.move(31)
    fake.before = fail_after(0)
    for _ in range(1100):
        world.clock.move(PAUSE_MAX_SECONDS + 1)
        with pytest.raises(AifiUnavailable):
            world.refresh_room.run()
    assert len(world.poll()) == 5
    fake.before = fail_after(100)
    world.refresh()
    assert (world.marks.failures, world.marks.failing_since, world.marks.cause) == (0, None, None)


@pytest.mark.parametrize("step", [-10 * DAY, -HOUR, -MINUTE])
def test_a_pause_ends_though_the_clock_was_put_back(world, fake, step):
    fake.fill(5)
    fake.before = fail_after(0)
    with pytest.raises(AifiUnavailable):
        world.refresh_room.run()
    world.clock.move(step)
    fake.before = fail_after(100)
    assert world.refresh_room.run()


@pytest.mark.parametrize("ahead", [HOUR, 3 * 365 * DAY])
def test_a_clock_that_was_ahead_and_was_set_right_does_no_lasting_harm(world, fake, ahead):
    fake.fill(50, status="draft")
    fake.refuses = {"minUpdatedAt"}
    world.clock.move(ahead)
    for _ in range(2):
        world.refresh()
        world.upkeep.run()
    world.clock.move(-ahead)
    fake.add(raw(99, utc_text(world.clock())))
    fake.change(45, status="paid")
    for _ in range(3):
        world.refresh()
        world.upkeep.run()
    assert (world.status(99), world.status(45)) == ("paid", "paid")
    fake.refuses = set()
    world.refresh(after=HOUR + 1)
    fake.change(3, status="contested")
    world.refresh()
    assert (world.status(3), world.marks.unfiltered_at) == ("contested", None)


def test_an_unforeseen_error_is_told_as_one(world, fake):
    fake.fill(5)

    def crash(path: str, params: Any) -> None:
        raise ZeroDivisionError

    fake.before = crash
    with pytest.raises(Unexpected):
        world.refresh_room.run()
    assert world.marks.cause == "unexpected"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_taken_for_a_filter_that_is_unknown(world, fake, status):
    fake.fill(5)
    world.refresh()
    fake.refuses, fake.status_of_refusal = {"minUpdatedAt"}, status
    world.clock.move(31)
    with pytest.raises(AifiRefused):
        world.refresh_room.run()
    assert (world.marks.cause, world.marks.unfiltered_at) == ("aifi_token_refused", None)


# --- chance


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_between_refreshes_is_seen_at_the_next(world, fake, seed):
    chance = random.Random(seed)
    fake.page_cap = chance.choice([10, 25, 200])
    fake.shuffles_ties = chance.random() < 0.5
    fake.zone = chance.choice([0, 0, 0, 2, -5])
    fake.cut = chance.choice([0.001, 0.001, 1, MINUTE])
    fake.fill(60, gap=chance.choice([0.001, 1, MINUTE]))
    world.refresh()
    for step in range(15):
        for _ in range(chance.choice([0, 1, 5])):
            fake.add(raw(1000 + 10 * step + chance.randrange(10), utc_text(world.clock())))
        for _ in range(chance.choice([0, 1, 5])):
            order_id = chance.choice(sorted(fake.orders))
            fake.change(order_id, status=chance.choice(["contested", "reviewed"]))
        if chance.random() < 0.3:
            del fake.orders[chance.choice(sorted(fake.orders))]
        fake.empty_answers = chance.choice([0, 0, 0, 1])
        world.refresh(after=chance.choice([31, 600, 7200]))
        world.refresh()
        missed = {
            order_id
            for order_id, order in fake.orders.items()
            if order["draftCreatedAt"] >= world.marks.horizon and world.status(order_id) != order["status"]
        }
        assert missed == set()


# --- contests by time, where orders are not listed by it


def open_contest(fake, order_id: int, clock, status: str = "contested", **fields) -> None:
    fake.change(order_id, status=status, version=2)
    order = {name: value for name, value in fake.orders[order_id].items() if name != "lineItems"}
    fake.contests[order_id] = {
        "orderId": str(order_id),
        "status": status,
        "updatedAt": utc_text(clock()),
        "order": order,
        **fields,
    }


@pytest.fixture
def contests(world, fake):
    """A mirror of 450 orders of an AiFi that has contests by time, but not orders."""
    fake.lacks, fake.refuses = set(), {"minUpdatedAt"}
    fake.fill(450)
    world.refresh()
    list(world.history.backfill(ago(30 * DAY)))
    world.refresh()
    world.refresh()
    return world


def test_one_request_in_place_of_two_tells_that_there_is_no_contest(contests, fake):
    contests.refresh()
    assert [path for path, _ in fake.asked][:2] == ["/orders", "/contests"]
    assert all("status" not in params for params in fake.lists())


@pytest.mark.parametrize("status", ["contested", "reviewed"])
def test_an_old_order_that_is_contested_or_reviewed_is_at_the_head_at_the_next_refresh(contests, fake, status):
    contests.poll()
    contests.clock.move(40)
    open_contest(fake, 3, contests.clock, status, message="no")
    contests.refresh()
    head = contests.poll()[0]
    assert (head["id"], head["status"], head[status]) == ("3", status, True)
    assert contests.store.get_order("3").contest["message"] == "no"


@pytest.mark.parametrize("order", [None, {}, {"id": 3, "status": "paid"}, {"id": 4}], ids=repr)
def test_an_order_that_does_not_come_with_its_contest_is_looked_up(contests, fake, order):
    contests.clock.move(40)
    open_contest(fake, 3, contests.clock, order=order)
    contests.refresh()
    contests.upkeep.run()
    assert contests.status(3) == "contested"


def test_an_order_of_a_contest_that_hangs_holds_no_refresh_up(contests, fake):
    contests.clock.move(40)
    open_contest(fake, 3, contests.clock, order=None)

    def hang(path: str, params: Any) -> None:
        assert path != "/orders/3"

    fake.before = hang
    fake.add(raw(999, utc_text(contests.clock())))
    contests.refresh()
    assert contests.status(999) == "paid"
    assert contests.status(3) == "paid"


def test_an_order_of_a_contest_that_could_not_be_looked_up_is_asked_for_again(contests, fake):
    contests.clock.move(40)
    open_contest(fake, 3, contests.clock, order=None)
    contests.refresh()
    fake.before = fail_after(0, lambda path: path == "/orders/3")
    contests.upkeep.run()
    fake.before = lambda path, params: None
    contests.refresh()
    contests.upkeep.run()
    assert contests.status(3) == "contested"


def test_an_order_whose_shopper_may_have_another_role_is_not_taken_in(start_world, fake):
    world = start_world(roles=("customer",))
    fake.lacks, fake.refuses = set(), {"minUpdatedAt"}
    fake.fill(5)
    for _ in range(3):
        world.refresh()
    fake.add(raw(99, ago(9 * DAY)))
    world.clock.move(40)
    open_contest(fake, 99, world.clock)
    world.refresh()
    assert 99 not in world.ids()


def test_contests_that_are_not_listed_by_time_leave_the_two_lists_by_status(contests, fake):
    fake.contests[3] = {"orderId": "3", "updatedAt": ago(90 * DAY)}
    fake.ignores = {"minUpdatedAt"}
    contests.refresh()
    contests.refresh()
    assert [params.get("status") for params in fake.lists() if "status" in params] == ["contested", "reviewed"]
    assert "/contests" not in [path for path, _ in fake.asked]


@pytest.mark.parametrize("behind", [HOUR, 10 * MINUTE, 0])
def test_a_contest_is_seen_though_aifis_clock_is_behind(world, fake, behind):
    fake.lacks, fake.refuses = set(), {"minUpdatedAt"}
    fake.fill(300, newest=behind + 10 * MINUTE)
    for _ in range(4):
        world.refresh()
    fake.add(raw(999, utc_text(world.clock() - behind)))
    world.refresh()
    world.clock.move(40)
    open_contest(fake, 3, lambda: world.clock() - behind)
    world.refresh()
    assert world.status(3) == "contested"
