"""AiFi's API as a Flask app."""

import json
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import http_date

from tools.sandbox.access import Access
from tools.sandbox.answers import AifiError, Json, contest_detail, contest_json, customer_json, order_summary
from tools.sandbox.faults import Faults
from tools.sandbox.orders import Order
from tools.sandbox.queries import (
    read_contest_filter,
    read_contests_page,
    read_flag,
    read_id,
    read_include_contest,
    read_query,
    read_stores_page,
)
from tools.sandbox.shop import Shop
from tools.sandbox.stores import stores_page, write_cursor

BASE_PATH = "/api/admin/v2"
TOKEN_PATH = "/realms/aifi/protocol/openid-connect/token"


class Api:
    """Answers requests from what a shop knows, unless access is refused or a fault strikes."""

    def __init__(self, shop: Shop, access: Access, faults: Faults):
        self._shop = shop
        self._access = access
        self._faults = faults
        self._kept: dict[tuple[int, bool, bool], tuple[Order, str]] = {}  # rows as text, and the state they are of

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
            "/contests": self._list_contests,
            "/contests/<order_id>": self._get_contest,
            "/stores": self._list_stores,
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
            self._check_offered(path)
        g.fault = self._faults.next(path, args)
        if g.fault:
            g.fault.precede(self._shop.stopping)

    def _check_offered(self, path: str) -> None:
        """Raise the answer of a deployment that lacks this path."""
        for lacking, status in self._shop.lacking.items():
            if path.startswith(lacking):
                raise AifiError(status, f"E_{HTTPStatus(status).name}", HTTPStatus(status).phrase)

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

    def _list_orders(self) -> Json | Response:
        query, page = read_query(request.args, self._shop)
        with_lines = read_flag(request.args, "includeProducts")
        orders = self._shop.orders_page(query) if query else []
        with_contest = read_include_contest(request.args, self._shop)
        if self._shop.keeps_rows:
            rows = ",".join(self._kept_row(order, with_lines, with_contest) for order in orders)
            return Response(f'{{"data":[{rows}],"page":{page}}}', mimetype="application/json")
        return {"data": [self._row(order, with_lines, with_contest) for order in orders], "page": page}

    def _kept_row(self, order: Order, *options: bool) -> str:
        key = (order.id, *options)
        if self._kept.get(key, (None, ""))[0] is not order:
            self._kept[key] = order, json.dumps(self._row(order, *options))
        return self._kept[key][1]

    def _row(self, order: Order, with_lines: bool, with_contest: bool) -> Json:
        row = order_summary(order, self._shop, with_lines)
        if with_contest:
            row["contest"] = contest_json(order)
        if self._shop.signed_links:
            row["receiptUrl"] = f"https://receipts.example.com/{order.id}?signature={uuid.uuid4().hex}"
        return row

    def _get_order(self, order_id: str) -> Json:
        try:
            return self._shop.order(read_id("orderId", order_id))
        except KeyError:
            raise AifiError(404, "E_ROW_NOT_FOUND", "Order not found") from None

    def _list_contests(self) -> Json:
        offset, size = read_contests_page(request.args, self._shop)
        orders = list(filter(read_contest_filter(request.args, self._shop), self._shop.contested_orders()))
        rows = [
            {**(contest_json(order) or {}), "order": order_summary(order, self._shop)}
            for order in orders[offset : offset + size]
        ]
        previous = {"offset": max(0, offset - size), "count": size} if offset else None
        following = {"offset": offset + size, "count": size} if offset + size < len(orders) else None
        return {"contestedOrders": rows, "pagination": {"previous": previous, "next": following}}

    def _get_contest(self, order_id: str) -> Json:
        order = self._shop.orders.get(read_id("orderId", order_id))
        contest = contest_detail(order) if order else None
        if contest is None:
            raise AifiError(404, "E_ROW_NOT_FOUND", "Contest not found")
        return contest

    def _list_stores(self) -> Json:
        count, after, before = read_stores_page(request.args)
        ids = sorted(self._shop.stores)
        page = stores_page(ids, count, after, before)
        cursors = {
            "before": write_cursor(page[0]) if page and page[0] != ids[0] else None,
            "after": write_cursor(page[-1]) if page and page[-1] != ids[-1] else None,
        }
        return {"stores": [self._shop.store(store_id) for store_id in page], "pagination": cursors}

    def _list_customers(self) -> list[Json]:
        return [customer_json(customer, self._shop) for customer in sorted(self._shop.customers.values())]

    def _get_customer(self, customer_id: str) -> Json:
        customer = self._shop.customers.get(read_id("customerId", customer_id))
        if customer is None:
            raise AifiError(404, "E_ROW_NOT_FOUND", "Customer not found")
        return customer_json(customer, self._shop)

    def _issue_token(self) -> tuple[Json, int]:
        return self._access.issue_token(request.form)

    def _check_out(self) -> tuple[Json, int]:
        """Let a shopper check out, for a demonstration; no part of AiFi."""
        return {"orderId": self._shop.checkout()}, 201


def _http_error(error: HTTPException) -> Any:
    kind = f"E_{error.name.upper().replace(' ', '_')}"
    return AifiError(error.code or 500, kind, error.description or error.name).body, error.code
