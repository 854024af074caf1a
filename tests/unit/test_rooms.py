"""One idea a room: every import goes downwards, and no room uses what another keeps to itself."""

import ast
import re
import sys
from collections.abc import Iterator

import pytest

from tools.harness import PROJECT

# From the highest down; a room imports only from those that stand behind it.
ROOMS = (
    *("app", "commands", "diagnosis", "config", "relay"),
    *("mirror", "sweep", "history", "refresh", "lookups", "intake", "aifi", "transport"),
    *("translation", "store", "together", "marks", "orders", "postgres", "sqlite", "database", "errors", "times"),
)
WEB_ROOMS = {"app", "commands"}
TREES = {path.stem: ast.parse(path.read_text()) for path in PROJECT.glob("*.py") if path.stem != "gunicorn.conf"}


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield each import, wherever it stands: the module, and the name taken from it, empty for the whole module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def packages(tree: ast.Module) -> set[str]:
    return {module.partition(".")[0] for module, _ in imports(tree)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def defined(tree: ast.Module) -> set[str]:
    """Return every name that a module gives to something: functions, classes, variables, fields of its objects."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "self" else set()
    return names


def foreign_private_names(tree: ast.Module) -> set[str]:
    """Return the underscored names that a module uses and that are not its own."""
    own, modules = defined(tree), {module for module, name in imports(tree) if not name}
    taken = {f"{module}.{name}" for module, name in imports(tree) if is_private(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of_module = isinstance(node.value, ast.Name) and node.value.id in modules
            if of_module or node.attr not in own:
                taken.add(ast.unparse(node))
    return taken


def test_every_module_has_its_place():
    assert set(TREES) == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
class TestARoom:
    def test_imports_only_from_those_below(self, room):
        not_below = set(ROOMS[: ROOMS.index(room) + 1])
        assert packages(TREES[room]) & not_below == set()

    def test_knows_of_flask_only_if_it_serves_the_web(self, room):
        assert room in WEB_ROOMS or not packages(TREES[room]) & {"flask", "werkzeug"}

    def test_is_not_called_like_a_module_of_python(self, room):
        assert room not in sys.stdlib_module_names

    def test_uses_no_private_name_of_another(self, room):
        assert foreign_private_names(TREES[room]) == set()


def test_the_settings_know_no_other_room_but_the_errors():
    assert packages(TREES["config"]) & set(ROOMS) <= {"errors"}


@pytest.mark.parametrize(
    "source",
    [
        "from store import _order",
        "import store\nstore._order(1)",
        "import store\ndef _order(): return store._order(1)",
        "def f(store): return store._idle",
        "def f(store): store._idle = []",
        "def f():\n    from store import _order",
    ],
)
def test_a_private_name_of_another_would_be_noticed(source):
    assert foreign_private_names(ast.parse(source))


@pytest.mark.parametrize(
    "source", ["import mirror", "import mirror as m", "from mirror import Mirror", "def f():\n    import mirror"]
)
def test_an_import_would_be_noticed_wherever_it_stands(source):
    assert packages(ast.parse(source)) == {"mirror"}


def test_the_design_describes_these_rooms_in_this_order():
    table = (PROJECT / "docs" / "design.md").read_text().partition("## A poll")[0]
    named = re.findall(r"^\| `(\w+)\.py` \|", table, re.MULTILINE)
    assert tuple(named) == ROOMS
