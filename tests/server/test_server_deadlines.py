"""What the bundled server's connections allow a client: time for a head, a body, a pause, and to read."""

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from recorder import Client, request, served, until

from gateway.http.body import read_whole
from gateway.server import connection as module
from gateway.server.connection import Connection
from gateway.server.pause import NOTHING
from gateway.server.states import GRACE_SECONDS, HEAD, HEAD_SECONDS, LINGER_SECONDS, QUIET_SECONDS

KEEP = ("Connection", "keep-alive")


def hello(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [])
    return [b"hello"]


def endless(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    start("200 OK", [])
    while True:
        yield bytes(65536)


def reads(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
    body = yield from read_whole(environ, 1000)
    start("200 OK", [])
    yield b"%d bytes" % len(body)


def exits(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    raise SystemExit


class Talk:
    """A connection under test, and its client's socket."""

    def __init__(self, app: Callable[..., Any] = hello) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.connection = Connection(*listener.accept(), app, notify=lambda connection: None)
        self.began = time.monotonic()

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.connection.close()

    def send(self, data: bytes) -> bool:
        """Send, and return whether the connection stays."""
        self.client.sendall(data)
        assert until(lambda: self.connection.wire.poll(select.POLLIN))
        return self.goes_on()

    def goes_on(self) -> bool:
        """Do what can be done now; return whether the connection stays."""
        while (awaited := self.connection.serve()) is NOTHING:
            pass
        return awaited is not None

    def is_expired(self, seconds: float) -> bool:
        """Return whether the client has had its time so long after it began."""
        return self.connection.is_expired(self.began + seconds)


def test_a_silent_client_has_the_time_for_a_head() -> None:
    with Talk() as talk:
        assert not talk.is_expired(HEAD_SECONDS - 5)
        assert talk.is_expired(HEAD_SECONDS + 5)


def test_a_head_that_trickles_has_no_more_time() -> None:
    with Talk() as talk:
        assert talk.send(request("GET /", KEEP) + b"GET")
        assert not talk.is_expired(HEAD_SECONDS - 5)
        talk.connection.wire.deadlines.heard += HEAD_SECONDS  # as if a byte had just come
        assert talk.is_expired(HEAD_SECONDS + 5)


def test_who_sends_empty_lines_all_the_time_has_no_more_time() -> None:
    with Talk() as talk:
        assert talk.send(b"\r\n" * 1000)
        talk.connection.wire.deadlines.since = talk.began - HEAD_SECONDS
        assert not talk.send(b"\r\n" * 1000)


@pytest.mark.parametrize("sent", [request("GET /", KEEP), request("POST /", ("Content-Length", "9")) + b"1234"])
def test_a_pause_between_requests_or_within_a_body_ends(sent: bytes) -> None:
    with Talk(reads) as talk:
        assert talk.send(sent)
        assert not talk.is_expired(QUIET_SECONDS - 5)
        assert talk.is_expired(QUIET_SECONDS + 5)


def test_who_sends_on_after_the_end_is_listened_to_for_a_while() -> None:
    with Talk() as talk:
        assert talk.send(request("GET /") + b"more")
        assert talk.client.recv(1000).endswith(b"\r\n\r\nhello")
        assert talk.client.recv(1) == b""
        assert talk.send(b"and more")
        assert not talk.is_expired(LINGER_SECONDS - 5)
        assert talk.is_expired(LINGER_SECONDS + 5)
        talk.connection.wire.deadlines.since = talk.began - LINGER_SECONDS
        assert not talk.send(b"and still more"), "who sends all the time ends it himself"


def test_what_comes_while_a_last_answer_is_made_takes_nothing_of_that_away() -> None:
    def slow(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        talk.client.sendall(b"\r\n")  # as some do after a body
        assert until(lambda: talk.connection.wire.poll(select.POLLIN))
        return hello(environ, start)

    with Talk(slow) as talk:
        assert talk.send(request("GET /")), "to close now would be a reset"
        assert talk.client.recv(1000).endswith(b"\r\n\r\nhello")
        assert talk.client.recv(1) == b""


def test_what_found_no_free_thread_is_not_the_clients_delay() -> None:
    with Talk() as talk:
        talk.client.sendall(b"GET")
        assert until(lambda: not talk.is_expired(HEAD_SECONDS + 5))


@pytest.mark.interpreted
def test_a_drain_closes_what_has_no_head_and_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_draining", lambda: True)
    with Talk() as idle, Talk(reads) as uploading:
        uploading.send(request("POST /", ("Content-Length", "9")))
        assert not idle.is_expired(GRACE_SECONDS / 2)
        assert idle.is_expired(GRACE_SECONDS + 5)
        assert not uploading.is_expired(GRACE_SECONDS + 5)


@pytest.mark.interpreted
def test_a_drain_does_not_wait_for_who_has_its_answer_and_does_not_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_draining", lambda: True)
    with Talk() as quiet, Talk() as sending:
        for talk in (quiet, sending):
            assert talk.send(request("GET /") + b"more")
            assert not talk.is_expired(GRACE_SECONDS / 2)
        sending.client.sendall(b"and more")
        assert until(lambda: not sending.is_expired(GRACE_SECONDS + 5))
        assert quiet.is_expired(GRACE_SECONDS + 5)


def test_a_drain_does_not_close_on_a_request_that_waits_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with Talk() as talk:
        talk.client.sendall(2 * request("GET /", KEEP))
        assert until(lambda: talk.connection.serve() is NOTHING and talk.connection.state is HEAD)
        monkeypatch.setattr(module, "is_draining", lambda: True)
        assert not talk.is_expired(GRACE_SECONDS + 5)


def test_a_reader_that_stops_holds_no_thread_and_is_given_up() -> None:
    with Talk(endless) as talk:
        assert talk.send(request("GET /"))
        assert not talk.is_expired(QUIET_SECONDS - 5)
        assert talk.is_expired(QUIET_SECONDS + 5)


def test_a_reader_that_goes_on_has_all_of_it_and_in_order() -> None:
    parts = [bytes([number]) * 1_000_000 for number in range(1, 20)]

    def long(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", str(sum(map(len, parts))))])
        return parts

    with Talk(long) as talk:
        talk.client.settimeout(10)
        assert talk.send(request("GET /", KEEP))
        received = b""
        while len(received) < sum(map(len, parts)):
            received += talk.client.recv(1 << 20)
            assert talk.goes_on()
        assert received.partition(b"\r\n\r\n")[2] == b"".join(parts)


def test_who_fails_while_the_client_reads_slowly_is_cut_off_for_all_to_see() -> None:
    def breaks(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [])
        yield bytes(20_000_000)
        raise RuntimeError

    with Talk(breaks) as talk:
        talk.client.settimeout(10)
        assert talk.send(request("GET /", KEEP))
        received = bytearray()
        while talk.goes_on():
            received += talk.client.recv(1 << 20)
        talk.connection.close()
        while data := talk.client.recv(1 << 20):
            received += data
        assert received.endswith(b"\0\r\n")  # the whole chunk, and no last one


@pytest.mark.parametrize("more", [b"", b"\r\n"])
def test_a_cut_off_body_without_a_length_ends_with_a_reset_whatever_else_has_come(more: bytes) -> None:
    def breaks(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"part"
        raise RuntimeError

    with Talk(breaks) as talk:
        assert not talk.send(b"GET / HTTP/1.0\r\n\r\n" + more)
        talk.connection.close()
        assert_reset(talk.client)


def test_who_is_given_up_while_reading_a_body_without_a_length_sees_a_reset() -> None:
    with Talk(endless) as talk:
        assert talk.send(b"GET / HTTP/1.0\r\n\r\n")
        talk.connection.close()
        assert_reset(talk.client)


def assert_reset(client: socket.socket) -> None:
    client.settimeout(10)
    with pytest.raises(ConnectionResetError):
        assert all(iter(lambda: client.recv(1 << 20), b""))


def test_even_an_app_that_exits_leaves_an_answer() -> None:
    with Talk(exits) as talk:
        assert not talk.send(request("GET /"))
        assert talk.client.recv(1000).startswith(b"HTTP/1.1 500 ")


def test_beyond_the_limit_connections_wait_for_others_to_end() -> None:
    with (
        served(hello, threads=2, connections=1) as port,
        Client(port, request("GET /", KEEP)) as first,
        Client(port, request("GET /")) as second,
    ):
        first.read_until(b"hello")
        second.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.sock.recv(1)
        first.sock.close()
        second.sock.settimeout(10)
        assert second.read_all().endswith(b"hello")
