"""What tests of more than one layer are written with."""

from typing import Any


def table(cases: dict[str, Any]) -> dict[str, Any]:
    """Return a table of cases by id as arguments for `parametrize`."""
    return {"argvalues": list(cases.values()), "ids": list(cases)}
