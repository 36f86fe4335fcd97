"""Whatever the upstream or another client does, the gateway's own routes answer; through the running gateway."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from helpers import mint
from recorder import Client, Recorder, Talk, exchange, ok, request, response, until
from running import Running

BEARER = ("Authorization", f"Bearer {mint()}")
FLAGS = ("--workers", "1", "--threads", "2")


@contextmanager
def running(directory: Path, answer: Any = None, *flags: str, **options: Any) -> Iterator[tuple[Recorder, Running]]:
    with Recorder(answer, **options) as upstream, Running(directory, upstream.url, *FLAGS, *flags) as gateway:
        yield upstream, gateway


def own_routes_answer(gateway: Running) -> bool:
    """Return whether the blacklist, the decision and the probe answer."""
    answers = [gateway.request("POST", "/blacklist", mint(jti="x")), gateway.get("/-/auth", mint(jti="y"))]
    return [answer.status for answer in [*answers, gateway.get("/-/live")]] == [200, 200, 200]


def test_many_posts_of_one_client_take_one_connection(upstream: Recorder, gateway: Running) -> None:
    bearer = ("Authorization", f"Bearer {mint(sub='posts')}")
    with Client(gateway.port) as client:
        for number in range(50):
            client.received = b""
            client.sock.sendall(request(f"POST /{number}", bearer, ("Connection", "keep-alive"), body=b"x" * 1024))
            client.read_until(b"\r\n\r\nok")
    seen = upstream.requests[-50:]
    assert [each.target for each in seen] == [f"/{number}" for number in range(50)]
    assert len({each.connection for each in seen}) == 1


def test_an_upstream_that_accepts_nobody_stops_nothing_else(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as listener:
        port = listener.getsockname()[1]
        filling = [socket.socket() for _ in range(4)]
        for sock in filling:  # the queue is full: the kernel drops who comes now
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        with Running(tmp_path, f"http://127.0.0.1:{port}", *FLAGS, "--connect-timeout", "30") as gateway:
            clients = [Client(gateway.port, request("GET /slow", BEARER)) for _ in range(20)]
            time.sleep(0.3)
            assert own_routes_answer(gateway)
            for client in clients:
                client.sock.close()
        for sock in filling:
            sock.close()


def sent_at_once(client: Client) -> int:
    """Send as much as is taken at once, and return how much that was."""
    sent = 0
    with suppress(BlockingIOError):
        while True:
            sent += client.sock.send(bytes(1 << 18))
    return sent


def test_uploads_to_an_upstream_that_does_not_read_stop_nothing_else(tmp_path: Path) -> None:
    go_on = threading.Event()

    def script(talk: Talk) -> None:
        go_on.wait(120)
        talk.reset()

    with running(tmp_path, script, read_bodies=False) as (_, gateway):
        head = request("PUT /up", BEARER, ("Content-Length", str(1 << 26)))
        clients = [Client(gateway.port, head) for _ in range(8)]
        for client in clients:
            client.sock.setblocking(False)

        def is_stuck() -> bool:
            """Send what is taken; return whether, after a while, nobody takes any more."""
            time.sleep(0.1)
            return not sum(sent_at_once(client) for client in clients)

        assert until(is_stuck, 60)
        assert own_routes_answer(gateway)
        go_on.set()
        for client in clients:
            client.sock.close()


def test_an_early_answer_arrives_while_the_body_is_on_its_way(tmp_path: Path) -> None:
    def script(talk: Talk) -> None:
        talk.send(ok(b"too large", status="413 Content Too Large"))
        talk.peer_left()

    upload = request("PUT /up", BEARER, ("Content-Length", str(1 << 30))) + b"x" * 1000
    with running(tmp_path, script, read_bodies=False) as (_, gateway), Client(gateway.port, upload) as client:
        assert client.read_until(b"too large").startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_within_its_body_is_not_taken_for_complete(upstream: Recorder, gateway: Running) -> None:
    for length, size in ((1000, 500), (1_000_000, 500_000)):
        with Client(gateway.port, request("PUT /left", BEARER, ("Content-Length", str(length)))) as client:
            client.sock.sendall(b"x" * size)
            time.sleep(0.2)
    left = {"outcome": "client-left", "method": "PUT"}
    assert until(lambda: sum(left.items() <= record.items() for record in gateway.records) == 2)
    assert not any(seen.whole for seen in upstream.requests if seen.target == "/left")


@pytest.mark.slow
def test_of_a_request_that_a_drain_cuts_off_the_log_says_so(tmp_path: Path) -> None:
    def script(talk: Talk) -> None:
        talk.peer_left()

    with running(tmp_path, script, "--drain-timeout", "0.5") as (upstream, gateway):
        with Client(gateway.port, request("GET /slow", BEARER)):
            assert until(lambda: upstream.requests)
            gateway.signal(SIGTERM)
            assert gateway.wait() == 0
        assert [record["outcome"] for record in gateway.records if "outcome" in record] == ["shut-down"]


@pytest.mark.parametrize("fields", [[("Content-Length", "1001")], [("Transfer-Encoding", "chunked")]])
def test_a_body_that_is_too_long_is_refused(tmp_path: Path, fields: list[tuple[str, str]]) -> None:
    with running(tmp_path, None, "--max-body-bytes", "1000") as (upstream, gateway):
        sent = request("POST /up", BEARER, *fields) + b"3e9\r\n" + b"x" * 1001 + b"\r\n"
        with Client(gateway.port, sent) as client:
            assert b"payload-too-large" in client.read_until(b"}")
        assert upstream.requests == []
        assert exchange(gateway.port, request("POST /up", BEARER, body=b"x" * 1000)).endswith(b"ok")


def test_interim_answers_pass(upstream: Recorder, gateway: Running) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
    upstream.answer = hints + ok()
    answer = exchange(gateway.port, request("GET /", BEARER))
    assert answer.startswith(hints)
    assert answer.endswith(b"ok")
    assert exchange(gateway.port, request("GET / HTTP/1.0", BEARER)).startswith(b"HTTP/1.1 200 ")


def test_a_request_of_http_1_0_needs_no_host(upstream: Recorder, gateway: Running) -> None:
    head = f"GET /x HTTP/1.0\r\nAuthorization: Bearer {mint()}\r\n\r\n".encode()
    assert exchange(gateway.port, head).startswith(b"HTTP/1.1 200 ")
    assert upstream.last.field("Host") == f"127.0.0.1:{upstream.port}"
    for target, host in (("http://api.test/y", "api.test:80"), ("http://API.test:80/y", "api.test")):
        assert exchange(gateway.port, request(f"GET {target}", ("Host", host), BEARER)).endswith(b"ok")
        assert upstream.last.target == "/y"


def test_the_log_says_why_there_is_no_answer(upstream: Recorder, gateway: Running) -> None:
    def script(talk: Talk) -> None:
        if talk.request.target == "/half":
            talk.send(response(b"half", ("Content-Length", "9")))
        talk.close()

    upstream.answer = script
    for target in ("/none", "/half"):
        exchange(gateway.port, request(f"GET {target}", BEARER))
    for cause in ("closed before the head", "closed within the body"):
        assert until(lambda: any(record.get("cause") == cause for record in gateway.records)), cause  # noqa: B023
