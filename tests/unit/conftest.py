"""What the tests of single rooms share: a world of a fake AiFi and a mirror that is kept like it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import responses

from aifi import Client
from intake import Settings
from tests.support import STATIC, Clock, credentials, join_tasks
from tests.unit.fake_aifi import FakeAifi, World
from transport import Token

BASE_URL = "https://aifi.test/api"
ORDERS_URL = f"{BASE_URL}/orders"


@pytest.fixture(autouse=True)
def _same_log() -> Iterator[None]:
    """Put the bridge's logger back as it was: `create_app` sets it up for the whole process."""
    logger = logging.getLogger("bridge")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = handlers, level


@pytest.fixture
def fake(clock: Clock) -> FakeAifi:
    """An AiFi without an order."""
    return FakeAifi(clock)


@pytest.fixture
def start_world(place: str, clock: Clock, fake: FakeAifi) -> Iterator[Callable[..., World]]:
    """Start a mirror of the fake AiFi, with these settings."""
    with ExitStack() as stack:

        def start(**settings: object) -> World:
            world = World(place, clock, fake, Settings(**{"wait_seconds": 20, **settings}))
            stack.callback(lambda: world.store.close())
            stack.callback(join_tasks)
            return world

        yield start


@pytest.fixture
def world(start_world: Callable[..., World]) -> World:
    return start_world()


# --- what a test registers for a URL is answered in turn, the last for ever


@pytest.fixture
def api() -> Iterator[responses.RequestsMock]:
    """Answer as registered; anything else that is asked, or left unasked, fails the test."""
    with responses.RequestsMock() as api:
        yield api
        assert [call.request.url for call in api.calls if "refused by Responses" in str(call.response)] == []


@pytest.fixture
def client() -> Client:
    return Client(f"{BASE_URL}/", Token(STATIC))


@pytest.fixture
def oauth_client() -> Client:
    return Client(BASE_URL, credentials())
