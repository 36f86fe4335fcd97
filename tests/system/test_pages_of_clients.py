"""Every program of docs/clients.md logs a user out, and fails where the gateway refuses."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import mint
from processes import ROOT
from recorder import Recorder, ok
from running import Running

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs/clients.md").read_text()
PROGRAMS = dict(re.findall(r"^```(?!sh\n|json\n)(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
# What runs each program, and the file it is in; what it needs beside that.
RUN_BY = {
    "python": ([sys.executable], "logout.py"),
    "javascript": (["node"], "logout.mjs"),
    "go": (["go", "run"], "logout.go"),
    "java": (["java"], "Logout.java"),
    "php": (["php"], "logout.php"),
}
ADMIN = mint(sub="admin", scope="blacklist:admin")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with Recorder(ok()) as upstream, Running(tmp_path, upstream.url, "--workers", "1") as running:
        yield running


def log_out(directory: Path, language: str, gateway: Running, token: str) -> int:
    """Run the page's program for user 1001, and return its exit status."""
    (program, *words), name = RUN_BY[language]
    if shutil.which(program) is None:
        # CI installs what is small, and fails over what "is not installed".
        pytest.skip("this needs go" if program == "go" else f"{program} is not installed")
    (directory / name).write_text(PROGRAMS[language])
    known = {**os.environ, "GATEWAY": gateway.url, "ADMIN_TOKEN": token, "GOCACHE": str(directory / "cache")}
    return subprocess.run([program, *words, name, "1001"], cwd=directory, env=known, check=False).returncode


def test_every_program_of_the_page_is_run() -> None:
    assert PROGRAMS.keys() == RUN_BY.keys()


@pytest.mark.parametrize("language", RUN_BY)
def test_a_user_is_logged_out_by_one_request(tmp_path: Path, gateway: Running, language: str) -> None:
    user, other = mint(sub="1001"), mint(sub="1002")
    assert log_out(tmp_path, language, gateway, mint(sub="1002")) != 0
    assert gateway.get("/", user).status == 200
    assert log_out(tmp_path, language, gateway, ADMIN) == 0
    assert [gateway.get("/", token).status for token in (user, other)] == [401, 200]
    [entry] = gateway.get("/blacklist/entries", ADMIN).json["entries"]
    assert (entry["claim"], entry["reason"]) in [({"sub": user}, "password changed") for user in ("1001", 1001)]
