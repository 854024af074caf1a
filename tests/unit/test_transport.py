"""Requests to AiFi without a socket: the token, what an answer is taken for, the pace, and secrets."""

import gzip
import itertools
import json
import time
from email.utils import formatdate
from typing import Any

import pytest
import requests
import responses
from responses.matchers import header_matcher, urlencoded_params_matcher

import transport
from aifi import Client
from tests.support import SECRET, STATIC, TOKEN_URL, assert_nothing_is_told, credentials
from tests.unit.conftest import BASE_URL, ORDERS_URL
from transport import AifiRefused, AifiUnavailable, Answer, Pace, Token

pytestmark = pytest.mark.usefixtures("steady_pace")


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


# --- what is sent, and told


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
    monkeypatch.setattr(transport.time, "monotonic", lambda: now[0])
    give_tokens(api, **fields)
    api.get(ORDERS_URL, json={"data": []})
    for share in (0, 0.999, 0.002):
        now[0] += good_until * share
        oauth_client.get("/orders")
    assert sent_tokens(api) == ["token-1", "token-1", "token-2"]


def test_the_life_of_a_token_counts_from_before_it_was_asked_for(api, oauth_client, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(transport.time, "monotonic", lambda: now[0])

    def answer_slowly(_: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        now[0] += 20
        return 200, {}, json.dumps({"access_token": str(now[0]), "expires_in": 100})

    api.add_callback("POST", TOKEN_URL, answer_slowly)
    api.get(ORDERS_URL, json={"data": []})
    oauth_client.get("/orders")
    now[0] += 71
    oauth_client.get("/orders")
    assert sent_tokens(api) == ["1020.0", "1111.0"]


def test_a_refusal_of_the_former_token_does_not_drop_the_new_one():
    numbers, source = itertools.count(1), credentials()

    def send(*_: Any, **__: Any) -> Answer:
        return Answer(200, json.dumps({"access_token": f"token-{next(numbers)}", "expires_in": 300}).encode())

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
    with pytest.raises(AifiUnavailable, match="token server"):
        oauth_client.get("/orders")
    assert sent_tokens(api) == []


@pytest.mark.parametrize("status", [201, 302, 429, 500])
def test_a_token_server_that_fails_is_named_with_its_variable(api, oauth_client, status):
    api.post(TOKEN_URL, status=status)
    with pytest.raises(AifiUnavailable, match=rf"AIFI_TOKEN_URL.*{status}"):
        oauth_client.get("/orders")


def test_a_right_that_new_tokens_lack_costs_one_token_not_one_a_request(api, oauth_client):
    give_tokens(api)
    api.get(f"{BASE_URL}/customers/7", status=401)
    api.get(f"{BASE_URL}/orders/7", json={"id": 7})
    for _ in range(3):
        with pytest.raises(AifiRefused):
            oauth_client.get_customer("7")
        oauth_client.get_order("7")
    assert sent_tokens(api) == ["token-1", *["token-2"] * 6]


def test_a_right_that_was_lacking_is_tried_with_a_new_token_after_a_while(api, oauth_client, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(transport.time, "monotonic", lambda: now[0])
    give_tokens(api, expires_in=3600)
    api.get(f"{BASE_URL}/customers/7", status=401)
    for wait in (0, transport.REFUSAL_SECONDS - 1, 2):
        now[0] += wait
        with pytest.raises(AifiRefused):
            oauth_client.get_customer("7")
    assert sent_tokens(api) == ["token-1", "token-2", "token-2", "token-2", "token-3"]


def test_a_token_that_ends_while_another_right_is_lacking_is_renewed_all_the_same(api, oauth_client):
    give_tokens(api)
    api.get(f"{BASE_URL}/customers/7", status=401)
    api.get(ORDERS_URL, status=401)
    api.get(ORDERS_URL, json={"data": []})
    with pytest.raises(AifiRefused):
        oauth_client.get_customer("7")
    assert oauth_client.get("/orders") == {"data": []}
    assert sent_tokens(api)[-1] == "token-3"


# --- what is understood


@pytest.mark.parametrize(
    "name",
    [b"Tea\tgreen", b"Tea\x1fgreen", b"Th\xe9 vert", b"Th\xc3", b"\xed\xa0\x80", b"Tea\x00"],
    ids=["tab", "unit separator", "Latin-1", "cut UTF-8", "surrogate", "NUL"],
)
def test_a_damaged_name_does_not_spoil_the_list(api, client, name):
    api.get(ORDERS_URL, body=b'{"data": [{"id": 1, "name": "' + name + b'"}, {"id": 2, "name": "Tea"}]}')
    answer = client.get("/orders")
    assert [order["id"] for order in answer["data"]] == [1, 2]
    assert answer["data"][1]["name"] == "Tea"


@pytest.mark.parametrize("status", [400, 403, 404, 405, 409, 410, 422])
def test_what_aifi_refuses_is_not_sent_again(api, client, status):
    api.get(ORDERS_URL, status=status, json={"message": "no", "type": "E_NO"})
    with pytest.raises(AifiRefused) as refusal:
        client.get("/orders")
    assert refusal.value.status == status
    assert refusal.value.cause == ("aifi_token_refused" if status == 403 else "aifi_refuses")
    assert len(api.calls) == 1


REFUSALS = {
    "message": ({"message": "pageSize is too large"}, "pageSize is too large"),
    "fields": ({"message": "Invalid", "errors": [{"rule": "date", "field": "minUpdatedAt"}]}, "Invalid, minUpdatedAt"),
    "errors of another form": ({"message": "Invalid", "errors": ["minUpdatedAt", None, {"field": 7}]}, "Invalid"),
    "long": ({"message": "no " * 500}, "no no no"),
}


@pytest.mark.parametrize(("fields", "words"), list(REFUSALS.values()), ids=list(REFUSALS))
def test_a_refusal_tells_what_aifi_says(api, client, fields, words):
    api.get(ORDERS_URL, status=400, json=fields)
    with pytest.raises(AifiRefused, match=words) as refusal:
        client.get("/orders")
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("fields", [{"message": {"a": 1}}, {"message": "two\nlines"}, {}, [], "no"], ids=repr)
def test_a_refusal_that_says_nothing_of_use_is_told_by_its_status(api, client, fields):
    api.get(ORDERS_URL, status=400, json=fields)
    with pytest.raises(AifiRefused, match=r"^AiFi refuses the request \(400\)$"):
        client.get("/orders")


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


# --- the pace


def test_the_pace_of_the_work_is_that_of_its_slots(api):
    intervals: list[float] = []

    def wait_for_slot(interval: float) -> float:
        intervals.append(interval)
        return 0.0

    api.get(ORDERS_URL, json={"data": []})
    client = Client(BASE_URL, Token(STATIC), wait_for_slot=wait_for_slot)
    list(client.walk(pace=Pace(0.5)))
    client.get("/orders")
    assert intervals == [0.5, Pace().interval]


def test_work_whose_time_is_over_asks_nothing(client):
    with pytest.raises(AifiUnavailable):
        client.get("/orders", pace=Pace(deadline=time.monotonic()))


def test_work_whose_time_is_short_does_not_pause_beyond_it(api, client):
    api.get(ORDERS_URL, status=503, headers={"Retry-After": "5"})
    begun = time.monotonic()
    with pytest.raises(AifiUnavailable, match="503"):
        client.get("/orders", pace=Pace(deadline=begun + 1))
    assert time.monotonic() - begun < 4
    assert len(api.calls) == 1


def test_attempts_pauses_and_waiting_share_one_deadline(api, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(transport.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(transport.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    api.get(ORDERS_URL, status=503, headers={"Retry-After": "9"})
    client = Client(BASE_URL, Token(STATIC), wait_for_slot=lambda interval: 4.0)
    with pytest.raises(AifiUnavailable):
        client.get("/orders")
    assert now[0] - 1000 <= transport.REQUEST_SECONDS
    assert len(api.calls) == 2


# --- the request slot


@pytest.mark.parametrize(
    ("late", "slots"), [(0, 1), (1, 2), (99, transport.SLOT_TRIES)], ids=["never", "once", "always"]
)
def test_who_is_late_takes_another_slot_but_not_for_ever(api, late, slots):
    taken = []

    def wait_for_slot(interval: float) -> float:
        taken.append(interval)
        return -100.0 if len(taken) <= late else 0.0

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
    "refusal that shows the token": (ORDERS_URL, {"status": 400, "json": {"message": "token-1 may not"}}),
    "right that the token lacks": (ORDERS_URL, {"status": 403, "json": {"message": "not with Bearer token-1."}}),
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
