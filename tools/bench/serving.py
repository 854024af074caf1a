"""The figures of serving: requests a second beside bare Flask, memory, disk, and the start."""

import contextlib
import functools
import http.client
import json
import os
import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tools.bench import load, mirrors
from tools.bench.load import Run, Target
from tools.bench.report import Ratios, Row, a_second, milliseconds, say
from tools.harness import AIDE_KEY, WEBHOOK_SECRET, Bridge, wait_until
from tools.postgresql import Server, find_programs
from tools.sandbox import Sandbox

SMALL = 1_000
MEBIBYTE = 1024 * 1024
MOST_NEW_WEBHOOKS = 8_000  # the bridge keeps 10,000 orders that AiFi has not confirmed
PLACEHOLDER, PLACEHOLDER_BEFORE = 987654321, 987654320
FIRST_WEBHOOK_ID, IDS_A_ROUND = 100_000_000, 1_000_000
KEY = {"X-API-Key": AIDE_KEY}
GENERATOR_BUSY = 0.8


@dataclass(frozen=True)
class Servers:
    """The bare app, and the bridges with a large and a small mirror."""

    bare: Bridge
    large: Bridge
    small: Bridge


def rows(folder: Path, quick: bool) -> Iterator[Row]:
    """Measure the figures one after another."""
    count, pages = (50_000, 500) if quick else (1_000_000, 10_000)
    rounds, seconds = (3, 1) if quick else (9, 1)
    yield _start(folder, rounds=3 if quick else 9)
    small, large = mirrors.idle_bridge(folder / "small"), mirrors.idle_bridge(folder / "large")
    mirrors.fill(small, SMALL)
    say(f"A mirror of {count:,} orders, by the store's own write path")
    mirrors.fill(large, count)
    token = mirrors.page_token(large, pages - 1)
    disk = _file_size(large) / count
    with large, small, _bare(folder, large) as bare:
        as_json = _order_size(large, count)
        servers = Servers(bare, large, small)
        targets = _targets(servers, count, token)
        _check_generator(targets["constant list"], servers, seconds)
        yield from _rates(targets, rounds, seconds, count, pages)
        yield from _webhook_rates(servers, rounds, seconds)
        _catch_up(servers.small, rounds, seconds)
        yield from _memory(servers, count)
    yield _size(disk, as_json)
    if not quick:
        yield from _on_a_server(folder, rounds, seconds)


# --- a PostgreSQL server ---


def _on_a_server(folder: Path, rounds: int, seconds: int) -> Iterator[Row]:
    """Measure a mirror on a server beside one in a file, both on this machine, and both on disk at each commit."""
    if not (programs := find_programs()):
        return
    say(f"A PostgreSQL server beside the file: {rounds} times {seconds} s each")
    with Server(programs, durable=True) as server, server.new_database() as place:
        bridges = (mirrors.idle_bridge(folder / "server", place), mirrors.idle_bridge(folder / "file"))
        for bridge in bridges:
            mirrors.fill(bridge, SMALL)
        with bridges[0] as on_server, bridges[1] as in_file:
            for figure, target in (
                ("`latest_orders` (50 orders)", lambda bridge: Target(bridge.port, "/v1/latest_orders", KEY)),
                ("one order", _any_order),
                ("webhooks acknowledged", _webhook_target),
            ):
                runs = {bridge: functools.partial(load.run, target(bridge), seconds) for bridge in bridges}
                rates = _in_turn(runs, rounds)
                yield Row(
                    f"{figure} a second, from a PostgreSQL server on this machine",
                    a_second(rates[on_server]),
                    f"from the file: {a_second(rates[in_file])}",
                    str(Ratios(rates[on_server], rates[in_file])),
                    "–",
                    True,
                )
            yield _server_memory(_resident(on_server), _resident(in_file))


def _any_order(bridge: Bridge) -> Target:
    return Target(bridge.port, "/v1/orders/{n}", KEY, first=mirrors.FIRST_ID, count=SMALL, stride=7919)


def _server_memory(on_server: float, in_file: float) -> Row:
    return Row(
        "memory of a worker whose mirror is on a PostgreSQL server",
        f"{on_server:.0f} MiB",
        f"in a file: {in_file:.0f} MiB",
        f"{on_server - in_file:+.0f} MiB",
        "≤ + 6 MiB",
        on_server - in_file <= 6,
    )


# --- the start ---


def _start(folder: Path, rounds: int) -> Row:
    say(f"The start, {rounds} times")
    bridge = mirrors.idle_bridge(folder / "start")
    empty = _bare_bridge(folder / "start-bare", "create_empty", {})
    measured, limits = [], []
    for number in range(rounds + 1):
        ours, bare = _seconds_to_first_answer(bridge), _seconds_to_first_answer(empty)
        if number:  # the first start makes the database, and the files' caches warm
            measured.append(ours)
            limits.append(bare)
    ratios = Ratios(measured, limits)
    return Row(
        "process start to first answer of `/healthz`",
        milliseconds(measured),
        f"gunicorn with an empty app that imports flask and requests: {milliseconds(limits)}",
        str(ratios),
        "≤ 1.3",
        ratios.median <= 1.3,
    )


def _seconds_to_first_answer(bridge: Bridge) -> float:
    began = time.perf_counter()
    bridge.start(wait=False)
    try:
        wait_until(lambda: _is_healthy(bridge.port), 20, "the first answer")
        return time.perf_counter() - began
    finally:
        bridge.stop()


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(ConnectionRefusedError):
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    return False


# --- rates ---


def _bare(folder: Path, like: Bridge) -> Bridge:
    """Return the bare app, whose constants are as long as the answers of this bridge."""
    newest = like.get("/v1/latest_orders")
    order = like.get(f"/v1/orders/{newest.json()['orders'][0]['id']}")
    sizes = {"BENCH_LIST_BYTES": len(newest.content), "BENCH_ORDER_BYTES": len(order.content)}
    return _bare_bridge(folder / "bare", "create_app", sizes)


def _bare_bridge(folder: Path, factory: str, settings: Mapping[str, int]) -> Bridge:
    folder.mkdir()
    return Bridge(mirrors.NO_AIFI, folder, command=f'gunicorn "tools.bench.bare:{factory}()"', **settings)


def _targets(servers: Servers, count: int, token: str) -> dict[str, Target]:
    bare, large, small = servers.bare.port, servers.large.port, servers.small.port
    any_order = {"first": mirrors.FIRST_ID, "count": count, "stride": 7919}  # a prime: every order comes in turn
    return {
        "constant list": Target(bare, "/list", KEY),
        "list": Target(large, "/v1/latest_orders", KEY),
        "list of a small mirror": Target(small, "/v1/latest_orders", KEY),
        "late page": Target(large, f"/v1/latest_orders?page_token={token}", KEY),
        "constant order": Target(bare, "/order", KEY),
        "order": Target(large, "/v1/orders/{n}", KEY, **any_order),
    }


def _check_generator(target: Target, servers: Servers, seconds: int) -> None:
    """Print how busy the generator and the worker are under the lightest of the answers."""
    worker = psutil.Process(servers.bare.worker_pids()[0])
    before = worker.cpu_times()
    run = load.run(target, seconds)
    after = worker.cpu_times()
    share = (after.user + after.system - before.user - before.system) / run.seconds
    say(
        f"Load by {load.generator()}, {load.CONNECTIONS} connections. Check on the constant route: {run.rate:,.0f}/s, "
        f"generator {run.generator_share:.0%} busy, worker {share:.0%}"
    )
    if run.generator_share > GENERATOR_BUSY:
        say("The generator itself may be the bottleneck: the rates below are too low, the ratios too near to 1")


def _rates(targets: Mapping[str, Target], rounds: int, seconds: int, count: int, pages: int) -> Iterator[Row]:
    say(f"Rates: {len(targets)} targets in turn, {rounds} times {seconds} s")
    rates = _in_turn({name: functools.partial(load.run, target, seconds) for name, target in targets.items()}, rounds)

    def row(figure: str, measured: str, beside: str, text: str, bar: float) -> Row:
        ratios = Ratios(rates[measured], rates[beside])
        limit = f"{text}: {a_second(rates[beside])}"
        return Row(figure, a_second(rates[measured]), limit, str(ratios), f"≥ {bar}", ratios.median >= bar)

    latest = f"`latest_orders` (50 orders) from a mirror of {count:,}"
    yield row(latest, "list", "constant list", "Flask's constant JSON of that size", 0.62)
    yield row(latest, "list", "list of a small mirror", f"from a mirror of {SMALL:,}", 0.95)
    yield row(f"page {pages:,} of a walk, {count:,} orders", "late page", "list", "page 1", 0.9)
    yield row(f"one order, any of {count:,}", "order", "constant order", "Flask's constant JSON of that size", 0.6)


def _in_turn(works: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[float]]:
    """Return the rates of runs made in turn."""
    rates = defaultdict(list)
    for _ in range(rounds):
        for name, work in works.items():
            rates[name].append(work().rate)
    return rates


def _webhook_rates(servers: Servers, rounds: int, seconds: int) -> Iterator[Row]:
    say(f"Webhooks, {rounds} times {seconds} s")
    bridge = _webhook_target(servers.large)
    bare = replace(bridge, port=servers.bare.port, path="/webhook")
    measured, limits, sent = [], [], 0
    for number in range(rounds):
        first = FIRST_WEBHOOK_ID + number * IDS_A_ROUND
        run = load.run(replace(bridge, first=first), seconds)
        measured.append(run.rate)
        limits.append(load.run(replace(bare, first=first), seconds).rate)
        sent += run.answers
        if sent / 2 > MOST_NEW_WEBHOOKS * (number + 1) / (number + 2):  # another round might be one too many
            break
    ratios = Ratios(measured, limits)
    yield Row(
        "webhooks acknowledged a second, each on disk (drafts of new orders, payments of earlier ones)",
        a_second(measured),
        f"a Flask route that commits the same bytes to SQLite: {a_second(limits)}",
        str(ratios),
        "≥ 0.65",
        ratios.median >= 0.65,
    )


def _webhook_target(bridge: Bridge) -> Target:
    headers = {"Authorization": f"Bearer {WEBHOOK_SECRET}", "Content-Type": "application/json"}
    return Target(bridge.port, "/webhooks/aifi", headers, _webhooks(), FIRST_WEBHOOK_ID, IDS_A_ROUND)


def _webhooks() -> tuple[str, str]:
    """Return two webhooks as templates: a new order's draft, and the payment of one that was drafted before."""
    sandbox = Sandbox()
    order_id = sandbox.checkout(lines=[(product, 1) for product in sandbox.products[: mirrors.LINES]])
    draft = _template(sandbox.webhook(order_id), PLACEHOLDER)
    sandbox.complete(order_id)
    sandbox.pay(order_id)
    paid = _template(sandbox.webhook(order_id), PLACEHOLDER_BEFORE)
    return draft.replace(str(PLACEHOLDER), "{n}"), paid.replace(str(PLACEHOLDER_BEFORE), "{before}")


def _template(webhook: dict, number: int) -> str:
    session = {**webhook["session"], "sessionId": f"session-{number}"}
    return json.dumps({**webhook, "orderId": number, "session": session})


# --- memory and disk ---


def _memory(servers: Servers, count: int) -> Iterator[Row]:
    """Compare the workers' memory after all of the load."""
    bare, large, small = (_resident(bridge) for bridge in (servers.bare, servers.large, servers.small))
    yield Row(
        f"memory of one worker after all of this, {count:,} orders",
        f"{large:.0f} MiB",
        f"the bare gunicorn and Flask worker: {bare:.0f} MiB",
        f"{large / bare:.2f} (+{large - bare:.0f} MiB)",
        "≤ + 40 MiB",
        large - bare <= 40,
    )
    yield Row(
        "the same as orders grow",
        f"{count:,} orders: {large:.0f} MiB",
        f"{SMALL:,} orders: {small:.0f} MiB",
        f"{large / small:.2f} ({large - small:+.0f} MiB)",
        "flat: ≤ 1.1",
        large / small <= 1.1,
    )


def _catch_up(small: Bridge, rounds: int, seconds: int) -> None:
    """Load the small mirror with what only the large one has seen, so that their memory can be compared."""
    say("The same load on the small mirror, for its memory")
    late_page = f"/v1/latest_orders?page_token={mirrors.page_token(small, SMALL // 50 - 1)}"
    for target in (_any_order(small), Target(small.port, late_page, KEY), _webhook_target(small)):
        load.run(target, max(1, rounds * seconds // 3))


def _resident(bridge: Bridge) -> float:
    return psutil.Process(bridge.worker_pids()[0]).memory_info().rss / MEBIBYTE


def _file_size(bridge: Bridge) -> int:
    """Return the bytes of the mirror, with all that its journal held."""
    path = bridge.environment["DATABASE_PATH"]
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return os.path.getsize(path)


def _order_size(bridge: Bridge, count: int) -> float:
    """Return the bytes of the JSON that Aide gets for an order, the mean of a hundred."""
    ids = range(mirrors.FIRST_ID, mirrors.FIRST_ID + count, count // 100)
    return statistics.mean(len(bridge.get(f"/v1/orders/{order_id}").content) for order_id in ids)


def _size(disk: float, as_json: float) -> Row:
    ratio = disk / as_json
    return Row(
        f"database size for an order with {mirrors.LINES} lines",
        f"{disk:,.0f} bytes",
        f"the JSON that Aide gets: {as_json:,.0f} bytes",
        f"{ratio:.2f}",
        "≤ 2",
        ratio <= 2,
    )
