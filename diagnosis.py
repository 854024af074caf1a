"""What is wrong now, why, and what to do; the operator's overview and notes."""

import contextlib
import logging
import math
import time
from dataclasses import dataclass

from aifi import Client
from config import Config
from errors import BridgeError, Cause, StoreError
from mirror import Mirror
from store import Marks, Note, Store
from times import minute_text, shift, utc_seconds

log = logging.getLogger("bridge.diagnosis")

FEW_BYTES = 8 * 1024 * 1024
NOTE_SECONDS = 0.5  # how often one process writes the same note at most
WRONG_KEY_SECONDS = 86400  # how long a wrong key counts as a problem
RECENT_SECONDS = 300  # whoever came in with the right key so shortly before a wrong one is fine
REMEDIES = {
    Cause.AIFI_TOKEN_REFUSED: "Set AIFI_ACCESS_TOKEN (or AIFI_CLIENT_ID and AIFI_CLIENT_SECRET) to what AiFi gave you.",
    Cause.AIFI_REFUSES: "Check AIFI_BASE_URL, AIFI_STORE_ID and AIFI_CUSTOMER_ROLE.",
    Cause.AIFI_UNAVAILABLE: "Nothing to do: it is tried again at every poll. If it lasts, check AIFI_BASE_URL (or "
    "AIFI_TOKEN_URL), or ask AiFi.",
    Cause.DATABASE_UNAVAILABLE: "Check that the folder of DATABASE_PATH can be written and is on a local disk.",
    Cause.DISK_FULL: "Make room on the disk of DATABASE_PATH, or give the service a larger one.",
    Cause.AIDE_KEY_WRONG: "Give Aide the key that AIDE_API_KEY holds.",
    Cause.WEBHOOK_SECRET_MISSING: "Set AIFI_WEBHOOK_SECRET to a long random text, and give AiFi the webhook URL with "
    "it.",
    Cause.WEBHOOK_SECRET_WRONG: "Copy the webhook URL from this bridge's status page into AiFi's console.",
    Cause.WEBHOOK_REFUSED: "Check that only AiFi sends to this URL, and only checkout or customer webhooks.",
    Cause.PUBLIC_URL_UNREACHABLE: "Check that the service is up at this address, or name another with --url.",
    Cause.PAYMENT_ENDPOINT_FAILED: "Check PAYMENT_WEBHOOK_URL, and that the retailer's payment endpoint is up.",
}


class Notes:
    """Keeps for the operator what happened last of each kind; under load not each time, to spare the disk."""

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
class Services:
    """What routes and commands work with; `app.create_app` wires them, and keeps them as `extensions["bridge"]`."""

    config: Config
    store: Store
    client: Client
    mirror: Mirror
    notes: Notes

    def close(self) -> None:
        """Give back what is held, and close the database."""
        self.mirror.close()
        self.store.close()


@dataclass(frozen=True)
class Problem:
    """What is wrong now, in words, and what to do."""

    cause: Cause
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


def diagnose(services: Services) -> tuple[list[Problem], Marks | None]:
    """Return what is wrong now, as far as is known without asking AiFi, and the marks, if they can be read."""
    found: list[tuple[Cause, str]] = []
    marks = None
    try:
        if services.store.free_bytes() < FEW_BYTES:
            found.append((Cause.DISK_FULL, "The disk is full"))
        marks, notes = services.store.marks(), services.store.notes()
    except StoreError as error:
        found = [name_cause(services, error)]
    else:
        if marks.failing_since:
            found.append((Cause(marks.cause), f"{marks.error}, since {minute_text(marks.failing_since)}"))
        for wrong, right in ((Cause.AIDE_KEY_WRONG, "poll"), (Cause.WEBHOOK_SECRET_WRONG, "webhook")):
            if _is_current(services, notes.get(wrong), notes.get(right)):
                found.append((wrong, f"{notes[wrong].text}, last {minute_text(notes[wrong].at)}"))
    if not services.config.webhook_secret:
        found.append((Cause.WEBHOOK_SECRET_MISSING, "Webhooks are off: AIFI_WEBHOOK_SECRET is not set"))
    return [Problem(cause, message, REMEDIES[cause]) for cause, message in found], marks


def _is_current(services: Services, wrong: Note | None, right: Note | None) -> bool:
    """Return whether somebody came with a wrong key lately, and nobody with the right one since, or shortly before."""
    if wrong is None or age_seconds(services, wrong.at) > WRONG_KEY_SECONDS:
        return False
    return right is None or right.at < shift(wrong.at, -RECENT_SECONDS)


def name_cause(services: Services, error: BridgeError) -> tuple[Cause, str]:
    """Return the cause of a failure, and its message; of what a full disk brings about, that is the cause."""
    if isinstance(error, StoreError):
        with contextlib.suppress(StoreError):
            if services.store.free_bytes() < FEW_BYTES:
                return Cause.DISK_FULL, "The disk is full"
    return error.cause, str(error)


def look_over(services: Services) -> Overview:
    """Gather what the operator wants to know; where the mirror cannot be read, the problem says so."""
    problems, marks = diagnose(services)
    if marks is None:
        return Overview(problems, [], [], "", [])
    notes, statistics = services.store.notes(), services.store.statistics()
    if marks.failing_since:
        aifi_state = f"fails since {minute_text(marks.failing_since)}: {marks.error}"
    else:
        aifi_state = "answers, the key is accepted" if marks.refreshed_at else "was not asked yet"
    depth = f"back to {minute_text(marks.horizon)}" if marks.horizon else "nothing yet"
    facts = [
        ("AiFi", aifi_state),
        ("Mirror", f"refreshed {_ago(services, marks.refreshed_at)}" if marks.refreshed_at else "is empty"),
        ("Aide's last poll", _last(services, notes.get("poll"))),
        ("AiFi's last webhook", _last(services, notes.get("webhook"))),
        ("Orders mirrored", f"{statistics.orders:,}"),
        ("History", f"complete, {depth}" if marks.complete else depth),
    ]
    errors = [
        (minute_text(note.at), Problem(Cause(name), note.text, REMEDIES[Cause(name)]), note.count)
        for name, note in sorted(notes.items(), key=lambda item: item[1].at, reverse=True)
        if name in set(Cause)
    ]
    unread = not marks.complete and (marks.horizon or "~") > statistics.hourly[0][0]
    unread_before = minute_text(marks.horizon or services.store.now()) if unread else ""
    return Overview(problems, facts, statistics.hourly, unread_before, errors)


def _last(services: Services, note: Note | None) -> str:
    return f"{_ago(services, note.at)}: {note.text}" if note else "none yet"


def age_seconds(services: Services, at: str | None) -> int | None:
    """Return how long ago a time was, in whole seconds; None where there was none."""
    return None if at is None else max(0, round(utc_seconds(services.store.now()) - utc_seconds(at)))


def _ago(services: Services, at: str) -> str:
    seconds = age_seconds(services, at)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
