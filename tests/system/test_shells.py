"""What is there to be pasted works in every shell that people paste into, byte for byte as it stands there."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ROOT, free_port
from recorder import Recorder, ok, until
from running import Running, ask

from gateway.cli.run import STORY

pytestmark = pytest.mark.slow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
LINES = [
    (page.name, line)
    for page in PAGES
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
# An interactive zsh takes `#` for a command's argument: it reads like the terminal that people paste into.
SHELLS = {
    "bash": ["bash", "--norc"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config"],
    "dash": ["dash"],
}
STORY_GOES = [401, 200, 200, 401, 200, 200]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> list[str]:
    command = SHELLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return command


class Terminal:
    """A directory to type in. Its `curl` notes the status of each answer, and finds the gateway on `port`."""

    def __init__(self, directory: Path, shell: list[str], port: int) -> None:
        self._directory, self._shell = directory, shell
        self._statuses = directory / "statuses"
        programs = directory / "programs"
        programs.mkdir()
        (directory / ".venv/bin").mkdir(parents=True)
        curl = shutil.which("curl")
        assert curl is not None, "curl is not installed"
        ask = f'"{curl}" -sS -o /dev/null -w "%{{http_code}}\\n" "$@" >> "{self._statuses}"'
        ports = f'for each; do shift; set -- "$@" "$(echo "$each" | sed s/:35000/:{port}/)"; done'
        self._write(programs / "curl", f"{ports}\n{ask}")
        self._write(directory / ".venv/bin/gateway", f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m gateway "$@"')
        self._environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(directory)}

    @staticmethod
    def _write(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def paste(self, text: str) -> str:
        """Type the text, and return what is printed."""
        done = subprocess.run(
            self._shell, input=text, cwd=self._directory, env=self._environ, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    @property
    def statuses(self) -> list[int]:
        return [int(line) for line in self._statuses.read_text().split()]


def test_a_line_for_pasting_has_nothing_but_a_command() -> None:
    """No comment, which an interactive zsh would run, no apostrophe (PowerShell quotes otherwise), no subshell."""
    lines = [*LINES, *(("the story", line) for line in STORY.splitlines())]
    assert [line for line in lines if re.search(r"(^|\s)#|'|\$\(|^\(", line[1])] == []


def test_the_readmes_sessions_go_as_they_say_in_every_shell(tmp_path: Path, shell: list[str]) -> None:
    """A session is a block of curl lines; the paragraph below it tells which statuses come back."""
    readme = (ROOT / "README.md").read_text()
    sessions = re.findall(r"^```sh\n([^`]*@token.txt[^`]*)^```\n\n(.*?)\n\n", readme, re.MULTILINE | re.DOTALL)
    told = [int(status) for _, answers in sessions for status in re.findall(r"\b[2-5]\d\d\b", answers)]
    assert told == [*STORY_GOES, 200, 401]
    with Recorder(ok(b"{}")) as upstream, Running(tmp_path, upstream.url, "--workers", "1") as running:
        terminal = Terminal(tmp_path, shell, running.port)
        printed = terminal.paste("".join(lines for lines, _ in sessions))
    assert terminal.statuses == told, printed


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `gateway demo` prints, while it runs in an empty directory."""
    directory = tmp_path_factory.mktemp("demo")
    port, upstream = free_port(), free_port()
    flags = ["--port", str(port), "--upstream", f"http://127.0.0.1:{upstream}", "--workers", "1"]
    told = directory / "story"
    with told.open("wb") as out, (directory / "log").open("wb") as log:
        demo = subprocess.Popen(
            [sys.executable, "-m", "gateway", "demo", *flags],
            cwd=directory, stdout=out, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    try:
        assert until(lambda: _is_ready(port) or demo.poll() is not None, 30), (directory / "log").read_text()
        yield told.read_text()
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0, (directory / "log").read_text()
    assert not _listens(upstream)


def _listens(port: int) -> bool:
    try:
        ask(port, "GET /info")
    except OSError:
        return False
    return True


def _is_ready(port: int) -> bool:
    try:
        return ask(port, "GET /-/ready").status == 200
    except OSError:
        time.sleep(0.05)
        return False


@pytest.mark.parametrize("whole", [False, True], ids=["its commands", "all of it"])
def test_the_demos_story_goes_as_it_says_in_every_shell(
    tmp_path: Path, shell: list[str], story: str, whole: bool
) -> None:
    terminal = Terminal(tmp_path, shell, 0)
    lines = [line for line in story.splitlines() if whole or line.startswith(("curl", "echo"))]
    printed = terminal.paste("\n".join(lines) + "\n")
    assert terminal.statuses == STORY_GOES, printed


def test_the_demo_listens_on_this_machine_alone_and_brings_its_api(story: str) -> None:
    [port] = {int(port) for port in re.findall(r"curl -i http://127\.0\.0\.1:(\d+)/info$", story, re.MULTILINE)}
    [token] = re.findall(r"^echo \"Authorization: (Bearer \S+)\"", story, re.MULTILINE)
    with pytest.raises(ConnectionRefusedError):  # which a listener on all interfaces would accept
        socket.create_connection(("127.0.0.2", port), timeout=5)
    answer = ask(port, "PUT /echo?x=%41", ("Authorization", token), body=b"a body")
    assert json.loads(answer.body) == {"method": "PUT", "path": "/echo?x=%41", "body": "a body"}
