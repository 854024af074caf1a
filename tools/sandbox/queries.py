"""What a request asks for, read from its parameters; what AiFi would not accept is refused in its words."""

from collections.abc import Collection
from typing import Any

from werkzeug.datastructures import MultiDict

from tools.sandbox.answers import AifiError
from tools.sandbox.lists import EVERYTHING, Query
from tools.sandbox.orders import CREATED_BEFORE_DRAFT_MS, ROLES, STATUSES
from tools.sandbox.settings import Settings
from tools.sandbox.times import milliseconds

DEFAULT_PAGE_SIZE = 50

Args = MultiDict[str, str]


def read_query(args: Args, settings: Settings) -> tuple[Query | None, int]:
    """Return (query, page number); the query is None where the page is before the first one and stays empty."""
    size = min(_integer(args, "pageSize", DEFAULT_PAGE_SIZE, 1), settings.page_limit)
    page = _integer(args, "page", settings.first_page, 0)
    if page < settings.first_page and settings.page_zero == "refused":
        raise _malformed("page", "min", f"{settings.first_page} or more")
    if page < settings.first_page and settings.page_zero == "empty":
        return None, page
    query = Query(
        order_by=_one_of(args, "orderBy", "id", ("id", "storeId", "totalPrice", "draftCreatedAt")),
        descending=_one_of(args, "direction", "asc", ("asc", "desc")) == "desc",
        offset=max(0, page - settings.first_page) * size,
        limit=size,
        ranges=_read_ranges(args, settings),
        wanted=_read_wanted(args),
    )
    return query, page


def read_flag(args: Args, name: str) -> bool:
    """Return a parameter that is true or false, and false by default."""
    return _one_of(args, name, "false", ("true", "false", "1", "0")) in ("true", "1")


def read_id(name: str, text: str) -> int:
    """Return an id from a path."""
    if not _is_natural(text):
        raise _malformed(name, "integer", "an integer")
    return int(text)


def _read_ranges(args: Args, settings: Settings) -> dict[str, tuple[float, float]]:
    """Return {sort key: (low, high)} in milliseconds, both included."""
    bounds = {
        name: (_moment(args, f"min{name}", EVERYTHING[0]), _moment(args, f"max{name}", EVERYTHING[1]))
        for name in ("DraftCreatedAt", "CreatedAt", "UpdatedAt")
    }
    if bounds["UpdatedAt"] != EVERYTHING and settings.updated_filter == "refused":
        raise _malformed("minUpdatedAt", "unknown", "left out")
    if settings.updated_filter == "ignored":
        bounds["UpdatedAt"] = EVERYTHING
    # An order's creation lies a fixed time before its draft, so both bounds become one range.
    drafts, creations = bounds["DraftCreatedAt"], [bound + CREATED_BEFORE_DRAFT_MS for bound in bounds["CreatedAt"]]
    ranges = {
        "draftCreatedAt": (max(drafts[0], creations[0]), min(drafts[1], creations[1])),
        "updatedAt": bounds["UpdatedAt"],
    }
    return {name: bound for name, bound in ranges.items() if bound != EVERYTHING}


def _read_wanted(args: Args) -> dict[str, set[Any]]:
    """Return {field of the order: the values that pass} of the filters given."""
    stores, customers = _integer(args, "storeId", -1, 0), _integer(args, "customerId", -1, 0)
    wanted: dict[str, set[Any]] = {
        "status": _all_of(args, "status", STATUSES),
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


def _moment(args: Args, name: str, default: float) -> float:
    if name not in args:
        return default
    try:
        return milliseconds(args[name])
    except ValueError:
        raise _malformed(name, "date", "an ISO 8601 date") from None


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
