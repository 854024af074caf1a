"""The stores, and a list of them that is paged by cursors."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

# City, region, country, postal code, street.
PLACES = (
    ("Berlin", "Berlin", "DE", "10115", "Invalidenstraße 12"),
    ("Hamburg", "Hamburg", "DE", "20095", "Mönckebergstraße 7"),
    ("London", "England", "GB", "EC1A 1BB", "Aldersgate Street 40"),
    ("San Francisco", "California", "US", "94103", "Market Street 901"),
)


def store_json(store_id: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a store as `GET /stores` answers it, with some of its fields changed."""
    city, region, country, postal_code, street = PLACES[(store_id - 1) % len(PLACES)]
    return {
        "id": str(store_id),
        "name": f"sandbox-{city.lower().replace(' ', '-')}-{country.lower()}-{store_id}",
        "displayableName": f"Sandbox {city} {store_id}",
        "status": "OPEN",
        "deploymentStatus": "LIVE",
        "addressLine1": street,
        "addressCity": city,
        "addressRegion": region,
        "addressCountry": country,
        "addressPostalCode": postal_code,
        "externalId": f"store-{store_id}",
        **changes,
    }


def stores_page(ids: Sequence[int], count: int, after: int | None, before: int | None) -> list[int]:
    """Return the first `count` ids behind `after`, or the last `count` ones in front of `before`, rising."""
    between = [
        store_id
        for store_id in sorted(ids)
        if (after is None or store_id > after) and (before is None or store_id < before)
    ]
    return between[-count:] if before is not None and after is None else between[:count]


def write_cursor(store_id: int) -> str:
    """Return the cursor of a store."""
    return base64.urlsafe_b64encode(f"id:{store_id}".encode()).decode()


def read_cursor(text: str) -> int:
    """Return the id of the store that a cursor stands for, which may be the id itself; raise ValueError."""
    if text.isdecimal():
        return int(text)
    try:
        name, _, store_id = base64.urlsafe_b64decode(text).decode().partition(":")
    except ValueError:
        raise ValueError(f"{text!r} is not a cursor") from None
    if name != "id":
        raise ValueError(f"{text!r} is not a cursor")
    return int(store_id)
