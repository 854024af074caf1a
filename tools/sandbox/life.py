"""Life in the shops: orders that come and change by themselves."""

import collections
import random
import threading

from tools.sandbox.orders import OPEN_STATUSES
from tools.sandbox.shop import Shop


class Life:
    """Lets checkouts, payments, contests and reviews happen in a shop."""

    def __init__(self, shop: Shop):
        self._shop = shop
        # Its own, so that the orders of a seed do not depend on how long the shop has lived.
        self._dice = random.Random(f"life {shop.seed}")

    def run(self, every_seconds: float, stopping: threading.Event) -> None:
        """Check somebody out about so often and move the open orders on, until the sandbox stops."""
        shop, dice = self._shop, self._dice
        ids = shop.order_ids()
        in_play = [order_id for order_id in ids if shop.orders[order_id].status in OPEN_STATUSES]
        settled = collections.deque(ids[-200:], maxlen=200)
        while not stopping.wait(every_seconds * dice.uniform(0.5, 1.5)):
            in_play.append(shop.checkout())
            if settled and dice.random() < 0.1:
                in_play.extend(self._dispute(dice.choice(settled)))
            for order_id in list(in_play):
                if dice.random() < 0.4 and not self._move_on(order_id):
                    in_play.remove(order_id)
                    settled.append(order_id)

    def _dispute(self, order_id: int) -> list[int]:
        """Contest a paid order; return the ids of the orders that this puts into play."""
        order = self._shop.orders.get(order_id)
        if order is None or order.status != "paid":
            return []
        self._shop.contest(order_id)
        return [order_id]

    def _move_on(self, order_id: int) -> bool:
        """Take an order one step further; return whether it is still open."""
        shop = self._shop
        if order_id not in shop.orders:
            return False
        status = shop.orders[order_id].status
        if status in ("draft", "completed_so_far"):
            shop.complete(order_id)
        elif status == "paymentProcessing":
            (shop.fail_payment if self._dice.random() < 0.04 else shop.pay)(order_id)
        elif status == "contested":
            shop.review(order_id, refunded=self._dice.random() < 0.7)
        return shop.orders[order_id].status in OPEN_STATUSES
