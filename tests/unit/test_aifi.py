"""AiFi's client: what it sends and understands without a socket, how it bears failures over a real one."""

import contextlib
import gzip
import itertools
import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import responses
from responses.matchers import header_matcher, query_param_matcher, urlencoded_params_matcher

import aifi
from aifi import AifiError, AifiRefused, AifiUnavailable, Client, Token

BASE_URL, TOKEN_URL = "https://aifi.test/api", "https://auth.aifi.test/token"
ORDERS_URL = f"{BASE_URL}/orders"
STATIC, SECRET = "static-access-token", "very-secret-client-secret"


@pytest.fixture(autouse=True)
def _steady_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aifi, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(aifi, "SLOT_LATE_SECONDS", 60)  # a machine under load is late itself


# --- without a socket: what a test registers for a URL is answered in turn, the last for ever


@pytest.fixture
def api() -> Iterator[responses.RequestsMock]:
    """Answer as registered; anything else that is asked, or left unasked, fails the test."""
    with responses.RequestsMock() as api:
        yield api
        for thread in threading.enumerate():
            if thread.name.startswith("ThreadPoolExecutor"):  # reads a page ahead, or did
                thread.join(10)
        assert [call.request.url for call in api.calls if "refused by Responses" in str(call.response)] == []


@pytest.fixture
def client() -> Client:
    return Client(f"{BASE_URL}/", Token(STATIC))


@pytest.fixture
def oauth_client() -> Client:
    return Client(BASE_URL, credentials())


def credentials(url: str = TOKEN_URL, scope: str = "") -> Token:
    return Token(client_id="the-client", client_secret=SECRET, url=url, scope=scope)


def give_tokens(api: responses.RequestsMock, **fields: Any) -> None:
    """Give token-1, token-2 …, with these further fields."""
    numbers = itertools.count(1)

    def answer(_: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        return 200, {}, json.dumps({"access_token": f"token-{next(numbers)}", **fields})

    api.add_callback("POST", TOKEN_URL, answer)


def sent_tokens(api: responses.RequestsMock) -> list[str]:
    """Return the token of each request to AiFi itself, in order."""
    sent = [call.request for call in api.calls if call.request.url.startswith(BASE_URL)]
    return [request.headers["Authorization"].removeprefix("Bearer ") for request in sent]


# --- what is sent


def test_the_static_token_is_sent_as_it_is(api, client):
    api.get(ORDERS_URL, match=[header_matcher({"Authorization": f"Bearer {STATIC}"})], json={"data": []})
    client.get("/orders")
    assert len(api.calls) == 1


def test_the_netrc_file_is_not_looked_at(api, oauth_client, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    give_tokens(api)
    api.get(ORDERS_URL, json={"data": []})
    oauth_client.get("/orders")
    assert [call.request.headers.get("Authorization") for call in api.calls] == [None, "Bearer token-1"]


def test_a_list_is_asked_for_with_its_products_in_the_largest_pages(api, client):
    since = "2025-11-01T00:00:00.000Z"
    query = {"includeProducts": "true", "pageSize": "200", "minUpdatedAt": since, "direction": "asc"}
    api.get(ORDERS_URL, match=[query_param_matcher({**query, "page": "0"})], json={"data": [1]})
    assert list(client.pages(minUpdatedAt=since, direction="asc")) == [[1]]


@pytest.mark.parametrize(
    ("store_ids", "roles", "filters"),
    [
        ((), (), {}),
        (("3",), (), {"storeId": "3"}),
        (("3", "4"), (), {}),
        ((), ("customer",), {"customerRole": "customer"}),
        ((), ("customer", "tester"), {"customerRole": ["customer", "tester"]}),
        (("3",), ("tester",), {"storeId": "3", "customerRole": "tester"}),
    ],
    ids=["none", "one store", "several stores", "one role", "several roles", "store and role"],
)
def test_the_filters_are_sent_as_aifi_takes_them(api, store_ids, roles, filters):
    query = {"includeProducts": "true", "pageSize": "200", "page": "0", **filters}
    api.get(ORDERS_URL, match=[query_param_matcher(query)], json={"data": [1]})
    assert list(Client(BASE_URL, Token(STATIC), store_ids, roles).pages()) == [[1]]


@pytest.mark.parametrize(
    ("look_up", "url"),
    [("get_order", f"{BASE_URL}/orders/7"), ("get_customer", f"{BASE_URL}/customers/7")],
    ids=["order", "customer"],
)
class TestLookUps:
    def test_answer_what_aifi_knows(self, api, client, look_up, url):
        api.get(url, json={"id": 7})
        assert getattr(client, look_up)("7") == {"id": 7}

    @pytest.mark.parametrize("status", [400, 404, 410, 422])
    def test_answer_none_where_aifi_knows_none(self, api, client, look_up, url, status):
        api.get(url, status=status)
        assert getattr(client, look_up)("7") is None
        assert len(api.calls) == 1

    @pytest.mark.parametrize(("status", "error"), [(401, AifiRefused), (403, AifiRefused), (500, AifiUnavailable)])
    def test_do_not_take_a_failure_for_an_unknown_id(self, api, client, look_up, url, status, error):
        api.get(url, status=status)
        with pytest.raises(error):
            getattr(client, look_up)("7")


@pytest.mark.parametrize("orders", [[{"id": 7}], []], ids=["an order", "none"])
def test_a_connection_is_tried_with_one_small_request(api, client, orders):
    query = {"pageSize": "1", "orderBy": "draftCreatedAt", "direction": "desc"}
    api.get(ORDERS_URL, match=[query_param_matcher(query, strict_match=False)], json={"data": orders})
    assert client.try_list() == (orders[0] if orders else None)


@pytest.mark.parametrize("ahead", [3600, 0, -3600])
def test_an_answer_tells_how_far_aifis_clock_is_ahead(api, client, ahead):
    api.get(ORDERS_URL, json={"data": []}, headers={"Date": formatdate(time.time() + ahead, usegmt=True)})
    client.get("/orders")
    assert client.clock_ahead_seconds == pytest.approx(ahead, abs=60)


@pytest.mark.parametrize("headers", [{}, {"Date": "today"}], ids=["no date", "malformed"])
def test_an_answer_that_does_not_tell_the_time_tells_nothing_of_the_clock(api, client, headers):
    api.get(ORDERS_URL, json={"data": []}, headers=headers)
    client.get("/orders")
    assert client.clock_ahead_seconds is None


# --- the token


def test_client_credentials_are_turned_into_a_token(api, oauth_client):
    form = {"client_id": "the-client", "client_secret": SECRET, "grant_type": "client_credentials"}
    is_form = header_matcher({"Content-Type": "application/x-www-form-urlencoded"})
    match = [urlencoded_params_matcher(form, allow_blank=True), is_form]
    api.post(TOKEN_URL, match=match, json={"access_token": "token-1", "expires_in": 300, "token_type": "Bearer"})
    api.get(ORDERS_URL, json={"data": []})
    oauth_client.get("/orders")
    assert sent_tokens(api) == ["token-1"]
    assert "Authorization" not in api.calls[0].request.headers


def test_a_scope_is_sent_where_it_is_set(api):
    scope = urlencoded_params_matcher({"scope": "openid admin"}, strict_match=False)
    api.post(TOKEN_URL, match=[scope], json={"access_token": "token-1"})
    api.get(ORDERS_URL, json={"data": []})
    Client(BASE_URL, credentials(scope="openid admin")).get("/orders")
    assert sent_tokens(api) == ["token-1"]


@pytest.mark.parametrize(
    ("fields", "good_until"),
    [
        ({"expires_in": 300}, 270),
        ({"expires_in": "300"}, 270),
        ({"expires_in": 0.5}, 0.45),
        ({}, 54),
        ({"expires_in": None}, 54),
        ({"expires_in": "long"}, 54),
    ],
    ids=["seconds", "text", "short", "absent", "null", "malformed"],
)
def test_a_token_is_renewed_after_nine_tenths_of_its_life(api, oauth_client, monkeypatch, fields, good_until):
    now = [1000.0]
    monkeypatch.setattr(aifi.time, "monotonic", lambda: now[0])
    give_tokens(api, **fields)
    api.get(ORDERS_URL, json={"data": []})
    for share in (0, 0.999, 0.002):
        now[0] += good_until * share
        oauth_client.get("/orders")
    assert sent_tokens(api) == ["token-1", "token-1", "token-2"]


def test_the_life_of_a_token_counts_from_before_it_was_asked_for(api, oauth_client, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(aifi.time, "monotonic", lambda: now[0])

    def answer_slowly(_: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        now[0] += 50
        return 200, {}, json.dumps({"access_token": str(now[0]), "expires_in": 100})

    api.add_callback("POST", TOKEN_URL, answer_slowly)
    api.get(ORDERS_URL, json={"data": []})
    oauth_client.get("/orders")
    now[0] += 41
    oauth_client.get("/orders")
    assert sent_tokens(api) == ["1050.0", "1141.0"]


def test_a_refusal_of_the_former_token_does_not_drop_the_new_one():
    numbers, source = itertools.count(1), credentials()

    def send(*_: Any, **__: Any) -> tuple[int, bytes]:
        return 200, json.dumps({"access_token": f"token-{next(numbers)}", "expires_in": 300}).encode()

    former = source.get(send)
    assert source.expire(former)
    assert source.get(send) == "token-2"
    assert source.expire(former)
    assert source.get(send) == "token-2"


def test_a_token_that_aifi_refuses_is_renewed_once(api, oauth_client):
    give_tokens(api)
    api.get(ORDERS_URL, status=401)
    api.get(ORDERS_URL, json={"data": [1]})
    assert oauth_client.get("/orders") == {"data": [1]}
    assert sent_tokens(api) == ["token-1", "token-2"]


def test_a_token_is_not_renewed_twice_for_one_request(api, oauth_client):
    give_tokens(api)
    api.get(ORDERS_URL, status=401)
    with pytest.raises(AifiRefused, match="access token"):
        oauth_client.get("/orders")
    assert sent_tokens(api) == ["token-1", "token-2"]
    assert len(api.calls) == 4


def test_a_right_that_is_lacking_does_not_renew_the_token(api, oauth_client):
    give_tokens(api)
    api.get(ORDERS_URL, status=403)
    with pytest.raises(AifiRefused):
        oauth_client.get("/orders")
    assert len(api.calls) == 2  # one of them for the token


def test_a_static_token_is_never_renewed(api, client):
    api.get(ORDERS_URL, status=401)
    with pytest.raises(AifiRefused, match="access token"):
        client.get("/orders")
    assert len(api.calls) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 422])
def test_refused_credentials_are_named_and_aifi_is_not_asked(api, oauth_client, status):
    api.post(TOKEN_URL, status=status, json={"error": "unauthorized_client"})
    with pytest.raises(AifiRefused, match="token server refuses AIFI_CLIENT_ID") as refusal:
        oauth_client.get_order("7")
    assert refusal.value.cause == "aifi_token_refused"
    assert len(api.calls) == 1


@pytest.mark.parametrize(
    "body",
    [
        *("<html>", "", "[]", "null", '"token"', "{}"),
        *('{"access_token": null}', '{"access_token": ""}', '{"access_token": 7}'),
        *map(json.dumps, [{"access_token": text} for text in ("line\nbreak", "with\r\nX-Evil: 1", "☃")]),
    ],
    ids=repr,
)
def test_a_token_server_that_gives_no_usable_token_makes_aifi_unavailable(api, oauth_client, body):
    api.post(TOKEN_URL, body=body)
    with pytest.raises(AifiUnavailable):
        oauth_client.get("/orders")
    assert sent_tokens(api) == []


# --- what is understood

NONSENSE = {
    "HTML": "<html>Bad gateway</html>",
    "nothing": "",
    "truncated": '{"data": [{"id": 1',
    "a list": "[]",
    "null": "null",
    "text": '"data"',
    "a number": "7",
    "no data": "{}",
    "data null": '{"data": null}',
    "data object": '{"data": {"id": 1}}',
    "data text": '{"data": "none"}',
    "an error with 200": '{"message": "no", "type": "E_NO"}',
    "no UTF-8": b'{"data": ["\xff"]}',
    "nested without end": "[" * 100_000,
}


@pytest.mark.parametrize("read", [lambda client: list(client.pages()), Client.try_list], ids=["all", "trial"])
@pytest.mark.parametrize("body", list(NONSENSE.values()), ids=list(NONSENSE))
def test_a_list_that_is_none_makes_aifi_unavailable(api, client, body, read):
    api.get(ORDERS_URL, body=body)
    with pytest.raises(AifiUnavailable):
        read(client)


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 410, 422])
def test_what_aifi_refuses_is_not_sent_again(api, client, status):
    api.get(ORDERS_URL, status=status, json={"message": "no", "type": "E_NO"})
    with pytest.raises(AifiRefused) as refusal:
        client.get("/orders")
    assert refusal.value.status == status
    assert refusal.value.cause == ("aifi_token_refused" if status == 403 else "aifi_refuses")
    assert len(api.calls) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_the_status_of_a_failure_is_told(api, client, status):
    api.get(ORDERS_URL, status=status)
    with pytest.raises(AifiUnavailable, match=f"answers {status}"):
        client.get("/orders")


@pytest.mark.parametrize("status", [201, 202, 204, 206, 304])
def test_any_other_status_than_200_makes_aifi_unavailable(api, client, status):
    api.get(ORDERS_URL, status=status)
    with pytest.raises(AifiUnavailable, match=str(status)):
        client.get("/orders")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(api, client, status):
    api.get(ORDERS_URL, status=status, headers={"Location": "/elsewhere"})
    with pytest.raises(AifiUnavailable, match="AIFI_BASE_URL"):
        client.get("/orders")
    assert len(api.calls) == 1


def test_a_redirect_does_not_carry_the_secret_on(api, oauth_client):
    api.post(TOKEN_URL, status=307, headers={"Location": "https://elsewhere.test"})
    with pytest.raises(AifiUnavailable):
        oauth_client.get("/orders")
    assert len(api.calls) == 1


def test_a_compressed_answer_is_read(api, client):
    api.get(ORDERS_URL, body=gzip.compress(b'{"data": [1]}'), headers={"Content-Encoding": "gzip"})
    assert client.get("/orders") == {"data": [1]}


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"[1, 2, 3]" * 100)[:-20]], ids=["no gzip", "broken off"])
def test_a_compressed_answer_that_is_damaged_makes_aifi_unavailable(api, client, body):
    api.get(ORDERS_URL, body=body, headers={"Content-Encoding": "gzip"})
    with pytest.raises(AifiUnavailable):
        client.get("/orders")


# --- pages


Reply = tuple[int, dict[str, str], str]
REFUSES, HAS_NOTHING = (400, {}, "{}"), (200, {}, '{"data": []}')
FROM_ONE = {"refuses page 0": REFUSES, "has nothing on page 0": HAS_NOTHING, "takes page 0 for page 1": None}


def list_orders(
    api: responses.RequestsMock, total: int, first: int = 0, most: int = 200, before: Reply | None = None
) -> None:
    """List orders 0, 1, 2 … as AiFi does; `first` is the number of the first page, `before` answers for lower ones."""

    def answer(request: Any) -> Reply:
        number, size = int(request.params["page"]), min(most, int(request.params["pageSize"]))
        if number < first and before:
            return before
        start = max(number - first, 0) * size
        return 200, {}, json.dumps({"data": list(range(start, min(start + size, total)))})

    api.upsert(responses.CallbackResponse("GET", ORDERS_URL, answer))


def flat(pages: Iterator[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(pages))


def numbers(api: responses.RequestsMock) -> list[str]:
    return [call.request.params["page"] for call in api.calls]


@pytest.mark.parametrize(
    ("total", "asked"),
    [(1, 1), (9, 1), (49, 2), (199, 2), (200, 2), (201, 2), (400, 3), (449, 3)],
)
def test_a_list_is_read_to_its_end_and_not_far_beyond(api, client, total, asked):
    list_orders(api, total)
    assert flat(client.pages()) == list(range(total))
    assert numbers(api) == [str(number) for number in range(asked)]


def test_a_page_shorter_than_one_seen_before_ends_its_list(api, client):
    list_orders(api, 201)
    list(client.pages())
    list_orders(api, 199)
    assert flat(client.pages()) == list(range(199))
    assert numbers(api) == ["0", "1", "0"]


@pytest.mark.parametrize("most", [40, 50, 100])
@pytest.mark.parametrize("total", [120, 200])
def test_a_server_that_caps_the_page_size_loses_no_order(api, client, most, total):
    list_orders(api, total, most=most)
    assert flat(client.pages()) == list(range(total))


@pytest.mark.parametrize("total", [10, 200, 450, 600])
@pytest.mark.parametrize("before", list(FROM_ONE.values()), ids=list(FROM_ONE))
def test_a_server_that_counts_from_one_loses_no_order(api, client, before, total):
    list_orders(api, total, first=1, before=before)
    orders = flat(client.pages())
    assert sorted(set(orders)) == list(range(total))
    assert len(orders) <= total + 200  # at most the first page twice


@pytest.mark.parametrize("before", [REFUSES, HAS_NOTHING], ids=["refuses page 0", "has nothing on page 0"])
def test_the_number_of_the_first_page_is_learned(api, client, before):
    list_orders(api, 9, first=1, before=before)
    for _ in range(3):
        assert list(client.pages()) == [list(range(9))]
    assert numbers(api) == ["0", "1", "1", "1"]


@pytest.mark.parametrize("total", [0, 10, 49, 200, 450, 1000])
@pytest.mark.parametrize("first", [0, 1])
def test_pages_that_are_read_ahead_come_whole_and_in_order(api, client, first, total):
    list_orders(api, total, first=first, before=HAS_NOTHING)
    assert flat(client.pages_ahead(3)) == list(range(total))


def test_reading_ahead_ends_with_the_failure_of_a_page(api, client):
    first = query_param_matcher({"page": "0"}, strict_match=False)
    api.get(ORDERS_URL, match=[first], json={"data": [1] * 200})
    api.get(ORDERS_URL, status=500)
    pages = client.pages_ahead(3)
    assert next(pages) == [1] * 200
    with pytest.raises(AifiUnavailable):
        next(pages)


def test_an_empty_list_teaches_nothing_of_the_first_page(api, client):
    list_orders(api, 0)
    assert list(client.pages()) == []
    list_orders(api, 10)
    assert list(client.pages()) == [list(range(10))]


def test_a_list_that_is_refused_at_either_number_is_refused(api, client):
    api.get(ORDERS_URL, status=400)
    with pytest.raises(AifiRefused):
        list(client.pages(minUpdatedAt="x"))
    assert numbers(api) == ["0", "1"]


def test_a_list_that_repeats_its_page_ends_with_an_error(api, client):
    api.get(ORDERS_URL, json={"data": list(range(200))})
    with pytest.raises(AifiUnavailable, match="repeats"):
        list(client.pages())
    assert len(api.calls) <= 4


def test_a_failure_in_the_middle_of_a_list_is_an_error_after_the_pages_before(api, client):
    api.get(ORDERS_URL, json={"data": list(range(200))})
    api.get(ORDERS_URL, status=500)
    pages = client.pages()
    assert next(pages) == list(range(200))
    with pytest.raises(AifiUnavailable):
        next(pages)


def test_a_token_that_ends_in_the_middle_of_a_list_loses_no_order(api, oauth_client):
    full, rest = list(range(200)), [200]
    give_tokens(api)
    api.get(ORDERS_URL, json={"data": full})
    api.get(ORDERS_URL, status=401)
    api.get(ORDERS_URL, json={"data": rest})
    assert list(oauth_client.pages()) == [full, rest]


# --- secrets


LEAKY = {
    "echo of the form": (TOKEN_URL, {"status": 401, "body": f"client_secret={SECRET}"}),
    "HTML that echoes": (TOKEN_URL, {"body": f"<html>{SECRET}</html>"}),
    "failing token server": (TOKEN_URL, {"status": 500, "body": SECRET}),
    "error that shows the form": (TOKEN_URL, {"body": requests.ConnectionError(SECRET)}),
    "redirect with the secret": (TOKEN_URL, {"status": 302, "headers": {"Location": f"/?client_secret={SECRET}"}}),
    "token that fits in no header": (TOKEN_URL, {"json": {"access_token": "token-1\nfolded"}}),
    "refused token": (ORDERS_URL, {"status": 401, "json": {"message": "token-1 and token-2 are bad"}}),
    "failing AiFi": (ORDERS_URL, {"status": 503, "body": "token-1"}),
    "error that shows the token": (ORDERS_URL, {"body": requests.Timeout("token-1")}),
    "AiFi that talks nonsense": (ORDERS_URL, {"body": "<html>token-1</html>"}),
}


@pytest.mark.parametrize(("url", "answer"), list(LEAKY.values()), ids=list(LEAKY))
def test_no_secret_gets_into_an_error_or_the_log(api, oauth_client, caplog, url, answer):
    if url == ORDERS_URL:
        give_tokens(api)
    api.add("POST" if url == TOKEN_URL else "GET", url, **answer)
    assert_nothing_is_told(oauth_client, caplog)


def assert_nothing_is_told(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AifiError) as failure:
        client.get("/orders")
    told = "".join(traceback.format_exception(failure.value)) + repr(failure.value) + caplog.text
    assert [secret for secret in (SECRET, "token-1", "token-2") if secret in told] == []


@pytest.mark.parametrize("show", [repr, str])
def test_what_holds_a_secret_does_not_show_it(show):
    source = credentials()
    assert SECRET not in show(source) + show(Client(BASE_URL, source)) + show(Token(STATIC))
    assert STATIC not in show(Token(STATIC))


# --- over a real socket: a server with a script for each path


Script = Callable[[BaseHTTPRequestHandler], None]


def answer(status: int = 200, body: bytes = b'{"data": []}', headers: Mapping[str, str] | None = None) -> Script:
    def script(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return script


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """End the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def say(text: bytes) -> Script:
    """Write this instead of an answer, and end the connection."""

    def script(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(text)

    return script


TOKEN = answer(body=b'{"access_token": "token-1"}')


class Server(ThreadingHTTPServer):
    """An HTTP server with a script for each path: one answer after another, the last one for ever."""

    daemon_threads, block_on_close = True, False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: list[str] = []  # paths
        self.released = threading.Event()
        self._scripts: dict[str, list[Script]] = {}
        self._lock = threading.Lock()

    def on(self, path: str, *scripts: Script) -> None:
        self._scripts[path] = list(scripts)

    def next(self, path: str) -> Script:
        with self._lock:
            self.asked.append(path)
            scripts = self._scripts[path]
            return scripts.pop(0) if len(scripts) > 1 else scripts[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    server: Server

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client gave up
            super().handle()

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.next(urlsplit(self.path).path)(self)

    do_POST = do_GET  # noqa: N815 - the base class's name

    def log_message(self, *_: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.on("/orders", answer())
        server.on("/token", TOKEN)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join(10)


class Slots:
    """Hands out slots, and remembers each that was asked for; waits in seconds."""

    def __init__(self, *waits: float):
        self.waits = list(waits)
        self.intervals: list[float] = []

    def __call__(self, interval: float) -> float:
        self.intervals.append(interval)
        return self.waits.pop(0) if self.waits else 0.0


def connect(server: Server, slots: Slots | None = None, oauth: bool = False) -> Client:
    token = credentials(f"{server.url}/token") if oauth else Token(STATIC)
    return Client(server.url, token, wait_for_slot=slots or Slots())


# --- retries


FAILURES = {**{str(status): answer(status) for status in (429, 500, 502, 503, 504)}, "hang up": hang_up}


@pytest.mark.parametrize("failure", list(FAILURES.values()), ids=list(FAILURES))
class TestAfterAFailure:
    def test_the_request_is_sent_again(self, server, failure):
        server.on("/orders", failure, failure, answer(body=b'{"data": [1]}'))
        assert connect(server).get("/orders") == {"data": [1]}
        assert len(server.asked) == 3

    def test_the_number_of_attempts_is_bounded(self, server, failure):
        server.on("/orders", failure)
        with pytest.raises(AifiUnavailable):
            connect(server).get("/orders")
        assert len(server.asked) == aifi.RETRIES + 1

    def test_the_token_is_asked_for_again_too(self, server, failure):
        server.on("/token", failure, failure, TOKEN)
        assert connect(server, oauth=True).get("/orders") == {"data": []}
        assert server.asked == ["/token"] * 3 + ["/orders"]


def test_a_server_that_does_not_listen_is_tried_a_bounded_number_of_times():
    slots = Slots()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(AifiUnavailable, match="cannot be reached"):
            Client(url, Token(STATIC), wait_for_slot=slots).get("/orders")
    assert len(slots.intervals) == aifi.RETRIES + 1


def test_a_host_that_does_not_exist_is_unavailable():
    with pytest.raises(AifiUnavailable):
        Client("http://nowhere.invalid", Token(STATIC)).get("/orders")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect the seconds that would be slept; there is no waiting for slots in it."""
    pauses: list[float] = []
    monkeypatch.setattr(aifi.time, "sleep", lambda seconds: pauses.append(seconds) if seconds else None)
    return pauses


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [("1", [1]), ("3600", [10]), (formatdate(time.time() + 3600, usegmt=True), [10]), ("0", [])],
    ids=["a second", "an hour", "a date in an hour", "at once"],
)
def test_retry_after_is_honoured_within_a_bound(server, pauses, status, retry_after, expected):
    server.on("/orders", answer(status, headers={"Retry-After": retry_after}), answer())
    connect(server).get("/orders")
    assert pauses == expected


def test_the_pauses_between_attempts_grow_and_differ_from_time_to_time(server, pauses, monkeypatch):
    monkeypatch.setattr(aifi, "BACKOFF_SECONDS", 0.5)
    server.on("/orders", answer(503))
    for _ in range(2):
        with pytest.raises(AifiUnavailable):
            connect(server).get("/orders")
    assert [least <= pause <= least + 0.5 for least, pause in zip((1, 2, 4) * 2, pauses, strict=True)] == [True] * 6
    assert pauses[:3] != pauses[3:]


def test_the_pauses_between_attempts_are_bounded(server, pauses, monkeypatch):
    monkeypatch.setattr(aifi, "BACKOFF_SECONDS", 100)
    server.on("/orders", answer(503))
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")
    assert pauses == [10, 10, 10]  # urllib3 pauses from the second retry on


def test_a_retry_after_that_means_nothing_is_no_crash(server):
    server.on("/orders", answer(503, headers={"Retry-After": "soon"}))
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")


@pytest.mark.parametrize("path", ["/token", "/orders"])
@pytest.mark.parametrize("failure", [answer(503), hang_up], ids=["503", "hang up"])
def test_retries_tell_no_secret(server, caplog, path, failure):
    server.on(path, failure)
    assert_nothing_is_told(connect(server, oauth=True), caplog)


# --- the request slot


def test_a_slot_is_asked_for_before_every_attempt(server):
    slots = Slots()
    server.on("/token", answer(503), TOKEN)
    server.on("/orders", answer(503), hang_up, answer(401), answer(500), answer())
    connect(server, slots, oauth=True).get("/orders")
    assert len(slots.intervals) == len(server.asked) == 8


def test_the_slots_keep_below_twenty_requests_a_second(server):
    slots = Slots()
    connect(server, slots).get("/orders")
    assert [1 / 20 < interval <= 1 / 15 for interval in slots.intervals] == [True]


def test_a_slot_is_waited_for(server):
    begun = time.monotonic()
    connect(server, Slots(0.3)).get("/orders")
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize(("late", "slots"), [(0, 1), (1, 2), (99, aifi.SLOT_TRIES)], ids=["never", "once", "always"])
def test_who_wakes_up_late_takes_another_slot_but_not_for_ever(api, monkeypatch, late, slots):
    now, taken = [1000.0], []
    monkeypatch.setattr(aifi.time, "monotonic", lambda: now[0])

    def wait_for_slot(interval: float) -> float:
        taken.append(interval)
        now[0] += 100 if len(taken) <= late else 0
        return 0.0

    api.get(ORDERS_URL, json={"data": []})
    Client(BASE_URL, Token(STATIC), wait_for_slot=wait_for_slot).get("/orders")
    assert (len(taken), len(api.calls)) == (slots, 1)


@pytest.mark.parametrize("waits", [(99,), (0, 99)], ids=["at first", "for a retry"])
def test_a_slot_that_is_too_far_off_is_not_waited_for(server, waits):
    server.on("/orders", answer(503))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable, match="too many"):
        connect(server, Slots(*waits)).get("/orders")
    assert len(server.asked) == len(waits) - 1
    assert time.monotonic() - begun < 10


def test_threads_share_one_token(server):
    client = connect(server, oauth=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.get("/orders"), range(8)))
    assert sorted(server.asked) == ["/orders"] * 8 + ["/token"]


# --- bounds


@pytest.mark.parametrize(
    "script",
    [
        say(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data": []}'),
        say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100\r\n{"),
        say(b"220 mail.example.com ESMTP\r\n"),
    ],
    ids=["broken off", "broken chunk", "another protocol"],
)
def test_an_answer_that_breaks_off_makes_aifi_unavailable(server, script):
    server.on("/orders", script)
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_an_answer_that_is_too_large_is_not_read_to_its_end(server, monkeypatch, compressed):
    monkeypatch.setattr(aifi, "MAX_ANSWER_BYTES", 100_000)
    body = json.dumps({"data": [], "padding": "x" * 5_000_000}).encode()
    packed = answer(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    server.on("/orders", packed if compressed else answer(body=body))
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")


def test_an_answer_that_trickles_is_given_up(server, monkeypatch):
    monkeypatch.setattr(aifi, "BODY_SECONDS", 0.3)

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not server.released.wait(0.02):
            handler.wfile.write(b" ")

    server.on("/orders", trickle)
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable, match="in time"):
        connect(server).get("/orders")
    assert time.monotonic() - begun < 10


def test_a_server_that_stays_silent_is_given_up(server, monkeypatch):
    monkeypatch.setattr(aifi, "READ_SECONDS", 0.1)
    monkeypatch.setattr(aifi, "RETRIES", 1)
    server.on("/orders", lambda handler: server.released.wait(30))
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable):
        connect(server).get("/orders")
    assert time.monotonic() - begun < 10
    assert len(server.asked) == 2
