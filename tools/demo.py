"""The bridge at work, with a sandbox AiFi that lives on by itself. Run by `make demo`; Ctrl-C ends both.

`PORT` is where the bridge listens; without it, any free port.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from config import MAX_PORT
from tools.harness import PROJECT, START_SECONDS, STOP_SECONDS, Bridge, free_port, wait_until

AIDE_KEY = "aide-demo-key"
WEBHOOK_SECRET = "aifi-demo-secret"
ORDERS = 400
DAYS = 3
LAST_LINES = 20

MESSAGE = """
The bridge is at work. AiFi is a sandbox: {orders} orders of the last {days} days, and a new one every few seconds.

  Status page  {url}/ (any name, the Aide key as password)
  Bridge       {url}
  Aide key     {key}

To paste into another terminal, as a whole or line by line: the three newest orders, as Aide polls them; one order; a
checkout's webhook, as AiFi pushes it; and the newest order again, which is that checkout.

{commands}

Ctrl-C ends the demo.
"""
COMMANDS = """\
BRIDGE={url} KEY={key} SECRET={secret}
curl -s -H "X-API-Key: $KEY" "$BRIDGE/v1/latest_orders?page_size=3" | python3 -m json.tool
curl -s -H "X-API-Key: $KEY" "$BRIDGE/v1/orders/{order_id}" | python3 -m json.tool
curl -s -H "Authorization: Bearer $SECRET" -H 'Content-Type: application/json' -d '{webhook}' "$BRIDGE/webhooks/aifi"
curl -s -H "X-API-Key: $KEY" "$BRIDGE/v1/latest_orders?page_size=1" | python3 -m json.tool"""


@dataclass
class RunningSandbox:
    """A sandbox AiFi in a process of its own."""

    base_url: str
    process: subprocess.Popen
    log_path: Path
    access_token: str = "sandbox-token"  # the sandbox's default


@contextmanager
def run_sandbox(folder: Path, webhook_url: str) -> Iterator[RunningSandbox]:
    """Start a sandbox that pushes to a URL; end it on leaving."""
    log_path = folder / "sandbox.log"
    options = {
        "--port": free_port(),
        "--orders": ORDERS,
        "--days": DAYS,
        "--webhook-url": webhook_url,
        "--webhook-secret": WEBHOOK_SECRET,
    }
    arguments = [str(word) for option in options.items() for word in option]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.sandbox", "--live", *arguments],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches this process only, which ends the others in order
        )
    try:
        yield RunningSandbox(wait_for_address(process, log_path), process, log_path)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for_address(process: subprocess.Popen, log_path: Path) -> str:
    """Return the URL at the end of the line that the sandbox prints once it serves."""

    def first_line() -> str | None:
        line, end, _ = log_path.read_text().partition("\n")
        if not end and process.poll() is not None:
            raise RuntimeError(f"The sandbox ended with status {process.returncode}:\n{last_lines(log_path)}")
        return line if end else None

    line = wait_until(first_line, START_SECONDS, "the sandbox")
    address = line.split()[-1]
    if not address.startswith("http"):
        raise RuntimeError(f"The sandbox did not start:\n{last_lines(log_path)}")
    return address


def last_lines(path: Path) -> str:
    """Return the end of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-LAST_LINES:])


def example_webhook() -> str:
    """Return a checkout of this moment as AiFi would push it."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    body = {
        "orderId": 900001,
        "status": "completed",
        "storeId": 1,
        "timeOfOrigin": now,
        "timeOfIssue": now,
        "totalPrice": "5.00",
        "totalTax": "0.80",
        "subtotalPrice": "4.20",
        "cart": [{"productSnapshot": {"name": "Espresso", "barcode": "4006381333931", "price": "2.50"}, "quantity": 2}],
        "payment": {"status": "success", "paymentProvider": "demo"},
    }
    return json.dumps(body)


def message(bridge: Bridge) -> str:
    """Return what to tell: the address, the key, and commands that can be pasted."""
    newest = bridge.get("/v1/latest_orders", key=AIDE_KEY, page_size=1).json()["orders"][0]
    commands = COMMANDS.format(
        url=bridge.url, key=AIDE_KEY, secret=WEBHOOK_SECRET, order_id=newest["id"], webhook=example_webhook()
    )
    return MESSAGE.format(orders=ORDERS, days=DAYS, url=bridge.url, key=AIDE_KEY, commands=commands)


def watch(sandbox: RunningSandbox, bridge: Bridge) -> str:
    """Return which of the two ended first, and why; the demo goes on until then."""
    processes = [
        ("sandbox", sandbox.process, sandbox.log_path),
        ("bridge", bridge.process, bridge.log_path),
    ]
    while True:
        for name, process, log_path in processes:
            if process.poll() is not None:
                return f"The {name} ended with status {process.returncode}. Its last lines:\n{last_lines(log_path)}"
        time.sleep(0.5)


def main() -> int:
    """Run the demo; return the exit status."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    text = os.environ.get("PORT", "").strip()
    if text and not (re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) <= MAX_PORT):
        print(f"PORT is {text!r}: set it to a whole number from 1 to {MAX_PORT}, or leave it out.", file=sys.stderr)
        return 1
    port = int(text or free_port())
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            print(f"Port {port} is taken: set PORT to another.", file=sys.stderr)
            return 1
    try:
        with (
            tempfile.TemporaryDirectory(prefix="bridge-demo-") as folder,
            run_sandbox(Path(folder), f"http://127.0.0.1:{port}/webhooks/aifi") as sandbox,
            Bridge(
                sandbox,
                Path(folder),
                PORT=port,
                AIDE_API_KEY=AIDE_KEY,
                AIFI_WEBHOOK_SECRET=WEBHOOK_SECRET,
                REFRESH_SECONDS=None,
                REFRESH_WAIT_SECONDS=None,
            ) as bridge,
        ):
            print(message(bridge), flush=True)
            print(watch(sandbox, bridge), file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("\nThe demo has ended.")
        return 0
    except (RuntimeError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
