"""What docs/architecture.md says in tables is what the code does."""

import ast
import re
from collections.abc import Iterator

from processes import ROOT
from sources import trees

from gateway.http.wsgi import Context

PAGE = (ROOT / "docs/architecture.md").read_text()
# Assigned at a module's head, in small letters, and yet no state: what they hold never changes.
CONSTANT = {"log", "_log", "audit", "_encode", "live", "_ready", "_not_ready", "as_json"}


def section(title: str) -> str:
    return re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def code(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def calls(tree: ast.AST, *names: str) -> list[ast.Call]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func).rpartition(".")[2] in names]


def may_import() -> dict[str, set[str]]:
    """The rule that test_architecture.py enforces."""
    tree = ast.parse((ROOT / "tests/system/test_architecture.py").read_text())
    (table,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MAY_IMPORT" and node.value
    ]
    found: dict[str, set[str]] = eval(ast.unparse(table))
    return found


def test_the_rooms_are_those_of_the_page_and_import_what_it_says() -> None:
    told = {name: code(imports) for cell, _, imports in rows("The rooms") for name in code(cell)}
    entries = {"__init__", "wsgi", "__main__"}
    assert told == {name: allowed for name, allowed in may_import().items() if name not in entries}


def test_threads_are_started_where_the_page_says_and_are_named_so() -> None:
    told = {
        (file, name) for cell, where, _ in rows("Processes and threads") for file in code(where) for name in names(cell)
    }
    found = {
        (file, name)
        for file, tree in trees().items()
        if file != "gateway/http/threads.py"
        for call in calls(tree, "Thread", "start_thread")
        for name in thread_name(call)
    }
    assert told - {("gateway/server/worker.py", "the main one of a worker")} == found


def names(cell: str) -> set[str]:
    return {re.sub(r"-\d$", "-", name) for name in code(cell)} or {cell}


def thread_name(call: ast.Call) -> Iterator[str]:
    given = [word.value for word in call.keywords if word.arg == "name"]
    for value in given:
        parts = value.values if isinstance(value, ast.JoinedStr) else [value]
        yield "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
    if not given:
        yield "unnamed"


def test_processes_are_forked_where_the_page_says() -> None:
    forking = {
        file for file, tree in trees().items() for call in calls(tree, "fork") if ast.unparse(call) == "os.fork()"
    }
    (sentence,) = re.findall(r"Forks happen in (.*?), before", section("Processes and threads"))
    assert code(sentence) == forking


def test_the_stages_are_called_in_the_pages_order(store_url: str) -> None:
    from gateway.app import build_app
    from gateway.config.settings import Settings

    stage: object = build_app(Settings(store=store_url))
    found = []
    while stage is not None:
        stage = getattr(stage, "__self__", stage)  # some keep the method that a call of the next one is
        found.append(type(stage).__name__)
        stage = getattr(stage, "app", None)
    assert " → ".join(found) in section("One request, from socket to socket")


def test_the_context_has_the_members_of_the_page() -> None:
    told = [name for _, members in rows("The Context") for name in code(members)]
    members = set(Context.__annotations__) | {name for name in vars(Context) if not name.startswith("__")}
    assert sorted(told) == sorted(members)


def test_whoever_may_block_is_named_on_the_page() -> None:
    blocking = {file for file, tree in trees().items() if calls(tree, "blocking")}
    (sentence,) = re.findall(r"`blocking` stands in (.*?)\. Look-ups", section("Who may block"), re.DOTALL)
    assert code(sentence) == blocking - {"gateway/http/blocking.py"}


def test_process_wide_state_is_listed_on_the_page() -> None:
    told = {(where.strip("`"), what) for where, cell, _ in rows("Process-wide state") for what in described(cell)}
    found = {(file, what) for file, tree in trees().items() for what in state(tree)}
    assert told == found - {("gateway/http/threads.py", "at-fork hook")}


def described(cell: str) -> set[str]:
    return code(cell) | ({"at-fork hook"} if "at-fork hook" in cell else set())


def state(tree: ast.Module) -> Iterator[str]:
    """Module globals that are no constants, those that functions rebind, and at-fork hooks."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.Call | ast.Dict | ast.List | ast.Set
        ):
            if ast.unparse(node.value).startswith("bounded_cache("):  # the page speaks of all of these at once
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                name = ast.unparse(target)
                if re.fullmatch(r"_?[a-z][a-z_]*", name) and name not in CONSTANT:
                    yield name
    for each in ast.walk(tree):
        if isinstance(each, ast.Global):
            yield from each.names
    if calls(tree, "register_at_fork", "at_fork"):
        yield "at-fork hook"


def test_every_file_that_is_named_is_there() -> None:
    named = {name for name in code(PAGE) if re.fullmatch(r"[\w/]+/[\w/]+\.py", name)}
    assert not [
        file for file in named if not (ROOT / file).exists() and not any(path.endswith(file) for path in trees())
    ]


def test_names_that_contributors_are_led_to_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    places = [path for room in ("gateway", "tests") for path in (ROOT / room).rglob("*.py")]
    known = {name for path in places for name in re.findall(r"[\w.]+", path.read_text())}
    assert set(re.findall(r"`(?:with )?((?:self\.)?_\w+|self[\w.]+|[A-Z_]{5,})(?:\(\))?`", page)) <= known
