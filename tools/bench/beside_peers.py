"""The bridge beside what one would use instead, on the same work: `make bench PEERS=1`.

Each peer is installed into a virtual environment of its own, below `.peers`; their programs are in `peers`.
"""

import contextlib
import functools
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import psutil

from sweep import ALL
from tools.bench import aifi_side, load, mirrors, serving
from tools.bench.load import Target
from tools.bench.report import Ratios, Row, a_second, say
from tools.harness import PROJECT, Bridge, free_port, wait_until
from tools.sandbox import Sandbox

PEERS = {"dlt": "dlt[sqlalchemy]==1.31.0", "singer": "singer-sdk==0.54.9", "datasette": "datasette==0.65.5"}
NAMES = {"dlt": "dlt's REST API source", "singer": "a Singer tap of Meltano's SDK"}
CURSORS = {
    "draft time": ("draftCreatedAt", "minDraftCreatedAt"),
    "update time": ("updatedAt", "minUpdatedAt"),
}
LATE_SECONDS = 600
HIDDEN = ("drafted late", "deleted", "refunded, with its old time")  # which no list by time need show
RUN_SECONDS = 900
State = tuple[str, float, bool]  # status, total, refunded


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """Measure the figures one after another."""
    for name in PEERS:
        _install(name)
    yield from _freshness(folder, changes=200 if quick else 1000)
    yield from _backfills(folder, count=4_000 if quick else 20_000)
    yield from _pages(folder, *((50_000, 500, 3) if quick else (1_000_000, 10_000, 7)))


def _environment(name: str) -> Path:
    return PROJECT / ".peers" / name


def _install(name: str) -> None:
    place = _environment(name)
    ready = place / PEERS[name]
    if not ready.exists():
        say(f"Installing {PEERS[name]}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, PEERS[name]], check=True)
        ready.touch()


# --- what each knows of a shop ---


class Aifi(Protocol):
    """AiFi's address and token."""

    base_url: str
    access_token: str


@dataclass
class Peer:
    """A program that copies AiFi's orders into SQLite when it is run."""

    name: str
    cursor: str
    folder: Path

    @property
    def title(self) -> str:
        """What it is called in the table."""
        return f"{NAMES[self.name]} ({PEERS[self.name].partition('==')[2]}), cursor on the {self.cursor}"

    def run(self, aifi: Aifi) -> tuple[float, float]:
        """Copy what is new; return the seconds that it took, and those of CPU."""
        self.folder.mkdir(exist_ok=True)
        cpu, began = load.cpu_of_children(), time.perf_counter()
        program = [_environment(self.name) / "bin" / "python", PROJECT / "tools/bench/peers" / f"{self.name}_orders.py"]
        arguments = [aifi.base_url, aifi.access_token, self.folder, *CURSORS[self.cursor]]
        environment = {"HOME": str(self.folder), "PATH": os.defpath, "RUNTIME__DLTHUB_TELEMETRY": "false"}
        done = subprocess.run(
            [*program, *arguments], env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{self.title} failed:\n{done.stderr[-2000:]}")
        return time.perf_counter() - began, load.cpu_of_children() - cpu

    def knows(self) -> dict[str, State]:
        """Return what it knows of each order."""
        refunded = "transaction__refunded" if self.name == "dlt" else "refunded"
        sql = f"SELECT id, status, total_price, {refunded} FROM orders"
        with contextlib.closing(sqlite3.connect(self.folder / "orders.db")) as db:
            return {str(name): (status, float(total), bool(back)) for name, status, total, back in db.execute(sql)}


def _bridge_knows(bridge: Bridge) -> dict[str, State]:
    """Walk the list as Aide does; return what it shows of each order."""
    rows = [row for page in bridge.walk(page_size=100) for row in page["orders"]]
    return {row["id"]: (row["status"], row["total_amount"], bool(row["refunded"])) for row in rows}


# --- freshness ---


def _change(kind: str, sandbox: Sandbox, dice: random.Random, ids: list[int]) -> int:
    """Do one of the things that happen in a shop to an order that nothing has happened to; return its id."""
    if kind == "drafted":
        return sandbox.checkout()
    if kind == "drafted late":
        return sandbox.checkout(at=sandbox.now() - LATE_SECONDS)
    order_id = ids.pop(dice.randrange(len(ids)))
    order = sandbox.order(order_id)
    if kind == "deleted":
        sandbox.delete(order_id)
    elif kind == "refunded, with its old time":
        sandbox.refund(order_id)
    elif order["status"] in aifi_side.CHANGES[kind][0]:
        aifi_side.CHANGES[kind][1](sandbox, order_id)
    else:
        sandbox.correct_price(order_id, Decimal(order["totalPrice"]) + 1)
    return order_id


def _freshness(folder: Path, changes: int) -> Iterator[Row]:
    say(f"Freshness beside peers: {changes:,} random changes")
    sandbox = Sandbox(seed=3)
    sandbox.seed_orders(2 * changes, days=aifi_side.SHOP_DAYS)
    peers = [Peer(name, cursor, folder / f"{name}-{cursor[:5]}") for name in NAMES for cursor in CURSORS]
    place = folder / "beside"
    place.mkdir()
    with sandbox, Bridge(sandbox, place, REFRESH_SECONDS=aifi_side.REFRESH_SECONDS, REFRESH_WAIT_SECONDS=20) as bridge:
        aifi_side._settle(bridge, sandbox)
        _bridge_knows(bridge)
        for peer in peers:
            peer.run(sandbox)
        idle = {"the bridge": _idle_cpu(bridge)}
        dice, ids = random.Random(11), sandbox.order_ids()
        kinds = [dice.choice((*aifi_side.CHANGES, "drafted", *HIDDEN)) for _ in range(changes)]
        changed = {_change(kind, sandbox, dice, ids): kind for kind in kinds}
        time.sleep(aifi_side.REFRESH_SECONDS)
        known = _bridge_knows(bridge)
        listed = {order_id for order_id, kind in changed.items() if kind not in HIDDEN}
        at_once = _share(known, sandbox, listed)
        shares = {"the bridge, after the next poll": _share(known, sandbox, changed)}
        for peer in peers:
            peer.run(sandbox)
            shares[peer.title] = _share(peer.knows(), sandbox, changed)
        _wait_for_sweep(bridge)
        shares["the bridge, after one sweep"] = _share(_bridge_knows(bridge), sandbox, changed)
        for peer in peers:
            idle[peer.title] = peer.run(sandbox)[1]
    yield Row(
        f"of {len(listed):,} changes that a list by time can show, the bridge knows after the next poll",
        f"{at_once:.1%}",
        "all",
        f"{at_once:.3f}",
        "100 %",
        at_once == 1.0,
    )
    yield from _share_rows(shares, changes)
    yield from _idle_rows(idle)


def _share_rows(shares: Mapping[str, float], changes: int) -> Iterator[Row]:
    for name, share in shares.items():
        bar = "100 %" if name.endswith("sweep") else "–"
        figure = f"of {changes:,} changes, also deletions, drafts shown late and refunds with old times, knows {name}"
        yield Row(figure, f"{share:.1%}", "all", f"{share:.3f}", bar, share == 1.0 if bar != "–" else True)


def _idle_rows(idle: Mapping[str, float]) -> Iterator[Row]:
    ours = idle["the bridge"]
    for name, seconds in idle.items():
        if name != "the bridge":
            yield Row(
                "CPU of a sync when nothing changed",
                f"{ours * 1000:.1f} ms",
                f"{name}: {seconds * 1000:,.0f} ms",
                f"{ours / seconds:.3f}",
                "≤ 0.1",
                ours <= seconds / 10,
            )


def _idle_cpu(bridge: Bridge, polls: int = 20) -> float:
    """Return the seconds of CPU of a poll that refreshes and finds nothing."""
    worker = psutil.Process(bridge.worker_pids()[0])
    before = worker.cpu_times()
    for _ in range(polls):
        time.sleep(2 * aifi_side.REFRESH_SECONDS)
        bridge.orders()
    after = worker.cpu_times()
    return (after.user + after.system - before.user - before.system) / polls


def _share(known: Mapping[str, State], sandbox: Sandbox, changed: Collection[int]) -> float:
    """Return of how many of the changed orders it knows what AiFi says."""
    there = set(sandbox.order_ids())
    return sum(known.get(str(order_id)) == _state(sandbox, order_id, there) for order_id in changed) / len(changed)


def _state(sandbox: Sandbox, order_id: int, there: set[int]) -> State | None:
    if order_id not in there:
        return None
    order = sandbox.order(order_id)
    return order["status"], float(order["totalPrice"]), order["transaction"]["refunded"]


def _wait_for_sweep(bridge: Bridge) -> None:
    """Poll until a round of the sweep that began by now has ended."""
    store = mirrors.parts_of(bridge).store
    since, rounds = store.now(), []

    def has_ended() -> bool:
        bridge.orders()
        ended = store.sweep(ALL).ended_at
        if ended and ended > since and ended not in rounds:
            rounds.append(ended)
        return len(rounds) == 2  # the first one began before

    wait_until(has_ended, 120, "a whole sweep")
    store.close()


# --- backfill ---


def _backfills(folder: Path, count: int) -> Iterator[Row]:
    say(f"Backfill beside peers: {count:,} orders")
    place = folder / "backfill-beside"
    place.mkdir()
    with aifi_side.remote_sandbox(count, aifi_side.HISTORY_DAYS) as aifi:
        aifi.do(aifi_side._set_latency, aifi_side.BACKFILL_LATENCY)
        command = [sys.executable, "-m", "flask", "--app", "app", "backfill", "--days", "3650"]
        began = time.perf_counter()
        environment = Bridge(aifi, place).environment
        subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, timeout=RUN_SECONDS, check=True)
        ours = count / (time.perf_counter() - began)
        for name in NAMES:
            peer = Peer(name, "draft time", folder / f"{name}-backfill")
            theirs = count / peer.run(aifi)[0]
            yield Row(
                f"backfill of {count:,} orders, {aifi_side.BACKFILL_LATENCY * 1000:.0f} ms a request, orders a second",
                f"{ours:,.0f}/s",
                f"{peer.title}: {theirs:,.0f}/s",
                f"{ours / theirs:.1f}",
                "≥ 3",
                ours >= 3 * theirs,
            )


# --- pages ---


def _pages(folder: Path, count: int, pages: int, rounds: int) -> Iterator[Row]:
    say(f"Pages beside peers, from a mirror of {count:,} orders")
    large = mirrors.idle_bridge(folder / "pages")
    mirrors.fill(large, count)
    path, token = large.environment["DATABASE_PATH"], mirrors.page_token(large, pages - 1)
    offset = serving._bare_bridge(folder / "offset", "create_with_offset", {"MIRROR_PATH": path})
    with large, offset, _datasette(path) as port:
        updated_at, order_id = _row_before(path, (pages - 1) * 50)
        query = "_sort_desc=updated_at&_size=50&_shape=array&_col=summary&_nofacet=1&_nocount=1"
        theirs = f"/orders/orders.json?{query}"
        targets = {
            ("page 1", "the bridge"): Target(large.port, "/v1/latest_orders", serving.KEY),
            ("page 1", "Flask with OFFSET"): Target(offset.port, "/page/0"),
            ("page 1", "Datasette"): Target(port, theirs),
            (f"page {pages:,}", "the bridge"): Target(large.port, f"/v1/latest_orders?page_token={token}", serving.KEY),
            (f"page {pages:,}", "Flask with OFFSET"): Target(offset.port, f"/page/{pages - 1}"),
            (f"page {pages:,}", "Datasette"): Target(port, f"{theirs}&_next={_tilde(updated_at)},{order_id}"),
        }
        works = {key: functools.partial(load.run, target, 1) for key, target in targets.items()}
        rates: dict[Any, list[float]] = serving._in_turn(works, rounds)
    for page, who in targets:
        if who != "the bridge":
            ratios = Ratios(rates[page, "the bridge"], rates[page, who])
            beside = f"{who}: {a_second(rates[page, who])}"
            ours = a_second(rates[page, "the bridge"])
            yield Row(f"{page} of {count:,} orders", ours, beside, str(ratios), "≥ 1", ratios.median >= 1)


@contextlib.contextmanager
def _datasette(path: str) -> Iterator[int]:
    """Serve the mirror by Datasette; yield the port."""
    port = free_port()
    program = _environment("datasette") / "bin" / "datasette"
    command = [program, "serve", path, "--port", str(port), "--setting", "suggest_facets", "off"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _is_open(port), 30, "Datasette")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _is_open(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _row_before(path: str, number: int) -> tuple[str, str]:
    """Return the place of the row before that number of the list."""
    sql = "SELECT updated_at, id FROM orders ORDER BY updated_at DESC, id DESC LIMIT 1 OFFSET ?"
    with contextlib.closing(sqlite3.connect(path)) as db:
        found: tuple[str, str] = db.execute(sql, (number - 1,)).fetchone()
        return found


def _tilde(text: str) -> str:
    """Return text as Datasette writes it in a token."""
    return "".join(char if char.isalnum() or char in "-_" else f"~{ord(char):02X}" for char in text)
