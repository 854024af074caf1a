"""The webhooks that AiFi pushes, and what it does with the answers."""

import queue
import threading
from dataclasses import dataclass
from typing import Any

import requests

from tools.sandbox.answers import Json, line_item, prices, session
from tools.sandbox.orders import Order
from tools.sandbox.settings import check_choice
from tools.sandbox.shop import Shop
from tools.sandbox.times import Moment, iso

PUSH_TIMEOUT_SECONDS = 15


@dataclass(frozen=True)
class Delivery:
    """A webhook that was pushed: the answer's status, or the error in words."""

    body: Json
    status: int | None = None
    error: str | None = None


class Webhooks:
    """Writes the webhooks of a shop and pushes them."""

    def __init__(self, shop: Shop):
        self.deliveries: list[Delivery] = []
        self._shop = shop
        self._outbox: queue.SimpleQueue[Json] = queue.SimpleQueue()

    def checkout_body(
        self,
        order: Order,
        status: str | None = None,
        with_order_id: bool = True,
        session_at: str = "nested",
        time_of_issue: Moment | None = None,
    ) -> Json:
        """Return the checkout webhook of an order, see `Sandbox.webhook`."""
        check_choice("session_at", session_at, ("nested", "top"))
        status = status or {"draft": "draft", "reviewed": "reviewed"}.get(order.status, "completed")
        visit = {key: value for key, value in session(order).items() if key != "visitors"}
        completed_at = order.completed_at if status == "completed" else None
        return {
            **({"orderId": order.id} if with_order_id else {}),
            **(visit if session_at == "top" else {"session": {**visit, "customerId": order.customer_id}}),
            "customer": self._customer(order.customer_id, with_metadata=True),
            "storeId": order.store_id,
            "storeExternalId": f"store-{order.store_id}",
            "timeOfOrigin": iso(completed_at or order.drafted_at),
            "timeOfIssue": iso(self._shop.moment(time_of_issue)),
            "status": status,
            "cart": [line_item(line) for line in order.lines],
            **prices(order),
            "payment": {
                "status": "processing" if status == "draft" else order.payment_status,
                "paymentProvider": "sandbox-pay",
            },
            "pushAttempt": {"note": "a field that nobody knows"},
        }

    def customer_body(self, customer_id: int) -> Json:
        """Return the webhook for a customer who was created or updated."""
        customer, now = self._shop.customers[customer_id], iso(self._shop.moment(None))
        return {
            "customer": self._customer(customer_id),
            "customerPersonalInfo": {
                "email": customer.email,
                "firstName": customer.first_name,
                "lastName": customer.last_name,
                "phone": customer.phone,
                "phoneNumber": customer.phone,
            },
            "timeOfOrigin": now,
            "timeOfIssue": now,
        }

    def _customer(self, customer_id: int, with_metadata: bool = False) -> Json:
        customer = self._shop.customers[customer_id]
        shown: Json = {"id": customer.id, "externalId": customer.external_id, "role": customer.role}
        return shown | ({"metadata": customer.metadata or {}} if with_metadata else {})

    def push(self, body: Any) -> requests.Response:
        """POST a webhook, do what the answer says about the payment, and return the answer.

        Raises requests.RequestException where no answer came.
        """
        if self._shop.webhook_url is None:
            raise ValueError("webhook_url is None, but must be a URL")
        headers = {"Authorization": f"Bearer {self._shop.webhook_secret}"}
        with requests.Session() as http:
            # Past any proxy of the developer's machine.
            http.trust_env = False
            answer = http.post(self._shop.webhook_url, json=body, headers=headers, timeout=PUSH_TIMEOUT_SECONDS)
        if answer.ok and isinstance(body, dict) and body.get("status") == "completed":
            self._obey(answer, body.get("orderId"))
        return answer

    def _obey(self, answer: requests.Response, order_id: Any) -> None:
        """Act on the answer to a completed order's webhook, as AiFi does for payments handled by the retailer."""
        try:
            reply = answer.json()
        except ValueError:
            return
        if not isinstance(reply, dict) or order_id not in self._shop.orders:
            return
        if reply.get("externalId"):
            self._shop.set_external_id(order_id, str(reply["externalId"]))
        if reply.get("paymentStatus") == "success":
            self._shop.pay(order_id)
        elif reply.get("paymentStatus") == "failure":
            self._shop.fail_payment(order_id)

    def deliver(self, body: Json) -> None:
        """Push and record what came of it; a receiver that is down does not stop AiFi."""
        try:
            self.deliveries.append(Delivery(body, status=self.push(body).status_code))
        except requests.RequestException as error:
            self.deliveries.append(Delivery(body, error=str(error)))

    def put_in_outbox(self, body: Json) -> None:
        """Leave a webhook to the thread that empties the outbox."""
        self._outbox.put(body)

    def empty_outbox(self, stopping: threading.Event) -> None:
        """Deliver what is put in the outbox, until the sandbox stops."""
        while not stopping.is_set():
            try:
                self.deliver(self._outbox.get(timeout=0.1))
            except queue.Empty:
                continue
