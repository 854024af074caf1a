"""What Aide and AiFi get when AiFi, a process, the disk or the database fails, and that all of it mends by itself."""

import concurrent.futures
import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests

from tests.conftest import BRIDGES
from tools.harness import WEBHOOK_SECRET, Bridge, wait_until
from tools.sandbox import Sandbox

WAIT_SECONDS = 1
IN_TIME = WAIT_SECONDS + 3  # for an answer that may wait for AiFi; a busy machine gets some slack
LOCK_SECONDS = 5  # how long the bridge waits for a locked database
MENDS_SECONDS = 20  # a pause after failures is 10 s at most
LEASE_SECONDS = 30
QUICK = {"REFRESH_SECONDS": 0, "REFRESH_WAIT_SECONDS": WAIT_SECONDS}  # every poll asks AiFi


# --- what Aide and AiFi see


def answer(ask: Callable[[], requests.Response], in_time: float = IN_TIME) -> requests.Response:
    """Return an answer that is as good as it may be in trouble: 200, or 503 with a time to return, and soon."""
    begun = time.monotonic()
    response = ask()
    seconds = time.monotonic() - begun
    assert response.status_code in (200, 503), f"{response.status_code}: {response.text}"
    if response.status_code == 503:
        assert response.headers["Retry-After"].isdigit()
        assert response.json()["error"]["message"]
    assert seconds < in_time, f"answered {response.status_code} only after {seconds:.1f} s"
    return response


def poll(bridge: Bridge, in_time: float = IN_TIME) -> requests.Response:
    return answer(lambda: bridge.get("/v1/latest_orders"), in_time)


def look_up(bridge: Bridge, order_id: int, in_time: float = IN_TIME) -> requests.Response:
    return answer(lambda: bridge.get(f"/v1/orders/{order_id}"), in_time)


def push(bridge: Bridge, body: dict, in_time: float = IN_TIME) -> requests.Response:
    return answer(lambda: bridge.webhook(body), in_time)


def ids(response: requests.Response) -> list[str]:
    return [order["id"] for order in response.json().get("orders", [])]


def wait_for_order(bridge: Bridge, order_id: int, seconds: float = MENDS_SECONDS) -> None:
    """Poll until the order is in the list."""
    wait_until(lambda: str(order_id) in ids(poll(bridge)), seconds, f"order {order_id} in the list")


def walked(bridge: Bridge) -> list[str]:
    return [order["id"] for page in bridge.walk(100) for order in page["orders"]]


def assert_complete(bridge: Bridge, sandbox: Sandbox) -> None:
    """Hold that a walk meets every order of AiFi, each once."""
    assert sorted(walked(bridge)) == sorted(map(str, sandbox.order_ids()))


# --- the database, from outside


def database(bridge: Bridge) -> Path:
    return Path(bridge.environment["DATABASE_PATH"])


@contextlib.contextmanager
def opened(bridge: Bridge) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(database(bridge), timeout=10, isolation_level=None)) as connection:
        yield connection


def rows(bridge: Bridge, sql: str) -> list[tuple]:
    with opened(bridge) as connection:
        return connection.execute(sql).fetchall()


def delete_database(bridge: Bridge) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{database(bridge)}{suffix}").unlink(missing_ok=True)


def let_leases_run_out(bridge: Bridge) -> int:
    """Let the time pass that the leases of the dead have left, which is no longer than the bound; return how many."""
    with opened(bridge) as connection:
        untils = connection.execute("SELECT until FROM leases").fetchall()
        assert all(until <= time.time() + LEASE_SECONDS for (until,) in untils)
        connection.execute("UPDATE leases SET until = until - ?", (LEASE_SECONDS,))
        return len(untils)


# --- one AiFi and one bridge for the tests that leave both as they were


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[tuple[Sandbox, Bridge]]:
    with Sandbox() as sandbox:
        sandbox.seed_orders(4)
        with Bridge(sandbox, tmp_path_factory.mktemp("shared"), **QUICK) as bridge:
            yield sandbox, bridge


@pytest.fixture
def world(shared, request) -> Iterator[tuple[Sandbox, Bridge]]:
    """Hand out the shared pair, in good health before and after."""
    sandbox, bridge = shared
    request.node.stash.setdefault(BRIDGES, []).append(bridge)
    wait_for_order(bridge, sandbox.checkout())
    yield sandbox, bridge
    sandbox.heal()
    sandbox.restore_tokens()


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
    known = ids(poll(bridge))
    sandbox.inject(kind, times=None, **details)
    missed, pushed = sandbox.checkout(), sandbox.checkout()
    assert push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert ids(poll(bridge)) == [str(pushed), *known][:50]
    sandbox.heal()
    wait_for_order(bridge, missed)


@of({name: FAULTS[name] for name in ("503", "reset", "slow", "HTML")})
def test_while_aifi_fails_an_order_that_the_mirror_lacks_is_not_denied(world, kind, details):
    sandbox, bridge = world
    unknown = sandbox.checkout()
    sandbox.inject(kind, times=None, **details)
    assert look_up(bridge, unknown).status_code == 503
    sandbox.heal()
    wait_until(lambda: look_up(bridge, unknown).status_code == 200, MENDS_SECONDS, "the order")


@of(NO_LISTS)
def test_while_aifi_fails_an_empty_mirror_is_no_empty_list(world, kind, details):
    sandbox, bridge = world
    sandbox.inject(kind, times=None, **details)
    delete_database(bridge)
    assert poll(bridge).status_code == 503
    sandbox.heal()
    wait_until(lambda: poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
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
    sandbox.inject("status", times=1, code=429, retry_after=2)
    wait_for_order(bridge, sandbox.checkout())
    first, second = sandbox.requests[:2]
    assert first.status == 429
    assert second.at - first.at >= 2


def test_one_damaged_order_does_not_hold_up_the_others(world):
    sandbox, bridge = world
    sandbox.inject("damaged_order", times=None, path="/orders")
    orders = [sandbox.checkout() for _ in range(3)]
    served = ids(poll(bridge))
    assert str(orders[0]) in served or str(orders[2]) in served
    sandbox.heal()
    for order_id in orders:
        wait_for_order(bridge, order_id)


def test_aifi_that_went_down_and_came_up_is_read_again_within_seconds(world):
    sandbox, bridge = world
    known = ids(poll(bridge))
    sandbox.stop()
    try:
        pushed = sandbox.checkout()
        assert ids(poll(bridge)) == known
        assert push(bridge, sandbox.webhook(pushed)).status_code == 200
        assert look_up(bridge, pushed).status_code == 200
        assert look_up(bridge, 999_999).status_code == 503
    finally:
        sandbox.start()
    wait_for_order(bridge, sandbox.checkout())


def test_a_trickling_answer_keeps_nobody_waiting_and_counts_once_it_is_complete(start_bridge, sandbox):
    sandbox.seed_orders(1)
    bridge = start_bridge(**QUICK)
    known = ids(poll(bridge))
    sandbox.inject("trickle", times=1, interval=0.002)
    missed = sandbox.checkout()
    assert ids(poll(bridge)) == known
    wait_for_order(bridge, missed, seconds=25)
    assert "The mirror cannot be refreshed" not in bridge.log()


def test_answers_that_never_come_or_put_off_for_a_day_are_given_up(start_bridge, sandbox, tmp_path):
    sandbox.seed_orders(3)
    faults = ({"kind": "hang"}, {"kind": "status", "code": 503, "retry_after": 86400})
    bridges = [start_bridge(**QUICK, DATABASE_PATH=tmp_path / f"{fault['kind']}.db") for fault in faults]
    for bridge, fault in zip(bridges, faults, strict=True):
        sandbox.inject(**fault)
        assert poll(bridge).status_code == 503  # which has met the fault by now
    for bridge in bridges:
        wait_until(lambda bridge=bridge: poll(bridge).status_code == 200, 40, "a list")
        assert_complete(bridge, sandbox)


# --- AiFi's clock is off


@pytest.mark.parametrize("offset", [-600, 600], ids=["10 minutes behind", "10 minutes ahead"])
@pytest.mark.parametrize("updated_filter", ["honoured", "ignored"])
def test_every_change_surfaces_at_the_head_whatever_aifis_clock_shows(start_bridge, sandbox, offset, updated_filter):
    sandbox.clock_offset_seconds, sandbox.updated_filter = offset, updated_filter
    old = sandbox.seed_orders(30, days=3)[0]
    bridge = start_bridge(**QUICK)
    assert_complete(bridge, sandbox)

    new = sandbox.checkout()
    assert ids(poll(bridge))[0] == str(new)
    sandbox.pay(new)
    first = poll(bridge).json()["orders"][0]
    assert (first["id"], first["status"]) == (str(new), "paid")
    sandbox.contest(old)
    assert ids(poll(bridge))[0] == str(old)
    times = [order["updated_at"] for order in poll(bridge).json()["orders"]]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("updated_filter", ["honoured", "ignored", "refused"])
def test_no_order_is_missed_when_aifis_fast_clock_is_set_right(start_bridge, sandbox, updated_filter):
    sandbox.clock_offset_seconds, sandbox.updated_filter = 900, updated_filter
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    wait_for_order(bridge, sandbox.checkout())
    if updated_filter != "honoured":  # the hourly reading of the last days would find it too: it is over now
        wait_until(lambda: poll(bridge) and "Read the last 3 days again" in bridge.log(), what="that reading")
    sandbox.clock_offset_seconds = 0
    wait_for_order(bridge, sandbox.checkout(), seconds=5)


# --- AiFi's tokens end


def credentials(sandbox: Sandbox) -> dict:
    return {
        "AIFI_ACCESS_TOKEN": None,
        "AIFI_CLIENT_ID": sandbox.client_id,
        "AIFI_CLIENT_SECRET": sandbox.client_secret,
        "AIFI_TOKEN_URL": sandbox.token_url,
    }


def test_tokens_revoked_in_the_middle_of_a_walk_leave_it_complete(start_bridge, sandbox):
    sandbox.seed_orders(700)
    bridge = start_bridge(**credentials(sandbox), **QUICK)
    served = []
    for page in bridge.walk(100):
        served += [order["id"] for order in page["orders"]]
        sandbox.revoke_tokens()
    assert sorted(served) == sorted(map(str, sandbox.order_ids()))
    assert sandbox.tokens_issued >= 3


def test_tokens_that_expire_in_the_middle_of_a_page_walk_leave_it_complete(start_bridge, sandbox):
    orders = sandbox.seed_orders(900)
    sandbox.token_seconds = 0.5
    bridge = start_bridge(**credentials(sandbox), **QUICK)
    assert_complete(bridge, sandbox)
    for order_id in orders:
        sandbox.touch(order_id)
    sandbox.forget_requests()
    sandbox.latency_seconds, issued = 0.25, sandbox.tokens_issued

    def last_page_answered() -> bool:
        pages = [r for r in sandbox.requests if "minUpdatedAt" in r.args and r.args["page"] == ["4"]]
        return poll(bridge).ok and any(page.status == 200 for page in pages)

    wait_until(last_page_answered, MENDS_SECONDS, "the fifth page of what changed")
    assert sandbox.tokens_issued >= issued + 2
    assert "The mirror cannot be refreshed" not in bridge.log()


def test_an_access_token_that_is_revoked_and_restored_costs_nothing_but_time(world):
    sandbox, bridge = world
    known = ids(poll(bridge))
    sandbox.revoke_tokens(static=True)
    missed = sandbox.checkout()
    assert ids(poll(bridge)) == known
    assert "AiFi refuses the access token" in bridge.get("/healthz", key=None).json()["last_error"]
    assert push(bridge, sandbox.webhook(missed)).status_code == 200
    sandbox.restore_tokens()
    wait_for_order(bridge, sandbox.checkout())


def test_a_token_server_that_is_down_for_a_while_costs_nothing_but_time(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(**credentials(sandbox), **QUICK)
    known = ids(poll(bridge))
    sandbox.inject("status", times=None, path="/realms", code=503)
    sandbox.revoke_tokens()
    missed = sandbox.checkout()
    assert ids(poll(bridge)) == known
    sandbox.heal()
    wait_for_order(bridge, missed)


# --- a process dies


def hold_refresh(bridge: Bridge, sandbox: Sandbox) -> int:
    """Begin a refresh that hangs at AiFi; return the process id of the worker that does it."""
    sandbox.stop()  # closes the connections of former refreshes
    sandbox.start()
    sandbox.inject("hang", times=1, path="/orders")

    def refreshing() -> int | None:
        poll(bridge)
        for pid in bridge.worker_pids():
            connections = psutil.Process(pid).net_connections("tcp")
            if any(c.status == "ESTABLISHED" and c.raddr and c.raddr.port == sandbox.port for c in connections):
                return pid
        return None

    return wait_until(refreshing, MENDS_SECONDS, "a refresh at AiFi")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_worker_killed_in_the_middle_of_a_refresh_is_replaced_and_its_lease_runs_out(start_bridge, sandbox, workers):
    sandbox.seed_orders(20)
    bridge = start_bridge(WEB_CONCURRENCY=workers, **QUICK)
    known = sorted(ids(poll(bridge)))
    pushed = sandbox.checkout()
    killed = bridge.kill_worker(hold_refresh(bridge, sandbox))
    bridge.wait_for_workers(workers, without=killed)
    wait_until(bridge.answers, what="the new worker")

    assert push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert sorted(ids(poll(bridge))) == sorted([*known, str(pushed)])
    missed = sandbox.checkout()
    assert let_leases_run_out(bridge) == 1
    wait_for_order(bridge, missed)
    assert_complete(bridge, sandbox)


def test_an_acknowledged_webhook_outlives_all_processes(start_bridge, sandbox):
    bridge = start_bridge(**QUICK, WEB_CONCURRENCY=3)
    wait_for_order(bridge, sandbox.checkout())
    sandbox.stop()
    for status in ("draft", "completed"):
        order_id = sandbox.checkout()
        assert push(bridge, sandbox.webhook(order_id, status)).status_code == 200
        bridge.kill()
        bridge.start()
        assert look_up(bridge, order_id).status_code == 200
    sandbox.start()


def test_workers_killed_at_random_lose_no_acknowledged_webhook(start_bridge, sandbox):
    sandbox.seed_orders(250)
    bridge = start_bridge(WEB_CONCURRENCY=3, **QUICK)
    dice, over, acknowledged = random.Random(5), threading.Event(), []

    def use() -> None:
        while not over.is_set():
            order_id = sandbox.checkout()
            with contextlib.suppress(requests.ConnectionError):  # the worker died with the request
                if push(bridge, sandbox.webhook(order_id)).status_code == 200:
                    acknowledged.append(order_id)
                poll(bridge)

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
    kept = {order_id for (order_id,) in rows(bridge, "SELECT id FROM orders")}
    assert set(map(str, acknowledged)) <= kept
    assert rows(bridge, "PRAGMA integrity_check") == [("ok",)]
    sandbox.start()
    let_leases_run_out(bridge)
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)


# --- the disk


class Disk:
    """A small disk of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Fill the disk but for so many bytes."""
        free = shutil.disk_usage(self.folder).free - leave
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            ballast.write(b"x" * free)

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a disk")
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounting.returncode:
        pytest.skip(f"no disk can be mounted here: {mounting.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_refuses_webhooks_but_serves_the_mirror_and_mends_with_space(start_bridge, sandbox, disk):
    sandbox.seed_orders(5)
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    known = set(ids(poll(bridge)))
    disk.fill()
    acknowledged = set()
    for _ in range(600):  # the database's journal has some room left
        order_id = sandbox.checkout()
        if push(bridge, sandbox.webhook(order_id)).status_code == 503:
            break
        acknowledged.add(str(order_id))
    else:
        pytest.fail("the disk is full, and yet all is acknowledged")
    assert bridge.get("/healthz", key=None).status_code == 200
    polled = poll(bridge)
    assert polled.status_code == 503 or known <= set(ids(polled)) or len(ids(polled)) == 50
    kept = {order_id for (order_id,) in rows(bridge, "SELECT id FROM orders")}
    assert known | acknowledged <= kept

    disk.empty()
    assert push(bridge, sandbox.webhook(order_id)).status_code == 200
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)
    assert "set-aside" not in bridge.log()


@pytest.mark.parametrize("leave", [0, 40_000])
def test_a_start_on_a_full_disk_waits_for_space(start_bridge, sandbox, disk, leave):
    sandbox.seed_orders(300)
    disk.fill(leave)
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    assert poll(bridge).status_code == 503
    disk.empty()
    wait_until(lambda: poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert_complete(bridge, sandbox)


def test_a_start_on_a_read_only_disk_waits_until_it_can_be_written(start_bridge, sandbox, disk):
    sandbox.seed_orders(5)
    disk.remount("ro")
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    assert poll(bridge).status_code == 503
    assert push(bridge, sandbox.webhook(sandbox.order_ids()[0])).status_code == 503
    disk.remount("rw")
    wait_until(lambda: poll(bridge).status_code == 200, MENDS_SECONDS, "a list")


def test_a_mirror_that_became_read_only_between_starts_refuses_webhooks_and_mends(start_bridge, sandbox, disk):
    sandbox.seed_orders(5)
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    poll(bridge)
    bridge.terminate()
    disk.remount("ro")
    bridge.start()
    poll(bridge)
    pushed = sandbox.checkout()
    assert push(bridge, sandbox.webhook(pushed)).status_code == 503
    disk.remount("rw")
    wait_until(lambda: push(bridge, sandbox.webhook(pushed)).status_code == 200, MENDS_SECONDS, "the webhook kept")
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)


# --- the database is locked


def test_a_locked_database_serves_the_mirror_refuses_webhooks_and_mends(world):
    sandbox, bridge = world
    known = ids(poll(bridge))
    with opened(bridge) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        missed = sandbox.checkout()
        assert ids(poll(bridge)) == known
        assert push(bridge, sandbox.webhook(missed), LOCK_SECONDS + 3).status_code == 503
        connection.execute("ROLLBACK")
    assert push(bridge, sandbox.webhook(missed)).status_code == 200
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)


def test_a_webhook_waits_for_a_short_lock(world):
    sandbox, bridge = world
    order_id = sandbox.checkout()
    with opened(bridge) as connection, concurrent.futures.ThreadPoolExecutor() as pool:
        connection.execute("BEGIN IMMEDIATE")
        pushing = pool.submit(push, bridge, sandbox.webhook(order_id), LOCK_SECONDS + 3)
        with pytest.raises(concurrent.futures.TimeoutError):
            pushing.result(timeout=1)
        connection.execute("ROLLBACK")
        assert pushing.result().status_code == 200
    assert (str(order_id),) in rows(bridge, "SELECT id FROM orders")


def test_a_start_with_a_database_locked_for_everyone_waits_for_it(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    poll(bridge)
    bridge.terminate()
    started = len(bridge.log())
    with opened(bridge) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        bridge.start(wait=False)
        wait_until(lambda: "Booting worker" in bridge.log()[started:], what="a worker")
        assert poll(bridge, 2 * LOCK_SECONDS + IN_TIME).status_code == 503
        assert answer(lambda: bridge.get("/healthz", key=None), LOCK_SECONDS + IN_TIME).status_code == 200
    wait_for_order(bridge, sandbox.checkout())
    assert "set-aside" not in bridge.log()
    assert_complete(bridge, sandbox)


# --- the database is damaged


def overwrite(path: Path, share: float = 1.0) -> None:
    """Overwrite the first part of a file in place."""
    with path.open("r+b") as file:
        file.write(random.Random(7).randbytes(int(path.stat().st_size * share)))


DAMAGES = {
    "deleted": Path.unlink,
    "overwritten": overwrite,
    "half overwritten": lambda path: overwrite(path, 0.5),
    "emptied": lambda path: os.truncate(path, 0),
    "halved": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut within its header": lambda path: os.truncate(path, 50),
}
FILES = {"database": ("",), "journal": ("-wal",), "both": ("", "-wal")}


def damage(bridge: Bridge, how: Callable[[Path], None], suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        path = Path(f"{database(bridge)}{suffix}")
        if path.exists():
            how(path)


@pytest.fixture(scope="module")
def shared_by_damages(tmp_path_factory) -> Iterator[tuple[Sandbox, Bridge]]:
    with Sandbox(rate_limit=None) as sandbox:
        sandbox.seed_orders(120)
        with Bridge(sandbox, tmp_path_factory.mktemp("damaged"), WEB_CONCURRENCY=2, **QUICK) as bridge:
            yield sandbox, bridge


@pytest.fixture
def damaged(shared_by_damages, request) -> tuple[Sandbox, Bridge]:
    """Hand out the shared pair, with a new database: what one damage has left is no other's matter."""
    sandbox, bridge = shared_by_damages
    request.node.stash.setdefault(BRIDGES, []).append(bridge)
    delete_database(bridge)
    wait_until(lambda: poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    return sandbox, bridge


def all_get_a_list(bridge: Bridge, clients: int = 10) -> bool:
    """Poll with more clients than there are open connections to the database; return whether all get a list."""
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        polls = [pool.submit(poll, bridge, 2 * LOCK_SECONDS + IN_TIME) for _ in range(2 * clients)]
        return {each.result().status_code for each in polls} == {200}


@pytest.mark.parametrize("suffixes", FILES.values(), ids=FILES)
@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
def test_a_database_damaged_while_running_is_filled_from_aifi_again(damaged, how, suffixes):
    sandbox, bridge = damaged
    pushed = sandbox.checkout()
    assert push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert_complete(bridge, sandbox)

    damage(bridge, how, suffixes)
    sandbox.pay(pushed)
    wait_until(lambda: all_get_a_list(bridge), MENDS_SECONDS, "a list for everyone")
    wait_for_order(bridge, sandbox.checkout())
    assert push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert look_up(bridge, pushed).json()["status"] == "paid"
    assert_complete(bridge, sandbox)
    assert rows(bridge, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("how", ["deleted", "half overwritten", "emptied", "halved"])
def test_a_database_damaged_between_starts_is_filled_from_aifi_again(sandbox, start_bridge, how):
    sandbox.seed_orders(120)
    bridge = start_bridge(**QUICK)
    assert_complete(bridge, sandbox)
    bridge.kill()  # which leaves the journal
    damage(bridge, DAMAGES[how], ("", "-wal"))
    bridge.start()
    poll(bridge)
    let_leases_run_out(bridge)  # half a journal may hold the lease of the dead, but not what it was for
    wait_until(lambda: poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert_complete(bridge, sandbox)


def test_a_damaged_database_is_set_aside_and_the_log_says_so(sandbox, start_bridge):
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    poll(bridge)
    bridge.terminate()
    overwrite(database(bridge))
    garbage = database(bridge).read_bytes()
    bridge.start()
    wait_until(lambda: poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert Path(f"{database(bridge)}.set-aside").read_bytes() == garbage
    assert "ERROR The database is of no use (file is not a database)" in bridge.log()


def test_a_database_of_a_newer_version_is_set_aside_and_the_log_says_so(sandbox, start_bridge):
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    poll(bridge)
    bridge.terminate()
    with opened(bridge) as connection:
        connection.execute("PRAGMA user_version = 99")
    bridge.start()
    wait_until(lambda: poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert_complete(bridge, sandbox)
    assert "its schema has version 99" in bridge.log()
    assert Path(f"{database(bridge)}.set-aside").exists()


# --- and nothing of all this betrays a secret


def test_no_fault_writes_a_secret_into_the_log(world):
    sandbox, bridge = world
    for secret in (WEBHOOK_SECRET, sandbox.access_token, bridge.environment["AIDE_API_KEY"]):
        assert secret not in bridge.log()
    assert "Traceback" not in bridge.log()
