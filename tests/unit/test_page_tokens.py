"""The page token: opaque, fit for a URL, and of no use once it was changed."""

import pytest

from app import decode_token, encode_token
from tests.support import table

UPDATED = "2025-11-01T11:00:00.000Z"


@pytest.mark.parametrize("order_id", ["7", "session with blanks", "å☃", "", " "], ids=ascii)
def test_a_page_token_comes_back_as_it_went(order_id):
    assert decode_token(encode_token((UPDATED, order_id))) == (UPDATED, order_id)


def test_a_page_token_fits_into_a_url_as_it_is():
    token = encode_token((UPDATED, "session/of?hostile&name=☃"))
    assert token.replace("-", "").replace("_", "").isalnum()
    assert token.isascii()


@pytest.mark.parametrize("position", range(0, 44, 4))
def test_a_page_token_with_one_letter_changed_is_refused(position):
    token = encode_token((UPDATED, "7"))
    damaged = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
    with pytest.raises(ValueError):  # noqa: PT011
        decode_token(damaged)


@pytest.mark.parametrize(
    "change",
    **table(
        {
            "empty": lambda token: "",
            "cut": lambda token: token[:-1],
            "cut in the middle": lambda token: token[: len(token) // 2],
            "twice": lambda token: token * 2,
            "padded": lambda token: token + "=",
            "blank before": lambda token: " " + token,
            "newline after": lambda token: token + "\n",
            "other alphabet": lambda token: token + "+/",
            "no base64": lambda token: "%00",
            "no ASCII": lambda token: "é" + token,
            "surrogate": lambda token: "\ud800",
            "NUL": lambda token: "\0" * 8,
            "long": lambda token: "A" * 100_000,
            "a foreign token": lambda token: "eyJwYWdlIjoyfQ",
        }
    ),
)
def test_a_foreign_or_damaged_page_token_is_refused(change):
    with pytest.raises(ValueError):  # noqa: PT011
        decode_token(change(encode_token((UPDATED, "7"))))
