"""AiFi's odd habits, one a test, end to end: whatever its lists do, Aide learns of every order."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.system.support import ids, newest, page, texts, try_poll, wait_for_order, walk
from tools.harness import Bridge, wait_until
from tools.sandbox import Sandbox

ORDERS = 1_100
QUICK = {"REFRESH_SECONDS": 0.1}


def settings(**values: Any) -> Callable[[Sandbox], None]:
    def apply(sandbox: Sandbox) -> None:
        for name, value in values.items():
            setattr(sandbox, name, value)

    return apply


def fault(kind: str, times: int | None = 1, **details: Any) -> Callable[[Sandbox], None]:
    return lambda sandbox: sandbox.inject(kind, times, "/orders", **details)


HABITS: dict[str, Callable[[Sandbox], None]] = {
    "the first list is empty": fault("empty"),
    "a list of older orders is empty once": fault("empty", having="maxDraftCreatedAt", after=1),
    "the list of changes is empty once": fault("empty", having="minUpdatedAt"),
    "a page lacks a row once": fault("missing_row", having="maxDraftCreatedAt"),
    "a list says that there were errors": fault("empty", errors=[{"error": "a shard is down"}]),
    "lists end at row 500": settings(depth_limit=500, beyond_depth="empty"),
    "lists are refused beyond row 500": settings(depth_limit=500, beyond_depth="refused"),
    "times are cut to seconds": settings(coarse_filters=1),
    "times are cut to minutes": settings(coarse_filters=60),
    "times are cut to days": settings(coarse_filters=86400),
    "times are read in a zone two hours ahead": settings(filter_offset_hours=2),
    "times are read in a zone five hours behind": settings(filter_offset_hours=-5),
    "the bounds of the draft are ignored": settings(draft_filter="ignored"),
    "orders of one time come in another order each time": settings(tie_order="shuffled"),
    "the last page is repeated for ever": settings(past_end="last_page"),
    "the last page is repeated, with a link that differs": settings(past_end="last_page", signed_links=True),
    "the first page's number is refused with 404": fault("status", None, having="page=0", code=404),
    "page numbers are refused with 422": fault("status", None, having="page", code=422),
    "AiFi fails after every eighth request": fault("status", 5, after=8, again=True, code=500),
}


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_a_walk_meets_every_order_though(habit, sandbox, start_bridge):
    seeded = sandbox.seed_orders(ORDERS, days=3)
    habit(sandbox)
    bridge = start_bridge(**QUICK)
    wait_until(lambda: try_poll(bridge).json().get("next_page_token"), 20, "a first page with more behind it")
    met = wait_until(lambda: whole_walk(bridge), 60, "a walk to the end")
    assert set(met) == texts(seeded)
    assert len(met) == len(seeded)


@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_a_new_order_is_found_though(habit, sandbox, start_bridge):
    sandbox.seed_orders(300, days=3)
    bridge = start_bridge(**QUICK)
    page(bridge)
    habit(sandbox)
    wait_for_order(bridge, sandbox.checkout(), seconds=20)


def whole_walk(bridge: Bridge) -> list[str] | None:
    """Return the ids of a walk to the end; None where AiFi failed on the way."""
    met: list[str] = []
    token = None
    while True:
        response = bridge.get("/v1/latest_orders", page_size=100, **({"page_token": token} if token else {}))
        if response.status_code != 200:
            return None
        met += ids(response.json()["orders"])
        token = response.json().get("next_page_token")
        if token is None:
            return met


# --- what the sweep finds


def place(bridge: Bridge, order_id: int) -> str:
    """Return the order's `updated_at` in the list; before all times where it is not there."""
    return next((row["updated_at"] for row in walk(bridge) if row["id"] == str(order_id)), "")


def test_an_order_that_aifi_shows_late_with_its_old_times_is_found(sandbox, start_bridge):
    sandbox.seed_orders(300, days=2)
    bridge = start_bridge(**QUICK)
    hidden = sandbox.checkout(hidden=True, at=sandbox.now() - 3600)
    walk(bridge)
    served = newest(bridge)["updated_at"]
    sandbox.show(hidden)
    wait_until(lambda: place(bridge, hidden) > served, 20, "the order above all that was served")


def test_an_order_that_aifi_deleted_is_gone_from_list_and_look_up(sandbox, start_bridge):
    deleted = sandbox.seed_orders(300, days=2)[150]
    bridge = start_bridge(**QUICK)
    assert str(deleted) in ids(walk(bridge))
    sandbox.delete(deleted)
    wait_until(lambda: str(deleted) not in ids(walk(bridge)), 20, "the order to be gone")
    assert bridge.get(f"/v1/orders/{deleted}").status_code == 404


def test_a_refund_that_moves_no_time_is_found(sandbox, start_bridge):
    refunded = sandbox.seed_orders(30, days=2)[10]
    bridge = start_bridge(**QUICK)
    walk(bridge)
    served = newest(bridge)["updated_at"]
    sandbox.refund(refunded)
    wait_until(lambda: place(bridge, refunded) > served, 20, "the refunded order above all that was served")
    assert bridge.get(f"/v1/orders/{refunded}").json()["refunded"] is True
