"""AiFi's API as a Flask app."""

import uuid
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import http_date

from tools.sandbox.access import Access
from tools.sandbox.answers import AifiError, Json, customer_json, order_summary
from tools.sandbox.faults import Faults
from tools.sandbox.queries import read_flag, read_id, read_query
from tools.sandbox.shop import Shop

BASE_PATH = "/api/admin/v2"
TOKEN_PATH = "/realms/aifi/protocol/openid-connect/token"


class Api:
    """Answers requests from what a shop knows, unless access is refused or a fault strikes."""

    def __init__(self, shop: Shop, access: Access, faults: Faults):
        self._shop = shop
        self._access = access
        self._faults = faults

    def make_app(self) -> Flask:
        """Return the app that serves it."""
        app = Flask("sandbox")
        app.json.sort_keys = False  # type: ignore[attr-defined]  # Flask's own provider has it
        app.before_request(self._enter)
        app.after_request(self._leave)
        app.register_error_handler(AifiError, lambda error: (error.body, error.status))
        app.register_error_handler(HTTPException, _http_error)
        routes: dict[str, Callable[..., Any]] = {
            "/orders": self._list_orders,
            "/orders/<order_id>": self._get_order,
            "/customers": self._list_customers,
            "/customers/<customer_id>": self._get_customer,
        }
        for path, view in routes.items():
            app.add_url_rule(BASE_PATH + path, path, view)
        app.add_url_rule(TOKEN_PATH, "token", self._issue_token, methods=["POST"])
        app.add_url_rule("/sandbox/checkouts", "checkout", self._check_out, methods=["POST"])
        return app

    # What every request and every answer passes

    def _enter(self) -> None:
        """Record the request, check its rate and token, and look for a fault."""
        if request.path.startswith("/sandbox/"):
            return
        path, args = request.path.removeprefix(BASE_PATH), request.args.to_dict(flat=False)
        g.number = self._access.note_request(request.method, path, args)
        if request.path.startswith(BASE_PATH):
            self._access.admit(g.number)
        self._shop.stopping.wait(self._shop.latency_seconds)
        if request.path.startswith(BASE_PATH):
            self._access.check_token(request.headers.get("Authorization", ""))
        g.fault = self._faults.next(path, args)
        if g.fault:
            g.fault.precede(self._shop.stopping)

    def _leave(self, response: Response) -> Response:
        """Let the fault have the answer, date it, and record it."""
        fault = g.get("fault")
        if fault:
            response = fault.spoil(response, self._shop.stopping)
        response.headers["Date"] = http_date(self._shop.now())
        if "number" in g:
            self._access.note_answer(g.number, None if fault and fault.kind == "reset" else response.status_code)
        return response

    # Routes

    def _list_orders(self) -> Json:
        query, page = read_query(request.args, self._shop)
        with_lines = read_flag(request.args, "includeProducts")
        orders = self._shop.orders_page(query) if query else []
        rows = [order_summary(order, self._shop, with_lines) for order in orders]
        if self._shop.signed_links:
            for row in rows:
                row["receiptUrl"] = f"https://receipts.example.com/{row['id']}?signature={uuid.uuid4().hex}"
        return {"data": rows, "page": page}

    def _get_order(self, order_id: str) -> Json:
        try:
            return self._shop.order(read_id("orderId", order_id))
        except KeyError:
            raise AifiError(404, "E_ROW_NOT_FOUND", "Order not found") from None

    def _list_customers(self) -> Json:
        query, page = read_query(request.args, self._shop)
        customers = sorted(self._shop.customers.values()) if query else []
        if query and query.descending:
            customers.reverse()
        rows = customers[query.offset : query.offset + query.limit] if query else []
        return {"data": [customer_json(customer) for customer in rows], "page": page}

    def _get_customer(self, customer_id: str) -> Json:
        customer = self._shop.customers.get(read_id("customerId", customer_id))
        if customer is None:
            raise AifiError(404, "E_ROW_NOT_FOUND", "Customer not found")
        return customer_json(customer)

    def _issue_token(self) -> tuple[Json, int]:
        return self._access.issue_token(request.form)

    def _check_out(self) -> tuple[Json, int]:
        """Let a shopper check out, for a demonstration; no part of AiFi."""
        return {"orderId": self._shop.checkout()}, 201


def _http_error(error: HTTPException) -> Any:
    kind = f"E_{error.name.upper().replace(' ', '_')}"
    return AifiError(error.code or 500, kind, error.description or error.name).body, error.code
