"""A real Chromium, without a window, for the status page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium: install it (Debian, Ubuntu: apt-get install chromium)"
OPTIONS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Return the path of the machine's Chromium, if it has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """Start Chromium with an empty profile; end it on leaving."""
    path = find_chromium()
    if path is None:
        raise FileNotFoundError(MISSING)
    # As root, Chromium cannot have its sandbox; it meets nothing but pages of our own.
    sandboxed = os.geteuid() != 0
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=path, args=OPTIONS, chromium_sandbox=sandboxed) as browser,
    ):
        yield browser
