"""AiFi's client without a socket: what it sends, and what it makes of the answers."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from responses.matchers import query_param_matcher

import aifi
from aifi import AifiIncomplete, AifiUnreadable, Client, ListPage
from orders import Anchor
from tests.support import NOW, STATIC, ago
from tests.unit.conftest import BASE_URL, ORDERS_URL
from tests.unit.fake_aifi import FakeAifi, FakeClient, fail_after, raw
from times import DAY, HOUR, MINUTE
from transport import AifiRefused, AifiUnavailable, Pace, Token

pytestmark = pytest.mark.usefixtures("steady_pace")
ORDERED = {"includeProducts": "true", "pageSize": "200", "orderBy": "draftCreatedAt", "direction": "desc"}
LISTING = {**ORDERED, "includeContest": "true"}


# --- what is sent


def test_a_list_is_asked_for_with_its_products_in_the_largest_pages(api, client):
    since = "2025-11-01T00:00:00.000Z"
    api.get(ORDERS_URL, match=[query_param_matcher({**LISTING, "minDraftCreatedAt": since})], json={"data": []})
    assert [page.orders for page in client.walk(minDraftCreatedAt=since)] == [[]]


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
    api.get(ORDERS_URL, match=[query_param_matcher({**LISTING, **filters})], json={"data": []})
    assert [page.orders for page in Client(BASE_URL, Token(STATIC), store_ids, roles).walk()] == [[]]


@pytest.mark.parametrize(
    ("look_up", "url"),
    [("get_order", f"{BASE_URL}/orders/7"), ("get_customer", f"{BASE_URL}/customers/7")],
    ids=["order", "customer"],
)
class TestLookUps:
    def test_answer_what_aifi_knows(self, api, client, look_up, url):
        api.get(url, json={"id": 7})
        assert getattr(client, look_up)("7") == {"id": 7}

    @pytest.mark.parametrize("status", [404, 410])
    def test_answer_none_where_aifi_knows_none(self, api, client, look_up, url, status):
        api.get(url, status=status, json={"message": "no", "type": "E_NO"})
        assert getattr(client, look_up)("7") is None
        assert len(api.calls) == 1

    @pytest.mark.parametrize("body", ["<html>Not found</html>", "", "[]", '"no"'], ids=repr)
    @pytest.mark.parametrize("status", [404, 410])
    def test_do_not_take_a_gateways_page_for_aifis_word(self, api, client, look_up, url, status, body):
        api.get(url, status=status, body=body)
        with pytest.raises(AifiUnavailable, match=f"answers {status}"):
            getattr(client, look_up)("7")

    @pytest.mark.parametrize(
        ("status", "error"),
        [*((status, AifiRefused) for status in (400, 401, 403, 422)), (500, AifiUnavailable)],
    )
    def test_do_not_take_a_failure_for_an_unknown_id(self, api, client, look_up, url, status, error):
        api.get(url, status=status, json={"message": "no"})
        with pytest.raises(error):
            getattr(client, look_up)("7")

    @pytest.mark.parametrize("body", ["[]", "null", "7", '"7"'])
    def test_do_not_take_what_is_no_object(self, api, client, look_up, url, body):
        api.get(url, body=body)
        with pytest.raises(AifiUnavailable, match="not an object"):
            getattr(client, look_up)("7")


@pytest.mark.parametrize("orders", [[{"id": 7}], []], ids=["an order", "none"])
def test_a_connection_is_tried_with_one_small_request(api, client, orders):
    query = {"pageSize": "1", "orderBy": "draftCreatedAt", "direction": "desc"}
    api.get(ORDERS_URL, match=[query_param_matcher(query, strict_match=False)], json={"data": orders})
    assert client.try_list() == (orders[0] if orders else None)


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
    "errors beside data": '{"data": [], "errors": [{"error": "no"}]}',
    "errors beside orders": '{"data": [{"id": 1}], "errors": ["no"]}',
    "an error beside data": '{"data": [], "error": "no"}',
    "an error's type beside data": '{"data": [], "message": "no", "type": "E_FAILED"}',
    "nested without end": "[" * 100_000,
}


@pytest.mark.parametrize("read", [lambda client: list(client.walk()), Client.try_list], ids=["all", "trial"])
@pytest.mark.parametrize("body", list(NONSENSE.values()), ids=list(NONSENSE))
def test_a_list_that_is_none_makes_aifi_unavailable(api, client, body, read):
    api.get(ORDERS_URL, body=body)
    with pytest.raises(AifiUnavailable):
        read(client)


@pytest.mark.parametrize("errors", [[], {}, None, ""], ids=repr)
@pytest.mark.parametrize("name", ["errors", "error", "type"])
def test_errors_that_are_none_do_no_harm(api, client, name, errors):
    api.get(ORDERS_URL, json={"data": [{"id": 7}], name: errors})
    assert client.try_list() == {"id": 7}


@pytest.mark.parametrize(
    "orders",
    [[{"id": "0b7f3c1e-8a53"}], [{"id": 10**18}], [{"orderId": 1}, {"orderId": 2}], [7], [None], [[]]],
    ids=["UUID", "19 digits", "another word", "numbers", "null", "lists"],
)
@pytest.mark.parametrize("read", [lambda client: list(client.walk()), Client.try_list], ids=["all", "trial"])
def test_orders_that_are_all_without_an_id_of_aifis_have_a_cause_of_their_own(api, client, orders, read):
    api.get(ORDERS_URL, json={"data": orders})
    with pytest.raises(AifiUnreadable) as failure:
        read(client)
    assert failure.value.cause == "aifi_unreadable"


# --- lists


@pytest.fixture
def reader(fake: FakeAifi) -> Client:
    return FakeClient(fake)


def shown(pages: Iterator[ListPage]) -> list[int]:
    """Return the ids that a list shows, each once, in order."""
    return list(dict.fromkeys(order["id"] for page in pages for order in page.orders))


def place(fake: FakeAifi, order_id: int) -> Anchor:
    return Anchor(fake.orders[order_id]["draftCreatedAt"], str(order_id))


def numbered(fake: FakeAifi) -> list[int]:
    """Return the page numbers that were asked for."""
    return [params["page"] for params in fake.lists() if "page" in params]


@pytest.mark.parametrize(("total", "asked"), [(0, 1), (1, 2), (9, 2), (199, 2), (200, 2), (201, 3), (450, 4)])
def test_a_list_is_read_to_its_end_and_not_far_beyond(fake, reader, total, asked):
    fake.fill(total)
    assert shown(reader.walk()) == list(range(total, 0, -1))
    assert len(fake.asked) == asked


def test_a_list_is_read_by_time_and_never_by_page_number(fake, reader):
    fake.fill(450)
    list(reader.walk())
    bounds = [params.get("maxDraftCreatedAt") for params in fake.lists()]
    lowest = [fake.orders[order_id]["draftCreatedAt"] for order_id in (251, 52, 1)]
    assert bounds == [None, *(time.replace(".000Z", ".001Z") for time in lowest)]
    assert numbered(fake) == []


@pytest.mark.parametrize("refused", [400, 404, 422])
def test_a_server_that_refuses_page_numbers_loses_no_order(fake, reader, refused):
    fake.fill(450)
    fake.refuses, fake.status_of_refusal = {"page"}, refused
    assert len(shown(reader.walk())) == 450


@pytest.mark.parametrize("cap", [2, 7, 40, 100])
def test_a_server_that_caps_the_page_size_loses_no_order(fake, reader, cap):
    fake.fill(120)
    fake.page_cap = cap
    assert len(shown(reader.walk())) == 120


@pytest.mark.parametrize("last_row", [199, 200, 1000])
def test_a_list_that_ends_at_a_depth_is_read_on_below_it(fake, reader, last_row):
    fake.fill(1600)
    fake.last_row = last_row
    assert len(shown(reader.walk())) == 1600


def test_a_page_with_a_row_dropped_is_not_taken_for_the_last(fake, reader):
    fake.fill(450)
    fake.drops = {300}
    assert set(shown(reader.walk())) == set(fake.orders) - {300}


def test_a_page_of_which_most_rows_are_dropped_is_not_taken_for_the_last(fake, reader):
    fake.fill(450)
    fake.drops = set(range(255, 450))
    assert set(shown(reader.walk())) == set(fake.orders) - fake.drops


CUTS = {"milliseconds": 0.001, "seconds": 1, "minutes": MINUTE, "hours": HOUR, "days": DAY}


@pytest.mark.parametrize("cut", list(CUTS.values()), ids=list(CUTS))
@pytest.mark.parametrize("zone", [0, 2, -5])
def test_times_that_are_cut_or_read_in_another_zone_lose_no_order(fake, reader, cut, zone):
    fake.add(*(raw(number, ago(number * 47.311)) for number in range(1, 1000)))
    fake.cut, fake.zone = cut, zone
    assert sorted(shown(reader.walk())) == list(range(1, 1000))


@pytest.mark.parametrize("zone", [12, -12])
def test_zones_at_the_ends_of_the_world_lose_no_order(fake, reader, zone):
    fake.fill(450, gap=HOUR / 2)
    fake.zone = zone
    assert len(shown(reader.walk())) == 450


@pytest.mark.parametrize("ties", [2, 199, 200, 201, 450])
@pytest.mark.parametrize("first_page", [0, 1])
@pytest.mark.parametrize("shuffles", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize("below", [0, 50, 250])
def test_orders_of_one_draft_time_are_all_read(fake, reader, ties, first_page, shuffles, below):
    fake.add(*(raw(number, ago(HOUR)) for number in range(1, ties + 1)))
    fake.add(*(raw(1000 + number, ago(DAY + number)) for number in range(below)))
    fake.first_page, fake.shuffles_ties = first_page, shuffles
    assert set(shown(reader.walk())) == set(fake.orders)


def test_shuffled_orders_of_one_draft_time_are_all_read_where_zones_differ(fake, reader):
    fake.fill(300, newest=MINUTE, gap=1)
    fake.add(*(raw(1000 + number, ago(HOUR)) for number in range(450)))
    fake.add(*(raw(5000 + number, ago(DAY + number)) for number in range(250)))
    fake.shuffles_ties, fake.zone = True, -5
    assert set(shown(reader.walk())) == set(fake.orders)


@pytest.mark.parametrize("differs", [False, True], ids=["alike", "with a field that differs"])
def test_a_last_page_that_is_repeated_for_ever_ends_the_list(fake, reader, differs):
    fake.fill(250)
    fake.add(*(raw(1000 + number, ago(10 * DAY)) for number in range(250)))
    fake.repeats_last_page, fake.differs = True, differs
    assert len(shown(reader.walk())) == 500
    assert len(fake.asked) < 20


def test_a_list_of_one_time_without_an_end_is_an_error_not_an_end(fake, reader, monkeypatch):
    monkeypatch.setattr(aifi, "MAX_PAGES_OF_ONE_BOUND", 5)
    fake.fill(1200, gap=1)
    fake.cut = DAY  # and so each list begins with the day's first
    with pytest.raises(AifiUnavailable, match="too many"):
        list(reader.walk())


def test_a_bound_that_is_ignored_loses_no_order(fake, reader):
    fake.fill(900)
    fake.ignores = {"maxDraftCreatedAt"}
    assert len(shown(reader.walk())) == 900


def test_orders_without_a_draft_time_that_come_first_hide_nothing(fake, reader):
    fake.fill(450)
    fake.add(*(raw(1000 + number, None, createdAt=ago(DAY)) for number in range(250)))
    fake.nulls_first = True
    assert len(shown(reader.walk())) == 700


@pytest.mark.parametrize("at", [2, 3])
def test_orders_that_are_deleted_between_two_pages_lose_no_other(fake, reader, at):
    fake.fill(450)
    wanted = set(fake.orders)

    def delete(path: str, params: Any) -> None:
        if path == "/orders" and len(fake.lists()) == at:
            bound = params["maxDraftCreatedAt"]
            for order in sorted(fake.orders.values(), key=lambda order: order["draftCreatedAt"]):
                if bound > order["draftCreatedAt"] >= bound.replace(":00.001", ":00.000"):
                    for order_id in range(order["id"], order["id"] + 3):  # where the page ended, and two above
                        wanted.discard(order_id)
                        fake.orders.pop(order_id)
                    return

    fake.before = delete
    assert set(shown(reader.walk())) >= wanted
    assert len(wanted) == 447


def test_where_all_orders_at_a_place_are_deleted_the_list_does_not_end_as_if_it_were_read(fake, reader):
    fake.fill(450)
    anchors = [place(fake, order_id) for order_id in range(250, 255)]
    for anchor in anchors:
        del fake.orders[int(anchor.id)]
    with pytest.raises(AifiIncomplete, match="deleted"):
        reader.read_below(anchors)


@pytest.mark.parametrize("empty_answers", [1, 2])
def test_an_answer_that_is_empty_by_mistake_is_asked_for_again(fake, reader, empty_answers):
    fake.fill(500)
    fake.empty_answers, fake.empty_where = empty_answers, "maxDraftCreatedAt"
    assert len(shown(reader.walk())) == 500
    assert len(shown(reader.walk())) == 500


def test_answers_that_stay_empty_are_an_error(fake, reader):
    fake.fill(500)
    fake.empty_answers, fake.empty_where = 10_000, "maxDraftCreatedAt"
    with pytest.raises(AifiIncomplete, match="lacks order 30"):
        list(reader.walk())


def test_an_empty_answer_at_the_top_is_not_learned(fake, reader):
    fake.fill(300)
    fake.empty_answers = 1
    assert [page.orders for page in reader.walk()] == [[]]
    assert len(shown(reader.walk())) == 300


def test_a_failure_in_the_middle_of_a_list_is_an_error_after_the_pages_before(fake, reader):
    fake.fill(450)
    fake.before = fail_after(2)
    pages = reader.walk()
    assert shown(itertools.islice(pages, 2)) == list(range(450, 51, -1))
    with pytest.raises(AifiUnavailable, match="503"):
        next(pages)


def test_a_list_without_its_witness_is_read_again(fake, reader):
    fake.fill(50)
    fake.empty_answers = 1
    assert len(shown(reader.walk(witnesses=[place(fake, 50)]))) == 50


def test_a_list_without_its_witness_is_believed_where_aifi_has_deleted_it(fake, reader):
    fake.fill(50)
    gone = place(fake, 50)
    del fake.orders[50]
    assert len(shown(reader.walk(witnesses=[gone]))) == 49


def test_one_of_several_witnesses_is_enough(fake, reader):
    fake.fill(50)
    gone = place(fake, 50)
    del fake.orders[50]
    list(reader.walk(witnesses=[gone, place(fake, 20)]))
    assert len(fake.asked) == 2


@pytest.mark.parametrize(
    ("filters", "changes"),
    [({"status": "contested"}, {"status": "reviewed"}), ({"minUpdatedAt": ago(HOUR)}, {"updatedAt": ago(2 * HOUR)})],
    ids=["of another status", "put back"],
)
def test_a_witness_that_the_list_need_not_show_any_longer_is_not_missed(fake, reader, filters, changes):
    fake.fill(5)
    fake.add({**fake.orders[5], **changes})
    fake.drops = {5}
    list(reader.walk(witnesses=[Anchor("", "5")], **filters))


def test_a_list_that_must_show_its_witness_and_does_not_is_an_error(fake, reader):
    fake.fill(50)
    fake.drops = {50}
    with pytest.raises(AifiIncomplete, match="lacks order 50"):
        list(reader.walk(witnesses=[place(fake, 50)]))


@pytest.mark.parametrize("zone", [2, -5])
@pytest.mark.parametrize("breaks_off", [False, True], ids=["read to its end", "broken off"])
def test_a_widening_that_worked_is_remembered_for_an_hour(fake, reader, zone, breaks_off, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(aifi.time, "monotonic", lambda: now[0])
    fake.fill(5, newest=MINUTE)
    fake.zone = zone
    witness = place(fake, 5)

    def requests() -> int:
        fake.forget()
        for page in reader.walk(witnesses=[witness], minDraftCreatedAt=ago(2 * MINUTE), maxDraftCreatedAt=NOW):
            if breaks_off and page.shows(witness):
                break
        return len(fake.asked)

    first = requests()
    now[0] += aifi.WIDENING_SECONDS - 1
    second = requests()
    now[0] += 2
    assert (second < first, requests()) == (True, first)


def test_a_page_tells_where_the_next_one_begins(fake, reader):
    fake.fill(450)
    page = next(reader.walk())
    assert page.newest == place(fake, 450)
    assert page.anchors == [place(fake, order_id) for order_id in range(251, 251 + aifi.ANCHORS)]
    assert (page.ended, page.full) == (False, True)
    below = reader.read_below(page.anchors)
    assert below.orders[0]["id"] == 251


@pytest.mark.parametrize(("ids", "expected"), [((7, 8), True), ((8, 9), True), ((8,), False), ((), False)])
def test_a_page_tells_whether_it_shows_an_order(ids, expected):
    page = ListPage([raw(7, NOW), raw(9, NOW), {"id": "x"}, None], ended=False, full=False)
    assert page.shows(*(Anchor(NOW, str(order_id)) for order_id in ids)) is expected


# --- what filters find


def test_an_order_is_found_by_a_filter(fake, reader):
    fake.fill(5)
    assert [order["id"] for order in reader.find_orders(sessionId="s3")] == [3]


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_filter_that_is_refused_finds_nothing(fake, reader, status):
    fake.fill(5)
    fake.refuses, fake.status_of_refusal = {"sessionId"}, status
    assert reader.find_orders(sessionId="s3") == []


def test_a_filter_that_is_ignored_finds_nothing(fake, reader):
    fake.fill(5)
    fake.ignores = {"sessionId"}
    assert reader.find_orders(sessionId="s3") == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_not_taken_for_a_filter_that_is(fake, reader, status):
    fake.refuses, fake.status_of_refusal = {"sessionId", "minUpdatedAt"}, status
    with pytest.raises(AifiRefused):
        reader.find_orders(sessionId="s3")
    with pytest.raises(AifiRefused):
        reader.knows_update_filter(NOW)


@pytest.mark.parametrize(
    ("habit", "expected"),
    [({}, True), ({"ignores": {"minUpdatedAt"}}, False), ({"refuses": {"minUpdatedAt"}}, False), ({"zone": -5}, True)],
    ids=["knows it", "ignores it", "refuses it", "reads it in another zone"],
)
def test_one_request_tells_whether_aifi_knows_the_filter_by_update(fake, reader, habit, expected):
    fake.fill(5)
    for name, value in habit.items():
        setattr(fake, name, value)
    assert reader.knows_update_filter(NOW) is expected
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    ("habit", "expected"), [({}, True), ({"ignores": {"minUpdatedAt"}}, False)], ids=["knows it", "ignores it"]
)
@pytest.mark.parametrize("count", [1, 3])
def test_orders_without_a_time_of_update_do_not_tell_that_the_filter_is_ignored(fake, reader, count, habit, expected):
    fake.fill(50)
    fake.add(*(raw(100 + number, ago(0), updatedAt=None) for number in range(count)))
    for name, value in habit.items():
        setattr(fake, name, value)
    assert reader.knows_update_filter(NOW) is expected


def test_a_list_of_orders_that_all_lack_the_time_of_update_is_not_trusted(fake, reader):
    fake.fill(50)
    fake.hides, fake.ignores = {"updatedAt"}, {"minUpdatedAt"}
    assert reader.knows_update_filter(NOW) is False


# --- what an old deployment may lack


def sent(fake: FakeAifi, name: str) -> list[bool]:
    """Return for each list that was asked for whether it had this parameter."""
    return [name in params for params in fake.lists()]


@pytest.mark.parametrize("status", [400, 422])
def test_where_contests_in_lists_are_refused_lists_are_read_without_and_asked_with_after_an_hour(
    fake, reader, status, monkeypatch
):
    now = [1000.0]
    monkeypatch.setattr(aifi.time, "monotonic", lambda: now[0])
    fake.fill(5)
    fake.refuses, fake.status_of_refusal = {"includeContest"}, status
    for _ in range(2):
        assert len(next(reader.walk()).orders) == 5
    assert sent(fake, "includeContest") == [True, False, False]
    now[0] += HOUR
    next(reader.walk())
    assert sent(fake, "includeContest")[3:] == [True, False]


def test_a_list_of_changes_that_is_refused_is_not_blamed_on_contests(fake, reader):
    fake.fill(5)
    fake.refuses = {"minUpdatedAt"}
    next(reader.walk())
    with pytest.raises(AifiRefused):
        next(reader.walk(minUpdatedAt=ago(DAY)))
    next(reader.walk())
    assert sent(fake, "includeContest") == [True, True, True]


@pytest.mark.parametrize("count", [0, 1, 200, 450])
def test_all_contests_since_a_time_are_read(fake, reader, count):
    fake.lacks = set()
    fake.contests = {row: {"orderId": str(row), "updatedAt": ago(60 + row)} for row in range(count)}
    found = reader.list_contests(ago(DAY), Pace())
    assert [contest["orderId"] for contest in found] == [str(row) for row in range(count)]


def test_a_list_of_contests_that_does_not_keep_to_times_is_as_good_as_none(fake, reader):
    fake.lacks, fake.ignores = set(), {"minUpdatedAt"}
    fake.contests[1] = {"orderId": "1", "updatedAt": ago(9 * DAY)}
    with pytest.raises(AifiRefused):
        reader.list_contests(ago(DAY), Pace())


def test_stores_are_read_page_by_page_from_cursor_to_cursor(api, client):
    pages = [([{"id": "1"}], {"after": "a"}), ([{"id": "2"}], {"after": None})]
    for (stores, pagination), after in zip(pages, ({}, {"after": "a"}), strict=True):
        api.get(
            f"{BASE_URL}/stores",
            match=[query_param_matcher({"count": "200", **after})],
            json={"stores": stores, "pagination": pagination},
        )
    assert client.list_stores() == [{"id": "1"}, {"id": "2"}]


def test_a_cursor_that_leads_nowhere_ends_the_list_of_stores(api, client):
    api.get(f"{BASE_URL}/stores", json={"stores": [{"id": "1"}], "pagination": {"after": "a"}})
    assert client.list_stores() == [{"id": "1"}] * 2


@pytest.mark.parametrize("body", [{}, [], {"stores": {}}, {"stores": None}], ids=repr)
def test_an_answer_without_stores_makes_aifi_unavailable(api, client, body):
    api.get(f"{BASE_URL}/stores", json=body)
    with pytest.raises(AifiUnavailable):
        client.list_stores()
