"""Only orders of the wanted stores and customer roles, by list and webhook."""

import pytest

from tests.system.support import SELDOM, ids, look_up, page, push, texts, walk
from tools.sandbox import Sandbox


def by_store(sandbox: Sandbox, *stores: int) -> list[int]:
    return [order_id for order_id in sandbox.order_ids() if sandbox.order(order_id)["storeId"] in stores]


def by_role(sandbox: Sandbox, *roles: str) -> list[int]:
    def role(order_id: int) -> str:
        return sandbox.customers[int(sandbox.order(order_id)["customerId"])].role

    return [order_id for order_id in sandbox.order_ids() if role(order_id) in roles]


@pytest.mark.parametrize("stores", [(1,), (1, 3)])
def test_only_orders_of_the_wanted_stores_are_listed_and_found(sandbox, start_bridge, stores):
    sandbox.stores = (1, 2, 3)
    sandbox.seed_orders(250)
    bridge = start_bridge(AIFI_STORE_ID=", ".join(map(str, stores)))
    rows = walk(bridge, 100)
    wanted = by_store(sandbox, *stores)
    assert 0 < len(wanted) < 250
    assert len(rows) == len(wanted)
    assert set(ids(rows)) == texts(wanted)
    look_up(bridge, wanted[0])
    look_up(bridge, by_store(sandbox, 2)[0], 404)


@pytest.mark.parametrize("stores", ["1", "1,3"])
def test_a_webhook_of_another_store_is_accepted_and_not_kept(sandbox, start_bridge, stores):
    bridge = start_bridge(AIFI_STORE_ID=stores, REFRESH_SECONDS=SELDOM)
    page(bridge)
    here, there = sandbox.checkout(store=1), sandbox.checkout(store=2)
    assert push(bridge, sandbox.webhook(there)) == {}
    assert push(bridge, sandbox.webhook(here)) == {}
    assert ids(page(bridge)["orders"]) == [str(here)]
    look_up(bridge, there, 404)


@pytest.mark.parametrize("roles", [("customer",), ("customer", "employee")])
def test_only_orders_of_the_wanted_roles_are_listed(sandbox, start_bridge, roles):
    sandbox.seed_orders(250)
    rows = walk(start_bridge(AIFI_CUSTOMER_ROLE=",".join(roles)), 100)
    wanted = by_role(sandbox, *roles)
    assert 0 < len(wanted) < 250
    assert len(rows) == len(wanted)
    assert set(ids(rows)) == texts(wanted)


def test_a_webhook_of_another_role_is_accepted_and_not_kept(sandbox, start_bridge):
    bridge = start_bridge(AIFI_CUSTOMER_ROLE="customer", REFRESH_SECONDS=SELDOM)
    page(bridge)
    first_by_role = {customer.role: customer.id for customer in sandbox.customers.values()}
    kept = sandbox.checkout(customer=first_by_role["customer"])
    for role in ("employee", "tester", "untracked", "customer"):
        order_id = kept if role == "customer" else sandbox.checkout(customer=first_by_role[role])
        assert push(bridge, sandbox.webhook(order_id)) == {}
    assert ids(page(bridge)["orders"]) == [str(kept)]
