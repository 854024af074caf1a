"""A sandbox AiFi as tests use it: a shop, the API that serves it, the webhooks it pushes, faults to inject."""

import threading
from typing import Any

from requests import Response

from tools.sandbox.access import Access, Request
from tools.sandbox.answers import Json
from tools.sandbox.api import BASE_PATH, TOKEN_PATH, Api
from tools.sandbox.faults import Fault, Faults
from tools.sandbox.life import Life
from tools.sandbox.orders import Order
from tools.sandbox.server import Server
from tools.sandbox.shop import Shop
from tools.sandbox.times import Moment
from tools.sandbox.webhooks import Delivery, Webhooks


class Sandbox(Shop):
    """AiFi, its shops, and the line to it. All methods may be called from any thread.

    The settings (see `Settings`) are keyword arguments and attributes; what happens in the shops is in `Shop`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._access = Access(self)
        self._faults = Faults()
        self._webhooks = Webhooks(self)
        self._server = Server(Api(self, self._access, self._faults).make_app())
        self._life = Life(self)
        self._lives = False

    # Serving

    def start(self, port: int = 0) -> "Sandbox":
        """Serve on 127.0.0.1, on the port of the last time if there was one; return the sandbox."""
        self.stopping = threading.Event()
        self._server.start(port, self.stopping)
        return self

    def stop(self) -> None:
        """Refuse connections from now on, close those that are open, and end the life in the shops."""
        self.stopping.set()
        self._lives = False
        self._server.stop()

    def __enter__(self) -> "Sandbox":
        return self if self._server.runs else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def live(self, every_seconds: float = 4.0) -> None:
        """Let checkouts, payments, contests and reviews happen by themselves until `stop`."""
        self._lives = True
        self._server.spawn(self._life.run, every_seconds, self.stopping)
        self._server.spawn(self._webhooks.empty_outbox, self.stopping)

    @property
    def port(self) -> int | None:
        """Return the port of the present or the last time; None before the first."""
        return self._server.port

    @property
    def root_url(self) -> str:
        """Return the address of the server."""
        if self.port is None:
            raise RuntimeError("The sandbox has no address before start().")
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """Return the address of the API."""
        return self.root_url + BASE_PATH

    @property
    def token_url(self) -> str:
        """Return the address of the token endpoint."""
        return self.root_url + TOKEN_PATH

    # What came in

    @property
    def requests(self) -> list[Request]:
        """Return the requests so far, in the order in which they came in; token requests too."""
        return self._access.requests

    @property
    def refused_by_rate(self) -> list[Request]:
        """Return the requests that were refused for their rate, also those that are forgotten."""
        return self._access.refused_by_rate

    @property
    def tokens_issued(self) -> int:
        """Return how many tokens were issued."""
        return self._access.tokens_issued

    def forget_requests(self) -> None:
        """Empty `requests`; `refused_by_rate` keeps what it has."""
        self._access.forget_requests()

    # What goes wrong

    def revoke_tokens(self, static: bool = False) -> None:
        """Refuse every token issued so far; with `static` the one that never expires, too."""
        self._access.revoke_tokens(static)

    def restore_tokens(self) -> None:
        """Accept the revoked tokens again (those that have not expired meanwhile)."""
        self._access.restore_tokens()

    def inject(
        self,
        kind: str,
        times: int | None = 1,
        path: str | None = None,
        *,
        having: str | None = None,
        after: int = 0,
        again: bool = False,
        **details: Any,
    ) -> None:
        """Let the next `times` requests that match suffer (None: all until `heal`).

        A request counts once it has passed the rate limit and the check of its token; token requests count too. It
        suffers one fault at most: of those that strike it, the one injected first.

        :param path: only requests whose path starts so, such as "/orders/" for look-ups
        :param having: only requests with this parameter, such as "minUpdatedAt", or with this value of it: "page=0"
        :param after: so many matching requests pass before the fault strikes
        :param again: after `times` it starts anew: `after` pass, `times` suffer, until `heal`

        The kinds, with their details:
        - status: `code`=503, `retry_after`=None (text or seconds)
        - reset: the connection is reset without an answer
        - hang: the answer is made after `seconds`=3600, or never if the sandbox stops before
        - meanwhile: `action()` is called before the answer is made, such as to delete an order between two pages
        - trickle: a byte every `interval`=0.1 seconds, with `code`=None (what it would have been)
        - html: a page of HTML with `code`=200, such as a gateway's 404
        - truncated: the first half of the JSON, with headers that fit
        - no_data: an answer without its list
        - empty: 200 and `{"data": []}` by mistake, with `errors`=None (a list) beside it
        - missing_row: a list without the order at position `row`=None (the middle)
        - damaged_order: one order in the middle of the list, or the order itself, lacks its id
        - rewritten: every order is changed by `how`, a function that takes its JSON, or one of "renamed_total",
          "uuid_ids", "long_ids" (19 digits), "epoch_times", "minute_times" (2026-01-05T10:00Z), "short_offsets" (+00),
          "lower_case_times" (t and z)
        - odd_bytes: `raw`, by default a tab, in a product's name of order `order_id`=None (the first with lines)
        - huge: a body of `size`=100,000,000 bytes
        """
        self._faults.inject(Fault(kind, times, path, having, after, again, details))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.heal()

    # Webhooks

    def webhook(
        self,
        order_id: int,
        status: str | None = None,
        with_order_id: bool = True,
        session_at: str = "nested",
        time_of_issue: Moment | None = None,
    ) -> Json:
        """Return the checkout webhook of the order's present state.

        :param status: draft, completed or reviewed instead of what fits the order
        :param session_at: "nested": the session's id and times in `session`; "top": at the top level
        :param time_of_issue: by default now
        """
        return self._webhooks.checkout_body(self.orders[order_id], status, with_order_id, session_at, time_of_issue)

    def customer_webhook(self, customer_id: int) -> Json:
        """Return the webhook for a customer who was created or updated."""
        return self._webhooks.customer_body(customer_id)

    def push(self, body: Any) -> Response:
        """POST a webhook to `webhook_url`, do what the answer says about the payment, and return the answer.

        Raises requests.RequestException where no answer came.
        """
        return self._webhooks.push(body)

    @property
    def deliveries(self) -> list[Delivery]:
        """Return the webhooks that were pushed because `pushes` is set."""
        return self._webhooks.deliveries

    def announce(self, order: Order) -> None:
        """Push the order's webhook if `pushes` is set: at once, or by another thread while the sandbox lives."""
        if not (self.pushes and self.webhook_url):
            return
        body = self._webhooks.checkout_body(order)
        if self._lives:
            self._webhooks.put_in_outbox(body)
        else:
            self._webhooks.deliver(body)
