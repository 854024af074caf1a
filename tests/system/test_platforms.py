"""The bridge in imitations of the two platforms: their start, their disk, their variables, their router, their end.

Each service is a fresh clone. Heroku runs the Procfile, and puts the code on a disk that is as new at each start, the
database with it. Render runs `startCommand`; here its code folder cannot be written, and the database lies on a disk
that stays. Both choose the port, and send SIGTERM to all processes, and SIGKILL 30 s later.
"""

import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from tests.conftest import BRIDGES
from tests.system.support import walk
from tests.system.test_deploy import HEROKU_ARGUMENTS, RENDER_ARGUMENTS
from tools.harness import AIDE_KEY, PROJECT, WEBHOOK_SECRET, Bridge, wait_until
from tools.sandbox import Sandbox

PATIENCE_SECONDS = 30  # of both platforms, between SIGTERM and SIGKILL
PUBLIC = "bridge.example.com"
ROUTED = {
    "Host": PUBLIC,
    "X-Forwarded-For": "198.51.100.4",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Port": "443",
    "X-Request-Id": "8f1c",
}
COMMON = {"WEB_CONCURRENCY": 2, "FORWARDED_ALLOW_IPS": "*", "PYTHONUNBUFFERED": 1, "PYTHONDONTWRITEBYTECODE": 1}


def clone(target: Path) -> None:
    """Copy what a clone of the working tree would hold."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in filter(None, listing.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)


def as_anybody(command: str) -> str:
    """Return the command such that file permissions bind it: root loses the power to pass them over."""
    return f"setpriv --bounding-set=-all --inh-caps=-all {command}" if os.geteuid() == 0 else command


class Platform:
    """One service on a platform, which may be started again and again."""

    def __init__(self, sandbox: Sandbox, folder: Path, **settings: object):
        self.sandbox = sandbox
        self.folder = folder
        self.code = folder / "code"
        self.settings = settings
        self.bridges: list[Bridge] = []

    def start(self) -> Bridge:
        """Start the service, on another port than before."""
        self.prepare_code()
        environment = {**COMMON, **self.variables(), **self.settings}
        bridge = Bridge(self.sandbox, self.folder, code=self.code, command=as_anybody(self.command()), **environment)
        self.bridges.append(bridge)
        return bridge.start()

    def end(self, number: int) -> None:
        """Send the signal to every process of the service, and wait until all have ended."""
        processes = self.processes()
        for process in processes:
            process.send_signal(number)
        self.bridges[-1].wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(processes, PATIENCE_SECONDS)
        assert alive == []

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the service, none if it has ended."""
        if self.bridges[-1].process.poll() is not None:
            return []
        first = psutil.Process(self.bridges[-1].process.pid)
        return [first, *first.children(recursive=True)]

    def close(self) -> None:
        """End whatever still runs."""
        if self.bridges and self.processes():
            self.end(signal.SIGKILL)

    def prepare_code(self) -> None:
        raise NotImplementedError

    def variables(self) -> dict[str, object]:
        raise NotImplementedError

    def command(self) -> str:
        raise NotImplementedError


class Heroku(Platform):
    """Everything is gone at each start, the database too."""

    def prepare_code(self) -> None:
        shutil.rmtree(self.code, ignore_errors=True)
        clone(self.code)

    def variables(self) -> dict[str, object]:
        return {"DYNO": "web.1", "GUNICORN_CMD_ARGS": HEROKU_ARGUMENTS, "DATABASE_PATH": "orders.db"}

    def command(self) -> str:
        return f"{Path(sys.executable).parent / 'honcho'} --no-prefix --env /dev/null start web"


class Render(Platform):
    """The code cannot be written, and the database stays."""

    def prepare_code(self) -> None:
        if not self.code.exists():
            clone(self.code)
            for path in [self.code, *self.code.rglob("*")]:
                path.chmod(path.stat().st_mode & ~0o222)

    def variables(self) -> dict[str, object]:
        (self.folder / "disk").mkdir(exist_ok=True)
        disk = self.folder / "disk" / "orders.db"
        return {"RENDER": "true", "GUNICORN_CMD_ARGS": RENDER_ARGUMENTS, "DATABASE_PATH": disk}

    def command(self) -> str:
        [service] = yaml.safe_load((self.code / "render.yaml").read_text())["services"]
        return service["startCommand"]

    def close(self) -> None:
        super().close()
        for path in [self.code, *self.code.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.fixture(params=[Heroku, Render])
def platform(request, sandbox, tmp_path) -> Iterator[Callable[..., Platform]]:
    """Make a service on the platform; the settings are environment variables by name."""
    made = []

    def make(**settings: object) -> Platform:
        made.append(request.param(sandbox, tmp_path, **settings))
        request.node.stash.setdefault(BRIDGES, made[-1].bridges)
        return made[-1]

    yield make
    for service in made:
        service.close()


def walked(bridge: Bridge) -> dict[str, str]:
    """Return what tells Aide of a change: `updated_at` by id."""
    return {order["id"]: order["updated_at"] for order in walk(bridge, 100)}


def assert_main_job(bridge: Bridge, sandbox: Sandbox) -> dict[str, str]:
    """Let AiFi sell and Aide ask, by way of the platform's router; return the orders that Aide now knows."""
    paid = sandbox.checkout()
    sandbox.pay(paid)
    # Served before anything newer is: an order that is found later than that gets the time at which it was found.
    wait_until(lambda: str(paid) in walked(bridge), what="the order that was paid")
    pushed = sandbox.checkout()
    sandbox.set_external_id(pushed, None)  # which a webhook does not tell: it would be news when AiFi's list shows it
    body = sandbox.webhook(pushed, time_of_issue=sandbox.order(pushed)["updatedAt"])
    headers = {**ROUTED, "Authorization": f"Bearer {WEBHOOK_SECRET}"}
    assert bridge.request("POST", "/webhooks/aifi", json=body, headers=headers).status_code == 200
    orders = walked(bridge)
    assert sorted(orders) == sorted(map(str, sandbox.order_ids()))
    for order_id, status in ((paid, "paid"), (pushed, "draft")):
        response = bridge.request("GET", f"/v1/orders/{order_id}", headers={**ROUTED, "X-API-Key": AIDE_KEY})
        assert response.json()["status"] == status
    assert bridge.get(f"/v1/customers/{response.json()['customer_id']}").status_code == 200
    return orders


def test_the_main_job_passes_and_after_each_restart_aide_finds_what_it_knew(platform, sandbox):
    sandbox.seed_orders(250, days=2)
    service = platform()
    known = assert_main_job(service.start(), sandbox)
    for number in (signal.SIGTERM, signal.SIGKILL):
        service.end(number)
        bridge = service.start()
        assert walked(bridge) == known, "not the same orders with the same updated_at"
        known = assert_main_job(bridge, sandbox)
    assert len({bridge.port for bridge in service.bridges}) == 3


def test_it_listens_on_the_given_port_with_the_given_number_of_workers(platform):
    service = platform()
    bridge = service.start()

    def listening() -> list[set[int]]:
        return [ports for process in service.processes() if (ports := listening_ports(process))]

    wait_until(lambda: len(listening()) == 3, what="the master and two workers, who inherit its socket")
    assert listening() == [{bridge.port}] * 3


def test_the_level_of_the_log_is_the_operators_choice(platform, sandbox):
    service = platform(LOG_LEVEL="WARNING")
    assert_main_job(service.start(), sandbox)
    service.end(signal.SIGTERM)
    assert re.findall(r"(?:GET|POST) /.*", service.bridges[-1].log()) == []


def listening_ports(process: psutil.Process) -> set[int]:
    sockets = process.net_connections("inet")
    return {socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN}


def connections(service: Platform) -> int:
    """Return how many connections of clients the service has accepted."""
    port = service.bridges[-1].port
    return sum(
        connection.laddr.port == port and connection.status == psutil.CONN_ESTABLISHED
        for process in service.processes()
        for connection in process.net_connections("inet")
    )


def test_every_request_under_way_at_sigterm_is_answered(platform, sandbox):
    sandbox.seed_orders(5)
    service = platform(REFRESH_SECONDS=0, REFRESH_WAIT_SECONDS=10)
    bridge = service.start()
    bridge.orders()
    sandbox.latency_seconds = 1.0
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        polls = [clients.submit(bridge.get, "/v1/latest_orders") for _ in range(8)]
        wait_until(lambda: connections(service) >= 8, what="eight requests under way")
        service.end(signal.SIGTERM)
        assert [poll.result().status_code for poll in polls] == [200] * 8
    with pytest.raises(requests.ConnectionError):
        bridge.get("/healthz")


def test_it_ends_in_time_though_aifi_hangs(platform, sandbox):
    sandbox.seed_orders(5)
    service = platform(REFRESH_SECONDS=0, REFRESH_WAIT_SECONDS=1)
    bridge = service.start()
    bridge.orders()
    sandbox.inject("hang", times=None)
    assert bridge.orders()["orders"]
    service.end(signal.SIGTERM)


def test_behind_the_router_the_page_shows_the_public_address(platform):
    bridge = platform().start()
    page = bridge.request("GET", "/", auth=("operator", AIDE_KEY), headers=ROUTED)
    assert f"https://{PUBLIC}/v1<" in page.text
    assert f"https://{PUBLIC}/webhooks/aifi?token=" in page.text
    forged = {**ROUTED, "X-Forwarded-Proto": "http, https", "X-Forwarded-For": "127.0.0.1, 198.51.100.4"}
    page = bridge.request("GET", "/", auth=("operator", AIDE_KEY), headers=forged)
    assert f"https://{PUBLIC}/v1<" in page.text


@pytest.mark.parametrize("platform", [Render], indirect=True)
def test_nothing_is_written_beside_the_code_nor_can_it_be(platform, sandbox):
    service = platform()
    bridge = service.start()
    before = sorted(service.code.rglob("*"))
    assert_main_job(bridge, sandbox)
    service.end(signal.SIGTERM)
    assert sorted(service.code.rglob("*")) == before
    attempt = subprocess.run(
        ["/bin/sh", "-c", as_anybody("touch x")], cwd=service.code, capture_output=True, check=False
    )
    assert attempt.returncode != 0, "the folder could be written, so this test has shown nothing"


@pytest.mark.parametrize("platform", [Heroku], indirect=True)
def test_the_clone_holds_all_that_the_bridge_needs_and_no_data(platform):
    service = platform()
    service.start()
    names = {path.name for path in service.code.iterdir()}
    assert {"app.py", "aifi.py", "store.py", "Procfile", "requirements.txt", ".python-version"} <= names
    assert not names & {".venv", ".env"}
    assert (service.code / "orders.db").exists(), "Heroku's database is to lie on the disk that is wiped"
