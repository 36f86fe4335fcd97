"""The gateway under each server it is offered with, each in processes of its own, before one recording upstream.

with Fleet(directory) as fleet:
    fleet.upstream.requests
    gateway = fleet.gateway("gunicorn")    # started when first asked for
    gateway.ask(request("GET /info"))      # -> Reply
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

from processes import PATIENCE, ServerProcess, free_port
from recorder import Recorder, exchange, ok, until

SERVERS = ["bundled", "gunicorn", "granian"]
PUBLIC = "/health,/static/*"

_BIN = Path(sys.executable).parent
_COMMANDS = {
    "bundled": "{python} -m gateway serve --host 127.0.0.1 --port {port} --workers 1",
    "gunicorn": "{bin}/gunicorn -b 127.0.0.1:{port} -k gthread --threads 4 --forwarder-headers= gateway.wsgi:app",
    "granian": "{bin}/granian --interface wsgi --port {port} --blocking-threads 4 --no-ws gateway.wsgi:app",
}


class Reply(NamedTuple):
    """What one request got; `more` is what came after it on the same connection. Status 0: nothing at all."""

    status: int
    head: str
    body: bytes
    more: bytes


class Served(ServerProcess):
    """A gateway under one server, answering on `port`."""

    def __init__(self, server: str, directory: Path, upstream: str, **environ: str) -> None:
        port = free_port()
        self.store = directory / f"{server}.sqlite3"
        own = {"UPSTREAM": upstream, "STORE": f"sqlite:///{self.store}", "PUBLIC_PATHS": PUBLIC, "LOG_LEVEL": "debug"}
        environ |= {f"GATEWAY_{name}": value for name, value in own.items()}
        command = _COMMANDS[server].format(python=sys.executable, bin=_BIN, port=port)
        super().__init__(command.split(), directory, **environ)
        self.port = port
        assert until(self._is_up, PATIENCE), self.log

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self.log
        try:
            return exchange(self.port, b"GET /-/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") != b""
        except OSError:
            return False

    def ask(self, sent: bytes) -> Reply:
        """Send bytes and return the first answer, and what followed it until the server closed."""
        return parse(exchange(self.port, sent))


class Fleet:
    """All servers, before one upstream, in an environment that would lead a careless client astray.

    `trap` is where every proxy variable and every redirect points: it must never see a connection.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._gateways: dict[str, Served] = {}
        self.upstream = Recorder(ok())
        self.trap = Recorder(ok(b"trapped"))

    def __enter__(self) -> Fleet:
        self.upstream.__enter__()
        self.trap.__enter__()
        (self._directory / "netrc").write_text("machine 127.0.0.1 login planted password planted\n")
        (self._directory / "netrc").chmod(0o600)
        return self

    def __exit__(self, *_: object) -> None:
        for gateway in self._gateways.values():
            gateway.__exit__()
        self.upstream.__exit__()
        self.trap.__exit__()

    def gateway(self, server: str) -> Served:
        if server not in self._gateways:
            proxies = {f"{name}_proxy": self.trap.url for name in ("http", "https", "all")}
            environ = {**proxies, **{name.upper(): url for name, url in proxies.items()}}
            environ |= {"NETRC": str(self._directory / "netrc"), "HOME": str(self._directory)}
            self._gateways[server] = Served(server, self._directory, self.upstream.url, **environ)
        return self._gateways[server]


def parse(received: bytes) -> Reply:
    """Split off the first final response; its body by Content-Length or chunks, else all there is."""
    head, _, rest = received.partition(b"\r\n\r\n")
    text = head.decode("latin-1")
    found = re.match(r"HTTP/1\.[01] (\d{3})", text)
    status = int(found[1]) if found else 0
    if 100 <= status < 200:
        return parse(rest)
    length = re.search(r"(?im)^content-length: *(\d+)", text)
    if length:
        return Reply(status, text, rest[: int(length[1])], rest[int(length[1]) :])
    if "transfer-encoding: chunked" in text.lower():
        body, more = _unchunk(rest)
        return Reply(status, text, body, more)
    return Reply(status, text, rest, b"")


def _unchunk(rest: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length:
            return body, rest.removeprefix(b"\r\n")
        body, rest = body + rest[:length], rest[length + 2 :]
