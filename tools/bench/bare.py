"""What Flask, gunicorn and SQLite do without the bridge: the limits that its figures stand beside.

gunicorn serves these apps with the bridge's own settings. `BENCH_LIST_BYTES` and `BENCH_ORDER_BYTES` are the sizes of
the constant answers, `DATABASE_PATH` is the file of the bare webhooks.
"""

import contextlib
import json
import os
import sqlite3
import threading

from flask import Flask, Response, request


def create_empty() -> Flask:
    """Build an app that does nothing, with the bridge's dependencies imported."""
    import requests  # noqa: F401 - only for what importing it costs

    return _app_with_health()


def create_app() -> Flask:
    """Build an app with two constant answers, and a webhook that is kept as it came."""
    app = _app_with_health()
    connections = threading.local()
    _connect(os.environ["DATABASE_PATH"]).close()  # here, as threads that do this at once find the file locked
    for name in ("list", "order"):
        text = _json_of_size(int(os.environ[f"BENCH_{name.upper()}_BYTES"]))
        app.add_url_rule(f"/{name}", name, lambda text=text: _answer(text))

    @app.post("/webhook")
    def webhook() -> Response:
        if not hasattr(connections, "db"):
            connections.db = _connect(os.environ["DATABASE_PATH"])
        connections.db.execute("INSERT INTO bodies (body) VALUES (?)", (request.get_data(cache=False),))
        return _answer("{}")

    return app


def create_with_offset() -> Flask:
    """Build an app that serves the mirror's pages as one would write it first."""
    app = Flask("offset", static_folder=None)

    @app.get("/page/<int:number>")
    def page(number: int) -> list:
        with contextlib.closing(sqlite3.connect(os.environ["MIRROR_PATH"])) as db:
            sql = "SELECT summary FROM orders ORDER BY updated_at DESC LIMIT 50 OFFSET ?"
            return [json.loads(text) for (text,) in db.execute(sql, (50 * number,))]

    app.add_url_rule("/healthz", "healthz", lambda: _answer("{}"))
    return app


def _app_with_health() -> Flask:
    app = Flask("bare", static_folder=None)
    app.add_url_rule("/healthz", "healthz", lambda: _answer("{}"))
    return app


def _answer(text: str) -> Response:
    return Response(text, mimetype="application/json")


def _json_of_size(size: int) -> str:
    return '"' + "x" * (size - 2) + '"'


def _connect(path: str) -> sqlite3.Connection:
    """Open the file with the durability that the bridge has: each commit is on disk when it returns."""
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE IF NOT EXISTS bodies (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    return db
