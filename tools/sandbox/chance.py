"""What chance decides: when shoppers come, what they take, and what becomes of their orders."""

import random
from collections.abc import Sequence

from tools.sandbox.carts import Line, Product
from tools.sandbox.orders import Order
from tools.sandbox.times import DAY_MS, HOUR_MS, MINUTE_MS

# Shoppers by the hour of the day: hardly anybody at night, peaks before work, at lunch, and after work.
SHOPPERS_BY_HOUR = (1, 0, 0, 0, 1, 6, 30, 70, 80, 45, 40, 60, 100, 90, 50, 40, 50, 80, 95, 70, 40, 25, 12, 4)


def draft_times(dice: random.Random, count: int, now: int, days: float) -> list[int]:
    """Return `count` rising moments of the last `days`, more of them in busy hours."""
    first = now - int(days * DAY_MS)
    hours = range(first - first % HOUR_MS, now + 1, HOUR_MS)
    spans = [(max(first, hour), min(now, hour + HOUR_MS)) for hour in hours]
    weights = [(end - start + 1) * (SHOPPERS_BY_HOUR[start // HOUR_MS % 24] or 0.1) for start, end in spans]
    return sorted(dice.randint(*span) for span in dice.choices(spans, weights, k=count))


def random_lines(dice: random.Random, products: Sequence[Product]) -> tuple[Line, ...]:
    """Return the lines of a random cart."""
    taken = dice.sample(products, dice.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 7)))
    return tuple(
        Line(product, dice.choice((1, 1, 1, 1, 2, 3)), externally_added=dice.random() < 0.02) for product in taken
    )


def settle(dice: random.Random, order: Order, now: int) -> Order:
    """Return what becomes of a draft in the end, as far as it is known now."""
    completed_at = min(now, order.drafted_at + dice.randrange(20_000, dice.choice((5, 5, 15, 55)) * MINUTE_MS))
    order = order.completed(completed_at)
    paid_at = min(now, completed_at + dice.randrange(2_000, 4 * MINUTE_MS))
    if dice.random() < 0.01:
        return order.unpaid(paid_at)
    order = order.paid(paid_at)
    contested_at = paid_at + dice.randrange(HOUR_MS, 2 * DAY_MS)
    if dice.random() > 0.03 or contested_at > now:
        return order
    reviewed_at = contested_at + dice.randrange(HOUR_MS, DAY_MS)
    order = order.contested(contested_at)
    return order if reviewed_at > now else order.reviewed(reviewed_at, accept=None if dice.random() < 0.7 else ())


def leave_open(dice: random.Random, order: Order, now: int) -> Order:
    """Return what becomes of a draft that stays open."""
    at = min(now, order.drafted_at + dice.randrange(20_000, 10 * MINUTE_MS))
    status = dice.choice(("draft", "completed_so_far", "paymentProcessing"))
    if status == "paymentProcessing":
        return order.completed(at)
    return order._replace(status=status, updated_at=order.updated_at if status == "draft" else at)
