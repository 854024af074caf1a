"""Large mirrors, filled by the store's own write path with lifelike orders of five lines each."""

import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from app import create_app, encode_token
from config import Config
from diagnosis import Services
from orders import DETAIL, Anchor, Snapshot
from times import utc_text
from tools.harness import Bridge
from tools.sandbox import Sandbox
from translation import read_order

LINES = 5
PATTERNS = 300  # so many orders of the sandbox, which then repeat under other ids, times and sessions
FIRST_ID = 1001
BATCH = 5_000
SECONDS_BETWEEN_ORDERS = 30
SETTLED_SECONDS = 300
NO_AIFI = SimpleNamespace(base_url="http://127.0.0.1:9", access_token="unused")  # nobody may need it


def parts_of(bridge: Bridge) -> Services:
    """Return the store and the mirror that a bridge process works with, for work in this process."""
    return create_app(Config.from_environment(bridge.environment)).extensions["bridge"]


def idle_bridge(folder: Path, place: str = "") -> Bridge:
    """Return a bridge, not started, that answers from its mirror alone: it takes it for fresh for a day."""
    folder.mkdir()
    return Bridge(NO_AIFI, folder, place=place, REFRESH_SECONDS=86400)


def fill(bridge: Bridge, count: int) -> None:
    """Fill a bridge's mirror with `count` settled orders, from the newest to the oldest, as a walk into the past does.

    Ids rise with the draft, from FIRST_ID on; the marks say that this is all that AiFi has.
    """
    store = parts_of(bridge).store
    orders = _orders(count, store.clock())
    newest = oldest = Anchor("", "")
    while batch := [order for order, _ in zip(orders, range(BATCH), strict=False)]:
        store.put_orders(batch)
        first, last = (Anchor(order.order["created_at"], order.id or "") for order in (batch[0], batch[-1]))
        newest, oldest = max(newest, first), last
    store.move_marks(
        store.marks(),
        horizon=oldest.drafted_at,
        horizon_id=oldest.id,
        newest=str(newest),
        complete=1,
        refreshed_at=store.now(),
    )
    store.close()


def page_token(bridge: Bridge, pages: int, page_size: int = 50) -> str:
    """Return the token with which a walk goes on after so many pages."""
    store = parts_of(bridge).store
    after, left = None, pages * page_size
    while left > 0:
        after = store.serve_page(min(BATCH, left), after, may_be_short=False).last
        left -= BATCH
    store.close()
    return encode_token(after)


def _orders(count: int, now: float) -> Iterator[Snapshot]:
    dice = random.Random(5)
    patterns = _patterns(dice)
    for number in range(count):
        drafted = now - (number + 1) * SECONDS_BETWEEN_ORDERS
        session_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        pattern = dice.choice(patterns)
        order = {
            **pattern.order,
            "created_at": utc_text(drafted),
            "completed_at": utc_text(drafted + SETTLED_SECONDS / 2),
            "paid_at": utc_text(drafted + SETTLED_SECONDS),
            "session": {**pattern.order["session"], "id": session_id},
        }
        order_id = str(FIRST_ID + count - 1 - number)
        at = utc_text(drafted + SETTLED_SECONDS - 1)
        yield replace(pattern, id=order_id, order=order, at=at, session_id=session_id)


def _patterns(dice: random.Random) -> list[Snapshot]:
    """Return paid orders of the sandbox as the bridge reads them."""
    sandbox = Sandbox(seed=5)
    return [read_order(sandbox.order(_paid_order(sandbox, dice)), DETAIL) for _ in range(PATTERNS)]


def _paid_order(sandbox: Sandbox, dice: random.Random) -> int:
    at = time.time()
    lines = [(product, dice.choice((1, 1, 1, 2))) for product in dice.sample(sandbox.products, LINES)]
    order_id = sandbox.checkout(lines=lines, at=at)
    sandbox.complete(order_id, at=at)
    sandbox.pay(order_id, at=at)
    return order_id
