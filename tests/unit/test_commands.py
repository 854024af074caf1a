"""The commands, run in the process, with everything beyond it played by `responses`."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import responses
from click.testing import Result

import commands
from app import create_app
from config import Config
from diagnosis import REMEDIES
from errors import Cause

AIFI = "https://api.aifi.com/api/admin/v2"
HERE = "https://shop.example"
PAY = "https://pay.example/aifi?key=hidden"
ENOUGH = {"AIDE_API_KEY": "aide-key", "AIFI_ACCESS_TOKEN": "aifi-token", "AIFI_WEBHOOK_SECRET": "hook-secret"}
ORDER = {"id": 7, "draftCreatedAt": "2026-11-01T10:00:00.000Z", "status": "paid", "totalPrice": "2.15"}
HEALTH = {"status": "ok", "instance": "aaaa", "problems": [], "next_steps": []}


pytestmark = pytest.mark.usefixtures("same_log")


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    """Play an AiFi that works, and the bridge at its public URL; tests replace what they want otherwise."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as web:
        web.get(f"{AIFI}/orders", json={"data": [ORDER]})
        web.get(f"{AIFI}/orders/7", json=ORDER)
        web.get(f"{HERE}/healthz", json=HEALTH)
        web.post(f"{HERE}/webhooks/aifi", json={})
        yield web


@pytest.fixture
def run(tmp_path) -> Callable[..., Result]:
    """Run a command with these variables."""

    def run_command(*words: str, **variables: str) -> Result:
        environment = {**ENOUGH, "DATABASE_PATH": str(tmp_path / "orders.db"), **variables}
        app = create_app(Config.from_environment(environment))
        result = app.test_cli_runner().invoke(args=words)
        app.extensions["bridge"].close()
        return result

    return run_command


def lines(result: Result, mark: str = "✗") -> list[str]:
    return [line for line in result.output.splitlines() if line.startswith(f"{mark} ")]


def calls(web: responses.RequestsMock, method: str, url: str) -> list[Any]:
    return [call.request for call in web.calls if call.request.method == method and call.request.url.startswith(url)]


# --- the doctor, where all is well


def test_the_doctor_checks_everything_and_says_what_it_is_doing(web, run):
    web.options(PAY, status=204, headers={"Allow": "POST"})
    result = run("doctor", "--url", HERE, PAYMENT_WEBHOOK_URL=PAY)
    assert result.exit_code == 0, result.output
    assert not lines(result)
    good = "\n".join(lines(result, "✓"))
    for part in ("Configuration", "Database", "access token", "clock", "list", "details", "Public URL", "Webhooks"):
        assert f"{part}" in good
    assert "Payment endpoint: pay.example is there (204 to an OPTIONS request, which pays nothing)" in good
    assert "Bridge: has met no problem lately" in good
    for doing in ("Database: writing", "AiFi: asking", "Public URL: calling https://shop.example", "Payment endpoint"):
        assert doing in "\n".join(lines(result, "…"))


def test_the_doctor_tells_no_secret(web, run):
    web.options(PAY, status=500)
    output = run("doctor", "--url", HERE, PAYMENT_WEBHOOK_URL=PAY).output
    assert not [secret for secret in (*ENOUGH.values(), "hidden") if secret in output]


def test_the_doctor_repeats_the_next_steps_of_the_bridge(web, run):
    web.replace("GET", f"{HERE}/healthz", json={**HEALTH, "next_steps": ["Aide has not polled yet: give it the key."]})
    result = run("doctor", "--url", HERE)
    assert lines(result, "→") == ["→ Next step: Aide has not polled yet: give it the key."]
    assert result.exit_code == 0


# --- the public URL


@pytest.mark.parametrize(
    ("given", "called"),
    [("shop.example", HERE), ("shop.example/", HERE), ("localhost:8000", "http://localhost:8000"), (HERE, HERE)],
)
def test_the_doctor_adds_the_scheme_itself(web, run, given, called):
    web.get(f"{called}/healthz", json=HEALTH)
    web.post(f"{called}/webhooks/aifi", json={})
    assert f"✓ Public URL: {called} answers" in run("doctor", "--url", given).output


def test_what_is_not_an_address_is_named(web, run):
    [line] = lines(run("doctor", "--url", "shop"))
    assert "Public URL: shop is not a web address" in line


def test_the_platform_tells_the_doctor_the_address(web, run):
    assert f"✓ Public URL: {HERE} answers" in run("doctor", RENDER_EXTERNAL_URL=HERE).output


def test_without_an_address_the_public_url_is_not_checked(web, run):
    [line] = lines(run("doctor"), "–")
    assert "--url" in line


@pytest.mark.parametrize("secret", ["pass wörd", "пароль", "hook☃"])
def test_a_secret_that_is_not_ascii_is_sent_as_the_bridge_reads_it(web, run, secret):
    result = run("doctor", "--url", HERE, AIFI_WEBHOOK_SECRET=secret)
    assert result.exit_code == 0, result.output
    [request] = calls(web, "POST", HERE)
    assert request.headers["Authorization"] == f"Bearer {secret}".encode()


def test_the_check_of_webhooks_says_that_it_is_one(web, run):
    run("doctor", "--url", HERE)
    [request] = calls(web, "POST", HERE)
    assert request.headers["X-Bridge-Check"] == "1"
    assert list(json.loads(request.body)) == ["timeOfIssue"]


@pytest.mark.parametrize(
    "answer",
    [{"body": "OK"}, {"json": {"status": "ok"}}, {"body": "<html>"}, {"status": 404, "json": {}}, {"status": 301}],
    ids=str,
)
def test_an_answer_to_the_webhook_that_is_not_this_bridges_is_named(web, run, answer):
    web.replace("POST", f"{HERE}/webhooks/aifi", **answer)
    result = run("doctor", "--url", HERE)
    [line] = lines(result)
    assert f"Webhooks: {HERE} answers {answer.get('status', 200)} to one, but not as this bridge does" in line
    assert result.exit_code == 1


@pytest.mark.parametrize("answer", [{"body": "OK"}, {"json": []}, {"json": {"up": True}}, {"status": 404}], ids=str)
def test_another_service_at_the_public_url_is_named_and_gets_no_secret(web, run, answer):
    web.replace("GET", f"{HERE}/healthz", **answer)
    [line] = lines(run("doctor", "--url", HERE))
    assert f"Public URL: {HERE} answers {answer.get('status', 200)} to /healthz, but not as this bridge does" in line
    assert calls(web, "POST", HERE) == []


def test_another_webhook_secret_at_the_public_url_is_named(web, run):
    web.replace("POST", f"{HERE}/webhooks/aifi", status=401, json={})
    [line] = lines(run("doctor", "--url", HERE))
    assert "another webhook secret" in line


def test_nobody_at_the_public_url_is_named(web, run):
    web.remove("GET", f"{HERE}/healthz")  # `responses` refuses the connection
    [line] = lines(run("doctor", "--url", HERE))
    assert f"Public URL: {HERE} does not answer (ConnectionError)" in line


def test_the_problems_of_the_bridge_at_the_public_url_are_reported(web, run):
    problem = {"cause": "aide_silent", "message": "Aide has not polled since noon", "remedy": "Wake Aide."}
    web.replace("GET", f"{HERE}/healthz", json={**HEALTH, "status": "degraded", "problems": [problem]})
    result = run("doctor", "--url", HERE)
    assert lines(result) == ["✗ Bridge: Aide has not polled since noon → Wake Aide."]
    assert result.exit_code == 1


def test_a_problem_that_both_processes_know_is_named_once(web, run):
    problem = {"cause": "webhook_secret_missing", "message": "Webhooks are off", "remedy": "Set it."}
    web.replace("GET", f"{HERE}/healthz", json={**HEALTH, "problems": [problem]})
    assert lines(run("doctor", "--url", HERE, AIFI_WEBHOOK_SECRET="")) == ["✗ Bridge: Webhooks are off → Set it."]


def test_two_instances_with_a_mirror_each_are_noticed(web, run):
    web.remove("GET", f"{HERE}/healthz")
    for instance in ("aaaa", "aaaa", "bbbb"):
        web.get(f"{HERE}/healthz", json={**HEALTH, "instance": instance})
    result = run("doctor", "--url", HERE)
    [line] = lines(result)
    assert f"Instances: 2 answer at {HERE}, each with a mirror of its own → Run one instance" in line
    assert result.exit_code == 1


# --- the payment endpoint


@pytest.mark.parametrize("status", [200, 204, 401, 403, 405, 501])
def test_a_payment_endpoint_that_is_there_is_good_though_it_may_refuse_options(web, run, status):
    web.options(PAY, status=status)
    result = run("doctor", "--url", HERE, PAYMENT_WEBHOOK_URL=PAY)
    assert result.exit_code == 0, result.output
    [request] = calls(web, "OPTIONS", PAY)
    assert request.body is None


@pytest.mark.parametrize("status", [301, 308, 404, 410, 500, 503])
def test_a_payment_endpoint_that_is_not_there_is_named(web, run, status):
    web.options(PAY, status=status)
    [line] = lines(run("doctor", "--url", HERE, PAYMENT_WEBHOOK_URL=PAY))
    assert f"Payment endpoint: pay.example answers {status} to an OPTIONS request → Check PAYMENT_WEBHOOK_URL" in line


def test_a_payment_endpoint_that_takes_no_posts_is_named(web, run):
    web.options(PAY, headers={"Allow": "GET, HEAD"})
    [line] = lines(run("doctor", "--url", HERE, PAYMENT_WEBHOOK_URL=PAY))
    assert "does not take POST, only GET, HEAD" in line


def test_a_payment_endpoint_that_cannot_be_reached_is_named(web, run):
    [line] = lines(run("doctor", "--url", HERE, PAYMENT_WEBHOOK_URL=PAY))
    assert "Payment endpoint: pay.example does not answer (ConnectionError)" in line


def test_a_newest_order_that_cannot_be_read_is_told_with_the_remedy_for_that(web, run):
    web.replace("GET", f"{AIFI}/orders", json={"data": [{"id": 7}]})
    [line] = lines(run("doctor", "--url", HERE))
    assert "its newest order cannot be read" in line
    assert REMEDIES[Cause.AIFI_UNREADABLE] in line


def test_the_doctor_asks_once_where_the_database_fails(web, run):
    web.replace("GET", f"{HERE}/healthz", json={"status": "degraded", "problems": [], "next_steps": []})
    run("doctor", "--url", HERE)
    assert len(calls(web, "GET", f"{HERE}/healthz")) == 1


# --- the database


@pytest.mark.parametrize("words", [("status",), ("doctor", "--url", HERE), ("backfill", "--days", "1")], ids=" ".join)
def test_a_command_of_a_shell_with_another_variable_leaves_the_services_mirror_alone(web, run, tmp_path, words):
    run("status")
    path = tmp_path / "orders.db"
    before = path.read_bytes()
    result = run(*words, AIFI_STORE_ID="4")
    assert "it was filled with another AIFI_STORE_ID" in result.output
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.set-aside"))


def test_a_database_failure_is_named_once_with_its_path_and_the_rest_is_checked(web, run, tmp_path):
    path = tmp_path / "nowhere" / "orders.db"
    result = run("doctor", "--url", HERE, DATABASE_PATH=str(path))
    [line] = lines(result)
    assert str(path) in line
    assert "DATABASE_PATH" in line
    assert result.output.count(str(path)) == 1
    assert "✓ AiFi's details" in result.output
    assert "✓ Webhooks" in result.output
    assert result.exit_code == 1


# --- AiFi


def by_filter(request: Any) -> tuple[int, dict, str]:
    """Play an AiFi that has orders of store 1 and role customer, and refuses any other role but tester."""
    if "customerRole=guest" in request.url:
        return 400, {}, json.dumps({"message": "no such role"})
    empty = "storeId=2" in request.url or "customerRole=tester" in request.url
    return 200, {}, json.dumps({"data": [] if empty else [ORDER]})


@pytest.mark.parametrize(
    ("variables", "blamed", "cleared"),
    [
        ({"AIFI_STORE_ID": "1,2"}, "AIFI_STORE_ID 2: AiFi shows no orders", "AIFI_STORE_ID 1"),
        ({"AIFI_CUSTOMER_ROLE": "tester"}, "AIFI_CUSTOMER_ROLE tester: AiFi shows no orders", ""),
        (
            {"AIFI_STORE_ID": "1", "AIFI_CUSTOMER_ROLE": "customer,guest"},
            "AIFI_CUSTOMER_ROLE guest: AiFi refuses",
            "AIFI_STORE_ID 1",
        ),
    ],
)
def test_the_doctor_names_the_filter_that_is_wrong(web, run, variables, blamed, cleared):
    web.remove("GET", f"{AIFI}/orders")
    web.add_callback("GET", f"{AIFI}/orders", by_filter)
    result = run("doctor", "--url", HERE, **variables)
    [line] = [line for line in lines(result) if line.startswith("✗ AIFI_")]
    assert blamed in line
    assert "Correct this value" in line
    assert any(line.startswith(f"✓ {cleared}") for line in lines(result, "✓"))


def test_filters_are_not_blamed_for_an_aifi_without_orders(web, run):
    web.replace("GET", f"{AIFI}/orders", json={"data": []})
    result = run("doctor", "--url", HERE, AIFI_STORE_ID="1")
    assert any("Filters: not checked" in line for line in lines(result, "–"))


def test_a_refused_token_is_named_and_no_filter_blamed(web, run):
    web.replace("GET", f"{AIFI}/orders", status=401, json={})
    result = run("doctor", "--url", HERE, AIFI_STORE_ID="1")
    [line] = lines(result)
    assert "AIFI_ACCESS_TOKEN" in line
    assert "expire" in line


def test_a_check_that_hangs_is_given_up_and_the_next_one_done(web, run, monkeypatch):
    monkeypatch.setattr(commands, "CHECK_SECONDS", 0.3)
    web.remove("GET", f"{AIFI}/orders")

    def hang(_: Any) -> tuple[int, dict, str]:
        time.sleep(1)
        return 200, {}, json.dumps({"data": []})

    web.add_callback("GET", f"{AIFI}/orders", hang)
    result = run("doctor", "--url", HERE)
    [line] = lines(result)
    assert line.startswith("✗ AiFi: not done within 0.3 s → ")
    assert "✓ Webhooks" in result.output
    time.sleep(1)  # `responses` is gone once this test ends, and the check left behind still asks


# --- status


def test_status_prints_headline_steps_and_what_is_in_force(run, tmp_path):
    output = run("status", AIFI_STORE_ID="7").output
    assert output.splitlines()[0] == "○ Waiting: see the next step"
    assert "→ Next step: Aide has not polled yet" in output
    for label, value in (("Stores", "7"), ("Roles", "all"), ("Database", str(tmp_path / "orders.db"))):
        assert f"{label + ':':<22}{value}" in output


def test_status_prints_problems_with_their_remedy(run):
    output = run("status", AIFI_WEBHOOK_SECRET="").output
    assert output.splitlines()[0] == "✗ Needs attention"
    assert "✗ Webhooks are off: AIFI_WEBHOOK_SECRET is not set → Set AIFI_WEBHOOK_SECRET" in output
