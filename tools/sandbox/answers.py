"""The JSON that AiFi writes: orders, customers, errors."""

from typing import Any

from tools.sandbox.orders import Customer, Line, Order
from tools.sandbox.settings import Settings
from tools.sandbox.times import iso

Json = dict[str, Any]


class AifiError(Exception):
    """An answer other than 200, as AiFi words it."""

    def __init__(self, status: int, kind: str, message: str, rule: str | None = None, field: str | None = None):
        super().__init__(message)
        self.status = status
        details = [{"error": message, "rule": rule, "field": field}] if rule else []
        self.body: Json = {"message": message, "type": kind, "errors": details}


def order_summary(order: Order, settings: Settings, with_lines: bool = False) -> Json:
    """Return an order as lists show it, with or without its lines."""
    shown = {
        "id": order.id,
        "version": order.version,
        "isLatest": True,
        "status": order.status,
        "storeId": order.store_id,
        # AiFi has been seen to write it either way.
        "customerId": str(order.customer_id) if order.id % 2 else order.customer_id,
        "sessionId": order.session_id,
        "externalId": order.external_id,
        **prices(order),
        "draftCreatedAt": iso(order.drafted_at if order.draft_time_shown else None),
        "createdAt": iso(order.created_at),
        "updatedAt": iso(order.updated_at),
        "completedAt": iso(order.completed_at),
        "paidAt": iso(order.paid_at),
        "transaction": {
            "paymentTransactionId": _transaction_id(order),
            "refunded": order.refunded,
            "paymentFailed": order.payment_status == "failure",
        },
    }
    if not settings.updated_at_shown:
        del shown["updatedAt"]
    return shown | (_lines(order, settings) if with_lines else {})


def order_detail(order: Order, settings: Settings) -> Json:
    """Return an order as `GET /orders/{id}` answers it."""
    return {
        **order_summary(order, settings),
        **_lines(order, settings, with_taxes=True),
        "session": session(order),
        "paymentTransaction": {
            "paymentTransactionId": _transaction_id(order),
            "refunded": order.refunded,
            "paymentStatus": order.payment_status,
        },
    }


def prices(order: Order) -> Json:
    """Return the order's total, tax and subtotal."""
    return {
        "totalPrice": _price(order.total),
        "totalTax": _price(order.tax),
        "subtotalPrice": _price(order.total - order.tax),
    }


def session(order: Order) -> Json:
    """Return the shopping session that the order came from."""
    return {
        "sessionId": order.session_id,
        "customerFirstEnteredAt": iso(order.entered_at),
        "customerLastExitedAt": iso(order.exited_at),
        "visitors": order.visitors,
    }


def line_item(line: Line) -> Json:
    """Return a line in the form of `lineItems`."""
    product = line.product
    return {
        "productSnapshot": {
            "name": product.name,
            "barcode": product.barcode,
            "sku": product.sku,
            "price": _price(product.price),
        },
        "quantity": line.quantity,
        "status": line.status,
        "isExternallyAdded": line.externally_added,
    }


def customer_json(customer: Customer) -> Json:
    """Return a customer as `GET /customers/{id}` answers it."""
    return {
        "id": customer.id,
        "externalId": customer.external_id,
        "role": customer.role,
        "metadata": customer.metadata or {},
        "email": customer.email,
        "firstName": customer.first_name,
        "lastName": customer.last_name,
        "phone": customer.phone,
    }


def _transaction_id(order: Order) -> str | None:
    return f"tx_{order.id}" if order.paid_at else None


def _price(cents: int) -> str:
    sign, cents = ("-" if cents < 0 else ""), abs(cents)
    return f"{sign}{cents // 100}.{cents % 100:02d}"


def _lines(order: Order, settings: Settings, with_taxes: bool = False) -> Json:
    """Return the lines under the name and in the form that this deployment has for them."""
    form = line_item if settings.line_items_as == "lineItems" else _product_entry
    return {settings.line_items_as: [form(line) | (_taxes(line) if with_taxes else {}) for line in order.lines]}


def _product_entry(line: Line) -> Json:
    """Return a line in the flat form that some deployments answer as `products`."""
    product = line.product
    return {
        "name": product.name,
        "price": _price(product.price),
        "barcode": product.barcode,
        "sku": product.sku,
        "thumbnail": f"https://images.example.com/{product.barcode}.png",
        "quantity": line.quantity,
    }


def _taxes(line: Line) -> Json:
    percent = line.product.tax_percent
    return {"taxRates": [{"name": f"VAT {percent} %", "rate": f"{percent / 100:.2f}", "amount": _price(line.tax)}]}
