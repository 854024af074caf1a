"""The bridge as its operator runs it: the Procfile's command, a real port, a real disk, real signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psutil
import requests

PROJECT = Path(__file__).resolve().parent.parent
AIDE_KEY = "test-key"
WEBHOOK_SECRET = "hook-secret"
HTTP_TIMEOUT_SECONDS = 30
START_SECONDS = 20
STOP_SECONDS = 35  # more than the platforms give: a stop that takes 30 s is the test's to notice

T = TypeVar("T")


class AiFi(Protocol):
    """What the bridge must know of an AiFi, which the sandbox offers."""

    base_url: str
    access_token: str


def procfile_command(process: str = "web") -> str:
    """Return the shell command that the Procfile gives to a process type."""
    for line in (PROJECT / "Procfile").read_text().splitlines():
        name, colon, command = line.partition(":")
        if colon and name == process:
            return command.strip()
    raise LookupError(f"the Procfile has no process {process!r}")


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], T], seconds: float = 10, what: str = "the condition") -> T:
    """Return the condition's first true value; raise `TimeoutError` naming `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.02)
    return value


class Bridge:
    """One bridge process, its clean environment and a client for it.

    `environment` overrides the defaults by variable name; `None` removes a variable. `folder` takes the log, and the
    database if `place` names no other: a file's path, or a server's address. `code` is the folder with the product,
    `command` what starts it if not the Procfile's command. A bridge that was ended can be started again: same port,
    same disk. The client's methods may be called from several threads.
    """

    def __init__(
        self,
        aifi: AiFi,
        folder: Path,
        *,
        place: str = "",
        code: Path = PROJECT,
        command: str | None = None,
        **environment: object,
    ):
        defaults = {
            "AIDE_API_KEY": AIDE_KEY,
            "AIFI_ACCESS_TOKEN": aifi.access_token,
            "AIFI_BASE_URL": aifi.base_url,
            "AIFI_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "DATABASE_URL" if "://" in place else "DATABASE_PATH": place or folder / "orders.db",
            "PORT": free_port(),
            "REFRESH_SECONDS": 1,
            "REFRESH_WAIT_SECONDS": 3,
            "WEB_CONCURRENCY": 1,
        }
        # What every platform provides, and nothing else of the developer's own environment.
        system = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "HOME": folder,
            "LANG": "C.UTF-8",
        }
        settings = {**system, **defaults, **environment}
        self.environment = {name: str(value) for name, value in settings.items() if value is not None}
        self.code = code
        self.command = command or procfile_command()
        self.port = int(port) if (port := self.environment.get("PORT", "8000")).isdigit() else 0
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = folder / f"bridge-{self.port}.log"
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "Bridge":
        """Start the bridge."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """End the bridge, whatever state it is in."""
        self.stop()

    def start(self, *, wait: bool = True) -> "Bridge":
        """Run the command, as a platform does; with `wait`, return once `/healthz` answers."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {self.command}"],  # the shell makes way, as Heroku's bash does
                cwd=self.code,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if wait:
            wait_until(self.answers, START_SECONDS, "an answer of the bridge's /healthz")
        return self

    def answers(self) -> bool:
        """Tell whether `/healthz` answers; raise `RuntimeError` with the log if the process has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the bridge ended with status {self.process.returncode}:\n{self.log()}")
        try:
            return self.get("/healthz", key=None).ok
        except requests.ConnectionError:
            return False

    def log(self) -> str:
        """Return all that the bridge has printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --- as Aide and AiFi

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one request on a connection of its own, past any proxy of the developer's machine."""
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, **{"timeout": HTTP_TIMEOUT_SECONDS, **options})

    def get(self, path: str, key: str | None = AIDE_KEY, **params: object) -> requests.Response:
        """Get a path as Aide does; `key=None` sends no key."""
        return self.request("GET", path, params=params, headers={"X-API-Key": key} if key is not None else {})

    def orders(self, **params: object) -> dict:
        """Return one page of the latest orders; anything but a 200 is an `AssertionError`."""
        response = self.get("/v1/latest_orders", **params)
        assert response.status_code == 200, f"{response.status_code}: {response.text}"
        return response.json()

    def walk(self, page_size: int = 50) -> Iterator[dict]:
        """Yield the pages of the latest orders, the newest first; a token that comes twice is an `AssertionError`."""
        seen: set[str] = set()
        page = self.orders(page_size=page_size)
        yield page
        while token := page.get("next_page_token"):
            assert token not in seen, f"the page token {token!r} came twice: the walk would never end"
            seen.add(token)
            page = self.orders(page_size=page_size, page_token=token)
            yield page

    def webhook(self, body: Mapping | bytes, secret: str | None = WEBHOOK_SECRET) -> requests.Response:
        """Push a webhook as AiFi does: a mapping is sent as JSON, bytes as they are; `secret=None` sends none."""
        headers = {"Content-Type": "application/json"}
        if secret is not None:
            headers["Authorization"] = f"Bearer {secret}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", "/webhooks/aifi", data=data, headers=headers)

    # --- as the platform

    def worker_pids(self) -> list[int]:
        """Return the process ids of the living gunicorn workers, the oldest first."""
        workers = psutil.Process(self.process.pid).children()
        return [worker.pid for worker in workers if worker.status() != psutil.STATUS_ZOMBIE]

    def kill_worker(self, pid: int | None = None) -> int:
        """Kill a worker, the oldest if none is named, with SIGKILL; return its process id."""
        pid = pid or self.worker_pids()[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_for_workers(self, count: int, without: int | None = None) -> list[int]:
        """Return the ids of the workers once there are so many, and `without` is none of them."""

        def complete() -> list[int] | None:
            pids = self.worker_pids()
            return pids if len(pids) == count and without not in pids else None

        return wait_until(complete, what=f"{count} workers")

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Return the exit status once the bridge has ended by itself, at most so many seconds from now."""
        return self.process.wait(seconds)

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """Send SIGTERM to every process, as Heroku does; return the exit status."""
        self._signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """Send SIGKILL to every process, as a platform does that has lost its patience."""
        self._signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """End the bridge if it runs: kindly, then not; its workers too if only the master has died."""
        if self.process is None:
            return
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:  # all of them have ended
            return
