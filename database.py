"""What a database offers, wherever the tables lie: in a SQLite file (`sqlite`) or on a server (`postgres`).

What it holds is a mirror, which may be lost at any moment: tables that are missing, damaged, of another version of the
program or of another origin are set aside, and new ones are begun and filled again.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Values = Sequence[Any] | Mapping[str, Any]  # for the places `?` or `:name` of a statement

BUSY_SECONDS = 3.0  # for another writer
COMMAND_HINT = "; a command needs the variables and the release of the running service"


@dataclass(frozen=True)
class Layout:
    """What a database must hold: the tables of this version of the program, and what they mirror.

    `{token}` in `tables` stands for a text that differs each time they are created. `origin` names each setting that
    decides what is mirrored, with its value.
    """

    version: int
    tables: str
    origin: Mapping[str, str] = field(default_factory=dict)

    def script(self) -> str:
        """Return the statements that create the tables."""
        return self.tables.replace("{token}", uuid.uuid4().hex)


class Row(Protocol):
    """A row of an answer; its columns are asked for by name."""

    def __getitem__(self, column: str, /) -> Any:
        """Return a column's value."""


class Connection(Protocol):
    """What a work may do in its transaction."""

    def rows(self, sql: str, values: Values = ()) -> Sequence[Row]:
        """Run one statement and return its rows."""

    def answers(self, statements: Sequence[tuple[str, Values]]) -> Sequence[Sequence[Row]]:
        """Run several statements that need not wait for each other, and return the rows of each."""

    def post(self, sql: str, many: Sequence[Values] = ((),)) -> None:
        """Run a statement once for each of the values, at the latest at the transaction's end; it answers nothing."""


class Database(Protocol):
    """Where the tables lie, for any number of threads and processes.

    `name` is for people, and holds no secret. `may_replace`: whether tables that are of no use may be set aside, and
    new ones be begun beside others; a command leaves that to the service.
    """

    name: str
    may_replace: bool

    def read(self, work: Callable[[Connection], T], statements: int = 1) -> T:
        """Run a reading; more than one statement need a transaction to see the same state, one is its own.

        :raises StoreError: the database cannot be read
        """

    def write(self, work: Callable[[Connection], T], durable: bool = True, patience: float = BUSY_SECONDS) -> T:
        """Run a writing in a transaction, as the one writer; it may run twice, so it must depend on nothing else.

        :param durable: whether to return only when it would survive a power cut
        :param patience: seconds to wait for another writer
        :raises StoreError: nothing was written
        """

    def change(self, sql: str, values: Values, patience: float = BUSY_SECONDS) -> Sequence[Row]:
        """Run a statement that needs no other's state, and may be lost in a power cut; return its rows.

        :param patience: seconds to wait for the rows that it changes
        :raises StoreError: nothing was changed
        """

    def clock(self) -> float:
        """Return the present time, the same for all who use the database; seconds since 1970."""

    def free_bytes(self) -> int | None:
        """Return how much room the disk has; None where that is not known.

        :raises StoreError: it cannot be looked at
        """

    def lock(self, name: str) -> AbstractContextManager[bool]:
        """Hold the lock of that name over all threads and processes; yield whether it was free.

        It dies with its holder: nobody waits for a dead one, and nothing has to be renewed.

        :raises StoreError: the database cannot be asked
        """

    def close(self) -> None:
        """Close the idle connections; the database may be used again."""


def differing_settings(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Return the names of the settings that differ, with commas; an empty text where none does."""
    return ", ".join(sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name)))
