"""A sandbox AiFi: the Orders API and the webhooks of AiFi over a seeded, lifelike data set.

    with Sandbox(seed=7) as sandbox:
        sandbox.seed_orders(400, days=3)
        order_id = sandbox.checkout()
        requests.get(f"{sandbox.base_url}/orders", headers={"Authorization": "Bearer sandbox-token"})

It serves real HTTP on 127.0.0.1. What AiFi documents, it does as documented: filters, pages, the limit of 20
requests a second, tokens, versions, webhooks. What AiFi leaves open is a setting, and what can go wrong on the way
is a fault to `inject`. All settings are plain attributes and may be changed while it serves.

Inside, times are whole milliseconds since 1970 (UTC) by the sandbox's own clock, and money is whole cents. Methods take
a moment as seconds since 1970, as a `datetime`, or as ISO 8601 text.

    python -m tools.sandbox --port 8001 --orders 400 --days 3 --live
"""

from tools.sandbox.sandbox import Sandbox

__all__ = ["Sandbox"]
