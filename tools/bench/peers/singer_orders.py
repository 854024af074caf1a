"""AiFi's orders by a tap of Meltano's Singer SDK into SQLite; the same arguments as `dlt_orders`.

The SDK has no target: what the tap writes is kept by the few lines at the end.
"""

import contextlib
import io
import json
import sqlite3
import sys
from pathlib import Path

from singer_sdk import RESTStream, Tap
from singer_sdk.authenticators import BearerTokenAuthenticator
from singer_sdk.pagination import BasePageNumberPaginator

base_url, token, folder, cursor, since = sys.argv[1:]
PROPERTIES = {
    "id": {"type": "integer"},
    "status": {"type": "string"},
    "totalPrice": {"type": "string"},
    "transaction": {"type": "object", "properties": {"refunded": {"type": "boolean"}}},
    cursor: {"type": ["string", "null"], "format": "date-time"},
}
SCHEMA = {"type": "object", "properties": PROPERTIES}


class Pages(BasePageNumberPaginator):
    """Goes on until a page is empty."""

    def has_more(self, response):
        """Return whether this page had orders."""
        return bool(response.json()["data"])


class Orders(RESTStream):
    """The list of orders."""

    name, path, primary_keys, replication_key = "orders", "/orders", ("id",), cursor
    url_base, records_jsonpath, is_sorted = base_url, "$.data[*]", False
    schema = SCHEMA
    authenticator = property(lambda self: BearerTokenAuthenticator(stream=self, token=token))

    def get_new_paginator(self):
        """Return what counts the pages."""
        return Pages(0)

    def get_url_params(self, context, next_page_token):
        """Return the request's parameters."""
        start = self.get_starting_replication_key_value(context)
        params = {"includeProducts": "true", "pageSize": 200, "orderBy": "draftCreatedAt", "direction": "desc"}
        return {**params, "page": next_page_token or 0, **({since: start} if start else {})}


class AifiTap(Tap):
    """AiFi."""

    name, config_jsonschema = "tap-aifi", {"properties": {}}

    def discover_streams(self):
        """Return the one stream."""
        return [Orders(self)]


state = Path(folder, "state.json")
written = io.StringIO()
with contextlib.redirect_stdout(written):
    AifiTap(config={}, state=json.loads(state.read_text()) if state.exists() else None).sync_all()
db = sqlite3.connect(f"{folder}/orders.db")
db.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, status, total_price, refunded)")
for line in written.getvalue().splitlines():
    message = json.loads(line)
    if message["type"] == "RECORD":
        order = message["record"]
        values = order["id"], order["status"], order["totalPrice"], order["transaction"]["refunded"]
        db.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?)", values)
    elif message["type"] == "STATE":
        state.write_text(json.dumps(message["value"]))
db.commit()
