"""AiFi's client without a socket: what it sends, and what it makes of the answers."""

import gzip
import itertools
import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import pytest
import requests
import responses
from responses.matchers import header_matcher, query_param_matcher, urlencoded_params_matcher

import aifi
from aifi import AifiRefused, AifiUnavailable, Client, Token
from tests.support import SECRET, STATIC, TOKEN_URL, assert_nothing_is_told, credentials

pytestmark = pytest.mark.usefixtures("steady_pace")
BASE_URL = "https://aifi.test/api"
ORDERS_URL = f"{BASE_URL}/orders"


# --- what a test registers for a URL is answered in turn, the last for ever


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


# --- the request slot


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


@pytest.mark.parametrize("show", [repr, str])
def test_what_holds_a_secret_does_not_show_it(show):
    source = credentials()
    assert SECRET not in show(source) + show(Client(BASE_URL, source)) + show(Token(STATIC))
    assert STATIC not in show(Token(STATIC))
