"""`gateway serve` in a process of its own.

with Running(directory, upstream.url, "--workers", "2") as gateway:
    gateway.get("/info", token)
    gateway.log, gateway.records, gateway.pid
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from processes import PATIENCE, ServerProcess


class Answer(NamedTuple):
    """What came back."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The refusal's code, from its problem body."""
        assert self.fields["Content-Type"] == "application/problem+json", self.body
        return str(self.json["type"]).removeprefix("urn:jwt-gateway:")


class Running(ServerProcess):
    """A gateway on an ephemeral port, with a store and a log in `directory`."""

    def __init__(self, directory: Path, upstream: str, *flags: str, **environ: str) -> None:
        store = f"sqlite:///{directory}/blacklist.sqlite3"
        self.store = flags[flags.index("--store") + 1] if "--store" in flags else store
        command = [sys.executable, "-m", "gateway", "serve", "--host", "127.0.0.1", "--port", "0"]
        super().__init__([*command, "--upstream", upstream, "--store", store, *flags], directory, **environ)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log's records that are whole."""
        return [json.loads(line) for line in self.log.splitlines(True) if line.startswith("{") and line.endswith("\n")]

    def request(self, method: str, path: str, token: str | None = None, body: Any = None, **fields: str) -> Answer:
        """Send a request over a connection of its own."""
        lines = [(name.replace("_", "-"), value) for name, value in fields.items()]
        if token is not None:
            lines.append(("Authorization", f"Bearer {token}"))
        if body is None:
            return ask(self.port, f"{method} {path}", *lines)
        return ask(
            self.port, f"{method} {path}", *lines, ("Content-Type", "application/json"), body=json.dumps(body).encode()
        )

    def get(self, path: str, token: str | None = None, **fields: str) -> Answer:
        return self.request("GET", path, token, **fields)


def ask(port: int, line: str, *fields: tuple[str, str], body: bytes | None = None) -> Answer:
    """Send one request over a connection of its own, its target and fields as they are, and return the answer."""
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
