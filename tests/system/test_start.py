"""How the bridge starts: its settings, and that nothing happens before it is asked."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from app import create_app
from config import VARIABLES
from tests.support import read
from tests.system.support import HEALTH, page
from tools.harness import PROJECT

# --- before anybody asks


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listen where AiFi would be, and let nobody in."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.usefixtures("same_log")
def test_create_app_opens_no_file_and_no_connection(tmp_path, listener):
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    create_app(
        read(
            AIFI_BASE_URL=address,
            AIFI_TOKEN_URL=address,
            PAYMENT_WEBHOOK_URL=address,
            DATABASE_PATH=str(tmp_path / "orders.db"),
        )
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_importing_a_module_starts_nothing(tmp_path):
    code = "import app, aifi, store, threading, os; print(threading.active_count(), os.listdir('.'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("1 []\n", "")


# --- configuration

NO_TOKEN = {"AIFI_ACCESS_TOKEN": None}


@pytest.mark.parametrize(
    ("environment", "named_variables"),
    [
        ({"AIDE_API_KEY": None}, ["AIDE_API_KEY"]),
        ({"AIDE_API_KEY": ""}, ["AIDE_API_KEY"]),
        ({"AIDE_API_KEY": " , "}, ["AIDE_API_KEY"]),
        (NO_TOKEN, ["AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET"]),
        ({"AIFI_ACCESS_TOKEN": " "}, ["AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET"]),
        ({**NO_TOKEN, "AIFI_CLIENT_ID": "id"}, ["AIFI_CLIENT_SECRET"]),
        ({**NO_TOKEN, "AIFI_CLIENT_SECRET": "secret"}, ["AIFI_CLIENT_ID"]),
        ({**NO_TOKEN, "AIDE_API_KEY": None}, ["AIDE_API_KEY", "AIFI_ACCESS_TOKEN"]),
        ({"AIFI_BASE_URL": "aifi", "REFRESH_SECONDS": "soon"}, ["AIFI_BASE_URL", "REFRESH_SECONDS"]),
        ({"AIFI_TOKEN_URL": "ftp://auth"}, ["AIFI_TOKEN_URL"]),
        ({"PAYMENT_WEBHOOK_URL": "till"}, ["PAYMENT_WEBHOOK_URL"]),
        ({"REFRESH_SECONDS": "-1"}, ["REFRESH_SECONDS"]),
        ({"REFRESH_SECONDS": "nan"}, ["REFRESH_SECONDS"]),
        ({"REFRESH_WAIT_SECONDS": "60"}, ["REFRESH_WAIT_SECONDS"]),
        ({"AIFI_STORE_ID": "berlin"}, ["AIFI_STORE_ID"]),
        ({"AIFI_CURRENCY": "€"}, ["AIFI_CURRENCY"]),
        ({"LOG_LEVEL": "LOUD"}, ["LOG_LEVEL"]),
        ({"PORT": "http"}, ["PORT"]),
        ({"WEB_CONCURRENCY": "0"}, ["WEB_CONCURRENCY"]),
    ],
    ids=str,
)
def test_with_a_setting_missing_or_malformed_the_process_ends_and_names_it(start_bridge, environment, named_variables):
    bridge = start_bridge(wait=False, **environment)
    assert bridge.wait(20) != 0
    for name in named_variables:
        assert name in bridge.log()
    assert "Traceback" not in bridge.log()
    with pytest.raises(requests.ConnectionError):
        bridge.get(HEALTH)


def test_empty_variables_count_as_unset(sandbox, start_bridge):
    sandbox.seed_orders(3)
    names = VARIABLES.keys() - {"AIDE_API_KEY", "AIFI_ACCESS_TOKEN", "AIFI_BASE_URL", "DATABASE_PATH", "PORT"}
    assert len(page(start_bridge(**dict.fromkeys(names, "")))["orders"]) == 3
