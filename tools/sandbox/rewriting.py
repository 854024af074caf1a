"""Other ways to write an order, which an AiFi might have and which are hard or impossible to read."""

import uuid
from collections.abc import Callable

from tools.sandbox.answers import Json
from tools.sandbox.times import milliseconds


def _rename_total(order: Json) -> None:
    order["grossTotal"] = order.pop("totalPrice", None)


def _with_uuid(order: Json) -> None:
    order["id"] = str(uuid.UUID(int=order["id"]))


def _with_long_id(order: Json) -> None:
    order["id"] += 9 * 10**18


def _times(write: Callable[[str], object]) -> Callable[[Json], None]:
    """Return what writes all times of an order in another way."""

    def rewrite(values: Json) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                rewrite(value)
            elif name.endswith("At") and isinstance(value, str):
                values[name] = write(value)

    return rewrite


REWRITINGS: dict[str, Callable[[Json], None]] = {
    "renamed_total": _rename_total,
    "uuid_ids": _with_uuid,
    "long_ids": _with_long_id,
    "epoch_times": _times(lambda text: round(milliseconds(text))),
    "minute_times": _times(lambda text: f"{text[:16]}Z"),
    "short_offsets": _times(lambda text: text.replace("Z", "+00")),
    "lower_case_times": _times(str.lower),
}
