"""How far the mirror and its sweeps have come. Every time is UTC text."""

from dataclasses import dataclass

from errors import StoreError


@dataclass(frozen=True)
class Marks:
    """How far the mirror has come.

    `served_until`: the latest `updated_at` that was served. `begun_at`: see `orders.Extent`. `horizon`: all
    orders drafted since are here, `horizon_id` is the oldest; None: AiFi has shown no order yet. `complete`: AiFi has
    nothing older. `newest`: the newest order that a list has shown. `gap_top`, `gap_low`: a reading of new orders that
    broke off has everything between these two. `newest_update`, `newest_update_id`: the newest `updatedAt` that a list
    has shown. `changed_at`: when the list of changes was last read. `unfiltered_at`: when AiFi last did not know
    `minUpdatedAt`. `refreshed_at`: when the last successful refresh began. The others tell of the last failure.
    """

    file: str
    served_until: str | None
    begun_at: str | None
    horizon: str | None
    horizon_id: str | None
    complete: int
    newest: str | None
    gap_top: str | None
    gap_low: str | None
    newest_update: str | None
    newest_update_id: str | None
    changed_at: str | None
    unfiltered_at: str | None
    refreshed_at: str | None
    failures: int
    failing_since: str | None
    retry_at: str | None
    cause: str | None
    error: str | None


@dataclass(frozen=True)
class Sweep:
    """A comparison of the mirror with AiFi's list, from the newest draft down.

    `place` is the last order compared in this round, None at its top; `begun_at`: when the round began; `stepped_at`:
    when it went on last; `ended_at`: when the last whole round ended. `compared` counts this round's orders, `found`
    all that ever differed.
    """

    name: str
    begun_at: str
    place: str | None = None
    stepped_at: str | None = None
    ended_at: str | None = None
    compared: int = 0
    found: int = 0


class MarksMoved(StoreError):
    """The marks are not what they were when they were read: another process moved them, or the file was begun anew."""

    def __init__(self) -> None:
        super().__init__("the mirror was changed by another process meanwhile")
