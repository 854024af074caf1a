"""One order or customer, asked of AiFi."""

import pytest

from aifi import AifiUnreadable
from errors import Cause
from tests.support import ago
from tests.unit.fake_aifi import raw
from times import HOUR, MINUTE
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


# --- contests, which an old deployment may lack

CONTEST = {
    "orderId": "7",
    "status": "reviewed",
    "message": "I put it back",
    "updatedAt": ago(60),
    "originalTotalPrice": "7.20",
    "contestedTotalPrice": "4.30",
    "reviewedTotalPrice": "5.00",
    "items": [{"name": "Tea", "originalQuantity": 2, "contestedQuantity": 2, "reviewedQuantity": 1}],
}


@pytest.fixture
def disputed(fake):
    """Return an AiFi that has contests, and an order whose dispute was settled."""
    fake.lacks = set()
    fake.add(raw(7, ago(600), status="reviewed", version=2, totalPrice="5.00"))
    fake.contests[7] = CONTEST
    return fake


def paths(fake) -> list[str]:
    return [path for path, _ in fake.asked]


def test_a_disputed_order_is_looked_up_with_its_contest(world, disputed):
    assert world.mirror.order("7").body()["contest"] == {
        "status": "reviewed",
        "message": "I put it back",
        "original_amount": 7.2,
        "contested_amount": 4.3,
        "reviewed_amount": 5.0,
        "items": [{"name": "Tea", "original_quantity": 2, "contested_quantity": 2, "reviewed_quantity": 1}],
    }
    assert paths(disputed) == ["/orders/7", "/contests/7"]


def test_an_order_that_nobody_disputed_is_looked_up_alone(world, fake):
    fake.lacks = set()
    fake.add(raw(7, ago(600)))
    world.mirror.order("7")
    assert paths(fake) == ["/orders/7"]


def test_a_settled_order_whose_contest_is_known_is_served_from_the_mirror(world, disputed):
    world.refresh()
    world.mirror.order("7")
    disputed.forget()
    assert world.mirror.order("7").contest["items"]
    assert paths(disputed) == []


@pytest.mark.parametrize("lacking", [403, 404, 400])
def test_an_aifi_without_contests_is_asked_for_one_once_an_hour(world, disputed, lacking):
    def refuse(path, params) -> None:
        if path.startswith("/contests"):
            raise AifiRefused("no", lacking)

    disputed.before = refuse
    world.refresh()
    for _ in range(3):
        assert "contest" not in world.mirror.order("7").body()
    assert paths(disputed).count("/contests/7") == 1
    world.clock.move(HOUR)
    world.mirror.order("7")
    assert paths(disputed).count("/contests/7") == 2


def test_an_aifi_that_knows_no_contest_of_one_order_is_asked_for_others(world, disputed):
    disputed.add(raw(8, ago(500), status="reviewed", version=2))
    world.mirror.order("7")
    assert "contest" not in world.mirror.order("8").body()
    disputed.contests[8] = {**CONTEST, "orderId": "8"}
    assert world.mirror.order("8").contest["items"]


def test_contests_that_fail_do_not_keep_an_order_back_and_are_tried_again_after_a_minute(world, disputed):
    def fail(path, params) -> None:
        if path.startswith("/contests"):
            raise AifiUnavailable("AiFi answers 503")

    disputed.before = fail
    assert world.mirror.order("7").status == "reviewed"
    disputed.before = lambda path, params: None
    assert "contest" not in world.mirror.order("7").body()
    world.clock.move(MINUTE)
    assert world.mirror.order("7").contest["items"]


def test_looking_at_a_contest_moves_no_order(world, disputed):
    world.refresh()
    before = world.poll()
    world.mirror.order("7")
    disputed.contests[7] = {**CONTEST, "message": "I put it back!", "items": []}
    world.clock.move(HOUR)
    world.mirror.order("7")
    assert world.poll() == before
