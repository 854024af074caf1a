"""What differs from one AiFi to another: all settings of a sandbox."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

CHOICES = {
    "draft_filter": ("honoured", "ignored", "refused"),
    "updated_filter": ("honoured", "ignored", "refused"),
    "beyond_depth": ("empty", "refused"),
    "past_end": ("empty", "last_page"),
    "include_contest": ("honoured", "ignored", "refused"),
    "tie_order": ("by_id", "shuffled"),
    "page_zero": ("as_one", "refused", "empty"),
    "line_items_as": ("lineItems", "products"),
}


@dataclass(kw_only=True, eq=False)
class Settings:
    """The settings; all are plain attributes that may be changed while the sandbox serves, except `seed`."""

    seed: int = 1
    stores: Sequence[int] = (1, 2)

    # Filters
    draft_filter: str = "honoured"  # what min/maxDraftCreatedAt do: "honoured", "ignored", or "refused" (400)
    updated_filter: str = "honoured"  # the same for min/maxUpdatedAt
    coarse_filters: float = 0.0  # the bounds of all time filters are cut down to a multiple of so many seconds
    filter_offset_hours: float = 0.0  # and read in a zone so far ahead of UTC, whatever zone they name

    # Pages
    updated_at_shown: bool = True  # False: orders carry no `updatedAt`
    first_page: int = 0
    page_zero: str = "as_one"  # with `first_page=1`, what page=0 is: "as_one", "refused" (400), or "empty"
    page_limit: int = 200  # a larger pageSize is taken for this
    list_lag_seconds: float = 0.0  # lists show a change only this long after it; details show it at once
    depth_limit: int | None = None  # rows that a list has at most, over all of its pages
    beyond_depth: str = "empty"  # pages that reach beyond: "empty" (or cut short), or "refused" (400)
    past_end: str = "empty"  # pages behind the last one: "empty", or "last_page" again and again
    tie_order: str = "by_id"  # orders with the same sort key: "by_id", or "shuffled" anew in each answer
    keeps_rows: bool = False  # True: an order is written once for all lists: for a bench that must not wait for it
    signed_links: bool = False  # True: the orders of lists carry a `receiptUrl` that differs in each answer

    # What this deployment offers
    # Paths that it lacks, and the status of the answer to them, such as {"/contests": 404, "/stores": 403}.
    lacking: Mapping[str, int] = field(default_factory=dict)
    include_contest: str = "honoured"  # what includeContest does: "honoured", "ignored", or "refused" (400)
    line_items_as: str = "lineItems"  # or "products" for the flat form
    line_totals: bool = True  # False: lines lack their totals, and in lists their tax rates
    currency_code: str | None = None  # orders carry this `currencyCode`; None: they carry none
    customer_addresses: bool = False  # True: customers carry an `address`, as text

    # Access
    latency_seconds: float = 0.0
    rate_limit: int | None = 20  # requests that any second may hold, of all clients together; None: no limit
    access_token: str | None = "sandbox-token"  # the token that never expires; None: there is none
    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"
    token_seconds: float = 300
    required_scope: str | None = None  # without this scope the token endpoint answers 400
    clock_offset_seconds: float = 0.0  # how far the sandbox's clock is ahead of the true time

    # Webhooks
    pushes: bool = False  # True: checkouts, completions and reviews are pushed to `webhook_url`
    webhook_url: str | None = None
    webhook_secret: str = "sandbox-webhook-secret"

    def __post_init__(self) -> None:
        self.stores = tuple(self.stores)

    def __setattr__(self, name: str, value: object) -> None:
        if name in CHOICES:
            check_choice(name, value, CHOICES[name])
        super().__setattr__(name, value)


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError if the value is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(str, choices))}")
