"""The status page in a real Chromium: what the operator sees and does, and what nobody else may."""

import html
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.conftest import BRIDGES
from tests.system.support import page_source
from tools.browser import MISSING, find_chromium, open_chromium
from tools.harness import AIDE_KEY, WEBHOOK_SECRET, Bridge, wait_until
from tools.sandbox import Sandbox

HARD_SECRET = "s3cret+with/all & sorts=of%20ünlucky?#characters"
LOGIN = {"username": "anybody", "password": AIDE_KEY}
PHONE = {"viewport": {"width": 360, "height": 740}}
DARK = {"color_scheme": "dark"}
EVERY_MS = 5_000  # how often the page asks
ARRIVES_MS = 20_000  # so a busy machine gets some slack
MARKUP = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if find_chromium() is None:
        # Where everything is checked, a check that was left out is a failure.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(MISSING)
    with open_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def aifi() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        sandbox.seed_orders(60, days=1)
        yield sandbox


@pytest.fixture(scope="module")
def running(aifi, tmp_path_factory) -> Iterator[Bridge]:
    folder = tmp_path_factory.mktemp("page")
    with Bridge(aifi, folder, AIFI_WEBHOOK_SECRET=HARD_SECRET) as bridge:
        bridge.orders()
        yield bridge


@pytest.fixture(scope="module")
def troubled(tmp_path_factory) -> Iterator[Bridge]:
    """Run a bridge that has every kind of trouble to show at once."""
    with Sandbox() as sandbox, Bridge(sandbox, tmp_path_factory.mktemp("trouble"), REFRESH_SECONDS=0) as bridge:
        sandbox.seed_orders(20, days=1)
        page_source(bridge)  # which fills the mirror
        bridge.get("/v1/latest_orders", key="wrong")
        bridge.webhook({}, secret="wrong")
        bridge.webhook({})
        sandbox.revoke_tokens(static=True)
        wait_until(lambda: "refuses the access token" in page_source(bridge), what="the page to know of the refusal")
        yield bridge


@pytest.fixture
def bridge(running, request) -> Bridge:
    request.node.stash.setdefault(BRIDGES, []).append(running)
    return running


@pytest.fixture
def visit(chromium) -> Iterator[Callable[..., Page]]:
    """Open a page as a logged-in operator in a fresh profile; the options are those of the browser's context.

    `prepare` is called with the page before it is loaded. With `clock` the page's time stands still until it is moved.
    """
    contexts = []

    def open_page(bridge: Bridge, path: str = "/", *, prepare=None, clock: bool = False, **options) -> Page:
        size = {"viewport": {"width": 800, "height": 600}}
        contexts.append(chromium.new_context(**{"http_credentials": LOGIN, **size, **options}))
        page = contexts[-1].new_page()
        if clock:
            page.clock.install()
        if prepare:
            prepare(page)
        page.goto(bridge.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()


def push(bridge: Bridge, body: dict) -> requests.Response:
    """Push a webhook as AiFi does that was given the URL with the secret."""
    return bridge.request("POST", f"/webhooks/aifi?token={quote(HARD_SECRET, safe='')}", json=body)


# --- who may see it


@pytest.mark.parametrize("login", [None, ("anybody", "wrong"), ("anybody", ""), (AIDE_KEY, "")])
def test_strangers_learn_nothing_but_that_a_bridge_is_here(bridge, login):
    response = bridge.request("GET", "/", auth=login)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    message = response.json()["error"]["message"]
    assert "bridge" in message
    assert not re.search(r"\d", message)
    about = f"{response.headers} {response.text}"
    assert not re.search(rf"{re.escape(HARD_SECRET)}|{AIDE_KEY}|mirror|/webhooks|\d+\.\d+\.\d+", about)


def test_a_stranger_in_a_browser_sees_no_page(bridge, visit):
    page = visit(bridge, http_credentials={"username": "anybody", "password": "wrong"})
    assert "orders" not in page.content().lower()
    assert page.locator("#state").count() == 0


def test_a_log_in_that_was_cancelled_gets_a_page_with_the_next_step(bridge, visit):
    complaints = []
    # Chromium without a window cancels by itself, but then shows no page: this is the answer that it would show.
    answer = bridge.request("GET", "/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"

    def prepare(page):
        page.on("console", lambda message: complaints.append(message.text))
        headers = {name: answer.headers[name] for name in ("Content-Type", "Content-Security-Policy")}
        page.route("**/*", lambda route: route.fulfill(body=answer.text, headers=headers))

    page = visit(bridge, prepare=prepare)
    expect(page.get_by_role("heading", level=1)).to_have_text("AiFi to Aide: log in")
    expect(page.get_by_text("AIDE_API_KEY")).to_be_visible()
    assert Axe().run(page).violations_count == 0
    assert complaints == []


@pytest.mark.parametrize("header", [b"Basic \xff", b"Basic !", b"Basic", b"Bearer x", b"Basic Og=="])
def test_a_log_in_that_makes_no_sense_is_a_401(bridge, header):
    assert bridge.request("GET", "/", headers={"Authorization": header}).status_code == 401


def test_any_name_and_the_aide_key_let_the_operator_in(bridge, visit):
    page = visit(bridge, http_credentials={"username": "somebody else", "password": AIDE_KEY})
    expect(page.get_by_role("heading", level=1)).to_have_text("AiFi to Aide")
    expect(page.locator("#state")).to_contain_text("✓ Works")


# --- what it shows


def test_before_anybody_has_called_the_page_names_the_next_steps(aifi, tmp_path, visit):
    with Bridge(aifi, tmp_path) as bridge:
        page = visit(bridge)
        expect(page.locator("#state")).to_have_text("○ Waiting: see the next step")
        expect(page.locator("#steps")).to_contain_text("Aide has not polled yet: give it the base URL and the API key")
        assert page.title() == "○ Waiting: AiFi to Aide"
        bridge.orders()
        page.reload()
        expect(page.locator("#state")).to_have_text("✓ Works: one optional step is left")
        expect(page.locator("#steps")).to_contain_text("AiFi has sent no webhook")
        bridge.webhook(aifi.webhook(aifi.checkout()))
        page.reload()
        expect(page.locator("#state")).to_have_text("✓ Works: nothing to do")
        expect(page.locator("#steps")).to_be_empty()


def test_the_page_shows_what_is_in_force(bridge, aifi, visit):
    settings = visit(bridge).locator("#settings")
    instance = bridge.get("/healthz", key=None).json()["instance"]
    for text in (aifi.base_url, "all", "not set: amounts have none", bridge.environment["DATABASE_PATH"], instance):
        expect(settings).to_contain_text(text)


def test_the_page_leads_to_the_readme_and_the_description_of_the_api(bridge, visit):
    page = visit(bridge)
    for name, text in (("README", "# AiFi to Aide bridge"), ("Description of the API", "openapi: 3")):
        path = page.get_by_role("link", name=name).get_attribute("href")
        answer = bridge.get(path, key=None)
        assert answer.status_code == 200
        assert answer.text.startswith(text) or text in answer.text[:200]


def test_all_times_on_the_page_are_utc(bridge, visit):
    page = visit(bridge, timezone_id="Asia/Tokyo", clock=True)
    page.clock.set_fixed_time("2026-01-05T23:30:00Z")
    page.evaluate("seen = new Date(); admitSilence()")
    expect(page.locator("#state")).to_contain_text("What you see is of 23:30:00 UTC")
    expect(page.get_by_text("All times are UTC.")).to_be_visible()


def test_the_page_tells_what_the_bridge_does(bridge, aifi, visit):
    order_id = aifi.checkout()
    push(bridge, aifi.webhook(order_id))
    count = len(bridge.orders(page_size=100)["orders"])
    facts = visit(bridge).locator("#figures")
    expect(facts).to_contain_text(re.compile(rf"last poll\s*\d+ s ago.*{min(count, 100)} orders", re.DOTALL))
    expect(facts).to_contain_text(re.compile(rf"last webhook\s*\d+ s ago.*checkout {order_id} draft, new", re.DOTALL))
    expect(facts).to_contain_text(re.compile(rf"Orders mirrored\s*{count}\s"))


def test_the_chart_has_a_bar_for_each_hour_and_counts_every_order_of_the_day(bridge, aifi, visit):
    bridge.orders()
    page = visit(bridge)
    bars = page.locator("#chart rect title").all_text_contents()
    assert len(bars) == 24
    counts = [int(bar.rsplit(": ", 1)[1]) for bar in bars]
    assert counts[-1] or counts[-2], "the checkouts of just now"
    name = f"{sum(counts)} orders in the last 24 hours, at most {max(counts)} in one hour"
    expect(page.get_by_role("img", name=name)).to_be_visible()


def test_hours_that_were_not_read_yet_are_not_shown_as_hours_without_orders(tmp_path, visit):
    with Sandbox() as sandbox, Bridge(sandbox, tmp_path) as bridge:
        sandbox.seed_orders(2000, days=2)
        bridge.orders()  # reads the newest page only
        page = visit(bridge)
        expect(page.locator("#chart")).to_contain_text(
            re.compile(r"Orders from before [\d: -]+ UTC were not all read yet")
        )
        titles = page.locator("#chart rect title").all_text_contents()
        assert any(title.endswith(": not read yet") for title in titles)
        list(bridge.walk(100))
        page.reload()
        expect(page.locator("#chart")).not_to_contain_text("read yet")


def test_a_new_webhook_arrives_on_the_page_without_a_reload(bridge, aifi, visit):
    page = visit(bridge)
    page.evaluate("document.body.dataset.same = 'yes'")
    order_id = aifi.checkout()
    push(bridge, aifi.webhook(order_id))
    expect(page.locator("#figures")).to_contain_text(f"checkout {order_id} draft, new", timeout=ARRIVES_MS)
    assert page.evaluate("document.body.dataset.same") == "yes"


def test_when_the_bridge_dies_the_open_page_says_so_and_comes_back_with_it(visit, aifi, tmp_path):
    with Bridge(aifi, tmp_path) as bridge:
        page = visit(bridge, clock=True)
        bridge.terminate()
        page.clock.run_for(EVERY_MS)
        expect(page.locator("#state")).to_contain_text("✗ The bridge does not answer", timeout=ARRIVES_MS)
        bridge.start()
        page.clock.run_for(EVERY_MS)
        expect(page.locator("#state")).to_have_text("○ Waiting: see the next step", timeout=ARRIVES_MS)


def test_it_works_without_javascript(bridge, visit):
    page = visit(bridge, java_script_enabled=False)
    expect(page.locator("#figures")).to_contain_text("answers, the key is accepted")
    expect(page.get_by_role("button")).to_have_count(0)  # copying needs a script
    page.get_by_role("link", name="Show the secrets").click()
    expect(page.locator("#webhook-url")).to_contain_text(quote(HARD_SECRET, safe=""))
    page.get_by_role("link", name="Hide the secrets").click()
    expect(page.locator("#webhook-url")).to_contain_text("token=••••")


# --- secrets


def is_bare(text: str) -> bool:
    """Tell whether the text holds none of the secrets."""
    secrets = (AIDE_KEY, HARD_SECRET, quote(HARD_SECRET, safe=""), HARD_SECRET[:12], "sandbox-token")
    return not any(secret in text for secret in secrets)


def refresh(page: Page) -> None:
    """Let the time pass after which the page refreshes itself, and wait for the answer."""
    with page.expect_response(lambda response: response.request.resource_type == "fetch"):
        page.clock.run_for(EVERY_MS)


def test_no_answer_holds_a_secret_before_it_is_asked_for(bridge, visit):
    answers = []

    def prepare(page):
        page.on("response", lambda response: answers.append(response))

    refresh(visit(bridge, clock=True, prepare=prepare))
    texts = [response.text() + str(response.all_headers()) for response in answers if response.status == 200]
    assert len(texts) == 2
    assert all(map(is_bare, texts))
    assert is_bare(bridge.get("/healthz", key=None).text)


def test_the_secrets_are_shown_on_request_and_hidden_again(bridge, visit):
    page = visit(bridge)
    page.get_by_role("link", name="Show the secrets").click()
    expect(page.locator("#aide-key")).to_have_text(AIDE_KEY)
    expect(page.locator("#webhook-url")).to_contain_text(quote(HARD_SECRET, safe=""))
    assert is_bare(page.url)
    page.get_by_role("link", name="Hide the secrets").click()
    expect(page.locator("#aide-key")).to_have_text("••••••••")
    assert is_bare(page.content())


@contextmanager
def clipboard(page: Page) -> Iterator[Callable[[], str]]:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield lambda: page.evaluate("navigator.clipboard.readText()")


def test_the_copied_webhook_url_is_the_one_that_takes_aifis_webhooks(bridge, aifi, visit):
    page = visit(bridge)
    with clipboard(page) as read:
        page.get_by_role("button", name="Copy the webhook URL").click()
        expect(page.locator("#copied")).to_have_text("Copy the webhook URL: done.")
        url = read()
    assert url == f"{bridge.url}/webhooks/aifi?token={quote(HARD_SECRET, safe='')}"
    assert is_bare(page.content())
    path = url.removeprefix(bridge.url)
    body = aifi.webhook(aifi.checkout())
    assert bridge.request("POST", path, json=body).status_code == 200
    assert bridge.request("POST", path.partition("?")[0], json=body).status_code == 401


def test_the_copied_key_and_base_url_are_the_ones_that_answer_aide(bridge, visit):
    page = visit(bridge)
    with clipboard(page) as read:
        page.get_by_role("button", name="Copy the API key").click()
        expect(page.locator("#copied")).to_have_text("Copy the API key: done.")
        key = read()
        page.get_by_role("button", name="Copy the base URL").click()
        expect(page.locator("#copied")).to_have_text("Copy the base URL: done.")
        path = read().removeprefix(bridge.url)
    assert bridge.get(f"{path}/latest_orders", key=key).status_code == 200


def test_where_the_browser_does_not_let_it_copy_the_page_says_what_to_do(bridge, visit):
    page = visit(bridge)
    page.evaluate("() => { navigator.clipboard.write = () => Promise.reject(new Error('not allowed')); }")
    page.get_by_role("button", name="Copy the API key").click()
    expect(page.locator("#copied")).to_have_text("Could not be copied: show the secrets, and copy by hand.")


# --- for everybody


@pytest.mark.parametrize("path", ["/", "/?secrets=show"])
@pytest.mark.parametrize("which", ["running", "troubled"])
def test_a_phone_needs_no_horizontal_scrolling(request, which, path, visit):
    page = visit(request.getfixturevalue(which), path, **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        assert box["height"] < 45, "its word is broken"
        assert box["x"] + box["width"] <= 360


def test_it_is_dark_where_the_operator_wants_it_dark(bridge, visit):
    def brightness(page: Page) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert brightness(visit(bridge, **DARK)) < 150
    assert brightness(visit(bridge)) > 600


def test_everything_can_be_reached_by_keyboard_in_order_and_is_seen_to_be(bridge, visit):
    page = visit(bridge)
    names = []
    for _ in range(4):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outline")
        assert "solid 3px" in outline, f"{names[-1]} has focus, but {outline}"
    assert names == ["Copy the base URL", "Copy the API key", "Copy the webhook URL", "Show the secrets"]
    page.keyboard.press("Enter")
    expect(page.locator("#aide-key")).to_have_text(AIDE_KEY)


@pytest.mark.parametrize(("which", "path"), [("running", "/"), ("running", "/?secrets=show"), ("troubled", "/")])
@pytest.mark.parametrize("options", [{}, DARK, PHONE], ids=["light", "dark", "phone"])
def test_the_accessibility_audit_finds_nothing(request, which, path, options, visit):
    page = visit(request.getfixturevalue(which), path, **options)
    results = Axe().run(page)
    assert len(results.response["passes"]) > 15, "the audit has hardly looked"
    assert results.violations_count == 0, results.generate_report()


def test_the_audit_would_notice_a_barrier(bridge, visit):
    page = visit(bridge)
    page.evaluate("document.querySelector('#figures dd').setAttribute('role', 'nonsense')")
    page.evaluate("document.querySelector('svg').removeAttribute('aria-label')")
    assert Axe().run(page).violations_count > 0


def test_every_trouble_is_on_top_with_its_remedy(troubled, visit):
    page = visit(troubled)
    expect(page.locator("#state")).to_have_text("✗ Needs attention")
    problems = troubled.get("/healthz", key=None).json()["problems"]
    assert len(problems) >= 2
    entries = page.locator("#problems li").all_text_contents()
    assert len(entries) == len(problems)
    for entry, problem in zip(entries, problems, strict=True):
        assert problem["message"].lower() in entry.lower()
        assert problem["remedy"] in entry


# --- no way in


def test_the_policy_forbids_everything_that_is_not_the_pages_own(bridge):
    headers = bridge.request("GET", "/", auth=("anybody", AIDE_KEY)).headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert re.fullmatch(r"'nonce-[\w-]{20,}'", policy["script-src"])
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


def test_each_answer_has_a_nonce_of_its_own(bridge):
    nonces = re.findall(r'nonce="([^"]+)"', page_source(bridge) + page_source(bridge))
    assert len(nonces) == 4  # a style and a script each
    assert len(set(nonces)) == 2


def test_a_script_that_got_into_the_page_would_not_run(bridge, visit):
    complaints = []

    def add_script(route):
        answer = route.fetch()
        body = answer.text().replace("</main>", "<script>window.inside = 1</script></main>")
        route.fulfill(response=answer, body=body)

    def prepare(page):
        page.on("console", lambda message: complaints.append(message.text))
        page.route("**/*", add_script)

    page = visit(bridge, prepare=prepare)
    assert page.locator("main script").count() == 1
    assert page.evaluate("window.inside") is None
    assert page.evaluate("typeof load") == "function", "the page's own script does not run"
    assert any("Content Security Policy" in complaint for complaint in complaints)


def test_no_page_can_frame_the_page(bridge, visit):
    page = visit(bridge)
    # From the bridge's own address: a strange one is kept from private addresses by Chromium itself.
    page.route("**/elsewhere", lambda route: route.fulfill(content_type="text/html", body='<iframe src="/"></iframe>'))
    with page.expect_console_message(lambda message: "frame-ancestors 'none'" in message.text):
        page.goto(f"{bridge.url}/elsewhere")
    assert page.frames[1].locator("main").count() == 0


@pytest.mark.parametrize("path", ["/", "/?secrets=show"])
def test_the_page_loads_nothing_from_elsewhere_and_complains_of_nothing(bridge, visit, path):
    requested, complaints = [], []

    def prepare(page):
        page.on("request", lambda request: requested.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))

    page = visit(bridge, path, clock=True, prepare=prepare)
    refresh(page)
    page.evaluate("load('/')")  # a complaint comes when the answer is parsed, which nothing else here waits for
    page.evaluate("new Promise(requestAnimationFrame)")
    assert len(requested) >= 3
    assert all(url.startswith((f"{bridge.url}/", "data:")) for url in requested)
    assert [text for text in complaints if "401" not in text] == []  # the first answer asks for the login


@pytest.mark.parametrize(
    "change",
    [
        {"orderId": MARKUP},
        {"status": MARKUP},
        {"timeOfIssue": MARKUP},
        {"payment": {"status": MARKUP}},
        {"storeId": MARKUP},
        {MARKUP: MARKUP},
    ],
    ids=["order", "status", "time", "payment", "store", "name"],
)
def test_what_a_webhook_says_never_becomes_markup(bridge, aifi, change):
    body = {**aifi.webhook(aifi.checkout()), **change}
    assert push(bridge, body).status_code in (200, 400)
    assert MARKUP not in page_source(bridge)


def test_what_the_page_repeats_of_a_webhook_is_text(bridge, aifi, visit):
    body = aifi.webhook(aifi.checkout(), with_order_id=False)
    body["session"]["sessionId"] = MARKUP
    # Of many webhooks at once not each is noted, so it is pushed until it is.
    wait_until(
        lambda: push(bridge, body).ok and html.escape(MARKUP) in page_source(bridge), what="the webhook on the page"
    )
    page = visit(bridge)
    expect(page.locator("#figures")).to_contain_text(MARKUP)
    assert page.locator("img").count() == 0


@pytest.mark.parametrize("host", ['x"><script>alert(1)</script>', "<b>", "evil.example/%22%3E", "a b"])
def test_what_a_host_header_says_never_becomes_markup(bridge, host):
    response = bridge.request("GET", "/", auth=("anybody", AIDE_KEY), headers={"Host": host})
    assert response.status_code in (200, 400)
    assert "<script>alert" not in response.text
    assert "<b>" not in response.text


# --- behind the platforms' router


def shown_url(bridge: Bridge, **headers: str) -> str:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return re.search(r'id="aide-url">([^<]*)<', page_source(bridge, **names))[1]


def test_behind_the_platforms_router_the_public_url_is_shown(bridge):
    url = shown_url(bridge, Host="shop.example.com", X_Forwarded_Proto="https", X_Forwarded_For="203.0.113.7")
    assert url == "https://shop.example.com/v1"


def test_what_a_client_forged_before_the_router_added_its_own_is_not_believed(bridge):
    url = shown_url(bridge, Host="shop.example.com", X_Forwarded_Proto="http, https")
    assert url == "https://shop.example.com/v1"
    url = shown_url(bridge, Host="shop.example.com", X_Forwarded_Proto="https, http")
    assert url == "http://shop.example.com/v1"


def test_of_forwarded_hosts_the_one_that_the_nearest_proxy_added_counts(bridge):
    url = shown_url(
        bridge,
        Host="10.0.0.7",
        X_Forwarded_Proto="https",
        X_Forwarded_Host="evil.example, shop.example.com",
        X_Forwarded_Prefix="/evil",
        Forwarded="host=evil.example;proto=http",
    )
    assert url == "https://shop.example.com/v1"


@pytest.mark.parametrize("path", ["/", "/?secrets=show"])
def test_over_plain_http_no_secret_is_offered(bridge, path):
    text = page_source(bridge, path, **{"Host": "shop.example.com", "X-Forwarded-Proto": "http"})
    assert is_bare(text)
    assert "secrets=show" not in text.partition("<script")[0]
    assert 'href="https://shop.example.com/"' in text
    assert re.findall(r'data-copy="([^"]*)"', text) == ["aide-url"]


def test_over_https_and_on_the_machine_itself_they_are(bridge):
    routed = {"Host": "shop.example.com", "X-Forwarded-Proto": "https"}
    for headers in (routed, {"Host": f"localhost:{bridge.port}"}, {}):
        assert AIDE_KEY in page_source(bridge, "/?secrets=show", **headers)


def test_without_a_webhook_secret_the_page_says_what_to_set(aifi, tmp_path, visit):
    with Bridge(aifi, tmp_path, AIFI_WEBHOOK_SECRET=None) as bridge:
        page = visit(bridge, "/?secrets=show")
        expect(page.locator("#problems")).to_contain_text("AIFI_WEBHOOK_SECRET is not set")
        expect(page.get_by_text("None yet: set AIFI_WEBHOOK_SECRET first.")).to_be_visible()
        assert WEBHOOK_SECRET not in page.content()
