"""The house stays in order: imports go one way, modules and functions stay small."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter

from processes import ROOT
from sources import PACKAGE, trees

# Which rooms each room may import from. `app` and `config` put them together; nobody imports `cli`.
MAY_IMPORT: dict[str, set[str]] = {
    "http": set(),
    "server": {"http"},
    "auth": {"http"},
    "proxy": {"http"},
    "ops": {"http"},
    "blacklist": {"http", "auth"},
    "gate": {"http", "auth", "blacklist"},
    "signals": {"http", "auth", "blacklist"},
    "config": {"http", "auth"},
    "parties": {"auth", "config", "signals"},
    "app": {"parties", "http", "auth", "blacklist", "gate", "signals", "proxy", "ops", "config"},
    "__init__": {"app", "config", "http", "ops"},
    "wsgi": {"app", "config", "ops"},
    "cli": {"http", "auth", "blacklist", "signals", "server", "ops", "config", "parties", "app"},
    "__main__": {"cli"},
}
KNOWS_SETTINGS = {"app", "parties", "config", "cli", "wsgi", "__init__"}
BACKENDS = {"gateway.blacklist.stores.sqlite.store", "gateway.blacklist.stores.redis.store"}


def module_name(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def room(module: str) -> str:
    return (module + ".__init__").split(".")[1]


@cache
def modules() -> dict[str, ast.Module]:
    return {module_name(file): tree for file, tree in trees().items()}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports, wherever in it, under its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out in full"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if {name, f"{name}.__init__"} & modules().keys() else str(node.module)


@cache
def own_imports() -> dict[str, set[str]]:
    return {
        module: {name for name in imports(tree) if name.split(".")[0] == "gateway"}
        for module, tree in modules().items()
    }


def test_imports_go_one_way() -> None:
    for module, names in own_imports().items():
        assert {room(name) for name in names} <= {room(module), *MAY_IMPORT[room(module)]}, module


def test_the_package_alone_loads_neither_a_server_nor_what_a_store_needs() -> None:
    command = "import sys, gateway; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not {"gateway.server", "gunicorn", "waitress", "redis", "click", "opentelemetry"} & set(loaded.split())


def test_no_imports_go_in_circles() -> None:
    TopologicalSorter({module.removesuffix(".__init__"): names for module, names in own_imports().items()}).prepare()


def test_settings_are_seen_only_where_the_pipeline_is_built() -> None:
    readers = {room(module) for module, names in own_imports().items() if "gateway.config.settings" in names}
    assert readers <= KNOWS_SETTINGS


def test_only_the_factory_names_a_backend() -> None:
    named_by = {module for module, names in own_imports().items() if BACKENDS & names}
    assert named_by <= {"gateway.blacklist.stores.__init__"}


def test_the_gateway_knows_neither_its_upstream_nor_its_tests() -> None:
    foreign = {name.split(".")[0] for tree in modules().values() for name in imports(tree)}
    assert not foreign & {"upstream", "tests", "benchmarks", "flask"}


def test_only_the_commands_print() -> None:
    printing = {
        room(module)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "click.echo", "sys.stdout.write"}
    }
    assert printing <= {"cli"}


def test_no_expression_repeats_a_group_possessively() -> None:
    """Python before 3.11.5 matches too much then; an atomic group says the same."""
    sources = (path.read_text() for path in PACKAGE.rglob("*.py"))
    assert not [found for source in sources for found in re.findall(r"[^(]\)[*+?]\+", source)]


def test_modules_stay_small() -> None:
    lines = {path.name: path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_functions_stay_small() -> None:
    functions = [
        (f"{module}.{node.name}", (node.end_lineno or 0) - node.lineno + 1)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, count) for name, count in functions if count > 50] == []
