"""Products and the lines of a cart; money is whole cents."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

REMOVED = "REMOVED"


class Product(NamedTuple):
    """A product that the shops sell."""

    name: str
    barcode: str
    sku: str
    price: int
    tax_percent: int


class Line(NamedTuple):
    """A product in a cart."""

    product: Product
    quantity: int
    status: str = "ORIGINAL"
    externally_added: bool = False

    @property
    def total(self) -> int:
        """Return the gross price of the line."""
        return self.product.price * self.quantity

    @property
    def tax(self) -> int:
        """Return the tax inside the gross price."""
        percent = self.product.tax_percent
        return round(self.total * percent / (100 + percent))


def sums(lines: Iterable[Line]) -> tuple[int, int]:
    """Return what the lines cost and the tax in it; removed lines cost nothing."""
    charged = [line for line in lines if line.status != REMOVED]
    return sum(line.total for line in charged), sum(line.tax for line in charged)


def reduced(lines: Sequence[Line], quantities: Mapping[str, int]) -> tuple[Line, ...]:
    """Return the lines with only so many left of these products; what is taken back is a line marked as removed.

    Where a product has several lines, its last one counts.
    """
    pending, result = dict(quantities), []
    for line in reversed(lines):
        left = line.quantity if line.status == REMOVED else pending.pop(line.product.name, line.quantity)
        if left < line.quantity:
            result.append(line._replace(quantity=line.quantity - left, status=REMOVED))
        if left:
            result.append(line._replace(quantity=left))
    return tuple(reversed(result))
