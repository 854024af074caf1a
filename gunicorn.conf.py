"""How gunicorn serves the bridge; read by gunicorn itself from the folder it is started in."""

import json
import logging
import os
import re
import socket
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import quote

from gunicorn import util
from gunicorn.glogging import Logger

from config import read_config

# The Procfile hands WEB_CONCURRENCY over as WORKERS: gunicorn reads it too, and ends in a traceback if it is not a
# number. It also unsets GUNICORN_CMD_ARGS, which the platforms set: what it says would replace what this file says.
workers_text = os.environ.get("WORKERS") or os.environ.get("WEB_CONCURRENCY", "")
settings = read_config({**os.environ, "WEB_CONCURRENCY": workers_text})  # `config` is a name of gunicorn's own


def _hide_queries(record: logging.LogRecord) -> bool:
    """Cut query strings out of gunicorn's own messages: a webhook's may carry the secret."""
    record.msg, record.args = re.sub(r"\?\S+", "?…", record.getMessage()), ()
    return True


class BridgeLogger(Logger):
    """gunicorn's logger, less what would fill the log, forge a line in it or betray a secret."""

    def setup(self, cfg: Any) -> None:
        """Set the handlers up, then hide query strings."""
        super().setup(cfg)
        self.error_log.addFilter(_hide_queries)

    def atoms(self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: Any) -> Any:
        """Return the values of a log line; the path is escaped again, so that a line stays one line."""
        values = super().atoms(resp, req, environ, request_time)
        return {**values, "U": quote(environ.get("PATH_INFO", ""), encoding="latin-1")}

    def access(self, resp: Any, req: Any, environ: MutableMapping[str, Any], request_time: Any) -> None:
        """Log one answer, except the good ones to the platform's health check, every few seconds."""
        if environ.get("PATH_INFO") != "/healthz" or str(resp.status)[:3] != "200":
            super().access(resp, req, environ, request_time)


def _write_error(sock: socket.socket, status_int: int, reason: str, mesg: str) -> None:
    """Answer a request that never reaches the app, such as one for an address of 9,000 characters.

    `mesg` may repeat what was sent, so it is left out.
    """
    error = {"code": re.sub(r"\W+", "_", reason.lower()), "message": f"{reason}."}
    body = json.dumps({"error": error}, separators=(",", ":")) + "\n"
    head = (f"HTTP/1.1 {status_int} {reason}", "Connection: close", "Content-Type: application/json")
    util.write_nonblock(sock, "\r\n".join((*head, f"Content-Length: {len(body)}", "", body)).encode("latin-1"))


util.write_error = _write_error  # gunicorn has no setting for it, and its own is HTML


def worker_exit(server: Any, worker: Any) -> None:
    """Close the app of a leaving worker. gunicorn logs what this raises, and goes on."""
    if worker.pid != os.getpid():  # the master calls it too, for a worker that it could not find
        return
    services = getattr(worker.app.callable, "extensions", {}).get("bridge")
    if services is not None:
        services.close()


bind = f"0.0.0.0:{settings.port}"
workers = settings.workers
worker_class = "gthread"
threads = 16
preload_app = True  # a wrong configuration ends the start once, in words, instead of once a worker

timeout = 30
graceful_timeout = 25  # Heroku and Render send SIGKILL 30 s after SIGTERM
keepalive = 100  # longer than the 90 s of Heroku's router, so that the bridge never closes a connection under a request

# Heartbeats are kept in memory: a full or slow disk must not make a worker look dead.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
control_socket_disable = True  # gunicorn 25 and later would write a socket file

# The platforms set FORWARDED_ALLOW_IPS=*, with which any client could send SCRIPT_NAME and get a 500.
# The app reads the forwarded headers itself, those of one proxy.
forwarded_allow_ips = ""

logger_class = BridgeLogger
quiet = settings.log_level in ("WARNING", "ERROR")
loglevel = "warning" if quiet else "info"  # at debug it prints its whole configuration
accesslog = None if quiet else "-"
access_log_format = "%(m)s %(U)s %(s)s %(B)s bytes %(M)s ms"  # no query, headers or addresses
