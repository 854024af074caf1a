"""A page of AiFi's, translated and stored; and where a list is read on."""

import pytest

from aifi import AifiUnreadable, ListPage
from errors import Cause
from orders import LIST, SWEEP, Anchor
from tests.support import ago
from tests.unit.fake_aifi import assert_mirrors, raw
from transport import Pace


def listed(*orders: object) -> ListPage:
    return ListPage(list(orders), ended=False, full=False)


def test_an_order_that_cannot_be_read_is_left_out_counted_and_noted(world):
    page = listed(raw(1, ago(60)), raw(2, ago(60), totalPrice="a lot"), raw(3, ago(60)))
    assert world.intake.store_page(page, LIST) == 2
    assert world.ids() == {1, 3}
    note = world.store.notes()[Cause.AIFI_ORDER_UNREADABLE]
    assert note.text == "1 of AiFi's orders cannot be read: order 2 has no totalPrice"


@pytest.mark.parametrize("change", [{"totalPrice": None}, {"draftCreatedAt": 1_762_000_000_000}, {"id": "a-uuid"}])
def test_a_page_of_which_nothing_can_be_read_is_a_failure_of_its_own(world, change):
    with pytest.raises(AifiUnreadable, match="none of AiFi's orders can be read") as error:
        world.intake.store_page(listed(raw(1, ago(60), **change), raw(2, ago(60), **change)), LIST)
    assert error.value.cause == Cause.AIFI_UNREADABLE


def test_the_only_order_of_a_list_of_changes_may_be_unreadable(world):
    assert world.intake.store_page(listed(raw(1, ago(60), totalPrice=None)), LIST) == 0
    with pytest.raises(AifiUnreadable):
        world.intake.store_page(listed(raw(1, ago(60), totalPrice=None)), SWEEP)


def test_of_several_stores_only_the_wanted_ones_are_kept(start_world):
    world = start_world(store_ids=("1", "2"))
    world.intake.store_page(listed(raw(1, ago(60)), raw(2, ago(60), storeId=2), raw(3, ago(60), storeId=3)), LIST)
    assert world.ids() == {1, 2}


@pytest.mark.parametrize("deleted", [1, 3, 20])
def test_a_list_is_read_on_though_orders_above_were_deleted(world, fake, deleted):
    fake.fill(300)
    world.refresh()
    place = Anchor(world.marks.horizon, world.marks.horizon_id)
    for order_id in range(int(place.id), int(place.id) + deleted):
        del fake.orders[order_id]
    page = world.intake.read_on(place, Pace())
    assert {row["id"] for row in page.orders} >= set(range(1, int(place.id)))


def test_a_list_is_read_on_from_the_top_where_all_was_deleted(world, fake):
    fake.fill(300)
    world.refresh()
    place = Anchor(world.marks.horizon, world.marks.horizon_id)
    fake.orders = {order_id: order for order_id, order in fake.orders.items() if order_id < int(place.id)}
    page = world.intake.read_on(place, Pace())
    assert {row["id"] for row in page.orders} == set(fake.orders)
    assert world.ids() <= set(fake.orders)
    world.intake.store_page(page, SWEEP)
    assert_mirrors(world)
