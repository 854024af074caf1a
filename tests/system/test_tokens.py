"""AiFi's tokens: made of client credentials, renewed, refused, revoked."""

import json
from urllib.parse import parse_qs

import pytest

from tests.system.contract import check
from tests.system.support import ALWAYS, CUSTOMER, LATEST, ORDER, health, newest, oauth, page, wait_for_sweep
from tools.harness import wait_until
from tools.sandbox import Sandbox


def refused(sandbox: Sandbox) -> list[str]:
    return [request.path for request in sandbox.requests if request.status == 401]


def test_client_credentials_become_one_token_for_many_requests(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(**oauth(sandbox), REFRESH_SECONDS=ALWAYS)
    for _ in range(4):
        page(bridge)
    assert sandbox.tokens_issued == 1
    assert refused(sandbox) == []


def test_a_token_is_renewed_before_its_life_is_over(sandbox, start_bridge):
    sandbox.token_seconds = 5
    bridge = start_bridge(**oauth(sandbox), REFRESH_SECONDS=ALWAYS)
    wait_until(lambda: page(bridge) and sandbox.tokens_issued == 2, what="a second token")
    assert refused(sandbox) == []


def test_a_token_that_aifi_refuses_is_renewed_at_once(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(**oauth(sandbox), REFRESH_SECONDS=ALWAYS)
    page(bridge)
    wait_for_sweep(bridge)
    sandbox.revoke_tokens()
    order_id = sandbox.checkout()
    assert newest(bridge)["id"] == str(order_id)
    assert sandbox.tokens_issued == 2
    assert len(refused(sandbox)) == 1


def test_a_token_is_renewed_only_once_if_aifi_refuses_every_one(sandbox, start_bridge):
    bridge = start_bridge(**oauth(sandbox))
    sandbox.inject("status", times=None, path="/orders", code=401)
    response = bridge.get(LATEST)
    assert response.status_code == 503
    assert "token" in check(response, LATEST)["error"]["message"]
    assert sandbox.tokens_issued <= 2


def test_wrong_client_credentials_are_told_in_words(sandbox, start_bridge):
    bridge = start_bridge(**oauth(sandbox, AIFI_CLIENT_SECRET="old-secret"))
    response = bridge.get(LATEST)
    assert response.status_code == 503
    assert "AIFI_CLIENT_SECRET" in check(response, LATEST)["error"]["message"]
    assert "old-secret" not in response.text + bridge.log()


@pytest.mark.parametrize("scope", [None, "", "orders.read customers.read"])
def test_a_scope_is_sent_only_where_it_is_set(sandbox, start_bridge, receiver, scope):
    receiver.body = json.dumps({"access_token": sandbox.access_token, "expires_in": 300}).encode()
    page(start_bridge(**oauth(sandbox, AIFI_TOKEN_URL=receiver.url, AIFI_TOKEN_SCOPE=scope)))
    form = {
        "grant_type": ["client_credentials"],
        "client_id": [sandbox.client_id],
        "client_secret": [sandbox.client_secret],
    }
    [body] = receiver.bodies
    assert parse_qs(body.decode(), keep_blank_values=True) == ({**form, "scope": [scope]} if scope else form)


def test_a_revoked_access_token_is_told_in_words(sandbox, start_bridge):
    sandbox.seed_orders(30)
    sandbox.revoke_tokens(static=True)
    bridge = start_bridge()
    for path, template in ((LATEST, LATEST), ("/v1/orders/1001", ORDER), ("/v1/customers/11", CUSTOMER)):
        response = bridge.get(path)
        assert (path, response.status_code) == (path, 503)
        assert "token" in check(response, template)["error"]["message"]
    assert "token" in health(bridge)["last_error"]


def test_a_filled_bridge_serves_on_with_a_revoked_access_token(sandbox, start_bridge):
    sandbox.seed_orders(30)
    bridge = start_bridge(REFRESH_SECONDS=ALWAYS)
    before = page(bridge)
    sandbox.revoke_tokens(static=True)
    assert page(bridge) == before
    assert "token" in health(bridge)["last_error"]
