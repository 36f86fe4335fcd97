"""A recording upstream on a raw socket, a raw client, and the bundled server in this process.

with Recorder(ok(b"hello")) as upstream:             # the same answer to every request
with Recorder([ok(b"1"), ok(b"2")]) as upstream:     # one answer each, the last one repeats
with Recorder(script) as upstream:                   # script(talk): talk.request, talk.send(…), talk.close(), …

upstream.url, upstream.requests[0].target, .fields, .field("Host"), .body, .head
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 10.0  # seconds after which a test that waits has failed
KEPT = 1 << 20  # bytes of a body that are kept; beyond, only its size


def ok(body: bytes = b"ok", *fields: tuple[str, str], status: str = "200 OK") -> bytes:
    """Return a whole response with Content-Length."""
    return response(body, ("Content-Length", str(len(body))), *fields, status=status)


def response(body: bytes = b"", *fields: tuple[str, str], status: str = "200 OK", version: str = "HTTP/1.1") -> bytes:
    """Return a response with exactly these fields."""
    lines = [f"{version} {status}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    """Return the chunks and the last chunk, as they go over the wire."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailers + b"\r\n"


def saying(answer: bytes) -> Callable[[Talk], None]:
    """Return a script that answers, and closes the connection."""

    def script(talk: Talk) -> None:
        talk.send(answer)
        talk.close()

    return script


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Wait until the condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@dataclass
class Request:
    """What came over the wire: the head's bytes, and the body without its framing."""

    head: bytes
    connection: int
    body: bytes = b""
    size: int = 0
    whole: bool = False  # the body has been read to its end
    line: str = ""
    fields: list[tuple[str, str]] = field(default_factory=list)
    trailers: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.line, *lines = self.head.decode("latin-1").split("\r\n")[:-2]
        self.fields = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in lines)]

    @property
    def method(self) -> str:
        return self.line.split(" ", 1)[0]

    @property
    def target(self) -> str:
        return self.line.split(" ", 1)[1].rsplit(" ", 1)[0]

    def values(self, name: str) -> list[str]:
        """Return the values of every line of a field, in order."""
        return [value for known, value in self.fields if known.lower() == name.lower()]

    def field(self, name: str) -> str | None:
        """Return a field's value, None where it is absent; fails where it was sent more than once."""
        found = self.values(name)
        assert len(found) <= 1, f"{name} was sent {len(found)} times"
        return found[0] if found else None

    @property
    def names(self) -> set[str]:
        return {name.lower() for name, _ in self.fields}


class Talk:
    """One connection, as a script sees it."""

    def __init__(self, sock: socket.socket, connection: int) -> None:
        self.sock = sock
        self.connection = connection
        self.closed = False
        self.request: Request
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        """Close the connection in order (FIN)."""
        self.closed = True
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """Break the connection (RST)."""
        self.closed = True
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def peer_left(self, seconds: float = PATIENCE) -> bool:
        """Wait for the other side to close; return whether it did in time."""
        self.sock.settimeout(seconds)
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def read_head(self) -> Request | None:
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return Request(head + b"\r\n\r\n", self.connection)

    def read_body(self, request: Request) -> None:
        """Read the body to its end; what arrives stands in `request` as it comes."""
        if request.field("Transfer-Encoding"):
            while size := int(self._line().split(b";")[0], 16):
                self._read(request, size)
                self._line()
            while trailer := self._line():
                request.trailers.append(trailer)
        else:
            self._read(request, int(request.field("Content-Length") or 0))
        request.whole = True

    def _read(self, request: Request, size: int) -> None:
        while size:
            if not self._buffer and not self._fill():
                raise ConnectionError("the body ended early")
            part, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(part)
            request.size += len(part)
            if request.size <= KEPT:
                request.body += part

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._fill():
                raise ConnectionError("the body ended early")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _fill(self) -> bool:
        data = self.sock.recv(65536)
        self._buffer += data
        return bool(data)


Script = Callable[[Talk], None]


class Recorder:
    """An upstream on an ephemeral port that logs every request and answers as the test says."""

    def __init__(
        self,
        answer: bytes | list[bytes] | Script | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        read_bodies: bool = True,
    ) -> None:
        self.answer = answer or ok()
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._read_bodies = read_bodies
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Recorder:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    @property
    def last(self) -> Request:
        return self.requests[-1]

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._spawn(self._serve, sock, self.connections)

    def _serve(self, sock: socket.socket, connection: int) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._open.add(sock)
            talk = Talk(sock, connection)
            while not talk.closed and (request := talk.read_head()):
                talk.request = request
                self.requests.append(request)
                if self._read_bodies:
                    talk.read_body(request)
                self._next_answer()(talk)
        except OSError:
            pass  # the peer left, or the test is over
        finally:
            self._open.discard(sock)
            sock.close()

    def _next_answer(self) -> Script:
        answer = self.answer
        if isinstance(answer, list):
            answer = answer[min(len(self.requests), len(answer)) - 1]
        if isinstance(answer, bytes):
            whole = answer
            return lambda talk: talk.send(whole)
        return answer


class Client:
    """A raw connection to a server under test."""

    def __init__(self, port: int, data: bytes = b"") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.sock.sendall(data)
        self.received = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def read_until(self, text: bytes) -> bytes:
        """Return everything received so far, once it contains the text. Raises ConnectionError when it ends before."""
        while text not in self.received:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError(f"ended after {self.received[-200:]!r}")
            self.received += data
        return self.received

    def read_all(self) -> bytes:
        """Return everything received until the server closes the connection."""
        parts = [self.received]
        with suppress(ConnectionResetError):
            while data := self.sock.recv(65536):
                parts.append(data)
        self.received = b"".join(parts)
        return self.received


def exchange(port: int, request: bytes) -> bytes:
    """Send bytes and return everything that comes back until the server closes the connection."""
    with Client(port, request) as client:
        return client.read_all()


def request(line: str = "GET /", *fields: tuple[str, str], body: bytes = b"") -> bytes:
    """Return a request's bytes: HTTP/1.1, with Host, `Connection: close` and Content-Length unless given."""
    line += "" if " HTTP/" in line else " HTTP/1.1"
    names = {name.lower() for name, _ in fields}
    usual = [("Host", "api.test")] if "host" not in names else []
    usual += [("Connection", "close")] if "connection" not in names else []
    if body and not names & {"transfer-encoding", "content-length"}:
        usual += [("Content-Length", str(len(body)))]
    lines = [line, *(f"{name}: {value}" for name, value in [*usual, *fields]), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _ended(listener: Any) -> bool:
    """Return whether no connection is left. One that a thread is just about to put off is for the next try."""
    listener.reset_remaining()
    return not listener.is_busy()


@contextmanager
def served(
    app: Callable[..., Iterable[bytes]], *, threads: int = 4, connections: int = 1000, queue_timeout: float = 60.0
) -> Iterator[int]:
    """Serve a WSGI app with the bundled server's threads in this process; the value is its port."""
    from gateway.server.listener import Listener

    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        listener = Listener(app, sock, threads=threads, connections=connections, queue_timeout=queue_timeout)
        try:
            yield sock.getsockname()[1]
        finally:
            until(lambda: _ended(listener))
