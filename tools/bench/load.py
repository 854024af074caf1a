"""Load: requests as fast as a server answers them, over connections that stay open.

`wrk` makes the load where it is installed, else a few processes of Python with bare sockets.
"""

import json
import multiprocessing
import re
import resource
import selectors
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

CONNECTIONS, PROCESSES = 8, 2
BEFORE = 64  # by so many numbers a `{before}` stays behind
GRACE_SECONDS = 10


@dataclass(frozen=True)
class Target:
    """What to ask of which local port.

    The k-th request takes the next of `bodies`; in it and in the path `{n}` stands for a number that comes once in
    `count` requests, `{before}` for one that was `{n}` a little earlier.
    """

    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    bodies: tuple[str, ...] = ()
    first: int = 0
    count: int = 1
    stride: int = 1

    @property
    def method(self) -> str:
        """POST where there is something to send."""
        return "POST" if self.bodies else "GET"


@dataclass(frozen=True)
class Run:
    """What came of a load: answers, seconds, and the seconds of CPU that a process of the generator took."""

    answers: int
    seconds: float
    generator_seconds: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds

    @property
    def generator_share(self) -> float:
        """How busy the generator was; near 1 it may have been the bottleneck."""
        return self.generator_seconds / self.seconds


class LoadError(Exception):
    """The server answered something else than 200, or not at all: its rate means nothing."""


def generator() -> str:
    """Return the name of the generator that `run` uses here."""
    return "wrk" if shutil.which("wrk") else f"{PROCESSES} processes of Python"


def run(target: Target, seconds: int) -> Run:
    """Load the target for so long.

    :raises LoadError: an answer was no 200, or there was none
    """
    return run_wrk(target, seconds) if shutil.which("wrk") else run_python(target, seconds)


# --- wrk ---


def run_wrk(target: Target, seconds: int) -> Run:
    """Load the target with wrk, which makes each request by a script of ours."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "requests.lua")
        script.write_text(_lua(target))
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "-s", str(script)]
        cpu = cpu_of_children()
        done = subprocess.run(
            [*command, f"http://127.0.0.1:{target.port}"],
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
        )
        cpu = cpu_of_children() - cpu
    counts = re.search(r"(\d+) requests in ([\d.]+)(m?s)", done.stdout)
    if done.returncode or not counts or re.search(r"Non-2xx|Socket errors", done.stdout):
        raise LoadError(f"{target.method} {target.path}: {done.stdout}{done.stderr}")
    scale = 0.001 if counts[3] == "ms" else 1
    return Run(int(counts[1]), float(counts[2]) * scale, cpu)


def _lua(target: Target) -> str:
    bodies = ", ".join(f"[==[{body}]==]" for body in target.bodies)
    headers = ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in target.headers.items())
    return f"""
local bodies, headers, k = {{{bodies}}}, {{{headers}}}, 0
local function fill(text, n)
  return (text:gsub("{{n}}", string.format("%d", n)):gsub("{{before}}", string.format("%d", n - {BEFORE})))
end
function request()
  local n = {target.first} + math.floor(k / {max(1, len(target.bodies))}) * {target.stride} % {target.count}
  local body = bodies[k % #bodies + 1]
  k = k + 1
  return wrk.format("{target.method}", fill("{target.path}", n), headers, body and fill(body, n))
end
"""


def cpu_of_children() -> float:
    """Return the seconds of CPU of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# --- Python ---


def run_python(target: Target, seconds: int) -> Run:
    """Load the target with processes of Python; each has its own connections and its own stretch of numbers."""
    context = multiprocessing.get_context("fork")
    with context.Pool(PROCESSES) as pool:
        jobs = [(target, process, seconds) for process in range(PROCESSES)]
        results = pool.starmap_async(_drive, jobs).get(timeout=seconds + GRACE_SECONDS)
    answers, cpu = (list(column) for column in zip(*results, strict=True))
    return Run(sum(answers), seconds, max(cpu))


def _drive(target: Target, process: int, seconds: int) -> tuple[int, float]:
    """Keep a few connections busy; return how many answers came, and the seconds of CPU that it took."""
    requests, answers, cpu = _requests(target, process), 0, time.process_time()
    with selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS // PROCESSES):
            connection = socket.create_connection(("127.0.0.1", target.port), timeout=GRACE_SECONDS)
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(next(requests))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in selector.select(timeout=0.1):
                _read_answer(key.fileobj, target)
                answers += 1
                key.fileobj.sendall(next(requests))
        for key in list(selector.get_map().values()):
            key.fileobj.close()
    return answers, time.process_time() - cpu


def _requests(target: Target, process: int) -> Iterator[bytes]:
    """Yield the target's requests without end."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
    k = process * (target.count // PROCESSES) * max(1, len(target.bodies))
    while True:
        n = target.first + k // max(1, len(target.bodies)) * target.stride % target.count
        body = _fill(target.bodies[k % len(target.bodies)], n) if target.bodies else ""
        start = f"{target.method} {_fill(target.path, n)} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}"
        yield f"{start}Content-Length: {len(body.encode())}\r\n\r\n{body}".encode()
        k += 1


def _fill(text: str, n: int) -> str:
    return text.replace("{n}", str(n)).replace("{before}", str(n - BEFORE))


def _read_answer(connection: socket.socket, target: Target) -> None:
    """Read one whole answer, which says how long it is, or comes in chunks."""
    data = connection.recv(65536)
    while data and b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    is_chunked = b"chunked" in head
    if not (head.startswith(b"HTTP/1.1 200 ") and (length or is_chunked)):
        raise LoadError(f"{target.method} {target.path}: {data[:500]!r}")
    while is_chunked and not body.endswith(b"\r\n0\r\n\r\n"):
        chunk = connection.recv(65536)
        if not chunk:
            raise LoadError(f"{target.method} {target.path}: the answer broke off")
        body += chunk
    missing = 0 if is_chunked else int(length[1]) - len(body)
    while missing > 0:
        chunk = connection.recv(65536)
        if not chunk:
            raise LoadError(f"{target.method} {target.path}: the answer broke off")
        missing -= len(chunk)
