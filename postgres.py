"""The tables on a PostgreSQL server, for several machines: the promises of the SQLite file, see `database.Database`.

Each version of the schema and each origin has a namespace of its own, so that the old and the new release of a deploy
do not disturb each other. One that is of no use is set aside, and a new one is begun: what it held is a mirror.

Imported only where DATABASE_URL is set, as the driver costs memory. Sources: PostgreSQL's manual (explicit locking,
client connection defaults, error codes), psycopg's (pipeline mode).
"""

import contextlib
import functools
import hashlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import sql as quoting
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.numeric import IntDumper
from psycopg.types.string import StrDumper

from database import BUSY_SECONDS, COMMAND_HINT, Connection, Layout, Row, Values, differing_settings
from errors import Cause, Damage, StoreError
from times import DAY, HOUR, MINUTE

log = logging.getLogger("bridge.database")
T = TypeVar("T")

# Of a process: with the two locks of a refresh and of the upkeep, four. The smallest plans allow a database twenty.
MAX_SESSIONS = 2
SESSION_SECONDS = 5 * MINUTE  # after which a connection makes way: its like may have moved to another machine
EXECUTION_SECONDS = 1.0  # for the server's work, beside the waiting for others
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.01, 0.2  # between attempts, each twice as long as the one before
CLOCK_TRIES, CLOCK_SECONDS = 3, 0.005  # the server's clock is read so often, until that is certain within so much
CLOCK_DRIFT = 1e-4  # by which two clocks may run apart
UNUSED_SECONDS = 7 * DAY  # after which a mirror of another origin or version is dropped
FROZEN_SECONDS = 6  # which no transaction lasts: its instance gives up before that
CONNECT_SECONDS = 2  # for each address of each host; less is not in the driver's power

# Where the address says otherwise, it counts.
CONNECTING: dict[str, Any] = {
    "target_session_attrs": "read-write",  # of several hosts, the one that is not a follower
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "aifi-aide-bridge",
    "client_encoding": "utf8",
}
# The server's own bounds hold where an instance is frozen or cut off: it must not keep a lock.
SERVER_SETTINGS = {
    "lock_timeout": "3s",
    "statement_timeout": "5s",
    "idle_in_transaction_session_timeout": "2s",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

# Tables that are gone, other ones (among them columns of another type), corrupt ones.
DAMAGED = ("42P01", "42703", "42P10", "42804", "42883", "3F000", "XX001", "XX002")
# Serialization failure, deadlock, shutdown, crash, start, a follower, a transaction ended for its idleness, too many
# connections, a plan of tables that were replaced. Class 08 and what has no code at all is the connection.
CUT_OFF = ("40001", "40P01", "57P01", "57P02", "57P03", "25006", "25P03", "53300", "0A000")
DISK_FULL, LOCKED = "53100", "55P03"
WORDS = {
    LOCKED: "it is busy",
    "57014": "it took too long",
    DISK_FULL: "its disk is full",
    "25006": "its server takes no writing",
    "42501": "its user may not do what is needed",
    "53300": "its server allows no further connection",
}
# Why it cannot be connected to. The texts of server and driver name host and user, so only what they mean is told.
POOLER = "this is a pooler: use the direct address"
REFUSALS = {  # the next attempt would meet the same
    "authentication failed": "it refuses the user or the password",
    "no pg_hba.conf entry": "it refuses this user or this address",
    "could not translate host name": "its host is unknown",
    "resolve host": "its host is unknown",
    "certificate": "its certificate is not the one that sslmode asks for",
    "not support SSL": "it and sslmode do not agree on TLS",
    "alert": "it and sslmode do not agree on TLS",
    "unsupported startup parameter": POOLER,
    "does not exist": "there is no such database or user",
}
TROUBLES = {
    "timeout expired": "it does not answer in time",
    "Connection refused": "its server cannot be reached",
    "remaining connection slots": "its server allows no further connection",
    "too many c": "its server allows no further connection",
    "starting up": "its server is starting",
    "shutting down": "its server is shutting down",
    "read-only": "its server takes no writing",
}

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
BOUNDS = "SELECT set_config('synchronous_commit', ?, true), set_config('lock_timeout', ?, true)"
LOCK = "SELECT pg_advisory_xact_lock(?)"
TRY_LOCK = "SELECT pg_try_advisory_lock(?) AS is_free"
UNLOCK = "SELECT pg_advisory_unlock(?)"
# The table is asked, as `to_regnamespace` may answer from a cache that is older than the lock waited for.
FIND = """SELECT (SELECT oid FROM pg_namespace WHERE nspname = ?) AS namespace,
          current_setting('search_path') AS search_path"""
READ_CLOCK = "SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS now"
NAMESPACES = """SELECT nspname AS name, obj_description(oid, 'pg_namespace') AS about FROM pg_namespace
                WHERE starts_with(nspname, 'bridge_v') AND pg_has_role(nspowner, 'USAGE')"""
# Where an instance is frozen while it sends, or its machine is lost, none of the server's bounds is counted.
END_FROZEN = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = current_setting('application_name') AND datname = current_database()
                AND usename = current_user AND xact_start < clock_timestamp() - make_interval(secs => ?)"""
TYPES = {"TEXT": 'TEXT COLLATE "C"', "REAL": "DOUBLE PRECISION", "INTEGER": "BIGINT"}  # SQLite's, as they are here


class _Clock(NamedTuple):
    """By how many seconds the server's clock is ahead of the monotonic one, give or take how many, and when read."""

    ahead: float
    doubt: float
    read_at: float


@dataclass(frozen=True)
class _Signature:
    """What is written on a namespace: what it mirrors, and when it was used last."""

    settings: dict[str, str]
    used_at: float


class _NotConnected(StoreError):
    """The server was not connected to; and whether the next attempt would meet the same."""

    def __init__(self, error: psycopg.Error) -> None:
        text = re.sub(r"""(["']).*?\1""", "", str(error))  # names, which may hold any word
        refusal = next((words for mark, words in REFUSALS.items() if mark in text), None)
        trouble = next((words for mark, words in TROUBLES.items() if mark in text), "the connection was lost")
        super().__init__(f"the database cannot be used: {refusal or trouble}")
        self.is_refused = refusal is not None


class PostgresDatabase:
    """The tables on a server; connected to when first used. See `Database` for what it offers.

    :param url: the server's address, as libpq takes it, also several hosts; with user and password
    :param may_replace: see `Database`
    :raises StoreError: the address cannot be read; its text says why, without the address
    """

    def __init__(self, url: str, layout: Layout, may_replace: bool = True) -> None:
        address = _read_address(url)
        named = str(address.get("dbname") or "")
        self.name = f'PostgreSQL, database "{named}"' if named else "PostgreSQL"
        self._layout, self.may_replace = layout, may_replace
        settings = json.dumps(dict(layout.origin), sort_keys=True)
        self._namespace = f"bridge_v{layout.version}_{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
        options = {"search_path": self._namespace, **SERVER_SETTINGS}
        given = [str(address.pop("options", "")), *(f"-c {name}={value}" for name, value in options.items())]
        ours = {"options": " ".join(given).strip(), "connect_timeout": CONNECT_SECONDS}
        self._address = make_conninfo("", **{**CONNECTING, **address, **ours})
        self._adapters = _adapters()
        self._idle: list[_Session] = []
        self._places = threading.BoundedSemaphore(MAX_SESSIONS)
        self._writing = threading.Lock()  # lets the threads queue here, where each would hold a connection
        self._clock: _Clock | None = None
        self._damaged: int | None = None  # the namespace that is to be set aside
        self._tidied_at = -math.inf
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # its texts name host and user

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                self._idle.pop().close()

    def read(self, work: Callable[[Connection], T], statements: int = 1) -> T:
        """Run a reading."""

        def task(session: _Session) -> T:
            if statements == 1:
                return work(session)
            session.post(BEGIN_READING)
            result = work(session)
            session.rows("COMMIT")
            return result

        return self._run(task, BUSY_SECONDS)

    def write(self, work: Callable[[Connection], T], durable: bool = True, patience: float = BUSY_SECONDS) -> T:
        """Run a writing."""
        deadline = time.monotonic() + patience
        if not self._writing.acquire(timeout=patience):
            raise StoreError("the database is busy")

        def task(session: _Session) -> T:
            session.begin(durable, deadline - time.monotonic())
            session.post(LOCK, [(_key(self._namespace),)])
            result = work(session)
            session.rows("COMMIT")
            return result

        try:
            return self._run(task, deadline - time.monotonic())
        finally:
            self._writing.release()

    def change(self, sql: str, values: Values, patience: float = BUSY_SECONDS) -> Sequence[Row]:
        """Run a statement that needs no other's state, without the writer's lock, in one trip."""

        def task(session: _Session) -> Sequence[Row]:
            session.begin(False, patience)
            return session.answers([(sql, values), ("COMMIT", ())])[0]

        return self._run(task, patience)

    def clock(self) -> float:
        """Return the server's time, as it was when last connected to, carried on.

        :raises StoreError: the server was never reached
        """
        if self._clock is None:
            self.read(lambda _: None)
        assert self._clock is not None  # noqa: S101 - by now it was reached
        return time.monotonic() + self._clock.ahead

    def free_bytes(self) -> None:
        """Return that the server's disk is not known."""

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Hold the lock of that name: an advisory lock, which ends with the connection that is kept for it."""
        key = (_key(f"{self._namespace} {name}"),)
        [row], session = self._insist(lambda session: session.rows(TRY_LOCK, key), time.monotonic() + BUSY_SECONDS)
        try:
            yield row["is_free"]
        finally:
            self._release(session, key if row["is_free"] else None)

    # --- attempts ---

    def _run(self, task: Callable[["_Session"], T], patience: float) -> T:
        """Run a task on one of the process's connections."""
        deadline = time.monotonic() + patience
        if not self._places.acquire(timeout=max(0.0, patience)):
            raise StoreError("the database is busy")
        try:
            result, session = self._insist(task, deadline)
            self._give_back(session)
            return result
        finally:
            self._places.release()

    def _insist(self, task: Callable[["_Session"], T], deadline: float) -> tuple[T, "_Session"]:
        """Run a task, again and again where it is cut off, until the deadline; return the connection, too.

        :raises StoreError: it could not be done
        """
        replaced: set[int | None] = set()
        pause = FIRST_PAUSE_SECONDS
        while True:
            session = None
            try:
                session = self._take(deadline + EXECUTION_SECONDS)
                return task(session), session
            except (psycopg.Error, Damage, _NotConnected) as error:
                _close(session)
                if session and self._may_set_aside(session, error, replaced):
                    self._damaged = session.namespace
                    replaced.add(session.namespace)
                elif not _is_cut_off(error) or time.monotonic() + pause > deadline:
                    self._end_frozen(error)
                    raise _store_error(error) from None  # the driver's text may hold a secret
                self.close()  # the others were probably cut off with it
                time.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_SECONDS)
            except BaseException:
                _close(session)  # which rolls back
                raise

    def _may_set_aside(self, session: "_Session", error: Exception, replaced: set[int | None]) -> bool:
        """Return whether the tables are to be set aside: twice, as another instance may have begun those anew."""
        return self.may_replace and _is_damage(error) and session.namespace not in replaced and len(replaced) < 2

    def _end_frozen(self, error: Exception) -> None:
        """Where a lock was waited for in vain, end the connections that hold one for too long."""
        if isinstance(error, psycopg.Error) and error.sqlstate == LOCKED:
            with contextlib.suppress(psycopg.Error, StoreError):  # the next who waits in vain tries again
                session = self._open(time.monotonic() + EXECUTION_SECONDS)
                session.rows(END_FROZEN, (FROZEN_SECONDS,))
                self._give_back(session)

    def _give_back(self, session: "_Session") -> None:
        if len(self._idle) < MAX_SESSIONS:
            self._idle.append(session)
        else:
            session.close()

    def _release(self, session: "_Session", key: Values | None) -> None:
        """Give a connection back, after its lock; what cannot be told that is closed, and the lock ends with it."""
        session.deadline = time.monotonic() + EXECUTION_SECONDS
        try:
            if key:
                session.rows(UNLOCK, key)
        except psycopg.Error:
            session.close()
        else:
            self._give_back(session)

    def _take(self, deadline: float) -> "_Session":
        """Return an idle connection, or a new one; what it waits for is bounded by the deadline."""
        while self._idle:
            try:
                session = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - session.opened_at < SESSION_SECONDS:
                session.deadline = deadline
                return session
            session.close()
        return self._open(deadline)

    def _open(self, deadline: float) -> "_Session":
        """Connect to the server, measure its clock, and see that the namespace is there."""
        session = self._connect(deadline)
        try:
            if session.info.parameter_status("server_encoding") != "UTF8":
                raise StoreError("the database cannot be used: create it with the encoding UTF8")
            self._read_clock(session)
            session.namespace = self._find(session)
            if session.namespace in (None, self._damaged):
                self._begin_anew(session)
        except BaseException:
            session.close()
            raise
        if self.may_replace and session.opened_at - self._tidied_at > HOUR:
            self._tidied_at = session.opened_at
            try:
                self._tidy(session)
            except psycopg.Error as error:  # what others left may belong to another user of the server
                log.warning("What mirrors are not used any longer is not known: %s", _store_error(error))
                session.close()
                return self._open(deadline)
        return session

    def _connect(self, deadline: float) -> "_Session":
        try:
            session = _Session.connect(self._address, autocommit=True, context=self._adapters, row_factory=dict_row)
        except psycopg.Error as error:
            raise _NotConnected(error) from None  # the driver's text may hold a secret
        session.opened_at = time.monotonic()
        session.deadline = max(deadline, session.opened_at + EXECUTION_SECONDS)
        return session

    def _find(self, session: "_Session") -> int | None:
        """Return the namespace that is there.

        :raises StoreError: the connection is a pooler's, which keeps no settings, and no locks
        """
        [row] = session.rows(FIND, (self._namespace,))
        if row["search_path"] != self._namespace:
            raise StoreError(f"the database cannot be used: {POOLER}")
        namespace: int | None = row["namespace"]
        return namespace

    def _read_clock(self, session: "_Session") -> None:
        """Read the server's clock, and keep the better of what is known of it; a busy machine reads it badly."""
        best = math.inf
        for _ in range(CLOCK_TRIES):
            before = time.monotonic()
            [row] = session.rows(READ_CLOCK)
            after = time.monotonic()
            clock, known = _Clock(row["now"] - (before + after) / 2, (after - before) / 2, after), self._clock
            doubt = known.doubt + CLOCK_DRIFT * (after - known.read_at) if known else math.inf
            # One that contradicts what is known was put right, or is another server's.
            if known is None or clock.doubt <= doubt or abs(clock.ahead - known.ahead) > clock.doubt + doubt:
                self._clock = clock
            if clock.doubt < CLOCK_SECONDS or clock.doubt > best:  # a long line does not get shorter
                return
            best = clock.doubt

    # --- namespaces; each change of one is made by one process at a time ---

    def _begin_anew(self, session: "_Session") -> None:
        """Create the namespace; where it is the damaged one, it is renamed first, and the one renamed before dropped.

        :raises StoreError: a command meets tables of another origin or version, and none of its own
        """
        self._take_turn(session)
        session.post(LOCK, [(_key(self._namespace),)])  # a writing goes to the old tables as a whole
        found = self._find(session)
        if found is not None and found == self._damaged:
            aside = f"{self._namespace}_set_aside"
            log.error("The tables in %s are of no use: kept as %s; new ones are filled from AiFi", self.name, aside)
            session.post_about("DROP SCHEMA IF EXISTS {} CASCADE", aside)
            session.post_about("ALTER SCHEMA {} RENAME TO {}", self._namespace, aside)
            found = None
        if found is None:
            self._refuse_others(session)
            session.post_about("CREATE SCHEMA {}", self._namespace)
            for statement in _statements(self._layout.script()):
                session.post(statement)
            self._sign(session)
            found = self._find(session)
        session.rows("COMMIT")
        session.namespace = found

    def _take_turn(self, session: "_Session") -> None:
        session.begin(True, BUSY_SECONDS)
        session.post(LOCK, [(_key("bridge namespaces"),)])

    def _refuse_others(self, session: "_Session") -> None:
        """Refuse to begin a mirror beside the service's, if this is a command."""
        others = {} if self.may_replace else _read_signatures(session)
        if others:
            latest = max(others.values(), key=lambda signature: signature.used_at)
            names = differing_settings(latest.settings, self._layout.origin)
            filler = f"with another {names}" if names else "by another version"
            raise StoreError(f"the database cannot be used: it was filled {filler}{COMMAND_HINT}")

    def _sign(self, session: "_Session") -> None:
        """Write on the namespace what it mirrors, and that it is in use."""
        signature = _Signature(dict(self._layout.origin), round(self.clock()))
        text = quoting.Literal(json.dumps(asdict(signature)))
        session.post_about("COMMENT ON SCHEMA {} IS {}", self._namespace, text)

    def _tidy(self, session: "_Session") -> None:
        """Once an hour, sign the namespace, and drop those that nobody has used for a week."""
        self._take_turn(session)
        self._sign(session)
        session.rows("COMMIT")
        self._take_turn(session)  # apart, as others' mirrors may resist
        oldest = self.clock() - UNUSED_SECONDS
        unused = [name for name, signature in _read_signatures(session).items() if signature.used_at < oldest]
        for name in unused:
            session.post_about("DROP SCHEMA {} CASCADE", name)
        session.rows("COMMIT")
        for name in unused:
            log.info("Dropped a mirror that was not used for a week: %s", name)


class _Session(psycopg.Connection[dict[str, Any]]):
    """A connection. What is posted waits for the next statement that answers, and goes out with it in one trip."""

    opened_at = 0.0
    deadline = math.inf  # of all that is waited for
    namespace: int | None = None
    _line: psycopg.Pipeline | None = None
    _posted: Sequence[tuple[str, Sequence[Values]]] = ()

    def begin(self, durable: bool, patience: float) -> None:
        """Begin a transaction that waits so many seconds for locks."""
        self.post(BEGIN)
        self.post(BOUNDS, [("on" if durable else "off", f"{max(1, round(patience * 1000))}ms")])

    def rows(self, sql: str, values: Values = ()) -> Sequence[Row]:
        """Run one statement and return its rows."""
        return self.answers([(sql, values)])[0]

    def answers(self, statements: Sequence[tuple[str, Values]]) -> Sequence[Sequence[Row]]:
        """Run several statements in one trip, after those that were posted, and return the rows of each."""
        # The pipeline is never left: the driver would send a flush after its last sync, upon which the server does not
        # count how long a transaction is idle, and a frozen instance would hold the writer's lock for ever.
        if not self._line:
            self._in_line = self.pipeline()
            self._line = self._in_line.__enter__()
        posted, self._posted = self._posted, ()
        for sql, many in posted:
            self.cursor().executemany(_translate(sql), many)
        cursors = [self.execute(_translate(sql), values) for sql, values in statements]
        self._line.sync()
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def post(self, sql: str, many: Sequence[Values] = ((),)) -> None:
        """Run a statement once for each of the values, with the next one that answers."""
        self._posted = (*self._posted, (sql, many))

    def post_about(self, sql: str, *parts: str | quoting.Literal) -> None:
        """Run a statement about the namespaces of these names, or with these literals."""
        names = [quoting.Identifier(part) if isinstance(part, str) else part for part in parts]
        self.post(quoting.SQL(sql).format(*names).as_string(self))

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server, until the deadline at most: a frozen one never answers, and never hangs up."""
        left = max(0.0, self.deadline - time.monotonic())
        return super().wait(gen, interval, left if timeout is None else min(timeout, left))


class _Text(StrDumper):
    """Text without NUL, which PostgreSQL cannot hold."""

    def dump(self, obj: str) -> Any:
        """Return the text as the server takes it."""
        return super().dump(obj.replace("\0", "\ufffd"))


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(str, _Text)
    adapters.register_dumper(bool, IntDumper)  # as SQLite has it
    return adapters


def _read_address(url: str) -> dict[str, Any]:
    """Return the parts of a server's address.

    :raises StoreError: it cannot be read
    """
    try:
        address = conninfo_to_dict(url)
    except psycopg.Error:
        raise StoreError("the address of the database cannot be read: copy it again") from None
    # A password that is not escaped ends up in the host or in the database's name, which are shown.
    if "@" in f"{address.get('host')} {address.get('port')} {address.get('dbname')}":
        raise StoreError(
            "the address of the database cannot be read: in its password write /, @, :, ?, # and % as "
            "%2F, %40, %3A, %3F, %23 and %25"
        )
    return address


@functools.lru_cache(maxsize=1024)
def _translate(sql: str) -> bytes:
    """Return one of the store's statements as PostgreSQL and the driver have it."""

    def place(match: re.Match[str]) -> str:
        if match[1]:
            return f"%({match[1]})s"
        return "%s" if match[0] == "?" else match[0]

    text = sql.replace("%", "%%").replace("group_concat(", "string_agg(")
    return re.sub(r"'[^']*'|\?|(?<!:):([a-z_]+)", place, text).encode()


def _statements(script: str) -> Iterator[str]:
    """Yield the statements that create the tables, with text compared byte by byte and times in double precision."""
    script = re.sub(r"--.*", "", script)
    for name, ours in TYPES.items():
        script = re.sub(rf"\b{name}\b", ours, script)
    yield from filter(str.strip, script.split(";"))


def _key(name: str) -> int:
    """Return the number of an advisory lock."""
    return int.from_bytes(hashlib.blake2s(name.encode(), digest_size=8).digest(), "big", signed=True)


def _read_signatures(session: _Session) -> dict[str, _Signature]:
    """Return the signatures of all mirrors by namespace; one without is not a bridge's."""
    found = {}
    for row in session.rows(NAMESPACES):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            about = json.loads(row["about"] or "")
            found[row["name"]] = _Signature(dict(about["settings"]), float(about["used_at"]))
    return found


def _close(session: _Session | None) -> None:
    if session:
        session.close()


def _is_damage(error: Exception) -> bool:
    return isinstance(error, Damage) or (isinstance(error, psycopg.Error) and error.sqlstate in DAMAGED)


def _is_cut_off(error: Exception) -> bool:
    """Return whether the task may be done again: it depends on nothing but what it reads."""
    if isinstance(error, _NotConnected):
        return not error.is_refused
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate in CUT_OFF or error.sqlstate.startswith("08")


def _store_error(error: Exception) -> StoreError:
    """Return the error in words that hold no host, user or datum."""
    if isinstance(error, _NotConnected):
        return error
    if not isinstance(error, psycopg.Error):
        return StoreError(f"the database cannot be used: {error}")
    state = error.sqlstate
    meaning = WORDS.get(state, f"SQLSTATE {state}") if state else "the connection was lost"
    failure = StoreError(f"the database cannot be used: {meaning}")
    if state == DISK_FULL:
        failure.cause = Cause.DISK_FULL
    return failure
