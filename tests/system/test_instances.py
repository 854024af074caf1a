"""Two instances on one PostgreSQL server, as on two machines: to Aide and AiFi they are one bridge."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support import lose
from tests.system.support import (
    MENDS_SECONDS,
    SELDOM,
    assert_complete,
    health,
    ids,
    listed,
    newest,
    page,
    push,
    wait_for_order,
    walk,
)
from tools.harness import Bridge, wait_until
from tools.postgresql import PASSWORD, Server
from tools.sandbox import Sandbox

CHANGES = 2_000
SOON = 3  # seconds after the server's return; a second, and the machine may be slow
FROZEN_SECONDS = 20


@pytest.fixture
def place(own_server: Server) -> Iterator[str]:
    with own_server.new_database() as place:
        yield place


@pytest.fixture
def skew(tmp_path: Path) -> Callable[[float], dict[str, str]]:
    """Let a bridge's machine have a clock that is so many seconds ahead."""

    def make(seconds: float) -> dict[str, str]:
        folder = tmp_path / f"ahead-{seconds}"
        folder.mkdir()
        code = f"import time\nreal = time.time\ntime.time = lambda: real() + {seconds}\n"
        (folder / "sitecustomize.py").write_text(code)
        return {"PYTHONPATH": str(folder)}

    return make


def try_any(call: Callable[[], requests.Response]) -> int:
    """Return the status of an answer; 0 where the instance is not there."""
    try:
        return call().status_code
    except requests.RequestException:
        return 0


# --- one mirror


def test_thirty_polls_over_both_are_one_refresh(start_bridge, sandbox):
    sandbox.seed_orders(20)
    bridges = [start_bridge(REFRESH_SECONDS=SELDOM) for _ in range(2)]
    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(lambda number: ids(page(bridges[number % 2])["orders"]), range(30)))
    assert found == [found[0]] * 30
    assert len(found[0]) == 20
    walks = [request for request in sandbox.requests if "minDraftCreatedAt" in request.args]
    assert len(walks) <= 1
    assert health(bridges[0])["instance"] == health(bridges[1])["instance"]


@pytest.mark.parametrize("ahead", [0, 45, -45])
def test_a_webhook_to_one_is_at_the_head_of_the_other_at_once(start_bridge, sandbox, skew, ahead):
    sandbox.seed_orders(20)
    one, other = start_bridge(REFRESH_SECONDS=SELDOM), start_bridge(REFRESH_SECONDS=SELDOM, **skew(ahead))
    for bridge in (one, other):
        page(bridge)
    for sender, receiver in ((one, other), (other, one), (one, other)):
        order_id = sandbox.checkout()
        push(sender, sandbox.webhook(order_id))
        assert newest(receiver)["id"] == str(order_id)
        served = newest(receiver)["updated_at"]
        sandbox.pay(order_id)
        push(sender, sandbox.webhook(order_id))
        assert newest(receiver)["id"] == str(order_id)
        assert newest(receiver)["updated_at"] > served


@pytest.mark.parametrize("ahead", [0, 7])
def test_both_together_keep_to_aifis_rate(start_bridge, sandbox, skew, ahead):
    orders = sandbox.seed_orders(200)
    bridges = [start_bridge(REFRESH_SECONDS=0), start_bridge(REFRESH_SECONDS=0, **skew(ahead))]
    for bridge in bridges:
        page(bridge)
    sandbox.updated_filter = "ignored"
    lose_details = itertools.count(10**6)  # ids that the mirror lacks, so that AiFi is asked each time

    def ask(number: int) -> int:
        return try_any(lambda: bridges[number % 2].get(f"/v1/orders/{next(lose_details)}"))

    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(ask, range(140)))
    assert set(statuses) <= {404, 503}
    assert statuses.count(404) > 100
    assert sandbox.refused_by_rate == []
    assert len(ids(walk(bridges[0], 100))) == len(orders)


# --- strict pollers


class Poller:
    """Reads from the top until it meets what it knows, as Aide does; on each of the instances in turn."""

    def __init__(self, bridges: list[Bridge]):
        self._bridges = itertools.cycle(bridges)
        self._head = ("", "")
        self.known: dict[str, str] = {}  # statuses by id

    def poll(self) -> None:
        head, top = self._head, None
        for part in next(self._bridges).walk(100):
            for row in part["orders"]:
                place = (row["updated_at"], row["id"])
                top = top or place
                if place <= head:
                    break
                self.known[row["id"]] = row["status"]
            else:
                continue
            break
        self._head = top or head


def test_strict_pollers_on_both_see_all_changes(start_bridge, sandbox):
    sandbox.seed_orders(100)
    bridges = [start_bridge(REFRESH_SECONDS=0.3) for _ in range(2)]
    pollers = [Poller(bridges), Poller(bridges[:1]), Poller(bridges[1:])]
    over, changed = threading.Event(), {}

    def poll(poller: Poller) -> None:
        while not over.wait(0.05):
            poller.poll()

    def change(number: int) -> None:
        order_id = sandbox.checkout()
        if number % 3 == 0:
            bridges[number % 2].webhook(sandbox.webhook(order_id))
        sandbox.pay(order_id)
        if number % 5 == 0:
            bridges[(number + 1) % 2].webhook(sandbox.webhook(order_id))
        changed[str(order_id)] = "paid"
        time.sleep(0.005)

    with ThreadPoolExecutor(len(pollers)) as pool:
        polling = [pool.submit(poll, poller) for poller in pollers]
        try:
            for number in range(CHANGES // 2):
                change(number)
            for poller in pollers:
                seen = lambda poller=poller: changed.items() <= poller.known.items()  # noqa: E731
                wait_until(seen, 2 * MENDS_SECONDS, "all changes at a poller")
        finally:
            over.set()
        for each in polling:
            each.result()
    assert len(changed) == CHANGES // 2


# --- what may happen to them


class Storm:
    """Webhooks of new orders to both instances, one after the other, as long as it lasts."""

    def __init__(self, sandbox: Sandbox, bridges: list[Bridge]):
        self._sandbox, self._bridges = sandbox, bridges
        self._over = threading.Event()
        self.acknowledged: list[int] = []
        self.statuses: list[int] = []
        self._threads = [threading.Thread(target=self._push, args=(number,)) for number in range(4)]

    def __enter__(self) -> "Storm":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _push(self, number: int) -> None:
        while not self._over.wait(0.01):
            order_id = self._sandbox.checkout()
            body = self._sandbox.webhook(order_id)
            status = try_any(lambda body=body: self._bridges[number % 2].webhook(body))
            self.statuses.append(status)
            if status == 200:
                self.acknowledged.append(order_id)

    def wait_for_more(self, count: int = 20) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, 30, "webhooks that are acknowledged")


@pytest.fixture
def calm(start_bridge, sandbox) -> list[Bridge]:
    """Start two instances that have read AiFi, and will not soon again: what is new came by webhooks."""
    sandbox.seed_orders(20)
    bridges = [start_bridge(REFRESH_SECONDS=SELDOM) for _ in range(2)]
    for bridge in bridges:
        page(bridge)
    return bridges


def assert_kept(bridges: list[Bridge], storm: Storm) -> None:
    """Hold that both know all that was acknowledged."""
    assert len(storm.acknowledged) > 20
    for bridge in bridges:
        assert set(map(str, storm.acknowledged)) <= set(ids(walk(bridge, 100)))
        assert "Traceback" not in bridge.log()
        assert PASSWORD not in bridge.log()
    assert set(storm.statuses) <= {200, 503, 0}


def test_instances_killed_six_times_in_a_storm_lose_nothing(calm, sandbox):
    with Storm(sandbox, calm) as storm:
        for bridge in calm * 3:
            storm.wait_for_more()
            bridge.kill()
            bridge.start()
    assert_kept(calm, storm)


def restart(server: Server) -> None:
    server.stop()
    time.sleep(1)
    server.restart()


def crash(server: Server) -> None:
    server.kill()
    server.restart()


def freeze(server: Server) -> None:
    with server.frozen():
        time.sleep(FROZEN_SECONDS)


def cut(server: Server) -> None:
    for _ in range(60):
        server.cut()
        time.sleep(0.05)


@pytest.mark.parametrize("happens", [restart, crash, freeze, cut])
def test_whatever_happens_to_the_server_nothing_is_lost_and_all_mends(calm, sandbox, own_server, happens):
    with Storm(sandbox, calm) as storm:
        storm.wait_for_more()
        happens(own_server)
        for bridge in calm:
            wait_until(lambda bridge=bridge: listed(bridge.get("/v1/latest_orders")), SOON, "a list")
            assert try_any(lambda bridge=bridge: bridge.webhook(sandbox.webhook(sandbox.checkout()))) == 200
        storm.wait_for_more()
    assert_kept(calm, storm)


def test_while_the_server_is_away_the_instances_say_so_and_then_mend(calm, sandbox, own_server):
    own_server.stop()
    try:
        for bridge in calm:
            answer = bridge.get("/v1/latest_orders")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
            problems = {problem["cause"]: problem for problem in health(bridge)["problems"]}
            assert "DATABASE_URL" in problems["database_unavailable"]["remedy"]
            assert bridge.get("/", key=None).status_code == 401
            page_at_fault = bridge.request("GET", "/", auth=("operator", bridge.environment["AIDE_API_KEY"]))
            assert page_at_fault.status_code == 200
            assert PASSWORD not in page_at_fault.text + answer.text
    finally:
        own_server.restart()
    for bridge in calm:
        wait_until(lambda bridge=bridge: health(bridge)["problems"] == [], SOON, "health")
        page(bridge)


def test_tables_that_are_dropped_while_running_are_filled_from_aifi_again(start_bridge, sandbox, place):
    sandbox.seed_orders(120)
    bridges = [start_bridge(REFRESH_SECONDS=0.3) for _ in range(2)]
    assert_complete(bridges[0], sandbox)
    lose(place)
    for bridge in bridges:
        wait_for_order(bridge, sandbox.checkout())
        assert_complete(bridge, sandbox)


def test_what_is_served_from_both_is_one_list(start_bridge, sandbox):
    sandbox.seed_orders(150)
    bridges = [start_bridge(REFRESH_SECONDS=SELDOM) for _ in range(2)]
    rows, part = [], page(bridges[0], page_size=20)
    for bridge in itertools.cycle(bridges):
        rows += part["orders"]
        if "next_page_token" not in part:
            break
        part = page(bridge, page_size=20, page_token=part["next_page_token"])
    assert len(set(ids(rows))) == len(rows) == 150
