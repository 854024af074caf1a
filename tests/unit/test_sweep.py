"""The sweep: whatever the mirror missed is found, within bounds of time and of requests."""

import pytest

from tests.support import ago
from tests.unit.fake_aifi import assert_mirrors, fail_after, raw
from times import DAY, HOUR, MINUTE, age, utc_seconds
from transport import AifiRefused


@pytest.fixture
def swept(world, fake):
    """Return a world whose mirror is complete."""
    fake.fill(450, gap=10 * MINUTE)
    world.refresh()
    while not world.marks.complete:
        world.history.read_page()
    world.clock.move(HOUR)
    return world


def test_an_order_that_aifi_shows_late_with_its_old_times_is_found(swept, fake):
    fake.add(raw(7000, ago(2 * HOUR)))
    swept.sweep()
    assert_mirrors(swept)


def test_what_it_finds_late_goes_above_what_was_served(swept, fake):
    swept.poll()
    fake.add(raw(7000, ago(2 * HOUR)))
    swept.sweep(rounds=2)
    assert swept.poll()[0]["id"] == "7000"


@pytest.mark.parametrize("change", [{"totalPrice": "9.99"}, {"status": "reviewed"}, {"externalId": "R-1"}])
def test_a_change_that_moves_no_time_is_found(swept, fake, change):
    fake.orders[200].update(change)
    swept.sweep()
    assert_mirrors(swept)
    assert swept.store.get_order("200").order.get("external_id") == change.get("externalId")


def test_a_refund_that_moves_no_time_is_found(swept, fake):
    fake.orders[200]["transaction"] = {"refunded": True}
    swept.sweep()
    assert swept.store.get_order("200").order["refunded"] is True


@pytest.mark.parametrize("back", [{"version": 1}, {"updatedAt": ago(40 * DAY)}])
def test_an_order_that_was_restored_to_an_earlier_state_is_found_after_an_hour(swept, fake, back):
    fake.change(200, version=3, status="reviewed", totalPrice="1.00")
    swept.refresh()
    swept.clock.move(HOUR + 1)
    fake.orders[200].update({"status": "paid", "totalPrice": "2.15", **back})
    swept.sweep()
    assert_mirrors(swept)


@pytest.mark.parametrize("deleted", [[1], [450], [200, 201, 202], list(range(100, 160)), list(range(1, 451))])
def test_orders_that_aifi_deleted_are_removed(swept, fake, deleted):
    for order_id in deleted:
        del fake.orders[order_id]
    swept.sweep(rounds=2)
    assert swept.ids() == set(fake.orders)


@pytest.mark.parametrize("count", [1, 250, 450])
def test_orders_without_a_draft_time_at_the_top_do_not_hold_it_up(swept, fake, count):
    fake.nulls_first = True
    fake.add(*(raw(9000 + number, None, createdAt=ago(600), updatedAt=ago(600)) for number in range(count)))
    fake.change(3, totalPrice="9.99", updatedAt=fake.orders[3]["updatedAt"])
    swept.sweep(rounds=2)
    assert swept.store.get_order("3").order["total_amount"] == 9.99


def test_an_order_that_the_list_lacks_but_aifi_has_is_kept(swept, fake):
    fake.drops = {200}
    swept.sweep(rounds=2)
    assert_mirrors(swept)


def test_a_look_up_that_aifi_refuses_removes_nothing(swept, fake):
    fake.drops = {200}

    def refuse(path, params) -> None:
        if path == "/orders/200":
            raise AifiRefused("AiFi refuses the access token (403)", 403)

    fake.before = refuse
    swept.sweep(rounds=2)
    assert 200 in swept.ids()


def test_its_place_outlives_the_process(swept, fake):
    swept.upkeep.run()  # a whole round, as it is late
    swept.clock.move(4 * MINUTE)
    swept.upkeep.run()
    place = swept.store.sweep("recent").place
    assert place
    swept.start()
    fake.forget()
    swept.clock.move(HOUR)
    swept.upkeep.run()
    assert swept.store.sweep("recent").place != place
    assert "maxDraftCreatedAt" in fake.lists()[0]


def test_a_failure_only_puts_it_off(swept, fake):
    fake.add(raw(7000, ago(2 * HOUR)))
    fake.before = fail_after(0)
    swept.upkeep.run()
    fake.before = lambda path, params: None
    swept.sweep()
    assert_mirrors(swept)


# --- its bounds, while Aide polls


@pytest.fixture
def busy(world, fake):
    """Return a world of 500 orders a day, of which three and a half days are mirrored."""
    fake.fill(1750, newest=MINUTE, gap=172.8)
    world.refresh()
    while not world.marks.complete:
        world.history.read_page()
    return world


def minutes(world, count: int) -> int:
    """Let Aide poll every other minute for so long; return how many requests that cost in the background."""
    requests = 0
    for _ in range(0, count, 2):
        world.clock.move(2 * MINUTE)
        world.fake.forget()
        world.upkeep.run()
        requests += len(world.fake.asked)
    return requests


def test_the_last_three_days_are_compared_within_the_hour(busy, fake):
    minutes(busy, 5)
    begun = utc_seconds(busy.store.now())
    late = [raw(9000 + number, ago(number * DAY / 2 + HOUR)) for number in range(6)]
    fake.add(*late)
    minutes(busy, 60)
    assert {order["id"] for order in late} <= busy.ids()
    assert utc_seconds(busy.store.sweep("recent").ended_at) > begun


def test_every_mirrored_order_is_compared_within_the_day(busy, fake):
    minutes(busy, 5)
    fake.orders[10].update(totalPrice="9.99")
    for _ in range(24 * 2):
        busy.clock.move(30 * MINUTE)
        busy.upkeep.run()
    assert busy.store.get_order("10").order["total_amount"] == 9.99
    assert age(busy.store.sweep("all").ended_at, busy.store.now()) < DAY


def test_at_most_one_request_a_second_is_spent_on_average(busy):
    minutes(busy, 5)
    assert minutes(busy, 60) <= 3600 / 4
    busy.clock.move(5 * DAY)  # whatever was put off meanwhile
    assert minutes(busy, 60) <= 3600


def test_a_refresh_of_a_small_mirror_costs_one_page_more(world, fake):
    fake.fill(50)
    world.refresh()
    minutes(world, 3)
    assert minutes(world, 30) <= 30 + 3


# --- stores


def shops(world) -> tuple:
    """Return the stores with which orders 1 and 6 are shown."""
    return tuple(shown[1] if (shown := world.store.show_order(name)) else None for name in ("1", "6"))


def test_stores_are_read_once_a_day(world, fake):
    fake.lacks, fake.stores = set(), [{"id": "1", "displayableName": "Corner shop"}]
    fake.fill(5)
    fake.add(raw(6, ago(60), storeId=2))
    for _ in range(3):
        world.refresh()
        world.upkeep.run()
    assert [path for path, _ in fake.asked].count("/stores") == 0
    assert shops(world) == ({"id": "1", "name": "Corner shop"}, None)
    world.clock.move(DAY)
    fake.stores = [{"id": "2", "name": "other"}]
    world.upkeep.run()
    assert shops(world) == (None, {"id": "2", "name": "other"})


@pytest.mark.parametrize("stores", [[], [None], [{"id": None}]], ids=repr)
def test_an_answer_without_a_store_takes_none_away(world, fake, stores):
    fake.lacks, fake.stores = set(), [{"id": "1", "displayableName": "Corner shop"}]
    fake.fill(5)
    world.refresh()
    world.upkeep.run()
    world.clock.move(DAY)
    fake.stores = stores
    world.upkeep.run()
    assert shops(world)[0] == {"id": "1", "name": "Corner shop"}


@pytest.mark.parametrize("status", [403, 404, 400])
def test_an_aifi_without_stores_is_asked_for_them_once_an_hour(world, fake, status):
    asked = []

    def refuse(path, params) -> None:
        if path == "/stores":
            asked.append(path)
            raise AifiRefused("no", status)

    fake.before = refuse
    fake.fill(5)
    for _ in range(3):
        world.upkeep.run()
    assert len(asked) == 1
    world.clock.move(HOUR)
    world.upkeep.run()
    assert len(asked) == 2
