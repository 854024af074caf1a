"""Who may ask."""

import pytest

from tests.system.contract import check, check_value
from tests.system.support import ERROR, LATEST, OTHER_KEYS
from tools.harness import AIDE_KEY, WEBHOOK_SECRET


def header_with(kind: str, key: str | bytes) -> dict[str, bytes]:
    """Return a header that carries the key, as UTF-8 if it is text."""
    key = key.encode() if isinstance(key, str) else key
    return {"X-API-Key": key} if kind == "X-API-Key" else {"Authorization": kind.encode() + b" " + key}


KINDS = ("X-API-Key", "Bearer", "bearer")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [AIDE_KEY, *OTHER_KEYS])
def test_each_of_the_keys_opens_in_either_header(quiet, kind, key):
    assert quiet.request("GET", LATEST, headers=header_with(kind, key)).status_code == 200


@pytest.mark.parametrize("kind", [*KINDS, "Basic"])
@pytest.mark.parametrize("key", ["", "wrong", "TEST-KEY", "test-key,next-key", "test-key2", "test", "ü", b"\xff\xfe"])
def test_a_wrong_key_opens_nothing(quiet, kind, key):
    response = quiet.request("GET", LATEST, headers=header_with(kind, key))
    assert response.status_code == 401
    assert check(response, LATEST)["error"]["code"] == "unauthorized"


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("path", ["/latest_orders", "/orders/1001", "/customers/11", "/orders/none", "/customers/none"])
def test_without_a_key_nothing_is_told(quiet, prefix, path):
    response = quiet.get(prefix + path, key=None)
    assert response.status_code == 401
    check_value(response.json(), ERROR)


def test_a_key_in_the_address_opens_nothing(quiet):
    assert quiet.get(LATEST, key=None, token=AIDE_KEY, api_key=AIDE_KEY).status_code == 401


def test_the_webhook_secret_is_no_key(quiet):
    assert quiet.get(LATEST, key=WEBHOOK_SECRET).status_code == 401


def test_an_old_key_is_out_after_its_rotation(start_bridge):
    bridge = start_bridge(AIDE_API_KEY="new-key")
    assert bridge.get(LATEST, key="new-key").status_code == 200
    assert bridge.get(LATEST).status_code == 401
