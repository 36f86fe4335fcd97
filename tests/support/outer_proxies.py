"""Runs the outer proxies of deploy/ as they are, but for their ports and the directories they write to."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE, ROOT, free_port, listens
from recorder import until
from running import ask

DEPLOY = ROOT / "deploy"
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
        if not until(lambda: listens(port) or process.poll() is not None, PATIENCE) or not listens(port):
            pytest.fail(f"{command} does not listen:\n{log.read_text(errors='replace')[-2000:]}")
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


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
        # Traefik listens before it has read its routes, and answers 404 until then.
        assert until(lambda: ask(port, "GET /blacklist").status != 404, PATIENCE), "no route"
        yield port


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
