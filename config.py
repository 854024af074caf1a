"""Every variable that an operator may set: read once, and all that is wrong named at once."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

VARIABLES = {
    "AIDE_API_KEY": "",
    "AIFI_ACCESS_TOKEN": "",
    "AIFI_CLIENT_ID": "",
    "AIFI_CLIENT_SECRET": "",
    "AIFI_TOKEN_URL": "https://auth.aifi.com/realms/aifi/protocol/openid-connect/token",
    "AIFI_TOKEN_SCOPE": "",
    "AIFI_BASE_URL": "https://api.aifi.com/api/admin/v2",
    "AIFI_WEBHOOK_SECRET": "",
    "PAYMENT_WEBHOOK_URL": "",
    "AIFI_CURRENCY": "",
    "AIFI_STORE_ID": "",
    "AIFI_CUSTOMER_ROLE": "",
    "REFRESH_SECONDS": "30",
    "REFRESH_WAIT_SECONDS": "3",
    "DATABASE_PATH": "orders.db",
    "LOG_LEVEL": "INFO",
    "PORT": "8000",
    "WEB_CONCURRENCY": "1",
}
MAX_WAIT_SECONDS = 20  # Heroku's router gives up after 30
MAX_PORT, MAX_WORKERS = 65535, 64


class ConfigError(Exception):
    """The environment lacks something or holds something malformed; the text names each variable and the remedy."""


@dataclass(frozen=True)
class Config:
    """All that an operator may set, read once; seconds where a number is a time."""

    aide_api_keys: tuple[str, ...]
    token: Mapping[str, str]  # the arguments of `aifi.Token`
    base_url: str
    webhook_secret: str
    payment_webhook_url: str
    refresh_seconds: float
    refresh_wait_seconds: float
    store_ids: tuple[str, ...]
    roles: tuple[str, ...]
    currency: str
    database_path: str
    log_level: str
    port: int
    workers: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Config":
        """Read the variables; an empty one counts as unset.

        :raises ConfigError: naming all that is wrong
        """
        reader = _Reader(environment)
        config = cls(
            aide_api_keys=reader.keys("AIDE_API_KEY"),
            token=reader.credentials(),
            base_url=reader.url("AIFI_BASE_URL"),
            webhook_secret=reader.text("AIFI_WEBHOOK_SECRET"),
            payment_webhook_url=reader.url("PAYMENT_WEBHOOK_URL"),
            refresh_seconds=reader.seconds("REFRESH_SECONDS", most=86400),
            refresh_wait_seconds=reader.seconds("REFRESH_WAIT_SECONDS", most=MAX_WAIT_SECONDS),
            store_ids=reader.listed("AIFI_STORE_ID", r"\d+", "whole numbers"),
            roles=reader.listed("AIFI_CUSTOMER_ROLE", r"\w+", "AiFi's roles, such as customer"),
            currency=reader.matching("AIFI_CURRENCY", r"[A-Z]{3}", "a currency code such as USD"),
            database_path=reader.text("DATABASE_PATH"),
            log_level=reader.matching("LOG_LEVEL", "DEBUG|INFO|WARNING|ERROR", "DEBUG, INFO, WARNING or ERROR"),
            port=reader.whole_number("PORT", most=MAX_PORT),
            workers=reader.whole_number("WEB_CONCURRENCY", most=MAX_WORKERS),
        )
        if reader.problems:
            raise ConfigError("\n".join(f"✗ {problem}" for problem in reader.problems))
        return config

    def origin(self) -> dict[str, str]:
        """Return what decides which orders are mirrored, by variable; secrets as fingerprints."""
        return {
            "AIFI_BASE_URL": self.base_url,
            "AIFI_STORE_ID": ",".join(self.store_ids),
            "AIFI_CUSTOMER_ROLE": ",".join(self.roles),
            "AIFI_CURRENCY": self.currency,
        }


def read_config(environment: Mapping[str, str]) -> Config:
    """Read the variables for a process that cannot go on without them.

    :raises SystemExit: with a text that says what to set
    """
    try:
        return Config.from_environment(environment)
    except ConfigError as error:
        raise SystemExit(f"The bridge cannot start:\n{error}") from None


class _Reader:
    """Reads variables, and gathers what is wrong with them instead of stopping at the first."""

    def __init__(self, environment: Mapping[str, str]):
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self._environment.get(name, "").strip() or VARIABLES[name]

    def keys(self, name: str) -> tuple[str, ...]:
        keys = tuple(key.strip() for key in self.text(name).split(",") if key.strip())
        if not keys:
            self.problems.append(f"{name} is not set: set it to a long random text, and give that to Aide as its key")
        return keys

    def credentials(self) -> dict[str, str]:
        names = ("AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET")
        access_token, client_id, client_secret = map(self.text, names)
        if access_token and not re.fullmatch(r"[!-~]+", access_token):
            self.problems.append(
                "AIFI_ACCESS_TOKEN holds a blank or another character that no header can carry: copy it again"
            )
        if not access_token and not (client_id and client_secret):
            self.problems.append(
                "AIFI_ACCESS_TOKEN is not set: set it to the API key from AiFi, or set both AIFI_CLIENT_ID and "
                "AIFI_CLIENT_SECRET from AiFi's console"
            )
        return {
            "access_token": access_token,
            "client_id": client_id,
            "client_secret": client_secret,
            "url": self.url("AIFI_TOKEN_URL"),
            "scope": self.text("AIFI_TOKEN_SCOPE"),
        }

    def url(self, name: str) -> str:
        text = self.text(name)
        if text and not _is_web_address(text):
            self.problems.append(f"{name} is not a web address: set it to one that begins with https://")
        return text

    def seconds(self, name: str, most: float) -> float:
        try:
            number = float(self.text(name))
        except ValueError:
            number = math.nan
        if not 0 <= number <= most:
            self.problems.append(f"{name} is {self.text(name)!r}: set it to a number of seconds from 0 to {most:g}")
        return number

    def whole_number(self, name: str, most: int) -> int:
        text = self.text(name)
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
            self.problems.append(f"{name} is {text!r}: set it to a whole number from 1 to {most}")
            return 1
        return int(text)

    def listed(self, name: str, pattern: str, meaning: str) -> tuple[str, ...]:
        values = tuple(value.strip() for value in self.text(name).split(",") if value.strip())
        if not all(re.fullmatch(pattern, value, re.ASCII) for value in values):
            self.problems.append(f"{name} is {self.text(name)!r}: set it to {meaning}, separated by commas")
        return values

    def matching(self, name: str, pattern: str, meaning: str) -> str:
        text = self.text(name).upper()
        if text and not re.fullmatch(pattern, text):
            self.problems.append(f"{name} is {self.text(name)!r}: set it to {meaning}")
        return text


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False
