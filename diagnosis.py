"""What is wrong now, why, and what to do; the operator's overview and notes."""

import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aifi import Client
from config import Config, is_own_webhook
from errors import BridgeError, Cause, StoreError
from intake import CONTESTS, CONTESTS_BY_TIME, OFFER, STORES
from marks import Marks
from mirror import Mirror
from store import Note, Store
from sweep import SWEEPS
from times import DAY, MINUTE, minute_text, shift, utc_seconds

log = logging.getLogger("bridge.diagnosis")


# --- notes


NOTE_SECONDS = 0.5  # how often one process writes the same note at most


class Notes:
    """Keeps for the operator what happened last of each kind; under load not each time, to spare the disk."""

    def __init__(self, store: Store):
        self._store = store
        self._written: dict[str, float] = {}
        self._texts: dict[str, str] = {}
        self._logged: set[str] = {Cause.VARIABLE_MISSPELT}  # which the start has logged

    def note(self, name: str, text: str, ends: str = "") -> bool:
        """Note it, and return whether it was time to; a note that cannot be written must not harm what it tells of.

        :param ends: the note that this one makes obsolete; it may be written again at once
        """
        now = time.monotonic()
        self._written.pop(ends, None)
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

    def log_problems(self, problems: Mapping[str, str]) -> None:
        """Log the problems, texts by cause, that were not there when this process looked last."""
        for cause, text in problems.items():
            if cause not in self._logged:
                log.warning("%s", text)
        self._logged = set(problems)


@dataclass(frozen=True)
class Services:
    """What routes and commands work with; `app.create_app` wires them, and keeps them as `extensions["bridge"]`."""

    config: Config
    store: Store
    client: Client
    mirror: Mirror
    notes: Notes

    def close(self) -> None:
        """Close the database."""
        self.store.close()


# --- causes and remedies


REMEDIES = {
    Cause.AIFI_TOKEN_REFUSED: "Set AIFI_ACCESS_TOKEN to the API key that AiFi gave you. Such a key may expire, after "
    "about 90 days: then ask AiFi for a new one.",
    Cause.AIFI_REFUSES: "Check AIFI_BASE_URL.",
    Cause.AIFI_UNAVAILABLE: "Nothing to do: it is tried again at every poll. If it lasts, check AIFI_BASE_URL (or "
    "AIFI_TOKEN_URL), or ask AiFi.",
    Cause.AIFI_UNREADABLE: "Ask AiFi whether its Orders API has changed, and look for a newer version of this bridge.",
    Cause.AIFI_ORDER_UNREADABLE: "The other orders are served. Ask AiFi about the order, or tell the bridge's makers.",
    Cause.AIFI_CUSTOMERS_REFUSED: "Ask AiFi for a token that may read customers too. Orders are served without it.",
    Cause.UNEXPECTED: "Orders are served from the mirror. Please report this, with the log's lines.",
    Cause.DATABASE_UNAVAILABLE: "Check that the folder of DATABASE_PATH can be written and is on a local disk.",
    Cause.DISK_FULL: "Make room on the disk of DATABASE_PATH, or give the service a larger one.",
    Cause.NO_ORDERS: "A store that has sold nothing yet has no orders. If yours has, correct the variable; the command "
    "doctor tries each value by itself.",
    Cause.AIDE_KEY_WRONG: "Give Aide the key that AIDE_API_KEY holds.",
    Cause.AIDE_KEY_ABSENT: "Give Aide the key that AIDE_API_KEY holds, to be sent as X-API-Key or Authorization.",
    Cause.AIDE_SILENT: "Check in Aide that the integration is switched on, and that it has the base URL and the API "
    "key that this bridge's status page shows.",
    Cause.WEBHOOK_SECRET_MISSING: "Set AIFI_WEBHOOK_SECRET to a long random text, and give AiFi the webhook URL with "
    "it.",
    Cause.WEBHOOK_SECRET_WRONG: "Copy the webhook URL from this bridge's status page into AiFi's console.",
    Cause.WEBHOOK_SECRET_ABSENT: "Copy the webhook URL from this bridge's status page into AiFi's console, with its "
    "?token=.",
    Cause.WEBHOOK_NOT_POSTED: "Set this URL in AiFi's console as a checkout or customer webhook, which is POSTed.",
    Cause.WEBHOOK_REFUSED: "Check that only AiFi sends to this URL, and only checkout or customer webhooks.",
    Cause.PUBLIC_URL_UNREACHABLE: "Check that the service is up at this address, or name another with --url.",
    Cause.PAYMENT_ENDPOINT_FAILED: "Check PAYMENT_WEBHOOK_URL, and that the retailer's payment endpoint is up.",
    Cause.SEVERAL_INSTANCES: "Run one instance, or give all of them one DATABASE_URL: Aide must not poll now one "
    "mirror and now another. During a deploy two overlap for a minute.",
    Cause.VARIABLE_MISSPELT: "Give the variable its right name, or remove it. The README lists all variables.",
}
CLIENT_REMEDY = (
    "Check AIFI_CLIENT_ID, AIFI_CLIENT_SECRET and, if AiFi named a scope, AIFI_TOKEN_SCOPE. In AiFi's console the "
    "client must not be in development."
)


SERVER_REMEDIES = {  # where DATABASE_URL is set
    Cause.DATABASE_UNAVAILABLE: "Check DATABASE_URL, and that the database is up.",
    Cause.DISK_FULL: "Give the database a larger plan: its disk is full.",
    Cause.SEVERAL_INSTANCES: "Give all instances the same variables, DATABASE_URL too: Aide must not poll now one "
    "mirror and now another. During a deploy that changes one, two overlap for a minute.",
}


def find_remedy(config: Config, cause: Cause) -> str:
    """Return what to do about a cause, in the words of the variables that are set."""
    if config.database_url and cause in SERVER_REMEDIES:
        return SERVER_REMEDIES[cause]
    if cause is Cause.AIFI_TOKEN_REFUSED and not config.token["access_token"]:
        return CLIENT_REMEDY
    if cause is Cause.AIFI_REFUSES and config.filters:
        return f"Check {describe_filters(config)}, and AIFI_BASE_URL. The command doctor tries each value by itself."
    return REMEDIES[cause]


def describe_filters(config: Config) -> str:
    """Return the filters in force, by variable."""
    return " and ".join(f"{name} ({', '.join(values)})" for name, values in config.filters.items())


def is_disk_full(store: Store) -> bool:
    """Return whether the disk has no room, as far as is known.

    :raises StoreError: it cannot be looked at
    """
    free = store.free_bytes()
    return free is not None and free < FEW_BYTES


def name_cause(services: Services, error: BridgeError) -> tuple[Cause, str]:
    """Return the cause of a failure, and its message; of what a full disk brings about, that is the cause."""
    if isinstance(error, StoreError):
        with contextlib.suppress(StoreError):
            if is_disk_full(services.store):
                return Cause.DISK_FULL, "The disk is full"
    return error.cause, str(error)


# --- what is wrong now


FEW_BYTES = 8 * 1024 * 1024
SILENT_SECONDS = 10 * MINUTE  # Aide polls about once a minute
WRONG_SECONDS = DAY  # how long a wrong key or secret counts as a problem
UNREADABLE_SECONDS = DAY  # how long an order does that could not be read: the sweep meets it again by then
# A stranger's guess is not a problem: whoever came in with the right key so shortly before it needs no help. Aide comes
# every minute; AiFi's webhooks come when somebody shops, and what a lost one tells the next poll finds.
AIDE_SURE_SECONDS, AIFI_SURE_SECONDS = 5 * MINUTE, DAY


@dataclass(frozen=True)
class Problem:
    """What is wrong now, in words, and what to do."""

    cause: Cause
    message: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong now, and what the operator does next where nothing is; `marks` is None: the mirror is unreadable.

    `in_use`: AiFi has answered, and Aide has polled; what is left to do then is optional.
    """

    problems: list[Problem]
    steps: list[str]
    in_use: bool
    marks: Marks | None
    notes: dict[str, Note] = field(default_factory=dict)

    @property
    def instance(self) -> str | None:
        """Return what tells the mirror of this instance from the one of another."""
        return hashlib.sha256(self.marks.file.encode()).hexdigest()[:8] if self.marks else None


def diagnose(services: Services) -> Diagnosis:
    """Say what is wrong now, as far as is known without asking AiFi."""
    config, found = services.config, list[tuple[Cause, str]]()
    marks, notes = None, dict[str, Note]()
    try:
        if is_disk_full(services.store):
            found.append((Cause.DISK_FULL, "The disk is full"))
        marks, notes = services.store.marks(), services.store.notes()
    except StoreError as error:
        found = [name_cause(services, error)]
    if marks:
        found += _aifi_problems(services, config, marks, notes)
        found += _caller_problems(services, notes)
        found += _payment_problems(config, notes)
    found += [(Cause.VARIABLE_MISSPELT, warning) for warning in config.warnings]
    if not config.webhook_secret:
        found.append((Cause.WEBHOOK_SECRET_MISSING, "Webhooks are off: AIFI_WEBHOOK_SECRET is not set"))
    problems = [Problem(cause, message, find_remedy(config, cause)) for cause, message in found]
    where = "" if marks else f" ({services.store.name})"
    services.notes.log_problems({problem.cause: f"{problem.message}{where}. {problem.remedy}" for problem in problems})
    in_use = bool(marks and marks.refreshed_at and "poll" in notes)
    return Diagnosis(problems, _next_steps(config, marks, notes) if marks else [], in_use, marks, notes)


def _aifi_problems(services: Services, config: Config, marks: Marks, notes: dict[str, Note]) -> list[tuple[Cause, str]]:
    found = _refresh_problems(config, marks, notes)
    unreadable = notes.get(Cause.AIFI_ORDER_UNREADABLE)
    if unreadable and age_seconds(services, unreadable.at) < UNREADABLE_SECONDS:
        found.append((Cause.AIFI_ORDER_UNREADABLE, f"{unreadable.text}, last {minute_text(unreadable.at)}"))
    refused, shown = notes.get(Cause.AIFI_CUSTOMERS_REFUSED), notes.get("customer")
    if refused and (shown is None or shown.at < refused.at):
        found.append((Cause.AIFI_CUSTOMERS_REFUSED, f"{refused.text}, last {minute_text(refused.at)}"))
    return found


def _refresh_problems(config: Config, marks: Marks, notes: dict[str, Note]) -> list[tuple[Cause, str]]:
    if marks.failing_since:
        return [(Cause(marks.cause), f"{marks.error}, since {minute_text(marks.failing_since)}")]
    # Several stores are filtered here, so AiFi's list may have shown orders of which none was kept, and none served.
    shown = marks.newest and not (config.store_ids[1:] and "poll" in notes)
    if config.filters and marks.refreshed_at and not marks.served_until and not shown:
        return [(Cause.NO_ORDERS, f"AiFi shows no orders with {describe_filters(config)}")]
    return []


def _caller_problems(services: Services, notes: dict[str, Note]) -> list[tuple[Cause, str]]:
    """Return what is wrong with how Aide and AiFi call the bridge."""
    found = []
    for wrong, right, sure_seconds in (
        (Cause.AIDE_KEY_WRONG, "poll", AIDE_SURE_SECONDS),
        (Cause.WEBHOOK_SECRET_WRONG, "webhook", AIFI_SURE_SECONDS),
    ):
        if _is_current(services, notes.get(wrong), notes.get(right), sure_seconds):
            found.append((wrong, f"{notes[wrong].text}, last {minute_text(notes[wrong].at)}"))
    poll = notes.get("poll")
    if poll and age_seconds(services, poll.at) > SILENT_SECONDS:
        found.append((Cause.AIDE_SILENT, f"Aide has not polled since {minute_text(poll.at)}"))
    return found


def _is_current(services: Services, wrong: Note | None, right: Note | None, sure_seconds: float) -> bool:
    """Return whether a wrong key came lately, and the right one neither since, nor shortly before."""
    if wrong is None or age_seconds(services, wrong.at) > WRONG_SECONDS:
        return False
    return right is None or right.at < shift(wrong.at, -sure_seconds)


def _payment_problems(config: Config, notes: dict[str, Note]) -> list[tuple[Cause, str]]:
    if not config.payment_webhook_url:
        return []
    public_url = notes.get("public_url")
    if public_url and is_own_webhook(config.payment_webhook_url, public_url.text):
        return [(Cause.PAYMENT_ENDPOINT_FAILED, "PAYMENT_WEBHOOK_URL is this bridge's own webhook URL")]
    failure, success = notes.get(Cause.PAYMENT_ENDPOINT_FAILED), notes.get("payment")
    if failure and (success is None or success.at < failure.at):
        return [(Cause.PAYMENT_ENDPOINT_FAILED, f"{failure.text}, last {minute_text(failure.at)}")]
    return []


def _next_steps(config: Config, marks: Marks, notes: dict[str, Note]) -> list[str]:
    """Return what has not happened since the mirror was begun, and what makes it happen."""
    steps = []
    if not (marks.refreshed_at or marks.failing_since):
        steps.append("AiFi has not been asked yet: it is when Aide polls, and when the status page is opened.")
    if "poll" not in notes:
        steps.append(
            "Aide has not polled yet: give it the base URL and the API key that the status page shows. If it has them, "
            "wait a minute."
        )
    if config.webhook_secret and "webhook" not in notes:
        since = f"since the mirror was begun, {minute_text(marks.begun_at)}" if marks.begun_at else "yet"
        steps.append(
            f"AiFi has sent no webhook {since}. Webhooks are optional: to learn of a checkout at once, add one in "
            "AiFi's console with the webhook URL that the status page shows."
        )
    return steps


# --- the operator's overview


@dataclass(frozen=True)
class Overview:
    """What the status page and the command `status` show; `facts` and `settings` are (label, value) pairs.

    `mood` is good, waiting or bad, and `headline` says it in words. `hourly` counts the orders drafted in each hour;
    before `unread_before`, where it says a time, not all were read.
    """

    mood: str
    headline: str
    problems: list[Problem]
    steps: list[str]
    settings: list[tuple[str, str]]
    facts: list[tuple[str, str]] = field(default_factory=list)
    hourly: list[tuple[str, int]] = field(default_factory=list)
    unread_before: str = ""
    errors: list[tuple[str, Problem, int]] = field(default_factory=list)  # when, what, how often so far


def look_over(services: Services) -> Overview:
    """Gather what the operator wants to know; where the mirror cannot be read, the problem says so."""
    diagnosis = diagnose(services)
    marks, notes = diagnosis.marks, diagnosis.notes
    settings = _settings_in_force(services, diagnosis)
    top = (*_judge(diagnosis), diagnosis.problems, diagnosis.steps, settings)
    if marks is None:
        return Overview(*top)
    statistics = services.store.statistics()
    if marks.failing_since:
        aifi_state = f"fails since {minute_text(marks.failing_since)}: {marks.error}"
    else:
        aifi_state = "answers, the key is accepted" if marks.refreshed_at else "has not been asked yet"
    depth = f"back to {minute_text(marks.horizon)}" if marks.horizon else "nothing yet"
    facts = [
        ("AiFi", aifi_state),
        ("Mirror", f"refreshed {_ago(services, marks.refreshed_at)}" if marks.refreshed_at else "is empty"),
        ("Aide's last poll", _last(services, notes.get("poll"))),
        ("AiFi's last webhook", _last(services, notes.get("webhook"))),
        ("Orders mirrored", f"{statistics.orders:,}"),
        ("History", f"complete, {depth}" if marks.complete else depth),
        ("Compared with AiFi", _sweep_state(services, marks)),
        ("AiFi offers", _offers(marks, notes)),
    ]
    unread = not marks.complete and (marks.horizon or "~") > statistics.hourly[0][0]
    unread_before = minute_text(marks.horizon or services.store.now()) if unread else ""
    return Overview(*top, facts, statistics.hourly, unread_before, _last_errors(services.config, notes))


def _judge(diagnosis: Diagnosis) -> tuple[str, str]:
    """Return the mood and the headline: never that there is nothing to do before both sides have called."""
    if diagnosis.problems:
        return "bad", "✗ Needs attention"
    if not diagnosis.in_use:
        return "waiting", "○ Waiting: see the next step"
    if diagnosis.steps:
        return "good", "✓ Works: one optional step is left"
    return "good", "✓ Works: nothing to do"


def _settings_in_force(services: Services, diagnosis: Diagnosis) -> list[tuple[str, str]]:
    config = services.config
    return [
        ("AiFi's address", config.base_url),
        ("Stores", ", ".join(config.store_ids) or "all"),
        ("Roles", ", ".join(config.roles) or "all"),
        ("Currency", config.currency or "not set: amounts have none"),
        ("Payment endpoint", urlsplit(config.payment_webhook_url).hostname or "none: webhooks are not passed on"),
        ("Database", services.store.name),
        ("Instance", diagnosis.instance or "unknown"),
    ]


def _last_errors(config: Config, notes: dict[str, Note]) -> list[tuple[str, Problem, int]]:
    causes = set(Cause)
    return [
        (minute_text(note.at), Problem(Cause(name), note.text, find_remedy(config, Cause(name))), note.count)
        for name, note in sorted(notes.items(), key=lambda item: item[1].at, reverse=True)
        if name in causes
    ]


def _offers(marks: Marks, notes: Mapping[str, Note]) -> str:
    """Return which parts of AiFi's API this AiFi has; what it lacks is asked for again after an hour."""
    by_update = "not asked yet" if marks.changed_at is None and marks.unfiltered_at is None else "yes"
    words = {"orders by time of update": "no" if marks.unfiltered_at else by_update}
    for name, label in ((CONTESTS, "contests"), (CONTESTS_BY_TIME, "contests by time"), (STORES, "stores")):
        note = notes.get(OFFER + name)
        words[label] = note.text if note else "not asked yet"
    return ", ".join(f"{label}: {word}" for label, word in words.items())


def _sweep_state(services: Services, marks: Marks) -> str:
    """Return how far the comparison of mirror and AiFi is, and what it found."""
    sweeps = {name: services.store.sweep(name, marks.begun_at) for name in SWEEPS}
    found = sum(sweep.found for sweep in sweeps.values())
    rounds = []
    for name, sweep in sweeps.items():
        days = SWEEPS[name][0]
        ended = f"wholly {_ago(services, sweep.ended_at)}" if sweep.ended_at else "not wholly yet"
        place = f", now at {minute_text(sweep.place)}" if sweep.place else ""
        rounds.append(f"{f'the last {days} days' if days else 'all'} {ended}{place}")
    return f"{'; '.join(rounds)}. {found:,} orders were found late so far"


def _last(services: Services, note: Note | None) -> str:
    return f"{_ago(services, note.at)}: {note.text}" if note else "none yet"


def age_seconds(services: Services, at: str) -> int:
    """Return how long ago a time was, in whole seconds."""
    return max(0, round(utc_seconds(services.store.now()) - utc_seconds(at)))


def _ago(services: Services, at: str) -> str:
    seconds = age_seconds(services, at)
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
