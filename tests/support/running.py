"""`gateway serve` in a process of its own.

with Running(directory, upstream.url, "--workers", "2") as gateway:
    gateway.get("/info", token)
    gateway.log, gateway.records, gateway.pid
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from processes import children
from recorder import until

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds after which a gateway that does not start or end has failed


class Answer(NamedTuple):
    """What came back."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A gateway on an ephemeral port, with a store and a log in `directory`."""

    def __init__(self, directory: Path, upstream: str, *flags: str, **environ: str) -> None:
        self._log = directory / "gateway.log"
        command = [sys.executable, "-m", "gateway", "serve", "--host", "127.0.0.1", "--port", "0"]
        store = f"sqlite:///{directory}/blacklist.sqlite3"
        self.store = flags[flags.index("--store") + 1] if "--store" in flags else store
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--upstream", upstream, "--store", store, *flags],
                stdout=log,
                stderr=log,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            )
        self.pid = self._process.pid
        self.port = 0

    def __enter__(self) -> Running:
        if not until(lambda: self._find_port() or self._process.poll() is not None, PATIENCE):
            self.__exit__()
            raise AssertionError(self.log)
        return self

    def _find_port(self) -> int:
        found = re.search(r"listening at \S+:(\d+)", self.log)
        self.port = int(found[1]) if found else 0
        return self.port

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self.wait()

    def wait(self) -> int:
        """Return the exit status, once it ends."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def workers(self) -> list[int]:
        """The worker processes' ids."""
        return children(self.pid)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log's records that are whole."""
        return [json.loads(line) for line in self.log.splitlines(True) if line.startswith("{") and line.endswith("\n")]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def request(self, method: str, path: str, token: str | None = None, body: Any = None, **fields: str) -> Answer:
        """Send a request over a connection of its own."""
        fields = {name.replace("_", "-"): value for name, value in fields.items()}
        if token is not None:
            fields["Authorization"] = f"Bearer {token}"
        if body is not None:
            fields["Content-Type"] = "application/json"
        return fetch(self.port, method, path, None if body is None else json.dumps(body), fields)

    def get(self, path: str, token: str | None = None, **fields: str) -> Answer:
        return self.request("GET", path, token, **fields)


def fetch(port: int, method: str, path: str, body: str | None = None, fields: Any = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, fields or {})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()
