"""What Aide and AiFi get when AiFi, its clock, its tokens or a process fails, and that all of it mends by itself."""

import concurrent.futures
import contextlib
import random
import threading

import psutil
import pytest
import requests

from tests.system.contract import check
from tests.system.support import (
    ALWAYS,
    CUSTOMER,
    LATEST,
    MENDS_SECONDS,
    ORDER,
    QUICK,
    SELDOM,
    assert_complete,
    assert_log_is_clean,
    check_integrity,
    delete_database,
    health,
    ids,
    listed,
    look_up,
    look_up_customer,
    named,
    newest,
    oauth,
    page,
    query,
    timed,
    try_look_up,
    try_poll,
    try_push,
    wait_for_order,
    wait_for_sweep,
)
from tools.harness import Bridge, wait_until
from tools.sandbox import Sandbox
from tools.sandbox.access import Request

# --- AiFi fails

FAULTS = {
    "503": ("status", {"code": 503}),
    "500": ("status", {"code": 500}),
    "429, come back in a second": ("status", {"code": 429, "retry_after": 1}),
    "redirect": ("status", {"code": 302}),
    "reset": ("reset", {}),
    "slow": ("hang", {"seconds": 2.5}),
    "HTML": ("html", {}),
    "truncated JSON": ("truncated", {}),
}
LIST_FAULTS = {"404": ("status", {"code": 404}), "no data": ("no_data", {}), "huge": ("huge", {})}
NO_LISTS = {name: (FAULTS | LIST_FAULTS)[name] for name in ("503", "reset", "HTML", "404", "no data")}


def of(faults: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("kind", "details"), faults.values(), ids=faults)


@of(FAULTS | LIST_FAULTS)
def test_while_aifi_fails_the_mirror_answers_and_keeps_webhooks_and_then_all_is_well_again(world, kind, details):
    sandbox, bridge = world
    known = listed(try_poll(bridge))
    sandbox.inject(kind, times=None, **details)
    missed, pushed = sandbox.checkout(), sandbox.checkout()
    assert try_push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert listed(try_poll(bridge)) == [str(pushed), *known][:50]
    sandbox.heal()
    wait_for_order(bridge, missed)


@of({name: FAULTS[name] for name in ("503", "reset", "slow", "HTML")})
def test_while_aifi_fails_an_order_that_the_mirror_lacks_is_not_denied(world, kind, details):
    sandbox, bridge = world
    unknown = sandbox.checkout()
    sandbox.inject(kind, times=None, **details)
    assert try_look_up(bridge, unknown).status_code == 503
    sandbox.heal()
    wait_until(lambda: try_look_up(bridge, unknown).status_code == 200, MENDS_SECONDS, "the order")


@of(NO_LISTS)
def test_while_aifi_fails_an_empty_mirror_is_no_empty_list(world, kind, details):
    sandbox, bridge = world
    sandbox.inject(kind, times=None, **details)
    delete_database(bridge)
    assert try_poll(bridge).status_code == 503
    sandbox.heal()
    wait_until(lambda: try_poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert_complete(bridge, sandbox)


def test_a_short_burst_of_503_is_not_even_noticed(world):
    sandbox, bridge = world
    sandbox.inject("status", times=2, code=503)
    order_id = sandbox.checkout()
    wait_for_order(bridge, order_id)
    assert bridge.get("/healthz", key=None).json()["aifi_answers"] is True


def test_retry_after_is_obeyed(world):
    sandbox, bridge = world
    sandbox.forget_requests()
    sandbox.inject("status", times=1, having="minDraftCreatedAt", code=429, retry_after=2)
    bridge.orders()

    def lists() -> list[Request]:
        return [request for request in sandbox.requests if "minDraftCreatedAt" in request.args]

    wait_until(lambda: len(lists()) >= 2, what="another try")
    first, second = lists()[:2]
    assert first.status == 429
    assert second.at - first.at >= 2


def test_one_damaged_order_does_not_hold_up_the_others(world):
    sandbox, bridge = world
    sandbox.inject("damaged_order", times=None, path="/orders")
    orders = [sandbox.checkout() for _ in range(3)]
    served = listed(try_poll(bridge))
    assert str(orders[0]) in served or str(orders[2]) in served
    sandbox.heal()
    for order_id in orders:
        wait_for_order(bridge, order_id)


def test_aifi_that_went_down_and_came_up_is_read_again_within_seconds(world):
    sandbox, bridge = world
    known = listed(try_poll(bridge))
    sandbox.stop()
    try:
        pushed = sandbox.checkout()
        assert listed(try_poll(bridge)) == known
        assert try_push(bridge, sandbox.webhook(pushed)).status_code == 200
        assert try_look_up(bridge, pushed).status_code == 200
        assert try_look_up(bridge, 999_999).status_code == 503
    finally:
        sandbox.start()
    wait_for_order(bridge, sandbox.checkout())


def test_a_trickling_answer_keeps_nobody_waiting_and_counts_once_it_is_complete(start_bridge, sandbox):
    sandbox.seed_orders(1)
    bridge = start_bridge(**QUICK)
    known = listed(try_poll(bridge))
    wait_for_sweep(bridge)  # or it may bring the order
    sandbox.inject("trickle", times=1, having="minDraftCreatedAt", interval=0.002)
    missed = sandbox.checkout()
    assert listed(try_poll(bridge)) == known
    wait_for_order(bridge, missed, seconds=25)
    assert "The mirror cannot be refreshed" not in bridge.log()


def test_answers_that_never_come_or_put_off_for_a_day_are_given_up(start_bridge, sandbox, tmp_path):
    sandbox.seed_orders(3)
    faults = ({"kind": "hang"}, {"kind": "status", "code": 503, "retry_after": 86400})
    bridges = [start_bridge(**QUICK, DATABASE_PATH=tmp_path / f"{fault['kind']}.db") for fault in faults]
    for bridge, fault in zip(bridges, faults, strict=True):
        sandbox.inject(**fault)
        assert try_poll(bridge).status_code == 503  # which has met the fault by now
    for bridge in bridges:
        wait_until(lambda bridge=bridge: try_poll(bridge).status_code == 200, 40, "a list")
        assert_complete(bridge, sandbox)


# --- while AiFi is away, whatever is asked


def go_away(sandbox: Sandbox, how: str) -> None:
    if how == "stopped":
        sandbox.stop()
    else:
        sandbox.inject("hang", times=None)


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_an_empty_bridge_answers_503_in_time_while_aifi_is_away(sandbox, start_bridge, how):
    sandbox.seed_orders(30)
    bridge = start_bridge(REFRESH_WAIT_SECONDS=1)
    go_away(sandbox, how)
    for path, template in ((LATEST, LATEST), ("/v1/orders/1001", ORDER), ("/v1/customers/11", CUSTOMER)):
        response, seconds = timed(lambda path=path: bridge.get(path))
        assert (path, response.status_code) == (path, 503)
        assert check(response, template)["error"]["code"] == "aifi_unavailable"
        assert seconds < 1 + 4, path


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_a_filled_bridge_answers_from_the_mirror_in_time_while_aifi_is_away(sandbox, start_bridge, how):
    order_id = sandbox.checkout(customer=named(sandbox))
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS, REFRESH_WAIT_SECONDS=2)
    before = [page(bridge), look_up(bridge, order_id), look_up_customer(bridge, named(sandbox))]
    go_away(sandbox, how)
    calls = (
        lambda: page(bridge),
        lambda: look_up(bridge, order_id),  # it is open, so AiFi is asked
        lambda: look_up_customer(bridge, named(sandbox)),
    )
    for call, wanted in zip(calls, before, strict=True):
        answer, seconds = timed(call)
        assert answer == wanted
        assert seconds < 2 + 4


def test_the_bridge_is_itself_again_soon_after_aifi_is_back(sandbox, start_bridge):
    bridge = start_bridge()
    sandbox.stop()
    assert bridge.get(LATEST).status_code == 503
    order_id = sandbox.checkout()
    sandbox.start()
    wait_until(lambda: bridge.get(LATEST).status_code == 200, 15, "AiFi's orders")
    assert newest(bridge)["id"] == str(order_id)


@pytest.mark.parametrize("kind", ["html", "truncated", "no_data"])
def test_nonsense_from_aifi_is_a_503(sandbox, start_bridge, kind):
    sandbox.seed_orders(30)
    bridge = start_bridge()
    sandbox.inject(kind, times=None)
    response = bridge.get(LATEST)
    assert response.status_code == 503
    check(response, LATEST)


def test_one_damaged_order_does_not_stop_the_others(sandbox, start_bridge):
    sandbox.seed_orders(30)
    sandbox.inject("damaged_order")
    assert len(page(start_bridge(REFRESH_SECONDS=SELDOM))["orders"]) >= 29


def test_the_health_check_says_how_it_stands(sandbox, start_bridge):
    sandbox.seed_orders(3)
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    page(bridge)
    assert health(bridge).items() >= {"status": "ok", "aifi_answers": True, "last_error": None}.items()
    sandbox.stop()
    wait_until(lambda: page(bridge) and health(bridge)["status"] == "degraded", 30, "the failure to be noticed")
    state = health(bridge)
    assert state["aifi_answers"] is False
    assert "AiFi" in state["last_error"]
    assert state["failing_since"] is not None


# --- AiFi's clock is off


@pytest.mark.parametrize("offset", [-600, 600], ids=["10 minutes behind", "10 minutes ahead"])
@pytest.mark.parametrize("updated_filter", ["honoured", "ignored"])
def test_every_change_surfaces_at_the_head_whatever_aifis_clock_shows(start_bridge, sandbox, offset, updated_filter):
    sandbox.clock_offset_seconds, sandbox.updated_filter = offset, updated_filter
    old = sandbox.seed_orders(30, days=3)[0]
    bridge = start_bridge(**QUICK)
    assert_complete(bridge, sandbox)

    new = sandbox.checkout()
    assert listed(try_poll(bridge))[0] == str(new)
    sandbox.pay(new)
    first = try_poll(bridge).json()["orders"][0]
    assert (first["id"], first["status"]) == (str(new), "paid")
    sandbox.contest(old)
    assert listed(try_poll(bridge))[0] == str(old)
    times = [order["updated_at"] for order in try_poll(bridge).json()["orders"]]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("updated_filter", ["honoured", "ignored", "refused"])
def test_no_order_is_missed_when_aifis_fast_clock_is_set_right(start_bridge, sandbox, updated_filter):
    sandbox.clock_offset_seconds, sandbox.updated_filter = 900, updated_filter
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    wait_for_order(bridge, sandbox.checkout())
    sandbox.clock_offset_seconds = 0
    wait_for_order(bridge, sandbox.checkout(), seconds=5)


# --- AiFi's tokens end


def test_tokens_revoked_in_the_middle_of_a_walk_leave_it_complete(start_bridge, sandbox):
    sandbox.seed_orders(700)
    bridge = start_bridge(**oauth(sandbox), **QUICK)
    served = []
    for part in bridge.walk(100):
        served += ids(part["orders"])
        sandbox.revoke_tokens()
    assert sorted(served) == sorted(map(str, sandbox.order_ids()))
    assert sandbox.tokens_issued >= 3


def test_tokens_that_expire_in_the_middle_of_a_page_walk_leave_it_complete(start_bridge, sandbox):
    orders = sandbox.seed_orders(900)
    sandbox.token_seconds = 0.5
    bridge = start_bridge(**oauth(sandbox), **QUICK)
    assert_complete(bridge, sandbox)
    for order_id in orders:
        sandbox.touch(order_id)
    sandbox.forget_requests()
    sandbox.latency_seconds, issued = 0.25, sandbox.tokens_issued

    def last_page_answered() -> bool:
        pages = [r for r in sandbox.requests if "minUpdatedAt" in r.args and r.status == 200]
        return try_poll(bridge).ok and len(pages) >= 5

    wait_until(last_page_answered, MENDS_SECONDS, "the fifth page of what changed")
    assert sandbox.tokens_issued >= issued + 2
    assert "The mirror cannot be refreshed" not in bridge.log()


def test_an_access_token_that_is_revoked_and_restored_costs_nothing_but_time(world):
    sandbox, bridge = world
    known = listed(try_poll(bridge))
    sandbox.revoke_tokens(static=True)
    missed = sandbox.checkout()
    assert listed(try_poll(bridge)) == known
    assert "AiFi refuses the access token" in bridge.get("/healthz", key=None).json()["last_error"]
    assert try_push(bridge, sandbox.webhook(missed)).status_code == 200
    sandbox.restore_tokens()
    wait_for_order(bridge, sandbox.checkout())


def test_a_token_server_that_is_down_for_a_while_costs_nothing_but_time(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(**oauth(sandbox), **QUICK)
    known = listed(try_poll(bridge))
    sandbox.inject("status", times=None, path="/realms", code=503)
    sandbox.revoke_tokens()
    missed = sandbox.checkout()
    assert listed(try_poll(bridge)) == known
    sandbox.heal()
    wait_for_order(bridge, missed)


# --- a process dies

DIED = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)


def hold_refresh(bridge: Bridge, sandbox: Sandbox) -> int:
    """Begin a refresh that hangs at AiFi; return the process id of the worker that does it."""
    sandbox.stop()  # closes the connections of former refreshes
    sandbox.start()
    sandbox.inject("hang", times=1, path="/orders")

    def refreshing() -> int | None:
        try_poll(bridge)
        for pid in bridge.worker_pids():
            connections = psutil.Process(pid).net_connections("tcp")
            if any(c.status == "ESTABLISHED" and c.raddr and c.raddr.port == sandbox.port for c in connections):
                return pid
        return None

    return wait_until(refreshing, MENDS_SECONDS, "a refresh at AiFi")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_killed_in_the_middle_of_a_refresh_is_replaced_and_nobody_waits_for_it(start_bridge, sandbox, workers):
    sandbox.seed_orders(20)
    bridge = start_bridge(WEB_CONCURRENCY=workers, **QUICK)
    known = sorted(listed(try_poll(bridge)))
    pushed = sandbox.checkout()
    killed = bridge.kill_worker(hold_refresh(bridge, sandbox))
    bridge.wait_for_workers(workers, without=killed)
    wait_until(bridge.answers, what="the new worker")

    assert try_push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert sorted(listed(try_poll(bridge))) == sorted([*known, str(pushed)])
    missed = sandbox.checkout()
    wait_for_order(bridge, missed)
    assert_complete(bridge, sandbox)


@pytest.mark.parametrize("filled", [True, False], ids=["warm", "cold"])
def test_a_bridge_killed_in_the_middle_of_a_refresh_is_fresh_at_its_first_poll_again(start_bridge, sandbox, filled):
    sandbox.seed_orders(450)
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS, REFRESH_WAIT_SECONDS=20)
    if filled:
        bridge.orders()
        wait_for_sweep(bridge)
    sandbox.checkout()
    reached, over = threading.Event(), threading.Event()
    sandbox.inject("meanwhile", after=1, path="/orders", action=lambda: (reached.set(), over.wait(60)))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        poll = pool.submit(bridge.orders)
        assert reached.wait(20)
        bridge.kill()
        over.set()
        with pytest.raises(DIED):
            poll.result()
    bridge.start()
    missed = sandbox.checkout()
    assert newest(bridge)["id"] == str(missed)
    assert_complete(bridge, sandbox)


def test_an_acknowledged_webhook_outlives_all_processes(start_bridge, sandbox):
    bridge = start_bridge(**QUICK, WEB_CONCURRENCY=3)
    wait_for_order(bridge, sandbox.checkout())
    sandbox.stop()
    for status in ("draft", "completed"):
        order_id = sandbox.checkout()
        assert try_push(bridge, sandbox.webhook(order_id, status)).status_code == 200
        bridge.kill()
        bridge.start()
        assert try_look_up(bridge, order_id).status_code == 200
    sandbox.start()


def test_workers_killed_at_random_lose_no_acknowledged_webhook(start_bridge, sandbox):
    sandbox.seed_orders(250)
    bridge = start_bridge(WEB_CONCURRENCY=3, **QUICK)
    dice, over, acknowledged = random.Random(5), threading.Event(), []

    def use() -> None:
        while not over.is_set():
            order_id = sandbox.checkout()
            with contextlib.suppress(*DIED):  # the worker died with the request
                if try_push(bridge, sandbox.webhook(order_id)).status_code == 200:
                    acknowledged.append(order_id)
                try_poll(bridge)

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        users = [pool.submit(use) for _ in range(3)]
        try:
            for _ in range(12):
                wait_until(bridge.worker_pids, what="a worker")
                bridge.kill_worker(dice.choice(bridge.worker_pids()))
                over.wait(dice.uniform(0, 0.5))
        finally:
            over.set()
        for user in users:
            user.result()

    assert acknowledged
    sandbox.stop()  # so that only the mirror can know them
    bridge.wait_for_workers(3)
    wait_until(bridge.answers, what="the new workers")
    kept = {order_id for (order_id,) in query(bridge, "SELECT id FROM orders")}
    assert set(map(str, acknowledged)) <= kept
    check_integrity(bridge)
    sandbox.start()
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)


# --- and nothing of all this betrays a secret


def test_no_fault_writes_a_secret_into_the_log(world):
    sandbox, bridge = world
    assert_log_is_clean(bridge, sandbox)
