"""What the bench prints: what it does, and at the end one table."""

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

HEADINGS = ("figure", "measured", "beside", "ratio (lowest–highest)", "bar", "met?")
BEGAN = time.monotonic()


@dataclass(frozen=True)
class Row:
    """One line of the table; `met` is None where nothing could be measured."""

    figure: str
    measured: str
    beside: str
    ratio: str
    bar: str
    met: bool | None

    def cells(self) -> tuple[str, ...]:
        """Return the line's texts in the order of HEADINGS."""
        verdict = {True: "yes", False: "**no**", None: "not measured"}[self.met]
        return (self.figure, self.measured, self.beside, self.ratio, self.bar, verdict)


class Ratios:
    """The ratios of runs that were made in turn: each measured beside its own limit."""

    def __init__(self, measured: Sequence[float], limits: Sequence[float]):
        self._values = [one / other for one, other in zip(measured, limits, strict=True)]

    @property
    def median(self) -> float:
        """The ratio that counts."""
        return statistics.median(self._values)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({min(self._values):.2f}–{max(self._values):.2f})"


def say(text: str) -> None:
    """Print a line of progress, with the seconds since the bench began."""
    print(f"[{time.monotonic() - BEGAN:5.0f} s] {text}", flush=True)


def table(rows: Sequence[Row], quick: bool) -> str:
    """Return the rows as a Markdown table, under a line that says when and where they were measured."""
    today = f"{datetime.now(timezone.utc):%Y-%m-%d}"
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    load = f"load average {os.getloadavg()[2]:.1f} over the last 15 minutes"
    title = f"Measured on {today}: {system}, {load}{'; QUICK, with smaller mirrors' if quick else ''}."
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(row.cells() for row in rows)]
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)])


def milliseconds(seconds: Sequence[float]) -> str:
    """Return the median as text."""
    return f"{statistics.median(seconds) * 1000:,.0f} ms"


def a_second(rates: Sequence[float]) -> str:
    """Return the median of rates as text."""
    return f"{statistics.median(rates):,.0f}/s"
