"""An order and its customer as they are at one moment, and what each event makes of an order.

Money is whole cents, times are whole milliseconds since 1970.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from tools.sandbox.carts import Line, reduced, sums
from tools.sandbox.contests import MESSAGE_LENGTH, Contest, default_message, disputed_items

STATUSES = ("draft", "completed_so_far", "paymentProcessing", "paid", "unpaid", "contested", "reviewed")
OPEN_STATUSES = ("draft", "completed_so_far", "paymentProcessing", "contested")
EXTERNAL_STATUSES = ("ok", "failedObtainingPrice", "failedSendingWebhook")
ROLES = ("customer", "employee", "tester", "untracked", "unknown")
# An order's row exists shortly before its draft is dated, so `createdAt` is never equal to `draftCreatedAt`.
CREATED_BEFORE_DRAFT_MS = 350


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
    address: str | None = None


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
    external_status: str = "ok"
    contest: Contest | None = None

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

    def contested(self, at: int, message: str | None = None, claims: Mapping[str, int] | None = None) -> "Order":
        """Return the order with a dispute opened: a new version.

        :param claims: {product's name: quantity that the shopper says is right}; None: the last line was not taken
        """
        if message is not None and len(message) > MESSAGE_LENGTH:
            raise ValueError(f"message has {len(message)} characters, but must have {MESSAGE_LENGTH} or fewer")
        items = disputed_items(self.lines, claims)
        contest = Contest(
            message=default_message(items) if message is None else message,
            items=items,
            order_version=self.version + 1,
            opened_at=at,
            updated_at=at,
            original_total=self.total,
            contested_total=self._reduced({item.product.name: item.contested for item in items}).total,
        )
        return self._replace(status="contested", version=self.version + 1, updated_at=at, contest=contest)

    def reviewed(self, at: int, accept: Collection[str] | None = None) -> "Order":
        """Return the order with its dispute settled; what is accepted is taken back and refunded.

        :param accept: the names of the disputed products about which the shopper is right; None: all
        """
        contest = self.contest or self.contested(at).contest
        assert contest is not None
        quantities = contest.accepted(accept)
        settled = self._reduced(quantities) if quantities else self
        return settled._replace(
            status="reviewed",
            updated_at=at,
            refunded=settled.refunded or bool(quantities),
            contest=contest.settled(at, settled.total, quantities),
        )

    def _reduced(self, quantities: Mapping[str, int]) -> "Order":
        """Return the order with only so many left of these products."""
        lines = reduced(self.lines, quantities)
        (total_before, tax_before), (total, tax) = sums(self.lines), sums(lines)
        return self._replace(lines=lines, total=self.total - total_before + total, tax=self.tax - tax_before + tax)

    def corrected(self, at: int, total: int) -> "Order":
        """Return the order with another total and the tax in proportion; the lines stay as they are."""
        tax = round(total * self.tax / self.total) if self.total else 0
        return self._replace(total=total, tax=tax, updated_at=at)
