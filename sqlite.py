"""The tables in a SQLite file, which is set aside or begun anew as needed; see `database.Database`."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from database import BUSY_SECONDS, COMMAND_HINT, Connection, Layout, Row, Values, differing_settings
from errors import Damage, StoreError

log = logging.getLogger("bridge.database")
T = TypeVar("T")
FileId = tuple[tuple[int, int] | None, tuple[int, int] | None]  # device and inode, of the file and of its journal

JOURNAL_BYTES = 16 * 1024 * 1024
PAGE_BYTES = 8192  # two or three orders; on SQLite's own pages of 4096 one would stand alone
CHECKPOINT_PAGES = 2000  # as much as the journal; seldom, as many commits write the same pages of the indexes
CACHE_KIB = 512  # a connection; the system caches the file anyhow, and once for all


class SqliteDatabase:
    """The SQLite file; opened when it is first used. See `Database` for what it offers.

    :param path: the file; created, set aside or begun anew as needed
    :param clock: seconds since 1970; tests replace it
    :param may_replace: see `Database`
    """

    def __init__(
        self, path: str, layout: Layout, clock: Callable[[], float] = time.time, may_replace: bool = True
    ) -> None:
        self.name = os.path.abspath(path)
        self.clock = clock
        self._layout = layout
        self.may_replace = may_replace
        self._idle: list[_Connection] = []
        self._writing = threading.Lock()  # lets the threads queue, where SQLite's own lock makes them poll

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def read(self, work: Callable[[Connection], T], statements: int = 1) -> T:
        """Run a reading."""
        return self._transact("BEGIN" if statements > 1 else "", work)

    def write(self, work: Callable[[Connection], T], durable: bool = True, patience: float = BUSY_SECONDS) -> T:
        """Run a writing."""
        if not self._writing.acquire(timeout=patience):
            raise StoreError("the database is busy")
        try:
            return self._transact("BEGIN IMMEDIATE", work, durable, patience)
        finally:
            self._writing.release()

    def change(self, sql: str, values: Values, patience: float = BUSY_SECONDS) -> Sequence[Row]:
        """Run a statement that needs no other's state: as the one writer too, as SQLite knows no other."""
        return self.write(lambda db: db.rows(sql, values), durable=False, patience=patience)

    def free_bytes(self) -> int:
        """Return how much room the disk has."""
        try:
            return shutil.disk_usage(os.path.dirname(self.name)).free
        except OSError as error:
            raise StoreError(f"the database's folder cannot be opened: {error.strerror}") from error

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Hold the lock of that name: the system's lock on a file beside the database."""
        with contextlib.ExitStack() as stack:
            try:
                handle = os.open(f"{self.name}.{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                stack.callback(os.close, handle)
                is_free = _try_lock(handle)
            except OSError as error:
                raise StoreError(f"the database's folder cannot be used: {error.strerror}") from error
            yield is_free

    # --- connections and transactions ---

    def _transact(
        self,
        begin: str,
        work: Callable[[Connection], T],
        durable: bool = True,
        patience: float = BUSY_SECONDS,
    ) -> T:
        """Run `work` in a transaction; a damaged file is set aside, and the work done once more on a new one."""
        for last_try in (False, True):
            db = self._connection()
            try:
                db.configure(durable, patience)
                if begin:
                    db.execute(begin)
                result = work(db)
                if begin:
                    db.execute("COMMIT")
            except (sqlite3.Error, Damage) as error:
                db.close()
                if last_try or not (self.may_replace and _is_damage(error)):
                    raise StoreError(f"the database cannot be used: {error}") from error
                self._set_aside(db.file_id[0], str(error))
            except BaseException:
                db.close()  # which rolls back
                raise
            else:
                self._idle.append(db)
                return result
        raise AssertionError("unreachable")

    def _connection(self) -> "_Connection":
        """Return an idle connection, unless the file was deleted or replaced since it was opened; else a new one."""
        while self._idle:
            try:
                db = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            try:
                if db.file_id == _file_id(self.name):
                    return db
            except OSError as error:
                db.close()
                raise StoreError(f"the database cannot be looked at: {error.strerror}") from error
            db.close()
        return self._open()

    def _open(self) -> "_Connection":
        """Connect to the file; where it is missing or of no use, start a new one, one process at a time."""
        with self._directory_lock():
            for last_try in (False, True):
                self._tidy()
                try:
                    return self._connect()
                except (sqlite3.Error, Damage) as error:
                    if last_try or not (self.may_replace and _is_damage(error)):
                        hint = COMMAND_HINT if isinstance(error, Damage) else ""
                        raise StoreError(f"the database cannot be opened: {error}{hint}") from error
                    self._rename(str(error))
        raise AssertionError("unreachable")

    def _connect(self) -> "_Connection":
        db = sqlite3.connect(
            self.name, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, factory=_Connection
        )
        try:
            db.row_factory = sqlite3.Row
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
            db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            _prepare(db, self._layout)
            db.file_id = _file_id(self.name)
        except BaseException:
            db.close()
            raise
        return db

    # --- the file ---

    @contextlib.contextmanager
    def _directory_lock(self) -> Iterator[None]:
        """Keep others from creating or replacing the file meanwhile; the lock dies with its holder."""
        try:
            folder = os.open(os.path.dirname(self.name), os.O_RDONLY)
        except OSError as error:
            raise StoreError(f"the database's folder cannot be opened: {error.strerror}") from error
        try:
            deadline = time.monotonic() + BUSY_SECONDS
            while not _try_lock(folder):
                if time.monotonic() > deadline:
                    raise StoreError("the database is being opened by another process")
                time.sleep(0.01)
            yield
        except OSError as error:
            raise StoreError(f"the database's folder cannot be used: {error.strerror}") from error
        finally:
            os.close(folder)

    def _tidy(self) -> None:
        """Make sure that the journal belongs to the file: SQLite removes the index before the journal, never after."""
        journal, index = (_inode(self.name + suffix, may_be_empty=True) for suffix in ("-wal", "-shm"))
        if _inode(self.name) is None:
            self._remove(self.name)
            self._remove_companions()
        elif index and not journal and self.may_replace:
            self._rename("its journal was deleted")

    def _set_aside(self, inode: tuple[int, int] | None, why: str) -> None:
        """Rename the file, unless somebody else has replaced it by now."""
        with self._directory_lock():
            if inode == _inode(self.name):
                self._rename(why)

    def _rename(self, why: str) -> None:
        """Move the file out of the way, so that a new one is begun; only the last such file is kept."""
        log.error("The database is of no use (%s): kept as %s.set-aside; a new one is filled from AiFi", why, self.name)
        os.replace(self.name, f"{self.name}.set-aside")
        self._remove_companions()

    def _remove_companions(self) -> None:
        for suffix in ("-wal", "-shm"):
            self._remove(self.name + suffix)

    def _remove(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


class _Connection(sqlite3.Connection):
    """A connection that remembers which file it opened, and how it is set. SQLite runs every statement at once."""

    file_id: FileId = (None, None)
    _setting: tuple[bool, float] = (True, BUSY_SECONDS)

    def rows(self, sql: str, values: Values = ()) -> Sequence[Row]:
        """Run one statement and return its rows."""
        return self.execute(sql, values).fetchall()

    def answers(self, statements: Sequence[tuple[str, Values]]) -> Sequence[Sequence[Row]]:
        """Run several statements and return the rows of each."""
        return [self.rows(sql, values) for sql, values in statements]

    def post(self, sql: str, many: Sequence[Values] = ((),)) -> None:
        """Run a statement once for each of the values."""
        self.executemany(sql, many)

    def configure(self, durable: bool, patience: float) -> None:
        """Say whether a commit waits for the disk, and how many seconds to wait for SQLite's lock."""
        if self._setting != (durable, patience):
            self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.execute(f"PRAGMA busy_timeout = {round(patience * 1000)}")
            self._setting = (durable, patience)


def _prepare(db: sqlite3.Connection, layout: Layout) -> None:
    """Create the tables in an empty file.

    :raises Damage: the file belongs to another version of this program, or mirrors something else
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        db.executescript(
            f"BEGIN IMMEDIATE; CREATE TABLE origin (settings TEXT NOT NULL); {layout.script()} "
            f"PRAGMA user_version = {layout.version};"
        )
        db.execute("INSERT INTO origin VALUES (?)", (json.dumps(dict(layout.origin)),))
        db.execute("COMMIT")
        return
    if version != layout.version:
        raise Damage(f"its schema has version {version}, this program's {layout.version}")
    found = json.loads(db.execute("SELECT settings FROM origin").fetchone()[0])
    if names := differing_settings(found, layout.origin):
        raise Damage(f"it was filled with another {names}")


def _is_damage(error: sqlite3.Error | Damage) -> bool:
    """Return whether the file itself is of no use. SQLite's "corrupt" and "not a database" come as the bare class."""
    if getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_SHORT_READ":  # a file that was cut off; Python 3.11+
        return True
    return type(error) in (sqlite3.DatabaseError, Damage) or str(error).startswith(
        ("no such", "Could not decode to UTF-8")
    )


def _file_id(path: str) -> FileId:
    """Return what tells whether the database and its journal are still the files that were opened."""
    return _inode(path), _inode(path + "-wal", may_be_empty=True)


def _inode(path: str, may_be_empty: bool = False) -> tuple[int, int] | None:
    """Return the file's identity; None where there is no file, or nothing in it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size or may_be_empty else None


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
