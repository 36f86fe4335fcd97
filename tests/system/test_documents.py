"""Every command and every snippet of the README and docs/ is run, as it stands there but for places and ports.

Those of docs/operations.md are in test_operations.py, the README's sessions in test_shells.py and its installation in
test_packaging.py, the programs of docs/clients.md in test_pages_of_clients.py, the settings of docs/redis.md's server
in test_redis_store.py. `make run` is what CI begins with.
The benchmarks that docs/scale.md names take minutes, and are run by who changes its figures.
"""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.mark.expression import Expression
from helpers import ISSUER, SECRET, Api, mint
from outer_proxies import program, proxy, running
from processes import ROOT, free_port
from provider import Provider, signer
from recorder import Recorder, ok
from redis_servers import RedisServer
from running import Running, ask

from gateway.cli import gateway as commands

pytestmark = pytest.mark.slow

DOCS = sorted((ROOT / "docs").glob("*.md"))
# docs/README.md, which leads to all others, goes by the name of index.
PAGES = {path.stem.replace("README", "index"): path.read_text() for path in DOCS}
PAGES["README"] = (ROOT / "README.md").read_text()
GATEWAY = f'"{sys.executable}" -m gateway'
ADMIN = mint(sub="admin", scope="blacklist:admin")


def blocks(page: str, language: str = "sh") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def run(script: str, directory: Path = ROOT, **environ: str) -> str:
    """Run a script of a page, its commands those of this environment, and return what it prints."""
    script = f'set -euo pipefail\ngateway() {{ {GATEWAY} "$@"; }}\n{script}'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    known = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **environ}
    done = subprocess.run(["bash", "-c", script], check=False, env=known, cwd=directory, capture_output=True, text=True)
    assert done.returncode == 0, script + done.stdout + done.stderr
    return done.stdout


def session(page: str, number: int, url: str, directory: Path, **environ: str) -> None:
    """Run a page's block of curl lines; the paragraph below it tells which statuses come back."""
    block = blocks(page)[number]
    told = PAGES[page].partition(block + "```\n\n")[2].partition("\n\n")[0]
    curl = 'curl() { command curl --silent --output /dev/null --write-out "%{http_code}\\n" "$@"; }\n'
    script = re.sub(r"(http://127\.0\.0\.1|localhost):\d+", url, curl + block)
    assert run(script, directory, **environ).split() == re.findall(r"\b\d{3}\b", told)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with Recorder(ok()) as upstream, Running(tmp_path, upstream.url, "--workers", "1") as running:
        yield running


def test_every_block_of_commands_is_run_by_a_test() -> None:
    """Count them here when one comes: its test is below, or where the module's docstring says."""
    assert {page: len(blocks(page)) for page in PAGES if blocks(page)} == {
        "README": 5,
        "clients": 1,
        "operations": 6,
        "outer-proxies": 6,
        "redis": 1,
        "scale": 1,
        "servers": 2,
    }


def test_the_readmes_gateway_stands_in_front_of_ones_own_api(tmp_path: Path) -> None:
    [line] = [block for block in blocks("README") if "gateway serve" in block]
    key = signer("RS256", "k")
    with Recorder(ok()) as api, Provider([key]) as provider:
        line = line.replace("https://issuer.example/.well-known/jwks.json", provider.jwks_url)
        words = shlex.split(line.replace("https://issuer.example/", provider.issuer))
        assert words[:4] == [".venv/bin/gateway", "serve", "--upstream", "http://127.0.0.1:8000"]
        with Running(tmp_path, api.url, *words[4:], "--workers", "1", "--jwks-ca", provider.ca_file) as running:
            provider.wait_for(1)  # before anybody asks: a provider that fails then takes no worker's keys away
            claims = {"iss": provider.issuer, "sub": "1001", "exp": time.time() + 60}
            assert running.get("/orders", key.token(**claims)).status == 200
            assert running.get("/orders", mint()).status == 401


def test_logging_out_by_curl_is_one_request(tmp_path: Path, gateway: Running) -> None:
    session("clients", 0, gateway.url, tmp_path)
    assert gateway.get("/", mint(sub="1001")).status == 401


def configure_django() -> None:
    """Give Django its settings, once in a process, with a page that tells who is calling, and the page's own view."""
    from django.conf import settings
    from django.http import HttpRequest, JsonResponse
    from django.urls import path

    def me(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"sub": request.environ["gateway.claims"]["sub"]})  # type: ignore[attr-defined]

    views: dict[str, Any] = {"__name__": __name__}
    exec(blocks("in-process", "python")[2], views)
    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=(path("me", me), path("logout", views["logout"])),
            MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
            ALLOWED_HOSTS=["localhost"],
            SECRET_KEY=SECRET,
        )


class TestInProcess:
    """The snippets of docs/integrating.md and docs/in-process.md."""

    def test_claims_are_read_from_the_field(self, tmp_path: Path) -> None:
        read, *_ = blocks("integrating", "python")
        with Recorder(ok()) as upstream, Running(tmp_path, upstream.url, "--workers", "1") as running:
            running.get("/", mint(sub="1001"))
            field = upstream.last.field("X-Token-Claims")
        names: dict[str, Any] = {"request": SimpleNamespace(headers={"X-Token-Claims": field})}
        exec("import base64, json\n" + read, names)
        assert names["claims"]["sub"] == "1001"

    @pytest.fixture
    def own(self, store_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], dict[str, Any]]:
        """Return what runs one of the snippets, as it stands there but for the issuer's address, and the store."""
        monkeypatch.setenv("GATEWAY_SECRET", SECRET)
        monkeypatch.setenv("GATEWAY_STORE", store_url)

        def run_snippet(number: int, **names: Any) -> dict[str, Any]:
            snippet = blocks("in-process", "python")[number]
            snippet = re.sub(r'\s*(jwks_url|store)="[^"]+",?', "", snippet).replace("https://issuer.example/", ISSUER)
            known: dict[str, Any] = {"__name__": __name__, **names}
            exec(snippet, known)
            return known

        return run_snippet

    def test_flask(self, own: Callable[..., dict[str, Any]]) -> None:
        api, token = Api(own(0)["app"]), mint(sub="1001")
        assert [api("GET", path).status_code for path in ("/me", "/login")] == [401, 404]
        assert api("GET", "/me", token).json == {"sub": "1001"}
        assert api("POST", "/logout", token).status_code == 200
        assert api("GET", "/me", token).status_code == 401

    def test_django(self, own: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        configure_django()
        names, token = own(1), mint(sub="1001")
        api = Api(names["application"])
        assert api("GET", "/me").status_code == 401
        assert api("GET", "/me", token).json == {"sub": "1001"}
        monkeypatch.setitem(sys.modules, "mysite", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "mysite.wsgi", SimpleNamespace(gate=names["gate"]))
        assert api("POST", "/logout", token).status_code == 200
        assert api("GET", "/me", token).status_code == 401

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_none_of_them_opens_a_door_where_somebody_forgot_the_keys(
        self, number: int, own: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("fastapi", "a2wsgi"):
            pytest.importorskip(module, reason=f"{module} is not installed")
        configure_django()
        monkeypatch.delenv("GATEWAY_SECRET")
        with pytest.raises(ValueError, match="no secret is set"):
            own(number)

    def test_fastapi(self, own: Callable[..., dict[str, Any]]) -> None:
        for module in ("fastapi", "a2wsgi"):
            pytest.importorskip(module, reason=f"{module} is not installed")
        names = own(3)
        names["app"].get("/me")(lambda: {"me": "here"})
        api, token = Api(names["application"]), mint(sub="1001")
        assert api("GET", "/me").status_code == 401
        assert api("GET", "/me", token).json == {"me": "here"}
        assert api("GET", "/nowhere", token).status_code == 404

    def test_what_python_calls_does_what_the_table_says(self, own: Callable[..., dict[str, Any]]) -> None:
        gate, token = own(0)["gate"], mint(sub="1001")
        calls = re.findall(r"^\| `(gate\.blacklist\(.*)` \|", PAGES["in-process"], re.MULTILINE)
        assert len(calls) == 3
        for call in calls:
            assert eval(call.replace("<jwt>", token), {"gate": gate})
            assert gate.is_blacklisted(token=token)
            assert gate.restore(token=token) or gate.restore(sub="1001")

    def test_logs_and_metrics(self, own: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        import logging

        from prometheus_client import REGISTRY

        monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # it would take pytest's own handlers away
        shown = io.StringIO()
        names = own(4, gate=own(0)["gate"])
        names["handler"].setStream(shown)
        access = logging.getLogger("gateway.access")
        access.addHandler(names["handler"])
        access.setLevel("INFO")
        try:
            Api(names["application"])("GET", "/me", mint(sub="1001"))
        finally:
            access.removeHandler(names["handler"])
        assert json.loads(shown.getvalue())["subject"] == "1001"
        assert REGISTRY.get_sample_value("gateway_requests_total", {"route": "upstream", "outcome": "passed"}) == 1


class TestServers:
    """What docs/servers.md and docs/outer-proxies.md start."""

    @pytest.mark.parametrize("line", [*blocks("servers")[:2], *blocks("outer-proxies")[:1]])
    def test_another_server_serves_the_gateway(self, tmp_path: Path, line: str) -> None:
        port = free_port()
        # One worker, for granian may never end when it is told to while the second is starting.
        words = shlex.split(line.strip().replace("35000", str(port)).replace("--workers 2", "--workers 1"))
        settings = dict(word.split("=") for word in words if word.startswith("GATEWAY_"))
        command = [word for word in words if not word.startswith("GATEWAY_")]
        environ = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **settings}
        command = [sys.executable, "-m", *command]
        with running(command, port, tmp_path, **environ):
            assert ask(port, "GET /-/auth").status == 401
            assert ask(port, "GET /-/auth", ("Authorization", f"Bearer {mint()}")).status == 200

    @pytest.mark.parametrize(
        ("line", "checking"),
        list(
            zip(
                blocks("outer-proxies")[1].splitlines(), ["-t", "-c -f", "validate", "--mode validate", ""], strict=True
            )
        ),
    )
    def test_each_proxy_takes_its_file_from_where_the_page_says(self, line: str, checking: str) -> None:
        """Not started, for its ports are fixed: test_outer_proxies.py does that on others."""
        name = re.sub(r"^cd \S+ && ", "", line).split()[0]
        if program(name) is None:
            pytest.skip(f"{name} is not installed")
        told = {
            "haproxy": line.replace("-f", checking),
            "caddy": line.replace("run", checking),
            "traefik": line.replace("traefik --configFile=", "cat "),  # it checks none
        }
        run(told.get(name, f"{line} {checking}"))

    def test_the_session_behind_a_proxy_goes_as_it_says(self, tmp_path: Path, gateway: Running) -> None:
        with Recorder(ok()) as api, proxy("nginx", tmp_path, gateway=gateway.port, api=api.port) as port:
            session("outer-proxies", 2, f"http://127.0.0.1:{port}", tmp_path)

    def test_the_other_commands_name_what_is_there(self) -> None:
        stack, kubernetes, tests = blocks("outer-proxies")[3:]
        assert (ROOT / stack.split()[2]).exists()  # test_deploy.py reads it; the images it names are others'
        if program("kubectl") is not None:
            run(kubernetes)
        assert all((ROOT / word).exists() for word in tests.split() if word.startswith("tests/"))


class TestRedis:
    """The commands of docs/redis.md."""

    def test_a_blacklist_moves_from_sqlite_and_can_be_looked_into(self, tmp_path: Path, gateway: Running) -> None:
        if shutil.which("redis-cli") is None:
            pytest.skip("redis-cli is not installed")
        [settings] = re.findall(r"^## The server's settings\n+```\n(.*?)```", PAGES["redis"], re.MULTILINE | re.DOTALL)
        lines = settings.partition("# with replicas")[0].splitlines()
        options = [word for line in lines if not line.startswith("#") for word in f"--{line}".split()]
        gateway.request("POST", "/blacklist", mint(sub="1001"))
        gateway.request("POST", "/blacklist", ADMIN, {"sub": "1002"})
        old = f"sqlite:///{tmp_path}/blacklist.sqlite3"
        checked, moved, compared = re.findall(r"`((?:gateway|diff) [^`]*\$[^`]*)`", PAGES["redis"])
        with RedisServer(*options) as server:
            for command in (checked, moved, compared):
                run(command, OLD=old, NEW=server.url)
            assert run(compared, OLD=old, NEW=server.url) == ""
            client = f'redis-cli() {{ command redis-cli -p {server.port} "$@"; }}\n'
            generation, entries, tokens = run(client + blocks("redis")[0]).splitlines()
            assert (generation.rpartition(".")[2].isdigit(), entries) == (True, "2")
            assert tokens.startswith("{jwt-gateway}:token:")


# Commands within sentences and tables

INLINE = [
    (page, command)
    for page, text in PAGES.items()
    for command in re.findall(r"`((?:[A-Z_]+=\S+ )*(?:gateway|make|pytest|python3?) [^`]+)`", text)
]


@pytest.mark.parametrize("command", sorted({c for _, c in INLINE if c.startswith("gateway ")}))
def test_a_command_in_a_sentence_is_one_that_there_is(command: str) -> None:
    for part in command.split(" | "):
        name, *words = shlex.split(part)[1:] if part.startswith("gateway ") else ["list"]
        names = name.split("|")
        assert {*names, "--version"} <= {*commands.commands, "--version"}
        for each in commands.commands.keys() & {*names}:
            flags = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert flags <= {option for parameter in commands.commands[each].params for option in parameter.opts}


def test_every_selection_of_tests_selects_some() -> None:
    listed = run("python -m pytest --collect-only -q -p no:randomly tests")
    nodes = [line for line in listed.splitlines() if "::" in line]
    for _, command in INLINE:
        words = shlex.split(command)
        if "pytest" not in words:
            continue
        files = [word for word in words if word.startswith("tests/")]
        assert all((ROOT / file).exists() for file in files), command
        if "-k" in words:
            chosen = Expression.compile(words[words.index("-k") + 1])
            assert any(chosen.evaluate(lambda name, *, node=node, **_: name in node) for node in nodes), command


def test_every_program_in_a_sentence_is_one_that_there_is(tmp_path: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for _, command in INLINE:
        words = shlex.split(command)
        if words[0] == "make":
            assert words[1] in targets, command
        elif "-m" in words:
            assert find_spec(words[words.index("-m") + 1]), command
        elif "-c" in words:
            run(command)


def test_nobody_is_told_to_install_from_an_index_what_no_index_has() -> None:
    """Whoever takes the name there would be run by our readers."""
    texts = [*PAGES.items(), *((str(path), path.read_text()) for path in (ROOT / "gateway").rglob("*.py"))]
    assert [name for name, text in texts if re.search(r"pip install [^`\n]*jwt-blacklist-gateway", text)] == []


def test_the_index_leads_to_every_page_and_the_readme_to_it() -> None:
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", PAGES["index"])}
    assert {path.name for path in DOCS} - {"README.md"} <= linked
    assert "(docs/README.md)" in PAGES["README"]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    place = ROOT if page == "README" else ROOT / "docs"
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page]):
        assert (place / link).exists(), link
    for file in re.findall(r"`((?:tests|benchmarks|deploy|gateway|docs)/[\w./*-]+)`", PAGES[page]):
        assert list(ROOT.glob(file)), file
