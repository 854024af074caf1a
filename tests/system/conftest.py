"""What the tests of the whole system share: bridges that many tests may ask, and a server of the retailer."""

from collections.abc import Iterator

import pytest

from tests.conftest import BRIDGES
from tests.system.support import OTHER_KEYS, QUICK, SELDOM, Receiver, wait_for_order, walk
from tools.harness import AIDE_KEY, Bridge
from tools.postgresql import Server
from tools.sandbox import Sandbox


@pytest.fixture(scope="module")
def own_server(server: Server) -> Iterator[Server]:
    """Run a server that a test may stop, freeze and kill."""
    with Server(server.programs) as own_server:
        yield own_server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def shops() -> Iterator[Sandbox]:
    """An AiFi in which nothing changes, for the tests that only ask."""
    with Sandbox(seed=2) as sandbox:
        sandbox.seed_orders(120)
        yield sandbox


@pytest.fixture(scope="module")
def quiet(shops: Sandbox, new_place, tmp_path_factory) -> Iterator[Bridge]:
    """A bridge to it that has read all orders, for the tests that leave no trace."""
    keys = ",".join((AIDE_KEY, *OTHER_KEYS))
    wanted = {"REFRESH_SECONDS": SELDOM, "AIDE_API_KEY": keys}
    with new_place() as place, Bridge(shops, tmp_path_factory.mktemp("quiet"), place=place, **wanted) as bridge:
        walk(bridge)
        yield bridge


@pytest.fixture(scope="module")
def shared(new_place, tmp_path_factory) -> Iterator[tuple[Sandbox, Bridge]]:
    """An AiFi and a bridge that asks it at every poll, for the tests that leave both as they were."""
    with Sandbox() as sandbox:
        sandbox.seed_orders(4)
        with new_place() as place, Bridge(sandbox, tmp_path_factory.mktemp("shared"), place=place, **QUICK) as bridge:
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
