"""Where names are missing that only Linux has, as on a Mac, the gateway works all the same; Windows is told at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers import SECRET, mint
from processes import ROOT, ServerProcess
from recorder import Recorder, ok
from running import ask

# Of the standard library, what macOS does not have. What is hidden before the gateway is imported is not there for it.
HIDE = """
import os, select, signal, socket, sys

for module in (os, select, signal, socket):
    for name in dir(module):
        if name in {
            "sched_getaffinity", "sched_setaffinity", "process_cpu_count", "eventfd", "eventfd_read", "eventfd_write",
            "epoll", "POLLRDHUP", "signalfd", "pidfd_open", "memfd_create", "posix_fadvise", "posix_fallocate",
            "fdatasync", "accept4", "pipe2", "sendfile", "TCP_INFO", "TCP_USER_TIMEOUT", "TCP_QUICKACK",
            "TCP_DEFER_ACCEPT", "SO_PEERCRED", "sigtimedwait", "sigwaitinfo", "pidfd_send_signal", "setresuid",
        } or name.startswith(("EPOLL", "EFD_")):
            delattr(module, name)
"""
PROGRAM = HIDE + "from gateway.cli import main; main()"


def run(program: str, *arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_a_token_is_minted(tmp_path: Path) -> None:
    done = run(PROGRAM, "token", directory=tmp_path)
    assert (done.returncode, done.stdout.count(".")) == (0, 2), done.stderr


def test_an_app_is_wrapped(tmp_path: Path) -> None:
    program = HIDE + (
        "from werkzeug.test import Client\n"
        "from gateway import Gateway\n"
        "def app(environ, start): start('200 OK', []); return [b'ok']\n"
        f"client = Client(Gateway(app, secret={SECRET!r}))\n"
        f"token = {{'Authorization': 'Bearer {mint()}'}}\n"
        "print(client.get('/', headers=token).status_code, client.post('/blacklist', headers=token).status_code,\n"
        "      client.get('/', headers=token).status_code)\n"
    )
    done = run(program, directory=tmp_path)
    assert done.stdout.split() == ["200", "200", "401"], done.stderr


def test_the_gateway_serves_counts_and_ends(tmp_path: Path) -> None:
    flags = ["--host", "127.0.0.1", "--port", "0", "--metrics-port", "0", "--workers", "2"]
    with Recorder(ok()) as upstream:
        command = [sys.executable, "-c", PROGRAM, "serve", "--upstream", upstream.url, *flags]
        with ServerProcess(command, tmp_path) as gateway:
            token = ("Authorization", f"Bearer {mint()}")
            for line, status in (("GET /", 200), ("POST /blacklist", 200), ("GET /", 401)):
                assert ask(gateway.port, line, token).status == status, gateway.log
            assert b"gateway_requests_total" in ask(gateway.metrics_port, "GET /metrics").body
    assert gateway.wait() == 0
    assert "error" not in {json.loads(line)["level"] for line in gateway.log.splitlines()}, gateway.log


def test_windows_is_told_at_once_what_to_do(tmp_path: Path) -> None:
    done = run("import os; del os.fork; import gateway", directory=tmp_path)
    assert done.stderr.splitlines()[-1].endswith("on Windows, run it in WSL or in Docker")
