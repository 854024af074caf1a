"""The JSON that AiFi writes: orders, contests, customers, errors."""

import zlib
from typing import Any

from tools.sandbox.carts import Line, Product
from tools.sandbox.contests import ContestItem
from tools.sandbox.orders import Customer, Order
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
        "externalStatus": order.external_status,
        **prices(order),
        "draftCreatedAt": iso(order.drafted_at if order.draft_time_shown else None),
        "createdAt": iso(order.created_at),
        "updatedAt": iso(order.updated_at),
        "completedAt": iso(order.completed_at),
        "paidAt": iso(order.paid_at),
        "transaction": _transaction(order),
    }
    if not settings.updated_at_shown:
        del shown["updatedAt"]
    if settings.currency_code:
        shown["currencyCode"] = settings.currency_code
    return shown | (_lines(order, settings, with_taxes=settings.line_totals) if with_lines else {})


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
    return {
        "productSnapshot": _product_snapshot(line.product),
        "quantity": line.quantity,
        "status": line.status,
        "isExternallyAdded": line.externally_added,
    }


def contest_json(order: Order) -> Json | None:
    """Return the order's contest as `includeContest` shows it, or None."""
    contest = order.contest
    if contest is None:
        return None
    return {
        "createdAt": iso(contest.opened_at),
        "updatedAt": iso(contest.updated_at),
        "id": 500_000 + order.id,
        "orderId": str(order.id),
        "orderVersion": contest.order_version,
        "sessionId": order.session_id,
        "message": contest.message,
        "fromOperator": False,
        "status": contest.status,
        "originalTotalPrice": _price(contest.original_total),
        "contestedTotalPrice": _price(contest.contested_total),
        "reviewedTotalPrice": None if contest.reviewed_total is None else _price(contest.reviewed_total),
    }


def contest_detail(order: Order) -> Json | None:
    """Return the order's contest as `GET /contests/{orderId}` answers it, or None."""
    shown = contest_json(order)
    if shown is None or order.contest is None:
        return None
    items = [_contest_item(number, item) for number, item in enumerate(order.contest.items, 1)]
    return {**shown, "items": items, "transaction": _transaction(order)}


def customer_json(customer: Customer, settings: Settings) -> Json:
    """Return a customer as `GET /customers/{id}` answers it."""
    address = {"address": customer.address} if settings.customer_addresses else {}
    return {
        "id": customer.id,
        "externalId": customer.external_id,
        "role": customer.role,
        "metadata": customer.metadata or {},
        "email": customer.email,
        "firstName": customer.first_name,
        "lastName": customer.last_name,
        "phone": customer.phone,
        **address,
    }


def _contest_item(number: int, item: ContestItem) -> Json:
    return {
        "id": number,
        "productId": zlib.crc32(item.product.sku.encode()),
        "name": item.product.name,
        "price": _price(item.product.price),
        "productSnapshot": _product_snapshot(item.product),
        "originalQuantity": item.original,
        "contestedQuantity": item.contested,
        "reviewedQuantity": item.reviewed,
    }


def _product_snapshot(product: Product) -> Json:
    return {
        "name": product.name,
        "barcode": product.barcode,
        "sku": product.sku,
        "price": _price(product.price),
    }


def _transaction(order: Order) -> Json:
    return {
        "paymentTransactionId": _transaction_id(order),
        "refunded": order.refunded,
        "tryRefundTimes": int(order.refunded),
        "paymentFailed": order.payment_status == "failure",
    }


def _transaction_id(order: Order) -> str | None:
    return f"tx_{order.id}" if order.paid_at else None


def _price(cents: int) -> str:
    sign, cents = ("-" if cents < 0 else ""), abs(cents)
    return f"{sign}{cents // 100}.{cents % 100:02d}"


def _lines(order: Order, settings: Settings, with_taxes: bool) -> Json:
    """Return the lines under the name and in the form that this deployment has for them."""
    form = line_item if settings.line_items_as == "lineItems" else _product_entry
    entries = [form(line) for line in order.lines]
    for entry, line in zip(entries, order.lines, strict=True):
        entry |= (_line_totals(line) if settings.line_totals else {}) | (_taxes(line) if with_taxes else {})
    return {settings.line_items_as: entries}


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


def _line_totals(line: Line) -> Json:
    return {
        "subtotalPrice": _price(line.total - line.tax),
        "totalPrice": _price(line.total),
        "totalTax": _price(line.tax),
    }


def _taxes(line: Line) -> Json:
    percent = line.product.tax_percent
    return {"taxRates": [{"name": f"VAT {percent} %", "rate": f"{percent / 100:.2f}", "amount": _price(line.tax)}]}
