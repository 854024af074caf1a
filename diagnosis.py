"""What is wrong now, why, and what to do; the operator's overview and notes."""

import contextlib
import logging
import math
import time
from dataclasses import dataclass

import aifi
from config import Config
from mirror import Flights, Mirror
from orders import Marks
from store import Note, Store, StoreError
from times import shift, utc_seconds

log = logging.getLogger("bridge.diagnosis")

FEW_BYTES = 8 * 1024 * 1024
NOTE_SECONDS = 0.5  # how often one process writes the same note at most
WRONG_KEY_SECONDS = 86400  # how long a wrong key counts as a problem
RECENT_SECONDS = 300  # whoever came in with the right key so shortly before a wrong one is fine
CAUSES = {
    "aifi_token_refused": "Set AIFI_ACCESS_TOKEN (or AIFI_CLIENT_ID and AIFI_CLIENT_SECRET) to what AiFi gave you.",
    "aifi_refuses": "Check AIFI_BASE_URL, AIFI_STORE_ID and AIFI_CUSTOMER_ROLE.",
    "aifi_unavailable": "Nothing to do: it is tried again at every poll. If it lasts, check AIFI_BASE_URL (or "
    "AIFI_TOKEN_URL), or ask AiFi.",
    "database_unavailable": "Check that the folder of DATABASE_PATH can be written and is on a local disk.",
    "disk_full": "Make room on the disk of DATABASE_PATH, or give the service a larger one.",
    "aide_key_wrong": "Give Aide the key that AIDE_API_KEY holds.",
    "webhook_secret_missing": "Set AIFI_WEBHOOK_SECRET to a long random text, and give AiFi the webhook URL with it.",
    "webhook_secret_wrong": "Copy the webhook URL from this bridge's status page into AiFi's console.",
    "webhook_refused": "Check that only AiFi sends to this URL, and only checkout or customer webhooks.",
    "public_url_unreachable": "Check that the service is up at this address, or name another with --url.",
    "payment_endpoint_failed": "Check PAYMENT_WEBHOOK_URL, and that the retailer's payment endpoint is up.",
}


@dataclass(frozen=True)
class Bridge:
    """What the routes work with; kept as `app.extensions["bridge"]`."""

    config: Config
    store: Store
    client: aifi.Client
    mirror: Mirror
    payments: Flights
    journal: "Journal"

    def close(self) -> None:
        """Give back what is held, and close the database."""
        self.mirror.close()
        self.store.close()


class Journal:
    """Notes for the operator what happened last of each kind; under load not each time, to spare the disk."""

    def __init__(self, store: Store):
        self._store = store
        self._written: dict[str, float] = {}
        self._texts: dict[str, str] = {}

    def note(self, name: str, text: str) -> bool:
        """Note it, and return whether it was time to; a note that cannot be written must not harm what it tells of."""
        now = time.monotonic()
        if now - self._written.get(name, -math.inf) < NOTE_SECONDS:
            return False
        self._written[name] = now
        try:
            self._store.put_note(name, text)
        except StoreError as error:
            log.warning("A note could not be kept: %s", error)
        return True

    def note_change(self, name: str, text: str) -> None:
        """Note it where it differs from what this process noted last."""
        if self._texts.get(name) != text and self.note(name, text):
            self._texts[name] = text


@dataclass(frozen=True)
class Problem:
    """What is wrong now, in words, and what to do; `cause` is one of CAUSES."""

    cause: str
    message: str
    remedy: str


@dataclass(frozen=True)
class Overview:
    """What the status page and the command `status` show; `facts` are (label, value) pairs.

    `hourly` counts the orders drafted in each hour; before `unread_before`, where it says a time, not all were read.
    """

    problems: list[Problem]
    facts: list[tuple[str, str]]
    hourly: list[tuple[str, int]]
    unread_before: str
    errors: list[tuple[str, Problem, int]]  # when, what, how often so far


def diagnose(bridge: Bridge) -> tuple[list[Problem], Marks | None]:
    """Return what is wrong now, as far as is known without asking AiFi, and the marks, if they can be read."""
    found: list[tuple[str, str]] = []
    marks = None
    try:
        if bridge.store.free_bytes() < FEW_BYTES:
            found.append(("disk_full", "The disk is full"))
        marks, notes = bridge.store.marks(), bridge.store.notes()
    except StoreError as error:
        found = [_blame(bridge, error)]
    else:
        if marks.failing_since:
            found.append((marks.cause, f"{marks.error}, since {_clock(marks.failing_since)}"))
        for wrong, right in (("aide_key_wrong", "poll"), ("webhook_secret_wrong", "webhook")):
            if _is_current(bridge, notes.get(wrong), notes.get(right)):
                found.append((wrong, f"{notes[wrong].text}, last {_clock(notes[wrong].at)}"))
    if not bridge.config.webhook_secret:
        found.append(("webhook_secret_missing", "Webhooks are off: AIFI_WEBHOOK_SECRET is not set"))
    return [Problem(cause, message, CAUSES[cause]) for cause, message in found], marks


def _is_current(bridge: Bridge, wrong: Note | None, right: Note | None) -> bool:
    """Return whether somebody came with a wrong key lately, and nobody with the right one since, or shortly before."""
    if wrong is None or _age(bridge, wrong.at) > WRONG_KEY_SECONDS:
        return False
    return right is None or right.at < shift(wrong.at, -RECENT_SECONDS)


def _blame(bridge: Bridge, error: Exception) -> tuple[str, str]:
    """Return the cause of a failure, and its message; of what a full disk brings about, that is the cause."""
    if isinstance(error, StoreError):
        with contextlib.suppress(StoreError):
            if bridge.store.free_bytes() < FEW_BYTES:
                return "disk_full", "The disk is full"
        return "database_unavailable", str(error)
    return getattr(error, "cause", "aifi_unavailable"), str(error)


def look_over(bridge: Bridge) -> Overview:
    """Gather what the operator wants to know; where the mirror cannot be read, the problem says so."""
    problems, marks = diagnose(bridge)
    if marks is None:
        return Overview(problems, [], [], "", [])
    notes, statistics = bridge.store.notes(), bridge.store.statistics()
    if marks.failing_since:
        aifi_state = f"fails since {_clock(marks.failing_since)}: {marks.error}"
    else:
        aifi_state = "answers, the key is accepted" if marks.refreshed_at else "was not asked yet"
    depth = f"back to {_clock(marks.horizon)}" if marks.horizon else "nothing yet"
    facts = [
        ("AiFi", aifi_state),
        ("Mirror", f"refreshed {_ago(bridge, marks.refreshed_at)}" if marks.refreshed_at else "is empty"),
        ("Aide's last poll", _told(bridge, notes.get("poll"))),
        ("AiFi's last webhook", _told(bridge, notes.get("webhook"))),
        ("Orders mirrored", f"{statistics.orders:,}"),
        ("History", f"complete, {depth}" if marks.complete else depth),
    ]
    errors = [
        (_clock(note.at), Problem(name, note.text, CAUSES[name]), note.count)
        for name, note in sorted(notes.items(), key=lambda item: item[1].at, reverse=True)
        if name in CAUSES
    ]
    unread = not marks.complete and (marks.horizon or "~") > statistics.hourly[0][0]
    unread_before = _clock(marks.horizon or bridge.store.now()) if unread else ""
    return Overview(problems, facts, statistics.hourly, unread_before, errors)


def _told(bridge: Bridge, note: Note | None) -> str:
    return f"{_ago(bridge, note.at)}: {note.text}" if note else "none yet"


def _age(bridge: Bridge, at: str | None) -> int | None:
    return None if at is None else max(0, round(utc_seconds(bridge.store.now()) - utc_seconds(at)))


def _ago(bridge: Bridge, at: str) -> str:
    seconds = _age(bridge, at)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _clock(at: str) -> str:
    return f"{at[:10]} {at[11:16]} UTC"
