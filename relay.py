"""The relay is a pipe: AiFi's webhooks go on to the retailer's payment endpoint, and its answers come back."""

import concurrent.futures
import contextlib
import logging
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from errors import BridgeError, Cause
from transport import NETWORK_ERRORS, read_body

log = logging.getLogger("bridge.relay")

RELAY_HEADER = "X-Bridge-Relay"  # on what a relay sends, so that it is known if it comes back
PAYMENT_CONNECT_SECONDS, PAYMENT_SECONDS = 3, 10
MAX_PAYMENT_BYTES = 1024 * 1024
MAX_WAITING = 12  # of the 16 threads in gunicorn.conf.py: Aide and the health check need the others
MAX_CALLS = 3 * MAX_WAITING  # with those that nobody waits for any longer
ANSWER_HEADERS = ("Content-Type", "Retry-After", "Location")
WINDOW_BITS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}  # deflate: with zlib's frame, or without


class PaymentFailed(BridgeError):
    """The payment endpoint gave no answer, or none that can be passed back."""

    cause = Cause.PAYMENT_ENDPOINT_FAILED

    def __init__(self, reason: str):
        super().__init__(f"The retailer's payment endpoint did not answer ({reason})")


class PaymentOverloaded(BridgeError):
    """A webhook was not passed on, as too many wait for the payment endpoint."""

    cause = Cause.PAYMENT_ENDPOINT_FAILED

    def __init__(self) -> None:
        super().__init__("The retailer's payment endpoint is slow, and too many webhooks wait for it")


class BodyError(ValueError):
    """A body that cannot be unpacked; `code` says why in one word: unsupported, too large or damaged."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class PaymentAnswer:
    """What the payment endpoint answered; `loops` if it was this bridge."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    loops: bool = False

    def failure(self) -> str:
        """Return in words what is wrong with the answer; nothing where it is a 2xx."""
        if 200 <= self.status < 300:
            return ""
        reason = ""
        if self.loops:
            reason = ": PAYMENT_WEBHOOK_URL leads back to this bridge"
        elif 300 <= self.status < 400:
            reason = ", a redirect: set PAYMENT_WEBHOOK_URL to where it leads"
        return f"The retailer's payment endpoint answers {self.status}{reason}"


class PaymentRelay:
    """Passes webhooks on to the retailer's payment endpoint; bounds how long, and how many at once, wait for it."""

    def __init__(self, url: str):
        self._url = url
        self._seats = threading.BoundedSemaphore(MAX_WAITING)
        self._calls = threading.BoundedSemaphore(MAX_CALLS)

    def pass_on(self, body: bytes, headers: Mapping[str, str], meanwhile: Callable[[], None]) -> PaymentAnswer:
        """Send a webhook, do `meanwhile` in any case, and return the answer.

        :raises PaymentFailed: there is no complete answer within PAYMENT_SECONDS
        :raises PaymentOverloaded: the webhook was not sent
        """
        if not self._seats.acquire(blocking=False):
            meanwhile()
            raise PaymentOverloaded
        try:
            deadline = time.monotonic() + PAYMENT_SECONDS
            call = self._start(body, headers)
            meanwhile()
            return call.result(max(0.0, deadline - time.monotonic()))
        except concurrent.futures.TimeoutError:
            raise PaymentFailed(f"timed out after {PAYMENT_SECONDS} s") from None
        finally:
            self._seats.release()

    def _start(self, body: bytes, headers: Mapping[str, str]) -> "concurrent.futures.Future[PaymentAnswer]":
        """Send a webhook in a thread of its own: `requests` bounds the wait for each byte, but not for all of them."""
        call: concurrent.futures.Future[PaymentAnswer] = concurrent.futures.Future()
        if self._calls.acquire(blocking=False):
            threading.Thread(target=self._run, args=(call, body, headers), daemon=True, name="payment").start()
        else:
            call.set_exception(PaymentOverloaded())
        return call

    def _run(self, call: "concurrent.futures.Future[PaymentAnswer]", body: bytes, headers: Mapping[str, str]) -> None:
        try:
            call.set_result(self._send(body, headers))
        except BodyError:
            call.set_exception(PaymentFailed("the answer is cut, damaged or too large"))
        except NETWORK_ERRORS as error:
            call.set_exception(PaymentFailed(type(error).__name__))  # the error's text may hold the URL
        except Exception as error:
            log.exception("The payment endpoint's answer could not be read")
            call.set_exception(PaymentFailed(type(error).__name__))
        finally:
            self._calls.release()

    def _send(self, body: bytes, headers: Mapping[str, str]) -> PaymentAnswer:
        user = requests.utils.get_auth_from_url(self._url)
        options: dict[str, Any] = {
            "headers": {**headers, "Accept-Encoding": "identity", RELAY_HEADER: "1"},
            "auth": user if any(user) else _leave_alone,
            "timeout": (PAYMENT_CONNECT_SECONDS, PAYMENT_SECONDS),
        }
        with _PipeSession() as session, session.post(self._url, body, stream=True, **options) as answer:
            # Without this header urllib3 leaves the bytes as they came; it would not notice that a gzip is cut.
            encoding = answer.raw.headers.pop("Content-Encoding", "").lower()
            text = read_body(answer, PAYMENT_SECONDS, MAX_PAYMENT_BYTES)
            names = [*ANSWER_HEADERS]
            if encoding in WINDOW_BITS:
                text = decompress(text, encoding, MAX_PAYMENT_BYTES)
            else:
                names.append("Content-Encoding")
            kept = {name: value for name in names if (value := answer.headers.get(name)) and value.isprintable()}
            return PaymentAnswer(answer.status_code, text, kept, RELAY_HEADER in answer.headers)


class _PipeSession(requests.Session):
    """A session that treats a redirect like any other answer.

    `requests` consumes the body of one even if told not to follow it.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keep `requests` from looking for a password in ~/.netrc, which would take the place of AiFi's header."""
    return request


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """Return what a body with this `Content-Encoding` holds, without ever unpacking more than `limit` bytes.

    :raises BodyError: it holds more, is cut or damaged, or is encoded otherwise than by gzip or deflate
    """
    encoding = encoding.strip().lower() if data else ""
    if encoding not in ("", "identity", *WINDOW_BITS):
        raise BodyError("unsupported_encoding", "Content-Encoding must be gzip, deflate or absent.")
    plain = _inflate(data, encoding, limit) if encoding in WINDOW_BITS else data
    if len(plain) > limit:
        raise BodyError("request_entity_too_large", f"The body is larger than {limit // 1024**2} MB.")
    return plain


def _inflate(data: bytes, encoding: str, limit: int) -> bytes:
    """Return the first bytes that a gzip or deflate holds, one more than `limit` at most."""
    for bits in WINDOW_BITS[encoding]:
        stream = zlib.decompressobj(bits)
        with contextlib.suppress(zlib.error):
            plain = stream.decompress(data, limit + 1)
            if stream.eof or len(plain) > limit:
                return plain
    raise BodyError("invalid_body", f"The body is not {encoding}, or it is cut.")
