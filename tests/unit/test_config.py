"""What the operator sets, and what the bridge says when it is of no use."""

import pytest

from config import VARIABLES, Config, ConfigError
from tests.support import ENOUGH, read

SECRETS = {
    "AIDE_API_KEY": "secret-of-aide",
    "AIFI_ACCESS_TOKEN": "secret-of-aifi",
    "AIFI_CLIENT_ID": "the-client",
    "AIFI_CLIENT_SECRET": "secret-of-client",
    "AIFI_WEBHOOK_SECRET": "secret-of-webhooks",
}


def problems(environment: dict[str, str]) -> list[str]:
    """Return what is said of a useless environment, a line for each problem."""
    with pytest.raises(ConfigError) as error:
        Config.from_environment(environment)
    return str(error.value).splitlines()


# --- what is read


def test_two_variables_are_enough():
    config = read()
    assert config.aide_api_keys == ("aide-key",)
    assert config.token["access_token"] == "aifi-token"
    assert config.base_url == "https://api.aifi.com/api/admin/v2"
    assert config.token["url"] == "https://auth.aifi.com/realms/aifi/protocol/openid-connect/token"
    assert (config.token["scope"], config.webhook_secret, config.payment_webhook_url) == ("", "", "")
    assert (config.refresh_seconds, config.refresh_wait_seconds) == (30, 3)
    assert (config.store_ids, config.roles, config.currency) == ((), (), "")
    assert (config.database_path, config.log_level) == ("orders.db", "INFO")
    assert config.filters == {}


@pytest.mark.parametrize("nothing", ["", " ", "\t\n"], ids=["empty", "blank", "other blanks"])
@pytest.mark.parametrize("name", sorted(set(VARIABLES) - set(ENOUGH)))
def test_an_empty_variable_counts_as_unset(name, nothing):
    assert read(**{name: nothing}) == read()


@pytest.mark.parametrize("name", list(ENOUGH))
def test_an_empty_variable_that_is_required_is_missing(name):
    assert problems({**ENOUGH, name: " "}) == problems({key: value for key, value in ENOUGH.items() if key != name})


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("one", ("one",)),
        (" one ", ("one",)),
        ("one,two", ("one", "two")),
        (" one , two ,three", ("one", "two", "three")),
        (",one,,two,", ("one", "two")),
    ],
)
def test_there_may_be_several_keys_of_aide(text, keys):
    assert read(AIDE_API_KEY=text).aide_api_keys == keys


def test_client_credentials_stand_in_for_an_access_token():
    config = Config.from_environment(
        {
            "AIDE_API_KEY": "aide-key",
            "AIFI_CLIENT_ID": "id",
            "AIFI_CLIENT_SECRET": "secret",
            "AIFI_TOKEN_SCOPE": "admin",
        }
    )
    assert config.token == {
        "access_token": "",
        "client_id": "id",
        "client_secret": "secret",
        "url": VARIABLES["AIFI_TOKEN_URL"],
        "scope": "admin",
    }


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("AIFI_STORE_ID", "3", "store_ids", ("3",)),
        ("AIFI_STORE_ID", " 3, 4 ,5", "store_ids", ("3", "4", "5")),
        ("AIFI_CUSTOMER_ROLE", "customer", "roles", ("customer",)),
        ("AIFI_CUSTOMER_ROLE", "customer, tester", "roles", ("customer", "tester")),
        ("AIFI_CURRENCY", "SEK", "currency", "SEK"),
        ("AIFI_CURRENCY", " usd ", "currency", "USD"),
        ("REFRESH_SECONDS", "0", "refresh_seconds", 0),
        ("REFRESH_SECONDS", "0.5", "refresh_seconds", 0.5),
        ("REFRESH_SECONDS", "86400", "refresh_seconds", 86400),
        ("REFRESH_WAIT_SECONDS", "0", "refresh_wait_seconds", 0),
        ("REFRESH_WAIT_SECONDS", "20", "refresh_wait_seconds", 20),
    ],
)
def test_a_setting_of_the_mirror_is_read(name, text, field, value):
    assert getattr(read(**{name: text}), field) == value


SEVERAL_HOSTS = "postgresql://u:p@a:1,b:2/shop?sslmode=require"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("AIFI_BASE_URL", "http://localhost:5000/api", "base_url", "http://localhost:5000/api"),
        ("AIFI_BASE_URL", "https://[::1]:5000/api", "base_url", "https://[::1]:5000/api"),
        ("PAYMENT_WEBHOOK_URL", "https://pay.example/x?y=1", "payment_webhook_url", "https://pay.example/x?y=1"),
        ("AIFI_WEBHOOK_SECRET", " hook ", "webhook_secret", "hook"),
        ("DATABASE_PATH", "/data/my orders.db", "database_path", "/data/my orders.db"),
        ("DATABASE_URL", " postgres://u:p@db/shop ", "database_url", "postgres://u:p@db/shop"),
        ("DATABASE_URL", "'postgresql://u:p@a:1,b:2/shop?sslmode=require'", "database_url", SEVERAL_HOSTS),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ],
)
def test_a_setting_of_the_app_is_read(name, text, field, value):
    assert getattr(read(**{name: text}), field) == value


# --- what was pasted with it


@pytest.mark.parametrize(
    "pasted",
    [
        '"key"',
        "'key'",
        "“key”",
        "`key`",
        "Bearer key",
        "bearer  key",
        "Authorization: Bearer key",
        '"Bearer key"',
        "Bearer 'key'",
        "\u200bkey\ufeff",
        "\u00a0key\r\n",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("name", ["AIDE_API_KEY", "AIFI_ACCESS_TOKEN", "AIFI_CLIENT_SECRET", "AIFI_WEBHOOK_SECRET"])
def test_quotes_blanks_and_the_word_bearer_are_not_part_of_a_key(name, pasted):
    assert read(**{name: pasted}) == read(**{name: "key"})


@pytest.mark.parametrize("text", ['"one","two"', '"one,two"', "Bearer one, 'two'"])
def test_each_of_several_keys_may_be_quoted(text):
    assert read(AIDE_API_KEY=text).aide_api_keys == ("one", "two")


@pytest.mark.parametrize("key", ['a"b', '"a"b"', "it's", "bearer", "bearer-of-news"])
def test_what_may_be_part_of_a_key_is(key):
    assert read(AIDE_API_KEY=key).aide_api_keys == (key,)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("AIFI_STORE_ID", '"3", "4"', "store_ids", ("3", "4")),
        ("AIFI_CURRENCY", "'eur'", "currency", "EUR"),
        ("REFRESH_SECONDS", '"60"', "refresh_seconds", 60),
        ("DATABASE_PATH", '"/data/orders.db"', "database_path", "/data/orders.db"),
    ],
)
def test_quotes_are_not_part_of_any_value(name, text, field, value):
    assert getattr(read(**{name: text}), field) == value


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("oasis-api.shop.oasis.aifi.com", "https://oasis-api.shop.oasis.aifi.com/api/admin/v2"),
        ("https://oasis-api.shop.oasis.aifi.com/", "https://oasis-api.shop.oasis.aifi.com/api/admin/v2"),
        ("api.aifi.com/api/admin/v3/", "https://api.aifi.com/api/admin/v3"),
        ("localhost:5000", "http://localhost:5000/api/admin/v2"),
        ("localhost.example.com", "https://localhost.example.com/api/admin/v2"),
        ('"https://api.aifi.com"', "https://api.aifi.com/api/admin/v2"),
    ],
)
def test_a_bare_host_of_aifi_gets_scheme_and_path(text, url):
    assert read(AIFI_BASE_URL=text).base_url == url


def test_a_payment_endpoint_gets_the_scheme_and_keeps_its_path():
    assert read(PAYMENT_WEBHOOK_URL="pay.example/").payment_webhook_url == "https://pay.example/"
    assert read(PAYMENT_WEBHOOK_URL="pay.example/x/?y=1").payment_webhook_url == "https://pay.example/x/?y=1"


# --- the bridge's own address

RENDER = {"RENDER_EXTERNAL_URL": "https://shop.onrender.com"}
HEROKU = {"HEROKU_APP_DEFAULT_DOMAIN_NAME": "shop-1a2b.herokuapp.com"}


def test_the_platform_tells_where_the_bridge_is_reached():
    assert read(**RENDER).public_url == "https://shop.onrender.com"
    assert read(**HEROKU).public_url == "https://shop-1a2b.herokuapp.com"
    assert read().public_url == ""


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("https://shop.onrender.com/webhooks/aifi", RENDER),
        ("http://SHOP.onrender.com:80//webhooks/aifi/?token=x", RENDER),
        ("https://shop-1a2b.herokuapp.com/webhooks/aifi", HEROKU),
        ("http://localhost:8000/webhooks/aifi", {}),
        ("http://127.0.0.1:5001/webhooks/aifi", {"PORT": "5001"}),
        ("http://[::1]:8000/webhooks/aifi", {}),
    ],
)
def test_the_bridge_cannot_be_its_own_payment_endpoint(url, environment):
    [problem] = problems({**ENOUGH, **environment, "PAYMENT_WEBHOOK_URL": url})
    assert "PAYMENT_WEBHOOK_URL is the bridge's own" in problem
    assert "set it to" in problem


@pytest.mark.parametrize(
    "url",
    ["https://shop.onrender.com/pay", "https://pay.example/webhooks/aifi", "http://localhost:8001/webhooks/aifi"],
)
def test_another_service_may_be_the_payment_endpoint(url):
    assert read(**RENDER, PAYMENT_WEBHOOK_URL=url).payment_webhook_url == url


# --- misspelt variables


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("AIFI_STORE_IDS", "AIFI_STORE_ID"),
        ("AIFI_CURENCY", "AIFI_CURRENCY"),
        ("aifi_currency", "AIFI_CURRENCY"),
        ("AIFI_ROLE", "AIFI_CUSTOMER_ROLE"),
        ("AIFI_API_KEY", "AIFI_ACCESS_TOKEN"),
        ("AIFI_TOKEN", "AIFI_ACCESS_TOKEN"),
        ("AIDE_KEY", "AIDE_API_KEY"),
        ("AIFI_URL", "AIFI_BASE_URL"),
        ("PAYMENT_WEBHOOK", "PAYMENT_WEBHOOK_URL"),
        ("REFRESH_SECOND", "REFRESH_SECONDS"),
        ("LOGLEVEL", "LOG_LEVEL"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_likely_one(name, meant):
    [warning] = read(**{name: "something"}).warnings
    assert warning.startswith(f"{name} is not a variable")
    assert meant in warning
    assert "something" not in warning


def test_what_is_not_of_the_bridge_is_not_misspelt():
    others = [
        "PATH",
        "HOME",
        "DATABASE_POOL_URL",
        "WEB_PORT",
        "PORTS",
        "RENDER_EXTERNAL_URL",
        "PYTHON_VERSION",
        "WORKERS",
    ]
    assert read(**dict.fromkeys([*others, "GUNICORN_CMD_ARGS", "LOG_FORMAT", "AIRFLOW_HOME"], "x")).warnings == ()
    assert read(AIFI_CURENCY="").warnings == ()


@pytest.mark.parametrize("address", ["mysql://u:secret@db/shop", "db.example/secret", "secret", "postgres:// secret"])
def test_an_address_of_no_postgresql_server_is_refused_and_not_repeated(address):
    [problem] = problems({**ENOUGH, "DATABASE_URL": address})
    assert "DATABASE_URL" in problem
    assert "postgresql://" in problem
    assert "secret" not in problem


def test_a_start_that_fails_names_the_misspelt_variable_too():
    first, second = problems({"AIDE_API_KEY": "aide-key", "AIFI_ACCES_TOKEN": "aifi-token"})
    assert "AIFI_ACCESS_TOKEN is not set" in first
    assert "AIFI_ACCES_TOKEN is not a variable" in second


# --- what a mirror mirrors


def test_another_account_of_aifi_is_another_origin():
    assert read(AIFI_ACCESS_TOKEN="one").origin() != read(AIFI_ACCESS_TOKEN="two").origin()
    client = {"AIFI_ACCESS_TOKEN": "", "AIFI_CLIENT_SECRET": "secret"}
    one, two = (read(**client, AIFI_CLIENT_ID=client_id).origin() for client_id in ("one", "two"))
    assert one != two
    assert one == read(**client, AIFI_CLIENT_ID="one", REFRESH_SECONDS="7").origin()


def test_the_origin_tells_no_secret():
    assert not [value for value in read(**SECRETS).origin().values() if value in SECRETS.values()]
    assert "AIFI_ACCESS_TOKEN or AIFI_CLIENT_ID" in read().origin()


def test_the_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        read().base_url = "https://elsewhere"


# --- what is refused


URLS = ("AIFI_BASE_URL", "AIFI_TOKEN_URL", "PAYMENT_WEBHOOK_URL")
NO_URLS = [
    "aifi",
    "https:/api.aifi.com",
    "https://api.aifi.com /api",
    "https://api.aifi.com/api\n/admin",
    "ftp://api.aifi.com",
    "https://",
    "https:///api",
    "https://host:99999",
    "https://[::1",
    "/api",
]
MALFORMED = [
    *((name, text) for name in URLS for text in NO_URLS),
    *(
        (name, text)
        for name in ("REFRESH_SECONDS", "REFRESH_WAIT_SECONDS")
        for text in ("soon", "-1", "nan", "inf", "-inf", "1e9", "30s", "1,5")
    ),
    ("REFRESH_SECONDS", "86401"),
    ("REFRESH_WAIT_SECONDS", "20.1"),
    ("AIFI_STORE_ID", "Stockholm"),
    ("AIFI_STORE_ID", "3;4"),
    ("AIFI_STORE_ID", "3,x"),
    ("AIFI_STORE_ID", "-3"),
    ("AIFI_STORE_ID", "٣"),
    ("AIFI_CUSTOMER_ROLE", "customer tester"),
    ("AIFI_CUSTOMER_ROLE", "customer&pageSize=1"),
    ("AIFI_CURRENCY", "dollars"),
    ("AIFI_CURRENCY", "US"),
    ("AIFI_CURRENCY", "$"),
    ("AIFI_CURRENCY", "US1"),
    ("LOG_LEVEL", "loud"),
    ("LOG_LEVEL", "10"),
    ("AIFI_ACCESS_TOKEN", "two\nlines"),
    ("AIFI_ACCESS_TOKEN", "snow☃man"),
    ("AIFI_ACCESS_TOKEN", "two words"),
    ("AIFI_CLIENT_ID", "two words"),
    ("AIFI_CLIENT_SECRET", "two\tcolumns"),
    ("AIDE_API_KEY", "two\nlines"),
    ("AIFI_WEBHOOK_SECRET", "two\nlines"),
    ("AIFI_BASE_URL", "https://api.aifi.com/api/admin/v2?storeId=3"),
    ("AIFI_BASE_URL", "https://name:password@api.aifi.com"),
]


@pytest.mark.parametrize(("name", "text"), MALFORMED, ids=[f"{name} {text!a}" for name, text in MALFORMED])
def test_a_malformed_variable_is_named_with_what_to_set(name, text):
    [problem] = problems({**ENOUGH, name: text})
    assert name in problem
    assert "set it to" in problem or "copy it again" in problem


@pytest.mark.parametrize("environment", [{}, {"AIDE_API_KEY": ","}, {"AIDE_API_KEY": " , "}], ids=str)
def test_a_missing_key_of_aide_is_named_with_what_to_set(environment):
    [problem] = problems({"AIFI_ACCESS_TOKEN": "aifi-token", **environment})
    assert "AIDE_API_KEY" in problem
    assert "set it to" in problem


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"AIFI_CLIENT_ID": "id"},
        {"AIFI_CLIENT_SECRET": "secret"},
        {"AIFI_CLIENT_ID": "id", "AIFI_CLIENT_SECRET": " "},
    ],
    ids=["none", "id only", "secret only", "secret empty"],
)
def test_missing_credentials_of_aifi_are_named_both_kinds(credentials):
    [problem] = problems({"AIDE_API_KEY": "aide-key", **credentials})
    for name in ("AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET"):
        assert name in problem


def test_all_that_is_wrong_is_named_at_once():
    told = problems({"AIFI_BASE_URL": "x", "REFRESH_SECONDS": "x", "AIFI_STORE_ID": "x", "LOG_LEVEL": "x"})
    for name in ("AIDE_API_KEY", "AIFI_ACCESS_TOKEN", "AIFI_BASE_URL", "REFRESH_SECONDS", "AIFI_STORE_ID", "LOG_LEVEL"):
        assert [name in problem for problem in told].count(True) == 1, name
    assert len(told) == 6


def test_no_secret_is_told_with_a_problem():
    malformed = {"AIFI_BASE_URL": "x", "REFRESH_SECONDS": "soon", "LOG_LEVEL": "loud", "AIFI_CURRENCY": "dollars"}
    told = "\n".join(problems({**SECRETS, **malformed}))
    assert not [secret for secret in SECRETS.values() if secret in told]


@pytest.mark.parametrize("name", ["AIFI_ACCESS_TOKEN", "AIFI_BASE_URL", "AIFI_TOKEN_URL", "PAYMENT_WEBHOOK_URL"])
def test_a_malformed_variable_that_may_hold_a_secret_is_not_repeated(name):
    [problem] = problems({**ENOUGH, name: "ftp://name:pass\nword@host/?token=hidden"})
    assert not [part for part in ("pass", "word", "hidden") if part in problem]
