"""Times, as the bridge keeps them everywhere: fixed-width UTC text, so that the order of the text is that of time."""

from datetime import datetime, timezone

MINUTE, HOUR, DAY = 60, 3600, 86400


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


def minute_text(text: str) -> str:
    """Return a time as people read it, to the minute."""
    return f"{text[:10]} {text[11:16]} UTC"
