"""Upgrades through the running gateway: WebSockets pass, HTTP/2 is not needed, everything else is refused."""

import socket
from contextlib import closing
from pathlib import Path

import pytest
from certificates import Certificates
from helpers import fingerprint, mint
from recorder import Client, Recorder, Talk, exchange, ok, request, response, saying, until
from running import Running
from websocket_bytes import KEY, echo, frame, handshake, switched

from gateway.proxy.websocket import close_frame

BEARER = ("Authorization", f"Bearer {mint()}")


def test_a_websocket_passes_both_ways(upstream: Recorder, gateway: Running) -> None:
    upstream.answer = echo
    with Client(gateway.port, handshake("/ws?a=1", BEARER)) as client:
        head = client.read_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nUpgrade: websocket\r\n" in head
        assert b"\r\nConnection: Upgrade\r\n" in head
        assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
        assert not any(line.lower().startswith((b"content-length", b"transfer-")) for line in head.split(b"\r\n"))
        for size in (5, 100_000):
            sent = frame(b"x" * size, mask=b"mask")
            client.sock.sendall(sent)
            client.read_until(sent)
    seen = upstream.last
    assert seen.target == "/ws?a=1"
    assert (seen.field("Connection"), seen.field("Upgrade")) == ("Upgrade", "websocket")
    assert (seen.field("Sec-WebSocket-Key"), seen.field("X-Forwarded-For")) == (KEY, "127.0.0.1")
    assert seen.field("X-Token-Claims")


def test_bytes_sent_with_the_handshake_are_not_lost(upstream: Recorder, gateway: Running) -> None:
    upstream.answer = echo
    sent = frame(b"early", mask=b"mask")
    with Client(gateway.port, handshake("/ws", BEARER) + sent) as client:
        client.read_until(sent)


def test_either_end_ends_the_other(upstream: Recorder, gateway: Running) -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        talk.send(switched())
        left.append(talk.peer_left())

    upstream.answer = script
    with Client(gateway.port, handshake("/ws", BEARER)) as client:
        client.read_until(b"\r\n\r\n")
    assert until(lambda: left)
    upstream.answer = lambda talk: (talk.send(switched() + frame(b"bye")), talk.close())
    assert exchange(gateway.port, handshake("/ws", BEARER)).endswith(frame(b"bye"))


def test_many_idle_ones_hold_no_thread(upstream: Recorder, gateway: Running) -> None:
    upstream.answer = echo
    clients = [Client(gateway.port, handshake("/ws", BEARER)) for _ in range(20)]
    for client in clients:
        client.read_until(b"\r\n\r\n")
    assert gateway.get("/-/live").status == 200
    for client in clients:
        client.sock.sendall(frame(b"hi", mask=b"mask"))
        client.read_until(frame(b"hi", mask=b"mask"))
        client.sock.close()


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (ok(b"no", status="426 Upgrade Required"), b"\r\n\r\nno"),
        (response(b"2\r\nno\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked"), status="403 No"), b"2\r\nno\r\n0\r\n\r\n"),
        (response(status="204 None"), b"\r\n\r\n"),
        (response(b"no", ("Content-Length", "2, 2"), status="403 No"), b"\r\n\r\nno"),
    ],
)
def test_an_upstream_that_does_not_switch_answers_as_ever(
    upstream: Recorder, gateway: Running, answer: bytes, end: bytes
) -> None:
    upstream.answer = answer
    received = exchange(gateway.port, handshake("/ws", BEARER, ("Connection", "close")))
    assert received.split(b" ")[1] == answer.split(b" ")[1]
    assert received.endswith(end)


def test_an_answer_in_place_of_an_upgrade_ends_where_get_would_and_is_not_waited_for_for_ever(
    upstream: Recorder, tmp_path: Path
) -> None:
    def script(talk: Talk) -> None:
        if talk.request.method == "HEAD":
            talk.send(response(b"", ("Content-Length", "5")))
        else:
            talk.send(response(b"he", ("Content-Length", "5")))
        talk.peer_left(60)

    upstream.answer = script
    with Running(tmp_path, upstream.url, "--workers", "1", "--read-timeout", "1") as gateway:
        close = ("Connection", "close")
        head = exchange(gateway.port, handshake("/ws", BEARER, close).replace(b"GET", b"HEAD", 1))
        assert head.startswith(b"HTTP/1.1 200 ")
        assert exchange(gateway.port, handshake("/ws", BEARER, close)).endswith(b"\r\n\r\nhe")


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        switched().replace(b"websocket", b"other", 1),
        response(b"0x2\r\nno\r\n0\r\n\r\n", ("Transfer-Encoding", "chunked"), status="403 No"),
        response(b"2\r\nno??0\r\n\r\n", ("Transfer-Encoding", "chunked"), status="403 No"),
        response(b"no", ("Transfer-Encoding", "gzip"), status="403 No"),
        response(
            b"2\r\nno\r\n0\r\n\r\n", ("Transfer-Encoding", "gzip"), ("Transfer-Encoding", "chunked"), status="403 No"
        ),
    ],
)
def test_an_upstream_that_answers_nonsense_is_502(upstream: Recorder, gateway: Running, answer: bytes) -> None:
    upstream.answer = answer
    with Client(gateway.port, handshake("/ws", BEARER)) as client:
        received = client.read_until(b"}")
    assert received.startswith(b"HTTP/1.1 502 ")
    assert b"upstream-protocol" in received


def test_a_handshake_needs_a_token(upstream: Recorder, gateway: Running) -> None:
    known = len(upstream.requests)
    with Client(gateway.port, handshake()) as client:
        assert b"missing-credentials" in client.read_until(b"}")
    assert len(upstream.requests) == known


H2C = [
    ("Connection", "Upgrade, HTTP2-Settings, close"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA"),
]


@pytest.mark.parametrize("body", [b"", b"hello"])
def test_http_2_is_not_needed(upstream: Recorder, gateway: Running, body: bytes) -> None:
    """Java's HttpClient asks for it by default."""
    upstream.answer = ok()
    line = "POST /x" if body else "GET /x"
    assert exchange(gateway.port, request(line, BEARER, *H2C, body=body)).startswith(b"HTTP/1.1 200 ")
    assert not {"upgrade", "connection", "http2-settings"} & upstream.last.names
    assert upstream.last.body == body


@pytest.mark.parametrize(
    ("start", "connection", "upgrade"),
    [
        ("GET /x", "Upgrade", "H2C"),
        ("GET /x", "UPGRADE, http2-settings", "h2c, other"),
        ("GET /x", "Upgrade", "HTTP/2.0, SHTTP/1.3, IRC/6.9, RTA/x11"),  # RFC 9110's own example
        ("GET /x", "Upgrade", "TLS/1.0"),
        ("GET /x", "Upgrade", ""),
        ("GET /x", "Upgrade", ", ,"),
        ("GET /x", "keep-alive", "other"),
        ("GET /x", "keep-alive", "websocket"),
        ("GET /x HTTP/1.0", "Upgrade", "websocket"),
    ],
)
def test_an_upgrade_that_need_not_be_or_is_not_meant_for_the_gateway_is_ignored(
    upstream: Recorder, gateway: Running, start: str, connection: str, upgrade: str
) -> None:
    upstream.answer = ok()
    fields = [("Connection", f"close, {connection}"), ("Upgrade", upgrade)]
    assert exchange(gateway.port, request(start, BEARER, *fields)).startswith(b"HTTP/1.1 200 ")
    assert not {"upgrade", "connection"} & upstream.last.names


@pytest.mark.parametrize("name", ["other", "websocket2", "connect-udp, other"])
def test_other_protocols_are_refused(gateway: Running, name: str) -> None:
    fields = [("Connection", "Upgrade"), ("Upgrade", name)]
    with Client(gateway.port, request("GET /x", BEARER, *fields)) as client:
        assert b"upgrade-unsupported" in client.read_until(b"}")


@pytest.mark.slow
def test_set_to_nothing_no_upgrade_passes(upstream: Recorder, tmp_path: Path) -> None:
    with (
        Running(tmp_path, upstream.url, "--workers", "1", GATEWAY_UPGRADES="") as gateway,
        Client(gateway.port, handshake("/ws", BEARER)) as client,
    ):
        assert b"upgrade-unsupported" in client.read_until(b"}")


@pytest.mark.slow
def test_an_upstream_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    with Running(tmp_path, f"http://127.0.0.1:{port}", "--workers", "1") as gateway:
        with Client(gateway.port, handshake("/ws", BEARER)) as client:
            assert b"upstream-unreachable" in client.read_until(b"}")
        assert until(lambda: any(record.get("cause") == "connection refused" for record in gateway.records))


@pytest.mark.slow
def test_an_answer_that_tls_ends_with_is_whole_only_if_tls_says_that_it_ends(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    asked = handshake("/ws", BEARER, ("Connection", "close"))

    def whole(talk: Talk) -> None:
        talk.send(b"HTTP/1.1 403 No\r\n\r\nhe")
        talk.sock.unwrap()  # type: ignore[attr-defined]
        talk.close()

    with (
        Recorder(tls=certificates.server()) as upstream,
        Running(tmp_path, upstream.url, "--workers", "1", GATEWAY_UPSTREAM_CA=certificates.ca) as gateway,
    ):
        upstream.answer = whole
        assert exchange(gateway.port, asked).endswith(b"\r\n2\r\nhe\r\n0\r\n\r\n")
        upstream.answer = saying(b"HTTP/1.1 403 No\r\n\r\nhe")
        assert exchange(gateway.port, asked).endswith(b"\r\n2\r\nhe\r\n")


@pytest.mark.parametrize("is_amid_a_frame", [False, True])
def test_a_websocket_ends_with_its_token(upstream: Recorder, gateway: Running, is_amid_a_frame: bool) -> None:
    left: list[bool] = []

    def script(talk: Talk) -> None:
        talk.send(switched() + (frame(b"whole")[:-2] if is_amid_a_frame else frame(b"whole")))
        left.append(talk.peer_left())

    upstream.answer = script
    token = mint(jti=f"websocket-{is_amid_a_frame}")
    with Client(gateway.port, handshake("/ws", ("Authorization", f"Bearer {token}"))) as client:
        client.read_until(b"who")
        assert gateway.request("POST", "/blacklist", token).status == 200
        received = client.read_all()
    assert until(lambda: left)
    assert received.endswith(b"who" if is_amid_a_frame else close_frame("token-blacklisted"))
    ended = {"outcome": "token-blacklisted", "fingerprint": fingerprint(token)}
    assert until(lambda: any(ended.items() <= record.items() for record in gateway.records))
