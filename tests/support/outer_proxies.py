"""Runs the outer proxies of deploy/ as they are, but for their ports and the directories they write to."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PATIENCE = 30  # seconds after which a process that does not answer has failed
TEMPORARY = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))

# Each proxy's command, and what is written otherwise in its configuration so that it keeps to loopback.
PROXIES: dict[str, tuple[list[str], dict[str, str]]] = {
    "nginx": (
        ["nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; pid nginx.pid;"],
        {"listen ": "listen 127.0.0.1:", "http {": "http { access_log off; " + TEMPORARY},
    ),
    "haproxy": (["haproxy", "-db", "-f", "haproxy.cfg"], {"bind :": "bind 127.0.0.1:"}),
    "caddy": (
        ["caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
        {"admin off": "admin off\n\tdefault_bind 127.0.0.1"},
    ),
    "envoy": (
        ["envoy", "-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"],
        {"0.0.0.0": "127.0.0.1"},
    ),
    "traefik": (
        ["traefik", "--configFile=traefik.yml"],
        {'":8080"': '"127.0.0.1:8080"'},
    ),
}
SERVERS = {
    "bundled": ["gateway", "serve", "--host", "127.0.0.1", "--log-level", "error", "--port"],
    "granian": ["granian", "--interface", "wsgi", "--no-ws", "gateway.wsgi:app", "--log-level", "error", "--port"],
}


@dataclass
class Answer:
    """What came back to the client."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes

    @property
    def code(self) -> str:
        """The refusal's code, from its problem body."""
        assert self.fields["Content-Type"] == "application/problem+json", self.body
        return str(json.loads(self.body)["type"]).removeprefix("urn:jwt-gateway:")


def ask(port: int, line: str, *fields: tuple[str, str], body: bytes | None = None) -> Answer:
    """Send one request, its target and fields as they are, and return the answer."""
    method, _, target = line.partition(" ")
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        client.putrequest(method, target, skip_accept_encoding=True)
        for name, value in fields:
            client.putheader(name, value)
        if body is not None:
            client.putheader("Content-Length", str(len(body)))
        client.endheaders(body)
        answer = client.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        client.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(name: str) -> str | None:
    """Return where a program is, beside this Python too; None if it is not installed."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin")


@contextmanager
def running(command: list[str], port: int, directory: Path, **environment: str) -> Iterator[None]:
    """Run a program until the block ends, once it listens on the port."""
    log = directory / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env={**os.environ, "HOME": str(directory), **environment},
        )  # fmt: skip
    try:
        _wait_until_listening(process, port, log)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE):
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args} does not listen:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def gateway(directory: Path, server: str = "bundled", **settings: Any) -> Iterator[int]:
    """Run a gateway; the value is its port."""
    port = free_port()
    settings = {"store": f"sqlite:///{directory}/{port}.sqlite3", "workers": 1, **settings}
    environment = {f"GATEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", *SERVERS[server], str(port)]
    with running(command, port, directory, PYTHONPATH=str(ROOT), **environment):
        yield port


@contextmanager
def proxy(name: str, directory: Path, *, gateway: int, api: int) -> Iterator[int]:
    """Run an outer proxy of deploy/ in front of the two ports; the value is its own."""
    with started(name, *PROXIES[name], directory, {"35000": str(gateway), "35001": str(api)}) as port:
        _wait_for_routes(port)
        yield port


def _wait_for_routes(port: int) -> None:
    """Traefik listens before it has read its routes, and answers 404 until then."""
    deadline = time.monotonic() + PATIENCE
    while ask(port, "GET /blacklist").status == 404:
        assert time.monotonic() < deadline, "no route"
        time.sleep(0.05)


@contextmanager
def started(
    folder: str, command: list[str], changes: dict[str, str], directory: Path, ports: dict[str, str]
) -> Iterator[int]:
    """Run a program with a folder of deploy/, written otherwise as told; the value is its port, 8080 there."""
    path = program(command[0])
    if path is None:
        pytest.skip(f"{command[0]} is not installed")
    port = free_port()
    place = directory / f"{folder}-{port}"
    shutil.copytree(DEPLOY / folder, place)
    texts = {file: file.read_text() for file in place.iterdir()}
    for old, new in {**changes, **ports, "8080": str(port)}.items():
        assert any(old in text for text in texts.values()), f"{folder} does not say {old}"
        texts = {file: text.replace(old, new) for file, text in texts.items()}
    for file, text in texts.items():
        file.write_text(text)
    with running([path, *command[1:]], port, place):
        yield port
