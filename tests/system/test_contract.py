"""What `openapi.yaml` promises: that the check of it notices a breach, and what every route keeps to."""

import json

import pytest
import requests

from tests.system.contract import check, check_value, document
from tests.system.support import CUSTOMER, ERROR, HEALTH, LATEST, ORDER, WEBHOOK
from tools.harness import AIDE_KEY, PROJECT

# --- the contract itself


def response_of(body: object, status: int = 200, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers.update({"Content-Type": "application/json", **headers})
    response._content = json.dumps(body).encode()
    return response


GOOD_SUMMARY = {
    "id": "7",
    "updated_at": "2025-11-01T00:00:00.000Z",
    "display_id": "R-7",
    "created_at": "2025-11-01T00:00:00.000Z",
    "total_amount": 2.15,
    "contested": False,
    "reviewed": False,
    "refunded": None,
}


def test_the_contract_holds_for_a_good_answer():
    check(response_of({"orders": [GOOD_SUMMARY]}), LATEST)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7},
        {"total_amount": "2.15"},
        {"total_amount": None},
        {"updated_at": 1761955200},
        {"updated_at": "2025-11-31T00:00:00.000Z"},
        {"updated_at": "2025-11-01 00:00:00.000Z"},
        {"updated_at": "2025-11-01T00:00:00.000+01:00"},
        {"updated_at": "2025-11-01T00:00:00Z"},
        {"customer_id": None},
        {"surprise": True},
    ],
    ids=str,
)
def test_the_contract_notices_a_wrong_field(change):
    with pytest.raises(AssertionError):
        check(response_of({"orders": [{**GOOD_SUMMARY, **change}]}), LATEST)


def test_the_contract_notices_a_bad_date_where_only_the_format_forbids_it():
    with pytest.raises(AssertionError, match="date-time"):
        check_value("2025-13-01T00:00:00.000Z", {"type": "string", "format": "date-time"})


def test_the_contract_notices_an_address_without_an_at_sign():
    with pytest.raises(AssertionError, match="email"):
        check(response_of({"id": "11", "email": "none"}), CUSTOMER)


def test_the_contract_knows_what_may_be_null():
    full = {**GOOD_SUMMARY, "canceled_at": None}
    check(response_of(full), ORDER)
    with pytest.raises(AssertionError):
        check(response_of({**full, "canceled_at": ""}), ORDER)


@pytest.mark.parametrize(
    "name", ["id", "updated_at", "display_id", "created_at", "total_amount", "contested", "reviewed", "refunded"]
)
def test_the_contract_notices_what_is_missing(name):
    summary = {key: value for key, value in GOOD_SUMMARY.items() if key != name}
    with pytest.raises(AssertionError):
        check(response_of({"orders": [summary]}), LATEST)


def test_the_contract_notices_a_status_that_is_not_documented():
    with pytest.raises(AssertionError, match="not documented"):
        check(response_of({"error": {"code": "teapot", "message": "Tea?"}}, 418), LATEST)


def test_the_contract_notices_a_503_without_retry_after():
    error = {"error": {"code": "aifi_unavailable", "message": "AiFi is away."}}
    check(response_of(error, 503, **{"Retry-After": "10"}), LATEST)
    with pytest.raises(AssertionError, match="Retry-After"):
        check(response_of(error, 503), LATEST)


@pytest.mark.parametrize(
    "name", [name for name, schema in document()["components"]["schemas"].items() if "example" in schema]
)
def test_the_examples_keep_the_contract(name):
    schema = document()["components"]["schemas"][name]
    check_value(schema["example"], schema)


def test_the_bridge_serves_its_contract(quiet):
    for path in ("/v1/openapi.yaml", "/openapi.yaml"):
        response = quiet.get(path, key=None)
        assert response.status_code == 200
        assert response.content == (PROJECT / "openapi.yaml").read_bytes()


# --- errors


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v2/latest_orders", "/v1/orders", "/v1/orders/1/2", "/favicon.ico"])
def test_a_path_that_does_not_exist_is_a_404_in_json(quiet, path):
    response = quiet.get(path)
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/json"
    check_value(response.json(), ERROR)


@pytest.mark.parametrize(
    ("method", "path", "template", "documented"),
    [
        ("POST", LATEST, LATEST, "get"),
        ("DELETE", "/v1/orders/1001", ORDER, "get"),
        ("PUT", "/v1/customers/11", CUSTOMER, "get"),
        ("GET", WEBHOOK, WEBHOOK, "post"),
        ("POST", HEALTH, HEALTH, "get"),
    ],
)
def test_a_method_that_is_not_taken_is_a_405_in_json(quiet, method, path, template, documented):
    response = quiet.request(method, path, headers={"X-API-Key": AIDE_KEY})
    assert response.status_code == 405
    assert check(response, template, documented)["error"]["code"] == "method_not_allowed"
    assert documented.upper() in response.headers["Allow"]
