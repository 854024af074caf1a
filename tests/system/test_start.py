"""How the bridge starts: its settings, and that nothing happens before it is asked."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app import create_app
from tests.support import read
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
