"""What Aide and AiFi get when the disk or the database fails, and that all of it mends by itself."""

import concurrent.futures
import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import BRIDGES
from tests.system.support import (
    IN_TIME,
    LOCK_SECONDS,
    MENDS_SECONDS,
    QUICK,
    answer_in_time,
    assert_complete,
    assert_log_is_clean,
    database,
    delete_database,
    listed,
    opened,
    query,
    small_disk,
    try_look_up,
    try_poll,
    try_push,
    wait_for_order,
)
from tools.harness import Bridge, wait_until
from tools.sandbox import Sandbox

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
    with small_disk(tmp_path, megabytes=3) as folder:
        yield Disk(folder)


def test_a_full_disk_refuses_webhooks_but_serves_the_mirror_and_mends_with_space(start_bridge, sandbox, disk):
    sandbox.seed_orders(5)
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    known = set(listed(try_poll(bridge)))
    disk.fill()
    acknowledged = set()
    for _ in range(600):  # the database's journal has some room left
        order_id = sandbox.checkout()
        if try_push(bridge, sandbox.webhook(order_id)).status_code == 503:
            break
        acknowledged.add(str(order_id))
    else:
        pytest.fail("the disk is full, and yet all is acknowledged")
    assert bridge.get("/healthz", key=None).status_code == 200
    polled = try_poll(bridge)
    assert polled.status_code == 503 or known <= set(listed(polled)) or len(listed(polled)) == 50
    kept = {order_id for (order_id,) in query(bridge, "SELECT id FROM orders")}
    assert known | acknowledged <= kept

    disk.empty()
    assert try_push(bridge, sandbox.webhook(order_id)).status_code == 200
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)
    assert "set-aside" not in bridge.log()


@pytest.mark.parametrize("leave", [0, 40_000])
def test_a_start_on_a_full_disk_waits_for_space(start_bridge, sandbox, disk, leave):
    sandbox.seed_orders(300)
    disk.fill(leave)
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    assert try_poll(bridge).status_code == 503
    disk.empty()
    wait_until(lambda: try_poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert_complete(bridge, sandbox)


def test_a_start_on_a_read_only_disk_waits_until_it_can_be_written(start_bridge, sandbox, disk):
    sandbox.seed_orders(5)
    disk.remount("ro")
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    assert try_poll(bridge).status_code == 503
    assert try_push(bridge, sandbox.webhook(sandbox.order_ids()[0])).status_code == 503
    disk.remount("rw")
    wait_until(lambda: try_poll(bridge).status_code == 200, MENDS_SECONDS, "a list")


def test_a_mirror_that_became_read_only_between_starts_refuses_webhooks_and_mends(start_bridge, sandbox, disk):
    sandbox.seed_orders(5)
    bridge = start_bridge(DATABASE_PATH=disk.folder / "orders.db", **QUICK)
    try_poll(bridge)
    bridge.terminate()
    disk.remount("ro")
    bridge.start()
    try_poll(bridge)
    pushed = sandbox.checkout()
    assert try_push(bridge, sandbox.webhook(pushed)).status_code == 503
    disk.remount("rw")
    wait_until(lambda: try_push(bridge, sandbox.webhook(pushed)).status_code == 200, MENDS_SECONDS, "the webhook kept")
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)


# --- the database is locked


def test_a_locked_database_serves_the_mirror_refuses_webhooks_and_mends(world):
    sandbox, bridge = world
    known = listed(try_poll(bridge))
    with opened(bridge) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        missed = sandbox.checkout()
        assert listed(try_poll(bridge)) == known
        assert try_push(bridge, sandbox.webhook(missed), LOCK_SECONDS + 3).status_code == 503
        connection.execute("ROLLBACK")
    assert try_push(bridge, sandbox.webhook(missed)).status_code == 200
    wait_for_order(bridge, sandbox.checkout())
    assert_complete(bridge, sandbox)


def test_a_webhook_waits_for_a_short_lock(world):
    sandbox, bridge = world
    order_id = sandbox.checkout()
    with opened(bridge) as connection, concurrent.futures.ThreadPoolExecutor() as pool:
        connection.execute("BEGIN IMMEDIATE")
        pushing = pool.submit(try_push, bridge, sandbox.webhook(order_id), LOCK_SECONDS + 3)
        with pytest.raises(concurrent.futures.TimeoutError):
            pushing.result(timeout=1)
        connection.execute("ROLLBACK")
        assert pushing.result().status_code == 200
    assert (str(order_id),) in query(bridge, "SELECT id FROM orders")


def test_a_start_with_a_database_locked_for_everyone_waits_for_it(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    try_poll(bridge)
    bridge.terminate()
    started = len(bridge.log())
    with opened(bridge) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        bridge.start(wait=False)
        wait_until(lambda: "Booting worker" in bridge.log()[started:], what="a worker")
        assert try_poll(bridge, 2 * LOCK_SECONDS + IN_TIME).status_code == 503
        assert answer_in_time(lambda: bridge.get("/healthz", key=None), LOCK_SECONDS + IN_TIME).status_code == 200
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
    wait_until(lambda: try_poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    return sandbox, bridge


def all_get_a_list(bridge: Bridge, clients: int = 10) -> bool:
    """Poll with more clients than there are open connections to the database; return whether all get a list."""
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        polls = [pool.submit(try_poll, bridge, 2 * LOCK_SECONDS + IN_TIME) for _ in range(2 * clients)]
        return {each.result().status_code for each in polls} == {200}


@pytest.mark.parametrize("suffixes", FILES.values(), ids=FILES)
@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES)
def test_a_database_damaged_while_running_is_filled_from_aifi_again(damaged, how, suffixes):
    sandbox, bridge = damaged
    pushed = sandbox.checkout()
    assert try_push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert_complete(bridge, sandbox)

    damage(bridge, how, suffixes)
    sandbox.pay(pushed)
    wait_until(lambda: all_get_a_list(bridge), MENDS_SECONDS, "a list for everyone")
    wait_for_order(bridge, sandbox.checkout())
    assert try_push(bridge, sandbox.webhook(pushed)).status_code == 200
    assert try_look_up(bridge, pushed).json()["status"] == "paid"
    assert_complete(bridge, sandbox)
    assert query(bridge, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("how", ["deleted", "half overwritten", "emptied", "halved"])
def test_a_database_damaged_between_starts_is_filled_from_aifi_again(sandbox, start_bridge, how):
    sandbox.seed_orders(120)
    bridge = start_bridge(**QUICK)
    assert_complete(bridge, sandbox)
    bridge.kill()  # which leaves the journal
    damage(bridge, DAMAGES[how], ("", "-wal"))
    bridge.start()
    try_poll(bridge)
    wait_until(lambda: try_poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert_complete(bridge, sandbox)


def test_a_damaged_database_is_set_aside_and_the_log_says_so(sandbox, start_bridge):
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    try_poll(bridge)
    bridge.terminate()
    overwrite(database(bridge))
    garbage = database(bridge).read_bytes()
    bridge.start()
    wait_until(lambda: try_poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert Path(f"{database(bridge)}.set-aside").read_bytes() == garbage
    assert "ERROR The database is of no use (file is not a database)" in bridge.log()


def test_a_database_of_a_newer_version_is_set_aside_and_the_log_says_so(sandbox, start_bridge):
    sandbox.seed_orders(5)
    bridge = start_bridge(**QUICK)
    try_poll(bridge)
    bridge.terminate()
    with opened(bridge) as connection:
        connection.execute("PRAGMA user_version = 99")
    bridge.start()
    wait_until(lambda: try_poll(bridge).status_code == 200, MENDS_SECONDS, "a list")
    assert_complete(bridge, sandbox)
    assert "its schema has version 99" in bridge.log()
    assert Path(f"{database(bridge)}.set-aside").exists()


# --- and nothing of all this betrays a secret


def test_no_fault_writes_a_secret_into_the_log(world):
    sandbox, bridge = world
    assert_log_is_clean(bridge, sandbox)
