"""What can be wrong: the causes, each with a remedy in `diagnosis`, and the errors that more than one room raises."""

from enum import Enum


class Cause(str, Enum):
    """Why something does not work. The values are shown in `/healthz` and name the notes in the database."""

    AIFI_TOKEN_REFUSED = "aifi_token_refused"  # noqa: S105 - a name
    AIFI_REFUSES = "aifi_refuses"
    AIFI_UNAVAILABLE = "aifi_unavailable"
    AIFI_UNREADABLE = "aifi_unreadable"
    AIFI_ORDER_UNREADABLE = "aifi_order_unreadable"
    AIFI_CUSTOMERS_REFUSED = "aifi_customers_refused"
    UNEXPECTED = "unexpected"
    DATABASE_UNAVAILABLE = "database_unavailable"
    DISK_FULL = "disk_full"
    NO_ORDERS = "no_orders"
    AIDE_KEY_WRONG = "aide_key_wrong"
    AIDE_SILENT = "aide_silent"
    AIDE_KEY_ABSENT = "aide_key_absent"
    WEBHOOK_SECRET_MISSING = "webhook_secret_missing"  # noqa: S105 - a name
    WEBHOOK_SECRET_WRONG = "webhook_secret_wrong"  # noqa: S105 - a name
    WEBHOOK_SECRET_ABSENT = "webhook_secret_absent"  # noqa: S105 - a name
    WEBHOOK_NOT_POSTED = "webhook_not_posted"
    WEBHOOK_REFUSED = "webhook_refused"
    PUBLIC_URL_UNREACHABLE = "public_url_unreachable"
    PAYMENT_ENDPOINT_FAILED = "payment_endpoint_failed"
    SEVERAL_INSTANCES = "several_instances"
    VARIABLE_MISSPELT = "variable_misspelt"

    __str__ = str.__str__


class BridgeError(Exception):
    """Something that the bridge needs does not work; the text says what, for people, and holds no secret."""

    cause: Cause


class StoreError(BridgeError):
    """The mirror cannot be read or written now. Trying again later may help."""

    cause = Cause.DATABASE_UNAVAILABLE


class Damage(StoreError):
    """What the database holds is of no use: trying again does not help, beginning anew does."""


class Unexpected(BridgeError):
    """Something failed that no rule foresees; the log has the details."""

    cause = Cause.UNEXPECTED

    def __init__(self, error: BaseException):
        super().__init__(f"an unexpected {type(error).__name__}; the log tells more")
