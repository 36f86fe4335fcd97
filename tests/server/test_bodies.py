"""What the bundled server gives an app of a body, a pause, and a connection: the protocol of `gateway.http.wsgi`."""

import os
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from recorder import Client, exchange, request, served, until

from gateway.http.body import await_body, read_whole, take_body
from gateway.http.disconnected import ClientDisconnected
from gateway.http.problems import Problem
from gateway.http.wsgi import context
from gateway.server import head as head_module
from gateway.server.head import OWN_BYTES, HeadReader, Room

KEEP = ("Connection", "keep-alive")
CHUNKED = ("Transfer-Encoding", "chunked")
Environ = dict[str, Any]
Start = Callable[..., Any]


def reads(environ: Environ, start: Start) -> Iterator[bytes]:
    """Answer with the body, or why there is none; /none does not ask for it."""
    try:
        body = b"" if environ["PATH_INFO"] == "/none" else (yield from read_whole(environ, 1 << 20))
        start("200 OK", [])
        yield b"<" + body + b">"
    except Problem as problem:
        status, fields, body = problem.response()
        start(status, [*fields, ("Content-Length", str(len(body)))])
        yield body


@pytest.fixture
def port() -> Iterator[int]:
    with served(reads, threads=1) as port:
        yield port


# Chunks (RFC 9112 section 7.1)


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (b"3;a=b\r\nabc\r\n0\r\n\r\n", b"abc"),
        (b'3 ; a = "b;\\"c" ;d\r\nabc\r\n0;x\r\n\r\n', b"abc"),
        (b"00000003\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
        (b"0\r\nX: y\r\nZ: \xe9\r\n\r\n", b""),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_chunks_are_undone(port: int, sent: bytes, body: bytes, step: int) -> None:
    with Client(port, request("POST /", KEEP, CHUNKED)) as client:
        for start in range(0, len(sent), step):
            client.sock.sendall(sent[start : start + step])
        client.read_until(b"<" + body + b">")
        client.sock.sendall(request("GET /none"))
        assert client.read_all().count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"x\r\n",
        b"-1\r\n",
        b"5\r\nhelloX\r\n",
        b"\r\n3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3;\r\nabc\r\n0\r\n\r\n",
        b"3;a=\r\nabc\r\n0\r\n\r\n",
        b'3;a="b\r\nabc\r\n0\r\n\r\n',
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"f" * 16 + b"\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nX\r\n\r\n",
        b"0\r\nX: a\0\r\n\r\n",
    ],
)
def test_bad_chunks_and_trailers_are_refused_and_nothing_behind_them_is_answered(port: int, sent: bytes) -> None:
    answer = exchange(port, request("POST /", KEEP, CHUNKED) + sent + request("GET /none"))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("line", [b"3;" + b"a" * 20_000, b"0\r\n" + 5000 * b"X: 34567890123456\r\n"])
def test_what_frames_chunks_is_bounded(port: int, line: bytes) -> None:
    answer = exchange(port, request("POST /", CHUNKED) + line + b"\r\n\r\n")
    assert answer.split(b" ")[1] in (b"400", b"431")


def test_many_tiny_chunks_cost_no_more_than_their_bytes(port: int) -> None:
    body = b"x" * 100_000
    sent = b"".join(b"1;e=%d\r\nx\r\n" % (number % 10) for number in range(len(body))) + b"0\r\n\r\n"
    assert exchange(port, request("POST /", CHUNKED) + sent).count(b"x") >= len(body)


# Bodies that nobody takes, or that end early


def test_the_app_is_called_with_the_head_and_invites_the_body_when_it_asks(port: int) -> None:
    expects = ("Expect", "100-continue")
    with Client(port, request("POST /", expects, ("Content-Length", "3"))) as client:
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sock.sendall(b"abc")
        assert b"<abc>" in client.read_all()
    answer = exchange(port, request("POST /none", KEEP, expects, ("Content-Length", "3")))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer


def test_of_an_endless_body_that_nobody_asked_for_nothing_is_kept(port: int) -> None:
    answer = request("GET /none", KEEP, ("Content-Length", "999999999999999999"), body=b"x" * 1_000_000)
    assert b"\r\nConnection: close\r\n" in exchange(port, answer)


def test_a_body_that_is_announced_as_too_long_is_refused_before_it_is_sent(port: int) -> None:
    with Client(port, request("POST /", ("Content-Length", "1048577"))) as client:
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_a_short_body_is_thrown_away_when_it_comes_later(port: int) -> None:
    with Client(port, request("POST /none", KEEP, ("Content-Length", "5"))) as client:
        client.read_until(b"<>")
        client.sock.sendall(b"12345" + request("GET /none"))
        assert client.read_all().count(b"HTTP/1.1 200 OK") == 2


def test_an_app_learns_that_its_client_left_amid_the_body() -> None:
    seen: list[BaseException] = []

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        try:
            yield from read_whole(environ, 100)
        except ConnectionError as error:
            seen.append(error)
            raise

    with served(app, threads=1) as port:
        with Client(port, request("POST /", ("Content-Length", "5"), body=b"123")):
            pass
        assert until(lambda: seen)
    assert isinstance(seen[0], ClientDisconnected)


def test_no_more_is_received_than_is_taken() -> None:
    taken = threading.Event()

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        while not taken.is_set():
            pause = context(environ).pause
            assert pause
            pause(0.1)
            yield b""
        size = 0
        while (part := take_body(environ, 1000)) != b"":
            if part is None:
                await_body(environ)
                yield b""
            else:
                assert len(part) <= 1000
                size += len(part)
        start("200 OK", [])
        yield b"%d bytes" % size

    body = bytes(20_000_000)
    with served(app, threads=1) as port, Client(port, request("POST /", ("Content-Length", "20000000"))) as client:
        client.sock.settimeout(0.5)
        sent = 0
        with suppress(TimeoutError):  # what fits into the kernel's buffers alone goes
            while sent < len(body):
                sent += client.sock.send(body[sent : sent + 65536])
        assert sent < len(body)
        client.sock.settimeout(20)
        taken.set()
        client.sock.sendall(body[sent:])
        assert b"20000000 bytes" in client.read_all()


# Pauses


def is_readable(sock: socket.socket) -> bool:
    poll = select.poll()  # select itself takes no descriptor beyond 1,023
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def test_any_of_several_descriptors_ends_a_pause_and_those_of_earlier_ones_do_no_harm() -> None:
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
        asked: list[int] = []
        paused: set[int] = set()

        def app(environ: Environ, start: Start) -> Iterator[bytes]:
            pause = context(environ).pause
            assert pause
            ends = [pair[0] for pair in pairs]
            start("200 OK", [("Content-Length", "3")])
            for turn in range(3):
                while not is_readable(ends[turn]):
                    pause(60, {end.fileno(): select.POLLIN for end in ends[turn:]})
                    paused.add(turn)
                    yield b""
                    asked.append(turn)
                ends[turn].close()
                # Another takes the number, and is armed for what the first one was.
                stack.callback(os.close, os.dup(ends[(turn + 1) % 3].fileno() if turn < 2 else pairs[0][1].fileno()))
                yield b"%d" % turn

        port = stack.enter_context(served(app, threads=2))
        client = stack.enter_context(Client(port, request("GET /")))
        for turn in range(3):
            assert until(lambda turn=turn: turn in paused)  # type: ignore[misc]
            pairs[turn][1].send(b"!")
            client.read_until(str(turn).encode())
        assert client.read_all().endswith(b"012")
        assert 0 < len(asked) < 20


@pytest.mark.parametrize("framing", [("Content-Length", "4"), CHUNKED])
def test_a_pause_ends_when_the_body_goes_on_and_when_it_ends(framing: tuple[str, str]) -> None:
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [])
        while (part := take_body(environ, 100)) != b"":
            if part is None:
                await_body(environ)
            yield part or b""
        yield b"end"

    parts = [b"ab", b"cd"] if framing != CHUNKED else [b"2\r\nab\r\n", b"2\r\ncd\r\n0\r\n\r\n"]
    with served(app, threads=1) as port, Client(port, request("POST /", framing)) as client:
        for part, text in zip(parts, (b"ab", b"cd"), strict=True):
            client.sock.sendall(part)
            client.read_until(text)
        assert b"end" in client.read_all()


def test_a_client_that_leaves_ends_a_pause() -> None:
    closed = threading.Event()

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        pause = context(environ).pause
        assert pause
        start("200 OK", [])
        try:
            while True:
                pause(3600)
                yield b""
        finally:
            closed.set()

    with served(app, threads=1) as port:
        with Client(port, request("GET /")) as client:
            client.read_until(b"\r\n\r\n")
        assert closed.wait(10)


# Cut off


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("fields", [[], [("Content-Length", "1000000000")]])
def test_a_response_that_is_cut_ends_visibly_and_its_app_is_closed(version: str, fields: list[tuple[str, str]]) -> None:
    about: list[Any] = []
    closed = threading.Event()

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        about.append(context(environ))
        start("200 OK", fields)
        try:
            yield b"part"
            while True:
                about[-1].pause(3600)
                yield b""
        finally:
            closed.set()

    with served(app, threads=1) as port, Client(port, request(f"GET / HTTP/{version}")) as client:
        client.read_until(b"part")
        about[0].cut("token-blacklisted")
        with pytest.raises(ConnectionResetError):
            client.sock.recv(1)
        assert closed.wait(10)
        assert about[0].refusal == "token-blacklisted"
        assert b"part" in exchange_until(port, b"part")  # others are served on


def exchange_until(port: int, text: bytes) -> bytes:
    with Client(port, request("GET /")) as client:
        return client.read_until(text)


def test_a_response_whose_client_does_not_read_is_cut_as_well() -> None:
    about: list[Any] = []
    closed = threading.Event()

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        about.append(context(environ))
        start("200 OK", [])
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            closed.set()

    with served(app, threads=1) as port, Client(port, request("GET /")) as client:
        client.read_until(b"\r\n\r\n")
        assert not closed.wait(0.5)
        about[0].cut("token-expired")
        assert closed.wait(10)
        with pytest.raises(ConnectionResetError):
            all(iter(lambda: client.sock.recv(1 << 20), b""))


def test_a_response_that_is_cut_before_its_head_is_refused() -> None:
    about: list[Any] = []

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        context(environ).request_id = "r-1"
        about.append(context(environ))
        while True:
            about[0].pause(3600)
            yield b""

    with served(app, threads=1) as port, Client(port, request("GET /", KEEP)) as client:
        assert until(lambda: about)
        about[0].cut("token-blacklisted")
        answer = client.read_all()
        assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        assert b"\r\nX-Request-Id: r-1\r\n" in answer
        assert b"urn:jwt-gateway:token-blacklisted" in answer
        about[0].cut("token-blacklisted")  # it is over: nothing happens


@pytest.mark.parametrize("begin", [lambda part: [part], lambda part: iter([part, b"more"])])
def test_what_an_app_makes_while_its_response_is_cut_is_not_sent(begin: Callable[[bytes], Iterable[bytes]]) -> None:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        start("200 OK", [])
        context(environ).cut("token-blacklisted")
        return begin(b"secret")

    with served(app, threads=1) as port, Client(port, request("GET /")) as client:
        assert b"secret" not in client.read_all()


def test_a_refusal_that_is_under_way_is_not_cut_off() -> None:
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        about = context(environ)
        about.refusal = "token-blacklisted"
        start("401 Unauthorized", [("Content-Length", "2")])
        yield b"n"
        assert about.cut
        about.cut("token-blacklisted")
        yield b"o"

    with served(app, threads=1) as port:
        assert exchange(port, request("GET /")).endswith(b"\r\n\r\nno")


# Interim answers, and other protocols


def test_interim_answers_go_out_at_once_and_to_http_1_1_alone() -> None:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        interim = context(environ).interim
        assert interim
        interim("103 Early Hints", [("Link", "</a.css>")])
        start("200 OK", [])
        return [b"done"]

    with served(app) as port:
        answer = exchange(port, request("GET /"))
        assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n")
        assert exchange(port, request("GET / HTTP/1.0")).startswith(b"HTTP/1.1 200 OK\r\n")


UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "echo"))


def upgrades(environ: Environ, start: Start) -> Iterator[bytes]:
    start("101 Switching Protocols", list(UPGRADE))
    while (part := take_body(environ, 65536)) != b"":
        if part is None:
            await_body(environ)
        yield part or b""
    yield b"bye"


def test_after_a_switch_the_connection_is_the_apps_until_its_end() -> None:
    with served(upgrades, threads=1) as port, Client(port, request("GET /", *UPGRADE) + b"early") as client:
        head, _, _ = client.read_until(b"early").partition(b"\r\n\r\n")
        assert head.split(b"\r\n")[:3] == [
            b"HTTP/1.1 101 Switching Protocols",
            b"Connection: Upgrade",
            b"Upgrade: echo",
        ]
        assert b"ontent-" not in head
        assert b"close" not in head
        for number in range(5):
            client.sock.sendall(b"\0%d\xff" % number)
            client.read_until(b"\0%d\xff" % number)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read_all().endswith(b"bye")


@pytest.mark.parametrize(("method", "body"), [("GET", b"failed"), ("HEAD", b"")])
def test_a_switch_that_fails_before_it_is_sent_is_answered_in_http(method: str, body: bytes) -> None:
    def app(environ: Environ, start: Start) -> list[bytes]:
        start("101 Switching Protocols", list(UPGRADE))
        try:
            raise ValueError
        except ValueError:
            start("500 Internal Server Error", [("Content-Length", "6")], sys.exc_info())
        return [b"failed"]

    with served(app, threads=1) as port:
        head, _, content = exchange(port, request(f"{method} /", KEEP, *UPGRADE)).partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert content == body


@pytest.mark.parametrize("status", ["200 OK", "103 Early Hints", "100 Continue"])
def test_nothing_else_sets_the_connections_fields_or_ends_with_an_interim_status(status: str) -> None:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        start(status, list(UPGRADE))
        return [b"x"]

    with served(app) as port:
        assert exchange(port, request("GET /", *UPGRADE)).startswith(b"HTTP/1.1 500 ")


# Fair


def test_a_pipeline_of_megabytes_makes_nobody_wait_for_its_end() -> None:
    answered: list[str] = []

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        answered.append(environ["PATH_INFO"])
        start("200 OK", [("Content-Length", "0")])
        return [b""]

    pipeline = request("GET /many", KEEP) * 30_000
    with served(app, threads=2) as port, Client(port) as many:
        sender = threading.Thread(target=many.sock.sendall, args=(pipeline,))
        reader = threading.Thread(target=many.read_until, args=(b"no such text",), daemon=True)
        sender.start()
        assert until(lambda: len(answered) > 100)
        for _ in range(10):
            before = len(answered)
            assert exchange(port, request("GET /one")).startswith(b"HTTP/1.1 200 OK")
            assert len(answered) - before < 3000
        many.sock.shutdown(socket.SHUT_RDWR)
        sender.join(20)
        del reader


def test_of_a_head_that_comes_byte_by_byte_no_byte_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    has_control = head_module.has_control

    def counts(text: bytes) -> bool:
        looked_at.append(len(text))
        return has_control(text)

    monkeypatch.setattr(head_module, "has_control", counts)
    reader = HeadReader(Room())
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 200) for n in range(500)) + b"\r\n"
    found = [reader.feed(head[at : at + 1])[0] for at in range(len(head))]
    assert found[-1] == head[:-4]
    assert not any(found[:-1])
    assert sum(looked_at) <= len(head)


def test_heads_that_are_not_whole_share_a_bounded_room() -> None:
    room = Room(30_000)
    readers = [HeadReader(room) for _ in range(4)]
    begun = b"GET / HTTP/1.1\r\nX: " + b"a" * (OWN_BYTES - 19)
    for reader in readers:
        assert reader.feed(begun) == (None, len(begun))  # so much is everybody's own
    assert readers[0].feed(b"a" * 20_000)[0] is None
    with pytest.raises(Problem) as refused:
        readers[1].feed(b"a" * 20_000)
    assert refused.value.code == "overloaded"
    assert readers[0].feed(b"\r\n\r\n")[0] is not None  # a head that is whole gives its room back
    assert readers[2].feed(b"a" * 20_000)[0] is None
    readers[2].clear()
    assert readers[3].feed(b"a" * 20_000)[0] is None


def test_who_always_has_more_to_do_lets_others_in_between() -> None:
    over = threading.Event()
    busy: list[str] = []

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        start("200 OK", [("Content-Length", "0")])
        if environ["PATH_INFO"] == "/busy":
            busy.append("")
            while not over.is_set():
                yield b""

    with served(app, threads=1) as port, Client(port, request("GET /busy")), Client(port, request("GET /busy")):
        assert until(lambda: len(busy) == 2)
        try:
            assert exchange(port, request("GET /one")).startswith(b"HTTP/1.1 200 OK")
        finally:
            over.set()


@pytest.mark.parametrize("framing", [CHUNKED, ("Content-Length", str(1 << 40))])
def test_a_body_that_comes_as_fast_as_it_is_taken_makes_nobody_wait_for_its_end(framing: tuple[str, str]) -> None:
    over = threading.Event()
    pieces = b"1\r\nx\r\n" * 10_000

    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        while environ["PATH_INFO"] == "/body" and (part := take_body(environ, 65536)) != b"":
            if part is None:
                await_body(environ)
                yield b""
        start("200 OK", [])
        yield b"done"

    def send(client: Client) -> None:
        while not over.is_set():
            client.sock.sendall(pieces)

    with served(app, threads=1) as port, ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(Client(port, request("POST /body", framing)))
            sender = threading.Thread(target=send, args=(client,))
            sender.start()
            stack.callback(sender.join)
        stack.callback(over.set)
        assert exchange(port, request("GET /one")).endswith(b"done\r\n0\r\n\r\n")
