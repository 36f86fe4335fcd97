"""The house stays in order: imports go one way, modules and functions stay small."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gateway"

# Each room may use those below it. Whatever is not named stands on the ground, and the ground
# knows only itself: so neither proxy nor ops can ask who is calling or what is blacklisted.
FLOORS = [{"auth"}, {"blacklist"}, {"middleware"}, {"app"}, {"startup"}, {"__init__", "cli", "wsgi"}, {"__main__"}]
KNOWS_SETTINGS = {"app", "startup", "cli", "wsgi", "__init__"}
BACKENDS = {"gateway.blacklist.stores.sqlite", "gateway.blacklist.stores.redis"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room(module: str) -> str:
    return (module + ".__init__").split(".")[1]


def floor(module: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS, 1) if room(module) in rooms), 0)


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports, wherever in it, under its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out in full"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in TREES or f"{name}.__init__" in TREES else str(node.module)


OWN_IMPORTS = {
    module: {name for name in imports(tree) if name.split(".")[0] == "gateway"} for module, tree in TREES.items()
}


@pytest.mark.parametrize("module", TREES)
def test_imports_go_one_way(module: str) -> None:
    for name in OWN_IMPORTS[module]:
        assert room(name) == room(module) or floor(name) < floor(module) or floor(name) == floor(module) == 0, name


def test_no_imports_go_in_circles() -> None:
    TopologicalSorter({module.removesuffix(".__init__"): names for module, names in OWN_IMPORTS.items()}).prepare()


def test_settings_are_seen_only_where_the_pipeline_is_built() -> None:
    readers = {room(module) for module, names in OWN_IMPORTS.items() if "gateway.settings" in names}
    assert readers <= KNOWS_SETTINGS


def test_only_the_factory_names_a_backend() -> None:
    named_by = {module for module, names in OWN_IMPORTS.items() if BACKENDS & names}
    assert named_by <= {"gateway.blacklist.stores.__init__"}


def test_the_gateway_knows_neither_its_upstream_nor_its_tests() -> None:
    foreign = {name.split(".")[0] for tree in TREES.values() for name in imports(tree)}
    assert not foreign & {"upstream", "tests", "benchmarks", "flask"}


def test_only_the_commands_print() -> None:
    printing = {
        room(module)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "click.echo", "sys.stdout.write"}
    }
    assert printing <= {"cli"}


def test_modules_stay_small() -> None:
    lines = {path.name: path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_functions_stay_small() -> None:
    functions = [
        (f"{module}.{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, count) for name, count in functions if count > 50] == []
