"""Times as fixed-width UTC text, there and back."""

import math

import pytest

from tests.support import table
from times import CLOCK_SLACK_SECONDS, DAY, HOUR, MINUTE, age, minute_text, shift, utc_seconds, utc_text

NOON = "2025-11-01T12:00:00.000Z"
TEXTS = {
    0: "1970-01-01T00:00:00.000Z",
    0.001: "1970-01-01T00:00:00.001Z",
    -0.001: "1969-12-31T23:59:59.999Z",
    1761998400: NOON,
    1761998400.25: "2025-11-01T12:00:00.250Z",
    1709251199.999: "2024-02-29T23:59:59.999Z",
    253402300799.999: "9999-12-31T23:59:59.999Z",
}


@pytest.mark.parametrize(("seconds", "text"), TEXTS.items(), ids=list(TEXTS.values()))
def test_a_time_goes_to_text_and_back(seconds, text):
    assert utc_text(seconds) == text
    assert utc_seconds(text) == pytest.approx(seconds, abs=0.0001)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "1970-01-01T00:00:00.000Z"), (0.0006, "1970-01-01T00:00:00.001Z"), (0.9996, "1970-01-01T00:00:01.000Z")],
    ids=["down", "up", "up to the next second"],
)
def test_a_time_is_rounded_to_the_millisecond(seconds, text):
    assert utc_text(seconds) == text


def test_the_order_of_the_text_is_the_order_of_time():
    texts = [utc_text(seconds) for seconds in sorted(TEXTS)]
    assert texts == sorted(texts)
    assert {len(text) for text in texts} == {len(NOON)}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    **table(
        {
            "nowhere": (0, NOON),
            "a millisecond on": (0.001, "2025-11-01T12:00:00.001Z"),
            "a millisecond back": (-0.001, "2025-11-01T11:59:59.999Z"),
            "a minute on": (MINUTE, "2025-11-01T12:01:00.000Z"),
            "an hour back": (-HOUR, "2025-11-01T11:00:00.000Z"),
            "a month of days on": (30 * DAY, "2025-12-01T12:00:00.000Z"),
        }
    ),
)
def test_a_time_can_be_shifted(seconds, expected):
    assert shift(NOON, seconds) == expected


def test_a_thousand_shifts_by_a_millisecond_are_a_second():
    text = NOON
    for _ in range(1000):
        text = shift(text, 0.001)
    assert text == "2025-11-01T12:00:01.000Z"


def test_people_read_a_time_to_the_minute():
    assert minute_text("2025-11-01T12:34:56.789Z") == "2025-11-01 12:34 UTC"


@pytest.mark.parametrize(
    ("text", "expected"),
    **table(
        {
            "now": (NOON, 0.0),
            "a millisecond ago": ("2025-11-01T11:59:59.999Z", 0.001),
            "an hour ago": ("2025-11-01T11:00:00.000Z", HOUR),
            "a year ago": ("2024-11-01T12:00:00.000Z", 365 * DAY),
            "a moment ahead, as clocks of two processes differ": (shift(NOON, CLOCK_SLACK_SECONDS), 0.0),
            "ahead": (shift(NOON, CLOCK_SLACK_SECONDS + 0.001), math.inf),
            "years ahead": ("2031-01-01T00:00:00.000Z", math.inf),
            "never": (None, math.inf),
        }
    ),
)
def test_what_never_was_or_lies_ahead_is_infinitely_old(text, expected):
    assert age(text, NOON) == pytest.approx(expected, abs=0.0001)
