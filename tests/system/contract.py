"""The promise in `openapi.yaml`, held against what the bridge really answers."""

from datetime import datetime, timezone
from functools import cache
from typing import Any

import requests
import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from tools.harness import PROJECT

FORMATS = FormatChecker(formats=["email"])  # a format that no checker knows would pass unseen


@FORMATS.checks("date-time", raises=ValueError)
def _is_utc(value: Any) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo == timezone.utc


@cache
def document() -> dict[str, Any]:
    """Return `openapi.yaml`, with OpenAPI's `nullable` put into JSON Schema's words.

    Clients must bear further fields; the bridge itself must not answer one that is not described.
    """
    return _strict(yaml.safe_load((PROJECT / "openapi.yaml").read_text()))


def check(response: requests.Response, path: str, method: str = "get") -> Any:
    """Return an answer's JSON; an `AssertionError` says where it breaks what `openapi.yaml` says of the path.

    :param path: as it stands in the document, such as `/v1/orders/{orderId}`
    """
    answers = document()["paths"][path.removeprefix("/v1")][method]["responses"]
    where = f"{method.upper()} {path} answers {response.status_code}"
    assert str(response.status_code) in answers, f"{where}, which is not documented: {response.text[:500]}"
    answer = _resolve(answers[str(response.status_code)])
    assert response.headers["Content-Type"] == "application/json", where
    for name, header in answer.get("headers", {}).items():
        assert name in response.headers, f"{where} without {name}"
        value = response.headers[name]
        check_value(int(value) if header["schema"]["type"] == "integer" else value, header["schema"])
    body = response.json()
    check_value(body, answer["content"]["application/json"]["schema"], where)
    return body


def check_value(value: Any, schema: dict[str, Any], where: str = "the value") -> None:
    """Raise an `AssertionError` unless the value is what the schema says, formats included."""
    schema = {"components": document()["components"], **schema}
    try:
        Draft202012Validator(schema, format_checker=FORMATS).validate(value)
    except ValidationError as error:
        raise AssertionError(f"{where}, and there {error.json_path}: {error.message}") from None


def _resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference within the document."""
    target = document()
    for step in node["$ref"].removeprefix("#/").split("/") if "$ref" in node else ():
        target = target[step]
    return target if "$ref" in node else node


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(part) for part in node]
    if not isinstance(node, dict):
        return node
    changed = {key: _strict(value) for key, value in node.items() if key != "nullable"}
    if node.get("type") == "object" and "properties" in node:
        changed["additionalProperties"] = False
    return {**changed, "type": [node["type"], "null"]} if node.get("nullable") is True else changed
