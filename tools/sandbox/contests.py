"""A shopper's dispute about an order; money is whole cents, times are whole milliseconds since 1970."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tools.sandbox.carts import REMOVED, Line, Product

MESSAGE_LENGTH = 500


class ContestItem(NamedTuple):
    """A disputed product: the quantity charged, the one that the shopper says is right, and the one decided on."""

    product: Product
    original: int
    contested: int
    reviewed: int | None = None


class Contest(NamedTuple):
    """A dispute; its review decides on the total."""

    message: str
    items: tuple[ContestItem, ...]
    order_version: int
    opened_at: int
    updated_at: int
    original_total: int
    contested_total: int
    reviewed_total: int | None = None

    @property
    def status(self) -> str:
        """Return AiFi's word for how it stands."""
        return "contested" if self.reviewed_total is None else "reviewed"

    def accepted(self, accept: Collection[str] | None) -> dict[str, int]:
        """Return {product's name: quantity} of the items that a review accepts: these, or all; raise ValueError."""
        claims = {item.product.name: item.contested for item in self.items}
        names = list(claims) if accept is None else list(accept)
        for name in names:
            if name not in claims:
                raise ValueError(f"{name!r} is not disputed, only {', '.join(map(repr, claims))}")
        return {name: claims[name] for name in names}

    def settled(self, at: int, total: int, quantities: Mapping[str, int]) -> "Contest":
        """Return the contest after its review, which left so many of these products and all of the others."""
        items = tuple(item._replace(reviewed=quantities.get(item.product.name, item.original)) for item in self.items)
        return self._replace(items=items, updated_at=at, reviewed_total=total)


def disputed_items(lines: Sequence[Line], claims: Mapping[str, int] | None) -> tuple[ContestItem, ...]:
    """Return the items of a dispute: {product's name: quantity that the shopper says is right}.

    None: the shopper did not take the last line. Raises ValueError for a claim that does not fit the lines.
    """
    charged = {line.product.name: line for line in lines if line.status != REMOVED}
    if claims is None:
        claims = dict.fromkeys(list(charged)[-1:], 0)
    for name, quantity in claims.items():
        if name not in charged:
            raise ValueError(f"{name!r} is not in the cart, only {', '.join(map(repr, charged))}")
        if not 0 <= quantity < charged[name].quantity:
            raise ValueError(f"the quantity of {name!r} is {quantity}, but must be below {charged[name].quantity}")
    return tuple(
        ContestItem(charged[name].product, charged[name].quantity, quantity) for name, quantity in claims.items()
    )


def default_message(items: Sequence[ContestItem]) -> str:
    """Return what a shopper may say of such a dispute."""
    names = " and ".join(item.product.name for item in items) or "this"
    return f"I did not take {names}."[:MESSAGE_LENGTH]
