"""Which requests are answered: tokens, the rate limit, and a record of all that came in."""

import collections
import itertools
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tools.sandbox.answers import AifiError, Json
from tools.sandbox.settings import Settings


@dataclass(frozen=True)
class Request:
    """A request that came in; `at` in monotonic seconds, `status` None where no answer went out (yet)."""

    at: float
    method: str
    path: str
    args: dict[str, list[str]]
    status: int | None = None


class Access:
    """The record of the requests, the rate limit and the tokens."""

    def __init__(self, settings: Settings):
        self.refused_by_rate: list[Request] = []
        self.tokens_issued = 0
        self._settings = settings
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._numbers = itertools.count()
        self._arrivals: collections.deque[float] = collections.deque()
        self._tokens: dict[str, float] = {}
        self._revoked: set[str | None] = set()

    # Record

    @property
    def requests(self) -> list[Request]:
        """Return the requests so far, in the order in which they came in."""
        with self._lock:
            return list(self._requests.values())

    def forget_requests(self) -> None:
        """Empty the record."""
        with self._lock:
            self._requests.clear()

    def note_request(self, method: str, path: str, args: dict[str, list[str]]) -> int:
        """Record a request; return the number by which `note_answer` completes it."""
        with self._lock:
            number = next(self._numbers)
            self._requests[number] = Request(time.monotonic(), method, path, args)
            return number

    def note_answer(self, number: int, status: int | None) -> None:
        """Record the status of a request's answer."""
        with self._lock:
            if number in self._requests:
                self._requests[number] = replace(self._requests[number], status=status)

    # Rate limit

    def admit(self, number: int) -> None:
        """Raise AiFi's 503 if the last second already held as many requests as it may."""
        limit = self._settings.rate_limit
        with self._lock:
            now = time.monotonic()
            while self._arrivals and self._arrivals[0] <= now - 1:
                self._arrivals.popleft()
            if limit is None or len(self._arrivals) < limit:
                self._arrivals.append(now)
                return
            if number in self._requests:
                self.refused_by_rate.append(replace(self._requests[number], status=503))
        raise AifiError(503, "E_TOO_MANY_REQUESTS", f"No more than {limit} requests a second")

    # Tokens

    def issue_token(self, form: Mapping[str, str]) -> tuple[Json, int]:
        """Answer a client credentials request: (JSON, status)."""
        settings = self._settings
        if form.get("grant_type") != "client_credentials":
            return {"error": "unsupported_grant_type"}, 400
        if (form.get("client_id"), form.get("client_secret")) != (settings.client_id, settings.client_secret):
            return {"error": "invalid_client", "error_description": "Invalid client or Invalid client credentials"}, 401
        if settings.required_scope and settings.required_scope not in form.get("scope", "").split():
            return {"error": "invalid_scope", "error_description": "Invalid scopes"}, 400
        token = uuid.uuid4().hex
        with self._lock:
            self.tokens_issued += 1
            self._tokens[token] = time.monotonic() + settings.token_seconds
        return {"access_token": token, "expires_in": settings.token_seconds, "token_type": "Bearer"}, 200

    def check_token(self, header: str) -> None:
        """Raise AiFi's 401 unless the Authorization header carries a valid token."""
        kind, _, token = header.partition(" ")
        with self._lock:
            known = token == self._settings.access_token or self._tokens.get(token, 0) > time.monotonic()
            if kind.lower() != "bearer" or not token or not known or token in self._revoked:
                raise AifiError(401, "E_UNAUTHORIZED_ACCESS", "Unauthorized access")

    def revoke_tokens(self, static: bool = False) -> None:
        """Refuse every token issued so far; with `static` the one that never expires, too."""
        with self._lock:
            self._revoked.update(self._tokens)
            if static:
                self._revoked.add(self._settings.access_token)

    def restore_tokens(self) -> None:
        """Accept the revoked tokens again (those that have not expired meanwhile)."""
        with self._lock:
            self._revoked.clear()
