"""What the platforms read, and what they do to the bridge."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from config import VARIABLES
from tools.harness import PROJECT, Bridge, procfile_command

SECRETS = {"AIDE_API_KEY", "AIFI_WEBHOOK_SECRET"}
CREDENTIALS = {"AIFI_ACCESS_TOKEN", "AIFI_CLIENT_ID", "AIFI_CLIENT_SECRET"}
GIVEN_BY_THE_PLATFORM = {"PORT", "DATABASE_URL"}


def heroku() -> dict:
    return json.loads((PROJECT / "app.json").read_text())


def render() -> dict:
    return yaml.safe_load((PROJECT / "render.yaml").read_text())


def render_service() -> dict:
    [service] = render()["services"]
    return service


def render_variables() -> dict[str, dict]:
    variables = {variable["key"]: variable for variable in render_service()["envVars"]}
    assert len(variables) == len(render_service()["envVars"]), "a variable is there twice"
    return variables


def complaints(document: dict, schema: str) -> list[str]:
    rules = json.loads((PROJECT / "tests" / "schemas" / schema).read_text())
    Draft202012Validator.check_schema(rules)
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(rules).iter_errors(document)]


def requirements(name: str) -> list[Requirement]:
    lines = (PROJECT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


# --- every variable, everywhere


@pytest.mark.parametrize("variable", list(VARIABLES))
def test_readme_explains_every_variable(variable):
    assert f"`{variable}`" in (PROJECT / "README.md").read_text()


def test_heroku_offers_exactly_the_variables_of_the_app():
    assert set(heroku()["env"]) == set(VARIABLES) - GIVEN_BY_THE_PLATFORM


def test_render_asks_for_the_credentials_of_aifi_alone():
    assert {name for name, variable in render_variables().items() if variable.get("sync") is False} == CREDENTIALS


def test_render_leaves_to_the_dashboard_what_an_operator_may_change():
    # A value of the blueprint is set anew at every sync.
    assert set(render_variables()) == SECRETS | CREDENTIALS | {"WEB_CONCURRENCY"}


def test_heroku_explains_every_variable():
    assert [name for name, variable in heroku()["env"].items() if not variable.get("description")] == []


def test_both_platforms_make_the_secrets():
    assert {name for name, variable in heroku()["env"].items() if variable.get("generator") == "secret"} == SECRETS
    assert {name for name, variable in render_variables().items() if variable.get("generateValue")} == SECRETS


def test_heroku_asks_for_the_credentials_and_demands_neither_kind():
    assert all(heroku()["env"][name].get("required") is False for name in CREDENTIALS)
    assert not any("value" in heroku()["env"][name] for name in CREDENTIALS)


@pytest.mark.parametrize("variables", [heroku()["env"], render_variables()], ids=["Heroku", "Render"])
def test_both_platforms_start_from_the_defaults(variables):
    given = {name: variable["value"] for name, variable in variables.items() if "value" in variable}
    assert given == {name: VARIABLES[name] for name in given}


# --- the files are what the platforms take


def test_app_json_is_valid():
    assert complaints(heroku(), "heroku-app.json") == []


def test_render_yaml_is_valid():
    assert complaints(render(), "render.json") == []


def test_render_yaml_is_valid_with_the_database_that_it_describes():
    text = (PROJECT / "render.yaml").read_text()
    blueprint = yaml.safe_load(re.sub(r"^#\+", "", text, flags=re.MULTILINE))
    assert complaints(blueprint, "render.json") == []
    [database] = blueprint["databases"]
    [service] = blueprint["services"]
    address = next(variable for variable in service["envVars"] if variable["key"] == "DATABASE_URL")
    assert address["fromDatabase"] == {"name": database["name"], "property": "connectionString"}
    assert {key: value for key, value in service.items() if key != "envVars"} == {
        key: value for key, value in render_service().items() if key != "envVars"
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda app: app.update(formations=app.pop("formation")),
        lambda app: app["env"]["AIDE_API_KEY"].update(generator="random"),
        lambda app: app["env"]["AIDE_API_KEY"].update(value="123"),
        lambda app: app["env"]["REFRESH_SECONDS"].update(value=30),
        lambda app: app["formation"]["web"].update(size="hobby"),
        lambda app: app.update(name="a name of more than thirty letters"),
    ],
    ids=["unknown key", "unknown generator", "generated and given", "number", "former dyno", "long name"],
)
def test_a_wrong_app_json_would_be_noticed(change):
    app = heroku()
    change(app)
    assert complaints(app, "heroku-app.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda service: service.update(env=service.pop("runtime")),
        lambda service: service.update(healthCheckTimeout=10),
        lambda service: service.update(plan="hobby"),
        lambda service: service["envVars"].append({"key": "NOTHING"}),
        lambda service: service["envVars"].append({"key": "BOTH", "value": "1", "generateValue": True}),
    ],
    ids=["former key", "unknown key", "unknown plan", "no value", "generated and given"],
)
def test_a_wrong_render_yaml_would_be_noticed(change):
    blueprint = render()
    change(blueprint["services"][0])
    assert complaints(blueprint, "render.json")


def test_render_starts_what_the_procfile_starts():
    assert render_service()["startCommand"] == procfile_command()


def test_render_installs_the_runtime_packages_only():
    assert render_service()["buildCommand"] == "pip install -r requirements.txt"


def test_there_is_one_instance_because_each_would_have_its_own_mirror():
    assert heroku()["formation"] == {"web": {"quantity": 1, "size": "basic"}}
    assert render_service()["numInstances"] == 1


def promised_pythons() -> SpecifierSet:
    text = (PROJECT / "pyproject.toml").read_text()
    return SpecifierSet(re.search(r'^requires-python = "([^"]+)"$', text, re.MULTILINE)[1])


def hosted_ci() -> dict:
    return yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text())["jobs"]["test"]


def platform_python() -> str:
    return (PROJECT / ".python-version").read_text().strip()


def test_python_version_suits_the_platforms_and_every_runtime_package():
    version = platform_python()
    assert promised_pythons().contains(f"{version}.0")
    assert re.fullmatch(r"3\.\d+", version), "both platforms then install the newest patch release"
    for requirement in requirements("requirements.txt"):
        wanted = metadata(requirement.name)["Requires-Python"]
        assert SpecifierSet(wanted).contains(f"{version}.0"), f"{requirement.name} wants Python {wanted}"


def test_hosted_ci_tests_from_the_oldest_python_promised_to_that_of_the_platforms():
    first, *_, last = versions = hosted_ci()["strategy"]["matrix"]["python"]
    assert promised_pythons() == SpecifierSet(f">={first}")
    assert last == platform_python()
    assert versions == [f"3.{minor}" for minor in range(int(first[2:]), int(last[2:]) + 1)]


def test_make_looks_for_every_python_that_is_tested():
    named = re.findall(r"\bpython(3\.\d+)\b(?= )", (PROJECT / "Makefile").read_text())
    assert named == hosted_ci()["strategy"]["matrix"]["python"][::-1]


def test_make_takes_no_python_older_than_promised(tmp_path):
    project = re.sub('(?<=requires-python = ">=)[0-9.]+', "3.99", (PROJECT / "pyproject.toml").read_text())
    (tmp_path / "pyproject.toml").write_text(project)
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(PROJECT / name, tmp_path)
    command = ["make", "check", f"PYTHON={sys.executable}"]
    made = subprocess.run(command, cwd=tmp_path, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert made.returncode != 0
    assert f"No suitable Python found as {sys.executable}: install Python 3.99 or newer" in made.stderr


def test_no_lock_file_makes_a_platform_install_something_else():
    assert [name for name in ("Pipfile", "Pipfile.lock", "poetry.lock", "uv.lock") if (PROJECT / name).exists()] == []


def test_the_runtime_packages_are_three_and_the_driver_of_the_optional_server():
    names = [requirement.name for requirement in requirements("requirements.txt")]
    assert names == ["flask", "gunicorn", "psycopg", "requests"]


def test_who_uses_the_file_does_not_pay_for_the_driver(bridge):
    bridge.orders()
    [worker] = bridge.worker_pids()
    assert "psycopg" not in Path(f"/proc/{worker}/maps").read_text()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned(name):
    specifiers = [str(requirement.specifier) for requirement in requirements(name)]
    assert specifiers
    assert [specifier for specifier in specifiers if not re.fullmatch(r"==[0-9.]+", specifier)] == []


# --- the process


def test_a_procfile_runner_can_start_it(sandbox, tmp_path):
    honcho = f"{Path(sys.executable).parent / 'honcho'} --env /dev/null start"
    with Bridge(sandbox, tmp_path, command=honcho) as bridge:
        assert bridge.orders()["orders"] is not None
        bridge.terminate()
    assert "Shutting down: Master" in bridge.log()


# What Heroku's buildpack and Render set for every gunicorn.
HEROKU_ARGUMENTS = "--access-logfile -"
RENDER_ARGUMENTS = "--preload --access-logfile - --bind=0.0.0.0:10000"


@pytest.mark.parametrize("arguments", [HEROKU_ARGUMENTS, RENDER_ARGUMENTS], ids=["Heroku", "Render"])
def test_what_the_platforms_tell_gunicorn_replaces_no_promise_of_the_variables(start_bridge, arguments):
    platform = {"GUNICORN_CMD_ARGS": arguments, "FORWARDED_ALLOW_IPS": "*"}
    bridge = start_bridge(**platform, LOG_LEVEL="WARNING", WEB_CONCURRENCY=2)
    assert bridge.orders()["orders"] is not None, "it listens at PORT"
    bridge.wait_for_workers(2)
    bridge.terminate()
    assert bridge.log() == ""


def test_a_misspelt_variable_is_named_at_the_start(start_bridge):
    bridge = start_bridge(AIFI_CURENCY="EUR", WEB_CONCURRENCY=2)
    lines = [line for line in bridge.log().splitlines() if "AIFI_CURENCY" in line]
    assert len(lines) == 1
    assert "WARNING AIFI_CURENCY is not a variable of the bridge, but AIFI_CURRENCY is" in lines[0]


def test_a_bridge_that_would_pay_itself_does_not_start(start_bridge):
    own = {"PORT": 8123, "PAYMENT_WEBHOOK_URL": "http://127.0.0.1:8123/webhooks/aifi"}
    bridge = start_bridge(wait=False, **own)
    assert bridge.wait(seconds=20) == 1
    assert "PAYMENT_WEBHOOK_URL is the bridge's own webhook URL: set it to" in bridge.log()
    assert "Traceback" not in bridge.log()


def test_it_writes_nothing_beside_its_code(sandbox, tmp_path):
    code = tmp_path / "code"
    unneeded = shutil.ignore_patterns(".*", "__pycache__", "tests", "tools", "docs", "*.db*")
    shutil.copytree(PROJECT, code, ignore=unneeded)
    before = sorted(code.rglob("*"))
    for folder in [code, *(path for path in before if path.is_dir())]:
        folder.chmod(0o555)
    try:
        with Bridge(sandbox, tmp_path, code=code, PYTHONDONTWRITEBYTECODE=1) as bridge:
            assert bridge.orders()["orders"] is not None
            bridge.wait_for_workers(1, without=bridge.kill_worker())
            assert sorted(code.rglob("*")) == before
    finally:
        code.chmod(0o755)


def test_sigterm_ends_it_with_status_0(bridge):
    assert bridge.terminate(seconds=10) == 0


def test_a_killed_worker_is_replaced(bridge):
    killed = bridge.kill_worker()
    bridge.wait_for_workers(1, without=killed)
    assert bridge.get("/healthz", key=None).ok


@pytest.mark.parametrize(
    ("name", "value"),
    [("WEB_CONCURRENCY", 0), ("WEB_CONCURRENCY", 1000), ("PORT", "https"), ("PORT", 70000)],
)
def test_a_wrong_number_is_named_at_the_start(start_bridge, name, value):
    bridge = start_bridge(wait=False, **{name: value})
    assert bridge.wait(seconds=20) == 1
    assert f"{name} is '{value}': set it to a whole number" in bridge.log()
    assert "Traceback" not in bridge.log()


def test_missing_settings_are_named_at_the_start(start_bridge):
    bridge = start_bridge(wait=False, AIDE_API_KEY=None, AIFI_ACCESS_TOKEN=None)
    assert bridge.wait(seconds=20) == 1
    assert "AIDE_API_KEY" in bridge.log()
    assert "AIFI_ACCESS_TOKEN" in bridge.log()
    assert "Traceback" not in bridge.log()


# --- the log


def test_the_access_log_tells_no_query_and_no_header(bridge):
    bridge.request(
        "GET", "/nowhere?token=in-the-query", headers={"Referer": "in-the-referrer", "X-API-Key": "in-a-header"}
    )
    bridge.terminate()
    assert re.search(r"^GET /nowhere 40[14] \d+ bytes \d+ ms$", bridge.log(), re.MULTILINE)
    assert "in-" not in bridge.log()


def test_a_request_cannot_forge_a_line_of_the_access_log(bridge):
    bridge.get("/x%0aGET%20/forged%20200")
    bridge.terminate()
    assert "GET /x%0AGET%20/forged%20200 40" in bridge.log()


def test_a_malformed_request_does_not_bring_its_query_into_the_log(bridge):
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=10) as connection:
        connection.sendall(b"POST /webhooks/aifi?token=in-the-query\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    bridge.terminate()
    assert "Invalid request" in bridge.log()
    assert "in-the-query" not in bridge.log()


def test_good_health_checks_stay_out_of_the_log(bridge):
    assert bridge.get("/healthz", key=None).ok
    bridge.terminate()
    assert "/healthz" not in bridge.log()


# --- behind the platforms' router


@pytest.mark.parametrize("trusted", [None, "*"], ids=["by itself", "as the platforms set it"])
@pytest.mark.parametrize(
    "headers",
    [
        {"SCRIPT_NAME": "/elsewhere"},
        {"PATH_INFO": "/elsewhere"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off"},
        {"X-Forwarded-Prefix": "/elsewhere"},
    ],
    ids=lambda headers: next(reversed(headers)),
)
def test_a_header_cannot_lead_a_request_astray(start_bridge, trusted, headers):
    bridge = start_bridge(FORWARDED_ALLOW_IPS=trusted)
    assert bridge.request("GET", "/healthz", headers=headers).status_code == 200
