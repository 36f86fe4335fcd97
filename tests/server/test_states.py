"""The table of a connection's states says all that happens, and nothing that does not."""

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from recorder import Client, exchange, request, served, until

from gateway.http.body import await_body, read_whole, take_body
from gateway.http.wsgi import context
from gateway.server.connection import Connection
from gateway.server.states import (
    ANSWER,
    CLOSED,
    HEAD,
    LINGER,
    PAUSE,
    SEND,
    SKIP,
    STAGE,
    STAGES,
    TRANSITIONS,
    UNREAD,
    State,
)

KEEP = ("Connection", "keep-alive")
LONG = 8 << 20


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    return PAGES[environ["PATH_INFO"]](environ, start)


def plain(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [])
    return [b"done"]


def stream(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    """Parts with pauses between them, and one at the end; some parts are empty."""
    pause = context(environ).pause
    assert pause
    start("200 OK", [])
    for seconds in (0.0, 0.3, 0.0):
        yield b"part"
        pause(seconds)
        yield b""
        pause(seconds)
        yield b""
        yield b""


def upload(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    body = yield from read_whole(environ, 1 << 20)
    yield from plain(environ, start)
    assert body


def silent(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    """Send what was there to send, pause, and end without another byte."""
    pause = context(environ).pause
    assert pause
    start("200 OK", [("Content-Length", "4")])(b"done")
    pause(0.1)
    yield b""


def long(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    start("200 OK", [("Content-Length", str(LONG))])
    yield bytes(LONG)


def duplex(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    """Send much at once, and then no more than the client reads, while the body is taken."""
    about = context(environ)
    about.is_duplex = True
    start("200 OK", [("Content-Length", str(LONG + 4))])
    yield bytes(LONG)
    while (part := take_body(environ, 65536)) != b"":
        if part is None:
            await_body(environ)
            yield b""
    assert about.is_unread
    yield b"done"


PAGES = {"/": plain, "/stream": stream, "/upload": upload, "/long": long, "/silent": silent, "/duplex": duplex}


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[tuple[State, State]]]:
    """The steps that connections take in the test; one that the table does not have raises where it is taken."""
    seen: set[tuple[State, State]] = set()

    def change(connection: Connection, new: State) -> None:
        old = connection.__dict__.get("state", HEAD)
        connection.__dict__["state"] = new
        seen.add((old, new))

    watched = property(lambda connection: connection.__dict__["state"], change)
    monkeypatch.setattr(Connection, "state", watched, raising=False)
    yield seen
    assert {(old, new) for old, new in seen if new not in TRANSITIONS[old]} == set()


@pytest.mark.interpreted
def test_what_connections_do_is_in_the_table(walked: set[tuple[State, State]]) -> None:
    asks = request("POST /upload", KEEP, ("Content-Length", "5"))
    skips = request("POST /", KEEP, ("Content-Length", "5"))
    with served(app, threads=2) as port:
        for path in ("/", "/stream", "/silent"):
            assert exchange(port, request(f"GET {path}") + b"more").startswith(b"HTTP/1.1 200 OK")
        with Client(port, 2 * request("GET /long", KEEP) + request("GET /")) as client:
            assert until(lambda: SEND in {new for _, new in walked})
            assert len(client.read_all()) > 2 * LONG
        with Client(port, asks + b"12") as client:
            assert until(lambda: (HEAD, PAUSE) in walked or (ANSWER, PAUSE) in walked)
            client.sock.sendall(b"345" + skips)
            assert until(lambda: SKIP in {new for _, new in walked})
            client.sock.sendall(b"12345" + request("GET /") + b"more")
            assert client.read_all().count(b"done") == 3
        with Client(port, b"nonsense\r\n\r\n" + b"x" * 100) as client:
            assert b" 400 " in client.read_all()
            client.sock.shutdown(socket.SHUT_WR)
        with Client(port, request("POST /duplex", ("Content-Length", str(LONG)))) as client:
            client.sock.sendall(bytes(LONG))
            assert until(lambda: (UNREAD, SEND) in walked)
            assert client.read_all().endswith(b"done")
        assert until(lambda: (LINGER, CLOSED) in walked)
    reached = {new for _, new in walked}
    assert reached == set(State)


def test_every_state_has_a_stage_and_a_way_to_the_end() -> None:
    assert set(TRANSITIONS) == set(STAGE) == set(State)
    assert set(STAGE.values()) == set(range(STAGES))
    assert all(CLOSED in following for following in TRANSITIONS.values())
    assert TRANSITIONS[CLOSED] == {CLOSED}
