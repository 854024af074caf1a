"""A new operator's mistakes, at both platforms' start: page, healthz, doctor and log name cause and remedy at once."""

import html
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.system.test_deploy import HEROKU_ARGUMENTS, RENDER_ARGUMENTS
from tools.harness import AIDE_KEY, PROJECT, Bridge, free_port, wait_until
from tools.sandbox import Sandbox

HEROKU = {"DYNO": "web.1", "GUNICORN_CMD_ARGS": HEROKU_ARGUMENTS, "FORWARDED_ALLOW_IPS": "*"}
RENDER = {"RENDER": "true", "GUNICORN_CMD_ARGS": RENDER_ARGUMENTS, "FORWARDED_ALLOW_IPS": "*"}
CLIENT = {"AIFI_ACCESS_TOKEN": None, "AIFI_CLIENT_ID": "sandbox-client", "AIFI_CLIENT_SECRET": "sandbox-secret"}


def poll(bridge: Bridge, _: Sandbox) -> None:
    bridge.get("/v1/latest_orders")


def poll_with_another_key(bridge: Bridge, _: Sandbox) -> None:
    bridge.get("/v1/latest_orders", key="another")


def push_with_another_secret(bridge: Bridge, sandbox: Sandbox) -> None:
    bridge.orders()
    bridge.webhook(sandbox.webhook(sandbox.checkout()), secret="another")


def push(bridge: Bridge, sandbox: Sandbox) -> None:
    bridge.orders()
    bridge.webhook(sandbox.webhook(sandbox.checkout()))


def require_a_scope(sandbox: Sandbox) -> None:
    sandbox.required_scope = "admin"


def let_the_token_expire(sandbox: Sandbox) -> None:
    sandbox.revoke_tokens(static=True)


@dataclass(frozen=True)
class Mistake:
    """What the operator did, and the words that name cause and remedy."""

    name: str
    environment: dict[str, object] = field(default_factory=dict)
    before: Callable[[Sandbox], None] = lambda sandbox: None
    act: Callable[[Bridge, Sandbox], None] = poll
    message: str = ""
    remedy: str = ""


MISTAKES = [
    Mistake("another key in Aide", {}, act=poll_with_another_key, message="wrong", remedy="AIDE_API_KEY"),
    Mistake(
        "another secret in AiFi's console",
        act=push_with_another_secret,
        message="secret is wrong",
        remedy="Copy the webhook URL",
    ),
    Mistake(
        "a store without orders", {"AIFI_STORE_ID": 99}, message="AIFI_STORE_ID (99)", remedy="doctor tries each value"
    ),
    Mistake(
        "one of two filters without orders",
        {"AIFI_STORE_ID": 99, "AIFI_CUSTOMER_ROLE": "customer"},
        message="AIFI_STORE_ID (99) and AIFI_CUSTOMER_ROLE (customer)",
        remedy="correct the variable",
    ),
    Mistake(
        "a role that AiFi does not know",
        {"AIFI_CUSTOMER_ROLE": "customers"},
        message="refuses",
        remedy="AIFI_CUSTOMER_ROLE (customers)",
    ),
    Mistake("AIFI_STORE_IDS", {"AIFI_STORE_IDS": 1}, message="AIFI_STORE_ID is", remedy="right name"),
    Mistake("AIFI_CURENCY", {"AIFI_CURENCY": "EUR"}, message="AIFI_CURRENCY is", remedy="right name"),
    Mistake("no webhook secret", {"AIFI_WEBHOOK_SECRET": None}, message="Webhooks are off", remedy="long random text"),
    Mistake("an expired token", before=let_the_token_expire, message="401", remedy="expire, after about 90 days"),
    Mistake("no scope", CLIENT, before=require_a_scope, message="token server", remedy="AIFI_TOKEN_SCOPE"),
    Mistake("a wrong client secret", {**CLIENT, "AIFI_CLIENT_SECRET": "x"}, message="token", remedy="in development"),
    Mistake(
        "a payment endpoint where nobody is",
        {"PAYMENT_WEBHOOK_URL": f"http://127.0.0.1:{free_port()}/pay"},
        act=push,
        message="payment endpoint",
        remedy="PAYMENT_WEBHOOK_URL",
    ),
]
REFUSED = [
    Mistake(
        "two words as token", {"AIFI_ACCESS_TOKEN": "two words"}, message="AIFI_ACCESS_TOKEN", remedy="copy it again"
    ),
    Mistake(
        "half an address", {"AIFI_BASE_URL": "https:/aifi"}, message="AIFI_BASE_URL", remedy="begins with https://"
    ),
    Mistake(
        "the bridge as its own payment endpoint",
        {"PORT": 8124, "PAYMENT_WEBHOOK_URL": "http://localhost:8124/webhooks/aifi"},
        message="PAYMENT_WEBHOOK_URL is the bridge's own",
        remedy="set it to",
    ),
    Mistake(
        "AIFI_ACCES_TOKEN",
        {"AIFI_ACCESS_TOKEN": None, "AIFI_ACCES_TOKEN": "x"},
        message="AIFI_ACCES_TOKEN is not a variable",
        remedy="AIFI_ACCESS_TOKEN is",
    ),
]
ACCEPTED = [
    {"AIDE_API_KEY": f'"{AIDE_KEY}"'},
    {"AIDE_API_KEY": f"Bearer {AIDE_KEY}\n"},
    {"AIFI_ACCESS_TOKEN": "Bearer sandbox-token"},
    {"AIFI_ACCESS_TOKEN": " 'sandbox-token' "},
    {"AIFI_WEBHOOK_SECRET": "hook-secret\n"},
]


def doctor(bridge: Bridge) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", "doctor", "--url", bridge.url],
        cwd=PROJECT,
        env=bridge.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def look_everywhere(bridge: Bridge, mistake: Mistake, sandbox: Sandbox) -> dict[str, str]:
    """Make the mistake's effect come up; return what each place says, once healthz names a problem."""
    mistake.act(bridge, sandbox)
    wait_until(lambda: bridge.get("/healthz", key=None).json()["problems"], 30, "a problem")
    page = html.unescape(bridge.request("GET", "/", auth=("x", AIDE_KEY)).text)
    return {
        "page": re.sub(r"<[^>]*>", " ", page.partition('id="problems"')[2].partition('id="steps"')[0]),
        "healthz": bridge.get("/healthz", key=None).text,
        "doctor": "\n".join(line for line in doctor(bridge).splitlines() if line.startswith("✗")),
        "log": "\n".join(line for line in bridge.log().splitlines() if re.search("WARNING|ERROR|✗", line)),
    }


@pytest.mark.parametrize("platform", [HEROKU, RENDER], ids=["Heroku", "Render"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_cause_and_remedy_of_a_mistake_are_told_everywhere(start_bridge, sandbox, platform, mistake):
    sandbox.seed_orders(5)
    mistake.before(sandbox)
    bridge = start_bridge(AIFI_TOKEN_URL=sandbox.token_url, **platform, **mistake.environment)
    for place, text in look_everywhere(bridge, mistake, sandbox).items():
        assert mistake.message.lower() in text.lower(), place
        assert mistake.remedy.lower() in text.lower(), place


@pytest.mark.parametrize("mistake", REFUSED, ids=lambda mistake: mistake.name)
def test_what_cannot_work_ends_the_start_with_cause_and_remedy(start_bridge, mistake):
    bridge = start_bridge(wait=False, **{**HEROKU, **mistake.environment})
    assert bridge.wait(20) == 1
    assert mistake.message in bridge.log()
    assert mistake.remedy in bridge.log()


@pytest.mark.parametrize("environment", ACCEPTED, ids=lambda environment: ascii(next(iter(environment.values()))))
def test_what_was_pasted_with_a_key_does_no_harm(start_bridge, sandbox, environment):
    sandbox.seed_orders(5)
    bridge = start_bridge(**RENDER, **environment)
    assert len(bridge.orders()["orders"]) == 5
    assert bridge.webhook(sandbox.webhook(sandbox.checkout())).status_code == 200
    assert bridge.get("/healthz", key=None).json()["problems"] == []


@pytest.mark.parametrize("secret", ["pass wörd", "пароль+1&2"])
def test_a_secret_that_is_not_ascii_works_doctor_included(start_bridge, sandbox, secret):
    bridge = start_bridge(AIFI_WEBHOOK_SECRET=secret)
    bridge.orders()
    body = sandbox.webhook(sandbox.checkout())
    assert bridge.request("POST", "/webhooks/aifi", params={"token": secret}, json=body).status_code == 200
    output = doctor(bridge)
    assert "✓ Webhooks" in output
    assert "✗" not in output
