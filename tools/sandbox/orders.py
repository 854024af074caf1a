"""An order, its lines and its customer as they are at one moment, and what each event makes of an order.

Money is whole cents, times are whole milliseconds since 1970.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

STATUSES = ("draft", "completed_so_far", "paymentProcessing", "paid", "unpaid", "contested", "reviewed")
OPEN_STATUSES = ("draft", "completed_so_far", "paymentProcessing", "contested")
ROLES = ("customer", "employee", "tester", "untracked", "unknown")
# An order's row exists shortly before its draft is dated, so `createdAt` is never equal to `draftCreatedAt`.
CREATED_BEFORE_DRAFT_MS = 350


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


class Customer(NamedTuple):
    """A shopper; one who is anonymous has only an id and a role."""

    id: int
    external_id: str | None = None
    role: str = "unknown"
    metadata: dict[str, Any] | None = None
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    phone: str | None = None


class Order(NamedTuple):
    """One order as it is at one moment; each change makes a new one."""

    id: int
    store_id: int
    customer_id: int
    role: str
    session_id: str
    entered_at: int
    exited_at: int
    visitors: int
    lines: tuple[Line, ...]
    total: int
    tax: int
    drafted_at: int
    updated_at: int
    status: str = "draft"
    version: int = 1
    external_id: str | None = None
    completed_at: int | None = None
    paid_at: int | None = None
    payment_status: str = "processing"
    refunded: bool = False
    draft_time_shown: bool = True

    @property
    def created_at(self) -> int:
        """Return when the order's row was made."""
        return self.drafted_at - CREATED_BEFORE_DRAFT_MS

    def completed(self, at: int) -> "Order":
        """Return the order with its final cart, awaiting the payment."""
        return self._replace(status="paymentProcessing", completed_at=at, updated_at=at)

    def paid(self, at: int) -> "Order":
        """Return the order after a payment that succeeded."""
        completed_at = self.completed_at or at
        return self._replace(
            status="paid", payment_status="success", completed_at=completed_at, paid_at=at, updated_at=at
        )

    def unpaid(self, at: int) -> "Order":
        """Return the order after a payment that failed."""
        return self._replace(
            status="unpaid", payment_status="failure", completed_at=self.completed_at or at, updated_at=at
        )

    def contested(self, at: int) -> "Order":
        """Return the order with a dispute opened: a new version."""
        return self._replace(status="contested", version=self.version + 1, updated_at=at)

    def reviewed(self, at: int, refunded: bool = True) -> "Order":
        """Return the order with its dispute settled; a refund takes the last line back."""
        settled = self._replace(status="reviewed", updated_at=at)
        if not (refunded and self.lines):
            return settled
        lines = (*self.lines[:-1], self.lines[-1]._replace(status="REMOVED"))
        total, tax = sums(lines)
        return settled._replace(lines=lines, total=total, tax=tax, refunded=True)

    def corrected(self, at: int, total: int) -> "Order":
        """Return the order with another total and the tax in proportion; the lines stay as they are."""
        tax = round(total * self.tax / self.total) if self.total else 0
        return self._replace(total=total, tax=tax, updated_at=at)


def sums(lines: Iterable[Line]) -> tuple[int, int]:
    """Return what the lines cost and the tax in it; removed lines cost nothing."""
    charged = [line for line in lines if line.status != "REMOVED"]
    return sum(line.total for line in charged), sum(line.tax for line in charged)
