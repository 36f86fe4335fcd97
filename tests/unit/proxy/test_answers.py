"""What the upstream answers, how it fails to, and what the log is told of that."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from asking import Asked, ask
from certificates import Certificates
from recorder import Recorder, Talk, chunked, ok, response, saying, until

from gateway.http.disconnected import ClientDisconnected
from gateway.http.problems import Problem
from gateway.http.wsgi import Context
from gateway.proxy.answer import Answer
from gateway.proxy.exchange import Upstream
from gateway.proxy.files import Files
from gateway.proxy.outbound import Outbound
from gateway.proxy.pool import Pool


@contextmanager
def asking(answer: Any = None, *, read_bodies: bool = True, **options: Any) -> Iterator[tuple[Recorder, Upstream]]:
    with Recorder(answer, read_bodies=read_bodies) as upstream, closing(Upstream(upstream.url, **options)) as app:
        yield upstream, app


def test_field_lines_keep_their_order_and_spelling() -> None:
    fields = [("b", "1"), ("A", "2"), ("B", "\xe9"), ("Content-Length", "0")]
    with asking(response(b"", *fields)) as (_, app):
        assert ask(app).fields == fields


@pytest.mark.parametrize(
    "whole",
    [
        response(chunked(b"he", b"llo"), ("Transfer-Encoding", "chunked")),
        response(chunked(b"hello", trailers=b"X-Trailer: 1\r\n"), ("Transfer-Encoding", "chunked")),
        response(b"hello", ("Connection", "close")),
        response(b"hello", version="HTTP/1.0"),
        response(b"hello", ("Content-Length", "5"), ("Connection", "close")),
        response(b"hello", ("Content-Length", "5"), ("Connection", "keep-alive"), version="HTTP/1.0"),
    ],
    ids=["chunked", "trailers", "until close", "HTTP/1.0", "closing", "HTTP/1.0 kept"],
)
def test_an_answer_ends_where_its_framing_says(whole: bytes) -> None:
    def script(talk: Talk) -> None:
        talk.send(whole)
        if b"Content-Length" not in whole and b"chunked" not in whole:
            talk.close()

    with asking(script) as (_, app):
        for _ in range(2):
            told = ask(app)
            assert told.body == b"hello"
            assert "X-Trailer" not in dict(told.fields)


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"


def test_interim_answers_are_passed_on_but_for_the_one_that_the_server_gives() -> None:
    passed: list[Any] = []
    about = Context()
    about.interim = lambda status, fields: passed.append((status, fields))
    with asking(lambda talk: talk.send(INTERIM + ok())) as (_, app):
        assert ask(app, **{"gateway.context": about}).body == b"ok"
        assert passed == [("103 Early Hints", [("Link", "</a.css>")])]


def test_interim_answers_are_skipped_where_they_cannot_be_passed_on() -> None:
    with asking(lambda talk: talk.send(INTERIM + ok())) as (_, app):
        for _ in range(3):
            assert ask(app)[:3] == (200, [("Content-Length", "2")], b"ok")


def test_many_fields_are_no_fault() -> None:
    fields = [(f"X-{number}", "x") for number in range(500)]
    with asking(ok(b"ok", *fields)) as (_, app):
        assert ask(app).fields[1:] == fields


def test_bytes_are_there_as_soon_as_they_are_sent() -> None:
    """Server-sent events: the next one is only sent once the one before has been read."""
    was_read = threading.Semaphore(0)

    def script(talk: Talk) -> None:
        talk.send(response(b"", ("Content-Type", "text/event-stream")))
        for number in range(3):
            assert was_read.acquire(timeout=5)
            talk.send(b"data: %d\n\n" % number)
        talk.close()

    with asking(script) as (_, app):
        was_read.release()
        asked = Asked(app)
        for number in range(3):
            assert asked.next() == b"data: %d\n\n" % number
            was_read.release()
        assert asked.read().body == b""


# --- what goes wrong before the head is there


def test_nobody_listening_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with closing(Upstream(f"http://127.0.0.1:{port}")) as app:
        told = ask(app)
        assert (told.status, told.code, told.cause) == (502, "upstream-unreachable", "connection refused")


def test_a_name_that_does_not_resolve_is_told_as_such() -> None:
    with closing(Upstream("http://no-such-host.invalid")) as app:
        told = ask(app)
        assert (told.status, told.code) == (502, "upstream-unreachable")
        assert told.cause.startswith("name does not resolve")


def test_a_certificate_that_does_not_verify_is_told_as_such(tmp_path: Path) -> None:
    with Recorder(tls=Certificates(tmp_path).server()) as upstream, closing(Upstream(upstream.url)) as app:
        told = ask(app)
        assert (told.status, told.code) == (502, "upstream-unreachable")
        assert told.cause.startswith("TLS fault: ")
        assert "certificate" in told.cause
        assert upstream.requests == []


@pytest.mark.parametrize(("leave", "cause"), [(Talk.close, "closed before the head"), (Talk.reset, "connection reset")])
def test_an_upstream_that_hangs_up_is_told_as_such(leave: Callable[[Talk], None], cause: str) -> None:
    with asking(leave) as (upstream, app):
        for method in ("GET", "POST"):
            told = ask(app, method)
            assert (told.status, told.code, told.cause) == (502, "upstream-unreachable", cause)
        assert [request.method for request in upstream.requests] == ["GET", "POST"]


@pytest.mark.parametrize("seconds", [0.2, 0.0005])
def test_connecting_has_a_time_limit(seconds: float) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:  # nobody accepts: the queue is full, and the kernel answers no more
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        with closing(Upstream(f"http://127.0.0.1:{port}", timeout=(seconds, 5))) as app:
            told = ask(app)
            assert (told.status, told.code, told.cause) == (504, "upstream-timeout", "timed out while connecting")
        for sock in waiting:
            sock.close()


def test_silence_before_the_head_has_a_time_limit() -> None:
    with asking(lambda talk: talk.peer_left() and None, timeout=(5, 0.2)) as (_, app):
        told = ask(app)
        assert (told.status, told.code, told.cause) == (504, "upstream-timeout", "timed out while reading")


def test_silence_within_the_body_has_a_time_limit() -> None:
    def script(talk: Talk) -> None:
        talk.send(response(b"x", ("Content-Length", "9")))
        talk.peer_left()

    with asking(script, timeout=(5, 0.2)) as (_, app):
        asked = Asked(app)
        with pytest.raises(Problem, match="upstream-timeout"):
            asked.read()
        assert asked.environ["gateway.context"].cause == "timed out while reading"


def test_time_in_which_nobody_reads_is_no_silence() -> None:
    with asking(ok(b"x" * 8_000_000), timeout=(5, 0.4)) as (_, app):
        asked = Asked(app)
        size = len(asked.next())
        time.sleep(0.6)
        assert size + len(asked.read().body) == 8_000_000


def test_a_slow_trickle_is_no_silence() -> None:
    def script(talk: Talk) -> None:
        for byte in ok(b"ok"):
            talk.send(bytes([byte]))
            time.sleep(0.03)

    with asking(script, timeout=(5, 0.9)) as (_, app):
        assert ask(app).body == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"hello\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 101 + ok(),
        b"\x16\x03\x01\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n",
        response(b"", ("A", "x\x01y"), ("Content-Length", "0")),
        response(b"ok", ("Content-Length", "2"), ("Content-Length", "3")),
        response(chunked(b"ok"), ("Transfer-Encoding", "gzip, chunked")),
        response(chunked(b"ok"), ("Transfer-Encoding", "chunked, gzip")),
        response(b"", *((f"A{number}", "x" * 1000) for number in range(1000))),
        response(b"", ("A", "x" * 1_000_000)),
    ],
    ids=lambda answer: repr(answer[:60]),
)
def test_what_is_not_http_is_malformed(answer: bytes) -> None:
    with asking(saying(answer)) as (_, app):
        told = ask(app)
        assert (told.status, told.code) == (502, "upstream-protocol")
        assert told.cause.startswith("malformed answer: ")


@pytest.mark.parametrize(
    "line",
    [
        b"A: x\0y", b"A: x\ry", b"A: x\ry\nB: z", b"A b: x", b"A : x", b": x", b"A", b"\xe9: x",
        b"Content-Length: -2", b"Content-Length: 0x2",
    ],
)  # fmt: skip
def test_a_malformed_head_is_refused(line: bytes) -> None:
    with asking(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n") as (_, app):
        assert ask(app).code == "upstream-protocol"


# --- what goes wrong later


@pytest.mark.parametrize("leave", [Talk.close, Talk.reset])
@pytest.mark.parametrize(
    "part",
    [
        response(b"hello", ("Content-Length", "9")),
        response(b"5\r\nhello\r\n", ("Transfer-Encoding", "chunked")),
        response(b"9\r\nhello", ("Transfer-Encoding", "chunked")),
        response(b"5\r\nhello\r\nzz\r\n", ("Transfer-Encoding", "chunked")),
    ],
    ids=["length", "no last chunk", "within a chunk", "bad chunk"],
)
def test_an_answer_that_is_cut_off_raises(part: bytes, leave: Callable[[Talk], None]) -> None:
    def script(talk: Talk) -> None:
        talk.send(part)
        time.sleep(0.05)  # a reset would overtake the bytes
        leave(talk)

    with asking(script) as (_, app):
        asked = Asked(app)
        assert asked.next() == b"hello"
        with pytest.raises(Problem):
            asked.read()
        assert asked.environ["gateway.context"].cause


def test_a_client_that_left_ends_the_wait() -> None:
    left: list[bool] = []
    about = Context()
    about.client_left = lambda: True

    def script(talk: Talk) -> None:
        left.append(talk.peer_left())

    with asking(script) as (_, app):
        with pytest.raises(ClientDisconnected):
            ask(app, **{"gateway.context": about})
        assert until(lambda: left)
        assert left == [True]


class BusyHandle:
    """A handle whose libcurl has something to do at once, of which nothing comes."""

    def __init__(self) -> None:
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.is_done = self.is_starved = False
        self.error = None

    def timeout(self) -> float:
        return 0

    def work(self, seconds: float = 0) -> bool:
        return False

    def is_connected(self) -> bool:
        return True


@pytest.mark.interpreted
def test_an_upstream_that_is_worked_on_has_all_of_its_time_to_answer() -> None:
    request = Outbound("GET", "/", {})
    answer = Answer(BusyHandle(), Pool("http://127.0.0.1", 1, Files(None, None)), request, Context(), 60)  # type: ignore[arg-type]
    for _ in range(3):
        assert not answer.take_head()
        assert not answer.waits()
