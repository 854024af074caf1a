"""Older orders: a page at a time, and by spans side by side."""

import pytest

from history import SPANS
from tests.support import NOW, ago
from tests.unit.fake_aifi import assert_mirrors, fail_after, raw
from times import DAY, HOUR, shift
from transport import AifiUnavailable


def read_all(world) -> None:
    while not world.marks.complete:
        world.history.read_page()


@pytest.mark.parametrize("gap", [60, 0.001], ids=["a minute apart", "a millisecond apart"])
@pytest.mark.parametrize("cap", [200, 20])
def test_pages_bring_all_orders_to_the_end(world, fake, cap, gap):
    fake.page_cap = cap
    fake.fill(450, gap=gap)
    world.refresh()
    read_all(world)
    assert_mirrors(world)


def test_a_page_is_asked_for_with_a_millisecond_more_than_the_horizon(world, fake):
    """An AiFi that leaves the bound itself out must show the order at the horizon all the same."""
    fake.fill(300)
    world.refresh()
    horizon = world.marks.horizon
    fake.forget()
    world.history.read_page()
    assert fake.lists()[0]["maxDraftCreatedAt"] == shift(horizon, 0.001)


def test_one_empty_answer_does_not_complete_the_history(world, fake):
    fake.fill(500)
    world.refresh()
    fake.empty_answers = 1
    read_all(world)
    assert_mirrors(world)


def test_a_row_that_a_page_lacks_hides_no_other(world, fake):
    fake.fill(500)
    fake.drops = {150}
    world.refresh()
    read_all(world)
    assert world.ids() == set(fake.orders) - {150}


def test_ties_that_come_in_another_order_each_time_are_all_read(world, fake):
    fake.page_cap, fake.shuffles_ties = 20, True
    fake.add(*(raw(number, ago(HOUR + 60 * (number // 50))) for number in range(1, 201)))
    world.refresh()
    read_all(world)
    assert_mirrors(world)


def test_orders_that_are_deleted_between_two_pages_hide_no_other(world, fake):
    fake.fill(600)
    world.refresh()
    for order_id in (int(world.marks.horizon_id) + offset for offset in range(3)):
        del fake.orders[order_id]
    read_all(world)
    assert set(fake.orders) <= world.ids()


@pytest.mark.parametrize("habits", [{"repeats_last_page": True}, {"repeats_last_page": True, "differs": True}])
def test_a_last_page_that_is_repeated_for_ever_ends_the_history(world, fake, habits):
    for name, value in habits.items():
        setattr(fake, name, value)
    fake.fill(300, gap=0.001)
    world.refresh()
    read_all(world)
    assert_mirrors(world)


def test_history_is_not_read_while_a_pause_is_on(world, fake):
    fake.fill(300)
    world.refresh()
    world.store.move_marks(world.marks, retry_at=shift(world.store.now(), 5), error="AiFi answers 503")
    fake.forget()
    with pytest.raises(AifiUnavailable, match="AiFi answers 503"):
        world.history.read_page()
    assert fake.asked == []


def test_another_process_may_go_deeper_meanwhile(world, fake):
    fake.fill(900)
    world.refresh()

    def go_deeper(path, params) -> None:
        fake.before = lambda path, params: None
        world.history.read_page()
        world.history.read_page()

    fake.before = go_deeper
    world.history.read_page()
    assert world.marks.horizon_id == "303"


def test_an_order_of_a_page_that_was_asked_for_above_todays_horizon_is_news(world, fake):
    """Aide walked past while the page was on its way, so the order must be at the head."""
    fake.fill(900)
    world.refresh()
    late = raw(5000, shift(world.marks.horizon, -90), updatedAt=shift(world.marks.horizon, -30))

    def go_deeper_and_serve(path, params) -> None:
        fake.before = lambda path, params: None
        world.history.read_page()
        world.walk(100)
        fake.add(late)

    world.mirror.page(10, None)
    fake.before = go_deeper_and_serve
    world.history.read_page()
    assert world.store.serve_page(1, None, may_be_short=True).summaries[0].startswith('{"id":"5000"')


# --- backfill


@pytest.mark.parametrize("count", [300, 3000])
def test_backfill_brings_all_orders_and_counts_each_once(world, fake, count):
    fake.fill(count, newest=2 * HOUR)
    world.refresh()
    below = sum(order["draftCreatedAt"] < world.marks.horizon for order in fake.orders.values())
    assert sum(more for more, _ in world.history.backfill(ago(3650 * DAY))) == below
    assert world.marks.complete
    assert_mirrors(world)


def test_backfill_goes_no_deeper_than_it_is_told_but_for_a_page(world, fake):
    fake.fill(5000, newest=2 * HOUR)
    world.refresh()
    list(world.history.backfill(ago(DAY)))
    assert ago(2 * DAY) < world.marks.horizon <= ago(DAY)
    assert not world.marks.complete


def test_backfill_asks_in_vain_only_once_for_each_of_its_threads(world, fake):
    fake.fill(3000, newest=2 * HOUR)
    world.refresh()
    oldest = min(order["draftCreatedAt"] for order in fake.orders.values())
    fake.forget()
    list(world.history.backfill(ago(3650 * DAY)))
    assert sum(asked["maxDraftCreatedAt"] <= oldest for asked in fake.lists()) <= SPANS
    assert_mirrors(world)


@pytest.mark.parametrize("habits", [{"cut": 60}, {"cut": 86400}, {"zone": 2}, {"zone": -5}, {"page_cap": 50}])
def test_backfill_brings_all_whatever_aifi_makes_of_times(world, fake, habits):
    for name, value in habits.items():
        setattr(fake, name, value)
    fake.fill(800, newest=2 * HOUR)
    world.refresh()
    list(world.history.backfill(ago(3650 * DAY)))
    assert world.marks.complete
    assert_mirrors(world)


def test_a_backfill_that_fails_keeps_what_it_read_and_goes_on(world, fake):
    fake.fill(2000, newest=2 * HOUR)
    world.refresh()
    fake.before = fail_after(6)
    with pytest.raises(AifiUnavailable):
        list(world.history.backfill(ago(3650 * DAY)))
    fake.before = lambda path, params: None
    list(world.history.backfill(ago(3650 * DAY)))
    assert_mirrors(world)


def test_an_empty_mirror_has_no_history_to_read(world):
    assert list(world.history.backfill(NOW)) == []
