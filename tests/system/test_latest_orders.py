"""The list that Aide polls: whole, in order, in pages, and fresh."""

from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import pytest

from tests.system.contract import check
from tests.system.support import (
    ALWAYS,
    FILTERS,
    LATEST,
    SELDOM,
    at_once,
    connect_webhooks,
    delete_database,
    health,
    ids,
    newest,
    page,
    texts,
    wait_for_sweep,
    walk,
)
from tools.harness import AIDE_KEY, wait_until
from tools.sandbox import Sandbox

# --- the list


@pytest.mark.parametrize("page_size", [7, 50, 100])
def test_a_walk_from_an_empty_file_meets_every_order_once_in_falling_order(sandbox, start_bridge, page_size):
    seeded = sandbox.seed_orders(1234)
    rows = walk(start_bridge(), page_size)
    assert len(rows) == 1234
    assert set(ids(rows)) == texts(seeded)
    places = [(row["updated_at"], row["id"]) for row in rows]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize("updated_at_shown", [True, False], ids=["times shown", "no times"])
@pytest.mark.parametrize("updated_filter", FILTERS)
def test_the_first_poll_costs_at_most_four_requests(sandbox, start_bridge, updated_filter, updated_at_shown):
    sandbox.updated_filter, sandbox.updated_at_shown = updated_filter, updated_at_shown
    sandbox.seed_orders(1234)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    assert len(page(bridge)["orders"]) == 50
    asked = [request.args for request in sandbox.requests if request.path == "/orders"]  # the sweep's page, too
    assert 1 <= len(asked) <= 4, asked


@pytest.mark.parametrize("updated_filter", FILTERS)
def test_a_lost_database_file_gives_the_same_orders_at_the_same_times(sandbox, start_bridge, updated_filter):
    sandbox.updated_filter = updated_filter
    sandbox.seed_orders(1234)
    bridge = start_bridge()
    before = walk(bridge, 100)
    bridge.terminate()
    delete_database(bridge)
    bridge.start()
    assert walk(bridge, 100) == before


def test_the_list_is_the_same_at_the_root(quiet):
    assert quiet.get("/latest_orders", page_size=100).content == quiet.get(LATEST, page_size=100).content


def test_a_page_holds_fifty_orders_if_no_size_is_given(quiet):
    assert len(page(quiet)["orders"]) == 50


@pytest.mark.parametrize("page_size", [1, 99, 100])
def test_a_page_holds_as_many_orders_as_wanted(quiet, page_size):
    assert len(page(quiet, page_size=page_size)["orders"]) == page_size


def test_the_last_page_has_no_token(quiet):
    *others, last = quiet.walk(50)
    assert [len(part["orders"]) for part in (*others, last)] == [50, 50, 20]
    assert all("next_page_token" in part for part in others)
    assert "next_page_token" not in last


def test_shops_without_orders_give_an_empty_list(bridge):
    assert page(bridge) == {"orders": []}


@pytest.mark.parametrize("text", ["0", "101", "-1", "+5", "1.5", "1e1", "ten", " 5", "５", "9" * 5000, "5,5"])
def test_a_wrong_page_size_is_refused(quiet, text):
    response = quiet.request("GET", f"{LATEST}?page_size={quote(text[:3000])}", headers={"X-API-Key": AIDE_KEY})
    assert response.status_code == 400
    assert check(response, LATEST)["error"]["code"] == "invalid_page_size"


@pytest.mark.parametrize("text", ["x", "null", "MjAyNQ", "%00", "ü", "=" * 40, "A" * 3000])
def test_a_foreign_page_token_is_refused(quiet, text):
    response = quiet.get(LATEST, page_token=text)
    assert response.status_code == 400
    assert check(response, LATEST)["error"]["code"] == "invalid_page_token"


def test_a_page_token_with_one_wrong_character_is_refused(quiet):
    token = page(quiet, page_size=1)["next_page_token"]
    damaged = [token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(len(token))]
    for text in (*damaged, token[:-1], token[1:], token + "A", token + "=", token + "\n"):
        assert quiet.get(LATEST, page_token=text).status_code == 400, text


@pytest.mark.parametrize("page_zero", ["as_one", "refused", "empty"])
def test_an_aifi_that_counts_pages_from_one_does_no_harm(sandbox, start_bridge, page_zero):
    sandbox.first_page, sandbox.page_zero = 1, page_zero
    seeded = sandbox.seed_orders(450)
    rows = walk(start_bridge(), 100)
    assert len(rows) == 450
    assert set(ids(rows)) == texts(seeded)


def test_an_aifi_with_small_pages_does_no_harm(sandbox, start_bridge):
    sandbox.page_limit = 50
    seeded = sandbox.seed_orders(230)
    rows = walk(start_bridge(), 100)
    assert len(rows) == 230
    assert set(ids(rows)) == texts(seeded)


# --- how fresh it is


def test_a_checkout_that_aifi_shows_minutes_late_is_at_the_head(sandbox, start_bridge):
    sandbox.seed_orders(5)
    sandbox.checkout()
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    before = walk(bridge)
    two_minutes_ago = datetime.now(timezone.utc) - timedelta(minutes=2)
    late = sandbox.checkout(drafted_at=two_minutes_ago, at=two_minutes_ago)
    first = newest(bridge)
    assert first["id"] == str(late)
    assert first["updated_at"] > before[0]["updated_at"]


def test_a_checkout_is_in_the_very_next_answer_after_its_webhook(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    page(bridge)
    connect_webhooks(sandbox, bridge)
    order_id = sandbox.checkout()
    assert [delivery.status for delivery in sandbox.deliveries] == [200]
    first = newest(bridge)
    assert (first["id"], first["status"]) == (str(order_id), "draft")
    assert first["total_amount"] == float(sandbox.order(order_id)["totalPrice"])


def test_a_checkout_without_a_webhook_is_there_after_the_refresh_time(sandbox, bridge):
    sandbox.seed_orders(30)
    page(bridge)
    order_id = sandbox.checkout()
    wait_until(lambda: newest(bridge)["id"] == str(order_id), what="the checkout in the list")


def test_nothing_is_asked_of_aifi_within_the_refresh_time(sandbox, start_bridge):
    sandbox.seed_orders(150)
    bridge = start_bridge(REFRESH_SECONDS=SELDOM)
    walk(bridge)
    wait_for_sweep(bridge)
    sandbox.forget_requests()
    walk(bridge)
    assert sandbox.requests == []


def refreshes(sandbox: Sandbox) -> int:
    """Return how many refreshes began since `forget_requests`: each asks once for what is new, from its first page."""
    return sum(request.path == "/orders" and "minDraftCreatedAt" in request.args for request in sandbox.requests)


@pytest.mark.parametrize("workers", [1, 3])
def test_twenty_polls_at_once_on_a_stale_mirror_cause_one_refresh(sandbox, start_bridge, workers):
    sandbox.seed_orders(300)
    bridge = start_bridge(REFRESH_SECONDS=3, REFRESH_WAIT_SECONDS=10, WEB_CONCURRENCY=workers)
    page(bridge)
    order_id = sandbox.checkout()
    wait_until(lambda: health(bridge)["mirror_age_seconds"] > 3, what="a stale mirror")
    sandbox.forget_requests()
    sandbox.latency_seconds = 0.2
    pages = at_once(20, lambda: page(bridge))
    assert refreshes(sandbox) == 1, [request.args for request in sandbox.requests]
    assert {part["orders"][0]["id"] for part in pages} == {str(order_id)}


@pytest.mark.parametrize("workers", [1, 3])
def test_twenty_polls_at_once_on_an_empty_file_cause_one_refresh(sandbox, start_bridge, workers):
    sandbox.seed_orders(300)
    sandbox.latency_seconds = 0.2
    bridge = start_bridge(REFRESH_SECONDS=SELDOM, REFRESH_WAIT_SECONDS=10, WEB_CONCURRENCY=workers)
    pages = at_once(20, lambda: page(bridge))
    lists = [request for request in sandbox.requests if request.path == "/orders"]
    assert len(lists) <= 4, [request.args for request in lists]
    assert all(part == pages[0] for part in pages)
