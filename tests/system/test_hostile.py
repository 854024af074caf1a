"""What must not happen whatever anybody sends: a 5xx, another path at AiFi than the one meant, a disk that fills."""

import base64
import contextlib
import copy
import gzip
import json
import random
import re
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
import requests

from store import MAX_CUSTOMERS, MAX_UNCONFIRMED
from tests.conftest import BRIDGES
from tests.system.support import opened, query, wait_for_sweep, walk
from tools.harness import AIDE_KEY, PROJECT, WEBHOOK_SECRET, Bridge
from tools.sandbox import Sandbox
from translation import MAX_ORDER_BYTES

MUTATIONS = 2000
READ_BYTES = 65536
MAX_BODY_BYTES = 1024 * 1024


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[tuple[Sandbox, Bridge]]:
    with Sandbox() as sandbox:
        sandbox.seed_orders(30)
        with Bridge(sandbox, tmp_path_factory.mktemp("hostile"), REFRESH_SECONDS=600) as bridge:
            bridge.orders()
            wait_for_sweep(bridge)  # the last of what goes on in the background
            yield sandbox, bridge


@pytest.fixture
def world(shared, request) -> tuple[Sandbox, Bridge]:
    sandbox, bridge = shared
    request.node.stash.setdefault(BRIDGES, []).append(bridge)
    sandbox.forget_requests()
    return shared


def raw(bridge: Bridge, method: str, target: str | bytes, *headers: bytes, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request as it is, where a client library would tidy it up; return the status (0: none) and the answer."""
    target = target.encode() if isinstance(target, str) else target
    lines = [b"%s %s HTTP/1.1" % (method.encode(), target), b"Host: bridge", b"Connection: close", *headers, b"", body]
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=30) as connection:
        # A server that refuses a request need not read all of it.
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"\r\n".join(lines))
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(READ_BYTES):
                answer += part
    status = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    return int(status[1]) if status else 0, answer


KEY = b"X-API-Key: " + AIDE_KEY.encode()
SECRET = b"Authorization: Bearer " + WEBHOOK_SECRET.encode()

# --- ids

HARMLESS = re.compile(r"[\w.:-]+", re.ASCII)
ODD_IDS = (
    *("..", ".", "../customers/11", "1001/../../customers/11", "..\\customers\\11", "1001/", "/1001", "//", "%2e%2e"),
    *("1001?page=1", "1001#x", "1001;x=1", "1001&x", "1001\0", "\0", "1001\n", "1001\r\nX-Evil: 1", "\n1001", "\t"),
    *(" 1001", "1001 ", "+1001", "-1001", "01001", "0x3e9", "1001.0", "1e3", "1_001", "1,001"),
    *("١٠٠١", "１００１", "²", "ü", "😀", "\u202e1001", "a" * 10_000, "a" * 3000, "9" * 19, "9" * 3000),
    *("''", '"', "' OR 1=1 --", "%", "%zz", "%s", "${x}", "{id}"),
    *("null", "undefined", "None", "latest", "http://127.0.0.1/", "@127.0.0.1", "orders?status=paid", "~", "*"),
)
ODD_BYTES = (
    *(b"%2e%2e", b"..%2forders", b"%252e%252e%252f", b"%c0%ae%c0%ae", b"../customers/11"),
    *(b"./1001", b"1001/..", b"1001/1001", b"%ff%fe", b"%", b"%zz", b"%00", b"\xff", b"\xc3\xbc"),
)


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_an_odd_order_id_is_not_found_and_never_becomes_another_path(world, prefix):
    sandbox, bridge = world
    for order_id in ODD_IDS:
        status, answer = raw(bridge, "GET", f"{prefix}/orders/{quote(order_id, safe='')}", KEY)
        assert status in (404, 414), f"{order_id!r}: {answer[:200]}"
    for request in sandbox.requests:
        assert request.path == "/orders"  # the list, by session or external id
        [name] = request.args.get("sessionId") or request.args.get("externalId") or ODD_IDS[:1]  # or the sweep's page
        assert name in ODD_IDS
        assert name.isprintable()


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_an_odd_customer_id_is_not_found_and_aifi_is_not_asked(world, prefix):
    sandbox, bridge = world
    for customer_id in ODD_IDS:
        status, answer = raw(bridge, "GET", f"{prefix}/customers/{quote(customer_id, safe='')}", KEY)
        assert status in (404, 414), f"{customer_id!r}: {answer[:200]}"
    assert sandbox.requests == []


@pytest.mark.parametrize("kind", ["orders", "customers"])
def test_a_path_that_is_not_escaped_as_it_should_be_is_not_found(world, kind):
    sandbox, bridge = world
    for odd in ODD_BYTES:
        status, answer = raw(bridge, "GET", b"/v1/" + kind.encode() + b"/" + odd, KEY)
        assert status in (400, 404), f"{odd!r}: {answer[:200]}"
    assert {request.path for request in sandbox.requests} <= {"/orders"}


def test_the_largest_id_that_aifi_can_have_is_asked_for_as_it_is(world):
    sandbox, bridge = world
    assert bridge.get("/v1/orders/" + "9" * 18).status_code == 404
    assert sandbox.requests[0].path == "/orders/" + "9" * 18
    assert [request.args["externalId"] for request in sandbox.requests[1:]] == [["9" * 18]]


# --- query strings


@pytest.mark.parametrize(
    "size", ["0", "-1", "101", "1000", "1.0", "1e1", "+5", " 5", "٥", "５", "0x5", "null", "9" * 3000, "5\0", "%"]
)
def test_an_odd_page_size_is_a_400_that_says_so(world, size):
    _, bridge = world
    response = bridge.get("/v1/latest_orders", page_size=size)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "invalid_page_size"


@pytest.mark.parametrize(
    "token",
    ["x", "=", "====", "a b", "ü", "\0", "..", "A" * 3000, "null", "0", "%00", "2025-11-01T00:00:00.000Z 1001"]
    + [base64.urlsafe_b64encode(text).decode() for text in (b"x", b"\xff" * 40, b'["~","~"]', b"2025 1", b"~ ~")],
)
def test_an_odd_page_token_is_a_400_that_says_so(world, token):
    _, bridge = world
    response = bridge.get("/v1/latest_orders", page_token=token)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["code"] == "invalid_page_token"


def test_a_page_token_with_any_one_character_changed_is_refused(world):
    _, bridge = world
    token = bridge.orders(page_size=3)["next_page_token"]
    for place, character in enumerate(token):
        changed = token[:place] + ("B" if character == "A" else "A") + token[place + 1 :]
        assert bridge.get("/v1/latest_orders", page_token=changed).status_code == 400, changed
    assert bridge.get("/v1/latest_orders", page_token=token + "=").status_code == 400
    assert bridge.get("/v1/latest_orders", page_token=token[:-1]).status_code == 400


@pytest.mark.parametrize(
    "query", [b"%", b"%zz=%zz", b"&&&&", b"=", b"\xff=\xfe", b"page_size=%ff", b"page_token=%ff%00", b"a&" * 1500]
)
def test_a_query_that_cannot_be_read_is_no_failure(world, query):
    _, bridge = world
    status, answer = raw(bridge, "GET", b"/v1/latest_orders?" + query, KEY)
    assert status in (200, 400), answer[:200]


# --- headers

WRONG_KEYS = (
    *(b"X-API-Key:", b"X-API-Key: wrong", b"X-API-Key: \xff\xfe", b"X-API-Key: \xc3\xbc", b"X-API-Key: ,"),
    *(b"X-API-Key: test-key,test-key", b"X-API-Key: TEST-KEY", b"X-API-Key: test-ke", b"X-API-Key: test-keyy"),
    *(b"X-API-Key: " + b"k" * 8000, b"Authorization:", b"Authorization: Bearer", b"Authorization: Bearer "),
    *(b"Authorization: Basic dGVzdC1rZXkyOg==", b"Authorization: Basic \xff", b"Authorization: \xff"),
    *(b"Authorization: x", b"Authorization: test-key2", b"Authorization: Bearer test-key test-key"),
    *(b"Authorization: Bearer wrong", b"Authorization: Bearer \xf0\x9f\x98\x80", b"Api-Key: TEST-KEY"),
    b"Authorization: Bearer " + b"k" * 8000,
    b"X-Forwarded-For: 127.0.0.1",
)


@pytest.mark.parametrize("header", WRONG_KEYS, ids=lambda header: repr(header[:40]))
def test_a_wrong_key_is_a_401_whatever_it_is_made_of(world, header):
    sandbox, bridge = world
    for path in ("/v1/latest_orders", "/v1/orders/1001", "/customers/11"):
        status, answer = raw(bridge, "GET", path, header)
        assert status == 401, answer[:200]
        assert b"WWW-Authenticate: Bearer" in answer
    assert sandbox.requests == []


@pytest.mark.parametrize("header", WRONG_KEYS, ids=lambda header: repr(header[:40]))
def test_a_wrong_webhook_secret_is_a_401_whatever_it_is_made_of(world, header):
    sandbox, bridge = world
    before = stored(bridge)
    body = json.dumps(sandbox.webhook(sandbox.checkout())).encode()
    length = b"Content-Length: %d" % len(body)
    status, answer = raw(bridge, "POST", "/webhooks/aifi", header, length, body=body)
    assert status == 401, answer[:200]
    for token in ("", "wrong", "%ff", "%00", "%F0%9F%98%80", "k" * 3000, "[]"):
        status, answer = raw(bridge, "POST", f"/webhooks/aifi?token={token}", length, body=body)
        assert status == 401, answer[:200]
    assert stored(bridge) == before


@pytest.mark.parametrize(
    "header",
    [
        *(b"X: " + b"x" * 10_000, b"X\0: 1", b"X: a\0b", b"\xff: 1", b"no colon", b": no name", b" folded: 1"),
        *(b"Content-Length: -1", b"Content-Length: x", b"Content-Length: 1\r\nContent-Length: 2", b"Host: other"),
        *(b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"X-Forwarded-Proto: \xff", b"X-Forwarded-Host: a b"),
        *(b"X-Forwarded-For: " + b"1," * 3000, b"X-Forwarded-Port: x", b"X-Forwarded-Prefix: /../.."),
        *(b"SCRIPT_NAME: /x", b"SCRIPT-NAME: /x", b"PATH_INFO: /x", b"Cookie: \xff=;;;=", b"Accept: \xff"),
        *(b"Accept-Encoding: *;q=x", b"Range: bytes=9-", b"If-Modified-Since: x"),
        *(b"Content-Type: \xff", b"Upgrade: websocket", b"X-HTTP-Method-Override: DELETE"),
    ],
    ids=lambda header: repr(header[:40]),
)
@pytest.mark.parametrize("path", ["/v1/latest_orders", "/", "/healthz"])
def test_an_odd_header_is_refused_or_ignored(world, path, header):
    _, bridge = world
    status, answer = raw(bridge, "GET", path, KEY, header)
    assert status in (200, 400, 401, 431), answer[:200]


# --- methods

ROUTES = ("/v1/latest_orders", "/v1/orders/1001", "/v1/customers/11", "/webhooks/aifi", "/healthz", "/", "/nowhere")


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "BREW", "POST"])
@pytest.mark.parametrize("path", ROUTES)
def test_a_method_that_a_route_does_not_have_is_refused(world, path, method):
    _, bridge = world
    if (path, method) == ("/webhooks/aifi", "POST"):
        pytest.skip("this one has it")
    status, answer = raw(bridge, method, path, KEY, b"Content-Length: 0")
    assert status == (404 if path == "/nowhere" else 405), answer[:200]
    assert b"Content-Type: application/json" in answer
    assert AIDE_KEY.encode() not in answer


@pytest.mark.parametrize("path", ROUTES)
def test_options_names_the_methods_of_a_route_and_needs_no_key(world, path):
    _, bridge = world
    status, answer = raw(bridge, "OPTIONS", path)
    assert (status, b"Allow: " in answer) == ((404, False) if path == "/nowhere" else (200, True)), answer[:200]


@pytest.mark.parametrize("path", ["/v1/latest_orders", "/v1/orders/1001", "/healthz"])
def test_head_answers_like_get_without_the_body(world, path):
    _, bridge = world
    status, answer = raw(bridge, "HEAD", path, KEY)
    assert status == raw(bridge, "GET", path, KEY)[0] == 200
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("line", [b"", b"GET", b"GET /", b"get / HTTP/1.1", b"GET / HTTP/9", b"\xff", b"\x16\x03\x01"])
def test_what_is_no_http_does_not_harm_the_next_request(world, line):
    _, bridge = world
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=10) as connection:
        connection.sendall(line + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert not re.match(rb"HTTP/1\.1 5", connection.recv(READ_BYTES))
    assert bridge.get("/v1/latest_orders").status_code == 200


# --- webhook bodies


def stored(bridge: Bridge) -> list[tuple]:
    """Return what the bridge keeps of webhooks and lists: every row of an order or customer."""
    return [row for table in ("orders", "customers") for row in query(bridge, f"SELECT * FROM {table} ORDER BY id")]


ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 2**53 + 1, 10**18, 10**400, 1.5, 1e308, -0.0),
    *(float("nan"), float("inf"), -float("inf"), "NaN", "Infinity", "1e999", "0", "-1", "0x10", "1_000", "١"),
    *("9" * 400, "", " ", "x" * 600, "x" * 70_000, "\0", "\n", "\ud800", "\udfff\ud800", "😀", "\u202e", "../.."),
    *("'; DROP TABLE orders; --", "paid", "draft", "completed", "reviewed"),
    *("2025-02-30T00:00:00Z", "0000-00-00T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    *("2025-11-01", "2025-11-01T00:00:60Z", "2025-11-01T24:00:00Z", "2025-11-01T00:00:00+99:99"),
    *([], {}, [[]], [None], [1, "x"], {"": ""}, {"id": {"id": {}}}, [{}] * 50, {"sessionId": []}),
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Return the path of each value inside a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in parts for found in [(*path, key), *places(inner, (*path, key))]]


def change_value(dice: random.Random, body: dict) -> bytes:
    *path, last = dice.choice(places(body))
    inner = body
    for key in path:
        inner = inner[key]
    change = dice.randrange(4)
    if change == 0:
        del inner[last]
    elif change == 1 and isinstance(inner, dict):
        inner[dice.choice(("status", "orderId", "id", "", "\0", "x" * 500))] = inner.pop(last)
    else:
        inner[last] = copy.deepcopy(dice.choice(ODD_VALUES))
    return json.dumps(body).encode()


def change_values(dice: random.Random, body: dict) -> bytes:
    for _ in range(dice.randrange(2, 6)):
        body = json.loads(change_value(dice, body)) if places(body) else body
    return json.dumps(body).encode()


def repeat_key(dice: random.Random, body: dict) -> bytes:
    key = dice.choice(list(body))
    more = json.dumps({key: dice.choice(ODD_VALUES)}).encode()
    return json.dumps(body).encode()[:-1] + b"," + more[1:]


def nest(dice: random.Random, body: dict) -> bytes:
    depth = dice.choice((50, 900, 5_000, 100_000))
    deep = dice.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
    return json.dumps(body).encode()[:-1] + b',"%s":%s}' % (dice.choice((b"session", b"cart", b"x")), deep)


def enlarge(dice: random.Random, body: dict) -> bytes:
    lines = body.get("cart") or [{}]
    most = MAX_BODY_BYTES // len(json.dumps(lines)) - 10  # a larger body is refused unread, which is another test
    return json.dumps({**body, "cart": lines * dice.randrange(1, most)}).encode()


def cut(dice: random.Random, body: dict) -> bytes:
    text = json.dumps(body).encode()
    return text[: dice.randrange(len(text))]


def flip_bytes(dice: random.Random, body: dict) -> bytes:
    text = bytearray(json.dumps(body).encode())
    for _ in range(dice.randrange(1, 8)):
        text[dice.randrange(len(text))] = dice.randrange(256)
    return bytes(text)


def write_otherwise(dice: random.Random, body: dict) -> bytes:
    text = json.dumps(body, ensure_ascii=False)
    forms: list[Callable[[], bytes]] = [
        lambda: gzip.compress(text.encode()),
        lambda: text.encode("utf-16"),
        lambda: text.encode("utf-32-be"),
        lambda: text.encode("utf-8-sig"),
        lambda: text.encode() * 2,
        lambda: f"[{text}]".encode(),
        lambda: json.dumps(text).encode(),
        lambda: quote(text).encode(),
        lambda: dice.randbytes(dice.randrange(2000)),
        lambda: dice.choice((b"", b" ", b"null", b"0", b"NaN", b'""', b"[]", b"{}", b"\0", b"\xff", b"9" * 10_000)),
    ]
    return dice.choice(forms)()


MUTATE = (
    *(change_value, change_value, change_values, change_values),
    *(repeat_key, nest, enlarge, cut, flip_bytes, write_otherwise),
)


def mutated(sandbox: Sandbox, count: int) -> Iterator[bytes]:
    """Yield broken webhooks: what AiFi might send, changed at random in one of the ways above."""
    dice, orders = random.Random(11), sandbox.order_ids()
    for _ in range(count):
        body = sandbox.webhook(
            dice.choice(orders),
            status=dice.choice(("draft", "completed", "reviewed")),
            with_order_id=dice.random() < 0.7,
            session_at=dice.choice(("nested", "top")),
        )
        if dice.random() < 0.15:
            body = sandbox.customer_webhook(dice.choice(list(sandbox.customers)))
        yield dice.choice(MUTATE)(dice, json.loads(json.dumps(body)))


def strict_json(text: str) -> object:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def push_all(bridge: Bridge, bodies: list[bytes]) -> list[int]:
    """Push webhooks one after the other; return the statuses."""
    statuses = []
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update({"Authorization": f"Bearer {WEBHOOK_SECRET}", "Content-Type": "application/json"})
        for body in bodies:
            response = session.post(f"{bridge.url}/webhooks/aifi", data=body, timeout=30)
            assert response.status_code in (200, 400), f"{response.status_code} to {body[:3000]!r}"
            statuses.append(response.status_code)
    return statuses


def test_no_broken_webhook_is_a_failure_and_nothing_is_kept_of_a_refused_one(start_bridge, sandbox, tmp_path):
    sandbox.seed_orders(40)
    bridge = start_bridge(REFRESH_SECONDS=600)
    bodies = list(mutated(sandbox, MUTATIONS))
    statuses = push_all(bridge, bodies)
    refused = [body for body, status in zip(bodies, statuses, strict=True) if status == 400]
    assert MUTATIONS / 10 < len(refused) < MUTATIONS * 9 / 10

    untouched = start_bridge(REFRESH_SECONDS=600, DATABASE_PATH=tmp_path / "untouched.db")
    assert set(push_all(untouched, refused)) == {400}
    assert stored(untouched) == []

    # And what was kept of the others does not harm Aide.
    kept = walk(bridge, 100)
    assert len(kept) >= 40
    for order in kept[::20]:
        response = bridge.get("/v1/orders/" + quote(order["id"], safe=""))
        assert response.status_code == 200, f"{order}: {response.text}"
        strict_json(response.text)
    strict_json(bridge.get("/v1/latest_orders", page_size=100).text)
    assert "Traceback" not in bridge.log() + untouched.log()


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 30 * MAX_BODY_BYTES])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(world, size, chunked):
    _, bridge = world
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size) if chunked else b"x" * size
    status, _ = raw(bridge, "POST", "/webhooks/aifi", SECRET, length, body=body)
    assert status in (413, 0)  # the answer is lost where the connection is reset under the rest of the body
    assert bridge.get("/v1/latest_orders").status_code == 200


BROKEN_CHUNKS = (b"zz\r\n", b"-1\r\nx\r\n", b"5\r\nab", b"f" * 20 + b"\r\n", b"5;\xff\r\nhello\r\n0\r\nX: \0\r\n\r\n")


@pytest.mark.parametrize("body", BROKEN_CHUNKS)
def test_a_body_in_broken_chunks_is_no_failure(world, body):
    _, bridge = world
    before = stored(bridge)
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=10) as connection:
        head = b"POST /webhooks/aifi HTTP/1.1\r\nHost: x\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n" % SECRET
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            assert not re.match(rb"HTTP/1\.1 5", connection.recv(READ_BYTES))
    assert stored(bridge) == before
    assert bridge.get("/v1/latest_orders").status_code == 200


def test_a_body_that_never_comes_occupies_no_more_than_its_own_connection(world):
    _, bridge = world
    head = b"POST /webhooks/aifi HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: 500\r\n\r\n{" % SECRET
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port), timeout=10))
            connection.sendall(head)
        assert bridge.get("/v1/latest_orders").status_code == 200
    assert bridge.get("/v1/latest_orders").status_code == 200


# --- what can be stored is bounded


def test_an_order_larger_than_the_bound_is_refused(world):
    sandbox, bridge = world
    body = sandbox.webhook(sandbox.checkout())
    line = {"productSnapshot": {"name": "x" * 400}, "quantity": 1}
    body["cart"] = [line] * (MAX_ORDER_BYTES // 400)
    before = stored(bridge)
    assert bridge.webhook(body).status_code == 400
    assert stored(bridge) == before
    body["cart"] = [line] * (MAX_ORDER_BYTES // 600)
    assert bridge.webhook(body).status_code == 200


def test_no_text_of_a_webhook_is_stored_at_any_length(world):
    sandbox, bridge = world
    body = sandbox.customer_webhook(next(iter(sandbox.customers)))
    body["customerPersonalInfo"] = {"email": "x" * 500_000, "firstName": "y" * 400_000}
    size = sum(len(str(row)) for row in stored(bridge))
    assert bridge.webhook(body).status_code in (200, 400)
    assert sum(len(str(row)) for row in stored(bridge)) < size + 5_000


def copy_order(bridge: Bridge, order_id: int, copies: list[dict]) -> None:
    """Add copies of a stored order, each with some columns changed."""
    with opened(bridge) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM orders WHERE id = ?", (str(order_id),)).fetchone())
        places = ", ".join(f":{name}" for name in row)
        connection.executemany(
            f"INSERT INTO orders ({', '.join(row)}) VALUES ({places})", [row | copy for copy in copies]
        )


def count(bridge: Bridge, sql: str) -> int:
    return query(bridge, sql)[0][0]


@pytest.mark.parametrize("denied", [True, False], ids=["denied by AiFi", "not asked about yet"])
def test_orders_that_only_webhooks_name_are_bounded(start_bridge, sandbox, denied):
    bridge = start_bridge(REFRESH_SECONDS=600)
    bridge.get("/v1/latest_orders")
    body = sandbox.webhook(sandbox.checkout())
    assert bridge.webhook({**body, "orderId": 10**9}).status_code == 200
    checked_at = "2025-11-01T00:00:00.000Z" if denied else None
    ids = range(10**10, 10**10 + MAX_UNCONFIRMED - 1)
    copy_order(bridge, 10**9, [{"id": str(number), "session_id": None, "checked_at": checked_at} for number in ids])
    for number in range(3):
        response = bridge.webhook({**body, "session": {"sessionId": str(uuid.uuid4())}, "orderId": 10**11 + number})
        assert response.status_code == (200 if denied else 503), response.text
    assert count(bridge, "SELECT count(*) FROM orders WHERE confirmed = 0") == MAX_UNCONFIRMED


def test_customers_are_bounded(start_bridge, sandbox):
    bridge = start_bridge(REFRESH_SECONDS=600)
    bridge.get("/v1/latest_orders")
    times = (f"2025-11-01T00:00:{number // 1000:02d}.{number % 1000:03d}Z" for number in range(MAX_CUSTOMERS))
    rows = [(str(10**10 + number), "{}", known_at, known_at) for number, known_at in enumerate(times)]
    with opened(bridge) as connection:
        connection.executemany("INSERT INTO customers (id, body, aifi_at, known_at) VALUES (?, ?, ?, ?)", rows)
    for number in range(3):
        body = sandbox.customer_webhook(11)
        body["customer"]["id"] = 10**11 + number
        assert bridge.webhook(body).status_code == 200
    assert count(bridge, "SELECT count(*) FROM customers") <= MAX_CUSTOMERS
    assert count(bridge, f"SELECT count(*) FROM customers WHERE id >= '{10**11}' AND length(id) = 12") == 3


def test_many_who_ask_for_unknown_orders_at_once_get_no_failure_but_503(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(REFRESH_SECONDS=600, REFRESH_WAIT_SECONDS=1)
    bridge.get("/v1/latest_orders")
    sandbox.latency_seconds = 0.5
    with ThreadPoolExecutor(16) as pool:
        statuses = set(pool.map(lambda number: bridge.get(f"/v1/orders/{10**6 + number}").status_code, range(48)))
    assert statuses <= {404, 503}
    assert sandbox.refused_by_rate == []


# --- generated from our own description


# What the description cannot say: which texts are page tokens, and which webhooks make sense.
# And of AiFi the bridge takes more than is described: a wrong type counts only where it matters.
SCHEMATHESIS = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "503"]

[[operations]]
include-path = "/webhooks/aifi"
checks.negative_data_rejection.enabled = false
"""


def test_schemathesis_finds_no_failure(start_bridge, sandbox, tmp_path):
    sandbox.seed_orders(30)
    bridge = start_bridge(REFRESH_SECONDS=600)
    bridge.get("/v1/latest_orders")
    config = tmp_path / "schemathesis.toml"
    config.write_text(SCHEMATHESIS)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color", "run"),
        *(str(PROJECT / "openapi.yaml"), "--url", bridge.url, "--request-timeout", "15", "--workers", "2"),
        *("--header", f"X-API-Key: {AIDE_KEY}", "--header", f"Authorization: Bearer {WEBHOOK_SECRET}"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--seed", "1"),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "Tested: 5" in run.stdout
    assert "Traceback" not in bridge.log()
