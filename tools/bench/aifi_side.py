"""The figures that depend on AiFi, measured with the sandbox: freshness, requests, the first answer, the backfill."""

import collections
import contextlib
import multiprocessing
import random
import sqlite3
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests

from times import utc_text
from tools.bench.load import cpu_of_children
from tools.bench.report import Ratios, Row, milliseconds, say
from tools.harness import PROJECT, Bridge, wait_until
from tools.sandbox import Sandbox

REFRESH_SECONDS = 0.1
SHOP_ORDERS, SHOP_DAYS = 2_000, 14
CHANGES_PER_POLL = 20
IDLE_POLLS = 5
QUIET_SECONDS = 1.0
UNPAID_SECONDS = 23 * 3600
FIRST_ANSWER_LATENCY, BACKFILL_LATENCY = 0.1, 0.15
HISTORY_DAYS = 60
RATE, PAGE = 20, 200  # what AiFi allows: requests a second, orders a page
REMOTE_SECONDS = 120
OF_A_REFRESH = {"minDraftCreatedAt", "minUpdatedAt", "status"}  # parameters that tell its requests from the sweep's


def _correct_price(sandbox: Sandbox, order_id: int) -> dict:
    return sandbox.correct_price(order_id, Decimal(sandbox.order(order_id)["totalPrice"]) + 1)


def _set_external_id(sandbox: Sandbox, order_id: int) -> dict:
    return sandbox.set_external_id(order_id, f"X-{uuid.uuid4()}")


# What can happen to an order: the statuses from which it can, and what does it.
CHANGES: dict[str, tuple[tuple[str, ...], Callable[[Sandbox, int], dict]]] = {
    "completed": (("draft",), Sandbox.complete),
    "paid": (("paymentProcessing", "unpaid"), Sandbox.pay),
    "payment failed": (("paymentProcessing",), Sandbox.fail_payment),
    "contested": (("paid",), Sandbox.contest),
    "reviewed": (("contested",), Sandbox.review),
    "price corrected": (("paid", "reviewed"), _correct_price),
    "external id set": (("paid", "reviewed"), _set_external_id),
}
# Without `minUpdatedAt` no list shows these of a settled order; the bridge finds them within the hour, if it is of the
# last days. Nor is there a list of unpaid orders: the bridge asks about each for a day.
UNLISTED = ("price corrected", "external id set")


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """Measure the figures one after another."""
    for updated_filter in ("honoured", "ignored"):
        yield from _freshness(folder / updated_filter, updated_filter, changes=200 if quick else 1000)
    count = 20_000 if quick else 100_000
    say(f"A sandbox AiFi with {count:,} orders, in a process of its own")
    with remote_sandbox(count, HISTORY_DAYS) as aifi:
        yield _first_answer(folder, aifi, count, rounds=3 if quick else 7)
        yield from _backfill(folder, aifi, count, pages=10 if quick else 30)


# --- freshness and requests ---


class Shop:
    """Draws random changes of a sandbox's orders; unpaid ones from before `unpaid_since` stay as they are."""

    def __init__(self, sandbox: Sandbox, kinds: list[str], unpaid_since: str):
        self._sandbox = sandbox
        self._kinds = kinds
        self._dice = random.Random(9)
        self._ids = collections.defaultdict(list)
        for order in map(sandbox.order, sandbox.order_ids()):
            if order["status"] != "unpaid" or order["draftCreatedAt"] >= unpaid_since:
                self._ids[order["status"]].append(order["id"])

    def change(self, count: int) -> dict[str, dict]:
        """Change so many different orders; return them by id as AiFi shows them afterwards."""
        changed = [self._change_one() for _ in range(count)]
        for order in changed:
            self._ids[order["status"]].append(order["id"])
        return {str(order["id"]): order for order in changed}

    def _change_one(self) -> dict:
        """Do one kind of change, each as likely; where no order can take it, a new one is drafted."""
        kind = self._dice.choice(self._kinds)
        if kind in CHANGES:
            statuses, change = CHANGES[kind]
            ids = max((self._ids[status] for status in statuses), key=len)
            if ids:
                return change(self._sandbox, ids.pop(self._dice.randrange(len(ids))))
        return self._sandbox.order(self._sandbox.checkout())


def _freshness(folder: Path, updated_filter: str, changes: int) -> Iterator[Row]:
    honoured = updated_filter == "honoured"
    name = f"`minUpdatedAt` {updated_filter}"
    kinds = ["drafted", *(kind for kind in CHANGES if honoured or kind not in UNLISTED)]
    drawn = ", ".join(kinds) + ("" if honoured else "; no unpaid ones older than a day")
    say(f"Freshness, {name}: {changes:,} random changes ({drawn})")
    folder.mkdir()
    sandbox = Sandbox(updated_filter=updated_filter)
    sandbox.seed_orders(SHOP_ORDERS, days=SHOP_DAYS)
    shop = Shop(sandbox, kinds, "" if honoured else utc_text(sandbox.now() - UNPAID_SECONDS))
    with sandbox, Bridge(sandbox, folder, REFRESH_SECONDS=REFRESH_SECONDS, REFRESH_WAIT_SECONDS=20) as bridge:
        _settle(bridge, sandbox)
        counts = [_requests_of_a_poll(bridge, sandbox) for _ in range(IDLE_POLLS)]
        shown = _shown_at_once(bridge, shop, changes)
    yield Row(
        f"freshness, {name}: of {changes:,} random changes ({drawn}) the first poll shows",
        f"{shown:,}",
        f"{changes:,}",
        f"{shown / changes:.1%}",
        "100 %",
        shown == changes,
    )
    bar = 2 if honoured else 4
    yield Row(
        f"requests to AiFi that a poll waits for when nothing changed, {name}",
        f"{statistics.median(counts):.0f}",
        "1",
        f"{statistics.median(counts):.0f} ({min(counts)}–{max(counts)})",
        f"≤ {bar}",
        max(counts) <= bar,
    )


def _shown_at_once(bridge: Bridge, shop: Shop, changes: int) -> int:
    """Make changes, some at a time, and return how many of them the next poll shows."""
    seen, shown = _poll(bridge, {}), 0
    for _ in range(changes // CHANGES_PER_POLL):
        wanted = shop.change(CHANGES_PER_POLL)
        time.sleep(REFRESH_SECONDS)
        news = _poll(bridge, seen)
        seen.update(news)
        shown += sum(_shows(news.get(order_id), order) for order_id, order in wanted.items())
    return shown


def _settle(bridge: Bridge, sandbox: Sandbox) -> None:
    """Poll until the first refreshes are over, and what they have set going in the background."""
    for _ in range(3):
        bridge.orders()
        time.sleep(REFRESH_SECONDS)
    wait_until(lambda: time.monotonic() - sandbox.requests[-1].at > QUIET_SECONDS, 60, "a quiet AiFi")


def _requests_of_a_poll(bridge: Bridge, sandbox: Sandbox) -> int:
    """Return how many requests a poll waits for; the sweep's page comes after its answer."""
    time.sleep(REFRESH_SECONDS)
    sandbox.forget_requests()
    bridge.orders()
    return sum(bool(OF_A_REFRESH & request.args.keys()) for request in sandbox.requests)


def _poll(bridge: Bridge, seen: dict[str, dict]) -> dict[str, dict]:
    """Walk from the top until a row that was seen, as Aide does; return the rows before it by id."""
    news: dict[str, dict] = {}
    for page in bridge.walk():
        for row in page["orders"]:
            if row["id"] in seen and seen[row["id"]]["updated_at"] == row["updated_at"]:
                return news
            news[row["id"]] = row
        if not seen:
            return news
    return news


def _shows(row: dict | None, order: dict) -> bool:
    """Return whether the list's row says what AiFi says."""
    if row is None:
        return False
    said = row["status"], row["total_amount"], row["display_id"]
    return said == (order["status"], float(order["totalPrice"]), order["externalId"] or str(order["id"]))


# --- an empty database ---


def _first_answer(folder: Path, aifi: "RemoteSandbox", count: int, rounds: int) -> Row:
    say(f"The first answer from an empty database, {FIRST_ANSWER_LATENCY * 1000:.0f} ms a request, {rounds} times")
    aifi.do(_set_latency, FIRST_ANSWER_LATENCY)
    answers, round_trips = [], []
    with aifi_session(aifi) as session:
        _page(session, aifi, 0)  # opens the connection
        for number in range(rounds):
            round_trips.append(_seconds(lambda: _page(session, aifi, 0)))
            place = folder / f"first-{number}"
            place.mkdir()
            with Bridge(aifi, place) as bridge:
                answers.append(_seconds(bridge.orders))
    bars = [3 * round_trip + 0.2 for round_trip in round_trips]
    ratios = Ratios(answers, round_trips)
    return Row(
        f"empty database, {count:,} orders at AiFi, {FIRST_ANSWER_LATENCY * 1000:.0f} ms a request: the first answer",
        milliseconds(answers),
        f"one round trip: {milliseconds(round_trips)}",
        str(ratios),
        f"≤ 3 × + 200 ms = {milliseconds(bars)}",
        statistics.median(answers) <= statistics.median(bars),
    )


def _backfill(folder: Path, aifi: "RemoteSandbox", count: int, pages: int) -> Iterator[Row]:
    figure = f"`backfill` of {count:,} orders, {BACKFILL_LATENCY * 1000:.0f} ms a request, orders a second"
    place = folder / "backfill"
    place.mkdir()
    bridge = Bridge(aifi, place)
    command = [sys.executable, "-m", "flask", "--app", "app", "backfill"]
    options = {"cwd": PROJECT, "env": bridge.environment, "capture_output": True, "text": True}
    if subprocess.run([*command, "--help"], timeout=60, **options).returncode:
        say("There is no backfill command: not measured")
        yield Row(figure, "–", f"{RATE * PAGE:,}/s", "–", "≥ 0.90", None)
        return
    aifi.do(_set_latency, BACKFILL_LATENCY)
    one_by_one = _one_at_a_time(aifi, pages)
    _sandbox_limit(aifi, count // PAGE)  # so that all orders are written, and it costs the bridge no CPU
    say(f"Backfill of {count:,} orders; the sandbox could serve {_sandbox_limit(aifi):.0f} pages a second")
    refused, cpu, done = aifi.do(_refusals), cpu_of_children(), []
    seconds = _seconds(lambda: done.append(subprocess.run([*command, "--days", "3650"], timeout=240, **options)))
    if done[0].returncode or (kept := _orders_kept(bridge)) != count:
        raise RuntimeError(f"the backfill failed or kept {kept} orders of {count}: {done[0].stdout}{done[0].stderr}")
    refused, rate = aifi.do(_refusals) - refused, count / seconds
    cpu = (cpu_of_children() - cpu) / count
    say(f"It took {cpu * 1e6:.0f} µs of CPU an order: at {RATE * PAGE:,} a second {cpu * RATE * PAGE:.0%} of a core")
    yield Row(
        f"{figure}; {refused} × 503 provoked",
        f"{rate:,.0f}/s",
        f"{RATE} requests a second × {PAGE} orders: {RATE * PAGE:,}/s",
        f"{rate / (RATE * PAGE):.2f}",
        "≥ 0.90, no 503",
        rate >= 0.9 * RATE * PAGE and not refused,
    )
    yield Row(
        f"{figure}, beside a reader with one request at a time",
        f"{rate:,.0f}/s",
        f"{one_by_one:,.0f}/s",
        f"{rate / one_by_one:.2f}",
        "–",
        rate > one_by_one,
    )


def _orders_kept(bridge: Bridge) -> int:
    with contextlib.closing(sqlite3.connect(bridge.environment["DATABASE_PATH"])) as db:
        return db.execute("SELECT count(*) FROM orders").fetchone()[0]


def _one_at_a_time(aifi: "RemoteSandbox", pages: int) -> float:
    """Return the orders a second that a simple reader gets, who asks for the next page when it has this one."""
    with aifi_session(aifi) as session:
        return pages * PAGE / _seconds(lambda: [_page(session, aifi, page) for page in range(pages)])


def _sandbox_limit(aifi: "RemoteSandbox", pages: int = 60) -> float:
    """Return the pages a second that the sandbox serves at most, so that it is seen not to be the bottleneck."""
    aifi.do(_set_rate_limit, None)
    aifi.do(_set_latency, 0.0)
    with aifi_session(aifi) as session, ThreadPoolExecutor(8) as threads:
        seconds = _seconds(lambda: list(threads.map(lambda page: _page(session, aifi, page), range(pages))))
    aifi.do(_set_rate_limit, RATE)
    aifi.do(_set_latency, BACKFILL_LATENCY)
    time.sleep(1)  # until the limit's window holds none of these requests
    return pages / seconds


def aifi_session(aifi: "RemoteSandbox") -> requests.Session:
    """Return a session that AiFi lets in, past any proxy of the developer's machine."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {aifi.access_token}"
    return session


def _page(session: requests.Session, aifi: "RemoteSandbox", page: int) -> bytes:
    params = {
        "includeProducts": "true",
        "includeContest": "true",
        "pageSize": PAGE,
        "orderBy": "draftCreatedAt",
        "direction": "desc",
    }
    answer = session.get(f"{aifi.base_url}/orders", params={**params, "page": page}, timeout=30)
    answer.raise_for_status()
    return answer.content


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- a sandbox in a process of its own ---


class RemoteSandbox(SimpleNamespace):
    """A sandbox elsewhere: its address, its token, and a line to it."""

    base_url: str
    access_token: str
    pipe: Connection

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run `work(sandbox, *arguments)` over there, and return what it returns."""
        self.pipe.send((work, arguments))
        if not self.pipe.poll(REMOTE_SECONDS):
            raise TimeoutError("the sandbox does not answer")
        return self.pipe.recv()


@contextlib.contextmanager
def remote_sandbox(count: int, days: float) -> Iterator[RemoteSandbox]:
    """Run a sandbox with settled orders in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_sandbox, args=(theirs, count, days), daemon=True)
    process.start()
    try:
        aifi = RemoteSandbox(base_url="", access_token="", pipe=ours)
        aifi.base_url, aifi.access_token = aifi.do(_address)
        yield aifi
    finally:
        process.terminate()
        process.join(REMOTE_SECONDS)


def _serve_sandbox(pipe: Connection, count: int, days: float) -> None:
    sandbox = Sandbox(keeps_rows=True)
    sandbox.seed_orders(count, days=days)
    with sandbox:
        while True:
            work, arguments = pipe.recv()
            pipe.send(work(sandbox, *arguments))


def _address(sandbox: Sandbox) -> tuple[str, str]:
    return sandbox.base_url, sandbox.access_token


def _set_latency(sandbox: Sandbox, seconds: float) -> None:
    sandbox.latency_seconds = seconds


def _set_rate_limit(sandbox: Sandbox, limit: int | None) -> None:
    sandbox.rate_limit = limit


def _refusals(sandbox: Sandbox) -> int:
    return len(sandbox.refused_by_rate)
