"""What a request asks for, read from its parameters; what AiFi would not accept is refused in its words."""

from collections.abc import Callable, Collection
from typing import Any

from werkzeug.datastructures import MultiDict

from tools.sandbox.answers import AifiError
from tools.sandbox.lists import EVERYTHING, LAST_VALUE, Query
from tools.sandbox.orders import EXTERNAL_STATUSES, ROLES, STATUSES, Order
from tools.sandbox.settings import Settings
from tools.sandbox.stores import read_cursor
from tools.sandbox.times import HOUR_MS, milliseconds

DEFAULT_PAGE_SIZE = 50
DEFAULT_CONTESTS_SIZE = 10
DEFAULT_STORES_COUNT, STORES_LIMIT = 20, 200
CONTEST_STATUSES = ("contested", "reviewed")

Args = MultiDict[str, str]


def read_query(args: Args, settings: Settings) -> tuple[Query | None, int]:
    """Return (query, page number); the query is None where the page is before the first one and stays empty."""
    size = min(_integer(args, "pageSize", DEFAULT_PAGE_SIZE, 1), settings.page_limit)
    page = _integer(args, "page", settings.first_page, 0)
    if page < settings.first_page and settings.page_zero == "refused":
        raise _malformed("page", "min", f"{settings.first_page} or more")
    if page < settings.first_page and settings.page_zero == "empty":
        return None, page
    offset = max(0, page - settings.first_page) * size
    query = Query(
        order_by=_one_of(args, "orderBy", "id", ("id", "storeId", "totalPrice", "draftCreatedAt")),
        descending=_one_of(args, "direction", "asc", ("asc", "desc")) == "desc",
        offset=offset,
        limit=_rows_within_depth(offset, size, settings),
        ranges=_read_ranges(args, settings),
        wanted=_read_wanted(args),
    )
    return query, page


def read_contests_page(args: Args, settings: Settings) -> tuple[int, int]:
    """Return (offset, size) of a page of contests."""
    size = min(_integer(args, "pageSize", DEFAULT_CONTESTS_SIZE, 1), settings.page_limit)
    return _integer(args, "page", 0, 0) * size, size


def read_contest_filter(args: Args, settings: Settings) -> Callable[[Order], bool]:
    """Return the test that the order of a contest passes when the request wants it."""
    created, updated = (
        (_bound(args, f"min{name}", EVERYTHING[0], settings), _bound(args, f"max{name}", LAST_VALUE, settings))
        for name in ("CreatedAt", "UpdatedAt")
    )
    statuses = _all_of(args, "status", CONTEST_STATUSES)
    order_id, store_id = _integer(args, "orderId", -1, 0), _integer(args, "storeId", -1, 0)

    def matches(order: Order) -> bool:
        contest = order.contest
        return (
            contest is not None
            and created[0] <= contest.opened_at <= created[1]
            and updated[0] <= contest.updated_at <= updated[1]
            and (not statuses or contest.status in statuses)
            and order_id in (-1, order.id)
            and store_id in (-1, order.store_id)
        )

    return matches


def read_stores_page(args: Args) -> tuple[int, int | None, int | None]:
    """Return (count, after, before) of a page of stores, the last two as ids."""
    count = _integer(args, "count", DEFAULT_STORES_COUNT, 1)
    if count > STORES_LIMIT:
        raise _malformed("count", "max", f"{STORES_LIMIT} or less")
    return count, _cursor(args, "after"), _cursor(args, "before")


def read_include_contest(args: Args, settings: Settings) -> bool:
    """Return whether the orders of a list are wanted with their contests."""
    if "includeContest" in args and settings.include_contest == "refused":
        raise _malformed("includeContest", "unknown", "left out")
    return read_flag(args, "includeContest") and settings.include_contest == "honoured"


def read_flag(args: Args, name: str) -> bool:
    """Return a parameter that is true or false, and false by default."""
    return _one_of(args, name, "false", ("true", "false", "1", "0")) in ("true", "1")


def read_id(name: str, text: str) -> int:
    """Return an id from a path."""
    if not _is_natural(text):
        raise _malformed(name, "integer", "an integer")
    return int(text)


def _rows_within_depth(offset: int, size: int, settings: Settings) -> int:
    """Return how many of a page's rows lie within the depth limit."""
    limit = settings.depth_limit
    if limit is None or offset + size <= limit:
        return size
    if settings.beyond_depth == "refused":
        raise _malformed("page", "max", f"such that page and pageSize stay within {limit} rows")
    return max(0, limit - offset)


def _read_ranges(args: Args, settings: Settings) -> dict[str, tuple[float, float]]:
    """Return {sort key: (low, high)} in milliseconds, both included."""
    ranges = {}
    filters = {
        "DraftCreatedAt": settings.draft_filter,
        "CreatedAt": "honoured",
        "UpdatedAt": settings.updated_filter,
    }
    for name, treatment in filters.items():
        given = [bound for bound in (f"min{name}", f"max{name}") if bound in args]
        low = _bound(args, f"min{name}", EVERYTHING[0], settings)
        high = _bound(args, f"max{name}", LAST_VALUE, settings)
        if given and treatment == "refused":
            raise _malformed(given[0], "unknown", "left out")
        if given and treatment == "honoured":
            ranges[name[0].lower() + name[1:]] = (low, high)
    return ranges


def _bound(args: Args, name: str, default: float, settings: Settings) -> float:
    """Return the bound of a time filter as this deployment reads it.

    The bound alone is cut and moved, not the times of the orders that it is compared with. A zone that is ahead of UTC
    means that its clocks show the bound's time earlier.
    """
    if name not in args:
        return default
    try:
        bound = milliseconds(args[name])
    except ValueError:
        raise _malformed(name, "date", "an ISO 8601 date") from None
    if settings.coarse_filters:
        bound -= bound % (settings.coarse_filters * 1000)
    return bound - settings.filter_offset_hours * HOUR_MS


def _read_wanted(args: Args) -> dict[str, set[Any]]:
    """Return {field of the order: the values that pass} of the filters given."""
    stores, customers = _integer(args, "storeId", -1, 0), _integer(args, "customerId", -1, 0)
    wanted: dict[str, set[Any]] = {
        "status": _all_of(args, "status", STATUSES),
        "external_status": _all_of(args, "externalStatus", EXTERNAL_STATUSES),
        "role": _all_of(args, "customerRole", ROLES),
        "session_id": set(args.getlist("sessionId")),
        "external_id": set(args.getlist("externalId")),
        "store_id": {stores} - {-1},
        "customer_id": {customers} - {-1},
    }
    return {name: values for name, values in wanted.items() if values}


def _integer(args: Args, name: str, default: int, least: int) -> int:
    text = args.get(name)
    if text is None:
        return default
    if not _is_natural(text) or int(text) < least:
        raise _malformed(name, "integer", f"an integer of {least} or more")
    return int(text)


def _is_natural(text: str) -> bool:
    return text.isdecimal() and len(text) < 19


def _cursor(args: Args, name: str) -> int | None:
    if name not in args:
        return None
    try:
        return read_cursor(args[name])
    except ValueError:
        raise _malformed(name, "cursor", "an id or a cursor") from None


def _one_of(args: Args, name: str, default: str, choices: Collection[str]) -> str:
    value = args.get(name, default)
    if value not in choices:
        raise _malformed(name, "enum", "one of " + ", ".join(choices))
    return value


def _all_of(args: Args, name: str, choices: Collection[str]) -> set[str]:
    values = args.getlist(name)
    for value in values:
        if value not in choices:
            raise _malformed(name, "enum", "one of " + ", ".join(choices))
    return set(values)


def _malformed(name: str, rule: str, wanted: str) -> AifiError:
    return AifiError(400, "E_VALIDATION_FAILURE", f"{name} must be {wanted}", rule, name)
