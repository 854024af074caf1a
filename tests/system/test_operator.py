"""What the operator is told when something is wrong, by the commands, and in the log."""

import concurrent.futures
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.support import health, ids, oauth, page_text, small_disk, wait_for_sweep, walk
from tools.harness import AIDE_KEY, PROJECT, WEBHOOK_SECRET, Bridge, free_port, wait_until
from tools.sandbox import Sandbox

COMMAND_SECONDS = 60
ISO = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[,.]\d{3}"
LINE_SHAPES = (
    rf"{ISO} (DEBUG|INFO|WARNING|ERROR) \S.*",  # the bridge's own
    r"\[[^\]]+\] \[\d+\] \[[A-Z]+\] \S.*",  # gunicorn's
    r"[A-Z]+ /\S* \d{3} (\d+|-) bytes \d+ ms",  # an answer
)


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Iterator[tuple[Sandbox, Bridge]]:
    """Run one AiFi and one bridge for the tests that leave both as they were."""
    with Sandbox() as sandbox, Bridge(sandbox, tmp_path_factory.mktemp("calm")) as bridge:
        sandbox.seed_orders(30, days=1)
        bridge.orders()
        yield sandbox, bridge


def flask(bridge: Bridge, *words: str, **environment: object) -> subprocess.CompletedProcess:
    """Run a command as in the service's shell: with the service's code and variables; `None` removes one."""
    variables = {**bridge.environment, **environment}
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *words],
        cwd=PROJECT,
        env={name: str(value) for name, value in variables.items() if value is not None},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def causes(bridge: Bridge) -> list[str]:
    return [problem["cause"] for problem in health(bridge)["problems"]]


def sick_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("✗ ")]


def own_lines(bridge: Bridge) -> list[str]:
    """Return the lines of the log that the bridge itself wrote, without time."""
    return re.findall(rf"^{ISO} (.*)$", bridge.log(), re.MULTILINE)


# --- one cause and one remedy, wherever one looks


@contextmanager
def wrong_aide_key(start: Callable[..., Bridge], sandbox: Sandbox, _) -> Iterator[Bridge]:
    bridge = start()
    bridge.get("/v1/latest_orders", key="wrong")
    yield bridge


@contextmanager
def wrong_access_token(start: Callable[..., Bridge], sandbox: Sandbox, _) -> Iterator[Bridge]:
    bridge = start(AIFI_ACCESS_TOKEN="wrong")
    bridge.get("/v1/latest_orders")
    yield bridge


@contextmanager
def revoked_access_token(start: Callable[..., Bridge], sandbox: Sandbox, _) -> Iterator[Bridge]:
    bridge = start(REFRESH_SECONDS=0)
    bridge.orders()
    sandbox.revoke_tokens(static=True)
    bridge.orders()
    yield bridge


@contextmanager
def aifi_down(start: Callable[..., Bridge], sandbox: Sandbox, _) -> Iterator[Bridge]:
    bridge = start(REFRESH_SECONDS=0)
    bridge.orders()
    sandbox.stop()
    bridge.orders()
    yield bridge


@contextmanager
def no_webhook_secret(start: Callable[..., Bridge], sandbox: Sandbox, _) -> Iterator[Bridge]:
    bridge = start(AIFI_WEBHOOK_SECRET=None)
    bridge.orders()
    yield bridge


@contextmanager
def full_disk(start: Callable[..., Bridge], sandbox: Sandbox, folder: Path) -> Iterator[Bridge]:
    with small_disk(folder, megabytes=32) as disk:
        bridge = start(DATABASE_PATH=disk / "orders.db")
        bridge.orders()
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            ballast.write(b"x" * shutil.disk_usage(disk).free)
        yield bridge
        bridge.stop()


@pytest.mark.parametrize(
    ("trouble", "cause", "to_set"),
    [
        (wrong_aide_key, "aide_key_wrong", "AIDE_API_KEY"),
        (wrong_access_token, "aifi_token_refused", "AIFI_ACCESS_TOKEN"),
        (revoked_access_token, "aifi_token_refused", "AIFI_ACCESS_TOKEN"),
        (aifi_down, "aifi_unavailable", "AIFI_BASE_URL"),
        (no_webhook_secret, "webhook_secret_missing", "AIFI_WEBHOOK_SECRET"),
        (full_disk, "disk_full", "DATABASE_PATH"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_page_doctor_status_and_health_name_the_same_cause_and_remedy(
    start_bridge, sandbox, tmp_path, trouble, cause, to_set
):
    sandbox.seed_orders(5)
    with trouble(start_bridge, sandbox, tmp_path) as bridge:
        wait_until(lambda: cause in causes(bridge), what=f"/healthz to name {cause}")
        [problem] = health(bridge)["problems"]
        assert to_set in problem["remedy"]
        page = page_text(bridge).lower()
        assert "needs attention" in page
        assert problem["message"].lower() in page
        assert problem["remedy"].lower() in page
        examination = flask(bridge, "doctor")
        assert examination.returncode == 1
        named = [line for line in sick_lines(examination.stdout) if problem["message"].lower() in line.lower()]
        assert named, examination.stdout
        assert all(problem["remedy"] in line for line in sick_lines(examination.stdout)), examination.stdout
        output = flask(bridge, "status").stdout
        assert problem["message"] in output
        assert problem["remedy"] in output
        assert not secrets_in(examination.stdout + output)


def test_when_the_trouble_is_over_nothing_speaks_of_it_any_longer(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(REFRESH_SECONDS=0)
    bridge.orders()
    sandbox.revoke_tokens(static=True)
    bridge.orders()
    wait_until(lambda: causes(bridge) == ["aifi_token_refused"])
    sandbox.restore_tokens()
    wait_until(lambda: bridge.orders() and not causes(bridge), seconds=30, what="the bridge to mend")
    bridge.webhook(sandbox.webhook(sandbox.checkout()))
    page = page_text(bridge)
    assert "✓ Works: nothing to do" in page
    assert "AiFi refuses the access token" in page.partition("Last errors")[2]
    assert flask(bridge, "doctor").returncode == 0


# --- the doctor


def secrets_in(text: str) -> list[str]:
    return [secret for secret in (AIDE_KEY, WEBHOOK_SECRET, "sandbox-token", "sandbox-secret") if secret in text]


def test_the_doctor_finds_a_healthy_bridge_healthy(calm):
    sandbox, bridge = calm
    bridge.webhook(sandbox.webhook(sandbox.checkout()))
    examination = flask(bridge, "doctor")
    lines = examination.stdout.splitlines()
    assert examination.returncode == 0
    assert lines
    assert all(line.startswith(("✓ ", "… ")) for line in lines), examination.stdout
    for part in ("Configuration", "Database", "access token", "clock", "list", "details", f"Public URL: {bridge.url}"):
        assert [line for line in lines if part in line], f"nothing about {part}"
    assert not secrets_in(examination.stdout)


def test_the_doctor_is_content_with_an_aifi_without_orders(bridge):
    bridge.orders()
    assert flask(bridge, "doctor").returncode == 0


@pytest.mark.parametrize("variable", ["AIDE_API_KEY", "AIFI_ACCESS_TOKEN"])
def test_the_doctor_names_a_missing_variable(calm, variable):
    examination = flask(calm[1], "doctor", **{variable: None})
    assert examination.returncode != 0
    [line] = sick_lines(examination.stdout)
    assert line.startswith(f"✗ {variable} is not set: set it to")
    assert "Traceback" not in examination.stdout


def test_the_doctor_names_every_malformed_variable_at_once(calm):
    wrong = {"REFRESH_SECONDS": "soon", "AIFI_BASE_URL": "aifi", "AIFI_CURRENCY": "euros", "AIFI_STORE_ID": "x"}
    lines = sick_lines(flask(calm[1], "doctor", **wrong).stdout)
    assert len(lines) == len(wrong)
    assert all(any(f"✗ {name} is" in line for line in lines) for name in wrong)


def test_the_doctor_names_every_problem(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(AIFI_WEBHOOK_SECRET=None, REFRESH_SECONDS=0)
    bridge.orders()
    sandbox.revoke_tokens(static=True)
    bridge.orders()
    wait_until(lambda: len(causes(bridge)) >= 2, what="two problems")
    found = "\n".join(sick_lines(flask(bridge, "doctor").stdout))
    for problem in health(bridge)["problems"]:
        assert problem["message"] in found
        assert problem["remedy"] in found


def test_the_doctor_blames_a_database_that_cannot_be_opened_on_nothing_else(calm, tmp_path):
    examination = flask(calm[1], "doctor", DATABASE_PATH=tmp_path / "nowhere" / "orders.db")
    lines = sick_lines(examination.stdout)
    assert examination.returncode == 1
    assert len(lines) == 1, examination.stdout
    assert "DATABASE_PATH" in lines[0]
    assert str(tmp_path / "nowhere" / "orders.db") in lines[0]


def test_the_doctor_sees_that_nobody_is_at_the_public_url(calm):
    address = f"http://127.0.0.1:{free_port()}"
    examination = flask(calm[1], "doctor", "--url", address)
    assert examination.returncode == 1
    [line] = sick_lines(examination.stdout)
    assert f"Public URL: {address}" in line
    assert "--url" in line


def test_the_doctor_sees_that_something_else_is_at_the_public_url(calm):
    sandbox, bridge = calm
    [line] = sick_lines(flask(bridge, "doctor", "--url", sandbox.root_url).stdout)
    assert "Public URL" in line
    assert "404" in line


def test_the_doctor_sees_that_the_public_url_is_of_a_bridge_with_another_secret(bridge):
    examination = flask(bridge, "doctor", "--url", bridge.url, AIFI_WEBHOOK_SECRET="another")
    assert examination.returncode == 1
    line = sick_lines(examination.stdout)[0]
    assert "another webhook secret" in line
    assert "status page" in line


def test_the_doctor_leaves_no_trace_that_aifi_would_have_left(calm):
    sandbox, bridge = calm
    order_id = sandbox.checkout()
    bridge.webhook(sandbox.webhook(order_id))
    bridge.orders()
    assert flask(bridge, "doctor").returncode == 0
    output = flask(bridge, "status").stdout
    assert re.search(rf"last webhook: .*checkout {order_id} draft, new", output), output


def test_the_doctor_tells_how_far_aifis_clock_is_off(bridge, sandbox):
    sandbox.clock_offset_seconds = 600
    sandbox.checkout()
    [line] = [line for line in flask(bridge, "doctor").stdout.splitlines() if "clock" in line]
    assert 590 <= int(re.search(r"(\d+) s ahead", line)[1]) <= 610


# --- status


def test_status_prints_what_the_page_shows(calm):
    sandbox, bridge = calm
    bridge.webhook(sandbox.webhook(sandbox.checkout()))
    bridge.webhook({"what": "is this?"})
    page, output = page_text(bridge), flask(bridge, "status").stdout
    facts = re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page)
    assert len(facts) >= 6
    ago = re.compile(r"(wholly )?(\d+ s ago|not wholly yet)|, now at [^.;]*")  # what a second may change
    printed = dict(line.split(":", 1) for line in output.splitlines() if line.count(":"))
    for label, value in facts:
        assert ago.sub("", printed[label]).strip() == ago.sub("", value).strip()
    assert "A webhook was refused" in output
    assert "A webhook was refused" in page


# --- backfill


def older_pages(sandbox: Sandbox) -> list:
    """Return the requests for history; a refresh bounds its list of changes by a draft time, too."""
    lists = [request for request in sandbox.requests if "maxDraftCreatedAt" in request.args]
    return [request for request in lists if "minUpdatedAt" not in request.args]


def start_backfill(bridge: Bridge, terminal: int, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "app", "backfill", *words],
        cwd=PROJECT,
        env={**bridge.environment, "TERM": "xterm", "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )


@pytest.fixture
def terminal() -> Iterator[tuple[int, Callable[[], str]]]:
    """Yield a terminal, and a function that returns what was written to it, once nobody writes any longer."""
    ours, theirs = pty.openpty()

    def read() -> str:
        os.close(theirs)
        text = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to tell that the other end is closed
                part = b""
            if not part:
                return text.decode()
            text += part

    yield theirs, read
    os.close(ours)


def test_backfill_shows_orders_rate_and_time_left(bridge, sandbox, terminal):
    sandbox.seed_orders(8000, days=29)
    end, read = terminal
    process = start_backfill(bridge, end)
    assert process.wait(COMMAND_SECONDS) == 0
    shown = read()
    assert re.search(r"[\d,]+ orders, [\d,]+ a second", shown), shown
    assert re.search(r"\b\d+%\s+\d\d:\d\d:\d\d\b", shown), "no time left"
    assert re.search(r"7,\d{3} older orders read", shown)
    assert "Traceback" not in shown


def test_the_bar_is_full_once_aifi_has_no_older_orders(bridge, sandbox, terminal):
    sandbox.seed_orders(500, days=3)
    end, read = terminal
    assert start_backfill(bridge, end).wait(COMMAND_SECONDS) == 0
    assert "100%" in read()


def test_backfill_that_was_interrupted_goes_on_where_it_was(bridge, sandbox, terminal):
    sandbox.seed_orders(12_000, days=29)
    sandbox.latency_seconds = 0.2
    end, read = terminal
    process = start_backfill(bridge, end)
    wait_until(lambda: len([page for page in older_pages(sandbox) if page.status == 200]) >= 4, 30, "some pages")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(COMMAND_SECONDS) == 1
    shown = read()
    assert "start it again to go on" in shown
    assert "Traceback" not in shown
    reached = horizon(bridge)
    below = sum(sandbox.order(order_id)["draftCreatedAt"] < reached for order_id in sandbox.order_ids())
    sandbox.latency_seconds = 0
    sandbox.forget_requests()
    output = flask(bridge, "backfill").stdout
    assert all(page.args["maxDraftCreatedAt"][0] <= later(reached) for page in older_pages(sandbox))
    read_now = int(re.search(r"([\d,]+) older orders read", output)[1].replace(",", ""))
    assert below <= read_now <= below + 10, "only the orders of the very minute that was reached come twice"
    assert "complete" in flask(bridge, "status").stdout
    assert sorted(ids(walk(bridge, 100))) == sorted(map(str, sandbox.order_ids()))


def mirrored(bridge: Bridge) -> int:
    return int(re.search(r"Orders mirrored: *([\d,]+)", flask(bridge, "status").stdout)[1].replace(",", ""))


def horizon(bridge: Bridge) -> str:
    """Return how far the history reaches, to the minute, as `status` tells it."""
    return re.search(r"back to (\d{4}-\d\d-\d\d \d\d:\d\d)", flask(bridge, "status").stdout)[1].replace(" ", "T")


def later(minute: str) -> str:
    """Return a text that sorts after all moments of this minute."""
    return minute + "~"


def test_backfill_without_a_terminal_prints_no_control_characters(bridge, sandbox):
    sandbox.seed_orders(500, days=20)
    output = flask(bridge, "backfill", "--days", "20")
    assert output.returncode == 0
    assert output.stdout.isprintable() or set(filter(lambda c: not c.isprintable(), output.stdout)) == {"\n"}
    assert "orders read; the mirror reaches back to" in output.stdout


def test_backfill_reads_as_deep_as_it_is_told_and_no_deeper_than_a_page(bridge, sandbox):
    sandbox.seed_orders(3000, days=30)
    assert flask(bridge, "backfill", "--days", "10").returncode == 0
    day = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - 10 * 86400))
    deepest = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(time.time() - 14 * 86400))
    assert deepest < horizon(bridge) <= day


def test_backfill_says_in_words_that_aifi_is_down(bridge, sandbox):
    sandbox.stop()
    output = flask(bridge, "backfill")
    assert output.returncode == 1
    assert "refuses the connection" in output.stdout
    assert "Traceback" not in output.stdout


def test_during_a_backfill_polls_stay_quick_and_aifi_refuses_nothing(start_bridge, sandbox, terminal):
    sandbox.seed_orders(12_000, days=20)
    bridge = start_bridge(REFRESH_SECONDS=1)
    bridge.orders()
    sandbox.forget_requests()
    process = start_backfill(bridge, terminal[0])
    slowest, begun = 0.0, time.monotonic()
    while process.poll() is None:
        asked = time.monotonic()
        assert bridge.get("/v1/latest_orders").status_code == 200
        slowest = max(slowest, time.monotonic() - asked)
        assert asked - begun < COMMAND_SECONDS
        time.sleep(0.1)
    terminal[1]()
    assert process.returncode == 0
    assert len(older_pages(sandbox)) >= 55
    assert slowest < 5  # REFRESH_WAIT_SECONDS is 3
    assert sandbox.refused_by_rate == []


# --- the log


def personal_data(sandbox: Sandbox) -> list[str]:
    customers = sandbox.customers.values()
    fields = [(customer.email, customer.phone, customer.last_name) for customer in customers]
    return [text for row in fields for text in row if text]


def test_the_log_tells_no_secret_and_no_personal_data(start_bridge, sandbox):
    bridge = start_bridge(
        **oauth(sandbox),
        PAYMENT_WEBHOOK_URL="http://127.0.0.1:9/pay?key=payment-secret",
        LOG_LEVEL="DEBUG",
        REFRESH_SECONDS=0,
    )
    sandbox.seed_orders(20, days=1)
    for order in bridge.orders()["orders"]:
        bridge.get(f"/v1/customers/{order['customer_id']}")
    order_id = sandbox.checkout()
    assert bridge.webhook(sandbox.webhook(order_id)).status_code == 502  # nobody is at the payment endpoint
    customer_id = next(customer.id for customer in sandbox.customers.values() if customer.email)
    assert bridge.webhook(sandbox.customer_webhook(customer_id)).status_code == 200
    bridge.request("POST", f"/webhooks/aifi?token={WEBHOOK_SECRET}", json={"email": "shopper1@example.com"})
    bridge.get("/v1/latest_orders", key="a-guessed-key")
    sandbox.revoke_tokens()
    sandbox.client_secret = "another"
    bridge.orders()
    page_text(bridge)
    bridge.terminate()
    log = bridge.log()
    assert "Webhook: checkout" in log
    assert [word for word in personal_data(sandbox) if word in log] == []
    secrets = ["payment-secret", "sandbox-client", "sandbox-secret", WEBHOOK_SECRET, AIDE_KEY, "a-guessed-key"]
    assert [secret for secret in secrets if secret in log] == []


def test_every_event_is_one_line(start_bridge, sandbox):
    bridge = start_bridge(LOG_LEVEL="DEBUG", REFRESH_SECONDS=0)
    bridge.orders()
    bridge.webhook(sandbox.webhook(sandbox.checkout()))
    bridge.webhook({"orderId": "1\n2026-01-01 00:00:00,000 INFO forged", "status": "draft\nforged"})
    bridge.webhook(b"\n\n")
    sandbox.inject("damaged_order", path="/orders")
    bridge.orders()
    sandbox.inject("html", times=3)
    bridge.orders()
    bridge.terminate()
    odd = [line for line in bridge.log().splitlines() if not any(re.fullmatch(shape, line) for shape in LINE_SHAPES)]
    assert odd == []


def test_the_log_tells_what_a_refresh_brought_and_what_became_of_a_webhook(start_bridge, sandbox):
    bridge = start_bridge(REFRESH_SECONDS=0)
    order_id = sandbox.checkout()
    bridge.orders()
    wait_for_sweep(bridge)  # or it may see the payment first
    sandbox.pay(order_id)
    bridge.orders()
    other = sandbox.checkout()
    bridge.webhook(sandbox.webhook(other))
    lines = own_lines(bridge)
    assert re.fullmatch(r"INFO Refreshed from AiFi: 1 new, 0 changed, \d+ pages, \d+\.\d+ s", lines[0])
    assert re.fullmatch(r"INFO Refreshed from AiFi: 0 new, 1 changed, \d+ pages, \d+\.\d+ s", lines[1])
    assert lines[2] == f"INFO Webhook: checkout {other} draft, new"


def test_a_poll_that_brings_nothing_new_is_one_line(start_bridge, sandbox):
    sandbox.seed_orders(20)
    bridge = start_bridge(REFRESH_SECONDS=0)
    bridge.orders()
    wait_until(lambda: bridge.log().count("GET /v1/latest_orders") == 1, what="the access log")
    before = bridge.log().count("\n")
    for _ in range(10):
        bridge.orders()
    wait_until(lambda: bridge.log().count("GET /v1/latest_orders") == 11, what="the access log")
    assert bridge.log().count("\n") == before + 10


@pytest.mark.parametrize(("level", "told"), [("DEBUG", {"DEBUG", "INFO"}), ("INFO", {"INFO"}), ("WARNING", set())])
def test_the_level_is_the_operators_choice(start_bridge, sandbox, level, told):
    bridge = start_bridge(LOG_LEVEL=level, REFRESH_SECONDS=0)
    sandbox.checkout()
    bridge.orders()
    bridge.orders()
    assert {line.split()[0] for line in own_lines(bridge)} == told


def test_an_error_is_told_at_every_level(start_bridge, sandbox):
    bridge = start_bridge(LOG_LEVEL="ERROR", PAYMENT_WEBHOOK_URL="http://127.0.0.1:9/")
    bridge.webhook(sandbox.webhook(sandbox.checkout()))
    [line] = own_lines(bridge)
    assert "payment endpoint did not answer" in line


def test_that_aifi_is_down_and_up_again_is_told_once_each(start_bridge, sandbox):
    sandbox.seed_orders(5)
    bridge = start_bridge(WEB_CONCURRENCY=2, REFRESH_SECONDS=0, REFRESH_WAIT_SECONDS=0.2)
    wait_until(lambda: bridge.get("/v1/latest_orders").ok, what="the first orders")
    sandbox.stop()
    with concurrent.futures.ThreadPoolExecutor(8) as pollers:
        list(pollers.map(lambda _: bridge.orders(), range(40)))
    wait_until(lambda: bridge.orders() and "aifi_unavailable" in causes(bridge), 30, "the failure")
    wait_until(lambda: bridge.orders() and failures(bridge) >= 1, 30, "the failure in the log")
    sandbox.start()
    wait_until(lambda: bridge.orders() and not causes(bridge), 30, "the recovery")
    with concurrent.futures.ThreadPoolExecutor(8) as pollers:
        list(pollers.map(lambda _: bridge.orders(), range(40)))
    bridge.terminate()
    assert failures(bridge) == 1
    assert sum("The mirror is refreshed again" in line for line in own_lines(bridge)) == 1


def failures(bridge: Bridge) -> int:
    return sum("The mirror cannot be refreshed since" in line for line in own_lines(bridge))
