"""Moments: inside, whole milliseconds since 1970 (UTC); in answers, ISO 8601."""

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000

Moment = float | str | datetime


def milliseconds(moment: Moment) -> float:
    """Return a moment (seconds since 1970, datetime, or ISO 8601 text; UTC unless it says otherwise) as milliseconds.

    Raises ValueError for text that is not a date.
    """
    if isinstance(moment, (int, float)):
        return round(moment * 1000)
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment.strip().replace("Z", "+00:00").replace("z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - EPOCH) / timedelta(milliseconds=1)


def iso(moment_ms: float | None) -> str | None:
    """Write a moment as AiFi does, such as `2025-11-01T00:00:00.000Z`; None stays None."""
    if moment_ms is None:
        return None
    return datetime.fromtimestamp(moment_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")[:-6] + "Z"
