"""The routes in the process: no socket, AiFi and the payment endpoint faked at the wire, the database a real file."""

import base64
import gzip
import json
import logging
import re
import sqlite3
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import responses
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import relay as relay_room
from app import create_app, decode_token, encode_token
from config import Config
from errors import Cause, StoreError
from relay import BodyError, decompress
from tests.support import join_tasks
from times import shift, utc_text
from tools.harness import PROJECT

KEY, SECRET = "key-of-aide", "hook-secret"
AIFI, PAYMENT = "https://aifi.test/api/admin/v2", "https://till.test/pay"
LATEST, WEBHOOK, HEALTH = "/v1/latest_orders", "/webhooks/aifi", "/healthz"
AS_AIDE = {"X-API-Key": KEY}
AS_AIFI = {"Authorization": f"Bearer {SECRET}"}
CHECK = {"timeOfIssue": "2025-11-01T00:00:00Z"}
CHECKOUT = {
    "orderId": 77001,
    "session": {"sessionId": "5b0f2c84-0000-4b3a-8f0e-2d1c6f8a7e13", "customerId": 11},
    "timeOfOrigin": "2025-11-01T11:41:58.771Z",
    "timeOfIssue": "2025-11-01T11:42:01.200Z",
    "status": "completed",
    "cart": [{"productSnapshot": {"name": "Pretzel", "price": "0.95"}, "quantity": 2}],
    "totalPrice": "1.90",
}
CUSTOMER = {
    "customer": {"id": 11, "role": "customer"},
    "customerPersonalInfo": {"email": "ada@example.com", "firstName": "Ada"},
    "timeOfIssue": "2025-11-01T11:42:01.200Z",
}


class Shop:
    """AiFi's API as far as the routes need it; `orders` are raw ones, and `down` lets every connection fail."""

    def __init__(self, api: responses.RequestsMock):
        self.orders: list[dict[str, Any]] = []
        self.customers: dict[str, dict[str, Any]] = {}
        self.down = False
        self.stores: list[dict[str, Any]] = []
        answers = {
            "orders": self._list,
            r"orders/\d+": self._order,
            r"customers/\d+": self._customer,
            "stores": lambda _: self._answer({"stores": self.stores}),
            "contests(/.*)?": lambda _: self._answer(None),
        }
        for path, answer in answers.items():
            api.add_callback("GET", re.compile(rf"{re.escape(AIFI)}/{path}(\?.*)?$"), answer)

    def add_order(self, order_id: int, age_seconds: float) -> None:
        at = shift(utc_text(time.time()), -age_seconds)
        self.orders.append(
            {
                "id": order_id,
                "draftCreatedAt": at,
                "updatedAt": at,
                "status": "paid",
                "totalPrice": "2.15",
                "lineItems": [],
            }
        )

    def _list(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        query = {name: values[0] for name, values in parse_qs(urlsplit(request.url or "").query).items()}
        rows = sorted(self.orders, key=lambda order: order["draftCreatedAt"], reverse=query.get("direction") == "desc")
        for name, key, keeps in (
            ("minDraftCreatedAt", "draftCreatedAt", lambda at, bound: at >= bound),
            ("maxDraftCreatedAt", "draftCreatedAt", lambda at, bound: at <= bound),
            ("minUpdatedAt", "updatedAt", lambda at, bound: at >= bound),
            ("status", "status", lambda status, wanted: status == wanted),
            ("sessionId", "sessionId", lambda session, wanted: session == wanted),
        ):
            if name in query:
                rows = [row for row in rows if keeps(row.get(key), query[name])]
        size, number = int(query["pageSize"]), int(query.get("page", 0))
        return self._answer({"data": rows[number * size :][:size]})

    def _order(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        wanted = urlsplit(request.url or "").path.rpartition("/")[2]
        return self._answer(next((order for order in self.orders if str(order["id"]) == wanted), None))

    def _customer(self, request: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        return self._answer(self.customers.get(urlsplit(request.url or "").path.rpartition("/")[2]))

    def _answer(self, body: Any) -> tuple[int, dict[str, str], str]:
        if self.down:
            raise requests.ConnectionError("AiFi is down")
        missing = {"message": "not found", "type": "E_NOT_FOUND"}
        return (404, {}, json.dumps(missing)) if body is None else (200, {}, json.dumps(body))


@pytest.fixture
def api() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as api:
        yield api


@pytest.fixture
def shop(api: responses.RequestsMock) -> Shop:
    return Shop(api)


@pytest.fixture
def start(shop: Shop, tmp_path) -> Iterator[Callable[..., FlaskClient]]:
    """Make clients of apps with these variables; the apps share a database."""
    apps = []
    defaults = {
        "AIDE_API_KEY": KEY,
        "AIFI_ACCESS_TOKEN": "aifi-token",
        "AIFI_BASE_URL": AIFI,
        "AIFI_WEBHOOK_SECRET": SECRET,
        "DATABASE_PATH": str(tmp_path / "orders.db"),
        "REFRESH_SECONDS": "3600",
    }

    def start(**environment: str) -> FlaskClient:
        app = create_app(Config.from_environment({**defaults, **environment}))
        apps.append(app)
        return app.test_client()

    yield start
    join_tasks()
    for app in apps:
        app.extensions["bridge"].close()


@pytest.fixture
def client(start: Callable[..., FlaskClient]) -> FlaskClient:
    return start()


@pytest.fixture
def relay(start: Callable[..., FlaskClient]) -> FlaskClient:
    """Return a client of a bridge that passes webhooks on."""
    return start(PAYMENT_WEBHOOK_URL=PAYMENT)


@pytest.fixture
def broken(start: Callable[..., FlaskClient], tmp_path) -> FlaskClient:
    """Return a client of a relaying bridge that has no usable database."""
    return start(PAYMENT_WEBHOOK_URL=PAYMENT, DATABASE_PATH=str(tmp_path / "no such folder" / "orders.db"))


def error(response: TestResponse, status: int) -> dict[str, str]:
    """Return the error in an answer, which must have the one shape."""
    assert (response.status_code, response.content_type) == (status, "application/json"), response.text
    assert response.json is not None
    assert set(response.json) == {"error"}
    assert set(response.json["error"]) == {"code", "message"}
    assert re.fullmatch("[a-z_]+", response.json["error"]["code"])
    found: dict[str, str] = response.json["error"]
    return found


def push(client: FlaskClient, body: Any, path: str = WEBHOOK, **headers: Any) -> TestResponse:
    """POST a webhook with the right secret: bytes as they are, all else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, data=data, headers={"Content-Type": "application/json", **AS_AIFI, **headers})


def note(client: FlaskClient, name: str) -> str:
    """Return the operator's note of this name; nothing where there is none."""
    found = client.application.extensions["bridge"].store.notes().get(name)
    return found.text if found else ""


def listed(client: FlaskClient) -> list[str]:
    response = client.get(LATEST, headers=AS_AIDE)
    assert response.json is not None
    return [order["id"] for order in response.json["orders"]]


def passed_on(api: responses.RequestsMock) -> list[requests.PreparedRequest]:
    """Return what the payment endpoint got."""
    return [call.request for call in api.calls if "till.test/pay" in (call.request.url or "")]


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def on_the_wire(text: str) -> str:
    """Return a text as WSGI hands it over when a client sends it in UTF-8."""
    return text.encode().decode("latin-1")


# --- Aide's routes


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_the_latest_orders_come_newest_first(client, shop, prefix):
    for order_id, age in ((1, 300), (2, 200), (3, 100)):
        shop.add_order(order_id, age)
    response = client.get(f"{prefix}/latest_orders", headers=AS_AIDE)
    assert response.status_code == 200
    assert [order["id"] for order in response.json["orders"]] == ["3", "2", "1"]


def test_a_page_token_leads_to_the_next_page(client, shop):
    for order_id in range(1, 6):
        shop.add_order(order_id, 1000 - order_id)
    first = client.get(LATEST, query_string={"page_size": 2}, headers=AS_AIDE).json
    query = {"page_size": 2, "page_token": first["next_page_token"]}
    second = client.get(LATEST, query_string=query, headers=AS_AIDE).json
    assert [order["id"] for order in first["orders"] + second["orders"]] == ["5", "4", "3", "2"]


@pytest.mark.parametrize("query", ["page_token=", "page_size=", "page_token=&page_size="])
def test_an_empty_parameter_counts_as_absent(client, shop, query):
    shop.add_order(1, 100)
    assert client.get(f"{LATEST}?{query}", headers=AS_AIDE).json == client.get(LATEST, headers=AS_AIDE).json


@pytest.mark.parametrize("size", ["0", "101", "ten", "1.5", "-1", " 5", "9" * 5000])
def test_a_wrong_page_size_is_refused(client, size):
    response = client.get(LATEST, query_string={"page_size": size}, headers=AS_AIDE)
    assert error(response, 400)["code"] == "invalid_page_size"


@pytest.mark.parametrize("token", ["x", "AAAA", "ü", "=" * 9])
def test_a_damaged_page_token_is_refused(client, token):
    response = client.get(LATEST, query_string={"page_token": token}, headers=AS_AIDE)
    assert error(response, 400)["code"] == "invalid_page_token"


def test_a_page_token_holds_a_place_in_the_list():
    place = ("2025-11-01T00:00:00.000Z", "1001")
    assert decode_token(encode_token(place)) == place


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_an_order_is_shown_in_full(client, shop, prefix):
    shop.add_order(1001, 100)
    response = client.get(f"{prefix}/orders/1001", headers=AS_AIDE)
    assert (response.status_code, response.json["total_amount"]) == (200, 2.15)


@pytest.mark.parametrize("order_id", ["1001", "nothing", "9" * 9000, "%FF", "1%2F2"])
def test_an_unknown_order_is_not_found(client, order_id):
    assert error(client.get(f"/v1/orders/{order_id}", headers=AS_AIDE), 404)["code"] in ("not_found", "unknown_route")


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_a_customer_is_shown(client, shop, prefix):
    shop.customers["11"] = {"id": 11, "firstName": "Ada", "email": "ada@example.com"}
    response = client.get(f"{prefix}/customers/11", headers=AS_AIDE)
    assert (response.status_code, response.json["first_name"]) == (200, "Ada")


@pytest.mark.parametrize("path", ["/v1/orders/404", "/v1/customers/404"])
def test_an_unknown_id_has_another_code_than_an_unknown_route(client, path):
    assert error(client.get(path, headers=AS_AIDE), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    "path", ["/v1", "/v2/latest_orders", "/v1/orders", "/v1/orders/1/2", "/favicon.ico", "/webhooks"]
)
def test_an_unknown_route_has_a_code_of_its_own(client, path):
    assert error(client.get(path, headers=AS_AIDE), 404)["code"] == "unknown_route"


@pytest.mark.parametrize("path", ["/openapi.yaml", "/v1/openapi.yaml"])
def test_the_description_of_the_interface_is_open_to_all(client, path):
    response = client.get(path)
    assert (response.status_code, response.data) == (200, (PROJECT / "openapi.yaml").read_bytes())


def test_an_order_is_answered_with_its_store_once_aifi_has_told_of_stores(client, shop):
    shop.stores = [{"id": "3", "displayableName": "Corner shop"}]
    shop.add_order(1001, 60)
    shop.orders[0]["storeId"] = 3
    listed(client)
    join_tasks()
    order = client.get("/v1/orders/1001", headers=AS_AIDE).json
    assert (order["store_id"], order["store"]) == ("3", {"id": "3", "name": "Corner shop"})


def test_an_order_of_a_store_that_aifi_did_not_tell_of_has_its_id_alone(client, shop):
    shop.add_order(1001, 60)
    shop.orders[0]["storeId"] = 3
    listed(client)
    join_tasks()
    order = client.get("/v1/orders/1001", headers=AS_AIDE).json
    assert order["store_id"] == "3"
    assert "store" not in order


# --- paths


def raw_path(path: str) -> dict[str, str]:
    """Return what gunicorn says of a path, which a test client would take for a host where it begins with `//`."""
    return {"PATH_INFO": path, "RAW_URI": path}


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/latest_orders/", "/v1//latest_orders", "//v1/latest_orders", "/v1/latest_orders//", "//latest_orders/"),
        *("/v1/orders/1001/", "/v1//orders//1001", "/orders//1001/", "/v1/customers/11/", "//customers///11"),
        *("/healthz/", "//healthz", "/openapi.yaml/"),
    ],
)
def test_a_doubled_or_trailing_slash_does_no_harm(client, shop, path):
    shop.add_order(1001, 100)
    shop.customers["11"] = {"id": 11}
    assert client.get(headers=AS_AIDE, environ_overrides=raw_path(path)).status_code == 200


@pytest.mark.parametrize("path", ["/webhooks/aifi/", "//webhooks/aifi", "/webhooks//aifi//"])
def test_a_doubled_or_trailing_slash_does_a_webhook_no_harm(client, path):
    response = client.post(json=CHECK, headers=AS_AIFI, environ_overrides=raw_path(path))
    assert response.status_code == 200


@pytest.mark.parametrize("order_id", ["1001%2F", "%2F1001", "%2f%2F1001", "1001%2f"])
def test_an_escaped_slash_is_part_of_an_id(client, shop, order_id):
    shop.add_order(1001, 100)
    assert client.get(f"/v1/orders/{order_id}", headers=AS_AIDE).status_code == 404


def test_an_escaped_slash_in_a_query_is_not_part_of_the_path(start):
    client = start(AIFI_WEBHOOK_SECRET="with/slash")
    assert client.post(f"{WEBHOOK}/?token=with%2Fslash", json=CHECK).status_code == 200


# --- methods


@pytest.mark.parametrize(
    ("method", "path"), [("POST", LATEST), ("DELETE", "/v1/orders/1"), ("PUT", HEALTH), ("POST", "/")]
)
def test_a_method_that_a_route_does_not_take_is_refused(client, method, path):
    response = client.open(path, method=method, headers=AS_AIDE)
    assert error(response, 405)["code"] == "method_not_allowed"
    assert "GET" in response.headers["Allow"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_a_test_ping_of_the_webhook_is_told_what_to_do_and_noted(client, method):
    response = client.open(f"{WEBHOOK}?token={SECRET}", method=method)
    assert response.status_code == 405
    assert "POST" in response.headers["Allow"]
    assert note(client, Cause.WEBHOOK_NOT_POSTED) == f"A {method} request came to the webhook URL"
    if method != "HEAD":
        assert "must be sent as POST" in error(response, 405)["message"]


def test_an_options_request_tells_only_what_the_webhook_takes(client):
    assert set(client.options(WEBHOOK).headers["Allow"].split(", ")) == {"POST", "OPTIONS"}


# --- Aide's keys

FORMS = {
    "X-API-Key": {"X-API-Key": KEY},
    "Api-Key": {"Api-Key": KEY},
    "bare": {"Authorization": KEY},
    "Bearer": {"Authorization": f"Bearer {KEY}"},
    "bearer": {"Authorization": f"bearer  {KEY}"},
    "Token": {"Authorization": f"Token {KEY}"},
    "ApiKey": {"Authorization": f"ApiKey {KEY}"},
    "any word": {"Authorization": f"Aide: {KEY}"},
    "Bearer in X-API-Key": {"X-API-Key": f"Bearer {KEY}"},
    "Basic's user": {"Authorization": basic(f"{KEY}:")},
    "Basic's user alone": {"Authorization": basic(KEY)},
    "Basic's password": {"Authorization": basic(f"aide:{KEY}")},
    "Basic without padding": {"Authorization": basic(f"x:{KEY}").rstrip("=")},
    "beside a wrong one": {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
    "with blanks": {"X-API-Key": f" {KEY} "},
}


@pytest.mark.parametrize("headers", FORMS.values(), ids=FORMS)
def test_aides_key_is_accepted_in_every_form(client, headers):
    assert client.get(LATEST, headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["schlüssel-ß", "ключ", "with blank", "a:b", "+/="])
@pytest.mark.parametrize("form", ["X-API-Key", "Bearer", "Basic"])
def test_a_key_may_hold_any_character(start, key, form):
    client = start(AIDE_API_KEY=key)
    text = on_the_wire(key)
    headers = {
        "X-API-Key": {"X-API-Key": text},
        "Bearer": {"Authorization": f"Bearer {text}"},
        "Basic": {"Authorization": basic(f"name:{key}")},
    }
    assert client.get(LATEST, headers=headers[form]).status_code == 200


def test_a_key_may_come_in_latin_1(start):
    client = start(AIDE_API_KEY="schlüssel")
    assert client.get(LATEST, headers={"X-API-Key": "schlüssel"}).status_code == 200
    assert client.get(LATEST, headers={"Authorization": basic("x:schlüssel".encode("latin-1"))}).status_code == 200


def test_a_key_that_is_not_latin_1_is_not_opened_by_question_marks(start):
    client = start(AIDE_API_KEY="ключ")
    assert client.get(LATEST, headers={"X-API-Key": "????"}).status_code == 401


@pytest.mark.parametrize("key", ["next-key", "last-key"])
def test_each_of_several_keys_opens(start, key):
    assert start(AIDE_API_KEY=f"{KEY}, next-key,last-key").get(LATEST, headers={"X-API-Key": key}).status_code == 200


WRONG_FORMS = {
    "wrong": {"X-API-Key": "wrong"},
    "other case": {"X-API-Key": KEY.upper()},
    "cut": {"X-API-Key": KEY[:-1]},
    "longer": {"Authorization": f"Bearer {KEY}2"},
    "two": {"X-API-Key": f"{KEY},{KEY}"},
    "webhook's": {"X-API-Key": SECRET},
    "not ASCII": {"Authorization": "Bearer \xff\xfe"},
    "Basic": {"Authorization": basic("aide:wrong")},
    "Basic that is not Base64": {"Authorization": "Basic \xff"},
    "Basic of odd length": {"Authorization": "Basic a"},
    "Basic of nothing": {"Authorization": "Basic "},
}


@pytest.mark.parametrize("headers", WRONG_FORMS.values(), ids=WRONG_FORMS)
def test_a_wrong_key_is_called_wrong_and_noted(client, headers):
    response = client.get(LATEST, headers=headers)
    assert "Aide's key is wrong" in error(response, 401)["message"]
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "wrong" in note(client, Cause.AIDE_KEY_WRONG)
    assert note(client, Cause.AIDE_KEY_ABSENT) == ""


@pytest.mark.parametrize(
    "path", [LATEST, "/latest_orders", "/v1/orders/1", "/orders/1", "/v1/customers/1", "/customers/1"]
)
@pytest.mark.parametrize("headers", [{}, {"X-API-Key": ""}, {"Authorization": ""}], ids=str)
def test_a_missing_key_is_called_missing_and_noted(client, path, headers):
    assert "Aide's key is missing" in error(client.get(path, headers=headers), 401)["message"]
    assert "missing" in note(client, Cause.AIDE_KEY_ABSENT)
    assert note(client, Cause.AIDE_KEY_WRONG) == ""


def test_a_key_in_the_address_opens_nothing(client):
    assert client.get(f"{LATEST}?api_key={KEY}&token={KEY}").status_code == 401


# --- the webhook's secret


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_secret_may_come_in_the_header(client, scheme):
    response = client.post(WEBHOOK, json=CHECK, headers={"Authorization": f"{scheme} {SECRET}"})
    assert (response.status_code, response.json) == (200, {})


@pytest.mark.parametrize(
    ("secret", "query"),
    [
        (SECRET, f"token={SECRET}"),
        (SECRET, f"a=b&token={SECRET}&c"),
        (SECRET, f"token=wrong&token={SECRET}"),
        ("a+b/c=", "token=a+b/c="),
        ("a+b/c=", "token=a%2Bb%2Fc%3D"),
        ("a b", "token=a+b"),
        ("a b", "token=a%20b"),
        (SECRET, f"token={SECRET}%20"),
        (SECRET, f"token={SECRET}%0A"),
        (SECRET, f"token={SECRET}%0D%0A"),
        (SECRET, f"token={SECRET}+"),
        (SECRET, f"token=%20{SECRET}"),
        ("schlüssel-ß", "token=schl%C3%BCssel-%C3%9F"),
        ("schlüssel-ß", "token=schl%FCssel-%DF"),
        ("ключ", "token=%D0%BA%D0%BB%D1%8E%D1%87"),
        ("50%", "token=50%"),
    ],
)
def test_the_secret_may_come_in_the_address(start, secret, query):
    client = start(AIFI_WEBHOOK_SECRET=secret)
    assert client.post(f"{WEBHOOK}?{query}", json=CHECK).status_code == 200


@pytest.mark.parametrize("secret", ["schlüssel-ß", "ключ", "a b"])
def test_a_secret_in_the_header_may_hold_any_character(start, secret):
    client = start(AIFI_WEBHOOK_SECRET=secret)
    headers = {"Authorization": f"Bearer {on_the_wire(secret)}"}
    assert client.post(WEBHOOK, json=CHECK, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("token=wrong", {}),
        (f"token={SECRET}2", {}),
        (f"token={SECRET[:-1]}", {}),
        (f"token={SECRET[:5]}%20{SECRET[5:]}", {}),
        ("token=%FF%00", {}),
        ("", {"Authorization": "Bearer wrong"}),
        ("", {"Authorization": "Bearer \xff"}),
        ("", {"Authorization": f"Bearer {KEY}"}),
    ],
)
def test_a_wrong_secret_is_called_wrong_and_noted(client, query, headers):
    response = client.post(f"{WEBHOOK}?{query}", json=CHECKOUT, headers=headers)
    assert "secret is wrong" in error(response, 401)["message"]
    assert "wrong" in note(client, Cause.WEBHOOK_SECRET_WRONG)
    assert listed(client) == []


@pytest.mark.parametrize(
    ("query", "headers"),
    [("", {}), ("token=", {}), (f"Token={SECRET}", {}), ("", {"X-API-Key": SECRET}), ("", {"Authorization": SECRET})],
)
def test_a_missing_secret_is_called_missing_and_noted(client, query, headers):
    response = client.post(f"{WEBHOOK}?{query}", json=CHECKOUT, headers=headers)
    assert "secret is missing" in error(response, 401)["message"]
    assert "missing" in note(client, Cause.WEBHOOK_SECRET_ABSENT)


def test_without_a_secret_of_its_own_the_route_is_off_and_says_so(start):
    response = push(start(AIFI_WEBHOOK_SECRET=""), CHECK)
    assert error(response, 503)["code"] == "webhooks_off"
    assert "AIFI_WEBHOOK_SECRET" in response.text


# --- webhooks without a payment endpoint


def test_a_checkout_is_in_the_very_next_answer(client):
    assert listed(client) == []
    assert push(client, CHECKOUT).json == {}
    assert listed(client) == ["77001"]
    assert note(client, "webhook").startswith("checkout 77001")


def test_a_customers_webhook_is_kept(client):
    assert push(client, CUSTOMER).json == {}
    assert client.get("/v1/customers/11", headers=AS_AIDE).json["first_name"] == "Ada"


def test_another_push_of_aifi_is_accepted_and_not_kept(client):
    assert push(client, CHECK).json == {}
    assert note(client, "webhook") == ""


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"hello": 1}', b"\xff", b"[" * 100_000], ids=repr)
def test_what_is_not_a_webhook_is_refused_and_noted(client, body):
    assert error(push(client, body), 400)["code"] == "invalid_webhook"
    assert "A webhook was refused" in note(client, Cause.WEBHOOK_REFUSED)


def padded(size: int) -> bytes:
    """Return a checkout of so many bytes."""
    body = json.dumps({**CHECKOUT, "padding": ""}).encode()
    return body.replace(b'"padding": ""', b'"padding": "' + b"x" * (size - len(body)) + b'"')


def test_a_body_of_a_megabyte_is_kept_and_a_larger_one_refused(client):
    assert push(client, padded(1024 * 1024)).status_code == 200
    assert error(push(client, padded(1024 * 1024 + 1)), 413)["code"] == "request_entity_too_large"


def test_a_webhook_that_cannot_be_stored_is_not_acknowledged(broken, start, tmp_path):
    client = start(DATABASE_PATH=str(tmp_path / "no such folder" / "orders.db"))
    response = push(client, CHECKOUT)
    assert error(response, 503)["code"] == "database_unavailable"
    assert int(response.headers["Retry-After"]) > 0


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "GZIP": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", [*PACKERS, "identity"])
def test_a_compressed_body_is_read(client, encoding):
    body = PACKERS.get(encoding, bytes)(json.dumps(CHECKOUT).encode())
    assert push(client, body, **{"Content-Encoding": encoding}).status_code == 200
    assert listed(client) == ["77001"]


def test_deflate_is_read_without_its_frame_too(client):
    body = raw_deflate(json.dumps(CHECKOUT).encode())
    assert push(client, body, **{"Content-Encoding": "deflate"}).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "\xff"])
def test_another_encoding_is_refused_by_name(client, encoding):
    response = push(client, b"x", **{"Content-Encoding": encoding})
    assert error(response, 415)["code"] == "unsupported_encoding"
    assert "gzip" in response.text


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b"{}" * 99)[:-9], zlib.compress(b"{}" * 99)[:-5], b"{}", b"\x1f\x8b"],
    ids=["a cut gzip", "a cut deflate", "plain", "two bytes"],
)
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_damaged_body_is_refused(client, body, encoding):
    assert error(push(client, body, **{"Content-Encoding": encoding}), 400)["code"] == "invalid_body"


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
def test_a_small_body_that_unpacks_to_a_gigabyte_is_refused_without_unpacking_it(pack):
    bomb = pack(b"[" * 100_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(BodyError) as refusal:
            decompress(bomb, "gzip" if pack is gzip.compress else "deflate", 1024 * 1024)
        assert tracemalloc.get_traced_memory()[1] < 10 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert refusal.value.code == "request_entity_too_large"


# --- the relay: what is passed on


def test_a_checkout_is_passed_on_as_it_came_and_the_answer_goes_back_as_it_came(relay, api):
    answer = b'{ "paymentStatus":"success",\n "externalId": "\xc3\xbc" }\n'
    api.post(PAYMENT, answer, status=202, content_type="application/vnd.till+json; v=2")
    sent = json.dumps(CHECKOUT, indent=3).encode() + b"\r\n"
    response = push(relay, sent, **{"Content-Type": "application/json; charset=utf-8"})
    [request] = passed_on(api)
    assert (request.body, request.headers["Content-Type"]) == (sent, "application/json; charset=utf-8")
    assert (response.status_code, response.data) == (202, answer)
    assert response.headers["Content-Type"] == "application/vnd.till+json; v=2"
    assert listed(relay) == ["77001"]


UNREADABLE = {
    "a null cart line": {**CHECKOUT, "cart": [None]},
    "a UUID as order id": {**CHECKOUT, "orderId": "5b0f2c84-0000-4b3a-8f0e-2d1c6f8a7e13"},
    "a price with a comma": {**CHECKOUT, "totalPrice": "2,15"},
    "an unknown status": {"status": "sold", "orderId": 1},
    "300 long lines": {**CHECKOUT, "cart": [{"productSnapshot": {"name": "x" * 500, "sku": "y" * 500}}] * 300},
    "another push": CHECK,
    "nothing": b"",
    "not JSON": b"status=completed",
    "not UTF-8": b"\xff\xfe",
    "over a megabyte": padded(1024 * 1024 + 1),
    "ten megabytes": padded(10 * 1024 * 1024),
    "a customer's data beside a checkout": {**CHECKOUT, **CUSTOMER},
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
def test_what_the_bridge_cannot_read_is_passed_on(relay, api, body):
    api.post(PAYMENT, b'{"paymentStatus": "failure"}', status=200)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = push(relay, data)
    assert (response.status_code, response.data) == (200, b'{"paymentStatus": "failure"}')
    assert [request.body or b"" for request in passed_on(api)] == [data]


def test_what_is_larger_than_ten_megabytes_is_refused(relay, api):
    assert "10 MB" in error(push(relay, padded(10 * 1024 * 1024 + 1)), 413)["message"]
    assert passed_on(api) == []


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(json.dumps(CHECKOUT).encode())),
        ("gzip", b"damaged"),
        ("br", b"whatever"),
        ("gzip", gzip.compress(b"[" * 5_000_000)),
    ],
    ids=["gzip", "damaged", "unknown", "a bomb"],
)
def test_a_compressed_body_is_passed_on_as_it_came(relay, api, encoding, body):
    api.post(PAYMENT, b"{}")
    assert push(relay, body, **{"Content-Encoding": encoding}).status_code == 200
    [request] = passed_on(api)
    assert (request.body, request.headers["Content-Encoding"]) == (body, encoding)


def test_without_a_content_type_none_is_passed_on(relay, api):
    api.post(PAYMENT, b"{}")
    assert relay.post(f"{WEBHOOK}?token={SECRET}", data=b"x").status_code == 200
    [request] = passed_on(api)
    assert "Content-Type" not in request.headers
    assert "Content-Encoding" not in request.headers


@pytest.mark.parametrize("own", ["Bearer till-token", basic("till:till-token"), "till-token", "Bearer t\xfcll"])
def test_aifis_own_authorization_is_passed_on_where_the_secret_came_in_the_address(relay, api, own):
    api.post(PAYMENT, b"{}")
    push(relay, CHECKOUT, f"{WEBHOOK}?token={SECRET}", Authorization=own)
    [request] = passed_on(api)
    assert request.headers["Authorization"] == own


@pytest.mark.parametrize("own", [f"Bearer {SECRET}", f"Token {SECRET}", SECRET, basic(f"x:{SECRET}"), f"Bearer {KEY}"])
@pytest.mark.parametrize("path", [WEBHOOK, f"{WEBHOOK}?token={SECRET}"])
def test_a_secret_of_the_bridge_is_never_passed_on(relay, api, path, own):
    api.post(PAYMENT, b"{}")
    push(relay, CHECKOUT, path, Authorization=own, **{"X-API-Key": KEY})
    for request in passed_on(api):
        assert "Authorization" not in request.headers
        assert not re.search(f"{SECRET}|{KEY}", f"{request.url} {request.headers}")


def test_a_password_in_the_payment_url_is_sent_to_the_endpoint(start, api):
    url = PAYMENT.replace("//", "//till:pass@")
    api.post(url, b"{}")
    push(start(PAYMENT_WEBHOOK_URL=url), CHECKOUT)
    [request] = passed_on(api)
    assert request.headers["Authorization"] == basic("till:pass")


def test_a_netrc_file_does_not_take_the_place_of_aifis_header(relay, api, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine till.test login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    api.post(PAYMENT, b"{}")
    push(relay, CHECKOUT, f"{WEBHOOK}?token={SECRET}", Authorization="Bearer till-token")
    assert [request.headers["Authorization"] for request in passed_on(api)] == ["Bearer till-token"]


@pytest.mark.parametrize("body", [CUSTOMER, {**CUSTOMER, "customer": None}, {"customerPersonalInfo": "Ada"}], ids=str)
def test_a_customers_webhook_is_not_passed_on(relay, api, body):
    push(relay, body)
    push(relay, gzip.compress(json.dumps(body).encode()), **{"Content-Encoding": "gzip"})
    assert passed_on(api) == []


def test_the_doctors_check_is_answered_here(relay, api):
    response = push(relay, CHECK, **{"X-Bridge-Check": "1"})
    assert (response.status_code, response.json) == (200, {})
    assert passed_on(api) == []


def test_what_comes_without_the_secret_is_not_passed_on(relay, api):
    assert push(relay, CHECKOUT, Authorization="Bearer wrong").status_code == 401
    assert push(relay, CHECKOUT, Authorization="Bearer wrong", **{"X-Bridge-Check": "1"}).status_code == 401
    assert passed_on(api) == []


def test_a_database_that_cannot_be_used_changes_nothing_of_the_payment(broken, api):
    api.post(PAYMENT, b'{"paymentStatus": "success"}')
    response = push(broken, CHECKOUT)
    assert (response.status_code, response.data) == (200, b'{"paymentStatus": "success"}')


def test_too_many_unconfirmed_orders_change_nothing_of_the_payment(relay, api, monkeypatch):
    monkeypatch.setattr("store.MAX_UNCONFIRMED", 1)
    api.post(PAYMENT, b"{}")
    answers = [push(relay, {**CHECKOUT, "orderId": number, "session": {}}).status_code for number in (1, 2, 3)]
    assert answers == [200, 200, 200]
    assert len(passed_on(api)) == 3


def test_a_locked_database_delays_the_answer_by_no_more_than_its_own_bound_and_the_payment_not_at_all(
    relay, api, tmp_path
):
    asked = []

    def answer(_: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        asked.append(time.monotonic())
        return 200, {}, "{}"

    api.add_callback("POST", PAYMENT, answer)
    listed(relay)
    begun = time.monotonic()
    with sqlite3.connect(tmp_path / "orders.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert push(relay, CHECKOUT).status_code == 200
        other.execute("ROLLBACK")
    other.close()
    [asked_at] = asked
    assert asked_at - begun < 1
    assert time.monotonic() - begun < 6


def test_an_unforeseen_error_changes_nothing_of_the_payment(relay, api, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(relay.application.extensions["bridge"].mirror, "store_webhook", fail)
    monkeypatch.setattr(logging.getLogger("bridge"), "propagate", True)
    api.post(PAYMENT, b"{}")
    assert push(relay, CHECKOUT).status_code == 200
    assert "ZeroDivisionError" in caplog.text


# --- the relay: what comes back


@pytest.mark.parametrize("status", [201, 302, 308, 400, 401, 402, 404, 429, 500, 503, 599])
def test_the_endpoints_status_goes_back(relay, api, status):
    api.post(
        PAYMENT,
        b"no JSON at all",
        status=status,
        content_type="text/plain",
        headers={"Retry-After": "7", "Location": "/x"},
    )
    response = push(relay, CHECKOUT)
    assert (response.status_code, response.data, response.headers["Content-Type"]) == (
        status,
        b"no JSON at all",
        "text/plain",
    )
    assert (response.headers["Retry-After"], response.headers["Location"]) == ("7", "/x")


def test_an_answer_without_a_content_type_gets_none(relay, api):
    api.post(PAYMENT, b"{}", content_type=None)
    response = push(relay, CHECKOUT)
    assert "Content-Type" not in response.headers
    assert "Retry-After" not in response.headers
    assert "Location" not in response.headers


def test_no_other_header_of_the_answer_goes_back(relay, api):
    api.post(PAYMENT, b"{}", headers={"Set-Cookie": "a=b", "X-Powered-By": "till"})
    assert not {"Set-Cookie", "X-Powered-By"} & set(push(relay, CHECKOUT).headers.keys())


@pytest.mark.parametrize("encoding", PACKERS)
def test_a_compressed_answer_goes_back_unpacked(relay, api, encoding):
    api.post(PAYMENT, PACKERS[encoding](b'{"paid": 1}'), headers={"Content-Encoding": encoding})
    response = push(relay, CHECKOUT)
    assert (response.status_code, response.data) == (200, b'{"paid": 1}')
    assert "Content-Encoding" not in response.headers


def test_an_answer_in_another_encoding_goes_back_as_it_came(relay, api):
    api.post(PAYMENT, b"\x1b\x03", headers={"Content-Encoding": "br"})
    response = push(relay, CHECKOUT)
    assert (response.data, response.headers["Content-Encoding"]) == (b"\x1b\x03", "br")


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(b'{"paymentStatus": "success"}')[:-12], "gzip"),
        (gzip.compress(b'{"paymentStatus": "success"}')[:-1], "gzip"),
        (zlib.compress(b'{"paymentStatus": "success"}')[:-5], "deflate"),
        (b"not gzip", "gzip"),
        (gzip.compress(b"x" * 1024 * 1024 + b"x"), "gzip"),
        (b"x" * 1024 * 1024 + b"x", ""),
    ],
    ids=["cut", "cut in the check sum", "cut deflate", "damaged", "a bomb", "too long"],
)
def test_an_answer_that_is_cut_damaged_or_too_large_is_a_502(relay, api, body, encoding):
    api.post(PAYMENT, body, headers={"Content-Encoding": encoding} if encoding else {})
    assert error(push(relay, CHECKOUT), 502)["code"] == "payment_endpoint_failed"
    assert listed(relay) == ["77001"]


@pytest.mark.parametrize("failure", [requests.ConnectionError, requests.ReadTimeout, OSError, ZeroDivisionError])
def test_no_answer_is_a_502_that_names_no_address(start, api, failure):
    relay = start(PAYMENT_WEBHOOK_URL=f"{PAYMENT}?key=payment-secret")
    api.post(PAYMENT, body=failure("https://till.test/pay?key=payment-secret"))
    told = error(push(relay, CHECKOUT), 502)
    assert told["code"] == "payment_endpoint_failed"
    assert "till" not in told["message"]
    assert "till" not in note(relay, Cause.PAYMENT_ENDPOINT_FAILED)


class Hanging:
    """A payment endpoint that answers nothing until it is let go; `asked` counts what has come in."""

    def __init__(self, api: responses.RequestsMock):
        self.go, self.asked = threading.Event(), threading.Semaphore(0)
        api.add_callback("POST", PAYMENT, self._answer)

    def _answer(self, _: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        self.asked.release()
        self.go.wait(20)
        return 200, {}, "{}"


@pytest.fixture
def hanging(api: responses.RequestsMock) -> Iterator[Hanging]:
    endpoint = Hanging(api)
    yield endpoint
    endpoint.go.set()


def test_an_endpoint_that_hangs_is_a_502_within_the_bound(relay, hanging, monkeypatch):
    monkeypatch.setattr(relay_room, "PAYMENT_SECONDS", 0.5)
    begun = time.monotonic()
    assert error(push(relay, CHECKOUT), 502)["code"] == "payment_endpoint_failed"
    assert 0.4 < time.monotonic() - begun < 3
    assert "did not answer" in note(relay, Cause.PAYMENT_ENDPOINT_FAILED)
    assert listed(relay) == ["77001"]


def test_twelve_wait_for_the_endpoint_and_more_are_refused_at_once_but_kept(relay, hanging):
    listed(relay)
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(lambda: push(relay.application.test_client(), CHECKOUT)) for _ in range(12)]
        for _ in waiting:
            assert hanging.asked.acquire(timeout=10)
        begun = time.monotonic()
        response = push(relay, {**CHECKOUT, "orderId": 77002, "session": {}})
        seconds = time.monotonic() - begun
        hanging.go.set()
        assert [call.result().status_code for call in waiting] == [200] * 12
    assert error(response, 503)["code"] == "payment_overloaded"
    assert int(response.headers["Retry-After"]) > 0
    assert seconds < 5
    assert not hanging.asked.acquire(blocking=False)
    assert set(listed(relay)) == {"77001", "77002"}
    assert push(relay, CHECKOUT).status_code == 200  # the seats are free again


def test_calls_that_nobody_waits_for_any_longer_are_bounded_too(relay, hanging, monkeypatch):
    monkeypatch.setattr(relay_room, "PAYMENT_SECONDS", 0.05)
    codes = [error(push(relay, CHECK), status)["code"] for status in [502] * relay_room.MAX_CALLS + [503]]
    assert codes == ["payment_endpoint_failed"] * relay_room.MAX_CALLS + ["payment_overloaded"]


def test_calls_that_have_ended_make_room_for_others(start, api, monkeypatch):
    monkeypatch.setattr(relay_room, "MAX_CALLS", 3)
    relay = start(PAYMENT_WEBHOOK_URL=PAYMENT)
    api.post(PAYMENT, b"{}")
    assert {push(relay, CHECKOUT).status_code for _ in range(12)} == {200}


def test_aide_is_left_threads_while_webhooks_wait():
    threads = re.search(r"^threads = (\d+)", (PROJECT / "gunicorn.conf.py").read_text(), re.MULTILINE)
    assert threads is not None
    assert int(threads[1]) >= relay_room.MAX_WAITING + 4


# --- the relay: what the operator learns


@pytest.mark.parametrize("status", [302, 308, 400, 401, 404, 500, 503])
def test_an_answer_but_a_2xx_is_noted_with_its_status(start, api, status):
    relay = start(PAYMENT_WEBHOOK_URL=f"{PAYMENT}?key=payment-secret")
    api.post(PAYMENT, b"secret details", status=status)
    push(relay, CHECKOUT)
    text = note(relay, Cause.PAYMENT_ENDPOINT_FAILED)
    assert str(status) in text
    assert not re.search("secret|till|77001", text)
    assert note(relay, "payment") == ""


def test_a_redirect_is_not_followed_but_explained(relay, api):
    api.post(PAYMENT, b"", status=308, headers={"Location": "https://elsewhere.test/"})
    assert push(relay, CHECKOUT).status_code == 308
    assert "a redirect: set PAYMENT_WEBHOOK_URL" in note(relay, Cause.PAYMENT_ENDPOINT_FAILED)


@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_2xx_is_noted_as_a_success(relay, api, status):
    api.post(PAYMENT, b"", status=status)
    push(relay, CHECKOUT)
    assert note(relay, "payment") == f"answered {status}"
    assert note(relay, Cause.PAYMENT_ENDPOINT_FAILED) == ""


def test_a_success_right_after_a_failure_right_after_a_success_is_noted(relay, api):
    for status in (200, 500, 200):
        api.post(PAYMENT, b"", status=status)
    times = []
    for name in ("payment", Cause.PAYMENT_ENDPOINT_FAILED, "payment"):
        push(relay, CHECKOUT)
        times.append(relay.application.extensions["bridge"].store.notes()[name].at)
        time.sleep(0.01)
    assert times == sorted(set(times))


@pytest.mark.parametrize("answer", [{"status": 500}, {"body": requests.ConnectionError("https://till.test/")}], ids=str)
def test_a_failure_is_logged_once_without_an_address(relay, api, caplog, monkeypatch, answer):
    monkeypatch.setattr(logging.getLogger("bridge"), "propagate", True)
    api.post(PAYMENT, **answer)
    push(relay, CHECKOUT)
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "payment endpoint" in record.getMessage()
    assert "till.test" not in caplog.text


# --- the relay: a loop


def test_what_is_passed_on_says_that_a_bridge_sent_it(relay, api):
    api.post(PAYMENT, b"{}")
    push(relay, CHECKOUT)
    [request] = passed_on(api)
    assert "X-Bridge-Relay" in request.headers


@pytest.mark.parametrize("headers", [AS_AIFI, {}], ids=["with the secret", "without"])
def test_what_a_bridge_sent_is_not_passed_on_again(relay, api, headers):
    response = relay.post(WEBHOOK, json=CHECKOUT, headers={**headers, "X-Bridge-Relay": "1"})
    assert error(response, 508)["code"] == "relay_loop"
    assert "PAYMENT_WEBHOOK_URL" in response.text
    assert passed_on(api) == []


def test_a_url_that_leads_back_to_the_bridge_is_noted_with_what_to_set(start, api):
    relay = start(PAYMENT_WEBHOOK_URL=f"https://bridge.test{WEBHOOK}?token={SECRET}")

    def lead_back(request: requests.PreparedRequest) -> tuple[int, dict[str, str], bytes]:
        response = relay.application.test_client().post(
            f"{WEBHOOK}?token={SECRET}", data=request.body, headers=dict(request.headers)
        )
        return response.status_code, dict(response.headers), response.data

    api.add_callback("POST", re.compile(r"https://bridge\.test/.*"), lead_back)
    assert error(push(relay, CHECKOUT), 508)["code"] == "relay_loop"
    assert "PAYMENT_WEBHOOK_URL leads back to this bridge" in note(relay, Cause.PAYMENT_ENDPOINT_FAILED)
    assert len([call for call in api.calls if "bridge.test" in (call.request.url or "")]) == 1


def test_another_servers_508_is_not_taken_for_a_loop(relay, api):
    api.post(PAYMENT, b"Resource Limit Is Reached", status=508)
    assert push(relay, CHECKOUT).status_code == 508
    assert "leads back" not in note(relay, Cause.PAYMENT_ENDPOINT_FAILED)


# --- the operator's routes, and failures


def test_healthz_is_open_to_all(client, shop):
    listed(client)
    response = client.get(HEALTH)
    assert (response.status_code, response.json["status"], response.json["aifi_answers"]) == (200, "ok", True)


def test_healthz_serves_without_a_database(broken):
    response = broken.get(HEALTH)
    assert (response.status_code, response.json["status"]) == (200, "degraded")


@pytest.mark.parametrize("name", ["anyone", "", "ü"])
def test_the_status_page_opens_with_aides_key_as_password(client, name):
    response = client.get("/", headers={"Authorization": basic(f"{name}:{KEY}")})
    assert (response.status_code, response.content_type) == (200, "text/html; charset=utf-8")
    assert KEY not in response.text


@pytest.mark.parametrize(
    "login", [None, "", "Basic \xff", basic("x:wrong"), basic(b"\xff"), "Basic", "x", basic(f"{KEY}:")]
)
def test_the_status_page_asks_for_a_log_in(client, login):
    response = client.get("/", headers={} if login is None else {"Authorization": login})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic")


def test_the_page_shows_its_secrets_only_when_asked(client):
    page = client.get("/?secrets=show", headers={"Authorization": basic(f"x:{KEY}")}).text
    assert KEY in page
    assert SECRET in page


@pytest.mark.parametrize("path", [LATEST, "/v1/orders/1001", "/v1/customers/11"])
def test_while_aifi_is_down_and_nothing_known_the_answer_is_a_503(start, shop, path):
    shop.down = True
    response = start(REFRESH_WAIT_SECONDS="0.1").get(path, headers=AS_AIDE)
    assert error(response, 503)["code"] == "aifi_unavailable"
    assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", [LATEST, "/v1/orders/1001", "/v1/customers/11"])
def test_without_a_database_the_answer_is_a_503(broken, path):
    response = broken.get(path, headers=AS_AIDE)
    assert error(response, 503)["code"] == "database_unavailable"
    assert int(response.headers["Retry-After"]) > 0


def test_an_unforeseen_error_is_a_500_without_its_text(client, monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a secret detail")

    monkeypatch.setattr(client.application.extensions["bridge"].mirror, "page", fail)
    response = client.get(LATEST, headers=AS_AIDE)
    assert error(response, 500)["code"] == "internal_server_error"
    assert "secret" not in response.text


def test_a_store_error_is_told_in_a_sentence(client, monkeypatch):
    def fail(*_: object) -> None:
        raise StoreError("the database is busy")

    monkeypatch.setattr(client.application.extensions["bridge"].mirror, "page", fail)
    assert error(client.get(LATEST, headers=AS_AIDE), 503)["message"] == "The database is busy."


def test_no_answer_to_aide_is_cached(client):
    assert client.get(LATEST, headers=AS_AIDE).headers["Cache-Control"] == "no-store"
    assert client.get(LATEST).headers["Cache-Control"] == "no-store"
