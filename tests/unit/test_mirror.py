"""What Aide asks of the mirror, and what AiFi pushes."""

import threading

import pytest

from errors import Unexpected
from mirror import Tasks
from tests.support import ago, join_tasks
from tests.unit.fake_aifi import fail_after, raw
from times import DAY, HOUR, shift
from translation import read_webhook
from transport import AifiRefused, AifiUnavailable

DOWN = AifiUnavailable("AiFi answers 503")


def down(path, params) -> None:
    raise DOWN


def test_a_poll_brings_what_is_new(world, fake):
    fake.fill(20)
    assert [row["id"] for row in world.poll()] == [str(number) for number in range(20, 0, -1)]


def test_an_empty_mirror_never_claims_that_there_is_nothing(world, fake):
    fake.fill(20)
    fake.before = down
    with pytest.raises(AifiUnavailable):
        world.mirror.page(10, None)


def test_whatever_a_refresh_ends_in_a_poll_is_answered_from_the_mirror(world, fake):
    fake.fill(20)
    world.poll()

    def break_down(path, params) -> None:
        raise ZeroDivisionError("nobody foresaw this")

    for trouble in (down, break_down):
        world.clock.move(3600)
        fake.before = trouble
        assert len(world.poll()) == 20


def test_a_page_that_can_be_served_in_part_is_short_while_aifi_fails(world, fake):
    fake.fill(500)
    world.poll(10)
    fake.before = down
    page = world.mirror.page(450, None)
    assert 100 < len(page.summaries) < 450
    assert not page.ended
    with pytest.raises(AifiUnavailable):
        world.mirror.page(450, page.last)


def test_a_new_order_is_answered_before_details_that_hang(world, fake):
    fake.refuses = {"minUpdatedAt"}
    fake.fill(20, newest=60, status="draft")
    world.poll()
    fake.add(raw(99, world.store.now()))
    release = threading.Event()

    def hang(path, params) -> None:
        if path.startswith("/orders/"):
            release.wait(20)

    fake.before = hang
    world.clock.move(60)
    page = world.mirror.page(10, None)
    release.set()
    join_tasks()
    assert '"id":"99"' in "".join(page.summaries)


# --- one order


def test_a_settled_order_is_served_without_asking_within_the_hour(world, fake):
    fake.fill(20)
    world.poll()
    world.mirror.order("7")
    fake.forget()
    world.clock.move(HOUR - 60)
    assert world.mirror.order("7").status == "paid"
    assert fake.asked == []


def test_a_settled_order_is_asked_for_after_a_day_without_polls(world, fake):
    fake.fill(20)
    world.poll()
    world.mirror.order("7")
    world.clock.move(DAY)
    fake.change(7, status="contested", version=2)
    assert world.mirror.order("7").status == "contested"


def test_a_number_is_an_orders_id_and_not_another_orders_session(world, fake):
    fake.fill(20)
    fake.orders[5]["sessionId"] = "15"
    world.poll()
    assert world.mirror.order("15").id == "15"
    fake.orders[6]["sessionId"] = "77"
    fake.add(raw(77, ago(40 * DAY)))
    assert world.mirror.order("77").id == "77"


def test_an_order_that_could_not_be_looked_up_is_not_denied(world, fake):
    fake.before = down
    with pytest.raises(AifiUnavailable):
        world.mirror.order("7")


def test_an_order_that_aifi_denies_is_gone_from_list_and_look_up(world, fake):
    fake.fill(20, status="contested")
    world.poll()
    del fake.orders[7]
    assert world.mirror.order("7") is None
    assert "7" not in [row["id"] for row in world.poll()]


def test_a_webhooks_order_that_aifi_does_not_show_yet_is_kept(world):
    body = {"orderId": 7, "status": "draft", "totalPrice": "1.00", "timeOfIssue": world.store.now()}
    world.mirror.store_webhook(read_webhook(body, world.store.now()))
    assert world.mirror.order("7").status == "draft"


@pytest.mark.parametrize("ahead", [3600, 5 * DAY])
def test_a_webhook_that_was_issued_ahead_of_our_clock_keeps_no_later_one_out(world, ahead):
    for status, seconds in (("draft", ahead), ("completed", 10)):
        issued = shift(world.store.now(), seconds)
        body = {"orderId": 7, "status": status, "totalPrice": "1.00", "timeOfIssue": issued}
        world.mirror.store_webhook(read_webhook(body, world.store.now()))
        world.clock.move(30)
    assert world.store.get_order("7").status == "completed"


# --- one customer


def test_a_customer_that_aifi_does_not_let_us_read_is_what_orders_say(world, fake):
    fake.fill(1, customerId="11")
    world.poll()

    def refuse(path, params) -> None:
        raise AifiRefused("AiFi refuses the access token (403)", 403)

    fake.before = refuse
    assert world.mirror.customer("11") == {"id": "11"}
    with pytest.raises(AifiRefused):
        world.mirror.customer("12")


def test_a_known_customer_outlives_a_failure(world, fake):
    fake.customers[11] = {"id": 11, "firstName": "Ada"}
    assert world.mirror.customer("11") == {"id": "11", "first_name": "Ada"}
    world.clock.move(2 * HOUR)
    fake.before = fail_after(0)
    assert world.mirror.customer("11") == {"id": "11", "first_name": "Ada"}


# --- tasks


def test_who_asks_for_the_same_work_meanwhile_shares_it():
    tasks, release, runs = Tasks(), threading.Event(), []

    def work() -> int:
        release.wait(20)
        runs.append(1)
        return len(runs)

    futures = [tasks.share("work", work) for _ in range(5)]
    release.set()
    assert [future.result(20) for future in futures] == [1] * 5
    assert tasks.share("work", work).result(20) == 2


def test_an_unforeseen_error_is_one_of_ours_to_those_who_wait():
    with pytest.raises(Unexpected, match="an unexpected ZeroDivisionError"):
        Tasks().share("work", lambda: 1 // 0).result(20)


def test_too_much_at_once_is_refused():
    tasks, release = Tasks(), threading.Event()
    for number in range(32):
        tasks.share(number, lambda: release.wait(20))
    with pytest.raises(AifiUnavailable, match="too many requests"):
        tasks.share("one more", release.wait)
    release.set()
    join_tasks()
