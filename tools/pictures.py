"""Takes the README's picture: the status page of the demo at work. Run by `make pictures`; needs Chromium."""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Error

from tools.browser import open_chromium
from tools.demo import WEBHOOK_SECRET, run_sandbox
from tools.harness import AIDE_KEY, PROJECT, Bridge, free_port, wait_until

PICTURE = PROJECT / "docs" / "pictures" / "status.png"
WIDTH, HEIGHT = 800, 600
PUBLIC = {"Host": "orders.example.com", "X-Forwarded-Proto": "https"}  # as the platform's router would say


def page_at_work(bridge: Bridge) -> str:
    """Let Aide walk all orders and AiFi push a checkout; return the page as the public sees it then."""

    def page_with_webhook() -> str | None:
        source = bridge.request("GET", "/", auth=("operator", AIDE_KEY), headers=PUBLIC).text
        return source if "ago: checkout" in source else None

    list(bridge.walk(100))
    wait_until(page_with_webhook, 60, "a webhook")
    bridge.orders()
    return page_with_webhook()


def take_picture(source: str, path: Path) -> None:
    """Write what a page looks like, in light mode and full length."""
    with open_chromium() as browser:
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.route("**/*", lambda route: route.fulfill(body=source, content_type="text/html"))
        page.goto("https://orders.example.com/")
        page.screenshot(path=path, full_page=True)


def main() -> int:
    """Take the picture; return the exit status."""
    port = free_port()
    PICTURE.parent.mkdir(exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="bridge-pictures-") as folder,
            run_sandbox(Path(folder), f"http://127.0.0.1:{port}/webhooks/aifi") as sandbox,
            Bridge(sandbox, Path(folder), PORT=port, AIFI_WEBHOOK_SECRET=WEBHOOK_SECRET) as bridge,
        ):
            take_picture(page_at_work(bridge), PICTURE)
    except (FileNotFoundError, TimeoutError, RuntimeError, Error) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{PICTURE.relative_to(PROJECT)}: {PICTURE.stat().st_size // 1024} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
