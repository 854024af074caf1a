"""One order or customer, asked of AiFi."""

import pytest

from aifi import AifiUnreadable
from errors import Cause
from tests.support import ago
from tests.unit.fake_aifi import raw
from transport import AifiRefused, AifiUnavailable

BOTH = ("session_lower", "external_lower")


def test_an_order_is_found_by_its_session_and_its_external_id_in_any_letter_case(world, fake):
    fake.add(raw(7, ago(600), sessionId="ab-CD", externalId="R-0001084"))
    assert world.look_ups.find("ab-CD", BOTH).id == "7"
    assert world.store.find_order("AB-cd").id == "7"
    assert world.store.find_order("r-0001084").id == "7"


def test_an_external_id_that_could_be_an_orders_is_taken_for_one_first(world, fake):
    fake.add(raw(77, ago(600)), raw(8, ago(600), externalId="77"), raw(9, ago(600), externalId="99"))
    assert world.look_ups.find("77", ("external_lower",)).id == "77"
    assert world.look_ups.find("99", ("external_lower",)).id == "9"


@pytest.mark.parametrize("habit", ["ignores", "refuses"])
def test_where_aifi_does_not_know_the_filters_no_order_is_found(world, fake, habit):
    fake.fill(50)
    setattr(fake, habit, {"sessionId", "externalId"})
    assert world.look_ups.find("ORD-17", BOTH) is None


def test_details_of_another_order_are_refused(world, fake):
    fake.add(raw(7, ago(600)))
    fake.orders[7]["id"] = 8
    with pytest.raises(AifiUnreadable, match="AiFi shows order 8 for order 7"):
        world.look_ups.look_up("7", None)
    assert world.ids() == set()


def test_an_order_that_aifi_does_not_know_any_longer_is_removed_and_may_come_back(world, fake):
    fake.fill(20)
    world.refresh()
    served = world.poll()
    gone = fake.orders.pop(10)
    assert world.look_ups.look_up("10", None) is None
    assert 10 not in world.ids()
    fake.add(gone)
    world.sweep(rounds=2)
    assert world.poll()[0]["id"] == "10"
    assert world.poll()[0]["updated_at"] > served[0]["updated_at"]


def test_a_gateways_404_removes_nothing(world, fake):
    fake.fill(20)
    world.refresh()

    def fail(path, params) -> None:
        raise AifiUnavailable("AiFi answers 404, but not as AiFi does: is AIFI_BASE_URL right?")

    fake.before = fail
    with pytest.raises(AifiUnavailable):
        world.look_ups.look_up("10", None)
    assert 10 in world.ids()


def test_where_roles_are_filtered_an_order_that_was_looked_up_is_shown_but_not_kept(start_world, fake):
    world = start_world(roles=("customer",))
    fake.add(raw(7, ago(600)))
    assert world.look_ups.find("7", ("external_lower",)).status == "paid"
    assert world.store.get_order("7") is None


def test_that_an_order_was_compared_is_remembered_though_nothing_changed(world, fake):
    fake.fill(1)
    world.look_ups.look_up("1", None)
    world.clock.move(7200)
    world.look_ups.look_up("1", None)
    assert world.store.get_order("1").checked_at == world.store.now()


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_lacks_customers_is_told_with_its_cause(world, fake, status):
    def refuse(path, params) -> None:
        raise AifiRefused("AiFi refuses the access token", status)

    fake.before = refuse
    with pytest.raises(AifiRefused):
        world.look_ups.look_up_customer("11")
    assert str(status) in world.store.notes()[Cause.AIFI_CUSTOMERS_REFUSED].text
