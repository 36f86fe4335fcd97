"""Each app of examples/ is started as its page says, and used by two people."""

import json
import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outer_proxies import running
from processes import ROOT, free_port
from running import Answer, ask

pytestmark = pytest.mark.slow

COMMANDS = dict(
    re.findall(
        r"^\| \[\w+\]\((\w+)/app.py\) \|.*\| `(.+)` \|$", (ROOT / "examples/README.md").read_text(), re.MULTILINE
    )
)
NEEDS = {"flask": ["flask"], "django": ["django"], "fastapi": ["fastapi", "a2wsgi"]}
FORM = ("Content-Type", "application/x-www-form-urlencoded")


@pytest.fixture(params=NEEDS)
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    for module in (*NEEDS[request.param], "gunicorn"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    words = shlex.split(COMMANDS[request.param])
    listening = free_port()
    place = ROOT / "examples" / request.param
    command = [sys.executable, "-m", *words, "--bind", f"127.0.0.1:{listening}", "--chdir", str(place)]
    environ = {"GATEWAY_SECRET": secrets.token_hex(32), "GATEWAY_STORE": f"sqlite:///{tmp_path}/blacklist.sqlite3"}
    path = os.pathsep.join([str(ROOT), str(place)])
    with running(command, listening, tmp_path, PYTHONPATH=path, PYTHONDONTWRITEBYTECODE="1", **environ):
        yield listening


def sign_in(port: int, user: str) -> tuple[str, str]:
    answer = ask(port, "POST /login", FORM, body=f"user={user}".encode())
    name, _, value = answer.body.decode().strip().partition(": ")
    assert (answer.status, name) == (200, "Authorization"), answer.body
    return name, value


def me(port: int, *fields: tuple[str, str]) -> Answer:
    return ask(port, "GET /me", *fields)


def test_every_example_is_in_the_table() -> None:
    assert COMMANDS.keys() == NEEDS.keys() == {path.parent.name for path in (ROOT / "examples").glob("*/app.py")}


def test_who_logs_out_is_out_here_and_everywhere(port: int) -> None:
    here, there, other = sign_in(port, "alice"), sign_in(port, "alice"), sign_in(port, "bob")
    assert me(port).code == "missing-credentials"
    assert [json.loads(me(port, token).body) for token in (here, other)] == [{"user": "alice"}, {"user": "bob"}]
    assert ask(port, "POST /logout", here, body=b"").status == 200
    assert me(port, here).code == "token-blacklisted"
    assert [me(port, token).status for token in (there, other)] == [200, 200]
    assert ask(port, "POST /logout/everywhere", there, body=b"").status == 200
    assert me(port, there).code == "token-blacklisted"
    assert me(port, other).status == 200


def test_nobody_is_who_they_say_they_are(port: int) -> None:
    answer = me(port, sign_in(port, "bob"), ("X-Token-Subject", "alice"), ("X_Token_Subject", "alice"))
    assert json.loads(answer.body) == {"user": "bob"}
    assert me(port, ("X-Token-Subject", "alice")).status == 401
