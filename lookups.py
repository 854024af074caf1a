"""One order or one customer, asked of AiFi: by its id, or by its session's or the retailer's own id."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from aifi import NOT_UNDERSTOOD, AifiUnreadable
from errors import Cause
from intake import CONTESTS, Intake
from orders import DETAIL, Order, take_in
from times import HOUR, age
from translation import (
    Unreadable,
    is_aifi_id,
    read_customer,
    read_external_id,
    read_order,
    read_order_id,
    read_session_id,
)
from transport import AifiRefused

log = logging.getLogger("bridge.lookups")

MAX_NAME = 200  # of a session or an external id
MAX_PUT_OFF = 1000  # orders that wait for a look-up


class LookUps:
    """Asks AiFi about single orders and customers, and stores what it says."""

    def __init__(self, intake: Intake):
        self._intake = intake
        self._client, self._store, self._settings = intake.client, intake.store, intake.settings
        self._put_off: deque[str] = deque(maxlen=MAX_PUT_OFF)

    def put_off(self, order_id: str) -> None:
        """Remember an order that is to be looked up when nobody waits for it."""
        if order_id not in self._put_off:
            self._put_off.append(order_id)

    def catch_up(self, most: int) -> None:
        """Look up so many of the orders that were put off, each once; what fails is left to the sweep.

        :raises AifiUnavailable: AiFi did not answer
        """
        for _ in range(min(most, len(self._put_off))):
            order_id = self._put_off.popleft()
            try:
                self.look_up(order_id, None)
            except (AifiRefused, AifiUnreadable) as error:
                log.warning("AiFi's order %s cannot be read: %s", order_id, error)

    def look_up(self, order_id: str, session_id: str | None) -> Order | None:
        """Ask AiFi for an order, by its session where no id is known; return it as it stands then.

        One that AiFi does not know any longer leaves the mirror.

        :raises AifiError: AiFi did not answer
        :raises AifiUnreadable: AiFi's answer is not this order
        """
        if session_id is not None:
            data = self._find_details("sessionId", session_id, read_session_id)
        else:
            data = self._client.get_order(order_id)
        if data is None:
            known = self._store.get_order(order_id)
            if known and known.confirmed:
                log.info("AiFi does not know order %s any longer: it is removed", order_id)
                self._store.remove_order(order_id)
            else:
                self._store.mark_checked(order_id)
            return None
        return self._keep(data, None if session_id else order_id)

    def find(self, name: str, by: Sequence[str]) -> Order | None:
        """Ask AiFi for an order that the mirror lacks, by whatever its name may be; `by` as in `order`."""
        if is_aifi_id(name):
            data = self._find_by_id(name)
            if data is not None:
                return self._keep(data, name)
            known = self._store.find_order(name, by)
            if known:
                return known
        if not name.isprintable() or len(name) > MAX_NAME:
            return None
        filters = {"session_lower": ("sessionId", read_session_id), "external_lower": ("externalId", read_external_id)}
        for column in by:
            data = self._find_details(filters[column][0], name, filters[column][1])
            if data is not None:
                return self._keep(data, None)
        return None

    def _find_by_id(self, order_id: str) -> Any | None:
        """Return the raw details of an order that the mirror lacks; None also where AiFi takes this for no id."""
        try:
            return self._client.get_order(order_id)
        except AifiRefused as error:
            if error.status not in NOT_UNDERSTOOD:
                raise
            return None

    def _find_details(self, parameter: str, name: str, read: Callable[[Any], str | None]) -> Any | None:
        """Return the raw details of the order that a filter names. The filters are only in [R]: they may be ignored."""
        for order in self._client.find_orders(**{parameter: name}):
            order_id = read_order_id(order)
            if order_id and (read(order) or name).lower() == name.lower():
                details = self._client.get_order(order_id)
                if (read(details) or "").lower() == name.lower():
                    return details
        return None

    def _keep(self, data: Any, order_id: str | None) -> Order | None:
        """Store an order that was looked up, and then its contest; return it, or None where it is filtered out."""
        row = self._keep_details(data, order_id)
        if row is None or not row.lacks_contest:
            return row
        contest = self._intake.try_optional(CONTESTS, lambda: self._client.get_contest(row.id))
        return self._keep_details({**data, "contest": contest}, order_id) if contest else row

    def _keep_details(self, data: Any, order_id: str | None) -> Order | None:
        """Store an order that was looked up; return it as it stands then, or None where it is filtered out."""
        try:
            snapshot = read_order(data, DETAIL, self._settings.currency)
        except Unreadable as error:
            raise AifiUnreadable(f"AiFi's answer cannot be read: {error}") from None
        if order_id is not None and snapshot.id != order_id:
            raise AifiUnreadable(f"AiFi shows order {snapshot.id} for order {order_id}")
        if not self._intake.is_ours(snapshot) or snapshot.id is None:
            return None
        if self._settings.roles and self._store.get_order(snapshot.id) is None:
            # An order does not tell its shopper's role: kept, it could enter the list past the filter.
            return take_in(None, None, snapshot, self._store.now(), self._store.marks())[0]
        self._store.put_orders([snapshot])
        row = self._store.get_order(snapshot.id)
        if row and age(row.checked_at, self._store.now()) >= HOUR:  # an order that stays as it is was not written
            self._store.mark_checked(row.id)
        return row

    def look_up_customer(self, customer_id: str) -> None:
        """Ask AiFi for a customer, and store what it says; one that it does not know leaves the mirror.

        :raises AifiError: AiFi did not answer
        :raises AifiUnreadable: AiFi's answer is not a customer
        """
        try:
            data = self._client.get_customer(customer_id)
        except AifiRefused as error:
            if error.status in (401, 403):
                self._intake.put_note(
                    Cause.AIFI_CUSTOMERS_REFUSED, f"AiFi's token may not read customers ({error.status})"
                )
            if error.status in NOT_UNDERSTOOD:  # it takes this for no id; one that is known stays
                return
            raise
        if data is None:
            self._store.remove_customer(customer_id)
        else:
            try:
                customer = read_customer(data)
            except Unreadable as error:
                raise AifiUnreadable(f"AiFi's answer cannot be read: {error}") from None
            if customer["id"] != customer_id:
                raise AifiUnreadable(f"AiFi shows customer {customer['id']} for customer {customer_id}")
            self._store.put_customer(customer_id, customer, self._store.now())
            self._intake.put_note("customer", "AiFi showed a customer")
