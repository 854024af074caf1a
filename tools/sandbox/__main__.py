"""Starts a sandbox alone: `python -m tools.sandbox --help`."""

import argparse
import signal
import threading

from tools.sandbox import Sandbox


def main() -> None:
    """Serve a sandbox until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A sandbox AiFi with lifelike orders.")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--orders", type=int, default=400, help="orders at the start")
    parser.add_argument("--days", type=float, default=3.0, help="days over which they spread")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--live", action="store_true", help="let orders come and change by themselves")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between checkouts, about")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each answer takes")
    parser.add_argument("--updated-filter", default="honoured", help="honoured, ignored or refused")
    parser.add_argument("--webhook-url", help="push webhooks to this URL")
    parser.add_argument("--webhook-secret", default="sandbox-webhook-secret")
    options = parser.parse_args()

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    sandbox = Sandbox(
        seed=options.seed,
        latency_seconds=options.latency,
        updated_filter=options.updated_filter,
        webhook_url=options.webhook_url,
        webhook_secret=options.webhook_secret,
    )
    sandbox.pushes = options.webhook_url is not None
    sandbox.seed_orders(options.orders, days=options.days)
    with sandbox.start(options.port):
        if options.live:
            sandbox.live(options.every)
        print(f"Sandbox AiFi with {options.orders} orders at {sandbox.base_url}", flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
