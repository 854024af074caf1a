"""Clients as they come, on a real gunicorn: raw bytes in paths and headers, and what gunicorn itself refuses."""

import base64
import gzip
import json
import socket
from collections.abc import Iterator

import pytest

from tools.harness import AIDE_KEY, WEBHOOK_SECRET, Bridge
from tools.sandbox import Sandbox

KEY = b"X-API-Key: " + AIDE_KEY.encode()
BEARER = b"Authorization: Bearer " + WEBHOOK_SECRET.encode()
CHECK = b'{"timeOfIssue": "2025-11-01T00:00:00Z"}'
ODD_SECRET = "schlüssel+ключ/="


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[tuple[Sandbox, Bridge]]:
    with Sandbox() as sandbox:
        sandbox.seed_orders(5)
        with Bridge(sandbox, tmp_path_factory.mktemp("clients"), REFRESH_SECONDS=600) as bridge:
            bridge.orders()
            yield sandbox, bridge


@pytest.fixture
def bridge(shop) -> Bridge:
    return shop[1]


def send(bridge: Bridge, method: bytes, target: bytes, *headers: bytes, body: bytes = b"") -> tuple[int, dict, bytes]:
    """Send these bytes, where a client library would tidy them up; return status, headers and body."""
    length = [b"Content-Length: %d" % len(body)] if body else []
    head = [b"%s %s HTTP/1.1" % (method, target), b"Host: bridge", b"Connection: close", *length, *headers, b"", body]
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=30) as connection:
        connection.sendall(b"\r\n".join(head))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    head_of_answer, _, content = answer.partition(b"\r\n\r\n")
    status, *lines = head_of_answer.split(b"\r\n")
    names = {
        name.strip().lower().decode(): value.strip().decode() for name, _, value in (x.partition(b":") for x in lines)
    }
    return int(status.split()[1]), names, content


def code_of(content: bytes) -> str:
    return json.loads(content)["error"]["code"]


# --- paths


@pytest.mark.parametrize(
    "target",
    [
        *(b"/v1/latest_orders/", b"/v1//latest_orders", b"//v1/latest_orders", b"///latest_orders//"),
        *(b"/v1/orders//1001", b"/orders/1001/", b"//v1///orders/1001?", b"/v1/latest_orders/?page_size=&page_token="),
        *(b"/healthz/", b"//healthz", b"http://bridge//v1/latest_orders/", b"//openapi.yaml"),
    ],
)
def test_slashes_do_no_harm_and_lead_to_no_redirect(bridge, target):
    assert send(bridge, b"GET", target, KEY)[0] == 200


@pytest.mark.parametrize(
    "target", [b"/webhooks/aifi/", b"//webhooks/aifi", b"/webhooks//aifi//", b"/webhooks/aifi/?token=%s"]
)
def test_slashes_do_a_webhook_no_harm(bridge, target):
    if b"%s" in target:
        assert send(bridge, b"POST", target % WEBHOOK_SECRET.encode(), body=CHECK)[0] == 200
    else:
        assert send(bridge, b"POST", target, BEARER, body=CHECK)[0] == 200


@pytest.mark.parametrize("order_id", [b"%2F1001", b"1001%2f", b"9" * 3000])
def test_an_id_that_no_order_has_is_not_found(bridge, order_id):
    status, _, content = send(bridge, b"GET", b"/v1/orders/" + order_id, KEY)
    assert status == 404
    assert code_of(content) in ("not_found", "unknown_route")


# --- what gunicorn refuses before the app sees it


@pytest.mark.parametrize(
    ("target", "header", "status", "code"),
    [
        (b"/v1/orders/" + b"9" * 9000, KEY, 414, "uri_too_long"),
        (b"/v1/latest_orders", b"X: " + b"x" * 10_000, 431, "request_header_fields_too_large"),
        (b"/v1/latest_orders", b"no colon", 400, "bad_request"),
        (b"/v1/latest_orders", b"Content-Length: x", 400, "bad_request"),
    ],
)
def test_what_never_reaches_the_app_is_refused_in_json_too(bridge, target, header, status, code):
    answered, headers, content = send(bridge, b"GET", target, KEY, header)
    assert (answered, headers["content-type"]) == (status, "application/json")
    assert int(headers["content-length"]) == len(content)
    assert code_of(content) == code


def test_a_refusal_repeats_nothing_of_the_request(bridge):
    _, _, content = send(bridge, b"GET", b"/v1/latest_orders", b"secret header name: x")
    assert b"secret" not in content


# --- keys


def basic(text: bytes) -> bytes:
    return b"Basic " + base64.b64encode(text)


@pytest.mark.parametrize(
    "header",
    [
        *(b"Api-Key: test-key", b"api-key: test-key", b"Authorization: test-key", b"Authorization: Token test-key"),
        *(
            b"authorization: apikey test-key",
            b"Authorization: Whatever: test-key",
            b"Authorization: Bearer   test-key ",
        ),
        *(
            b"Authorization: " + basic(b"test-key:"),
            b"Authorization: " + basic(b"aide:test-key"),
            b"X-Api-Key:test-key",
        ),
    ],
)
def test_aides_key_opens_in_every_form(bridge, header):
    assert send(bridge, b"GET", b"/v1/latest_orders", header)[0] == 200


@pytest.mark.parametrize("path", [b"/", b"/v1/latest_orders"])
@pytest.mark.parametrize("header", [b"Authorization: Basic \xff", b"Authorization: \xff\xfe", b"Authorization: Basic"])
def test_a_header_of_raw_bytes_is_a_401_without_a_traceback(bridge, path, header):
    status, headers, content = send(bridge, b"GET", path, header)
    assert (status, code_of(content)) == (401, "unauthorized")
    assert "www-authenticate" in headers
    assert "Traceback" not in bridge.log()


def test_the_operator_learns_of_wrong_and_of_missing_keys(start_bridge):
    bridge = start_bridge()
    bridge.get("/v1/latest_orders", key=None)
    bridge.get("/v1/latest_orders", key="wrong")
    bridge.request("GET", "/webhooks/aifi")
    bridge.webhook({}, secret=None)
    page = bridge.request("GET", "/", auth=("anyone", AIDE_KEY)).text
    for text in ("Aide&#39;s key is missing", "Aide&#39;s key is wrong", "A GET request came to the webhook URL"):
        assert text in page
    assert "The webhook secret is missing" in page


# --- secrets


@pytest.mark.parametrize(
    "query",
    [
        b"token=schl%C3%BCssel+%D0%BA%D0%BB%D1%8E%D1%87/=",
        b"token=schl%C3%BCssel%2B%D0%BA%D0%BB%D1%8E%D1%87%2F%3D",
        b"token=schl%C3%BCssel+%D0%BA%D0%BB%D1%8E%D1%87/=%20",
        b"token=schl%C3%BCssel+%D0%BA%D0%BB%D1%8E%D1%87/=%0A",
        b"token=schl%C3%BCssel%2B%D0%BA%D0%BB%D1%8E%D1%87%2F%3D+",
    ],
)
def test_a_secret_of_any_characters_opens_however_it_was_pasted(start_bridge, query):
    bridge = start_bridge(AIFI_WEBHOOK_SECRET=ODD_SECRET)
    assert send(bridge, b"POST", b"/webhooks/aifi?" + query, body=CHECK)[0] == 200
    header = b"Authorization: Bearer " + ODD_SECRET.encode()
    assert send(bridge, b"POST", b"/webhooks/aifi", header, body=CHECK)[0] == 200
    assert "Traceback" not in bridge.log()


# --- webhooks


def test_a_head_request_of_the_webhook_is_a_405_without_a_body(bridge):
    status, headers, content = send(bridge, b"HEAD", b"/webhooks/aifi")
    assert (status, content) == (405, b"")
    assert "POST" in headers["allow"]


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        (b"gzip", gzip.compress(CHECK), 200),
        (b"gzip", gzip.compress(CHECK)[:-3], 400),
        (b"br", CHECK, 415),
        (b"gzip", gzip.compress(b"[" * 5_000_000), 413),
    ],
    ids=["gzip", "cut", "unknown", "a bomb"],
)
def test_a_compressed_body_is_read_or_refused(bridge, encoding, body, status):
    answered, _, content = send(bridge, b"POST", b"/webhooks/aifi", BEARER, b"Content-Encoding: " + encoding, body=body)
    assert answered == status, content
