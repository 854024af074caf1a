"""What the operator is told: what is wrong, what comes next, what is in force, and what went wrong last."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import Config
from diagnosis import REMEDIES, Notes, Overview, Services, diagnose, find_remedy, look_over
from errors import Cause
from sqlite import SqliteDatabase
from store import Store, layout
from tests.support import ago
from times import DAY, HOUR, MINUTE

ENOUGH = {"AIDE_API_KEY": "aide-key", "AIFI_ACCESS_TOKEN": "aifi-token", "AIFI_WEBHOOK_SECRET": "hook"}
START = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC


class Bench:
    """A bridge's services over a real database, with a clock of their own; nothing here asks AiFi."""

    def __init__(self, path: Path, **variables: str):
        self.now = START
        config = Config.from_environment({**ENOUGH, "DATABASE_PATH": str(path / "orders.db"), **variables})
        self.store = Store(SqliteDatabase(config.database_path, layout(config.origin()), clock=lambda: self.now))
        self.services = Services(config, self.store, None, None, Notes(self.store))

    def note(self, name: str, text: str = "something") -> None:
        """Note it as another process would: without the bound of one that notes too often."""
        self.store.put_note(name, text)

    def refreshed(self, **marks: Any) -> None:
        values = {"refreshed_at": self.store.now(), "horizon": self.store.now(), **marks}
        self.store.move_marks(self.store.marks(), **values)

    def failing(self, cause: Cause = Cause.AIFI_UNAVAILABLE, error: str = "AiFi answers 502") -> None:
        """Let a refresh fail, as `refresh` remembers it."""
        self.store.move_marks(self.store.marks(), failing_since=self.store.now(), cause=cause, error=error)
        self.note(cause, error)

    def in_use(self) -> None:
        """Let AiFi answer, Aide poll and a webhook come."""
        self.refreshed(newest=self.store.now(), served_until=self.store.now())
        self.note("poll", "3 orders")
        self.note("webhook", "checkout 7 paid, new")

    def causes(self) -> list[Cause]:
        return [problem.cause for problem in diagnose(self.services).problems]

    def steps(self) -> str:
        return "\n".join(diagnose(self.services).steps)

    def overview(self) -> Overview:
        return look_over(self.services)


@pytest.fixture
def make(tmp_path) -> Iterator[Callable[..., Bench]]:
    made = []

    def make_bench(**variables: str) -> Bench:
        made.append(Bench(tmp_path, **variables))
        return made[-1]

    yield make_bench
    for bench in made:
        bench.store.close()


@pytest.fixture
def bench(make) -> Bench:
    return make()


# --- before both sides have called


def test_a_new_bridge_names_the_next_steps_and_no_problem(bench):
    overview = bench.overview()
    assert (overview.mood, overview.headline) == ("waiting", "○ Waiting: see the next step")
    assert [step.split()[0] for step in overview.steps] == ["AiFi", "Aide", "AiFi"]
    assert overview.problems == []


def test_before_aide_has_polled_the_next_step_is_to_give_it_url_and_key(bench):
    bench.refreshed()
    assert bench.overview().mood == "waiting"
    assert "Aide has not polled yet: give it the base URL and the API key" in bench.steps()


def test_before_aifi_has_answered_it_does_not_work(bench):
    bench.note("poll")
    assert bench.overview().mood == "waiting"
    assert "AiFi has not been asked yet" in bench.steps()


def test_before_aifi_has_sent_a_webhook_an_optional_step_is_left(bench):
    bench.refreshed(begun_at=bench.store.now())
    bench.note("poll")
    assert bench.overview().headline == "✓ Works: one optional step is left"
    assert "no webhook since the mirror was begun, 2026-09-21 14:13 UTC. Webhooks are optional" in bench.steps()


def test_when_both_have_called_there_is_nothing_to_do(bench):
    bench.in_use()
    assert bench.overview().headline == "✓ Works: nothing to do"
    assert bench.steps() == ""


def test_while_aifi_fails_from_the_first_the_step_is_not_to_wait_for_it(bench):
    bench.failing()
    assert "AiFi has not been asked" not in bench.steps()
    assert bench.overview().headline == "✗ Needs attention"


# --- Aide is silent


def test_aide_that_was_silent_for_ten_minutes_is_a_problem_with_its_time(bench):
    bench.in_use()
    bench.now += 10 * MINUTE
    assert bench.causes() == []
    bench.now += 1
    [problem] = diagnose(bench.services).problems
    assert problem.cause == Cause.AIDE_SILENT
    assert problem.message == "Aide has not polled since 2026-09-21 14:13 UTC"
    bench.note("poll")
    assert bench.causes() == []


def test_aide_that_never_polled_is_not_silent(bench):
    bench.refreshed()
    bench.now += DAY
    assert bench.causes() == []


# --- strangers


def test_a_wrong_key_is_a_problem_while_no_right_one_came(bench):
    bench.note(Cause.AIDE_KEY_WRONG)
    assert bench.causes() == [Cause.AIDE_KEY_WRONG]
    bench.now += 1
    bench.note("poll")
    assert bench.causes() == []


def test_a_stranger_who_guesses_aides_key_between_two_polls_is_a_note_only(bench):
    bench.in_use()
    bench.now += MINUTE
    bench.note(Cause.AIDE_KEY_WRONG, "A request came with a wrong key")
    assert bench.causes() == []
    assert [error[1].cause for error in bench.overview().errors] == [Cause.AIDE_KEY_WRONG]


def test_when_aides_key_was_changed_the_wrong_one_is_a_problem(bench):
    bench.in_use()
    bench.now += 6 * MINUTE
    bench.note(Cause.AIDE_KEY_WRONG)
    assert bench.causes() == [Cause.AIDE_KEY_WRONG]


def test_a_stranger_who_guesses_the_webhook_secret_at_night_is_a_note_only(bench):
    bench.in_use()
    bench.now += 10 * HOUR
    bench.note("poll")
    bench.note(Cause.WEBHOOK_SECRET_WRONG)
    assert bench.causes() == []


def test_wrong_webhooks_without_a_right_one_for_a_day_are_a_problem(bench):
    bench.in_use()
    bench.now += DAY + 1
    bench.note("poll")
    bench.note(Cause.WEBHOOK_SECRET_WRONG)
    assert bench.causes() == [Cause.WEBHOOK_SECRET_WRONG]
    bench.now += DAY + 1
    bench.note("poll")
    assert bench.causes() == [], "it was a day ago"


# --- the payment endpoint

PAYING = {"PAYMENT_WEBHOOK_URL": "https://pay.example/aifi"}


def test_a_payment_endpoint_that_failed_is_a_problem_until_one_succeeds(make):
    bench = make(**PAYING)
    bench.in_use()
    bench.note(Cause.PAYMENT_ENDPOINT_FAILED, "The payment endpoint answered 401")
    [problem] = diagnose(bench.services).problems
    assert problem.message == "The payment endpoint answered 401, last 2026-09-21 14:13 UTC"
    bench.now += 1
    bench.note("payment")
    assert bench.causes() == []
    bench.now += 1
    bench.note(Cause.PAYMENT_ENDPOINT_FAILED)
    assert bench.causes() == [Cause.PAYMENT_ENDPOINT_FAILED]


def test_a_payment_endpoint_that_was_taken_away_is_no_problem_any_longer(bench):
    bench.in_use()
    bench.note(Cause.PAYMENT_ENDPOINT_FAILED)
    assert bench.causes() == []


def test_the_bridges_own_address_as_payment_endpoint_is_noticed_once_it_is_known(make):
    bench = make(PAYMENT_WEBHOOK_URL="https://shop.example/webhooks/aifi")
    bench.in_use()
    assert bench.causes() == []
    bench.note("public_url", "https://shop.example/")
    assert bench.causes() == [Cause.PAYMENT_ENDPOINT_FAILED]


# --- filters


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"AIFI_STORE_ID": "7"}, "AIFI_STORE_ID (7)"),
        ({"AIFI_CUSTOMER_ROLE": "tester"}, "AIFI_CUSTOMER_ROLE (tester)"),
        ({"AIFI_STORE_ID": "7", "AIFI_CUSTOMER_ROLE": "tester"}, "AIFI_STORE_ID (7) and AIFI_CUSTOMER_ROLE (tester)"),
    ],
)
def test_no_orders_under_a_filter_are_a_problem_that_names_the_filter(make, variables, named):
    bench = make(**variables)
    bench.refreshed()
    [problem] = diagnose(bench.services).problems
    assert problem.cause == Cause.NO_ORDERS
    assert problem.message == f"AiFi shows no orders with {named}"
    bench.in_use()
    assert bench.causes() == []


def test_of_several_stores_none_may_have_orders_though_aifi_shows_some(make):
    bench = make(AIFI_STORE_ID="7,8")
    bench.refreshed(newest=bench.store.now())
    assert bench.causes() == [], "Aide has not asked for them yet"
    bench.note("poll", "0 orders")
    assert bench.causes() == [Cause.NO_ORDERS]


def test_an_aifi_without_orders_is_no_problem_where_nothing_is_filtered(bench):
    bench.refreshed()
    assert bench.causes() == []


def test_a_request_that_aifi_refuses_names_the_filters_that_are_set(make):
    bench = make(AIFI_STORE_ID="7")
    bench.failing(Cause.AIFI_REFUSES, "AiFi refuses the request (400)")
    [problem] = diagnose(bench.services).problems
    assert "AIFI_STORE_ID (7)" in problem.remedy
    assert "AIFI_CUSTOMER_ROLE" not in problem.remedy
    assert "AIFI_STORE_ID" not in find_remedy(Config.from_environment(ENOUGH), Cause.AIFI_REFUSES)


# --- the token


def test_the_remedy_for_a_refused_token_says_that_keys_expire(bench):
    bench.failing(Cause.AIFI_TOKEN_REFUSED, "AiFi refuses the access token (401)")
    [problem] = diagnose(bench.services).problems
    assert "AIFI_ACCESS_TOKEN" in problem.remedy
    assert "expire, after about 90 days" in problem.remedy


def test_the_remedy_for_refused_client_credentials_speaks_of_those(make):
    bench = make(AIFI_ACCESS_TOKEN="", AIFI_CLIENT_ID="id", AIFI_CLIENT_SECRET="secret")
    bench.failing(Cause.AIFI_TOKEN_REFUSED, "AiFi's token server answers invalid_scope")
    [problem] = diagnose(bench.services).problems
    for word in ("AIFI_CLIENT_ID", "AIFI_TOKEN_SCOPE", "in development"):
        assert word in problem.remedy
    assert "AIFI_ACCESS_TOKEN" not in problem.remedy


def test_every_cause_has_a_remedy():
    assert set(REMEDIES) == set(Cause)


# --- variables


def test_a_misspelt_variable_is_a_problem(make):
    bench = make(AIFI_STORE_IDS="7")
    bench.in_use()
    [problem] = diagnose(bench.services).problems
    assert problem.cause == Cause.VARIABLE_MISSPELT
    assert problem.message == "AIFI_STORE_IDS is not a variable of the bridge, but AIFI_STORE_ID is"


def test_webhooks_that_are_off_are_a_problem_and_no_step(make):
    bench = make(AIFI_WEBHOOK_SECRET="")
    assert bench.causes() == [Cause.WEBHOOK_SECRET_MISSING]
    assert "webhook" not in bench.steps()


# --- last errors


def test_a_failure_of_aifi_stays_among_the_last_errors_when_it_is_over(bench):
    bench.in_use()
    bench.failing()
    assert [error[1].message for error in bench.overview().errors] == ["AiFi answers 502"]
    bench.store.move_marks(bench.store.marks(), failing_since=None, cause=None, error=None)
    overview = bench.overview()
    assert overview.headline == "✓ Works: nothing to do"
    [(at, problem, count)] = overview.errors
    assert (at, problem.message, count) == ("2026-09-21 14:13 UTC", "AiFi answers 502", 1)


# --- what is in force


def test_what_is_in_force_is_shown_without_secrets(make, tmp_path):
    bench = make(
        AIFI_STORE_ID="7,8", AIFI_CUSTOMER_ROLE="tester", PAYMENT_WEBHOOK_URL="https://user:word@pay.example/x?key=y"
    )
    shown = dict(bench.overview().settings)
    assert shown.pop("Instance") == diagnose(bench.services).instance
    assert shown == {
        "AiFi's address": "https://api.aifi.com/api/admin/v2",
        "Stores": "7, 8",
        "Roles": "tester",
        "Currency": "not set: amounts have none",
        "Payment endpoint": "pay.example",
        "Database": str(tmp_path / "orders.db"),
    }


def test_without_settings_it_says_what_that_means(make):
    shown = dict(make(AIFI_CURRENCY="EUR").overview().settings)
    assert (shown["Stores"], shown["Roles"], shown["Currency"]) == ("all", "all", "EUR")
    assert shown["Payment endpoint"] == "none: webhooks are not passed on"


def test_two_databases_are_two_instances_and_the_same_one_is_one(make, tmp_path):
    one, other = make(), make(DATABASE_PATH=str(tmp_path / "other.db"))
    assert diagnose(one.services).instance == diagnose(make().services).instance
    assert diagnose(one.services).instance != diagnose(other.services).instance


# --- the database fails


def test_a_database_that_cannot_be_opened_is_shown_with_its_path_and_what_is_in_force(make, tmp_path):
    bench = make(DATABASE_PATH=str(tmp_path / "nowhere" / "orders.db"))
    overview = bench.overview()
    assert [problem.cause for problem in overview.problems] == [Cause.DATABASE_UNAVAILABLE]
    assert dict(overview.settings)["Database"] == str(tmp_path / "nowhere" / "orders.db")
    assert dict(overview.settings)["Instance"] == "unknown"
    assert overview.facts == []


def test_a_database_that_fails_is_logged_once_with_its_path(make, tmp_path, caplog):
    bench = make(DATABASE_PATH=str(tmp_path / "nowhere" / "orders.db"))
    for _ in range(3):
        diagnose(bench.services)
    assert [record.getMessage().count(str(tmp_path)) for record in caplog.records] == [1]
    (tmp_path / "nowhere").mkdir()
    assert bench.causes() == []
    (tmp_path / "nowhere").rename(tmp_path / "elsewhere")
    diagnose(bench.services)
    assert len(caplog.records) == 2, "it had worked in between"


def test_each_problem_is_logged_once_with_its_remedy(bench, caplog):
    bench.in_use()
    bench.now += 11 * MINUTE
    for _ in range(3):
        diagnose(bench.services)
        bench.now += MINUTE
    [text] = [record.getMessage() for record in caplog.records]
    assert text.startswith("Aide has not polled since 2026-09-21 14:13 UTC. Check in Aide")


def test_what_the_start_has_logged_is_not_logged_again(make, caplog):
    diagnose(make(AIFI_CURENCY="EUR").services)
    assert caplog.records == []


# --- what AiFi shows in part


def test_an_order_that_cannot_be_read_is_a_problem_for_a_day(bench):
    bench.in_use()
    bench.note(Cause.AIFI_ORDER_UNREADABLE, "1 of AiFi's orders cannot be read: order 7 has no totalPrice")
    assert bench.causes() == [Cause.AIFI_ORDER_UNREADABLE]
    bench.now += 86400
    bench.in_use()
    assert bench.causes() == []


def test_customers_that_aifi_refuses_are_a_problem_until_it_shows_one(bench):
    bench.in_use()
    bench.note(Cause.AIFI_CUSTOMERS_REFUSED, "AiFi's token may not read customers (403)")
    assert bench.causes() == [Cause.AIFI_CUSTOMERS_REFUSED]
    bench.now += 1
    bench.note("customer", "AiFi showed a customer")
    assert bench.causes() == []


def test_the_overview_tells_how_far_the_comparison_with_aifi_is(bench):
    bench.in_use()
    sweep = bench.store.sweep("recent")
    bench.store.put_sweep(replace(sweep, place=f"{bench.store.now()} 7", ended_at=bench.store.now(), found=2))
    fact = dict(bench.overview().facts)["Compared with AiFi"]
    assert fact.startswith("the last 3 days wholly 0 s ago, now at 2026-")
    assert fact.endswith("all not wholly yet. 2 orders were found late so far")


def test_the_overview_says_what_this_aifi_offers(bench):
    bench.refreshed()
    fact = dict(bench.overview().facts)["AiFi offers"]
    assert "contests: not asked yet" in fact
    bench.store.put_note("aifi_offers_contests", "no (403)")
    bench.store.put_note("aifi_offers_stores", "yes")
    fact = dict(bench.overview().facts)["AiFi offers"]
    assert "contests: no (403)" in fact
    assert "stores: yes" in fact


@pytest.mark.parametrize(
    ("marks", "word"),
    [({"changed_at": ago(60)}, "yes"), ({"unfiltered_at": ago(60)}, "no")],
    ids=["knows", "does not know"],
)
def test_the_overview_says_whether_aifi_lists_orders_by_time_of_update(bench, marks, word):
    bench.refreshed(**marks)
    assert f"orders by time of update: {word}" in dict(bench.overview().facts)["AiFi offers"]
