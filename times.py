"""Times, as the bridge keeps them everywhere: fixed-width UTC text, so that the order of the text is that of time."""

import math
from datetime import datetime, timezone

MINUTE, HOUR, DAY = 60, 3600, 86400
CLOCK_SLACK_SECONDS = 1.0  # how far ahead a time of another process may lie


def utc_text(seconds: float) -> str:
    """Return seconds since 1970 as fixed-width UTC text, to the millisecond."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{datetime.fromtimestamp(whole, timezone.utc).isoformat()[:19]}.{thousandths:03d}Z"


def utc_seconds(text: str) -> float:
    """Return fixed-width UTC text as seconds since 1970."""
    return datetime.fromisoformat(text[:-1] + "+00:00").timestamp()


def shift(text: str, seconds: float) -> str:
    """Return the time `seconds` after `text`."""
    return utc_text(utc_seconds(text) + seconds)


def age(text: str | None, now: str) -> float:
    """Return how many seconds ago something was: the one function that judges every age.

    What never was, or lies ahead, is infinitely old: a clock that was put back since must not make it count for long.
    """
    seconds = math.inf if text is None else utc_seconds(now) - utc_seconds(text)
    return max(0.0, seconds) if seconds >= -CLOCK_SLACK_SECONDS else math.inf


def minute_text(text: str) -> str:
    """Return a time as people read it, to the minute."""
    return f"{text[:10]} {text[11:16]} UTC"
