"""Every variable that an operator may set: read once, and all that is wrong named at once."""

import difflib
import hashlib
import math
import re
from collections.abc import Iterator, Mapping
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
    "DATABASE_URL": "",
    "LOG_LEVEL": "INFO",
    "PORT": "8000",
    "WEB_CONCURRENCY": "1",
}
WEBHOOK_PATH = "/webhooks/aifi"  # where the bridge takes AiFi's webhooks
LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0", "::1")  # noqa: S104 - nothing is bound here
MAX_WAIT_SECONDS = 20  # Heroku's router gives up after 30
MAX_PORT, MAX_WORKERS = 65535, 64


class ConfigError(Exception):
    """The environment lacks something or holds something malformed; the text names each variable and the remedy."""


@dataclass(frozen=True)
class Config:
    """All that an operator may set, read once; seconds where a number is a time."""

    aide_api_keys: tuple[str, ...]
    token: Mapping[str, str]  # the arguments of `transport.Token`
    base_url: str
    webhook_secret: str
    payment_webhook_url: str
    refresh_seconds: float
    refresh_wait_seconds: float
    store_ids: tuple[str, ...]
    roles: tuple[str, ...]
    currency: str
    database_path: str
    database_url: str  # with user and password; empty: the file
    log_level: str
    port: int
    workers: int
    public_url: str  # where the platform says that the bridge is reached; empty: it does not say
    warnings: tuple[str, ...]  # what is probably a mistake, but does not keep the bridge from starting

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Config":
        """Read the variables; an empty one counts as unset.

        :raises ConfigError: naming all that is wrong
        """
        reader = _Reader(environment)
        config = cls(
            aide_api_keys=reader.keys("AIDE_API_KEY"),
            token=reader.credentials(),
            base_url=reader.base_url("AIFI_BASE_URL"),
            webhook_secret=reader.secret("AIFI_WEBHOOK_SECRET"),
            payment_webhook_url=reader.url("PAYMENT_WEBHOOK_URL"),
            refresh_seconds=reader.seconds("REFRESH_SECONDS", most=86400),
            refresh_wait_seconds=reader.seconds("REFRESH_WAIT_SECONDS", most=MAX_WAIT_SECONDS),
            store_ids=reader.listed("AIFI_STORE_ID", r"\d+", "whole numbers"),
            roles=reader.listed("AIFI_CUSTOMER_ROLE", r"\w+", "AiFi's roles, such as customer"),
            currency=reader.matching("AIFI_CURRENCY", r"[A-Z]{3}", "a currency code such as USD"),
            database_path=reader.text("DATABASE_PATH"),
            database_url=reader.server("DATABASE_URL"),
            log_level=reader.matching("LOG_LEVEL", "DEBUG|INFO|WARNING|ERROR", "DEBUG, INFO, WARNING or ERROR"),
            port=reader.whole_number("PORT", most=MAX_PORT),
            workers=reader.whole_number("WEB_CONCURRENCY", most=MAX_WORKERS),
            public_url=_public_url(environment),
            warnings=tuple(_misspelt(environment)),
        )
        reader.refuse_own_address(config)
        if reader.problems:
            raise ConfigError("\n".join(f"✗ {problem}" for problem in (*reader.problems, *config.warnings)))
        return config

    @property
    def filters(self) -> dict[str, tuple[str, ...]]:
        """Return the variables that leave orders out, with their values; only those that are set."""
        filters = {"AIFI_STORE_ID": self.store_ids, "AIFI_CUSTOMER_ROLE": self.roles}
        return {name: values for name, values in filters.items() if values}

    def origin(self) -> dict[str, str]:
        """Return what decides which orders are mirrored, by variable; secrets as fingerprints."""
        account = self.token["access_token"] or self.token["client_id"]
        return {
            "AIFI_BASE_URL": self.base_url,
            "AIFI_ACCESS_TOKEN or AIFI_CLIENT_ID": hashlib.sha256(account.encode()).hexdigest()[:12],
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


# --- addresses


def complete_address(text: str) -> str:
    """Return a web address, with the scheme that a bare host lacks; an empty text where it is not an address."""
    if bare := re.fullmatch(r"(localhost|[\w-]+(?:\.[\w-]+)+)(:\d+)?(/\S*)?", text, re.ASCII):
        text = f"{'http' if bare[1] in LOCAL_HOSTS else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return ""
    return text if usable and not re.search(r"\s", text) else ""


def is_own_webhook(url: str, own_url: str) -> bool:
    """Return whether an address is that of the webhooks of a bridge at `own_url`, whatever the scheme."""
    path = re.sub("/+", "/", urlsplit(url).path).rstrip("/")
    return path == WEBHOOK_PATH and _host_and_port(url) == _host_and_port(own_url)


def _host_and_port(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, None if parts.port in (80, 443) else parts.port


def _public_url(environment: Mapping[str, str]) -> str:
    """Return the address that Render or, with its dyno metadata switched on, Heroku gave the service."""
    names = ("RENDER_EXTERNAL_URL", "HEROKU_APP_DEFAULT_DOMAIN_NAME")
    return next((url for name in names if (url := complete_address(environment.get(name, "")))), "").rstrip("/")


# --- misspelt variables

OFTEN_MEANT = dict.fromkeys(("AIFI_API_KEY", "AIFI_KEY", "AIFI_TOKEN"), "AIFI_ACCESS_TOKEN")  # closer to others
OWN_PREFIXES, OWN_LIKENESS, LIKENESS = ("AIFI_", "AIDE_"), 0.6, 0.85


def _misspelt(environment: Mapping[str, str]) -> Iterator[str]:
    """Name each variable that is nearly one of the bridge's, with the one that is probably meant."""
    candidates = VARIABLES.keys() - {"PORT"}  # too short to be recognised
    for name in sorted(name for name, text in environment.items() if text.strip() and name not in VARIABLES):
        word = name.upper()
        likeness = OWN_LIKENESS if word.startswith(OWN_PREFIXES) else LIKENESS
        likely = OFTEN_MEANT.get(word) or next(iter(difflib.get_close_matches(word, candidates, 1, likeness)), None)
        if likely:
            yield f"{name} is not a variable of the bridge, but {likely} is"


# --- the variables, one by one

BLANKS = " \t\r\n\f\v\u00a0\u200b\ufeff"  # what a paste may bring along, invisible ones too
QUOTES = (('"', '"'), ("'", "'"), ("`", "`"), ("“", "”"), ("‘", "’"))


def _unquote(text: str) -> str:
    """Return a text without the blanks and quotes around it; quotes that occur within it too are left alone."""
    text = text.strip(BLANKS)
    for left, right in QUOTES:
        inner = text[1:-1]
        if len(text) > 1 and text[0] == left and text[-1] == right and left not in inner and right not in inner:
            return inner.strip(BLANKS)
    return text


def _unwrap(text: str) -> str:
    """Return a secret without what was pasted with it: quotes, and the word that goes before it in a header."""
    return _unquote(re.sub(r"(?i)^(authorization:\s*)?bearer\s+", "", _unquote(text)))


class _Reader:
    """Reads variables, and gathers what is wrong with them instead of stopping at the first."""

    def __init__(self, environment: Mapping[str, str]):
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return _unquote(self._environment.get(name, "")) or VARIABLES[name]

    def secret(self, name: str, pattern: str = r"[^\x00-\x1f\x7f]*") -> str:
        """Return a secret; what the pattern does not allow cannot be sent, or is a sign of a broken copy."""
        text = _unwrap(self.text(name))
        if not re.fullmatch(pattern, text):
            self.problems.append(f"{name} contains a blank or another character that it cannot contain: copy it again")
        return text

    def keys(self, name: str) -> tuple[str, ...]:
        keys = tuple(key for part in self.secret(name).split(",") if (key := _unwrap(part)))
        if not keys:
            self.problems.append(f"{name} is not set: set it to a long random text, and give that to Aide as its key")
        return keys

    def credentials(self) -> dict[str, str]:
        access_token = self.secret("AIFI_ACCESS_TOKEN", r"[!-~]*")
        client_id, client_secret = (self.secret(name, r"\S*") for name in ("AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET"))
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
        url = complete_address(text)
        if text and not url:
            self.problems.append(f"{name} is not a web address: set it to one that begins with https://")
        return url

    def base_url(self, name: str) -> str:
        """Return the address of AiFi's API; AiFi often names the host only, so that gets the API's path."""
        url = self.url(name).rstrip("/")
        if re.search(r"[?#@]", url):
            self.problems.append(f"{name} holds a ?, # or @: set it to the host and the path of AiFi's API alone")
            return ""
        return url + urlsplit(VARIABLES[name]).path if url and not urlsplit(url).path else url

    def server(self, name: str) -> str:
        """Return the address of a PostgreSQL server, which may name several hosts; it holds a password."""
        url = _unquote(self.text(name))
        if url and not re.fullmatch(r"postgres(ql)?://\S+", url):
            self.problems.append(
                f"{name} is not the address of a PostgreSQL server: set it to one that begins with postgresql://, or "
                "remove it to use the file"
            )
        return url

    def refuse_own_address(self, config: Config) -> None:
        """Refuse a payment endpoint that is the bridge itself: each webhook would go round in a circle."""
        hosts = (f"[{host}]" if ":" in host else host for host in LOCAL_HOSTS)
        own_urls = filter(None, (config.public_url, *(f"http://{host}:{config.port}" for host in hosts)))
        if any(is_own_webhook(config.payment_webhook_url, own_url) for own_url in own_urls):
            self.problems.append(
                "PAYMENT_WEBHOOK_URL is the bridge's own webhook URL: set it to the retailer's payment endpoint"
            )

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
        values = tuple(value for part in self.text(name).split(",") if (value := _unquote(part)))
        if not all(re.fullmatch(pattern, value, re.ASCII) for value in values):
            self.problems.append(f"{name} is {self.text(name)!r}: set it to {meaning}, separated by commas")
        return values

    def matching(self, name: str, pattern: str, meaning: str) -> str:
        text = self.text(name).upper()
        if text and not re.fullmatch(pattern, text):
            self.problems.append(f"{name} is {self.text(name)!r}: set it to {meaning}")
        return text
